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
        wanted[count++] = (cuda_form_wanted){
            .conv = cuda_layer_shape(b, other, c->pairs), .text = kernel_of(b, other), .splits = 1};
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

/* As much of a backend as shapes need: no memory, no device. */
static coar_status shapes_create(const graph *g, const numerics_plan *plan, cuda_backend *b) {
    *b = (cuda_backend){.type = cuda_type(plan), .settings = {.graph = g, .plan = plan}};
    TRY(memory_new(g->op_count, sizeof *b->layers, "layers", &b->layers));
    TRY(buffer_plan_create(g, false, &b->buffers));
    return cuda_layers_describe(b);
}

static void shapes_free(cuda_backend *b) {
    buffer_plan_free(&b->buffers);
    free(b->layers);
}

/* The plan's convolutions with their forms; op[i] is the index of choice i. */
static coar_status list_layers(const graph *g, const numerics_plan *plan, uint32_t pairs, cuda_choice **layers,
                               size_t **op, size_t *count) {
    coar_status status = COAR_OK;
    cuda_backend shapes;
    *count = 0;
    TRY_GOTO(shapes_create(g, plan, &shapes));
    TRY_GOTO(memory_new(g->op_count, sizeof **layers, "layers", layers));
    TRY_GOTO(memory_new(g->op_count, sizeof **op, "layers", op));
    for (size_t i = 0; i < g->op_count; i++) {
        if (g->ops[i].kind != OP_CONV) continue;
        cuda_choice *c = &(*layers)[*count];
        c->conv = cuda_layer_shape(&shapes, &shapes.layers[i], pairs);
        c->splits = plan->splits[i];
        snprintf(c->form, sizeof c->form, "%s", plan->kernel[i]);
        (*op)[(*count)++] = i;
    }
done:
    shapes_free(&shapes);
    return status;
}

_Static_assert(CUDA_FORM_SIZE <= PLAN_FORM_SIZE, "every form fits into a plan");

coar_status cuda_choose_plan(const graph *g, numerics_plan *plan, uint32_t pairs, const cuda_choose_settings *s) {
    coar_status status = COAR_OK;
    cuda_choose_settings settings = *s;
    cuda_choice *layers = NULL;
    size_t *op = NULL, count;
    settings.device_class = plan->device_class;
    TRY_GOTO(list_layers(g, plan, pairs, &layers, &op, &count));
    TRY_GOTO(cuda_choose(&settings, layers, count));
    for (size_t i = 0; i < count; i++) {
        snprintf(plan->kernel[op[i]], PLAN_FORM_SIZE, "%s", layers[i].form);
        plan->splits[op[i]] = layers[i].splits;
    }
done:
    free(op);
    free(layers);
    return status;
}

coar_status cuda_time_plan(const graph *g, const numerics_plan *plan, uint32_t pairs, const cuda_choose_settings *s,
                           cuda_layer_time **times, size_t *count) {
    coar_status status = COAR_OK;
    cuda_choose_settings settings = *s;
    cuda_choice *layers = NULL;
    cuda_layer_time *list = NULL;
    size_t *op = NULL;
    settings.device_class = plan->device_class;
    *times = NULL;
    TRY_GOTO(list_layers(g, plan, pairs, &layers, &op, count));
    TRY_GOTO(cuda_choose_time(&settings, layers, *count));
    TRY_GOTO(memory_new(*count, sizeof *list, "layers", &list));
    for (size_t i = 0; i < *count; i++) {
        cuda_layer_time *t = &list[i];
        t->name = g->ops[op[i]].name;
        t->splits = layers[i].splits;
        t->seconds = 1e-3 * (double)layers[i].milliseconds;
        t->flops = pairs * graph_op_flops(g, &g->ops[op[i]]);
        snprintf(t->form, sizeof t->form, "%s", layers[i].form);
        cuda_signature(&layers[i].conv, t->signature);
    }
    *times = list;
done:
    free(op);
    free(layers);
    return status;
}
