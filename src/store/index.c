/*
 * index.c - run.h5: rebuilt purely from the parts folder, under a temporary name that is renamed over the old index.
 * Large data stay in the parts: outputs are virtual data sets, everything else external links, both relative.
 * index_write also makes the merged file (merge.c), through another sink.
 * Must not know: how parts are computed.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/internal.h"

#define RUN_FORMAT "coar.run"

/* --------------------------------------------------------------------------------------- index and folder */

coar_status index_contents(const run_store *store, char **text) {
    name_list list;
    TRY(folder_list(store, "", ".h5", &list));
    size_t size = strlen(store->folder_name) + 2;
    for (size_t i = 0; i < list.count; i++) size += strlen(list.names[i]) + 1;
    char *all = malloc(size), *end = all;
    if (all) {
        end = stpcpy(stpcpy(end, store->folder_name), "/");
        for (size_t i = 0; i < list.count; i++) end = stpcpy(stpcpy(end, " "), list.names[i]);
    }
    name_list_free(&list);
    *text = all;
    return all ? COAR_OK : status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->folder);
}

coar_status index_inspect(const char *path, char **contents) {
    coar_status status;
    hid_t file = H5I_INVALID_HID;
    *contents = NULL;
    h5_lock();
    status = h5_open(path, &file);
    if (status == COAR_OK) status = h5_check_format(file, path, RUN_FORMAT, RUN_VERSION_MAJOR);
    if (status == COAR_OK && h5_has_attribute(file, "parts")) status = h5_read_text(file, path, "parts", contents);
    h5_close(&file);
    h5_unlock();
    if (status != COAR_ERROR_INPUT) return status;
    status_clear(); /* the reason matters less than what to do */
    return status_set(COAR_ERROR_EXISTS,
                      "%s: exists and is no run file of this version of coar, or is damaged: give another "
                      "-o, remove it (an index is made again from its folder), or --force to start over",
                      path);
}

coar_status index_refresh(run_store *store) {
    coar_status status = COAR_OK;
    char *have = NULL, *want = NULL;
    TRY(folder_lock(store));
    TRY_GOTO(index_contents(store, &want));
    if (file_exists(store->path)) TRY_GOTO(index_inspect(store->path, &have));
    if (!have || strcmp(have, want)) TRY_GOTO(store_rebuild_index(store));
done:
    folder_unlock(store);
    free(want);
    free(have);
    return status;
}

/* ---------------------------------------------------------------------------------------------- contents */

/* A setting becomes an attribute of its type; one that does not read as a number stays text. */
static coar_status write_setting(hid_t file, const char *path, const setting *s) {
    char *end;
    if (h5_has_attribute(file, s->key)) return COAR_OK; /* of the run, before the same one of a stage */
    errno = 0;
    if (s->type == SETTING_INTEGER && s->value[0] == '-') {
        long long value = strtoll(s->value, &end, 10);
        if (!errno && !*end) return h5_write_signed(file, path, s->key, value);
    } else if (s->type == SETTING_INTEGER && s->value[0]) {
        unsigned long long value = strtoull(s->value, &end, 10);
        if (!errno && !*end) return h5_write_unsigned(file, path, s->key, value);
    } else if (s->type == SETTING_REAL && s->value[0]) {
        double value = number_parse(s->value, &end);
        if (!*end) return h5_write_real(file, path, s->key, value);
    }
    return h5_write_text(file, path, s->key, s->value);
}

/* The settings and the plan of a stage, where it has begun and the file has them not yet. */
static coar_status write_stage(const index_sink *sink, const char *name) {
    coar_status status = COAR_OK;
    document stage = {.plan = NULL};
    char *path = folder_path(sink->store, name);
    if (!path) return COAR_ERROR_MEMORY;
    if (!file_exists(path)) goto done;
    TRY_GOTO(document_read(path, STAGE_FORMAT, &stage));
    for (size_t i = 0; i < stage.settings.count; i++)
        TRY_GOTO(write_setting(sink->file, sink->path, &stage.settings.items[i]));
    if (stage.plan && !h5_has_attribute(sink->file, "plan"))
        TRY_GOTO(h5_write_text(sink->file, sink->path, "plan", stage.plan));
done:
    document_free(&stage);
    free(path);
    return status;
}

