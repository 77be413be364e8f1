/*
 * dataset_writer.c - writes a data set file (docs/formats.md) under a temporary name and renames it when it is whole.
 * Must not know: where the images come from.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/names.h"

/* Bytes of one chunk: small enough for reading single rows, large enough that the checksums and the chunk index cost
 * nothing; well inside HDF5's 1 MiB chunk cache, so that a chunk which several appends fill is written once.
 * Chunks are not compressed: deflate saves 8 % of decoded photographs and triples the time to pack. Readers take any filter. */
#define CHUNK_BYTES ((size_t)256 << 10)

struct dataset_writer {
    char *path, *temporary;
    hid_t file, images;
    hsize_t shape[4]; /* N, H, W, C */
    uint64_t written;
};

static coar_status write_attribute(const dataset_writer *w, const char *name, hid_t type, hsize_t count,
                                   const void *values) {
    coar_status status = COAR_OK;
    hid_t attribute = -1, space = count ? H5Screate_simple(1, &count, NULL) : H5Screate(H5S_SCALAR);
    H5_TRY_GOTO(space, COAR_ERROR_IO, w->path, name);
    H5_TRY_GOTO(attribute = H5Acreate2(w->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), COAR_ERROR_IO, w->path,
                name);
    H5_TRY_GOTO(H5Awrite(attribute, type, values), COAR_ERROR_IO, w->path, name);
done:
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return status;
}

/* Variable-length UTF-8 strings, as h5py writes and reads them. count 0: a scalar. */
static coar_status write_strings(const dataset_writer *w, const char *name, size_t count, char *const *texts) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    coar_status status = write_attribute(w, name, type, count, texts);
    H5Tclose(type);
    return status;
}

static coar_status write_text(const dataset_writer *w, const char *name, const char *text) {
    char *texts[1] = {(char *)text};
    return write_strings(w, name, 0, texts);
}

