/*
 * dataset_writer.c - writes a data set file (docs/formats.md) under a temporary name and renames it when it is whole.
 * Must not know: where the examples come from.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/log.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/names.h"

/* Bytes of one chunk: small enough for reading single rows, large enough that checksums and the chunk index cost nothing;
 * well inside HDF5's 1 MiB chunk cache, so that a chunk which several appends fill is written once. Chunks are not
 * compressed: deflate saves 8 % of decoded photographs and triples the time to pack. Readers take any filter. */
#define CHUNK_BYTES ((size_t)256 << 10)

struct dataset_writer {
    char *path, *temporary;
    hid_t file, examples;
    bool texts;
    hsize_t shape[4]; /* N, H, W, C; or N, T, 1, 1 */
    uint64_t written;
};

static coar_status write_attribute(const dataset_writer *w, const char *name, hid_t type, hsize_t count,
                                   const void *values) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, space = H5I_INVALID_HID;
    H5_TRY(space = H5Screate_simple(1, &count, NULL), w->path, name);
    H5_TRY(attribute = H5Acreate2(w->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), w->path, name);
    H5_TRY(H5Awrite(attribute, type, values), w->path, name);
done:
    h5_close(&attribute);
    h5_close(&space);
    return status;
}

/* Variable-length UTF-8 strings, as h5py writes and reads them. */
static coar_status write_strings(const dataset_writer *w, const char *name, size_t count, char *const *texts) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    coar_status status = write_attribute(w, name, type, count, texts);
    h5_close(&type);
    return status;
}

static coar_status write_attributes(const dataset_writer *w, const dataset_description *d) {
    char created[UTC_SIZE];
    clock_utc(created);
    TRY(h5_write_format(w->file, w->path, DATASET_FORMAT, DATASET_VERSION_MAJOR, DATASET_VERSION_MINOR));
    TRY(h5_write_text(w->file, w->path, "coar_version", coar_version()));
    TRY(h5_write_text(w->file, w->path, "created", created));
    TRY(h5_write_text(w->file, w->path, "source", d->source));
    if (d->command) TRY(h5_write_text(w->file, w->path, "command", d->command));
    if (d->class_names) TRY(write_strings(w, "class_names", d->classes, d->class_names));
    if (d->group_names) TRY(write_strings(w, "group_names", d->group_names_count, d->group_names));
    if (d->vocabulary) TRY(h5_write_unsigned(w->file, w->path, "vocabulary", d->vocabulary));
    if (d->has_normalisation) {
        TRY(write_attribute(w, "mean", H5T_NATIVE_FLOAT, d->channels, d->mean));
        TRY(write_attribute(w, "std", H5T_NATIVE_FLOAT, d->channels, d->std));
    }
    return COAR_OK;
}

/* A data set of the first `rank` dimensions of the shape in chunks of whole examples. */
static coar_status create_dataset(const dataset_writer *w, const char *name, hid_t type, int rank, size_t example_bytes,
                                  hid_t *out) {
    coar_status status = COAR_OK;
    hid_t settings = H5I_INVALID_HID, space = H5I_INVALID_HID;
    hsize_t chunk[4] = {CHUNK_BYTES / example_bytes, w->shape[1], w->shape[2], w->shape[3]};
    if (chunk[0] < 1) chunk[0] = 1;
    if (chunk[0] > w->shape[0]) chunk[0] = w->shape[0];
    H5_TRY(settings = H5Pcreate(H5P_DATASET_CREATE), w->path, name);
    H5_TRY(space = H5Screate_simple(rank, w->shape, NULL), w->path, name);
    H5_TRY(H5Pset_chunk(settings, rank, chunk), w->path, name);
    H5_TRY(H5Pset_fletcher32(settings), w->path, name);
    H5_TRY(H5Pset_obj_track_times(settings, false), w->path, name);
    H5_TRY(*out = H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, settings, H5P_DEFAULT), w->path, name);
done:
    h5_close(&space);
    h5_close(&settings);
    return status;
}

