/*
 * fit.c - coar_fit: masks and outputs from a run file or from two .npy files, the solved model into fit-NAME.h5 of the
 * run or a file of its own. Everything numerical is behind fit_solve.
 */
#include "fit/fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/run_masks.h"
#include "backend/backend.h"
#include "core/memory.h"
#include "core/npy.h"
#include "core/options.h"
#include "core/statistics.h"

/* Where masks and outputs come from, and what the fit is called. */
typedef struct fit_source {
    const char *output; /* recorded as the fit's output */
    char name[64];
    uint8_t *masks; /* [m][ceil(n/8)] packed */
    fit_problem problem;
    run_store *store; /* of a run */
    run_tables tables;
    npy_array masks_npy; /* or of two arrays */
    npy_array outputs_npy;
} fit_source;

static void source_close(fit_source *s) {
    npy_close(&s->outputs_npy);
    npy_close(&s->masks_npy);
    run_tables_free(&s->tables);
    store_close(s->store);
    free(s->masks);
}

/* ------------------------------------------------------------------------------------------- from a run */

static coar_status read_run(void *context, uint64_t first, uint64_t count, float *y) {
    const fit_source *s = context;
    return store_read_outputs(s->store, s->output, 0, s->problem.m, first, count, y);
}

static coar_status check_mask_count(const fit_source *s, const sampler *sampler, uint64_t m) {
    uint64_t most = UINT64_MAX;
    if (sampler->kind == SAMPLER_LOO) most = (uint64_t)sampler->n + 1;
    if (sampler->kind == SAMPLER_FILE) most = sampler->rows_count;
    if (m <= most) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: outputs of %llu masks, but its sampler '%s' has only %llu",
                      store_path(s->store), (unsigned long long)m, sampler_name(sampler->kind),
                      (unsigned long long)most);
}

static coar_status run_masks(fit_source *s, uint64_t m, thread_pool *pool) {
    uint32_t *group_first = NULL;
    sampler sampler;
    coar_status status;
    TRY_GOTO(run_masks_training(s->store, &s->tables, &group_first, &sampler));
    TRY_GOTO(check_mask_count(s, &sampler, m));
    TRY_GOTO(run_masks_pack(&sampler, 0, m, pool, "the run's masks", &s->masks));
    s->problem.leave_one_out = sampler.kind == SAMPLER_LOO;
done:
    free(group_first);
    return status;
}

/* The named output, or the first. */
static coar_status choose_output(fit_source *s, const char *wanted) {
    const run_tables *t = &s->tables;
    if (t->output_count == 0) return status_set(COAR_ERROR_INPUT, "%s: outputs: there are none", store_path(s->store));
    s->output = t->output_names[0];
    for (size_t k = 0; wanted && k < t->output_count; k++)
        if (!strcmp(t->output_names[k], wanted)) s->output = t->output_names[k];
    if (wanted && strcmp(s->output, wanted))
        return status_set(COAR_ERROR_USAGE, "--output '%s': %s does not hold it, see 'coar info'", wanted,
                          store_path(s->store));
    return COAR_OK;
}

