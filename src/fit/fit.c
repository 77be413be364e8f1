/*
 * fit.c - coar_fit: from a source (source.h) to fit-NAME.h5 of the run or a file of its own. Everything numerical is
 * behind fit_solve.
 */
#include "fit/fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/device_team.h"
#include "core/memory.h"
#include "core/options.h"
#include "core/statistics.h"
#include "fit/source.h"

/* ----------------------------------------------------------------------------------------------- options */

static coar_status check_options(const coar_fit_options *o) {
    if (o->run && (o->masks || o->outputs))
        return status_set(COAR_ERROR_USAGE, "name a run file, or --masks and --outputs, not both");
    if (!o->run && (!o->masks || !o->outputs))
        return status_set(COAR_ERROR_USAGE, "name a run file, or both --masks and --outputs");
    if (o->run && o->output_file)
        return status_set(COAR_ERROR_USAGE, "-o goes with --masks and --outputs: a fit of a run is kept with the run");
    if (!o->run && !o->output_file) return status_set(COAR_ERROR_USAGE, "-o FILE is needed with --masks and --outputs");
    if (!o->run && o->output)
        return status_set(COAR_ERROR_USAGE, "--output chooses an output of a run: it cannot go with --outputs");
    fit_form form;
    TRY(fit_form_parse(o->solver, &form));
    return o->name ? fit_name_check(o->name) : COAR_OK;
}

/* A loo run has its solution without solving (ols); gradients beat least squares by far wherever a run has them. */
static coar_status choose_estimator(const fit_source *s, const char *text, fit_estimator *out) {
    const fit_problem *p = &s->problem;
    if (text)
        TRY(fit_estimator_parse(text, out));
    else if (p->leave_one_out)
        *out = FIT_OLS;
    else if (p->gradients)
        *out = p->m ? FIT_GRAD_EB : FIT_GRAD;
    else
        *out = FIT_RIDGE;
    if (fit_estimator_takes_gradients(*out) && !p->gradients)
        return status_set(COAR_ERROR_INPUT, "--estimator %s: %s has no gradients of '%s': run `coar gradients` first",
                          text, s->store ? store_path(s->store) : "a pair of arrays", s->output);
    if (!p->m && *out != FIT_GRAD)
        return status_set(COAR_ERROR_INPUT, "--estimator %s: %s has no finished ablations: run `coar ablate` first",
                          fit_estimator_name(*out), store_path(s->store));
    return COAR_OK;
}

/* --name, else the estimator, else ESTIMATOR-OUTPUT for an output that is not the run's first. */
static void choose_name(const fit_source *s, const coar_fit_options *o, const char *estimator, char name[64]) {
    bool first = !s->store || !strcmp(s->output, s->tables.output_names[0]);
    if (o->name || first)
        snprintf(name, 64, "%s", o->name ? o->name : estimator);
    else
        snprintf(name, 64, "%s-%s", estimator, s->output);
}

/* ---------------------------------------------------------------------------------------------- coar_fit */

static coar_status write_block(void *context, const fit_result_block *b) {
    const fit_block block = {
        .first = b->first,
        .count = b->count,
        .weight = b->weight,
        .bias = b->bias,
        .penalty = b->penalty,
        .r2 = b->r2,
        .heldout = b->heldout,
        .standard_error = b->standard_error,
    };
    return fit_writer_block(context, &block);
}

/* Passes of gradients that an estimator uses. */
static uint32_t passes_used(const fit_source *s, fit_estimator estimator) {
    return fit_estimator_takes_gradients(estimator) ? s->gradients.passes : 0;
}

/* The writer comes before the solving: a name that is taken is found out at once. `replace`: it may be. */
static coar_status solve_into(fit_source *s, const coar_fit_options *o, const char *name, bool replace,
                              fit_estimator estimator, thread_pool *pool, const shared_device *shared,
                              fit_summary *summary) {
    const fit_header header = {
        .name = name,
        .estimator = fit_estimator_name(estimator),
        .output = s->output,
        .examples = s->problem.N,
        .components = s->problem.n,
        .masks = s->problem.m,
        .passes = passes_used(s, estimator),
        .standard_errors = o->standard_errors,
        .command = o->command,
    };
    fit_form form;
    TRY(fit_form_parse(o->solver, &form));
    const fit_settings settings = {
        .estimator = estimator,
        .form = form,
        .standard_errors = o->standard_errors,
        .pool = pool,
        .memory = shared->device ? 0 : (size_t)o->memory,
        .callbacks = o->callbacks,
        .device = shared->device,
        .shared = shared,
    };
    fit_writer *writer = NULL;
    coar_status status;
    TRY_GOTO(fit_writer_create(s->store, o->output_file, &header, replace, &writer));
    TRY_GOTO(fit_solve(&s->problem, &settings, write_block, writer, summary));
    const fit_iterative iterative = {summary->residual_largest, summary->residual_median, summary->steps_most,
                                     summary->unsolved};
    TRY_GOTO(fit_writer_predicted(writer, summary->predicted, summary->predicted_low, summary->predicted_high));
    if (summary->iterative) TRY_GOTO(fit_writer_iterative(writer, &iterative));
    TRY_GOTO(fit_writer_finish(writer));
done:
    fit_writer_destroy(writer);
    return status;
}

