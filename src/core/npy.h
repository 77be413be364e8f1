/*
 * npy.h - NumPy's .npy format (versions 1.0 to 3.0, C order, little endian).
 * Must not know: what the arrays mean.
 */
#ifndef COAR_CORE_NPY_H
#define COAR_CORE_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "core/files.h"

typedef enum npy_type { NPY_BOOL, NPY_U8, NPY_I8, NPY_I16, NPY_U16, NPY_I32, NPY_U32, NPY_I64, NPY_U64, NPY_F16, NPY_F32, NPY_F64 } npy_type;

#define NPY_MAX_DIMENSIONS 8

typedef struct npy_array {
    npy_type type;
    int rank;
    size_t shape[NPY_MAX_DIMENSIONS];
    size_t count;     /* elements */
    const void *data; /* inside `map` */
    file_map map;
} npy_array;

/* Maps a .npy file; the header is checked against the file's size. Fortran order and big endian are refused. */
coar_status npy_open(const char *path, npy_array *out);
void npy_close(npy_array *array);
size_t npy_type_size(npy_type type);

/* Element i as an integer (integer and bool types) or as a double (any type). Caller checks the type and range. */
int64_t npy_get_int(const npy_array *array, size_t i);
double npy_get_double(const npy_array *array, size_t i);

/* Header bytes for an array to be written (malloc'ed, *size multiple of 64); data follows. */
coar_status npy_header(npy_type type, int rank, const size_t *shape, uint8_t **header, size_t *size);

/* Writes a whole array atomically (file_commit). */
coar_status npy_write(const char *path, npy_type type, int rank, const size_t *shape, const void *data);

#endif
