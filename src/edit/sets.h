/*
 * sets.h - the runs that an edit takes examples from, and its sets of examples.
 *
 * SPEC numbers are rows of a data file. Target and reference need attributions, so they are examples of their run;
 * validation and test examples may be any rows.
 * Must not know: how components are chosen, what is measured.
 */
#ifndef COAR_EDIT_SETS_H
#define COAR_EDIT_SETS_H

#include "ablate/job.h"
#include "store/edits.h"

/* A run with its job open. All of an edit's are of one model and component set. */
typedef struct edit_side {
    char *path;
    run_store *store;
    run_tables tables;
    job *job;
    uint64_t *place;  /* [rows of the data file] of a row among the run's examples; NO_PLACE */
    uint8_t *correct; /* [rows of the data file] for SPECs with `wrong` and `correct`; NULL until one is met */
    bool predicted;   /* labels are the unablated model's predictions (--label predicted) */
} edit_side;

#define NO_PLACE UINT64_MAX

typedef struct edit_set {
    char *spec; /* for messages and the run file */
    const edit_side *side;
    size_t count;    /* 0, with side NULL: there is no such set (target test) */
    uint64_t *rows;  /* [count] of the side's data file */
    int32_t *labels; /* [count] that outputs use */
    int32_t *groups; /* [count] or NULL */
} edit_set;

typedef struct edit_sets {
    edit_side sides[1 + EDIT_SETS]; /* the edit's own run, then those that SPECs name */
    size_t side_count;
    edit_set set[EDIT_SETS];
} edit_sets;

extern const char
    *const edit_set_names[EDIT_SETS]; /* target, reference, validation, test, target-test: as options are called */

/* Opens the runs and resolves the SPECs that are given, in any case target and reference; an example outside its run is an
 * error. With `rows` [row_count] of the options' data file attributions come from elsewhere: target and reference are among
 * those rows, not among the run's. */
coar_status edit_sets_open(const coar_edit_options *o, const uint64_t *rows, size_t row_count, edit_sets *out);

/* Draws validation and test where they are not given; worsen: the target's outputs are to get worse, which may make it a label
 * to forget. Errors of the sets themselves: target and reference with an example in common, test or target test with one of
 * the other sets', too few of them. */
coar_status edit_sets_complete(edit_sets *s, bool worsen);
void edit_sets_close(edit_sets *s);

#endif
