/*
 * run.h - runs a stage of a run file: every unit that is not done yet, on the devices of a job.
 * Must not know: what the units are, what they are for. The caller makes the stage's part of them.
 */
#ifndef COAR_ABLATE_RUN_H
#define COAR_ABLATE_RUN_H

#include "ablate/workers.h"

typedef struct stage_run {
    const char *name;        /* store.h, stage_options */
    const setting *settings; /* the stage's, with the plan's hash */
    size_t setting_count;
    uint64_t first; /* masks or passes that are in parts already: where the units begin */
    unit_work work;
    bool force_resume;
    uint64_t units_before; /* out: units that were done when the stage was opened */
} stage_run;

/* Opens the stage and runs all its units that are not done and belong to this shard into its journal. COAR_STOPPED when
 * callbacks or the time limit ask for it, with the units in hand saved. *stage is open on success, the caller's to make
 * a part of and to close; closed on every failure. */
coar_status run_stage(job *j, run_store *store, stage_run *run, store_stage **stage);

#endif
