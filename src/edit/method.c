/*
 * method.c - the methods that choose components, and tau, the paper's. See method.h.
 */
#include "edit/method.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"
#include "edit/greedy.h"

/* ------------------------------------------------------------------------------------------------------- orders */

typedef struct ranked {
    double key;
    uint32_t component;
} ranked;

static int by_key(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->component > y->component) - (x->component < y->component);
}

coar_status edit_order_by(const double *scores, uint32_t n, double direction, uint32_t *order, uint32_t count) {
    ranked *items;
    TRY(memory_new(n, sizeof *items, "the order of components", &items));
    for (uint32_t j = 0; j < n; j++) items[j] = (ranked){direction * scores[j], j};
    qsort(items, n, sizeof *items, by_key);
    for (uint32_t i = 0; i < count; i++) order[i] = items[i].component;
    free(items);
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------------------------- tau */

/* Means and population variances of every component's weights over a set, two passes: mean[n], variance[n], zeros to begin
 * with. Row by row, so that memory is read in order; each sum is over the examples in theirs. */
static void moments(const edit_evidence *e, uint32_t n, double *mean, double *variance) {
    for (size_t i = 0; i < e->count; i++)
        for (uint32_t j = 0; j < n; j++) mean[j] += e->weight[i * n + j];
    for (uint32_t j = 0; j < n; j++) mean[j] /= (double)e->count;
    for (size_t i = 0; i < e->count; i++)
        for (uint32_t j = 0; j < n; j++) {
            const double d = e->weight[i * n + j] - mean[j];
            variance[j] += d * d;
        }
    for (uint32_t j = 0; j < n; j++) variance[j] /= (double)e->count;
}

coar_status edit_tau(const edit_problem *p, double *scores) {
    const size_t n = p->n;
    const double targets = (double)p->target.count, references = (double)p->reference.count;
    double *sums; /* [4][n] mean and variance of target and reference */
    TRY(memory_new(n, 4 * sizeof *sums, "tau", &sums));
    moments(&p->target, p->n, sums, sums + n);
    moments(&p->reference, p->n, sums + 2 * n, sums + 3 * n);
    for (size_t j = 0; j < n; j++) {
        const double scale = sqrt(sums[n + j] / targets + sums[3 * n + j] / references);
        scores[j] = scale > 0 ? (sums[j] - sums[2 * n + j]) / scale : 0;
    }
    free(sums);
    return COAR_OK;
}

static coar_status choose_tau(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count) {
    TRY(edit_tau(p, scores));
    return edit_order_by(scores, p->n, p->direction, order, *count);
}

/* ------------------------------------------------------------------------------------------- without attributions */

/* scores: Philox words, so that the smallest ones are a random choice (stream 8, row EDIT_ROW_ORDER). */
static coar_status choose_random(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count) {
    uint32_t words[4];
    for (uint32_t j = 0; j < p->n; j++) {
        if (j % 4 == 0) philox_words(p->seed, PHILOX_STREAM_EDIT, EDIT_ROW_ORDER, j / 4, words);
        scores[j] = words[j % 4];
    }
    return edit_order_by(scores, p->n, 1, order, *count);
}

/* The smallest weights first, whatever is to become of the target: what pruning by magnitude would take. */
static coar_status choose_weight_norm(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count) {
    memcpy(scores, p->norms, p->n * sizeof *scores);
    return edit_order_by(scores, p->n, 1, order, *count);
}

/* ------------------------------------------------------------------------------------------------------ the table */

const edit_method edit_methods[] = {
    {.name = "tau", .source = EDIT_OF_FIT, .variances = true, .choose = choose_tau},
    {.name = "greedy", .source = EDIT_OF_FIT, .harm = true, .choose = edit_choose_greedy},
    {.name = "loo", .source = EDIT_OF_LOO, .variances = true, .choose = choose_tau},
    {.name = "gradient", .source = EDIT_OF_GRADIENT, .variances = true, .choose = choose_tau},
    {.name = "weight-norm", .source = EDIT_OF_NOTHING, .choose = choose_weight_norm},
    {.name = "random", .source = EDIT_OF_NOTHING, .choose = choose_random},
};
const size_t edit_method_count = sizeof edit_methods / sizeof *edit_methods;

const char *coar_edit_methods(void) {
    return "tau, greedy, loo, gradient, weight-norm, random";
}

coar_status edit_method_find(const char *name, const edit_method **out) {
    for (size_t i = 0; i < edit_method_count; i++)
        if (!strcmp(edit_methods[i].name, name)) {
            *out = &edit_methods[i];
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--method '%s': give %s", name, coar_edit_methods());
}
