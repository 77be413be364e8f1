/* elementwise.c - kernels/cuda/elementwise.cu against the reference backend's ops, and what each formula says. */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

/* The expected values are exact: sums of two values, rounded to fp32 and then to the type, as the kernels promise. */
static void round_all(gpu_type type, double *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = kernel_round(kernel_stored(type), (float)values[i]);
}

/* ---------------------------------------------------------------------------------------------- normalise */

static void check_normalise(gpu_type type) {
    const uint32_t cases[][3] = {{2, 15, 3}, {1, 1, 1}, {3, 100, 4}, {2, 9, 11}, {1, 300, 3}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t images = cases[k][0], positions = cases[k][1], channels = cases[k][2];
        const size_t rows = (size_t)images * positions;
        uint8_t *pixels = kernel_buffer(rows * channels);
        for (size_t i = 0; i < rows * channels; i++) pixels[i] = (uint8_t)kernel_random(k, i, 256);
        float *mul = kernel_floats(kernel_values(channels, 4, KERNEL_FLOAT), channels);
        float *add = kernel_floats(kernel_values(channels, 5, KERNEL_FLOAT), channels);
        float *scale = k % 2 ? kernel_floats(kernel_values(images, 6, KERNEL_FLOAT), images) : NULL;
        double *expected = kernel_zeros(rows * channels);
        for (size_t i = 0; i < rows * channels; i++) {
            const float x = fmaf(pixels[i], mul[i % channels], add[i % channels]);
            expected[i] = scale ? x * scale[i / channels / positions] : x;
        }
        round_all(type, expected, rows * channels);
        void *y = kernel_output(type, rows, channels);
        KERNEL_RUN(gpu_normalise_launch(type, images, positions, channels, pixels, mul, add, scale, y, 0));
        kernel_compare("normalise", kernel_download(type, y, rows, channels), expected, rows * channels, 0, 0);
    }
    CHECK(gpu_normalise_launch(type, 0, 1, 3, NULL, NULL, NULL, NULL, NULL, 0) == cudaErrorInvalidValue);
}

/* ---------------------------------------------------------------------------------------------- subsample */

/* dx += F' dy for an op F that is linear: the product of dy with what F makes of each unit vector. */
static void transpose(const op *o, shape in, shape out, const double *dy, double *dx) {
    const size_t size = shape_positions(in) * in.c, result = shape_positions(out) * out.c;
    double *unit = kernel_zeros(size + 1), *y = kernel_zeros(result);
    for (size_t i = 0; i < size; i++) {
        const reference_operands v = {.in = in, .out = out, .x = {unit}, .y = y};
        unit[i] = 1;
        reference_op(o, &v);
        unit[i] = 0;
        for (size_t k = 0; k < result; k++) dx[i] += dy[k] * y[k];
    }
}

/* A gradient's check: what is there before, what is given, and what must come out. */
typedef struct gradient {
    size_t dx_rows, dy_rows; /* of all pairs */
    uint32_t dx_channels, dy_channels;
    double *expected;
    void *dy, *dx;
} gradient;

/* `in` and `out` are of one pair. */
static gradient gradient_of(gpu_type type, const op *o, uint32_t pairs, shape in, shape out, bool add) {
    gradient g = {pairs * shape_positions(in), pairs * shape_positions(out), in.c, out.c, NULL, NULL, NULL};
    const size_t size = g.dx_rows * in.c, result = g.dy_rows * out.c;
    double *dy = kernel_values(result, 40, kernel_stored(type));
    g.expected = add ? kernel_values(size + 1, 41, kernel_stored(type)) : kernel_zeros(size + 1);
    g.dy = kernel_upload(type, dy, g.dy_rows, out.c);
    g.dx = add ? kernel_upload(type, g.expected, g.dx_rows, in.c) : kernel_output(type, g.dx_rows, in.c);
    for (uint32_t i = 0; i < pairs; i++)
        transpose(o, in, out, dy + i * (result / pairs), g.expected + i * (size / pairs));
    round_all(type, g.expected, size);
    return g;
}

static void compare_gradient(const char *what, gpu_type type, const gradient *g) {
    kernel_compare(what, kernel_download(type, g->dx, g->dx_rows, g->dx_channels), g->expected,
                   g->dx_rows * g->dx_channels, 0, 0);
}

