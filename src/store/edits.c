/*
 * edits.c - edit-NAME.h5: one edit, written whole and read back. One list of its arrays serves both ways (move_all).
 * Must not know: how components are chosen or examples measured.
 */
#include "store/edits.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define EDIT_FORMAT "coar.edit"

static const char *const set_names[EDIT_SETS] = {"target", "reference", "validation", "test", "target_test"};

static void examples_free(edit_examples *e) {
    free(e->spec);
    free(e->data_path);
    free(e->rows);
    free(e->labels);
    free(e->groups);
    free(e->before);
    free(e->after);
    free(e->margin_before);
    free(e->margin_after);
    free(e->shown_at);
    free(e->predicted_before);
    free(e->predicted_after);
    free(e->scores);
}

void edit_record_free(edit_record *r) {
    for (size_t i = 0; i < EDIT_SETS; i++) examples_free(&r->sets[i]);
    for (size_t i = 0; r->comparisons && i < r->comparison_count; i++) {
        free(r->comparisons[i].values);
        free(r->comparisons[i].order);
    }
    for (size_t i = 0; i < EDIT_SWEPT; i++) free(r->sweep[i]);
    free(r->comparisons);
    free(r->command);
    free(r->scores);
    free(r->order);
    free(r->sweep_k);
    free(r->pair_label);
    free(r->pair_group);
    free(r->pair_count);
    free(r->pair_sweep);
    free(r->pair_test);
    *r = (edit_record){.k = 0};
}

/* ------------------------------------------------------------------------------------------ arrays, both ways */

typedef enum array_type { U32, I32, U64, F32, F64 } array_type;

/* A file being written or read. */
typedef struct mover {
    hid_t file;
    const char *path;
    bool writing;
    char group[160]; /* "/edits/NAME", and the group below it that is at hand */
} mover;

static size_t element_size(array_type type) {
    return type == U64 || type == F64 ? 8 : 4;
}

static hid_t file_type(array_type type) {
    switch (type) {
    case U32:
        return H5T_STD_U32LE;
    case I32:
        return H5T_STD_I32LE;
    case U64:
        return H5T_STD_U64LE;
    case F32:
        return H5T_IEEE_F32LE;
    case F64:
        break;
    }
    return H5T_IEEE_F64LE;
}

static hid_t memory_type(array_type type) {
    switch (type) {
    case U32:
        return H5T_NATIVE_UINT32;
    case I32:
        return H5T_NATIVE_INT32;
    case U64:
        return H5T_NATIVE_UINT64;
    case F32:
        return H5T_NATIVE_FLOAT;
    case F64:
        break;
    }
    return H5T_NATIVE_DOUBLE;
}

/* Allocated only once the file has shown that it is of this shape. */
static coar_status read_array(const mover *m, const char *name, array_type type, int rank, const hsize_t *dims,
                              void **data) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t own[2] = {0, 0};
    size_t count;
    TRY_GOTO(
        h5_open_dataset(m->file, m->path, name, rank, type == F32 || type == F64 ? H5T_FLOAT : H5T_INTEGER, own, &id));
    if (own[0] != dims[0] || (rank == 2 && own[1] != dims[1]))
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong shape", m->path, name));
    if (!size_mul((size_t)own[0], rank == 2 ? (size_t)own[1] : 1, &count)) count = SIZE_MAX; /* memory_new says so */
    TRY_GOTO(memory_new(count, element_size(type), "an edit", data));
    H5_TRY(H5Dread(id, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, *data), m->path, name);
done:
    h5_close(&id);
    return status;
}

/* [rows] or, with columns, [rows][columns] to the file or from it; nothing for an array without elements. */
static coar_status move_array(const mover *m, const char *leaf, array_type type, uint64_t rows, uint64_t columns,
                              void *data_pointer) {
    char name[256];
    void **data = data_pointer;
    const int rank = columns ? 2 : 1;
    const hsize_t dims[2] = {rows, columns};
    snprintf(name, sizeof name, "%s/%s", m->group, leaf);
    if (!rows) return COAR_OK;
    if (!m->writing) return read_array(m, name, type, rank, dims, data);
    return part_write_array(m->file, m->path, name, file_type(type), memory_type(type), rank, dims, *data);
}

