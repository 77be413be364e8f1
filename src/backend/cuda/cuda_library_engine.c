/* cuda_library_engine.c - see cuda_library_engine.h. */
#include "backend/cuda/cuda_library_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------- shapes */

static float given[2]; /* two addresses that are never read */

gpu_conv cuda_layer_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    static const gpu_place places[] = {[PLACE_NONE] = GPU_PLACE_NONE,
                                       [PLACE_PRE] = GPU_PLACE_PRE,
                                       [PLACE_POST] = GPU_PLACE_POST,
                                       [PLACE_OUT] = GPU_PLACE_OUT};
    const op *o = layer->op;
    const bool logits = o->output == b->settings.graph->logits;
    gpu_conv c = cuda_layer_conv(b, layer, pairs);
    c.x = c.weight = c.y = given;
    c.example = o->input[0] == 0 && !b->gathers ? (const uint32_t *)given : NULL;
    c.scale = o->scale ? given : NULL;
    c.shift = o->shift ? given : NULL;
    if (o->residual >= 0) {
        const bool in_place = !logits && b->buffers.buffer[o->residual] == b->buffers.buffer[o->output];
        c.residual = in_place ? c.y : &given[1];
    }
    c.mask = (gpu_mask){.place = places[o->mask.place], .fill = b->settings.ablation.fill ? given : NULL};
    return c;
}

gpu_conv cuda_layer_data_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    gpu_conv c = cuda_layer_transposed(b, layer, pairs);
    c.x = c.weight = c.y = given;
    c.residual = b->tape.step[layer - b->layers].add[0] ? c.y : NULL;
    return c;
}

/* -------------------------------------------------------------------------------------------- engines */

static const char *kernel_of(const cuda_backend *b, const cuda_layer *layer, bool transposed) {
    const numerics_plan *plan = b->settings.plan;
    return transposed ? plan->data[layer - b->layers] : plan->kernel[layer - b->layers];
}

/* Whether a library has the form is known when it is made. */
static bool library_find(gpu_type type, const char *kernel, int *form) {
    (void)type;
    *form = 0;
    return *kernel;
}

static gpu_conv shape_of(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c) {
    return c->transposed ? cuda_layer_data_shape(b, layer, c->pairs) : cuda_layer_shape(b, layer, c->pairs);
}

static size_t library_workspace(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c) {
    const gpu_conv shape = shape_of(b, layer, c);
    return cuda_form_workspace_max(&shape, kernel_of(b, layer, c->transposed));
}

/* Whether a pass of this direction takes a library's form of the layer. */
static bool is_library(const cuda_backend *b, const cuda_layer *layer, bool transposed) {
    const cuda_engine *engine = transposed ? layer->data_engine : layer->engine;
    if (engine != &cuda_engine_cudnn && engine != &cuda_engine_cublaslt) return false;
    return !transposed || cuda_layer_wants_transposed(b, layer);
}

/* The first layer's call makes the forms of all of them, in parallel. */
static coar_status library_prepare(cuda_backend *b, cuda_layer *layer, const gpu_conv *c) {
    coar_status status = COAR_OK;
    const graph *g = b->settings.graph;
    cuda_form_wanted *wanted = NULL;
    cuda_handles *handles;
    size_t count = 0;
    (void)layer;
    TRY(cuda_handles_get(b->device.index, &handles));
    TRY_GOTO(memory_new(g->op_count, sizeof *wanted, "forms", &wanted));
    for (size_t i = 0; i < g->op_count; i++) {
        const cuda_layer *other = &b->layers[i];
        if (!is_library(b, other, c->transposed)) continue;
        wanted[count++] =
            (cuda_form_wanted){.conv = shape_of(b, other, c), .text = kernel_of(b, other, c->transposed), .splits = 1};
    }
    TRY_GOTO(cuda_forms_build(handles, wanted, count, b->settings.pool, NULL));
done:
    free(wanted);
    return status;
}

static coar_status library_launch(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c,
                                  cudaStream_t stream) {
    cuda_handles *handles;
    const cuda_form *form;
    TRY(cuda_handles_get(b->device.index, &handles));
    TRY(cuda_form_get(handles, c, kernel_of(b, layer, c->transposed), 1, &form));
    return cuda_form_launch(form, c, stream);
}

const cuda_engine cuda_engine_cudnn = {
    .prefix = "cudnn:",
    .find = library_find,
    .workspace = library_workspace,
    .prepare = library_prepare,
    .launch = library_launch,
};

const cuda_engine cuda_engine_cublaslt = {
    .prefix = "cublaslt:",
    .find = library_find,
    .workspace = library_workspace,
    .prepare = library_prepare,
    .launch = library_launch,
};

/* ------------------------------------------------------------------------------------------ whole plans */

/* A backend that holds no device memory, for shapes and sizes: of a job that is large enough for any batch, since a
 * plan does not depend on the job. */
static coar_status describe(const graph *g, const numerics_plan *plan, int device, const plan_timing *t, cuda_mode mode,
                            cuda_backend **out) {
    static const output_spec margin = {.kind = OUTPUT_MARGIN};
    const backend_settings s = {.graph = g,
                                .plan = plan,
                                .outputs = &margin,
                                .output_count = 1,
                                .pool = t->pool,
                                .device = device,
                                .memory = t->memory,
                                .examples_max = 1024,
                                .masks_max = 64,
                                .reverse = mode == CUDA_REVERSE};
    return cuda_describe(&s, out);
}

/* The convolutions, or data gradients, of a plan: what is asked about them, and for which op. */
typedef struct layer_list {
    cuda_backend *backend;
    uint32_t pairs; /* of a launch */
    cuda_choice *layers;
    size_t *op, count;
} layer_list;

