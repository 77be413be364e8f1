/*
 * prior.h - empirical Bayes' prior: how much each component matters, learnt from many examples at once.
 * Must not know: gradients, single examples' results.
 */
#ifndef COAR_FIT_PRIOR_H
#define COAR_FIT_PRIOR_H

#include "fit/sample.h"

/* prior[n]: the variances D_j of w_j(z) ~ N(0, s_z^2 D_j) that the sample's outputs are likely under, mean 1; formulas
 * in prior.c. Stopped by the system's callbacks: COAR_STOPPED. */
coar_status prior_learn(const fit_system *system, const fit_sample *sample, double *prior);

/* Bytes that learning takes beside the system, the sample and a spectrum. */
double prior_memory(const fit_problem *problem);

#endif
