/*
 * layer_case.h - one layer, or its data gradient, with random numbers on the device and its result computed in double
 * on the host, straight from the definition in kernels.h: what a form of a library is compared with. The weight of a
 * transpose is in the order that libraries read (cuda_form.h).
 */
#ifndef COAR_TESTS_CUDA_LAYER_CASE_H
#define COAR_TESTS_CUDA_LAYER_CASE_H

#include "backend/cuda/cuda_form.h"
#include "backend/precision.h"
#include "core/half.h"
#include "nets.h"
#include "test.h"

typedef struct layer_case {
    gpu_conv conv;    /* device addresses */
    double *expected; /* [pairs][positions][out_channels] */
    uint64_t seed;
    void *device[16];
    int devices;
} layer_case;

/* What is to be in the epilogue. */
typedef struct layer_epilogue {
    gpu_place place;
    bool fill, scale, shift, residual, in_place, wide;
    gpu_activation activation;
} layer_epilogue;

/* `tokens` positions, as a 1x1 convolution; no addresses. */
static inline gpu_conv layer_linear(gpu_type type, uint32_t pairs, uint32_t tokens, uint32_t in, uint32_t out) {
    return (gpu_conv){.type = type,
                      .pairs = pairs,
                      .in_h = 1,
                      .in_w = tokens,
                      .in_channels = in,
                      .out_h = 1,
                      .out_w = tokens,
                      .out_channels = out,
                      .kernel_h = 1,
                      .kernel_w = 1,
                      .stride = 1};
}

static inline precision layer_precision(gpu_type type) {
    return type == GPU_BF16 ? PRECISION_BF16 : type == GPU_F16 ? PRECISION_FP16 : PRECISION_FP32;
}

