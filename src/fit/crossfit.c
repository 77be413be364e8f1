/* crossfit.c - see crossfit.h. */
#include "fit/crossfit.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/prior.h"

enum { FOLDS = 5 };
_Static_assert(FIT_PARTS % FOLDS == 0, "a fold is a whole number of the jackknife's parts");

double crossfit_memory(const fit_problem *problem, size_t most) {
    const double m = (double)problem->m, n = problem->n;
    return fit_sample_memory(problem, most) + 4 * m * n / 8 + DENSE_ROWS * 8 * (m > n ? m : n) +
           8 * ((double)most * FIT_PARTS * FIT_MOMENTS + n);
}

/* Buffers of a chunk, and the moments of all chunks. */
typedef struct chunk_buffers {
    double *weight, *penalty, *left;
    uint32_t *choice;
    double *moments; /* chunk after chunk [FIT_PARTS][FIT_MOMENTS][E] */
    fit_diagnosis diagnosis;
} chunk_buffers;

static void chunk_buffers_free(chunk_buffers *b) {
    free(b->weight);
    free(b->penalty);
    free(b->left);
    free(b->choice);
    free(b->moments);
    fit_diagnosis_free(&b->diagnosis);
}

static coar_status chunk_buffers_create(size_t n, size_t count, chunk_buffers *b) {
    static const char what[] = "held-out predictions";
    TRY(memory_new(n, SAMPLE_CHUNK * sizeof(double), what, &b->weight));
    TRY(memory_new(SAMPLE_CHUNK, sizeof(double), what, &b->penalty));
    TRY(memory_new(SAMPLE_CHUNK, sizeof(double), what, &b->left));
    TRY(memory_new(SAMPLE_CHUNK, sizeof(uint32_t), what, &b->choice));
    TRY(memory_new(count, FIT_PARTS * FIT_MOMENTS * sizeof(double), what, &b->moments));
    return fit_diagnosis_create(SAMPLE_CHUNK, &b->diagnosis);
}

static double *chunk_moments(const chunk_buffers *b, size_t c) {
    return b->moments + c * SAMPLE_CHUNK * FIT_PARTS * FIT_MOMENTS;
}

/* The prior of all masks but first .. end - 1. */
static coar_status learn_without(const crossfit *c, size_t first, size_t end, double *prior) {
    const size_t row = mask_bytes(c->problem->n), m = c->system->by_mask.count, left = m - (end - first);
    fit_system system = {.block = 0};
    fit_sample sample = {.count = 0};
    uint8_t *masks = NULL;
    coar_status status;
    TRY_GOTO(memory_new(left, row, "the masks of a fold", &masks));
    memcpy(masks, c->masks, first * row);
    memcpy(masks + first * row, c->masks + end * row, (m - end) * row);
    TRY_GOTO(fit_system_create(c->problem, masks, left, c->settings, 0, &system));
    TRY_GOTO(fit_sample_without(c->learnt, first, end, &sample));
    TRY_GOTO(prior_learn(&system, &sample, prior));
done:
    fit_sample_free(&sample);
    fit_system_free(&system);
    free(masks);
    return status;
}

/* Held-out moments of the masks first .. end - 1, of all chunks. */
static coar_status predict(const crossfit *c, fit_solver *solver, size_t first, size_t end, chunk_buffers *b) {
    for (size_t k = 0; k < c->sample->chunks; k++) {
        solver_block block = {.weight = b->weight, .penalty = b->penalty, .left = b->left, .choice = b->choice};
        fit_sample_chunk(c->sample, k, &block);
        TRY(solver->solve(solver, &block));
        TRY(fit_diagnose_held(c->system, solver, &block, first, end, &b->diagnosis, chunk_moments(b, k)));
    }
    return COAR_OK;
}

static void sum_up(const crossfit *c, chunk_buffers *b, fit_outlook *outlook) {
    for (size_t k = 0; k < c->sample->chunks; k++) {
        solver_block block;
        fit_sample_chunk(c->sample, k, &block);
        fit_held_correlations(chunk_moments(b, k), block.count, b->diagnosis.heldout, b->diagnosis.without);
        fit_outlook_add(outlook, &b->diagnosis, block.count);
    }
}

static coar_status predict_fold(const crossfit *c, size_t first, size_t end, double *prior, chunk_buffers *b) {
    fit_solver *solver = NULL;
    coar_status status;
    TRY_GOTO(learn_without(c, first, end, prior));
    TRY_GOTO(c->make(c->context, c->system, prior, &solver));
    TRY_GOTO(predict(c, solver, first, end, b));
done:
    if (solver) solver->destroy(solver);
    return status;
}

coar_status crossfit_outlook(const crossfit *c, fit_outlook *outlook) {
    const size_t m = c->system->by_mask.count;
    chunk_buffers b = {.weight = NULL};
    double *prior = NULL;
    coar_status status;
    TRY_GOTO(memory_new(c->problem->n, sizeof *prior, "prior variances", &prior));
    TRY_GOTO(chunk_buffers_create(c->problem->n, c->sample->count, &b));
    for (size_t fold = 0; fold < FOLDS; fold++) {
        const size_t first = (fold * m + FOLDS - 1) / FOLDS, end = ((fold + 1) * m + FOLDS - 1) / FOLDS;
        if (end > first && m - (end - first) >= 2) TRY_GOTO(predict_fold(c, first, end, prior, &b));
    }
    sum_up(c, &b, outlook);
done:
    chunk_buffers_free(&b);
    free(prior);
    return status;
}

coar_status crossfit_plain(const crossfit *c, fit_solver *solver, fit_outlook *outlook) {
    chunk_buffers b = {.weight = NULL};
    coar_status status;
    TRY_GOTO(chunk_buffers_create(c->problem->n, c->sample->count, &b));
    TRY_GOTO(predict(c, solver, 0, c->system->by_mask.count, &b));
    sum_up(c, &b, outlook);
done:
    chunk_buffers_free(&b);
    return status;
}