static coar_status open_run(fit_source *s, const coar_fit_options *o, thread_pool *pool) {
    uint64_t m, N;
    TRY(store_open(o->run, &s->store));
    TRY(store_read_tables(s->store, &s->tables, NULL));
    TRY(choose_output(s, o->output));
    TRY(store_output_shape(s->store, &m, &N));
    if (N != s->tables.examples)
        return status_set(COAR_ERROR_INPUT, "%s: ablations: outputs of %llu examples, but the run has %llu", o->run,
                          (unsigned long long)N, (unsigned long long)s->tables.examples);
    TRY(run_masks(s, m, pool));
    s->problem.n = s->tables.components;
    s->problem.m = m;
    s->problem.N = N;
    s->problem.read = read_run;
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------- from two arrays */

static coar_status read_npy(void *context, uint64_t first, uint64_t count, float *y) {
    const fit_source *s = context;
    for (uint64_t i = 0; i < s->problem.m; i++)
        for (uint64_t z = 0; z < count;
             z++) /* a double beyond float's range becomes infinite, and is left out as such */
            y[i * count + z] = (float)npy_get_double(&s->outputs_npy, i * s->problem.N + first + z);
    return COAR_OK;
}

static coar_status check_matrix(const char *flag, const char *path, const npy_array *a) {
    if (a->rank != 2)
        return status_set(COAR_ERROR_INPUT,
                          "%s %s: shape: %d dimensions, but a matrix with a row for each mask is needed", flag, path,
                          a->rank);
    if (a->shape[0] == 0 || a->shape[1] == 0)
        return status_set(COAR_ERROR_INPUT, "%s %s: shape: the matrix is empty (%zu x %zu)", flag, path, a->shape[0],
                          a->shape[1]);
    return COAR_OK;
}

static coar_status check_arrays(const fit_source *s, const coar_fit_options *o) {
    const npy_array *masks = &s->masks_npy, *y = &s->outputs_npy;
    TRY(check_matrix("--masks", o->masks, masks));
    TRY(check_matrix("--outputs", o->outputs, y));
    if (masks->type != NPY_BOOL && masks->type != NPY_U8)
        return status_set(COAR_ERROR_INPUT, "--masks %s: dtype: must be bool (or uint8 of 0 and 1), True = kept",
                          o->masks);
    if (y->type != NPY_F32 && y->type != NPY_F64)
        return status_set(COAR_ERROR_INPUT, "--outputs %s: dtype: must be float32 or float64", o->outputs);
    if (masks->shape[0] != y->shape[0])
        return status_set(COAR_ERROR_INPUT,
                          "--masks %s has %zu rows and --outputs %s has %zu: one for each mask is needed", o->masks,
                          masks->shape[0], o->outputs, y->shape[0]);
    if (masks->shape[1] > UINT32_MAX)
        return status_set(COAR_ERROR_INPUT, "--masks %s: shape: %zu components are too many", o->masks,
                          masks->shape[1]);
    return COAR_OK;
}

static coar_status pack_masks(fit_source *s, const char *path) {
    const uint8_t *values = s->masks_npy.data;
    size_t m = s->masks_npy.shape[0], n = s->masks_npy.shape[1], row = mask_bytes((uint32_t)n);
    TRY(memory_new(m, row, "the masks", &s->masks));
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            uint8_t value = values[i * n + j];
            if (value > 1)
                return status_set(COAR_ERROR_INPUT, "--masks %s: [%zu, %zu] is %d: must be 0 or 1", path, i, j, value);
            s->masks[i * row + j / 8] |= (uint8_t)(value << (j % 8));
        }
    return COAR_OK;
}

static coar_status open_arrays(fit_source *s, const coar_fit_options *o) {
    TRY(file_check_output(o->output_file, o->force));
    TRY(file_check_distinct(o->output_file, o->masks));
    TRY(file_check_distinct(o->output_file, o->outputs));
    TRY(npy_open(o->masks, &s->masks_npy));
    TRY(npy_open(o->outputs, &s->outputs_npy));
    TRY(check_arrays(s, o));
    TRY(pack_masks(s, o->masks));
    s->output = "outputs";
    s->problem.m = s->masks_npy.shape[0];
    s->problem.n = (uint32_t)s->masks_npy.shape[1];
    s->problem.N = s->outputs_npy.shape[1];
    s->problem.read = read_npy;
    return COAR_OK;
}

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
    return o->name ? fit_name_check(o->name) : COAR_OK;
}

