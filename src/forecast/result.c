/*
 * result.c - from sizes and rates to stages, disk, and a row for each number of devices. See forecast.h.
 *
 * Units of a stage are alike and handed out one after the other, so that P devices take ceil(units / P) / units of what one
 * takes (bench/scheduler_model.py looks at stragglers, failures and the file system). What comes before and after them
 * every process, or one, does alone.
 */
#include <math.h>

#include "ablate/gradient_units.h"
#include "ablate/mask_units.h"
#include "ablate/memory_plan.h"
#include "core/memory.h"
#include "fit/plan.h"
#include "fit/solver.h"
#include "fit/work.h"
#include "forecast/forecast.h"
#include "store/store.h"

enum { GRADIENTS, ABLATE, FIT, EVALUATE, REPORT };

#define JOURNAL_RECORD 32. /* bytes beside a unit's payload (docs/runfile.md) */

/* Of an HDF5 part and of the index: headers, attributes, filters, small tables. As found in runs. */
#define PART_BYTES 6e3
#define INDEX_BYTES 3e4

/* The page itself; its share of the time is the reading of weights. As found in runs. */
#define REPORT_SECONDS 0.2

/* Of the bootstrap of an evaluation (evaluate/correlation.c): operations of one draw, mask and example; draws; operations a
 * second, which are those of a matrix product. */
#define DRAW_OPERATIONS 12.
#define DRAWS 1000.
#define PRODUCT_RATE 1e10

/* A hand-out costs a message to another host and back, and is to cost 1 % of the units' time at most. */
#define HAND_OUT_SECONDS 1e-3
#define HAND_OUT_SHARE 0.01
#define ROUNDS_LEAST 8. /* batches of a device, so that the last ones are few units of many */

typedef struct forecasting {
    const forecast_job *f;
    const forecast_rates *r;
    const job *j;
    coar_plan_result *out;
} forecasting;

static double example_blocks(const forecast_job *f) {
    return ceil((double)f->examples / f->unit_examples);
}

static uint64_t units_of(const forecast_job *f, uint64_t masks) {
    return (uint64_t)(ceil((double)masks / f->unit_masks) * example_blocks(f));
}

/* -------------------------------------------------------------------------------------------------- bytes */

static double output_values(const forecast_job *f) {
    return (double)f->masks * (double)f->examples * f->outputs;
}

static double blocks(const forecast_job *f) {
    return ceil((double)f->examples / LEVELS_BLOCK);
}

/* One state of all chains. */
static double gradient_bytes(const forecast_job *f) {
    const double n = f->components, N = (double)f->examples;
    return f->passes ? 8. * LEVELS * f->outputs * (N * n + blocks(f) * n + N) : 0;
}

/* How likely none of `passes` passes of a cycle is among `drawn` of its LEVELS_CYCLE. */
static double missed(double drawn, double passes) {
    double none = 1;
    for (double d = 0; d < drawn; d++) none *= fmax(LEVELS_CYCLE - passes - d, 0) / (LEVELS_CYCLE - d);
    return none;
}

/* How likely a component has been at a lower level: a cycle gives it 16 alpha passes there, rounded down or up at random
 * (core/levels.h). */
static double seen(const forecast_job *f) {
    const double drawn = LEVELS_CYCLE * f->alpha, whole = floor(drawn), more = drawn - whole;
    const double cycles = floor((double)f->passes / LEVELS_CYCLE), rest = f->passes % LEVELS_CYCLE;
    const double of_rest = (1 - more) * missed(whole, rest) + more * missed(whole + 1, rest);
    return 1 - pow(whole > 0 ? 0 : 1 - more, cycles) * of_rest;
}

/* Sums of levels that no pass had are zeros, of which nothing stays. */
static double gradient_part(const forecasting *k) {
    return gradient_bytes(k->f) * k->r->gradients_share * (1 + 2 * seen(k->f)) / LEVELS;
}

static double output_part(const forecasting *k) {
    const coar_ablate_options *o = &k->f->o->ablate;
    const double kept = o->store_masks || k->f->sampler == SAMPLER_FILE
                            ? (double)k->f->masks * (double)mask_bytes(k->f->components)
                            : 0;
    return output_values(k->f) * (o->store_f16 ? 2 : 4) * k->r->outputs_share + kept;
}

static double fit_bytes(const forecasting *k) {
    const double n = k->f->components, N = (double)k->f->examples, errors = k->f->o->standard_errors ? 2 : 1;
    double bytes = 0;
    for (size_t i = 0; i < k->f->fit_count; i++)
        if (k->f->fits[i].kept) bytes += N * (4 * n * errors * k->r->weights_share + 28) + PART_BYTES;
    return bytes;
}

static double fits_kept(const forecast_job *f) {
    double kept = 0;
    for (size_t i = 0; i < f->fit_count; i++) kept += f->fits[i].kept;
    return kept;
}

static double fresh_values(const forecast_job *f) {
    return (double)f->fresh_alphas * (double)f->fresh_masks * (double)f->examples;
}