/* A fit with at least what is asked for, from what the run has now. */
static bool is_current(const fit_source *s, const fit_info *fit, bool standard_errors, fit_estimator estimator) {
    return fit->masks == s->problem.m && fit->passes == passes_used(s, estimator) &&
           fit->standard_errors >= standard_errors;
}

static coar_status read_summary(const fit_source *s, const fit_info *fit, fit_summary *summary) {
    coar_status status = COAR_OK;
    double *values = NULL;
    const size_t N = (size_t)s->problem.N;
    TRY_GOTO(memory_new(2 * N, sizeof *values, "fit", &values));
    TRY_GOTO(store_read_fit(s->store, fit->name, 0, N, NULL, NULL, NULL, values, values + N));
    summary->r2_mean = mean_of_defined(values, N, NULL);
    summary->heldout_mean = mean_of_defined(values + N, N, NULL);
    summary->predicted = fit->predicted;
    summary->predicted_low = fit->predicted_low;
    summary->predicted_high = fit->predicted_high;
    summary->iterative = fit->iterative;
    summary->residual_largest = fit->solved.residual_largest;
    summary->residual_median = fit->solved.residual_median;
    summary->steps_most = fit->solved.steps_most;
    summary->unsolved = fit->solved.unsolved;
done:
    free(values);
    return status;
}

/* With `keep`: whether the run holds this very fit already, then its summary. One of the name that is of something
 * else is somebody's own, and not replaced. */
static coar_status find_current(const fit_source *s, const coar_fit_options *o, const char *name,
                                fit_estimator estimator, bool *current, fit_summary *summary) {
    coar_status status = COAR_OK;
    fit_info *fits = NULL;
    const fit_info *fit = NULL;
    size_t count = 0;
    TRY_GOTO(store_list_fits(s->store, &fits, &count));
    for (size_t i = 0; i < count; i++)
        if (!strcmp(fits[i].name, name)) fit = &fits[i];
    if (!fit) goto done;
    const bool same = !strcmp(fit->estimator, fit_estimator_name(estimator)) && !strcmp(fit->output, s->output);
    if (!same && !o->force)
        TRY_GOTO(status_set(COAR_ERROR_EXISTS,
                            "%s: its fit '%s' is of estimator %s and output %s, made by somebody's choice: "
                            "`coar fit --estimator %s --output %s --force` replaces it",
                            store_path(s->store), name, fit->estimator, fit->output, fit_estimator_name(estimator),
                            s->output));
    *current = same && is_current(s, fit, o->standard_errors, estimator);
    if (*current) TRY_GOTO(read_summary(s, fit, summary));
done:
    free(fits);
    return status;
}

/* Before the passes of a run that is to be extended are made: a name that they would come to in vain. What is chosen by what
 * the run will have may be any of the defaults. */
static coar_status check_taken(fit_source *s, const coar_fit_options *o, fit_estimator named) {
    const fit_estimator defaults[] = {FIT_GRAD_EB, FIT_GRAD, FIT_RIDGE, FIT_OLS};
    const size_t possible = o->estimator ? 1 : sizeof defaults / sizeof *defaults;
    coar_status status = COAR_OK;
    fit_summary summary;
    bool complete, current;
    if (!o->run || o->force || !file_exists(o->run)) return COAR_OK;
    TRY(store_open(o->run, &s->store));
    TRY(store_read_tables(s->store, &s->tables, &complete));
    if (!complete) return COAR_OK;
    s->output = o->output ? o->output : s->tables.output_names[0];
    for (size_t k = 0; k < possible; k++) {
        const fit_estimator estimator = o->estimator ? named : defaults[k];
        char name[64];
        status_clear();
        choose_name(s, o, fit_estimator_name(estimator), name);
        status = find_current(s, o, name, estimator, &current, &summary);
        if (status == COAR_OK) break;
    }
    return status;
}