static coar_status write_attributes(const index_sink *sink) {
    const setting_list *manifest = &sink->store->manifest.settings;
    TRY(h5_write_format(sink->file, sink->path, RUN_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    for (size_t i = 0; i < manifest->count; i++) TRY(write_setting(sink->file, sink->path, &manifest->items[i]));
    TRY(write_stage(sink, ABLATE_STAGE "0.json"));
    return write_stage(sink, GRADIENTS_STAGE "0.json"); /* of a run without ablations */
}

static coar_status copy_tables(const index_sink *sink) {
    static const char *const objects[] = {"/components", "/examples", "/baseline", "/fill", "/ablations"};
    coar_status status = COAR_OK;
    hid_t tables = H5I_INVALID_HID;
    char *path = folder_path(sink->store, TABLES_FILE);
    if (!path) return COAR_ERROR_MEMORY;
    if (!file_exists(path)) goto done;
    TRY_GOTO(h5_open(path, &tables));
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++)
        if (h5_has(tables, objects[i]))
            H5_TRY(H5Ocopy(tables, objects[i], sink->file, objects[i], H5P_DEFAULT, H5P_DEFAULT), path, objects[i]);
done:
    h5_close(&tables);
    free(path);
    return status;
}

/* Flags of all units, in the numbering of the whole matrix; a block that two parts share has the worse of its two. */
static coar_status write_done(const index_sink *sink, const mask_part *parts, size_t count, bool *have_masks) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    uint8_t *all = NULL, *one = NULL;
    char *path = NULL;
    size_t capacity = 0;
    hsize_t units = 0;
    *have_masks = true;
    for (size_t i = 0; i < count; i++) {
        part_shape shape;
        free(path);
        if (!(path = folder_path(sink->store, parts[i].name))) {
            status = COAR_ERROR_MEMORY;
            goto done;
        }
        TRY_GOTO(part_open(path, &file, &shape));
        if (shape.first_mask != parts[i].first || shape.masks != parts[i].count || shape.first_unit > units) {
            status = status_set(COAR_ERROR_INPUT, "%s: holds other masks or units than its name says", path);
            goto done;
        }
        *have_masks &= shape.has_masks;
        TRY_GOTO(memory_new(shape.units, 1, "flags of units", &one));
        TRY_GOTO(part_read_done(file, path, "/ablations/done", &shape, one));
        TRY_GOTO(memory_grow(&all, &capacity, shape.first_unit + shape.units, 1, "flags of units"));
        for (uint64_t u = 0; u < shape.units; u++) {
            uint8_t *flag = &all[shape.first_unit + u];
            if (shape.first_unit + u >= units || one[u] > *flag) *flag = one[u];
        }
        units = shape.first_unit + shape.units;
        free(one);
        one = NULL;
        h5_close(&file);
    }
    TRY_GOTO(
        part_write_array(sink->file, sink->path, "/ablations/done", H5T_STD_U8LE, H5T_NATIVE_UINT8, 1, &units, all));
done:
    h5_close(&file);
    free(one);
    free(all);
    free(path);
    return status;
}

static coar_status write_ablations(index_sink *sink) {
    coar_status status = COAR_OK;
    mask_part *parts = NULL;
    size_t count = 0;
    run_tables tables = {.groups = NULL};
    bool present, have_masks;
    char name[64];
    TRY_GOTO(folder_mask_parts(sink->store, &parts, &count));
    TRY_GOTO(store_read_tables(sink->store, &tables, &present));
    if (!count) goto done;
    if (!present) {
        status = status_set(COAR_ERROR_INPUT, "%s/" TABLES_FILE ": missing: put it back, or --force to start over",
                            sink->store->folder);
        goto done;
    }
    TRY_GOTO(write_done(sink, parts, count, &have_masks));
    for (size_t o = 0; o < tables.output_count; o++) {
        snprintf(name, sizeof name, "/ablations/%s", tables.output_names[o]);
        TRY_GOTO(sink->matrix(sink, name, parts, count));
    }
    if (have_masks && !tables.given_masks) TRY_GOTO(sink->matrix(sink, "/ablations/masks", parts, count));
    snprintf(name, sizeof name, "/ablations/%s", tables.output_names[0]);
    H5_TRY(H5Lcreate_soft(name, sink->file, "/ablations/outputs", H5P_DEFAULT, H5P_DEFAULT), sink->path,
           "/ablations/outputs");
done:
    run_tables_free(&tables);
    free(parts);
    return status;
}

