/*
 * dataset.c - opens, checks and reads data set files. Every number that comes out of the file is checked before it sizes
 * an allocation, and the objects are looked at before they are read.
 * Must not know: where the images came from.
 */
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/names.h"

enum { VERSION_MAJOR = 1, NAME_MAX_BYTES = 4096 };

/* --------------------------------------------------------------------------------------------- attributes */

/* Opens attribute `name` of the root group; *attribute stays negative when there is none. */
static coar_status open_attribute(const dataset *data, const char *name, hid_t *attribute) {
    coar_status status = COAR_OK;
    htri_t exists;
    H5_TRY_GOTO(exists = H5Aexists(data->file, name), COAR_ERROR_INPUT, data->path, name);
    if (exists) H5_TRY_GOTO(*attribute = H5Aopen(data->file, name, H5P_DEFAULT), COAR_ERROR_INPUT, data->path, name);
done:
    return status;
}

/* `count` strings of `attribute` in its own flavour (fixed or variable length) as malloc'ed copies in names[count]. */
static coar_status copy_strings(const dataset *data, const char *name, hid_t attribute, hid_t type, size_t count,
                                char **names) {
    coar_status status = COAR_OK;
    char **variable = NULL, *fixed = NULL;
    htri_t is_variable;
    size_t length = 0;
    hid_t memory = H5Tcopy(H5T_C_S1), space = -1;
    H5_TRY_GOTO(is_variable = H5Tis_variable_str(type), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(H5Tset_cset(memory, H5Tget_cset(type)), COAR_ERROR_INPUT, data->path, name);
    if (is_variable) {
        TRY_GOTO(memory_new(count, sizeof *variable, name, &variable));
        H5Tset_size(memory, H5T_VARIABLE);
        H5_TRY_GOTO(space = H5Aget_space(attribute), COAR_ERROR_INPUT, data->path, name);
        H5_TRY_GOTO(H5Aread(attribute, memory, variable), COAR_ERROR_INPUT, data->path, name);
    } else {
        length = H5Tget_size(type) + 1;
        if (length > NAME_MAX_BYTES) {
            status =
                status_set(COAR_ERROR_INPUT, "%s: %s: strings of %zu bytes are too long", data->path, name, length);
            goto done;
        }
        H5Tset_size(memory, length);
        TRY_GOTO(memory_new(count, length, name, &fixed));
        H5_TRY_GOTO(H5Aread(attribute, memory, fixed), COAR_ERROR_INPUT, data->path, name);
    }
    for (size_t i = 0; i < count; i++) {
        const char *text = is_variable ? variable[i] : fixed + i * length;
        TRY_GOTO(names_copy(text ? text : "", &names[i]));
    }
done:
    if (space >= 0) H5Dvlen_reclaim(memory, space, H5P_DEFAULT, variable);
    if (space >= 0) H5Sclose(space);
    H5Tclose(memory);
    free(fixed);
    free(variable);
    return status;
}

/* A string attribute, scalar or 1-D. *out stays NULL and *out_count 0 when it is absent. */
static coar_status read_strings(const dataset *data, const char *name, char ***out, size_t *out_count) {
    coar_status status = COAR_OK;
    hid_t attribute = -1, type = -1, space = -1;
    char **names = NULL;
    hssize_t count = 0;
    TRY_GOTO(open_attribute(data, name, &attribute));
    if (attribute < 0) goto done;
    H5_TRY_GOTO(type = H5Aget_type(attribute), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(space = H5Aget_space(attribute), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(count = H5Sget_simple_extent_npoints(space), COAR_ERROR_INPUT, data->path, name);
    if (H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_ndims(space) > 1) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute %s: expected a list of strings", data->path, name);
        goto done;
    }
    if (count < 1 || count > DATASET_MAX_CLASSES) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute %s: %lld entries; expected 1 to %u", data->path, name,
                            (long long)count, DATASET_MAX_CLASSES);
        goto done;
    }
    TRY_GOTO(memory_new((size_t)count, sizeof *names, name, &names));
    TRY_GOTO(copy_strings(data, name, attribute, type, (size_t)count, names));
    *out = names;
    *out_count = (size_t)count;
    names = NULL;
done:
    names_free(names, (size_t)count);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

/* A numeric attribute of `count` values of HDF5 class `class`, read as `memory_type`. *present: whether there is one. */
static coar_status read_numbers(const dataset *data, const char *name, H5T_class_t class, hid_t memory_type,
                                size_t count, void *values, int *present) {
    coar_status status = COAR_OK;
    hid_t attribute = -1, type = -1, space = -1;
    TRY_GOTO(open_attribute(data, name, &attribute));
    *present = attribute >= 0;
    if (!*present) goto done;
    H5_TRY_GOTO(type = H5Aget_type(attribute), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(space = H5Aget_space(attribute), COAR_ERROR_INPUT, data->path, name);
    if (H5Tget_class(type) != class || H5Sget_simple_extent_npoints(space) != (hssize_t)count) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute %s: expected %zu %s", data->path, name, count,
                            class == H5T_FLOAT ? "real numbers" : "integers");
        goto done;
    }
    H5_TRY_GOTO(H5Aread(attribute, memory_type, values), COAR_ERROR_INPUT, data->path, name);
done:
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

static coar_status check_format(const dataset *data) {
    char **format = NULL;
    size_t count = 0;
    int version[2], present;
    TRY(read_strings(data, "format", &format, &count));
    int matches = count == 1 && !strcmp(format[0], "coar.data");
    names_free(format, count);
    if (!matches)
        return status_set(COAR_ERROR_INPUT, "%s: attribute format: not a coar data set; make one with `coar pack`",
                          data->path);
    TRY(read_numbers(data, "version", H5T_INTEGER, H5T_NATIVE_INT, 2, version, &present));
    if (!present) return status_set(COAR_ERROR_INPUT, "%s: attribute version: missing", data->path);
    if (version[0] != VERSION_MAJOR)
        return status_set(COAR_ERROR_INPUT, "%s: attribute version: %d.%d is not known to this coar (it reads %d.x)",
                          data->path, version[0], version[1], VERSION_MAJOR);
    return COAR_OK;
}

static coar_status read_normalisation(dataset *data) {
    int has_mean, has_std;
    TRY(read_numbers(data, "mean", H5T_FLOAT, H5T_NATIVE_FLOAT, data->channels, data->mean, &has_mean));
    TRY(read_numbers(data, "std", H5T_FLOAT, H5T_NATIVE_FLOAT, data->channels, data->std, &has_std));
    if (has_mean != has_std)
        return status_set(COAR_ERROR_INPUT, "%s: attribute %s: missing beside %s", data->path,
                          has_mean ? "std" : "mean", has_mean ? "mean" : "std");
    data->has_normalisation = has_mean;
    for (uint32_t c = 0; has_mean && c < data->channels; c++)
        if (!(data->mean[c] > -1e6f && data->mean[c] < 1e6f) || !(data->std[c] > 0 && data->std[c] < 1e6f))
            return status_set(COAR_ERROR_INPUT, "%s: attributes mean, std: channel %u: %g, %g are no normalisation",
                              data->path, c, data->mean[c], data->std[c]);
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- data sets */

/* Opens data set `name`; *out stays negative when it is absent. Virtual and external storage is refused: such a file
 * reads bytes of other files, and HDF5 silently gives fill values where they are missing. */
static coar_status open_object(const dataset *data, const char *name, hid_t *out) {
    coar_status status = COAR_OK;
    hid_t object = -1, settings = -1;
    htri_t exists;
    H5_TRY_GOTO(exists = H5Lexists(data->file, name, H5P_DEFAULT), COAR_ERROR_INPUT, data->path, name);
    if (!exists) goto done;
    H5L_info_t link;
    H5_TRY_GOTO(H5Lget_info(data->file, name, &link, H5P_DEFAULT), COAR_ERROR_INPUT, data->path, name);
    if (link.type != H5L_TYPE_HARD) { /* a soft link may lead to an external one */
        status = status_set(COAR_ERROR_INPUT, "%s: %s: is a link; put the data itself here", data->path, name);
        goto done;
    }
    H5_TRY_GOTO(object = H5Dopen2(data->file, name, H5P_DEFAULT), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(settings = H5Dget_create_plist(object), COAR_ERROR_INPUT, data->path, name);
    if (H5Pget_layout(settings) == H5D_VIRTUAL || H5Pget_external_count(settings) > 0) {
        status = status_set(COAR_ERROR_INPUT, "%s: %s: lies in another file; copy it into this one", data->path, name);
        goto done;
    }
    *out = object;
    object = -1;
done:
    if (settings >= 0) H5Pclose(settings);
    if (object >= 0) H5Dclose(object);
    return status;
}

/* Shape and element type of an object: `rank` dimensions of integers with `bytes` bytes and sign `sign`. */
static coar_status check_object(const dataset *data, const char *name, hid_t object, int rank, size_t bytes,
                                H5T_sign_t sign, const char *expected, hsize_t *shape) {
    coar_status status = COAR_OK;
    hid_t type = -1, space = -1;
    H5_TRY_GOTO(type = H5Dget_type(object), COAR_ERROR_INPUT, data->path, name);
    H5_TRY_GOTO(space = H5Dget_space(object), COAR_ERROR_INPUT, data->path, name);
    if (H5Sget_simple_extent_ndims(space) != rank || H5Tget_class(type) != H5T_INTEGER || H5Tget_size(type) != bytes ||
        H5Tget_sign(type) != sign) {
        status = status_set(COAR_ERROR_INPUT, "%s: %s: expected %s", data->path, name, expected);
        goto done;
    }
    H5_TRY_GOTO(H5Sget_simple_extent_dims(space, shape, NULL), COAR_ERROR_INPUT, data->path, name);
done:
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return status;
}

static coar_status open_images(dataset *data) {
    hid_t images = -1;
    hsize_t shape[4];
    TRY(open_object(data, "/images", &images));
    if (images < 0) return status_set(COAR_ERROR_INPUT, "%s: /images: missing", data->path);
    data->images = images;
    TRY(check_object(data, "/images", images, 4, 1, H5T_SGN_NONE, "u8 [N,H,W,C]", shape));
    if (shape[0] < 1) return status_set(COAR_ERROR_INPUT, "%s: /images: holds no examples", data->path);
    if (shape[1] < 1 || shape[1] > DATASET_MAX_SIDE || shape[2] < 1 || shape[2] > DATASET_MAX_SIDE || shape[3] < 1 ||
        shape[3] > DATASET_MAX_CHANNELS)
        return status_set(COAR_ERROR_INPUT, "%s: /images: images of %llu x %llu x %llu are not supported", data->path,
                          (unsigned long long)shape[1], (unsigned long long)shape[2], (unsigned long long)shape[3]);
    /* labels are read whole: their size is bounded here, before anything of length N is allocated */
    if (shape[0] > memory_available() / 4 / sizeof *data->labels)
        return status_set(COAR_ERROR_MEMORY, "%s: /images: %llu examples do not fit this machine's memory", data->path,
                          (unsigned long long)shape[0]);
    data->count = shape[0];
    data->height = (uint32_t)shape[1];
    data->width = (uint32_t)shape[2];
    data->channels = (uint32_t)shape[3];
    return COAR_OK;
}

/* One number per example, all in 0..limit-1. *out stays NULL when the object is absent. */
static coar_status read_column(const dataset *data, const char *name, size_t limit, int32_t **out) {
    coar_status status = COAR_OK;
    hid_t object = -1;
    int32_t *column = NULL;
    hsize_t length;
    TRY_GOTO(open_object(data, name, &object));
    if (object < 0) goto done;
    TRY_GOTO(check_object(data, name, object, 1, 4, H5T_SGN_2, "i32 [N]", &length));
    if (length != data->count) {
        status = status_set(COAR_ERROR_INPUT, "%s: %s: %llu entries for %llu images", data->path, name,
                            (unsigned long long)length, (unsigned long long)data->count);
        goto done;
    }
    TRY_GOTO(memory_new((size_t)length, sizeof *column, name, &column));
    H5_TRY_GOTO(H5Dread(object, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, column), COAR_ERROR_INPUT, data->path,
                name);
    for (hsize_t i = 0; i < length; i++)
        if (column[i] < 0 || (size_t)column[i] >= limit) {
            status = status_set(COAR_ERROR_INPUT, "%s: %s[%llu]: %d is not in 0..%zu", data->path, name,
                                (unsigned long long)i, column[i], limit - 1);
            goto done;
        }
    *out = column;
    column = NULL;
done:
    free(column);
    if (object >= 0) H5Dclose(object);
    return status;
}

static coar_status read_all(dataset *data) {
    hid_t file = -1;
    TRY(h5_open(data->path, &file));
    data->file = file;
    TRY(check_format(data));
    TRY(open_images(data));
    TRY(read_normalisation(data));
    TRY(read_strings(data, "class_names", &data->class_names, &data->classes));
    TRY(read_strings(data, "group_names", &data->group_names, &data->group_names_count));
    TRY(read_column(data, "/labels", data->class_names ? data->classes : DATASET_MAX_CLASSES, &data->labels));
    if (!data->labels) return status_set(COAR_ERROR_INPUT, "%s: /labels: missing", data->path);
    TRY(read_column(data, "/groups", data->group_names ? data->group_names_count : DATASET_MAX_CLASSES, &data->groups));
    for (uint64_t i = 0; !data->class_names && i < data->count; i++)
        if ((size_t)data->labels[i] >= data->classes) data->classes = (size_t)data->labels[i] + 1;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ interface */

coar_status dataset_open(const char *path, dataset **out) {
    dataset *data;
    TRY(memory_new(1, sizeof *data, "data set", &data));
    data->file = data->images = -1;
    coar_status status = names_copy(path, &data->path);
    h5_enter();
    if (status == COAR_OK) status = read_all(data);
    h5_leave();
    if (status == COAR_OK)
        *out = data;
    else
        dataset_close(data);
    return status;
}

void dataset_close(dataset *data) {
    if (!data) return;
    h5_enter();
    if (data->images >= 0) H5Dclose(data->images);
    if (data->file >= 0) H5Fclose(data->file);
    h5_leave();
    names_free(data->group_names, data->group_names_count);
    if (data->class_names) names_free(data->class_names, data->classes);
    free(data->groups);
    free(data->labels);
    free(data->path);
    free(data);
}

coar_status dataset_hash(dataset *data) {
    return file_sha256(data->path, data->sha256);
}

/* Rows first .. first + count - 1. Called with the lock held. */
static coar_status read_run(const dataset *data, uint64_t first, uint64_t count, uint8_t *images) {
    coar_status status = COAR_OK;
    hid_t memory = -1, space = -1;
    const hsize_t start[4] = {first}, block[4] = {count, data->height, data->width, data->channels};
    H5_TRY_GOTO(space = H5Dget_space(data->images), COAR_ERROR_INPUT, data->path, "/images");
    H5_TRY_GOTO(memory = H5Screate_simple(4, block, NULL), COAR_ERROR_INPUT, data->path, "/images");
    H5_TRY_GOTO(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, block, NULL), COAR_ERROR_INPUT, data->path,
                "/images");
    H5_TRY_GOTO(H5Dread(data->images, H5T_NATIVE_UINT8, memory, space, H5P_DEFAULT, images), COAR_ERROR_INPUT,
                data->path, "/images");
done:
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return status;
}

coar_status dataset_read(const dataset *data, const uint64_t *rows, size_t count, uint8_t *images) {
    const size_t image = (size_t)data->height * data->width * data->channels;
    for (size_t i = 0; i < count; i++)
        if (rows[i] >= data->count)
            return status_set(COAR_ERROR_USAGE, "%s: row %llu: the file has %llu examples", data->path,
                              (unsigned long long)rows[i], (unsigned long long)data->count);
    coar_status status = COAR_OK;
    h5_enter();
    for (size_t i = 0, run; i < count && status == COAR_OK; i += run) {
        for (run = 1; i + run < count && rows[i + run] == rows[i] + run;) run++;
        status = read_run(data, rows[i], run, images + i * image);
    }
    h5_leave();
    return status;
}
