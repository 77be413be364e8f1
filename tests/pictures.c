/* pictures.c - see pictures.h. */
#include "pictures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "cannot make a test picture: %s\n", what);
    exit(2);
}

uint8_t picture_sample(uint32_t x, uint32_t y, int channel) {
    return (uint8_t)(20 + 3 * x + 2 * y + 25 * (uint32_t)channel);
}

/* ---------------------------------------------------------------------------------------------------- JPEG */

static picture compress(struct jpeg_compress_struct *jpeg, uint32_t width, uint32_t height, int channels) {
    unsigned char *data = NULL, *row = malloc((size_t)width * 4);
    unsigned long size = 0;
    require(row != NULL, "memory");
    jpeg_mem_dest(jpeg, &data, &size);
    jpeg_start_compress(jpeg, TRUE);
    for (uint32_t y = 0; y < height; y++) {
        for (uint32_t x = 0; x < width; x++)
            for (int c = 0; c < channels; c++) row[x * (uint32_t)channels + (uint32_t)c] = picture_sample(x, y, c);
        jpeg_write_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_compress(jpeg);
    jpeg_destroy_compress(jpeg);
    free(row);
    return (picture){data, size};
}

static void set_up(struct jpeg_compress_struct *jpeg, struct jpeg_error_mgr *errors, uint32_t width, uint32_t height,
                   int channels, J_COLOR_SPACE space) {
    jpeg->err = jpeg_std_error(errors); /* its error_exit ends the program */
    jpeg_create_compress(jpeg);
    jpeg->image_width = width;
    jpeg->image_height = height;
    jpeg->input_components = channels;
    jpeg->in_color_space = space;
    jpeg_set_defaults(jpeg);
    jpeg_set_quality(jpeg, 98, TRUE);
}

picture picture_jpeg(uint32_t width, uint32_t height, int components, int progressive) {
    struct jpeg_compress_struct jpeg = {0};
    struct jpeg_error_mgr errors;
    const int channels = components == PICTURE_YCCK ? 4 : components;
    set_up(&jpeg, &errors, width, height, channels, channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK);
    if (components == PICTURE_YCCK) jpeg_set_colorspace(&jpeg, JCS_YCCK);
    if (progressive) jpeg_simple_progression(&jpeg);
    return compress(&jpeg, width, height, channels);
}

picture picture_jpeg_many_scans(void) {
    static jpeg_scan_info scans[1 + 3 * 63];
    struct jpeg_compress_struct jpeg = {0};
    struct jpeg_error_mgr errors;
    int count = 0;
    scans[count++] = (jpeg_scan_info){.comps_in_scan = 3, .component_index = {0, 1, 2}};
    for (int component = 0; component < 3; component++)
        for (int k = 1; k < 64; k++)
            scans[count++] = (jpeg_scan_info){.comps_in_scan = 1, .component_index = {component}, .Ss = k, .Se = k};
    set_up(&jpeg, &errors, 16, 16, 3, JCS_RGB);
    jpeg.scan_info = scans;
    jpeg.num_scans = count;
    return compress(&jpeg, 16, 16, 3);
}

/* ----------------------------------------------------------------------------------------------------- PNG */

uint8_t picture_palette(int entry, int channel) {
    return (uint8_t)(entry * 16 + channel);
}

static void append(png_structp png, png_bytep bytes, size_t count) {
    picture *p = png_get_io_ptr(png);
    p->data = realloc(p->data, p->size + count);
    require(p->data != NULL, "memory");
    memcpy(p->data + p->size, bytes, count);
    p->size += count;
}

static void flush(png_structp png) {
    (void)png;
}

static int channels_of(int color_type) {
    return color_type == PNG_COLOR_TYPE_RGB          ? 3
           : color_type == PNG_COLOR_TYPE_RGB_ALPHA  ? 4
           : color_type == PNG_COLOR_TYPE_GRAY_ALPHA ? 2
                                                     : 1;
}

/* One row as libpng takes it: samples of fewer than 8 bits packed, the first in the high bits. */
static void fill_row(uint8_t *row, uint32_t width, uint32_t y, int color_type, int depth) {
    const int channels = channels_of(color_type);
    memset(row, 0, (size_t)width * 8);
    for (uint32_t x = 0; x < width; x++)
        for (int c = 0; c < channels; c++) {
            size_t i = (size_t)x * (size_t)channels + (size_t)c;
            int is_alpha = (color_type & PNG_COLOR_MASK_ALPHA) && c == channels - 1;
            uint8_t sample = picture_sample(x, y, is_alpha ? 3 : c);
            if (color_type == PNG_COLOR_TYPE_PALETTE) sample = (uint8_t)((x + y) % 16 << (8 - depth));
            if (depth == 16) {
                row[2 * i] = sample;
                row[2 * i + 1] = (uint8_t)(0xff - sample);
            } else {
                size_t bit = i * (size_t)depth;
                row[bit / 8] |= (uint8_t)(sample >> (8 - depth) << (8 - depth - (int)(bit % 8)));
            }
        }
}

picture picture_png(uint32_t width, uint32_t height, int color_type, int depth, int interlaced) {
    picture p = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    png_bytep *rows = malloc(height * sizeof *rows);
    require(info && rows, "memory");
    if (setjmp(png_jmpbuf(png))) require(0, "libpng");
    png_set_write_fn(png, &p, append, flush);
    png_set_IHDR(png, info, width, height, depth, color_type, interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (color_type == PNG_COLOR_TYPE_PALETTE) {
        png_color palette[16];
        png_byte alpha[16];
        for (int i = 0; i < 16; i++) {
            palette[i] = (png_color){picture_palette(i, 0), picture_palette(i, 1), picture_palette(i, 2)};
            alpha[i] = (png_byte)(i * 17);
        }
        png_set_PLTE(png, info, palette, 16);
        png_set_tRNS(png, info, alpha, 16, NULL);
    }
    for (uint32_t y = 0; y < height; y++) {
        rows[y] = malloc((size_t)width * 8);
        require(rows[y] != NULL, "memory");
        fill_row(rows[y], width, y, color_type, depth);
    }
    png_set_rows(png, info, rows);
    png_write_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    png_destroy_write_struct(&png, &info);
    for (uint32_t y = 0; y < height; y++) free(rows[y]);
    free(rows);
    return p;
}

void picture_png_fix_crc(picture p, size_t offset) {
    const uint8_t *length = p.data + offset;
    size_t count = (size_t)length[0] << 24 | (size_t)length[1] << 16 | (size_t)length[2] << 8 | length[3];
    uint32_t crc = ~0u;
    for (size_t i = 0; i < count + 4; i++) {
        crc ^= p.data[offset + 4 + i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    crc = ~crc;
    for (int i = 0; i < 4; i++) p.data[offset + 8 + count + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
}

void picture_write(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    require(file && fwrite(data, 1, size, file) == size && !fclose(file), path);
}
