/*
 * fits.c - fit-NAME.h5, or a file of its own: /attributions/NAME with weight, bias, penalty, r2, heldout, stderr.
 * Must not know: how a fit is solved.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define FIT_FORMAT "coar.attributions"

/* --------------------------------------------------------------------------------------------- writing */

enum { WEIGHT, BIAS, PENALTY, R2, HELDOUT, STDERR, ARRAYS };
static const char *const array_names[ARRAYS] = {"weight", "bias", "penalty", "r2", "heldout", "stderr"};

struct fit_writer {
    run_store *store; /* NULL: a file of its own */
    char *path, *temporary;
    char name[NAME_SIZE];
    uint64_t examples, components, next; /* next: first example that has not come yet */
    hid_t file, arrays[ARRAYS];
};

static bool is_matrix(int array) {
    return array == WEIGHT || array == STDERR;
}
static bool is_double(int array) {
    return array == PENALTY || array == R2 || array == HELDOUT;
}

static coar_status create_array(fit_writer *w, int array) {
    char name[128];
    hsize_t dims[2] = {w->examples, w->components};
    const hsize_t elements = (1u << 20) / sizeof(float); /* a chunk of 1 MiB: HDF5's chunk cache holds it */
    hsize_t columns = is_matrix(array) ? (dims[1] < elements ? dims[1] : elements) : 1;
    hsize_t rows = elements / columns < dims[0] ? elements / columns : dims[0];
    snprintf(name, sizeof name, "/attributions/%s/%s", w->name, array_names[array]);
    return part_create_dataset(w->file, w->temporary, name, is_double(array) ? H5T_IEEE_F64LE : H5T_IEEE_F32LE,
                               is_matrix(array) ? 2 : 1, dims, (hsize_t[]){rows, columns}, &w->arrays[array]);
}

static coar_status create_file(fit_writer *w, const fit_header *header) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    const char *path = w->temporary;
    char name[128];
    TRY_GOTO(h5_create(path, &w->file));
    TRY_GOTO(h5_write_format(w->file, path, FIT_FORMAT, RUN_VERSION_MAJOR, RUN_VERSION_MINOR));
    for (int array = 0; array < ARRAYS; array++)
        if (array != STDERR || header->standard_errors) TRY_GOTO(create_array(w, array));
    snprintf(name, sizeof name, "/attributions/%s", w->name);
    H5_TRY(group = H5Gopen2(w->file, name, H5P_DEFAULT), path, name);
    TRY_GOTO(h5_write_text(group, path, "estimator", header->estimator));
    TRY_GOTO(h5_write_text(group, path, "output", header->output));
    TRY_GOTO(h5_write_unsigned(group, path, "masks", header->masks));
    TRY_GOTO(h5_write_unsigned(group, path, "passes", header->passes));
    TRY_GOTO(h5_write_text(group, path, "command", header->command ? header->command : ""));
done:
    h5_close(&group);
    return status;
}

coar_status fit_name_check(const char *name) {
    TRY(name_check("--name", name));
    if (strcmp(name, "truth") && strcmp(name, "done")) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--name '%s': taken, run files keep something else under it", name);
}

coar_status fit_writer_create(run_store *store, const char *path, const fit_header *header, bool force,
                              fit_writer **out) {
    coar_status status = COAR_OK;
    fit_writer *w = NULL;
    char part[NAME_SIZE + 8];
    TRY(fit_name_check(header->name));
    if (!header->examples || !header->components || strlen(header->estimator) >= sizeof((fit_info *)0)->estimator ||
        strlen(header->output) >= sizeof((fit_info *)0)->output)
        return status_set(COAR_ERROR_INTERNAL, "fit %s: its header is out of range", header->name);
    TRY(memory_new(1, sizeof *w, "fit", &w));
    w->store = store;
    w->file = H5I_INVALID_HID;
    for (int array = 0; array < ARRAYS; array++) w->arrays[array] = H5I_INVALID_HID;
    w->examples = header->examples;
    w->components = header->components;
    snprintf(w->name, sizeof w->name, "%s", header->name);
    snprintf(part, sizeof part, "fit-%s.h5", header->name);
    w->path = store ? folder_path(store, part) : strdup(path);
    w->temporary = w->path ? file_temporary(w->path) : NULL;
    if (!w->temporary) {
        status = status_set(COAR_ERROR_MEMORY, "fit %s: not enough memory", header->name);
        goto done;
    }
    if (store && !force && file_exists(w->path)) {
        status =
            status_set(COAR_ERROR_EXISTS, "%s: fit '%s' exists already: give another --name, or --force to replace it",
                       store->path, header->name);
        goto done;
    }
    TRY_GOTO(file_check_output(w->path, store ? true : force));
    h5_lock();
    status = create_file(w, header);
    h5_unlock();
    TRY_GOTO(status);
    *out = w;
    w = NULL;
done:
    fit_writer_destroy(w);
    return status;
}

