/*
 * layer.c - what never changes about an op: who computes it, and its weights in the compute precision, packed as
 * kernels.h wants them.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* ------------------------------------------------------------------------------------- description */

static coar_status describe_conv(const cuda_backend *b, size_t i, cuda_layer *layer) {
    const numerics_plan *plan = b->settings.plan;
    layer->splits = plan->splits[i];
    return cuda_engine_find(plan, i, false, &layer->engine, &layer->form);
}

/* Where the plan names a library's form, the forward half of a reverse pass takes our own kernel by rule: libraries'
 * forms do not keep W x. */
static void describe_saving(const cuda_backend *b, cuda_layer *layer) {
    const bool own = layer->engine == &cuda_engine_own;
    gpu_conv c = cuda_layer_conv(b, layer, CUDA_TYPICAL_PAIRS);
    c.splits = 1;
    layer->saving_form = own ? layer->form : cuda_choose_own_form(&c);
    layer->saving_splits = own ? layer->splits : 1;
}

/* As the plan says; by rule where it says nothing, and where it names a library's form and the job has paths: their
 * batches are whole paths, of another size than the plan's. */
static coar_status describe_transposed(const cuda_backend *b, size_t i, cuda_layer *layer) {
    const numerics_plan *plan = b->settings.plan;
    const gpu_conv c = cuda_layer_transposed(b, layer, CUDA_TYPICAL_PAIRS);
    const cuda_engine *engine;
    int form;
    layer->data_engine = &cuda_engine_own;
    layer->data_form = cuda_choose_own_form(&c);
    if (!plan->data[i][0]) return COAR_OK;
    TRY(cuda_engine_find(plan, i, true, &engine, &form));
    if (engine != &cuda_engine_own && b->settings.path_examples) return COAR_OK;
    layer->data_engine = engine;
    layer->data_form = form;
    return COAR_OK;
}

coar_status cuda_layers_describe(cuda_backend *b) {
    const graph *g = b->settings.graph;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        cuda_layer *layer = &b->layers[i];
        *layer = (cuda_layer){.op = o, .in = g->values[o->input[0]], .out = g->values[o->output]};
        if (o->kind == OP_CONV) {
            TRY(describe_conv(b, i, layer));
            if (b->settings.reverse) describe_saving(b, layer);
            if (b->settings.reverse) TRY(describe_transposed(b, i, layer));
        } else {
            const bool reads_input = o->input[0] == 0 || o->input[1] == 0 || o->input[2] == 0;
            b->gathers |= reads_input && !g->vocabulary; /* tokens are read by example */
            if (o->kind == OP_NEXT) TRY(cuda_next_describe(b, layer));
        }
        b->gathers |= o->residual == 0;
    }
    return COAR_OK;
}

gpu_conv cuda_layer_conv(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    static const gpu_activation activations[] = {
        [ACT_NONE] = GPU_NONE,           [ACT_RELU] = GPU_RELU,           [ACT_GELU_ERF] = GPU_GELU_ERF,
        [ACT_GELU_TANH] = GPU_GELU_TANH, [ACT_QUICKGELU] = GPU_QUICKGELU,
    };
    const op *o = layer->op;
    return (gpu_conv){
        .type = b->type,
        .pairs = pairs,
        .in_h = layer->in.h,
        .in_w = layer->in.w,
        .in_channels = layer->in.c,
        .out_h = layer->out.h,
        .out_w = layer->out.w,
        .out_channels = layer->out.c,
        .kernel_h = o->kernel_h,
        .kernel_w = o->kernel_w,
        .stride = o->stride,
        .pad = o->pad,
        .weight = layer->weight,
        .scale = layer->scale,
        .shift = layer->shift,
        .wide = o->output == b->settings.graph->logits,
        .activation = activations[o->act],
        .splits = layer->splits,
    };
}

gpu_conv cuda_layer_saving(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    gpu_conv c = cuda_layer_conv(b, layer, pairs);
    c.splits = layer->saving_splits;
    return c;
}

