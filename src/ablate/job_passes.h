/*
 * job_passes.h - what opening a job (job.c) needs of its passes before the job is complete. Others use job.h.
 * Must not know: options.
 */
#ifndef COAR_ABLATE_JOB_PASSES_H
#define COAR_ABLATE_JOB_PASSES_H

#include "ablate/job.h"

/* For a backend on one of the job's devices, with all of the job's memory. */
backend_settings job_settings(const job *j, const job_pass *pass, int device, thread_pool *pool);

/* One unablated pass over the job's examples: predicted [N] labels, baseline [output_count][N]. Either may be NULL. */
coar_status job_forward_all(job *j, int32_t *predicted, float *baseline);

/* Makes j->fill: means over the calibration rows, of `mean` ablation. And without them again. */
coar_status job_collect_means(job *j);
void job_forget_means(job *j);

/* Other examples in place of the job's for a while. Both own what they hold. */
typedef struct job_examples {
    uint64_t *rows;
    int32_t *labels;
    size_t count;
} job_examples;

void job_swap_examples(job *j, job_examples *other);

#endif
