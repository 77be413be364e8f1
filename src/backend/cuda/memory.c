/*
 * memory.c - all memory of a backend, measured before it is taken.
 *
 * fixed      weights, tables, the bound examples: one device allocation
 * per batch  values, keeps, logits, workspace, the lanes' staging: one device and one pinned allocation, whose size
 *            follows from the number of pairs. Forward and reverse passes have batches of their own size in the same
 *            memory. Given up and taken again smaller when the device refuses.
 *
 * Must not know: what is computed there.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

/* Real-valued keeps are 32 times as large as bits: a batch holds no more masks of them than this. Reverse passes are
 * given nothing else, and their pairs take so much memory that a mask is little beside it. */
static const uint32_t value_slots_max[CUDA_MODES] = {[CUDA_FORWARD] = 8, [CUDA_REVERSE] = 32};

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

/* Pixels normalised, and what that takes. */
static void place_images(cuda_backend *b, arena *arena) {
    const uint32_t examples = b->settings.examples_max;
    const shape s = b->settings.graph->values[0];
    arena_place(arena, examples, value_bytes(b, s), &b->input);
    arena_place(arena, s.c, sizeof *b->pixel_mul, &b->pixel_mul);
    arena_place(arena, s.c, sizeof *b->pixel_add, &b->pixel_add);
    arena_place(arena, examples, sizeof *b->scale, &b->scale);
}

static void place_fixed(cuda_backend *b, arena *arena) {
    const backend_settings *s = &b->settings;
    const graph *g = s->graph;
    cuda_layers_place(b, arena);
    arena_place(arena, s->examples_max, b->input_bytes, &b->inputs);
    if (!g->vocabulary) place_images(b, arena);
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

static size_t workspace_bytes(const cuda_backend *b, const cuda_batch *batch) {
    size_t most = 0;
    if (batch->mode == CUDA_REVERSE) return cuda_reverse_workspace(b, batch->pairs);
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        const cuda_layer *layer = &b->layers[i];
        if (layer->op->kind == OP_NEXT) most = larger(most, cuda_next_workspace(b, layer, batch->pairs));
        if (layer->op->kind != OP_CONV) continue;
        const gpu_conv c = cuda_layer_conv(b, layer, batch->pairs);
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

static void place_outputs(const cuda_backend *b, const cuda_batch *batch, arena *arena, float **outputs,
                          float **gradients) {
    const bool reverse = batch->mode == CUDA_REVERSE;
    arena_place(arena, batch->pairs, (reverse ? 1 : b->settings.output_count) * sizeof **outputs, outputs);
    *gradients = NULL;
    if (reverse) arena_place(arena, batch->pairs, b->settings.graph->components * sizeof **gradients, gradients);
}

static void place_device(const cuda_backend *b, cuda_batch *batch, arena *arena) {
    const graph *g = b->settings.graph;
    if (batch->mode == CUDA_REVERSE) {
        arena_place(arena, batch->pairs, b->tape.bytes, &batch->tape);
    } else {
        for (size_t k = 0; k < b->buffers.buffers; k++) {
            void *measured;
            arena_place(arena, batch->pairs, b->buffer_bytes[k], batch->buffer ? &batch->buffer[k] : &measured);
        }
        arena_place(arena, batch->observed_pairs, observed_bytes(b), &batch->observed);
    }
    arena_place(arena, batch->pairs, b->logits_stride * sizeof *batch->logits, &batch->logits);
    arena_place(arena, batch->slots, g->rows * sizeof *batch->keep, &batch->keep);
    arena_place(arena, 1, workspace_bytes(b, batch), &batch->workspace);
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        lane->device_block = place_block(b, batch, arena, &lane->device);
        place_outputs(b, batch, arena, &lane->outputs, &lane->gradients);
    }
}

static void place_pinned(const cuda_backend *b, cuda_batch *batch, arena *arena) {
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        lane->host_block = place_block(b, batch, arena, &lane->host);
        place_outputs(b, batch, arena, &lane->host_outputs, &lane->host_gradients);
    }
}

