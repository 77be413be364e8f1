/*
 * run.c - the loop that everything else exists for: units of masked forward passes into a journal.
 * Must not know: what the outputs are for.
 */
#include <math.h>
#include <stdlib.h>

#include "ablate/job.h"

/* Non-finite outputs stay as NaN; true when there was one. In the direct fp32 form of this version there is no more
 * careful form to compute them in once more. */
static bool mark_non_finite(float *values, size_t count) {
    bool found = false;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) {
            values[i] = NAN;
            found = true;
        }
    return found;
}

typedef struct unit_place {
    uint64_t mask_first, example_first;
    uint32_t mask_count, example_count;
} unit_place;

static unit_place place_of(const unit_grid *g, uint64_t unit) {
    unit_place p;
    unit_grid_unit(g, unit, &p.mask_first, &p.mask_count, &p.example_first, &p.example_count);
    return p;
}

static coar_status run_unit(backend *b, const unit_run *run, uint64_t unit, float *outputs) {
    const unit_place p = place_of(run->grid, unit);
    const mask_range masks = {
        .count = p.mask_count, .n = run->sampler->n, .sampler = run->sampler, .first = p.mask_first};
    TRY(b->interface->run(b, &masks, outputs));
    const size_t values = (size_t)run->grid->outputs * p.mask_count * p.example_count;
    const uint8_t flag = mark_non_finite(outputs, values) ? UNIT_NON_FINITE : UNIT_DONE;
    return stage_append(run->stage, unit, flag, outputs, values * sizeof *outputs);
}

static bool mine(const unit_run *run, uint64_t unit) {
    return (run->shards < 2 || unit % run->shards == run->shard) && !stage_has(run->stage, unit);
}

static uint64_t images_of(const unit_run *run, bool done) {
    uint64_t images = 0;
    for (uint64_t unit = 0; unit < unit_grid_units(run->grid); unit++) {
        if (run->shards > 1 && unit % run->shards != run->shard) continue;
        if (done && !stage_has(run->stage, unit)) continue;
        const unit_place p = place_of(run->grid, unit);
        images += (uint64_t)p.mask_count * p.example_count;
    }
    return images;
}

coar_status job_run_units(job *j, unit_run *run) {
    coar_status status = COAR_OK;
    backend *b = NULL;
    float *outputs = NULL;
    uint8_t *images = NULL;
    const unit_grid *g = run->grid;
    const uint64_t units = unit_grid_units(g), example_blocks = (g->examples + g->unit_examples - 1) / g->unit_examples;
    const double start = clock_seconds();
    const uint64_t before = images_of(run, true);
    uint64_t done = before;
    progress progress;
    progress_begin(&progress, j->callbacks, "ablate", "images", before, images_of(run, false));
    run->images = 0;
    run->seconds = 0;
    if (done == progress.total) return COAR_OK;

    TRY_GOTO(memory_new((size_t)g->outputs * g->unit_masks * g->unit_examples, sizeof *outputs, "outputs", &outputs));
    TRY_GOTO(memory_new(g->unit_examples, job_image_bytes(j), "images", &images));
    TRY_GOTO(job_prepare(j, &b));
    /* Example blocks are the outer loop, so that a block is read and bound once. */
    for (uint64_t block = 0; block < example_blocks; block++) {
        bool bound = false;
        for (uint64_t unit = block; unit < units; unit += example_blocks) {
            if (!mine(run, unit)) continue;
            const unit_place p = place_of(g, unit);
            if (!bound) TRY_GOTO(job_bind(j, b, p.example_first, p.example_count, images));
            bound = true;
            TRY_GOTO(run_unit(b, run, unit, outputs));
            done += (uint64_t)p.mask_count * p.example_count;
            run->images = done - before;
            run->seconds = clock_seconds() - start;
            bool stop = progress_update(&progress, done);
            stop |= run->time_limit > 0 && run->seconds >= run->time_limit;
            if (stop && done < progress.total) {
                status = status_set(COAR_STOPPED,
                                    "stopped after %llu of %llu images; everything is saved, the same command goes on",
                                    (unsigned long long)done, (unsigned long long)progress.total);
                goto done;
            }
        }
    }
done:
    if (b) b->interface->destroy(b);
    free(images);
    free(outputs);
    return status;
}
