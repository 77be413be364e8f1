/* run.c - see run.h: a stage opened, and its units computed into its journal (workers.c). */
#include "ablate/run.h"

#include <stdlib.h>

#include "ablate/job_share.h"
#include "ablate/run_share.h"
#include "comm/comm.h"

coar_status run_stage(job *j, run_store *store, stage_run *run, store_stage **out) {
    coar_status status;
    store_stage *stage = NULL;
    TRY(job_share(j));
    char *plan_json = plan_to_json(&j->plan);
    if (!plan_json) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its plan", store_path(store)));
    const unit_work *work = &run->work;
    const stage_options options = {.name = run->name,
                                   .settings = run->settings,
                                   .setting_count = run->setting_count,
                                   .plan_json = plan_json,
                                   .units = work->units,
                                   .steps = work->steps,
                                   .payload_bytes = work->payload_bytes,
                                   .context = work->grid,
                                   .shard = work->shard,
                                   .shards = work->shards,
                                   .rank = (uint32_t)comm_world()->rank,
                                   .ranks = comm_world()->size > 1 ? (uint32_t)comm_world()->size : 0,
                                   .masks = work->masks,
                                   .force_resume = run->force_resume,
                                   .callbacks = j->callbacks};
    TRY_GOTO(stage_open(store, &options, &stage));
    /* Its journals hold units of the grid that begins there. Once the stage is open nobody else moves it. */
    if (stage_first_mask(stage) != run->first)
        TRY_GOTO(status_set(
            COAR_ERROR_BUSY, "%s: another process has finished %s up to %llu meanwhile: give the same command again",
            store_path(store), work->steps ? "passes" : "masks", (unsigned long long)stage_first_mask(stage)));
    run->units_before = stage_done_count(stage);
    TRY_GOTO(run_share(j, store, run, plan_json));
    TRY_GOTO(run_gather(store, run, stage, workers_run(j, &run->work, stage)));
    if (comm_world()->size > 1) run->work.finished = stage_done_count(stage) - run->units_before;
    *out = stage;
    stage = NULL;
done:
    stage_close(stage);
    free(plan_json);
    return status;
}
