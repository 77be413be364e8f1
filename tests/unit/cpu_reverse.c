/*
 * cpu_reverse.c - the reverse of the CPU kernels that are no convolutions, against the definitions in double: sums
 * written out where they are short, central differences of the forward definition everywhere.
 */
#include "lanes.h"

/* ------------------------------------------------------------------------------- central differences */

/* The forward definition of one lane: x[count] to y[count_y], in double. */
typedef struct definition {
    void (*forward)(const void *shape, const double *x, double *y);
    const void *shape;
    size_t count, count_y;
} definition;

/* Differences are slow: lanes repeat with a period that is no divisor of a vector's length. */
enum { PERIOD = 3 };

static float *periodic(float *values, size_t count) {
    for (size_t i = 0; i < count * LANES; i++) values[i] = values[i - i % LANES + i % LANES % PERIOD];
    return values;
}

/* expected[i][lane] += d/dx[i] of sum over y of gradient y. Arguments have periodic lanes. */
static void differentiate(const definition *d, const float *values, const float *gradient, double *expected) {
    const double step = 1e-5;
    double *x = lanes_doubles(d->count), *y = lanes_doubles(2 * d->count_y);
    for (size_t lane = 0; lane < PERIOD; lane++) {
        for (size_t i = 0; i < d->count; i++) x[i] = values[i * LANES + lane];
        for (size_t i = 0; i < d->count; i++) {
            const double at = x[i];
            double slope = 0;
            x[i] = at + step;
            d->forward(d->shape, x, y);
            x[i] = at - step;
            d->forward(d->shape, x, y + d->count_y);
            x[i] = at;
            for (size_t o = 0; o < d->count_y; o++)
                slope += gradient[o * LANES + lane] * (y[o] - y[d->count_y + o]) / (2 * step);
            for (size_t copy = lane; copy < LANES; copy += PERIOD) expected[i * LANES + copy] += slope;
        }
    }
}

/* A result to be written, or to be added to values that `expected` starts with. */
static gradient_sum target(bool add, size_t count, double *expected) {
    if (!add) return (gradient_sum){lanes_output(count), false};
    float *values = periodic(lanes_values(count), count);
    for (size_t i = 0; i < count * LANES; i++) expected[i] = values[i];
    return (gradient_sum){values, true};
}

/* ---------------------------------------------------------------------------------------- activations */

