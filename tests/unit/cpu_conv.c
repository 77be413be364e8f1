/*
 * cpu_conv.c - the CPU convolution kernels against plain sums in double: what the forward pass leaves for the reverse
 * pass, in fp32 and bf16, the data gradient for every phase of a stride, and the reverse of the epilogue.
 */
#include "backend/precision.h"
#include "lanes.h"

typedef struct geometry {
    uint32_t in_h, in_w, kernel_h, kernel_w, stride, pad, in_channels, out_channels;
} geometry;

/* Borders, strides that leave pixels unread, kernels with fewer taps than the stride, blocks of every size; windows of
 * Winograd's inside the image, at each border and beyond it; a linear layer of more channels and rows than are in hand at
 * once. */
static const geometry geometries[] = {
    {5, 7, 3, 3, 1, 1, 4, 7},    {8, 8, 3, 3, 2, 1, 5, 13},  {7, 9, 3, 3, 2, 1, 6, 3},      {1, 11, 1, 1, 1, 0, 19, 8},
    {6, 5, 1, 1, 2, 0, 3, 5},    {9, 9, 7, 7, 2, 3, 3, 4},   {10, 8, 2, 3, 3, 1, 7, 6},     {4, 4, 5, 5, 1, 2, 2, 9},
    {11, 7, 4, 4, 4, 0, 12, 10}, {3, 3, 3, 3, 1, 0, 8, 1},   {8, 6, 2, 2, 3, 1, 1, 17},     {2, 40, 1, 5, 2, 2, 50, 11},
    {14, 13, 3, 3, 1, 1, 9, 27}, {6, 10, 3, 3, 1, 2, 31, 6}, {1, 1, 1, 1, 1, 0, 1000, 999},
};
enum { GEOMETRIES = sizeof geometries / sizeof *geometries, CHANNELS_MAX = 1000 };

static window window_of(const geometry *g) {
    return (window){.in_h = g->in_h,
                    .in_w = g->in_w,
                    .out_h = (g->in_h + 2 * g->pad - g->kernel_h) / g->stride + 1,
                    .out_w = (g->in_w + 2 * g->pad - g->kernel_w) / g->stride + 1,
                    .kernel_h = g->kernel_h,
                    .kernel_w = g->kernel_w,
                    .stride = g->stride,
                    .pad = g->pad};
}

/* What one product of a convolution connects: weight [O][I][taps]. */
typedef struct product {
    size_t in, out, weight; /* positions */
    uint32_t i, o;
} product;

/* Calls see for every product W[o][i][t] x[p + t][i] of a convolution. */
static void each_product(const geometry *g, void (*see)(void *context, product p), void *context) {
    const window w = window_of(g);
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    for (uint32_t y = 0; y < w.out_h; y++)
        for (uint32_t x = 0; x < w.out_w; x++)
            for (uint32_t ky = 0; ky < g->kernel_h; ky++)
                for (uint32_t kx = 0; kx < g->kernel_w; kx++) {
                    const int64_t iy = (int64_t)y * g->stride + ky - g->pad, ix = (int64_t)x * g->stride + kx - g->pad;
                    if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                    for (uint32_t o = 0; o < g->out_channels; o++)
                        for (uint32_t i = 0; i < g->in_channels; i++)
                            see(context,
                                (product){.in = (size_t)iy * g->in_w + (size_t)ix,
                                          .out = (size_t)y * w.out_w + x,
                                          .weight = (o * (size_t)g->in_channels + i) * taps + ky * g->kernel_w + kx,
                                          .i = i,
                                          .o = o});
                }
}

/* Channels that a mask keeps, and where each of them is; -1 = it is not. */
typedef struct kept {
    uint32_t count, channel[CHANNELS_MAX];
    int place[CHANNELS_MAX];
} kept;