static coar_status write_rows(const fit_writer *w, int array, const fit_block *block, const void *data) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    const char *name = array_names[array];
    hsize_t start[2] = {block->first, 0}, count[2] = {block->count, w->components};
    H5_TRY(space = H5Dget_space(w->arrays[array]), w->temporary, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL), w->temporary, name);
    H5_TRY(memory = H5Screate_simple(is_matrix(array) ? 2 : 1, count, NULL), w->temporary, name);
    H5_TRY(H5Dwrite(w->arrays[array], is_double(array) ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, memory, space,
                    H5P_DEFAULT, data),
           w->temporary, name);
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

coar_status fit_writer_block(fit_writer *w, const fit_block *block) {
    const void *const data[ARRAYS] = {block->weight, block->bias,    block->penalty,
                                      block->r2,     block->heldout, block->standard_error};
    if (block->first != w->next || block->count > w->examples - w->next)
        return status_set(COAR_ERROR_INTERNAL, "fit %s: blocks of examples are out of order", w->name);
    coar_status status = COAR_OK;
    h5_lock();
    for (int array = 0; array < ARRAYS && status == COAR_OK && block->count; array++) {
        if (w->arrays[array] >= 0 && data[array])
            status = write_rows(w, array, block, data[array]);
        else if (w->arrays[array] >= 0)
            status = status_set(COAR_ERROR_INTERNAL, "fit %s: a block without %s", w->name, array_names[array]);
    }
    if (status == COAR_OK) status = h5_check_writes(w->file, w->temporary);
    h5_unlock();
    w->next += block->count;
    return status;
}

coar_status fit_writer_predicted(fit_writer *w, double predicted, double low, double high) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    char name[128];
    snprintf(name, sizeof name, "/attributions/%s", w->name);
    h5_lock();
    H5_TRY(group = H5Gopen2(w->file, name, H5P_DEFAULT), w->temporary, name);
    TRY_GOTO(h5_write_real(group, w->temporary, "predicted", predicted));
    TRY_GOTO(h5_write_real(group, w->temporary, "predicted_low", low));
    TRY_GOTO(h5_write_real(group, w->temporary, "predicted_high", high));
done:
    h5_close(&group);
    h5_unlock();
    return status;
}

coar_status fit_writer_iterative(fit_writer *w, const fit_iterative *end) {
    coar_status status = COAR_OK;
    hid_t group = H5I_INVALID_HID;
    char name[128];
    snprintf(name, sizeof name, "/attributions/%s", w->name);
    h5_lock();
    H5_TRY(group = H5Gopen2(w->file, name, H5P_DEFAULT), w->temporary, name);
    TRY_GOTO(h5_write_text(group, w->temporary, "solver", "iterative"));
    TRY_GOTO(h5_write_real(group, w->temporary, "residual_largest", end->residual_largest));
    TRY_GOTO(h5_write_real(group, w->temporary, "residual_median", end->residual_median));
    TRY_GOTO(h5_write_unsigned(group, w->temporary, "steps_most", end->steps_most));
    TRY_GOTO(h5_write_unsigned(group, w->temporary, "unsolved", end->unsolved));
done:
    h5_close(&group);
    h5_unlock();
    return status;
}

