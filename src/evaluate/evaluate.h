/*
 * evaluate.h - one fit against one truth: predictions for fresh masks, correlations, intervals.
 * Must not know: how the truth was computed.
 */
#ifndef COAR_EVALUATE_EVALUATE_H
#define COAR_EVALUATE_EVALUATE_H

#include "core/sampler.h"
#include "core/threads.h"
#include "store/store.h"

/* A finished truth stage of a run. */
typedef struct evaluate_truth {
    run_store *store;
    const char *stage;      /* "truth-aALPHA-sSEED" */
    const sampler *sampler; /* its masks: 0 .. masks - 1 */
    uint64_t masks, examples, seed;
    double alpha;
    thread_pool *pool;
    size_t memory; /* bytes; 0 = half of what this process may use */
} evaluate_truth;

/* Predicts, correlates and stores predicted-aALPHA-sSEED-FIT.h5 (replacing an earlier one); fills *out. */
coar_status evaluate_fit(const evaluate_truth *truth, const fit_info *fit, coar_evaluation *out);

#endif
