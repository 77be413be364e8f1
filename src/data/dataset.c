/*
 * dataset.c - opens, checks and reads data set files. Every number that comes out of the file is checked before it sizes
 * an allocation, and the objects are looked at before they are read.
 * Must not know: where the examples came from.
 */
#include "data/dataset.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/memory.h"
#include "data/names.h"

enum { NAME_MAX_BYTES = 4096 };

/* --------------------------------------------------------------------------------------------- attributes */

/* `count` strings of `attribute`, of fixed or variable length, as malloc'ed copies in names[count]. */
static coar_status copy_strings(const dataset *data, const char *name, hid_t attribute, hid_t type, size_t count,
                                char **names) {
    coar_status status = COAR_OK;
    char **variable = NULL, *fixed = NULL;
    const size_t length = H5Tget_size(type) + 1;
    const bool is_variable = H5Tis_variable_str(type) > 0;
    hid_t memory = H5I_INVALID_HID, space = H5I_INVALID_HID;
    if (!is_variable && length > NAME_MAX_BYTES) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute '%s': strings of %zu bytes are too long", data->path, name,
                            length - 1);
        goto done;
    }
    H5_TRY(memory = H5Tcopy(H5T_C_S1), data->path, name);
    H5_TRY(H5Tset_size(memory, is_variable ? H5T_VARIABLE : length), data->path, name);
    H5_TRY(H5Tset_cset(memory, H5Tget_cset(type)), data->path, name);
    H5_TRY(space = H5Aget_space(attribute), data->path, name);
    if (is_variable)
        TRY_GOTO(memory_new(count, sizeof *variable, name, &variable));
    else
        TRY_GOTO(memory_new(count, length, name, &fixed));
    H5_TRY(H5Aread(attribute, memory, is_variable ? (void *)variable : fixed), data->path, name);
    for (size_t i = 0; i < count; i++) {
        const char *text = is_variable ? variable[i] : fixed + i * length;
        TRY_GOTO(names_copy(text ? text : "", &names[i]));
    }
done:
    if (variable) H5Dvlen_reclaim(memory, space, H5P_DEFAULT, variable);
    h5_close(&space);
    h5_close(&memory);
    free(fixed);
    free(variable);
    return status;
}

/* A list of strings. *out stays NULL and *out_count 0 when it is absent. */
static coar_status read_strings(const dataset *data, const char *name, char ***out, size_t *out_count) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, type = H5I_INVALID_HID, space = H5I_INVALID_HID;
    char **names = NULL;
    hssize_t count = 0;
    if (!h5_has_attribute(data->file, name)) return COAR_OK;
    H5_TRY(attribute = H5Aopen(data->file, name, H5P_DEFAULT), data->path, name);
    H5_TRY(type = H5Aget_type(attribute), data->path, name);
    H5_TRY(space = H5Aget_space(attribute), data->path, name);
    H5_TRY(count = H5Sget_simple_extent_npoints(space), data->path, name);
    if (H5Tget_class(type) != H5T_STRING || count < 1 || count > DATASET_MAX_CLASSES) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute '%s': expected a list of 1 to %u strings", data->path,
                            name, DATASET_MAX_CLASSES);
        goto done;
    }
    TRY_GOTO(memory_new((size_t)count, sizeof *names, name, &names));
    TRY_GOTO(copy_strings(data, name, attribute, type, (size_t)count, names));
    *out = names;
    *out_count = (size_t)count;
    names = NULL;
done:
    names_free(names, (size_t)count);
    h5_close(&space);
    h5_close(&type);
    h5_close(&attribute);
    return status;
}

/* One real number per channel. */
static coar_status read_channels(const dataset *data, const char *name, float *values) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, type = H5I_INVALID_HID, space = H5I_INVALID_HID;
    if (!h5_has_attribute(data->file, name))
        return status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is missing; mean and std go together", data->path,
                          name);
    H5_TRY(attribute = H5Aopen(data->file, name, H5P_DEFAULT), data->path, name);
    H5_TRY(type = H5Aget_type(attribute), data->path, name);
    H5_TRY(space = H5Aget_space(attribute), data->path, name);
    if (H5Tget_class(type) != H5T_FLOAT || H5Sget_simple_extent_npoints(space) != (hssize_t)data->channels) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute '%s': expected %u real numbers, one per channel",
                            data->path, name, data->channels);
        goto done;
    }
    H5_TRY(H5Aread(attribute, H5T_NATIVE_FLOAT, values), data->path, name);
done:
    h5_close(&space);
    h5_close(&type);
    h5_close(&attribute);
    return status;
}

