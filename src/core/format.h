/*
 * format.h - what kind of file this is, told from its content and never from its name.
 * Must not know: what the formats hold.
 */
#ifndef COAR_CORE_FORMAT_H
#define COAR_CORE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"

#define FORMAT_SIZE 32
#define FORMAT_SAFETENSORS "safetensors"

/* Whether a file that begins with these bytes is an HDF5 file. */
bool format_is_hdf5(const void *head, size_t size);

/* FORMAT_SAFETENSORS, or the root attribute `format` of an HDF5 file ("coar.run", "coar.data", "" when it has none).
 * Anything else is COAR_ERROR_INPUT. */
coar_status format_of_file(const char *path, char format[FORMAT_SIZE]);

#endif
