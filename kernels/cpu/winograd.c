/*
 * winograd.c - 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) with images in lanes (Lavin and Gray 2016, arXiv
 * 1509.09308, section 4): 36 multiply-adds for 16 outputs where the direct form has 144.
 *
 *   Y = A' [ sum over c of (G W[o][c] G') * (B' x[c] B) ] A        (* elementwise, x a window of 6x6, Y of 4x4 positions)
 *
 * with the interpolation points 0, 1, -1, 2, -2 and infinity. In fp32 the root mean square of the error is some 1e-6 of
 * the output's (docs/performance.md), a few times that of the direct form.
 *
 * Each of the 36 positions is a product of its own over channels, done by the tile of product.h:
 *   V [window][36][C][LANES]    transformed images, a few windows at a time
 *   U [block][36][C][TILE_ROWS] transformed weights (pack.c), the same for all masks
 *   M [window][row][36][LANES]  sums, ROWS_AT_ONCE rows at a time
 * Rows that a mask ablates are not in the list of rows; channels that are not stored in x are not in that of columns.
 *
 * Flops: 2 * 36 * 32 * rows * C for 16 positions, and about 2 * 36 * 6 * 32 for each channel and row of a window.
 * Bytes: V and M stay in the second-level cache (V_BYTES, ROWS_AT_ONCE) unless channels are many: then V[q] alone, which
 * the rows in hand read one after another. U is read once for the windows in hand: 4 bytes for 64 flops each.
 */
#include "kernels/cpu/tile_output.h"

enum {
    OUT = 4, /* positions of a window's output along each axis */
    IN = 6,  /* and of its input */
    POINTS = WINOGRAD_POINTS,
    ROWS_AT_ONCE = 24,
    WINDOWS_MAX = 4,
    V_BYTES = 128 * 1024,
};

/* A point's channels, in floats: one channel more than there are, because powers of two fall into few cache sets. */
static size_t point_size(uint32_t channels) {
    return ((size_t)channels + 1) * LANES;
}

static uint32_t windows_at_once(uint32_t channels) {
    const size_t windows = V_BYTES / (POINTS * point_size(channels) * sizeof(float));
    return windows < 1 ? 1 : windows > WINDOWS_MAX ? WINDOWS_MAX : (uint32_t)windows;
}

size_t KERNEL(cpu_winograd_scratch)(uint32_t channels) {
    return windows_at_once(channels) * POINTS * (point_size(channels) + (size_t)ROWS_AT_ONCE * LANES);
}

/* ------------------------------------------------------------------------------------------ transforms */

/* t = B' d */
INLINE void transform_input(const vec d[IN], vec t[IN]) {
    const vec two = vec_set1(2), four = vec_set1(4), minus_four = vec_set1(-4), minus_five = vec_set1(-5);
    const vec even = vec_fma(minus_four, d[2], d[4]), odd = vec_fma(minus_four, d[1], d[3]);
    const vec even2 = d[4] - d[2], odd2 = two * (d[3] - d[1]);
    t[0] = vec_fma(four, d[0], vec_fma(minus_five, d[2], d[4]));
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = even2 + odd2;
    t[4] = even2 - odd2;
    t[5] = vec_fma(four, d[1], vec_fma(minus_five, d[3], d[5]));
}

/* y = A' m */
INLINE void transform_output(const vec m[IN], vec y[OUT]) {
    const vec sum = m[1] + m[2], difference = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = vec_fma(vec_set1(2), difference2, difference);
    y[2] = vec_fma(vec_set1(4), sum2, sum);
    y[3] = vec_fma(vec_set1(8), difference2, difference) + m[5];
}

/* What a window reads. */
typedef struct patch {
    const float *x;    /* channel 0, lane 0 of position (0, 0) of the image */
    int64_t top, left; /* of the window in the image; may lie outside */
    uint32_t height, width, channels;
} patch;

static bool is_inside(const patch *p) {
    return p->top >= 0 && p->left >= 0 && p->top + IN <= p->height && p->left + IN <= p->width;
}

/* One channel, TILE_LANES lanes: from 6x6 positions, zero outside the image, to 36 points. Positions and points lie a
 * few cache sets apart: what a line holds is used at once. */
INLINE void transform_patch(const patch *p, bool inside, size_t at, float *v, size_t point) {
    vec column[IN][IN][TILE_VECTORS]; /* [x][transformed y] */
    for (int x = 0; x < IN; x++)
        for (int i = 0; i < TILE_VECTORS; i++) {
            vec d[IN], t[IN];
            UNROLL for (int y = 0; y < IN; y++) {
                const int64_t px = p->left + x, py = p->top + y;
                const bool read = inside || (px >= 0 && px < p->width && py >= 0 && py < p->height);
                const float *from = p->x + (py * p->width + px) * (int64_t)p->channels * LANES + (int64_t)at;
                d[y] = read ? vec_load(from + i * VEC) : vec_zero();
            }
            transform_input(d, t);
            UNROLL for (int y = 0; y < IN; y++) column[x][y][i] = t[y];
        }
    for (int y = 0; y < IN; y++)
        for (int i = 0; i < TILE_VECTORS; i++) {
            vec d[IN], t[IN];
            UNROLL for (int x = 0; x < IN; x++) d[x] = column[x][y][i];
            transform_input(d, t);
            UNROLL for (int x = 0; x < IN; x++) vec_store(v + (size_t)(y * IN + x) * point + i * VEC, t[x]);
        }
}

