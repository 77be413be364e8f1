/*
 * baselines.h - what attributions are measured beside (docs/design.md, section 7): leave-one-out, gradient at the full
 * model, neuron conductance and internal influence, kept as fits of the run, "loo", "gp", "nc" and "ii" (with -OUTPUT
 * for outputs that are not the first). They predict sum_j mask_j score_j: bias 0; penalty, R^2 and held-out
 * correlation NaN.
 * Must not know: correlations.
 */
#ifndef COAR_ABLATE_BASELINES_H
#define COAR_ABLATE_BASELINES_H

#include "store/store.h"

/* Makes sure that an open run has all of them for all its outputs: reopens its job and runs what is missing,
 * leave-one-out as stage "baseline-loo" (n + 1 masked passes), the others as "baseline-gradients" (105 reverse
 * passes an example and output). COAR_ERROR_EXISTS when a fit of another estimator has one of the names;
 * COAR_ERROR_UNSUPPORTED when the run's backend has no reverse passes; COAR_ERROR_MISMATCH when model or data are not
 * those of the run; COAR_STOPPED with everything saved. */
coar_status baselines_complete(run_store *store, const coar_evaluate_options *options);

#endif
