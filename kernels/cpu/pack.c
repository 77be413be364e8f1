/*
 * pack.c - weights in the order in which the convolutions' tiles read them: blocks of TILE_ROWS rows, of each
 * [point][column][TILE_ROWS] (kernels.h). A point is a tap, or one of Winograd's products. Done once, when a network is
 * prepared: no mask changes it.
 */
#include <string.h>

#include "kernels/cpu/simd.h"

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

/* Calls for every (row, column): the taps at `w`, and where the first point goes; points lie `step` floats apart. */
typedef void (*pack_element)(const window *g, const float *w, float *to, size_t step);

static void pack_all(const matrix *m, const window *g, size_t points, pack_element pack, float *packed) {
    const size_t step = (size_t)m->columns * TILE_ROWS;
    memset(packed, 0,
           conv_packed_size(m->rows, m->columns, points, TILE_ROWS) * sizeof *packed); /* rows that fill up */
    for (uint32_t r = 0; r < m->rows; r++) {
        float *row = packed + conv_row(r, m->columns, points, TILE_ROWS);
        for (uint32_t c = 0; c < m->columns; c++)
            pack(g, m->weight + r * m->row_step + c * m->column_step, row + (size_t)c * TILE_ROWS, step);
    }
}

/* -------------------------------------------------------------------------------------------- direct forms */

static void pack_taps(const window *g, const float *w, float *to, size_t step) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    for (size_t t = 0; t < taps; t++) to[t * step] = w[t];
}

/* Points are [phase y][phase x][tap y][tap x], the last tap of a phase first. */
static void pack_phases(const window *g, const float *w, float *to, size_t step) {
    for (uint32_t phase_y = 0; phase_y < g->stride; phase_y++)
        for (uint32_t phase_x = 0; phase_x < g->stride; phase_x++)
            for (uint32_t y = conv_phase_taps(g->kernel_h, g->stride, phase_y); y-- > 0;)
                for (uint32_t x = conv_phase_taps(g->kernel_w, g->stride, phase_x); x-- > 0; to += step)
                    *to = w[((size_t)phase_y + (size_t)y * g->stride) * g->kernel_w + phase_x + (size_t)x * g->stride];
}

void KERNEL(cpu_conv_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                           float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, (size_t)g->kernel_h * g->kernel_w, pack_taps, packed);
}

void KERNEL(cpu_conv_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                   float *packed) {
    const matrix m = reverse_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, (size_t)g->kernel_h * g->kernel_w, pack_phases, packed);
}

/* ------------------------------------------------------------------------------------------- Winograd's */

/* u = G w G' (winograd.c); tap t lies at w[t * tap]. */
static void transform(const float *w, ptrdiff_t tap, float *u, size_t step) {
    static const double G[6][3] = {{1. / 4, 0, 0},
                                   {-1. / 6, -1. / 6, -1. / 6},
                                   {-1. / 6, 1. / 6, -1. / 6},
                                   {1. / 24, 1. / 12, 1. / 6},
                                   {1. / 24, -1. / 12, 1. / 6},
                                   {0, 0, 1}};
    double t[6][3] = {{0}};
    for (int i = 0; i < 6; i++)
        for (int x = 0; x < 3; x++)
            for (int y = 0; y < 3; y++) t[i][x] += G[i][y] * w[(3 * y + x) * tap];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) {
            double sum = 0;
            for (int x = 0; x < 3; x++) sum += t[i][x] * G[j][x];
            u[(size_t)(i * 6 + j) * step] = (float)sum;
        }
}

static void transform_forward(const window *g, const float *w, float *to, size_t step) {
    (void)g;
    transform(w, 1, to, step);
}

/* The taps in reverse order. */
static void transform_reverse(const window *g, const float *w, float *to, size_t step) {
    (void)g;
    transform(w + 8, -1, to, step);
}

void KERNEL(cpu_winograd_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                               float *packed) {
    const matrix m = forward_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, WINOGRAD_POINTS, transform_forward, packed);
}

void KERNEL(cpu_winograd_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels,
                                       const float *weight, float *packed) {
    const matrix m = reverse_matrix(g, in_channels, out_channels, weight);
    pack_all(&m, g, WINOGRAD_POINTS, transform_reverse, packed);
}
