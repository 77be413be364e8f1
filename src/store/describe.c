/*
 * describe.c - what is in a run file (an index or a merged one), as a JSON document.
 * Must not know: how any of it was computed, how it is shown.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/internal.h"

typedef struct description {
    const char *path;
    hid_t file;
    cJSON *root;
} description;

/* ----------------------------------------------------------------------------------- attributes and tables */

/* An attribute as text, whatever its type; NULL for one that is no scalar text or number. */
static char *attribute_text(hid_t object, const char *path, const char *name) {
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT),
          type = attribute >= 0 ? H5Aget_type(attribute) : H5I_INVALID_HID;
    H5T_class_t class = type >= 0 ? H5Tget_class(type) : H5T_NO_CLASS;
    bool negative = class == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
    char *text = NULL;
    uint64_t integer;
    double real;
    h5_close(&type);
    h5_close(&attribute);
    if (class == H5T_STRING && h5_read_text(object, path, name, &text) == COAR_OK) return text;
    if (class == H5T_INTEGER && h5_read_unsigned(object, path, name, &integer) == COAR_OK)
        return negative ? string_format("%" PRId64, (int64_t)integer) : string_format("%" PRIu64, integer);
    if (class == H5T_FLOAT && h5_read_real(object, path, name, &real) == COAR_OK) {
        char number[NUMBER_SIZE];
        number_format(real, number);
        return strdup(number);
    }
    status_clear();
    return NULL;
}

static herr_t add_attribute(hid_t object, const char *name, const H5A_info_t *info, void *data) {
    description *d = data;
    (void)info;
    char *text = attribute_text(object, d->path, name);
    if (text && strcmp(name, "parts") && strcmp(name, "plan"))
        cJSON_AddStringToObject(cJSON_GetObjectItem(d->root, "settings"), name, text);
    free(text);
    return 0;
}

/* dims of a data set; false when it is not there. */
static bool shape_of(const description *d, const char *name, int rank, hsize_t *dims) {
    hid_t id = H5I_INVALID_HID, space = H5I_INVALID_HID;
    bool good = h5_has(d->file, name) && (id = H5Dopen2(d->file, name, H5P_DEFAULT)) >= 0 &&
                (space = H5Dget_space(id)) >= 0 && H5Sget_simple_extent_ndims(space) == rank &&
                H5Sget_simple_extent_dims(space, dims, NULL) == rank;
    h5_close(&space);
    h5_close(&id);
    return good;
}

static void add_tables(description *d, const run_tables *tables) {
    cJSON *components = cJSON_AddObjectToObject(d->root, "components"), *groups, *outputs;
    cJSON_AddNumberToObject(components, "count", tables->components);
    groups = cJSON_AddArrayToObject(components, "groups");
    for (size_t g = 0; g < tables->group_count; g++) {
        const store_group *row = &tables->groups[g];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", row->name);
        cJSON_AddStringToObject(item, "kind", row->kind);
        cJSON_AddStringToObject(item, "layer", row->layer);
        cJSON_AddNumberToObject(item, "first", row->first);
        cJSON_AddNumberToObject(item, "count", row->count);
        cJSON_AddItemToArray(groups, item);
    }
    cJSON_AddNumberToObject(d->root, "examples", (double)tables->examples);
    outputs = cJSON_AddArrayToObject(d->root, "outputs");
    for (size_t o = 0; o < tables->output_count; o++)
        cJSON_AddItemToArray(outputs, cJSON_CreateString(tables->output_names[o]));
}

/* ----------------------------------------------------------------- fits, edits, gradients and evaluations */

/* A fit or an edit: a group's name and some of its attributes (NULL at the end), into a list of the document. */
static void add_part(description *d, const char *list, hid_t group, const char *name, const char *const *keys) {
    hid_t part = h5_has(group, name) ? H5Gopen2(group, name, H5P_DEFAULT) : H5I_INVALID_HID;
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "name", name);
    for (; *keys && part >= 0; keys++) {
        char *text = attribute_text(part, d->path, *keys);
        cJSON_AddStringToObject(item, *keys, text ? text : "?");
        free(text);
    }
    if (part < 0) cJSON_AddBoolToObject(item, "missing", true); /* its file is gone */
    cJSON_AddItemToArray(cJSON_GetObjectItem(d->root, list), item);
    h5_close(&part);
}

static herr_t add_fit(hid_t group, const char *name, const H5L_info_t *info, void *data) {
    static const char *const keys[] = {"estimator", "output", "masks", NULL};
    (void)info;
    add_part(data, "fits", group, name, keys);
    return 0;
}

static herr_t add_edit(hid_t group, const char *name, const H5L_info_t *info, void *data) {
    static const char *const keys[] = {"method", "fit", "output", "direction", "k", NULL};
    (void)info;
    add_part(data, "edits", group, name, keys);
    return 0;
}

static herr_t add_gradients(hid_t group, const char *name, const H5L_info_t *info, void *data) {
    description *d = data;
    (void)info;
    hid_t output = h5_has(group, name) ? H5Gopen2(group, name, H5P_DEFAULT) : H5I_INVALID_HID;
    char *passes = output >= 0 ? attribute_text(output, d->path, "passes") : NULL;
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "output", name);
    cJSON_AddStringToObject(item, "passes", passes ? passes : "?");
    if (output < 0) cJSON_AddBoolToObject(item, "missing", true); /* gradients.h5 is gone */
    cJSON_AddItemToArray(cJSON_GetObjectItem(d->root, "gradients"), item);
    free(passes);
    h5_close(&output);
    return 0;
}

