/* baseline_units.c - see baseline_units.h. */
#include "ablate/baseline_units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/unit_queue.h"
#include "core/memory.h"

/* Points of the path bound at once: what REVERSE_CONDUCTANCE allows. Neighbouring binds share a point, since a point's
 * conductance is its difference from the one before. */
enum { BIND_POINTS = PATH_EXAMPLES_MAX };

/* Buffers of one device. */
typedef struct path_scratch {
    uint8_t *images;          /* [BIND_POINTS] times the example */
    int32_t *labels;          /* [BIND_POINTS] */
    float scale[BIND_POINTS]; /* of the bound points */
    float *keeps;             /* [n] ones: the full model */
    float *gradients;         /* [BIND_POINTS][n] */
    float outputs[BIND_POINTS];
    double *sums; /* [outputs][BASELINE_GRADIENTS][n] */
} path_scratch;

size_t baseline_grid_payload(const void *grid, uint64_t unit) {
    const baseline_grid *g = grid;
    (void)unit;
    return (size_t)g->outputs * BASELINE_GRADIENTS * g->components * sizeof(float);
}

static void close_scratch(unit_device *d) {
    path_scratch *s = d->scratch;
    if (!s) return;
    free(s->images);
    free(s->labels);
    free(s->keeps);
    free(s->gradients);
    free(s->sums);
    free(s);
}

static coar_status open_scratch(unit_device *d) {
    static const char what[] = "gradients along paths";
    path_scratch *s;
    const baseline_grid *g = d->work->context;
    const size_t n = g->components;
    TRY(memory_new(1, sizeof *s, what, &s));
    d->scratch = s;
    TRY(memory_new(BIND_POINTS, dataset_example_bytes(d->job->data), what, &s->images));
    TRY(memory_new(BIND_POINTS, sizeof *s->labels, what, &s->labels));
    TRY(memory_new(n, sizeof *s->keeps, what, &s->keeps));
    TRY(memory_new(n, BIND_POINTS * sizeof *s->gradients, what, &s->gradients));
    for (size_t j = 0; j < n; j++) s->keeps[j] = 1;
    return memory_new(n, (size_t)g->outputs * BASELINE_GRADIENTS * sizeof *s->sums, what, &s->sums);
}

/* The example, BIND_POINTS times over. */
static coar_status read_example(unit_device *d, uint64_t example) {
    path_scratch *s = d->scratch;
    const size_t bytes = dataset_example_bytes(d->job->data);
    d->bound = NO_BLOCK; /* no block of examples is bound from here on */
    TRY(job_read(d->job, example, 1, s->images));
    for (size_t p = 1; p < BIND_POINTS; p++) memcpy(s->images + p * bytes, s->images, bytes);
    for (size_t p = 0; p < BIND_POINTS; p++) s->labels[p] = d->job->labels[example];
    return COAR_OK;
}

/* Points first .. first + count - 1. */
static coar_status bind_points(unit_device *d, uint32_t first, uint32_t count) {
    path_scratch *s = d->scratch;
    for (uint32_t p = 0; p < count; p++) s->scale[p] = (float)(first + p) / PATH_STEPS;
    const example_batch batch = {.inputs = s->images,
                                 .labels = s->labels,
                                 .count = count,
                                 .mean = d->job->mean,
                                 .std = d->job->std,
                                 .scale = s->scale};
    return d->backend->interface->bind(d->backend, &batch);
}

/* A reverse pass of the full model over the bound points: adds those from .. until - 1, in order. */
static coar_status add_points(unit_device *d, reverse_kind kind, uint32_t output, uint32_t from, uint32_t until,
                              double *sums) {
    path_scratch *s = d->scratch;
    const size_t n = ((const baseline_grid *)d->work->context)->components;
    const mask_range full = {.count = 1, .n = (uint32_t)n, .keeps = s->keeps};
    TRY(d->backend->interface->run_reverse(d->backend, kind, output, &full, s->gradients, s->outputs));
    for (uint32_t p = from; p < until; p++) {
        const double lost = isfinite(s->outputs[p]) ? 0 : NAN; /* derivatives of a limit are none, finite or not */
        for (size_t j = 0; j < n; j++) sums[j] += s->gradients[p * n + j] + lost;
    }
    return COAR_OK;
}

