/*
 * library_gradients.c - a network whose plan has data gradients by cuDNN and cuBLASLt: they are the reference's, do not
 * depend on which pairs are computed beside them, and a plan that cannot be kept is refused.
 */
#include "backend/cuda/cuda_library_engine.h"
#include "engines.h"
#include "library_net.h"
#include "stand_ins/stand_ins.h"

/* Layer by layer of the network: none, of stride 2, added to a gradient that is there, a product, none (the
 * pool); the head's is put by cuBLASLt. fp32 and tf32 have cuBLASLt's alone. */
static const char *const data_forms[] = {
    "", "cudnn:dgrad,engine=7,knobs=2:1", "cudnn:dgrad,engine=1", "cudnn:matmul,engine=7,knobs=2:2", "", "",
};

static gpu_conv product_back(gpu_type type, uint32_t side, uint32_t from, uint32_t to) {
    static float any;
    return (gpu_conv){.type = type,
                      .pairs = PAIRS,
                      .transposed = true,
                      .in_h = side,
                      .in_w = side,
                      .in_channels = from,
                      .out_h = side,
                      .out_w = side,
                      .out_channels = to,
                      .kernel_h = 1,
                      .kernel_w = 1,
                      .stride = 1,
                      .x = &any,
                      .weight = &any,
                      .y = &any};
}

static void put_data_forms(numerics_plan *plan, const cuda_handles *handles) {
    const gpu_type type = cuda_type(plan);
    const gpu_conv head = product_back(type, 1, 7, 16), last = product_back(type, 3, 16, 16);
    char form[1][CUDA_FORM_SIZE];
    size_t count = 0;
    for (size_t i = 0; i < plan->layers && gpu_type_size(type) == 2; i++)
        snprintf(plan->data[i], sizeof plan->data[i], "%s", data_forms[i]);
    CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &head, 1, form, &count));
    snprintf(plan->data[plan->layers - 1], sizeof plan->data[0], "%s", form[0]);
    if (gpu_type_size(type) == 4) {
        CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &last, 1, form, &count));
        snprintf(plan->data[3], sizeof plan->data[0], "%s", form[0]);
    }
    plan->reverse_pairs = PAIRS;
}

static engine_options reverse_options(const char *backend, const char *precision) {
    return (engine_options){.backend = backend,
                            .precision = precision,
                            .outputs = "margin,loss",
                            .examples = EXAMPLES,
                            .masks = MASKS,
                            .reverse = true};
}

/* With the libraries' data gradients alone in the plan, which goes through JSON. */
static void open_gradients(engine *e, const graph *g, engine_options o) {
    cuda_handles *handles;
    engine_plan(e, g, o);
    CHECK_OK(cuda_handles_get(0, &handles));
    put_data_forms(&e->plan, handles);
    plan_through_json(g, &e->plan);
    CHECK_INT(e->plan.reverse_pairs, PAIRS);
    CHECK_INT(e->plan.pairs, 0);
    CHECK_OK(e->interface->prepare(&e->settings, &e->b));
}

static size_t library_calls(void) {
    return stand_in_count("cudnnBackendExecute") + stand_in_count("cublasLtMatmul");
}

static void same_gradients(const graph *g, const char *precision, const float *keeps) {
    engine libraries, reference;
    float outputs[2][MASKS * EXAMPLES];
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const size_t count = (size_t)MASKS * EXAMPLES * g->components;
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    const bool exact = !strcmp(precision, "fp32");
    open_gradients(&libraries, g, reverse_options("cuda", precision));
    engine_open(&reference, g, reverse_options("reference", precision));
    for (int kind = REVERSE_MASK; kind <= REVERSE_INFLUENCE; kind++) {
        test_begin("gradients by libraries are the reference's, %s, sums %d", precision, kind);
        const size_t calls = library_calls();
        float *actual = engine_reverse(&libraries, &batch, (reverse_kind)kind, (size_t)kind, &masks, outputs[0]);
        float *expected = engine_reverse(&reference, &batch, (reverse_kind)kind, (size_t)kind, &masks, outputs[1]);
        CHECK(library_calls() > calls);
        if (exact)
            CHECK_NEAR(largest_difference(actual, expected, count), 0, 1e-4);
        else
            CHECK_NEAR(rms_difference(actual, expected, count), 0, .03);
        CHECK_NEAR(rms_difference(outputs[0], outputs[1], MASKS * EXAMPLES), 0, exact ? 1e-4 : .03);
        free(actual), free(expected);
    }
    engine_close(&libraries);
    engine_close(&reference);
    net_batch_free(&batch);
}

/* One mask at a time, and fewer examples: other neighbours, other places in the batch, whose size is the plan's: no form
 * is made for another one. */