static void check_subsample(gpu_type type) {
    const struct {
        uint32_t pairs, h, w, in, out, stride, before;
    } cases[] = {
        {2, 8, 6, 16, 32, 2, 8},   /* a CIFAR ResNet's */
        {3, 5, 7, 16, 32, 2, 8},   /* odd sides */
        {1, 6, 6, 12, 24, 2, 6},   /* zeros in front that are no whole vector */
        {2, 4, 4, 3, 8, 1, 2},     /* narrow in, wide out */
        {2, 4, 4, 3, 4, 1, 0},     /* narrow both */
        {2, 4, 4, 4, 12, 2, 4},    /* narrow in: whole vectors of four */
        {1, 7, 7, 20, 20, 3, 0},   /* channels stay; the padding behind them too */
        {1, 2, 2, 24, 100, 2, 64}, /* zeros in front and behind */
        {1, 3, 3, 12, 16, 2, 4}    /* dx has a vector of padding where dy's row has ended */
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        gpu_subsample s = {.type = type,
                           .pairs = cases[k].pairs,
                           .in_h = cases[k].h,
                           .in_w = cases[k].w,
                           .out_h = (cases[k].h - 1) / cases[k].stride + 1,
                           .out_w = (cases[k].w - 1) / cases[k].stride + 1,
                           .in_channels = cases[k].in,
                           .out_channels = cases[k].out,
                           .stride = cases[k].stride,
                           .before = cases[k].before};
        const op o = {.kind = OP_SUBSAMPLE, .stride = s.stride, .pad = s.before};
        const size_t in = (size_t)s.in_h * s.in_w, out = (size_t)s.out_h * s.out_w;
        double *x = kernel_values(s.pairs * in * s.in_channels, k, kernel_stored(type));
        double *expected = kernel_zeros(s.pairs * out * s.out_channels);
        for (size_t i = 0; i < s.pairs; i++) {
            const reference_operands v = {.in = {s.in_h, s.in_w, s.in_channels},
                                          .out = {s.out_h, s.out_w, s.out_channels},
                                          .x = {x + i * in * s.in_channels},
                                          .y = expected + i * out * s.out_channels};
            reference_op(&o, &v);
        }
        s.x = kernel_upload(type, x, s.pairs * in, s.in_channels);
        s.y = kernel_output(type, s.pairs * out, s.out_channels);
        KERNEL_RUN(gpu_subsample_launch(&s, 0));
        for (int add = 0; add < 2; add++) {
            const shape from = {s.in_h, s.in_w, s.in_channels}, to = {s.out_h, s.out_w, s.out_channels};
            const gradient g = gradient_of(type, &o, s.pairs, from, to, add);
            KERNEL_RUN(gpu_subsample_reverse_launch(&s, g.dy, g.dx, add, 0));
            compare_gradient("gradient of subsample", type, &g);
        }
        kernel_compare("subsample", kernel_download(type, s.y, s.pairs * out, s.out_channels), expected,
                       s.pairs * out * s.out_channels, 0, 0);
    }
    gpu_subsample bad = {.type = type,
                         .pairs = 1,
                         .in_h = 4,
                         .in_w = 4,
                         .out_h = 2,
                         .out_w = 2,
                         .in_channels = 8,
                         .out_channels = 16,
                         .stride = 2,
                         .before = 9};
    CHECK(gpu_subsample_launch(&bad, 0) == cudaErrorInvalidValue);
    CHECK(gpu_subsample_reverse_launch(&bad, NULL, NULL, false, 0) == cudaErrorInvalidValue);
    bad.before = 0, bad.out_w = 3;
    CHECK(gpu_subsample_launch(&bad, 0) == cudaErrorInvalidValue);
}

/* ---------------------------------------------------------------------------------------- embed and select */