static coar_status read_normalisation(dataset *data) {
    if (!h5_has_attribute(data->file, "mean") && !h5_has_attribute(data->file, "std")) return COAR_OK;
    TRY(read_channels(data, "mean", data->mean));
    TRY(read_channels(data, "std", data->std));
    for (uint32_t c = 0; c < data->channels; c++)
        if (!(data->mean[c] > -1e6f && data->mean[c] < 1e6f) || !(data->std[c] > 0 && data->std[c] < 1e6f))
            return status_set(COAR_ERROR_INPUT, "%s: attributes 'mean', 'std': channel %u: %g, %g are no normalisation",
                              data->path, c, data->mean[c], data->std[c]);
    data->has_normalisation = 1;
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- data sets */

/* Opens a data set of `rank` dimensions and checks that its elements are integers of `bytes` bytes and this sign. Links
 * and virtual or external storage are refused: such a file reads bytes of other files, and HDF5 silently gives fill
 * values where they are missing. */
static coar_status open_object(const dataset *data, const char *name, int rank, size_t bytes, H5T_sign_t sign,
                               hsize_t *shape, hid_t *out) {
    coar_status status = COAR_OK;
    hid_t object = H5I_INVALID_HID, type = H5I_INVALID_HID, settings = H5I_INVALID_HID;
    H5L_info_t link;
    TRY_GOTO(h5_open_dataset(data->file, data->path, name, rank, H5T_INTEGER, shape, &object));
    H5_TRY(H5Lget_info(data->file, name, &link, H5P_DEFAULT), data->path, name);
    H5_TRY(settings = H5Dget_create_plist(object), data->path, name);
    H5_TRY(type = H5Dget_type(object), data->path, name);
    if (link.type != H5L_TYPE_HARD || H5Pget_layout(settings) == H5D_VIRTUAL || H5Pget_external_count(settings) > 0) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' is a link or lies in another file; copy it into this one",
                            data->path, name);
        goto done;
    }
    if (H5Tget_size(type) != bytes || H5Tget_sign(type) != sign) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong type; expected %s", data->path, name,
                            bytes == 1 ? "unsigned bytes" : "signed 32-bit integers");
        goto done;
    }
    *out = object;
    object = H5I_INVALID_HID;
done:
    h5_close(&type);
    h5_close(&settings);
    h5_close(&object);
    return status;
}

/* Labels are read whole: their size is bounded here, before anything of length N is allocated. */
static coar_status take_count(dataset *data, const char *name, hsize_t count) {
    if (count < 1) return status_set(COAR_ERROR_INPUT, "%s: '%s' holds no examples", data->path, name);
    if (count > memory_available() / 4 / sizeof *data->labels)
        return status_set(COAR_ERROR_MEMORY, "%s: '%s': %" PRIu64 " examples do not fit this machine's memory",
                          data->path, name, (uint64_t)count);
    data->count = count;
    return COAR_OK;
}

static coar_status open_images(dataset *data) {
    hsize_t shape[4]; /* N, H, W, C */
    TRY(open_object(data, "images", 4, 1, H5T_SGN_NONE, shape, &data->examples));
    TRY(take_count(data, "images", shape[0]));
    if (shape[1] < 1 || shape[1] > DATASET_MAX_SIDE || shape[2] < 1 || shape[2] > DATASET_MAX_SIDE || shape[3] < 1 ||
        shape[3] > DATASET_MAX_CHANNELS)
        return status_set(COAR_ERROR_INPUT, "%s: 'images': %" PRIu64 " x %" PRIu64 " x %" PRIu64 " is no image size",
                          data->path, (uint64_t)shape[1], (uint64_t)shape[2], (uint64_t)shape[3]);
    data->height = (uint32_t)shape[1];
    data->width = (uint32_t)shape[2];
    data->channels = (uint32_t)shape[3];
    return COAR_OK;
}

/* Tokens themselves are checked where they are used, like pixels never: a file may hold more than memory does. */
static coar_status open_tokens(dataset *data) {
    hsize_t shape[2]; /* N, T */
    uint64_t vocabulary = 0;
    TRY(open_object(data, "tokens", 2, 4, H5T_SGN_2, shape, &data->examples));
    TRY(take_count(data, "tokens", shape[0]));
    if (shape[1] < 2 || shape[1] > DATASET_MAX_TOKENS)
        return status_set(COAR_ERROR_INPUT, "%s: 'tokens': texts of %" PRIu64 " tokens; expected 2 to %u", data->path,
                          (uint64_t)shape[1], DATASET_MAX_TOKENS);
    if (h5_has_attribute(data->file, "vocabulary"))
        TRY(h5_read_unsigned(data->file, data->path, "vocabulary", &vocabulary));
    if (vocabulary > INT32_MAX)
        return status_set(COAR_ERROR_INPUT,
                          "%s: attribute 'vocabulary': %" PRIu64 " is more than tokens can tell apart", data->path,
                          vocabulary);
    data->tokens = (uint32_t)shape[1];
    data->vocabulary = (uint32_t)vocabulary;
    return COAR_OK;
}

