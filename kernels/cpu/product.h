/*
 * product.h - the register tile that every convolution is made of: a few rows of weights times the lanes of a stretch
 * of channels.
 *
 *   acc[o][lane] += sum over steps s of W[row o][column s] x[s][lane]
 *
 * Weights are never copied for a mask. They lie once, for all masks and threads, in blocks of TILE_ROWS rows,
 * [block][kernel row][column][TILE_ROWS]; what a mask keeps is a list of rows and a list of columns: where each begins.
 * A step loads TILE_VECTORS vectors of x and broadcasts a weight for each row: on AVX2 12 multiply-adds (6 cycles on
 * two units) for 8 loads (4 cycles), 64 bytes of x and 24 of weights. Looking up the column is one load more, in
 * cycles that the multiply-adds leave free.
 * The order of a row's additions is that of its columns, whatever rows are beside it.
 */
#ifndef COAR_KERNELS_CPU_PRODUCT_H
#define COAR_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/bf16.h"

/* What a tile multiplies: fp32 numbers, or pairs of bf16 ones, which are moved as if they were fp32 (bf16.h). */
typedef enum number { NUMBER_FP32, NUMBER_BF16 } number;

enum { TILE_LANES = TILE_VECTORS * VEC };

/* MO and type are constants wherever these are inlined, so acc lives in registers. */
INLINE void product_clear(const uint32_t MO, vec acc[TILE_ROWS][TILE_VECTORS]) {
    UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] = vec_zero();
}

/* x: first of the tile's lanes at the first step; steps lie LANES floats apart. Weights w[row[o] + column[s]]. */
INLINE void product_add(const uint32_t MO, const number type, vec acc[TILE_ROWS][TILE_VECTORS], const float *x,
                        const float *w, const size_t *row, const uint32_t *column, size_t steps) {
    const float *from[TILE_ROWS];
    UNROLL for (uint32_t o = 0; o < MO; o++) from[o] = w + row[o];
    for (const uint32_t *end = column + steps; column != end; column++, x += LANES) {
        const size_t c = *column;
        vec xv[TILE_VECTORS];
        UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) xv[v] = vec_load(x + v * VEC);
        UNROLL for (uint32_t o = 0; o < MO; o++) {
            const vec weight = vec_set1(from[o][c]);
            UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] =
                type == NUMBER_BF16 ? bf16_dot(acc[o][v], xv[v], weight) : vec_fma(xv[v], weight, acc[o][v]);
        }
    }
}

/* Calls X(MO) for every number of rows that a tile may have. */
#if TILE_ROWS == 2
#define PRODUCT_ROWS(X) X(1) X(2)
#elif TILE_ROWS == 6
#define PRODUCT_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif TILE_ROWS == 8
#define PRODUCT_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#error "product.h: no list of rows for this TILE_ROWS"
#endif

#endif
