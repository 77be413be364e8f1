/* layernorm.c - layer norm against reference_op, in double. */
#include "backend/reference/reference_ops.h"
#include "kernel_test.h"

#include <math.h>

/* What a test computes on: x [pairs][positions][channels]. */
typedef struct problem {
    uint32_t pairs, positions, channels;
    float eps;
    const double *x;
    const double *gamma, *beta; /* [channels]; NULL = 1, 0 */
    const double *keep;         /* [slots][SITE + channels + OTHERS]; NULL: no mask */
    const double *fill;         /* [channels]; NULL: zeros */
    uint32_t *slot;             /* [pairs] */
} problem;

enum { SITE = 3, OTHERS = 5, SLOTS = 3 }; /* rows of other sites in front of this one's and behind them */

static size_t positions_of(const problem *p) {
    return (size_t)p->pairs * p->positions;
}

static size_t rows_of(const problem *p) {
    return SITE + p->channels + OTHERS;
}

static problem random_problem(uint32_t pairs, uint32_t positions, uint32_t channels, gpu_type type) {
    problem p = {.pairs = pairs, .positions = positions, .channels = channels, .eps = 1e-6f};
    p.x = kernel_values(positions_of(&p) * channels, 1, kernel_stored(type));
    p.gamma = kernel_values(channels, 2, KERNEL_FLOAT);
    p.beta = kernel_values(channels, 3, KERNEL_FLOAT);
    return p;
}

/* Keeps of 0, 1, 1/2, -1.25 in slots that pairs take in no order. */
static void add_mask(problem *p, bool fill) {
    static const double keeps[] = {0, 1, 0.5, -1.25};
    double *keep = kernel_zeros(SLOTS * rows_of(p));
    for (size_t i = 0; i < SLOTS * rows_of(p); i++) keep[i] = keeps[kernel_random(4, i, 4)];
    p->keep = keep;
    p->fill = fill ? kernel_values(p->channels, 5, KERNEL_FLOAT) : NULL;
    p->slot = kernel_buffer(p->pairs * sizeof *p->slot);
    for (uint32_t i = 0; i < p->pairs; i++) p->slot[i] = (i * 2 + 1) % SLOTS;
}

static gpu_layernorm arguments(gpu_type type, const problem *p) {
    gpu_layernorm l = {
        .type = type,
        .pairs = p->pairs,
        .positions = p->positions,
        .channels = p->channels,
        .gamma = kernel_floats(p->gamma, p->channels),
        .beta = kernel_floats(p->beta, p->channels),
        .eps = p->eps,
        .x = kernel_upload(type, p->x, positions_of(p), p->channels),
        .y = kernel_output(type, positions_of(p), p->channels),
    };
    if (p->keep)
        l.mask = (gpu_mask){.place = GPU_PLACE_OUT,
                            .keep = kernel_floats(p->keep, SLOTS * rows_of(p)) + SITE,
                            .fill = kernel_floats(p->fill, p->channels),
                            .slot = p->slot,
                            .rows = (uint32_t)rows_of(p)};
    return l;
}

static double *reference(const problem *p) {
    const op o = {.kind = OP_LAYERNORM,
                  .weight = kernel_floats(p->gamma, p->channels),
                  .shift = kernel_floats(p->beta, p->channels),
                  .eps = p->eps};
    const shape value = {1, p->positions, p->channels};
    double *y = kernel_zeros(positions_of(p) * p->channels);
    for (uint32_t pair = 0; pair < p->pairs; pair++) {
        const size_t at = (size_t)pair * p->positions * p->channels;
        reference_operands v = {.in = value, .out = value, .x = {p->x + at}, .y = y + at};
        if (p->keep)
            v.site = (reference_site){.place = PLACE_OUT,
                                      .width = 1,
                                      .keep = kernel_floats(p->keep + p->slot[pair] * rows_of(p) + SITE, p->channels),
                                      .fill = kernel_floats(p->fill, p->channels)};
        reference_op(&o, &v);
    }
    return y;
}

static void compare(gpu_type type, const problem *p) {
    char what[100];
    const gpu_layernorm l = arguments(type, p);
    const double rounding = kernel_epsilon(type);
    snprintf(what, sizeof what, "%u pairs, %u positions, %u channels", p->pairs, p->positions, p->channels);
    KERNEL_RUN(gpu_layernorm_launch(&l, 0));
    kernel_compare(what, kernel_download(type, l.y, positions_of(p), p->channels), reference(p),
                   positions_of(p) * p->channels, rounding + 2e-6, rounding + 1e-6);
}

/* ------------------------------------------------------------------------------------------------ checks */

