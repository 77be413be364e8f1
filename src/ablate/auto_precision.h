/*
 * auto_precision.h - `--precision auto`: the fastest precision of a backend that stays inside the bound of
 * docs/design.md, section 6, on the job at hand. Decided once, when a stage is created. Must not know: files, runs,
 * devices.
 */
#ifndef COAR_ABLATE_AUTO_PRECISION_H
#define COAR_ABLATE_AUTO_PRECISION_H

#include "backend/backend.h"
#include "core/log.h"

enum { AUTO_MASKS = 128, AUTO_EXAMPLES = 32 };

/* Replaces *plan, which is in fp32, by one of the first precision in interface->precisions of its class whose outputs of
 * AUTO_MASKS masks of stream 5 correlate with fp32's on every example that masks change; leaves it alone when none
 * does.
 *   s       the job's settings; plan, examples_max and masks_max are not read
 *   alpha   of the masks, `seed` the run's
 *   timing  for plans of lower precisions (plan_create_timed); its callbacks hear of the trials
 *   batch   at most AUTO_EXAMPLES examples with their labels */
coar_status auto_precision(const backend_interface *interface, const backend_settings *s, const example_batch *batch,
                           uint64_t seed, double alpha, int exact, const plan_timing *timing, numerics_plan *plan);

/* Whether so many masks' outputs, [AUTO_MASKS][examples] in fp32 and in a lower precision, are inside the bound:
 * Pearson's r of an example is .999 in the mean and .99 at least, over the examples whose standard deviation in fp32
 * exceeds .1. False without any such example: nothing was shown. */
bool auto_precision_agrees(const float *fp32, const float *lower, size_t examples);

#endif