/* One number per example, all in least..limit-1. */
static coar_status read_column(const dataset *data, const char *name, int32_t least, size_t limit, int32_t **out) {
    coar_status status = COAR_OK;
    hid_t object = H5I_INVALID_HID;
    int32_t *column = NULL;
    hsize_t length;
    TRY_GOTO(open_object(data, name, 1, 4, H5T_SGN_2, &length, &object));
    if (length != data->count) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has %" PRIu64 " entries for %" PRIu64 " %s", data->path, name,
                            (uint64_t)length, data->count, dataset_kind(data));
        goto done;
    }
    TRY_GOTO(memory_new((size_t)length, sizeof *column, name, &column));
    H5_TRY(H5Dread(object, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, column), data->path, name);
    for (uint64_t i = 0; i < data->count; i++)
        if (column[i] < least || (column[i] >= 0 && (size_t)column[i] >= limit)) {
            status = status_set(COAR_ERROR_INPUT, "%s: %s[%" PRIu64 "]: %d is not in %d..%zu", data->path, name, i,
                                column[i], least < 0 ? 0 : least, limit - 1);
            goto done;
        }
    *out = column;
    column = NULL;
done:
    free(column);
    h5_close(&object);
    return status;
}

static coar_status read_images(dataset *data) {
    TRY(open_images(data));
    TRY(read_normalisation(data));
    TRY(read_strings(data, "class_names", &data->class_names, &data->classes));
    const size_t limit = data->class_names ? data->classes : DATASET_MAX_CLASSES;
    TRY(read_column(data, "labels", DATASET_UNLABELLED, limit, &data->labels));
    for (uint64_t i = 0; !data->class_names && i < data->count; i++)
        if (data->labels[i] >= 0 && (size_t)data->labels[i] >= data->classes)
            data->classes = (size_t)data->labels[i] + 1;
    return COAR_OK;
}

static coar_status read_texts(dataset *data) {
    TRY(open_tokens(data));
    return read_column(data, "lengths", 2, (size_t)data->tokens + 1, &data->labels);
}

static coar_status read_all(dataset *data) {
    TRY(h5_open(data->path, &data->file));
    TRY(h5_check_format(data->file, data->path, DATASET_FORMAT, DATASET_VERSION_MAJOR));
    TRY(h5_has(data->file, "tokens") ? read_texts(data) : read_images(data));
    TRY(read_strings(data, "group_names", &data->group_names, &data->group_names_count));
    const size_t limit = data->group_names ? data->group_names_count : DATASET_MAX_CLASSES;
    return h5_has(data->file, "groups") ? read_column(data, "groups", 0, limit, &data->groups) : COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ interface */

coar_status dataset_open(const char *path, dataset **out) {
    dataset *data;
    TRY(memory_new(1, sizeof *data, "data set", &data));
    data->file = data->examples = H5I_INVALID_HID;
    coar_status status = names_copy(path, &data->path);
    h5_lock();
    if (status == COAR_OK) status = read_all(data);
    h5_unlock();
    if (status == COAR_OK)
        *out = data;
    else
        dataset_close(data);
    return status;
}

void dataset_close(dataset *data) {
    if (!data) return;
    h5_lock();
    h5_close(&data->examples);
    h5_close(&data->file);
    h5_unlock();
    names_free(data->group_names, data->group_names_count);
    names_free(data->class_names, data->classes);
    free(data->groups);
    free(data->labels);
    free(data->path);
    free(data);
}

coar_status dataset_hash(dataset *data) {
    return data->random ? COAR_OK : file_sha256(data->path, data->sha256);
}

const char *dataset_kind(const dataset *data) {
    return data->tokens ? "texts" : "images";
}

size_t dataset_example_bytes(const dataset *data) {
    return data->tokens ? data->tokens * sizeof(int32_t) : (size_t)data->height * data->width * data->channels;
}

/* Rows first .. first + count - 1. Called with the lock held. */
static coar_status read_run(const dataset *data, uint64_t first, uint64_t count, void *examples) {
    coar_status status = COAR_OK;
    hid_t memory = H5I_INVALID_HID, space = H5I_INVALID_HID;
    const int rank = data->tokens ? 2 : 4;
    const hsize_t start[4] = {first};
    const hsize_t block[4] = {count, data->tokens ? data->tokens : data->height, data->width, data->channels};
    const hid_t type = data->tokens ? H5T_NATIVE_INT32 : H5T_NATIVE_UINT8;
    H5_TRY(space = H5Dget_space(data->examples), data->path, dataset_kind(data));
    H5_TRY(memory = H5Screate_simple(rank, block, NULL), data->path, dataset_kind(data));
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, block, NULL), data->path, dataset_kind(data));
    H5_TRY(H5Dread(data->examples, type, memory, space, H5P_DEFAULT, examples), data->path, dataset_kind(data));
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

coar_status dataset_read(const dataset *data, const uint64_t *rows, size_t count, void *examples) {
    for (size_t i = 0; i < count; i++)
        if (rows[i] >= data->count)
            return status_set(COAR_ERROR_USAGE, "%s: row %" PRIu64 " is not in 0..%" PRIu64, data->path, rows[i],
                              data->count - 1);
    if (data->random) {
        dataset_read_random(data, rows, count, examples);
        return COAR_OK;
    }
    coar_status status = COAR_OK;
    h5_lock();
    for (size_t i = 0, run; i < count && status == COAR_OK; i += run) {
        for (run = 1; i + run < count && rows[i + run] == rows[i] + run;) run++;
        status = read_run(data, rows[i], run, (char *)examples + i * dataset_example_bytes(data));
    }
    h5_unlock();
    return status;
}