/* Whether the array is there: in the record that is written, or in the file. */
static bool has_array(const mover *m, const char *leaf, const void *data) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", m->group, leaf);
    return m->writing ? data != NULL : h5_has(m->file, name);
}

/* Numbers that were read, and that others are looked up by, must be below `end`. */
static coar_status check_below(const mover *m, const char *leaf, const uint32_t *values, size_t count, uint32_t end) {
    for (size_t i = 0; i < count && !m->writing; i++)
        if (values[i] >= end)
            return status_set(COAR_ERROR_INPUT, "%s: '%s/%s' holds %u: it must be below %u", m->path, m->group, leaf,
                              values[i], end);
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------- attributes, both ways */

/* The group at hand, created where it is missing in a file that is written. */
static coar_status open_group(const mover *m, hid_t *group) {
    coar_status status = COAR_OK;
    char name[192];
    snprintf(name, sizeof name, "%s/", m->group);
    if (m->writing) TRY_GOTO(part_create_groups(m->file, m->path, name));
    H5_TRY(*group = H5Gopen2(m->file, m->group, H5P_DEFAULT), m->path, m->group);
done:
    return status;
}

static coar_status move_text(const mover *m, hid_t group, const char *name, char *text, size_t size) {
    char *stored = NULL;
    if (m->writing) return h5_write_text(group, m->path, name, text);
    TRY(h5_read_text(group, m->path, name, &stored));
    const bool fits = strlen(stored) < size;
    if (fits) memcpy(text, stored, strlen(stored) + 1);
    free(stored);
    return fits ? COAR_OK : status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is too long", m->path, name);
}

/* malloc'ed text; NULL is written as "". */
static coar_status move_long_text(const mover *m, hid_t group, const char *name, char **text) {
    if (m->writing) return h5_write_text(group, m->path, name, *text ? *text : "");
    return h5_read_text(group, m->path, name, text);
}

static coar_status move_number(const mover *m, hid_t group, const char *name, uint64_t most, uint64_t *value) {
    if (m->writing) return h5_write_unsigned(group, m->path, name, *value);
    TRY(h5_read_unsigned(group, m->path, name, value));
    if (*value <= most) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is %" PRIu64 ": at most %" PRIu64 " is possible", m->path,
                      name, *value, most);
}

static coar_status move_size(const mover *m, hid_t group, const char *name, uint64_t most, size_t *value) {
    uint64_t number = *value;
    TRY(move_number(m, group, name, most, &number));
    *value = (size_t)number;
    return COAR_OK;
}

static coar_status move_u32(const mover *m, hid_t group, const char *name, uint64_t most, uint32_t *value) {
    uint64_t number = *value;
    TRY(move_number(m, group, name, most, &number));
    *value = (uint32_t)number;
    return COAR_OK;
}

static coar_status move_real(const mover *m, hid_t group, const char *name, double *value) {
    return m->writing ? h5_write_real(group, m->path, name, *value) : h5_read_real(group, m->path, name, value);
}

/* What a listing of edits needs too. */
static coar_status move_identity(const mover *m, hid_t group, edit_info *info) {
    TRY(move_text(m, group, "method", info->method, sizeof info->method));
    TRY(move_text(m, group, "fit", info->fit, sizeof info->fit));
    TRY(move_text(m, group, "output", info->output, sizeof info->output));
    TRY(move_text(m, group, "direction", info->direction, sizeof info->direction));
    return move_u32(m, group, "k", UINT32_MAX, &info->k);
}

