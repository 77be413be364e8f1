/*
 * rates.c - what one device does in a second: the job's own kernels on some of its own units, its files' bytes. See
 * forecast.h.
 *
 * A block of examples is bound as a worker binds it, and masks of the job's sampler run over it; reverse passes are groups
 * of a unit of gradients, sums included. What is timed is the median of a few repetitions.
 * Must not know: stages, numbers of devices.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/gradient_units.h"
#include "ablate/mask_units.h"
#include "ablate/memory_plan.h"
#include "core/files.h"
#include "core/memory.h"
#include "core/philox.h"
#include "core/statistics.h"
#include "forecast/forecast.h"

enum { REPETITIONS = 5, TILE = 32 }; /* lanes of a tile: what one thread takes at a time */

#define DEFAULT_SECONDS 5.0

/* Of a device that is not here, where nobody says: a node's worth of cores. */
#define DEFAULT_FIT_RATE 1e11

/* What stays of bytes that are not there to be compressed: as in the runs of docs/scaling.md. */
#define TYPICAL_OUTPUTS 0.9
#define TYPICAL_GRADIENTS 0.95
#define TYPICAL_WEIGHTS 0.93

/* Seconds a byte takes into and out of compressed parts, of a device that is not here: 50 and 200 MB/s, one core. */
#define TYPICAL_WRITTEN 2e-8
#define TYPICAL_READ 5e-9

/* The program and its libraries elsewhere. */
#define TYPICAL_PROCESS ((size_t)64 << 20)

typedef struct measuring {
    const forecast_job *f;
    job *j;
    double seconds; /* for each kind of work */
    char *beside;   /* probes of the disk are temporary files beside it */
    forecast_rates *rates;
} measuring;

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, double_ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static coar_status stopped(const measuring *m, const char *what) {
    progress p;
    progress_begin(&p, m->f->o->callbacks, "plan", "rates", 0, 1);
    if (!progress_update(&p, 0)) return COAR_OK;
    return status_set(COAR_STOPPED, "coar plan: stopped while %s were timed", what);
}

/* ------------------------------------------------------------------------------------------ masked images */

typedef struct forward {
    const measuring *m;
    backend *backend;
    sampler sampler;
    uint64_t masks; /* run so far */
    uint8_t *images;
    float *results; /* [outputs][masks of a unit][examples] */
} forward;

static coar_status run_masks(forward *w, size_t count, double *seconds) {
    const mask_range range = {.count = count, .n = w->sampler.n, .sampler = &w->sampler, .first = w->masks};
    const double start = clock_seconds();
    TRY(w->backend->interface->run(w->backend, &range, w->results));
    *seconds = clock_seconds() - start;
    w->masks += count;
    return stopped(w->m, "masked images");
}

/* Seconds of one mask over examples first .. first + count - 1, a block of the job's. *rows: masks of the last call. */
static coar_status time_block(forward *w, uint64_t first, uint32_t count, double allowed, double *seconds,
                              uint32_t *rows) {
    const job *j = w->m->j;
    const uint32_t tiles = TILE * (uint32_t)thread_pool_size(j->pool), filling = (tiles - 1) / count + 1;
    const uint32_t most = w->m->f->unit_masks, least = filling < most ? filling : most;
    double times[REPETITIONS], spent = 0;
    size_t made = 0;
    TRY(job_read(j, first, count, w->images));
    TRY(job_bind(j, w->backend, first, count, w->images));
    TRY(run_masks(w, least, seconds)); /* touches the memory */
    if (*seconds < allowed / REPETITIONS) TRY(run_masks(w, least, seconds));
    const double fitting = allowed / REPETITIONS / *seconds * least;
    *rows = fitting >= most ? most : fitting > least ? (uint32_t)fitting : least;
    while (made < REPETITIONS && (!made || spent < allowed)) {
        TRY(run_masks(w, *rows, &times[made]));
        spent += times[made];
        times[made++] /= *rows;
    }
    *seconds = median(times, made);
    return COAR_OK;
}

static coar_status probe_outputs(const measuring *m, const float *results, uint32_t rows, uint32_t columns) {
    forecast_rates *r = m->rates;
    store_probe probe;
    const double bytes = (double)rows * columns * sizeof(float);
    TRY(store_probe_array(m->beside, false, rows, columns, results, &probe));
    r->outputs_share = probe.stored / bytes;
    return store_probe_journal(m->beside, results, (size_t)bytes, &r->append);
}

