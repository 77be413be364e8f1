/*
 * lasso.h - least squares with an absolute penalty, which leaves weights exactly 0: minimises
 * |y - b - X w|^2 / 2 + penalty sum_j |w_j|.
 * Must not know: files, blocks of other estimators.
 */
#ifndef COAR_FIT_LASSO_H
#define COAR_FIT_LASSO_H

#include "fit/solver.h"

/* masks: those of the system, packed. The penalty of each example by generalised cross-validation; held-out predictions
 * of the last tenth of the masks by a fit of the others at the same penalty per mask. Without standard errors. */
coar_status lasso_create(const fit_problem *problem, const fit_settings *settings, const uint8_t *masks,
                         fit_system *system, fit_solver **out);

/* One example: Gram matrix Xc' Xc [n][n], cross[n] = Xc' y, squares = |y|^2 of centred outputs. */
typedef struct lasso_problem {
    const double *gram, *cross;
    double squares;
    size_t n, m;
} lasso_problem;

/* Buffers of one worker, all of [n]. */
typedef struct lasso_workspace {
    double *cross;    /* of the example in hand */
    double *residual; /* Xc' (y - Xc w) */
    double *best;     /* of the path so far */
    double *weight;
    uint32_t *active;
    size_t unsolved; /* how often sweeps were not enough */
} lasso_workspace;

/* weight[n], which it starts from with w->residual belonging to it, becomes the solution at `penalty`, to a duality gap
 * of LASSO_GAP of the squares; false when that many sweeps were not enough. *rss = |y - Xc w|^2, *active = how many weights
 * are not 0. */
#define LASSO_GAP 1e-12
bool lasso_descend(const lasso_problem *p, double penalty, double *weight, lasso_workspace *w, double *rss,
                   size_t *active);

/* Follows the path of penalties down from the least that leaves no weight; weight[n] = the solution of the least
 * rss / (m - 1 - active)^2. A penalty whose solution is not found is not chosen, and ends the path: false. */
bool lasso_choose(const lasso_problem *p, double *weight, lasso_workspace *w, double *penalty, size_t *active);

/* Bytes beside the system: fixed, and of each example of a block. */
double lasso_memory(const fit_problem *problem, int workers);
double lasso_memory_per_example(const fit_problem *problem);

#endif
