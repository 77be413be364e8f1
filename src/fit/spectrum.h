/*
 * spectrum.h - the singular value decomposition Xw = U sqrt(D) V' of the centred masks, each column times the root of
 * its component's prior variance: found as the eigenvectors of the smaller side, V of Xw' Xw (primal, n < m) or U of
 * Xw Xw' (dual). Letters as in solver.h; d_k are the eigenvalues.
 * Must not know: penalties, estimators.
 */
#ifndef COAR_FIT_SPECTRUM_H
#define COAR_FIT_SPECTRUM_H

#include "fit/solver.h"

typedef struct spectrum {
    const fit_system *system;
    bool dual;
    size_t p, r;         /* side of the matrix, rank */
    double *root;        /* [n] roots of the prior variances; NULL = all 1 */
    double *vectors;     /* [p][p]: row k = eigenvector k, eigenvalues ascending */
    const double *basis; /* [r][p]: the last r rows */
    double *value;       /* [r] eigenvalues d_k, ascending, above RANK_TOLERANCE of the largest */
} spectrum;

/* prior [n], positive, or NULL for all 1 (then the matrix is exact before it is rounded once). A device holds the
 * eigenvectors of the last spectrum created on it: one is in use at a time. */
coar_status spectrum_create(const fit_system *system, const double *prior, spectrum *out);
void spectrum_free(spectrum *s);

/* What a block of outputs is to the smaller side: right[p][E] = centred outputs (dual) or Xc' y (primal). */
coar_status spectrum_right(const spectrum *s, const solver_block *block, double *right);

/* alpha[r][E] = U' y, from right[p][E], which is spoilt. */
coar_status spectrum_project(const spectrum *s, double *right, size_t E, double *alpha);

/* weight[n][E] = root V sqrt(D) alpha; with alpha = U' y / (D + penalty) these are the penalised weights. alpha is
 * spoilt. dual: right[p][E] becomes U alpha; else it is not used. */
coar_status spectrum_expand(const spectrum *s, double *alpha, size_t E, double *right, double *weight);

/* squares[count][r]: squared entries first .. first + count - 1 of the columns of U (of_masks) or V; count <=
 * DENSE_ROWS. */
coar_status spectrum_squares(const spectrum *s, bool of_masks, size_t first, size_t count, double *squares);

#endif