static inline void *layer_upload(layer_case *l, const void *host, size_t bytes) {
    void *device = NULL;
    CHECK_INT(cudaMalloc(&device, bytes), cudaSuccess);
    CHECK_INT(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    CHECK_INT(cudaDeviceSynchronize(), cudaSuccess); /* the copy may return before it has arrived */
    l->device[l->devices++] = device;
    return device;
}

/* [rows][stride], `width` of each row random; as stored to the device, as rounded to *values. tf32 operands are exact
 * in bf16, so that the products are the same whatever rounds them. */
static inline void *layer_values(layer_case *l, gpu_type type, size_t rows, size_t width, size_t stride,
                                 float **values) {
    const size_t count = rows * stride;
    float *v = calloc(count, sizeof *v);
    uint16_t *narrow = calloc(count, sizeof *narrow);
    const precision p = layer_precision(type);
    for (size_t i = 0; i < count; i++)
        if (i % stride < width) v[i] = precision_stored(type == GPU_TF32 ? PRECISION_BF16 : p, net_uniform(&l->seed));
    for (size_t i = 0; i < count && gpu_type_size(type) == 2; i++) narrow[i] = precision_bits(p, v[i]);
    void *device = gpu_type_size(type) == 2 ? layer_upload(l, narrow, count * 2) : layer_upload(l, v, count * 4);
    free(narrow);
    *values = v;
    return device;
}

static inline double layer_activate(gpu_activation a, double x) {
    switch (a) {
    case GPU_RELU:
        return x > 0 ? x : 0;
    case GPU_GELU_ERF:
        return .5 * x * (1 + erf(x / sqrt(2)));
    case GPU_GELU_TANH:
        return .5 * x * (1 + tanh(.7978845608028654 * (x + .044715 * x * x * x)));
    case GPU_QUICKGELU:
        return x / (1 + exp(-1.702 * x));
    case GPU_NONE:
        break;
    }
    return x;
}

/* Host twins of everything that the definition reads. */
typedef struct layer_host {
    float *x, *weight, *scale, *shift, *residual, *keep, *fill;
    uint32_t *slot;
} layer_host;

static inline double layer_sum(const gpu_conv *c, const layer_host *h, size_t pair, int y, int x, uint32_t k) {
    const size_t in = gpu_stride(c->in_channels);
    double sum = 0;
    for (uint32_t r = 0; r < c->kernel_h; r++)
        for (uint32_t s = 0; s < c->kernel_w; s++) {
            const int at_y = y * (int)c->stride + (int)r - (int)c->pad,
                      at_x = x * (int)c->stride + (int)s - (int)c->pad;
            if (at_y < 0 || at_x < 0 || at_y >= (int)c->in_h || at_x >= (int)c->in_w) continue;
            const float *from = h->x + ((pair * c->in_h + (size_t)at_y) * c->in_w + (size_t)at_x) * in;
            const float *w = h->weight + (((size_t)k * c->kernel_h + r) * c->kernel_w + s) * in;
            for (uint32_t i = 0; i < c->in_channels; i++) sum += (double)w[i] * (double)from[i];
        }
    return sum;
}

/* The same of a transpose: all places of h->x whose window has this pixel. */
static inline double layer_gradient(const gpu_conv *c, const layer_host *h, size_t pair, int y, int x, uint32_t k) {
    const size_t in = gpu_stride(c->in_channels), out = gpu_stride(c->out_channels);
    const int stride = (int)c->stride;
    double sum = 0;
    for (uint32_t r = 0; r < c->kernel_h; r++)
        for (uint32_t s = 0; s < c->kernel_w; s++) {
            const int at_y = y + (int)c->pad - (int)r, at_x = x + (int)c->pad - (int)s;
            if (at_y < 0 || at_x < 0 || at_y % stride || at_x % stride) continue;
            if (at_y / stride >= (int)c->in_h || at_x / stride >= (int)c->in_w) continue;
            const size_t place = (pair * c->in_h + (size_t)(at_y / stride)) * c->in_w + (size_t)(at_x / stride);
            for (uint32_t i = 0; i < c->in_channels; i++)
                sum += (double)h->weight[(((size_t)i * c->kernel_h + r) * c->kernel_w + s) * out + k] *
                       (double)h->x[place * in + i];
        }
    return sum;
}

static inline double layer_mask(const gpu_conv *c, const layer_host *h, gpu_place place, size_t pair, uint32_t k,
                                double x) {
    if (c->mask.place != place) return x;
    const double keep = (double)h->keep[h->slot[pair] * c->mask.rows + k];
    return keep * x + (1 - keep) * (h->fill ? (double)h->fill[k] : 0);
}

static inline void layer_expect(layer_case *l, const layer_host *h) {
    const gpu_conv *c = &l->conv;
    const size_t out = gpu_stride(c->out_channels);
    double *e = l->expected = calloc((size_t)c->pairs * c->out_h * c->out_w * c->out_channels, sizeof *e);
    for (size_t pair = 0; pair < c->pairs; pair++)
        for (uint32_t at = 0; at < c->out_h * c->out_w; at++)
            for (uint32_t k = 0; k < c->out_channels; k++) {
                double v = (c->transposed ? layer_gradient : layer_sum)(c, h, pair, (int)(at / c->out_w),
                                                                        (int)(at % c->out_w), k);
                v = layer_mask(c, h, GPU_PLACE_PRE, pair, k, v);
                if (h->scale) v *= (double)h->scale[k];
                if (h->shift) v += (double)h->shift[k];
                v = layer_mask(c, h, GPU_PLACE_POST, pair, k, v);
                if (h->residual) v += (double)h->residual[(pair * c->out_h * c->out_w + at) * out + k];
                *e++ = layer_mask(c, h, GPU_PLACE_OUT, pair, k, layer_activate(c->activation, v));
            }
}

/* c: type, pairs and shape. */
static inline void layer_make(layer_case *l, const gpu_conv *shape, const layer_epilogue *e, uint64_t seed) {
    enum { SLOTS = 2 };
    *l = (layer_case){.conv = *shape, .seed = seed};
    gpu_conv *c = &l->conv;
    layer_host h = {0};
    const size_t in = gpu_stride(c->in_channels), out = gpu_stride(c->out_channels), K = c->out_channels;
    const size_t places = (size_t)c->pairs * c->out_h * c->out_w, taps = (size_t)c->kernel_h * c->kernel_w;
    c->activation = e->activation;
    c->wide = e->wide;
    c->x = layer_values(l, c->type, (size_t)c->pairs * c->in_h * c->in_w, c->in_channels, in, &h.x);
    /* rows behind the last channel are zeros */
    const size_t row = taps * (c->transposed ? out : in) * gpu_type_size(c->type);
    const size_t all = c->transposed ? in : out, live = c->transposed ? c->in_channels : K;
    c->weight = c->transposed ? layer_values(l, c->type, in * taps, K, out, &h.weight)
                              : layer_values(l, c->type, out * taps, c->in_channels, in, &h.weight);
    if (all > live) CHECK_INT(cudaMemset((char *)c->weight + live * row, 0, (all - live) * row), cudaSuccess);
    if (e->scale) c->scale = layer_values(l, GPU_F32, 1, K, K, &h.scale);
    if (e->shift) c->shift = layer_values(l, GPU_F32, 1, K, K, &h.shift);
    float *none = calloc(places * out, sizeof *none);
    c->y = layer_upload(l, none, places * out * sizeof(float));
    free(none);
    if (e->residual) c->residual = layer_values(l, c->type, places, K, out, &h.residual);
    if (e->in_place) c->y = (void *)c->residual;
    if (e->place != GPU_PLACE_NONE) {
        c->mask = (gpu_mask){.place = e->place, .rows = (uint32_t)K + 3}; /* other sites' rows lie beside */
        c->mask.keep = layer_values(l, GPU_F32, SLOTS, K, K + 3, &h.keep);
        if (e->fill) c->mask.fill = layer_values(l, GPU_F32, 1, K, K, &h.fill);
        h.slot = calloc(c->pairs, sizeof *h.slot);
        for (uint32_t p = 0; p < c->pairs; p++) h.slot[p] = (p + 1) % SLOTS;
        c->mask.slot = layer_upload(l, h.slot, c->pairs * sizeof *h.slot);
    }
    layer_expect(l, &h);
    free(h.x), free(h.weight), free(h.scale), free(h.shift), free(h.residual), free(h.keep), free(h.fill), free(h.slot);
}

static inline void layer_free(layer_case *l) {
    for (int i = 0; i < l->devices; i++) CHECK_INT(cudaFree(l->device[i]), cudaSuccess);
    free(l->expected);
}

static inline double layer_load(const gpu_conv *c, const void *y, size_t i) {
    if (c->wide || gpu_type_size(c->type) == 4) return (double)((const float *)y)[i];
    const uint16_t bits = ((const uint16_t *)y)[i];
    if (c->type == GPU_F16) return (double)half_to_float(bits);
    const uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return (double)value;
}

/* Launches the form on a stream of its own and compares all of y: one unit in the last place, and what sums lose. */
static inline void layer_check(const layer_case *l, const cuda_form *form, const char *text) {
    gpu_conv c = l->conv;
    const size_t out = gpu_stride(c.out_channels), count = (size_t)c.pairs * c.out_h * c.out_w * out;
    const size_t bytes = count * (c.wide ? 4 : gpu_type_size(c.type)), room = cuda_form_workspace(form);
    const double unit = c.wide || gpu_type_size(c.type) == 4 ? 0x1p-20 : c.type == GPU_BF16 ? 0x1p-8 : 0x1p-10;
    void *y = malloc(bytes), *workspace = NULL;
    cudaStream_t stream;
    CHECK_INT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    if (room) CHECK_INT(cudaMalloc(&workspace, room), cudaSuccess);
    c.workspace = workspace;
    CHECK_INT(cudaDeviceSynchronize(), cudaSuccess);
    CHECK_OK(cuda_form_launch(form, &c, stream));
    CHECK_INT(cudaMemcpyAsync(y, c.y, bytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    CHECK_INT(cudaStreamSynchronize(stream), cudaSuccess);
    for (size_t i = 0; i < count; i++) {
        const size_t k = i % out;
        const double got = layer_load(&c, y, i),
                     expected = k < c.out_channels ? l->expected[i / out * c.out_channels + k] : 0;
        if (fabs(got - expected) <= (k < c.out_channels ? unit * fabs(expected) + 1e-5 : 0)) continue;
        test_fail(__FILE__, __LINE__, "%s: place %zu, channel %zu: got %.9g, expected %.9g", text, i / out, k, got,
                  expected);
        break;
    }
    CHECK_INT(cudaStreamDestroy(stream), cudaSuccess);
    CHECK_INT(cudaFree(workspace), cudaSuccess);
    free(y);
}

#endif