static double evaluation_bytes(const forecasting *k) {
    const forecast_job *f = k->f;
    const double truth = fresh_values(f) * 4 * f->outputs * k->r->outputs_share + f->fresh_alphas * PART_BYTES;
    const double predicted =
        fresh_values(f) * 4 * k->r->outputs_share + f->fresh_alphas * (16. * (double)f->examples + PART_BYTES);
    return truth + fits_kept(f) * predicted;
}

static double table_bytes(const forecast_job *f) {
    return (double)f->examples * (12 + 4. * f->outputs) + PART_BYTES;
}

/* Both records of a chain: after half of its passes and after all of them. */
static double gradient_journals(const forecast_job *f) {
    return f->passes ? 2 * (gradient_bytes(f) + JOURNAL_RECORD * f->outputs * blocks(f)) : 0;
}

static double output_journals(const forecast_job *f) {
    return 4 * output_values(f) + JOURNAL_RECORD * (double)units_of(f, f->masks);
}

/* The journals of a stage are there until its part is. */
static void tell_disk(const forecasting *k) {
    const forecast_job *f = k->f;
    const double gradients = gradient_part(k), outputs = output_part(k), tables = table_bytes(f) + INDEX_BYTES;
    coar_plan_result *out = k->out;
    out->journals = gradient_journals(f) + output_journals(f) + 4 * fresh_values(f) * f->outputs;
    out->disk_final = tables + gradients + outputs + fit_bytes(k) + evaluation_bytes(k) + 2 * PART_BYTES;
    const double first = tables + gradient_journals(f) + gradients;
    const double second = tables + gradients + output_journals(f) + outputs;
    out->disk_peak = fmax(out->disk_final, fmax(first, second));
}

/* ------------------------------------------------------------------------------------------------- memory */

/* What the process has besides before there have been fits. */
static size_t process_before(const forecasting *k) {
    return k->r->measured ? k->j->process : k->r->process;
}

/* process: what it has besides when the stage begins. */
static coar_status tell_pass_memory(const forecasting *k, const job_pass *pass, size_t process,
                                    coar_plan_stage *stage) {
    memory_plan plan;
    if (!k->r->measured) { /* on a device that is not here: what the host holds for it */
        stage->memory = k->f->weight_bytes + (double)pass->own;
        return COAR_OK;
    }
    TRY(job_plan_memory(k->j, pass, &plan));
    const bool device = k->j->interface->devices != NULL;
    stage->memory = device ? k->f->weight_bytes + (double)(process + pass->own) : (double)(process + plan.job);
    stage->device_memory = device ? (double)plan.job : 0;
    return COAR_OK;
}

static coar_status tell_reverse_memory(const forecasting *k, coar_plan_stage *stage) {
    const forecast_job *f = k->f;
    const gradient_units units = {
        .grid = {.examples = f->examples, .components = f->components, .outputs = f->outputs, .passes = f->passes}};
    const unit_work work = gradient_units_work(k->j, &units);
    return tell_pass_memory(k, &work.pass, process_before(k), stage);
}

