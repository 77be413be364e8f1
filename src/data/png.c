/* png.c - see image.h, png_decode. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "core/memory.h"
#include "data/image.h"

typedef struct decoder {
    png_structp png;
    png_infop info;
    const uint8_t *next, *end; /* what is left of the file */
    png_bytep *rows;           /* [height] into the image */
    char message[128];
} decoder;

static void fail(png_structp png, png_const_charp message) {
    decoder *d = png_get_error_ptr(png);
    snprintf(d->message, sizeof d->message, "%s", message);
    png_longjmp(png, 1);
}

/* libpng's warnings are about parts that do not change pixels (profiles, text); damage to pixels is an error. */
static void ignore_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static void read_bytes(png_structp png, png_bytep out, size_t size) {
    decoder *d = png_get_io_ptr(png);
    if (size > (size_t)(d->end - d->next)) png_error(png, "the file ends too early");
    memcpy(out, d->next, size);
    d->next += size;
}

static coar_status decode_rows(decoder *d, const char *name, image *out) {
    png_read_info(d->png, d->info);
    uint32_t width = png_get_image_width(d->png, d->info), height = png_get_image_height(d->png, d->info);
    TRY(image_reshape(out, height, width, 3, name));
    TRY(memory_new(height, sizeof *d->rows, name, &d->rows));
    for (uint32_t y = 0; y < height; y++) d->rows[y] = out->pixels + (size_t)y * width * 3;
    png_set_expand(d->png); /* palettes to colours, grey below 8 bits to 8; makes alpha of tRNS, dropped below */
    png_set_strip_16(d->png);
    png_set_gray_to_rgb(d->png);
    png_set_strip_alpha(d->png);
    png_set_interlace_handling(d->png);
    png_read_update_info(d->png, d->info);
    if (png_get_rowbytes(d->png, d->info) != (size_t)width * 3)
        return status_set(COAR_ERROR_INTERNAL, "%s: libpng gives rows of another size than RGB", name);
    png_read_image(d->png, d->rows);
    png_read_end(d->png, NULL); /* finds files cut off behind the pixels too */
    return COAR_OK;
}

coar_status png_decode(const uint8_t *data, size_t size, const char *name, image *out) {
    coar_status status = COAR_OK;
    decoder *d;
    TRY(memory_new(1, sizeof *d, name, &d)); /* on the heap: what changes after setjmp must not live in registers */
    d->next = data;
    d->end = data + size;
    d->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, d, fail, ignore_warning);
    d->info = d->png ? png_create_info_struct(d->png) : NULL;
    if (!d->info) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory for libpng", name);
    } else if (setjmp(png_jmpbuf(d->png))) {
        status = status_set(COAR_ERROR_INPUT, "%s: damaged PNG: %s", name, d->message);
    } else {
        png_set_read_fn(d->png, d, read_bytes);
        png_set_user_limits(d->png, (png_uint_32)IMAGE_MAX_PIXELS, (png_uint_32)IMAGE_MAX_PIXELS);
        status = decode_rows(d, name, out);
    }
    png_destroy_read_struct(&d->png, &d->info, NULL);
    free(d->rows);
    free(d);
    return status;
}