static void check_embed(gpu_type type) {
    const uint32_t cases[][3] = {{2, 17, 48}, {3, 5, 10}, {1, 2, 3}, {2, 1, 8}, {1, 50, 20}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        gpu_embed e = {.type = type, .pairs = cases[k][0], .tokens = cases[k][1], .channels = cases[k][2]};
        const uint32_t tokens = e.tokens, width = e.channels;
        const size_t in = (size_t)tokens - 1;
        double *x = kernel_values(e.pairs * in * width + 1, 6, kernel_stored(type));
        double *table = kernel_values((size_t)tokens * width, 7, KERNEL_FLOAT);
        double *expected = kernel_zeros((size_t)e.pairs * tokens * width);
        float *weight = kernel_floats(table, (size_t)tokens * width);
        const op o = {.kind = OP_EMBED, .weight = weight};
        for (size_t i = 0; i < e.pairs; i++) {
            const reference_operands v = {.in = {1, (uint32_t)in, width},
                                          .out = {1, tokens, width},
                                          .x = {x + i * in * width},
                                          .y = expected + i * tokens * width};
            reference_op(&o, &v);
        }
        round_all(type, expected, (size_t)e.pairs * tokens * width);
        e.table = weight;
        e.x = kernel_upload(type, x, e.pairs * in, width);
        e.y = kernel_output(type, (size_t)e.pairs * tokens, width);
        KERNEL_RUN(gpu_embed_launch(&e, 0));
        const op still = {.kind = OP_EMBED, .weight = (float *)kernel_zeros((size_t)tokens * width)};
        for (int add = 0; add < 2 && in > 0; add++) {
            const shape from = {1, (uint32_t)in, width}, to = {1, tokens, width};
            const gradient g = gradient_of(type, &still, e.pairs, from, to, add);
            KERNEL_RUN(gpu_embed_reverse_launch(&e, g.dy, g.dx, add, 0));
            compare_gradient("gradient of embed", type, &g);
        }
        kernel_compare("embed", kernel_download(type, e.y, (size_t)e.pairs * tokens, width), expected,
                       (size_t)e.pairs * tokens * width, 0, 0);
    }
}

static void check_select(gpu_type type) {
    const uint32_t cases[][3] = {{3, 17, 48}, {2, 5, 10}, {300, 1, 3}, {1, 2, 8}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t pairs = cases[k][0], positions = cases[k][1], width = cases[k][2];
        double *x = kernel_values((size_t)pairs * positions * width, 8, kernel_stored(type));
        double *expected = kernel_zeros((size_t)pairs * width);
        for (size_t i = 0; i < pairs; i++) memcpy(expected + i * width, x + i * positions * width, width * sizeof *x);
        void *in = kernel_upload(type, x, (size_t)pairs * positions, width), *y = kernel_output(type, pairs, width);
        KERNEL_RUN(gpu_select_launch(type, pairs, positions, width, in, y, 0));
        const op o = {.kind = OP_SELECT};
        for (int add = 0; add < 2; add++) {
            const gradient g = gradient_of(type, &o, pairs, (shape){1, positions, width}, (shape){1, 1, width}, add);
            KERNEL_RUN(gpu_select_reverse_launch(type, pairs, positions, width, g.dy, g.dx, add, 0));
            compare_gradient("gradient of select", type, &g);
        }
        kernel_compare("select", kernel_download(type, y, pairs, width), expected, (size_t)pairs * width, 0, 0);
    }
}

/* -------------------------------------------------------------------------------------------- keep gather */

static void check_gather(void) {
    const uint32_t cases[][5] = {/* slots, rows, first row of the site, its channels, pairs */
                                 {3, 40, 0, 16, 7},
                                 {2, 37, 5, 10, 4},
                                 {4, 9, 2, 3, 300},
                                 {1, 130, 1, 129, 2}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t slots = cases[k][0], rows = cases[k][1], first = cases[k][2], channels = cases[k][3];
        const uint32_t pairs = cases[k][4];
        double *keep = kernel_values((size_t)slots * rows, 9, KERNEL_FLOAT);
        double *expected = kernel_zeros((size_t)pairs * channels);
        uint32_t *slot = kernel_buffer(pairs * sizeof *slot);
        for (uint32_t i = 0; i < pairs; i++) slot[i] = kernel_random(k, i, slots);
        for (uint32_t i = 0; i < pairs; i++)
            memcpy(expected + i * channels, keep + slot[i] * rows + first, channels * sizeof *keep);
        const float *all = kernel_floats(keep, (size_t)slots * rows);
        const gpu_mask mask = {.place = GPU_PLACE_PRE, .keep = all + first, .slot = slot, .rows = rows};
        float *out = kernel_output(GPU_F32, pairs, channels);
        KERNEL_RUN(gpu_keep_gather_launch(&mask, pairs, channels, out, 0));
        kernel_compare("keeps", kernel_download(GPU_F32, out, pairs, channels), expected, (size_t)pairs * channels, 0,
                       0);
    }
    const gpu_mask none = {.place = GPU_PLACE_NONE};
    CHECK(gpu_keep_gather_launch(&none, 1, 8, NULL, 0) == cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("normalise", KERNEL_ALL, check_normalise);
    kernel_each("subsample", KERNEL_ALL, check_subsample);
    kernel_each("embed", KERNEL_ALL, check_embed);
    kernel_each("select", KERNEL_ALL, check_select);
    kernel_check("keep gather", check_gather);
}

int main(void) {
    return kernel_main(tests);
}
