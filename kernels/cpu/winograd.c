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
 * A window's six columns are transformed one after another, CHANNELS_AT_ONCE channels at a time, and the last two serve
 * the next window as well; then its six rows. Both loops read and write six streams each, so that no line is used twice
 * at different times: positions and points lie powers of two apart, in few cache sets.
 *
 * Flops: 2 * 36 * 32 * rows * C for 16 positions, and about 2 * 36 * 6 * 32 for each channel and row of a window.
 * Bytes: V and M stay in the second-level cache (V_BYTES, ROWS_AT_ONCE) unless channels are many: then V[q] alone, which
 * the rows in hand read one after another. U is read once for the windows in hand: 4 bytes for 64 flops each.
 */
#include <string.h>

#include "kernels/cpu/tile_output.h"

#ifndef WINOGRAD_BF16
#define WINOGRAD_BF16 0 /* 1 in winograd_bf16.c: columns of V and U are pairs of channels */
#endif

enum {
    OUT = 4, /* positions of a window's output along each axis */
    IN = 6,  /* and of its input */
    POINTS = WINOGRAD_POINTS,
    CHANNELS_AT_ONCE = 4,
    ROWS_AT_ONCE = 24,
    WINDOWS_MAX = 4,
    V_BYTES = 128 * 1024,
};

/* A point's columns, in floats: one column more than there are, because powers of two fall into few cache sets. */
static size_t point_size(uint32_t columns) {
    return ((size_t)columns + 1) * LANES;
}

/* Of all columns that a layer has, whatever is left out: scratch is for so many windows. */
static uint32_t windows_at_once(uint32_t columns) {
    const size_t windows = V_BYTES / (POINTS * point_size(columns) * sizeof(float));
    return windows < 1 ? 1 : windows > WINDOWS_MAX ? WINDOWS_MAX : (uint32_t)windows;
}

static size_t scratch_size(uint32_t columns) {
    return windows_at_once(columns) * POINTS * (point_size(columns) + (size_t)ROWS_AT_ONCE * LANES);
}

/* A convolution of stride 1: forwards, or the data gradient. */
typedef struct job {
    const float *x;
    uint32_t in_h, in_w, channels; /* of x */
    uint32_t columns;              /* of V: the channels, or pairs of them */
    uint32_t windows;              /* at once */
    const uint32_t (*pair)[2];     /* WINOGRAD_BF16: [columns] as in conv_args */
    uint32_t out_h, out_w;
    uint32_t pad;
    const float *weight;    /* U */
    const uint32_t *column; /* [columns] into a point's columns */
    const size_t *row;      /* [rows] */
    uint32_t rows;
    size_t tap; /* floats between a row's points in U */
    float *scratch;
    const conv_args *forward; /* NULL in reverse */
    const conv_reverse_args *reverse;
} job;

/* -------------------------------------------------------------------------------------- images: B' x B */

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

/* Six streams to six streams. */
INLINE void transform_streams(const float *const from[IN], size_t count, float *to, size_t step) {
    for (size_t at = 0; at < count; at += VEC) {
        vec d[IN], t[IN];
        UNROLL for (int i = 0; i < IN; i++) d[i] = vec_load(from[i] + at);
        transform_input(d, t);
        UNROLL for (int i = 0; i < IN; i++) vec_store(to + (size_t)i * step + at, t[i]);
    }
}

/* The same for pairs of channels, which lie one after another; rounded. */
INLINE void transform_pairs(const float *const from[IN], size_t pairs, float *to, size_t step) {
    for (size_t p = 0; p < pairs; p++)
        for (size_t lane = 0; lane < LANES; lane += VEC) {
            vec d[2][IN], t[2][IN];
            for (int half = 0; half < 2; half++) {
                UNROLL for (int i = 0; i < IN; i++) d[half][i] = vec_load(from[i] + (2 * p + half) * LANES + lane);
                transform_input(d[half], t[half]);
            }
            UNROLL for (int i = 0; i < IN; i++)
                vec_store(to + (size_t)i * step + p * LANES + lane, bf16_pair(t[0][i], t[1][i]));
        }
}

/* [point y][channel][lane] of one column of positions. */
typedef struct transformed_column {
    _Alignas(64) float point[IN][CHANNELS_AT_ONCE * LANES];
} transformed_column;

/* Column x of a row of windows that begins at image row `top`; both may lie outside, where there are zeros. `count`
 * channels from `first` on, as far as they are stored, to place `at`. */
