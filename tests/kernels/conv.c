/*
 * conv.c - the convolution kernels, every form and type, against reference_conv in double; and what no tolerance may
 * hide: that an element's bits depend neither on the form nor on the pairs beside it.
 *
 * Operands are representable in the type under test (tf32: rounded for the reference only, the kernel has to do it
 * itself), so a result may be off by one rounding of what is stored and by the sums' rounding in fp32.
 */
#include <sys/mman.h>

#include "backend/reference/reference_ops.h"
#include "kernel_conv.h"

/* -------------------------------------------------------------------------------------------- problems */

enum { SLOTS = 3, EXAMPLES = 2 };

/* One convolution. Masks: keeps are 0, 1/4 or 1; the site begins in the middle of the keeps' rows. */
typedef struct problem {
    uint32_t pairs, in_h, in_w, in_channels, out_channels, kernel_h, kernel_w, stride, pad;
    gpu_activation activation;
    gpu_place place;
    bool plain; /* neither scale nor shift */
    bool fill;  /* a mask with means */
    bool residual;
    bool alias; /* the residual is y */
    bool wide;
    bool shared; /* pairs share EXAMPLES images */
    uint32_t splits;
} problem;

static uint32_t out_size(uint32_t in, uint32_t pad, uint32_t kernel, uint32_t stride) {
    return (in + 2 * pad - kernel) / stride + 1;
}

static void add_mask(const problem *p, gpu_conv *c) {
    const uint32_t rows = p->out_channels + 5, first = 3; /* the site's rows lie among others */
    double *keep = kernel_zeros(SLOTS * rows);
    for (size_t i = 0; i < SLOTS * rows; i++) keep[i] = (const double[]){0, 0.25, 1, 1}[kernel_random(7, i, 4)];
    uint32_t *slot = kernel_buffer(p->pairs * sizeof *slot);
    for (uint32_t i = 0; i < p->pairs; i++) slot[i] = (i * 2 + 1) % SLOTS;
    c->mask =
        (gpu_mask){.place = p->place, .keep = kernel_floats(keep, SLOTS * rows) + first, .slot = slot, .rows = rows};
    if (p->fill) c->mask.fill = kernel_floats(kernel_values(p->out_channels, 8, KERNEL_FLOAT), p->out_channels);
}

/* Weights in the graph's order [O][I][kernel_h][kernel_w]; the test's are [O][kernel_h][kernel_w][I]. */
static float *graph_weights(const problem *p, const double *weight, kernel_format format) {
    const size_t taps = (size_t)p->kernel_h * p->kernel_w, channels = p->in_channels;
    float *w = (float *)kernel_zeros(p->out_channels * taps * channels);
    for (size_t o = 0; o < p->out_channels; o++)
        for (size_t t = 0; t < taps; t++)
            for (size_t i = 0; i < channels; i++)
                w[(o * channels + i) * taps + t] = (float)kernel_round(format, weight[(o * taps + t) * channels + i]);
    return w;
}

static void expect(const problem *p, kernel_conv *n, const double *x, const double *weight, kernel_format operand) {
    const gpu_conv *c = &n->c;
    op o = {.kernel_h = p->kernel_h, .kernel_w = p->kernel_w, .stride = p->stride, .pad = p->pad};
    o.act = (const activation[]){ACT_NONE, ACT_RELU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU}[p->activation];
    o.weight = graph_weights(p, weight, operand);
    o.scale = c->scale;
    o.shift = c->shift;
    const size_t image = (size_t)p->in_h * p->in_w * p->in_channels, result = n->rows / p->pairs * p->out_channels;
    double *rounded = kernel_zeros(image);
    for (uint32_t pair = 0; pair < p->pairs; pair++) {
        const double *from = x + (c->example ? c->example[pair] : pair) * image;
        for (size_t i = 0; i < image; i++) rounded[i] = kernel_round(operand, from[i]);
        reference_operands v = {.in = {p->in_h, p->in_w, p->in_channels}, .out = {c->out_h, c->out_w, p->out_channels}};
        v.x[0] = rounded;
        v.residual = n->residual ? n->residual + pair * result : NULL;
        v.scratch = kernel_zeros((size_t)p->in_channels * p->kernel_h * p->kernel_w);
        v.y = n->expected + pair * result;
        if (p->place != GPU_PLACE_NONE)
            v.site =
                (reference_site){.place = (const mask_place[]){PLACE_NONE, PLACE_PRE, PLACE_POST, PLACE_OUT}[p->place],
                                 .width = 1,
                                 .keep = c->mask.keep + c->mask.slot[pair] * c->mask.rows,
                                 .fill = c->mask.fill};
        reference_conv(&o, &v);
    }
}

