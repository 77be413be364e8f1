/*
 * conjugate.h - the posterior means of empirical Bayes without a dense system: descents (descent.h) of OPERATOR_LANES
 * examples at a time, each with a penalty of its own, which is chosen on the way. Letters as in solver.h.
 * Must not know: how priors are learnt, held-out predictions, files.
 */
#ifndef COAR_FIT_CONJUGATE_H
#define COAR_FIT_CONJUGATE_H

#include "fit/descent.h"
#include "fit/resolvent.h"

typedef struct conjugate {
    descent descent;
    double *information; /* [n] D_j |x_j|^2 */
    resolvent resolvent; /* of them */
    size_t *unsolved;    /* [workers] see conjugate_unsolved */
} conjugate;

/* It solves nothing before conjugate_believe. */
coar_status conjugate_create(const fit_system *system, conjugate *out);
void conjugate_free(conjugate *c);

/* Takes this prior from now on, borrowed. */
void conjugate_believe(conjugate *c, const double *prior);

/* Minimises |y - Xc w|^2 + penalty sum_j w_j^2 / D_j for all examples of the blocks, to within tolerance^2 of the
 * squares of y, at the penalty that the evidence prefers. Of each block count, y, mean and squares are read, weight and choice
 * are where it starts (indices of the resolvent's penalties) and where it ends, penalty and left are written.
 * penalised: [E] of one block after the other, the minimum. progress (NULL = none) counts examples from `done` on:
 * COAR_STOPPED when its callback asks for it. */
typedef struct conjugate_job {
    solver_block *blocks;
    size_t count;
    double *penalised;
    double tolerance;
    progress *progress;
    uint64_t done;
} conjugate_job;
coar_status conjugate_solve(conjugate *c, const conjugate_job *job);

/* Examples so far whose weights CONJUGATE_STEPS_MAX steps were not enough for. */
enum { CONJUGATE_STEPS_MAX = 400 };
size_t conjugate_unsolved(const conjugate *c);

/* Effective degrees of freedom at the resolvent's penalty `choice`, as OPERATOR_LANES random vectors measure them:
 * masks that were not drawn independently have others than the resolvent. */
double conjugate_freedom(conjugate *c, uint32_t choice);

/* Bytes of one. */
double conjugate_memory(const fit_problem *problem, int workers);

#endif
