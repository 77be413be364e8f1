/* plan.c - see plan.h. */
#include "fit/plan.h"

#include <math.h>

#include "core/memory.h"
#include "fit/diagnose.h"
#include "fit/penalty.h"
#include "fit/prior.h"

/* More examples at once make no product faster, and progress coarser. */
#define BLOCK_MAX 1024

/* Bytes of the system and its solver, and of each example of a block. Doubles: the sizes may be anything. */
static void memory_needs(const fit_problem *problem, const fit_settings *settings, double *fixed, double *per_example) {
    const fit_estimator estimator = settings->estimator;
    double m = (double)problem->m, n = problem->n, p = m < n ? m : n, longer = m < n ? n : m;
    double tables = estimator == FIT_OLS ? 1 : PENALTIES;
    double errors = settings->standard_errors ? 1 : 0;
    double matrices = estimator == FIT_OLS && m > n + 1 ? 1 : 3; /* eigenvectors: two more as workspace */
    *fixed =
        3 * m * n / 8 + 8 * (matrices * p * p + tables * (m + errors * n) + DENSE_ROWS * (longer + p) + tables * p);
    if (estimator == FIT_EB || estimator == FIT_GRAD_EB) *fixed += fit_sample_memory(problem) + prior_memory(problem);
    double fixed_point = settings->device ? 8 * m : 0;
    *per_example = fixed_point + 4 * m + 8 * (2 * n + 3 * p + tables + DENSE_ROWS) + FIT_DIAGNOSIS_BYTES +
                   4 * n * (1 + errors) + 64;
}

coar_status fit_plan_block(const fit_problem *problem, const fit_settings *settings, size_t *block) {
    uint64_t side = problem->m < problem->n ? problem->m : problem->n;
    if (side > SIDE_MAX)
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "the fit: %llu masks and %u components make a %llu x %llu system, and at most %d are possible: "
            "fit fewer masks, or fewer components (ablate --only)",
            (unsigned long long)problem->m, problem->n, (unsigned long long)side, (unsigned long long)side, SIDE_MAX);
    double fixed, per_example;
    memory_needs(problem, settings, &fixed, &per_example);
    double budget = settings->memory ? (double)settings->memory : (double)memory_default();
    double fit = floor((budget - fixed) / per_example);
    if (fit < 1)
        return status_set(
            COAR_ERROR_MEMORY,
            "--memory: the fit of %llu masks and %u components needs at least %.0f MiB, and may take %.0f MiB",
            (unsigned long long)problem->m, problem->n, ceil((fixed + per_example) / 1048576), floor(budget / 1048576));
    *block = fit < BLOCK_MAX ? (size_t)fit : BLOCK_MAX;
    if (*block > problem->N) *block = problem->N ? (size_t)problem->N : 1;
    return COAR_OK;
}
