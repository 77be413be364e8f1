/*
 * cpu_tile.c - the op list over one tile of 32 lanes.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

window cpu_layer_window(const cpu_layer *layer) {
    const op *o = layer->op;
    return (window){layer->in.h, layer->in.w, layer->out.h, layer->out.w, o->kernel_h, o->kernel_w, o->stride, o->pad};
}

window cpu_tile_window(const cpu_worker *w, const cpu_layer *layer) {
    window window = cpu_layer_window(layer);
    const size_t positions = cpu_positions(w, layer);
    if (positions < shape_positions(layer->out)) /* a row of positions, each by itself */
        window.in_w = window.out_w = (uint32_t)positions;
    return window;
}

conv_args cpu_conv_args(const cpu_backend *b, const cpu_worker *w, size_t i, const cpu_form *form, bool group) {
    const cpu_layer *layer = &b->layers[i];
    const op *o = layer->op;
    const cpu_packed *p = &w->packed[i];
    const bool leaves_out = group && layer->left_out, left_out = group && layer->feeder >= 0;
    return (conv_args){
        .window = cpu_tile_window(w, layer),
        .in_channels = left_out ? w->packed[layer->feeder].rows : layer->in.c,
        .out_channels = leaves_out ? p->rows : layer->out.c,
        .input = cpu_value(w, o->input[0]),
        .output = cpu_value(w, o->output),
        .residual = cpu_value(w, o->residual),
        .rows = p->rows,
        .weight = form->weight,
        .row = p->row_start,
        .column = left_out ? p->column : b->column,
        .tap = (size_t)form->columns * b->kernels->tile_rows,
        .channel = p->channel,
        .mul = p->mul,
        .add = p->add,
        .zone_y = layer->rows.zone,
        .zone_x = layer->columns.zone,
        .zones_x = layer->columns.zones,
        .constants = leaves_out ? 0 : p->constants,
        .constant_channel = p->constant_channel,
        .constant = p->constant,
        .relu = o->act == ACT_RELU,
        .activate = o->act == ACT_RELU ? NULL : cpu_activation(b, o->act),
        .scratch = w->conv,
        .pairs = !form->bf16 ? 0
                 : left_out  ? p->pairs
                             : form->columns,
        .pair = (const uint32_t(*)[2])(left_out ? p->pair : b->pair),
    };
}

void cpu_convolve(const cpu_backend *b, const cpu_form *form, const conv_args *args) {
    const cpu_kernels *k = b->kernels;
    if (form->bf16)
        (form->winograd ? k->winograd_bf16 : k->conv_bf16)(args);
    else
        (form->winograd ? k->winograd : k->conv)(args);
}

/* Products that one row and column of a layer take for an image. */
static double products(const cpu_layer *layer, const cpu_form *form) {
    if (!form->winograd) return layer->rows.taps * layer->columns.taps;
    return (double)((layer->out.h + 3) / 4) * ((layer->out.w + 3) / 4) * WINOGRAD_POINTS;
}

static void run_conv(const cpu_backend *b, cpu_worker *w, size_t i, bool group, bool fresh) {
    const cpu_layer *layer = &b->layers[i];
    const cpu_form *form = &layer->form;
    if (fresh) cpu_pack(b, w, i, form, group);
    const conv_args args = cpu_conv_args(b, w, i, form, group);
    cpu_convolve(b, form, &args);
    const uint32_t columns = form->bf16 ? 2 * args.pairs : args.in_channels;
    w->flops += 2.0 * LANES * args.rows * columns * products(layer, form) * cpu_positions(w, layer) /
                shape_positions(layer->out);
}

static void run_pool(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer) {
    const op *o = layer->op;
    const pool_args args = {
        .window = cpu_layer_window(layer),
        .channels = layer->in.c,
        .input = cpu_value(w, o->input[0]),
        .output = cpu_value(w, o->output),
    };
    (o->kind == OP_MAXPOOL ? b->kernels->maxpool : b->kernels->avgpool)(&args);
}

/* Option-A shortcut: every stride-th pixel, zero channels before and behind. */
static void run_subsample(const cpu_worker *w, const cpu_layer *layer) {
    const op *o = layer->op;
    const float *x = cpu_value(w, o->input[0]);
    float *y = cpu_value(w, o->output);
    const size_t channel = LANES * sizeof *y, copied = layer->in.c * channel, before = o->pad * channel;
    const size_t all = layer->out.c * channel;
    for (uint32_t row = 0; row < layer->out.h; row++)
        for (uint32_t column = 0; column < layer->out.w; column++, y += (size_t)layer->out.c * LANES) {
            const size_t from = (size_t)row * o->stride * layer->in.w + (size_t)column * o->stride;
            memset(y, 0, before);
            memcpy((char *)y + before, x + from * layer->in.c * LANES, copied);
            memset((char *)y + before + copied, 0, all - before - copied);
        }
}

