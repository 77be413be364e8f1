/* h5.c - see h5.h. */
#include "core/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/h5_driver.h"

/* ------------------------------------------------------------------------------------------------ lock */

static pthread_mutex_t mutex;
static pthread_once_t mutex_once = PTHREAD_ONCE_INIT;
static int depth; /* of the holder; guarded by mutex */
static H5E_auto2_t saved_print;
static void *saved_data;

static void mutex_create(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

void h5_lock(void) {
    pthread_once(&mutex_once, mutex_create);
    pthread_mutex_lock(&mutex);
    if (depth++) return;
    /* The caller's program may use HDF5 itself: its error printing is put back by h5_unlock. */
    H5Eget_auto2(H5E_DEFAULT, &saved_print, &saved_data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void h5_unlock(void) {
    if (--depth == 0) H5Eset_auto2(H5E_DEFAULT, saved_print, saved_data);
    pthread_mutex_unlock(&mutex);
}

/* -------------------------------------------------------------------------------------------- failures */

typedef struct reason {
    char text[256];
    bool system; /* errno was involved */
} reason;

/* Called from the innermost entry outwards: the first one says what really happened. */
static herr_t keep_innermost(unsigned n, const H5E_error2_t *error, void *data) {
    reason *r = data;
    if (n == 0) snprintf(r->text, sizeof r->text, "%s", error->desc ? error->desc : "");
    if (error->desc && strstr(error->desc, "errno = ")) r->system = true;
    return 0;
}

coar_status h5_failed(const char *path, const char *object) {
    reason r = {.text = "", .system = false};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &r);
    H5Eclear2(H5E_DEFAULT);
    const char *space = object[0] ? ": " : "";
    if (r.system) {
        /* HDF5 gives "... errno = 28, error message = 'No space left on device', buf = 0x..."; the middle is enough. */
        char *message = strstr(r.text, "error message = '"), *end;
        if (message) {
            message += strlen("error message = '");
            end = strchr(message, '\'');
            if (end) *end = '\0';
        }
        return status_set(COAR_ERROR_IO, "%s%s%s: %s", path, space, object, message ? message : r.text);
    }
    return status_set(COAR_ERROR_INPUT, "%s%s%s: damaged or not what coar wrote (HDF5: %s)", path, space, object,
                      r.text);
}

/* --------------------------------------------------------------------------------------------- handles */

void h5_close(hid_t *id) {
    if (*id >= 0) H5Idec_ref(*id);
    *id = H5I_INVALID_HID;
}

/* File access: everything opened through the file goes with it; no locks (see h5.h). */
static hid_t file_access(void) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    /* From 1.8 on attributes may exceed 64 KiB: the names of some thousand classes. */
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 12 && H5_VERS_RELEASE == 0)
    H5Pset_file_locking(access, false, true);
#endif
    return access;
}

coar_status h5_create(const char *path, hid_t *file) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID;
    /* HDF5 would not say why it cannot be created. */
    int probe = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (probe < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
    close(probe);
    hid_t access = file_access(), creation = H5Pcreate(H5P_FILE_CREATE);
    H5_TRY(h5_driver_set(access), path, "");
    H5_TRY(H5Pset_obj_track_times(creation, false), path, "");
    H5_TRY(id = H5Fcreate(path, H5F_ACC_TRUNC, creation, access), path, "");
    *file = id;
done:
    h5_close(&creation);
    h5_close(&access);
    return status;
}

coar_status h5_check_writes(hid_t file, const char *path) {
    int error = h5_driver_error(file);
    return error ? status_set_errno(COAR_ERROR_IO, error, "%s: cannot write", path) : COAR_OK;
}

coar_status h5_finish(hid_t *file, const char *path) {
    hid_t id = *file;
    *file = H5I_INVALID_HID;
    if (H5Fclose(id) < 0) return h5_failed(path, "");
    int error = h5_driver_closed_error();
    return error ? status_set_errno(COAR_ERROR_IO, error, "%s: cannot write", path) : COAR_OK;
}

