/*
 * conv_transposed.c - data gradients: the transpose of a convolution, every form and type, against plain loops in
 * double that scatter what the kernels gather.
 */
#include "kernel_conv.h"

/* The convolution that is transposed: x [pairs][h][w][in] to W x [pairs][out_h][out_w][out]. */
typedef struct problem {
    uint32_t pairs, h, w, in, out, kernel_h, kernel_w, stride, pad;
    bool added; /* to a gradient that is there */
    uint32_t splits;
} problem;

static uint32_t out_size(uint32_t in, uint32_t pad, uint32_t kernel, uint32_t stride) {
    return (in + 2 * pad - kernel) / stride + 1;
}

/* dx += W' dy: every output pixel gives to the pixels it was made from. weight [in][kernel_h][kernel_w][out]. */
static void scatter(const problem *p, const gpu_conv *c, const double *dy, const double *weight, double *dx) {
    for (uint32_t pixel = 0; pixel < c->in_h * c->in_w; pixel++)
        for (uint32_t tap = 0; tap < p->kernel_h * p->kernel_w; tap++) {
            const int64_t y = (int64_t)(pixel / c->in_w) * p->stride + tap / p->kernel_w - p->pad;
            const int64_t x = (int64_t)(pixel % c->in_w) * p->stride + tap % p->kernel_w - p->pad;
            if (y < 0 || y >= p->h || x < 0 || x >= p->w) continue;
            for (uint32_t i = 0; i < p->in; i++)
                for (uint32_t o = 0; o < p->out; o++)
                    dx[(size_t)(y * p->w + x) * p->in + i] +=
                        weight[((size_t)i * p->kernel_h * p->kernel_w + tap) * p->out + o] * dy[pixel * p->out + o];
        }
}

static void round_all(kernel_format format, double *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = kernel_round(format, values[i]);
}

static kernel_conv make(const problem *p, gpu_type type) {
    const uint32_t out_h = out_size(p->h, p->pad, p->kernel_h, p->stride);
    const uint32_t out_w = out_size(p->w, p->pad, p->kernel_w, p->stride);
    kernel_conv n = {.c = {.type = type,
                           .pairs = p->pairs,
                           .in_h = out_h,
                           .in_w = out_w,
                           .in_channels = p->out,
                           .out_h = p->h,
                           .out_w = p->w,
                           .out_channels = p->in,
                           .kernel_h = p->kernel_h,
                           .kernel_w = p->kernel_w,
                           .stride = p->stride,
                           .pad = p->pad,
                           .transposed = true,
                           .splits = p->splits},
                     .stored = type,
                     .rows = (size_t)p->pairs * p->h * p->w,
                     .in_place = p->added};
    const size_t taps = (size_t)p->kernel_h * p->kernel_w, stride = gpu_stride(p->in);
    const size_t gradient = (size_t)p->pairs * out_h * out_w, image = (size_t)p->h * p->w * p->in;
    double *dy = kernel_values(gradient * p->out, 1, kernel_stored(type));
    double *weight = kernel_zeros(stride * taps * p->out); /* the rows behind the last channel are zero */
    const size_t weights = p->in * taps * p->out;
    memcpy(weight, kernel_values(weights, 2, kernel_stored(type)), weights * sizeof *weight);
    n.c.x = kernel_upload(type, dy, gradient, p->out);
    n.c.weight = kernel_upload(type, weight, stride * taps, p->out);
    round_all(kernel_exact(type), dy, gradient * p->out); /* tf32: the kernel rounds by itself */
    round_all(kernel_exact(type), weight, weights);
    n.residual = p->added ? kernel_values(n.rows * p->in, 3, kernel_stored(type)) : NULL;
    n.expected = kernel_zeros(n.rows * p->in);
    if (p->added) memcpy(n.expected, n.residual, n.rows * p->in * sizeof *n.expected);
    for (uint32_t pair = 0; pair < p->pairs; pair++)
        scatter(p, &n.c, dy + (size_t)pair * out_h * out_w * p->out, weight, n.expected + pair * image);
    if (gpu_conv_workspace(&n.c)) n.c.workspace = kernel_buffer(gpu_conv_workspace(&n.c));
    kernel_conv_reset(&n);
    return n;
}