/* Not all of them, unless there is one. `backwards`: in decreasing order. */
static kept keep_some(uint32_t channels, uint32_t left_out, bool backwards) {
    kept k = {.count = 0};
    for (uint32_t n = 0; n < channels; n++) {
        const uint32_t c = backwards ? channels - 1 - n : n;
        k.place[c] = channels > 1 && c % 5 == left_out ? -1 : (int)k.count;
        if (k.place[c] >= 0) k.channel[k.count++] = c;
    }
    return k;
}

typedef struct sums {
    const geometry *g;
    const float *weight, *from;
    double *to;
    const kept *rows, *columns; /* forwards */
} sums;

static void add_forward(void *context, product p) {
    const sums *s = context;
    const int column = s->columns->place[p.i];
    if (column < 0 || s->rows->place[p.o] < 0) return;
    const float *x = s->from + (p.in * s->columns->count + (size_t)column) * LANES;
    double *y = s->to + (p.out * s->g->out_channels + p.o) * LANES;
    for (size_t lane = 0; lane < LANES; lane++) y[lane] += (double)s->weight[p.weight] * x[lane];
}

static void add_reverse(void *context, product p) {
    const sums *s = context;
    const float *dy = s->from + (p.out * s->g->out_channels + p.o) * LANES;
    double *dx = s->to + (p.in * s->g->in_channels + p.i) * LANES;
    for (size_t lane = 0; lane < LANES; lane++) dx[lane] += (double)s->weight[p.weight] * dy[lane];
}

/* -------------------------------------------------------------------------------------------------- forms */

/* The first two also in reverse. */
typedef enum form { DIRECT, WINOGRAD, REVERSE_FORMS, DIRECT_BF16 = REVERSE_FORMS, WINOGRAD_BF16, FORMS } form;
/* Of the largest result: sums of up to a thousand products; transforms add and take away what is up to a hundred times
 * larger. In bf16 it is the sums of
 * rounded numbers that are compared; of Winograd's form sums of numbers that stay exact when they are transformed. */
static const double tolerances[] = {2e-6, 1e-5, 2e-6, 1e-6};

static bool is_winograd(form f) {
    return f == WINOGRAD || f == WINOGRAD_BF16;
}

static bool has_form(const geometry *g, form f) {
    return !is_winograd(f) || (g->kernel_h == 3 && g->kernel_w == 3 && g->stride == 1 && g->pad <= 2);
}

static size_t points_of(const geometry *g, form f) {
    return is_winograd(f) ? WINOGRAD_POINTS : (size_t)g->kernel_h * g->kernel_w;
}

/* The kernels of a form, forwards. */
typedef struct forward_form {
    void (*pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight, float *packed);
    void (*conv)(const conv_args *args);
    size_t scratch;   /* floats */
    uint32_t columns; /* of a point */
} forward_form;

static forward_form forward_of(const cpu_kernels *k, const geometry *g, const window *w, form f) {
    const uint32_t channels = g->in_channels, pairs = conv_pairs(channels);
    switch (f) {
    case DIRECT:
        return (forward_form){k->conv_pack, k->conv, 0, channels};
    case WINOGRAD:
        return (forward_form){k->winograd_pack, k->winograd, k->winograd_scratch(channels), channels};
    case DIRECT_BF16:
        return (forward_form){k->conv_bf16_pack, k->conv_bf16, k->conv_bf16_scratch(w, channels), pairs};
    default:
        return (forward_form){k->winograd_bf16_pack, k->winograd_bf16, k->winograd_bf16_scratch(channels), pairs};
    }
}

static size_t weight_count(const geometry *g) {
    return (size_t)g->out_channels * g->in_channels * g->kernel_h * g->kernel_w;
}

static size_t *rows_of(const kept *k, uint32_t columns, size_t points, uint32_t tile_rows) {
    size_t *row = (size_t *)lanes_bytes(k->count * sizeof *row);
    for (uint32_t r = 0; r < k->count; r++) row[r] = conv_row(k->channel[r], columns, points, tile_rows);
    return row;
}