/* A data gradient that the plan leaves to the rule has the rule's kernel. */
static void list_layer(layer_list *l, size_t i, bool transposed) {
    const cuda_backend *b = l->backend;
    const cuda_layer *layer = &b->layers[i];
    const numerics_plan *plan = b->settings.plan;
    const char *form = kernel_of(b, layer, transposed);
    cuda_choice *c = &l->layers[l->count];
    c->conv = transposed ? cuda_layer_data_shape(b, layer, l->pairs) : cuda_layer_shape(b, layer, l->pairs);
    c->splits = transposed ? 1 : plan->splits[i];
    snprintf(c->form, sizeof c->form, "%s", *form ? form : gpu_conv_form(b->type, layer->data_form));
    l->op[l->count++] = i;
}

/* The plan's layers of this kind with their forms. Close the list also after a failure. */
static coar_status list_open(const graph *g, const numerics_plan *plan, int device, const plan_timing *t,
                             cuda_mode mode, layer_list *l) {
    *l = (layer_list){.count = 0};
    TRY(describe(g, plan, device, t, mode, &l->backend));
    size_t available, total;
    TRY_CUDA(cudaMemGetInfo(&available, &total), "CUDA device %d: memory", device);
    l->pairs = cuda_memory_tuned_pairs(l->backend, mode, total);
    TRY(memory_new(g->op_count, sizeof *l->layers, "layers", &l->layers));
    TRY(memory_new(g->op_count, sizeof *l->op, "layers", &l->op));
    for (size_t i = 0; i < g->op_count; i++) {
        const bool transposed = mode == CUDA_REVERSE;
        if (g->ops[i].kind != OP_CONV) continue;
        if (!transposed || cuda_layer_wants_transposed(l->backend, &l->backend->layers[i]))
            list_layer(l, i, transposed);
    }
    return COAR_OK;
}

static void list_close(layer_list *l) {
    if (l->backend) cuda_destroy(&l->backend->base);
    free(l->op);
    free(l->layers);
}

static cuda_choose_settings settings_of(const cuda_backend *b, const plan_timing *t) {
    return (cuda_choose_settings){.device = b->device.index,
                                  .device_class = b->settings.plan->device_class,
                                  .memory = b->settings.memory,
                                  .pool = t->pool,
                                  .callbacks = t->callbacks};
}

_Static_assert(CUDA_FORM_SIZE <= PLAN_FORM_SIZE, "every form fits into a plan");

static void take_forward(const cuda_choice *c, size_t i, numerics_plan *plan) {
    snprintf(plan->kernel[i], PLAN_FORM_SIZE, "%s", c->form);
    plan->splits[i] = c->splits;
}

static void take_data(const cuda_choice *c, size_t i, numerics_plan *plan) {
    snprintf(plan->data[i], PLAN_FORM_SIZE, "%s", c->form);
}

/* The answers for one kind of pass go into the plan by `take`; *pairs is its batch where a library is among them. */
static coar_status choose_mode(const graph *g, int device, const plan_timing *t, cuda_mode mode, numerics_plan *plan,
                               void (*take)(const cuda_choice *, size_t, numerics_plan *), uint32_t *pairs) {
    coar_status status;
    layer_list l;
    bool library = false;
    TRY_GOTO(list_open(g, plan, device, t, mode, &l));
    const cuda_choose_settings s = settings_of(l.backend, t);
    TRY_GOTO(cuda_choose(&s, l.layers, l.count));
    for (size_t i = 0; i < l.count; i++) {
        take(&l.layers[i], l.op[i], plan);
        library |= cuda_form_is_library(l.layers[i].form);
    }
    *pairs = library ? l.pairs : 0;
done:
    list_close(&l);
    return status;
}

coar_status cuda_choose_plan(const graph *g, int device, const plan_timing *t, numerics_plan *plan) {
    TRY(choose_mode(g, device, t, CUDA_FORWARD, plan, take_forward, &plan->pairs));
    return choose_mode(g, device, t, CUDA_REVERSE, plan, take_data, &plan->reverse_pairs);
}

/* Appends the times of one kind to the list, which has room. */
static coar_status time_mode(const graph *g, const numerics_plan *plan, const plan_timing *t, cuda_mode mode,
                             layer_time *times, size_t *count) {
    coar_status status;
    layer_list l;
    TRY_GOTO(list_open(g, plan, 0, t, mode, &l));
    const cuda_choose_settings s = settings_of(l.backend, t);
    TRY_GOTO(cuda_choose_time(&s, l.layers, l.count));
    for (size_t i = 0; i < l.count; i++) {
        layer_time *out = &times[(*count)++];
        *out = (layer_time){.op = l.op[i], .pairs = l.pairs, .seconds = 1e-3 * (double)l.layers[i].milliseconds};
        out->flops = l.pairs * graph_op_flops(g, &g->ops[out->op]);
        out->splits = l.layers[i].splits;
        snprintf(out->form, sizeof out->form, "%s", l.layers[i].form);
        cuda_signature(&l.layers[i].conv, out->shape);
    }
done:
    list_close(&l);
    return status;
}

coar_status cuda_time_plan(const graph *g, const numerics_plan *plan, const plan_timing *t, bool reverse,
                           layer_time **times, size_t *count) {
    coar_status status;
    layer_time *list = NULL;
    *times = NULL;
    *count = 0;
    TRY_GOTO(memory_new(2 * g->op_count, sizeof *list, "layers", &list));
    TRY_GOTO(time_mode(g, plan, t, CUDA_FORWARD, list, count));
    if (reverse) TRY_GOTO(time_mode(g, plan, t, CUDA_REVERSE, list, count));
    *times = list;
    list = NULL;
done:
    free(list);
    return status;
}
