/*
 * import_idx.c - the IDX format of MNIST and its relatives: images u8 [N,H,W], labels u8 [N]. Header: two zero bytes, a type
 * (0x08 = u8), the rank, then each dimension as a big-endian u32; elements follow.
 * Must not know: the other formats.
 */
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "data/importer.h"

typedef struct idx_array {
    file_map map;
    uint32_t shape[3];
    const uint8_t *data; /* inside map */
} idx_array;

typedef struct pair {
    importer base;
    idx_array images;
} pair;

static coar_status idx_open(const char *path, int rank, idx_array *out) {
    coar_status status = COAR_OK;
    idx_array array = {0};
    const size_t header = 4 + 4 * (size_t)rank;
    size_t count = 1, size;
    TRY(file_map_open(path, &array.map));
    const uint8_t *bytes = array.map.data;
    if (array.map.size < header || bytes[0] || bytes[1] || bytes[2] != 8 || bytes[3] != rank) {
        status = status_set(COAR_ERROR_INPUT, "%s: header: not an IDX file of bytes with %d dimension%s%s", path, rank,
                            rank > 1 ? "s" : "",
                            array.map.size > 1 && bytes[0] == 0x1f && bytes[1] == 0x8b ? "; gunzip it first" : "");
        goto done;
    }
    for (int d = 0; d < rank; d++) {
        const uint8_t *p = bytes + 4 + 4 * d;
        array.shape[d] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        if (!size_mul(count, array.shape[d], &count)) count = SIZE_MAX;
    }
    if (!size_add(header, count, &size) || size != array.map.size || count == 0) {
        status = status_set(COAR_ERROR_INPUT, "%s: header: %zu elements, but the file holds %zu; is it truncated?",
                            path, count, array.map.size - header);
        goto done;
    }
    array.data = bytes + header;
    *out = array;
    array.map = (file_map){0};
done:
    file_map_close(&array.map);
    return status;
}

static coar_status load(const importer *self, uint64_t i, image *out) {
    const idx_array *images = &((const pair *)self)->images;
    TRY(image_reshape(out, images->shape[1], images->shape[2], 1, self->path));
    size_t bytes = (size_t)out->height * out->width;
    memcpy(out->pixels, images->data + i * bytes, bytes);
    return COAR_OK;
}

static void destroy(importer *self) {
    file_map_close(&((pair *)self)->images.map);
    free(self);
}

coar_status import_idx_open(const char *path, const char *labels, importer **out) {
    coar_status status = COAR_OK;
    idx_array label_array = {0};
    pair *self;
    TRY(memory_new(1, sizeof *self, path, &self));
    self->base.load = load;
    self->base.destroy = destroy;
    TRY_GOTO(idx_open(path, 3, &self->images));
    const uint32_t count = self->images.shape[0];
    TRY_GOTO(importer_unlabelled(count, &self->base.labels));
    if (labels) {
        TRY_GOTO(idx_open(labels, 1, &label_array));
        if (label_array.shape[0] != count) {
            status = status_set(COAR_ERROR_INPUT, "%s: %u labels for %u images", labels, label_array.shape[0], count);
            goto done;
        }
        for (uint32_t i = 0; i < count; i++) self->base.labels[i] = label_array.data[i];
    }
    self->base.count = count;
    *out = &self->base;
    self = NULL;
done:
    file_map_close(&label_array.map);
    if (self) importer_destroy(&self->base);
    return status;
}
