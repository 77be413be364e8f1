/* gradients.c - coar_gradients: from options to gradients in a run file. */
#include <stdio.h>
#include <string.h>

#include "ablate/gradient_units.h"
#include "ablate/opening.h"
#include "core/options.h"

enum { DEFAULT_PASSES = 64 };

/* One call of coar_gradients, filled from top to bottom. */
typedef struct gradients_run {
    run_opening opening;
    uint32_t passes;
    uint32_t finished; /* passes that are in gradients.h5 already */
    coar_gradients_result result;
} gradients_run;

/* Options that concern ablations alone are not looked at. */
static void forget_ablations(coar_ablate_options *o) {
    o->masks = 0;
    o->sampler = NULL;
    o->store_masks = o->store_f16 = 0;
}

static coar_status check_gradients(const gradients_run *run) {
    const job *j = run->opening.job;
    if (!j->interface->run_reverse)
        return status_set(COAR_ERROR_UNSUPPORTED, "--backend %s: has no reverse passes; give another one",
                          j->interface->name);
    const double sums = (double)LEVELS * (double)j->count * run->opening.tables.components * (double)j->output_count;
    const double bytes = 3 * sums * sizeof(double); /* twice in journals, once in gradients.h5 */
    const char *output = run->opening.o->output;
    if (bytes > store_space(output))
        log_warning(j->callbacks, "%s: the gradients take up to %.0f MiB but only %.0f MiB are free", output,
                    bytes / 1048576, store_space(output) / 1048576);
    return COAR_OK;
}

/* The passes not yet in gradients.h5, as stage "gradients-FIRST", and the file once all shards' units are there. */
static coar_status run_remaining(gradients_run *run) {
    run_opening *opening = &run->opening;
    job *j = opening->job;
    const uint32_t n = opening->tables.components;
    const gradient_units units = {.grid = {.examples = j->count,
                                           .components = n,
                                           .outputs = (uint32_t)j->output_count,
                                           .first_pass = run->finished,
                                           .passes = run->passes},
                                  .masks = {.seed = opening->o->seed, .alpha = opening->alpha, .n = n},
                                  .store = opening->store};
    coar_status status;
    store_stage *stage = NULL;
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
                                {"gradient_design", "", LEVELS_DESIGN, SETTING_TEXT, true}};
    char name[64];
    snprintf(name, sizeof name, "gradients-%u", run->finished);
    stage_run stage_work = {.name = name,
                            .settings = settings,
                            .setting_count = sizeof settings / sizeof *settings,
                            .first = run->finished,
                            .work = gradient_units_work(j, &units)};
    j->memory_told = false; /* what was told was for forward passes */
    TRY_GOTO(opening_stage(opening, &stage_work, &stage));
    TRY_GOTO(store_finish_gradients(opening->store, stage, &units.grid));
    TRY_GOTO(store_passes_finished(opening->store, &run->finished));
    if (run->finished < run->passes) opening_tell_owed(opening, stage, &stage_work);
done:
    run->result.units_total = stage_work.work.units;
    run->result.units_before = stage_work.units_before;
    run->result.images = stage_work.work.images;
    run->result.units = stage_work.work.finished;
    run->result.seconds = stage_work.work.seconds;
    stage_close(stage);
    return status;
}

static coar_status differentiate(gradients_run *run, const coar_ablate_options *o) {
    run_opening *opening = &run->opening;
    TRY(opening_check(opening, o, NULL));
    if (opening->alpha >= 0.5)
        return status_set(COAR_ERROR_USAGE, "--alpha %g: gradients need one below 0.5", opening->alpha);
    TRY(opening_job(opening, opening->alpha));
    TRY(check_gradients(run));
    TRY(opening_store(opening));
    TRY(opening_tables(opening, NULL, 0));
    TRY(store_passes_finished(opening->store, &run->finished));
    run->result.examples = opening->job->count;
    run->result.components = opening->tables.components;
    run->result.already_complete = run->finished >= run->passes;
    run->result.passes = run->result.already_complete ? run->finished : run->passes;
    return run->result.already_complete ? COAR_OK : run_remaining(run);
}

coar_status coar_gradients(const coar_gradients_options *given, coar_gradients_result *result) {
    status_clear();
    coar_gradients_options o;
    coar_ablate_options ablate;
    gradients_run run = {.passes = 0};
    TRY(options_take(&o, sizeof o, given, "COAR_GRADIENTS_INIT"));
    TRY(options_take(&ablate, sizeof ablate, &o.ablate, "COAR_GRADIENTS_INIT"));
    forget_ablations(&ablate);
    if (o.passes > LEVELS_PASSES_MOST)
        return status_set(COAR_ERROR_USAGE, "--passes %u: give at most %d", o.passes, LEVELS_PASSES_MOST);
    run.passes = o.passes ? o.passes : DEFAULT_PASSES;
    const coar_status status = differentiate(&run, &ablate);
    if (result && (status == COAR_OK || status == COAR_STOPPED)) *result = run.result;
    opening_close(&run.opening);
    return status;
}