static void transform_window(const patch *p, float *v) {
    const size_t point = point_size(p->channels), all = (size_t)p->channels * LANES;
    if (is_inside(p))
        for (size_t at = 0; at < all; at += TILE_LANES) transform_patch(p, true, at, v + at, point);
    else
        for (size_t at = 0; at < all; at += TILE_LANES) transform_patch(p, false, at, v + at, point);
}

/* -------------------------------------------------------------------------------------------- products */

/* Rows `row[0 .. MO-1]` of one point: m[o][LANES], rows POINTS * LANES apart. */
INLINE void multiply_point(const uint32_t MO, const float *v, const float *u, const size_t *row, const uint32_t *column,
                           size_t channels, float *m) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        product_clear(MO, acc);
        product_add(MO, acc, v + lane, u, row, column, channels);
        UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t i = 0; i < TILE_VECTORS; i++)
            vec_store(m + (size_t)o * POINTS * LANES + lane + i * VEC, acc[o][i]);
    }
}

#define MULTIPLY(MO)                                                                                                   \
    __attribute__((noinline)) static void multiply_##MO(const float *v, const float *u, const size_t *row,             \
                                                        const uint32_t *column, size_t channels, float *m) {           \
        multiply_point(MO, v, u, row, column, channels, m);                                                            \
    }
PRODUCT_ROWS(MULTIPLY)
typedef void (*multiply_function)(const float *v, const float *u, const size_t *row, const uint32_t *column,
                                  size_t channels, float *m);
#define MULTIPLY_NAME(MO) multiply_##MO,
static const multiply_function multiply[] = {NULL, PRODUCT_ROWS(MULTIPLY_NAME)};

/* ------------------------------------------------------------------------------------------- epilogue */

/* The 4x4 sums of a row, TILE_LANES lanes. */
INLINE void transform_sums(const float *m, vec sums[OUT][OUT][TILE_VECTORS]) {
    vec column[IN][OUT][TILE_VECTORS]; /* [x][transformed y] */
    for (int x = 0; x < IN; x++)
        for (int i = 0; i < TILE_VECTORS; i++) {
            vec d[IN], t[OUT];
            UNROLL for (int y = 0; y < IN; y++) d[y] = vec_load(m + (size_t)(y * IN + x) * LANES + i * VEC);
            transform_output(d, t);
            UNROLL for (int y = 0; y < OUT; y++) column[x][y][i] = t[y];
        }
    for (int y = 0; y < OUT; y++)
        for (int i = 0; i < TILE_VECTORS; i++) {
            vec d[IN], t[OUT];
            UNROLL for (int x = 0; x < IN; x++) d[x] = column[x][y][i];
            transform_output(d, t);
            UNROLL for (int x = 0; x < OUT; x++) sums[y][x][i] = t[x];
        }
}

/* Row o of a window: its sums to every position that lies in the image. */
static void finish_row(const float *m, const tile_output *at, const bool inside[OUT * OUT], uint32_t o) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) {
        vec sums[OUT][OUT][TILE_VECTORS];
        transform_sums(m + lane, sums);
        for (int p = 0; p < OUT * OUT; p++) {
            if (!inside[p]) continue;
            const tile_output to = at[p]; /* a copy that no store can change */
            UNROLL for (int i = 0; i < TILE_VECTORS; i++) put_sum(&to, o, lane + i * VEC, sums[p / OUT][p % OUT][i]);
            if (to.positive) put_positive(&to, o, lane);
        }
    }
}

/* ------------------------------------------------------------------------------------ a row of windows */

/* A convolution of stride 1, forwards or in reverse. */
typedef struct job {
    const float *x;
    uint32_t in_h, in_w, channels; /* of x */
    uint32_t out_h, out_w;
    uint32_t pad;
    const float *weight;    /* U */
    const uint32_t *column; /* [channels] into a block's columns */
    const size_t *row;      /* [rows] */
    uint32_t rows;
    size_t tap;   /* floats between a block's points in U */
    float *v, *m; /* scratch */
    /* Where the position's rows go. */
    tile_output (*output)(const void *args, uint32_t y, uint32_t x);
    const void *args;
} job;

static void transform_windows(const job *j, uint32_t ty, uint32_t first, uint32_t count) {
    for (uint32_t t = 0; t < count; t++) {
        const patch p = {.x = j->x,
                         .top = (int64_t)ty * OUT - j->pad,
                         .left = (int64_t)(first + t) * OUT - j->pad,
                         .height = j->in_h,
                         .width = j->in_w,
                         .channels = j->channels};
        transform_window(&p, j->v + t * POINTS * point_size(j->channels));
    }
}