static coar_status time_forward(const measuring *m) {
    const forecast_job *f = m->f;
    const job *j = m->j;
    const job_pass pass = job_forward_pass(j);
    const uint32_t rest = (uint32_t)(f->examples % f->unit_examples);
    const double blocks = (double)(f->examples / f->unit_examples);
    forward w = {.m = m, .sampler = forecast_sampler(f)};
    double whole, last = 0;
    uint32_t rows, last_rows;
    coar_status status;
    const double start = clock_seconds();
    TRY_GOTO(memory_new(f->unit_examples, dataset_example_bytes(j->data), "images", &w.images));
    TRY_GOTO(memory_new((size_t)f->outputs * f->unit_masks, f->unit_examples * sizeof(float), "outputs", &w.results));
    TRY_GOTO(job_prepare(j, &pass, j->devices[0], j->pool, &w.backend));
    m->rates->prepare = clock_seconds() - start;
    TRY_GOTO(time_block(&w, 0, f->unit_examples, m->seconds, &whole, &rows));
    TRY_GOTO(probe_outputs(m, w.results, rows, f->unit_examples));
    if (rest) TRY_GOTO(time_block(&w, f->examples - rest, rest, m->seconds / 2, &last, &last_rows));
    m->rates->image = (blocks * whole + last) / (double)f->examples;
done:
    if (w.backend) w.backend->interface->destroy(w.backend);
    free(w.images);
    free(w.results);
    return status;
}

/* ------------------------------------------------------------------------------------------- reverse passes */

static coar_status time_groups(const measuring *m, unit_device *d, uint32_t examples, gradient_state state) {
    const uint32_t group = (uint32_t)d->work->pass.masks;
    double times[REPETITIONS], spent = 0, first;
    size_t made = 0;
    bool device_failed;
    TRY(unit_bind(d, 0, 0, examples, &device_failed));
    for (uint32_t pass = 0; made < REPETITIONS && (!made || spent < m->seconds); pass += group) {
        first = clock_seconds();
        TRY(gradient_units_group(d, 0, 0, pass, group, examples, state, &device_failed));
        TRY(stopped(m, "reverse passes"));
        if (pass == 0 && clock_seconds() - first < m->seconds) continue; /* touches the memory */
        times[made] = clock_seconds() - first;
        spent += times[made++];
    }
    m->rates->reverse = median(times, made) / group / examples;
    return COAR_OK;
}

/* Of the level that most derivatives are at; how many have any at the others is known (result.c). */
static coar_status probe_gradients(const measuring *m, const double *sums, uint32_t examples) {
    const uint64_t n = m->f->components;
    forecast_rates *r = m->rates;
    store_probe probe;
    const double bytes = (double)examples * (double)n * sizeof(double);
    TRY(store_probe_array(m->beside, true, examples, n, sums, &probe));
    r->gradients_share = probe.stored / bytes;
    return COAR_OK;
}

static coar_status time_reverse(const measuring *m) {
    const forecast_job *f = m->f;
    job *j = m->j;
    const gradient_units units = {
        .grid = {.examples = f->examples, .components = f->components, .outputs = f->outputs, .passes = f->passes},
        .masks = {.seed = f->o->ablate.seed, .alpha = f->alpha, .n = f->components}};
    const unit_work work = gradient_units_work(j, &units);
    const uint32_t examples = work.pass.examples;
    unit_device d = {.work = &work, .job = j, .pool = j->pool, .bound = UINT64_MAX};
    double *payload = NULL;
    coar_status status;
    if (!j->interface->run_reverse)
        return status_set(COAR_ERROR_UNSUPPORTED, "--backend %s: has no reverse passes; give another one",
                          j->interface->name);
    TRY_GOTO(memory_new(gradient_grid_payload(&units.grid, 0), 1, "work unit", &payload));
    TRY_GOTO(memory_new(examples, dataset_example_bytes(j->data), "images", &d.images));
    TRY_GOTO(work.kind->open(&d));
    TRY_GOTO(job_prepare(j, &work.pass, j->devices[0], j->pool, &d.backend));
    const gradient_state state = gradient_state_of(payload, examples, f->components);
    TRY_GOTO(time_groups(m, &d, examples, state));
    TRY_GOTO(probe_gradients(m, state.sums, examples));
done:
    if (d.backend) d.backend->interface->destroy(d.backend);
    work.kind->close(&d);
    free(d.images);
    free(payload);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- disk */

/* Of random mantissas, as most of what is stored has. Results of a calibration are too few bytes to be timed. */
static coar_status probe_disk(const measuring *m) {
    enum { ROWS = 512, COLUMNS = 1024 };
    store_probe probe;
    float *values;
    TRY(memory_new(ROWS * COLUMNS, sizeof *values, "a probe", &values));
    for (uint32_t i = 0; i < ROWS * COLUMNS / 4; i++) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_CALIBRATION, 0, i, words);
        for (size_t k = 0; k < 4; k++) values[4 * i + k] = (float)words[k] - 0x1p31f;
    }
    const coar_status status = store_probe_array(m->beside, false, ROWS, COLUMNS, values, &probe);
    m->rates->written = probe.write_seconds / (ROWS * COLUMNS * sizeof *values);
    m->rates->read = probe.read_seconds / (ROWS * COLUMNS * sizeof *values);
    free(values);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- fits */

