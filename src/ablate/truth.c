/*
 * truth.c - fresh masked passes for the evaluation of fits, and the masks of a run.
 * Fresh masks come from Philox stream 1, training masks from stream 0: no training mask is ever evaluated on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/job.h"
#include "core/npy.h"
#include "core/number.h"
#include "core/philox.h"

coar_status setting_real(run_store *store, const char *key, double *out) {
    const char *text = store_setting(store, key);
    char *end;
    if (!text) return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is missing", store_path(store), key);
    *out = number_parse(text, &end);
    if (*end || end == text)
        return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is no number", store_path(store), key);
    return COAR_OK;
}

coar_status setting_integer(run_store *store, const char *key, uint64_t *out) {
    const char *text = store_setting(store, key);
    char *end;
    if (!text) return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is missing", store_path(store), key);
    *out = strtoull(text, &end, 10);
    if (*end || end == text)
        return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is no number", store_path(store), key);
    return COAR_OK;
}

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
    const char *backend = store_setting(store, "backend");
    if (!o->backend || (backend && !strcmp(o->backend, backend)))
        TRY_GOTO(store_existing_plan(store_path(store), &plan));
    const job_options options = {.model = model,
                                 .data = data,
                                 .arch = optional(store, "arch_options"),
                                 .outputs = store_setting(store, "outputs"),
                                 .ablation = store_setting(store, "ablation"),
                                 .components = store_setting(store, "components"),
                                 .only = optional(store, "only"),
                                 .except = optional(store, "except"),
                                 .backend = o->backend ? o->backend : backend,
                                 .plan_json = plan,
                                 .plan_given = true,
                                 .plan_origin = store_path(store),
                                 .threads = o->threads,

                                 .rows = tables->example_rows,
                                 .row_labels = tables->labels,
                                 .row_count = (size_t)tables->examples,
                                 .memory = o->memory,
                                 .callbacks = o->callbacks};
    TRY_GOTO(job_open(&options, &j));
    TRY_GOTO(check_same(store, "data_sha256", data, j->data->sha256));
    if (j->ablation.kind == ABLATION_MEAN) {
        if (tables->fill_count != j->model->graph->rows) {
            status =
                status_set(COAR_ERROR_INPUT, "%s: fill: the means of the ablated rows are missing", store_path(store));
            goto done;
        }
        j->fill = tables->fill;
        tables->fill = NULL;
        j->ablation.fill = j->fill;
    }
    *out = j;
    j = NULL;
done:
    job_close(j);
    free(plan);
    free(data);
    free(model);
    return status;
}

coar_status run_fresh_sampler(run_store *store, const run_tables *tables, double alpha, uint64_t seed,
                              uint32_t **group_first, sampler *out) {
    const char *path;
    *out = (sampler){.seed = seed, .stream = PHILOX_STREAM_EVALUATION, .alpha = alpha, .n = tables->components};
    const char *name = store_setting(store, "sampler");
    if (!name || !strcmp(name, "file") || !strcmp(name, "loo")) name = "bernoulli";
    TRY(sampler_parse(name, &out->kind, &path));
    TRY(group_starts(tables->groups, tables->group_count, tables->components, group_first));
    out->group_first = *group_first;
    out->groups = (uint32_t)tables->group_count;
    return COAR_OK;
}

static coar_status run_truth(run_store *store, job *j, const coar_evaluate_options *o, const sampler *s, uint64_t masks,
                             const char *name) {
    coar_status status = COAR_OK;
    store_stage *stage = NULL;
    char *plan_json = plan_to_json(&j->plan);
    const unit_grid grid = {.masks = masks,
                            .examples = j->count,
                            .unit_masks = j->unit_masks,
                            .unit_examples = j->unit_examples,
                            .outputs = (uint32_t)j->output_count};
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
                                {"sampler", "--sampler", sampler_name(s->kind), SETTING_TEXT, true}};
    const stage_options options = {.name = name,
                                   .settings = settings,
                                   .setting_count = sizeof settings / sizeof *settings,
                                   .plan_json = plan_json,
                                   .units = unit_grid_units(&grid),
                                   .payload_bytes = unit_grid_payload,
                                   .context = &grid,
                                   .shards = 1,
                                   .force_resume = o->force_resume,
                                   .callbacks = o->callbacks};
    unit_run run = {.grid = &grid, .sampler = s, .shards = 1};
    TRY_GOTO(stage_open(store, &options, &stage));
    run.stage = stage;
    TRY_GOTO(job_run_units(j, &run));
    TRY_GOTO(store_finish_truth(store, stage, &grid));
done:
    stage_close(stage);
    free(plan_json);
    return status;
}

coar_status job_truth(run_store *store, const coar_evaluate_options *o, double alpha, uint64_t seed, uint64_t masks,
                      char name[64]) {
    coar_status status = COAR_OK;
    run_tables tables = {0};
    uint32_t *group_first = NULL;
    job *j = NULL;
    sampler fresh;
    char alpha_text[NUMBER_SIZE];
    number_format(alpha, alpha_text);
    snprintf(name, 64, "truth-a%s-s%llu", alpha_text, (unsigned long long)seed);
    if (store_has_truth(store, name, masks)) return COAR_OK;
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(run_fresh_sampler(store, &tables, alpha, seed, &group_first, &fresh));
    TRY_GOTO(reopen_job(store, o, &tables, &j));
    TRY_GOTO(run_truth(store, j, o, &fresh, masks, name));
done:
    job_close(j);
    free(group_first);
    run_tables_free(&tables);
    return status;
}