/* No group has more than 8 attributes: HDF5 1.10 crashes when it copies texts among more (coar merge). */
static coar_status move_header(const mover *m, edit_record *r) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    edit_info info = {.k = r->k};
    memcpy(info.method, r->method, sizeof info.method);
    memcpy(info.fit, r->fit, sizeof info.fit);
    memcpy(info.output, r->output, sizeof info.output);
    memcpy(info.direction, r->direction, sizeof info.direction);
    TRY_GOTO(open_group(m, &group));
    TRY_GOTO(move_identity(m, group, &info));
    TRY_GOTO(move_long_text(m, group, "command", &r->command));
    TRY_GOTO(move_u32(m, group, "components", UINT32_MAX, &r->components));
    TRY_GOTO(move_size(m, group, "order_count", r->components, &r->order_count));
    if (info.k > r->order_count)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: attribute 'k' is more than the components in its order", m->path));
    r->k = info.k;
    memcpy(r->method, info.method, sizeof r->method);
    memcpy(r->fit, info.fit, sizeof r->fit);
    memcpy(r->output, info.output, sizeof r->output);
    memcpy(r->direction, info.direction, sizeof r->direction);
done:
    h5_close(&group);
    return status;
}

static coar_status move_sweep(const mover *m, edit_record *r) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    uint32_t classes = r->has_classes;
    TRY_GOTO(open_group(m, &group));
    TRY_GOTO(move_u32(m, group, "max_k", r->components, &r->max_k));
    TRY_GOTO(move_u32(m, group, "stopped", r->components, &r->stopped));
    TRY_GOTO(move_u32(m, group, "has_classes", 1, &classes));
    TRY_GOTO(move_size(m, group, "points", (uint64_t)r->components + 1, &r->points));
    TRY_GOTO(move_size(m, group, "pairs", UINT32_MAX, &r->pairs));
    TRY_GOTO(move_real(m, group, "select", &r->select));
    TRY_GOTO(move_real(m, group, "until", &r->until));
    TRY_GOTO(move_real(m, group, "harm_weight", &r->harm_weight));
    r->has_classes = classes;
    TRY_GOTO(move_array(m, "k", U32, r->points, 0, &r->sweep_k));
    for (size_t i = 0; i < EDIT_SWEPT; i++)
        TRY_GOTO(move_array(m, set_names[i], F64, r->points, EDIT_COLUMNS, &r->sweep[i]));
    TRY_GOTO(move_array(m, "pairs", F64, r->pairs ? r->points : 0, r->pairs, &r->pair_sweep));
done:
    h5_close(&group);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the whole edit */

static coar_status move_examples(mover *m, edit_examples *e) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    const uint64_t most = (uint64_t)1 << 40;
    TRY_GOTO(open_group(m, &group));
    TRY_GOTO(move_long_text(m, group, "spec", &e->spec));
    TRY_GOTO(move_long_text(m, group, "data_path", &e->data_path));
    TRY_GOTO(move_text(m, group, "data_sha256", e->data_sha256, sizeof e->data_sha256));
    TRY_GOTO(move_size(m, group, "examples", most, &e->count));
    if (!e->count) goto done;
    TRY_GOTO(move_size(m, group, "shown", e->count, &e->shown));
    TRY_GOTO(move_array(m, "index", U64, e->count, 0, &e->rows));
    TRY_GOTO(move_array(m, "label", I32, e->count, 0, &e->labels));
    if (has_array(m, "group", e->groups)) TRY_GOTO(move_array(m, "group", I32, e->count, 0, &e->groups));
    TRY_GOTO(move_array(m, "before", F32, e->count, 0, &e->before));
    TRY_GOTO(move_array(m, "after", F32, e->count, 0, &e->after));
    if (has_array(m, "margin_before", e->margin_before)) {
        TRY_GOTO(move_array(m, "margin_before", F32, e->count, 0, &e->margin_before));
        TRY_GOTO(move_array(m, "margin_after", F32, e->count, 0, &e->margin_after));
    }
    TRY_GOTO(move_array(m, "shown", U64, e->shown, 0, &e->shown_at));
    TRY_GOTO(move_array(m, "predicted_before", I32, e->shown, 0, &e->predicted_before));
    TRY_GOTO(move_array(m, "predicted_after", I32, e->shown, 0, &e->predicted_after));
    TRY_GOTO(move_array(m, "scores", F64, 2, EDIT_COLUMNS, &e->scores));
    for (size_t i = 0; i < e->shown && !m->writing; i++)
        if (e->shown_at[i] >= e->count)
            TRY_GOTO(
                status_set(COAR_ERROR_INPUT, "%s: '%s/shown' names an example that is not there", m->path, m->group));
