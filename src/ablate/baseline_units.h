/*
 * baseline_units.h - work units of the baselines that are gradients (docs/design.md, section 7): one example, for every
 * output of the job the scores of all components by gradient at the full model, neuron conductance and internal
 * influence.
 *
 * The last two follow the path from the zero image (normalised) to the example in PATH_STEPS equal steps. Between texts
 * there is no such path: of them the gradient is all there is.
 * Must not know: threads, what the scores are for.
 */
#ifndef COAR_ABLATE_BASELINE_UNITS_H
#define COAR_ABLATE_BASELINE_UNITS_H

#include "ablate/workers.h"

/* The order in a unit's payload. */
enum { BASELINE_GRADIENT, BASELINE_CONDUCTANCE, BASELINE_INFLUENCE, BASELINE_GRADIENTS };

enum { PATH_STEPS = 50 };

/* Unit = example; its payload is f32 [outputs][BASELINE_GRADIENTS][n]. */
typedef struct baseline_grid {
    uint64_t examples;            /* N */
    uint32_t components, outputs; /* n */
    bool paths;                   /* the examples are images; otherwise conductance and influence are 0 */
} baseline_grid;

size_t baseline_grid_payload(const void *grid, uint64_t unit); /* payload_bytes for stage_options, context = the grid */

/* Reverse passes of an example for one output of one of them: 1, 52, 52. */
uint32_t baseline_passes(int estimator);

/* Without shards and time limit. The job's backend must have run_reverse. */
unit_work baseline_units_work(const job *j, const baseline_grid *grid);

#endif
