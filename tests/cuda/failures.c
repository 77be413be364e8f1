/*
 * failures.c - a machine without what the CUDA backend needs, and a device that fails in the middle: one clear line
 * each, nothing left behind, and smaller batches where only memory is short.
 */
#include <cuda_runtime_api.h>

#include "devices.h"
#include "engines.h"
#include "nets.h"
#include "stand_ins/stand_ins.h"
#include "test.h"

enum { MASKS = 5, EXAMPLES = 2, PAIRS = MASKS * EXAMPLES };

/* Places at which one kind of call is made to fail. */
enum { PLACES = REDUCED ? 1 : 6 };

static void set(const char *name, const char *value) {
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
    stand_in_reset();
}

/* ---------------------------------------------------------------------------------------- no device */

/* For each of the three times that a machine is asked: cudaErrorSystemNotReady. */
#define NOT_READY "cudaGetDeviceCount:0:802"

static void machines(void) {
    static const struct machine {
        const char *what, *variable, *value, *text;
        bool there; /* a device is, or may be, and is not used: worth a warning */
    } machines[] = {
        {"no driver", "COAR_STANDIN_DRIVER", "0", "driver", false},
        {"an old driver", "COAR_STANDIN_DRIVER", "11040", "driver knows CUDA up to 11.4", true},
        {"no device", "COAR_STANDIN_DEVICES", "0", "device", false},
        {"an older architecture", "COAR_STANDIN_CAPABILITY", "7.5", "compute capability 7.5", true},
        {"a driver that is not ready", "COAR_STANDIN_FAIL", NOT_READY "," NOT_READY "," NOT_READY, "do not fit", true},
    };
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const struct machine *m = &machines[i];
        const backend_interface *interface;
        numerics_plan plan;
        graph *g = net_basic(NET_FILTERS, 1);
        test_begin("%s: one line, and the default is another backend%s", m->what, m->there ? ", with a warning" : "");
        set(m->variable, m->value);
        CHECK_ERROR(backend_find("cuda", NULL, &interface), COAR_ERROR_UNSUPPORTED, m->text);
        CHECK(strstr(coar_last_error(), "--backend c"));
        status_clear();
        CHECK_ERROR(plan_create(g, "cuda", "fp32", 0, &plan), COAR_ERROR_UNSUPPORTED, m->text);
        status_clear();
        told warned = {0};
        const coar_callbacks callbacks = told_begin(&warned);
        CHECK_OK(backend_find(NULL, &callbacks, &interface));
        CHECK_TEXT(interface->name, "cpu");
        CHECK_TEXT(coar_last_error(), "");
        CHECK_INT(warned.warnings, m->there);
        if (m->there) CHECK(strstr(warned.warning, "the cpu backend is used: ") && strstr(warned.warning, m->text));
        set(m->variable, NULL);
        CHECK_OK(backend_find(NULL, NULL, &interface));
        CHECK_TEXT(interface->name, "cuda");
        graph_destroy(g);
    }
}

static void too_little_memory(void) {
    const engine_options o = {.backend = "cuda", .examples = EXAMPLES, .masks = MASKS};
    graph *g = net_basic(NET_FILTERS, 1);
    engine e;
    test_begin("a device with too little memory: what is needed, and what is there");
    set("COAR_STANDIN_MEMORY", "65536");
    engine_plan(&e, g, o);
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MEMORY, "needs at least 1 MiB");
    CHECK(!e.b);
    status_clear();
    engine_close(&e);
    CHECK_INT(stand_in_leaks(), 0);
    set("COAR_STANDIN_MEMORY", NULL);

    test_begin("a device that is not there, a plan for another device");
    engine_plan(&e, g, o);
    e.settings.device = 3;
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_UNSUPPORTED, "device 3");
    status_clear();
    e.settings.device = 0;
    snprintf(e.plan.device_class, sizeof e.plan.device_class, "cuda/Another/13.0/none/none");
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MISMATCH, "cuda/Another");
    status_clear();
    CHECK_ERROR(plan_check_executable(&e.plan, 0), COAR_ERROR_MISMATCH, "layer 'conv0'");
    status_clear();
    engine_close(&e);
    graph_destroy(g);
}

/* A context on a device that nobody asked for takes memory there, which may be all in use. */
static void other_devices(void) {
    const backend_interface *interface;
    numerics_plan plan;
    int count = 0, current = -1;
    graph *g = net_basic(NET_FILTERS, 1);
    test_begin("a job for device 1 takes nothing of device 0");
    set("COAR_STANDIN_DEVICES", "2");
    CHECK_INT(cudaSetDevice(1), cudaSuccess);
    CHECK_OK(backend_find("cuda", NULL, &interface));
    CHECK_OK(interface->devices(&count));
    CHECK_INT(count, 2);
    CHECK_INT(cudaGetDevice(&current), cudaSuccess);
    CHECK_INT(current, 1);
    CHECK_OK(plan_create_timed(g, "cuda", "bf16", 0, 1, NULL, &plan));
    CHECK_OK(plan_check_executable(&plan, 1));
    CHECK_INT(cudaGetDevice(&current), cudaSuccess);
    CHECK_INT(current, 1);
    plan_free(&plan);
    graph_destroy(g);
    CHECK_INT(cudaSetDevice(0), cudaSuccess);
    set("COAR_STANDIN_DEVICES", NULL);
}

