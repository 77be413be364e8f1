/*
 * evidence.h - the attributions of target and reference examples, from fits of their runs or from .npy files.
 * Must not know: what is made of them.
 */
#ifndef COAR_EDIT_EVIDENCE_H
#define COAR_EDIT_EVIDENCE_H

#include "core/npy.h"
#include "edit/method.h"
#include "edit/sets.h"

/* --attributions W.npy --rows R.npy, opened: f32 [M, n], and the rows of its M examples, which edit_sets_open checks. */
typedef struct given_weights {
    npy_array weight;
    uint64_t *rows; /* [M] */
} given_weights;

coar_status given_weights_open(const char *attributions, const char *rows, given_weights *out);
void given_weights_close(given_weights *g);

/* The fit of a run that --fit names, or by default the one of its first output that expects the highest correlation. */
coar_status edit_fit_choose(const edit_side *side, const char *name, fit_info *out);

/* Whether the side's run has the baseline (estimator loo or gp) of an output; its name in *name. */
coar_status edit_fit_baseline(const edit_side *side, const char *estimator, const char *output, bool *there,
                              char name[64]);

/* Weights of a set (target or reference), of that fit of its run, or given ones: *own [count][n], which `out` points to and
 * the caller frees. COAR_ERROR_INPUT naming a row, and how many there are, where examples have none (NaN). */
coar_status edit_evidence_read(const edit_set *set, const char *set_name, const char *fit, float **own,
                               edit_evidence *out);
coar_status edit_evidence_given(const edit_set *set, const char *set_name, const given_weights *given, uint32_t n,
                                float **own, edit_evidence *out);

#endif