static const uint32_t channel_counts[] = {1, 2, 4, 5, 8, 64, 100, 257, 768, 1000, 1024, 1280, 2048, 2500};
enum { COUNTS = sizeof channel_counts / sizeof *channel_counts };

static void channels(gpu_type type) {
    for (size_t i = 0; i < COUNTS; i++) {
        const problem p = random_problem(1, 3, channel_counts[i], type);
        compare(type, &p);
    }
}

/* More positions than a block has, and none left over. */
static void positions(gpu_type type) {
    static const uint32_t counts[][2] = {{1, 1}, {2, 4}, {3, 7}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const problem p = random_problem(counts[i][0], counts[i][1], 24, type);
        compare(type, &p);
    }
}

static void without_affine(gpu_type type) {
    static const uint32_t counts[] = {3, 20, 2500};
    for (size_t i = 0; i < 2 * sizeof counts / sizeof *counts; i++) {
        problem p = random_problem(1, 2, counts[i / 2], type);
        *(i % 2 ? &p.gamma : &p.beta) = NULL;
        compare(type, &p);
    }
}

static void masks(gpu_type type) {
    static const uint32_t counts[] = {3, 20, 300, 2500};
    for (size_t i = 0; i < 2 * sizeof counts / sizeof *counts; i++) {
        problem p = random_problem(4, 3, counts[i / 2], type);
        add_mask(&p, i % 2);
        compare(type, &p);
    }
}

/* 1000 + noise of 1/64: E[x^2] - mean^2 would have no digit left, and the first mean's rounding shows. */
static void large_mean(gpu_type type) {
    static const uint32_t counts[] = {64, 768, 2500};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        problem p = random_problem(1, 4, counts[i], type);
        const size_t count = positions_of(&p) * p.channels;
        double *x = kernel_zeros(count);
        for (size_t n = 0; n < count; n++) x[n] = kernel_round(kernel_stored(type), 1000 + p.x[n] / 64);
        p.x = x;
        compare(type, &p);
    }
}

/* No variance: beta, whatever the mean. */
static void constant(gpu_type type) {
    static const uint32_t counts[] = {1, 70, 2500};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        problem p = random_problem(1, 1, counts[i], type);
        double *x = kernel_zeros(p.channels);
        for (size_t n = 0; n < p.channels; n++) x[n] = kernel_round(kernel_stored(type), 1000.1);
        p.x = x;
        compare(type, &p);
    }
}

static void in_place(gpu_type type) {
    static const uint32_t counts[] = {3, 100, 2500};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        problem p = random_problem(2, 5, counts[i], type);
        add_mask(&p, true);
        gpu_layernorm l = arguments(type, &p);
        KERNEL_RUN(gpu_layernorm_launch(&l, 0));
        const void *apart = l.y;
        l.y = (void *)l.x;
        KERNEL_RUN(gpu_layernorm_launch(&l, 0));
        kernel_same_bytes("in place", l.y, apart, positions_of(&p) * gpu_stride(p.channels) * gpu_type_size(type));
    }
}

/* A pair's bytes are the same alone and among others. */
static void alone(gpu_type type) {
    problem p = random_problem(3, 5, 44, type);
    add_mask(&p, true);
    const gpu_layernorm l = arguments(type, &p);
    const size_t bytes = p.positions * gpu_stride(p.channels) * gpu_type_size(type);
    KERNEL_RUN(gpu_layernorm_launch(&l, 0));
    for (uint32_t pair = 0; pair < p.pairs; pair++) {
        problem one = p;
        one.pairs = 1;
        one.x += (size_t)pair * p.positions * p.channels;
        one.slot = kernel_copy(p.slot + pair, sizeof *p.slot);
        const gpu_layernorm lone = arguments(type, &one);
        KERNEL_RUN(gpu_layernorm_launch(&lone, 0));
        kernel_same_bytes("a pair alone", lone.y, (const unsigned char *)l.y + pair * bytes, bytes);
    }
}

/* ---------------------------------------------------------------------------------------------- gradients */

/* L = dy . layernorm(x) of one position. */
static double projected(const problem *p, const double *x, const double *dy, double *y) {
    const op o = {.kind = OP_LAYERNORM, .weight = kernel_floats(p->gamma, p->channels), .eps = p->eps};
    const reference_operands v = {.in = {1, 1, p->channels}, .out = {1, 1, p->channels}, .x = {x}, .y = y};
    double sum = 0;
    reference_op(&o, &v);
    for (uint32_t c = 0; c < p->channels; c++) sum += dy[c] * y[c];
    return sum;
}