static coar_status write_column(const dataset_writer *w, const char *name, const int32_t *values) {
    coar_status status = COAR_OK;
    hid_t object = H5I_INVALID_HID;
    TRY_GOTO(create_dataset(w, name, H5T_STD_I32LE, 1, sizeof *values, &object));
    H5_TRY(H5Dwrite(object, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), w->path, name);
done:
    h5_close(&object);
    return status;
}

static coar_status create_all(dataset_writer *w, const dataset_description *d) {
    TRY(h5_create(w->temporary, &w->file));
    TRY(write_attributes(w, d));
    TRY(write_column(w, w->texts ? "lengths" : "labels", d->labels));
    if (d->groups) TRY(write_column(w, "groups", d->groups));
    const size_t elements = (size_t)(w->shape[1] * w->shape[2] * w->shape[3]);
    if (w->texts) return create_dataset(w, "tokens", H5T_STD_I32LE, 2, elements * sizeof(int32_t), &w->examples);
    return create_dataset(w, "images", H5T_STD_U8LE, 4, elements, &w->examples);
}

coar_status dataset_writer_create(const char *path, const dataset_description *d, dataset_writer **out) {
    coar_status status = COAR_OK;
    dataset_writer *w;
    TRY(memory_new(1, sizeof *w, "data set writer", &w));
    w->file = w->examples = H5I_INVALID_HID;
    w->texts = d->tokens > 0;
    const hsize_t images[4] = {d->count, d->height, d->width, d->channels}, texts[4] = {d->count, d->tokens, 1, 1};
    memcpy(w->shape, w->texts ? texts : images, sizeof w->shape);
    TRY_GOTO(names_copy(path, &w->path));
    w->temporary = file_temporary(path);
    if (!w->temporary) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
        goto done;
    }
    h5_lock();
    status = create_all(w, d);
    h5_unlock();
    if (status != COAR_OK) goto done;
    *out = w;
    w = NULL;
done:
    dataset_writer_destroy(w);
    return status;
}

static coar_status append_locked(dataset_writer *w, const void *examples, uint64_t count) {
    coar_status status = COAR_OK;
    hid_t memory = H5I_INVALID_HID, space = H5I_INVALID_HID;
    const char *name = w->texts ? "tokens" : "images";
    const hid_t type = w->texts ? H5T_NATIVE_INT32 : H5T_NATIVE_UINT8;
    const hsize_t start[4] = {w->written}, block[4] = {count, w->shape[1], w->shape[2], w->shape[3]};
    H5_TRY(space = H5Dget_space(w->examples), w->path, name);
    H5_TRY(memory = H5Screate_simple(w->texts ? 2 : 4, block, NULL), w->path, name);
    H5_TRY(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, block, NULL), w->path, name);
    H5_TRY(H5Dwrite(w->examples, type, memory, space, H5P_DEFAULT, examples), w->path, name);
    w->written += count;
done:
    h5_close(&memory);
    h5_close(&space);
    return status;
}

coar_status dataset_writer_append(dataset_writer *w, const void *examples, uint64_t count) {
    if (count > w->shape[0] - w->written)
        return status_set(COAR_ERROR_INTERNAL, "%s: more examples than announced", w->path);
    h5_lock();
    coar_status status = append_locked(w, examples, count);
    h5_unlock();
    return status;
}

coar_status dataset_writer_finish(dataset_writer *w) {
    if (w->written != w->shape[0]) return status_set(COAR_ERROR_INTERNAL, "%s: fewer examples than announced", w->path);
    h5_lock();
    h5_close(&w->examples);
    coar_status status = h5_finish(&w->file, w->path);
    h5_unlock();
    TRY(status);
    TRY(file_commit(w->temporary, w->path));
    free(w->temporary);
    w->temporary = NULL;
    return COAR_OK;
}

void dataset_writer_destroy(dataset_writer *w) {
    if (!w) return;
    h5_lock();
    h5_close(&w->examples);
    h5_close(&w->file);
    h5_unlock();
    if (w->temporary) unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
}