static void run_layernorm(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer) {
    const op *o = layer->op;
    const layernorm_args args = {
        .positions = cpu_positions(w, layer),
        .channels = layer->in.c,
        .gamma = o->weight,
        .beta = o->shift,
        .eps = o->eps,
        .input = cpu_value(w, o->input[0]),
        .output = cpu_value(w, o->output),
    };
    b->kernels->layernorm(&args);
}

/* Values that are stored of each head into w->value_width; heads without any are not listed where their queries and keys
 * are not stored. Returns how many are listed. */
static uint32_t list_heads(const cpu_worker *w, const cpu_layer *layer, const cpu_packed *values, bool whole) {
    const uint32_t width = layer->in.c / layer->op->heads;
    uint32_t heads = 0, r = 0;
    for (uint32_t h = 0; h < layer->op->heads; h++) {
        const uint32_t first = r;
        while (r < values->rows && values->row[r] / width == h) r++;
        if (r > first || !whole) w->value_width[heads++] = r - first;
    }
    return heads;
}

/* Products for a query and key; a head without values is skipped. */
static double attention_products(const attention_args *a) {
    double sum = 0;
    for (uint32_t h = 0; h < a->heads; h++) {
        const uint32_t values = a->value_width ? a->value_width[h] : a->head_width;
        if (values) sum += (double)a->head_width + values;
    }
    return sum;
}

static void run_attention(const cpu_backend *b, cpu_worker *w, const cpu_layer *layer, bool group) {
    const op *o = layer->op;
    const cpu_packed *values = group && layer->stored_by >= 0 ? &w->packed[layer->stored_by] : NULL;
    const bool whole =
        values && b->layers[layer->stored_by].left_out == &o->mask && plan_ablates_heads(b->settings.graph, o);
    const uint32_t queries = (uint32_t)cpu_positions(w, layer);
    const attention_args args = {
        .tokens = o->causal ? queries : (uint32_t)shape_positions(layer->in),
        .queries = queries,
        .causal = o->causal,
        .heads = values ? list_heads(w, layer, values, whole) : o->heads,
        .head_width = layer->in.c / o->heads,
        .value_width = values ? w->value_width : NULL,
        .q = cpu_value(w, o->input[0]),
        .k = cpu_value(w, o->input[1]),
        .v = cpu_value(w, o->input[2]),
        .output = cpu_value(w, o->output),
        .scratch = w->attention,
    };
    b->kernels->attention(&args);
    const double keys = o->causal ? (queries + 1.0) / 2 : args.tokens; /* in the mean */
    w->flops += 2.0 * LANES * queries * keys * attention_products(&args);
}

static void run_next(const cpu_backend *b, cpu_worker *w, const cpu_layer *layer) {
    const op *o = layer->op;
    cpu_next(b, w, layer, &layer->form, cpu_value(w, o->input[0]), cpu_value(w, o->input[1]), cpu_value(w, o->output));
    w->flops += 2.0 * LANES * o->vocabulary * layer->in.c * cpu_positions(w, layer);
}

uint32_t cpu_out_keeps(const cpu_backend *b, const cpu_worker *w, size_t i, bool group) {
    const cpu_layer *layer = &b->layers[i];
    const cpu_packed *stored = group && layer->stored_by >= 0 ? &w->packed[layer->stored_by] : NULL;
    const mask_site *m = &layer->op->mask;
    const float *fill = b->settings.ablation.fill;
    const uint32_t channels = stored ? stored->rows : layer->out.c;
    for (uint32_t s = 0; s < channels; s++) {
        const uint32_t c = stored ? stored->row[s] : s;
        const float *keep = w->keep + (size_t)(m->first + c / m->width) * LANES;
        const float f = fill ? fill[m->row_first + c] : 0;
        for (size_t lane = 0; lane < LANES; lane++) {
            w->out_mul[s * LANES + lane] = keep[lane];
            w->out_add[s * LANES + lane] = (1 - keep[lane]) * f;
        }
    }
    return channels;
}

