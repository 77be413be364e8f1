/*
 * cpu_pack.c - a convolution, or a layer norm that leaves channels out, under given masks: which rows are computed, which
 * columns are stored, and the epilogue.
 * Weights stay where they are, whatever the mask: rows and columns are lists of where each begins in them.
 *
 * With x = W * input, keep k and fill c of a row (docs/design.md, section 2), the epilogue is y = mul x + add:
 *   PRE    scale (k x + (1 - k) c) + shift      mul = scale k    add = shift + scale (1 - k) c
 *   POST   k (scale x + shift) + (1 - k) c      mul = scale k    add = k shift + (1 - k) c
 *   OUT    acts later (cpu_tile.c)              mul = scale      add = shift
 * In a group a row with k = 0 is the constant `add`, of an OUT site c, and is not computed. Where the plan leaves such a
 * channel out of the op that reads it, that op's `add` takes over what it would have contributed, mul times the sum over
 * the channels left out and the taps inside the image of W[o][tap][c] act(add[c]): a constant for each border zone.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

activate_kernel cpu_activation(const cpu_backend *b, activation act) {
    switch (act) {
    case ACT_NONE:
        return NULL;
    case ACT_RELU:
        return b->kernels->relu;
    case ACT_GELU_ERF:
        return b->kernels->gelu_erf;
    case ACT_GELU_TANH:
        return b->kernels->gelu_tanh;
    case ACT_QUICKGELU:
        return b->kernels->quickgelu;
    }
    return NULL;
}

/* mul and add of output channel o, 32 lanes each. */
static void epilogue(const cpu_backend *b, const cpu_worker *w, const op *o, uint32_t channel, float *mul, float *add) {
    const mask_site *m = &o->mask;
    const float scale = o->scale ? o->scale[channel] : 1, shift = o->shift ? o->shift[channel] : 0;
    if (m->place != PLACE_PRE && m->place != PLACE_POST) {
        for (int lane = 0; lane < LANES; lane++) mul[lane] = scale;
        for (int lane = 0; lane < LANES; lane++) add[lane] = shift;
        return;
    }
    const float *keep = w->keep + (size_t)(m->first + channel / m->width) * LANES;
    const float fill = b->settings.ablation.fill ? b->settings.ablation.fill[m->row_first + channel] : 0;
    for (int lane = 0; lane < LANES; lane++) {
        const float k = keep[lane], filled = (1 - k) * fill;
        mul[lane] = scale * k;
        add[lane] = m->place == PLACE_PRE ? shift + scale * filled : k * shift + filled;
    }
}

static bool ablated(const cpu_worker *w, const mask_site *m, uint32_t channel) {
    return w->keep[(size_t)(m->first + channel / m->width) * LANES] == 0;
}

/* The site whose ablated rows are not computed in a group; NULL = all are. */
static const mask_site *skipping_site(const cpu_layer *layer) {
    const mask_site *own = &layer->op->mask;
    if (layer->left_out) return layer->left_out;
    return own->place != PLACE_NONE ? own : NULL;
}

/* What stands for an ablated output channel: what this op would store, or the attention that reads it. Of an OUT site, which
 * acts later and then replaces whatever is there, it is that already. */
static float constant(const cpu_backend *b, const cpu_worker *w, const op *o, const mask_site *site, uint32_t channel) {
    float mul[LANES], add[LANES];
    if (site != &o->mask || site->place == PLACE_OUT)
        return b->settings.ablation.fill ? b->settings.ablation.fill[site->row_first + channel] : 0;
    epilogue(b, w, o, channel, mul, add);
    return add[0];
}

/* Sorts the output channels into rows to compute, with their epilogue of zone 0, and constants. */
static void choose_rows(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const cpu_form *form,
                        bool group, cpu_packed *p) {
    const mask_site *site = group ? skipping_site(layer) : NULL;
    p->rows = p->constants = 0;
    for (uint32_t o = 0; o < layer->out.c; o++) {
        if (site && ablated(w, site, o)) {
            p->constant_channel[p->constants] = o;
            p->constant[p->constants++] = constant(b, w, layer->op, site, o);
        } else {
            const size_t r = p->rows++;
            epilogue(b, w, layer->op, o, p->mul + r * LANES, p->add + r * LANES);
            p->row[r] = o;
            p->row_start[r] = conv_row(o, form->columns, form->points, b->kernels->tile_rows);
            p->channel[r] = group && layer->left_out ? (uint32_t)r : o;
        }
    }
}

/* The constants of a layer that leaves out what its own mask ablates, as its reader would have seen them. */
static void activate_constants(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, cpu_packed *p) {
    const activate_kernel activate = cpu_activation(b, layer->op->act);
    if (!activate || !p->constants) return;
    memcpy(w->activated, p->constant, p->constants * sizeof *p->constant);
    activate(w->activated, ((size_t)p->constants + LANES - 1) / LANES * LANES);
    memcpy(p->constant, w->activated, p->constants * sizeof *p->constant);
}

