/*
 * work.h - how much a fit has to do, for forecasts of its time: multiplications and additions of its dense products,
 * eigenvectors and products with masks, as their formulas have them. Times follow from a fit that was timed.
 * Must not know: values of any kind, clocks.
 */
#ifndef COAR_FIT_WORK_H
#define COAR_FIT_WORK_H

#include "fit/fit.h"

/* Operations of a fit of the problem (its sizes alone are looked at). */
double fit_work(const fit_problem *problem, const fit_settings *settings);

#endif