static coar_status write_edits(index_sink *sink) {
    coar_status status = COAR_OK;
    name_list edits;
    char name[128], part[128];
    TRY(edit_names(sink->store, &edits));
    for (size_t i = 0; i < edits.count && status == COAR_OK; i++) {
        snprintf(part, sizeof part, EDIT_PART "%s.h5", edits.names[i]);
        snprintf(name, sizeof name, "/edits/%s", edits.names[i]);
        status = sink->object(sink, part, name);
    }
    name_list_free(&edits);
    return status;
}

/* Every fit, truth and prediction: the objects of a part that stand alone in the run file. */
static coar_status write_others(index_sink *sink) {
    coar_status status = COAR_OK;
    name_list fits = {NULL, 0, 0}, truths = {NULL, 0, 0};
    run_tables tables = {.groups = NULL};
    evaluation_info *evaluations = NULL;
    size_t evaluation_count = 0;
    bool present;
    char name[256], part[256], group[128];
    double alpha;
    uint64_t seed;
    TRY_GOTO(fit_names(sink->store, &fits));
    for (size_t i = 0; i < fits.count; i++) {
        snprintf(part, sizeof part, "fit-%s.h5", fits.names[i]);
        snprintf(name, sizeof name, "/attributions/%s", fits.names[i]);
        TRY_GOTO(sink->object(sink, part, name));
    }
    TRY_GOTO(store_read_tables(sink->store, &tables, &present));
    TRY_GOTO(folder_list(sink->store, "truth-", ".h5", &truths));
    for (size_t i = 0; i < truths.count; i++) {
        snprintf(name, sizeof name, "%.*s", (int)(strlen(truths.names[i]) - 3), truths.names[i]);
        if (truth_group(name, group, &alpha, &seed) != COAR_OK) {
            status_clear(); /* not one of ours */
            continue;
        }
        for (size_t o = 0; o < tables.output_count; o++) {
            snprintf(name, sizeof name, "%s/%s/truth", group, tables.output_names[o]);
            TRY_GOTO(sink->object(sink, truths.names[i], name));
            snprintf(name, sizeof name, "%s/%s/done", group, tables.output_names[o]);
            TRY_GOTO(sink->object(sink, truths.names[i], name));
        }
    }
    TRY_GOTO(store_list_evaluations(sink->store, &evaluations, &evaluation_count));
    for (size_t i = 0; i < evaluation_count; i++) {
        const evaluation_info *e = &evaluations[i];
        TRY_GOTO(truth_group(e->truth_stage, group, &alpha, &seed));
        predicted_name(e->truth_stage, e->fit, part);
        snprintf(name, sizeof name, "%s/%s/%s", group, e->output, e->fit);
        TRY_GOTO(sink->object(sink, part, name));
    }
done:
    free(evaluations);
    run_tables_free(&tables);
    name_list_free(&truths);
    name_list_free(&fits);
    return status;
}

coar_status index_write(index_sink *sink) {
    TRY(write_attributes(sink));
    TRY(copy_tables(sink));
    TRY(write_ablations(sink));
    TRY(gradients_index(sink));
    TRY(write_others(sink));
    return write_edits(sink);
}

/* -------------------------------------------------------------------------------------------- as links */

/* HDF5 reads % in the file names of virtual data sets as a pattern. */
static void double_percents(const char *name, char *out) {
    for (; *name; name++) {
        *out++ = *name;
        if (*name == '%') *out++ = '%';
    }
    *out = '\0';
}

static coar_status map_source(const index_sink *sink, hid_t creation, hid_t space, const char *name,
                              const mask_part *part, const hsize_t *dims) {
    coar_status status = COAR_OK;
    hid_t source = H5I_INVALID_HID;
    hsize_t start[2] = {part->first, 0}, count[2] = {part->count, dims[1]};
    char *file = string_format("%s/%s", sink->store->folder_name, part->name);
    char *escaped = file ? malloc(2 * strlen(file) + 1) : NULL;
    if (!escaped) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", sink->path);
        goto done;
    }
    double_percents(file, escaped);
    H5_TRY(source = H5Screate_simple(2, count, NULL), sink->path, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL), sink->path, name);
    H5_TRY(H5Pset_virtual(creation, space, escaped, name, source), sink->path, name);