/* The channels that a layer norm stores, from all of them, which lie in the same place. */
static void mask_and_compact(const cpu_worker *w, const cpu_layer *layer, const cpu_packed *p, float *x) {
    float *to = x;
    for (size_t position = 0; position < cpu_positions(w, layer); position++, x += (size_t)layer->out.c * LANES)
        for (uint32_t r = 0; r < p->rows; r++, to += LANES) {
            const float *from = x + (size_t)p->row[r] * LANES;
            const float *mul = w->out_mul + (size_t)r * LANES, *add = w->out_add + (size_t)r * LANES;
            for (size_t lane = 0; lane < LANES; lane++) to[lane] = from[lane] * mul[lane] + add[lane];
        }
}

void cpu_mask_result(const cpu_backend *b, const cpu_worker *w, size_t i, bool group, const float *x, float *y) {
    const uint32_t channels = cpu_out_keeps(b, w, i, group);
    if (group && b->layers[i].op->kind == OP_LAYERNORM && b->layers[i].left_out) {
        mask_and_compact(w, &b->layers[i], &w->packed[i], y); /* x is y */
        return;
    }
    b->kernels->scale_channels(x, cpu_positions(w, &b->layers[i]), channels, w->out_mul, w->out_add, NULL, y);
}

void cpu_run_op(const cpu_backend *b, cpu_worker *w, size_t i, bool group) {
    const cpu_layer *layer = &b->layers[i];
    const op *o = layer->op;
    float *output = cpu_value(w, o->output);
    const float *input = cpu_value(w, o->input[0]);
    switch (o->kind) {
    case OP_CONV:
        break; /* needs weights: the caller's */
    case OP_MAXPOOL:
    case OP_AVGPOOL:
        run_pool(b, w, layer);
        break;
    case OP_SUBSAMPLE:
        run_subsample(w, layer);
        break;
    case OP_EMBED:
        b->kernels->embed(input, o->weight, (uint32_t)shape_positions(layer->out), layer->out.c, output);
        break;
    case OP_LAYERNORM:
        run_layernorm(b, w, layer);
        break;
    case OP_ATTENTION:
        run_attention(b, w, layer, group);
        break;
    case OP_SELECT:
        memcpy(output, input, (size_t)layer->out.c * LANES * sizeof *output);
        break;
    case OP_LOOKUP:
        cpu_lookup(layer, cpu_positions(w, layer), input, output);
        break;
    case OP_MEAN_TOKEN:
        b->kernels->mean_token(input, o->weight, (uint32_t)shape_positions(layer->out), layer->out.c, output);
        break;
    case OP_NORMALISE:
        b->kernels->l2norm(input, cpu_positions(w, layer), layer->out.c, output);
        break;
    case OP_NEXT:
        run_next(b, w, layer);
        break;
    }
}

void cpu_load_images(const cpu_backend *b, tile_images images, float *x) {
    if (b->settings.graph->vocabulary) {
        const int32_t *tokens = (const int32_t *)images.pixels;
        for (size_t i = 0; i < b->elements * LANES; i++) x[i] = (float)tokens[i];
        return;
    }
    b->kernels->normalise(images.pixels, b->elements, b->settings.graph->values[0].c, b->pixel_mul, b->pixel_add, x);
    if (images.scale) b->kernels->scale_channels(x, b->elements, 1, images.scale, b->zeros, NULL, x);
}

void cpu_tile_run(const cpu_backend *b, cpu_worker *w, tile_images images, bool group, bool fresh,
                  const tile_observer *observer) {
    const graph *g = b->settings.graph;
    w->positions = images.positions;
    for (size_t v = 0; v < g->value_count; v++) w->value[v] = w->buffer + b->buffer_start[b->buffers.buffer[v]];
    cpu_load_images(b, images, cpu_value(w, 0));
    for (size_t i = 0; i < g->op_count; i++) {
        if (observer) observer->see(observer->context, b, w, i, false);
        if (g->ops[i].kind == OP_CONV)
            run_conv(b, w, i, group, fresh);
        else
            cpu_run_op(b, w, i, group);
        if (g->ops[i].kind == OP_LAYERNORM && b->layers[i].left_out && group && fresh) cpu_pack_norm(b, w, i);
        float *y = cpu_value(w, g->ops[i].output);
        if (g->ops[i].mask.place == PLACE_OUT) cpu_mask_result(b, w, i, group, y, y);
        if (observer) observer->see(observer->context, b, w, i, true);
    }
}
