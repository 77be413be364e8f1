/*
 * penalty.h - which penalty: a grid around the mean eigenvalue, and generalised cross-validation or the evidence over
 * it for many examples at once. Letters as in solver.h; formulas in penalty.c.
 * Must not know: masks, where the eigenvalues come from.
 */
#ifndef COAR_FIT_PENALTY_H
#define COAR_FIT_PENALTY_H

#include "fit/solver.h"

#define PENALTIES 97
#define PENALTY_MIDDLE (PENALTIES / 2) /* the mean eigenvalue */

typedef enum penalty_rule { PENALTY_GCV, PENALTY_EVIDENCE } penalty_rule;

typedef struct penalty_grid {
    size_t r, m;
    double penalty[PENALTIES]; /* ascending */
    double left[PENALTIES];    /* m - 1 - sum_k d_k / (d_k + penalty) */
    double offset[PENALTIES];  /* the part of the criterion that outputs do not change */
    double *shrink;            /* [r][PENALTIES] what each squared coordinate counts */
} penalty_grid;

/* The grid around the mean eigenvalue: eight a decade, six decades each way. */
void penalty_spread(double mean, double penalty[PENALTIES]);

/* value[r]: the eigenvalues above 0. */
coar_status penalty_create(penalty_rule rule, const double *value, size_t r, size_t m, penalty_grid *out);
void penalty_free(penalty_grid *grid);

/* choice[z] = the index of the penalty that minimises the criterion, the larger when tied. alpha_squares[r][E]: squared
 * coordinates of the centred outputs along the eigenvectors; squares[E]: their whole sum of squares.
 * sums[PENALTIES][E]: scratch; it keeps the shrunk sums of squares that the criterion took the logarithm of. */
void penalty_choose(const penalty_grid *grid, const double *alpha_squares, const double *squares, size_t E,
                    double *sums, uint32_t *choice);

#endif
