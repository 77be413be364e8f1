/* auto_precision.c - see auto_precision.h. */
#include "ablate/auto_precision.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"

#define MEAN_MIN 0.999
#define LEAST_MIN 0.99
#define DEVIATION_MIN 0.1

/* Masks of one call of run. */
#define MASKS_AT_A_TIME 32

/* *r = correlation of x and y, *deviation = standard deviation of x, over pairs that are finite in both. */
static void correlate(const float *x, const float *y, size_t stride, double *r, double *deviation) {
    double mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
    size_t count = 0;
    for (size_t m = 0; m < AUTO_MASKS; m++) {
        if (!isfinite(x[m * stride]) || !isfinite(y[m * stride])) continue;
        mean_x += x[m * stride];
        mean_y += y[m * stride];
        count++;
    }
    mean_x /= (double)count;
    mean_y /= (double)count;
    for (size_t m = 0; m < AUTO_MASKS; m++) {
        const double dx = x[m * stride] - mean_x, dy = y[m * stride] - mean_y;
        if (!isfinite(dx) || !isfinite(dy)) continue;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    *deviation = sqrt(xx / (double)count);
    *r = xy / sqrt(xx * yy);
}

bool auto_precision_agrees(const float *fp32, const float *lower, size_t examples) {
    double sum = 0, least = 1;
    size_t judged = 0;
    for (size_t e = 0; e < examples; e++) {
        double r, deviation;
        correlate(fp32 + e, lower + e, examples, &r, &deviation);
        if (!(deviation > DEVIATION_MIN)) continue;
        if (!(r >= LEAST_MIN)) return false; /* also when it is NaN */
        sum += r;
        least = fmin(least, r);
        judged++;
    }
    return judged && sum / (double)judged >= MEAN_MIN;
}

/* outputs [output_count][AUTO_MASKS][E] under the settings' plan. `part` is scratch for one call. */
static coar_status outputs_of(const backend_interface *interface, const backend_settings *s, const example_batch *batch,
                              const sampler *masks, float *part, float *outputs) {
    coar_status status;
    backend *b = NULL;
    const size_t examples = batch->count;
    TRY_GOTO(interface->prepare(s, &b));
    TRY_GOTO(interface->bind(b, batch));
    for (size_t first = 0; first < AUTO_MASKS; first += MASKS_AT_A_TIME) {
        const mask_range range = {.count = MASKS_AT_A_TIME, .n = masks->n, .sampler = masks, .first = first};
        TRY_GOTO(interface->run(b, &range, part));
        for (size_t k = 0; k < s->output_count; k++)
            memcpy(outputs + (k * AUTO_MASKS + first) * examples, part + k * MASKS_AT_A_TIME * examples,
                   MASKS_AT_A_TIME * examples * sizeof *part);
    }
done:
    if (b) interface->destroy(b);
    return status;
}

/* What every trial needs. */
typedef struct trial {
    const backend_interface *interface;
    backend_settings settings;
    const example_batch *batch;
    sampler masks;
    float *part, *fp32, *lower;
    int exact;
    const plan_timing *timing;
} trial;

/* A plan of this precision in *out if its outputs are inside the bound, else an empty one. */
static coar_status try_precision(trial *t, const char *precision, numerics_plan *out) {
    coar_status status;
    numerics_plan plan = {0};
    const size_t examples = t->batch->count;
    bool agrees = true;
    TRY_GOTO(plan_create_timed(t->settings.graph, t->interface->name, precision, t->exact, t->settings.device,
                               t->timing, &plan));
    t->settings.plan = &plan;
    TRY_GOTO(outputs_of(t->interface, &t->settings, t->batch, &t->masks, t->part, t->lower));
    for (size_t k = 0; k < t->settings.output_count; k++)
        agrees &=
            auto_precision_agrees(t->fp32 + k * AUTO_MASKS * examples, t->lower + k * AUTO_MASKS * examples, examples);
    if (agrees) {
        *out = plan;
        plan = (numerics_plan){0};
    }
done:
    plan_free(&plan);
    return status;
}

static coar_status try_all(trial *t, const char *const *precisions, numerics_plan *plan) {
    t->settings.plan = plan;
    TRY(outputs_of(t->interface, &t->settings, t->batch, &t->masks, t->part, t->fp32));
    for (const char *const *p = precisions; *p; p++) {
        numerics_plan lower = {0};
        TRY(try_precision(t, *p, &lower));
        log_info(t->timing->callbacks,
                 "--precision auto: %s %s the bound (correlation with fp32 over %d masks on %u examples)", *p,
                 lower.layers ? "stays inside" : "misses", AUTO_MASKS, t->batch->count);
        if (!lower.layers) continue;
        plan_free(plan);
        *plan = lower;
        return COAR_OK;
    }
    return COAR_OK;
}

coar_status auto_precision(const backend_interface *interface, const backend_settings *s, const example_batch *batch,
                           uint64_t seed, double alpha, int exact, const plan_timing *timing, numerics_plan *plan) {
    coar_status status;
    const size_t values = s->output_count * batch->count;
    trial t = {.interface = interface, .settings = *s, .batch = batch, .exact = exact, .timing = timing};
    const char *const *precisions = interface->precisions ? interface->precisions(plan->device_class) : NULL;
    if (!precisions || !*precisions || !batch->count) return COAR_OK;
    t.settings.examples_max = batch->count;
    t.settings.masks_max = MASKS_AT_A_TIME;
    t.masks = (sampler){.kind = SAMPLER_BERNOULLI,
                        .seed = seed,
                        .stream = PHILOX_STREAM_CALIBRATION,
                        .alpha = alpha,
                        .n = s->graph->components};
    TRY_GOTO(memory_new(MASKS_AT_A_TIME, values * sizeof(float), "--precision auto", &t.part));
    TRY_GOTO(memory_new(AUTO_MASKS, values * sizeof(float), "--precision auto", &t.fp32));
    TRY_GOTO(memory_new(AUTO_MASKS, values * sizeof(float), "--precision auto", &t.lower));
    TRY_GOTO(try_all(&t, precisions, plan));
done:
    free(t.lower);
    free(t.fp32);
    free(t.part);
    return status;
}
