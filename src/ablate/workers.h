/*
 * workers.h - computes the work units of a stage: one thread per device takes units from one queue, the calling thread
 * writes what they finish into the journal and reports progress.
 *
 * A unit's result depends on nothing but its indices, so the data sets have the same bytes for any number of devices,
 * and a unit that a failing device had in hand is simply computed by another.
 * Must not know: what the outputs are for, other processes.
 */
#ifndef COAR_ABLATE_WORKERS_H
#define COAR_ABLATE_WORKERS_H

#include "ablate/job.h"
#include "store/store.h"

typedef struct unit_work {
    unit_grid grid;         /* must live as long as the stage stays open */
    const sampler *sampler; /* of the grid's masks */
    uint32_t shard, shards; /* 0, 1 = no shards */
    bool half;              /* the units will be stored as f16: one above its range is an error at once */
    double time_limit;      /* seconds, 0 = none */
    uint64_t images;        /* out: masked images computed */
    double seconds;         /* out */
} unit_work;

/* Runs all units of the shard that are not done on all the job's devices. COAR_STOPPED when callbacks or the time
 * limit ask for it, with the units in hand saved. A device that fails is left out from there on, with one warning;
 * the last one's failure is the caller's, with everything finished before it saved. Callbacks are called on the
 * calling thread. */
coar_status workers_run(job *j, unit_work *work, store_stage *stage);

#endif