static void transform_column(const job *j, int64_t top, int64_t x, uint32_t first, uint32_t count, uint32_t at,
                             transformed_column *to) {
    static const transformed_column zeros; /* of which one row serves */
    const float *from[IN];
    const bool outside = x < 0 || x >= j->in_w || first >= j->channels;
    for (int i = 0; i < IN; i++) {
        const int64_t y = top + i;
        const size_t position = (size_t)y * j->in_w + (size_t)x;
        from[i] = outside || y < 0 || y >= j->in_h ? zeros.point[0] : j->x + (position * j->channels + first) * LANES;
    }
    transform_streams(from, (size_t)count * LANES, to->point[0] + at * LANES, CHANNELS_AT_ONCE * LANES);
}

/* Columns first .. first + count - 1 of V: the channels they are made of. */
static void transform_channels(const job *j, int64_t top, int64_t x, uint32_t first, uint32_t count,
                               transformed_column *to) {
    if (!WINOGRAD_BF16) {
        transform_column(j, top, x, first, count, 0, to);
        return;
    }
    for (uint32_t c = 0; c < 2 * count; c++) transform_column(j, top, x, j->pair[first + c / 2][c % 2], 1, c, to);
}

/* Windows first .. first + count - 1 of row ty, into V. */
static void transform_windows(const job *j, uint32_t ty, uint32_t first, uint32_t count, float *v) {
    enum { COLUMNS_AT_ONCE = WINOGRAD_BF16 ? CHANNELS_AT_ONCE / 2 : CHANNELS_AT_ONCE };
    const int64_t top = (int64_t)ty * OUT - j->pad, left = (int64_t)first * OUT - j->pad;
    const size_t point = point_size(j->columns);
    transformed_column columns[IN]; /* column i of the windows in hand is columns[i % IN] */
    for (uint32_t at = 0; at < j->columns; at += COLUMNS_AT_ONCE) {
        const uint32_t some = j->columns - at < COLUMNS_AT_ONCE ? j->columns - at : COLUMNS_AT_ONCE;
        for (uint32_t t = 0; t < count; t++) {
            const uint32_t begin = t * OUT;
            for (uint32_t i = t ? begin + IN - OUT : 0; i < begin + IN; i++)
                transform_channels(j, top, left + i, at, some, &columns[i % IN]);
            for (uint32_t y = 0; y < IN; y++) {
                const float *from[IN];
                float *to = v + (size_t)(t * POINTS + y * IN) * point + (size_t)at * LANES;
                for (uint32_t x = 0; x < IN; x++) from[x] = columns[(begin + x) % IN].point[y];
                if (WINOGRAD_BF16)
                    transform_pairs(from, some, to, point);
                else
                    transform_streams(from, (size_t)some * LANES, to, point);
            }
        }
    }
}

/* -------------------------------------------------------------------------------------------- products */

/* MO rows of one point: m[o][LANES], rows POINTS * LANES apart. */
INLINE void multiply_point(const uint32_t MO, const float *v, const float *u, const size_t *row, const uint32_t *column,
                           size_t columns, float *m) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        product_clear(MO, acc);
        product_add(MO, WINOGRAD_BF16 ? NUMBER_BF16 : NUMBER_FP32, acc, v + lane, u, row, column, columns);
        UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t i = 0; i < TILE_VECTORS; i++)
            vec_store(m + (size_t)o * POINTS * LANES + lane + i * VEC, acc[o][i]);
    }
}

#define MULTIPLY(MO)                                                                                                   \
    __attribute__((noinline)) static void multiply_##MO(const float *v, const float *u, const size_t *row,             \
                                                        const uint32_t *column, size_t columns, float *m) {            \
        multiply_point(MO, v, u, row, column, columns, m);                                                             \
    }
PRODUCT_ROWS(MULTIPLY)
typedef void (*multiply_function)(const float *v, const float *u, const size_t *row, const uint32_t *column,
                                  size_t columns, float *m);
#define MULTIPLY_NAME(MO) multiply_##MO,
static const multiply_function multiply[] = {NULL, PRODUCT_ROWS(MULTIPLY_NAME)};

