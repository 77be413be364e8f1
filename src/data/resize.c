/*
 * resize.c - see resize.h.
 *
 * Separable: all needed rows are resized horizontally, then columns vertically, with 8 bits in between. One output pixel x
 * is sum_i w_x(i) in[i], w_x(i) = f((i + 1/2 - c_x) / s) / sum, c_x = (x + 1/2) in/out its centre in the source, and s =
 * max(1, in/out): when shrinking, the filter is widened to cover every source pixel (that is the anti-aliasing). Weights
 * are fixed point with 22 bits: 8 bits of pixel and the overshoot of bicubic weights then fit 32 bits with their sign.
 */
#include "data/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

enum { WEIGHT_BITS = 22 };

/* The filters of radius 0.5, 1 and 2 around 0. */
static double area(double x) {
    return x > -0.5 && x <= 0.5 ? 1 : 0;
}

static double bilinear(double x) {
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

static const struct {
    const char *name;
    double (*weight)(double x);
    double radius;
} filters[] = {
    [RESIZE_AREA] = {"area", area, 0.5},
    [RESIZE_BILINEAR] = {"bilinear", bilinear, 1},
    [RESIZE_BICUBIC] = {"bicubic", bicubic, 2},
};

coar_status resize_parse(const char *text, resize_filter *out) {
    if (!text) text = filters[RESIZE_BILINEAR].name;
    for (int i = 0; i < (int)(sizeof filters / sizeof *filters); i++)
        if (!strcmp(filters[i].name, text)) {
            *out = (resize_filter)i;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--resize %s: choose area, bilinear or bicubic", text);
}

/* Weights along one axis for the output pixels of the crop. */
typedef struct axis {
    uint32_t count;   /* output pixels */
    uint32_t stride;  /* weights reserved for each */
    uint32_t *first;  /* [count] first source pixel */
    uint32_t *taps;   /* [count] source pixels, <= stride */
    int32_t *weights; /* [count][stride] */
} axis;

static void axis_free(axis *a) {
    free(a->first);
    free(a->taps);
    free(a->weights);
}

static void weigh(axis *a, uint32_t x, resize_filter filter, double center, double stretch, uint32_t in) {
    const double radius = filters[filter].radius * stretch;
    double low = floor(center - radius + 0.5), high = floor(center + radius + 0.5), sum = 0;
    uint32_t first = low < 0 ? 0 : (uint32_t)low, end = high > in ? in : (uint32_t)high;
    int32_t *weights = a->weights + (size_t)x * a->stride;
    for (uint32_t i = first; i < end; i++) sum += filters[filter].weight((i + 0.5 - center) / stretch);
    for (uint32_t i = first; i < end; i++)
        weights[i - first] =
            (int32_t)lround(filters[filter].weight((i + 0.5 - center) / stretch) / sum * (1 << WEIGHT_BITS));
    a->first[x] = first;
    a->taps[x] = end - first;
}

/* `in` source pixels resized to `out`, of which offset .. offset + count - 1 are wanted. */
static coar_status axis_create(axis *a, resize_filter filter, uint32_t in, uint64_t out, uint64_t offset,
                               uint32_t count, const char *name) {
    const double scale = (double)in / (double)out, stretch = scale > 1 ? scale : 1;
    a->count = count;
    a->stride = (uint32_t)ceil(filters[filter].radius * stretch) * 2 + 1;
    TRY(memory_new(count, sizeof *a->first, name, &a->first));
    TRY(memory_new(count, sizeof *a->taps, name, &a->taps));
    TRY(memory_new(count, sizeof *a->weights * a->stride, name, &a->weights));
    for (uint32_t x = 0; x < count; x++) weigh(a, x, filter, ((double)(offset + x) + 0.5) * scale, stretch, in);
    return COAR_OK;
}

static uint8_t to_pixel(int32_t sum) {
    sum >>= WEIGHT_BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

/* One row of `in` pixels [..][channels] to a->count pixels. */
static void resize_row(const axis *a, const uint8_t *in, uint32_t channels, uint8_t *out) {
    for (uint32_t x = 0; x < a->count; x++, out += channels) {
        const int32_t *weights = a->weights + (size_t)x * a->stride;
        const uint8_t *source = in + (size_t)a->first[x] * channels;
        int32_t sums[4] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1),
                           1 << (WEIGHT_BITS - 1)};
        for (uint32_t i = 0; i < a->taps[x]; i++)
            for (uint32_t c = 0; c < channels; c++) sums[c] += weights[i] * *source++;
        for (uint32_t c = 0; c < channels; c++) out[c] = to_pixel(sums[c]);
    }
}

/* Output row y: the weighted sum of whole rows; rows: [..][width bytes], starting with source row `row0`. */
static void resize_column(const axis *a, uint32_t y, const uint8_t *rows, uint32_t row0, size_t width, int32_t *sums,
                          uint8_t *out) {
    for (size_t x = 0; x < width; x++) sums[x] = 1 << (WEIGHT_BITS - 1);
    for (uint32_t i = 0; i < a->taps[y]; i++) {
        const int32_t weight = a->weights[(size_t)y * a->stride + i];
        const uint8_t *row = rows + (size_t)(a->first[y] - row0 + i) * width;
        for (size_t x = 0; x < width; x++) sums[x] += weight * row[x];
    }
    for (size_t x = 0; x < width; x++) out[x] = to_pixel(sums[x]);
}

/* First pixel of the central `side` of `length`; halves round to even, as Python's round (torchvision's CenterCrop). */
static uint64_t crop_offset(uint64_t length, uint32_t side) {
    uint64_t slack = length - side;
    return slack / 2 + (slack % 4 == 3);
}

coar_status resize_crop(const image *in, resize_filter filter, uint32_t shorter, uint32_t side, const char *name,
                        uint8_t *pixels) {
    coar_status status = COAR_OK;
    axis horizontal = {0}, vertical = {0};
    uint8_t *rows = NULL;
    int32_t *sums = NULL;
    const int wide = in->width > in->height;
    const uint64_t longer =
        wide ? (uint64_t)shorter * in->width / in->height : (uint64_t)shorter * in->height / in->width;
    const uint64_t width = wide ? longer : shorter, height = wide ? shorter : longer;
    const size_t out_bytes = (size_t)side * in->channels, in_bytes = (size_t)in->width * in->channels;
    TRY_GOTO(axis_create(&horizontal, filter, in->width, width, crop_offset(width, side), side, name));
    TRY_GOTO(axis_create(&vertical, filter, in->height, height, crop_offset(height, side), side, name));
    const uint32_t row0 = vertical.first[0], row_end = vertical.first[side - 1] + vertical.taps[side - 1];
    TRY_GOTO(memory_new(row_end - row0, out_bytes, name, &rows));
    TRY_GOTO(memory_new(out_bytes, sizeof *sums, name, &sums));
    for (uint32_t y = row0; y < row_end; y++)
        resize_row(&horizontal, in->pixels + y * in_bytes, in->channels, rows + (y - row0) * out_bytes);
    for (uint32_t y = 0; y < side; y++)
        resize_column(&vertical, y, rows, row0, out_bytes, sums, pixels + y * out_bytes);
done:
    axis_free(&horizontal);
    axis_free(&vertical);
    free(rows);
    free(sums);
    return status;
}
