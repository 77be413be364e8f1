/* pool.c - kernels/cuda/pool.cu against the reference backend's ops. */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

typedef struct window {
    bool maximum;
    uint32_t pairs, in_h, in_w, channels, kernel_h, kernel_w, stride, pad;
} window;

static const window windows[] = {
    {true, 2, 9, 7, 24, 3, 3, 2, 1},   /* ResNet's stem, odd sides */
    {true, 1, 8, 8, 64, 3, 3, 2, 1},   /* even sides: the last window ends inside */
    {true, 3, 5, 6, 3, 2, 3, 1, 1},    /* narrow rows, a kernel that is no square */
    {true, 1, 1, 1, 9, 1, 1, 1, 0},    /* one pixel */
    {true, 5, 4, 4, 17, 4, 4, 4, 0},   /* many pairs, nothing overlaps */
    {false, 3, 7, 7, 40, 7, 7, 1, 0},  /* global, odd: one row for each group of threads but one */
    {false, 37, 8, 8, 16, 8, 8, 1, 0}, /* global, more items than a block has */
    {false, 2, 12, 8, 5, 4, 8, 4, 0},  /* three windows above each other */
    {false, 2, 17, 3, 3, 17, 3, 1, 0}, /* more rows than groups of threads */
    {false, 2, 6, 4, 11, 2, 2, 2, 0},  /* one thread per item */
    {false, 1, 3, 5, 65, 3, 1, 1, 0},
};

static gpu_pool pool_of(const window *w, gpu_type type) {
    return (gpu_pool){
        .type = type,
        .maximum = w->maximum,
        .pairs = w->pairs,
        .in_h = w->in_h,
        .in_w = w->in_w,
        .out_h = (w->in_h + 2 * w->pad - w->kernel_h) / w->stride + 1,
        .out_w = (w->in_w + 2 * w->pad - w->kernel_w) / w->stride + 1,
        .channels = w->channels,
        .kernel_h = w->kernel_h,
        .kernel_w = w->kernel_w,
        .stride = w->stride,
        .pad = w->pad,
    };
}

/* What the op means, pair by pair. */
static double *reference_of(const gpu_pool *p, const double *x) {
    const op o = {.kind = p->maximum ? OP_MAXPOOL : OP_AVGPOOL,
                  .kernel_h = p->kernel_h,
                  .kernel_w = p->kernel_w,
                  .stride = p->stride,
                  .pad = p->pad};
    const size_t in = (size_t)p->in_h * p->in_w * p->channels, out = (size_t)p->out_h * p->out_w * p->channels;
    double *y = kernel_zeros(p->pairs * out);
    for (size_t i = 0; i < p->pairs; i++) {
        const reference_operands v = {.in = {p->in_h, p->in_w, p->channels},
                                      .out = {p->out_h, p->out_w, p->channels},
                                      .x = {x + i * in},
                                      .y = y + i * out};
        reference_op(&o, &v);
    }
    return y;
}

static void check_window(const window *w, gpu_type type) {
    gpu_pool p = pool_of(w, type);
    const size_t in = (size_t)p.pairs * p.in_h * p.in_w, out = (size_t)p.pairs * p.out_h * p.out_w;
    double *x = kernel_values(in * p.channels, 1, kernel_stored(type));
    p.x = kernel_upload(type, x, in, p.channels);
    p.y = kernel_output(type, out, p.channels);
    KERNEL_RUN(gpu_pool_launch(&p, 0));
    /* a maximum is one of the values; a mean is rounded once, after sums of fp32 */
    const double tolerance = p.maximum ? 0 : kernel_epsilon(type) + 1e-6;
    kernel_compare("pool", kernel_download(type, p.y, out, p.channels), reference_of(&p, x), out * p.channels,
                   tolerance, tolerance);
}

static void check_windows(gpu_type type) {
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) check_window(&windows[i], type);
}