/* Those marked try every form: the large tiles take nearly all of the time. */
enum { SOME = 2, EVERY = KERNEL_EVERY_FORM };
static const struct {
    const char *name;
    int forms;
    problem p;
} SHAPES[] = {
    {"3x3 stride 1", EVERY, {2, 7, 6, 20, 16, 3, 3, 1, 1, .added = true}},
    {"3x3 stride 2, even sides", SOME, {2, 8, 6, 16, 24, 3, 3, 2, 1, .added = true}},
    {"3x3 stride 2, odd sides, phases of unequal size", EVERY, {3, 9, 5, 8, 40, 3, 3, 2, 1}},
    {"1x1 stride 2, phases without taps", SOME, {2, 7, 7, 20, 33, 1, 1, 2, 0, .added = true}},
    {"1x1 stride 1, a product like any other", SOME, {3, 5, 3, 40, 64, 1, 1, 1, 0, .added = true}},
    {"linear layer to 3", SOME, {5, 1, 1, 24, 3, 1, 1, 1, 0}},
    {"1x1 padded", SOME, {2, 4, 4, 5, 9, 1, 1, 1, 1}},
    {"2x2 stride 3, pixels that nothing reads", SOME, {2, 8, 7, 9, 8, 2, 2, 3, 0}},
    {"4x4 patches of 3 channels", SOME, {2, 12, 8, 3, 24, 4, 4, 4, 0}},
    {"7x7 stride 2 stem", SOME, {1, 13, 15, 3, 40, 7, 7, 2, 3}},
    {"3x3 stride 2 to 3 channels, narrow vectors", SOME, {2, 6, 7, 8, 3, 3, 3, 2, 1, .added = true}},
    {"1x3 stride 2", SOME, {2, 1, 6, 8, 8, 1, 3, 2, 0}},
    {"kernel as large as the image", SOME, {3, 4, 4, 16, 10, 4, 4, 1, 0}},
    {"5x5, padding beyond the kernel", SOME, {1, 4, 5, 8, 16, 5, 5, 2, 6}},
    {"3x3 stride 1, 2 of 3 splits", SOME, {2, 4, 4, 20, 16, 3, 3, 1, 1, .added = true, .splits = 2}},
    {"3x3 stride 2, more splits than a phase has units",
     EVERY,
     {2, 7, 6, 12, 32, 3, 3, 2, 1, .added = true, .splits = 4}},
};

static void shapes(gpu_type type) {
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        kernel_conv n = make(&SHAPES[i].p, type);
        kernel_conv_forms(SHAPES[i].name, &n, SHAPES[i].forms, 2);
    }
}

/* A pair alone gives the bytes that it gives among others, whose rows are more than a tile. */
static void pairs_alone(gpu_type type) {
    for (uint32_t splits = 0; splits < 4; splits += 3) {
        const problem p = {19, 5, 3, 12, 32, 3, 3, 2, 1, .added = true, .splits = splits};
        kernel_conv n = make(&p, type);
        const size_t bytes = kernel_conv_bytes(&n) / p.pairs;
        const size_t gradient = (size_t)n.c.in_h * n.c.in_w * gpu_stride(p.out) * gpu_type_size(type);
        const void *there = kernel_copy(n.c.y, kernel_conv_bytes(&n));
        KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
        for (uint32_t pair = 0; pair < p.pairs; pair += 6) {
            gpu_conv one = n.c;
            one.pairs = 1;
            one.x = kernel_copy((const char *)n.c.x + pair * gradient, gradient);
            one.y = kernel_copy((const char *)there + pair * bytes, bytes);
            one.residual = one.y;
            KERNEL_RUN(gpu_conv_launch(&one, 0, 0));
            kernel_same_bytes("a pair alone", one.y, (char *)n.c.y + pair * bytes, bytes);
        }
    }
}

static void refusals(void) {
    const problem p = {2, 6, 6, 16, 20, 3, 3, 2, 1};
    kernel_conv n = make(&p, GPU_BF16);
    CHECK(gpu_conv_can(&n.c, 0));
    gpu_conv bad[5];
    for (size_t i = 0; i < 5; i++) bad[i] = n.c;
    bad[0].out_h = 8; /* gives 4 pixels, not 3 */
    bad[1].in_w = 6;
    bad[2].stride = 0;
    bad[3].example = kernel_buffer(8);
    bad[4].stride = bad[4].in_h = bad[4].in_w = 1;
    bad[4].kernel_h = bad[4].kernel_w = bad[4].out_h = bad[4].out_w = 1u << 15; /* a weight of 2^34 elements */
    bad[4].pad = 0;
    for (size_t i = 0; i < 5; i++) {
        CHECK(!gpu_conv_can(&bad[i], 0));
        CHECK_INT(gpu_conv_launch(&bad[i], 0, 0), cudaErrorInvalidValue);
    }
    gpu_conv wide = n.c; /* 256 x 256 phases are more than a grid has */
    wide.stride = 256;
    wide.in_h = wide.in_w = 1;
    CHECK(!gpu_conv_can(&wide, 0));
    wide.stride = 255;
    CHECK(gpu_conv_can(&wide, 0));
}

static void tests(void) {
    kernel_each("transposed conv shapes", KERNEL_ALL, shapes);
    kernel_each("transposed conv pairs alone", KERNEL_ALL, pairs_alone);
    kernel_check("transposed conv refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
