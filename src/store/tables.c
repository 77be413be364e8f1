/*
 * tables.c - tables.h5: component groups, examples, labels, outputs of the unablated model, fill values, given masks.
 * Objects stand where run.h5 has them. Must not know: how any of it was computed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define TABLES_FORMAT "coar.tables"

coar_status output_name_check(const char *name) {
    static const char *const taken[] = {"outputs", "done", "masks", ".", ".."};
    bool good = name[0] != '\0' && !strpbrk(name, "/,");
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) good &= strcmp(name, taken[i]) != 0;
    return good ? COAR_OK : status_set(COAR_ERROR_USAGE, "output '%s' cannot be stored under that name", name);
}

void run_tables_free(run_tables *t) {
    free(t->groups);
    free(t->example_rows);
    free(t->labels);
    free(t->subgroups);
    free(t->output_names);
    free(t->baseline);
    free(t->fill);
    free(t->given_masks);
    *t = (run_tables){.groups = NULL};
}

/* -------------------------------------------------------------------------------------------- components */

static hid_t fixed_text(size_t size) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size);
    H5Tset_strpad(type, H5T_STR_NULLTERM);
    return type;
}

/* Of store_group in memory; packed for the file. */
static hid_t group_type(bool packed) {
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(store_group));
    hid_t name = fixed_text(sizeof((store_group *)0)->name), kind = fixed_text(sizeof((store_group *)0)->kind);
    H5Tinsert(type, "name", HOFFSET(store_group, name), name);
    H5Tinsert(type, "kind", HOFFSET(store_group, kind), kind);
    H5Tinsert(type, "layer", HOFFSET(store_group, layer), name); /* layer is as long as name */
    H5Tinsert(type, "first", HOFFSET(store_group, first), H5T_NATIVE_UINT32);
    H5Tinsert(type, "count", HOFFSET(store_group, count), H5T_NATIVE_UINT32);
    if (packed) H5Tpack(type);
    h5_close(&kind);
    h5_close(&name);
    return type;
}

_Static_assert(sizeof((store_group *)0)->name == sizeof((store_group *)0)->layer, "group_type shares one type");

static coar_status write_groups(hid_t file, const char *path, const run_tables *t) {
    hid_t stored = group_type(true), memory = group_type(false);
    coar_status status =
        part_write_array(file, path, "/components", stored, memory, 1, &(hsize_t){t->group_count}, t->groups);
    h5_close(&memory);
    h5_close(&stored);
    return status;
}

/* ----------------------------------------------------------------------------------------------- writing */

static coar_status write_examples(hid_t file, const char *path, const run_tables *t) {
    const hsize_t N = t->examples;
    TRY(part_write_array(file, path, "/examples/index", H5T_STD_U64LE, H5T_NATIVE_UINT64, 1, &N, t->example_rows));
    TRY(part_write_array(file, path, "/examples/label", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, &N, t->labels));
    if (!t->subgroups) return COAR_OK;
    return part_write_array(file, path, "/examples/group", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, &N, t->subgroups);
}

static coar_status write_baseline(hid_t file, const char *path, const run_tables *t) {
    char name[64], names[1024] = "";
    for (size_t o = 0; o < t->output_count; o++) {
        size_t used = strlen(names);
        if (used + sizeof t->output_names[o] + 2 > sizeof names)
            return status_set(COAR_ERROR_USAGE, "--output: more outputs than a run file takes (%zu)", t->output_count);
        snprintf(names + used, sizeof names - used, "%s%s", o ? "," : "", t->output_names[o]);
        snprintf(name, sizeof name, "/baseline/%s", t->output_names[o]);
        TRY(part_write_array(file, path, name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 1, &(hsize_t){t->examples},
                             t->baseline + o * t->examples));
    }
    /* their order, on the group: the run file has it too, then */
    hid_t group = H5I_INVALID_HID;
    coar_status status = COAR_OK;
    H5_TRY(group = H5Gopen2(file, "/baseline", H5P_DEFAULT), path, "/baseline");
    TRY_GOTO(h5_write_text(group, path, "outputs", names));
done:
    h5_close(&group);
    return status;
}

