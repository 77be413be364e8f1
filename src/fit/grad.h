/*
 * grad.h - the estimators grad and grad+eb on a system of masks: averaged gradients, calibrated on masked passes, and
 * empirical Bayes on what they leave over.
 * Must not know: how gradients are averaged, how priors are learnt.
 */
#ifndef COAR_FIT_GRAD_H
#define COAR_FIT_GRAD_H

#include "fit/bands.h"

/* *residuals = the sample's outputs minus what the calibrated gradients predict. */
coar_status gradient_residuals(const fit_system *system, gradient_average *g, const gradient_bands *bands,
                               const fit_sample *sample, fit_sample *residuals);

/* Weights: the calibrated gradients, and with `inner` what that solver makes of the residuals besides. Borrows g and
 * bands; takes `inner` (NULL = none) over, also when it fails. */
coar_status grad_create(fit_system *system, gradient_average *g, const gradient_bands *bands, fit_solver *inner,
                        fit_solver **out);

#endif