/* The problem's sizes; no buffers yet. */
static gpu_conv describe(const problem *p, gpu_type type) {
    gpu_conv c = {.type = type, .pairs = p->pairs, .in_h = p->in_h, .in_w = p->in_w, .in_channels = p->in_channels};
    c.out_h = out_size(p->in_h, p->pad, p->kernel_h, p->stride);
    c.out_w = out_size(p->in_w, p->pad, p->kernel_w, p->stride);
    c.out_channels = p->out_channels;
    c.kernel_h = p->kernel_h;
    c.kernel_w = p->kernel_w;
    c.stride = p->stride;
    c.pad = p->pad;
    c.wide = p->wide;
    c.activation = p->activation;
    c.splits = p->splits;
    return c;
}

/* Everything that a launch reads but x and weight. */
static void add_epilogue(const problem *p, kernel_conv *n) {
    gpu_conv *c = &n->c;
    if (!p->plain) {
        c->scale = kernel_floats(kernel_values(p->out_channels, 3, KERNEL_FLOAT), p->out_channels);
        c->shift = kernel_floats(kernel_values(p->out_channels, 4, KERNEL_FLOAT), p->out_channels);
    }
    if (p->place != GPU_PLACE_NONE) add_mask(p, c);
    if (p->residual || p->alias) n->residual = kernel_values(n->rows * p->out_channels, 5, kernel_stored(c->type));
    if (p->residual) c->residual = kernel_upload(c->type, n->residual, n->rows, p->out_channels);
    if (gpu_conv_workspace(c)) c->workspace = kernel_buffer(gpu_conv_workspace(c));
}

static kernel_conv make(const problem *p, gpu_type type) {
    kernel_conv n = {.c = describe(p, type), .stored = p->wide ? GPU_F32 : type, .in_place = p->alias};
    n.rows = (size_t)p->pairs * n.c.out_h * n.c.out_w;
    n.expected = kernel_zeros(n.rows * p->out_channels);

    /* tf32 is rounded by the kernel; the other types hold their operands exactly */
    const kernel_format given = kernel_stored(type), operand = kernel_exact(type);
    const size_t taps = (size_t)p->kernel_h * p->kernel_w, stride = gpu_stride(p->out_channels);
    const size_t pixels = (size_t)(p->shared ? EXAMPLES : p->pairs) * p->in_h * p->in_w;
    const size_t weights = p->out_channels * taps * p->in_channels;
    double *x = kernel_values(pixels * p->in_channels, 1, given);
    double *weight = kernel_zeros(stride * taps * p->in_channels); /* the rows behind the last channel are zero */
    memcpy(weight, kernel_values(weights, 2, given), weights * sizeof *weight);
    n.c.x = kernel_upload(type, x, pixels, p->in_channels);
    n.c.weight = kernel_upload(type, weight, stride * taps, p->in_channels);
    if (p->shared) {
        uint32_t *example = kernel_buffer(p->pairs * sizeof *example);
        for (uint32_t i = 0; i < p->pairs; i++) example[i] = (i / 2 + 1) % EXAMPLES;
        n.c.example = example;
    }
    add_epilogue(p, &n);
    expect(p, &n, x, weight, operand);
    kernel_conv_reset(&n);
    return n;
}

/* ----------------------------------------------------------------------------------------------- shapes */

