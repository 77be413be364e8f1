/* cuda_trial.c - see cuda_trial.h. */
#include "backend/cuda/cuda_trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/error.h"
#include "core/half.h"
#include "core/memory.h"
#include "core/philox.h"

struct cuda_trial {
    gpu_conv conv;      /* the layer at its batch, with addresses */
    gpu_conv reference; /* the first pairs in fp32 by our own kernel */
    const void *weight; /* of a transpose: as libraries' forms read it; else NULL */
    cudaStream_t stream;
    void *memory;
    size_t workspace;
    size_t pair_bytes, pair_elements; /* of y */
    uint32_t period;
    void *residual;  /* device: what y is set to before a launch, where the residual is y itself; NULL = not so */
    float *expected; /* host [period][pair_elements] */
    float largest;   /* |expected| */
    char *first;     /* host [period] pairs of y; twice: what one launch gave, and the next */
};

/* ----------------------------------------------------------------------------------------------- numbers */

/* Uniform in [-1, 1), cut to 8 significant bits and not smaller than 2^-6, so that it is exact in bf16, fp16 and
 * tf32, and stays so when it is scaled by a power of two that fp16 can hold. */
static float exact_number(uint32_t word) {
    const float smallest = 0x1p-6f;
    float value = (float)(int32_t)word * 0x1p-31f;
    uint32_t bits;
    if (fabsf(value) < smallest) value = copysignf(smallest, value);
    memcpy(&bits, &value, sizeof bits);
    bits &= 0xffff0000u;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Each array has its own row of the generator. */
enum { ROW_X, ROW_WEIGHT, ROW_SCALE, ROW_SHIFT, ROW_RESIDUAL, ROW_FILL, ROW_KEEP };

/* rows x stride values, `width` of a row random and the rest zeros. */
static void fill_rows(float *out, size_t rows, size_t width, size_t stride, int which, float scale) {
    uint32_t words[4] = {0};
    size_t drawn = 0;
    memset(out, 0, rows * stride * sizeof *out);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++, drawn++) {
            if (drawn % 4 == 0)
                philox_words(0, PHILOX_STREAM_CALIBRATION, (uint64_t)which, (uint32_t)(drawn / 4), words);
            out[r * stride + i] = scale * exact_number(words[drawn % 4]);
        }
}

/* fp32 values in the type's storage; they are exact in it. */
static void store(gpu_type type, const float *values, size_t count, void *out) {
    uint16_t *narrow = out;
    if (gpu_type_size(type) == sizeof *values) {
        memcpy(out, values, count * sizeof *values);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if (type == GPU_BF16)
            narrow[i] = (uint16_t)(bits >> 16);
        else
            (void)half_from_float(values[i], &narrow[i]);
    }
}