static void alone(const graph *g, const float *keeps) {
    engine e;
    const uint32_t n = g->components;
    example_batch batch = net_batch(g, EXAMPLES, 9), some = batch;
    const mask_range range = {.count = MASKS, .n = n, .keeps = keeps};
    test_begin("a pair has the same gradients whatever is beside it");
    open_gradients(&e, g, reverse_options("cuda", "bf16"));
    float *all = engine_reverse(&e, &batch, REVERSE_MASK, 0, &range, NULL);
    const size_t made = stand_in_count("cublasLtMatmulDescCreate");
    some.count = EXAMPLES - 1;
    for (size_t m = 0; m < MASKS; m++) {
        const mask_range one = {.count = 1, .n = n, .keeps = keeps + m * n};
        float *part = engine_reverse(&e, &some, REVERSE_MASK, 0, &one, NULL);
        CHECK(!memcmp(part, all + m * EXAMPLES * n, some.count * n * sizeof *part));
        free(part);
    }
    CHECK_INT(stand_in_count("cublasLtMatmulDescCreate"), made);
    free(all);
    engine_close(&e);
    net_batch_free(&batch);
}

/* Their batches are not the plan's, so they take none of its libraries' forms. */
static void paths(const graph *g, const float *keeps) {
    engine planned, ours;
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const mask_range range = {.count = MASKS, .n = g->components, .keeps = keeps};
    engine_options o = reverse_options("cuda", "bf16");
    o.paths = true;
    test_begin("paths are our own kernels', to the bit");
    open_gradients(&planned, g, o);
    engine_open(&ours, g, o);
    const size_t calls = library_calls();
    float *actual = engine_reverse(&planned, &batch, REVERSE_CONDUCTANCE, 0, &range, NULL);
    float *expected = engine_reverse(&ours, &batch, REVERSE_CONDUCTANCE, 0, &range, NULL);
    CHECK(!memcmp(actual, expected, (size_t)MASKS * EXAMPLES * g->components * sizeof *actual));
    CHECK_INT(library_calls(), calls);
    free(actual), free(expected);
    engine_close(&planned);
    engine_close(&ours);
    net_batch_free(&batch);
}

/* A library that is not what it was ends the run: other kernels in its place would mix results. */
static void refused(const graph *g, const float *keeps) {
    static const struct {
        const char *form, *message;
    } bad[] = {{"cudnn:dgrad,engine=99", "cuDNN: finalize"},
               {"cudnn:dgrad,engine=12", "cuDNN: finalize"},
               {"cudnn:conv,engine=7", "is no form of cuDNN's"}};
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    float *gradients = calloc((size_t)MASKS * EXAMPLES * g->components, sizeof *gradients);
    engine e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        test_begin("a run with data gradients by '%s' ends", bad[i].form);
        engine_plan(&e, g, reverse_options("cuda", "bf16"));
        snprintf(e.plan.data[1], sizeof e.plan.data[1], "%s", bad[i].form);
        e.plan.reverse_pairs = PAIRS;
        CHECK_OK(e.interface->prepare(&e.settings, &e.b));
        CHECK_OK(e.interface->bind(e.b, &batch));
        CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_MASK, 0, &masks, gradients, NULL), COAR_ERROR_UNSUPPORTED,
                    bad[i].message);
        status_clear();
        engine_close(&e);
    }
    test_begin("data gradients by a kernel that is nobody's");
    engine_plan(&e, g, reverse_options("cuda", "bf16"));
    snprintf(e.plan.data[1], sizeof e.plan.data[1], "no such kernel");
    CHECK_ERROR(plan_check_executable(&e.plan, 0), COAR_ERROR_MISMATCH,
                "layer 'conv1': this build has no kernel 'no such kernel' of its plan for the data gradient");
    status_clear();
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MISMATCH, "for the data gradient");
    status_clear();
    test_begin("a library's form in a plan that does not say for which batches");
    snprintf(e.plan.data[1], sizeof e.plan.data[1], "cudnn:dgrad,engine=7");
    CHECK_ERROR(plan_check_executable(&e.plan, 0), COAR_ERROR_MISMATCH,
                "for the data gradient is for batches of one size, and the plan names none");
    status_clear();
    e.plan.reverse_pairs = PAIRS;
    CHECK_OK(plan_check_executable(&e.plan, 0));
    test_begin("too little memory for the plan's batch of reverse passes");
    e.plan.data[1][0] = '\0';
    e.plan.reverse_pairs = 1 << 20;
    e.settings.memory = (size_t)4 << 20;
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MEMORY,
                "the numerics plan is for batches of reverse passes of exactly 1048576");
    status_clear();
    engine_close(&e);
    free(gradients);
    net_batch_free(&batch);
}

/* A member of a plan's JSON that must be a whole number above 0. */
static void check_pairs_member(const graph *g, numerics_plan *plan, uint32_t *member, const char *message) {
    static const char *const bad[] = {"0", "-1", "1.5", "\"5\"", "5e9"};
    *member = 12345;
    char *json = plan_to_json(plan), *at = strstr(json, "12345");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        numerics_plan unused;
        char *changed = string_format("%.*s%s%s", (int)(at - json), json, bad[i], at + 5);
        CHECK_ERROR(plan_from_json(g, changed, "test", &unused), COAR_ERROR_INPUT, message);
        status_clear();
        free(changed);
    }
    coar_free(json);
    *member = 0;
}

