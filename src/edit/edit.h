/*
 * edit.h - one call of coar_edit, as its steps share it: choice.c (components in order), trial.c (what ablating them does),
 * outcome.c (the edit that was taken, beside others), result.c (what the caller gets).
 */
#ifndef COAR_EDIT_EDIT_H
#define COAR_EDIT_EDIT_H

#include "edit/evidence.h"
#include "edit/measure.h"
#include "edit/sweep.h"

/* Filled from top to bottom. */
typedef struct edit_run {
    const coar_edit_options *o;
    double start; /* clock_seconds */
    const edit_method *method;
    given_weights given; /* with --attributions */
    edit_sets sets;
    edit_pairs pairs;
    fit_info fit; /* name "" with --attributions */
    uint32_t n;
    uint64_t seed;
    bool has_classes;
    double *norms; /* [n], edit_problem */
    sweep_rules rules;
    double harm_weight;      /* of the methods that take one */
    coar_edit_point *points; /* of the sweep */
    size_t chosen;           /* among them */
    edit_record record;
} edit_run;

/* The order that a method gives from its weights, at most `count` components; *there is false, with a warning that says how to
 * make them, where the runs lack the baseline it takes. */
coar_status edit_choose(edit_run *e, const edit_method *method, double *scores, uint32_t *order, uint32_t *count,
                        bool *there);

/* What the edit's own method takes its weights from, as edit_record.fit says. */
coar_status edit_evidence_name(const edit_run *e, char name[64]);

/* Measures 0 .. K components of the record's order, and takes a point (e->chosen). */
coar_status edit_sweep(edit_run *e);

/* All sets with nothing ablated and with the edit, into the record; with --compare also what other choices of as many
 * components do. */
coar_status edit_outcome(edit_run *e);

/* What coar_edit gives its caller, from the record: one block of memory. */
coar_status edit_result_make(const edit_run *e, coar_edit_result **out);

#endif
