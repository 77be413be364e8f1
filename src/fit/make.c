/* make.c - see make.h. */
#include "fit/make.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/crossfit.h"
#include "fit/grad.h"
#include "fit/iterative.h"
#include "fit/lasso.h"
#include "fit/leverage.h"
#include "fit/prior.h"

void fit_made_free(fit_made *made) {
    if (made->solver) made->solver->destroy(made->solver);
    gradient_bands_free(&made->bands);
    gradient_average_free(&made->average);
    fit_system_free(&made->system);
    *made = (fit_made){.solver = NULL};
}

/* What the functions below share. */
typedef struct making {
    const fit_problem *problem;
    const fit_settings *settings;
    const fit_scan *scan;
    size_t block;
    float *y;
    const uint8_t *masks; /* those used, packed */
    fit_made *made;
} making;

/* --------------------------------------------------------------------------------------------------- eb */

static double outlook_mean(const fit_outlook *outlook) {
    double mean, low, high;
    fit_outlook_interval(outlook, &mean, &low, &high);
    return mean;
}

/* Where the honest mean says that nothing is predicted, or there is none, no example's correlation says otherwise. */
static double correction_to(double honest, double flattering) {
    if (isnan(honest)) return NAN;
    if (!(flattering > honest)) return 1;
    return honest > 0 ? honest / flattering : 0;
}

/* A solver under a prior: of the outputs, or of what the gradients of `context`, a fit_made, leave over. */
static coar_status make_under_prior(void *context, fit_system *system, const double *prior, fit_solver **out) {
    fit_made *base = context;
    fit_solver *solver;
    TRY(system->iterative ? bayes_create(system, prior, &solver) : shrink_create(system, SHRINK_BAYES, prior, &solver));
    if (base) return grad_create(system, &base->average, &base->bands, solver, out);
    *out = solver;
    return COAR_OK;
}

/* *solver under the prior learnt from `learnt`, which `sample` is to be predicted with; its outlook, and the correction
 * of single leave-one-out correlations: one factor, by what the mean of the sample is too good. */
static coar_status make_bayes(const making *k, const fit_sample *learnt, const fit_sample *sample, fit_made *base,
                              fit_solver **solver, fit_outlook *outlook, double *correction) {
    fit_system *system = &k->made->system;
    const bool errors = system->standard_errors;
    const crossfit c = {.problem = k->problem,
                        .settings = k->settings,
                        .masks = k->masks,
                        .system = system,
                        .learnt = learnt,
                        .sample = sample,
                        .make = make_under_prior,
                        .context = base};
    fit_outlook plain = {.count = 0};
    double *prior = NULL;
    coar_status status;
    if (system->iterative) TRY(leverage_check(system, "empirical Bayes"));
    system->standard_errors = false; /* no table of them for the folds */
    TRY_GOTO(crossfit_outlook(&c, outlook));
    system->standard_errors = errors;
    TRY_GOTO(memory_new(k->problem->n, sizeof *prior, "prior variances", &prior));
    TRY_GOTO(prior_learn(system, learnt, prior));
    TRY_GOTO(make_under_prior(base, system, prior, solver));
    TRY_GOTO(crossfit_plain(&c, *solver, &plain));
    *correction = correction_to(outlook_mean(outlook), outlook_mean(&plain));
done:
    system->standard_errors = errors;
    free(prior);
    return status;
}

/* *sample becomes what an iterative system learns from, held by *thin. */
static coar_status thin_out(const making *k, const fit_sample **sample, fit_sample *thin) {
    if (!k->made->system.iterative || (*sample)->count <= SAMPLE_ITERATIVE) return COAR_OK;
    TRY(fit_sample_thin(*sample, SAMPLE_ITERATIVE, thin));
    *sample = thin;
    return COAR_OK;
}

static coar_status make_eb(const making *k, const fit_sample *sample) {
    fit_made *made = k->made;
    fit_sample thin = {.count = 0};
    coar_status status;
    made->corrected = true;
    TRY_GOTO(thin_out(k, &sample, &thin));
    TRY_GOTO(make_bayes(k, sample, sample, NULL, &made->solver, &made->outlook, &made->correction));
done:
    fit_sample_free(&thin);
    return status;
}

/* -------------------------------------------------------------------------------------------- gradients */

static coar_status make_calibrated(const making *k, const fit_sample *sample) {
    fit_made *made = k->made;
    return gradient_bands_create(&made->system, &made->average, sample, &made->bands);
}

static coar_status make_grad(const making *k, const fit_sample *sample) {
    TRY(make_calibrated(k, sample));
    return grad_create(&k->made->system, &k->made->average, &k->made->bands, NULL, &k->made->solver);
}

/* Keeps `both` when it predicts held-out masks better than the gradients alone by more than the standard error of that
 * difference; its penalties have seen the masks, so that a smaller gain may be nothing. */