/* An element of all-ones bits is NaN in every type. */
static bool is_nan(gpu_type type, const void *buffer, size_t index) {
    if (gpu_type_size(type) == 4) return isnan(((const float *)buffer)[index]);
    return (((const uint16_t *)buffer)[index] & 0x7fff) > (type == GPU_BF16 ? 0x7f80 : 0x7c00);
}

/* One NaN among the 6x6 inputs: exactly the windows over it, and only its channel, are NaN; whatever follows it. */
static void check_nan(gpu_type type) {
    for (int maximum = 0; maximum < 2; maximum++) {
        const window w = {maximum, 1, 6, 6, 10, 3, 3, 1, 0};
        gpu_pool p = pool_of(&w, type);
        const uint32_t stride = gpu_stride(p.channels), size = (uint32_t)gpu_type_size(type), y = 1, x = 3, c = 7;
        void *in = kernel_upload(type, kernel_values(36 * 10, 2, kernel_stored(type)), 36, 10);
        memset((char *)in + ((y * 6 + x) * stride + c) * size, 0xff, size);
        p.x = in;
        p.y = kernel_output(type, 16, 10);
        KERNEL_RUN(gpu_pool_launch(&p, 0));
        for (uint32_t i = 0; i < 16 * stride; i++) {
            const uint32_t oy = i / stride / 4, ox = i / stride % 4;
            const bool over = oy <= y && y < oy + 3 && ox <= x && x < ox + 3 && i % stride == c;
            if (is_nan(type, p.y, i) != over)
                test_fail(__FILE__, __LINE__, "%s (%u, %u), channel %u: %s", maximum ? "maximum" : "mean", oy, ox,
                          i % stride, over ? "the NaN is lost" : "NaN out of nowhere");
        }
    }
}

/* ---------------------------------------------------------------------------------------------- gradients */

/* dx += what one window gives: to its first largest pixel (of NaNs the last), or to all of them alike. Pixels
 * [in_h][in_w][channels]. */
static void give(const gpu_pool *p, const double *x, uint32_t oy, uint32_t ox, uint32_t c, double g, double *dx) {
    size_t largest = SIZE_MAX;
    for (uint32_t tap = 0; tap < p->kernel_h * p->kernel_w; tap++) {
        const int64_t y = (int64_t)oy * p->stride + tap / p->kernel_w - p->pad;
        const int64_t column = (int64_t)ox * p->stride + tap % p->kernel_w - p->pad;
        if (y < 0 || y >= p->in_h || column < 0 || column >= p->in_w) continue;
        const size_t at = ((size_t)y * p->in_w + (size_t)column) * p->channels + c;
        if (!p->maximum)
            dx[at] += g / (p->kernel_h * p->kernel_w);
        else if (largest == SIZE_MAX || x[at] > x[largest] || isnan(x[at]))
            largest = at;
    }
    if (p->maximum) dx[largest] += g;
}

/* Values are multiples of 1/2, so that most windows hold their largest one several times. */
static void check_gradient(const window *w, gpu_type type, bool add, bool nans) {
    gpu_pool p = pool_of(w, type);
    const size_t in = (size_t)p.in_h * p.in_w * p.channels, out = (size_t)p.out_h * p.out_w;
    double *x = kernel_values(p.pairs * in, 1, kernel_stored(type)), *dx = kernel_zeros(p.pairs * in);
    double *dy = kernel_values(p.pairs * out * p.channels, 4, kernel_stored(type));
    for (size_t i = 0; i < p.pairs * in; i++) x[i] = rint(2 * x[i]) / 2;
    if (add) memcpy(dx, kernel_values(p.pairs * in, 5, kernel_stored(type)), p.pairs * in * sizeof *dx);
    const size_t pixels = (size_t)p.pairs * p.in_h * p.in_w;
    unsigned char *upload = kernel_upload(type, x, pixels, p.channels);
    const size_t size = gpu_type_size(type);
    for (size_t i = 0; nans && i < p.pairs * in; i += 11) {
        x[i] = NAN;
        memset(upload + (i / p.channels * gpu_stride(p.channels) + i % p.channels) * size, 0xff, size);
    }
    void *gradient = add ? kernel_upload(type, dx, pixels, p.channels) : kernel_output(type, pixels, p.channels);
    for (size_t i = 0; i < p.pairs * out * p.channels; i++) {
        const size_t pair = i / p.channels / out, q = i / p.channels % out;
        give(&p, x + pair * in, (uint32_t)q / p.out_w, (uint32_t)q % p.out_w, (uint32_t)(i % p.channels), dy[i],
             dx + pair * in);
    }
    p.x = upload;
    p.y = kernel_output(type, p.pairs * out, p.channels);
    KERNEL_RUN(gpu_pool_launch(&p, 0));
    KERNEL_RUN(gpu_pool_reverse_launch(&p, kernel_upload(type, dy, p.pairs * out, p.channels), gradient, add, 0));
    const double tolerance = kernel_epsilon(type) + 1e-6;
    kernel_compare("gradient of a pool", kernel_download(type, gradient, pixels, p.channels), dx, p.pairs * in,
                   tolerance, tolerance);
}

