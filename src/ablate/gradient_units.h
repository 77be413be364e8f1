/*
 * gradient_units.h - work units of averaged mask gradients: the chain of reverse passes of one output over one block of
 * examples, every derivative added to the sum of its component's level (core/levels.h). Derivatives are those with
 * respect to mask values, from 0 = ablated to 1, whatever ablation leaves of a component.
 *
 * Derivatives are added in f64, pass after pass, so that the bits depend neither on how many passes a device is given
 * at once nor on how many there were before.
 * Must not know: threads, what the averages are for.
 */
#ifndef COAR_ABLATE_GRADIENT_UNITS_H
#define COAR_ABLATE_GRADIENT_UNITS_H

#include "ablate/workers.h"
#include "core/levels.h"

typedef struct gradient_units {
    gradient_grid grid;
    level_masks masks;
    run_store *store; /* whose gradients.h5 the chains go on from */
} gradient_units;

/* Without shards and time limit. Passes are given to devices in groups that fit the job's memory. */
unit_work gradient_units_work(const job *j, const gradient_units *units);

/* One group of a unit: passes first .. first + count - 1 (at most the work's pass.masks) of an output over the bound block
 * of so many examples, added to the state. Units are made of it; a forecast times it. */
coar_status gradient_units_group(unit_device *d, uint32_t output, uint64_t block, uint32_t first, uint32_t count,
                                 uint32_t examples, gradient_state state, bool *device_failed);

#endif
