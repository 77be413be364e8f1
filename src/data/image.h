/*
 * image.h - one decoded image, and the decoders: JPEG (jpeg.c) and PNG (png.c) from memory to 8-bit RGB.
 *
 * What the bytes say is checked before it sizes anything. Orientation marks, gamma and colour profiles are ignored, as
 * by the loaders that models are trained with.
 * Must not know: files, data sets.
 */
#ifndef COAR_DATA_IMAGE_H
#define COAR_DATA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* 8192 x 8192: more than any photograph of ImageNet, and small enough that a file of a few bytes that claims to be huge
 * cannot take the machine down (192 MiB of pixels per worker). */
#define IMAGE_MAX_PIXELS ((uint64_t)1 << 26)

/* Zero-initialised before its first use; the buffer is kept from one image to the next. */
typedef struct image {
    uint32_t height, width, channels;
    uint8_t *pixels; /* [height][width][channels] */
    size_t capacity; /* bytes */
} image;

/* Makes room for an image of this shape and sets it. `name` is for messages. */
coar_status image_reshape(image *i, uint64_t height, uint64_t width, uint32_t channels, const char *name);
void image_free(image *i);

/* Decodes a JPEG or PNG file, told by its signature, to RGB. Truncated and damaged data are COAR_ERROR_INPUT. `name` is what
 * messages call it. Thread-safe. */
coar_status image_decode(const uint8_t *data, size_t size, const char *name, image *out);

/* JPEG by libjpeg-turbo's default decoder. Grey becomes RGB; CMYK and YCCK are taken as Adobe writes them (inverted). Any
 * warning about corrupt data is an error. */
coar_status jpeg_decode(const uint8_t *data, size_t size, const char *name, image *out);

/* PNG by libpng. 16 bits: the high byte. Grey and palettes become RGB. Alpha is dropped, not composited: what
 * Pillow's convert("RGB") gives, which is what models are trained on. */
coar_status png_decode(const uint8_t *data, size_t size, const char *name, image *out);

#endif
