/*
 * truth.h - what the model really gives on fresh masks, the measure of every fit.
 * Must not know: fits, correlations.
 */
#ifndef COAR_ABLATE_TRUTH_H
#define COAR_ABLATE_TRUTH_H

#include "store/store.h"

/* Makes sure that the outputs for `masks` fresh masks (run_masks_fresh) at `alpha` are complete in an open run; opens
 * the run's model and data and runs what is missing. `name` receives the stage's name, "truth-aALPHA-sSEED".
 * COAR_ERROR_MISMATCH when model or data are not those of the run; COAR_STOPPED with everything saved. */
coar_status truth_complete(run_store *store, const coar_evaluate_options *options, double alpha, uint64_t seed,
                           uint64_t masks, char name[64]);

#endif
