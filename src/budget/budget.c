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
#include <stdlib.h>
#include <string.h>

#include "budget/steps.h"
#include "core/files.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/number.h"
#include "core/options.h"
#include "store/store.h"

#define STEPS_FILE "budget.steps"
#define STEPS_FORMAT "coar.steps"

/* What may be spent: passes, or seconds of this and earlier calls; 0 = not given. */
typedef struct budget {
    double passes, seconds;
} budget;

typedef struct budget_run {
    const coar_budget_options *o;
    budget budget;
    double start; /* clock_seconds */
    bool force;   /* the first stage starts over */
    budget_step steps[STEPS_MAX];
    size_t count;
    uint64_t components;
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

/* ---------------------------------------------------------------------------------------- steps of earlier calls */

static bool read_number(const cJSON *object, const char *key, double most, double *out) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most)) return false;
    *out = item->valuedouble;
    return true;
}

/* `predicted` is absent where a fit could not predict. */
static bool read_step(const cJSON *item, budget_step *step) {
    double passes, masks;
    if (!read_number(item, "passes", UINT32_MAX, &passes) || !read_number(item, "masks", 1e15, &masks)) return false;
    if (!read_number(item, "seconds", 1e15, &step->seconds)) return false;
    const cJSON *predicted = cJSON_GetObjectItemCaseSensitive(item, "predicted");
    step->passes = (uint32_t)passes;
    step->masks = (uint64_t)masks;
    step->predicted = cJSON_IsNumber(predicted) ? predicted->valuedouble : NAN;
    return true;
}

static coar_status parse_steps(budget_run *run, const char *text) {
    cJSON *root = cJSON_Parse(text);
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "format");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "steps"), *item;
    bool valid = cJSON_IsString(format) && !strcmp(format->valuestring, STEPS_FORMAT) && cJSON_IsArray(list);
    cJSON_ArrayForEach(item, list) {
        valid = valid && run->count < STEPS_MAX && read_step(item, &run->steps[run->count]);
        if (!valid) break;
        run->count++;
    }
    cJSON_Delete(root);
    if (valid) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s.parts/%s: steps: not what coar writes; remove the file to decide again",
                      run->o->ablate.output, STEPS_FILE);
}

static coar_status load_steps(budget_run *run) {
    const char *path = run->o->ablate.output;
    run_store *store = NULL;
    char *text = NULL;
    coar_status status;
    run->force = run->o->ablate.force;
    if (run->force || !file_exists(path)) return COAR_OK;
    TRY_GOTO(store_open(path, &store));
    TRY_GOTO(store_read_text(store, STEPS_FILE, &text));
    if (text) TRY_GOTO(parse_steps(run, text));
done:
    free(text);
    store_close(store);
    return status;
}

static coar_status save_steps(const budget_run *run) {
    run_store *store = NULL;
    coar_status status = COAR_OK;
    char *text = NULL;
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "steps");
    cJSON_AddStringToObject(root, "format", STEPS_FORMAT);
    for (size_t i = 0; i < run->count; i++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "passes", run->steps[i].passes);
        cJSON_AddNumberToObject(item, "masks", (double)run->steps[i].masks);
        if (isfinite(run->steps[i].predicted)) cJSON_AddNumberToObject(item, "predicted", run->steps[i].predicted);
        cJSON_AddNumberToObject(item, "seconds", run->steps[i].seconds);
        cJSON_AddItemToArray(list, item);
    }
    text = cJSON_PrintUnformatted(root);
    if (!text) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", STEPS_FILE));
    TRY_GOTO(store_open(run->o->ablate.output, &store));
    TRY_GOTO(store_write_text(store, STEPS_FILE, text));
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
    if (options.time_limit > 0) options.time_limit = fmax(options.time_limit - (clock_seconds() - run->start), 1e-3);
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

static const char *step_estimator(const budget_step *step) {
    return step->masks >= STEP_MASKS_FIT ? "grad+eb" : "grad";
}