static coar_status write_file(const char *path, const run_tables *t) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    TRY_GOTO(h5_create(path, &file));
    TRY_GOTO(h5_write_format(file, path, TABLES_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    TRY_GOTO(write_groups(file, path, t));
    TRY_GOTO(write_examples(file, path, t));
    TRY_GOTO(write_baseline(file, path, t));
    if (t->fill)
        TRY_GOTO(part_write_array(file, path, "/fill", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 1, &(hsize_t){t->fill_count},
                                  t->fill));
    if (t->given_masks)
        TRY_GOTO(part_write_array(file, path, "/ablations/masks", H5T_STD_U8LE, H5T_NATIVE_UINT8, 2,
                                  (hsize_t[]){t->given_count, (t->components + 7) / 8}, t->given_masks));
    TRY_GOTO(h5_finish(&file, path));
done:
    h5_close(&file);
    return status;
}

static coar_status check_tables(const run_store *store, const run_tables *t) {
    bool good = t->groups && t->group_count && t->components && t->examples && t->example_rows && t->labels &&
                t->output_count && t->output_names && t->baseline && (!t->fill || t->fill_count) &&
                (!t->given_masks || t->given_count);
    uint64_t next = 0;
    for (size_t g = 0; good && g < t->group_count; next += t->groups[g].count, g++)
        good = t->groups[g].first == next && t->groups[g].count;
    if (!good || next != t->components)
        return status_set(COAR_ERROR_INTERNAL, "%s: tables are incomplete", store->path);
    for (size_t o = 0; o < t->output_count; o++) TRY(output_name_check(t->output_names[o]));
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- reading */

/* A whole vector of exactly `expected` elements (0: any number, at least one), malloc'ed. */
static coar_status read_vector(hid_t file, const char *path, const char *name, H5T_class_t class, hid_t memory_type,
                               uint64_t expected, uint64_t *count, void *out_pointer) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t length;
    void *data = NULL;
    TRY_GOTO(h5_open_dataset(file, path, name, 1, class, &length, &id));
    if (!length || (expected && length != expected)) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has %" PRIu64 " elements, %" PRIu64 " are expected", path, name,
                            (uint64_t)length, expected);
        goto done;
    }
    TRY_GOTO(memory_new(length, H5Tget_size(memory_type), name, &data));
    H5_TRY(H5Dread(id, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), path, name);
    if (count) *count = length;
    memcpy(out_pointer, &data, sizeof data);
    data = NULL;
done:
    free(data);
    h5_close(&id);
    return status;
}

/* Groups must tile 0..n-1 in order. */
static coar_status read_groups(hid_t file, const char *path, run_tables *t) {
    uint64_t count, next = 0;
    hid_t memory = group_type(false);
    coar_status status = read_vector(file, path, "/components", H5T_COMPOUND, memory, 0, &count, &t->groups);
    h5_close(&memory);
    TRY(status);
    t->group_count = count;
    for (size_t g = 0; g < t->group_count; next += t->groups[g].count, g++) {
        store_group *row = &t->groups[g];
        row->name[sizeof row->name - 1] = row->kind[sizeof row->kind - 1] = row->layer[sizeof row->layer - 1] = '\0';
        if (row->first != next || !row->count || next + row->count > UINT32_MAX)
            return status_set(COAR_ERROR_INPUT,
                              "%s: '/components': row %zu does not number its components after those before", path, g);
    }
    t->components = (uint32_t)next;
    return COAR_OK;
}

static coar_status read_baseline(hid_t file, const char *path, run_tables *t) {
    coar_status status = COAR_OK;
    char *names = NULL, *rest = NULL, object[64];
    float *one = NULL;
    size_t capacity = 0;
    hid_t group = H5I_INVALID_HID;
    H5_TRY(group = H5Gopen2(file, "/baseline", H5P_DEFAULT), path, "/baseline");
    TRY_GOTO(h5_read_text(group, path, "outputs", &names));
    for (char *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (strlen(name) >= sizeof *t->output_names || output_name_check(name) != COAR_OK) {
            status = status_set(COAR_ERROR_INPUT, "%s: attribute 'outputs' names no outputs", path);
            goto done;
        }
        TRY_GOTO(
            memory_grow(&t->output_names, &capacity, t->output_count + 1, sizeof *t->output_names, "output names"));
        snprintf(t->output_names[t->output_count++], sizeof *t->output_names, "%s", name);
    }
    if (!t->output_count) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute 'outputs' is empty", path);
        goto done;
    }
    size_t total;
    if (!size_mul(t->output_count, t->examples, &total)) total = SIZE_MAX; /* memory_new says so */
    TRY_GOTO(memory_new(total, sizeof *t->baseline, "baseline outputs", &t->baseline));
    for (size_t o = 0; o < t->output_count; o++) {
        snprintf(object, sizeof object, "/baseline/%s", t->output_names[o]);
        TRY_GOTO(read_vector(file, path, object, H5T_FLOAT, H5T_NATIVE_FLOAT, t->examples, NULL, &one));
        memcpy(t->baseline + o * t->examples, one, t->examples * sizeof *one);
        free(one);
        one = NULL;
    }
