/*
 * measure.h - what masks really do to an edit's sets of examples: outputs, and the figures made of them.
 * Must not know: how masks were chosen, what the figures decide.
 */
#ifndef COAR_EDIT_MEASURE_H
#define COAR_EDIT_MEASURE_H

#include "edit/sets.h"

/* The (label, group) pairs of the validation and the test examples, by label, then group; of data without groups the labels
 * alone (group -1). */
typedef struct edit_pairs {
    size_t count;
    int32_t *label, *group;  /* [count] */
    uint64_t *examples;      /* [2][count] of validation and test */
    uint32_t *of[EDIT_SETS]; /* [set's count] the pair of each example; NULL but of validation and test */
} edit_pairs;

coar_status edit_pairs_make(const edit_sets *s, edit_pairs *out);
void edit_pairs_free(edit_pairs *p);

/* Masks that ablate the first ks[i] components of an order: packed [count][mask_bytes(n)], malloc'ed. */
coar_status edit_masks(uint32_t n, const uint32_t *order, const uint32_t *ks, size_t count, uint8_t **out);

typedef struct edit_request {
    const coar_edit_options *o;
    const edit_sets *sets;
    const char *output; /* the fit's */
    bool has_classes;   /* margins are wanted too */
    double start;       /* clock_seconds when the edit began: what its time limit counts from */
    const uint8_t *masks;
    size_t mask_count;
    unsigned wanted; /* bit k: set k */
} edit_request;

/* Of each set that was wanted, [masks][set's count]; NULL of the others. margin may be output itself. */
typedef struct edit_outputs {
    float *output[EDIT_SETS], *margin[EDIT_SETS];
} edit_outputs;

/* Masked passes of all sets that are wanted, one stage for each run that they are of. */
coar_status edit_measure(const edit_request *r, edit_outputs *out);
void edit_outputs_free(edit_outputs *o);

/* The figures of set k from its outputs and margins [count] under one mask; margin NULL: a language model. of_pair
 * [pairs->count], where the set has pairs: their accuracies, NaN of those without examples in it. */
coar_edit_score edit_score(const edit_sets *s, size_t k, const edit_pairs *pairs, const float *output,
                           const float *margin, double *of_pair);

#endif
