/*
 * library_plan.c - a network whose plan has forms of cuDNN, cuBLASLt and our own: its outputs are those of our own
 * kernels, do not depend on which pairs are computed beside them, and the plan's batch is kept or refused.
 */
#include "backend/cuda/cuda_library_engine.h"
#include "engines.h"
#include "library_net.h"
#include "stand_ins/stand_ins.h"

/* Layer by layer: ours (it reads the images), cuDNN's convolution, cuDNN's again, cuDNN's product, cuBLASLt's. */
static const char *const library_forms[] = {
    NULL, "cudnn:conv,engine=7,knobs=2:1", "cudnn:conv,engine=7", "cudnn:matmul,engine=7,knobs=2:2", NULL, NULL,
};

static void put_forms(numerics_plan *plan, const cuda_handles *handles) {
    char form[1][CUDA_FORM_SIZE];
    size_t count = 0;
    static float any;
    const gpu_conv head = {.type = GPU_BF16,
                           .pairs = PAIRS,
                           .in_h = 1,
                           .in_w = 1,
                           .in_channels = 16,
                           .out_h = 1,
                           .out_w = 1,
                           .out_channels = 7,
                           .kernel_h = 1,
                           .kernel_w = 1,
                           .stride = 1,
                           .x = &any,
                           .weight = &any,
                           .y = &any,
                           .wide = true};
    for (size_t i = 0; i < plan->layers; i++)
        if (library_forms[i]) snprintf(plan->kernel[i], sizeof plan->kernel[i], "%s", library_forms[i]);
    CHECK_OK(cuda_cublaslt_propose(handles->cublaslt, &head, 1, form, &count));
    snprintf(plan->kernel[plan->layers - 1], sizeof plan->kernel[0], "%s", form[0]);
    for (size_t i = 0; i < plan->layers; i++) plan->splits[i] = 1;
    plan->pairs = PAIRS;
}

static engine_options options(ablation a, size_t memory) {
    return (engine_options){.backend = "cuda",
                            .precision = "bf16",
                            .outputs = "margin,loss",
                            .ablation = a,
                            .memory = memory,
                            .examples = EXAMPLES,
                            .masks = MASKS};
}

/* The plan with the libraries' forms goes through JSON, as it does between a run and its continuation. */
static void open_library(engine *e, const graph *g, ablation a) {
    cuda_handles *handles;
    engine_plan(e, g, options(a, 0));
    CHECK_OK(cuda_handles_get(0, &handles));
    put_forms(&e->plan, handles);
    plan_through_json(g, &e->plan);
    CHECK_INT(e->plan.pairs, PAIRS);
    CHECK_OK(e->interface->prepare(&e->settings, &e->b));
}

/* ------------------------------------------------------------------------------------------------ checks */

static sampler masks_of(const graph *g) {
    return (sampler){.kind = SAMPLER_BERNOULLI, .seed = 4, .alpha = .3, .n = g->components};
}

