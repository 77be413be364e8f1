/*
 * fit_device.h - what a device can do for a fit in the CPU's place: count and add bits, the dense algebra of one
 * symmetric matrix, and products of bits with a dense one. The first part is exact in integers, the rest is double
 * arithmetic as LAPACK would do it.
 *
 * All arrays are host memory, row-major, borrowed for the call; what the device keeps from call to call is its own
 * copy. One thread at a time. A failure is COAR_ERROR_MEMORY (with what is needed and what may be taken) or
 * COAR_ERROR_UNSUPPORTED, in one line.
 * Must not know: masks, outputs, estimators.
 */
#ifndef COAR_BACKEND_FIT_DEVICE_H
#define COAR_BACKEND_FIT_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/device_link.h"
#include "core/status.h"

typedef struct fit_device fit_device;

typedef struct fit_device_interface {
    /* gram[j][k] = number of bits set in both vectors j and k; [count][count]. words [count][stride]: bits behind a
     * vector's end are 0. */
    coar_status (*gram)(fit_device *d, const uint64_t *words, size_t count, size_t stride, int64_t *gram);

    /* cross[j][z] = sum of fixed[i][z] over the bits i < length that are set in vector j. fixed [length][E], cross
     * [count][E]; no partial sum exceeds 63 bits. */
    coar_status (*cross)(fit_device *d, const uint64_t *words, size_t count, size_t stride, const int64_t *fixed,
                         size_t length, size_t E, int64_t *cross);

    /* Bytes that gram and cross may take of the device now. */
    size_t (*room)(const fit_device *d);

    /* From here on gram and cross give the sums over the devices at the ends of `link`, to rank 0; the others pass NULL for
     * them. All ranks make the same calls, with the same count, stride, length and E, which they cut by the same `room`
     * (at most what each of them has); no sum of gram exceeds 31 bits. link = NULL ends that. */
    void (*join)(fit_device *d, device_link *link, size_t room);

    /* Cholesky: symmetric matrix [n][n] = L L'; L replaces the lower triangle, the rest is left undefined. *positive
     * = false, and nothing to use, when it is not positive definite. The device keeps L and the matrix for the two
     * functions below. */
    coar_status (*factor)(fit_device *d, double *matrix, size_t n, bool *positive);

    /* right[n][E] becomes matrix^-1 right, with one step of iterative refinement. */
    coar_status (*solve)(fit_device *d, double *right, size_t E);

    /* squares[i] = |L^-1 rows[i]|^2; rows [count][n]. */
    coar_status (*norms)(fit_device *d, const double *rows, size_t count, double *squares);

    /* matrix[p][p], symmetric, becomes its eigenvectors, one a row; value[p] its eigenvalues, ascending. The device
     * keeps the eigenvectors for the two functions below, which use the last r of them: V [r][p]. */
    coar_status (*eigenvectors)(fit_device *d, double *matrix, size_t p, double *value);

    /* out[r][E] = V x, x [p][E]; or, `back`, out[p][E] = V' x, x [r][E]. */
    coar_status (*rotate)(fit_device *d, size_t r, bool back, const double *x, size_t E, double *out);

    /* out[count][r] = rows V', rows [count][p]. */
    coar_status (*coordinates)(fit_device *d, size_t r, const double *rows, size_t count, double *out);

    /* Keeps right[length][E] for the products below, until the next one. */
    coar_status (*hold)(fit_device *d, const double *right, size_t length, size_t E);

    /* product[count][E] = (bits of the vectors as 0.0 and 1.0) * the held matrix; `length` bits of each vector. */
    coar_status (*product)(fit_device *d, const uint64_t *words, size_t count, size_t stride, double *product);

    void (*destroy)(fit_device *d);
} fit_device_interface;

/* First member of every device's own struct. */
struct fit_device {
    const fit_device_interface *interface;
};

#endif