/* --------------------------------------------------------------------------------------- in the middle */

static graph *net;
static example_batch batch;
static sampler masks_of;
static mask_range range;
static engine_options options;
static float *expected, *expected_gradients;

/* One job from prepare to destroy, in batches of a few pairs. The first failure's status; outputs are right when
 * there was none. */
static coar_status whole_job(void) {
    engine e;
    coar_status status = COAR_OK;
    float outputs[2 * PAIRS], logits[EXAMPLES * 7];
    double *sums = calloc(net->rows, sizeof *sums);
    engine_plan(&e, net, options);
    TRY_GOTO(e.interface->prepare(&e.settings, &e.b));
    TRY_GOTO(e.interface->bind(e.b, &batch));
    TRY_GOTO(e.interface->collect_row_sums(e.b, sums));
    TRY_GOTO(e.interface->logits(e.b, logits));
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < 2 * PAIRS; k++) outputs[k] = NAN;
        TRY_GOTO(e.interface->run(e.b, &range, outputs));
        CHECK(!expected || !memcmp(outputs, expected, sizeof outputs));
    }
    if (!expected) {
        expected = calloc(2 * PAIRS, sizeof *expected);
        memcpy(expected, outputs, sizeof outputs);
    }
done:
    free(sums);
    engine_close(&e);
    return status;
}

/* The same for reverse passes. */
static coar_status reverse_job(void) {
    engine e;
    coar_status status = COAR_OK;
    const size_t count = PAIRS * (size_t)net->components;
    float *gradients = calloc(count, sizeof *gradients);
    engine_options o = options;
    o.reverse = true;
    o.memory = engine_memory(net, o, .2);
    engine_plan(&e, net, o);
    TRY_GOTO(e.interface->prepare(&e.settings, &e.b));
    TRY_GOTO(e.interface->bind(e.b, &batch));
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < count; k++) gradients[k] = NAN;
        TRY_GOTO(e.interface->run_reverse(e.b, REVERSE_MASK, 1, &range, gradients, NULL));
        CHECK(!expected_gradients || !memcmp(gradients, expected_gradients, count * sizeof *gradients));
    }
    if (!expected_gradients) {
        expected_gradients = gradients;
        gradients = NULL;
    }
done:
    free(gradients);
    engine_close(&e);
    return status;
}

static void make_job(void) {
    net = net_basic(NET_FILTERS, 5);
    for (uint32_t c = 0; c < 7; c++) ((float *)net->ops[0].scale)[c] *= 1e5f; /* some outputs are computed once more */
    batch = net_batch(net, EXAMPLES, 6);
    masks_of = (sampler){.kind = SAMPLER_FIXED, .seed = 1, .alpha = .2, .n = net->components};
    range = (mask_range){.count = MASKS, .n = net->components, .sampler = &masks_of};
    options = (engine_options){
        .backend = "cuda", .precision = "fp16", .outputs = "margin,loss", .examples = EXAMPLES, .masks = MASKS};
    options.memory = engine_memory(net, options, .2);
    test_begin("the jobs that are to fail, without a failure");
    CHECK_OK(whole_job());
    CHECK_OK(reverse_job());
    CHECK_INT(stand_in_leaks(), 0);
}

/* Each call of a kind fails once, the first, the second, and so on; the job says so, in one line, or goes on by
 * itself. */
static void every_call(const char *what, coar_status (*job)(void), const char *call, cudaError_t error,
                       coar_status status, const char *text) {
    test_begin("%s: %s fails, wherever it is called", what, call);
    size_t failed = 0;
    stand_in_reset();
    CHECK_OK(job());
    const size_t calls = stand_in_count(call), step = calls > PLACES ? calls / PLACES : 1;
    CHECK(calls > 0);
    for (size_t after = REDUCED ? calls / 2 : 0; after < calls; after += step) {
        stand_in_reset();
        stand_in_fail(call, (unsigned)after, error);
        const coar_status got = job();
        if (got != COAR_OK) {
            failed++;
            CHECK_INT(got, status);
            if (!strstr(coar_last_error(), text))
                test_fail(__FILE__, __LINE__, "call %zu: got \"%s\", expected \"%s\" in it", after, coar_last_error(),
                          text);
        }
        status_clear();
        CHECK_INT(stand_in_leaks(), 0);
    }
    CHECK(error == cudaErrorMemoryAllocation ? failed < calls : failed > 0);
    stand_in_reset();
    CHECK_OK(job());
}

