/*
 * run.h - runs a stage of a run file: every unit that is not done yet, as masked forward passes of a job.
 * Must not know: what the outputs are for. The caller makes the stage's part of them.
 */
#ifndef COAR_ABLATE_RUN_H
#define COAR_ABLATE_RUN_H

#include "ablate/workers.h"

typedef struct stage_run {
    const char *name;        /* store.h, stage_options */
    const setting *settings; /* the stage's, with the plan's hash */
    size_t setting_count;
    unit_work work; /* its grid from run_grid; must live as long as the stage stays open */
    bool force_resume;
    uint64_t units, units_before; /* out: of the stage, and those done when it was opened */
} stage_run;

/* Masks first .. masks - 1 of all the job's examples, in the job's units. */
unit_grid run_grid(const job *j, uint64_t first, uint64_t masks);

/* Opens the stage and runs all its units that are not done and belong to this shard into its journal. COAR_STOPPED when
 * callbacks or the time limit ask for it, with the units in hand saved. *stage is open on success, the caller's to make
 * a part of and to close; closed on every failure. */
coar_status run_stage(job *j, run_store *store, stage_run *run, store_stage **stage);

#endif