done:
    h5_close(&source);
    free(escaped);
    free(file);
    return status;
}

/* Type and second dimension of an array as the first part has it. */
static coar_status matrix_type(const index_sink *sink, const char *name, const mask_part *parts, hid_t *type,
                               hsize_t *columns) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID;
    hsize_t dims[2];
    char *path = folder_path(sink->store, parts[0].name);
    if (!path) return COAR_ERROR_MEMORY;
    TRY_GOTO(h5_open(path, &file));
    TRY_GOTO(
        h5_open_dataset(file, path, name, 2, strcmp(name, "/ablations/masks") ? H5T_FLOAT : H5T_INTEGER, dims, &id));
    H5_TRY(*type = H5Dget_type(id), path, name);
    *columns = dims[1];
done:
    h5_close(&id);
    h5_close(&file);
    free(path);
    return status;
}

static coar_status link_matrix(index_sink *sink, const char *name, const mask_part *parts, size_t count) {
    coar_status status = COAR_OK;
    hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID, creation = H5I_INVALID_HID, id = H5I_INVALID_HID;
    hsize_t dims[2] = {parts[count - 1].first + parts[count - 1].count, 0};
    const float fill = NAN;
    TRY_GOTO(matrix_type(sink, name, parts, &type, &dims[1]));
    H5_TRY(space = H5Screate_simple(2, dims, NULL), sink->path, name);
    H5_TRY(creation = H5Pcreate(H5P_DATASET_CREATE), sink->path, name);
    H5_TRY(H5Pset_obj_track_times(creation, false), sink->path, name);
    if (H5Tget_class(type) == H5T_FLOAT) H5_TRY(H5Pset_fill_value(creation, H5T_NATIVE_FLOAT, &fill), sink->path, name);
    for (size_t i = 0; i < count; i++) TRY_GOTO(map_source(sink, creation, space, name, &parts[i], dims));
    H5_TRY(H5Sselect_all(space), sink->path, name);
    TRY_GOTO(part_create_groups(sink->file, sink->path, name));
    H5_TRY(id = H5Dcreate2(sink->file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT), sink->path, name);
done:
    h5_close(&id);
    h5_close(&creation);
    h5_close(&space);
    h5_close(&type);
    return status;
}

static coar_status link_object(index_sink *sink, const char *part, const char *name) {
    coar_status status = COAR_OK;
    char *file = string_format("%s/%s", sink->store->folder_name, part);
    if (!file) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", sink->path);
    TRY_GOTO(part_create_groups(sink->file, sink->path, name));
    H5_TRY(H5Lcreate_external(file, name, sink->file, name, H5P_DEFAULT, H5P_DEFAULT), sink->path, name);
done:
    free(file);
    return status;
}

static coar_status rebuild(run_store *store, const char *temporary) {
    coar_status status = COAR_OK;
    char *contents = NULL;
    index_sink sink = {
        .store = store, .path = temporary, .file = H5I_INVALID_HID, .matrix = link_matrix, .object = link_object};
    TRY_GOTO(index_contents(store, &contents));
    TRY_GOTO(h5_create(temporary, &sink.file));
    TRY_GOTO(index_write(&sink));
    TRY_GOTO(h5_write_text(sink.file, temporary, "parts", contents));
    TRY_GOTO(h5_finish(&sink.file, temporary));
    TRY_GOTO(file_commit(temporary, store->path));
done:
    h5_close(&sink.file);
    free(contents);
    return status;
}

coar_status store_rebuild_index(run_store *store) {
    char *temporary = file_temporary(store->path);
    if (!temporary) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->path);
    coar_status status = folder_lock(store);
    if (status == COAR_OK) {
        h5_lock();
        status = rebuild(store, temporary);
        h5_unlock();
        if (status != COAR_OK) unlink(temporary);
        folder_unlock(store);
    }
    free(temporary);
    return status;
}