coar_status h5_open(const char *path, hid_t *file) {
    if (access(path, R_OK)) return status_set_errno(COAR_ERROR_IO, errno, "%s", path);
    hid_t properties = file_access();
    hid_t id = H5Fopen(path, H5F_ACC_RDONLY, properties);
    h5_close(&properties);
    if (id < 0) {
        H5Eclear2(H5E_DEFAULT);
        return status_set(COAR_ERROR_INPUT, "%s: not an HDF5 file, or a damaged one", path);
    }
    *file = id;
    return COAR_OK;
}

bool h5_has(hid_t object, const char *name) {
    char part[512];
    size_t length = strlen(name);
    if (length >= sizeof part) return false;
    for (size_t i = 1; i <= length; i++) {
        if (name[i] != '/' && name[i] != '\0') continue;
        memcpy(part, name, i);
        part[i] = '\0';
        if (H5Lexists(object, part, H5P_DEFAULT) <= 0 || H5Oexists_by_name(object, part, H5P_DEFAULT) <= 0) {
            H5Eclear2(H5E_DEFAULT);
            return false;
        }
    }
    return true;
}

/* ------------------------------------------------------------------------------------------ attributes */

static coar_status write_scalar(hid_t object, const char *path, const char *name, hid_t file_type, hid_t memory_type,
                                const void *value) {
    coar_status status = COAR_OK;
    hid_t space = H5I_INVALID_HID, attribute = H5I_INVALID_HID;
    H5_TRY(space = H5Screate(H5S_SCALAR), path, name);
    H5_TRY(attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT), path, name);
    H5_TRY(H5Awrite(attribute, memory_type, value), path, name);
done:
    h5_close(&attribute);
    h5_close(&space);
    return status;
}

static hid_t text_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

coar_status h5_write_text(hid_t object, const char *path, const char *name, const char *value) {
    hid_t type = text_type();
    coar_status status = write_scalar(object, path, name, type, type, &value);
    h5_close(&type);
    return status;
}

