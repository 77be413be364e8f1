/*
 * job.h - what every masked forward pass needs, opened and checked together: model, data, examples, outputs, backend.
 * Used by ablate.c and truth.c. Must not know: runs, stages, how results are stored (run.c hands them on).
 */
#ifndef COAR_ABLATE_JOB_H
#define COAR_ABLATE_JOB_H

#include "backend/backend.h"
#include "core/log.h"
#include "data/dataset.h"
#include "model/model.h"

/* Texts as the user typed them (include/coar.h, coar_ablate_options); NULL = default. */
typedef struct job_options {
    const char *model, *data, *arch, *classes, *examples, *outputs, *label, *ablation, *calibration;
    const char *components, *only, *except;
    const uint64_t *rows; /* with row_labels and row_count: exactly these examples, instead of `examples` and `label` */
    const int32_t *row_labels;
    size_t row_count;
    const char *backend, *devices, *precision, *plan_json; /* plan_json: a stored plan to execute; NULL = make one */
    const char *plan_origin;                               /* where plan_json came from, for messages */
    /* --plan: it must fit. Else a stored plan of another model gives way to a fresh one, and the run's settings say
     * what differs. */
    bool plan_given;
    double alpha;  /* of the training masks: `auto` tries precisions with it; 0 = fp32 without a trial */
    uint64_t seed; /* of the masks that it tries them with */
    int exact, threads;
    uint64_t memory;
    const coar_callbacks *callbacks;
} job_options;

/* What a job was opened with and does not otherwise keep; owned, NULL = default. */
typedef struct job_texts {
    char *arch, *classes, *ablation, *only, *except;
} job_texts;

typedef struct job {
    job_texts texts; /* for the other ranks (job_share.h) */
    model *model;
    dataset *data;
    uint64_t *rows;  /* [count] rows of the data file */
    size_t count;    /* N */
    int32_t *labels; /* [N] the labels that outputs use */
    float mean[DATASET_MAX_CHANNELS], std[DATASET_MAX_CHANNELS];
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    ablation ablation;
    uint64_t *calibration_rows; /* of the data file, for the means of `mean`; NULL = the examples */
    size_t calibration_count;
    float *fill;     /* [graph rows] for `mean`, else NULL */
    float *baseline; /* [output_count][N], from job_baseline */
    numerics_plan plan;
    thread_pool *pool;
    const backend_interface *interface;
    int *devices; /* [device_count] of the backend, ascending; {0} where it has no choice */
    size_t device_count;
    size_t process;   /* bytes that the process has without the job, for what it tells */
    size_t memory;    /* bytes it may take in all; of each device where there are any, 0 = what is free */
    bool memory_told; /* by job_tell_memory: the same figures are not told twice */
    uint32_t unit_masks, unit_examples; /* B, E */
    const coar_callbacks *callbacks;
} job;

/* Opens and checks everything; selects the examples (running the unablated model over the data when SPEC says `wrong`
 * or `correct`, or labels are `predicted`). */
coar_status job_open(const job_options *options, job **out);
void job_close(job *j);

/* Of other rows of the data file, [count] each: the unablated model's predictions, in fp32 by own direct forms whatever the
 * job's plan is (so that they are what `--examples wrong` and `--label predicted` mean in every run); and the labels that outputs
 * of them use, malloc'ed: these predictions, or the data's. */
coar_status job_predict(job *j, const uint64_t *rows, size_t count, int32_t *predicted);
coar_status job_labels(job *j, bool predicted, const uint64_t *rows, size_t count, int32_t **labels);

/* An error naming the first of the job's examples whose label the model has not. */
coar_status job_check_labels(const job *j);

/* What a device is prepared for, and what this process holds for it beside the backend. */
typedef struct job_pass {
    uint32_t examples;      /* most of one bind */
    size_t masks;           /* most of one run */
    bool reverse;           /* run_reverse will be called */
    uint32_t path_examples; /* of one bind, for neuron conductance; 0 = none */
    size_t own;             /* bytes of this process's buffers */
} job_pass;

/* Masked forward passes over units of unit_masks x unit_examples. */
job_pass job_forward_pass(const job *j);

/* Whether the job's memory is enough for it. */
bool job_pass_fits(const job *j, const job_pass *pass);

/* B and E of docs/design.md, section 3 "Scale-out": E = min(N, 1,024), B = 64, doubled while B E is below 2,048 (so that
 * few examples give threads and devices enough to do); B, then E (not below 32), are halved until B E flops <= 1e13. */
void unit_size(double flops, uint64_t examples, uint32_t *unit_masks, uint32_t *unit_examples);

/* "0,2" or all (also NULL) of the backend's devices (job_devices.c); of several ranks on this machine each gets its
 * share of all. */
coar_status job_choose_devices(job *j, const char *text);

/* After a failure of the first device: goes on without it, with a warning. Not for the last one. */
void job_drop_device(job *j);

/* Logs what its backends take; an error when that is more than they may. */
coar_status job_tell_memory(job *j, const job_pass *pass);

/* The job's backend on one of its devices, ready for the pass. From any thread; `pool` is the backend's alone. */
coar_status job_prepare(const job *j, const job_pass *pass, int device, thread_pool *pool, backend **out);

/* Reads examples first .. first + count - 1 of the job (first a multiple of 32) into images, which has room for
 * dataset_example_bytes of each (texts are images in these names), and binds them with their labels. From any thread. */
coar_status job_read(const job *j, uint64_t first, uint32_t count, void *images);
coar_status job_bind(const job *j, backend *b, uint64_t first, uint32_t count, const void *images);

/* The means of `mean` ablation that a run stored, its path being for messages: *means is the job's from here on.
 * Nothing for other ablations; COAR_ERROR_INPUT when there is not one for each of the model's rows. */
coar_status job_take_means(job *j, float **means, uint64_t count, const char *run);

/* Fills j->baseline and, for `mean` ablation, j->fill (over the calibration rows). */
coar_status job_baseline(job *j);

#endif