done:
    h5_close(&group);
    free(one);
    free(names);
    return status;
}

static coar_status read_given_masks(hid_t file, const char *path, run_tables *t) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t dims[2];
    size_t bytes;
    if (!h5_has(file, "/ablations/masks")) return COAR_OK;
    TRY_GOTO(h5_open_dataset(file, path, "/ablations/masks", 2, H5T_INTEGER, dims, &id));
    if (dims[1] != (t->components + 7) / 8 || !dims[0] || !size_mul(dims[0], dims[1], &bytes)) {
        status = status_set(COAR_ERROR_INPUT, "%s: '/ablations/masks' has the wrong shape", path);
        goto done;
    }
    TRY_GOTO(memory_new(bytes, 1, "given masks", &t->given_masks));
    H5_TRY(H5Dread(id, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->given_masks), path, "/ablations/masks");
    t->given_count = dims[0];
done:
    h5_close(&id);
    return status;
}

coar_status tables_read_objects(hid_t file, const char *path, run_tables *out) {
    coar_status status = COAR_OK;
    run_tables t = {.groups = NULL};
    uint64_t count;
    TRY_GOTO(read_groups(file, path, &t));
    TRY_GOTO(
        read_vector(file, path, "/examples/index", H5T_INTEGER, H5T_NATIVE_UINT64, 0, &t.examples, &t.example_rows));
    TRY_GOTO(read_vector(file, path, "/examples/label", H5T_INTEGER, H5T_NATIVE_INT32, t.examples, NULL, &t.labels));
    if (h5_has(file, "/examples/group"))
        TRY_GOTO(
            read_vector(file, path, "/examples/group", H5T_INTEGER, H5T_NATIVE_INT32, t.examples, NULL, &t.subgroups));
    TRY_GOTO(read_baseline(file, path, &t));
    if (h5_has(file, "/fill")) {
        TRY_GOTO(read_vector(file, path, "/fill", H5T_FLOAT, H5T_NATIVE_FLOAT, 0, &count, &t.fill));
        t.fill_count = count;
    }
    TRY_GOTO(read_given_masks(file, path, &t));
    *out = t;
    t = (run_tables){.groups = NULL};
done:
    run_tables_free(&t);
    return status;
}

static coar_status read_file(const char *path, run_tables *out) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID;
    TRY_GOTO(h5_open(path, &file));
    TRY_GOTO(h5_check_format(file, path, TABLES_FORMAT, RUN_VERSION_MAJOR));
    TRY_GOTO(tables_read_objects(file, path, out));
done:
    h5_close(&file);
    return status;
}

static coar_status read_sizes(const char *path, uint64_t *examples, uint32_t *components) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID;
    run_tables t = {.groups = NULL};
    hsize_t length;
    TRY_GOTO(h5_open(path, &file));
    TRY_GOTO(h5_check_format(file, path, TABLES_FORMAT, RUN_VERSION_MAJOR));
    TRY_GOTO(read_groups(file, path, &t));
    TRY_GOTO(h5_open_dataset(file, path, "/examples/index", 1, H5T_INTEGER, &length, &id));
    *examples = length;
    *components = t.components;
done:
    h5_close(&id);
    h5_close(&file);
    run_tables_free(&t);
    return status;
}