/* Rows first .. end - 1 of all points of the windows in hand. */
static void multiply_rows(const job *j, const float *v, uint32_t windows, uint32_t first, uint32_t end, float *m) {
    const size_t point = point_size(j->columns);
    const uint32_t rows = end - first, blocks = conv_blocks(rows, TILE_ROWS);
    for (uint32_t q = 0; q < POINTS; q++)
        for (uint32_t b = 0; b < blocks; b++) {
            const uint32_t o = conv_block_first(rows, blocks, b), MO = conv_block_first(rows, blocks, b + 1) - o;
            for (uint32_t t = 0; t < windows; t++)
                multiply[MO](v + (t * POINTS + q) * point, j->weight + q * j->tap, j->row + first + o, j->column,
                             j->columns, m + (((size_t)t * ROWS_AT_ONCE + o) * POINTS + q) * LANES);
        }
}

/* ------------------------------------------------------------------------------------- results: A' M A */

/* y = A' m */
INLINE void transform_output(const vec m[IN], vec y[OUT]) {
    const vec sum = m[1] + m[2], difference = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = vec_fma(vec_set1(2), difference2, difference);
    y[2] = vec_fma(vec_set1(4), sum2, sum);
    y[3] = vec_fma(vec_set1(8), difference2, difference) + m[5];
}

/* The 16 sums of a row, TILE_LANES lanes. */
INLINE void transform_sums(const float *m, vec sums[OUT * OUT][TILE_VECTORS]) {
    for (int i = 0; i < TILE_VECTORS; i++) {
        vec column[IN][OUT]; /* [x][transformed y] */
        for (int x = 0; x < IN; x++) {
            vec d[IN];
            UNROLL for (int y = 0; y < IN; y++) d[y] = vec_load(m + (size_t)(y * IN + x) * LANES + i * VEC);
            transform_output(d, column[x]);
        }
        for (int y = 0; y < OUT; y++) {
            vec d[IN], t[OUT];
            UNROLL for (int x = 0; x < IN; x++) d[x] = column[x][y];
            transform_output(d, t);
            UNROLL for (int x = 0; x < OUT; x++) sums[y * OUT + x][i] = t[x];
        }
    }
}

/* The positions of a window's output that lie in the image. */
typedef struct places {
    uint32_t count;
    uint32_t sum[OUT * OUT]; /* which of the window's */
    tile_output output[OUT * OUT];
} places;

static places find_places(const job *j, uint32_t ty, uint32_t tx) {
    places p = {.count = 0};
    for (uint32_t i = 0; i < OUT * OUT; i++) {
        const uint32_t y = ty * OUT + i / OUT, x = tx * OUT + i % OUT;
        if (y >= j->out_h || x >= j->out_w) continue;
        p.sum[p.count] = i;
        p.output[p.count++] = j->forward ? conv_output(j->forward, y, x) : conv_reverse_output(j->reverse, y, x);
    }
    return p;
}

/* Row o of a window as put_sums would put it; pointers are read before any store, which might change them
 * for all the compiler knows. `kept`: something is, for the reverse pass. */
INLINE void put_row(const bool residual, const bool kept, const conv_args *c, const places *p, uint32_t o,
                    uint32_t lane, vec sums[OUT * OUT][TILE_VECTORS]) {
    const size_t at = (size_t)c->channel[o] * LANES + lane, row = (size_t)o * LANES + lane;
    const vec least = vec_set1(c->relu ? 0 : -__builtin_inff());
    vec mul[TILE_VECTORS];
    UNROLL for (int i = 0; i < TILE_VECTORS; i++) mul[i] = vec_load(c->mul + row + i * VEC);
    for (uint32_t k = 0; k < p->count; k++) {
        const tile_output out = p->output[k];
        uint32_t bits = 0;
        UNROLL for (int i = 0; i < TILE_VECTORS; i++) {
            const vec sum = sums[p->sum[k]][i];
            const vec y =
                scale_sum(sum, mul[i], out.add + row + i * VEC, residual ? out.residual + at + i * VEC : NULL);
            if (kept && out.linear) vec_store(out.linear + at + i * VEC, sum);
            if (kept) bits |= vec_bits(~(y <= vec_zero())) << i * VEC;
            vec_store(out.y + at + i * VEC, vec_max(least, y));
        }
        if (kept && out.positive) put_bits(out.positive + at / 8, bits);
    }
}

/* A row of dL/dx. */
INLINE void put_gradient(const bool add, const places *p, uint32_t o, uint32_t lane,
                         vec sums[OUT * OUT][TILE_VECTORS]) {
    for (uint32_t k = 0; k < p->count; k++) {
        float *y = p->output[k].y + (size_t)o * LANES + lane;
        UNROLL for (int i = 0; i < TILE_VECTORS; i++) vec_put(y + i * VEC, add, sums[p->sum[k]][i]);
    }
}

