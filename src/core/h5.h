/*
 * h5.h - what every user of HDF5 shares: one lock, silence, and one way to turn a failure into a coar_status.
 *
 * A serial libhdf5 may be built without thread safety, and identifiers are shared by a whole process, so all calls of
 * HDF5 are made between h5_enter and h5_leave. Only src/data and src/store include this header (docs/design.md, 3).
 * Must not know: any file's layout.
 */
#ifndef COAR_CORE_H5_H
#define COAR_CORE_H5_H

#include <hdf5.h>

#include "core/status.h"

/* Takes the library-wide lock and switches HDF5's own printing of errors off for this thread. Not recursive. */
void h5_enter(void);
void h5_leave(void);

/* Opens a file for reading. Without HDF5's file locks (files are only ever replaced whole, and network file systems
 * often refuse locks), and so that closing the file closes every object opened through it. */
coar_status h5_open(const char *path, hid_t *file);

/* Creates (truncates) a file with the same settings; path is a temporary name, `final` the one messages give. */
coar_status h5_create(const char *path, const char *final, hid_t *file);

/* Records "FILE: OBJECT: what HDF5 says" and returns `code`; forgets HDF5's error stack. */
coar_status h5_failed(coar_status code, const char *file, const char *object);

/* `expression` is a herr_t, hid_t, htri_t or hssize_t: negative means failure. Between h5_enter and h5_leave, in a function
 * with `coar_status status` and a label `done`. code: COAR_ERROR_INPUT when reading, COAR_ERROR_IO when writing. */
#define H5_TRY_GOTO(expression, code, file, object)                                                                    \
    do {                                                                                                               \
        if ((expression) < 0) {                                                                                        \
            status = h5_failed(code, file, object);                                                                    \
            goto done;                                                                                                 \
        }                                                                                                              \
    } while (0)

#endif
