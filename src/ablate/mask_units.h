/*
 * mask_units.h - work units of masked forward passes: B masks x E examples, the outputs of all of them.
 * Must not know: threads, what the outputs are for.
 */
#ifndef COAR_ABLATE_MASK_UNITS_H
#define COAR_ABLATE_MASK_UNITS_H

#include "ablate/workers.h"
#include "core/sampler.h"

typedef struct mask_units {
    const char *progress; /* unit_work */
    unit_grid grid;
    const sampler *sampler; /* of the grid's masks */
    bool half;              /* the units will be stored as f16: one above its range is an error at once */
} mask_units;

/* Masks first .. masks - 1 of all the job's examples, in the job's units. */
unit_grid mask_units_grid(const job *j, uint64_t first, uint64_t masks);

/* Without shards and time limit. */
unit_work mask_units_work(const job *j, const mask_units *units);

#endif
