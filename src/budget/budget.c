/*
 * budget.c - coar_budget: gradients, ablations and fits in steps, until the predicted correlation has settled or the
 * budget is spent (steps.h).
 *
 * What a step held and predicted is kept with the run (budget.steps), so that a rerun after a kill repeats no step and
 * decides as the first call would have.
 * Must not know: how passes are computed, how fits are solved.
 */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "budget/steps.h"
#include "core/files.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/number.h"
#include "core/options.h"
#include "fit/plan.h"
#include "store/store.h"

#define STEPS_FORMAT "coar.steps"

/* What may be spent: passes, or seconds of this and earlier calls; 0 = not given. */
typedef struct budget {
    double passes, seconds;
} budget;

typedef struct budget_run {
    const coar_budget_options *o;
    budget budget;
    fit_estimator estimator; /* of a budget without gradients */
    double reverse_cost;     /* forward passes that a reverse pass of all outputs counts for; 0 = no gradients */
    double start;            /* clock_seconds */
    bool force;              /* the first stage starts over */
    budget_step steps[STEPS_MAX];
    size_t count;
    double seconds; /* of all steps, of those that were stopped as well; a killed one's are not known */
    double fitting; /* seconds of the last step's fit */
    uint64_t components, examples;
    coar_fit_result fit; /* of the last step */
} budget_run;

/* ------------------------------------------------------------------------------------------------ options */

/* "30m", "2h", "90s", "5000p". */
static coar_status parse_budget(const char *text, budget *out) {
    static const struct {
        char unit;
        double passes, seconds;
    } units[] = {{'s', 0, 1}, {'m', 0, 60}, {'h', 0, 3600}, {'p', 1, 0}};
    *out = (budget){0};
    if (!text) return COAR_OK;
    char *end;
    const double value = number_parse(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (end != text && isfinite(value) && value > 0 && *end == units[i].unit && !end[1]) {
            *out = (budget){value * units[i].passes, value * units[i].seconds};
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--budget '%s': give a time as in 90s, 30m or 2h, or passes as in 5000p", text);
}

/* Outputs of a comma list; NULL = one. Reverse passes are made for each. */
static int output_names_count(const char *outputs) {
    int count = 1;
    for (const char *at = outputs; at && *at; at++) count += *at == ',';
    return count;
}

static coar_status check_least(const budget_run *run) {
    const double reserved = (double)run->o->reserved, least = reserved + fmax(run->reverse_cost, 2);
    if (run->budget.passes == 0 || run->budget.passes >= least) return COAR_OK;
    return status_set(COAR_ERROR_USAGE,
                      "--budget %s: the evaluation takes %.0f passes of it (--eval-masks), and one step %.1f: give at "
                      "least %.0fp",
                      run->o->budget, reserved, least - reserved, ceil(least));
}

/* ---------------------------------------------------------------------------------------- steps of earlier calls */

static bool read_number(const cJSON *object, const char *key, double most, double *out) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most)) return false;
    *out = item->valuedouble;
    return true;
}

/* `predicted` is absent where a fit could not predict. Steps only ever add passes. */
static bool read_step(const cJSON *item, const budget_step *before, budget_step *step) {
    double passes, masks;
    const cJSON *predicted = cJSON_GetObjectItemCaseSensitive(item, "predicted");
    if (!read_number(item, "passes", UINT32_MAX, &passes) || !read_number(item, "masks", 1e15, &masks)) return false;
    if (predicted && !(cJSON_IsNumber(predicted) && fabs(predicted->valuedouble) <= 1)) return false;
    step->passes = (uint32_t)passes;
    step->masks = (uint64_t)masks;
    step->predicted = predicted ? predicted->valuedouble : NAN;
    return step->passes == passes && step->masks == masks &&
           (!before || (step->passes >= before->passes && step->masks >= before->masks));
}