/* The backend's device; NULL where fits are the CPU's. A backend that nobody asked for by name gives way to the CPU
 * when its device is there but a library that fits need is not. */
static coar_status open_device(const backend_interface *backend, const coar_fit_options *o, int *number,
                               fit_device **out) {
    *out = NULL;
    coar_status status = device_team_choose(backend, o->devices, number);
    if (!backend->fit_device) return status;
    if (status == COAR_OK) status = backend->fit_device(*number, (size_t)o->memory, out);
    if (status != COAR_ERROR_UNSUPPORTED || o->backend) return status;
    log_warning(o->callbacks, "fit: on the CPU, because of %s", coar_last_error());
    status_clear();
    return COAR_OK;
}

static coar_status open_source(fit_source *s, const coar_fit_options *o, thread_pool *pool) {
    if (o->run) return fit_source_open_run(s, o->run, o->output, pool);
    TRY(file_check_output(o->output_file, o->force));
    TRY(file_check_distinct(o->output_file, o->masks));
    TRY(file_check_distinct(o->output_file, o->outputs));
    return fit_source_open_arrays(s, o->masks, o->outputs);
}

static void hand_over(const fit_source *s, const fit_summary *summary, coar_fit_result *r) {
    r->examples = s->problem.N;
    r->components = s->problem.n;
    r->masks = s->problem.m;
    r->examples_left_out = summary->examples_left_out;
    r->masks_left_out = summary->masks_left_out;
    r->r2_mean = summary->r2_mean;
    r->heldout_mean = summary->heldout_mean;
    r->predicted = summary->predicted;
    r->predicted_low = summary->predicted_low;
    r->predicted_high = summary->predicted_high;
    r->iterative = summary->iterative;
    r->residual_largest = summary->residual_largest;
    r->residual_median = summary->residual_median;
    r->unsolved = summary->unsolved;
    r->steps_most = summary->steps_most;
}

coar_status coar_fit(const coar_fit_options *options, coar_fit_result *result) {
    status_clear();
    coar_fit_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_FIT_INIT"));
    const coar_fit_options *o = &taken;
    double start = clock_seconds();
    fit_source source = {.output = NULL};
    thread_pool *pool = NULL;
    const backend_interface *backend;
    fit_device *device = NULL;
    int number = 0;
    shared_device shared = {.device = NULL};
    fit_estimator estimator;
    fit_summary summary = {.examples_left_out = 0};
    coar_fit_result r = {.name = ""};
    bool current = false;
    coar_status status;
    TRY_GOTO(check_options(o));
    TRY_GOTO(fit_estimator_parse(o->estimator, &estimator)); /* a wrong one is said before files are opened */
    /* without a warning of a device that cannot be used: who made the run was told */
    TRY_GOTO(backend_find(o->backend, NULL, &backend));
    if (o->check_only) {
        TRY_GOTO(open_device(backend, o, &number, &device));
        TRY_GOTO(check_taken(&source, o, estimator));
        goto done;
    }
    TRY_GOTO(thread_pool_create(o->threads, &pool));
    TRY_GOTO(open_source(&source, o, pool));
    TRY_GOTO(choose_estimator(&source, o->estimator, &estimator));
    choose_name(&source, o, fit_estimator_name(estimator), r.name);
    if (o->keep && source.store) TRY_GOTO(find_current(&source, o, r.name, estimator, &current, &summary));
    if (!current) {
        if (source.problem.m) TRY_GOTO(open_device(backend, o, &number, &device)); /* gradients alone need no algebra */
        TRY_GOTO(shared_device_open(backend, number, device, o->memory, o->callbacks, &shared));
        TRY_GOTO(solve_into(&source, o, r.name, o->force || o->keep, estimator, pool, &shared, &summary));
        TRY_GOTO(shared_device_close(&shared));
    }
    hand_over(&source, &summary, &r);
    r.passes = passes_used(&source, estimator);
    r.seconds = clock_seconds() - start;
    r.already_complete = current;
    if (result) *result = r;
done:
    shared_device_close(&shared); /* after a failure, which stays the one that is told */
    if (device) device->interface->destroy(device);
    fit_source_close(&source);
    thread_pool_destroy(pool);
    return status;
}