/* tap_sum[tap] = what the channels left out contribute to one row at one tap, before mul. */
static void sum_left_out(const cpu_layer *layer, const cpu_packed *feeder, uint32_t row, double *tap_sum) {
    const size_t taps = (size_t)layer->op->kernel_h * layer->op->kernel_w;
    const float *weight = layer->op->weight + row * taps * layer->in.c; /* [I][taps] */
    memset(tap_sum, 0, taps * sizeof *tap_sum);
    for (uint32_t i = 0; i < feeder->constants; i++)
        for (size_t t = 0; t < taps; t++)
            tap_sum[t] += (double)weight[feeder->constant_channel[i] * taps + t] * feeder->constant[i];
}

/* The sum over the taps that zone z has inside the image. */
static float zone_sum(const cpu_layer *layer, size_t z, const double *tap_sum) {
    const tap_span rows = layer->rows.span[z / layer->columns.zones];
    const tap_span columns = layer->columns.span[z % layer->columns.zones];
    double sum = 0;
    for (uint32_t y = rows.first; y < rows.first + rows.count; y++)
        for (uint32_t x = columns.first; x < columns.first + columns.count; x++)
            sum += tap_sum[(size_t)y * layer->op->kernel_w + x];
    return (float)sum;
}

/* Writes `add` of packed row r for every zone from that of zone 0, which so far has no border in it and comes last.
 * `feeder`: NULL when nothing is left out. */
static void spread_over_zones(const cpu_layer *layer, const cpu_packed *feeder, cpu_packed *p, uint32_t r,
                              double *tap_sum) {
    const float *mul = p->mul + (size_t)r * LANES;
    float *base = p->add + (size_t)r * LANES;
    if (feeder) sum_left_out(layer, feeder, p->row[r], tap_sum);
    for (size_t z = cpu_layer_zones(layer); z-- > 0;) {
        const float border = feeder ? zone_sum(layer, z, tap_sum) : 0;
        float *add = base + z * p->rows * LANES;
        for (int lane = 0; lane < LANES; lane++) add[lane] = base[lane] + mul[lane] * border;
    }
}

/* The pairs of channels of which one at least is stored, and which they are in a tap's columns. */
static void list_pairs(const cpu_packed *feeder, cpu_packed *p) {
    p->pairs = 0;
    for (uint32_t k = 0; k < feeder->rows; k++) {
        const uint32_t channel = feeder->row[k];
        if (!p->pairs || p->column[p->pairs - 1] != channel / 2) {
            p->pair[p->pairs][0] = p->pair[p->pairs][1] = UINT32_MAX;
            p->column[p->pairs++] = channel / 2;
        }
        p->pair[p->pairs - 1][channel % 2] = k;
    }
}

/* Columns are [tap x][all there are] in the weights of a kernel row, and [tap x][stored] in the input. */
static void list_columns(const cpu_backend *b, const cpu_layer *layer, const cpu_form *form, const cpu_packed *feeder,
                         cpu_packed *p) {
    const uint32_t taps = form->winograd ? 1 : layer->op->kernel_w;
    if (form->bf16) list_pairs(feeder, p);
    const uint32_t stored = form->bf16 ? p->pairs : feeder->rows;
    for (uint32_t t = taps; t-- > 0;) /* the first tap's last: it holds the pairs */
        for (uint32_t k = 0; k < stored; k++)
            p->column[t * stored + k] =
                (t * form->columns + (form->bf16 ? p->column[k] : feeder->row[k])) * b->kernels->tile_rows;
}

void cpu_pack(const cpu_backend *b, cpu_worker *w, size_t i, const cpu_form *form, bool group) {
    const cpu_layer *layer = &b->layers[i];
    cpu_packed *p = &w->packed[i];
    choose_rows(b, w, layer, form, group, p);
    const mask_site *own = &layer->op->mask;
    if (group && layer->left_out == own && own->place != PLACE_OUT) activate_constants(b, w, layer, p);
    if (layer->feeder < 0) return;
    const cpu_packed *feeder = group && w->packed[layer->feeder].constants ? &w->packed[layer->feeder] : NULL;
    for (uint32_t r = 0; r < p->rows; r++) spread_over_zones(layer, feeder, p, r, w->tap_sum);
    if (group) list_columns(b, layer, form, &w->packed[layer->feeder], p);
}

void cpu_pack_norm(const cpu_backend *b, cpu_worker *w, size_t i) {
    const cpu_layer *layer = &b->layers[i];
    const mask_site *site = &layer->op->mask;
    cpu_packed *p = &w->packed[i];
    p->rows = p->constants = 0;
    for (uint32_t c = 0; c < layer->out.c; c++) {
        if (ablated(w, site, c)) {
            p->constant_channel[p->constants] = c;
            p->constant[p->constants++] = constant(b, w, layer->op, site, c);
        } else {
            p->row[p->rows++] = c;
        }
    }
}