static coar_status parse_steps(budget_run *run, const char *text) {
    cJSON *root = cJSON_Parse(text);
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "format");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "steps"), *item;
    bool valid = cJSON_IsString(format) && !strcmp(format->valuestring, STEPS_FORMAT) && cJSON_IsArray(list) &&
                 read_number(root, "seconds", 1e15, &run->seconds);
    cJSON_ArrayForEach(item, list) {
        const budget_step *before = run->count ? &run->steps[run->count - 1] : NULL;
        valid = valid && run->count < STEPS_MAX && read_step(item, before, &run->steps[run->count]);
        if (!valid) break;
        run->count++;
    }
    cJSON_Delete(root);
    if (valid && run->count) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s.parts/%s: steps: not what coar writes; remove the file to decide again",
                      run->o->ablate.output, STORE_STEPS);
}

/* What the run holds, in finished parts. */
static coar_status read_held(run_store *store, budget_step *held) {
    *held = (budget_step){.predicted = NAN};
    TRY(store_passes_finished(store, &held->passes));
    return store_masks_finished(store, &held->masks);
}

/* What the first step makes is that step's, also where a kill came before it could be written down; only what is beyond
 * it was there before. */
static bool first_steps_own(const budget_run *run, const budget_step *held) {
    const uint64_t masks = run->reverse_cost > 0 ? STEP_MASKS_FIRST : STEP_MASKS_FIT;
    return held->passes <= STEP_PASSES_FIRST && held->masks <= masks;
}

/* Steps of earlier calls, as far as the run still holds what they made; n. Without any, step 0 is what it held before. */
static coar_status load_steps(budget_run *run) {
    const char *path = run->o->ablate.output;
    run_store *store = NULL;
    run_tables tables = {0};
    budget_step held = {.predicted = NAN};
    bool complete = false; /* a run that was killed before it had tables holds nothing */
    char *text = NULL;
    coar_status status = COAR_OK;
    run->force = run->o->ablate.force;
    if (!run->force && file_exists(path)) {
        TRY_GOTO(store_open(path, &store));
        TRY_GOTO(store_read_tables(store, &tables, &complete));
        TRY_GOTO(read_held(store, &held));
        TRY_GOTO(store_read_text(store, STORE_STEPS, &text));
        if (text) TRY_GOTO(parse_steps(run, text));
        if (complete) run->components = tables.components, run->examples = tables.examples;
    }
    while (run->count &&
           (run->steps[run->count - 1].passes > held.passes || run->steps[run->count - 1].masks > held.masks))
        run->count--;
    if (run->count == 0) {
        run->steps[run->count++] = first_steps_own(run, &held) ? (budget_step){.predicted = NAN} : held;
        run->seconds = 0;
    }
done:
    free(text);
    run_tables_free(&tables);
    store_close(store);
    return status;
}

static coar_status save_steps(const budget_run *run) {
    run_store *store = NULL;
    coar_status status = COAR_OK;
    char *text = NULL;
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "steps");
    cJSON_AddStringToObject(root, "format", STEPS_FORMAT);
    cJSON_AddNumberToObject(root, "seconds", run->seconds);
    for (size_t i = 0; i < run->count; i++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "passes", run->steps[i].passes);
        cJSON_AddNumberToObject(item, "masks", (double)run->steps[i].masks);
        if (isfinite(run->steps[i].predicted)) cJSON_AddNumberToObject(item, "predicted", run->steps[i].predicted);
        cJSON_AddItemToArray(list, item);
    }
    text = cJSON_PrintUnformatted(root);
    if (!text) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", STORE_STEPS));
    TRY_GOTO(store_open(run->o->ablate.output, &store));
    TRY_GOTO(store_write_text(store, STORE_STEPS, text));
done:
    cJSON_free(text);
    cJSON_Delete(root);
    store_close(store);
    return status;
}

/* --------------------------------------------------------------------------------------------------- one step */

