/* forecast_job.c - what a job has to do, from the options that coar run would be given. See forecast.h. */
#include <math.h>
#include <string.h>

#include "core/levels.h"
#include "core/number.h"
#include "core/philox.h"
#include "forecast/forecast.h"

enum { CALIBRATION_MASKS = 256, GRADIENT_PASSES = 64, FRESH_MASKS = 100 }; /* as coar run's */

/* ------------------------------------------------------------------------------------------------------ fits */

static coar_status add_fit(forecast_job *f, fit_estimator estimator, uint64_t masks, uint32_t passes, bool kept) {
    if (f->fit_count == FORECAST_FITS) return status_set(COAR_ERROR_USAGE, "--estimator: too many fits");
    f->fits[f->fit_count++] = (forecast_fit){estimator, masks, passes, kept};
    return COAR_OK;
}

/* The estimators of a comma list, of all masks and passes. */
static coar_status add_listed(forecast_job *f, const char *list) {
    for (const char *at = list;; at++) {
        char name[16];
        fit_estimator estimator;
        const size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof name)
            return status_set(COAR_ERROR_USAGE, "--estimator '%s': give names, as in ridge,ols", list);
        memcpy(name, at, length);
        name[length] = '\0';
        TRY(fit_estimator_parse(name, &estimator));
        TRY(add_fit(f, estimator, f->masks, f->passes, true));
        at += length;
        if (!*at) return COAR_OK;
    }
}

static bool lists_gradients(const char *list, bool gradients) {
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, "grad", strlen("grad")) == gradients) return true;
    return false;
}

/* ---------------------------------------------------------------------------------------------------- passes */

/* What a budget of 2n passes buys when no doubling settles, and the fit after every step. */
static coar_status spend_budget(forecast_job *f) {
    budget_step steps[STEPS_MAX] = {{.passes = 0}};
    const step_rules rules = {.reverse_cost = REVERSE_COST * f->outputs, .budget = 2. * f->components};
    size_t count = 1;
    while (count < STEPS_MAX && step_after(steps, count, &rules, &steps[count]) == STEP_NEXT) {
        const budget_step *s = &steps[count];
        steps[count].predicted = (double)count; /* every step is worth the next */
        count++;
        TRY(add_fit(f, s->masks >= STEP_MASKS_FIT ? FIT_GRAD_EB : FIT_GRAD, s->masks, s->passes, false));
    }
    f->passes = steps[count - 1].passes;
    f->masks = steps[count - 1].masks;
    f->fits[f->fit_count - 1].kept = true;
    return f->masks >= STEP_MASKS_FIT ? add_fit(f, FIT_GRAD, f->masks, f->passes, true) : COAR_OK;
}

static coar_status choose_passes(forecast_job *f) {
    const coar_plan_options *o = f->o;
    const bool given = f->sampler == SAMPLER_LOO || f->sampler == SAMPLER_FILE;
    const bool wants_gradients = o->estimators ? lists_gradients(o->estimators, true) : true;
    const bool wants_others = o->estimators && lists_gradients(o->estimators, false);
    f->masks = o->ablate.masks;
    f->passes = o->passes;
    if (!f->masks && !f->passes && f->alpha < .5 && !wants_others && !given) return spend_budget(f);
    if (o->estimators && wants_gradients && !f->passes) f->passes = GRADIENT_PASSES;
    if (f->sampler == SAMPLER_LOO) f->masks = (uint64_t)f->components + 1;
    if (f->sampler == SAMPLER_FILE && !f->masks)
        return status_set(COAR_ERROR_USAGE, "--sampler file: name how many masks it has by --masks");
    if (!f->masks) f->masks = f->passes && !wants_others ? CALIBRATION_MASKS : 2 * (uint64_t)f->components;
    if (o->estimators) return add_listed(f, o->estimators);
    if (f->sampler == SAMPLER_LOO) return add_fit(f, FIT_OLS, f->masks, 0, true);
    return add_fit(f, f->passes ? FIT_GRAD_EB : FIT_RIDGE, f->masks, f->passes, true);
}