coar_status h5_write_unsigned(hid_t object, const char *path, const char *name, uint64_t value) {
    return write_scalar(object, path, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

coar_status h5_write_signed(hid_t object, const char *path, const char *name, int64_t value) {
    return write_scalar(object, path, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

coar_status h5_write_real(hid_t object, const char *path, const char *name, double value) {
    return write_scalar(object, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

bool h5_has_attribute(hid_t object, const char *name) {
    return H5Aexists(object, name) > 0;
}

/* Opens a scalar attribute of one class. */
static coar_status open_scalar(hid_t object, const char *path, const char *name, H5T_class_t class, hid_t *out) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, space = H5I_INVALID_HID, type = H5I_INVALID_HID;
    if (!h5_has_attribute(object, name))
        return status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is missing", path, name);
    H5_TRY(attribute = H5Aopen(object, name, H5P_DEFAULT), path, name);
    H5_TRY(space = H5Aget_space(attribute), path, name);
    H5_TRY(type = H5Aget_type(attribute), path, name);
    if (H5Sget_simple_extent_npoints(space) != 1 || H5Tget_class(type) != class) {
        status = status_set(COAR_ERROR_INPUT, "%s: attribute '%s' has the wrong type or shape", path, name);
        goto done;
    }
    *out = attribute;
    attribute = H5I_INVALID_HID;
done:
    h5_close(&type);
    h5_close(&space);
    h5_close(&attribute);
    return status;
}

coar_status h5_read_text(hid_t object, const char *path, const char *name, char **value) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID, type = H5I_INVALID_HID, memory = H5I_INVALID_HID;
    char *text = NULL, *library = NULL;
    TRY_GOTO(open_scalar(object, path, name, H5T_STRING, &attribute));
    H5_TRY(type = H5Aget_type(attribute), path, name);
    if (H5Tis_variable_str(type) > 0) {
        memory = H5Tcopy(type);
        H5_TRY(H5Aread(attribute, memory, &library), path, name);
        text = strdup(library ? library : "");
    } else {
        size_t size = H5Tget_size(type);
        if (size >= 1 << 16) { /* HDF5 keeps attributes this large elsewhere; coar writes none */
            status = status_set(COAR_ERROR_INPUT, "%s: attribute '%s' is too long", path, name);
            goto done;
        }
        text = calloc(size + 1, 1);
        if (text) H5_TRY(H5Aread(attribute, type, text), path, name);
    }
    if (!text) {
        status = status_set(COAR_ERROR_MEMORY, "%s: attribute '%s': not enough memory", path, name);
        goto done;
    }
    *value = text;
    text = NULL;
done:
    if (library) H5free_memory(library);
    free(text);
    h5_close(&memory);
    h5_close(&type);
    h5_close(&attribute);
    return status;
}

static coar_status read_scalar(hid_t object, const char *path, const char *name, H5T_class_t class, hid_t memory,
                               void *value) {
    coar_status status = COAR_OK;
    hid_t attribute = H5I_INVALID_HID;
    TRY_GOTO(open_scalar(object, path, name, class, &attribute));
    H5_TRY(H5Aread(attribute, memory, value), path, name);
done:
    h5_close(&attribute);
    return status;
}

coar_status h5_read_unsigned(hid_t object, const char *path, const char *name, uint64_t *value) {
    return read_scalar(object, path, name, H5T_INTEGER, H5T_NATIVE_UINT64, value);
}

coar_status h5_read_real(hid_t object, const char *path, const char *name, double *value) {
    return read_scalar(object, path, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, value);
}

/* ---------------------------------------------------------------------------------------- format marks */

coar_status h5_write_format(hid_t file, const char *path, const char *format, int major, int minor) {
    TRY(h5_write_text(file, path, "format", format));
    TRY(h5_write_signed(file, path, "version_major", major));
    return h5_write_signed(file, path, "version_minor", minor);
}

coar_status h5_check_format(hid_t file, const char *path, const char *format, int major) {
    char *found = NULL;
    uint64_t version = 0;
    if (!h5_has_attribute(file, "format"))
        return status_set(COAR_ERROR_INPUT, "%s: not a %s file (attribute 'format' is missing)", path, format);
    TRY(h5_read_text(file, path, "format", &found));
    bool same = !strcmp(found, format);
    free(found);
    if (!same) return status_set(COAR_ERROR_INPUT, "%s: not a %s file", path, format);
    TRY(h5_read_unsigned(file, path, "version_major", &version));
    if (version == (uint64_t)major) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: attribute 'version_major' is %llu, this coar reads %d: use a newer coar",
                      path, (unsigned long long)version, major);
}

/* ------------------------------------------------------------------------------------------- data sets */

coar_status h5_open_dataset(hid_t object, const char *path, const char *name, int rank, H5T_class_t class,
                            hsize_t *dims, hid_t *dataset) {
    coar_status status = COAR_OK;
    hid_t id = H5I_INVALID_HID, space = H5I_INVALID_HID, type = H5I_INVALID_HID;
    if (!h5_has(object, name)) return status_set(COAR_ERROR_INPUT, "%s: '%s' is missing", path, name);
    H5_TRY(id = H5Dopen2(object, name, H5P_DEFAULT), path, name);
    H5_TRY(space = H5Dget_space(id), path, name);
    H5_TRY(type = H5Dget_type(id), path, name);
    if (H5Sget_simple_extent_ndims(space) != rank || H5Tget_class(type) != class) {
        status = status_set(COAR_ERROR_INPUT, "%s: '%s' has the wrong type or number of dimensions", path, name);
        goto done;
    }
    H5_TRY(H5Sget_simple_extent_dims(space, dims, NULL), path, name);
    *dataset = id;
    id = H5I_INVALID_HID;
done:
    h5_close(&type);
    h5_close(&space);
    h5_close(&id);
    return status;
}
