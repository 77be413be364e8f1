/* cuda_library_engine.c - see cuda_library_engine.h. */
#include "backend/cuda/cuda_library_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------- shapes */

gpu_conv cuda_layer_shape(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    static const gpu_place places[] = {[PLACE_NONE] = GPU_PLACE_NONE,
                                       [PLACE_PRE] = GPU_PLACE_PRE,
                                       [PLACE_POST] = GPU_PLACE_POST,
                                       [PLACE_OUT] = GPU_PLACE_OUT};
    static float given[2]; /* two addresses that are never read */
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

/* -------------------------------------------------------------------------------------------- engines */

static const char *kernel_of(const cuda_backend *b, const cuda_layer *layer) {
    return b->settings.plan->kernel[layer - b->layers];
}

/* Whether a library has the form is known when it is made. */
static bool library_find(gpu_type type, const char *kernel, int *form) {
    (void)type;
    *form = 0;
    return *kernel;
}

static size_t library_workspace(const cuda_backend *b, const cuda_layer *layer, const gpu_conv *c) {
    const gpu_conv shape = cuda_layer_shape(b, layer, c->pairs);
    return cuda_form_workspace_max(&shape, kernel_of(b, layer));
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
        if (other->engine != &cuda_engine_cudnn && other->engine != &cuda_engine_cublaslt) continue;
        wanted[count++] =
            (cuda_form_wanted){.conv = cuda_layer_shape(b, other, c->pairs), .text = kernel_of(b, other), .splits = 1};
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
    TRY(cuda_form_get(handles, c, kernel_of(b, layer), 1, &form));
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
static coar_status describe(const graph *g, const numerics_plan *plan, int device, const plan_timing *t,
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
                                .masks_max = 64};
    return cuda_describe(&s, out);
}

/* The batch that a plan is tuned for: what fills the device, in half of its memory at most. A function of the model,
 * the precision and the device alone: it decides bits when a library's form is chosen. */
static coar_status planned_pairs(cuda_backend *b, uint32_t *pairs) {
    size_t available, total;
    TRY_CUDA(cudaMemGetInfo(&available, &total), "CUDA device %d: memory", b->device.index);
    *pairs = cuda_memory_useful_pairs(b, CUDA_FORWARD);
    if (b->settings.plan->pairs) return COAR_OK; /* tuned already */
    while (*pairs > 1 && cuda_memory_bytes(b, CUDA_FORWARD, *pairs) > total / 2) *pairs /= 2;
    return COAR_OK;
}

/* The plan's convolutions with their forms at a batch of `pairs`; op[i] is the index of choice i. Free both. */
static coar_status list_layers(const cuda_backend *b, uint32_t pairs, cuda_choice **layers, size_t **op,
                               size_t *count) {
    const graph *g = b->settings.graph;
    const numerics_plan *plan = b->settings.plan;
    *count = 0;
    TRY(memory_new(g->op_count, sizeof **layers, "layers", layers));
    TRY(memory_new(g->op_count, sizeof **op, "layers", op));
    for (size_t i = 0; i < g->op_count; i++) {
        if (g->ops[i].kind != OP_CONV) continue;
        cuda_choice *c = &(*layers)[*count];
        c->conv = cuda_layer_shape(b, &b->layers[i], pairs);
        c->splits = plan->splits[i];
        snprintf(c->form, sizeof c->form, "%s", plan->kernel[i]);
        (*op)[(*count)++] = i;
    }
    return COAR_OK;
}

static cuda_choose_settings settings_of(const cuda_backend *b, const plan_timing *t) {
    return (cuda_choose_settings){.device = b->device.index,
                                  .device_class = b->settings.plan->device_class,
                                  .memory = b->settings.memory,
                                  .pool = t->pool,
                                  .callbacks = t->callbacks};
}

_Static_assert(CUDA_FORM_SIZE <= PLAN_FORM_SIZE, "every form fits into a plan");

coar_status cuda_choose_plan(const graph *g, int device, const plan_timing *t, numerics_plan *plan) {
    coar_status status = COAR_OK;
    cuda_backend *b = NULL;
    cuda_choice *layers = NULL;
    size_t *op = NULL, count;
    uint32_t pairs = 0;
    bool library = false;
    TRY_GOTO(describe(g, plan, device, t, &b));
    TRY_GOTO(planned_pairs(b, &pairs));
    TRY_GOTO(list_layers(b, pairs, &layers, &op, &count));
    const cuda_choose_settings s = settings_of(b, t);
    TRY_GOTO(cuda_choose(&s, layers, count));
    for (size_t i = 0; i < count; i++) {
        snprintf(plan->kernel[op[i]], PLAN_FORM_SIZE, "%s", layers[i].form);
        plan->splits[op[i]] = layers[i].splits;
        library |= cuda_form_is_library(layers[i].form);
    }
    plan->pairs = library ? pairs : 0;
done:
    if (b) cuda_destroy(&b->base);
    free(op);
    free(layers);
    return status;
}

coar_status cuda_time_plan(const graph *g, const numerics_plan *plan, const plan_timing *t, layer_time **times,
                           size_t *count) {
    coar_status status = COAR_OK;
    cuda_backend *b = NULL;
    cuda_choice *layers = NULL;
    layer_time *list = NULL;
    size_t *op = NULL;
    uint32_t pairs = 0;
    *times = NULL;
    TRY_GOTO(describe(g, plan, 0, t, &b));
    TRY_GOTO(planned_pairs(b, &pairs));
    TRY_GOTO(list_layers(b, pairs, &layers, &op, count));
    const cuda_choose_settings s = settings_of(b, t);
    TRY_GOTO(cuda_choose_time(&s, layers, *count));
    TRY_GOTO(memory_new(*count, sizeof *list, "layers", &list));
    for (size_t i = 0; i < *count; i++) {
        list[i].op = op[i];
        list[i].pairs = pairs;
        list[i].seconds = 1e-3 * (double)layers[i].milliseconds;
        cuda_signature(&layers[i].conv, list[i].shape);
    }
    *times = list;
done:
    if (b) cuda_destroy(&b->base);
    free(op);
    free(layers);
    return status;
}
