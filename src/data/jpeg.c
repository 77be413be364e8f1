/* jpeg.c - see image.h, jpeg_decode. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "core/memory.h"
#include "data/image.h"

/* A progressive file may repeat scans over a large image without end, each costing a pass over all coefficients; encoders
 * write about ten. */
enum { SCANS_MAX = 100 };

/* libjpeg calls back with pointers to its own parts, which therefore come first. */
typedef struct decoder {
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct jpeg;
    jmp_buf failure;
    char message[JMSG_LENGTH_MAX];
    uint8_t *row; /* one row of CMYK, or NULL */
} decoder;

static void fail(j_common_ptr jpeg) {
    decoder *d = (decoder *)jpeg->err;
    d->errors.format_message(jpeg, d->message);
    longjmp(d->failure, 1);
}

static void emit_message(j_common_ptr jpeg, int level) {
    if (level < 0) fail(jpeg); /* a warning: the data are damaged, and libjpeg would go on with made-up pixels */
}

static void count_scans(j_common_ptr jpeg) {
    decoder *d = (decoder *)jpeg->err;
    if (d->jpeg.input_scan_number <= SCANS_MAX) return;
    snprintf(d->message, sizeof d->message, "more than %d scans", SCANS_MAX);
    longjmp(d->failure, 1);
}

/* Adobe's convention, which all CMYK files in the wild follow: samples are stored inverted, so RGB = CMY * K / 255. */
static void rgb_from_cmyk(const uint8_t *cmyk, uint8_t *rgb, uint32_t width) {
    for (uint32_t x = 0; x < width; x++, cmyk += 4, rgb += 3)
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)((cmyk[c] * cmyk[3] + 127) / 255);
}

static coar_status decode_rows(decoder *d, const char *name, image *out) {
    struct jpeg_decompress_struct *jpeg = &d->jpeg;
    const int four = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
    jpeg->out_color_space = four ? JCS_CMYK : JCS_RGB;
    TRY(image_reshape(out, jpeg->image_height, jpeg->image_width, 3, name));
    if (four) TRY(memory_new(out->width, 4, name, &d->row));
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *pixels = out->pixels + (size_t)jpeg->output_scanline * out->width * 3;
        JSAMPROW row = four ? d->row : pixels;
        jpeg_read_scanlines(jpeg, &row, 1);
        if (four) rgb_from_cmyk(d->row, pixels, out->width);
    }
    jpeg_finish_decompress(jpeg);
    return COAR_OK;
}

coar_status jpeg_decode(const uint8_t *data, size_t size, const char *name, image *out) {
    coar_status status = COAR_OK;
    decoder *d;
    TRY(memory_new(1, sizeof *d, name, &d)); /* on the heap: what changes after setjmp must not live in registers */
    d->jpeg.err = jpeg_std_error(&d->errors);
    d->errors.error_exit = fail;
    d->errors.emit_message = emit_message;
    d->progress.progress_monitor = count_scans;
    if (setjmp(d->failure)) {
        status = status_set(COAR_ERROR_INPUT, "%s: damaged JPEG: %s", name, d->message);
    } else {
        jpeg_create_decompress(&d->jpeg);
        d->jpeg.progress = &d->progress;
        jpeg_mem_src(&d->jpeg, data, size);
        jpeg_read_header(&d->jpeg, TRUE);
        status = decode_rows(d, name, out);
    }
    jpeg_destroy_decompress(&d->jpeg);
    free(d->row);
    free(d);
    return status;
}
