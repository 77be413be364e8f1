/*
 * cpu_layer.c - what never changes about an op: geometry, border zones, weights packed for all masks.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

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

static cpu_form describe_form(const cpu_layer *layer, bool winograd, bool bf16) {
    const size_t taps = (size_t)layer->op->kernel_h * layer->op->kernel_w;
    return (cpu_form){
        .winograd = winograd,
        .bf16 = bf16,
        .points = winograd ? WINOGRAD_POINTS : taps,
        .columns = bf16 ? conv_pairs(layer->in.c) : layer->in.c,
    };
}

/* How long the lists must be that serve all layers. */
static void measure_lists(cpu_backend *b, const cpu_layer *layer) {
    const cpu_form *form = &layer->form, *fp32 = &layer->fp32;
    b->columns = cpu_larger(b->columns, cpu_layer_columns(layer, form, form->columns));
    if (form->bf16) b->pairs = cpu_larger(b->pairs, form->columns);
    if (!b->settings.reverse) return;
    b->columns = cpu_larger(b->columns, cpu_layer_columns(layer, fp32, fp32->columns));
    b->columns = cpu_larger(b->columns, cpu_layer_columns(layer, fp32, layer->out.c));
}

/* Op i, a convolution or a layer norm, does not store what `site` ablates. */
static void leave_out(cpu_backend *b, size_t i, const mask_site *site) {
    b->layers[i].left_out = site;
    b->layers[i].stored_by = (int)i;
}

/* What is left out here is not made of the values, and where that is whole heads neither are their queries and keys. */
static void describe_attention(cpu_backend *b, size_t i) {
    const op *o = &b->settings.graph->ops[i];
    if (plan_is_compacted(b->settings.plan->form[i]))
        for (int k = plan_ablates_heads(b->settings.graph, o) ? 0 : 2; k < 3; k++)
            leave_out(b, graph_maker(o->input[k]), &o->mask);
    if (o->input[2] > 0) b->layers[i].stored_by = b->layers[graph_maker(o->input[2])].stored_by;
}

static void read_positions(cpu_backend *b, int value, size_t count) {
    if (value <= 0) return; /* none, or the input */
    size_t *read = &b->layers[graph_maker(value)].read;
    if (count > *read) *read = count;
}

bool cpu_is_positionwise(const cpu_layer *layer) {
    const op *o = layer->op;
    if (o->kind == OP_CONV)
        return o->kernel_h == 1 && o->kernel_w == 1 && o->stride == 1 && o->pad == 0 && layer->out.h == 1;
    return o->kind == OP_LAYERNORM || o->kind == OP_NORMALISE || o->kind == OP_ATTENTION;
}

/* From the logits back. */
static void find_read(cpu_backend *b) {
    const graph *g = b->settings.graph;
    read_positions(b, g->logits, shape_positions(g->values[g->logits]));
    for (size_t i = g->op_count; i-- > 0;) {
        cpu_layer *layer = &b->layers[i];
        const op *o = layer->op;
        const size_t all = shape_positions(layer->in);
        if (!cpu_is_positionwise(layer)) layer->read = shape_positions(layer->out);
        read_positions(b, o->input[0], cpu_is_positionwise(layer) ? layer->read : o->kind == OP_SELECT ? 1 : all);
        read_positions(b, o->input[1], all);
        read_positions(b, o->input[2], all);
        read_positions(b, o->residual, layer->read);
    }
}

void cpu_layers_describe(cpu_backend *b) {
    const graph *g = b->settings.graph;
    const bool bf16 = !strcmp(b->settings.plan->precision, precision_name(PRECISION_BF16));
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        cpu_layer *layer = &b->layers[i];
        *layer = (cpu_layer){
            .op = o, .in = g->values[o->input[0]], .out = g->values[o->output], .stored_by = -1, .feeder = -1};
        if (o->kind == OP_ATTENTION) describe_attention(b, i);
        if (o->kind == OP_LAYERNORM && plan_is_compacted(b->settings.plan->form[i])) leave_out(b, i, &o->mask);
        if (o->kind == OP_NEXT) cpu_next_describe(b, layer, bf16);
        if (o->kind != OP_CONV) continue;
        if (plan_is_compacted(b->settings.plan->form[i])) leave_out(b, i, &o->mask);
        const bool winograd = plan_is_winograd(b->settings.plan->form[i]);
        layer->form = describe_form(layer, winograd, bf16);
        layer->fp32 = describe_form(layer, winograd, false);
        if (o->input[0] > 0) layer->feeder = b->layers[graph_maker(o->input[0])].stored_by;
        cut_axes(layer);
        measure_lists(b, layer);
    }
    find_read(b);
}

typedef void (*pack_kernel)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                            float *packed);

static pack_kernel packer(const cpu_kernels *k, const cpu_form *form) {
    if (form->bf16) return form->winograd ? k->winograd_bf16_pack : k->conv_bf16_pack;
    return form->winograd ? k->winograd_pack : k->conv_pack;
}

/* One set of packed weights: of `run`, of the forward half of reverse passes, of the data gradient. */
enum { WEIGHTS = 3 };
static coar_status pack_layer(void *context, size_t task, int worker) {
    const cpu_backend *b = context;
    const cpu_layer *layer = &b->layers[task / WEIGHTS];
    const cpu_kernels *k = b->kernels;
    const pack_kernel pack[WEIGHTS] = {packer(k, &layer->form), packer(k, &layer->fp32),
                                       layer->fp32.winograd ? k->winograd_reverse_pack : k->conv_reverse_pack};
    float *const weights[WEIGHTS] = {layer->form.weight,
                                     layer->fp32.weight != layer->form.weight ? layer->fp32.weight : NULL,
                                     layer->reverse_weight};
    const size_t which = task % WEIGHTS;
    (void)worker;
    if (!cpu_layer_rows(layer) || !weights[which]) return COAR_OK;
    if (layer->op->kind == OP_NEXT && which == WEIGHTS - 1) {
        cpu_next_pack_reverse(b, layer, weights[which]);
        return COAR_OK;
    }
    window window = cpu_layer_window(layer);
    if (layer->op->kind == OP_NEXT) window.kernel_h = window.kernel_w = window.stride = 1; /* a linear layer's */
    pack[which](&window, layer->in.c, cpu_layer_rows(layer), layer->op->weight, weights[which]);
    return COAR_OK;
}

coar_status cpu_layers_fill(cpu_backend *b) {
    const size_t ops = b->settings.graph->op_count;
    for (size_t i = 0; i < ops; i++) {
        cpu_layer *layer = &b->layers[i];
        if (layer->op->kind == OP_NEXT) cpu_next_list_rows(b, layer);
        if (layer->op->kind != OP_CONV) continue;
        cut_axes(layer);
        for (uint32_t c = 0; layer->reverse_row && c < layer->in.c; c++)
            layer->reverse_row[c] = conv_row(c, layer->out.c, layer->fp32.points, b->kernels->tile_rows);
    }
    for (size_t s = 0; s < b->columns; s++) b->column[s] = (uint32_t)s * b->kernels->tile_rows;
    for (uint32_t p = 0; p < b->pairs; p++) b->pair[p][0] = 2 * p, b->pair[p][1] = 2 * p + 1;
    return thread_pool_run(b->settings.pool, WEIGHTS * ops, pack_layer, b);
}
