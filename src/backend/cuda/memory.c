/*
 * memory.c - all memory of a backend, measured before it is taken.
 *
 * fixed      weights, tables, the bound examples: one device allocation
 * per batch  values, keeps, logits, workspace, the lanes' staging: one device and one pinned allocation, whose size
 * follows
 *            from the number of pairs. Given up and taken again smaller when the device refuses.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* Real-valued keeps are 32 times as large as bits: a batch holds no more masks of them than this. */
#define VALUE_SLOTS_MAX 8

/* Examples whose sums for `mean` ablation are computed at a time: once a run, so their fp32 values get little
 * memory. */
#define OBSERVED_PAIRS_MAX 16

/* Pairs beyond this are not worth their memory, whatever the layers are: one launch takes milliseconds by then. */
#define PAIRS_MAX 512

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t value_bytes(const cuda_backend *b, shape s) {
    return shape_positions(s) * gpu_stride(s.c) * gpu_type_size(b->type);
}

/* ------------------------------------------------------------------------------------------- fixed */

static void place_fixed(cuda_backend *b, arena *arena) {
    const backend_settings *s = &b->settings;
    const graph *g = s->graph;
    cuda_layers_place(b, arena);
    arena_place(arena, s->examples_max, b->elements, &b->pixels);
    arena_place(arena, s->examples_max, value_bytes(b, g->values[0]), &b->input);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_mul, &b->pixel_mul);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_add, &b->pixel_add);
    arena_place(arena, s->examples_max, sizeof *b->labels, &b->labels);
    arena_place(arena, g->rows, sizeof *b->component, &b->component);
    arena_place(arena, g->rows, sizeof *b->sums, &b->sums);
    b->fill = NULL;
    if (s->ablation.fill) arena_place(arena, g->rows, sizeof *b->fill, &b->fill);
}

/* --------------------------------------------------------------------------------------- per batch */

/* One pair's values in each buffer. The logits are kept apart, because they are fp32; so is the input, unless it is
 * copied for each pair. */
static void measure_buffers(cuda_backend *b) {
    const graph *g = b->settings.graph;
    memset(b->buffer_bytes, 0, b->buffers.buffers * sizeof *b->buffer_bytes);
    for (size_t v = b->gathers ? 0 : 1; v < g->value_count; v++) {
        size_t *bytes = &b->buffer_bytes[b->buffers.buffer[v]];
        if ((int)v != g->logits) *bytes = larger(*bytes, value_bytes(b, g->values[v]));
    }
}

static size_t workspace_bytes(const cuda_backend *b, uint32_t pairs) {
    size_t most = 0;
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        if (layer->op->kind != OP_CONV) continue;
        const gpu_conv c = cuda_layer_conv(b, layer, pairs);
        most = larger(most, layer->engine->workspace(b, layer, &c));
    }
    return most;
}

/* fp32 values of one pair at the largest site whose x is not the op's result. */
static size_t observed_bytes(const cuda_backend *b) {
    size_t most = 0;
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        const mask_place place = layer->op->mask.place;
        if (place != PLACE_PRE && place != PLACE_POST) continue;
        most = larger(most, shape_positions(layer->out) * gpu_stride(layer->out.c) * sizeof(float));
    }
    return most;
}

static void place_input(const cuda_backend *b, const cuda_batch *batch, arena *arena, cuda_input *input,
                        size_t *header) {
    const uint32_t n = b->settings.graph->components;
    arena_place(arena, 1, sizeof *input->first, &input->first);
    arena_place(arena, batch->pairs, sizeof *input->slot, &input->slot);
    arena_place(arena, batch->pairs, sizeof *input->example, &input->example);
    *header = arena->used;
    arena_place(arena, 1, larger(batch->slots * mask_bytes(n), (size_t)batch->value_slots * n * sizeof(float)),
                &input->masks);
}

/* The block of one lane's inputs, as an arena of its own inside `arena`, so that pinned and device twins are the
 * same. */
static char *place_block(const cuda_backend *b, cuda_batch *batch, arena *outer, cuda_input *input) {
    arena measure = {0};
    cuda_input unplaced;
    place_input(b, batch, &measure, &unplaced, &batch->input_header);
    batch->input_bytes = measure.used;
    arena inner = {.base = arena_take(outer, batch->input_bytes), .size = batch->input_bytes};
    place_input(b, batch, &inner, input, &batch->input_header);
    return inner.base;
}