static uint32_t *columns_of(const kept *k, uint32_t columns, uint32_t taps, uint32_t tile_rows) {
    uint32_t *column = (uint32_t *)lanes_bytes((size_t)taps * k->count * sizeof *column), *to = column;
    for (uint32_t t = 0; t < taps; t++)
        for (uint32_t c = 0; c < k->count; c++) *to++ = (t * columns + k->channel[c]) * tile_rows;
    return column;
}

/* Pairs of channels of which one at least is kept, as if each were a channel; pair[][2] says where they are. */
static kept pairs_of(const kept *channels, uint32_t pair[][2]) {
    kept pairs = {.count = 0};
    for (uint32_t c = 0; c < channels->count; c++) {
        const uint32_t channel = channels->channel[c];
        if (!pairs.count || pairs.channel[pairs.count - 1] != channel / 2) {
            pair[pairs.count][0] = pair[pairs.count][1] = UINT32_MAX;
            pairs.channel[pairs.count++] = channel / 2;
        }
        pair[pairs.count - 1][channel % 2] = c;
    }
    return pairs;
}

/* ---------------------------------------------------------------------------------------------- forwards */

static float *rounded(const float *values, size_t count) {
    float *copy = lanes_weights(count);
    for (size_t i = 0; i < count; i++) copy[i] = precision_stored(PRECISION_BF16, values[i]);
    return copy;
}

/* -unit, 0 or unit. Of units 1 (images) and 576 (weights, which are divided by up to 24 twice) what Winograd's form makes
 * is whole and has at most the eight digits of bf16. */
static float *whole(const float *values, size_t count, float unit) {
    float *copy = lanes_weights(count);
    for (size_t i = 0; i < count; i++) copy[i] = unit * roundf(1.49f * values[i]);
    return copy;
}

static void check_forward(const cpu_kernels *k, const geometry *g, form f) {
    const window w = window_of(g);
    const size_t positions = (size_t)w.out_h * w.out_w, outputs = positions * g->out_channels;
    const kept rows = keep_some(g->out_channels, 2, true), columns = keep_some(g->in_channels, 1, false);
    const size_t inputs = (size_t)g->in_h * g->in_w * columns.count;
    const float *x = lanes_values(inputs), *weight = lanes_weights(weight_count(g));
    if (f == WINOGRAD_BF16) {
        x = whole(x, inputs * LANES, 1);
        weight = whole(weight, weight_count(g), 576);
    }
    const forward_form form = forward_of(k, g, &w, f);
    float *packed = lanes_weights(conv_packed_size(g->out_channels, form.columns, points_of(g, f), k->tile_rows));
    uint32_t zone[64] = {0}, pair[CHANNELS_MAX][2];
    const kept pairs = pairs_of(&columns, pair);
    form.pack(&w, g->in_channels, g->out_channels, weight, packed);
    conv_args c = {.window = w,
                   .in_channels = columns.count,
                   .out_channels = g->out_channels,
                   .input = x,
                   .output = lanes_values(outputs),
                   .residual = lanes_values(outputs),
                   .rows = rows.count,
                   .weight = packed,
                   .row = rows_of(&rows, form.columns, points_of(g, f), k->tile_rows),
                   .column = columns_of(f >= DIRECT_BF16 ? &pairs : &columns, form.columns,
                                        is_winograd(f) ? 1 : g->kernel_w, k->tile_rows),
                   .tap = (size_t)form.columns * k->tile_rows,
                   .channel = rows.channel,
                   .mul = lanes_values(rows.count),
                   .add = lanes_values(rows.count),
                   .zone_y = zone,
                   .zone_x = zone,
                   .zones_x = 1,
                   .relu = true,
                   .scratch = lanes_output(form.scratch / LANES),
                   .pairs = pairs.count,
                   .pair = (const uint32_t(*)[2])pair,
                   .linear = lanes_output(outputs),
                   .positive = lanes_bytes(outputs * LANES / 8)};
    const size_t undefined = rows.channel[0] * (size_t)LANES + 3;
    ((float *)c.residual)[undefined] = NAN;
    for (size_t p = 0; p < positions; p++) /* rows that are not computed */
        for (uint32_t o = 0; o < g->out_channels; o++)
            if (rows.place[o] < 0) memset(c.linear + (p * g->out_channels + o) * LANES, 0, LANES * sizeof(float));
    form.conv(&c);
    double *linear = lanes_doubles(outputs * LANES);
    if (f == DIRECT_BF16) {
        weight = rounded(weight, weight_count(g));
        x = rounded(x, inputs * LANES);
    }
    each_product(g, add_forward, &(sums){g, weight, x, linear, &rows, &columns});
    lanes_compare("linear", c.linear, linear, outputs, tolerances[f]);
    int wrong_bits = 0, ones = 0, seen = 0;
    for (size_t i = 0; i < outputs * LANES; i++) {
        if (rows.place[i / LANES % g->out_channels] < 0) continue;
        const bool bit = c.positive[i / 8] >> i % 8 & 1;
        wrong_bits += bit != !(c.output[i] <= 0);
        ones += bit;
        seen++;
    }
    CHECK(isnan(c.output[undefined]));
    CHECK_INT(wrong_bits, 0);
    CHECK(ones > 0 && ones < seen);
    const float *saving = c.output;
    c.linear = NULL;
    c.positive = NULL;
    c.output = lanes_copy(saving, outputs);
    form.conv(&c);
    lanes_same("output without saving", c.output, saving, outputs);
}

