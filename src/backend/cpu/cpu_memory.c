/*
 * cpu_memory.c - one plan of all the memory the backend takes: measured first, then carved from one allocation.
 *
 * shared       packed weights, pixels and labels of the bound examples
 * per worker   epilogues, keeps, scratch; and in one place
 *              for `run`: values of one tile (buffer plan * 32 lanes)
 *              for `run_reverse`: the regions of its schedule
 */
#include <string.h>

#include "backend/cpu/cpu.h"

/* a * b * c, SIZE_MAX when that is too much: arena_take then refuses. */
static size_t product(size_t a, size_t b, size_t c) {
    size_t result;
    return size_mul(a, b, &result) && size_mul(result, c, &result) ? result : SIZE_MAX;
}

static void place_axis(arena *arena, border_axis *axis, uint32_t size) {
    arena_place(arena, size, sizeof *axis->zone, &axis->zone);
    arena_place(arena, axis->zones, sizeof *axis->span, &axis->span);
}

static void place_form(const cpu_backend *b, arena *arena, const cpu_layer *layer, cpu_form *form) {
    const size_t floats = conv_packed_size(cpu_layer_rows(layer), form->columns, form->points, b->kernels->tile_rows);
    arena_place(arena, floats, sizeof(float), &form->weight);
}

static void place_weights(const cpu_backend *b, arena *arena, cpu_layer *layer) {
    const uint32_t in = layer->in.c, out = layer->out.c, tile_rows = b->kernels->tile_rows;
    place_form(b, arena, layer, &layer->form);
    layer->fp32.weight = layer->form.bf16 ? NULL : layer->form.weight;
    if (!b->settings.reverse) return;
    if (layer->form.bf16) place_form(b, arena, layer, &layer->fp32);
    arena_place(arena, conv_packed_size(in, out, layer->fp32.points, tile_rows), sizeof(float), &layer->reverse_weight);
    arena_place(arena, in, sizeof *layer->reverse_row, &layer->reverse_row);
}

/* Losses alone are differentiated with respect to every logit. */
static bool differentiates_losses(const cpu_backend *b) {
    bool losses = false;
    for (size_t k = 0; k < b->settings.output_count; k++) losses |= b->outputs[k].kind == OUTPUT_LOSS;
    return losses && b->settings.reverse;
}

static void place_next(const cpu_backend *b, arena *arena, cpu_layer *layer) {
    arena_place(arena, layer->op->vocabulary, 2 * sizeof *layer->next_row, &layer->next_row);
    place_form(b, arena, layer, &layer->form);
    layer->fp32.weight = layer->form.bf16 ? NULL : layer->form.weight;
    if (b->settings.reverse && layer->form.bf16) place_form(b, arena, layer, &layer->fp32);
    if (!differentiates_losses(b)) return;
    arena_place(arena, cpu_next_reverse_size(b, layer), sizeof(float), &layer->reverse_weight);
    arena_place(arena, 2 * (size_t)layer->in.c, sizeof *layer->reverse_row, &layer->reverse_row);
}

static void place_shared(cpu_backend *b, arena *arena) {
    const graph *g = b->settings.graph;
    const size_t most = b->settings.examples_max;
    arena_place(arena, b->buffers.buffers, sizeof *b->buffer_start, &b->buffer_start);
    arena_place(arena, b->workers, sizeof *b->worker, &b->worker);
    for (size_t i = 0; i < g->op_count; i++) {
        cpu_layer *layer = &b->layers[i];
        if (layer->op->kind == OP_NEXT) place_next(b, arena, layer);
        if (layer->op->kind != OP_CONV) continue;
        place_axis(arena, &layer->rows, layer->out.h);
        place_axis(arena, &layer->columns, layer->out.w);
        place_weights(b, arena, layer);
    }
    arena_place(arena, b->columns, sizeof *b->column, &b->column);
    arena_place(arena, b->pairs, sizeof *b->pair, &b->pair);
    arena_place(arena, most / LANES, product(b->elements, LANES, b->element_bytes), &b->groups);
    arena_place(arena, LANES - 1, product(b->elements, b->element_bytes, 1), &b->rest);
    arena_place(arena, most, sizeof *b->labels, &b->labels);
    arena_place(arena, most, sizeof *b->scale, &b->scale);
    arena_place(arena, LANES, sizeof *b->zeros, &b->zeros);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_mul, &b->pixel_mul);
    arena_place(arena, g->values[0].c, sizeof *b->pixel_add, &b->pixel_add);
}

/* Sizes of scratch that serves one op at a time. */
typedef struct scratch_sizes {
    size_t site_channels; /* of the widest site */
    size_t out_channels;  /* of the widest PLACE_OUT site */
    size_t attention, attention_reverse, heads;
    size_t conv, next;
    size_t activated;
    size_t taps; /* of the largest kernel whose input is left out in part */
} scratch_sizes;

