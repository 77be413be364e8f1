/*
 * prior_conjugate.c - prior.c's rounds where no eigenvectors are to be had: posterior means by conjugate gradients
 * (conjugate.c), each round from the last one's, and everything that outputs do not change - degrees of freedom,
 * posterior variances, the evidence's determinant - from the limit for independent masks (resolvent.c):
 *
 *   g_z     = df(p_z),   s_z^2 = S_z / (m - 1) / p_z with S_z the least penalised squares,
 *   Sigma_jj / s_z^2 = D_j / (1 + t_j),
 *
 * and the sum over examples of g_z Sigma_jj / s_z^2 goes over the penalties there are.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/conjugate.h"
#include "fit/prior.h"

/* Of the outputs' deviation: what a round is off by the next one makes good. */
#define TOLERANCE 5e-3

enum { CHUNKS = SAMPLE_ITERATIVE / SAMPLE_CHUNK };
_Static_assert(CHUNKS *SAMPLE_CHUNK == SAMPLE_ITERATIVE, "whole chunks");

typedef struct learning {
    const fit_sample *sample;
    conjugate conjugate;
    solver_block blocks[CHUNKS];
    double *weight; /* chunk after chunk [n][E] mu */
    double penalty[SAMPLE_ITERATIVE], left[SAMPLE_ITERATIVE], penalised[SAMPLE_ITERATIVE];
    uint32_t choice[SAMPLE_ITERATIVE];
    double *next; /* [n] sum of g (mu^2 + Sigma) / s^2 */
} learning;

double prior_memory_iteratively(const fit_problem *problem, int workers) {
    const double count = problem->N < SAMPLE_ITERATIVE ? (double)problem->N : SAMPLE_ITERATIVE;
    return 8. * problem->n * (count + 1) + conjugate_memory(problem, workers) + sizeof(learning);
}

static void learning_free(learning *l) {
    if (!l) return;
    conjugate_free(&l->conjugate);
    free(l->weight);
    free(l->next);
    free(l);
}

static coar_status learning_create(const fit_system *system, const fit_sample *sample, learning **out) {
    static const char what[] = "the prior";
    const size_t n = system->by_component.count;
    learning *l = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *l, what, &l));
    l->sample = sample;
    TRY_GOTO(conjugate_create(system, &l->conjugate));
    TRY_GOTO(memory_new(n, sample->count * sizeof(double), what, &l->weight));
    TRY_GOTO(memory_new(n, sizeof(double), what, &l->next));
    for (size_t c = 0; c < sample->chunks; c++) {
        const size_t at = c * SAMPLE_CHUNK;
        fit_sample_chunk(sample, c, &l->blocks[c]);
        l->blocks[c].weight = l->weight + at * n;
        l->blocks[c].penalty = l->penalty + at;
        l->blocks[c].left = l->left + at;
        l->blocks[c].choice = l->choice + at;
    }
    for (size_t z = 0; z < sample->count; z++) l->choice[z] = PENALTY_MIDDLE;
    *out = l;
    l = NULL;
done:
    learning_free(l);
    return status;
}

/* Adds the means' part to next, and g to `informed` at the examples' penalties. */
static void add_means(learning *l, double informed[PENALTIES]) {
    const fit_system *system = l->conjugate.descent.system;
    const size_t n = system->by_component.count;
    const double space = (double)system->by_mask.count - 1;
    for (size_t c = 0; c < l->sample->chunks; c++) {
        const solver_block *block = &l->blocks[c];
        const size_t E = block->count;
        double share[SAMPLE_CHUNK];
        for (size_t z = 0; z < E; z++) {
            const double variance = l->penalised[c * SAMPLE_CHUNK + z] / space / block->penalty[z];
            const double g = space - block->left[z];
            share[z] = variance > 0 ? g / variance : 0; /* constant outputs say nothing */
            if (variance > 0) informed[block->choice[z]] += g;
        }
        for (size_t j = 0; j < n; j++)
            for (size_t z = 0; z < E; z++) l->next[j] += share[z] * block->weight[j * E + z] * block->weight[j * E + z];
    }
}

static coar_status learn_round(learning *l, progress *progress, uint64_t done, double *prior) {
    conjugate *c = &l->conjugate;
    const size_t n = c->descent.system->by_component.count, count = l->sample->count;
    const conjugate_job job = {l->blocks, l->sample->chunks, l->penalised, TOLERANCE, progress, done};
    double informed[PENALTIES] = {0};
    TRY(conjugate_solve(c, &job));
    memset(l->next, 0, n * sizeof *l->next);
    add_means(l, informed);
    for (size_t g = 0; g < PENALTIES; g++)
        for (size_t j = 0; j < n && informed[g] > 0; j++)
            l->next[j] += informed[g] * resolvent_variance(&c->resolvent, g, prior[j], c->information[j]);
    prior_maximise(c->descent.system, count, l->next, prior);
    conjugate_believe(c, prior);
    for (size_t z = 0; z < count; z++) l->choice[z] = resolvent_nearest(&c->resolvent, l->penalty[z]);
    return COAR_OK;
}

coar_status prior_learn_iteratively(const fit_system *system, const fit_sample *sample, double *prior) {
    learning *l = NULL;
    progress progress;
    coar_status status;
    progress_begin(&progress, system->callbacks, "prior", "examples", 0, PRIOR_ROUNDS * sample->count);
    TRY_GOTO(learning_create(system, sample, &l));
    for (size_t j = 0; j < system->by_component.count; j++) prior[j] = 1;
    conjugate_believe(&l->conjugate, prior);
    for (uint64_t round = 0; round < PRIOR_ROUNDS; round++)
        TRY_GOTO(learn_round(l, &progress, round * sample->count, prior));
done:
    learning_free(l);
    return status;
}