static coar_status commit(fit_writer *w) {
    coar_status status = COAR_OK;
    if (!w->store) return file_commit(w->temporary, w->path);
    TRY(folder_lock(w->store));
    /* What was made with the fit that is replaced goes first: none of it may be taken for the new one's after a kill. */
    TRY_GOTO(predicted_remove(w->store, w->name));
    TRY_GOTO(edits_remove(w->store, w->name));
    TRY_GOTO(file_commit(w->temporary, w->path));
    TRY_GOTO(index_refresh(w->store));
done:
    folder_unlock(w->store);
    return status;
}

coar_status fit_writer_finish(fit_writer *w) {
    if (w->next != w->examples)
        return status_set(COAR_ERROR_INTERNAL, "fit %s: %" PRIu64 " of %" PRIu64 " examples came", w->name, w->next,
                          w->examples);
    h5_lock();
    for (int array = 0; array < ARRAYS; array++) h5_close(&w->arrays[array]);
    coar_status status = h5_finish(&w->file, w->temporary);
    h5_unlock();
    TRY(status);
    status = commit(w);
    free(w->temporary); /* it has its name now, or is removed */
    w->temporary = NULL;
    return status;
}

void fit_writer_destroy(fit_writer *w) {
    if (!w) return;
    h5_lock();
    bool begun = w->file >= 0 || w->next;
    for (int array = 0; array < ARRAYS; array++) h5_close(&w->arrays[array]);
    h5_close(&w->file);
    h5_unlock();
    if (w->temporary && begun) unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
}

/* --------------------------------------------------------------------------------------------- reading */

coar_status fit_names(const run_store *store, name_list *out) {
    return part_names(store, "fit-", out);
}

/* Opens the group of a fit with its file. */
static coar_status open_fit(const run_store *store, const char *name, char **path, hid_t *file, hid_t *group) {
    coar_status status = COAR_OK;
    char part[NAME_SIZE + 8], object[NAME_SIZE + 16];
    TRY(name_check("fit", name));
    snprintf(part, sizeof part, "fit-%s.h5", name);
    snprintf(object, sizeof object, "/attributions/%s", name);
    if (!(*path = folder_path(store, part))) return COAR_ERROR_MEMORY;
    if (!file_exists(*path))
        return status_set(COAR_ERROR_INPUT, "%s: has no fit '%s': run `coar fit` first", store->path, name);
    TRY(h5_open(*path, file));
    TRY(h5_check_format(*file, *path, FIT_FORMAT, RUN_VERSION_MAJOR));
    H5_TRY(*group = H5Gopen2(*file, object, H5P_DEFAULT), *path, object);
done:
    return status;
}

static coar_status copy_text(hid_t object, const char *path, const char *name, char *out, size_t size) {
    char *text = NULL;
    TRY(h5_read_text(object, path, name, &text));
    bool fits = strlen(text) < size;
    if (fits) memcpy(out, text, strlen(text) + 1);
    free(text);
    return fits ? COAR_OK : status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is too long", path, name);
}

/* Fits that have no `solver` are direct. */
static coar_status read_iterative(hid_t group, const char *path, fit_info *info) {
    fit_iterative *end = &info->solved;
    *end = (fit_iterative){.residual_largest = NAN, .residual_median = NAN};
    info->iterative = h5_has_attribute(group, "solver");
    if (!info->iterative) return COAR_OK;
    TRY(h5_read_real(group, path, "residual_largest", &end->residual_largest));
    TRY(h5_read_real(group, path, "residual_median", &end->residual_median));
    TRY(h5_read_unsigned(group, path, "steps_most", &end->steps_most));
    return h5_read_unsigned(group, path, "unsolved", &end->unsolved);
}

/* Attributes that fits of version 1.0 do not have. */
static coar_status read_later(hid_t group, const char *path, fit_info *info) {
    TRY(read_iterative(group, path, info));
    info->passes = 0;
    info->predicted = info->predicted_low = info->predicted_high = NAN;
    if (h5_has_attribute(group, "passes")) TRY(h5_read_unsigned(group, path, "passes", &info->passes));
    if (!h5_has_attribute(group, "predicted")) return COAR_OK;
    TRY(h5_read_real(group, path, "predicted", &info->predicted));
    TRY(h5_read_real(group, path, "predicted_low", &info->predicted_low));
    return h5_read_real(group, path, "predicted_high", &info->predicted_high);
}

