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

/* Of the outputs' deviation: beside what outputs leave unexplained, nothing. */
#define TOLERANCE 1e-3

/* Degrees of freedom that differ by more than this from those of independent masks; random vectors measure them to a
 * few in a thousand. */
#define FOREIGN .05

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
        log_warning(b->conjugate.system->callbacks,
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
    const size_t n = b->conjugate.system->by_component.count;
    const conjugate_job job = {.blocks = block, .count = 1, .penalised = b->penalised, .tolerance = TOLERANCE};
    memset(block->weight, 0, n * block->count * sizeof *block->weight);
    for (size_t z = 0; z < block->count; z++) block->choice[z] = PENALTY_MIDDLE;
    return conjugate_solve(&b->conjugate, &job);
}

/* Slack at OPERATOR_LANES penalties, from task * OPERATOR_LANES on. (x_ij)^2 = x_ij (1 - 2 mean_j) + mean_j (1 -
 * mean_j), so that it is one product with the masks. */
static coar_status tabulate_slack(void *context, size_t task, int worker) {
    bayes *b = context;
    const fit_system *system = b->conjugate.system;
    const resolvent *r = &b->conjugate.resolvent;
    conjugate_lanes *l = &b->conjugate.lanes[worker];
    const size_t m = system->by_mask.count, n = system->by_component.count, first = task * OPERATOR_LANES;
    const size_t count = PENALTIES - first < OPERATOR_LANES ? PENALTIES - first : OPERATOR_LANES;
    double mean_square[OPERATOR_LANES] = {0};
    for (size_t j = 0; j < n; j++)
        for (size_t k = 0; k < OPERATOR_LANES; k++) {
            const size_t g = k < count ? first + k : first;
            const double mean = system->mean[j];
            const double c = resolvent_variance(r, g, b->prior[j], b->conjugate.information[j]) / r->grid.penalty[g];
            l->weight[j * OPERATOR_LANES + k] = (1 - 2 * mean) * c;
            mean_square[k] += mean * (1 - mean) * c;
        }
    operator_product(&system->by_mask, system->mean, l->weight, l->scratch, l->image);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < count; k++)
            b->slack[i * PENALTIES + first + k] =
                1 / (1 + fmax(l->image[i * OPERATOR_LANES + k] + mean_square[k], 0)) - 1 / (double)m;
    return COAR_OK;
}

static void tabulate_errors(bayes *b) {
    const resolvent *r = &b->conjugate.resolvent;
    for (size_t j = 0; j < b->conjugate.system->by_component.count; j++)
        for (size_t g = 0; g < PENALTIES; g++)
            b->error_scale[j * PENALTIES + g] =
                sqrt(resolvent_variance(r, g, b->prior[j], b->conjugate.information[j]) / r->grid.penalty[g]);
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
    TRY_GOTO(thread_pool_run(system->pool, (PENALTIES + OPERATOR_LANES - 1) / OPERATOR_LANES, tabulate_slack, b));
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

coar_status bayes_check(const fit_system *system) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    conjugate c = {.system = NULL};
    double *equal = NULL;
    coar_status status;
    TRY_GOTO(memory_new(n, sizeof *equal, "prior variances", &equal));
    TRY_GOTO(conjugate_create(system, &c));
    for (size_t j = 0; j < n; j++) equal[j] = 1;
    conjugate_believe(&c, equal);
    const double expected = (double)m - 1 - c.resolvent.grid.left[PENALTY_MIDDLE];
    const double measured = conjugate_freedom(&c, PENALTY_MIDDLE);
    log_info(system->callbacks,
             "fit: empirical Bayes of %zu masks and %zu components by conjugate gradients, to %g of the outputs' "
             "deviation; %.1f degrees of freedom at the mean eigenvalue, %.1f for independent masks",
             m, n, TOLERANCE, measured, expected);
    if (fabs(measured - expected) > FOREIGN * expected)
        log_warning(
            system->callbacks,
            "fit: these masks were not drawn independently of each other and component by component: penalties, "
            "held-out correlations and standard errors of empirical Bayes are guesses for them (%.1f degrees of "
            "freedom, not %.1f); ridge makes no such assumption",
            measured, expected);
done:
    conjugate_free(&c);
    free(equal);
    return status;
}