/* --name, else the estimator, else ESTIMATOR-OUTPUT for an output that is not the run's first. */
static void choose_name(fit_source *s, const coar_fit_options *o, const char *estimator) {
    bool first = !s->store || !strcmp(s->output, s->tables.output_names[0]);
    if (o->name || first)
        snprintf(s->name, sizeof s->name, "%s", o->name ? o->name : estimator);
    else
        snprintf(s->name, sizeof s->name, "%s-%s", estimator, s->output);
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

/* The writer comes before the solving: a name that is taken is found out at once. */
static coar_status solve_into(fit_source *s, const coar_fit_options *o, fit_estimator estimator, thread_pool *pool,
                              fit_device *device, fit_summary *summary) {
    const fit_header header = {
        .name = s->name,
        .estimator = fit_estimator_name(estimator),
        .output = s->output,
        .examples = s->problem.N,
        .components = s->problem.n,
        .masks = s->problem.m,
        .standard_errors = o->standard_errors,
        .command = o->command,
    };
    const fit_settings settings = {
        .estimator = estimator,
        .standard_errors = o->standard_errors,
        .pool = pool,
        .memory = device ? 0 : (size_t)o->memory,
        .callbacks = o->callbacks,
        .device = device,
    };
    fit_writer *writer = NULL;
    coar_status status;
    TRY_GOTO(fit_writer_create(s->store, o->output_file, &header, o->force || o->keep, &writer));
    TRY_GOTO(fit_solve(&s->problem, &settings, write_block, writer, summary));
    TRY_GOTO(fit_writer_finish(writer));
done:
    fit_writer_destroy(writer);
    return status;
}

/* A leave-one-out run has its solution without solving (ols); it is that run's default. */
static coar_status choose_estimator(const fit_source *s, const char *text, fit_estimator *out) {
    return fit_estimator_parse(!text && s->problem.leave_one_out ? "ols" : text, out);
}

/* Whether the run holds this very fit already; then its summary. */
static coar_status find_current(const fit_source *s, const char *estimator, bool *current, fit_summary *summary) {
    coar_status status = COAR_OK;
    fit_info *fits = NULL;
    size_t count = 0;
    double *values = NULL;
    const size_t N = (size_t)s->problem.N;
    *current = false;
    TRY_GOTO(store_list_fits(s->store, &fits, &count));
    for (size_t i = 0; i < count; i++)
        *current |= !strcmp(fits[i].name, s->name) && !strcmp(fits[i].estimator, estimator) &&
                    !strcmp(fits[i].output, s->output) && fits[i].masks == s->problem.m;
    if (!*current) goto done;
    TRY_GOTO(memory_new(2 * N, sizeof *values, "fit", &values));
    TRY_GOTO(store_read_fit(s->store, s->name, 0, N, NULL, NULL, NULL, values, values + N));
    summary->r2_mean = mean_of_defined(values, N, NULL);
    summary->heldout_mean = mean_of_defined(values + N, N, NULL);
done:
    free(values);
    free(fits);
    return status;
}

/* The first of "0,2"; NULL and "all" begin with 0. */
static coar_status first_device(const char *text, int *device) {
    char *end;
    *device = 0;
    if (!text || !strcmp(text, "all")) return COAR_OK;
    const long number = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
    if (number < 0 || number > INT32_MAX || (*end && *end != ','))
        return status_set(COAR_ERROR_USAGE, "--devices '%s': give numbers, as in 0,1, or all", text);
    *device = (int)number;
    return COAR_OK;
}

/* The backend's device; NULL where fits are the CPU's. A backend that nobody asked for by name gives way to the CPU
 * when its device is there but a library that fits need is not. */
static coar_status open_device(const backend_interface *backend, const coar_fit_options *o, fit_device **out) {
    int device;
    *out = NULL;
    TRY(first_device(o->devices, &device));
    if (!backend->fit_device) return COAR_OK;
    coar_status status = backend->fit_device(device, (size_t)o->memory, out);
    if (status != COAR_ERROR_UNSUPPORTED || o->backend) return status;
    log_warning(o->callbacks, "fit: on the CPU, because of %s", coar_last_error());
    status_clear();
    return COAR_OK;
}

coar_status coar_fit(const coar_fit_options *options, coar_fit_result *result) {
    status_clear();
    coar_fit_options taken;
    TRY(options_take(&taken, sizeof taken, options, "COAR_FIT_INIT"));
    const coar_fit_options *o = &taken;
    double start = clock_seconds();
    fit_source source = {0};
    thread_pool *pool = NULL;
    const backend_interface *backend;
    fit_device *device = NULL;
    fit_estimator estimator;
    fit_summary summary = {0};
    bool current = false;
    coar_status status;
    TRY_GOTO(check_options(o));
    TRY_GOTO(fit_estimator_parse(o->estimator, &estimator)); /* a wrong one is said before files are opened */
    TRY_GOTO(backend_find(o->backend, &backend));
    if (o->check_only) {
        TRY_GOTO(open_device(backend, o, &device));
        goto done;
    }
    TRY_GOTO(thread_pool_create(o->threads, &pool));
    TRY_GOTO(o->run ? open_run(&source, o, pool) : open_arrays(&source, o));
    TRY_GOTO(choose_estimator(&source, o->estimator, &estimator));
    choose_name(&source, o, fit_estimator_name(estimator));
    source.problem.masks = source.masks;
    source.problem.context = &source;
    if (o->keep && source.store) TRY_GOTO(find_current(&source, fit_estimator_name(estimator), &current, &summary));
    if (!current) {
        TRY_GOTO(open_device(backend, o, &device));
        TRY_GOTO(solve_into(&source, o, estimator, pool, device, &summary));
    }
    coar_fit_result r = {
        .examples = source.problem.N,
        .components = source.problem.n,
        .masks = source.problem.m,
        .examples_left_out = summary.examples_left_out,
        .masks_left_out = summary.masks_left_out,
        .r2_mean = summary.r2_mean,
        .heldout_mean = summary.heldout_mean,
        .seconds = clock_seconds() - start,
        .already_complete = current,
    };
    memcpy(r.name, source.name, sizeof source.name);
    if (result) *result = r;
done:
    if (device) device->interface->destroy(device);
    source_close(&source);
    thread_pool_destroy(pool);
    return status;
}
