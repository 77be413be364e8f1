/* truth.c - see truth.h: the job of an existing run opened again, and its fresh masked passes. */
#include "ablate/truth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/mask_units.h"
#include "ablate/run.h"
#include "ablate/run_masks.h"
#include "core/number.h"

/* Stored "" means that the option was not given. */
static const char *optional(run_store *store, const char *key) {
    const char *text = store_setting(store, key);
    return text && *text ? text : NULL;
}

/* The files of a run: given by the caller, else where the run says they are. *owned is freed by the caller. */
static coar_status locate(run_store *store, const char *given, const char *key, char **owned) {
    const char *stored = store_setting(store, key);
    if (!given && !stored) return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is missing", store_path(store), key);
    *owned = given ? strdup(given) : path_resolve(stored, store_path(store));
    if (!*owned) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store_path(store));
    if (!file_exists(*owned))
        return status_set(COAR_ERROR_IO, "%s: %s %s is not there; name it with --%.*s", store_path(store), key, *owned,
                          (int)(strchr(key, '_') - key), key);
    return COAR_OK;
}

static coar_status check_same(run_store *store, const char *key, const char *path, const char *actual) {
    const char *stored = store_setting(store, key);
    if (stored && !strcmp(stored, actual)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "%s: %s of %s is %.12s..., but the run was made with %.12s...",
                      store_path(store), key, path, actual, stored ? stored : "nothing");
}

/* Truth is stored with the run and used again, so it comes from the run's own backend: of another one, later
 * evaluations could not tell. */
static coar_status check_backend(run_store *store, const char *given) {
    const char *stored = store_setting(store, "backend");
    if (!given || (stored && !strcmp(given, stored))) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "%s: --backend is %s, but the run was made with %s: leave --backend out",
                      store_path(store), given, stored ? stored : "none");
}

/* The means of `mean` ablation are those that the run stored; the job owns them from here. */
static coar_status take_fill(run_store *store, run_tables *tables, job *j) {
    if (j->ablation.kind != ABLATION_MEAN) return COAR_OK;
    if (tables->fill_count != j->model->graph->rows)
        return status_set(COAR_ERROR_INPUT, "%s: fill: the means of the ablated rows are missing", store_path(store));
    j->fill = tables->fill;
    tables->fill = NULL;
    j->ablation.fill = j->fill;
    return COAR_OK;
}

/* What the run says of its job, with the files and the plan found already. */
static job_options stored_options(run_store *store, const coar_evaluate_options *o, const run_tables *tables,
                                  const char *model, const char *data, const char *plan) {
    return (job_options){.model = model,
                         .data = data,
                         .arch = optional(store, "arch_options"),
                         .outputs = store_setting(store, "outputs"),
                         .ablation = store_setting(store, "ablation"),
                         .components = store_setting(store, "components"),
                         .only = optional(store, "only"),
                         .except = optional(store, "except"),
                         .backend = store_setting(store, "backend"),
                         .devices = o->devices,
                         .plan_json = plan,
                         .plan_given = true,
                         .plan_origin = store_path(store),
                         .threads = o->threads,
                         .rows = tables->example_rows,
                         .row_labels = tables->labels,
                         .row_count = (size_t)tables->examples,
                         .memory = o->memory,
                         .callbacks = o->callbacks};
}

/* Opens the job that an existing run was made with. */
static coar_status reopen_job(run_store *store, const coar_evaluate_options *o, run_tables *tables, job **out) {
    coar_status status;
    char *model = NULL, *data = NULL, *plan = NULL;
    job *j = NULL;
    char hash[65];
    TRY_GOTO(locate(store, o->model, "model_path", &model));
    TRY_GOTO(file_sha256(model, hash)); /* before the weights are taken for something they are not */
    TRY_GOTO(check_same(store, "model_sha256", model, hash));
    TRY_GOTO(locate(store, o->data, "data_path", &data));
    TRY_GOTO(store_existing_plan(store_path(store), &plan));
    const job_options options = stored_options(store, o, tables, model, data, plan);
    TRY_GOTO(job_open(&options, &j));
    TRY_GOTO(check_same(store, "data_sha256", data, j->data->sha256));
    TRY_GOTO(take_fill(store, tables, j));
    *out = j;
    j = NULL;
done:
    job_close(j);
    free(plan);
    free(data);
    free(model);
    return status;
}

/* ----------------------------------------------------------------------------------------------------- the stage */

static coar_status run_truth(run_store *store, job *j, const sampler *s, uint64_t masks, const char *name,
                             const char *alpha, const coar_evaluate_options *o) {
    coar_status status;
    store_stage *stage = NULL;
    uint64_t finished; /* masks that an earlier evaluation with fewer has left: they are kept */
    TRY(store_truth_finished(store, name, &finished));
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
                                {"sampler", "--sampler", sampler_name(s->kind), SETTING_TEXT, true},
                                {"alpha", "--alpha", alpha, SETTING_REAL, true}};
    const mask_units units = {.grid = mask_units_grid(j, finished, masks), .sampler = s};
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
    char text[NUMBER_SIZE];
    number_format(alpha, text);
    TRY(check_backend(store, o->backend));
    snprintf(name, 64, "truth-a%s-s%llu", text, (unsigned long long)seed);
    if (store_has_truth(store, name, masks)) return COAR_OK;
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(run_masks_fresh(store, &tables, alpha, seed, &group_first, &fresh));
    TRY_GOTO(reopen_job(store, o, &tables, &j));
    TRY_GOTO(run_truth(store, j, &fresh, masks, name, text, o));
done:
    job_close(j);
    free(group_first);
    run_tables_free(&tables);
    return status;
}