static void bad_plans(const graph *g) {
    static const char *const bad[] = {"\"data\":\"\"", "\"data\":7", "\"other\":\"x\""};
    engine e;
    numerics_plan plan;
    engine_plan(&e, g, reverse_options("cuda", "bf16"));
    test_begin("pairs of a plan are checked");
    check_pairs_member(g, &e.plan, &e.plan.pairs, "the plan's 'pairs'");
    check_pairs_member(g, &e.plan, &e.plan.reverse_pairs, "the plan's 'reverse_pairs'");
    test_begin("kernels of data gradients are checked");
    snprintf(e.plan.data[1], sizeof e.plan.data[1], "x");
    char *json = plan_to_json(&e.plan), *at = strstr(json, "\"data\":\"x\"");
    CHECK(at != NULL);
    CHECK_OK(plan_from_json(g, json, "test", &plan));
    CHECK_TEXT(plan.data[1], "x");
    CHECK_TEXT(plan.data[2], "");
    plan_free(&plan);
    for (size_t i = 0; at && i < sizeof bad / sizeof *bad; i++) {
        char *changed = string_format("%.*s%s%s", (int)(at - json), json, bad[i], at + strlen("\"data\":\"x\""));
        CHECK_ERROR(plan_from_json(g, changed, "test", &plan), COAR_ERROR_INPUT,
                    "layer 'conv1' of the plan must have a kernel's name");
        status_clear();
        free(changed);
    }
    coar_free(json);
    engine_close(&e);
}

/* The batch that data gradients are chosen for: calls of gradients are 32 pairs for each of 1, 2, 4 ... 16 masks, and
 * where that is a batch or more no pair beside them may be computed. */
static void tuned_batches(const graph *g) {
    static const int multiprocessors[] = {1, 3, 5, 6, 17}; /* full at 29, 86, 143, 171 and 484 pairs */
    const size_t plenty = (size_t)64 << 30;
    cuda_backend *b;
    engine e;
    engine_options o = reverse_options("cuda", "bf16");
    o.examples = 1024;
    o.masks = 64;
    engine_plan(&e, g, o);
    CHECK_OK(cuda_describe(&e.settings, &b));
    for (size_t i = 0; i < sizeof multiprocessors / sizeof *multiprocessors; i++) {
        b->device.multiprocessors = multiprocessors[i];
        const uint32_t useful = cuda_memory_useful_pairs(b, CUDA_REVERSE);
        const uint32_t pairs = cuda_memory_tuned_pairs(b, CUDA_REVERSE, plenty);
        test_begin("a device that %u pairs fill: batches that divide calls of gradients", useful);
        CHECK(pairs <= useful && 2 * pairs > useful);
        for (uint32_t call = 32; call <= 512; call *= 2)
            if (call >= pairs) CHECK_INT(call % pairs, 0);
        CHECK_INT(cuda_memory_tuned_pairs(b, CUDA_FORWARD, plenty), cuda_memory_useful_pairs(b, CUDA_FORWARD));
    }
    test_begin("reverse passes have a small part of the device, but one mask of 32 examples where half holds it");
    b->device.multiprocessors = 6;
    const size_t full = cuda_memory_bytes(b, CUDA_REVERSE, 128), mask = cuda_memory_bytes(b, CUDA_REVERSE, 32);
    CHECK_INT(cuda_memory_tuned_pairs(b, CUDA_REVERSE, 16 * full), 128);
    CHECK_INT(cuda_memory_tuned_pairs(b, CUDA_REVERSE, 16 * full - 1), 64);
    CHECK_INT(cuda_memory_tuned_pairs(b, CUDA_REVERSE, 2 * mask), 32);
    CHECK_INT(cuda_memory_tuned_pairs(b, CUDA_REVERSE, 2 * mask - 1), 16);
    cuda_destroy(&b->base);
    engine_close(&e);
}

int main(void) {
    static const float levels[] = {1, 1, 0.5f, 0, 1.25f};
    graph *g = network();
    float *keeps = calloc((size_t)MASKS * g->components, sizeof *keeps);
    uint64_t state = 6;
    for (size_t i = 0; i < (size_t)MASKS * g->components; i++) keeps[i] = levels[net_below(&state, 5)];
    same_gradients(g, "bf16", keeps);
    same_gradients(g, "fp32", keeps);
    if (!REDUCED) same_gradients(g, "fp16", keeps);
    if (!REDUCED) same_gradients(g, "tf32", keeps);
    alone(g, keeps);
    paths(g, keeps);
    refused(g, keeps);
    bad_plans(g);
    tuned_batches(g);
    free(keeps);
    graph_destroy(g);
    test_begin("nothing is left");
    cuda_forms_release();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
