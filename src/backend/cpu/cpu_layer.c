/*
 * cpu_layer.c - what never changes about an op: geometry, border zones, weights ordered for packing.
 */
#include "backend/cpu/cpu.h"

bool cpu_layer_reorders(const cpu_layer *layer) {
    return layer->op->kind == OP_CONV && layer->op->kernel_h * (uint64_t)layer->op->kernel_w > 1;
}

/* Index of the op that makes `value`, -1 for the input. */
static int maker(const graph *g, int value) {
    for (size_t i = 0; i < g->op_count; i++)
        if (g->ops[i].output == value) return (int)i;
    return -1;
}

static tap_span taps_inside(uint32_t at, const op *o, uint32_t kernel, uint32_t size) {
    int64_t start = (int64_t)at * o->stride - o->pad;
    int64_t first = start < 0 ? -start : 0, end = start + kernel > size ? size - start : kernel;
    return (tap_span){(uint32_t)first, (uint32_t)(end - first)};
}

/* Cuts one axis into zones. Along an axis the taps inside first grow, then stay, then shrink, so equal spans are
 * neighbours. Without arrays (not placed yet) it only counts. */
static void cut_axis(border_axis *axis, const op *o, uint32_t kernel, uint32_t in, uint32_t out, bool zoned) {
    tap_span last = {0};
    axis->zones = zoned ? 0 : 1;
    axis->taps = 0;
    for (uint32_t at = 0; at < out; at++) {
        const tap_span span = taps_inside(at, o, kernel, in);
        axis->taps += span.count;
        if (zoned && (at == 0 || span.first != last.first || span.count != last.count)) {
            if (axis->span) axis->span[axis->zones] = span;
            axis->zones++;
        }
        if (axis->zone) axis->zone[at] = axis->zones - 1;
        last = span;
    }
}

static void cut_axes(cpu_layer *layer) {
    const op *o = layer->op;
    cut_axis(&layer->rows, o, o->kernel_h, layer->in.h, layer->out.h, layer->feeder >= 0);
    cut_axis(&layer->columns, o, o->kernel_w, layer->in.w, layer->out.w, layer->feeder >= 0);
}

void cpu_layers_describe(cpu_backend *b) {
    const graph *g = b->settings.graph;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        cpu_layer *layer = &b->layers[i];
        *layer = (cpu_layer){.op = o, .in = g->values[o->input[0]], .out = g->values[o->output], .feeder = -1};
        layer->leaves_out = b->settings.plan->form[i] == FORM_COMPACTED;
        if (o->kind != OP_CONV) continue;
        layer->weight = o->weight;
        int before = maker(g, o->input[0]);
        if (before >= 0 && b->settings.plan->form[before] == FORM_COMPACTED) layer->feeder = before;
        cut_axes(layer);
    }
}

/* [O][I][taps] -> [O][taps][I]: the columns of one tap side by side. */
static void reorder(const cpu_layer *layer, float *to) {
    const size_t taps = (size_t)layer->op->kernel_h * layer->op->kernel_w, inputs = layer->in.c;
    const float *from = layer->op->weight;
    for (uint32_t o = 0; o < layer->out.c; o++, from += inputs * taps)
        for (size_t t = 0; t < taps; t++)
            for (size_t c = 0; c < inputs; c++) *to++ = from[c * taps + t];
}

void cpu_layers_fill(cpu_backend *b) {
    for (size_t i = 0; i < b->settings.graph->op_count; i++) {
        cpu_layer *layer = &b->layers[i];
        if (layer->op->kind != OP_CONV) continue;
        cut_axes(layer);
        if (cpu_layer_reorders(layer)) reorder(layer, (float *)layer->weight);
        if (!layer->dense) continue;
        const window window = cpu_layer_window(layer);
        cpu_pack_dense(b, i, layer->dense);
        b->kernels->conv_reverse_pack(&window, layer->in.c, layer->out.c, layer->weight, layer->transposed);
    }
}
