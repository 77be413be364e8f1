/*
 * solver.h - what the estimators share inside src/fit: the system of masks, and the contract of a solver.
 *
 * Letters: m masks used, n components, E examples of a block, G penalties, X [m][n] the masks, Xc = X minus its column
 * means, r the rank of Xc. All matrices are row-major and double unless they say otherwise.
 * Must not know: non-finite outputs (left out before), files.
 */
#ifndef COAR_FIT_SOLVER_H
#define COAR_FIT_SOLVER_H

#include "fit/dense.h"
#include "fit/fit.h"

/* Eigenvalues below this fraction of the largest count as 0: exact integer Gram matrices have them at 1e-16 n, and
 * distinct masks far above. */
#define RANK_TOLERANCE 1e-10

/* A mask with less slack (1 - leverage) alone determines a weight: its leave-one-out prediction is rounding error. */
#define SLACK_MIN 1e-8

/* Largest n x n or m x m system: LAPACK's 32-bit workspace sizes end shortly above. */
#define SIDE_MAX 30000

typedef struct fit_system {
    const uint32_t *group_first; /* [groups + 1] component groups, borrowed from the problem */
    uint32_t groups;
    bit_columns by_mask;      /* m columns of n bits: the rows of X */
    bit_columns by_component; /* n columns of m bits: the columns of X */
    double *mean;             /* [n] fraction of the masks that keep component j */
    double *rows;             /* scratch [DENSE_ROWS][max(m, n)] */
    size_t block;             /* largest E */
    bool standard_errors;
    bool iterative; /* without a dense system; of the fit, so that its folds have the same form */
    thread_pool *pool;
    fit_device *device;   /* NULL = the CPU */
    shared_device shared; /* that, and other ranks' for sums; borrowed */
    const coar_callbacks *callbacks;
} fit_system;

/* Of m masks of the problem's components. masks: packed, [m][ceil(n/8)]; copied. */
coar_status fit_system_create(const fit_problem *problem, const uint8_t *masks, size_t m, const fit_settings *settings,
                              size_t block, fit_system *out);
void fit_system_free(fit_system *system);

/* The centred Gram matrix Xc' Xc [n][n], or with `dual` the kernel Xc Xc' [m][m]; each entry is an exact integer
 * divided once. Freed by the caller. */
coar_status fit_system_gram(const fit_system *system, bool dual, double **gram);

/* Largest min(m, n) that is solved by eigenvectors unless they are asked for: once, by ridge and by ols that has no
 * Cholesky factor, ten minutes of two cores and 3.6 GB of matrices; 54 times, by empirical Bayes, a quarter of an hour. ols
 * has a factor up to SIDE_MAX. Numbers of the problem alone, so that the form does not depend on the machine. */
#define EIGEN_DENSE_MAX 12288
#define BAYES_DENSE_MAX 4096

/* Whether this problem is solved without a dense system. */
bool fit_is_iterative(const fit_problem *problem, const fit_settings *settings);

/* One block of examples on its way through a solver. */
typedef struct solver_block {
    size_t count;          /* E */
    const uint64_t *index; /* [E] their numbers in the problem, ascending */
    const float *y;        /* [m][E], finite */
    const double *mean;    /* [E] of y over the masks */
    const double *squares; /* [E] sum of (y - mean)^2 */
    double *weight;        /* [n][E], written by the solver, as all that follows */
    double *penalty;       /* [E] what is stored as the penalty (fit.h) */
    double *left;          /* [E] degrees of freedom left over: m - 1 less the effective ones of the weights */
    uint32_t *choice;      /* [E] columns of the solver's tables */
} solver_block;

/* Mean of y[m][E] and sum of squares about it. Sums of equal floats are exact: constant outputs have exactly 0. */
void fit_centre(const float *y, size_t m, size_t E, double *mean, double *squares);

/* cross[n][E] = Xc' y, from exact fixed-point sums. */
coar_status fit_system_cross(const fit_system *system, const solver_block *block, double *cross);

/* An estimator made ready for these masks. What does not depend on outputs is in tables with a column for each of its
 * penalties. Held-out predictions are exact leave-one-out through `slack`, or else come from `refit`. */
typedef struct fit_solver fit_solver;
struct fit_solver {
    coar_status (*solve)(fit_solver *solver, solver_block *block);
    /* error[E][n]: standard errors of the block solved last; sigma[E]: standard deviation of the noise. NULL: from
     * error_scale. */
    coar_status (*errors)(fit_solver *solver, const solver_block *block, const double *sigma, float *error);
    void (*destroy)(fit_solver *solver); /* accepts what its own create left half made */
    size_t columns;                      /* G of the tables */
    const double *slack;       /* [m][G] 1 - h_i, h_i the leverage of mask i in the fit with its bias; or NULL */
    double slack_min;          /* at or below it a mask cannot be predicted from the others */
    const double *error_scale; /* [n][G] standard error of weight j / standard deviation of the noise; or NULL */
    const double *dual;        /* [m][E] after solve, of a fit without residuals: takes the residuals' place beside
                            * `slack`, both divided by the vanishing penalty; else NULL */
    const double *refit;       /* [n][E] after solve, without `slack`: weights from the first refit_masks masks alone */
    size_t refit_masks;        /* they predict the masks from this one on */
    const double *residual; /* [E] after solve: |Xc' (y - Xc w) - p w| / |Xc' y| of weights that are not exact but for
                            * rounding; else NULL */
    const uint32_t *steps;  /* [E] after solve, beside `residual`: what it took */
};

/* Least squares by Cholesky, m > n + 1. *out = NULL when the masks do not tell all components apart. */
coar_status cholesky_create(fit_system *system, fit_solver **out);

/* Everything that shrinks along singular vectors. prior[n]: variances of the weights relative to each other, positive;
 * NULL = all equal. */
typedef enum shrink_rule { SHRINK_NOT, SHRINK_RIDGE, SHRINK_BAYES } shrink_rule;
coar_status shrink_create(fit_system *system, shrink_rule rule, const double *prior, fit_solver **out);

/* Empirical Bayes of an iterative system (bayes.c). */
coar_status bayes_create(fit_system *system, const double *prior, fit_solver **out);

#endif
