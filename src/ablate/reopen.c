/* reopen.c - see reopen.h. */
#include "ablate/reopen.h"

#include <stdlib.h>
#include <string.h>

#include "core/files.h"

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

coar_status reopen_check(run_store *store, const coar_evaluate_options *o) {
    const char *given = o->backend;
    const char *stored = store_setting(store, "backend");
    if (!given || (stored && !strcmp(given, stored))) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH, "%s: --backend is %s, but the run was made with %s: leave --backend out",
                      store_path(store), given, stored ? stored : "none");
}

/* What the run says of its job, with the files and the plan found already. */
static job_options stored_options(run_store *store, const coar_evaluate_options *o, const run_tables *tables,
                                  const char *model, const char *data, const char *classes, const char *plan) {
    return (job_options){.model = model,
                         .data = data,
                         .classes = classes,
                         .arch = optional(store, "arch_options"),
                         .outputs = store_setting(store, "outputs"),
                         .ablation = store_setting(store, "ablation"),
                         .components = store_setting(store, "components"),
                         .only = optional(store, "only"),
                         .except = optional(store, "except"),
                         .backend = store_setting(store, "backend"),
                         .precision = plan ? NULL : "fp32",
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

coar_status reopen_job(run_store *store, const coar_evaluate_options *o, const char *plan, run_tables *tables,
                       job **out) {
    coar_status status;
    char *model = NULL, *data = NULL, *classes = NULL;
    job *j = NULL;
    char hash[65];
    TRY_GOTO(locate(store, o->model, "model_path", &model));
    TRY_GOTO(file_sha256(model, hash)); /* before the weights are taken for something they are not */
    TRY_GOTO(check_same(store, "model_sha256", model, hash));
    TRY_GOTO(locate(store, o->data, "data_path", &data));
    if (o->classes || store_setting(store, "classes_path")) {
        TRY_GOTO(locate(store, o->classes, "classes_path", &classes));
        TRY_GOTO(file_sha256(classes, hash));
        TRY_GOTO(check_same(store, "classes_sha256", classes, hash));
    }
    const job_options options = stored_options(store, o, tables, model, data, classes, plan);
    TRY_GOTO(job_open(&options, &j));
    TRY_GOTO(check_same(store, "data_sha256", data, j->data->sha256));
    TRY_GOTO(job_take_means(j, &tables->fill, tables->fill_count, store_path(store)));
    *out = j;
    j = NULL;
done:
    job_close(j);
    free(classes);
    free(data);
    free(model);
    return status;
}
