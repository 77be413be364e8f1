/*
 * diagnose.h - what follows from solved weights: bias, R^2, noise, standard errors, held-out correlation, and how well
 * the mean of that is known.
 * Must not know: how the weights were found.
 */
#ifndef COAR_FIT_DIAGNOSE_H
#define COAR_FIT_DIAGNOSE_H

#include "fit/solver.h"

/* The masks in this many runs of equal length, each left out once for the jackknife. */
enum { FIT_PARTS = 20, FIT_MOMENTS = 7 };

typedef struct fit_diagnosis {
    double *bias, *r2, *heldout; /* [E] */
    double *sigma;               /* [E] standard deviation of the noise, NaN without degrees of freedom */
    double *without;             /* [FIT_PARTS][E] heldout over the masks of all parts but one */
    double *predicted, *moments; /* scratch */
} fit_diagnosis;

/* Bytes of each example of a block, but for `predicted`. */
#define FIT_DIAGNOSIS_BYTES (8 * (4 + (1 + FIT_MOMENTS) * FIT_PARTS))

coar_status fit_diagnosis_create(size_t block, fit_diagnosis *out);
void fit_diagnosis_free(fit_diagnosis *diagnosis);

/* r2 and heldout are NaN where undefined: constant outputs or predictions. */
coar_status fit_diagnose(const fit_system *system, const fit_solver *solver, const solver_block *block,
                         fit_diagnosis *diagnosis);

/* The held-out part of it alone, for the masks first .. end - 1: their moments are added to
 * moments[FIT_PARTS][FIT_MOMENTS][E]. diagnosis: scratch. Of solvers with slack. */
coar_status fit_diagnose_held(const fit_system *system, const fit_solver *solver, const solver_block *block,
                              size_t first, size_t end, fit_diagnosis *diagnosis, double *moments);

/* heldout[E] and without[FIT_PARTS][E] (as in fit_diagnosis) from moments. */
void fit_held_correlations(const double *moments, size_t E, double *heldout, double *without);

/* error[E][n] of the block that `solver` solved last. */
coar_status fit_standard_errors(fit_solver *solver, const solver_block *block, size_t n, const double *sigma,
                                float *error);

/* The mean held-out correlation r of all examples, and a 95 % interval for what fresh masks and fresh examples of the
 * same kind would give:
 *
 *   variance = J + S - B, at least the larger of J and S
 *   J  masks: the delete-one-part jackknife of the mean, (P - 1)/P sum_p (r_(p) - their mean)^2
 *   S  examples: their variance over their number
 *   B  what both count: the mean over examples of each one's own J, over their number
 *
 * and the interval r +- 2.09 roots of it (Student's t with P - 1 = 19 degrees of freedom). */
typedef struct fit_outlook {
    uint64_t count;
    double sum, squares, without[FIT_PARTS], own;
} fit_outlook;
void fit_outlook_add(fit_outlook *outlook, const fit_diagnosis *diagnosis, size_t E);
void fit_outlook_interval(const fit_outlook *outlook, double *mean, double *low, double *high);

/* The mean of a less that of b, of the same examples, and the jackknife's standard error of that over masks. NaN where
 * either has none. */
void fit_outlook_difference(const fit_outlook *a, const fit_outlook *b, double *difference, double *error);

#endif