static void check_forward_all(const cpu_kernels *k) {
    for (form f = 0; f < FORMS; f++)
        for (size_t i = 0; i < GEOMETRIES; i++) {
            if (has_form(&geometries[i], f)) check_forward(k, &geometries[i], f);
            lanes_release();
        }
}

/* ------------------------------------------------------------------------------------------- data gradient */

typedef void (*reverse_kernel)(const conv_reverse_args *c);

/* With weights and lists of all there is; no gradient yet, nowhere to put the result. */
static conv_reverse_args reverse_args(const cpu_kernels *k, const geometry *g, form f, const float *weight) {
    const window w = window_of(g);
    const size_t points = points_of(g, f);
    const kept rows = keep_some(g->in_channels, 5, false), columns = keep_some(g->out_channels, 5, false); /* all */
    float *packed = lanes_weights(conv_packed_size(g->in_channels, g->out_channels, points, k->tile_rows));
    (f == WINOGRAD ? k->winograd_reverse_pack : k->conv_reverse_pack)(&w, g->in_channels, g->out_channels, weight,
                                                                      packed);
    return (conv_reverse_args){
        .window = w,
        .in_channels = g->in_channels,
        .out_channels = g->out_channels,
        .weight = packed,
        .row = rows_of(&rows, g->out_channels, points, k->tile_rows),
        .column = columns_of(&columns, g->out_channels, f == WINOGRAD ? 1 : g->kernel_w, k->tile_rows),
        .tap = (size_t)g->out_channels * k->tile_rows,
        .scratch = f == WINOGRAD ? lanes_output(k->winograd_scratch(g->out_channels) / LANES) : NULL,
    };
}

static reverse_kernel reverse_of(const cpu_kernels *k, form f) {
    return f == WINOGRAD ? k->winograd_reverse : k->conv_reverse;
}