static float load(gpu_type type, const void *values, size_t i) {
    const uint16_t *narrow = values;
    if (gpu_type_size(type) == sizeof(float)) return ((const float *)values)[i];
    if (type == GPU_F16) return half_to_float(narrow[i]);
    const uint32_t bits = (uint32_t)narrow[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ------------------------------------------------------------------------------------------------ layout */

/* Elements of the arrays of a layer; x of one image, y and residual of one pair. */
typedef struct sizes {
    size_t x, y, weight, taps, channels;
    uint32_t period, images;
} sizes;

static sizes sizes_of(const gpu_conv *c) {
    sizes s;
    s.period = c->pairs < TRIAL_PERIOD ? c->pairs : TRIAL_PERIOD;
    s.images = c->example ? s.period : c->pairs;
    s.x = (size_t)c->in_h * c->in_w * gpu_stride(c->in_channels);
    s.y = (size_t)c->out_h * c->out_w * gpu_stride(c->out_channels);
    s.taps = (size_t)c->kernel_h * c->kernel_w;
    s.weight = s.taps * gpu_stride(c->out_channels) * gpu_stride(c->in_channels);
    s.channels = c->out_channels;
    return s;
}

static gpu_type y_type(const gpu_conv *c) {
    return c->wide ? GPU_F32 : c->type;
}

/* Sizes (arena without a base) or places everything on the device. */
static void place(cuda_trial *t, const gpu_conv *c, arena *a) {
    const sizes s = sizes_of(c);
    const size_t storage = gpu_type_size(c->type);
    const bool masked = c->mask.place != GPU_PLACE_NONE, in_place = c->residual && c->residual == c->y;
    gpu_conv *m = &t->conv, *r = &t->reference;
    *m = *c;
    *r = *c;
    r->type = GPU_F32;
    r->pairs = s.period;
    r->splits = 1;
    arena_place(a, s.images, s.x * storage, &m->x);
    arena_place(a, s.period, s.x * sizeof(float), &r->x);
    arena_place(a, s.weight, storage, &m->weight);
    arena_place(a, s.weight, sizeof(float), &r->weight);
    if (c->transposed) arena_place(a, s.weight, storage, &t->weight);
    if (c->scale) arena_place(a, s.channels, sizeof(float), &m->scale);
    if (c->shift) arena_place(a, s.channels, sizeof(float), &m->shift);
    arena_place(a, c->pairs, s.y * gpu_type_size(y_type(c)), &m->y);
    arena_place(a, s.period, s.y * sizeof(float), &r->y);
    t->residual = NULL;
    if (c->residual) {
        arena_place(a, c->pairs, s.y * storage, &m->residual);
        arena_place(a, s.period, s.y * sizeof(float), &r->residual);
        if (in_place) t->residual = (void *)m->residual, m->residual = m->y;
    }
    if (masked) {
        arena_place(a, s.period, s.channels * sizeof(float), &m->mask.keep);
        arena_place(a, c->pairs, sizeof(uint32_t), &m->mask.slot);
        if (c->mask.fill) arena_place(a, s.channels, sizeof(float), &m->mask.fill);
        m->mask.rows = (uint32_t)s.channels;
    }
    if (c->example) arena_place(a, c->pairs, sizeof(uint32_t), &m->example);
    m->workspace = arena_take(a, t->workspace);
    r->scale = m->scale;
    r->shift = m->shift;
    r->mask = m->mask;
    r->example = m->example;
    r->workspace = NULL;
}

size_t cuda_trial_bytes(const gpu_conv *c, size_t workspace) {
    arena measure = {0};
    cuda_trial t = {.workspace = workspace};
    place(&t, c, &measure);
    return measure.used;
}

/* ------------------------------------------------------------------------------------------------ upload */

static coar_status upload(const void *device, const void *host, size_t bytes) {
    TRY_CUDA(cudaMemcpy((void *)device, host, bytes, cudaMemcpyHostToDevice), "trial: upload");
    return COAR_OK;
}

/* The first `have` blocks again and again, up to `want` of them. */
static coar_status repeat(const void *device, size_t block, size_t have, size_t want) {
    char *base = (char *)device;
    for (size_t count; have < want; have += count) {
        count = have < want - have ? have : want - have;
        TRY_CUDA(cudaMemcpy(base + have * block, base, count * block, cudaMemcpyDeviceToDevice), "trial: copy");
    }
    return COAR_OK;
}

/* rows x stride random values: in fp32 to `reference`, in the type to `device`; either may be NULL. */
static coar_status upload_rows(gpu_type type, size_t rows, size_t width, size_t stride, int which, float scale,
                               const void *reference, const void *device) {
    coar_status status = COAR_OK;
    const size_t count = rows * stride;
    float *values = NULL;
    void *stored = NULL;
    TRY_GOTO(memory_new(count, sizeof *values, "trial", &values));
    TRY_GOTO(memory_new(count, gpu_type_size(type), "trial", &stored));
    fill_rows(values, rows, width, stride, which, scale);
    store(type, values, count, stored);
    if (reference) TRY_GOTO(upload(reference, values, count * sizeof *values));
    if (device) TRY_GOTO(upload(device, stored, count * gpu_type_size(type)));
done:
    free(stored);
    free(values);
    return status;
}

/* [in][taps][out] of the type's storage from [out][taps][in], sizes as stored. */
static void turn(gpu_type type, const void *from, size_t in, size_t taps, size_t out, void *to) {
    const size_t size = gpu_type_size(type);
    for (size_t k = 0; k < out; k++)
        for (size_t t = 0; t < taps; t++)
            for (size_t i = 0; i < in; i++)
                memcpy((char *)to + ((i * taps + t) * out + k) * size,
                       (const char *)from + ((k * taps + t) * in + i) * size, size);
}

/* Channels behind the last have zeros, in both directions. */
static coar_status upload_weight(const cuda_trial *t) {
    coar_status status = COAR_OK;
    const gpu_conv *m = &t->conv;
    const sizes s = sizes_of(m);
    const size_t in = gpu_stride(m->in_channels), out = gpu_stride(m->out_channels), size = gpu_type_size(m->type);
    const size_t products = (size_t)m->in_channels * s.taps;
    /* a power of two near 1 / sqrt(products): sums are of the size of x, and the weights stay exact */
    const float scale = ldexpf(1, -(int)lround(log2(sqrt((double)products))));
    float *values = NULL;
    void *stored = NULL, *turned = NULL;
    TRY_GOTO(memory_new(s.weight, sizeof *values, "trial", &values));
    TRY_GOTO(memory_new(s.weight, size, "trial", &stored));
    fill_rows(values, m->out_channels * s.taps, m->in_channels, in, ROW_WEIGHT, scale);
    store(m->type, values, s.weight, stored);
    TRY_GOTO(upload(t->reference.weight, values, s.weight * sizeof *values));
    TRY_GOTO(upload(m->weight, stored, s.weight * size));
    if (t->weight) {
        TRY_GOTO(memory_new(s.weight, size, "trial", &turned));
        turn(m->type, stored, in, s.taps, out, turned);
        TRY_GOTO(upload(t->weight, turned, s.weight * size));
    }
done:
    free(turned);
    free(stored);
    free(values);
    return status;
}

/* Kept, ablated and in between, by chance: one row per slot. */
static coar_status upload_keeps(const gpu_mask *mask, uint32_t slots) {
    static const float values[4] = {1, 0, 1, 0.5f};
    coar_status status = COAR_OK;
    const size_t count = (size_t)slots * mask->rows;
    float *keep = NULL;
    TRY_GOTO(memory_new(count, sizeof *keep, "trial", &keep));
    for (size_t i = 0; i < count; i++) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_CALIBRATION, ROW_KEEP, (uint32_t)i, words);
        keep[i] = values[words[0] % 4];
    }
    TRY_GOTO(upload(mask->keep, keep, count * sizeof *keep));
done:
    free(keep);
    return status;
}

