/*
 * cpu_memory.c - one plan of all the memory the backend takes: measured first, then carved from one allocation.
 *
 * shared       reordered weights, pixels and labels of the bound examples
 * per worker   values of one tile (buffer plan * 32 lanes), packed weights and epilogues, keeps, scratch
 */
#include <string.h>

#include "backend/cpu/cpu.h"

/* Packed weights of all layers are kept side by side when memory allows and they are no more than this; otherwise they
 * are packed layer by layer for each tile. Beyond this size networks have a hundred positions and more for each weight,
 * and packing costs a worker about 1 % (16 positions: 10 %). */
#define PACK_ONCE_MAX ((size_t)128 << 20)

/* a * b * c, SIZE_MAX when that is too much: arena_take then refuses. */
static size_t product(size_t a, size_t b, size_t c) {
    size_t result;
    return size_mul(a, b, &result) && size_mul(result, c, &result) ? result : SIZE_MAX;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static void place_axis(arena *arena, border_axis *axis, uint32_t size) {
    arena_place(arena, size, sizeof *axis->zone, &axis->zone);
    arena_place(arena, axis->zones, sizeof *axis->span, &axis->span);
}

static void place_shared(cpu_backend *b, arena *arena) {
    const graph *g = b->settings.graph;
    const size_t most = b->settings.examples_max;
    arena_place(arena, b->buffers.buffers, sizeof *b->buffer_start, &b->buffer_start);
    arena_place(arena, b->workers, sizeof *b->worker, &b->worker);
    for (size_t i = 0; i < g->op_count; i++) {
        cpu_layer *layer = &b->layers[i];
        if (layer->op->kind != OP_CONV) continue;
        place_axis(arena, &layer->rows, layer->out.h);
        place_axis(arena, &layer->columns, layer->out.w);
        if (cpu_layer_reorders(layer))
            arena_place(arena, graph_weight_count(g, layer->op), sizeof(float), &layer->weight);
    }
    arena_place(arena, most / LANES, product(b->elements, LANES, 1), &b->groups);
    arena_place(arena, LANES - 1, b->elements, &b->rest);
    arena_place(arena, most, sizeof *b->labels, &b->labels);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_mul, &b->pixel_mul);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_add, &b->pixel_add);
}

/* Sizes of scratch that serves one op at a time. */
typedef struct scratch_sizes {
    size_t weights;       /* of all layers */
    size_t layer_weights; /* of the largest */
    size_t out_channels;  /* of the widest PLACE_OUT site */
    size_t attention;
    size_t activated;
    size_t taps; /* of the largest kernel whose input is left out in part */
} scratch_sizes;

static scratch_sizes measure_scratch(const cpu_backend *b) {
    const graph *g = b->settings.graph;
    scratch_sizes s = {0};
    for (size_t i = 0; i < g->op_count; i++) {
        const cpu_layer *layer = &b->layers[i];
        if (layer->op->kind == OP_CONV) {
            const size_t count = graph_weight_count(g, layer->op);
            if (!size_add(s.weights, count, &s.weights)) s.weights = SIZE_MAX;
            s.layer_weights = larger(s.layer_weights, count);
        }
        if (layer->feeder >= 0) s.taps = larger(s.taps, (size_t)layer->op->kernel_h * layer->op->kernel_w);
        if (layer->leaves_out) s.activated = larger(s.activated, (size_t)layer->out.c + LANES);
        if (layer->op->mask.place == PLACE_OUT) s.out_channels = larger(s.out_channels, layer->out.c);
        if (layer->op->kind == OP_ATTENTION)
            s.attention = larger(s.attention, b->kernels->attention_scratch((uint32_t)shape_positions(layer->in),
                                                                            layer->in.c / layer->op->heads));
    }
    return s;
}

