/* class_embeddings.c - see class_embeddings.h. */
#include "model/class_embeddings.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/npy.h"

static coar_status check_shape(const char *what, const size_t *shape, int rank, uint32_t width) {
    char is[128];
    if (rank != 2 || shape[1] != width)
        return status_set(COAR_ERROR_INPUT, "%s: class embeddings are %s, the image encoder's have %u numbers each",
                          what, tensor_shape_text(rank, shape, is, sizeof is), width);
    if (shape[0] < 2) return status_set(COAR_ERROR_INPUT, "%s: fewer than 2 classes", what);
    if (shape[0] > INT32_MAX) return status_set(COAR_ERROR_INPUT, "%s: more than 2^31 classes", what);
    return COAR_OK;
}

static coar_status read_npy(const npy_array *file, const char *path, uint32_t width, float **out) {
    float *values;
    if (file->type != NPY_F32 && file->type != NPY_F16)
        return status_set(COAR_ERROR_INPUT, "%s: descr: class embeddings must be float32 or float16", path);
    TRY(check_shape(path, file->shape, file->rank, width));
    TRY(memory_new(file->count, sizeof *values, path, &values));
    for (size_t i = 0; i < file->count; i++) values[i] = (float)npy_get_double(file, i);
    *out = values;
    return COAR_OK;
}

static coar_status open_npy(model_builder *b, const char *path, uint32_t width, uint32_t *classes, float **out) {
    npy_array file;
    TRY(npy_open(path, &file));
    coar_status status = read_npy(&file, path, width, out);
    *classes = (uint32_t)file.shape[0];
    if (status == COAR_OK) status = file_map_sha256(&file.map, b->model->classes_sha256);
    npy_close(&file);
    return status;
}

static coar_status read_tensor(const model_builder *b, tensor *t, uint32_t width, uint32_t *classes, float **out) {
    if (!t)
        return status_set(COAR_ERROR_USAGE,
                          "--classes: %s is a CLIP: name the embeddings of its classes, a .npy of [classes, %u]",
                          b->table->path, width);
    TRY(check_shape(b->table->path, t->shape, t->rank, width));
    *classes = (uint32_t)t->shape[0];
    return tensor_to_f32(b->table, t, out);
}

static coar_status scale_row(const char *what, size_t row, uint32_t width, double scale, float *values) {
    double squares = 0;
    for (uint32_t c = 0; c < width; c++) {
        if (!isfinite(values[c]))
            return status_set(COAR_ERROR_INPUT, "%s: class %zu: number %u is %g", what, row, c, (double)values[c]);
        squares += (double)values[c] * values[c];
    }
    if (squares == 0) return status_set(COAR_ERROR_INPUT, "%s: class %zu: all numbers are 0", what, row);
    for (uint32_t c = 0; c < width; c++) values[c] = (float)(scale * values[c] / sqrt(squares));
    return COAR_OK;
}

coar_status class_embeddings_load(model_builder *b, uint32_t width, double scale, uint32_t *classes,
                                  const float **weight) {
    const char *path = b->options->classes;
    tensor *own = tensor_find(b->table, "class_embeddings");
    float *values = NULL;
    if (own) own->used = 1; /* also where the options' take its place */
    TRY(path ? open_npy(b, path, width, classes, &values) : read_tensor(b, own, width, classes, &values));
    TRY(graph_own(b->model->graph, values));
    for (size_t row = 0; row < *classes; row++)
        TRY(scale_row(path ? path : b->table->path, row, width, scale, values + row * width));
    *weight = values;
    return COAR_OK;
}
