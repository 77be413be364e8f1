/*
 * leverage.h - what an iterative form takes from the limit for independent masks (resolvent.h): sums over a mask's
 * components, for its leverage, and whether the masks at hand are like that.
 * Must not know: outputs.
 */
#ifndef COAR_FIT_LEVERAGE_H
#define COAR_FIT_LEVERAGE_H

#include "fit/descent.h"

/* C_jg of component j in column g. Called from several threads. */
typedef double (*leverage_variance)(const void *context, size_t j, size_t g);

/* sums[m][columns]: sum_j x_ij^2 C_jg of the centred masks. Takes the descent's workspace. */
coar_status leverage_sums(const descent *d, size_t columns, leverage_variance variance, const void *context,
                          double *sums);

/* Logs that `what` is solved by conjugate gradients, and warns of masks whose degrees of freedom at the mean eigenvalue are
 * not those of independent masks. */
coar_status leverage_check(const fit_system *system, const char *what);

#endif