static void finish_row(const job *j, const places *p, uint32_t o, const float *m) {
    const conv_args *c = j->forward;
    const bool kept = c && (c->linear || c->positive);
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) {
        vec sums[OUT * OUT][TILE_VECTORS];
        transform_sums(m + lane, sums);
        if (!c && j->reverse->output.add)
            put_gradient(true, p, o, lane, sums);
        else if (!c)
            put_gradient(false, p, o, lane, sums);
        else if (c->residual && kept)
            put_row(true, true, c, p, o, lane, sums);
        else if (c->residual)
            put_row(true, false, c, p, o, lane, sums);
        else if (kept)
            put_row(false, true, c, p, o, lane, sums);
        else
            put_row(false, false, c, p, o, lane, sums);
    }
}

/* ---------------------------------------------------------------------------------------- rows of windows */

static void run_windows(const job *j, uint32_t ty, uint32_t tx, uint32_t windows) {
    float *v = j->scratch, *m = v + j->windows * POINTS * point_size(j->columns);
    transform_windows(j, ty, tx, windows, v);
    for (uint32_t first = 0; first < j->rows; first += ROWS_AT_ONCE) {
        const uint32_t end = j->rows - first < ROWS_AT_ONCE ? j->rows : first + ROWS_AT_ONCE;
        multiply_rows(j, v, windows, first, end, m);
        for (uint32_t t = 0; t < windows; t++) {
            const places p = find_places(j, ty, tx + t);
            for (uint32_t o = first; o < end; o++)
                finish_row(j, &p, o, m + ((size_t)t * ROWS_AT_ONCE + o - first) * POINTS * LANES);
        }
    }
}

/* What follows is done with whole rows of positions, in their order: its sums do not depend on the form. */
static void run(const job *j) {
    const uint32_t across = (j->out_w + OUT - 1) / OUT, step = j->windows;
    for (uint32_t y = 0; y < j->out_h; y += OUT) {
        const size_t first = (size_t)y * j->out_w, rows = j->out_h - y < OUT ? j->out_h - y : OUT;
        for (uint32_t tx = 0; tx < across; tx += step)
            run_windows(j, y / OUT, tx, across - tx < step ? across - tx : step);
        if (j->forward)
            KERNEL(cpu_conv_finish)(j->forward, first, rows * j->out_w);
        else
            KERNEL(cpu_conv_reverse_finish)(j->reverse, first, rows * j->out_w);
    }
}

static job forward_job(const conv_args *c) {
    const window *g = &c->window;
    return (job){
        .x = c->input,
        .in_h = g->in_h,
        .in_w = g->in_w,
        .channels = c->in_channels,
        .columns = WINOGRAD_BF16 ? c->pairs : c->in_channels,
        .windows = windows_at_once((uint32_t)(c->tap / TILE_ROWS)),
        .pair = c->pair,
        .out_h = g->out_h,
        .out_w = g->out_w,
        .pad = g->pad,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->rows,
        .tap = c->tap,
        .scratch = c->scratch,
        .forward = c,
    };
}

#if WINOGRAD_BF16

size_t KERNEL(cpu_winograd_bf16_scratch)(uint32_t in_channels) {
    return scratch_size(conv_pairs(in_channels));
}

void KERNEL(cpu_winograd_bf16)(const conv_args *c) {
    const job j = forward_job(c);
    run(&j);
}

#else

size_t KERNEL(cpu_winograd_scratch)(uint32_t channels) {
    return scratch_size(channels);
}

void KERNEL(cpu_winograd)(const conv_args *c) {
    const job j = forward_job(c);
    run(&j);
}

/* dx is the convolution of dy with the taps in reverse order, rows and columns exchanged, and pad 2 - pad. */
void KERNEL(cpu_winograd_reverse)(const conv_reverse_args *c) {
    const window *g = &c->window;
    run(&(job){
        .x = c->gradient,
        .in_h = g->out_h,
        .in_w = g->out_w,
        .channels = c->out_channels,
        .columns = c->out_channels,
        .windows = windows_at_once(c->out_channels),
        .out_h = g->in_h,
        .out_w = g->in_w,
        .pad = 2 - g->pad,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->in_channels,
        .tap = c->tap,
        .scratch = c->scratch,
        .reverse = c,
    });
}

#endif
