/* truth.c - see truth.h. */
#include "ablate/truth.h"

#include <stdio.h>
#include <stdlib.h>

#include "ablate/mask_units.h"
#include "ablate/reopen.h"
#include "ablate/run.h"
#include "ablate/run_masks.h"
#include "core/number.h"

static coar_status run_truth(run_store *store, job *j, const sampler *s, uint64_t masks, const char *name,
                             const char *alpha, const coar_evaluate_options *o) {
    coar_status status;
    store_stage *stage = NULL;
    uint64_t finished; /* masks that an earlier evaluation with fewer has left: they are kept */
    TRY(store_truth_finished(store, name, &finished));
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
                                {"sampler", "--sampler", sampler_name(s->kind), SETTING_TEXT, true},
                                {"alpha", "--alpha", alpha, SETTING_REAL, true}};
    const mask_units units = {.progress = "evaluate", .grid = mask_units_grid(j, finished, masks), .sampler = s};
    stage_run run = {.name = name,
                     .settings = settings,
                     .setting_count = sizeof settings / sizeof *settings,
                     .first = finished,
                     .work = mask_units_work(j, &units),
                     .force_resume = o->force_resume};
    run.work.time_limit = o->time_limit;
    TRY_GOTO(run_stage(j, store, &run, &stage));
    TRY_GOTO(store_finish_truth(store, stage, &units.grid));
done:
    stage_close(stage);
    return status;
}

coar_status truth_complete(run_store *store, const coar_evaluate_options *o, double alpha, uint64_t seed,
                           uint64_t masks, char name[64]) {
    coar_status status = COAR_OK;
    run_tables tables = {0};
    uint32_t *group_first = NULL;
    job *j = NULL;
    sampler fresh;
    char *plan = NULL, text[NUMBER_SIZE];
    number_format(alpha, text);
    TRY(reopen_check(store, o));
    snprintf(name, 64, "truth-a%s-s%llu", text, (unsigned long long)seed);
    if (store_has_truth(store, name, masks)) return COAR_OK;
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(run_masks_fresh(store, &tables, alpha, seed, &group_first, &fresh));
    TRY_GOTO(store_existing_plan(store_path(store), &plan));
    TRY_GOTO(reopen_job(store, o, plan, &tables, &j));
    TRY_GOTO(run_truth(store, j, &fresh, masks, name, text, o));
done:
    job_close(j);
    free(plan);
    free(group_first);
    run_tables_free(&tables);
    return status;
}