static void place_device(const cuda_backend *b, cuda_batch *batch, arena *arena) {
    const graph *g = b->settings.graph;
    for (size_t k = 0; k < b->buffers.buffers; k++)
        arena_place(arena, batch->pairs, b->buffer_bytes[k], &batch->buffer[k]);
    arena_place(arena, batch->pairs, gpu_stride(b->classes) * sizeof *batch->logits, &batch->logits);
    arena_place(arena, batch->slots, g->rows * sizeof *batch->keep, &batch->keep);
    arena_place(arena, batch->observed_pairs, observed_bytes(b), &batch->observed);
    arena_place(arena, 1, workspace_bytes(b, batch->pairs), &batch->workspace);
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        lane->device_block = place_block(b, batch, arena, &lane->device);
        arena_place(arena, batch->pairs, b->settings.output_count * sizeof *lane->outputs, &lane->outputs);
    }
}

static void place_pinned(const cuda_backend *b, cuda_batch *batch, arena *arena) {
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        lane->host_block = place_block(b, batch, arena, &lane->host);
        arena_place(arena, batch->pairs, b->settings.output_count * sizeof *lane->host_outputs, &lane->host_outputs);
    }
}

static void size_batch(const cuda_backend *b, uint32_t pairs, cuda_batch *batch) {
    const size_t most = b->settings.masks_max ? b->settings.masks_max : 1;
    batch->pairs = pairs;
    batch->slots = pairs < most ? pairs : (uint32_t)most;
    batch->observed_pairs = pairs < OBSERVED_PAIRS_MAX ? pairs : OBSERVED_PAIRS_MAX;
    batch->value_slots = batch->slots < VALUE_SLOTS_MAX ? batch->slots : VALUE_SLOTS_MAX;
}

/* -------------------------------------------------------------------------------------------- sizes */

size_t cuda_memory_bytes(cuda_backend *b, uint32_t pairs) {
    arena arena = {0};
    cuda_batch batch = {.buffer = b->batch.buffer};
    measure_buffers(b);
    place_fixed(b, &arena);
    size_batch(b, pairs, &batch);
    place_device(b, &batch, &arena);
    size_t bytes;
    return size_add(arena.used, b->retry_bytes, &bytes) ? bytes : SIZE_MAX;
}

/* A convolution fills the device when it has two 128 x 128 tiles for each multiprocessor; less, and its last wave
 * leaves many idle. Layers of one position (classifiers) never do, and do not matter. */
uint32_t cuda_memory_useful_pairs(const cuda_backend *b) {
    const backend_settings *s = &b->settings;
    const double wanted = 2.0 * b->device.multiprocessors;
    if (s->plan->pairs) return s->plan->pairs;
    double most = 1;
    for (size_t i = 0; i < s->graph->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        const double positions = (double)shape_positions(layer->out);
        if (layer->op->kind != OP_CONV || positions < 2) continue;
        const double pairs = wanted / (positions / 128 * ((layer->out.c + 127) / 128));
        if (pairs > most) most = pairs;
    }
    const double all = (double)s->examples_max * (s->masks_max ? (double)s->masks_max : 1);
    const double pairs = most < PAIRS_MAX ? most + 1 : PAIRS_MAX;
    return (uint32_t)(pairs < all ? pairs : all);
}

/* ------------------------------------------------------------------------------------------- taking */

static void close_batch(cuda_backend *b) {
    cuda_batch *batch = &b->batch;
    cuda_batches_free_graphs(b);
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        cudaEvent_t *const events[] = {&lane->uploaded, &lane->computed, &lane->downloaded};
        for (size_t k = 0; k < sizeof events / sizeof *events; k++)
            if (*events[k]) (void)cudaEventDestroy(*events[k]);
    }
    if (batch->memory) (void)cudaFree(batch->memory);
    if (batch->pinned) (void)cudaFreeHost(batch->pinned);
    *batch = (cuda_batch){.buffer = batch->buffer};
}

static coar_status open_lanes(cuda_batch *batch) {
    const unsigned flags = cudaEventDisableTiming | cudaEventBlockingSync;
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        TRY_CUDA(cudaEventCreateWithFlags(&lane->uploaded, flags), "CUDA event");
        TRY_CUDA(cudaEventCreateWithFlags(&lane->computed, flags), "CUDA event");
        TRY_CUDA(cudaEventCreateWithFlags(&lane->downloaded, flags), "CUDA event");
    }
    return COAR_OK;
}