static coar_status fit_step(budget_run *run, const budget_step *step) {
    coar_fit_options options = run->o->fit;
    options.run = run->o->ablate.output;
    options.estimator = step_estimator(step);
    options.name = NULL;
    options.keep = 1;
    return coar_fit(&options, &run->fit);
}

static coar_status make_step(budget_run *run, budget_step *step) {
    const double start = clock_seconds();
    coar_gradients_options gradients = COAR_GRADIENTS_INIT;
    coar_gradients_result made = {0};
    uint64_t there;
    gradients.ablate = next_stage(run);
    gradients.passes = step->passes;
    TRY(coar_gradients(&gradients, &made));
    run->components = made.components;
    step->passes = made.passes;
    TRY(masks_there(run, &there));
    if (there < step->masks) {
        coar_ablate_options ablate = next_stage(run);
        ablate.masks = step->masks;
        TRY(coar_ablate(&ablate, NULL));
    } else {
        step->masks = there;
    }
    TRY(fit_step(run, step));
    step->predicted = run->fit.predicted;
    step->seconds = clock_seconds() - start;
    run->steps[run->count++] = *step;
    log_info(run->o->ablate.callbacks,
             "%u reverse and %llu forward passes: predicted correlation %.3f (%.3f to %.3f), %.0f s", step->passes,
             (unsigned long long)step->masks, run->fit.predicted, run->fit.predicted_low, run->fit.predicted_high,
             step->seconds);
    return save_steps(run);
}

/* The budget as passes in all, without those that are reserved. Of a time budget: what is left of it at the rate so far,
 * fits included; the first step, which sets the rate, is made in any case. */
static double budget_passes(const budget_run *run) {
    const double reserved = (double)run->o->reserved;
    if (run->budget.passes > 0) return run->budget.passes - reserved;
    if (run->count == 0) return INFINITY;
    if (run->budget.seconds == 0) return 2 * (double)run->components - reserved;
    const budget_step *last = &run->steps[run->count - 1];
    double seconds = 0;
    for (size_t i = 0; i < run->count; i++) seconds += run->steps[i].seconds;
    const double spent = step_cost(last->passes, last->masks);
    return run->budget.seconds / (seconds / spent) - reserved;
}

/* Steps of earlier calls tell n only through the run itself. */
static coar_status read_components(budget_run *run) {
    run_store *store = NULL;
    run_tables tables = {0};
    coar_status status;
    TRY_GOTO(store_open(run->o->ablate.output, &store));
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    run->components = tables.components;
done:
    run_tables_free(&tables);
    store_close(store);
    return status;
}

coar_status coar_budget(const coar_budget_options *options, coar_budget_result *result) {
    status_clear();
    coar_budget_options o;
    budget_step next;
    step_choice choice;
    TRY(options_take(&o, sizeof o, options, "COAR_BUDGET_INIT"));
    budget_run run = {.o = &o, .start = clock_seconds()};
    TRY(parse_budget(o.budget, &run.budget));
    if (o.check_only) return COAR_OK;
    if (!o.ablate.output) return status_set(COAR_ERROR_USAGE, "-o: name the run file to write (run.h5)");
    TRY(load_steps(&run));
    if (run.count) TRY(read_components(&run));
    while ((choice = step_after(run.steps, run.count, budget_passes(&run), &next)) == STEP_NEXT)
        TRY(make_step(&run, &next));
    const budget_step *last = &run.steps[run.count - 1];
    coar_budget_result r = {
        .passes = last->passes,
        .masks = last->masks,
        .steps = (uint32_t)run.count,
        .settled = choice == STEP_SETTLED,
        .predicted = last->predicted,
        .seconds = clock_seconds() - run.start,
    };
    strcpy(r.estimator, step_estimator(last));
    if (result) *result = r;
    return COAR_OK;
}