static herr_t add_evaluation(hid_t group, const char *name, const H5L_info_t *info, void *data) {
    description *d = data;
    (void)group;
    (void)info;
    hsize_t dims[2];
    char object[512];
    cJSON *item = cJSON_CreateObject(), *outputs = cJSON_GetObjectItem(d->root, "outputs");
    cJSON_AddStringToObject(item, "name", name);
    const char *output = cJSON_GetStringValue(cJSON_GetArrayItem(outputs, 0));
    snprintf(object, sizeof object, "/evaluation/%s/%s/truth", name, output ? output : "");
    if (shape_of(d, object, 2, dims)) cJSON_AddNumberToObject(item, "masks", (double)dims[0]);
    cJSON_AddItemToArray(cJSON_GetObjectItem(d->root, "evaluations"), item);
    return 0;
}

static void add_list(description *d, const char *key, const char *group, H5L_iterate_t visit) {
    cJSON_AddArrayToObject(d->root, key);
    if (h5_has(d->file, group))
        H5Literate_by_name(d->file, group, H5_INDEX_NAME, H5_ITER_INC, NULL, visit, d, H5P_DEFAULT);
}

/* --------------------------------------------------------------------------------------------- stages */

static coar_status add_stage(run_store *store, cJSON *stages, const char *name) {
    coar_status status = COAR_OK;
    name_list journals = {NULL, 0, 0};
    stage_progress progress = {.steps = NULL};
    char prefix[NAME_SIZE + 1];
    uint64_t finished = 0, live = 0;
    TRY_GOTO(stage_masks_finished(store, name, &finished));
    TRY_GOTO(stage_progress_read(store, name, finished, &progress));
    snprintf(prefix, sizeof prefix, "%s.", name);
    TRY_GOTO(folder_list(store, prefix, ".journal", &journals));
    for (size_t i = 0; i < journals.count; i++) live += liveness_journal(store, journals.names[i]);
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "name", name);
    cJSON_AddNumberToObject(
        item, strncmp(name, GRADIENTS_STAGE, strlen(GRADIENTS_STAGE)) ? "masks_finished" : "passes_finished",
        (double)finished);
    cJSON_AddNumberToObject(item, "units_in_journals", (double)progress.done);
    cJSON_AddNumberToObject(item, "units", (double)progress.units);
    cJSON_AddNumberToObject(item, "processes", (double)live);
    cJSON_AddItemToArray(stages, item);
done:
    name_list_free(&journals);
    free(progress.steps);
    return status;
}

static coar_status add_stages(description *d, run_store *store) {
    coar_status status = COAR_OK;
    name_list list;
    cJSON *stages = cJSON_AddArrayToObject(d->root, "stages");
    TRY(stage_names(store, &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) status = add_stage(store, stages, list.names[i]);
    name_list_free(&list);
    return status;
}

/* ------------------------------------------------------------------------------------------------- whole */

/* Tables from the file itself: a merged one has no folder. */
static coar_status describe_file(description *d) {
    hsize_t dims[2];
    run_tables tables = {.groups = NULL};
    cJSON_AddObjectToObject(d->root, "settings");
    H5Aiterate2(d->file, H5_INDEX_NAME, H5_ITER_INC, NULL, add_attribute, d);
    if (h5_has(d->file, "/components")) {
        TRY(tables_read_objects(d->file, d->path, &tables));
        add_tables(d, &tables);
        run_tables_free(&tables);
    }
    cJSON_AddNumberToObject(d->root, "masks", shape_of(d, "/ablations/outputs", 2, dims) ? (double)dims[0] : 0);
    add_list(d, "gradients", "/gradients", add_gradients);
    add_list(d, "fits", "/attributions", add_fit);
    add_list(d, "evaluations", "/evaluation", add_evaluation);
    add_list(d, "edits", "/edits", add_edit);
    return COAR_OK;
}

coar_status store_describe(const char *path, cJSON **root) {
    coar_status status = COAR_OK;
    run_store *store = NULL;
    description d = {.path = path, .file = H5I_INVALID_HID, .root = cJSON_CreateObject()};
    char *contents = NULL, *parts = string_format("%s.parts/manifest.json", path);
    if (!parts || !d.root) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    if (file_exists(parts)) TRY_GOTO(store_open(path, &store));
    TRY_GOTO(index_inspect(path, &contents));
    cJSON_AddStringToObject(d.root, "kind", "run");
    cJSON_AddStringToObject(d.root, "path", path);
    cJSON_AddBoolToObject(d.root, "merged", !contents);
    h5_lock();
    status = h5_open(path, &d.file);
    if (status == COAR_OK) status = describe_file(&d);
    h5_close(&d.file);
    h5_unlock();
    TRY_GOTO(status);
    if (store) TRY_GOTO(add_stages(&d, store));
    *root = d.root;
    d.root = NULL;
done:
    store_close(store);
    free(parts);
    free(contents);
    cJSON_Delete(d.root);
    return status;
}
