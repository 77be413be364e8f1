/*
 * bayes.c - empirical Bayes where no eigenvectors are to be had: weights by conjugate gradients (conjugate.c); slack
 * and standard errors from the limit for independent masks (resolvent.c). With C_j = D_j / (1 + t_j) / p, the posterior
 * variance of a component over the noise's,
 *
 *   slack_i = 1 / (1 + sum_j x_ij^2 C_j) - 1/m    (x_ij centred; mask i against a posterior that has not seen it,
 *                                                 whose covariances it meets at random)
 *   error_j = sqrt(C_j) sigma.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/conjugate.h"
#include "fit/leverage.h"

/* Of the outputs' deviation: beside what outputs leave unexplained, nothing. */
#define TOLERANCE 1e-3

typedef struct bayes {
    fit_solver head;
    conjugate conjugate;
    double *prior;               /* [n] */
    double *slack, *error_scale; /* the head's tables */
    double *penalised;           /* [E] */
} bayes;

static void bayes_destroy(fit_solver *solver) {
    bayes *b = (bayes *)solver;
    if (!b) return;
    const size_t unsolved = conjugate_unsolved(&b->conjugate);
    if (unsolved)
        log_warning(b->conjugate.descent.system->callbacks,
                    "fit: %zu examples have weights that %d steps of conjugate gradients were not enough for", unsolved,
                    CONJUGATE_STEPS_MAX);
    conjugate_free(&b->conjugate);
    free(b->prior);
    free(b->slack);
    free(b->error_scale);
    free(b->penalised);
    free(b);
}

static coar_status bayes_solve(fit_solver *solver, solver_block *block) {
    bayes *b = (bayes *)solver;
    const size_t n = b->conjugate.descent.system->by_component.count;
    const conjugate_job job = {.blocks = block, .count = 1, .penalised = b->penalised, .tolerance = TOLERANCE};
    memset(block->weight, 0, n * block->count * sizeof *block->weight);
    for (size_t z = 0; z < block->count; z++) block->choice[z] = PENALTY_MIDDLE;
    return conjugate_solve(&b->conjugate, &job);
}

/* C_j at penalty g. */
static double variance_of(const void *context, size_t j, size_t g) {
    const bayes *b = context;
    const resolvent *r = &b->conjugate.resolvent;
    return resolvent_variance(r, g, b->prior[j], b->conjugate.information[j]) / r->grid.penalty[g];
}

static coar_status tabulate_slack(bayes *b) {
    const size_t m = b->conjugate.descent.system->by_mask.count;
    TRY(leverage_sums(&b->conjugate.descent, PENALTIES, variance_of, b, b->slack));
    for (size_t x = 0; x < m * PENALTIES; x++) b->slack[x] = 1 / (1 + b->slack[x]) - 1 / (double)m;
    return COAR_OK;
}

static void tabulate_errors(bayes *b) {
    for (size_t j = 0; j < b->conjugate.descent.system->by_component.count; j++)
        for (size_t g = 0; g < PENALTIES; g++) b->error_scale[j * PENALTIES + g] = sqrt(variance_of(b, j, g));
}

coar_status bayes_create(fit_system *system, const double *prior, fit_solver **out) {
    static const char what[] = "the fit";
    const size_t m = system->by_mask.count, n = system->by_component.count;
    bayes *b = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *b, what, &b));
    TRY_GOTO(conjugate_create(system, &b->conjugate));
    TRY_GOTO(memory_new(n, sizeof(double), what, &b->prior));
    TRY_GOTO(memory_new(m, PENALTIES * sizeof(double), "leverages", &b->slack));
    TRY_GOTO(memory_new(system->block, sizeof(double), what, &b->penalised));
    memcpy(b->prior, prior, n * sizeof *prior);
    conjugate_believe(&b->conjugate, b->prior);
    TRY_GOTO(tabulate_slack(b));
    if (system->standard_errors) {
        TRY_GOTO(memory_new(n, PENALTIES * sizeof(double), "standard errors", &b->error_scale));
        tabulate_errors(b);
    }
    b->head = (fit_solver){
        .solve = bayes_solve,
        .destroy = bayes_destroy,
        .columns = PENALTIES,
        .slack = b->slack,
        .slack_min = SLACK_MIN,
        .error_scale = b->error_scale,
    };
    *out = &b->head;
    b = NULL;
done:
    if (b) bayes_destroy(&b->head);
    return status;
}
