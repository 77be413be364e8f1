/*
 * ritz.h - what a descent without preconditioner and penalty has seen of the spectrum of Xc' Xc: its outputs' squares
 * along so many eigenvalues as it made steps, and from them the squares that any penalty leaves.
 * Must not know: masks, examples, criteria.
 */
#ifndef COAR_FIT_RITZ_H
#define COAR_FIT_RITZ_H

#include "fit/descent.h"

typedef struct ritz {
    size_t count;
    double value[TRACE_STEPS_MAX]; /* Ritz values theta, approximate eigenvalues */
    double along[TRACE_STEPS_MAX]; /* squares of the outputs along them, alpha^2 */
    double first[TRACE_STEPS_MAX]; /* of their vectors in the basis of residuals, the first component */
    double last[TRACE_STEPS_MAX];  /* and the last, times how the next residual goes on from there */
    double outside;                /* squares of the outputs that are along none of them */
    double *scratch;               /* [TRACE_STEPS_MAX][TRACE_STEPS_MAX] */
} ritz;

coar_status ritz_create(ritz *out);
void ritz_free(ritz *r);
double ritz_memory(void);

/* Of lane z. squares: of its outputs; start: |Xc' y|^2. COAR_ERROR_INTERNAL when LAPACK gives up. */
coar_status ritz_find(const descent_trace *trace, size_t z, double squares, double start, ritz *r);

/* |y - Xc w|^2 at a penalty, w being the best in the span of the steps. */
double ritz_residual(const ritz *r, double penalty);

/* |Xc' (y - Xc w) - p w| / |Xc' y| of the same: how much is still to come. */
double ritz_distance(const ritz *r, double penalty);

#endif
