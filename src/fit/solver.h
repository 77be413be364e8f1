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
    bit_columns by_mask;      /* m columns of n bits: the rows of X */
    bit_columns by_component; /* n columns of m bits: the columns of X */
    double *mean;             /* [n] fraction of the masks that keep component j */
    double *rows;             /* scratch [DENSE_ROWS][max(m, n)] */
    size_t block;             /* largest E */
    bool standard_errors;
    thread_pool *pool;
    fit_device *device; /* NULL = the CPU */
    const coar_callbacks *callbacks;
} fit_system;

/* masks: packed, [m][ceil(n/8)]; copied. */
coar_status fit_system_create(const uint8_t *masks, size_t m, uint32_t n, const fit_settings *settings, size_t block,
                              fit_system *out);
void fit_system_free(fit_system *system);

/* The centred Gram matrix Xc' Xc [n][n], or with `dual` the kernel Xc Xc' [m][m]; each entry is an exact integer
 * divided once. Freed by the caller. */
coar_status fit_system_gram(const fit_system *system, bool dual, double **gram);

/* One block of examples on its way through a solver. */
typedef struct solver_block {
    size_t count;          /* E */
    const float *y;        /* [m][E], finite */
    const double *mean;    /* [E] of y over the masks */
    const double *squares; /* [E] sum of (y - mean)^2 */
    double *weight;        /* [n][E], written by the solver */
    uint32_t *choice;      /* [E], written by the solver: index into its penalties */
} solver_block;

/* cross[n][E] = Xc' y, from exact fixed-point sums. */
coar_status fit_system_cross(const fit_system *system, const solver_block *block, double *cross);

/* An estimator made ready for these masks. What does not depend on outputs is tabulated for each of its penalties. */
typedef struct fit_solver fit_solver;
struct fit_solver {
    coar_status (*solve)(fit_solver *solver, solver_block *block);
    void (*destroy)(fit_solver *solver);
    size_t penalties;    /* G */
    double *penalty;     /* [G] */
    double *freedom;     /* [G] effective degrees of freedom of the weights (the bias has one more) */
    double *slack;       /* [m][G] 1 - h_i, h_i the leverage of mask i in the fit with its bias */
    double slack_min;    /* at or below it a mask cannot be predicted from the others */
    double *error_scale; /* [n][G] standard error of weight j / standard deviation of the noise; or NULL */
    const double *dual;  /* [m][E] after solve, of a fit without residuals: takes the residuals' place beside
                            * `slack`, both divided by the vanishing penalty; else NULL */
};

/* Least squares by Cholesky, m > n + 1. *out = NULL when the masks do not tell all components apart. */
coar_status cholesky_create(fit_system *system, fit_solver **out);

/* By eigenvectors of the smaller side: ridge with its grid of penalties, or minimum-norm least squares. */
coar_status spectrum_create(fit_system *system, bool penalised, fit_solver **out);

/* ridge.c: the grid of penalties [RIDGE_PENALTIES], ascending, around the mean of the r non-zero eigenvalues `value`,
 * and shrink_squares[r][RIDGE_PENALTIES] = (penalty / (value + penalty))^2. */
#define RIDGE_PENALTIES 97
void ridge_grid(const double *value, size_t r, double *penalty, double *shrink_squares);

/* Generalised cross-validation: choice[z] = the g that minimises rss_g / (m - 1 - freedom_g)^2, the larger penalty when
 * tied. alpha_squares [r][E]: squared coordinates of the centred outputs along the eigenvectors; squares [E]: their
 * whole sum of squares; rss [RIDGE_PENALTIES][E]: scratch. */
void ridge_choose(const fit_solver *solver, const double *shrink_squares, size_t r, size_t m,
                  const double *alpha_squares, const double *squares, size_t E, double *rss, uint32_t *choice);

/* diagnose.c: what follows from solved weights. bias, r2, heldout, sigma: [E]; sigma = standard deviation of the noise,
 * NaN without degrees of freedom. */
typedef struct fit_diagnosis {
    double *bias, *r2, *heldout, *sigma;
    double *predicted; /* scratch [DENSE_ROWS][E] */
    double *moments;   /* scratch [FIT_MOMENTS][E] */
} fit_diagnosis;
#define FIT_MOMENTS 7
coar_status fit_diagnose(const fit_system *system, const fit_solver *solver, const solver_block *block,
                         fit_diagnosis *diagnosis);

#endif
