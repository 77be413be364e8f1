/*
 * resize.h - anti-aliased resizing with a centre crop, as image classifiers are evaluated: the same pixels as Pillow's
 * resize and torchvision's Resize + CenterCrop.
 * Must not know: files, data sets.
 */
#ifndef COAR_DATA_RESIZE_H
#define COAR_DATA_RESIZE_H

#include "data/image.h"

typedef enum resize_filter {
    RESIZE_AREA,     /* box: pixels whose centre falls into the new pixel, with equal weight */
    RESIZE_BILINEAR, /* triangle of radius 1 */
    RESIZE_BICUBIC   /* Keys' cubic convolution (IEEE ASSP 1981), a = -1/2, radius 2 */
} resize_filter;

/* text NULL: bilinear. */
coar_status resize_parse(const char *text, resize_filter *out);

/* Resizes so that the shorter side has `shorter` pixels (the longer one keeps the proportions, rounded down), and cuts the
 * central side x side pixels out. side <= shorter. pixels: [side][side][in->channels]. Only what the crop needs is
 * computed, so cost is bounded for any proportions. `name` is for messages. */
coar_status resize_crop(const image *in, resize_filter filter, uint32_t shorter, uint32_t side, const char *name,
                        uint8_t *pixels);

#endif