/* What a batch of `pairs` begins with, before anything is placed. */
static cuda_batch sized_batch(const cuda_backend *b, cuda_mode mode, uint32_t pairs) {
    const size_t most = b->settings.masks_max ? b->settings.masks_max : 1;
    cuda_batch batch = {.mode = mode, .pairs = pairs};
    batch.slots = pairs < most ? pairs : (uint32_t)most;
    batch.observed_pairs = pairs < OBSERVED_PAIRS_MAX ? pairs : OBSERVED_PAIRS_MAX;
    batch.value_slots = batch.slots < value_slots_max[mode] ? batch.slots : value_slots_max[mode];
    return batch;
}

/* -------------------------------------------------------------------------------------------- sizes */

static size_t batch_bytes(cuda_backend *b, cuda_mode mode, uint32_t pairs) {
    arena arena = {0};
    cuda_batch batch = sized_batch(b, mode, pairs);
    measure_buffers(b);
    place_device(b, &batch, &arena);
    return arena.used;
}

/* Placing is how it is measured, so that is done before there is anything. */
static size_t fixed_bytes(cuda_backend *b) {
    arena arena = {0};
    if (b->fixed_bytes) return b->fixed_bytes;
    place_fixed(b, &arena);
    return b->fixed_bytes = arena.used;
}

size_t cuda_memory_bytes(cuda_backend *b, cuda_mode mode, uint32_t pairs) {
    size_t bytes;
    if (!size_add(fixed_bytes(b), batch_bytes(b, mode, pairs), &bytes)) return SIZE_MAX;
    return size_add(bytes, b->retry_bytes, &bytes) ? bytes : SIZE_MAX;
}

uint32_t cuda_planned_pairs(const cuda_backend *b, cuda_mode mode) {
    const backend_settings *s = &b->settings;
    if (mode == CUDA_FORWARD) return s->plan->pairs;
    return s->path_examples ? 0 : s->plan->reverse_pairs; /* paths: own kernels alone (layer.c) */
}

/* A path's examples are one batch: conductance looks at the example before. */
static uint32_t least_pairs(const cuda_backend *b, cuda_mode mode) {
    const uint32_t planned = cuda_planned_pairs(b, mode);
    if (planned) return planned;
    return mode == CUDA_REVERSE && b->settings.path_examples ? b->settings.path_examples : 1;
}

/* A convolution fills the device when it has two 128 x 128 tiles for each multiprocessor; less, and its last wave
 * leaves many idle. Layers of one position (classifiers) never do, and do not matter. */
