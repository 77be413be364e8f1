/* baselines.c - see baselines.h. */
#include "ablate/baselines.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/baseline_units.h"
#include "ablate/mask_units.h"
#include "ablate/reopen.h"
#include "ablate/run.h"
#include "core/memory.h"

#define LOO_STAGE "baseline-loo"
#define PATHS_STAGE "baseline-gradients"

enum { ROWS = 64 }; /* of a fit, written at once: all rows of a block of examples may be hundreds of MB */

/* Names by BASELINE_..., leave-one-out last. */
enum { LOO = BASELINE_GRADIENTS, BASELINES };
static const char *const estimators[BASELINES] = {"gp", "nc", "ii", "loo"};

/* A call of baselines_complete. */
typedef struct baselines {
    run_store *store;
    const coar_evaluate_options *o;
    double start; /* clock_seconds */
    run_tables tables;
    fit_info *fits; /* that the run has */
    size_t fit_count;
    job *job; /* opened when something is missing */
} baselines;

static void fit_name(const baselines *b, int estimator, size_t output, char name[64]) {
    const char *of = b->tables.output_names[output];
    snprintf(name, 64, output ? "%s-%s" : "%s", estimators[estimator], of);
}

/* Whether the run has it. */
static coar_status find_fit(const baselines *b, int estimator, size_t output, bool *there) {
    char name[64];
    fit_name(b, estimator, output, name);
    *there = false;
    for (size_t f = 0; f < b->fit_count && !*there; f++) {
        if (strcmp(b->fits[f].name, name)) continue;
        if (strcmp(b->fits[f].estimator, estimators[estimator]))
            return status_set(
                COAR_ERROR_EXISTS,
                "%s: --baselines: its fit '%s' is of estimator %s, but the name is a baseline's: fit that again under "
                "another --name and remove %s.parts/fit-%s.h5",
                store_path(b->store), name, b->fits[f].estimator, store_path(b->store), name);
        *there = true;
    }
    return COAR_OK;
}

/* Whether one of estimators first .. last is missing for some output. */
static coar_status find_missing(const baselines *b, int first, int last, bool *missing) {
    *missing = false;
    for (int e = first; e <= last; e++)
        for (size_t o = 0; o < b->tables.output_count; o++) {
            bool there;
            TRY(find_fit(b, e, o, &there));
            *missing |= !there;
        }
    return COAR_OK;
}

/* Opens the stage and computes all of it; the caller closes it. */
static coar_status run_units(baselines *b, const char *name, const unit_work *work, store_stage **stage) {
    const setting settings[] = {{"plan_hash", "--plan", b->job->plan.hash, SETTING_TEXT, true}};
    stage_run run = {.name = name,
                     .settings = settings,
                     .setting_count = sizeof settings / sizeof *settings,
                     .work = *work,
                     .force_resume = b->o->force_resume};
    run.work.time_limit = clock_left(b->o->time_limit, b->start);
    b->job->memory_told = false; /* what was told was for other passes */
    return run_stage(b->job, b->store, &run, stage);
}

/* ------------------------------------------------------------------------------------------------------- fits */

/* Rows of a fit on their way to it. */
typedef struct rows {
    fit_writer *writer;
    float *weight;   /* [ROWS][n] */
    float *bias;     /* [ROWS] 0 */
    double *nothing; /* [ROWS] NaN */
} rows;

static void rows_free(rows *r) {
    fit_writer_destroy(r->writer);
    free(r->weight);
    free(r->bias);
    free(r->nothing);
}

/* For a fit made of so many masked and reverse passes of each example. */
static coar_status rows_new(const baselines *b, int estimator, size_t output, uint64_t masks, uint32_t passes,
                            rows *r) {
    static const char what[] = "baselines";
    char name[64];
    fit_name(b, estimator, output, name);
    const fit_header header = {.name = name,
                               .estimator = estimators[estimator],
                               .output = b->tables.output_names[output],
                               .examples = b->tables.examples,
                               .components = b->tables.components,
                               .masks = masks,
                               .passes = passes,
                               .command = b->o->command};
    TRY(memory_new(ROWS, b->tables.components * sizeof *r->weight, what, &r->weight));
    TRY(memory_new(ROWS, sizeof *r->bias, what, &r->bias));
    TRY(memory_new(ROWS, sizeof *r->nothing, what, &r->nothing));
    for (size_t i = 0; i < ROWS; i++) r->nothing[i] = NAN;
    /* one that is there already is written again, the same: a kill came before the stage's journals were removed */
    return fit_writer_create(b->store, NULL, &header, true, &r->writer);
}

