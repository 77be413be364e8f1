/*
 * dense.h - bit matrices as operands of dense products. All matrices are row-major.
 * Must not know: estimators.
 */
#ifndef COAR_FIT_DENSE_H
#define COAR_FIT_DENSE_H

#include "fit/gram.h"

/* Bit rows expanded at a time: enough for the matrix product to run at full speed, little beside its other operand. */
#define DENSE_ROWS 128

/* rows[count][length] = bits of columns first .. first + count - 1 as 0.0 and 1.0. */
void bits_expand(const bit_columns *bits, size_t first, size_t count, double *rows);

/* product[count][E] = (bits of columns first .. first + count - 1) * right[length][E]; count <= DENSE_ROWS.
 * `rows` is scratch of [DENSE_ROWS][length]. */
void bits_product(const bit_columns *bits, size_t first, size_t count, const double *right, size_t E, double *rows,
                  double *product);

/* Lets OpenBLAS use `threads` threads; returns what it was, to be restored. */
int dense_threads(int threads);

#endif