coar_status tables_sizes(const run_store *store, uint64_t *examples, uint32_t *components) {
    char *path = folder_path(store, TABLES_FILE);
    if (!path) return COAR_ERROR_MEMORY;
    h5_lock();
    const coar_status status = read_sizes(path, examples, components);
    h5_unlock();
    free(path);
    return status;
}

/* ------------------------------------------------------------------------------------------------ interface */

static bool same_bytes(const void *a, const void *b, size_t count, size_t size) {
    return (!a && !b) || (a && b && !memcmp(a, b, count * size));
}

static bool same_groups(const run_tables *a, const run_tables *b) {
    if (a->group_count != b->group_count) return false;
    for (size_t g = 0; g < a->group_count; g++) {
        const store_group *x = &a->groups[g], *y = &b->groups[g];
        if (strcmp(x->name, y->name) || strcmp(x->kind, y->kind) || strcmp(x->layer, y->layer) ||
            x->first != y->first || x->count != y->count)
            return false;
    }
    return true;
}

/* The first object that differs, NULL when the tables are equal. */
static const char *first_difference(const run_tables *a, const run_tables *b) {
    const size_t N = a->examples;
    if (a->components != b->components || !same_groups(a, b)) return "/components";
    if (N != b->examples || !same_bytes(a->example_rows, b->example_rows, N, sizeof *a->example_rows))
        return "/examples/index";
    if (!same_bytes(a->labels, b->labels, N, sizeof *a->labels)) return "/examples/label";
    if (!same_bytes(a->subgroups, b->subgroups, N, sizeof *a->subgroups)) return "/examples/group";
    if (a->output_count != b->output_count) return "/baseline";
    for (size_t o = 0; o < a->output_count; o++)
        if (strcmp(a->output_names[o], b->output_names[o])) return "/baseline";
    if (!same_bytes(a->baseline, b->baseline, a->output_count * N, sizeof *a->baseline)) return "/baseline";
    if (a->fill_count != b->fill_count || !same_bytes(a->fill, b->fill, a->fill_count, sizeof *a->fill)) return "/fill";
    /* Gradients know nothing of given masks; ablations bring them later. */
    const bool both = a->given_masks && b->given_masks;
    if (both && (a->given_count != b->given_count ||
                 memcmp(a->given_masks, b->given_masks, a->given_count * ((a->components + 7) / 8))))
        return "/ablations/masks";
    return NULL;
}

static coar_status write_or_compare(run_store *store, const char *path, const run_tables *tables) {
    coar_status status = COAR_OK;
    run_tables old = {.groups = NULL};
    char *temporary = NULL;
    if (file_exists(path)) {
        TRY_GOTO(read_file(path, &old));
        const char *where = first_difference(&old, tables);
        if (where)
            status = status_set(COAR_ERROR_MISMATCH,
                                "%s: '%s' is not what this call computes: another model, data or machine; "
                                "--force starts over",
                                path, where);
        if (where || !tables->given_masks || old.given_masks) goto done;
    }
    if (!(temporary = file_temporary(path))) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
        goto done;
    }
    status = write_file(temporary, tables);
    if (status == COAR_OK)
        status = file_commit(temporary, path);
    else
        unlink(temporary);
    if (status == COAR_OK) status = store_rebuild_index(store);
done:
    free(temporary);
    run_tables_free(&old);
    return status;
}

coar_status store_write_tables(run_store *store, const run_tables *tables) {
    TRY(check_tables(store, tables));
    char *path = folder_path(store, TABLES_FILE);
    if (!path) return COAR_ERROR_MEMORY;
    coar_status status = folder_lock(store);
    if (status == COAR_OK) {
        h5_lock();
        status = write_or_compare(store, path, tables);
        h5_unlock();
        folder_unlock(store);
    }
    free(path);
    return status;
}

coar_status store_read_tables(run_store *store, run_tables *tables, bool *present) {
    char *path = folder_path(store, TABLES_FILE);
    if (!path) return COAR_ERROR_MEMORY;
    coar_status status = COAR_OK;
    bool there = file_exists(path);
    if (there) {
        h5_lock();
        status = read_file(path, tables);
        h5_unlock();
    } else if (!present) {
        status = status_set(COAR_ERROR_INPUT, "%s: not there yet: run `coar ablate` on this run first", path);
    }
    if (status == COAR_OK && present) *present = there;
    free(path);
    return status;
}