static coar_status upload_periods(const uint32_t *device, uint32_t pairs, uint32_t period) {
    coar_status status = COAR_OK;
    uint32_t *index = NULL;
    TRY_GOTO(memory_new(pairs, sizeof *index, "trial", &index));
    for (uint32_t p = 0; p < pairs; p++) index[p] = p % period;
    TRY_GOTO(upload(device, index, pairs * sizeof *index));
done:
    free(index);
    return status;
}

static coar_status upload_all(cuda_trial *t) {
    const gpu_conv *m = &t->conv, *r = &t->reference;
    const sizes s = sizes_of(m);
    const size_t in = gpu_stride(m->in_channels), out = gpu_stride(m->out_channels);
    const void *residual = t->residual ? t->residual : m->residual;
    TRY(upload_rows(m->type, (size_t)s.period * s.x / in, m->in_channels, in, ROW_X, 1, r->x, m->x));
    TRY(repeat(m->x, s.x * gpu_type_size(m->type), s.period, s.images));
    TRY(upload_weight(t));
    if (m->scale) TRY(upload_rows(GPU_F32, 1, s.channels, s.channels, ROW_SCALE, 1, NULL, m->scale));
    if (m->shift) TRY(upload_rows(GPU_F32, 1, s.channels, s.channels, ROW_SHIFT, 1, NULL, m->shift));
    if (residual) {
        TRY(upload_rows(m->type, (size_t)s.period * s.y / out, m->out_channels, out, ROW_RESIDUAL, 1, r->residual,
                        residual));
        TRY(repeat(residual, s.y * gpu_type_size(m->type), s.period, m->pairs));
    }
    if (m->mask.place != GPU_PLACE_NONE) {
        TRY(upload_keeps(&m->mask, s.period));
        TRY(upload_periods(m->mask.slot, m->pairs, s.period));
        if (m->mask.fill) TRY(upload_rows(GPU_F32, 1, s.channels, s.channels, ROW_FILL, 1, NULL, m->mask.fill));
    }
    return m->example ? upload_periods(m->example, m->pairs, s.period) : COAR_OK;
}

/* --------------------------------------------------------------------------------------------- reference */

static coar_status compute_expected(cuda_trial *t) {
    const size_t count = t->period * t->pair_elements;
    TRY(memory_new(count, sizeof *t->expected, "trial", &t->expected));
    TRY_CUDA(gpu_conv_launch(&t->reference, 0, t->stream), "trial: the fp32 kernel");
    TRY_CUDA(
        cudaMemcpyAsync(t->expected, t->reference.y, count * sizeof *t->expected, cudaMemcpyDeviceToHost, t->stream),
        "trial: download");
    TRY_CUDA(cudaStreamSynchronize(t->stream), "trial: the fp32 kernel");
    for (size_t i = 0; i < count; i++)
        if (fabsf(t->expected[i]) > t->largest) t->largest = fabsf(t->expected[i]);
    return COAR_OK;
}

