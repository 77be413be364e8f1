/*
 * opening.h - what `ablate` and `gradients` begin with: the run that the options describe, its job and its tables,
 * opened or begun. Whichever comes first begins the run; the other finds it and adds to it.
 * Must not know: what a stage computes. Settings that are one stage's alone (sampler, passes) are that stage's to
 * keep and compare.
 */
#ifndef COAR_ABLATE_OPENING_H
#define COAR_ABLATE_OPENING_H

#include "ablate/job.h"
#include "ablate/run.h"
#include "store/store.h"

/* Filled from top to bottom, by the functions below in their order; closed whatever has failed. */
typedef struct run_opening {
    const coar_ablate_options *o;
    double alpha;
    uint32_t shard, shards; /* K, S */
    bool fresh;             /* nothing to go on from: the run is begun here */
    job *job;
    run_tables tables; /* as a new run gets them, but for the job's baseline and fill */
    run_store *store;
} run_opening;

/* Checks what can be checked without opening a file. masks: the file of --sampler file:, or NULL. */
coar_status opening_check(run_opening *r, const coar_ablate_options *o, const char *masks);

/* alpha: as job_options.alpha. */
coar_status opening_job(run_opening *r, double alpha);

/* Opens the run, or begins one, comparing the settings that all its stages share. A new one computes its baseline
 * first: a job that cannot run leaves nothing behind. */
coar_status opening_store(run_opening *r);

/* A run that has tables brings them; one that has none gets them, with the baseline and, for `mean`, the means.
 * given: packed masks of --sampler file: [given_count], or NULL. */
coar_status opening_tables(run_opening *r, uint8_t *given, uint64_t given_count);

/* run_stage with the options' shard, time limit and --force-resume. */
coar_status opening_stage(run_opening *r, stage_run *run, store_stage **stage);

/* Logs how far a stage is that other shards still owe units of. */
void opening_tell_owed(const run_opening *r, const store_stage *stage, const stage_run *run);

void opening_close(run_opening *r);

#endif
