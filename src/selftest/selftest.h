/*
 * selftest.h - what coar_selftest compares (graphs of one op at a table of shapes, ops.c; whole networks with random
 * weights, nets.c; neither knows which backend is tested) and how (selftest.c).
 * Must not know: runs, data sets.
 */
#ifndef COAR_SELFTEST_SELFTEST_H
#define COAR_SELFTEST_SELFTEST_H

#include "backend/backend.h"
#include "model/model.h"

enum { SELFTEST_KINDS = REVERSE_CONDUCTANCE + 1 };

typedef struct selftest_item {
    char name[128];
    graph *graph;       /* borrowed from `model` where there is one, else owned */
    model *model;       /* NULL for ops */
    ablation_kind kind; /* what a mask bit 0 does; gain 0.5 for ABLATION_SCALE, random means for ABLATION_MEAN */
    uint32_t slots, examples;
    const char *outputs;            /* for output_parse: what is compared under masks */
    bool reverse;                   /* run_reverse is tested, else logits and run */
    size_t derived[SELFTEST_KINDS]; /* reverse: the output whose derivative is taken, for each reverse_kind */
    double rms_most;                /* of the difference, over the rms of the reference, at reduced precision */
} selftest_item;

/* Item `index` of each table; an item with graph == NULL behind the last. quick: small shapes alone. reverse: for a
 * reverse pass; an op then also has components before it, which the gradients of its inputs reach. Weights are the same
 * on every machine. */
coar_status selftest_op(size_t index, bool quick, bool reverse, selftest_item *out);
coar_status selftest_net(size_t index, bool quick, bool reverse, selftest_item *out);
void selftest_item_free(selftest_item *item);

/* The outputs of a language model, and whose derivatives are taken. */
void selftest_texts(selftest_item *item);

/* coar_selftest of a backend that need not be on backend.c's list (tests). */
coar_status selftest_run(const coar_selftest_options *options, const backend_interface *tested,
                         coar_selftest_result *result);

#endif