static coar_status time_fits(const measuring *m) {
    const forecast_job *f = m->f;
    forecast_rates *r = m->rates;
    double *share = &r->weights_share;
    for (size_t i = f->fit_count; i-- > 0;) { /* of an estimator the largest, which a budget makes last */
        const forecast_fit *fit = &f->fits[i];
        if (r->operation[fit->estimator] > 0) continue;
        TRY(forecast_time_fit(f, fit, m->j->pool, m->seconds, m->beside, &r->operation[fit->estimator], share));
        share = NULL;
        TRY(stopped(m, "fits"));
    }
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------------- all */

static void take_given(const forecast_job *f, forecast_rates *r) {
    const coar_plan_options *o = f->o;
    r->process = TYPICAL_PROCESS;
    r->image = 1 / o->rate;
    r->reverse = o->reverse_rate > 0 ? 1 / o->reverse_rate : REVERSE_COST / o->rate;
    for (size_t e = 0; e < FORECAST_ESTIMATORS; e++)
        r->operation[e] = 1 / (o->fit_rate > 0 ? o->fit_rate : DEFAULT_FIT_RATE);
    r->written = TYPICAL_WRITTEN;
    r->read = TYPICAL_READ;
    r->outputs_share = TYPICAL_OUTPUTS;
    r->gradients_share = TYPICAL_GRADIENTS;
    r->weights_share = TYPICAL_WEIGHTS;
}

/* Beside the run, whose disk it is; without one where temporary files are. */
static char *probe_place(const coar_plan_options *o) {
    const char *folder = getenv("TMPDIR");
    return o->ablate.output ? strdup(o->ablate.output) : string_format("%s/coar-plan", folder ? folder : "/tmp");
}

static coar_status measure(const forecast_job *f, job *j, forecast_rates *r) {
    const coar_plan_options *o = f->o;
    measuring m = {.f = f, .j = j, .rates = r, .seconds = o->seconds > 0 ? o->seconds : DEFAULT_SECONDS};
    coar_status status;
    m.beside = probe_place(o);
    if (!m.beside) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "coar plan: not enough memory"));
    TRY_GOTO(file_check_place(m.beside));
    r->measured = true;
    TRY_GOTO(probe_disk(&m));
    TRY_GOTO(time_forward(&m));
    if (f->passes) TRY_GOTO(time_reverse(&m));
    TRY_GOTO(time_fits(&m));
    const size_t process = memory_plan_process(j->model->graph);
    r->process = process > j->process ? process : j->process;
done:
    free(m.beside);
    return status;
}

coar_status forecast_rates_make(const forecast_job *f, job *j, forecast_rates *out) {
    forecast_rates r = {.outputs_share = 1, .gradients_share = 1, .weights_share = 1};
    if (f->o->rate > 0)
        take_given(f, &r);
    else
        TRY(measure(f, j, &r));
    if (f->o->fit_rate > 0)
        for (size_t e = 0; e < FORECAST_ESTIMATORS; e++) r.operation[e] = 1 / f->o->fit_rate;
    *out = r;
    return COAR_OK;
}
