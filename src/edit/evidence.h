/*
 * evidence.h - the attributions of target and reference examples, from fits of their runs or from .npy files.
 * Must not know: what is made of them.
 */
#ifndef COAR_EDIT_EVIDENCE_H
#define COAR_EDIT_EVIDENCE_H

#include "core/npy.h"
#include "edit/method.h"
#include "edit/sets.h"

/* --attributions W.npy --rows R.npy, opened and checked: f32 [M, n] and integers [M], none twice. */
typedef struct given_weights {
    npy_array weight;
    uint64_t *rows; /* [M] */
} given_weights;

/* n 0: whatever width they have (the run is not open yet). */
coar_status given_weights_open(const char *attributions, const char *rows, given_weights *out);
void given_weights_close(given_weights *g);

/* What a problem's evidence points to. */
typedef struct edit_weights {
    float *weight, *bias, *output; /* [count][n], [count], [count]; as edit_evidence */
} edit_weights;

void edit_weights_free(edit_weights *w);

/* The fit of a run that --fit names, or by default the one of its first output that expects the highest correlation. */
coar_status edit_fit_choose(const edit_side *side, const char *name, fit_info *out);

/* Whether the side's run has the baseline (estimator loo or gp) of an output; its name in *name. */
coar_status edit_fit_baseline(const edit_side *side, const char *estimator, const char *output, bool *there,
                              char name[64]);

/* Weights of a set (target or reference), of that fit of its run, or given ones. The caller frees `own`, which `out` points
 * into. COAR_ERROR_INPUT naming a row, and how many there are, where examples have none (NaN). */
coar_status edit_evidence_read(const edit_set *set, const char *set_name, const char *fit, const char *output,
                               edit_weights *own, edit_evidence *out);
coar_status edit_evidence_given(const edit_set *set, const char *set_name, const given_weights *given, uint32_t n,
                                edit_weights *own, edit_evidence *out);

#endif