/* The fit that takes most. */
static coar_status tell_fit_memory(const forecasting *k, coar_plan_stage *stage) {
    for (size_t i = 0; i < k->f->fit_count; i++) {
        size_t block;
        fit_gradients gradients;
        const forecast_fit *fit = &k->f->fits[i];
        const fit_problem problem = forecast_problem(k->f, fit, &gradients);
        const fit_settings settings = {.estimator = fit->estimator,
                                       .standard_errors = k->f->o->standard_errors,
                                       .pool = k->j->pool,
                                       .memory = forecast_fit_memory(k->f)};
        TRY(fit_plan_block(&problem, &settings, &block));
        stage->memory = fmax(stage->memory, fit_plan_bytes(&problem, &settings, block) + (double)process_before(k));
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- stages */

/* Reading, hashing, and the unablated outputs where the stage is the run's first. */
static double start_of(const forecasting *k, bool first) {
    return k->r->open + k->r->prepare + (first ? (double)k->f->examples * k->r->image : 0);
}

static coar_status tell_gradients(const forecasting *k, coar_plan_stage *s) {
    const forecast_job *f = k->f;
    if (!f->passes) return COAR_OK;
    s->units = (uint64_t)(f->outputs * blocks(f));
    s->images = (uint64_t)f->passes * f->examples * f->outputs;
    s->start = start_of(k, true);
    s->work = (double)s->images * k->r->reverse;
    s->finish = gradient_bytes(f) * k->r->written;
    return tell_reverse_memory(k, s);
}

static coar_status tell_ablate(const forecasting *k, coar_plan_stage *s) {
    const forecast_job *f = k->f;
    const job_pass pass = job_forward_pass(k->j);
    s->units = units_of(f, f->masks);
    s->images = f->masks * f->examples;
    s->start = start_of(k, !f->passes);
    /* a record is synced while the next unit is computed */
    s->work = fmax((double)s->images * k->r->image, (double)s->units * k->r->append);
    s->finish = 4 * output_values(f) * k->r->written;
    return tell_pass_memory(k, &pass, process_before(k), s);
}

static coar_status tell_fit(const forecasting *k, coar_plan_stage *s) {
    for (size_t i = 0; i < k->f->fit_count; i++) {
        fit_gradients gradients;
        const forecast_fit *fit = &k->f->fits[i];
        const fit_problem problem = forecast_problem(k->f, fit, &gradients);
        const fit_settings settings = {.estimator = fit->estimator, .standard_errors = k->f->o->standard_errors};
        const double values = 4 * (double)fit->masks * (double)k->f->examples;
        s->work += fit_work(&problem, &settings) * k->r->operation[fit->estimator];
        /* what is missing is looked for in one sweep, blocks are solved in another; so are gradients */
        s->start += 2 * k->r->read * (values + (problem.gradients ? gradient_bytes(k->f) / k->f->outputs : 0));
    }
    s->finish = fit_bytes(k) * k->r->written;
    return tell_fit_memory(k, s);
}

static coar_status tell_evaluate(const forecasting *k, coar_plan_stage *s) {
    const forecast_job *f = k->f;
    const job_pass pass = job_forward_pass(k->j);
    s->units = f->fresh_alphas * units_of(f, f->fresh_masks);
    s->images = (uint64_t)fresh_values(f);
    s->start = f->fresh_alphas * start_of(k, false);
    s->work = fresh_values(f) * k->r->image;
    s->finish = evaluation_bytes(k) * k->r->written + fit_bytes(k) * k->r->read +
                fits_kept(f) * fresh_values(f) * DRAWS * DRAW_OPERATIONS / PRODUCT_RATE;
    return tell_pass_memory(k, &pass, k->r->process, s);
}

static void tell_report(const forecasting *k, coar_plan_stage *s) {
    s->work = REPORT_SECONDS + (fit_bytes(k) + evaluation_bytes(k)) * k->r->read;
    s->memory = (double)k->r->process;
}

static bool is_spread(int stage) {
    return stage == GRADIENTS || stage == ABLATE || stage == EVALUATE;
}

/* --------------------------------------------------------------------------------------------------- rows */

static double spread(const coar_plan_stage *s, double devices) {
    return s->units ? s->work * ceil((double)s->units / devices) / (double)s->units : s->work;
}

/* Partial Gram matrices, where there are any, and cross products of a fit whose masks are spread. */
static double reductions(const forecast_job *f, double devices) {
    double bytes = 0;
    for (size_t i = 0; i < f->fit_count; i++) {
        const double n = f->components, m = (double)f->fits[i].masks, p = fmin(m, n);
        fit_gradients gradients;
        const fit_problem problem = forecast_problem(f, &f->fits[i], &gradients);
        const fit_settings settings = {.estimator = f->fits[i].estimator};
        const double gram = fit_is_iterative(&problem, &settings) ? 0 : p * p;
        if (f->fits[i].kept) bytes += 8 * (gram + n * (double)f->examples);
    }
    return bytes * (devices - 1);
}

static uint64_t hand_out_batch(const coar_plan_stage *s, double devices) {
    if (!s->units || s->work <= 0) return 1;
    const double unit = s->work / (double)s->units, worth = ceil(HAND_OUT_SECONDS / (HAND_OUT_SHARE * unit));
    return (uint64_t)fmax(fmin(worth, floor((double)s->units / devices / ROUNDS_LEAST)), 1);
}

static void tell_row(const forecasting *k, coar_plan_row *row) {
    const coar_plan_stage *stages = k->out->stages;
    double work = 0, spent = 0;
    row->total = 0;
    for (int s = 0; s < COAR_PLAN_STAGES; s++) {
        const double span = is_spread(s) ? spread(&stages[s], row->devices) : stages[s].work;
        row->seconds[s] = stages[s].start + span + stages[s].finish;
        row->total += row->seconds[s];
        work += is_spread(s) ? stages[s].work : 0;
        spent += is_spread(s) ? span : 0;
    }
    row->efficiency = spent > 0 ? work / (row->devices * spent) : 1;
    row->batch = hand_out_batch(&stages[ABLATE], row->devices);
    row->broadcast = (k->f->weight_bytes + (double)k->f->examples * k->f->example_bytes) * (row->devices - 1.);
    row->reductions = reductions(k->f, row->devices);
}

coar_status forecast_result(const forecast_job *f, const forecast_rates *rates, const job *j, coar_plan_row *rows,
                            coar_plan_result *out) {
    static const char *const names[COAR_PLAN_STAGES] = {"gradients", "ablate", "fit", "evaluate", "report"};
    const forecasting k = {f, rates, j, out};
    for (int s = 0; s < COAR_PLAN_STAGES; s++) out->stages[s] = (coar_plan_stage){.name = names[s]};
    TRY(tell_gradients(&k, &out->stages[GRADIENTS]));
    TRY(tell_ablate(&k, &out->stages[ABLATE]));
    TRY(tell_fit(&k, &out->stages[FIT]));
    TRY(tell_evaluate(&k, &out->stages[EVALUATE]));
    tell_report(&k, &out->stages[REPORT]);
    tell_disk(&k);
    for (size_t r = 0; r < out->row_count; r++) tell_row(&k, &rows[r]);
    return COAR_OK;
}
