/* png_url.c - see png_url.h. */
#include "report/png_url.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

void base64_encode(const uint8_t *data, size_t size, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t word = (uint32_t)data[i] << 16;
        if (left > 1) word |= (uint32_t)data[i + 1] << 8;
        if (left > 2) word |= data[i + 2];
        *out++ = digits[word >> 18];
        *out++ = digits[word >> 12 & 63];
        *out++ = left > 1 ? digits[word >> 6 & 63] : '=';
        *out++ = left > 2 ? digits[word & 63] : '=';
    }
    *out = '\0';
}

/* The PNG file's bytes into `file`, or with NULL only their number. */
static coar_status encode(png_image *image, const uint8_t *pixels, uint8_t *file, png_alloc_size_t *size) {
    if (png_image_write_to_memory(image, file, size, 0, pixels, 0, NULL)) return COAR_OK;
    return status_set(COAR_ERROR_INTERNAL, "report: libpng cannot write a %u x %u image: %s", image->width,
                      image->height, image->message);
}

coar_status png_url(const uint8_t *pixels, uint32_t width, uint32_t height, uint32_t channels, char **url) {
    static const char prefix[] = "data:image/png;base64,";
    const size_t head = sizeof prefix - 1;
    coar_status status;
    uint8_t *file = NULL;
    png_alloc_size_t size = 0;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = width,
                       .height = height,
                       .format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB};
    TRY_GOTO(encode(&image, pixels, NULL, &size));
    TRY_GOTO(memory_new(size, 1, "report image", &file));
    TRY_GOTO(encode(&image, pixels, file, &size));

    char *text;
    TRY_GOTO(memory_new(head + (size + 2) / 3 * 4 + 1, 1, "report image", &text));
    memcpy(text, prefix, head);
    base64_encode(file, size, text + head);
    *url = text;
done:
    free(file);
    return status;
}