/* Names say what of the kernels is reached: how x is gathered (conv.cu, find_gather), ends of tiles. */
static const struct {
    const char *name;
    problem p;
} SHAPES[] = {
    {"3x3 stride 1, taps", {2, 7, 6, 16, 20, 3, 3, 1, 1, .activation = GPU_RELU, .residual = true}},
    {"3x3 stride 2, odd image", {3, 9, 5, 8, 16, 3, 3, 2, 1, .place = GPU_PLACE_PRE}},
    {"3x3 without padding, a kernel row is a run", {1, 5, 6, 24, 33, 3, 3, 1, 0}},
    {"3x3, 33 channels", {1, 5, 5, 33, 8, 3, 3, 1, 1}},
    {"1x1 stride 1, many rows", {3, 11, 9, 64, 40, 1, 1, 1, 0, .activation = GPU_RELU}},
    {"1x1 stride 2", {2, 7, 7, 20, 5, 1, 1, 2, 0}},
    {"1x1 of 3 channels", {2, 5, 5, 3, 8, 1, 1, 1, 0}},
    {"1x1 of 5 channels padded", {2, 4, 4, 5, 3, 1, 1, 1, 1, .shared = true}},
    {"linear layer, 17 tokens", {2, 1, 17, 72, 130, 1, 1, 1, 0, .activation = GPU_GELU_ERF, .place = GPU_PLACE_POST}},
    {"7x7 stride 2 stem of 3 channels", {1, 13, 15, 3, 64, 7, 7, 2, 3, .activation = GPU_RELU}},
    {"3x3 stem of 3 channels", {2, 6, 6, 3, 16, 3, 3, 1, 1}},
    {"patches of 4x4", {2, 12, 8, 3, 24, 4, 4, 4, 0, .shared = true}},
    {"patches of 7x7, odd runs", {1, 14, 14, 3, 16, 7, 7, 7, 0}},
    {"kernel as large as the image", {5, 4, 4, 16, 10, 4, 4, 1, 0, .wide = true}},
    {"kernel as wide as the image", {2, 6, 3, 8, 9, 2, 3, 1, 0}},
    {"1x3 kernel, runs that overlap", {2, 1, 6, 8, 8, 1, 3, 2, 0}},
    {"1x3 kernel", {2, 3, 7, 16, 16, 1, 3, 1, 0}},
    {"5x5, 2 out", {1, 6, 7, 8, 2, 5, 5, 1, 2}},
};

static void shapes(gpu_type type) {
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        kernel_conv n = make(&SHAPES[i].p, type);
        kernel_conv_forms(SHAPES[i].name, &n, KERNEL_EVERY_FORM, 3);
    }
}

/* ----------------------------------------------------------------------------------------- epilogues */

/* Every place of a mask, activation and kind of residual, with and without means, scale and shift, few channels. */
static void epilogues(gpu_type type) {
    for (uint32_t i = 0; i < 4 * 5 * 3 * 2; i++) {
        problem p = {3, 3, 5, 8, i / 60 ? 3 : 20, 1, 1, 1, 0};
        p.place = (gpu_place)(i % 4);
        p.activation = (gpu_activation)(i / 4 % 5);
        p.residual = i / 20 % 3 == 1;
        p.alias = i / 20 % 3 == 2;
        p.fill = kernel_random(9, i, 2);
        p.plain = kernel_random(10, i, 3) == 0;
        p.wide = !p.alias && kernel_random(11, i, 2);
        p.shared = kernel_random(12, i, 2);
        char name[120];
        snprintf(name, sizeof name,
                 "place %u, activation %u, residual %d, alias %d, fill %d, plain %d, wide %d, shared %d", p.place,
                 p.activation, p.residual, p.alias, p.fill, p.plain, p.wide, p.shared);
        kernel_conv n = make(&p, type);
        KERNEL_RUN(gpu_conv_launch(&n.c, (int)(i % 3), 0));
        kernel_conv_compare(&n, name);
    }
}