static void same_outputs(const graph *g, ablation a, const char *name) {
    engine ours, libraries;
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const sampler s = masks_of(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    test_begin("outputs of the libraries' forms are ours, %s", name);
    engine_open(&ours, g, options(a, 0));
    open_library(&libraries, g, a);
    float *expected = engine_run(&ours, &batch, &range), *actual = engine_run(&libraries, &batch, &range);
    CHECK_NEAR(rms_difference(actual, expected, (size_t)2 * MASKS * EXAMPLES), 0, .02);
    CHECK(stand_in_count("run cudnnBackendExecute") + stand_in_count("cudnnBackendExecute") > 0);
    CHECK(stand_in_count("cublasLtMatmul") > 0);
    test_begin("logits and sums over examples too, %s", name);
    float logits[2][EXAMPLES * 7];
    double *sums[2];
    CHECK_OK(ours.interface->logits(ours.b, logits[0]));
    CHECK_OK(libraries.interface->logits(libraries.b, logits[1]));
    CHECK_NEAR(rms_difference(logits[1], logits[0], EXAMPLES * 7), 0, .02);
    for (int i = 0; i < 2; i++) {
        engine *e = i ? &libraries : &ours;
        sums[i] = calloc(g->rows, sizeof *sums[i]);
        CHECK_OK(e->interface->collect_row_sums(e->b, sums[i]));
    }
    double difference = 0, magnitude = 0;
    for (size_t r = 0; r < g->rows; r++) difference += fabs(sums[1][r] - sums[0][r]), magnitude += fabs(sums[0][r]);
    CHECK_NEAR(difference / magnitude, 0, .02);
    free(sums[0]), free(sums[1]), free(actual), free(expected);
    engine_close(&ours);
    engine_close(&libraries);
    net_batch_free(&batch);
}

/* One mask at a time, and fewer examples: other neighbours, other places in the batch. */
static void alone(const graph *g) {
    engine e;
    example_batch batch = net_batch(g, EXAMPLES, 9), some = batch;
    const sampler s = masks_of(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    test_begin("a pair has the same bits whatever is beside it");
    open_library(&e, g, (ablation){.kind = ABLATION_ZERO});
    float *all = engine_run(&e, &batch, &range);
    some.count = EXAMPLES - 1;
    for (uint64_t m = 0; m < MASKS; m++) {
        const mask_range one = {.count = 1, .n = g->components, .sampler = &s, .first = m};
        float *part = engine_run(&e, &some, &one);
        for (uint32_t i = 0; i < some.count; i++) CHECK(part[i] == all[m * EXAMPLES + i]);
        free(part);
    }
    free(all);
    engine_close(&e);
    net_batch_free(&batch);
}

static void refused(const graph *g) {
    engine e;
    cuda_handles *handles;
    test_begin("too little memory for the plan's batch");
    engine_plan(&e, g, options((ablation){.kind = ABLATION_ZERO}, 1 << 20));
    CHECK_OK(cuda_handles_get(0, &handles));
    put_forms(&e.plan, handles);
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MEMORY,
                "the numerics plan is for batches of exactly 5");
    status_clear();
    CHECK(!e.b);
    test_begin("a form that this cuDNN does not have ends the run with its name");
    snprintf(e.plan.kernel[1], sizeof e.plan.kernel[1], "cudnn:conv,engine=99");
    e.settings.memory = 0;
    example_batch batch = net_batch(g, EXAMPLES, 9);
    const sampler s = masks_of(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    float outputs[2 * MASKS * EXAMPLES];
    CHECK_OK(e.interface->prepare(&e.settings, &e.b));
    CHECK_OK(e.interface->bind(e.b, &batch));
    CHECK_ERROR(e.interface->run(e.b, &range, outputs), COAR_ERROR_UNSUPPORTED, "cuDNN: finalize");
    status_clear();
    engine_close(&e);
    net_batch_free(&batch);
}

/* A small device, so that the batch is small: the clock is the stand-in's, and which forms win is of no interest. */
static void chosen(const graph *g) {
    numerics_plan plan, exact;
    const plan_timing timing = {.pool = NULL};
    setenv("COAR_STANDIN_MEMORY", "1500000", 1);
    setenv("COAR_PLAN_CACHE", test_temporary("cache"), 1);
    cuda_forms_release();
    stand_in_reset();
    test_begin("a plan by timing has a form for every layer, and its batch when one is a library's");
    CHECK_OK(plan_create_timed(g, "cuda", "bf16", 0, 0, &timing, &plan));
    bool library = false;
    for (size_t i = 0; i < plan.layers; i++)
        if (g->ops[i].kind == OP_CONV) {
            CHECK(plan.kernel[i][0] && plan.splits[i] >= 1);
            library |= cuda_form_is_library(plan.kernel[i]);
        }
    CHECK((plan.pairs != 0) == library);
    test_begin("and for every data gradient, but not where a reverse pass ends");
    library = false;
    for (size_t i = 0; i < plan.layers; i++) {
        CHECK((plan.data[i][0] != 0) == (g->ops[i].kind == OP_CONV && i > 0));
        library |= cuda_form_is_library(plan.data[i]);
    }
    CHECK((plan.reverse_pairs != 0) == library);
    CHECK(plan.layers && !cuda_form_is_library(plan.kernel[0])); /* it reads the images through `example` */
    test_begin("an exact plan is ours, without partial sums");
    CHECK_OK(plan_create_timed(g, "cuda", "bf16", 1, 0, &timing, &exact));
    CHECK(exact.pairs == 0 && exact.reverse_pairs == 0);
    for (size_t i = 0; i < exact.layers; i++) {
        if (g->ops[i].kind == OP_CONV) CHECK(!cuda_form_is_library(exact.kernel[i]) && exact.splits[i] == 1);
        CHECK_TEXT(exact.data[i], "");
    }
    test_begin("the time of every layer");
    layer_time *times = NULL;
    size_t count = 0;
    CHECK_OK(backend_cuda.time_layers(g, &plan, &timing, true, &times, &count));
    CHECK_INT(count, 9); /* and four data gradients: the first layer has none */
    for (size_t i = 0; times && i < count; i++) CHECK(times[i].seconds > 0 && times[i].pairs > 0 && times[i].shape[0]);
    free(times);
    plan_free(&plan);
    plan_free(&exact);
    cuda_forms_release();
    unsetenv("COAR_STANDIN_MEMORY");
    stand_in_reset();
}

int main(void) {
    graph *g = network();
    float *fill = calloc(g->rows, sizeof *fill);
    uint64_t state = 8;
    for (size_t r = 0; r < g->rows; r++) fill[r] = net_uniform(&state);
    if (!REDUCED) {
        same_outputs(g, (ablation){.kind = ABLATION_ZERO}, "zeros");
        same_outputs(g, (ablation){.kind = ABLATION_SCALE, .gain = .5f}, "half");
    }
    same_outputs(g, (ablation){.kind = ABLATION_MEAN, .fill = fill}, "means");
    alone(g);
    refused(g);
    if (!REDUCED) chosen(g); /* every kernel of ours a few times; choose.c has the choice itself */
    free(fill);
    graph_destroy(g);
    test_begin("nothing is left");
    cuda_forms_release();
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