coar_status cuda_trial_create(const gpu_conv *c, size_t workspace, cudaStream_t stream, cuda_trial **out) {
    coar_status status = COAR_OK;
    cuda_trial *t = NULL;
    const sizes s = sizes_of(c);
    const size_t bytes = cuda_trial_bytes(c, workspace);
    *out = NULL;
    TRY(memory_new(1, sizeof *t, "trial", &t));
    t->stream = stream;
    t->workspace = workspace;
    t->period = s.period;
    t->pair_elements = s.y;
    t->pair_bytes = s.y * gpu_type_size(y_type(c));
    TRY_GOTO(memory_new(2 * (size_t)t->period, t->pair_bytes, "trial", &t->first));
    TRY_CUDA_GOTO(cudaMalloc(&t->memory, bytes), "trial of a layer: %zu MiB", bytes >> 20);
    arena a = {.base = t->memory, .size = bytes};
    place(t, c, &a);
    TRY_GOTO(upload_all(t));
    TRY_CUDA_GOTO(cudaDeviceSynchronize(), "trial: upload"); /* the copies were not in the caller's stream */
    TRY_GOTO(compute_expected(t));
    *out = t;
    t = NULL;
done:
    cuda_trial_destroy(t);
    return status;
}

void cuda_trial_destroy(cuda_trial *t) {
    if (!t) return;
    cudaFree(t->memory);
    free(t->expected);
    free(t->first);
    free(t);
}

/* ------------------------------------------------------------------------------------------------ checks */

static gpu_conv conv_for(const cuda_trial *t, const cuda_form *form) {
    gpu_conv c = t->conv;
    if (c.transposed && cuda_form_is_library(cuda_form_text(form))) c.weight = t->weight;
    return c;
}

/* One launch on a y that is poisoned, or holds the residual. A form that refuses is *ran = false with its reason. */
static coar_status launch(cuda_trial *t, const cuda_form *form, bool *ran, char why[256]) {
    const size_t bytes = t->conv.pairs * t->pair_bytes;
    *ran = false;
    if (cuda_form_workspace(form) > t->workspace) {
        snprintf(why, 256, "its workspace of %zu bytes is more than was planned", cuda_form_workspace(form));
        return COAR_OK;
    }
    if (t->residual)
        TRY_CUDA(cudaMemcpyAsync(t->conv.y, t->residual, bytes, cudaMemcpyDeviceToDevice, t->stream), "trial: copy");
    else
        TRY_CUDA(cudaMemsetAsync(t->conv.y, 0xff, bytes, t->stream), "trial: poison"); /* NaN in every type */
    const gpu_conv c = conv_for(t, form);
    const coar_status status = cuda_form_launch(form, &c, t->stream);
    if (status == COAR_ERROR_UNSUPPORTED) {
        status_copy(why, 256);
        status_clear();
    }
    TRY_CUDA(cudaStreamSynchronize(t->stream), "trial of a layer");
    *ran = status == COAR_OK;
    return status == COAR_ERROR_UNSUPPORTED ? COAR_OK : status;
}

static coar_status download(cuda_trial *t, uint32_t pair, uint32_t count, char *host) {
    TRY_CUDA(cudaMemcpyAsync(host, (const char *)t->conv.y + pair * t->pair_bytes, count * t->pair_bytes,
                             cudaMemcpyDeviceToHost, t->stream),
             "trial: download");
    TRY_CUDA(cudaStreamSynchronize(t->stream), "trial: download");
    return COAR_OK;
}