static coar_status check(const forecast_job *f) {
    if (!(f->alpha > 0 && f->alpha < 1))
        return status_set(COAR_ERROR_USAGE, "--alpha %g: give the fraction to ablate, above 0 and below 1", f->alpha);
    if (f->o->ablate.masks > (uint64_t)1 << 40)
        return status_set(COAR_ERROR_USAGE, "--masks %llu: too many", (unsigned long long)f->o->ablate.masks);
    if (f->o->passes > LEVELS_PASSES_MOST)
        return status_set(COAR_ERROR_USAGE, "--passes %u: give at most %d", f->o->passes, LEVELS_PASSES_MOST);
    if (f->o->passes && f->alpha >= .5)
        return status_set(COAR_ERROR_USAGE, "--alpha %g: gradients need one below 0.5", f->alpha);
    return COAR_OK;
}

static coar_status count_fresh(forecast_job *f) {
    const char *list = f->o->eval_alphas;
    f->fresh_masks = f->o->eval_masks ? f->o->eval_masks : FRESH_MASKS;
    f->fresh_alphas = 1;
    if (f->fresh_masks < 2 || f->fresh_masks > (uint64_t)1 << 40)
        return status_set(COAR_ERROR_USAGE, "--eval-masks: a correlation needs at least 2");
    for (const char *at = list; at && *at; at++) {
        char *end;
        const double alpha = number_parse(at, &end);
        if (end == at || (*end && *end != ',') || !(alpha > 0 && alpha < 1))
            return status_set(COAR_ERROR_USAGE, "--eval-alpha '%s': give numbers between 0 and 1", list);
        f->fresh_alphas += *end == ',';
        at = end;
        if (!*at) break;
    }
    return COAR_OK;
}

coar_status forecast_job_make(const coar_plan_options *o, const job *j, forecast_job *out) {
    const char *path;
    const graph *g = j->model->graph;
    forecast_job f = {.o = o,
                      .alpha = o->ablate.alpha == 0 ? DEFAULT_ALPHA : o->ablate.alpha,
                      .examples = j->count,
                      .components = g->components,
                      .outputs = (uint32_t)j->output_count,
                      .unit_masks = j->unit_masks,
                      .unit_examples = j->unit_examples,
                      .flops = graph_flops(g),
                      .weight_bytes = (double)graph_weight_bytes(g),
                      .example_bytes = (double)dataset_example_bytes(j->data)};
    TRY(sampler_parse(o->ablate.sampler, &f.sampler, &path));
    TRY(check(&f));
    TRY(count_fresh(&f));
    TRY(choose_passes(&f));
    *out = f;
    return COAR_OK;
}

sampler forecast_sampler(const forecast_job *f) {
    return (sampler){.kind = SAMPLER_BERNOULLI,
                     .seed = f->o->ablate.seed,
                     .stream = PHILOX_STREAM_TRAINING,
                     .alpha = f->sampler == SAMPLER_LOO ? 1. / f->components : f->alpha,
                     .n = f->components};
}

size_t forecast_fit_memory(const forecast_job *f) {
    const uint64_t given = f->o->ablate.memory;
    return given || f->o->rate == 0 ? (size_t)given : SIZE_MAX / 2;
}

fit_problem forecast_problem(const forecast_job *f, const forecast_fit *fit, fit_gradients *gradients) {
    *gradients = (fit_gradients){.masks = {.alpha = f->alpha, .n = f->components}, .passes = fit->passes};
    return (fit_problem){.m = fit->masks,
                         .N = f->examples,
                         .n = f->components,
                         .groups = f->components,
                         .leave_one_out = f->sampler == SAMPLER_LOO,
                         .gradients = fit_estimator_takes_gradients(fit->estimator) ? gradients : NULL};
}