static coar_status write_attributes(const dataset_writer *w, const dataset_description *d) {
    static const int version[2] = {1, 0}; /* major, minor */
    char created[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    TRY(write_text(w, "format", "coar.data"));
    TRY(write_attribute(w, "version", H5T_NATIVE_INT, 2, version));
    TRY(write_text(w, "coar_version", coar_version()));
    TRY(write_text(w, "created", created));
    TRY(write_text(w, "source", d->source));
    if (d->command) TRY(write_text(w, "command", d->command));
    if (d->class_names) TRY(write_strings(w, "class_names", d->classes, d->class_names));
    if (d->group_names) TRY(write_strings(w, "group_names", d->group_names_count, d->group_names));
    if (d->has_normalisation) {
        TRY(write_attribute(w, "mean", H5T_NATIVE_FLOAT, d->channels, d->mean));
        TRY(write_attribute(w, "std", H5T_NATIVE_FLOAT, d->channels, d->std));
    }
    return COAR_OK;
}

static coar_status write_column(const dataset_writer *w, const char *name, const int32_t *values) {
    coar_status status = COAR_OK;
    hid_t object = -1, space = H5Screate_simple(1, w->shape, NULL);
    H5_TRY_GOTO(space, COAR_ERROR_IO, w->path, name);
    H5_TRY_GOTO(object = H5Dcreate2(w->file, name, H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                COAR_ERROR_IO, w->path, name);
    H5_TRY_GOTO(H5Dwrite(object, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), COAR_ERROR_IO, w->path,
                name);
done:
    if (object >= 0) H5Dclose(object);
    if (space >= 0) H5Sclose(space);
    return status;
}

static coar_status create_images(dataset_writer *w) {
    coar_status status = COAR_OK;
    const size_t image = (size_t)(w->shape[1] * w->shape[2] * w->shape[3]);
    hsize_t chunk[4] = {CHUNK_BYTES / image, w->shape[1], w->shape[2], w->shape[3]};
    if (chunk[0] < 1) chunk[0] = 1;
    if (chunk[0] > w->shape[0]) chunk[0] = w->shape[0];
    hid_t settings = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(4, w->shape, NULL);
    H5_TRY_GOTO(space, COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(H5Pset_chunk(settings, 4, chunk), COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(H5Pset_fletcher32(settings), COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(H5Pset_obj_track_times(settings, 0), COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(w->images = H5Dcreate2(w->file, "/images", H5T_STD_U8LE, space, H5P_DEFAULT, settings, H5P_DEFAULT),
                COAR_ERROR_IO, w->path, "/images");
done:
    if (space >= 0) H5Sclose(space);
    H5Pclose(settings);
    return status;
}

static coar_status create_all(dataset_writer *w, const dataset_description *d) {
    TRY(h5_create(w->temporary, w->path, &w->file));
    TRY(write_attributes(w, d));
    TRY(write_column(w, "/labels", d->labels));
    if (d->groups) TRY(write_column(w, "/groups", d->groups));
    return create_images(w);
}

coar_status dataset_writer_create(const char *path, const dataset_description *d, dataset_writer **out) {
    coar_status status = COAR_OK;
    dataset_writer *w;
    TRY(memory_new(1, sizeof *w, "data set writer", &w));
    w->file = w->images = -1;
    memcpy(w->shape, (const hsize_t[4]){d->count, d->height, d->width, d->channels}, sizeof w->shape);
    TRY_GOTO(names_copy(path, &w->path));
    w->temporary = file_temporary(path);
    if (!w->temporary) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
        goto done;
    }
    h5_enter();
    status = create_all(w, d);
    h5_leave();
    if (status != COAR_OK) goto done;
    *out = w;
    w = NULL;
done:
    dataset_writer_destroy(w);
    return status;
}

static coar_status append_locked(dataset_writer *w, const uint8_t *images, uint64_t count) {
    coar_status status = COAR_OK;
    hid_t memory = -1, space = -1;
    const hsize_t start[4] = {w->written}, block[4] = {count, w->shape[1], w->shape[2], w->shape[3]};
    H5_TRY_GOTO(space = H5Dget_space(w->images), COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(memory = H5Screate_simple(4, block, NULL), COAR_ERROR_IO, w->path, "/images");
    H5_TRY_GOTO(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, block, NULL), COAR_ERROR_IO, w->path,
                "/images");
    H5_TRY_GOTO(H5Dwrite(w->images, H5T_NATIVE_UINT8, memory, space, H5P_DEFAULT, images), COAR_ERROR_IO, w->path,
                "/images");
    w->written += count;
done:
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return status;
}

coar_status dataset_writer_append(dataset_writer *w, const uint8_t *images, uint64_t count) {
    if (count > w->shape[0] - w->written)
        return status_set(COAR_ERROR_INTERNAL, "%s: more images than announced", w->path);
    h5_enter();
    coar_status status = append_locked(w, images, count);
    h5_leave();
    return status;
}

/* Everything that HDF5 still holds back is written here, so failures count. */
static coar_status close_locked(dataset_writer *w) {
    coar_status status = COAR_OK;
    hid_t images = w->images, file = w->file;
    w->images = w->file = -1;
    if (images >= 0 && H5Dclose(images) < 0) status = h5_failed(COAR_ERROR_IO, w->path, "/images");
    if (file >= 0 && H5Fclose(file) < 0) status = h5_failed(COAR_ERROR_IO, w->path, "cannot write");
    return status;
}

coar_status dataset_writer_finish(dataset_writer *w) {
    if (w->written != w->shape[0]) return status_set(COAR_ERROR_INTERNAL, "%s: fewer images than announced", w->path);
    h5_enter();
    coar_status status = close_locked(w);
    h5_leave();
    TRY(status);
    TRY(file_commit(w->temporary, w->path));
    free(w->temporary);
    w->temporary = NULL;
    return COAR_OK;
}

void dataset_writer_destroy(dataset_writer *w) {
    if (!w) return;
    h5_enter();
    close_locked(w); /* the file is thrown away: what HDF5 says no longer matters */
    h5_leave();
    if (w->temporary) unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
}
