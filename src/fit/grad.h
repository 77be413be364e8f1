/*
 * grad.h - the estimators grad and grad+eb on a system of masks: averaged gradients, calibrated on masked passes, and
 * empirical Bayes on what they leave over.
 * Must not know: how gradients are averaged, how priors are learnt.
 */
#ifndef COAR_FIT_GRAD_H
#define COAR_FIT_GRAD_H

#include "fit/gradients.h"
#include "fit/sample.h"

/* factor[n]: one number for each component group, shared by all examples, by pooled least squares of the sample's
 * outputs on what the gradients predict; formulas in calibrate.c. */
coar_status gradient_calibrate(const fit_system *system, gradient_average *g, const fit_sample *sample, double *factor);
double gradient_calibrate_memory(const fit_problem *problem);

/* *residuals = the sample's outputs minus what the calibrated gradients predict. */
coar_status gradient_residuals(const fit_system *system, gradient_average *g, const double *factor,
                               const fit_sample *sample, fit_sample *residuals);

/* Weights: factor * averaged gradient, and with `inner` what that solver makes of the residuals besides. Borrows g and
 * factor[n]; takes `inner` (NULL = none) over, also when it fails. */
coar_status grad_create(fit_system *system, gradient_average *g, const double *factor, fit_solver *inner,
                        fit_solver **out);

#endif
