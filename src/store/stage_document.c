/*
 * stage_document.c - STAGE.json: the settings and the numerics plan that a stage began with, and is held to.
 * Must not know: units, journals.
 */
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/format.h"
#include "core/memory.h"
#include "store/internal.h"

#define PLAN_MAX (16u << 20) /* bytes; plans have some kilobytes */

coar_status stage_names(const run_store *store, name_list *out) {
    name_list list;
    TRY(folder_list(store, "", ".json", &list));
    size_t kept = 0;
    for (size_t i = 0; i < list.count; i++) {
        char *name = list.names[i];
        const size_t length = strlen(name) - strlen(".json");
        const bool manifest = !strcmp(name, RUN_MANIFEST);
        name[length] = '\0';
        if (!manifest && name_check("stage", name) == COAR_OK) {
            list.names[kept++] = name;
        } else {
            if (!manifest) status_clear(); /* not one of ours */
            free(name);
        }
    }
    list.count = kept;
    *out = list;
    return COAR_OK;
}

static char *stage_json_path(run_store *store, const char *name) {
    return string_format("%s/%s.json", store->folder, name);
}

coar_status store_stage_plan(run_store *store, const char *name, char **plan_json) {
    TRY(name_check("stage", name));
    char *path = stage_json_path(store, name);
    document d = {.plan = NULL};
    coar_status status = COAR_OK;
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->folder);
    if (file_exists(path)) status = document_read(path, STAGE_FORMAT, &d);
    if (status == COAR_OK) {
        *plan_json = d.plan;
        d.plan = NULL;
    }
    document_free(&d);
    free(path);
    return status;
}

coar_status store_existing_plan(const char *path, char **plan_json) {
    run_store at = {.folder = string_format("%s.parts", path)};
    if (!at.folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    coar_status status = store_stage_plan(&at, ABLATE_STAGE "0", plan_json);
    if (status == COAR_OK && !*plan_json) status = store_stage_plan(&at, GRADIENTS_STAGE "0", plan_json);
    free(at.folder);
    return status;
}

/* The plan that a run file without its folder carries. */
static coar_status plan_attribute(const char *path, char **plan_json) {
    hid_t file = H5I_INVALID_HID;
    h5_lock();
    coar_status status = h5_open(path, &file);
    if (status == COAR_OK) status = h5_read_text(file, path, "plan", plan_json);
    h5_close(&file);
    h5_unlock();
    return status;
}

coar_status store_plan_file(const char *path, char **plan_json) {
    file_map map;
    char *plan = NULL;
    TRY(file_map_open(path, &map));
    bool hdf5 = format_is_hdf5(map.data, map.size);
    coar_status status = COAR_OK;
    if (hdf5)
        status = store_existing_plan(path, &plan);
    else if (map.size > PLAN_MAX || !(plan = strndup(map.data ? (const char *)map.data : "", map.size)))
        status = status_set(COAR_ERROR_INPUT, "%s: too large to be a numerics plan", path);
    file_map_close(&map);
    if (status == COAR_OK && !plan) status = plan_attribute(path, &plan);
    if (status == COAR_OK) *plan_json = plan;
    return status;
}

coar_status store_stage_compare(run_store *store, const char *name, const setting *settings, size_t count) {
    document d = {.plan = NULL};
    char *path = stage_json_path(store, name);
    coar_status status = COAR_OK;
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->folder);
    if (file_exists(path)) status = document_read(path, STAGE_FORMAT, &d);
    if (status == COAR_OK && file_exists(path)) status = settings_compare(store->path, &d.settings, settings, count);
    document_free(&d);
    free(path);
    return status;
}

static int hex_digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

coar_status stage_settle(store_stage *stage, const stage_options *options) {
    coar_status status = COAR_OK;
    document d = {.plan = NULL};
    bool written;
    char *path = stage_json_path(stage->store, stage->name);
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", stage->store->folder);
    if (!file_exists(path)) {
        TRY_GOTO(document_create(path, STAGE_FORMAT, options->settings, options->setting_count, options->plan_json,
                                 &written));
        TRY_GOTO(folder_sync(stage->store));
    }
    TRY_GOTO(document_read(path, STAGE_FORMAT, &d));
    TRY_GOTO(settings_compare(stage->store->path, &d.settings, options->settings, options->setting_count));
    if (options->plan_json && (!d.plan || strcmp(options->plan_json, d.plan))) {
        status =
            status_set(COAR_ERROR_MISMATCH,
                       "%s: the numerics plan differs from the one stage %s began with (%s): take it over with --plan "
                       "%s, or --force to start over",
                       stage->store->path, stage->name, path, stage->store->path);
        goto done;
    }
    for (int i = 0; i < 16; i++)
        stage->header.identity[i] = (uint8_t)(hex_digit(d.identity[2 * i]) << 4 | hex_digit(d.identity[2 * i + 1]));
done:
    document_free(&d);
    free(path);
    return status;
}
