/*
 * cpu_conv.c - the CPU convolution kernels against plain sums in double: what the forward pass leaves for the reverse
 * pass, the data gradient for every phase of a stride, and the reverse of the epilogue.
 */
#include "lanes.h"

typedef struct geometry {
    uint32_t in_h, in_w, kernel_h, kernel_w, stride, pad, in_channels, out_channels;
} geometry;

/* Borders, strides that leave pixels unread, kernels with fewer taps than the stride, blocks of every size. */
static const geometry geometries[] = {
    {5, 7, 3, 3, 1, 1, 4, 7},    {8, 8, 3, 3, 2, 1, 5, 13}, {7, 9, 3, 3, 2, 1, 6, 3},  {1, 11, 1, 1, 1, 0, 19, 8},
    {6, 5, 1, 1, 2, 0, 3, 5},    {9, 9, 7, 7, 2, 3, 3, 4},  {10, 8, 2, 3, 3, 1, 7, 6}, {4, 4, 5, 5, 1, 2, 2, 9},
    {11, 7, 4, 4, 4, 0, 12, 10}, {3, 3, 3, 3, 1, 0, 8, 1},  {8, 6, 2, 2, 3, 1, 1, 17}, {2, 40, 1, 5, 2, 2, 50, 11},
};
enum { GEOMETRIES = sizeof geometries / sizeof *geometries };

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

/* What one product of a convolution connects. */
typedef struct product {
    size_t in, out, weight; /* first lane of an input element, of an output element; [O][taps][I] */
} product;

/* Calls see for every product W[o][t][i] x[p + t][i] of a convolution. */
static void each_product(const geometry *g, void (*see)(void *context, product p), void *context) {
    const window w = window_of(g);
    for (uint32_t y = 0; y < w.out_h; y++)
        for (uint32_t x = 0; x < w.out_w; x++)
            for (uint32_t ky = 0; ky < g->kernel_h; ky++)
                for (uint32_t kx = 0; kx < g->kernel_w; kx++) {
                    const int64_t iy = (int64_t)y * g->stride + ky - g->pad, ix = (int64_t)x * g->stride + kx - g->pad;
                    if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                    for (size_t o = 0; o < g->out_channels; o++)
                        for (size_t i = 0; i < g->in_channels; i++)
                            see(context, (product){
                                             .in = (((size_t)iy * g->in_w + (size_t)ix) * g->in_channels + i) * LANES,
                                             .out = (((size_t)y * w.out_w + x) * g->out_channels + o) * LANES,
                                             .weight = ((o * g->kernel_h + ky) * g->kernel_w + kx) * g->in_channels + i,
                                         });
                }
}

typedef struct sums {
    const float *weight, *from;
    double *to;
} sums;

static void add_forward(void *context, product p) {
    const sums *s = context;
    for (size_t lane = 0; lane < LANES; lane++)
        s->to[p.out + lane] += (double)s->weight[p.weight] * s->from[p.in + lane];
}

static void add_reverse(void *context, product p) {
    const sums *s = context;
    for (size_t lane = 0; lane < LANES; lane++)
        s->to[p.in + lane] += (double)s->weight[p.weight] * s->from[p.out + lane];
}

/* ---------------------------------------------------------------------------------------------- forwards */

/* Rows in another order than the channels they are stored in. */
static uint32_t row_of(uint32_t packed, uint32_t rows) {
    return rows - 1 - packed;
}

/* Blocks of rows as kernels.h describes them. */
static float *pack(const cpu_kernels *k, const geometry *g, const float *weight) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    const uint32_t blocks = conv_blocks(g->out_channels, k->tile_rows);
    float *packed = lanes_weights(g->out_channels * taps * g->in_channels), *to = packed;
    for (uint32_t b = 0; b < blocks; b++)
        for (size_t column = 0; column < taps * g->in_channels; column++)
            for (uint32_t r = conv_block_first(g->out_channels, blocks, b);
                 r < conv_block_first(g->out_channels, blocks, b + 1); r++)
                *to++ = weight[row_of(r, g->out_channels) * taps * g->in_channels + column];
    return packed;
}