static bool compare(const cuda_trial *t, char why[256]) {
    static const float units[] = {
        [GPU_F32] = 0x1p-20f, [GPU_TF32] = 0x1p-20f, [GPU_BF16] = 0x1p-8f, [GPU_F16] = 0x1p-10f};
    const gpu_type type = y_type(&t->conv);
    const size_t stride = gpu_stride(t->conv.out_channels);
    const float slack = 0x1p-12f * t->largest;
    for (size_t i = 0; i < t->period * t->pair_elements; i++) {
        const float y = load(type, t->first, i), expected = t->expected[i];
        const bool behind = i % stride >= t->conv.out_channels; /* the last channel: exactly zero */
        if (behind ? y == 0 : fabsf(y - expected) <= units[type] * fabsf(expected) + slack) continue;
        snprintf(why, 256, "pair %zu, position %zu, channel %zu: %.9g, expected %.9g +- %.3g", i / t->pair_elements,
                 i % t->pair_elements / stride, i % stride, (double)y, (double)expected,
                 behind ? 0.0 : (double)(units[type] * fabsf(expected) + slack));
        return false;
    }
    return true;
}

coar_status cuda_trial_agrees(cuda_trial *t, const cuda_form *form, bool *agrees, char why[256]) {
    TRY(launch(t, form, agrees, why));
    if (!*agrees) return COAR_OK;
    TRY(download(t, 0, t->period, t->first));
    *agrees = compare(t, why);
    return COAR_OK;
}

/* Whether all pairs of y have the bits that t->first holds for their like. */
static coar_status all_alike(cuda_trial *t, bool *alike, char why[256]) {
    char *other = t->first + t->period * t->pair_bytes;
    for (uint32_t pair = 0; pair < t->conv.pairs; pair += t->period) {
        const uint32_t left = t->conv.pairs - pair, count = left < t->period ? left : t->period;
        TRY(download(t, pair, count, other));
        if (!memcmp(other, t->first, count * t->pair_bytes)) continue;
        snprintf(why, 256, "the same pair has other bits at places %u to %u of the batch, or in a second launch", pair,
                 pair + count - 1);
        *alike = false;
        return COAR_OK;
    }
    return COAR_OK;
}

/* One number of x becomes NaN, and all channels of the position of y that it is part of must. Reads behind t->first. */
static coar_status tells_nan(cuda_trial *t, const cuda_form *form, bool *tells, char why[256]) {
    const size_t size = gpu_type_size(t->conv.type);
    char *y = t->first + t->period * t->pair_bytes, *x = (char *)t->conv.x, kept[sizeof(float)];
    TRY_CUDA(cudaMemcpyAsync(kept, x, size, cudaMemcpyDeviceToHost, t->stream), "trial: copy");
    TRY_CUDA(cudaStreamSynchronize(t->stream), "trial: copy");
    TRY_CUDA(cudaMemsetAsync(x, 0xff, size, t->stream), "trial: NaN");
    TRY(launch(t, form, tells, why));
    TRY_CUDA(cudaMemcpyAsync(x, kept, size, cudaMemcpyHostToDevice, t->stream), "trial: copy");
    TRY(download(t, 0, 1, y)); /* waits */
    for (size_t c = 0; *tells && c < t->conv.out_channels; c++)
        if (!isnan(load(y_type(&t->conv), y, c))) {
            snprintf(why, 256, "channel %zu is a number where its input is NaN", c);
            *tells = false;
        }
    return COAR_OK;
}

coar_status cuda_trial_repeats(cuda_trial *t, const cuda_form *form, bool *repeats, char why[256]) {
    TRY(cuda_trial_agrees(t, form, repeats, why));
    if (*repeats) TRY(all_alike(t, repeats, why));
    if (*repeats) TRY(launch(t, form, repeats, why));
    if (*repeats) TRY(all_alike(t, repeats, why));
    if (*repeats && t->conv.type == GPU_F16) TRY(tells_nan(t, form, repeats, why));
    return COAR_OK;
}

coar_status cuda_trial_capture(cuda_trial *t, const cuda_form *form, cudaGraphExec_t *out) {
    cudaGraph_t graph = NULL;
    const gpu_conv c = conv_for(t, form);
    *out = NULL;
    TRY_CUDA(cudaStreamBeginCapture(t->stream, cudaStreamCaptureModeThreadLocal), "trial: capture");
    const coar_status launched = cuda_form_launch(form, &c, t->stream);
    const cudaError_t error = cudaStreamEndCapture(t->stream, &graph);
    if (launched == COAR_OK && error == cudaSuccess && graph)
        if (cudaGraphInstantiate(out, graph, 0) != cudaSuccess) *out = NULL;
    if (graph) cudaGraphDestroy(graph);
    (void)cudaGetLastError(); /* a refused capture is an answer */
    if (launched == COAR_ERROR_UNSUPPORTED) status_clear();
    return launched == COAR_ERROR_UNSUPPORTED ? COAR_OK : launched;
}
