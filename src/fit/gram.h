/*
 * gram.h - the integer half of a fit: masks as bit columns, their Gram matrix by popcount, cross products in fixed
 * point. All results are exact, so their bytes do not depend on threads, order or blocking.
 * Must not know: estimators, floating-point linear algebra, files.
 */
#ifndef COAR_FIT_GRAM_H
#define COAR_FIT_GRAM_H

#include <stdint.h>

#include "backend/fit_device.h"
#include "core/threads.h"

/* `count` bit vectors of `length` bits, each in `stride` 64-bit words; bits beyond `length` are 0. Of masks by
 * component, column j's bit i says that mask i keeps component j. */
typedef struct bit_columns {
    uint64_t *words; /* [count][stride] */
    size_t count, length, stride;
} bit_columns;

/* Packed masks [m][ceil(n/8)] (sampler.h; their padding bits must be 0) turned by component: n columns of m bits. */
coar_status bit_columns_transpose(const uint8_t *masks, size_t m, uint32_t n, thread_pool *pool, bit_columns *out);

/* The masks themselves as columns, for the m x m system of masks: m columns of n bits. */
coar_status bit_columns_copy(const uint8_t *masks, size_t m, uint32_t n, bit_columns *out);

void bit_columns_free(bit_columns *columns);

/* gram[j][k] = number of bits set in both columns j and k; symmetric, int64 [count][count]. Exact. */
coar_status gram_count(const bit_columns *columns, thread_pool *pool, int64_t *gram);

/* Rows first .. first + rows - 1 of it, from the diagonal's tile on: band[rows][count], 0 before that. first: a multiple of
 * 32. */
coar_status gram_band(const bit_columns *columns, size_t first, size_t rows, thread_pool *pool, int64_t *band);

/* Cross products of masks by component with y[m][N] (finite), in fixed point: with q[i][z] = round(y[i][z] 2^shift[z]),
 * cross[j][z] = sum of q[i][z] over the masks i that keep component j, and total[z] = sum over all masks.
 * shift[z] comes from max|y[.][z]| and m such that no sum exceeds 2^62: int64 sums are exact in any order.
 * cross [n][N], total [N], shift [N]. A device (NULL = none) adds in the CPU's place, from q made here. */
coar_status cross_products(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, fit_device *device,
                           int64_t *cross, int64_t *total, int *shift);

/* The parts of that: shifts of y[m][N]; sums under given ones on the CPU; for a device q[columns->length][N], which the caller
 * frees, and total. */
coar_status cross_shifts(const float *y, size_t m, size_t N, thread_pool *pool, int *shift);
coar_status cross_sums(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, int64_t *cross,
                       int64_t *total, const int *shift);
coar_status cross_fixed(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, const int *shift,
                        int64_t **fixed, int64_t *total);

#endif
