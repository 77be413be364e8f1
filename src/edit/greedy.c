/*
 * greedy.c - components one by one, each for what the set of all so far is predicted to gain and to harm.
 *
 * Attributions are linear, so they say what a set S of components does to every example: ablating it takes
 * sum_{j in S} w_j(z) from the output of z. The set that is wanted has a large
 *
 *     gain(S) - C harm(S),    gain = the mean change of the target's outputs in the direction asked for,
 *                             harm = mean over references z of max(0, sum_{j in S} b w_j(z))^2,
 *
 * b = 1 where larger outputs are better, else -1. Squares, because a loss below an example's margin turns nothing over and
 * one beyond it does. Losses alone, because estimates of gains are noisy and a sum over S would be made of those that err
 * upwards; so would a mean over references that lets one's gain pay for another's loss (docs/edit.md has the figures). tau
 * looks at a component's mean over references and at its spread, neither of which says whom the set hurts.
 *
 * Must not know: runs, models, devices.
 */
#include "edit/greedy.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

enum { BLOCK = 256 }; /* components of a task: their sums stay in the first-level cache */

typedef struct search {
    const edit_problem *p;
    const double *gain; /* [n] of each component alone */
    double *lost;       /* [references] predicted loss under the set so far; below 0: a gain */
    double *value;      /* [n] gain - C harm of the set with the component, but for the gain of the set so far */
} search;

/* The mean over targets of what ablating each component adds to their outputs, in the direction asked for. gain[n]: zeros */
static void sum_gains(const edit_problem *p, double *gain) {
    const edit_evidence *t = &p->target;
    for (size_t i = 0; i < t->count; i++)
        for (size_t j = 0; j < p->n; j++) gain[j] -= t->weight[i * p->n + j];
    for (size_t j = 0; j < p->n; j++) gain[j] *= p->direction / (double)t->count;
}

/* A block of components, example by example, so that memory is read in order. */
static coar_status value_block(void *context, size_t task, int worker) {
    (void)worker;
    search *s = context;
    const edit_problem *p = s->p;
    const edit_evidence *r = &p->reference;
    const size_t first = task * BLOCK, count = p->n - first < BLOCK ? p->n - first : BLOCK;
    double squares[BLOCK] = {0};
    for (size_t i = 0; i < r->count; i++) {
        const float *weight = r->weight + i * p->n + first;
        for (size_t j = 0; j < count; j++) {
            const double lost = s->lost[i] + p->better * weight[j];
            squares[j] += lost > 0 ? lost * lost : 0;
        }
    }
    for (size_t j = 0; j < count; j++)
        s->value[first + j] = s->gain[first + j] - p->harm_weight * squares[j] / (double)r->count;
    return COAR_OK;
}

/* Takes the component with the largest value that is not taken yet, the first of equal ones. */
static uint32_t take_best(search *s, uint8_t *taken) {
    const edit_problem *p = s->p;
    uint32_t best = 0;
    while (taken[best]) best++;
    for (uint32_t j = best + 1; j < p->n; j++)
        if (!taken[j] && s->value[j] > s->value[best]) best = j;
    taken[best] = 1;
    for (size_t i = 0; i < p->reference.count; i++) s->lost[i] += p->better * p->reference.weight[i * p->n + best];
    return best;
}

coar_status edit_choose_greedy(const edit_problem *p, double *scores, uint32_t *order, uint32_t *count) {
    coar_status status;
    uint8_t *taken = NULL;
    double *gain = NULL;
    search s = {.p = p};
    TRY_GOTO(memory_new(p->n, sizeof *taken, "a greedy choice", &taken));
    TRY_GOTO(memory_new(p->n, sizeof *gain, "a greedy choice", &gain));
    TRY_GOTO(memory_new(p->n, sizeof *s.value, "a greedy choice", &s.value));
    TRY_GOTO(memory_new(p->reference.count, sizeof *s.lost, "a greedy choice", &s.lost));
    sum_gains(p, gain);
    s.gain = gain;
    for (uint32_t k = 0; k < *count; k++) {
        TRY_GOTO(thread_pool_run(p->pool, (p->n + BLOCK - 1) / BLOCK, value_block, &s));
        for (uint32_t j = 0; k == 0 && j < p->n; j++) scores[j] = s.value[j];
        order[k] = take_best(&s, taken);
    }
done:
    free(s.lost);
    free(s.value);
    free(gain);
    free(taken);
    return status;
}