static void place_packed(const cpu_backend *b, arena *arena, const cpu_layer *layer, float *weights, cpu_packed *p) {
    const size_t rows = layer->out.c;
    arena_place(arena, rows, sizeof *p->row, &p->row);
    arena_place(arena, rows, sizeof *p->channel, &p->channel);
    arena_place(arena, rows, sizeof *p->constant_channel, &p->constant_channel);
    arena_place(arena, rows, sizeof *p->constant, &p->constant);
    arena_place(arena, rows, LANES * sizeof *p->mul, &p->mul);
    arena_place(arena, product(rows, cpu_layer_zones(layer), 1), LANES * sizeof *p->add, &p->add);
    p->weight = weights;
    if (b->pack_once)
        arena_place(arena, graph_weight_count(b->settings.graph, layer->op), sizeof *p->weight, &p->weight);
}

static void place_worker(const cpu_backend *b, arena *arena, const scratch_sizes *s, cpu_worker *w) {
    const graph *g = b->settings.graph;
    cpu_packed unplaced, *packed;
    float *weights = NULL;
    arena_place(arena, g->op_count, sizeof *packed, &packed);
    if (!b->pack_once) arena_place(arena, s->layer_weights, sizeof *weights, &weights);
    for (size_t i = 0; i < g->op_count; i++)
        if (b->layers[i].op->kind == OP_CONV)
            place_packed(b, arena, &b->layers[i], weights, packed ? &packed[i] : &unplaced);
    w->packed = packed;
    arena_place(arena, b->buffers.total, LANES * sizeof *w->buffer, &w->buffer);
    arena_place(arena, g->components, LANES * sizeof *w->keep, &w->keep);
    arena_place(arena, g->components, sizeof *w->mask, &w->mask);
    arena_place(arena, 1, mask_range_scratch_max(g->components), &w->mask_scratch);
    arena_place(arena, s->out_channels, LANES * sizeof *w->out_mul, &w->out_mul);
    arena_place(arena, s->out_channels, LANES * sizeof *w->out_add, &w->out_add);
    arena_place(arena, s->attention, sizeof *w->attention, &w->attention);
    arena_place(arena, s->activated, sizeof *w->activated, &w->activated);
    arena_place(arena, s->taps, sizeof *w->tap_sum, &w->tap_sum);
    arena_place(arena, b->elements, LANES, &w->pixels);
}

size_t cpu_memory_plan(cpu_backend *b, size_t workers, bool pack_once, void *base) {
    arena arena = {.base = base, .size = base ? SIZE_MAX : 0};
    const scratch_sizes s = measure_scratch(b);
    b->workers = workers;
    b->pack_once = pack_once && s.weights <= PACK_ONCE_MAX / sizeof(float);
    place_shared(b, &arena);
    for (size_t t = 0; t < workers; t++) {
        cpu_worker unplaced;
        place_worker(b, &arena, &s, b->worker ? &b->worker[t] : &unplaced);
    }
    return arena.used;
}

coar_status cpu_memory_allocate(cpu_backend *b) {
    const size_t threads = (size_t)thread_pool_size(b->settings.pool), allowed = b->settings.memory;
    size_t workers = threads, bytes = cpu_memory_plan(b, threads, true, NULL);
    bool pack_once = bytes <= allowed;
    if (!pack_once) {
        const size_t best = bytes, least = cpu_memory_plan(b, 1, false, NULL);
        if (least > allowed)
            return status_set(
                COAR_ERROR_MEMORY,
                "the cpu backend needs at least %zu MiB (%zu MiB for %zu threads), but %zu MiB are allowed: "
                "raise --memory",
                (least >> 20) + 1, (best >> 20) + 1, threads, allowed >> 20);
        while ((bytes = cpu_memory_plan(b, workers, false, NULL)) > allowed) workers--;
    }
    TRY(memory_new(bytes, 1, "cpu backend", &b->memory));
    cpu_memory_plan(b, workers, pack_once, b->memory);
    return COAR_OK;
}
