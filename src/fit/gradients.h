/*
 * gradients.h - averaged mask gradients as attributions. What least squares estimates, E[f(m_j = 1) - f(m_j = 0)], is
 * the integral over t of E[df/dm_j at m_j = t]; sums of such derivatives at three levels of t are given (fit.h). Here
 * they become averages, weights, and the noise of those.
 * Must not know: outputs, estimators.
 */
#ifndef COAR_FIT_GRADIENTS_H
#define COAR_FIT_GRADIENTS_H

#include "fit/combine.h"
#include "fit/fit.h"

typedef struct gradient_average {
    const fit_gradients *source;
    uint64_t N;
    uint32_t n;
    uint8_t *broken;    /* [N] 1 = some of the example's sums are not finite */
    double *noise;      /* [LEVELS][n] variance of one derivative at a level about its mean, averaged over examples */
    double *loudness;   /* [LEVELS][N] an example's share of it: variance = noise * loudness; NaN = not known */
    level_model *model; /* [groups] */
    uint32_t groups_unmeasured;
    uint32_t *group;     /* [n] whose model a component has */
    uint64_t block;      /* whose sums, counts and coefficients are held; UINT64_MAX = none's */
    double *sums;        /* [LEVELS][examples of the block][n] */
    uint32_t *counts;    /* [LEVELS][n] */
    double *coefficient; /* [LEVELS][n] what a sum counts in its weight */
    double *bias;        /* [n] combine_bias */
    uint8_t *level;      /* scratch [LEVELS_CYCLE][n] */
} gradient_average;

/* Reads all gradients of the problem once, and borrows them. */
coar_status gradient_average_create(const fit_problem *problem, gradient_average *out);
void gradient_average_free(gradient_average *g);

/* weight[n][E] of the examples index[E], ascending: the level averages combined (combine.h); 0 for a component that no
 * pass has seen, and for all of a broken example. */
coar_status gradient_weights(gradient_average *g, const uint64_t *index, size_t E, double *weight);

/* error[E][n]: root mean square errors of gradient_weights: the noise of the level averages, and what their combination
 * misses of the quadrature of true averages (combine_bias, an example's share as that of the noise at level 1). What the
 * quadrature misses of the integral is not in them. */
coar_status gradient_errors(gradient_average *g, const uint64_t *index, size_t E, float *error);

/* Bytes of all this. */
double gradient_memory(const fit_problem *problem);

#endif
