/*
 * safetensors.h - the weight file format: 8 bytes header length, a JSON header, raw little-endian tensors.
 *
 * The file is untrusted: offsets, overlaps, overflow, duplicate names and dtypes are checked before any use.
 * Must not know: architectures.
 */
#ifndef COAR_MODEL_SAFETENSORS_H
#define COAR_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "core/files.h"

typedef enum tensor_type { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_F64, TENSOR_I64, TENSOR_OTHER } tensor_type;

#define TENSOR_MAX_RANK 8

typedef struct tensor {
    char *name;
    tensor_type type;
    int rank;
    size_t shape[TENSOR_MAX_RANK];
    size_t count;        /* elements */
    const void *data;    /* not aligned; inside the map, or owned by the table (random weights) */
    size_t bytes;
    int used;            /* set by tensors_take: what stays 0 is an unknown tensor */
} tensor;

typedef struct tensor_table {
    char *path;          /* for messages */
    tensor *items;       /* in file order */
    size_t count, capacity;
    char **meta_keys, **meta_values; /* "__metadata__" */
    size_t meta_count;
    file_map map;
    void **owned;
    size_t owned_count, owned_capacity;
} tensor_table;

coar_status safetensors_open(const char *path, tensor_table *out);
void tensor_table_close(tensor_table *table);

/* NULL when absent. */
tensor *tensor_find(const tensor_table *table, const char *name);
const char *tensor_metadata(const tensor_table *table, const char *key);

/* All elements as a new malloc'ed fp32 array (f32, f16, bf16, f64). NaN or infinity is an error naming the tensor and
 * the element. Marks the tensor used. */
coar_status tensor_to_f32(const tensor_table *table, tensor *t, float **out);

/* Writes a safetensors file of fp32 tensors atomically (generated weights of tests and benchmarks). */
coar_status safetensors_write(const char *path, const tensor_table *table);

#endif