/* Points first .. last. The first is the zero image, which no sum has, or belongs to the bind before. */
static coar_status run_points(unit_device *d, uint32_t first, uint32_t last) {
    const path_scratch *s = d->scratch;
    const baseline_grid *g = d->work->context;
    const uint32_t count = last - first + 1;
    TRY(bind_points(d, first, count));
    for (uint32_t o = 0; o < g->outputs; o++) {
        double *sums = s->sums + (size_t)o * BASELINE_GRADIENTS * g->components;
        TRY(add_points(d, REVERSE_CONDUCTANCE, o, 1, count, sums + (size_t)BASELINE_CONDUCTANCE * g->components));
        TRY(add_points(d, REVERSE_INFLUENCE, o, 1, count, sums + (size_t)BASELINE_INFLUENCE * g->components));
    }
    return COAR_OK;
}

/* The path's last point, the example itself. */
static coar_status run_example(unit_device *d) {
    const path_scratch *s = d->scratch;
    const baseline_grid *g = d->work->context;
    TRY(bind_points(d, PATH_STEPS, 1));
    for (uint32_t o = 0; o < g->outputs; o++)
        TRY(add_points(d, REVERSE_MASK, o, 0, 1,
                       s->sums + ((size_t)o * BASELINE_GRADIENTS + BASELINE_GRADIENT) * g->components));
    return COAR_OK;
}

uint32_t baseline_passes(int estimator) {
    const uint32_t binds = (PATH_STEPS + BIND_POINTS - 2) / (BIND_POINTS - 1);
    return estimator == BASELINE_GRADIENT ? 1
                                          : PATH_STEPS + binds; /* each bind's first point is passed for the others */
}

/* The sums as scores; true when one is not finite (a NaN then). */
static bool take_scores(const path_scratch *s, const baseline_grid *g, const ablation *ablation, float *scores) {
    const double factors[BASELINE_GRADIENTS] = {
        [BASELINE_GRADIENT] = 1 - (double)ablation->gain, /* with respect to the mask, as leave-one-out */
        [BASELINE_CONDUCTANCE] = 1,
        [BASELINE_INFLUENCE] = 1.0 / PATH_STEPS};
    bool found = false;
    for (size_t row = 0; row < (size_t)g->outputs * BASELINE_GRADIENTS; row++) {
        const double factor = factors[row % BASELINE_GRADIENTS];
        for (size_t i = row * g->components; i < (row + 1) * g->components; i++) {
            scores[i] = (float)(s->sums[i] * factor);
            if (isfinite(scores[i])) continue;
            scores[i] = NAN;
            found = true;
        }
    }
    return found;
}

static coar_status compute(unit_device *d, unit_record *record, bool *device_failed) {
    const baseline_grid *g = d->work->context;
    path_scratch *s = d->scratch;
    TRY(read_example(d, record->unit));
    memset(s->sums, 0, baseline_grid_payload(g, record->unit) / sizeof(float) * sizeof *s->sums);
    *device_failed = true;
    for (uint32_t first = 0; g->paths && first < PATH_STEPS; first += BIND_POINTS - 1)
        TRY(run_points(d, first, first + BIND_POINTS - 1 < PATH_STEPS ? first + BIND_POINTS - 1 : PATH_STEPS));
    TRY(run_example(d));
    *device_failed = false;
    record->mark.flag = take_scores(s, g, &d->job->ablation, record->payload) ? UNIT_NON_FINITE : UNIT_DONE;
    return COAR_OK;
}

static uint64_t images(const unit_work *work, uint64_t unit, uint32_t steps) {
    const baseline_grid *g = work->context;
    uint64_t passes = 0;
    (void)unit;
    for (int e = 0; e < (g->paths ? BASELINE_GRADIENTS : 1); e++) passes += baseline_passes(e);
    return steps ? g->outputs * passes : 0;
}

unit_work baseline_units_work(const job *j, const baseline_grid *grid) {
    static const unit_kind kind = {
        .name = "baselines", .open = open_scratch, .close = close_scratch, .compute = compute, .images = images};
    const size_t n = grid->components, rows = (size_t)grid->outputs * BASELINE_GRADIENTS;
    return (unit_work){
        .kind = &kind,
        .progress = "baselines",
        .context = grid,
        .units = grid->examples,
        .blocks = grid->examples,
        .payload_bytes = baseline_grid_payload,
        .grid = grid,
        .pass = {.examples = BIND_POINTS,
                 .masks = 1,
                 .reverse = true,
                 .path_examples = grid->paths ? BIND_POINTS : 0,
                 /* the scratch, the worker's own images, a record in hand and one on its way to the journal */
                 .own = BIND_POINTS * (2 * dataset_example_bytes(j->data) + n * sizeof(float)) +
                        rows * n * (sizeof(double) + 2 * sizeof(float))},
        .shards = 1};
}
