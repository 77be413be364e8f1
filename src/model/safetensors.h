/*
 * safetensors.h - the weight file format: 8 bytes header length, a JSON header, raw little-endian tensors.
 *
 * The file is untrusted: offsets, overlaps, gaps, overflow, duplicate names and dtypes are checked before any use.
 * Must not know: architectures.
 */
#ifndef COAR_MODEL_SAFETENSORS_H
#define COAR_MODEL_SAFETENSORS_H

#include "model/tensors.h"

/* Maps and checks a whole file. COAR_ERROR_INPUT with one line naming file, tensor and field; *out is written on
 * success only. Close with tensor_table_close. */
coar_status safetensors_open(const char *path, tensor_table *out);

/* The same for a file's bytes in memory, which must outlive the table; `path` is for messages. */
coar_status safetensors_parse(const char *path, const uint8_t *bytes, size_t size, tensor_table *out);

/* Writes a safetensors file of the table's fp32 tensors and metadata atomically (generated weights). */
coar_status safetensors_write(const char *path, const tensor_table *table);

#endif
