/*
 * forecast.h - what a job will take: its sizes, what this machine (or a given device) does in a second, and how both
 * become the seconds, bytes and units of each stage on any number of devices.
 *
 * Sizes come from the modules that will allocate, write and count them (memory_plan.c, fit/plan.c, unit grids); rates
 * from timing the job's own kernels on some of its own units. Nothing here is known of a stage that the stage's code
 * does not say.
 * Must not know: how results are shown.
 */
#ifndef COAR_FORECAST_FORECAST_H
#define COAR_FORECAST_FORECAST_H

#include "ablate/job.h"
#include "budget/steps.h"
#include "core/sampler.h"
#include "fit/fit.h"

enum {
    FORECAST_FITS = 2 * STEPS_MAX, /* of one job: a budget makes one after every step, and then one more */
    FORECAST_ESTIMATORS = FIT_GRAD_EB + 1
};

/* A fit that the job makes, of so many masks and passes. */
typedef struct forecast_fit {
    fit_estimator estimator;
    uint64_t masks;
    uint32_t passes;
    bool kept; /* in the finished run */
} forecast_fit;

/* What is to be done. */
typedef struct forecast_job {
    const coar_plan_options *o;
    double alpha;
    uint64_t examples, masks;             /* N, m */
    uint32_t components, outputs, passes; /* n, outputs, k */
    uint32_t unit_masks, unit_examples;
    double flops; /* of a forward pass of one image, dense */
    double weight_bytes, example_bytes;
    sampler_kind sampler;
    forecast_fit fits[FORECAST_FITS];
    size_t fit_count;
    uint64_t fresh_masks; /* of one alpha */
    uint32_t fresh_alphas;
} forecast_job;

/* What one device does. Seconds, but where it says otherwise. */
typedef struct forecast_rates {
    bool measured;
    double open;                           /* weights and data read, checked and hashed */
    double prepare;                        /* a backend ready for the first unit */
    double image;                          /* one masked image of a work unit */
    double reverse;                        /* one image differentiated */
    double operation[FORECAST_ESTIMATORS]; /* of a fit (fit/work.h), by estimator */
    size_t process;       /* bytes that it has beside a job once fits have been made: libraries keep their buffers */
    double append;        /* a unit's record of masked images, synced */
    double written, read; /* a byte of an array into a part, and out of one */
    /* of an array's bytes, those that its compressed part has */
    double outputs_share, gradients_share, weights_share;
} forecast_rates;

/* From options and the opened job. COAR_ERROR_USAGE for what coar run would refuse too. */
coar_status forecast_job_make(const coar_plan_options *o, const job *j, forecast_job *out);

/* The masks that the job's sampler draws; loo as the bernoulli masks that keep nearly all. */
sampler forecast_sampler(const forecast_job *f);

/* Rates that the options give; else those measured on the job's device. */
coar_status forecast_rates_make(const forecast_job *f, job *j, forecast_rates *out);

/* Seconds that an operation of this fit takes here: by a fit of a planted problem like it, and as large as `seconds`
 * allow (planted.c). *share (NULL = not wanted): of its weights' bytes those that stay when they are stored beside `beside`. */
coar_status forecast_time_fit(const forecast_job *f, const forecast_fit *fit, thread_pool *pool, double seconds,
                              const char *beside, double *operation, double *share);

/* What a fit may take of the host: elsewhere, where nobody says how much there is, as much as helps. */
size_t forecast_fit_memory(const forecast_job *f);

/* A fit's sizes, for fit/plan.h and fit/work.h; what it reads is not there. *gradients: where its passes are said. */
fit_problem forecast_problem(const forecast_job *f, const forecast_fit *fit, fit_gradients *gradients);

/* Stages, disk and rows of the result, whose `rows` has room for `row_count`, with their numbers of devices filled in. j: for what
 * its passes take of memory; NULL where they are to be run elsewhere. */
coar_status forecast_result(const forecast_job *f, const forecast_rates *rates, const job *j, coar_plan_row *rows,
                            coar_plan_result *out);

#endif
