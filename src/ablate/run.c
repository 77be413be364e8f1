/* run.c - see run.h: the loop that everything else exists for, units of masked forward passes into a journal. */
#include "ablate/run.h"

#include <math.h>
#include <stdlib.h>

#include "core/half.h"

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

typedef struct unit_place {
    uint64_t mask_first, example_first;
    uint32_t mask_count, example_count;
} unit_place;

static unit_place place_of(const unit_grid *g, uint64_t unit) {
    unit_place p;
    unit_grid_unit(g, unit, &p.mask_first, &p.mask_count, &p.example_first, &p.example_count);
    return p;
}

static coar_status run_unit(backend *b, const stage_run *run, store_stage *stage, uint64_t unit, float *outputs) {
    const unit_place p = place_of(&run->grid, unit);
    const mask_range masks = {
        .count = p.mask_count, .n = run->sampler->n, .sampler = run->sampler, .first = p.mask_first};
    TRY(b->interface->run(b, &masks, outputs));
    const size_t values = (size_t)run->grid.outputs * p.mask_count * p.example_count;
    const uint8_t flag = mark_non_finite(outputs, values) ? UNIT_NON_FINITE : UNIT_DONE;
    if (run->half) TRY(check_half(outputs, values));
    return stage_append(stage, unit, flag, outputs, values * sizeof *outputs);
}

static bool mine(const stage_run *run, uint64_t unit) {
    return run->shards < 2 || unit % run->shards == run->shard;
}

/* Masked images of this shard; of its units done only, with `done`. */
static uint64_t images_of(const stage_run *run, const store_stage *stage, bool done) {
    uint64_t images = 0;
    for (uint64_t unit = 0; unit < run->units; unit++) {
        if (!mine(run, unit) || (done && !stage_has(stage, unit))) continue;
        const unit_place p = place_of(&run->grid, unit);
        images += (uint64_t)p.mask_count * p.example_count;
    }
    return images;
}

typedef struct unit_loop {
    job *job;
    stage_run *run;
    store_stage *stage;
    backend *backend;
    float *outputs;  /* of one unit */
    uint8_t *images; /* of one block of examples */
    progress progress;
    uint64_t before, done; /* images */
    double start;
} unit_loop;

/* Counts a finished unit; COAR_STOPPED when it is to be the last one now. */
static coar_status count_unit(unit_loop *l, const unit_place *p) {
    stage_run *run = l->run;
    l->done += (uint64_t)p->mask_count * p->example_count;
    run->images = l->done - l->before;
    run->seconds = clock_seconds() - l->start;
    bool stop = progress_update(&l->progress, l->done);
    stop |= run->time_limit > 0 && run->seconds >= run->time_limit;
    if (!stop || l->done == l->progress.total) return COAR_OK;
    return status_set(COAR_STOPPED, "stopped after %llu of %llu images; everything is saved, the same command goes on",
                      (unsigned long long)l->done, (unsigned long long)l->progress.total);
}

/* Example blocks are the outer loop, so that a block is read and bound once. */
static coar_status loop(unit_loop *l) {
    const unit_grid *g = &l->run->grid;
    const uint64_t example_blocks = (g->examples + g->unit_examples - 1) / g->unit_examples;
    for (uint64_t block = 0; block < example_blocks; block++) {
        bool bound = false;
        for (uint64_t unit = block; unit < l->run->units; unit += example_blocks) {
            if (!mine(l->run, unit) || stage_has(l->stage, unit)) continue;
            const unit_place p = place_of(g, unit);
            if (!bound) TRY(job_bind(l->job, l->backend, p.example_first, p.example_count, l->images));
            bound = true;
            TRY(run_unit(l->backend, l->run, l->stage, unit, l->outputs));
            TRY(count_unit(l, &p));
        }
    }
    return COAR_OK;
}

static coar_status run_units(job *j, stage_run *run, store_stage *stage) {
    coar_status status = COAR_OK;
    const unit_grid *g = &run->grid;
    unit_loop l = {.job = j, .run = run, .stage = stage, .start = clock_seconds()};
    l.before = l.done = images_of(run, stage, true);
    progress_begin(&l.progress, j->callbacks, "ablate", "images", l.before, images_of(run, stage, false));
    if (l.done == l.progress.total) return COAR_OK;
    TRY_GOTO(
        memory_new((size_t)g->outputs * g->unit_masks * g->unit_examples, sizeof *l.outputs, "outputs", &l.outputs));
    TRY_GOTO(memory_new(g->unit_examples, job_image_bytes(j), "images", &l.images));
    TRY_GOTO(job_prepare(j, &l.backend));
    TRY_GOTO(loop(&l));
done:
    if (l.backend) l.backend->interface->destroy(l.backend);
    free(l.images);
    free(l.outputs);
    return status;
}

unit_grid run_grid(const job *j, uint64_t first, uint64_t masks) {
    return (unit_grid){.first_mask = first,
                       .masks = masks,
                       .examples = j->count,
                       .unit_masks = j->unit_masks,
                       .unit_examples = j->unit_examples,
                       .outputs = (uint32_t)j->output_count};
}

coar_status run_stage(job *j, run_store *store, stage_run *run, store_stage **out) {
    coar_status status;
    store_stage *stage = NULL;
    char *plan_json = plan_to_json(&j->plan);
    if (!plan_json) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its plan", store_path(store)));
    run->units = unit_grid_units(&run->grid);
    const stage_options options = {.name = run->name,
                                   .settings = run->settings,
                                   .setting_count = run->setting_count,
                                   .plan_json = plan_json,
                                   .units = run->units,
                                   .payload_bytes = unit_grid_payload,
                                   .context = &run->grid,
                                   .shard = run->shard,
                                   .shards = run->shards,
                                   .force_resume = run->force_resume,
                                   .callbacks = j->callbacks};
    TRY_GOTO(stage_open(store, &options, &stage));
    /* Its journals hold units of the grid that begins there. Once the stage is open nobody else moves it. */
    if (stage_first_mask(stage) != run->grid.first_mask)
        TRY_GOTO(status_set(COAR_ERROR_BUSY,
                            "%s: another process has finished masks up to %llu meanwhile: give the same command again",
                            store_path(store), (unsigned long long)stage_first_mask(stage)));
    run->units_before = stage_done_count(stage);
    TRY_GOTO(run_units(j, run, stage));
    *out = stage;
    stage = NULL;
done:
    stage_close(stage);
    free(plan_json);
    return status;
}