static void short_of_memory(void) {
    const struct {
        const char *call;
        unsigned after;
    } points[] = {{"cudaMalloc", 1}, {"cudaMallocHost", 0}, {"cudaGraphInstantiate", 0}, {"cudaGraphInstantiate", 1}};
    for (size_t i = 0; i < sizeof points / sizeof *points; i += REDUCED ? 2 : 1) {
        test_begin("out of memory at %s %u: half the batch, the same outputs", points[i].call, points[i].after);
        stand_in_reset();
        stand_in_fail(points[i].call, points[i].after, cudaErrorMemoryAllocation);
        CHECK_OK(whole_job());
        CHECK_INT(stand_in_leaks(), 0);
    }
    test_begin("out of memory in every try: a clear end");
    stand_in_reset();
    for (unsigned i = 0; i < 8; i++) stand_in_fail("cudaMalloc", 1, cudaErrorMemoryAllocation);
    CHECK_ERROR(whole_job(), COAR_ERROR_MEMORY, "device memory");
    status_clear();
    CHECK_INT(stand_in_leaks(), 0);
    stand_in_reset();
}

static void lost_device(void) {
    static const char *const launches[] = {"0:0:700", "0:3:719", "0:40:700", "0:200:700"};
    for (size_t i = 0; i < sizeof launches / sizeof *launches; i += REDUCED ? 2 : 1) {
        test_begin("a device that is lost (%s): the state is said to be lost", launches[i]);
        set("COAR_STANDIN_KILL", launches[i]);
        CHECK_ERROR(whole_job(), COAR_ERROR_UNSUPPORTED, "the same command goes on");
        CHECK(strstr(coar_last_error(), "stream"));
        status_clear();
        set("COAR_STANDIN_KILL", NULL);
        CHECK_INT(stand_in_leaks(), 0);
    }
}

static const struct call {
    const char *name;
    cudaError_t error;
    coar_status status;
    const char *text;
} calls[] = {
    {"cudaMalloc", cudaErrorMemoryAllocation, COAR_ERROR_MEMORY, "out of memory"},
    {"cudaMemcpyAsync", cudaErrorUnknown, COAR_ERROR_UNSUPPORTED, "unknown error"},
    {"cudaLaunchKernel", cudaErrorLaunchOutOfResources, COAR_ERROR_UNSUPPORTED, "compute stream"},
    {"cudaEventSynchronize", cudaErrorLaunchFailure, COAR_ERROR_UNSUPPORTED, "batch of"},
    {"cudaStreamSynchronize", cudaErrorLaunchFailure, COAR_ERROR_UNSUPPORTED, "stream"},
    {"cudaStreamCreateWithFlags", cudaErrorNotPermitted, COAR_ERROR_UNSUPPORTED, "CUDA stream"},
    {"cudaEventCreateWithFlags", cudaErrorNotPermitted, COAR_ERROR_UNSUPPORTED, "CUDA event"},
    {"cudaStreamBeginCapture", cudaErrorStreamCaptureUnsupported, COAR_ERROR_UNSUPPORTED, "capturing"},
    {"cudaGraphLaunch", cudaErrorLaunchFailure, COAR_ERROR_UNSUPPORTED, "the graph of a batch"},
};

/* What a reverse pass calls, and a forward pass does not in the same way. */
static const struct call reverse_calls[] = {
    {"cudaMalloc", cudaErrorMemoryAllocation, COAR_ERROR_MEMORY, "out of memory"},
    {"cudaMemsetAsync", cudaErrorUnknown, COAR_ERROR_UNSUPPORTED, "gradients of a batch"},
    {"cudaLaunchKernel", cudaErrorLaunchOutOfResources, COAR_ERROR_UNSUPPORTED, "compute stream"},
};

int main(void) {
    machines();
    too_little_memory();
    other_devices();
    make_job();
    short_of_memory();
    /* Under a sanitizer those whose failure leaves most behind. */
    for (size_t i = 0; i < (REDUCED ? 3 : sizeof calls / sizeof *calls); i++)
        every_call("forward", whole_job, calls[i].name, calls[i].error, calls[i].status, calls[i].text);
    for (size_t i = 0; i < (REDUCED ? 1 : sizeof reverse_calls / sizeof *reverse_calls); i++) {
        const struct call *c = &reverse_calls[i];
        every_call("reverse", reverse_job, c->name, c->error, c->status, c->text);
    }
    lost_device();
    free(expected_gradients);
    free(expected);
    net_batch_free(&batch);
    graph_destroy(net);
    test_begin("nothing is left, nothing was refused");
    CHECK_INT(stand_in_leaks(), 0);
    CHECK_INT(stand_in_refusals(), 0);
    return test_end();
}