static coar_status choose_grad_eb(const making *k, const fit_sample *sample, fit_solver **both,
                                  const fit_outlook *outlook, double correction) {
    fit_made *made = k->made;
    const crossfit c = {.problem = k->problem, .system = &made->system, .sample = sample};
    fit_outlook alone = {.count = 0};
    double gain, error;
    TRY(grad_create(&made->system, &made->average, &made->bands, NULL, &made->solver));
    TRY(crossfit_plain(&c, made->solver, &alone));
    fit_outlook_difference(outlook, &alone, &gain, &error);
    if (alone.count && !(gain > error)) {
        log_info(
            k->settings->callbacks,
            "fit: grad+eb: the calibrated gradients alone are kept: empirical Bayes on their residuals changes the "
            "held-out correlation by %+.4f +- %.4f",
            gain, error);
        return COAR_OK;
    }
    made->solver->destroy(made->solver);
    made->solver = *both;
    *both = NULL;
    made->corrected = true;
    made->correction = correction;
    made->outlook = *outlook;
    return COAR_OK;
}

static coar_status make_grad_eb(const making *k, const fit_sample *sample) {
    fit_sample residuals = {.count = 0}, thin = {.count = 0};
    fit_solver *both = NULL;
    fit_outlook outlook = {.count = 0};
    double correction = 1;
    coar_status status;
    TRY_GOTO(make_calibrated(k, sample));
    TRY_GOTO(thin_out(k, &sample, &thin));
    TRY_GOTO(gradient_residuals(&k->made->system, &k->made->average, &k->made->bands, sample, &residuals));
    TRY_GOTO(make_bayes(k, &residuals, sample, k->made, &both, &outlook, &correction));
    TRY_GOTO(choose_grad_eb(k, sample, &both, &outlook, correction));
done:
    if (both) both->destroy(both);
    fit_sample_free(&residuals);
    fit_sample_free(&thin);
    return status;
}

/* ------------------------------------------------------------------------------------------------- all */

/* Where masks turn out not to tell all components apart, a system that is too large for eigenvectors has no factor
 * either: iterative then, unless that is excluded. */
static coar_status make_least_squares(const making *k) {
    fit_made *made = k->made;
    const size_t m = made->system.by_mask.count, n = made->system.by_component.count;
    bool iterative = made->system.iterative;
    if (!iterative && m > n + 1) TRY(cholesky_create(&made->system, &made->solver));
    if (made->solver) return COAR_OK;
    iterative |= k->settings->form == FIT_BY_SIZE && (m < n ? m : n) > EIGEN_DENSE_MAX;
    made->system.iterative = iterative;
    return iterative ? iterative_create(&made->system, false, &made->solver)
                     : shrink_create(&made->system, SHRINK_NOT, NULL, &made->solver);
}

/* Those that learn from many examples at once. */
static coar_status make_from_sample(const making *k) {
    fit_sample sample = {.count = 0};
    coar_status status;
    TRY_GOTO(fit_sample_create(k->problem, k->scan, fit_estimator_takes_gradients(k->settings->estimator), k->block,
                               k->y, &sample));
    switch (k->settings->estimator) {
    case FIT_GRAD:
        TRY_GOTO(make_grad(k, &sample));
        break;
    case FIT_GRAD_EB:
        TRY_GOTO(make_grad_eb(k, &sample));
        break;
    default:
        TRY_GOTO(make_eb(k, &sample));
        break;
    }
done:
    fit_sample_free(&sample);
    return status;
}

/* The packed masks without those left out: the problem's own when there are none, else *copy. */
static coar_status masks_used(const fit_problem *problem, const fit_scan *scan, uint8_t **copy, const uint8_t **masks) {
    *masks = problem->masks;
    if (!scan->masks_left_out) return COAR_OK;
    size_t row = mask_bytes(problem->n), used = 0;
    TRY(memory_new(problem->m - scan->masks_left_out, row, "the fit's masks", copy));
    for (uint64_t i = 0; i < problem->m; i++)
        if (!scan->mask_out[i]) memcpy(*copy + row * used++, problem->masks + i * row, row);
    *masks = *copy;
    return COAR_OK;
}

coar_status fit_make(const fit_problem *problem, const fit_settings *settings, const fit_scan *scan, size_t block,
                     float *y, fit_made *made) {
    making k = {problem, settings, scan, block, y, NULL, made};
    uint8_t *copy = NULL;
    coar_status status;
    TRY_GOTO(masks_used(problem, scan, &copy, &k.masks));
    TRY_GOTO(fit_system_create(problem, k.masks, (size_t)(problem->m - scan->masks_left_out), settings, block,
                               &made->system));
    switch (settings->estimator) {
    case FIT_OLS:
        TRY_GOTO(make_least_squares(&k));
        break;
    case FIT_RIDGE:
        TRY_GOTO(made->system.iterative ? iterative_create(&made->system, true, &made->solver)
                                        : shrink_create(&made->system, SHRINK_RIDGE, NULL, &made->solver));
        break;
    case FIT_LASSO:
        TRY_GOTO(lasso_create(problem, settings, k.masks, &made->system, &made->solver));
        break;
    default:
        TRY_GOTO(make_from_sample(&k));
        break;
    }
done:
    free(copy);
    return status;
}