static double gelu_erf(double x) {
    return x / 2 * (1 + erf(x / sqrt(2)));
}
static double gelu_tanh(double x) {
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double quickgelu(double x) {
    return x / (1 + exp(-1.702 * x));
}

static void check_activation(derive_kernel kernel, double (*function)(double), double tolerance) {
    enum { COUNT = 50 };
    float *x = lanes_values(COUNT), *gradient = lanes_values(COUNT);
    double *expected = lanes_doubles(COUNT * LANES);
    for (size_t i = 0; i < COUNT * LANES; i++) {
        x[i] *= 10;
        if (i < 4) x[i] = (float[]){0, -0.0f, 100, -100}[i];
        expected[i] = gradient[i] * (function(x[i] + 1e-5) - function(x[i] - 1e-5)) / 2e-5;
    }
    kernel(x, gradient, COUNT * LANES);
    lanes_compare("gradient", gradient, expected, COUNT, tolerance);
}

static void check_activations(const cpu_kernels *k) {
    check_activation(k->gelu_erf_reverse, gelu_erf, 1e-6);
    check_activation(k->gelu_tanh_reverse, gelu_tanh, 2e-6);
    check_activation(k->quickgelu_reverse, quickgelu, 2e-6);
}

/* ---------------------------------------------------------------------------------------------- pools */

static const window pools[] = {
    /* in, out, kernel, stride, pad */
    {7, 9, 3, 4, 3, 3, 2, 0}, {8, 8, 4, 4, 3, 3, 2, 1}, {6, 5, 3, 2, 2, 2, 2, 0},
    {4, 6, 1, 1, 4, 6, 1, 0}, {5, 5, 5, 5, 3, 3, 1, 1}, {9, 4, 2, 1, 2, 1, 5, 0},
};
enum { POOLS = sizeof pools / sizeof *pools };

/* What one window sends: to its maximum, the first of equals, or in equal parts to all of it. */
static void send(const window *w, uint32_t channels, const float *x, bool maximum, size_t at, size_t channel,
                 double gradient, double *to) {
    const int64_t y0 = (int64_t)(at / w->out_w) * w->stride - w->pad,
                  x0 = (int64_t)(at % w->out_w) * w->stride - w->pad;
    const double part = gradient / (w->kernel_h * w->kernel_w);
    size_t best = SIZE_MAX;
    for (int64_t iy = y0; iy < y0 + w->kernel_h; iy++)
        for (int64_t ix = x0; ix < x0 + w->kernel_w; ix++) {
            if (iy < 0 || iy >= w->in_h || ix < 0 || ix >= w->in_w) continue;
            const size_t i = ((size_t)(iy * w->in_w + ix) * channels) * LANES + channel;
            if (!maximum)
                to[i] += part;
            else if (best == SIZE_MAX || x[i] > x[best])
                best = i;
        }
    if (maximum) to[best] += gradient;
}

static void check_pool(const cpu_kernels *k, const window *w, bool maximum, bool add) {
    const uint32_t channels = 3;
    const size_t inputs = (size_t)w->in_h * w->in_w * channels, outputs = (size_t)w->out_h * w->out_w;
    float *x = lanes_values(inputs);
    const float *gradient = lanes_values(outputs * channels);
    double *expected = lanes_doubles(inputs * LANES);
    for (size_t i = 0; i < inputs * LANES; i++) x[i] = floorf(x[i] * 3); /* many are equal, many negative */
    const pool_reverse_args p = {.window = *w,
                                 .channels = channels,
                                 .input = maximum ? x : NULL,
                                 .gradient = gradient,
                                 .output = target(add, inputs, expected)};
    for (size_t at = 0; at < outputs; at++)
        for (size_t c = 0; c < channels * LANES; c++)
            send(w, channels, x, maximum, at, c, gradient[at * channels * LANES + c], expected);
    (maximum ? k->maxpool_reverse : k->avgpool_reverse)(&p);
    lanes_compare(maximum ? "maximum" : "average", p.output.values, expected, inputs, 1e-6);
    lanes_release();
}

static void check_pools(const cpu_kernels *k) {
    for (size_t i = 0; i < POOLS; i++)
        for (int add = 0; add < 2; add++) {
            check_pool(k, &pools[i], true, add);
            if (!pools[i].pad) check_pool(k, &pools[i], false, add);
        }
}

/* ------------------------------------------------------------------------------------------ layer norm */

typedef struct norm {
    size_t channels;
    const float *gamma;
    double eps;
} norm;

static void norm_forward(const void *shape, const double *x, double *y) {
    const norm *n = shape;
    double mean = 0, variance = 0;
    for (size_t c = 0; c < n->channels; c++) mean += x[c] / (double)n->channels;
    for (size_t c = 0; c < n->channels; c++) variance += (x[c] - mean) * (x[c] - mean) / (double)n->channels;
    for (size_t c = 0; c < n->channels; c++)
        y[c] = (x[c] - mean) / sqrt(variance + n->eps) * (n->gamma ? n->gamma[c] : 1);
}

static void check_layernorm(const cpu_kernels *k, uint32_t channels, bool gamma, bool add, bool in_place) {
    const size_t positions = 3, count = positions * channels;
    float *x = periodic(lanes_values(count), count);
    const norm n = {channels, gamma ? lanes_weights(channels) : NULL, 1e-3};
    const definition d = {norm_forward, &n, channels, channels};
    double *expected = lanes_doubles(count * LANES);
    for (size_t i = 0; i < count * LANES; i++) x[i] += 3; /* a mean that would cancel in one pass */
    layernorm_reverse_args a = {.positions = positions,
                                .channels = channels,
                                .gamma = n.gamma,
                                .eps = (float)n.eps,
                                .input = x,
                                .gradient = periodic(lanes_values(count), count),
                                .output = target(add, count, expected)};
    for (size_t p = 0; p < positions; p++) {
        const size_t at = p * channels * LANES;
        differentiate(&d, x + at, a.gradient + at, expected + at);
    }
    if (in_place) a.gradient = a.output.values = lanes_copy(a.gradient, count);
    k->layernorm_reverse(&a);
    lanes_compare("dL/dx", a.output.values, expected, count, 2e-5); /* deviations from a mean of 3 lose a digit */
    lanes_release();
}

static void check_layernorms(const cpu_kernels *k) {
    check_layernorm(k, 2, false, false, false);
    check_layernorm(k, 7, true, true, false);
    check_layernorm(k, 19, true, false, true);
}

/* ------------------------------------------------------------------------------------------- attention */

typedef struct heads {
    size_t tokens, heads, width; /* width of a head */
    bool causal;
} heads;

/* x = q, k, v one after another, y: [tokens][heads * width] each. */
static void attention_forward(const void *shape, const double *x, double *y) {
    const heads *h = shape;
    const size_t stride = h->heads * h->width, value = h->tokens * stride;
    double p[128];
    for (size_t head = 0; head < h->heads; head++)
        for (size_t t = 0; t < h->tokens; t++) {
            const size_t seen = h->causal ? t + 1 : h->tokens;
            double sum = 0;
            for (size_t s = 0; s < seen; s++) {
                double score = 0;
                for (size_t c = head * h->width; c < (head + 1) * h->width; c++)
                    score += x[t * stride + c] * x[value + s * stride + c];
                sum += p[s] = exp(score / sqrt((double)h->width));
            }
            for (size_t c = head * h->width; c < (head + 1) * h->width; c++) {
                y[t * stride + c] = 0;
                for (size_t s = 0; s < seen; s++) y[t * stride + c] += p[s] / sum * x[2 * value + s * stride + c];
            }
        }
}

/* Tokens around the tiles and blocks of queries, and more than keys are taken at a time. */
static const heads attentions[] = {{1, 2, 3},       {5, 1, 1},       {7, 2, 4},        {25, 1, 3},      {70, 1, 2},
                                   {1, 1, 2, true}, {7, 2, 3, true}, {26, 1, 3, true}, {71, 1, 2, true}};
enum { ATTENTIONS = sizeof attentions / sizeof *attentions };

/* The forward kernel; its argument is x as attention_forward takes it. */
static void check_attention_forward(const cpu_kernels *k, const heads *h, const float *x) {
    const size_t count = h->tokens * h->heads * h->width;
    const uint32_t tokens = (uint32_t)h->tokens, width = (uint32_t)h->width;
    const size_t scratch = (k->attention_scratch(tokens, width) + LANES - 1) / LANES;
    double *lane_x = lanes_doubles(3 * count), *lane_y = lanes_doubles(count), *y = lanes_doubles(count * LANES);
    const attention_args a = {.tokens = tokens,
                              .queries = tokens,
                              .causal = h->causal,
                              .heads = (uint32_t)h->heads,
                              .head_width = width,
                              .q = x,
                              .k = x + count * LANES,
                              .v = x + 2 * count * LANES,
                              .output = lanes_output(count),
                              .scratch = lanes_output(scratch)};
    for (size_t lane = 0; lane < LANES; lane++) {
        for (size_t i = 0; i < 3 * count; i++) lane_x[i] = x[i * LANES + lane];
        attention_forward(h, lane_x, lane_y);
        for (size_t i = 0; i < count; i++) y[i * LANES + lane] = lane_y[i];
    }
    k->attention(&a);
    lanes_compare("y", a.output, y, count, 1e-6);
}

static void check_attention(const cpu_kernels *k, const heads *h, bool add, bool in_place) {
    const size_t count = h->tokens * h->heads * h->width;
    const uint32_t tokens = (uint32_t)h->tokens, width = (uint32_t)h->width;
    const float *x = periodic(lanes_values(3 * count), 3 * count);
    const float *gradient = periodic(lanes_values(count), count);
    const definition d = {attention_forward, h, 3 * count, count};
    double *expected = lanes_doubles(3 * count * LANES), *each[3];
    for (size_t i = 0; i < 3; i++) each[i] = expected + i * count * LANES;
    attention_reverse_args a = {.tokens = tokens,
                                .queries = tokens,
                                .heads = (uint32_t)h->heads,
                                .head_width = width,
                                .causal = h->causal,
                                .q = lanes_copy(x, count),
                                .k = lanes_copy(x + count * LANES, count),
                                .v = lanes_copy(x + 2 * count * LANES, count),
                                .gradient = gradient,
                                .output_q = target(add, count, each[0]),
                                .output_k = target(add, count, each[1]),
                                .output_v = target(add, count, each[2]),
                                .scratch =
                                    lanes_output((k->attention_reverse_scratch(tokens, width) + LANES - 1) / LANES)};
    if (in_place) {
        a.output_q.values = (float *)a.q;
        a.output_k.values = (float *)a.k;
        a.output_v.values = (float *)a.v;
    }
    differentiate(&d, x, gradient, expected);
    check_attention_forward(k, h, x);
    k->attention_reverse(&a);
    lanes_compare("dL/dq", a.output_q.values, each[0], count, 3e-6);
    lanes_compare("dL/dk", a.output_k.values, each[1], count, 3e-6);
    lanes_compare("dL/dv", a.output_v.values, each[2], count, 3e-6);
    lanes_release();
}

static void check_attentions(const cpu_kernels *k) {
    for (size_t i = 0; i < ATTENTIONS; i++)
        for (int way = 0; way < 3; way++) check_attention(k, &attentions[i], way == 1, way == 2);
}

/* A gradient that nobody wants does not change the others. */
static void check_parts(const cpu_kernels *k) {
    const uint32_t tokens = 13, width = 5;
    const size_t count = tokens * width;
    const attention_reverse_args all = {
        .tokens = tokens,
        .queries = tokens,
        .heads = 1,
        .head_width = width,
        .q = lanes_values(count),
        .k = lanes_values(count),
        .v = lanes_values(count),
        .gradient = lanes_values(count),
        .output_q = {lanes_output(count), false},
        .output_k = {lanes_output(count), false},
        .output_v = {lanes_output(count), false},
        .scratch = lanes_output((k->attention_reverse_scratch(tokens, width) + LANES - 1) / LANES),
    };
    k->attention_reverse(&all);
    for (int wanted = 0; wanted < 3; wanted++) {
        attention_reverse_args one = all;
        gradient_sum *outputs[] = {&one.output_q, &one.output_k, &one.output_v};
        const float *expected = outputs[wanted]->values;
        for (int i = 0; i < 3; i++) outputs[i]->values = i == wanted ? lanes_output(count) : NULL;
        k->attention_reverse(&one);
        lanes_same("the one gradient", outputs[wanted]->values, expected, count);
    }
}

/* Queries that are not asked for are as good as ones whose results have no gradient. */
static void check_queries(const cpu_kernels *k) {
    const uint32_t tokens = 13, queries = 2, width = 5;
    const size_t count = tokens * width, asked = queries * width;
    const float *q = lanes_values(count), *of_asked = lanes_values(asked);
    float *gradient = lanes_output(count);
    memset(gradient, 0, count * LANES * sizeof *gradient);
    memcpy(gradient, of_asked, asked * LANES * sizeof *gradient);
    attention_reverse_args all = {
        .tokens = tokens,
        .queries = tokens,
        .heads = 1,
        .head_width = width,
        .q = q,
        .k = lanes_values(count),
        .v = lanes_values(count),
        .gradient = gradient,
        .output_q = {lanes_output(count), false},
        .output_k = {lanes_output(count), false},
        .output_v = {lanes_output(count), false},
        .scratch = lanes_output((k->attention_reverse_scratch(tokens, width) + LANES - 1) / LANES),
    };
    attention_reverse_args some = all;
    some.queries = queries;
    some.q = lanes_copy(q, asked);
    some.gradient = of_asked;
    some.output_q.values = lanes_output(asked);
    some.output_k.values = lanes_output(count);
    some.output_v.values = lanes_output(count);
    k->attention_reverse(&all);
    k->attention_reverse(&some);
    lanes_same("dL/dq", some.output_q.values, all.output_q.values, asked);
    lanes_same("dL/dk", some.output_k.values, all.output_k.values, count);
    lanes_same("dL/dv", some.output_v.values, all.output_v.values, count);
}

/* ---------------------------------------------------------------------------------------------- copies */

static void check_tokens(const cpu_kernels *k, bool add) {
    const uint32_t tokens = 5, channels = 3;
    const size_t all = tokens * channels, images = all - channels;
    const float *gradient = lanes_values(all);
    double *embedded = lanes_doubles(images * LANES), *selected = lanes_doubles(all * LANES);
    const gradient_sum x = target(add, images, embedded), y = target(add, all, selected);
    for (size_t i = 0; i < images * LANES; i++) embedded[i] += gradient[i + channels * LANES];
    for (size_t i = 0; i < channels * LANES; i++) selected[i] += gradient[i];
    k->embed_reverse(gradient, tokens, channels, x);
    k->select_reverse(gradient, tokens, channels, y);
    lanes_compare("embed", x.values, embedded, images, 1e-7);
    lanes_compare("select", y.values, selected, all, 1e-7);
}

static void check_subsample(const cpu_kernels *k, bool add) {
    const subsample_reverse_args shape = {
        .in_h = 5, .in_w = 6, .out_h = 3, .out_w = 3, .stride = 2, .in_channels = 3, .out_channels = 7, .before = 2};
    const size_t inputs = 5 * 6 * 3;
    subsample_reverse_args s = shape;
    double *expected = lanes_doubles(inputs * LANES);
    s.gradient = lanes_values(3 * 3 * 7);
    s.output = target(add, inputs, expected);
    for (size_t y = 0; y < 3; y++)
        for (size_t x = 0; x < 3; x++)
            for (size_t c = 0; c < 3 * LANES; c++)
                expected[(2 * y * 6 + 2 * x) * 3 * LANES + c] += s.gradient[(y * 3 + x) * 7 * LANES + 2 * LANES + c];
    k->subsample_reverse(&s);
    lanes_compare("subsample", s.output.values, expected, inputs, 1e-7);
}

static void check_copies(const cpu_kernels *k) {
    for (int add = 0; add < 2; add++) {
        check_tokens(k, add);
        check_subsample(k, add);
    }
}

/* -------------------------------------------------------------------------------------- mean token, length */

/* dL/dx[t] = dL/dy[t + 1] + dL/dy[0] / T, and forwards. */
static void check_mean_token(const cpu_kernels *k, bool add) {
    const uint32_t tokens = 6, channels = 5;
    const size_t all = tokens * channels, images = all - channels, row = channels * LANES;
    const float *x = lanes_values(images), *table = lanes_weights(all), *gradient = lanes_values(all);
    float *y = lanes_output(all);
    double *expected = lanes_doubles(all * LANES), *derived = lanes_doubles(images * LANES);
    const gradient_sum dx = target(add, images, derived);
    for (size_t i = 0; i < images * LANES; i++) {
        expected[i % row] += x[i] / (tokens - 1.0);
        expected[i + row] = x[i];
        derived[i] += gradient[i + row] + gradient[i % row] / (tokens - 1.0);
    }
    for (size_t i = 0; i < all * LANES; i++) expected[i] += table[i / LANES];
    k->mean_token(x, table, tokens, channels, y);
    k->mean_token_reverse(gradient, tokens, channels, dx);
    lanes_compare("mean token", y, expected, all, 1e-6);
    lanes_compare("its gradient", dx.values, derived, images, 1e-6);
}

/* y = x / |x|, dL/dx = (g - x x.g / |x|^2) / |x|. */
static void check_length(const cpu_kernels *k, bool add) {
    enum { POSITIONS = 3, CHANNELS = 7 };
    const size_t count = POSITIONS * CHANNELS;
    const float *x = lanes_values(count), *gradient = lanes_values(count);
    float *y = lanes_output(count);
    double *expected = lanes_doubles(count * LANES), *derived = lanes_doubles(count * LANES);
    const gradient_sum dx = target(add, count, derived);
    for (size_t p = 0; p < POSITIONS; p++)
        for (size_t lane = 0; lane < LANES; lane++) {
            double squares = 0, product = 0;
            for (size_t c = 0; c < CHANNELS; c++) {
                const size_t i = (p * CHANNELS + c) * LANES + lane;
                squares += (double)x[i] * x[i];
                product += (double)x[i] * gradient[i];
            }
            for (size_t c = 0; c < CHANNELS; c++) {
                const size_t i = (p * CHANNELS + c) * LANES + lane;
                expected[i] = x[i] / sqrt(squares);
                derived[i] += (gradient[i] - x[i] * product / squares) / sqrt(squares);
            }
        }
    k->l2norm(x, POSITIONS, CHANNELS, y);
    k->l2norm_reverse(x, gradient, POSITIONS, CHANNELS, dx);
    lanes_compare("length 1", y, expected, count, 1e-6);
    lanes_compare("its gradient", dx.values, derived, count, 1e-6);
}

/* A length of 0 changes nothing, one that fp32 has no number for is not taken for infinity. */
static void check_odd_lengths(const cpu_kernels *k) {
    float *x = lanes_copy(lanes_values(2), 2);
    const float *gradient = lanes_values(2);
    float *y = lanes_output(2), *dx = lanes_output(2);
    x[0] = x[LANES] = 0;
    x[1] = x[LANES + 1] = 1e30f;
    k->l2norm(x, 1, 2, y);
    k->l2norm_reverse(x, gradient, 1, 2, (gradient_sum){dx, false});
    CHECK(y[0] == 0 && y[LANES] == 0);
    CHECK(dx[0] == gradient[0] && dx[LANES] == gradient[LANES]);
    CHECK(isnan(y[1]) && isnan(y[LANES + 1]));
    CHECK(isfinite(y[2]) && isfinite(dx[2]));
}

static void check_clip(const cpu_kernels *k) {
    for (int add = 0; add < 2; add++) {
        check_mean_token(k, add);
        check_length(k, add);
    }
    check_odd_lengths(k);
}

int main(void) {
    lanes_each("activations in reverse", check_activations);
    lanes_each("pools in reverse", check_pools);
    lanes_each("layer norm in reverse", check_layernorms);
    lanes_each("attention, and in reverse", check_attentions);
    lanes_each("attention in reverse, one gradient alone", check_parts);
    lanes_each("attention in reverse, a few queries", check_queries);
    lanes_each("embed, select and subsample in reverse", check_copies);
    lanes_each("the mean token and vectors of length 1, and in reverse", check_clip);
    return test_end();
}
