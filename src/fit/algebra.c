/*
 * algebra.c - see algebra.h.
 *
 * LAPACK is column-major: the upper factor it leaves is, read row-major, L in the lower triangle. So nothing is
 * transposed: LAPACK is told 'U', the row-major products below are told Lower. Column-major eigenvectors are rows here.
 */
#include "fit/algebra.h"

#include <cblas.h>
#include <lapacke.h>

/* The condition number is estimated from the factor alone (Higham 1988), so a device's is as good as LAPACK's own. */
coar_status algebra_factor(fit_device *device, double *matrix, size_t n, double *reciprocal) {
    const int side = (int)n;
    const double norm = LAPACKE_dlansy(LAPACK_COL_MAJOR, '1', 'U', side, matrix, side);
    bool positive;
    *reciprocal = 0;
    if (device)
        TRY(device->interface->factor(device, matrix, n, &positive));
    else
        positive = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', side, matrix, side) == 0;
    if (positive && LAPACKE_dpocon(LAPACK_COL_MAJOR, 'U', side, matrix, side, norm, reciprocal) != 0) *reciprocal = 0;
    return COAR_OK;
}

coar_status algebra_solve(fit_device *device, const double *factor, size_t n, double *right, size_t E) {
    if (device) return device->interface->solve(device, right, E);
    const int side = (int)n, width = (int)E;
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, side, width, 1, factor, side, right,
                width);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, side, width, 1, factor, side, right,
                width);
    return COAR_OK;
}

coar_status algebra_norms(fit_device *device, const double *factor, size_t n, double *rows, size_t count,
                          double *squares) {
    if (device) return device->interface->norms(device, rows, count, squares);
    const int side = (int)n;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)count, side, 1, factor, side,
                rows, side);
    for (size_t i = 0; i < count; i++) squares[i] = cblas_ddot(side, rows + i * n, 1, rows + i * n, 1);
    return COAR_OK;
}

coar_status algebra_eigenvectors(fit_device *device, double *matrix, size_t n, double *value) {
    if (device) return device->interface->eigenvectors(device, matrix, n, value);
    const int side = (int)n, info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', side, matrix, side, value);
    if (info == LAPACK_WORK_MEMORY_ERROR)
        return status_set(COAR_ERROR_MEMORY, "the fit: not enough memory for the eigenvectors of a %d x %d matrix",
                          side, side);
    if (info != 0)
        return status_set(COAR_ERROR_INTERNAL, "the fit: the eigenvectors of a %d x %d matrix did not converge (%d)",
                          side, side, info);
    return COAR_OK;
}

coar_status algebra_rotate(fit_device *device, const double *basis, size_t r, size_t n, bool back, const double *x,
                           size_t E, double *out) {
    if (device) return device->interface->rotate(device, r, back, x, E, out);
    cblas_dgemm(CblasRowMajor, back ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)(back ? n : r), (int)E,
                (int)(back ? r : n), 1, basis, (int)n, x, (int)E, 0, out, (int)E);
    return COAR_OK;
}

coar_status algebra_coordinates(fit_device *device, const double *basis, size_t r, size_t n, const double *rows,
                                size_t count, double *out) {
    if (device) return device->interface->coordinates(device, r, rows, count, out);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)r, (int)n, 1, rows, (int)n, basis, (int)n, 0,
                out, (int)r);
    return COAR_OK;
}

coar_status algebra_hold(fit_device *device, const double *right, size_t length, size_t E) {
    return device ? device->interface->hold(device, right, length, E) : COAR_OK;
}

coar_status algebra_bits_product(fit_device *device, const bit_columns *bits, size_t first, size_t count,
                                 const double *right, size_t E, double *rows, double *product) {
    if (device)
        return device->interface->product(device, bits->words + first * bits->stride, count, bits->stride, product);
    bits_product(bits, first, count, right, E, rows, product);
    return COAR_OK;
}
