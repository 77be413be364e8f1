/*
 * tensors.h - named weight tensors in memory: what a weight file holds, or what random.c generates.
 * Must not know: file formats, architectures.
 */
#ifndef COAR_MODEL_TENSORS_H
#define COAR_MODEL_TENSORS_H

#include <stdbool.h>
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
    size_t count;     /* elements */
    const void *data; /* little-endian, not aligned; inside the map, or `owned` */
    size_t bytes;
    float *owned; /* the same array where the table owns it (generated weights), else NULL */
    int used;     /* somebody asked for its contents: what stays 0 is an unknown tensor */
} tensor;

typedef struct tensor_table {
    char *path;    /* for messages */
    tensor *items; /* in the order of their data */
    size_t count, capacity;
    size_t *by_name;                 /* [count] indices into items, sorted by name (tensor_table_index) */
    char **meta_keys, **meta_values; /* "__metadata__" */
    size_t meta_count, meta_capacity;
    file_map map; /* the weight file, empty for generated weights */
} tensor_table;

/* Releases everything; accepts a zeroed table. */
void tensor_table_close(tensor_table *table);

/* Appends a copy of *t under a copy of `name`. The table must be indexed again before it is searched. */
coar_status tensor_table_push(tensor_table *table, const tensor *t, const char *name);

/* Appends an fp32 tensor whose malloc'ed array `data` the table takes over (freed at once on failure). */
coar_status tensor_table_add(tensor_table *table, const char *name, int rank, const size_t *shape, float *data);

coar_status tensor_table_add_metadata(tensor_table *table, const char *key, const char *value);

/* Sorts the names; COAR_ERROR_INPUT when two tensors have the same one. Needed before tensor_find. */
coar_status tensor_table_index(tensor_table *table);

/* NULL when absent. */
tensor *tensor_find(const tensor_table *table, const char *name);
const char *tensor_metadata(const tensor_table *table, const char *key);

/* All elements as a malloc'ed fp32 array (from f32, f16, bf16, f64) that the caller frees or hands to a graph. NaN or
 * infinity is an error naming the tensor and the element. Marks the tensor used. Weights are in memory once: the file's
 * pages are given back, and an array that the table owns is handed over, so that such a tensor can be taken once only. */
coar_status tensor_to_f32(const tensor_table *table, tensor *t, float **out);

/* Whether two tensors have the same type, shape and bytes. */
bool tensor_equal(const tensor *a, const tensor *b);

/* "[64, 3, 7, 7]" into a buffer; returns it. */
const char *tensor_shape_text(int rank, const size_t *shape, char *buffer, size_t size);

#endif
