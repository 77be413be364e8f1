/*
 * algebra.h - the dense algebra of one symmetric matrix [n][n], and products of bits, on the CPU (LAPACK) or on a fit's
 * device (NULL = none). All matrices are row-major double. Must not know: masks, estimators.
 */
#ifndef COAR_FIT_ALGEBRA_H
#define COAR_FIT_ALGEBRA_H

#include "fit/solver.h"

/* matrix = L L': L in the lower triangle, the rest is undefined. *reciprocal = its reciprocal condition number in the
 * 1-norm, 0 when it is not positive definite. A device keeps what it needs for the two functions below until the next
 * factor. */
coar_status algebra_factor(fit_device *device, double *matrix, size_t n, double *reciprocal);

/* right[n][E] becomes (L L')^-1 right. */
coar_status algebra_solve(fit_device *device, const double *factor, size_t n, double *right, size_t E);

/* squares[i] = |L^-1 rows[i]|^2 = rows[i]' (L L')^-1 rows[i]; rows [count][n] are overwritten. */
coar_status algebra_norms(fit_device *device, const double *factor, size_t n, double *rows, size_t count,
                          double *squares);

/* Gets ready for products with right[length][E], which must stay as it is until the last of them. */
coar_status algebra_hold(fit_device *device, const double *right, size_t length, size_t E);

/* bits_product (dense.h) with the matrix that is held: product[count][E] = (bits of columns first .. first + count -
 * 1) * right. */
coar_status algebra_bits_product(fit_device *device, const bit_columns *bits, size_t first, size_t count,
                                 const double *right, size_t E, double *rows, double *product);

/* The matrix becomes its eigenvectors, one a row; value[n] ascending. A device keeps them for the two functions
 * below, whose basis [r][n] must be the last r of them. */
coar_status algebra_eigenvectors(fit_device *device, double *matrix, size_t n, double *value);

/* out[r][E] = basis x, x [n][E]; or, `back`, out[n][E] = basis' x, x [r][E]. */
coar_status algebra_rotate(fit_device *device, const double *basis, size_t r, size_t n, bool back, const double *x,
                           size_t E, double *out);

/* out[count][r] = rows basis', rows [count][n]. */
coar_status algebra_coordinates(fit_device *device, const double *basis, size_t r, size_t n, const double *rows,
                                size_t count, double *out);

#endif
