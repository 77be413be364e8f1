/* plan.c - see plan.h. */
#include "fit/plan.h"

#include <math.h>

#include "core/memory.h"
#include "fit/crossfit.h"
#include "fit/grad.h"
#include "fit/iterative.h"
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

/* The system of masks and the buffers of a block: of every estimator. */
static needs common_needs(const fit_problem *problem, const fit_settings *settings) {
    const double m = (double)problem->m, n = problem->n, errors = settings->standard_errors ? 1 : 0;
    return (needs){
        .fixed = 3 * m * n / 8 + 8 * DENSE_ROWS * (m < n ? n : m),
        .per_example = 4 * m + 8 * (n + DENSE_ROWS) + FIT_DIAGNOSIS_BYTES + 4 * n * (1 + errors) + 64,
        .least = 1,
    };
}

/* Threads of the pool that will solve it; who plans before there is a pool gets one per core. */
static int workers_of(const fit_settings *settings) {
    return settings->pool ? thread_pool_size(settings->pool) : thread_cores();
}

/* Cross products of an example: sums, and on a device its outputs in fixed point. */
static double cross_needs(const fit_problem *problem, const fit_settings *settings) {
    return 8 * (double)problem->n + (settings->device ? 8 * (double)problem->m : 0);
}

/* A solver by eigenvectors or Cholesky. */
static void add_dense(const fit_problem *problem, const fit_settings *settings, needs *needs) {
    const double m = (double)problem->m, n = problem->n, p = m < n ? m : n;
    const bool ols = settings->estimator == FIT_OLS;
    const double tables = ols ? 1 : PENALTIES, errors = settings->standard_errors ? 1 : 0;
    const double matrices = ols && m > n + 1 ? 1 : 3; /* eigenvectors: two more as workspace */
    needs->fixed += 8 * (matrices * p * p + tables * (m + errors * n) + (DENSE_ROWS + tables) * p);
    needs->per_example += cross_needs(problem, settings) + 8 * (3 * p + tables);
}

/* Averages, calibration, and the solver of gradients alone. */
static void add_gradients(const fit_problem *problem, const fit_settings *settings, needs *needs) {
    needs->fixed += gradient_memory(problem) + gradient_bands_memory(problem) + 8 * (double)problem->m;
    needs->per_example += 8 * ((double)problem->n * (settings->standard_errors ? 2 : 1) + BAND_VECTORS);
}

/* Empirical Bayes: the solver, what learns a prior, and copies of the sample: thinned or of its residuals, and without
 * a fold. An iterative prior's learning is over when its solver comes. */
static void add_bayes(const fit_problem *problem, const fit_settings *settings, needs *needs) {
    const double m = (double)problem->m, n = problem->n, errors = settings->standard_errors ? 1 : 0;
    const bool iterative = fit_is_iterative(problem, settings);
    const size_t most = iterative ? SAMPLE_ITERATIVE : SAMPLE_MAX;
    needs->fixed += fit_sample_memory(problem, most) + crossfit_memory(problem, most) + 8 * n * SAMPLE_CHUNK;
    if (iterative) {
        needs->fixed +=
            prior_memory_iteratively(problem, workers_of(settings)) + 8 * PENALTIES * (m + errors * n) + 16 * n;
        needs->per_example += 8;
    } else {
        add_dense(problem, settings, needs);
        needs->fixed += prior_memory(problem);
    }
}

static void add_iterative(const fit_problem *problem, const fit_settings *settings, needs *needs) {
    const bool ridge = settings->estimator == FIT_RIDGE;
    needs->fixed += iterative_memory(problem, ridge, settings->standard_errors, workers_of(settings));
    needs->per_example += iterative_memory_per_example(problem, ridge);
}

static needs memory_needs(const fit_problem *problem, const fit_settings *settings) {
    const double N = (double)problem->N;
    double before;
    needs needs = common_needs(problem, settings);
    switch (settings->estimator) {
    case FIT_OLS:
    case FIT_RIDGE:
        if (fit_is_iterative(problem, settings))
            add_iterative(problem, settings, &needs);
        else
            add_dense(problem, settings, &needs);
        return needs;
    case FIT_LASSO:
        needs.fixed += lasso_memory(problem, workers_of(settings));
        needs.per_example += cross_needs(problem, settings) + lasso_memory_per_example(problem);
        return needs;
    case FIT_EB:
        add_bayes(problem, settings, &needs);
        break;
    case FIT_GRAD:
        add_gradients(problem, settings, &needs);
        break;
    case FIT_GRAD_EB:
        before = needs.fixed;
        add_bayes(problem, settings, &needs);
        /* directions are found before priors are learnt */
        needs.fixed -= fmin(needs.fixed - before, gradient_bands_scratch(problem));
        add_gradients(problem, settings, &needs);
        needs.per_example += 4 * (double)problem->m + 8 * DENSE_ROWS + 16; /* residuals */
        break;
    }
    needs.fixed += fit_sample_memory(problem, SAMPLE_MAX);
    needs.least = N < SAMPLE_CHUNK ? N : SAMPLE_CHUNK; /* solvers see the sample's chunks, too */
    return needs;
}

/* Of the dense system, where there is one: `grad` has none. */
static coar_status check_side(const fit_problem *problem, const fit_settings *settings) {
    const bool lasso = settings->estimator == FIT_LASSO;
    const bool dense = settings->estimator != FIT_GRAD && !fit_is_iterative(problem, settings);
    const uint64_t smaller = problem->m < problem->n ? problem->m : problem->n, side = lasso ? problem->n : smaller;
    if (!dense || side <= SIDE_MAX) return COAR_OK;
    return status_set(
        COAR_ERROR_UNSUPPORTED,
        "the fit: %llu masks and %u components make a %llu x %llu system, and at most %d are possible: %s",
        (unsigned long long)problem->m, problem->n, (unsigned long long)side, (unsigned long long)side, SIDE_MAX,
        lasso ? "take another estimator than lasso, or fit fewer components (ablate --only)"
              : "take --solver iterative");
}

static bool has_lighter_form(const fit_problem *problem, const fit_settings *settings) {
    fit_settings other = *settings;
    if (settings->estimator == FIT_LASSO || settings->estimator == FIT_GRAD || fit_is_iterative(problem, settings))
        return false;
    other.form = FIT_ITERATIVE;
    return memory_needs(problem, &other).fixed < memory_needs(problem, settings).fixed;
}

double fit_plan_bytes(const fit_problem *problem, const fit_settings *settings, size_t block) {
    const needs needs = memory_needs(problem, settings);
    return needs.fixed + (double)block * needs.per_example;
}

coar_status fit_plan_block(const fit_problem *problem, const fit_settings *settings, size_t *block) {
    TRY(check_side(problem, settings));
    const needs needs = memory_needs(problem, settings);
    const double budget = settings->memory ? (double)settings->memory : (double)memory_default();
    const double fit = floor((budget - needs.fixed) / needs.per_example);
    if (fit < needs.least)
        return status_set(
            COAR_ERROR_MEMORY,
            "--memory: the fit of %llu masks and %u components needs at least %.0f MiB, and may take %.0f MiB%s",
            (unsigned long long)problem->m, problem->n, ceil((needs.fixed + needs.least * needs.per_example) / 1048576),
            floor(budget / 1048576), has_lighter_form(problem, settings) ? ": --solver iterative takes less" : "");
    *block = fit < BLOCK_MAX ? (size_t)fit : BLOCK_MAX;
    if (*block > problem->N) *block = problem->N ? (size_t)problem->N : 1;
    return COAR_OK;
}
