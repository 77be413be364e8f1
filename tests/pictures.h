/*
 * pictures.h - small JPEG and PNG files made in memory, for tests of decoders. A failure to make one ends the program: it
 * is a broken test, not a failed one.
 */
#ifndef COAR_TEST_PICTURES_H
#define COAR_TEST_PICTURES_H

#include <stddef.h>
#include <stdint.h>

typedef struct picture {
    uint8_t *data; /* the file's bytes; freed by the caller */
    size_t size;
} picture;

/* What the pictures show: smooth, so that JPEG keeps it within a few levels. Up to 32 x 32 pixels; channel 3 is K or alpha. */
uint8_t picture_sample(uint32_t x, uint32_t y, int channel);

enum { PICTURE_YCCK = 5 }; /* as `components`: four, with the colours as YCC */

/* components: 1 grey, 3 RGB, 4 CMYK as Adobe inverts it (samples are R, G, B and K), or PICTURE_YCCK. */
picture picture_jpeg(uint32_t width, uint32_t height, int components, int progressive);

/* A valid progressive file of 190 scans: every coefficient of every component comes alone. */
picture picture_jpeg_many_scans(void);

/* color_type and depth as libpng has them. 16-bit samples hold the sample in the high byte and 0xff - sample in the low
 * one; samples of fewer than 8 bits are the top bits; palettes have 16 entries, picture_palette. */
picture picture_png(uint32_t width, uint32_t height, int color_type, int depth, int interlaced);
uint8_t picture_palette(int entry, int channel);

/* Puts the CRC of the chunk that starts at `offset` (its length field) right again. */
void picture_png_fix_crc(picture p, size_t offset);

void picture_write(const char *path, const void *data, size_t size);

#endif
