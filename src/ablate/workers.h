/*
 * workers.h - computes the work units of a stage: one thread per device takes units from one queue, the calling thread
 * writes what they finish into the journal and reports progress.
 *
 * A unit's result depends on nothing but its indices, so the data sets have the same bytes for any number of devices,
 * and a unit that a failing device had in hand is simply computed by another.
 * Of several ranks each does so with the units that rank 0 hands to it (handout.h); all of them call workers_run.
 * Must not know: what a unit is (mask_units.c, gradient_units.c), other jobs.
 */
#ifndef COAR_ABLATE_WORKERS_H
#define COAR_ABLATE_WORKERS_H

#include "ablate/job.h"
#include "store/store.h"

typedef struct unit_work unit_work;

/* One device at work, as a kind of unit sees it. */
typedef struct unit_device {
    const unit_work *work;
    const job *job;
    store_stage *stage;
    thread_pool *pool; /* of this device alone */
    backend *backend;
    uint8_t *images; /* of one block of examples */
    uint64_t bound;  /* which block that is; NO_BLOCK = none */
    void *scratch;   /* the kind's own */
} unit_device;

typedef struct unit_record {
    void *payload; /* as stage_append takes it */
    uint64_t unit;
    unit_mark mark;
} unit_record;

/* A kind of unit. Each device has a thread of its own that calls these. */
typedef struct unit_kind {
    const char *name; /* by which other ranks know it (units_share.c) */

    /* Makes d->scratch, and releases it (also after a failure to make it). NULL: there is none. */
    coar_status (*open)(unit_device *d);
    void (*close)(unit_device *d);

    /* Fills the record of its unit. In stages with steps: goes on from the state in the record, which is that after
     * mark.steps steps (0: the unit was only now taken; the state is to be found), to a later one that is worth saving.
     * *device_failed tells a failure of the device from one that every device would meet. */
    coar_status (*compute)(unit_device *d, unit_record *record, bool *device_failed);

    /* Masked images of a unit up to a number of steps (1: all, in stages without steps). */
    uint64_t (*images)(const unit_work *work, uint64_t unit, uint32_t steps);
} unit_kind;

/* Made by mask_units_work or gradient_units_work; what it points to must live as long as the stage stays open. */
struct unit_work {
    const unit_kind *kind;
    const char *progress;   /* what progress lines call it */
    const void *context;    /* the kind's */
    uint64_t units, blocks; /* unit u is of block u mod blocks of examples */
    uint32_t steps;         /* store.h, stage_options */
    size_t (*payload_bytes)(const void *grid, uint64_t unit);
    const void *grid;
    job_pass pass;
    uint32_t shard, shards; /* 0, 1 = no shards */
    double time_limit;      /* seconds, 0 = none */
    uint64_t images;        /* out: masked images computed and saved; of rank 0: by all ranks */
    double seconds;         /* out */
};

/* Reads examples first .. first + count - 1, block `block`, and binds them where they are not bound already. */
coar_status unit_bind(unit_device *d, uint64_t block, uint64_t first, uint32_t count, bool *device_failed);

/* For kinds whose units take long: so many masked images of the unit in hand have been computed since the record that
 * it goes on from. True when the unit is to be left as it is. */
bool unit_tell(unit_device *d, uint64_t images);

/* Runs all units of the shard that are not done on all the job's devices. COAR_STOPPED when callbacks or the time
 * limit ask for it, with the units in hand saved. A device that fails is left out from there on, with one warning;
 * the last one's failure is the caller's, with everything finished before it saved. Callbacks are called on the
 * calling thread. */
coar_status workers_run(job *j, unit_work *work, store_stage *stage);

#endif