static void check_reverse(const cpu_kernels *k, const geometry *g, form f, bool add) {
    const window w = window_of(g);
    const size_t outputs = (size_t)w.out_h * w.out_w * g->out_channels;
    const size_t inputs = (size_t)g->in_h * g->in_w * g->in_channels;
    const float *weight = lanes_weights(weight_count(g)), *before = lanes_values(inputs);
    conv_reverse_args c = reverse_args(k, g, f, weight);
    c.gradient = lanes_values(outputs);
    c.output = (gradient_sum){add ? lanes_copy(before, inputs) : lanes_output(inputs), add};
    double *expected = lanes_doubles(inputs * LANES);
    for (size_t i = 0; add && i < inputs * LANES; i++) expected[i] = before[i];
    reverse_of(k, f)(&c);
    each_product(g, add_reverse, &(sums){.g = g, .weight = weight, .from = c.gradient, .to = expected});
    lanes_compare("dL/dx", c.output.values, expected, inputs, tolerances[f]);
    lanes_release();
}

static void check_reverse_all(const cpu_kernels *k) {
    for (form f = 0; f < REVERSE_FORMS; f++)
        for (size_t i = 0; i < GEOMETRIES; i++)
            for (int add = 0; add < 2; add++)
                if (has_form(&geometries[i], f)) check_reverse(k, &geometries[i], f, add);
}

/* ----------------------------------------------------------------------------------------------- epilogue */

static epilogue_reverse_args random_epilogue(size_t positions, uint32_t channels) {
    return (epilogue_reverse_args){.positions = positions,
                                   .channels = channels,
                                   .gradient = lanes_values(positions * channels),
                                   .x = lanes_values(positions * channels),
                                   .mul = lanes_values(channels),
                                   .add = lanes_values(channels),
                                   .output = lanes_output(positions * channels),
                                   .a = lanes_weights(channels),
                                   .b = lanes_weights(channels),
                                   .sums = lanes_values(channels)};
}

/* What conv_reverse hands on to `then` gives the bits of a call of its own. */
static void check_then(const cpu_kernels *k, const geometry *g, form f, bool add) {
    const window w = window_of(g);
    const size_t positions = (size_t)g->in_h * g->in_w, inputs = positions * g->in_channels;
    const size_t outputs = (size_t)w.out_h * w.out_w * g->out_channels;
    float *sum = lanes_values(inputs);
    epilogue_reverse_args e = random_epilogue(positions, g->in_channels);
    e.kind = SUM_PRODUCT;
    e.positive = (const uint8_t *)lanes_weights(inputs * LANES / 32);
    e.residual = (gradient_sum){lanes_values(inputs), true};
    conv_reverse_args c = reverse_args(k, g, f, lanes_weights(weight_count(g)));
    c.gradient = lanes_values(outputs);
    c.output = (gradient_sum){lanes_copy(sum, inputs), add};
    epilogue_reverse_args fused = e;
    fused.gradient = c.output.values;
    fused.output = c.output.values; /* in place */
    fused.residual.values = lanes_copy(e.residual.values, inputs);
    fused.sums = lanes_copy(e.sums, g->in_channels);
    c.then = &fused;
    reverse_of(k, f)(&c);
    c.then = NULL;
    c.output.values = sum;
    reverse_of(k, f)(&c);
    e.gradient = sum;
    k->epilogue_reverse(&e);
    lanes_same("output", fused.output, e.output, inputs);
    lanes_same("residual", fused.residual.values, e.residual.values, inputs);
    lanes_same("sums", fused.sums, e.sums, g->in_channels);
    lanes_release();
}

static void check_then_all(const cpu_kernels *k) {
    for (form f = 0; f < REVERSE_FORMS; f++)
        for (size_t i = 0; i < GEOMETRIES; i++)
            for (int add = 0; add < 2; add++)
                if (has_form(&geometries[i], f)) check_then(k, &geometries[i], f, add);
}

typedef enum act { NONE, RELU, QUICKGELU, ACTS } act;

static double quickgelu_slope(double x) {
    const double s = 1 / (1 + exp(-1.702 * x));
    return s + 1.702 * x * s * (1 - s);
}