/* The epilogue of a library's sums: those of an identity, so that the sums are x. */
static void epilogue_alone(gpu_type type) {
    static const uint32_t CHANNELS[] = {1, 4, 10, 40, 133, 260};
    for (uint32_t i = 0; i < 4 * 6; i++) {
        problem p = {3, 4, 5, CHANNELS[i % 6], CHANNELS[i % 6], 1, 1, 1, 0};
        p.place = (gpu_place)(i / 6);
        p.activation = (gpu_activation)(i % 5);
        p.fill = p.wide = i / 6 % 2;
        p.residual = i % 2;
        kernel_conv n = make(&p, type);
        const size_t channels = p.out_channels;
        double *identity = kernel_zeros(channels * channels);
        for (size_t c = 0; c < channels; c++) identity[c * channels + c] = 1;
        double *sums = kernel_values(n.rows * channels, 20, KERNEL_FLOAT);
        expect(&p, &n, sums, identity, KERNEL_FLOAT);
        float *device = kernel_upload(GPU_F32, sums, n.rows, p.out_channels);
        if (p.wide) n.c.y = device; /* in place */
        n.c.x = n.c.weight = NULL;
        n.c.linear = kernel_output(type, n.rows, p.out_channels);
        KERNEL_RUN(gpu_epilogue_launch(&n.c, device, 0));
        for (size_t k = 0; k < n.rows * channels; k++) sums[k] = kernel_round(kernel_stored(type), sums[k]);
        kernel_compare("epilogue alone, linear", kernel_download(type, n.c.linear, n.rows, p.out_channels), sums,
                       n.rows * channels, 0, 0);
        char name[60];
        snprintf(name, sizeof name, "epilogue alone, %u channels, place %u", p.out_channels, p.place);
        kernel_conv_compare(&n, name);
    }
}

/* W x beside y, whatever becomes of y, whose bits it does not change. */
static void linear_sums(gpu_type type) {
    static const problem CASES[] = {
        {3, 4, 5, 8, 20, 3, 3, 1, 1, .activation = GPU_RELU, .place = GPU_PLACE_PRE, .residual = true},
        {3, 1, 5, 136, 23, 1, 1, 1, 0, GPU_GELU_ERF, .place = GPU_PLACE_OUT, .alias = true, .splits = 2},
        {2, 4, 4, 8, 3, 4, 4, 1, 0, .wide = true, .place = GPU_PLACE_POST, .fill = true},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const problem *p = &CASES[i];
        const problem bare = {p->pairs,    p->in_h,     p->in_w,   p->in_channels, p->out_channels,
                              p->kernel_h, p->kernel_w, p->stride, p->pad,         .plain = true};
        kernel_conv n = make(p, type), expected = make(&bare, type);
        KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
        const void *without = n.c.y;
        kernel_conv_reset(&n);
        n.c.linear = kernel_output(type, n.rows, p->out_channels);
        KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
        kernel_same_bytes("y with linear and without", n.c.y, without, kernel_conv_bytes(&n));
        expected.c.y = n.c.linear;
        kernel_conv_compare(&expected, "linear");
    }
}

/* Values that are not finite stay where they belong: NaN goes through ReLU, and no neighbour sees it. */
static void not_finite(gpu_type type) {
    const problem p = {3, 4, 4, 8, 12, 3, 3, 1, 1, .activation = GPU_RELU, .wide = true, .plain = true};
    kernel_conv n = make(&p, type);
    KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
    const float *clean = n.c.y;
    const size_t pair = (size_t)p.in_h * p.in_w * 8, bad = pair + 5; /* pixel 0 of pair 1 */
    if (gpu_type_size(type) == 2)
        ((uint16_t *)n.c.x)[bad] = 0x7fff; /* NaN in bf16 and in fp16 */
    else
        ((float *)n.c.x)[bad] = NAN;
    kernel_conv_reset(&n);
    KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
    const float *y = n.c.y;
    for (size_t row = 0; row < n.rows; row++) {
        const size_t pixel = row % 16, reached = row / 16 == 1 && pixel % 4 < 2 && pixel / 4 < 2;
        for (size_t c = 0; c < 16; c++) {
            const float got = y[row * 16 + c], was = clean[row * 16 + c];
            const bool right = reached && c < 12 ? isnan(got) : got == was;
            if (!right) test_fail(__FILE__, __LINE__, "row %zu, channel %zu: %g, without the NaN %g", row, c, got, was);
        }
    }
}

/* ------------------------------------------------------------------------------------------- splits */