static void check_forward(const cpu_kernels *k, const geometry *g) {
    const window w = window_of(g);
    const size_t positions = (size_t)w.out_h * w.out_w, outputs = positions * g->out_channels;
    const float *x = lanes_values((size_t)g->in_h * g->in_w * g->in_channels);
    const float *weight = lanes_weights((size_t)g->out_channels * g->kernel_h * g->kernel_w * g->in_channels);
    uint32_t channel[64], zone[64] = {0};
    for (uint32_t r = 0; r < g->out_channels; r++) channel[r] = row_of(r, g->out_channels);
    conv_args c = {.window = w,
                   .in_channels = g->in_channels,
                   .out_channels = g->out_channels,
                   .input = x,
                   .output = lanes_output(outputs),
                   .residual = lanes_values(outputs),
                   .rows = g->out_channels,
                   .weight = pack(k, g, weight),
                   .channel = channel,
                   .mul = lanes_values(g->out_channels),
                   .add = lanes_values(g->out_channels),
                   .zone_y = zone,
                   .zone_x = zone,
                   .zones_x = 1,
                   .relu = true,
                   .linear = lanes_output(outputs),
                   .positive = lanes_bytes(outputs * LANES / 8)};
    ((float *)c.residual)[3] = NAN;
    k->conv(&c);
    double *linear = lanes_doubles(outputs * LANES);
    each_product(g, add_forward, &(sums){weight, x, linear});
    lanes_compare("linear", c.linear, linear, outputs, 1e-6);
    int wrong_bits = 0, ones = 0;
    for (size_t i = 0; i < outputs * LANES; i++) {
        const bool bit = c.positive[i / 8] >> i % 8 & 1;
        wrong_bits += bit != !(c.output[i] <= 0);
        ones += bit;
    }
    CHECK(isnan(c.output[3]));
    CHECK_INT(wrong_bits, 0);
    CHECK(ones > 0 && ones < (int)(outputs * LANES));
    const float *saving = c.output;
    c.linear = NULL;
    c.positive = NULL;
    c.output = lanes_output(outputs);
    k->conv(&c);
    lanes_same("output without saving", c.output, saving, outputs);
}

static void check_forward_all(const cpu_kernels *k) {
    for (size_t i = 0; i < GEOMETRIES; i++) {
        check_forward(k, &geometries[i]);
        lanes_release();
    }
}

/* ------------------------------------------------------------------------------------------- data gradient */

static void check_reverse(const cpu_kernels *k, const geometry *g, bool add) {
    const window w = window_of(g);
    const size_t outputs = (size_t)w.out_h * w.out_w * g->out_channels;
    const size_t inputs = (size_t)g->in_h * g->in_w * g->in_channels;
    const size_t weights = (size_t)g->out_channels * g->kernel_h * g->kernel_w * g->in_channels;
    const float *weight = lanes_weights(weights), *gradient = lanes_values(outputs), *before = lanes_values(inputs);
    float *packed = lanes_weights(weights), *result = add ? lanes_copy(before, inputs) : lanes_output(inputs);
    double *expected = lanes_doubles(inputs * LANES);
    for (size_t i = 0; add && i < inputs * LANES; i++) expected[i] = before[i];
    k->conv_reverse_pack(&w, g->in_channels, g->out_channels, weight, packed);
    const conv_reverse_args c = {.window = w,
                                 .in_channels = g->in_channels,
                                 .out_channels = g->out_channels,
                                 .weight = packed,
                                 .gradient = gradient,
                                 .output = {result, add}};
    k->conv_reverse(&c);
    each_product(g, add_reverse, &(sums){weight, gradient, expected});
    lanes_compare("dL/dx", result, expected, inputs, 1e-6);
    lanes_release();
}

static void check_reverse_all(const cpu_kernels *k) {
    for (size_t i = 0; i < GEOMETRIES; i++) {
        check_reverse(k, &geometries[i], false);
        check_reverse(k, &geometries[i], true);
    }
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
static void check_then(const cpu_kernels *k, const geometry *g, bool add) {
    const window w = window_of(g);
    const size_t positions = (size_t)g->in_h * g->in_w, inputs = positions * g->in_channels;
    const size_t outputs = (size_t)w.out_h * w.out_w * g->out_channels;
    float *sum = lanes_values(inputs);
    epilogue_reverse_args e = random_epilogue(positions, g->in_channels);
    e.kind = SUM_PRODUCT;
    e.positive = (const uint8_t *)lanes_weights(inputs * LANES / 32);
    e.residual = (gradient_sum){lanes_values(inputs), true};
    conv_reverse_args c = {.window = w,
                           .in_channels = g->in_channels,
                           .out_channels = g->out_channels,
                           .weight =
                               lanes_weights((size_t)g->out_channels * g->kernel_h * g->kernel_w * g->in_channels),
                           .gradient = lanes_values(outputs),
                           .output = {lanes_copy(sum, inputs), add}};
    epilogue_reverse_args fused = e;
    fused.gradient = c.output.values;
    fused.output = c.output.values; /* in place */
    fused.residual.values = lanes_copy(e.residual.values, inputs);
    fused.sums = lanes_copy(e.sums, g->in_channels);
    c.then = &fused;
    k->conv_reverse(&c);
    c.then = NULL;
    c.output.values = sum;
    k->conv_reverse(&c);
    e.gradient = sum;
    k->epilogue_reverse(&e);
    lanes_same("output", fused.output, e.output, inputs);
    lanes_same("residual", fused.residual.values, e.residual.values, inputs);
    lanes_same("sums", fused.sums, e.sums, g->in_channels);
    lanes_release();
}

static void check_then_all(const cpu_kernels *k) {
    for (size_t i = 0; i < GEOMETRIES; i++) {
        check_then(k, &geometries[i], false);
        check_then(k, &geometries[i], true);
    }
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