static coar_status rows_write(rows *r, uint64_t first, uint64_t count) {
    const fit_block block = {.first = first,
                             .count = count,
                             .weight = r->weight,
                             .bias = r->bias,
                             .penalty = r->nothing,
                             .r2 = r->nothing,
                             .heldout = r->nothing};
    return fit_writer_block(r->writer, &block);
}

/* ---------------------------------------------------------------------------------------------- leave-one-out */

/* Outputs of examples from .. from + count - 1 of a unit into their rows: f(1) into full, minus the others into
 * weights. */
static void take_outputs(const unit_grid *g, uint64_t unit, size_t output, const float *payload, size_t from,
                         size_t count, uint32_t n, float *weight, float full[ROWS]) {
    uint64_t mask_first, example_first;
    uint32_t masks, examples;
    unit_grid_unit(g, unit, &mask_first, &masks, &example_first, &examples);
    for (uint32_t i = 0; i < masks; i++) {
        const float *outputs = payload + (output * masks + i) * examples + from;
        const uint64_t component = mask_first + i; /* n: nothing is ablated */
        for (size_t e = 0; e < count; e++) {
            if (component == n)
                full[e] = outputs[e];
            else
                weight[e * n + component] = -outputs[e];
        }
    }
}

/* Examples first .. first + count - 1, all of one block: its units are read for every ROWS of its examples. */
static coar_status write_loo_rows(store_stage *stage, const unit_grid *g, size_t output, uint64_t first, size_t count,
                                  uint32_t n, float *payload, rows *r) {
    const uint64_t blocks = (g->examples + g->unit_examples - 1) / g->unit_examples, block = first / g->unit_examples;
    float full[ROWS];
    unit_mark mark;
    for (uint64_t unit = block; unit < unit_grid_units(g); unit += blocks) {
        TRY(stage_read(stage, unit, &mark, payload, unit_grid_payload(g, unit)));
        take_outputs(g, unit, output, payload, (size_t)(first - block * g->unit_examples), count, n, r->weight, full);
    }
    for (size_t e = 0; e < count; e++)
        for (size_t j = 0; j < n; j++) r->weight[e * n + j] += full[e];
    return rows_write(r, first, count);
}

static coar_status write_loo_fit(const baselines *b, store_stage *stage, const unit_grid *g, size_t output) {
    const uint32_t n = b->tables.components;
    rows r = {0};
    float *payload = NULL;
    coar_status status;
    TRY_GOTO(rows_new(b, LOO, output, (uint64_t)n + 1, 0, &r));
    TRY_GOTO(memory_new(unit_grid_payload(g, 0), 1, "baselines", &payload));
    for (uint64_t first = 0, count; first < g->examples; first += count) {
        const uint64_t end = (first / g->unit_examples + 1) * g->unit_examples; /* of the block */
        const uint64_t left = (end < g->examples ? end : g->examples) - first;
        count = left < ROWS ? left : ROWS;
        TRY_GOTO(write_loo_rows(stage, g, output, first, (size_t)count, n, payload, &r));
    }
    status = fit_writer_finish(r.writer);
done:
    free(payload);
    rows_free(&r);
    return status;
}

static coar_status complete_loo(baselines *b) {
    const sampler one_out = {.kind = SAMPLER_LOO, .n = b->tables.components};
    const mask_units units = {
        .progress = "baselines", .grid = mask_units_grid(b->job, 0, (uint64_t)one_out.n + 1), .sampler = &one_out};
    const unit_work work = mask_units_work(b->job, &units);
    store_stage *stage = NULL;
    coar_status status;
    TRY_GOTO(run_units(b, LOO_STAGE, &work, &stage));
    for (size_t o = 0; o < b->tables.output_count; o++) TRY_GOTO(write_loo_fit(b, stage, &units.grid, o));
done:
    stage_close(stage);
    return status;
}

/* -------------------------------------------------------------------------------------------------- gradients */