static coar_status read_info(const run_store *store, const char *name, fit_info *info) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    char *path = NULL;
    h5_lock();
    TRY_GOTO(open_fit(store, name, &path, &file, &group));
    snprintf(info->name, sizeof info->name, "%s", name);
    TRY_GOTO(copy_text(group, path, "estimator", info->estimator, sizeof info->estimator));
    TRY_GOTO(copy_text(group, path, "output", info->output, sizeof info->output));
    TRY_GOTO(h5_read_unsigned(group, path, "masks", &info->masks));
    info->standard_errors = h5_has(group, array_names[STDERR]);
    TRY_GOTO(read_later(group, path, info));
done:
    h5_close(&group);
    h5_close(&file);
    h5_unlock();
    free(path);
    return status;
}

coar_status store_list_fits(run_store *store, fit_info **fits, size_t *count) {
    coar_status status = COAR_OK;
    name_list names;
    fit_info *list = NULL;
    TRY(fit_names(store, &names));
    TRY_GOTO(memory_new(names.count, sizeof *list, "list of fits", &list));
    for (size_t i = 0; i < names.count; i++) TRY_GOTO(read_info(store, names.names[i], &list[i]));
    *fits = list;
    *count = names.count;
    list = NULL;
done:
    free(list);
    name_list_free(&names);
    return status;
}

bool store_fit_is_baseline(const fit_info *fit) {
    static const char *const estimators[] = {"loo", "gp", "nc", "ii"};
    for (size_t i = 0; i < sizeof estimators / sizeof *estimators; i++)
        if (!strcmp(fit->estimator, estimators[i])) return true;
    return false;
}

/* Examples and components as `weight` has them; the other arrays must agree. */
static coar_status read_array(hid_t group, const char *path, int array, uint64_t first, uint64_t count, hsize_t dims[2],
                              void *out) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    hsize_t own[2] = {0, 0};
    TRY_GOTO(h5_open_dataset(group, path, array_names[array], is_matrix(array) ? 2 : 1, H5T_FLOAT, own, &id));
    if (array == WEIGHT) memcpy(dims, own, sizeof own);
    if (own[0] != dims[0] || first + count > own[0] || first > own[0]) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has %" PRIu64 " examples, not those asked for", path,
                            array_names[array], (uint64_t)own[0]);
        goto done;
    }
    if (out)
        TRY_GOTO(part_read(id, path, array_names[array], is_double(array) ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, first,
                           count, 0, own[1], out));
done:
    h5_close(&id);
    return status;
}

coar_status store_read_fit(run_store *store, const char *name, uint64_t first, uint64_t count, float *weight,
                           float *bias, double *penalty, double *r2, double *heldout) {
    coar_status status = COAR_OK;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    char *path = NULL;
    void *const out[ARRAYS] = {weight, bias, penalty, r2, heldout, NULL};
    hsize_t dims[2];
    run_tables tables = {.groups = NULL};
    TRY_GOTO(
        store_read_tables(store, &tables, NULL)); /* weight's size is the caller's n: it has to be this file's, too */
    h5_lock();
    status = open_fit(store, name, &path, &file, &group);
    for (int array = 0; array < STDERR && status == COAR_OK; array++)
        if (out[array] || array == WEIGHT) {
            status = read_array(group, path, array, first, count, dims, NULL);
            if (status == COAR_OK && (dims[0] != tables.examples || dims[1] != tables.components))
                status = status_set(COAR_ERROR_INPUT, "%s: is of other examples or components than the run", path);
            if (status == COAR_OK && out[array])
                status = read_array(group, path, array, first, count, dims, out[array]);
        }
    h5_close(&group);
    h5_close(&file);
    h5_unlock();
done:
    run_tables_free(&tables);
    free(path);
    return status;
}
