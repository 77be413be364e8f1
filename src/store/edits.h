/*
 * edits.h - edits of a run: edit-NAME.h5, an object /edits/NAME of run.h5 (docs/runfile.md).
 * Must not know: how components are chosen or examples measured.
 */
#ifndef COAR_STORE_EDITS_H
#define COAR_STORE_EDITS_H

#include "store/store.h"

/* The columns of a sweep, and of a set before and after: coar_edit_score. */
enum { EDIT_OUTPUT, EDIT_ACCURACY, EDIT_WORST, EDIT_AVERAGE, EDIT_COLUMNS };

enum { EDIT_SWEPT = 3, EDIT_SETS = 5 }; /* target, reference, validation; and test, target test */

/* One set of examples; the last one may be empty. */
typedef struct edit_examples {
    char *spec;      /* as the user gave it, or what it stands for */
    char *data_path; /* relative to the run file; several sets may be of one data file */
    char data_sha256[65];
    size_t count, shown;
    uint64_t *rows;                      /* [count] of the data file */
    int32_t *labels;                     /* [count] that the outputs used */
    int32_t *groups;                     /* [count] or NULL */
    float *before, *after;               /* [count] the fit's output, with nothing ablated and with the edit */
    float *margin_before, *margin_after; /* [count]; above 0: right. NULL: a language model */
    uint64_t *shown_at; /* [shown] examples, 0 .. count - 1, whose predictions are known; none of a language model */
    int32_t *predicted_before, *predicted_after; /* [shown] classes */
    double *scores;                              /* [2][EDIT_COLUMNS] before and after */
} edit_examples;

typedef struct edit_comparison {
    char method[16];
    double *values;  /* [4][3] target gain, validation loss, test loss, target test gain: each mean, low, high */
    uint32_t *order; /* [k] */
} edit_comparison;

#define EDIT_FIT_GIVEN "(npy)" /* attributions from files: no fit can be called that */

typedef struct edit_record {
    char name[64], method[16], direction[8], output[40];
    char fit[64]; /* EDIT_FIT_GIVEN, or "" of a method that takes no weights */
    char *command;
    uint32_t components, max_k, k, stopped; /* coar_edit_result */
    double select, until, harm_weight;      /* NaN: not given, and of methods that take none */
    bool has_classes;
    double *scores;  /* [n] */
    uint32_t *order; /* [order_count] */
    size_t order_count;
    uint32_t *sweep_k; /* [points] */
    size_t points;
    double *sweep[EDIT_SWEPT];        /* [points][EDIT_COLUMNS] of target, reference, validation */
    size_t pairs;                     /* (label, group) pairs with validation or test examples, by label, then group */
    int32_t *pair_label, *pair_group; /* [pairs]; group -1: the data have none */
    uint64_t *pair_count;             /* [2][pairs] validation and test examples */
    double *pair_sweep;               /* [points][pairs] accuracy on validation */
    double *pair_test;                /* [2][pairs] accuracy on test, before and after */
    edit_examples sets[EDIT_SETS];
    edit_comparison *comparisons;
    size_t comparison_count;
} edit_record;

void edit_record_free(edit_record *r);

/* Part edit-NAME.h5, and run.h5 with it. COAR_ERROR_EXISTS where there is one of that name and force is not given. */
coar_status store_write_edit(run_store *store, const edit_record *record, bool force);
/* The same error, before anything is computed; and COAR_ERROR_USAGE for what no edit can be called. */
coar_status store_check_edit(run_store *store, const char *name, bool force);

typedef struct edit_info {
    char name[64], method[16], fit[64], output[40], direction[8];
    uint32_t k;
} edit_info;

/* Edits of a run in name order; malloc'ed. */
coar_status store_list_edits(run_store *store, edit_info **edits, size_t *count);
/* Free with edit_record_free. */
coar_status store_read_edit(run_store *store, const char *name, edit_record *out);

/* Removes the files of stages with this beginning that nobody works on: store_discard_stage for all of them. */
coar_status store_discard_stages(run_store *store, const char *prefix);

#endif