static size_t form_scratch(const cpu_kernels *k, const cpu_layer *layer, const cpu_form *form) {
    const window window = cpu_layer_window(layer);
    if (!form->bf16) return form->winograd ? k->winograd_scratch(layer->in.c) : 0;
    return form->winograd ? k->winograd_bf16_scratch(layer->in.c) : k->conv_bf16_scratch(&window, layer->in.c);
}

static size_t conv_scratch(const cpu_backend *b, const cpu_layer *layer) {
    size_t most = form_scratch(b->kernels, layer, &layer->form);
    if (!b->settings.reverse) return most;
    most = cpu_larger(most, form_scratch(b->kernels, layer, &layer->fp32));
    return layer->fp32.winograd ? cpu_larger(most, b->kernels->winograd_scratch(layer->out.c)) : most;
}

static scratch_sizes measure_scratch(const cpu_backend *b) {
    const graph *g = b->settings.graph;
    scratch_sizes s = {0};
    for (size_t i = 0; i < g->op_count; i++) {
        const cpu_layer *layer = &b->layers[i];
        if (layer->op->kind == OP_CONV) s.conv = cpu_larger(s.conv, conv_scratch(b, layer));
        if (layer->op->kind == OP_NEXT) s.conv = cpu_larger(s.conv, cpu_next_conv_scratch(b, layer));
        if (layer->op->kind == OP_NEXT) s.next = cpu_next_scratch();
        if (layer->feeder >= 0) s.taps = cpu_larger(s.taps, (size_t)layer->op->kernel_h * layer->op->kernel_w);
        if (layer->left_out) s.activated = cpu_larger(s.activated, (size_t)layer->out.c + LANES);
        if (layer->op->mask.place == PLACE_OUT) s.out_channels = cpu_larger(s.out_channels, layer->out.c);
        if (layer->op->mask.place != PLACE_NONE) s.site_channels = cpu_larger(s.site_channels, layer->out.c);
        if (layer->op->kind == OP_ATTENTION) {
            const uint32_t tokens = (uint32_t)shape_positions(layer->in), width = layer->in.c / layer->op->heads;
            s.heads = cpu_larger(s.heads, layer->op->heads);
            s.attention = cpu_larger(s.attention, b->kernels->attention_scratch(tokens, width));
            s.attention_reverse = cpu_larger(s.attention_reverse, b->kernels->attention_reverse_scratch(tokens, width));
        }
    }
    return s;
}

/* Which channels are stored, and what the others are. */
static void place_stored(arena *arena, const cpu_layer *layer, cpu_packed *p) {
    arena_place(arena, layer->out.c, sizeof *p->row, &p->row);
    arena_place(arena, layer->out.c, sizeof *p->constant_channel, &p->constant_channel);
    arena_place(arena, layer->out.c, sizeof *p->constant, &p->constant);
}

static void place_epilogue(arena *arena, const cpu_layer *layer, cpu_packed *p) {
    const size_t rows = layer->out.c;
    place_stored(arena, layer, p);
    arena_place(arena, rows, sizeof *p->row_start, &p->row_start);
    if (layer->feeder >= 0) {
        const cpu_form *form = &layer->form; /* lists are for groups, of `run` alone */
        arena_place(arena, cpu_layer_columns(layer, form, form->columns), sizeof *p->column, &p->column);
        if (form->bf16) arena_place(arena, form->columns, sizeof *p->pair, &p->pair);
    }
    arena_place(arena, rows, sizeof *p->channel, &p->channel);
    arena_place(arena, rows, LANES * sizeof *p->mul, &p->mul);
    arena_place(arena, product(rows, cpu_layer_zones(layer), 1), LANES * sizeof *p->add, &p->add);
}

/* Of one tile's values, which are not more than can be counted. */
static size_t buffer_floats(const cpu_backend *b) {
    size_t floats = 0;
    for (size_t i = 0; i < b->buffers.buffers; i++) floats += lanes_room(b->buffers.size[i] * LANES);
    return floats;
}

/* What `run` alone uses. */
static void place_run(const cpu_backend *b, arena *arena, const scratch_sizes *s, cpu_worker *w) {
    const size_t floats = product(b->buffers.total, LANES, sizeof(float)) == SIZE_MAX ? SIZE_MAX : buffer_floats(b);
    arena_place(arena, floats, sizeof *w->buffer, &w->buffer);
    arena_place(arena, s->activated, sizeof *w->activated, &w->activated);
    arena_place(arena, s->taps, sizeof *w->tap_sum, &w->tap_sum);
}

