/*
 * cudnn_plans.c - whether the real cuDNN takes the graphs that the engine would ask for: a plan for every convolution
 * of ResNet-50, for the data gradient of each that a reverse pass goes through, and for every matrix product of
 * ViT-B/16, on an A100, an H100 and a B200, described by their properties. No
 * device is needed, nothing runs. Beside this program lies a libcuda.so.1 without a device (tests/stand_ins/libcuda),
 * because cuDNN offers no engine for a fused graph where it cannot load one, and reports success: what counts is the
 * number of engines, not the status.
 *
 * Prints one comment for each layer: the form, or who computes it instead.
 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/cuda_cudnn.h"
#include "backend/cuda/cuda_libraries.h"
#include "core/threads.h"
#include "model/model.h"
#include "test.h"

#include <dlfcn.h>
#include <stdbool.h>

enum { LAYERS_MAX = 64, PAIRS = 256, THREADS = 2 };

/* A layer that differs from all others in shape or epilogue, and what cuDNN says about it. */
typedef struct question {
    const char *name; /* the first of its kind */
    unsigned count;   /* how many there are */
    gpu_conv conv;
    cuda_cudnn_kind kind;
    bool asked;
    cuda_cudnn_answer answer;
} question;

typedef struct questions {
    question list[LAYERS_MAX];
    size_t count;
    const cuda_cudnn *device;
} questions;

/* ----------------------------------------------------------------------------------------------- the layers */

static bool same_layer(const gpu_conv *a, const gpu_conv *b) {
    return a->in_h == b->in_h && a->in_w == b->in_w && a->in_channels == b->in_channels &&
           a->out_channels == b->out_channels && a->kernel_h == b->kernel_h && a->kernel_w == b->kernel_w &&
           a->stride == b->stride && a->pad == b->pad && !a->scale == !b->scale && !a->shift == !b->shift &&
           !a->residual == !b->residual && !a->example == !b->example && a->wide == b->wide &&
           a->transposed == b->transposed && a->activation == b->activation && a->mask.place == b->mask.place;
}

/* The layer as the engine would launch it. Only whether pointers are given is looked at. */
static gpu_conv conv_of(const graph *g, const op *o) {
    static const gpu_place places[] = {[PLACE_NONE] = GPU_PLACE_NONE,
                                       [PLACE_PRE] = GPU_PLACE_PRE,
                                       [PLACE_POST] = GPU_PLACE_POST,
                                       [PLACE_OUT] = GPU_PLACE_OUT};
    static float any;
    static const uint32_t index;
    const cuda_backend shapes = {.type = GPU_BF16, .settings = {.graph = g}};
    const cuda_layer layer = {.op = o, .in = g->values[o->input[0]], .out = g->values[o->output], .splits = 1};
    gpu_conv c = cuda_layer_conv(&shapes, &layer, PAIRS);
    c.x = c.weight = c.y = &any;
    c.scale = o->scale ? &any : NULL;
    c.shift = o->shift ? &any : NULL;
    c.residual = o->residual >= 0 ? &any : NULL;
    c.example = o->input[0] == 0 ? &index : NULL;
    c.mask = (gpu_mask){.place = places[o->mask.place], .keep = &any, .slot = &index, .rows = g->rows};
    return c;
}

/* Its data gradient; false where a reverse pass needs none. */
static bool gradient_of(const graph *g, const cuda_tape *tape, size_t i, gpu_conv *out) {
    static float any;
    const op *o = &g->ops[i];
    const cuda_backend shapes = {.type = GPU_BF16, .settings = {.graph = g}};
    const cuda_layer layer = {.op = o, .in = g->values[o->input[0]], .out = g->values[o->output]};
    *out = cuda_layer_transposed(&shapes, &layer, PAIRS);
    out->x = out->weight = out->y = &any;
    out->residual = tape->step[i].add[0] ? out->y : NULL;
    return tape->step[i].linear != CUDA_NOWHERE;
}

/* What is no 1x1 of stride 1 is no matrix product, whatever the network: the patch embedding. */
static cuda_cudnn_kind kind_of(const gpu_conv *c, cuda_cudnn_kind wish) {
    return c->kernel_h == 1 && c->kernel_w == 1 && c->stride == 1 ? wish : CUDA_CUDNN_CONV;
}

static void add(questions *q, const op *o, const gpu_conv *c, cuda_cudnn_kind kind) {
    size_t k = 0;
    while (k < q->count && !same_layer(&q->list[k].conv, c)) k++;
    if (k == LAYERS_MAX)
        test_fail(__FILE__, __LINE__, "more than %d kinds of layers", LAYERS_MAX);
    else if (k < q->count)
        q->list[k].count++;
    else
        q->list[q->count++] = (question){.name = o->name, .count = 1, .conv = *c, .kind = kind};
}

static void collect(questions *q, const graph *g, cuda_cudnn_kind kind) {
    cuda_tape tape;
    CHECK_OK(cuda_tape_create(g, gpu_type_size(GPU_BF16), false, &tape));
    q->count = 0;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        gpu_conv c;
        if (o->kind != OP_CONV) continue;
        if (kind == CUDA_CUDNN_DGRAD) {
            if (gradient_of(g, &tape, i, &c)) add(q, o, &c, kind);
        } else {
            c = conv_of(g, o);
            add(q, o, &c, kind_of(&c, kind));
        }
    }
    cuda_tape_free(&tape);
}

