/* plan.c - see plan.h. */
#include "fit/plan.h"

#include <math.h>

#include "core/memory.h"
#include "fit/crossfit.h"
#include "fit/grad.h"
#include "fit/lasso.h"
#include "fit/penalty.h"
#include "fit/prior.h"

/* More examples at once make no product faster, and progress coarser. */
#define BLOCK_MAX 1024

/* What a fit takes. Doubles: the sizes may be anything. */
typedef struct needs {
    double fixed;       /* bytes of the system and its solver */
    double per_example; /* of each example of a block */
    double least;       /* examples of the smallest block */
} needs;

/* The system, and a solver by eigenvectors or Cholesky. */
static needs dense_needs(const fit_problem *problem, const fit_settings *settings) {
    const double m = (double)problem->m, n = problem->n, p = m < n ? m : n, longer = m < n ? n : m;
    const bool ols = settings->estimator == FIT_OLS;
    const double tables = ols ? 1 : PENALTIES, errors = settings->standard_errors ? 1 : 0;
    const double matrices = ols && m > n + 1 ? 1 : 3; /* eigenvectors: two more as workspace */
    const double fixed_point = settings->device ? 8 * m : 0;
    return (needs){
        .fixed =
            3 * m * n / 8 + 8 * (matrices * p * p + tables * (m + errors * n) + DENSE_ROWS * (longer + p) + tables * p),
        .per_example = fixed_point + 4 * m + 8 * (2 * n + 3 * p + tables + DENSE_ROWS) + FIT_DIAGNOSIS_BYTES +
                       4 * n * (1 + errors) + 64,
        .least = 1,
    };
}

static needs memory_needs(const fit_problem *problem, const fit_settings *settings) {
    const double n = problem->n, N = (double)problem->N;
    const fit_estimator estimator = settings->estimator;
    needs needs = dense_needs(problem, settings);
    if (estimator == FIT_LASSO) {
        needs.fixed = 3 * (double)problem->m * n / 8 + lasso_memory(problem, thread_pool_size(settings->pool));
        needs.per_example += lasso_memory_per_example(problem);
    }
    if (fit_estimator_takes_gradients(estimator)) {
        needs.fixed += gradient_memory(problem) + gradient_bands_memory(problem);
        needs.per_example += 8 * n + 4 * (double)problem->m + 8 * DENSE_ROWS + 16;
    }
    if (estimator == FIT_EB || fit_estimator_takes_gradients(estimator)) {
        needs.fixed += 2 * fit_sample_memory(problem);
        needs.least = N < SAMPLE_CHUNK ? N : SAMPLE_CHUNK; /* solvers see the sample's chunks, too */
    }
    if (estimator == FIT_EB || estimator == FIT_GRAD_EB)
        needs.fixed += prior_memory(problem) + crossfit_memory(problem) + 8 * n * SAMPLE_CHUNK;
    return needs;
}

coar_status fit_plan_block(const fit_problem *problem, const fit_settings *settings, size_t *block) {
    const uint64_t smaller = problem->m < problem->n ? problem->m : problem->n;
    const uint64_t side = settings->estimator == FIT_LASSO ? problem->n : smaller;
    if (side > SIDE_MAX)
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "the fit: %llu masks and %u components make a %llu x %llu system, and at most %d are possible: "
            "fit fewer masks, or fewer components (ablate --only)",
            (unsigned long long)problem->m, problem->n, (unsigned long long)side, (unsigned long long)side, SIDE_MAX);
    const needs needs = memory_needs(problem, settings);
    const double budget = settings->memory ? (double)settings->memory : (double)memory_default();
    const double fit = floor((budget - needs.fixed) / needs.per_example);
    if (fit < needs.least)
        return status_set(
            COAR_ERROR_MEMORY,
            "--memory: the fit of %llu masks and %u components needs at least %.0f MiB, and may take %.0f MiB",
            (unsigned long long)problem->m, problem->n, ceil((needs.fixed + needs.least * needs.per_example) / 1048576),
            floor(budget / 1048576));
    *block = fit < BLOCK_MAX ? (size_t)fit : BLOCK_MAX;
    if (*block > problem->N) *block = problem->N ? (size_t)problem->N : 1;
    return COAR_OK;
}