gpu_conv cuda_layer_transposed(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs) {
    const op *o = layer->op;
    return (gpu_conv){
        .type = b->type,
        .pairs = pairs,
        .in_h = layer->out.h,
        .in_w = layer->out.w,
        .in_channels = layer->out.c,
        .out_h = layer->in.h,
        .out_w = layer->in.w,
        .out_channels = layer->in.c,
        .kernel_h = o->kernel_h,
        .kernel_w = o->kernel_w,
        .stride = o->stride,
        .pad = o->pad,
        .weight = layer->data_engine == &cuda_engine_own ? layer->transposed : layer->weight,
        .transposed = true,
        .splits = 1,
    };
}

coar_status cuda_layers_prepare(cuda_backend *b, uint32_t pairs) {
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        cuda_layer *layer = &b->layers[i];
        if (!layer->engine || !layer->engine->prepare) continue;
        const gpu_conv c = cuda_layer_conv(b, layer, pairs);
        TRY(layer->engine->prepare(b, layer, &c));
    }
    return COAR_OK;
}

coar_status cuda_layers_prepare_reverse(cuda_backend *b, uint32_t pairs) {
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        cuda_layer *layer = &b->layers[i];
        if (!cuda_layer_wants_transposed(b, layer)) continue;
        const gpu_conv c = cuda_layer_transposed(b, layer, pairs);
        TRY(layer->data_engine->prepare(b, layer, &c));
    }
    return COAR_OK;
}

void cuda_layers_release(cuda_backend *b) {
    if (!b->layers) return;
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        cuda_layer *layer = &b->layers[i];
        if (layer->engine && layer->engine->release) layer->engine->release(layer);
    }
}

/* ----------------------------------------------------------------------------------------- weights */

/* A weight as products want it: `rows` of the result, `taps` under the kernel, `inputs` that are summed over. A table
 * of tokens is laid out likewise: so an OP_NEXT's can be read as one. */
typedef struct weight_shape {
    size_t rows, taps, inputs;
} weight_shape;

static weight_shape weight_shape_of(const cuda_layer *layer) {
    const op *o = layer->op;
    if (o->kind == OP_NEXT) return (weight_shape){o->vocabulary, 1, layer->in.c};
    if (o->kind == OP_LOOKUP) return (weight_shape){o->vocabulary, 1, layer->out.c};
    return (weight_shape){layer->out.c, (size_t)o->kernel_h * o->kernel_w, layer->in.c};
}

static bool is_packed(const op *o) {
    return o->kind == OP_CONV || o->kind == OP_NEXT || o->kind == OP_LOOKUP;
}

/* Elements: [stride(rows)][taps][stride(inputs)]; transposed [stride(inputs)][taps][stride(rows)]. */
static size_t packed_count(const cuda_layer *layer) {
    const weight_shape s = weight_shape_of(layer);
    return gpu_stride((uint32_t)s.rows) * s.taps * gpu_stride((uint32_t)s.inputs);
}

/* A table is added, not multiplied: it stays fp32. */
static bool is_narrow(const cuda_backend *b, const cuda_layer *layer) {
    return gpu_type_size(b->type) == 2 && layer->op->kind != OP_LOOKUP;
}

static size_t packed_bytes(const cuda_backend *b, const cuda_layer *layer) {
    return packed_count(layer) * (is_narrow(b, layer) ? sizeof(uint16_t) : sizeof(float));
}

bool cuda_layer_wants_transposed(const cuda_backend *b, const cuda_layer *layer) {
    return b->settings.reverse && b->tape.step[layer - b->layers].linear != CUDA_NOWHERE;
}

/* Libraries read the weight of the forward pass. */
static bool packs_transposed(const cuda_backend *b, const cuda_layer *layer) {
    if (layer->op->kind == OP_NEXT) return cuda_next_wants_transposed(b, layer);
    return cuda_layer_wants_transposed(b, layer) && layer->data_engine == &cuda_engine_own;
}

/* The OP_NEXT whose weight is a table's very numbers, a tied head's in fp32; NULL = none. */
static const cuda_layer *tied_head(const cuda_backend *b, const cuda_layer *layer) {
    for (size_t i = 0; layer->op->kind == OP_LOOKUP && i < b->settings.graph->op_count; i++) {
        const cuda_layer *head = &b->layers[i];
        if (head->op->kind == OP_NEXT && head->op->weight == layer->op->weight && head->in.c == layer->out.c &&
            !is_narrow(b, head))
            return head;
    }
    return NULL;
}