/* Options of the next stage: what is left of the time limit; --force for the first stage alone. */
static coar_ablate_options next_stage(budget_run *run) {
    coar_ablate_options options = run->o->ablate;
    options.force = run->force;
    run->force = false;
    options.time_limit = clock_left(options.time_limit, run->start);
    return options;
}

/* Masks that the run holds: more than a step asks for are there when somebody else ablated. */
static coar_status masks_there(const budget_run *run, uint64_t *masks) {
    run_store *store;
    TRY(store_open(run->o->ablate.output, &store));
    const coar_status status = store_masks_finished(store, masks);
    store_close(store);
    return status;
}

static coar_status make_gradients(budget_run *run, budget_step *step) {
    coar_gradients_options gradients = COAR_GRADIENTS_INIT;
    coar_gradients_result made = {0};
    gradients.ablate = next_stage(run);
    gradients.passes = step->passes;
    TRY(coar_gradients(&gradients, &made));
    run->components = made.components, run->examples = made.examples;
    step->passes = made.passes;
    return COAR_OK;
}

static coar_status make_masks(budget_run *run, budget_step *step) {
    coar_ablate_options ablate = next_stage(run);
    coar_ablate_result made = {0};
    ablate.masks = step->masks;
    TRY(coar_ablate(&ablate, &made));
    run->components = made.components, run->examples = made.examples;
    return COAR_OK;
}

static const char *step_estimator(const budget_run *run, const budget_step *step) {
    if (run->reverse_cost == 0) return run->o->fit.estimator;
    return step->masks >= STEP_MASKS_FIT ? "grad+eb" : "grad";
}

static coar_status fit_with(const budget_run *run, const char *estimator, coar_fit_result *result) {
    coar_fit_options options = run->o->fit;
    options.run = run->o->ablate.output;
    options.estimator = estimator;
    options.name = NULL;
    options.keep = 1;
    return coar_fit(&options, result);
}

static coar_status make_step(budget_run *run, budget_step *step) {
    uint64_t there = 0;
    if (run->reverse_cost > 0) TRY(make_gradients(run, step));
    if (!run->force && file_exists(run->o->ablate.output)) TRY(masks_there(run, &there));
    if (there < step->masks) TRY(make_masks(run, step));
    if (there > step->masks) step->masks = there;
    const double fit_start = clock_seconds();
    TRY(fit_with(run, step_estimator(run, step), &run->fit));
    run->fitting = clock_seconds() - fit_start;
    step->predicted = run->fit.predicted;
    run->steps[run->count++] = *step;
    return COAR_OK;
}

static void tell_step(const budget_run *run, const budget_step *step, double seconds) {
    const coar_callbacks *callbacks = run->o->ablate.callbacks;
    const coar_fit_result *fit = &run->fit;
    if (isnan(fit->predicted))
        log_info(callbacks, "%u reverse and %llu forward passes: too few to predict a correlation from, %.0f s",
                 step->passes, (unsigned long long)step->masks, seconds);
    else
        log_info(callbacks, "%u reverse and %llu forward passes: predicted correlation %.3f (%.3f to %.3f), %.0f s",
                 step->passes, (unsigned long long)step->masks, fit->predicted, fit->predicted_low, fit->predicted_high,
                 seconds);
}

/* The step, and what it took: also of one that was stopped, which counts against a budget in time. */
static coar_status time_step(budget_run *run, budget_step *step) {
    const double start = clock_seconds();
    const coar_status status = make_step(run, step);
    const double seconds = clock_seconds() - start;
    run->seconds += seconds;
    if (status == COAR_STOPPED && file_exists(run->o->ablate.output)) TRY(save_steps(run));
    if (status != COAR_OK) return status;
    tell_step(run, step, seconds);
    return save_steps(run);
}

/* The budget as forward passes in all, without those that are reserved. Of a time budget: what it buys at the rate so
 * far, less the next fit, which takes four times the last one's time when masks are doubled; the first step, which sets
 * the rate, is made in any case. */
