/*
 * pack.c - weights in the order in which the convolutions' tiles read them: blocks of TILE_ROWS rows, of each
 * [point][column][TILE_ROWS] (kernels.h). A point is a tap, or one of Winograd's products; a column is a channel, or in
 * bf16 a pair of them. Done once, when a network is prepared: no mask changes it.
 */
#include <string.h>

#include "kernels/cpu/product.h"

/* Weights as graphs have them, [O][I][taps], seen as rows and columns. */
typedef struct matrix {
    const float *weight;
    size_t row_step, column_step;
    uint32_t rows, columns;
} matrix;

static matrix forward_matrix(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    return (matrix){weight, in_channels * taps, taps, out_channels, in_channels};
}

static matrix reverse_matrix(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    return (matrix){weight, taps, in_channels * taps, in_channels, out_channels};
}

/* Where the points of one weight go: `step` floats apart. */
typedef struct place {
    float *to;
    size_t step;
    number type;
    bool upper; /* NUMBER_BF16: the second channel of its pair */
} place;

/* Point i. What is there is zero, or the other half of the pair. */
static void put(const place *p, size_t i, float value) {
    float *to = p->to + i * p->step;
    uint32_t bits;
    if (p->type == NUMBER_FP32) {
        *to = value;
        return;
    }
    const vec one = vec_set1(value), none = vec_zero();
    const uvec half = (uvec)(p->upper ? bf16_pair(none, one) : bf16_pair(one, none));
    memcpy(&bits, to, sizeof bits);
    bits |= half[0];
    memcpy(to, &bits, sizeof bits);
}

/* Calls for every (row, channel), the taps at `w`. */
typedef void (*pack_element)(const window *g, const float *w, const place *p);

static void pack_all(const matrix *m, const window *g, size_t points, number type, pack_element pack, float *packed) {
    const bool pairs = type == NUMBER_BF16;
    const uint32_t columns = pairs ? conv_pairs(m->columns) : m->columns;
    memset(packed, 0, conv_packed_size(m->rows, columns, points, TILE_ROWS) * sizeof *packed); /* rows that fill up */
    for (uint32_t r = 0; r < m->rows; r++) {
        float *row = packed + conv_row(r, columns, points, TILE_ROWS);
        for (uint32_t c = 0; c < m->columns; c++) {
            const place p = {row + (size_t)(pairs ? c / 2 : c) * TILE_ROWS, (size_t)columns * TILE_ROWS, type, c % 2};
            pack(g, m->weight + r * m->row_step + c * m->column_step, &p);
        }
    }
}

/* -------------------------------------------------------------------------------------------- direct forms */

static void pack_taps(const window *g, const float *w, const place *p) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    for (size_t t = 0; t < taps; t++) put(p, t, w[t]);
}

/* Points are [phase y][phase x][tap y][tap x], the last tap of a phase first. */
static void pack_phases(const window *g, const float *w, const place *p) {
    size_t point = 0;
    for (uint32_t phase_y = 0; phase_y < g->stride; phase_y++)
        for (uint32_t phase_x = 0; phase_x < g->stride; phase_x++)
            for (uint32_t y = conv_phase_taps(g->kernel_h, g->stride, phase_y); y-- > 0;)
                for (uint32_t x = conv_phase_taps(g->kernel_w, g->stride, phase_x); x-- > 0;)
                    put(p, point++,
                        w[((size_t)phase_y + (size_t)y * g->stride) * g->kernel_w + phase_x + (size_t)x * g->stride]);
}

void KERNEL(cpu_conv_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                           float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, (size_t)g->kernel_h * g->kernel_w, NUMBER_FP32, pack_taps, packed);
}

void KERNEL(cpu_conv_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, (size_t)g->kernel_h * g->kernel_w, NUMBER_BF16, pack_taps, packed);
}

void KERNEL(cpu_conv_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                   float *packed) {
    const matrix m = reverse_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, (size_t)g->kernel_h * g->kernel_w, NUMBER_FP32, pack_phases, packed);
}

/* ------------------------------------------------------------------------------------------- Winograd's */

/* u = G w G' (winograd.c); tap t lies at w[t * tap]. */
static void transform(const float *w, ptrdiff_t tap, const place *p) {
    static const double G[6][3] = {{1. / 4, 0, 0},
                                   {-1. / 6, -1. / 6, -1. / 6},
                                   {-1. / 6, 1. / 6, -1. / 6},
                                   {1. / 24, 1. / 12, 1. / 6},
                                   {1. / 24, -1. / 12, 1. / 6},
                                   {0, 0, 1}};
    double t[6][3] = {{0}};
    for (size_t i = 0; i < 6; i++)
        for (int x = 0; x < 3; x++)
            for (int y = 0; y < 3; y++) t[i][x] += G[i][y] * w[(3 * y + x) * tap];
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 6; j++) {
            double sum = 0;
            for (int x = 0; x < 3; x++) sum += t[i][x] * G[j][x];
            put(p, i * 6 + j, (float)sum);
        }
}

static void transform_forward(const window *g, const float *w, const place *p) {
    (void)g;
    transform(w, 1, p);
}

/* The taps in reverse order. */
static void transform_reverse(const window *g, const float *w, const place *p) {
    (void)g;
    transform(w + 8, -1, p);
}

void KERNEL(cpu_winograd_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                               float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, WINOGRAD_POINTS, NUMBER_FP32, transform_forward, packed);
}

void KERNEL(cpu_winograd_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                    float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, WINOGRAD_POINTS, NUMBER_BF16, transform_forward, packed);
}

void KERNEL(cpu_winograd_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels,
                                       const float *weight, float *packed) {
    const matrix m = reverse_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, WINOGRAD_POINTS, NUMBER_FP32, transform_reverse, packed);
}