uint32_t cuda_memory_useful_pairs(const cuda_backend *b, cuda_mode mode) {
    const backend_settings *s = &b->settings;
    const double wanted = 2.0 * b->device.multiprocessors;
    if (cuda_planned_pairs(b, mode)) return cuda_planned_pairs(b, mode);
    double most = least_pairs(b, mode);
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

/* Averaged gradients, most of what reverse passes are for, come in masks of 32 examples, a power of two of them in a
 * call. The plan's batch is filled whatever is left, so it is a power of two as well: it divides these calls. A pair of
 * a reverse pass takes several times the memory of a forward pass, and jobs are refused whose --memory does not hold
 * the batch: beyond one such mask, it gets a small part of the device. */
uint32_t cuda_memory_tuned_pairs(cuda_backend *b, cuda_mode mode, size_t total) {
    enum { MASK_PAIRS = 32 };
    const bool reverse = mode == CUDA_REVERSE;
    uint32_t pairs = cuda_memory_useful_pairs(b, mode);
    if (cuda_planned_pairs(b, mode)) return pairs;
    while (reverse && pairs & (pairs - 1)) pairs &= pairs - 1; /* its highest bit */
    while (pairs > 1 && cuda_memory_bytes(b, mode, pairs) > (reverse && pairs > MASK_PAIRS ? total / 16 : total / 2))
        pairs /= 2;
    return pairs;
}

/* ------------------------------------------------------------------------------------------- taking */

/* Kinds of passes that will be asked for. */
static int mode_count(const cuda_backend *b) {
    return b->settings.reverse ? CUDA_MODES : CUDA_FORWARD + 1;
}

static void close_lanes(cuda_batch *batch) {
    for (int i = 0; i < CUDA_LANES; i++) {
        cuda_lane *lane = &batch->lane[i];
        cudaEvent_t *const events[] = {&lane->uploaded, &lane->computed, &lane->downloaded};
        for (size_t k = 0; k < sizeof events / sizeof *events; k++)
            if (*events[k]) (void)cudaEventDestroy(*events[k]);
    }
}

static void close_batches(cuda_backend *b) {
    cuda_batches_free_graphs(b);
    for (int mode = 0; mode < CUDA_MODES; mode++) {
        close_lanes(&b->batch[mode]);
        b->batch[mode] = (cuda_batch){.buffer = b->batch[mode].buffer};
    }
    if (b->batch_memory) (void)cudaFree(b->batch_memory);
    if (b->batch_pinned) (void)cudaFreeHost(b->batch_pinned);
    b->batch_memory = b->batch_pinned = NULL;
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

/* The one whose batches of pairs[mode] take the most device memory. */
static cuda_mode largest_mode(cuda_backend *b, const uint32_t pairs[CUDA_MODES]) {
    cuda_mode largest = CUDA_FORWARD;
    for (int mode = 1; mode < mode_count(b); mode++)
        if (batch_bytes(b, mode, pairs[mode]) > batch_bytes(b, largest, pairs[largest])) largest = mode;
    return largest;
}

/* Batches of pairs[mode], in the same memory. On failure nothing of it is left. */
static coar_status open_batches(cuda_backend *b, const uint32_t pairs[CUDA_MODES]) {
    coar_status status;
    size_t device = 0, pinned = 0;
    for (int mode = 0; mode < mode_count(b); mode++) {
        arena on_device = {0}, on_host = {0};
        void **buffer = b->batch[mode].buffer; /* the backend's for good */
        b->batch[mode] = sized_batch(b, mode, pairs[mode]);
        b->batch[mode].buffer = buffer;
        place_device(b, &b->batch[mode], &on_device);
        place_pinned(b, &b->batch[mode], &on_host);
        device = larger(device, on_device.used);
        pinned = larger(pinned, on_host.used);
    }
    TRY_CUDA_GOTO(cudaMalloc(&b->batch_memory, device), "%zu MiB of device memory for batches of %u", device >> 20,
                  pairs[largest_mode(b, pairs)]);
    TRY_CUDA_GOTO(cudaMallocHost(&b->batch_pinned, pinned), "%zu MiB of pinned memory", pinned >> 20);
    memset(b->batch_pinned, 0, pinned);
    for (int mode = 0; mode < mode_count(b); mode++) {
        arena on_device = {.base = b->batch_memory, .size = device},
              on_host = {.base = b->batch_pinned, .size = pinned};
        place_device(b, &b->batch[mode], &on_device);
        place_pinned(b, &b->batch[mode], &on_host);
        TRY_GOTO(open_lanes(&b->batch[mode]));
    }
done:
    if (status != COAR_OK) close_batches(b);
    return status;
}

/* The most pairs whose memory is allowed; 0 when the least there can be are too many. */
static uint32_t allowed_pairs(cuda_backend *b, cuda_mode mode) {
    const uint32_t least = least_pairs(b, mode);
    uint32_t fits = least, beyond = cuda_memory_useful_pairs(b, mode) + 1;
    if (cuda_memory_bytes(b, mode, least) > b->settings.memory) return 0;
    while (beyond - fits > 1) {
        const uint32_t middle = fits + (beyond - fits) / 2;
        if (cuda_memory_bytes(b, mode, middle) <= b->settings.memory)
            fits = middle;
        else
            beyond = middle;
    }
    return fits;
}

/* Half of the larger batch, since only that gives memory back; false where its size is the least there can be. */
static bool halve(cuda_backend *b, uint32_t pairs[CUDA_MODES]) {
    const cuda_mode mode = largest_mode(b, pairs);
    const uint32_t least = least_pairs(b, mode), half = pairs[mode] / 2;
    if (pairs[mode] <= least) return false;
    pairs[mode] = half > least ? half : least;
    return true;
}

/* `pairs`, or half as many, and so on while the device is out of memory. */
static coar_status open_largest_batches(cuda_backend *b, uint32_t pairs[CUDA_MODES]) {
    coar_status status;
    while ((status = open_batches(b, pairs)) == COAR_ERROR_MEMORY && halve(b, pairs)) status_clear();
    return status;
}

static coar_status refuse_planned(cuda_backend *b, cuda_mode mode) {
    const uint32_t planned = cuda_planned_pairs(b, mode);
    return status_set(COAR_ERROR_MEMORY,
                      "%s: the numerics plan is for %s of exactly %u, which need %zu MiB of device memory, but %zu MiB "
                      "are allowed: raise --memory, free the device, or begin a run with --exact",
                      b->device.name, mode == CUDA_REVERSE ? "batches of reverse passes" : "batches", planned,
                      (cuda_memory_bytes(b, mode, planned) >> 20) + 1, b->settings.memory >> 20);
}

static coar_status refuse(cuda_backend *b, cuda_mode mode) {
    if (cuda_planned_pairs(b, mode)) return refuse_planned(b, mode);
    return status_set(COAR_ERROR_MEMORY,
                      "%s: the cuda backend needs at least %zu MiB of device memory%s (%zu MiB for full batches), but "
                      "%zu MiB are allowed: raise --memory, or free the device",
                      b->device.name, (cuda_memory_bytes(b, mode, least_pairs(b, mode)) >> 20) + 1,
                      mode == CUDA_REVERSE ? " for a reverse pass" : "",
                      (cuda_memory_bytes(b, mode, cuda_memory_useful_pairs(b, mode)) >> 20) + 1,
                      b->settings.memory >> 20);
}

coar_status cuda_memory_allocate(cuda_backend *b) {
    uint32_t pairs[CUDA_MODES] = {0};
    for (int mode = 0; mode < mode_count(b); mode++) {
        pairs[mode] = allowed_pairs(b, mode);
        if (!pairs[mode]) return refuse(b, mode);
    }
    arena arena = {0};
    place_fixed(b, &arena);
    TRY_CUDA(cudaMalloc(&b->memory, arena.used), "%zu MiB of device memory for weights and examples", arena.used >> 20);
    arena.base = b->memory;
    arena.size = arena.used;
    arena.used = 0;
    place_fixed(b, &arena);
    return open_largest_batches(b, pairs);
}

static void pairs_now(const cuda_backend *b, uint32_t pairs[CUDA_MODES]) {
    for (int mode = 0; mode < CUDA_MODES; mode++) pairs[mode] = b->batch[mode].pairs;
}

bool cuda_memory_can_shrink(cuda_backend *b) {
    uint32_t pairs[CUDA_MODES];
    pairs_now(b, pairs);
    return halve(b, pairs);
}

coar_status cuda_memory_shrink(cuda_backend *b) {
    uint32_t pairs[CUDA_MODES];
    pairs_now(b, pairs);
    (void)halve(b, pairs);
    close_batches(b);
    return open_largest_batches(b, pairs);
}

void cuda_memory_sizes(cuda_backend *b, size_t *least, size_t *best) {
    *least = *best = 0;
    for (int mode = 0; mode < mode_count(b); mode++) {
        *least = larger(*least, cuda_memory_bytes(b, mode, least_pairs(b, mode)));
        *best = larger(*best, cuda_memory_bytes(b, mode, cuda_memory_useful_pairs(b, mode)));
    }
}

void cuda_memory_free(cuda_backend *b) {
    close_batches(b);
    free(b->batch[CUDA_FORWARD].buffer);
    if (b->memory) (void)cudaFree(b->memory);
}
