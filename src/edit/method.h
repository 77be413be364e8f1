/*
 * method.h - how an edit chooses components: a table of methods, each of which looks at attributions alone.
 *
 * To add one: a file with its `choose`, a line in the table of method.c, a section in docs/edit.md.
 * Must not know: runs, models, devices, what ablating the components really does (sweep.c measures that).
 */
#ifndef COAR_EDIT_METHOD_H
#define COAR_EDIT_METHOD_H

#include <stdbool.h>

#include "core/threads.h"

/* Rows of PHILOX_STREAM_EDIT. */
enum { EDIT_ROW_SPLIT, EDIT_ROW_ORDER }; /* examples to validation and test; components at random */

/* Attributions of a set of examples: output(mask) ~ bias + sum_j weight_j mask_j. */
typedef struct edit_evidence {
    size_t count;        /* examples, at least 1; of the reference at least 2 */
    const float *weight; /* [count][n], finite */
} edit_evidence;

typedef struct edit_problem {
    uint32_t n;
    double direction;   /* 1 to raise the target's outputs, -1 to lower them */
    double better;      /* 1: larger outputs are better (a loss: -1) */
    double harm_weight; /* C of greedy.c, at least 0 */
    edit_evidence target, reference;
    const double *norms; /* [n] Euclidean norms of the components' weights */
    uint64_t seed;       /* of what is drawn: the run's */
    thread_pool *pool;
} edit_problem;

/* What a method's weights are of. */
typedef enum edit_source {
    EDIT_OF_FIT, /* the fit that the user named */
    EDIT_OF_LOO, /* the run's baselines (docs/design.md, section 7) */
    EDIT_OF_GRADIENT,
    EDIT_OF_NOTHING, /* target and reference are empty */
} edit_source;

typedef struct edit_method {
    const char *name; /* --method NAME; in the run file */
    edit_source source;
    bool variances; /* takes those of target and reference: one target has none, which is said */
    bool harm;      /* takes harm_weight */

    /* scores[n]: what the choice rests on, for the run file and the report. order[*count]: the components in the order in which
     * they are ablated, none twice, *count of them wanted; fewer (and *count lowered) where the method has no use for more. No
     * bit may depend on the number of threads. */
    coar_status (*choose)(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count);
} edit_method;

extern const edit_method edit_methods[];
extern const size_t edit_method_count;

/* In coar_edit_methods() all of their names. --method: COAR_ERROR_USAGE naming all of them for one that is not there. */
coar_status edit_method_find(const char *name, const edit_method **out);

/* tau_j = (mean_T w_j - mean_R w_j) / sqrt(var_T(w_j) / |T| + var_R(w_j) / |R|), population variances, in double: var_T is 0 for
 * one target; tau_j is 0 where the denominator is (COAR, arXiv 2404.11534, section 5). scores[n]. */
coar_status edit_tau(const edit_problem *p, double *scores);

/* The `count` components with the smallest direction * score, smallest first, ties by index. */
coar_status edit_order_by(const double *scores, uint32_t n, double direction, uint32_t *order, uint32_t count);

#endif
