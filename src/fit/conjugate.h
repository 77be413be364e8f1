/*
 * conjugate.h - the posterior means of empirical Bayes without a dense system: preconditioned conjugate gradients on
 * the packed masks, OPERATOR_LANES examples at a time and each with a penalty of its own, which is chosen on the way. A
 * thread works on its examples from beginning to end, so that results depend on nothing but the example, the masks,
 * the prior, where it starts and the tolerance. Letters as in solver.h.
 * Must not know: how priors are learnt, held-out predictions, files.
 */
#ifndef COAR_FIT_CONJUGATE_H
#define COAR_FIT_CONJUGATE_H

#include "fit/operator.h"
#include "fit/resolvent.h"

/* Workspace of one thread: [length][lanes] throughout. */
typedef struct conjugate_lanes {
    double *y, *fitted, *image;                      /* [m] outputs, Xc w, Xc direction */
    double *weight, *residual, *direction, *product; /* [n] */
    double scale[OPERATOR_LANES]; /* y is (outputs - mean) / scale, which single precision can hold, and its weights */
    double squares[OPERATOR_LANES]; /* of y */
    double penalty[OPERATOR_LANES]; /* p, and which of the resolvent's it is */
    uint32_t choice[OPERATOR_LANES];
    double gap[OPERATOR_LANES]; /* r' P^-1 r */
    operator_scratch *scratch;
    size_t unsolved; /* see conjugate_unsolved */
} conjugate_lanes;

typedef struct conjugate {
    const fit_system *system;
    const double *prior; /* [n] D, borrowed */
    double *information; /* [n] D_j |x_j|^2 */
    resolvent resolvent; /* of them */
    conjugate_lanes *lanes;
    int workers;
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