/* Depths of 2 to 10 units (conv_unit) and a rest, cut evenly and not. */
static void splits(gpu_type type) {
    static const struct {
        const char *name;
        problem p;
    } CASES[] = {
        {"linear, 2 of 3", {3, 1, 5, 136, 24, 1, 1, 1, 0, .splits = 2, .residual = true, .place = GPU_PLACE_OUT}},
        {"linear, 3 of 3", {3, 1, 5, 136, 24, 1, 1, 1, 0, .splits = 3, .wide = true}},
        {"3x3, 4 of 5", {2, 4, 4, 32, 20, 3, 3, 1, 1, .splits = 4, .activation = GPU_GELU_TANH, .alias = true}},
        {"3x3 stride 2, 2 of 2", {1, 7, 6, 8, 5, 3, 3, 2, 1, .splits = 2, .place = GPU_PLACE_POST, .fill = true}},
        {"7x7 stem, 3 of 4", {1, 9, 9, 3, 16, 7, 7, 2, 3, .splits = 3}},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        kernel_conv n = make(&CASES[i].p, type);
        kernel_conv_forms(CASES[i].name, &n, KERNEL_EVERY_FORM, 3);
    }
}

/* A problem cut into one gives what no cut gives. */
static void one_split(gpu_type type) {
    problem p = {2, 4, 4, 32, 20, 3, 3, 1, 1};
    kernel_conv uncut = make(&p, type);
    p.splits = 1;
    kernel_conv n = make(&p, type);
    CHECK_INT(gpu_conv_workspace(&n.c), 0);
    KERNEL_RUN(gpu_conv_launch(&uncut.c, 0, 0));
    KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
    kernel_same_bytes("splits 0 and 1", uncut.c.y, n.c.y, kernel_conv_bytes(&n));
}

/* ------------------------------------------------------------------------------------------- batches */

/* A pair alone gives the bytes that it gives among others (75 rows of results: more than a tile), in every form, with
 * splits and without. */
static void pairs_alone(gpu_type type) {
    for (uint32_t splits = 0; splits < 4; splits += 3) {
        const problem p = {5,
                           5,
                           3,
                           32,
                           20,
                           3,
                           3,
                           1,
                           1,
                           .activation = GPU_GELU_ERF,
                           .place = GPU_PLACE_POST,
                           .fill = true,
                           .residual = true,
                           .shared = true,
                           .splits = splits};
        kernel_conv n = make(&p, type);
        const size_t bytes = kernel_conv_bytes(&n) / p.pairs;
        for (int form = 0; gpu_conv_form(type, form); form++) {
            kernel_conv_reset(&n);
            KERNEL_RUN(gpu_conv_launch(&n.c, form, 0));
            for (uint32_t pair = 0; pair < p.pairs; pair += 4) {
                gpu_conv one = n.c;
                one.pairs = 1;
                one.example += pair;
                one.mask.slot += pair;
                one.residual = (const char *)n.c.residual + pair * bytes;
                one.y = kernel_buffer(bytes);
                KERNEL_RUN(gpu_conv_launch(&one, form, 0));
                kernel_same_bytes("a pair alone", one.y, (char *)n.c.y + pair * bytes, bytes);
            }
        }
    }
}

#ifndef COAR_REAL_CUDA
/* Images more than 2^32 elements apart: most of x is address space that nobody touches. */
static void far_images(gpu_type type) {
    const problem p = {2, 4, 4, 8, 16, 3, 3, 1, 1};
    const uint32_t image = 4 * 4 * 8, far[] = {0xffffffffu / image + 3, 1};
    const size_t bytes = image * gpu_type_size(type), size = (far[0] + (size_t)1) * bytes;
    kernel_conv n = make(&p, type);
    char *x = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (x == MAP_FAILED) {
        test_skip("no address space of %zu bytes", size);
        return;
    }
    for (uint32_t pair = 0; pair < p.pairs; pair++)
        memcpy(x + far[pair] * bytes, (const char *)n.c.x + pair * bytes, bytes);
    n.c.x = x;
    n.c.example = kernel_copy(far, sizeof far);
    KERNEL_RUN(gpu_conv_launch(&n.c, 0, 0));
    kernel_conv_compare(&n, "far images");
    munmap(x, size);
}
#endif

/* -------------------------------------------------------------------------------------------- refusals */

#define CHECK_REFUSED(change)                                                                                          \
    do {                                                                                                               \
        gpu_conv c = n.c;                                                                                              \
        change;                                                                                                        \
        CHECK(!gpu_conv_can(&c, 0));                                                                                   \
        CHECK_INT(gpu_conv_launch(&c, 0, 0), cudaErrorInvalidValue);                                                   \
    } while (0)