/* dx of one position by central differences of L: of each channel, or, where there are many, of some directions. */
static void check_slopes(const problem *p, gpu_type type, const double *x, const double *dy, const double *dx) {
    const double h = 1e-4, scale = 1 / sqrt((double)p->channels);
    double *moved = kernel_zeros(p->channels), *y = kernel_zeros(p->channels), largest = 0;
    const uint32_t directions = p->channels <= 8 ? p->channels : 12;
    for (uint32_t c = 0; c < p->channels; c++) largest = fmax(largest, fabs(dx[c]));
    for (uint32_t d = 0; d < directions; d++) {
        const double *random = kernel_values(p->channels, 50 + d, KERNEL_DOUBLE);
        double expected = 0, actual = 0;
        for (int side = -1; side <= 1; side += 2) {
            for (uint32_t c = 0; c < p->channels; c++) {
                const double step = directions == p->channels ? c == d : scale * random[c];
                moved[c] = x[c] + side * h * step;
                actual += side > 0 ? dx[c] * step : 0;
            }
            expected += side * projected(p, moved, dy, y) / (2 * h);
        }
        const double tolerance = (kernel_epsilon(type) + 4e-6) * largest + 1e-7;
        if (!(fabs(actual - expected) <= tolerance))
            test_fail(__FILE__, __LINE__, "%u channels, direction %u: slope %.9g, expected %.9g", p->channels, d,
                      actual, expected);
    }
}

/* Adds to a gradient, takes the place of dy, or neither. */
static void check_gradient(uint32_t channels, gpu_type type, bool add, bool in_place) {
    problem p = random_problem(2, 5, channels, type);
    const size_t rows = positions_of(&p), count = rows * channels;
    double *dy = kernel_values(count, 6, kernel_stored(type)), *there = kernel_values(count, 7, kernel_stored(type));
    p.eps = 1e-3f;
    if (channels % 3 == 2) p.gamma = NULL;
    const gpu_layernorm l = arguments(type, &p);
    void *from = kernel_upload(type, dy, rows, channels);
    void *to = in_place ? from : add ? kernel_upload(type, there, rows, channels) : kernel_output(type, rows, channels);
    KERNEL_RUN(gpu_layernorm_reverse_launch(&l, from, to, add, 0));
    double *dx = kernel_download(type, to, rows, channels);
    for (size_t i = 0; i < count && add; i++) dx[i] -= there[i];
    for (size_t row = 0; row < rows; row += rows - 1)
        check_slopes(&p, type, p.x + row * channels, dy + row * channels, dx + row * channels);
}

static void gradients(gpu_type type) {
    static const uint32_t counts[] = {3, 4, 5, 8, 100, 257, 768, 1000, 1280, 2048, 2500};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) check_gradient(counts[i], type, i % 3 == 1, i % 3 == 2);
}

static void refusals(void) {
    float x = 0;
    uint32_t slot = 0;
    const gpu_layernorm good = {.type = GPU_F32, .pairs = 1, .positions = 1, .channels = 1, .x = &x, .y = &x};
    gpu_layernorm bad[7];
    for (size_t i = 0; i < 7; i++) bad[i] = good;
    bad[0].pairs = 0;
    bad[1].positions = 0;
    bad[2].channels = 0;
    bad[3].x = NULL;
    bad[4].mask = (gpu_mask){.place = GPU_PLACE_POST, .keep = &x, .slot = &slot, .rows = 1};
    bad[5].mask = (gpu_mask){.place = GPU_PLACE_OUT, .keep = &x, .rows = 1};
    bad[6].pairs = bad[6].positions = 1u << 16; /* positions are counted in 32 bits */
    for (size_t i = 0; i < 7; i++) CHECK_INT(gpu_layernorm_launch(&bad[i], 0), cudaErrorInvalidValue);
    float dy = 0, dx = 0;
    for (size_t i = 0; i < 4; i++)
        CHECK_INT(gpu_layernorm_reverse_launch(&bad[i], &dy, &dx, false, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_layernorm_reverse_launch(&good, NULL, &dx, false, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_layernorm_reverse_launch(&good, &dy, &dy, true, 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_each("layernorm: channels", KERNEL_ALL, channels);
    kernel_each("layernorm: positions", KERNEL_ALL, positions);
    kernel_each("layernorm: without gamma or beta", KERNEL_ALL, without_affine);
    kernel_each("layernorm: masks", KERNEL_ALL, masks);
    kernel_each("layernorm: large mean", KERNEL_BIT(GPU_F32), large_mean);
    kernel_each("layernorm: constant rows", KERNEL_ALL, constant);
    kernel_each("layernorm: in place", KERNEL_ALL, in_place);
    kernel_each("layernorm: a pair alone", KERNEL_ALL, alone);
    kernel_each("layernorm: gradients", KERNEL_ALL, gradients);
    kernel_check("layernorm: refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
