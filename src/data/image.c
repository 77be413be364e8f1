/* image.c - see image.h. */
#include "data/image.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

coar_status image_reshape(image *i, uint64_t height, uint64_t width, uint32_t channels, const char *name) {
    if (height < 1 || width < 1)
        return status_set(COAR_ERROR_INPUT, "%s: an image of %" PRIu64 " x %" PRIu64 " pixels", name, width, height);
    if (height > IMAGE_MAX_PIXELS || width > IMAGE_MAX_PIXELS / height)
        return status_set(COAR_ERROR_INPUT,
                          "%s: %" PRIu64 " x %" PRIu64 " pixels are too many; at most %" PRIu64 " are read", name,
                          width, height, IMAGE_MAX_PIXELS);
    size_t bytes = (size_t)(height * width * channels);
    if (bytes > i->capacity) {
        image_free(i); /* the old pixels need not be copied */
        TRY(memory_new(bytes, 1, name, &i->pixels));
        i->capacity = bytes;
    }
    i->height = (uint32_t)height;
    i->width = (uint32_t)width;
    i->channels = channels;
    return COAR_OK;
}

void image_free(image *i) {
    free(i->pixels);
    *i = (image){0};
}

coar_status image_decode(const uint8_t *data, size_t size, const char *name, image *out) {
    if (size == 0) return status_set(COAR_ERROR_INPUT, "%s: the file is empty", name);
    if (size >= 3 && !memcmp(data, "\xff\xd8\xff", 3)) return jpeg_decode(data, size, name, out);
    if (size >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8)) return png_decode(data, size, name, out);
    return status_set(COAR_ERROR_INPUT, "%s: neither a JPEG nor a PNG file", name);
}
