/*
 * iterative.h - ols and ridge without a dense system.
 * Must not know: empirical Bayes, files.
 */
#ifndef COAR_FIT_ITERATIVE_H
#define COAR_FIT_ITERATIVE_H

#include "fit/solver.h"

/* ols: the least squares of least |w| where there are many; ridge: with penalties of the same grid as shrink.c's. After
 * solve the solver has residuals and steps. */
coar_status iterative_create(fit_system *system, bool ridge, fit_solver **out);

/* Bytes of the solver with its tables, and of each example of a block. */
double iterative_memory(const fit_problem *problem, bool ridge, bool errors, int workers);
double iterative_memory_per_example(const fit_problem *problem, bool ridge);

/* Largest |Xc' (y - Xc w) - p w| / |Xc' y| of weights that count as solved. */
#define ITERATIVE_RESIDUAL 1e-6

#endif