/* What `run_reverse` alone uses. */
static void place_reverse(const cpu_backend *b, arena *arena, const scratch_sizes *s, cpu_worker *w) {
    if (!b->settings.reverse) return;
    arena_place(arena, b->choices[b->choice].floats, sizeof *w->regions, &w->regions);
    arena_place(arena, s->site_channels, LANES * sizeof *w->sums, &w->sums);
    arena_place(arena, s->site_channels, sizeof *w->sum_mul, &w->sum_mul);
    arena_place(arena, s->site_channels, sizeof *w->sum_add, &w->sum_add);
    arena_place(arena, s->attention_reverse, sizeof *w->attention_reverse, &w->attention_reverse);
}

static void place_worker(const cpu_backend *b, arena *arena, const scratch_sizes *s, cpu_worker *w) {
    const graph *g = b->settings.graph;
    cpu_packed *packed;
    arena_place(arena, g->op_count, sizeof *packed, &packed);
    for (size_t i = 0; i < g->op_count; i++) {
        cpu_packed unplaced;
        cpu_packed *p = packed ? &packed[i] : &unplaced;
        if (b->layers[i].op->kind == OP_CONV) place_epilogue(arena, &b->layers[i], p);
        if (b->layers[i].op->kind == OP_LAYERNORM && b->layers[i].left_out) place_stored(arena, &b->layers[i], p);
    }
    w->packed = packed;
    arena_place(arena, g->value_count, sizeof *w->value, &w->value);
    arena_place(arena, g->components, LANES * sizeof *w->keep, &w->keep);
    arena_place(arena, g->components, sizeof *w->mask, &w->mask);
    arena_place(arena, 1, mask_range_scratch_max(g->components), &w->mask_scratch);
    arena_place(arena, s->out_channels, LANES * sizeof *w->out_mul, &w->out_mul);
    arena_place(arena, s->out_channels, LANES * sizeof *w->out_add, &w->out_add);
    arena_place(arena, s->attention, sizeof *w->attention, &w->attention);
    arena_place(arena, s->heads, sizeof *w->value_width, &w->value_width);
    arena_place(arena, s->conv, sizeof *w->conv, &w->conv);
    arena_place(arena, s->next, sizeof *w->next, &w->next);
    arena_place(arena, b->elements, b->element_bytes * LANES, &w->pixels);
    arena_place(arena, LANES, sizeof *w->scale, &w->scale);
    const size_t start = arena->used;
    place_run(b, arena, s, w);
    const size_t end = arena->used;
    arena->used = start; /* never both at once */
    place_reverse(b, arena, s, w);
    arena->used = cpu_larger(arena->used, end);
}

size_t cpu_memory_plan(cpu_backend *b, cpu_memory_way way, void *base) {
    arena arena = {.base = base, .size = base ? SIZE_MAX : 0};
    const scratch_sizes s = measure_scratch(b);
    b->workers = way.workers;
    b->choice = way.choice;
    place_shared(b, &arena);
    for (size_t t = 0; t < way.workers; t++) {
        cpu_worker unplaced;
        place_worker(b, &arena, &s, b->worker ? &b->worker[t] : &unplaced);
    }
    return arena.used;
}

cpu_memory_way cpu_memory_least(const cpu_backend *b) {
    return (cpu_memory_way){.workers = 1, .choice = b->choice_count ? b->choice_count - 1 : 0};
}

cpu_memory_way cpu_memory_best(const cpu_backend *b) {
    return (cpu_memory_way){.workers = (size_t)thread_pool_size(b->settings.pool)};
}

cpu_memory_way cpu_memory_choose(cpu_backend *b, size_t allowed) {
    const cpu_memory_way least = cpu_memory_least(b);
    cpu_memory_way way = cpu_memory_best(b);
    for (; way.workers > 0; way.workers--)
        for (way.choice = 0; way.choice <= least.choice; way.choice++)
            if (cpu_memory_plan(b, way, NULL) <= allowed) return way;
    return least;
}

coar_status cpu_memory_allocate(cpu_backend *b) {
    const size_t allowed = b->settings.memory, least = cpu_memory_plan(b, cpu_memory_least(b), NULL);
    if (least > allowed)
        return status_set(COAR_ERROR_MEMORY,
                          "the cpu backend needs at least %zu MiB (%zu MiB for %d threads%s), but %zu MiB are allowed: "
                          "raise --memory",
                          (least >> 20) + 1, (cpu_memory_plan(b, cpu_memory_best(b), NULL) >> 20) + 1,
                          thread_pool_size(b->settings.pool),
                          b->settings.reverse ? " that compute nothing twice for gradients" : "", allowed >> 20);
    const cpu_memory_way way = cpu_memory_choose(b, allowed);
    const size_t bytes = cpu_memory_plan(b, way, NULL);
    TRY(memory_new(bytes, 1, "cpu backend", &b->memory));
    cpu_memory_plan(b, way, b->memory);
    return b->settings.reverse ? cpu_schedule_create(b->settings.graph, b->choices[way.choice].kept_from, &b->schedule)
                               : COAR_OK;
}
