/*
 * import_npy.c - images u8 [N,H,W] or [N,H,W,C] and labels [N] of any integer type, as numpy.save writes them.
 * Must not know: the other formats.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/npy.h"
#include "data/dataset.h"
#include "data/importer.h"

typedef struct arrays {
    importer base;
    npy_array images;
} arrays;

static coar_status load(const importer *self, uint64_t i, image *out) {
    const npy_array *images = &((const arrays *)self)->images;
    TRY(image_reshape(out, images->shape[1], images->shape[2], images->rank == 4 ? (uint32_t)images->shape[3] : 1,
                      self->path));
    size_t bytes = (size_t)out->height * out->width * out->channels;
    memcpy(out->pixels, (const uint8_t *)images->data + i * bytes, bytes);
    return COAR_OK;
}

static void destroy(importer *self) {
    npy_close(&((arrays *)self)->images);
    free(self);
}

static coar_status read_labels(const char *path, uint64_t count, int32_t **out) {
    coar_status status = COAR_OK;
    npy_array array = {0};
    int32_t *labels = NULL;
    TRY(npy_open(path, &array));
    if (array.rank != 1 || array.type >= NPY_F16) {
        status = status_set(COAR_ERROR_INPUT, "%s: expected labels, integers of shape [N]", path);
        goto done;
    }
    if (array.count != count) {
        status = status_set(COAR_ERROR_INPUT, "%s: %zu labels for %llu images", path, array.count,
                            (unsigned long long)count);
        goto done;
    }
    TRY_GOTO(memory_new(array.count, sizeof *labels, path, &labels));
    for (size_t i = 0; i < array.count; i++) {
        int64_t label = npy_get_int(&array, i);
        TRY_GOTO(importer_check_label(path, i, label));
        labels[i] = (int32_t)label;
    }
    *out = labels;
    labels = NULL;
done:
    free(labels);
    npy_close(&array);
    return status;
}

coar_status import_npy_open(const char *path, const char *labels, importer **out) {
    coar_status status = COAR_OK;
    arrays *self;
    TRY(memory_new(1, sizeof *self, path, &self));
    self->base.load = load;
    self->base.destroy = destroy;
    TRY_GOTO(npy_open(path, &self->images));
    const npy_array *a = &self->images;
    if (a->type != NPY_U8 || (a->rank != 3 && a->rank != 4)) {
        status = status_set(COAR_ERROR_INPUT, "%s: expected images, uint8 of shape [N,H,W] or [N,H,W,C]", path);
        goto done;
    }
    if (a->count == 0 || (a->rank == 4 && a->shape[3] > DATASET_MAX_CHANNELS)) {
        status = status_set(COAR_ERROR_INPUT,
                            "%s: shape: no images, or more than %d channels; expected [N,H,W] or [N,H,W,C]", path,
                            DATASET_MAX_CHANNELS);
        goto done;
    }
    TRY_GOTO(labels ? read_labels(labels, a->shape[0], &self->base.labels)
                    : importer_unlabelled(a->shape[0], &self->base.labels));
    self->base.count = a->shape[0];
    *out = &self->base;
    self = NULL;
done:
    if (self) importer_destroy(&self->base);
    return status;
}