/* Rows first .. end - 1 of all points of the windows in hand. */
static void multiply_rows(const job *j, uint32_t windows, uint32_t first, uint32_t end) {
    const size_t point = point_size(j->channels);
    const uint32_t rows = end - first, blocks = conv_blocks(rows, TILE_ROWS);
    for (uint32_t q = 0; q < POINTS; q++)
        for (uint32_t b = 0; b < blocks; b++) {
            const uint32_t o = conv_block_first(rows, blocks, b), MO = conv_block_first(rows, blocks, b + 1) - o;
            for (uint32_t t = 0; t < windows; t++)
                multiply[MO](j->v + (t * POINTS + q) * point, j->weight + q * j->tap, j->row + first + o, j->column,
                             j->channels, j->m + (((size_t)t * ROWS_AT_ONCE + o) * POINTS + q) * LANES);
        }
}

static void finish_rows(const job *j, uint32_t ty, uint32_t tx, const float *m, uint32_t first, uint32_t end) {
    tile_output at[OUT * OUT];
    bool inside[OUT * OUT];
    for (uint32_t p = 0; p < OUT * OUT; p++) {
        const uint32_t y = ty * OUT + p / OUT, x = tx * OUT + p % OUT;
        inside[p] = y < j->out_h && x < j->out_w;
        if (inside[p]) at[p] = j->output(j->args, y, x);
    }
    for (uint32_t o = first; o < end; o++) finish_row(m + (size_t)(o - first) * POINTS * LANES, at, inside, o);
}

/* Some windows of a row of them, from image to image. */
static void run_windows(const job *j, uint32_t ty, uint32_t tx, uint32_t windows) {
    transform_windows(j, ty, tx, windows);
    for (uint32_t first = 0; first < j->rows; first += ROWS_AT_ONCE) {
        const uint32_t end = first + ROWS_AT_ONCE < j->rows ? first + ROWS_AT_ONCE : j->rows;
        multiply_rows(j, windows, first, end);
        for (uint32_t t = 0; t < windows; t++)
            finish_rows(j, ty, tx + t, j->m + (size_t)t * ROWS_AT_ONCE * POINTS * LANES, first, end);
    }
}

/* `done`: positions first .. first + count - 1 are written, every row of them. It is called in their order. */
static void run(const job *j, void (*done)(const void *args, size_t first, size_t count)) {
    const uint32_t across = (j->out_w + OUT - 1) / OUT, down = (j->out_h + OUT - 1) / OUT;
    const uint32_t step = windows_at_once(j->channels);
    for (uint32_t ty = 0; ty < down; ty++) {
        const uint32_t y = ty * OUT, rows = j->out_h - y < OUT ? j->out_h - y : OUT;
        for (uint32_t tx = 0; tx < across; tx += step) run_windows(j, ty, tx, across - tx < step ? across - tx : step);
        done(j->args, (size_t)y * j->out_w, (size_t)rows * j->out_w);
    }
}

/* ---------------------------------------------------------------------------------- forwards, in reverse */

static tile_output forward_output(const void *args, uint32_t y, uint32_t x) {
    return conv_output(args, y, x);
}

static void forward_done(const void *args, size_t first, size_t count) {
    KERNEL(cpu_conv_finish)(args, first, count);
}

void KERNEL(cpu_winograd)(const conv_args *c) {
    const job j = {
        .x = c->input,
        .in_h = c->window.in_h,
        .in_w = c->window.in_w,
        .channels = c->in_channels,
        .out_h = c->window.out_h,
        .out_w = c->window.out_w,
        .pad = c->window.pad,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->rows,
        .tap = c->tap,
        .v = c->scratch,
        .m = c->scratch + windows_at_once(c->in_channels) * POINTS * point_size(c->in_channels),
        .output = forward_output,
        .args = c,
    };
    run(&j, forward_done);
}

static tile_output reverse_output(const void *args, uint32_t y, uint32_t x) {
    return conv_reverse_output(args, y, x);
}

static void reverse_done(const void *args, size_t first, size_t count) {
    KERNEL(cpu_conv_reverse_finish)(args, first, count);
}

/* dx is the convolution of dy with the taps in reverse order, rows and columns exchanged, and pad 2 - pad. */
void KERNEL(cpu_winograd_reverse)(const conv_reverse_args *c) {
    const job j = {
        .x = c->gradient,
        .in_h = c->window.out_h,
        .in_w = c->window.out_w,
        .channels = c->out_channels,
        .out_h = c->window.in_h,
        .out_w = c->window.in_w,
        .pad = 2 - c->window.pad,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->in_channels,
        .tap = c->tap,
        .v = c->scratch,
        .m = c->scratch + windows_at_once(c->out_channels) * POINTS * point_size(c->out_channels),
        .output = reverse_output,
        .args = c,
    };
    run(&j, reverse_done);
}
