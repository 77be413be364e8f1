/* mask_units.c - see mask_units.h. */
#include "ablate/mask_units.h"

#include <math.h>

#include "core/half.h"

/* Non-finite outputs stay as NaN; true when there was one. The CUDA backend has computed them once more in fp32, direct
 * form; the others have not: on CPUs only Winograd's sums could be won back, which overflow where values come within
 * some 2^7 of fp32's largest. */
static bool mark_non_finite(float *values, size_t count) {
    bool found = false;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) {
            values[i] = NAN;
            found = true;
        }
    return found;
}

/* Before the unit is saved: what a part cannot hold would be found only once everything has been computed. */
static coar_status check_half(const float *values, size_t count) {
    uint16_t half;
    for (size_t i = 0; i < count; i++)
        if (!half_from_float(values[i], &half))
            return status_set(COAR_ERROR_INPUT,
                              "--store f16: an output is %g, above f16's range: start over with --store f32 --force",
                              (double)values[i]);
    return COAR_OK;
}

static coar_status compute(unit_device *d, unit_record *record, bool *device_failed) {
    const mask_units *units = d->work->context;
    const unit_grid *g = &units->grid;
    uint64_t mask_first, example_first;
    uint32_t mask_count, example_count;
    unit_grid_unit(g, record->unit, &mask_first, &mask_count, &example_first, &example_count);
    const size_t values = (size_t)g->outputs * mask_count * example_count;
    const mask_range masks = {
        .count = mask_count, .n = units->sampler->n, .sampler = units->sampler, .first = mask_first};
    TRY(unit_bind(d, record->unit % d->work->blocks, example_first, example_count, device_failed));
    *device_failed = true;
    TRY(d->backend->interface->run(d->backend, &masks, record->payload));
    *device_failed = false;
    record->mark.flag = mark_non_finite(record->payload, values) ? UNIT_NON_FINITE : UNIT_DONE;
    return units->half ? check_half(record->payload, values) : COAR_OK;
}

static uint64_t images(const unit_work *work, uint64_t unit, uint32_t steps) {
    const mask_units *units = work->context;
    uint64_t mask_first, example_first;
    uint32_t mask_count, example_count;
    unit_grid_unit(&units->grid, unit, &mask_first, &mask_count, &example_first, &example_count);
    return steps ? (uint64_t)mask_count * example_count : 0;
}

unit_grid mask_units_grid(const job *j, uint64_t first, uint64_t masks) {
    return (unit_grid){.first_mask = first,
                       .masks = masks,
                       .examples = j->count,
                       .unit_masks = j->unit_masks,
                       .unit_examples = j->unit_examples,
                       .outputs = (uint32_t)j->output_count};
}

unit_work mask_units_work(const job *j, const mask_units *units) {
    static const unit_kind kind = {.name = "masks", .compute = compute, .images = images};
    const unit_grid *g = &units->grid;
    return (unit_work){.kind = &kind,
                       .progress = units->progress,
                       .context = units,
                       .units = unit_grid_units(g),
                       .blocks = (g->examples + g->unit_examples - 1) / g->unit_examples,
                       .payload_bytes = unit_grid_payload,
                       .grid = g,
                       .pass = job_forward_pass(j),
                       .shards = 1};
}