static coar_status write_gradient_fit(const baselines *b, store_stage *stage, const baseline_grid *g, int estimator,
                                      size_t output) {
    const size_t n = g->components, bytes = baseline_grid_payload(g, 0);
    rows r = {0};
    float *payload = NULL;
    unit_mark mark;
    coar_status status;
    TRY_GOTO(rows_new(b, estimator, output, 0, baseline_passes(estimator), &r));
    TRY_GOTO(memory_new(bytes, 1, "baselines", &payload));
    for (uint64_t first = 0; first < g->examples; first += ROWS) {
        const size_t count = g->examples - first < ROWS ? (size_t)(g->examples - first) : ROWS;
        for (size_t e = 0; e < count; e++) {
            TRY_GOTO(stage_read(stage, first + e, &mark, payload, bytes));
            memcpy(r.weight + e * n, payload + (output * BASELINE_GRADIENTS + (size_t)estimator) * n,
                   n * sizeof *r.weight);
        }
        TRY_GOTO(rows_write(&r, first, count));
    }
    status = fit_writer_finish(r.writer);
done:
    free(payload);
    rows_free(&r);
    return status;
}

/* Conductance and influence come behind the gradient, which is all that texts have. */
static int last_gradient(const baselines *b) {
    return b->job->data->tokens ? BASELINE_GRADIENT : BASELINE_GRADIENTS - 1;
}

static coar_status complete_gradients(baselines *b) {
    const baseline_grid grid = {.examples = b->tables.examples,
                                .components = b->tables.components,
                                .outputs = (uint32_t)b->tables.output_count,
                                .paths = !b->job->data->tokens};
    const unit_work work = baseline_units_work(b->job, &grid);
    store_stage *stage = NULL;
    coar_status status;
    if (!b->job->interface->run_reverse)
        TRY_GOTO(status_set(COAR_ERROR_UNSUPPORTED, "%s: --baselines: backend %s has no reverse passes",
                            store_path(b->store), b->job->interface->name));
    TRY_GOTO(run_units(b, PATHS_STAGE, &work, &stage));
    for (int e = 0; e <= last_gradient(b); e++)
        for (size_t o = 0; o < b->tables.output_count; o++) TRY_GOTO(write_gradient_fit(b, stage, &grid, e, o));
done:
    stage_close(stage);
    return status;
}

/* Of a stage that was interrupted; else the run's if it is in fp32, else NULL: less is too coarse for what a single
 * component changes (as for `coar ablate --sampler loo`). */
static coar_status find_plan(run_store *store, char **plan) {
    const char *precision = store_setting(store, "precision");
    TRY(store_stage_plan(store, PATHS_STAGE, plan));
    if (!*plan) TRY(store_stage_plan(store, LOO_STAGE, plan));
    if (*plan || !precision || strcmp(precision, "fp32") != 0) return COAR_OK;
    return store_existing_plan(store_path(store), plan);
}

coar_status baselines_complete(run_store *store, const coar_evaluate_options *o) {
    baselines b = {.store = store, .o = o, .start = clock_seconds()};
    bool loo, gradients;
    char *plan = NULL;
    coar_status status;
    TRY_GOTO(reopen_check(store, o));
    TRY_GOTO(store_read_tables(store, &b.tables, NULL));
    TRY_GOTO(store_list_fits(store, &b.fits, &b.fit_count));
    TRY_GOTO(find_missing(&b, LOO, LOO, &loo));
    TRY_GOTO(find_missing(&b, 0, BASELINE_GRADIENTS - 1, &gradients));
    TRY_GOTO(find_plan(store, &plan));
    if (loo || gradients) TRY_GOTO(reopen_job(store, o, plan, &b.tables, &b.job));
    if (b.job && b.job->data->tokens) {
        log_info(o->callbacks,
                 "baselines of texts: no conductance and no influence, which follow paths between images");
        TRY_GOTO(find_missing(&b, 0, last_gradient(&b), &gradients));
    }
    if (gradients) TRY_GOTO(complete_gradients(&b));
    if (loo) TRY_GOTO(complete_loo(&b));
    TRY_GOTO(store_discard_stage(store, PATHS_STAGE)); /* their results are in fits */
    TRY_GOTO(store_discard_stage(store, LOO_STAGE));
done:
    job_close(b.job);
    free(plan);
    free(b.fits);
    run_tables_free(&b.tables);
    return status;
}