static void check_gradients(gpu_type type) {
    static const window holes = {true, 2, 7, 8, 12, 2, 2, 3, 0}; /* pixels that no window covers */
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) check_gradient(&windows[i], type, i % 2, false);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++)
        if (windows[i].maximum) check_gradient(&windows[i], type, i % 2, true);
    check_gradient(&holes, type, false, false);
    check_gradient(&holes, type, true, false);
}

/* A pair's results are the same bytes alone and among others. */
static void check_alone(gpu_type type) {
    for (size_t i = 5; i < 8; i++) {
        gpu_pool all = pool_of(&windows[i], type), one = all;
        const size_t in = (size_t)all.in_h * all.in_w, out = (size_t)all.out_h * all.out_w;
        const size_t row = gpu_stride(all.channels) * gpu_type_size(type), last = all.pairs - 1;
        double *x = kernel_values(all.pairs * in * all.channels, 3, kernel_stored(type));
        all.x = kernel_upload(type, x, all.pairs * in, all.channels);
        all.y = kernel_output(type, all.pairs * out, all.channels);
        one.pairs = 1;
        one.x = kernel_copy((const char *)all.x + last * in * row, in * row);
        one.y = kernel_output(type, out, all.channels);
        KERNEL_RUN(gpu_pool_launch(&all, 0));
        KERNEL_RUN(gpu_pool_launch(&one, 0));
        kernel_same_bytes("one pair", one.y, (const char *)all.y + last * out * row, out * row);
    }
}

static void check_refused(void) {
    const window good = {true, 1, 8, 8, 8, 3, 3, 2, 1}, mean = {false, 1, 8, 8, 8, 2, 2, 2, 0};
    gpu_pool p;
    CHECK((p = pool_of(&good, GPU_F32), p.pairs = 0, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&good, GPU_F32), p.pad = 3, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&good, GPU_F32), p.out_h = 6, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_F32), p.pad = 1, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_F32), p.out_w = 5, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_BF16), p.pairs = UINT32_MAX, gpu_pool_launch(&p, 0)) == cudaErrorInvalidValue);
    float some[64];
    CHECK((p = pool_of(&good, GPU_F32), gpu_pool_reverse_launch(&p, some, some, 0, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_F32), gpu_pool_reverse_launch(&p, NULL, some, 0, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_F32), gpu_pool_reverse_launch(&p, some, NULL, 0, 0)) == cudaErrorInvalidValue);
    CHECK((p = pool_of(&mean, GPU_F32), p.out_w = 5, gpu_pool_reverse_launch(&p, some, some, 0, 0)) ==
          cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("pool", KERNEL_ALL, check_windows);
    kernel_each("pool, NaN", KERNEL_ALL, check_nan);
    kernel_each("pool, gradients", KERNEL_ALL, check_gradients);
    kernel_each("pool, one pair of many", KERNEL_BIT(GPU_F32) | KERNEL_BIT(GPU_BF16), check_alone);
    kernel_check("pool, arguments outside the contract", check_refused);
}

int main(void) {
    return kernel_main(tests);
}