#define CHECK_NOT_LAUNCHED(change)                                                                                     \
    do {                                                                                                               \
        gpu_conv c = n.c;                                                                                              \
        change;                                                                                                        \
        CHECK_INT(gpu_conv_launch(&c, 0, 0), cudaErrorInvalidValue);                                                   \
    } while (0)

/* What is outside the contract, or would overflow 32-bit indices, is refused before anything is launched. */
static void refusals(void) {
    const problem p = {2, 4, 4, 32, 20, 3, 3, 1, 1, .place = GPU_PLACE_PRE, .residual = true};
    kernel_conv n = make(&p, GPU_BF16);
    CHECK(gpu_conv_can(&n.c, 0));
    CHECK(!gpu_conv_can(&n.c, -1));
    CHECK(gpu_conv_form(GPU_BF16, -1) == NULL);
    CHECK(gpu_conv_form(GPU_BF16, 1000) == NULL);
    CHECK_INT(gpu_conv_launch(&n.c, 1000, 0), cudaErrorInvalidValue);
    CHECK_REFUSED(c.pairs = 0);
    CHECK_REFUSED(c.in_channels = 0);
    CHECK_REFUSED(c.out_channels = 0);
    CHECK_REFUSED(c.kernel_h = 0);
    CHECK_REFUSED(c.stride = 0);
    CHECK_REFUSED(c.out_h = 5);
    CHECK_REFUSED(c.out_w = 3);
    CHECK_REFUSED(c.pairs = 0x80000000u / 16);
    CHECK_REFUSED(c.pairs = 0xffffffffu);
    CHECK_REFUSED(c.in_channels = 0xffffffffu);
    CHECK_REFUSED(c.in_channels = 0x08000000u);
    CHECK_REFUSED(c.out_channels = 0x7fffffffu);
    CHECK_REFUSED((c.in_channels = 1, c.kernel_h = c.kernel_w = 1, c.pad = 0, c.out_channels = (1 << 22) + 1));
    CHECK_REFUSED(
        (c.in_channels = 1, c.kernel_h = c.kernel_w = 1, c.pad = 0, c.out_channels = 1 << 22, c.pairs = 1 << 26));
    CHECK_REFUSED(c.out_channels = 0x7fffffffu / (9 * 32) + 8);
    CHECK_REFUSED(c.in_h = c.out_h = 0x04000000u);
    CHECK_REFUSED(c.splits = 6);      /* K = 288 is 5 units of 64 */
    CHECK_NOT_LAUNCHED(c.splits = 2); /* no workspace */
    CHECK_NOT_LAUNCHED(c.x = NULL);
    CHECK_NOT_LAUNCHED(c.weight = NULL);
    CHECK_NOT_LAUNCHED(c.y = NULL);
    CHECK_NOT_LAUNCHED(c.activation = (gpu_activation)5);
    CHECK_NOT_LAUNCHED(c.mask.keep = NULL);
    CHECK_NOT_LAUNCHED(c.mask.slot = NULL);
    CHECK_NOT_LAUNCHED((c.wide = true, c.residual = c.y));
    CHECK_INT(gpu_epilogue_launch(&n.c, NULL, 0), cudaErrorInvalidValue);
    n.c.splits = 3;
    CHECK_INT(gpu_conv_workspace(&n.c), 3 * 2 * 16 * 24 * 4);
}

static void tests(void) {
    kernel_each("conv shapes", KERNEL_ALL, shapes);
    kernel_each("conv epilogues", KERNEL_ALL, epilogues);
    kernel_each("conv epilogue alone", KERNEL_ALL, epilogue_alone);
    kernel_each("conv linear sums", KERNEL_ALL, linear_sums);
    kernel_each("conv not finite", KERNEL_ALL, not_finite);
    kernel_each("conv splits", KERNEL_ALL, splits);
    kernel_each("conv one split", KERNEL_ALL, one_split);
    kernel_each("conv pairs alone", KERNEL_ALL, pairs_alone);
#ifndef COAR_REAL_CUDA
    kernel_each("conv far images", KERNEL_ALL, far_images);
#endif
    kernel_check("conv refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
