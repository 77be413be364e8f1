/* run.c - see run.h: a stage opened, and its units computed into its journal (workers.c). */
#include "ablate/run.h"

#include <stdlib.h>

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
    const unit_grid *grid = &run->work.grid;
    run->units = unit_grid_units(grid);
    const stage_options options = {.name = run->name,
                                   .settings = run->settings,
                                   .setting_count = run->setting_count,
                                   .plan_json = plan_json,
                                   .units = run->units,
                                   .payload_bytes = unit_grid_payload,
                                   .context = grid,
                                   .shard = run->work.shard,
                                   .shards = run->work.shards,
                                   .force_resume = run->force_resume,
                                   .callbacks = j->callbacks};
    TRY_GOTO(stage_open(store, &options, &stage));
    /* Its journals hold units of the grid that begins there. Once the stage is open nobody else moves it. */
    if (stage_first_mask(stage) != grid->first_mask)
        TRY_GOTO(status_set(COAR_ERROR_BUSY,
                            "%s: another process has finished masks up to %llu meanwhile: give the same command again",
                            store_path(store), (unsigned long long)stage_first_mask(stage)));
    run->units_before = stage_done_count(stage);
    TRY_GOTO(workers_run(j, &run->work, stage));
    *out = stage;
    stage = NULL;
done:
    stage_close(stage);
    free(plan_json);
    return status;
}