done:
    h5_close(&group);
    return status;
}

/* The names in `comparison`, in the order in which they were made: their group keeps none. */
static coar_status move_comparisons(mover *m, const char *edit, edit_record *r) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    snprintf(m->group, sizeof m->group, "/edits/%s/comparison", edit);
    TRY_GOTO(open_group(m, &group));
    TRY_GOTO(move_size(m, group, "methods", 1000, &r->comparison_count));
    if (!m->writing) TRY_GOTO(memory_new(r->comparison_count, sizeof *r->comparisons, "an edit", &r->comparisons));
    for (size_t i = 0; i < r->comparison_count; i++) {
        edit_comparison *c = &r->comparisons[i];
        h5_close(&group);
        snprintf(m->group, sizeof m->group, "/edits/%s/comparison/%zu", edit, i);
        TRY_GOTO(open_group(m, &group));
        TRY_GOTO(move_text(m, group, "method", c->method, sizeof c->method));
        TRY_GOTO(move_array(m, "values", F64, 4, 3, &c->values));
        TRY_GOTO(move_array(m, "order", U32, r->k, 0, &c->order));
        TRY_GOTO(check_below(m, "order", c->order, r->k, r->components));
    }
done:
    h5_close(&group);
    return status;
}

static coar_status move_all(mover *m, const char *name, edit_record *r) {
    snprintf(m->group, sizeof m->group, "/edits/%s", name);
    TRY(move_header(m, r));
    TRY(move_array(m, "scores", F64, r->components, 0, &r->scores));
    TRY(move_array(m, "order", U32, r->order_count, 0, &r->order));
    TRY(check_below(m, "order", r->order, r->order_count, r->components));
    snprintf(m->group, sizeof m->group, "/edits/%s/sweep", name);
    TRY(move_sweep(m, r));
    snprintf(m->group, sizeof m->group, "/edits/%s", name);
    TRY(move_array(m, "pairs/label", I32, r->pairs, 0, &r->pair_label));
    TRY(move_array(m, "pairs/group", I32, r->pairs, 0, &r->pair_group));
    TRY(move_array(m, "pairs/examples", U64, r->pairs ? 2 : 0, r->pairs, &r->pair_count));
    TRY(move_array(m, "pairs/test", F64, r->pairs ? 2 : 0, r->pairs, &r->pair_test));
    for (size_t i = 0; i < EDIT_SETS; i++) {
        snprintf(m->group, sizeof m->group, "/edits/%s/%s", name, set_names[i]);
        TRY(move_examples(m, &r->sets[i]));
    }
    return move_comparisons(m, name, r);
}

/* ---------------------------------------------------------------------------------------------------- writing */

static void part_name(const char *name, char part[NAME_SIZE + 16]) {
    snprintf(part, NAME_SIZE + 16, EDIT_PART "%s.h5", name);
}

coar_status store_check_edit(run_store *store, const char *name, bool force) {
    char part[NAME_SIZE + 16], *path;
    TRY(name_check("--name", name));
    part_name(name, part);
    if (!(path = folder_path(store, part))) return COAR_ERROR_MEMORY;
    const bool there = file_exists(path);
    free(path);
    if (!there || force) return COAR_OK;
    return status_set(COAR_ERROR_EXISTS, "%s: edit '%s' exists already: give another --name, or --force to replace it",
                      store->path, name);
}

