/*
 * h5.h - what the modules that read or write HDF5 share: one lock, one failure macro, format marks and attributes.
 *
 * HDF5 is not thread-safe in every build, so each function that calls it holds h5_lock. The lock is recursive; while it
 * is held HDF5 prints nothing. Files are opened without HDF5's own locking: coar never writes one in place.
 * Must not know: what the files mean. Only src/store, src/data and core/format.c may include it.
 */
#ifndef COAR_CORE_H5_H
#define COAR_CORE_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

void h5_lock(void);
void h5_unlock(void);

/* Records "PATH: OBJECT: HDF5's innermost reason" and returns COAR_ERROR_IO where the system refused (full disk, no
 * permission), else COAR_ERROR_INPUT (damaged or wrong file). object: "" for the file itself. */
coar_status h5_failed(const char *path, const char *object);

/* For hid_t and herr_t expressions, an assignment included: H5_TRY(file = H5Fopen(...), path, ""). Needs `coar_status
 * status` and a label `done` in scope. */
#define H5_TRY(expression, path, object)                                                                               \
    do {                                                                                                               \
        if ((expression) < 0) {                                                                                        \
            status = h5_failed((path), (object));                                                                      \
            goto done;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* Closes any kind of handle and makes it H5I_INVALID_HID; a negative one is left alone. */
void h5_close(hid_t *id);

/* A new file (an old one is emptied), to be written under a temporary name. Times are not kept, so that equal contents
 * are equal bytes: give data sets H5Pset_obj_track_times(properties, false) too. Its writes succeed as far as HDF5 can
 * tell (h5_driver.h): h5_check_writes says, between large pieces, whether they do; h5_finish closes it and says whether
 * everything reached the system. */
coar_status h5_create(const char *path, hid_t *file);
coar_status h5_check_writes(hid_t file, const char *path);
coar_status h5_finish(hid_t *file, const char *path);

/* Opens for reading. A file that is missing, unreadable or no HDF5 file is an error that says which. */
coar_status h5_open(const char *path, hid_t *file);

/* Root attributes format="coar.run", version_major, version_minor (integers). h5_check_format refuses another format
 * and an unknown major version. */
coar_status h5_write_format(hid_t file, const char *path, const char *format, int major, int minor);
coar_status h5_check_format(hid_t file, const char *path, const char *format, int major);

/* Scalar attributes of an open object. Text is variable-length UTF-8 (h5py: str), integers 64 bits, reals f64. */
coar_status h5_write_text(hid_t object, const char *path, const char *name, const char *value);
coar_status h5_write_unsigned(hid_t object, const char *path, const char *name, uint64_t value);
coar_status h5_write_signed(hid_t object, const char *path, const char *name, int64_t value);
coar_status h5_write_real(hid_t object, const char *path, const char *name, double value);

/* An attribute that is missing or of another kind is an error naming it. *value: malloc'ed. Fixed-length text is
 * taken too. */
coar_status h5_read_text(hid_t object, const char *path, const char *name, char **value);
coar_status h5_read_unsigned(hid_t object, const char *path, const char *name, uint64_t *value);
coar_status h5_read_real(hid_t object, const char *path, const char *name, double *value);
bool h5_has_attribute(hid_t object, const char *name);

/* Whether a path below `object` can be followed link by link (no error stack, dangling links give false). */
bool h5_has(hid_t object, const char *name);

/* Opens a data set and checks rank, class (H5T_FLOAT, H5T_INTEGER, ...); dims [rank] receives
 * its shape. */
coar_status h5_open_dataset(hid_t object, const char *path, const char *name, int rank, H5T_class_t class,
                            hsize_t *dims, hid_t *dataset);

#endif