/* --------------------------------------------------------------------------------------------------- asking */

/* Most layers' first engine does; the others' next ones are asked too. The first layer is never cuDNN's, since it reads
 * its images by index; that cuDNN would take it if they were gathered first is worth knowing. */
static coar_status ask(void *context, size_t i, int worker) {
    questions *q = context;
    question *one = &q->list[i];
    gpu_conv c = one->conv;
    (void)worker;
    one->asked = cuda_cudnn_can(&c, one->kind);
    c.example = NULL;
    if (!cuda_cudnn_can(&c, one->kind)) return COAR_OK;
    TRY(cuda_cudnn_ask(q->device, &c, one->kind, 1, &one->answer));
    if (!one->answer.planned && one->answer.admitted > 1)
        TRY(cuda_cudnn_ask(q->device, &c, one->kind, 4, &one->answer));
    return COAR_OK;
}

static void describe(const question *q, char out[160]) {
    const gpu_conv *c = &q->conv;
    snprintf(out, 160, "%s (x%u): %ux%u %u -> %u, %ux%u stride %u%s%s%s%s", q->name, q->count, c->in_h, c->in_w,
             c->in_channels, c->out_channels, c->kernel_h, c->kernel_w, c->stride, c->transposed ? ", transposed" : "",
             c->mask.place == GPU_PLACE_NONE ? "" : ", mask", c->residual ? ", residual" : "",
             c->activation == GPU_NONE ? "" : ", activation");
}

static void report(const questions *q, unsigned *planned, unsigned *ours) {
    *planned = *ours = 0;
    for (size_t i = 0; i < q->count; i++) {
        const question *one = &q->list[i];
        char layer[160];
        describe(one, layer);
        if (!one->asked) {
            *ours += one->count;
            printf("# %s: our own kernel; gathered: %s\n", layer, one->answer.planned ? one->answer.form : "refused");
        } else if (one->answer.planned) {
            *planned += one->count;
            printf("# %s: %s, %zu of %zu engines admitted, workspace %zu\n", layer, one->answer.form,
                   one->answer.admitted, one->answer.offered, one->answer.workspace);
        } else
            test_fail(__FILE__, __LINE__, "%s: refused: %zu offered, %zu admitted; %s", layer, one->answer.offered,
                      one->answer.admitted, one->answer.why);
    }
}

/* ---------------------------------------------------------------------------------------------------- the test */

typedef struct network {
    const char *name, *arch;
    cuda_cudnn_kind kind;
} network;

static const network networks[] = {
    {"every convolution of ResNet-50", "resnet50", CUDA_CUDNN_CONV},
    {"every data gradient of ResNet-50", "resnet50", CUDA_CUDNN_DGRAD},
    {"every matrix product of ViT-B/16", "vit_b_16", CUDA_CUDNN_MATMUL},
};
static const char *const devices[] = {"a100", "h100", "b200"};

static void read_text(const char *path, char *text, size_t size) {
    FILE *f = fopen(path, "r");
    size_t length = f ? fread(text, 1, size - 1, f) : 0;
    CHECK(length > 0);
    text[length] = 0;
    if (f) fclose(f);
}

static void check_network(questions *q, const network *n, thread_pool *pool) {
    model *m = NULL;
    unsigned planned = 0, ours = 0;
    CHECK_OK(model_random(n->arch, &(model_options){.arch = NULL}, &m));
    if (!m) return;
    collect(q, m->graph, n->kind);
    CHECK_OK(thread_pool_run(pool, q->count, ask, q));
    report(q, &planned, &ours);
    printf("# %u layers with a plan, %u by our own kernels\n", planned, ours);
    CHECK(planned > ours);
    model_destroy(m);
}

static void check_device(const char *name, thread_pool *pool) {
    static questions q;
    static char json[4096];
    char file[64];
    cuda_cudnn *device = NULL;
    snprintf(file, sizeof file, "plans/%s.json", name);
    read_text(test_path(file), json, sizeof json);
    CHECK_OK(cuda_cudnn_open_described(json, &device));
    q.device = device;
    for (size_t i = 0; i < sizeof networks / sizeof *networks && device; i++) {
        test_begin("cuDNN takes %s on %s", networks[i].name, name);
        check_network(&q, &networks[i], pool);
    }
    cuda_cudnn_close(device);
}

/* The libcuda.so.1 beside this program, before cuDNN looks for one. False when it is not there. */
static bool load_driver(const char *program) {
    char path[4096];
    const char *end = strrchr(program, '/');
    snprintf(path, sizeof path, "%.*slibcuda.so.1", end ? (int)(end - program) + 1 : 0, program);
    return dlopen(path, RTLD_NOW | RTLD_GLOBAL) != NULL;
}

int main(int argc, char **argv) {
    const cudnn_functions *f;
    thread_pool *pool = NULL;
    (void)argc;
    test_begin("the real cuDNN, and a driver library without a device");
    CHECK(load_driver(argv[0]));
    if (cuda_library_cudnn(&f) != COAR_OK) {
        test_skip("%s", coar_last_error());
        return test_end();
    }
    printf("# cuDNN %zu\n", f->cudnnGetVersion());
    CHECK_OK(thread_pool_create(THREADS, &pool));
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) check_device(devices[i], pool);
    thread_pool_destroy(pool);
    return test_end();
}