static size_t shift_count(const cuda_layer *layer) {
    return layer->op->kind == OP_LOOKUP ? shape_positions(layer->out) * layer->out.c : layer->out.c;
}

static void place_layer(cuda_backend *b, cuda_layer *layer, arena *arena) {
    const op *o = layer->op;
    layer->weight = layer->transposed = NULL;
    layer->scale = layer->shift = NULL;
    if (packs_transposed(b, layer)) arena_place(arena, 1, packed_bytes(b, layer), &layer->transposed);
    if (o->weight && is_packed(o)) {
        if (!tied_head(b, layer)) arena_place(arena, 1, packed_bytes(b, layer), &layer->weight);
    } else if (o->weight) {
        arena_place(arena, graph_weight_count(b->settings.graph, o), sizeof(float), &layer->weight);
    }
    if (o->scale) arena_place(arena, layer->out.c, sizeof(float), &layer->scale);
    if (o->shift) arena_place(arena, shift_count(layer), sizeof(float), &layer->shift);
}

void cuda_layers_place(cuda_backend *b, arena *arena) {
    const size_t count = b->settings.graph->op_count;
    for (size_t i = 0; i < count; i++) place_layer(b, &b->layers[i], arena);
    for (size_t i = 0; i < count; i++) {
        const cuda_layer *head = tied_head(b, &b->layers[i]);
        if (head) b->layers[i].weight = head->weight;
    }
}

/* [rows][inputs][taps] fp32 into packed[...]; the rest of it is zeros already. */
static void pack(const cuda_backend *b, const cuda_layer *layer, bool transposed, void *packed) {
    const weight_shape s = weight_shape_of(layer);
    const size_t stride = gpu_stride((uint32_t)(transposed ? s.rows : s.inputs));
    const bool narrow = is_narrow(b, layer);
    uint16_t *narrow_weights = packed;
    float *wide_weights = packed;
    for (size_t c = 0; c < s.rows; c++)
        for (size_t i = 0; i < s.inputs; i++)
            for (size_t t = 0; t < s.taps; t++) {
                const float w = layer->op->weight[(c * s.inputs + i) * s.taps + t];
                const size_t at = transposed ? (i * s.taps + t) * stride + c : (c * s.taps + t) * stride + i;
                if (narrow)
                    narrow_weights[at] = precision_bits(b->precision, w);
                else
                    wide_weights[at] = w;
            }
}

static coar_status upload_floats(const cuda_layer *layer, const float *values, size_t count, void *device) {
    if (!values || !count) return COAR_OK;
    TRY_CUDA(cudaMemcpy(device, values, count * sizeof *values, cudaMemcpyHostToDevice), "layer '%s': weights",
             layer->op->name);
    return COAR_OK;
}

static coar_status upload_packed(const cuda_backend *b, const cuda_layer *layer, bool transposed, void *device) {
    coar_status status = COAR_OK;
    const size_t bytes = packed_bytes(b, layer);
    void *packed = NULL;
    TRY(memory_new(bytes, 1, "packed weights", &packed));
    pack(b, layer, transposed, packed);
    TRY_CUDA_GOTO(cudaMemcpy(device, packed, bytes, cudaMemcpyHostToDevice), "layer '%s': weights", layer->op->name);
done:
    free(packed);
    return status;
}

coar_status cuda_layers_upload(cuda_backend *b) {
    const graph *g = b->settings.graph;
    for (size_t i = 0; i < g->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        const op *o = layer->op;
        if (layer->transposed) TRY(upload_packed(b, layer, true, layer->transposed));
        if (!is_packed(o))
            TRY(upload_floats(layer, o->weight, graph_weight_count(g, o), layer->weight));
        else if (!tied_head(b, layer))
            TRY(upload_packed(b, layer, false, layer->weight));
        TRY(upload_floats(layer, o->scale, layer->out.c, layer->scale));
        TRY(upload_floats(layer, o->shift, shift_count(layer), layer->shift));
    }
    return COAR_OK;
}