static coar_status write_file(const char *path, const void *context) {
    coar_status status = COAR_OK;
    const edit_record *record = context;
    mover m = {.file = H5I_INVALID_HID, .path = path, .writing = true};
    edit_record copy = *record; /* the list of arrays goes both ways; this way it changes nothing */
    TRY_GOTO(h5_create(path, &m.file));
    TRY_GOTO(h5_write_format(m.file, path, EDIT_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    TRY_GOTO(move_all(&m, record->name, &copy));
    TRY_GOTO(h5_finish(&m.file, path));
done:
    h5_close(&m.file);
    return status;
}

coar_status store_write_edit(run_store *store, const edit_record *record, bool force) {
    char part[NAME_SIZE + 16];
    TRY(folder_lock(store));
    coar_status status = store_check_edit(store, record->name, force);
    part_name(record->name, part);
    if (status == COAR_OK) status = folder_put(store, part, write_file, record);
    folder_unlock(store);
    return status;
}

coar_status store_discard_stages(run_store *store, const char *prefix) {
    name_list list;
    coar_status status = COAR_OK;
    TRY(folder_list(store, prefix, ".json", &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        list.names[i][strlen(list.names[i]) - strlen(".json")] = '\0';
        status = store_discard_stage(store, list.names[i]);
        if (status != COAR_ERROR_BUSY) continue;
        status_clear(); /* another edit at work */
        status = COAR_OK;
    }
    name_list_free(&list);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- reading */

coar_status edit_names(const run_store *store, name_list *out) {
    return part_names(store, EDIT_PART, out);
}

static coar_status open_part(const run_store *store, const char *name, char **path, mover *m) {
    char part[NAME_SIZE + 16];
    TRY(name_check("edit", name));
    part_name(name, part);
    if (!(*path = folder_path(store, part))) return COAR_ERROR_MEMORY;
    if (!file_exists(*path)) return status_set(COAR_ERROR_INPUT, "%s: has no edit '%s'", store->path, name);
    *m = (mover){.path = *path, .file = H5I_INVALID_HID};
    TRY(h5_open(*path, &m->file));
    return h5_check_format(m->file, *path, EDIT_FORMAT, RUN_VERSION_MAJOR);
}

coar_status store_read_edit(run_store *store, const char *name, edit_record *out) {
    coar_status status = COAR_OK;
    mover m = {.file = H5I_INVALID_HID};
    edit_record record = {.k = 0};
    char *path = NULL;
    h5_lock();
    TRY_GOTO(open_part(store, name, &path, &m));
    snprintf(record.name, sizeof record.name, "%s", name);
    TRY_GOTO(move_all(&m, name, &record));
    *out = record;
    record = (edit_record){.k = 0};
done:
    h5_close(&m.file);
    h5_unlock();
    edit_record_free(&record);
    free(path);
    return status;
}

static coar_status read_info(const run_store *store, const char *name, edit_info *info) {
    coar_status status = COAR_OK;
    mover m = {.file = H5I_INVALID_HID};
    hid_t group = H5I_INVALID_HID;
    char *path = NULL;
    h5_lock();
    TRY_GOTO(open_part(store, name, &path, &m));
    snprintf(m.group, sizeof m.group, "/edits/%s", name);
    snprintf(info->name, sizeof info->name, "%s", name);
    TRY_GOTO(open_group(&m, &group));
    TRY_GOTO(move_identity(&m, group, info));
done:
    h5_close(&group);
    h5_close(&m.file);
    h5_unlock();
    free(path);
    return status;
}

coar_status store_list_edits(run_store *store, edit_info **edits, size_t *count) {
    coar_status status = COAR_OK;
    name_list names;
    edit_info *list = NULL;
    TRY(edit_names(store, &names));
    TRY_GOTO(memory_new(names.count, sizeof *list, "list of edits", &list));
    for (size_t i = 0; i < names.count; i++) TRY_GOTO(read_info(store, names.names[i], &list[i]));
    *edits = list;
    *count = names.count;
    list = NULL;
done:
    free(list);
    name_list_free(&names);
    return status;
}

coar_status edits_remove(run_store *store, const char *fit) {
    coar_status status = COAR_OK;
    edit_info *list = NULL;
    size_t count;
    char part[NAME_SIZE + 16];
    TRY(store_list_edits(store, &list, &count));
    for (size_t i = 0; i < count && status == COAR_OK; i++) {
        if (strcmp(list[i].fit, fit)) continue;
        part_name(list[i].name, part);
        status = folder_remove(store, part);
    }
    free(list);
    return status;
}