static double budget_passes(const budget_run *run) {
    const double reserved = (double)run->o->reserved;
    const double spent = steps_spent(run->steps, run->count, run->reverse_cost);
    if (run->budget.passes > 0) return run->budget.passes - reserved;
    if (run->count == 1) return INFINITY;
    if (run->budget.seconds == 0) return 2 * (double)run->components;
    const double seconds = run->budget.seconds - 4 * run->fitting;
    return spent > 0 ? seconds / (run->seconds / spent) - reserved : INFINITY;
}

/* --memory is then the device's, not the host's. */
static bool fits_on_device(const budget_run *run) {
    const backend_interface *backend;
    return backend_find(run->o->fit.backend, NULL, &backend) == COAR_OK && backend->fit_device;
}

/* More masks than a fit can take, in --memory or at all, are not made. */
static bool fit_takes(const budget_run *run, const budget_step *step) {
    const fit_problem problem = {
        .m = step->masks, .N = run->examples, .n = (uint32_t)run->components, .groups = (uint32_t)run->components};
    fit_settings settings = {.standard_errors = run->o->fit.standard_errors,
                             .memory = fits_on_device(run) ? 0 : (size_t)run->o->fit.memory};
    size_t block;
    if (run->count == 1 || step->masks == 0) return true; /* nothing is known yet; coar_fit says what is wrong */
    if (run->reverse_cost > 0)
        settings.estimator = step->masks >= STEP_MASKS_FIT ? FIT_GRAD_EB : FIT_GRAD;
    else
        settings.estimator = run->estimator;
    if (fit_plan_block(&problem, &settings, &block) == COAR_OK) return true;
    log_warning(run->o->ablate.callbacks, "no further masks: %s", coar_last_error());
    status_clear();
    return false;
}

/* A budget that ended with the fit of the residuals leaves the calibrated gradients beside it made from the same masks. */
static coar_status refresh_gradients(const budget_run *run, const char *estimator) {
    coar_fit_result result;
    return strcmp(estimator, "grad+eb") ? COAR_OK : fit_with(run, "grad", &result);
}

static step_choice choose_step(const budget_run *run, budget_step *next) {
    const step_rules rules = {.reverse_cost = run->reverse_cost, .budget = budget_passes(run)};
    const step_choice choice = step_after(run->steps, run->count, &rules, next);
    return choice == STEP_NEXT && !fit_takes(run, next) ? STEP_SPENT : choice;
}

coar_status coar_budget(const coar_budget_options *options, coar_budget_result *result) {
    status_clear();
    coar_budget_options o;
    budget_step next;
    step_choice choice;
    TRY(options_take(&o, sizeof o, options, "COAR_BUDGET_INIT"));
    budget_run run = {.o = &o, .start = clock_seconds()};
    TRY(fit_estimator_parse(o.fit.estimator, &run.estimator));
    if (!o.fit.estimator || fit_estimator_takes_gradients(run.estimator))
        run.reverse_cost = REVERSE_COST * output_names_count(o.ablate.outputs);
    TRY(parse_budget(o.budget, &run.budget));
    TRY(check_least(&run));
    if (o.check_only) return COAR_OK;
    if (!o.ablate.output) return status_set(COAR_ERROR_USAGE, "-o: name the run file to write (run.h5)");
    TRY(load_steps(&run));
    while ((choice = choose_step(&run, &next)) == STEP_NEXT) TRY(time_step(&run, &next));
    const budget_step *last = &run.steps[run.count - 1];
    coar_budget_result r = {
        .passes = last->passes,
        .masks = last->masks,
        .steps = (uint32_t)run.count - 1,
        .settled = choice == STEP_SETTLED,
        .predicted = last->predicted,
        .seconds = clock_seconds() - run.start,
    };
    snprintf(r.estimator, sizeof r.estimator, "%s", step_estimator(&run, last));
    TRY(refresh_gradients(&run, r.estimator));
    if (result) *result = r;
    return COAR_OK;
}