/* On failure nothing of it is left. */
static coar_status open_batch(cuda_backend *b, uint32_t pairs) {
    coar_status status;
    cuda_batch *batch = &b->batch;
    arena device = {0}, pinned = {0};
    size_batch(b, pairs, batch);
    place_device(b, batch, &device);
    place_pinned(b, batch, &pinned);
    TRY_CUDA_GOTO(cudaMalloc(&batch->memory, device.used), "%zu MiB of device memory for batches of %u",
                  device.used >> 20, pairs);
    TRY_CUDA_GOTO(cudaMallocHost(&batch->pinned, pinned.used), "%zu MiB of pinned memory", pinned.used >> 20);
    memset(batch->pinned, 0, pinned.used);
    device = (arena){.base = batch->memory, .size = device.used};
    pinned = (arena){.base = batch->pinned, .size = pinned.used};
    place_device(b, batch, &device);
    place_pinned(b, batch, &pinned);
    TRY_GOTO(open_lanes(batch));
done:
    if (status != COAR_OK) close_batch(b);
    return status;
}

/* The most pairs whose memory is allowed; 0 when one is too many. */
static uint32_t allowed_pairs(cuda_backend *b) {
    const uint32_t planned = b->settings.plan->pairs;
    uint32_t fits = 0, beyond = cuda_memory_useful_pairs(b) + 1;
    if (planned) return cuda_memory_bytes(b, planned) <= b->settings.memory ? planned : 0;
    while (beyond - fits > 1) {
        const uint32_t middle = fits + (beyond - fits) / 2;
        if (cuda_memory_bytes(b, middle) <= b->settings.memory)
            fits = middle;
        else
            beyond = middle;
    }
    return fits;
}

/* `pairs`, or half as many, and so on while the device is out of memory. */
static coar_status open_largest_batch(cuda_backend *b, uint32_t pairs) {
    coar_status status;
    while ((status = open_batch(b, pairs)) == COAR_ERROR_MEMORY && pairs > 1) {
        status_clear();
        pairs /= 2;
    }
    return status;
}

static coar_status planned_batch_refused(cuda_backend *b) {
    const uint32_t planned = b->settings.plan->pairs;
    return status_set(
        COAR_ERROR_MEMORY,
        "%s: the numerics plan is for batches of exactly %u, which need %zu MiB of device memory, but %zu MiB "
        "are allowed: raise --memory, free the device, or begin a run with --exact",
        b->device.name, planned, (cuda_memory_bytes(b, planned) >> 20) + 1, b->settings.memory >> 20);
}

coar_status cuda_memory_allocate(cuda_backend *b) {
    const uint32_t pairs = allowed_pairs(b);
    if (!pairs && b->settings.plan->pairs) return planned_batch_refused(b);
    if (!pairs)
        return status_set(
            COAR_ERROR_MEMORY,
            "%s: the cuda backend needs at least %zu MiB of device memory (%zu MiB for full batches), but "
            "%zu MiB are allowed: raise --memory, or free the device",
            b->device.name, (cuda_memory_bytes(b, 1) >> 20) + 1,
            (cuda_memory_bytes(b, cuda_memory_useful_pairs(b)) >> 20) + 1, b->settings.memory >> 20);
    arena arena = {0};
    place_fixed(b, &arena);
    TRY_CUDA(cudaMalloc(&b->memory, arena.used), "%zu MiB of device memory for weights and examples", arena.used >> 20);
    arena.base = b->memory;
    arena.size = arena.used;
    arena.used = 0;
    place_fixed(b, &arena);
    return b->settings.plan->pairs ? open_batch(b, pairs) : open_largest_batch(b, pairs);
}

coar_status cuda_memory_shrink(cuda_backend *b) {
    const uint32_t pairs = b->batch.pairs / 2;
    if (b->settings.plan->pairs) return planned_batch_refused(b);
    if (!pairs)
        return status_set(
            COAR_ERROR_MEMORY,
            "%s: out of device memory with one pair in a batch: free the device; what was finished is saved",
            b->device.name);
    close_batch(b);
    return open_largest_batch(b, pairs);
}

void cuda_memory_free(cuda_backend *b) {
    close_batch(b);
    free(b->batch.buffer);
    if (b->memory) (void)cudaFree(b->memory);
}
