/*
 * prior.h - empirical Bayes' prior: how much each component matters, learnt from many examples at once.
 * Must not know: gradients, single examples' results.
 */
#ifndef COAR_FIT_PRIOR_H
#define COAR_FIT_PRIOR_H

#include "fit/sample.h"

/* Expectation and maximisation goes on to sharpen what few examples say, and correlations with fresh masks fall again
 * slowly after about this many. */
#define PRIOR_ROUNDS 8

/* prior[n]: the variances D_j of w_j(z) ~ N(0, s_z^2 D_j) that the sample's outputs are likely under, mean 1; formulas
 * in prior.c, and for an iterative system in prior_conjugate.c. Stopped by the system's callbacks: COAR_STOPPED. */
coar_status prior_learn(const fit_system *system, const fit_sample *sample, double *prior);
coar_status prior_learn_iteratively(const fit_system *system, const fit_sample *sample, double *prior);

/* The new variances from next[n] = the sum of g (mu^2 + Sigma) / s^2 of `examples` examples, which is spoilt; they stay
 * as they are when no outputs vary. */
void prior_maximise(const fit_system *system, size_t examples, double *next, double *prior);

/* Bytes that learning takes beside the system, the sample and a spectrum; of the second, all. */
double prior_memory(const fit_problem *problem);
double prior_memory_iteratively(const fit_problem *problem, int workers);

#endif