/* dL/du of one element. */
static double through(const epilogue_reverse_args *e, size_t i, uint32_t channel) {
    const size_t at = (size_t)channel * LANES + i % LANES;
    if (e->positive) return e->positive[i / 8] >> i % 8 & 1 ? e->gradient[i] : 0;
    if (!e->derive) return e->gradient[i];
    return e->gradient[i] *
           quickgelu_slope((double)e->x[i] * e->mul[at] + e->add[at] + (e->residual_input ? e->residual_input[i] : 0));
}

static double term(const epilogue_reverse_args *e, size_t i, uint32_t channel, double g) {
    switch (e->kind) {
    case SUM_NONE:
        return 0;
    case SUM_PRODUCT:
        return g * ((double)e->a[channel] * e->x[i] + e->b[channel]);
    case SUM_GRADIENT:
        return g;
    case SUM_DIFFERENCE:
        return i % LANES ? g * ((double)e->x[i] - e->x[i - 1]) : 0;
    }
    return NAN;
}

/* residual: 0 = none, 1 = written into `gradient`, 2 = added to another array; output goes into the gradient if the
 * residual does not. */
static void check_epilogue(const cpu_kernels *k, sum_kind kind, act a, int residual) {
    const size_t positions = 11;
    const uint32_t channels = 5;
    const size_t count = positions * channels;
    epilogue_reverse_args e = random_epilogue(positions, channels);
    e.kind = kind;
    if (a == RELU) e.positive = (const uint8_t *)lanes_weights(count * LANES / 32);
    if (a == QUICKGELU) e.derive = k->quickgelu_reverse;
    if (a == QUICKGELU && residual) e.residual_input = lanes_values(count);
    float *in_place = lanes_copy(e.gradient, count), *other = lanes_values(count);
    double *output = lanes_doubles(count * LANES), *sent = lanes_doubles(count * LANES);
    double *sum = lanes_doubles((size_t)channels * LANES);
    for (size_t i = 0; i < (size_t)channels * LANES; i++) sum[i] = e.sums[i];
    for (size_t i = 0; i < count * LANES; i++) {
        const uint32_t channel = (uint32_t)(i / LANES % channels);
        const double g = through(&e, i, channel);
        output[i] = g * e.mul[channel * LANES + i % LANES];
        sent[i] = g + (residual == 2 ? other[i] : 0);
        sum[channel * LANES + i % LANES] += term(&e, i, channel, g);
    }
    e.gradient = in_place;
    if (residual) e.residual = (gradient_sum){residual == 1 ? in_place : other, residual == 2};
    if (residual != 1) e.output = in_place;
    k->epilogue_reverse(&e);
    lanes_compare("output", e.output, output, count, 1e-6);
    lanes_compare("sums", e.sums, sum, channels, 1e-6);
    if (residual) lanes_compare("residual", e.residual.values, sent, count, 1e-6);
    lanes_release();
}

static void check_epilogue_all(const cpu_kernels *k) {
    for (sum_kind kind = SUM_NONE; kind <= SUM_DIFFERENCE; kind++)
        for (act a = NONE; a < ACTS; a++)
            for (int residual = 0; residual < 3; residual++) check_epilogue(k, kind, a, residual);
}

/* Nothing but sums: what the first layer of a network is asked for. */
static void check_sums_alone(const cpu_kernels *k) {
    epilogue_reverse_args e = random_epilogue(6, 4), alone;
    e.kind = SUM_PRODUCT;
    alone = e;
    alone.output = NULL;
    alone.mul = NULL;
    alone.sums = lanes_copy(e.sums, 4);
    k->epilogue_reverse(&e);
    k->epilogue_reverse(&alone);
    lanes_same("sums", alone.sums, e.sums, 4);
}

int main(void) {
    lanes_each("convolution: sums and bits for the reverse pass", check_forward_all);
    lanes_each("convolution: data gradient", check_reverse_all);
    lanes_each("convolution: data gradient, then the epilogue before it", check_then_all);
    lanes_each("epilogue in reverse", check_epilogue_all);
    lanes_each("epilogue in reverse, sums alone", check_sums_alone);
    return test_end();
}
