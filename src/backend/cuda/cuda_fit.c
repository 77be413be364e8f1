/*
 * cuda_fit.c - see cuda_fit.h. This file: the device itself, its memory, and the integer half of a fit, cut into
 * pieces that fit the memory. Sums of integers are exact, so no cut shows in the results.
 */
#include "backend/cuda/cuda_fit.h"

#include <stdlib.h>

#include "backend/cuda/cuda.h"

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------------------ memory */

coar_status cuda_fit_enter(const cuda_fit *f) {
    TRY_CUDA(cudaSetDevice(f->device), "the fit: CUDA device %d", f->device);
    return COAR_OK;
}

size_t cuda_fit_room(const cuda_fit *f) {
    if (f->link) return f->link_room;
    const size_t matrices = (f->matrix != NULL) + (size_t)(f->factor != NULL);
    const size_t resident = matrices * f->side * f->side * sizeof(double) + f->held_bytes;
    return resident < f->allowed ? f->allowed - resident : 0;
}

void cuda_fit_drop_scratch(cuda_fit *f) {
    if (f->scratch.base) (void)cudaFree(f->scratch.base);
    f->scratch = (arena){0};
}

coar_status cuda_fit_scratch(cuda_fit *f, const arena *measured, const char *what, arena *out) {
    if (measured->used > f->scratch.size) {
        void *memory;
        if (measured->used > cuda_fit_room(f))
            return status_set(COAR_ERROR_MEMORY,
                              "the fit: %s needs %.0f MiB of device memory, and may take %.0f MiB: give more --memory, "
                              "or --backend cpu",
                              what, (double)measured->used / 1048576, (double)cuda_fit_room(f) / 1048576);
        cuda_fit_drop_scratch(f);
        TRY_CUDA(cudaMalloc(&memory, measured->used), "the fit: %zu MiB for %s", measured->used >> 20, what);
        f->scratch = (arena){.base = memory, .size = measured->used};
    }
    *out = f->scratch;
    return COAR_OK;
}

/* The beginning of gram and cross: a rank that fails here must not leave the others waiting for its sums. */
static coar_status begin(cuda_fit *f, const arena *measured, const char *what, arena *out) {
    coar_status status = cuda_fit_enter(f);
    if (status == COAR_OK) status = cuda_fit_scratch(f, measured, what, out);
    return f->link ? f->link->agree(status) : status;
}

/* What a link itself has taken since the device was opened is not there any more. */
static size_t cuda_fit_room_now(const fit_device *d) {
    const cuda_fit *f = (const cuda_fit *)d;
    size_t there, all;
    if (cuda_fit_enter(f) != COAR_OK || cudaMemGetInfo(&there, &all) != cudaSuccess) return 0;
    return smaller(cuda_fit_room(f), there + f->scratch.size);
}

static void cuda_fit_join(fit_device *d, device_link *link, size_t room) {
    cuda_fit *f = cuda_fit_self(d);
    f->link = link;
    f->link_room = room;
}

/* -------------------------------------------------------------------------------------------------- gram */

/* The vectors of one launch, or of two panels of them, and their counts. */
typedef struct gram_memory {
    uint32_t *bits; /* [vectors][words] */
    int32_t *gram;  /* [vectors][vectors] */
} gram_memory;

static void gram_place(arena *arena, size_t vectors, size_t words, gram_memory *m) {
    arena_place(arena, vectors * words, sizeof *m->bits, &m->bits);
    arena_place(arena, vectors * vectors, sizeof *m->gram, &m->gram);
}

static size_t gram_bytes(size_t vectors, size_t words) {
    arena measure = {0};
    gram_memory unplaced;
    gram_place(&measure, vectors, words, &unplaced);
    return measure.used;
}

/* A square of the result: vectors row .. row + rows - 1 against column .. column + columns - 1. */
typedef struct gram_block {
    size_t row, rows, column, columns;
} gram_block;

/* Columns first .. first + columns - 1 of the first `rows` rows of counts[width][width] to their place; mirrored too
 * when the block is not its own mirror image. Staging holds a row: a matrix that a device has memory for has far
 * fewer columns. */
static coar_status download(cuda_fit *f, const int32_t *counts, size_t width, const gram_block *b, size_t n,
                            int64_t *gram) {
    const bool diagonal = b->row == b->column;
    const size_t first = diagonal ? 0 : b->rows, step = CUDA_FIT_STAGING / width;
    for (size_t i0 = 0; i0 < b->rows; i0 += step) {
        const size_t rows = smaller(step, b->rows - i0);
        TRY_CUDA(cudaMemcpyAsync(f->staging, counts + i0 * width, rows * width * sizeof *counts, cudaMemcpyDeviceToHost,
                                 f->stream),
                 "the fit: download of the Gram matrix");
        TRY_CUDA(cudaStreamSynchronize(f->stream), "the fit: Gram matrix of %zu vectors", width);
        const int32_t *block = f->staging + first;
        int64_t *to = gram + (b->row + i0) * n + b->column, *mirror = gram + b->column * n + b->row + i0;
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < b->columns; k++) to[i * n + k] = block[i * width + k];
        for (size_t k = 0; k < b->columns && !diagonal; k++)
            for (size_t i = 0; i < rows; i++) mirror[k * n + i] = block[i * width + k];
    }
    return COAR_OK;
}

/* One launch counts the vectors of one panel, or of two beside each other: only the square between them is new then. */
static coar_status count_block(cuda_fit *f, const gram_memory *m, const uint64_t *words, size_t n, size_t stride,
                               const gram_block *b, int64_t *gram) {
    const size_t bytes = stride * sizeof *words;
    const bool diagonal = b->row == b->column;
    const size_t width = diagonal ? b->rows : b->rows + b->columns;
    TRY_CUDA(cudaMemcpyAsync(m->bits, words + b->row * stride, b->rows * bytes, cudaMemcpyHostToDevice, f->stream),
             "the fit: upload of masks");
    if (!diagonal)
        TRY_CUDA(cudaMemcpyAsync(m->bits + b->rows * 2 * stride, words + b->column * stride, b->columns * bytes,
                                 cudaMemcpyHostToDevice, f->stream),
                 "the fit: upload of masks");
    TRY_CUDA(gpu_gram_launch(m->bits, (uint32_t)width, (uint32_t)(2 * stride), m->gram, f->stream),
             "the fit: Gram matrix of %zu vectors of %zu words", width, 2 * stride);
    if (f->link) TRY(cuda_link_sum(f->link, m->gram, width * width, LINK_INT32, f->stream));
    if (!gram) return COAR_OK;
    return download(f, m->gram, width, b, n, gram);
}

/* Words of 64 bits are two of 32, the lower one first: hosts of CUDA are little-endian. */
static coar_status cuda_fit_gram(fit_device *d, const uint64_t *words, size_t count, size_t stride, int64_t *gram) {
    cuda_fit *f = cuda_fit_self(d);
    size_t panel = count, most = count; /* vectors of a panel, and on the device at once */
    arena measure = {0}, scratch;
    gram_memory m;
    while (panel > 1 && gram_bytes(most, 2 * stride) > cuda_fit_room(f)) {
        panel = (panel + 1) / 2;
        most = 2 * panel;
    }
    gram_place(&measure, most, 2 * stride, &m);
    TRY(begin(f, &measure, "the Gram matrix", &scratch));
    gram_place(&scratch, most, 2 * stride, &m);
    for (size_t row = 0; row < count; row += panel)
        for (size_t column = row; column < count; column += panel) {
            const gram_block b = {row, smaller(panel, count - row), column, smaller(panel, count - column)};
            TRY(count_block(f, &m, words, count, stride, &b, gram));
        }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- cross */

typedef struct cross_memory {
    uint32_t *bits; /* [vectors][words] */
    int64_t *fixed; /* [32 words][examples] */
    int64_t *cross; /* [vectors][examples] */
} cross_memory;

static void cross_place(arena *arena, size_t vectors, size_t words, size_t examples, cross_memory *m) {
    arena_place(arena, vectors * words, sizeof *m->bits, &m->bits);
    arena_place(arena, 32 * words * examples, sizeof *m->fixed, &m->fixed);
    arena_place(arena, vectors * examples, sizeof *m->cross, &m->cross);
}

static size_t cross_bytes(size_t vectors, size_t words, size_t examples) {
    arena measure = {0};
    cross_memory unplaced;
    cross_place(&measure, vectors, words, examples, &unplaced);
    return measure.used;
}

/* As many examples, then vectors, at a time as fit. Examples are halved first: their sums with all vectors then need
 * one upload of the outputs, the larger part. */
static void cross_cut(const cuda_fit *f, size_t words, size_t *vectors, size_t *examples) {
    const size_t room = cuda_fit_room(f);
    while (*examples > 32 && cross_bytes(*vectors, words, *examples) > room) *examples = (*examples + 1) / 2;
    while (*vectors > 1 && cross_bytes(*vectors, words, *examples) > room) *vectors = (*vectors + 1) / 2;
    while (*examples > 1 && cross_bytes(*vectors, words, *examples) > room) *examples = (*examples + 1) / 2;
}

/* A rectangle between host rows of `pitch` numbers and device rows of `width`. */
static coar_status copy_columns(cuda_fit *f, void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                size_t width, size_t rows, enum cudaMemcpyKind kind) {
    const size_t size = sizeof(int64_t);
    TRY_CUDA(cudaMemcpy2DAsync(to, to_pitch * size, from, from_pitch * size, width * size, rows, kind, f->stream),
             "the fit: copy of %zu x %zu numbers", rows, width);
    return COAR_OK;
}

static coar_status cuda_fit_cross(fit_device *d, const uint64_t *words, size_t count, size_t stride,
                                  const int64_t *fixed, size_t length, size_t E, int64_t *cross) {
    cuda_fit *f = cuda_fit_self(d);
    size_t vectors = count, examples = E;
    arena measure = {0}, scratch;
    cross_memory m;
    cross_cut(f, 2 * stride, &vectors, &examples);
    cross_place(&measure, vectors, 2 * stride, examples, &m);
    TRY(begin(f, &measure, "cross products", &scratch));
    cross_place(&scratch, vectors, 2 * stride, examples, &m);
    for (size_t z = 0; z < E; z += examples) {
        const size_t width = smaller(examples, E - z);
        TRY(copy_columns(f, m.fixed, width, fixed + z, E, width, length, cudaMemcpyHostToDevice));
        for (size_t j = 0; j < count; j += vectors) {
            const size_t rows = smaller(vectors, count - j);
            TRY_CUDA(cudaMemcpyAsync(m.bits, words + j * stride, rows * stride * sizeof *words, cudaMemcpyHostToDevice,
                                     f->stream),
                     "the fit: upload of masks");
            TRY_CUDA(gpu_cross_launch(m.bits, (uint32_t)rows, (uint32_t)(2 * stride), m.fixed, (uint32_t)width, m.cross,
                                      f->stream),
                     "the fit: cross products of %zu vectors and %zu examples", rows, width);
            if (f->link) TRY(cuda_link_sum(f->link, m.cross, rows * width, LINK_INT64, f->stream));
            if (cross) TRY(copy_columns(f, cross + j * E + z, E, m.cross, width, width, rows, cudaMemcpyDeviceToHost));
        }
    }
    TRY_CUDA(cudaStreamSynchronize(f->stream), "the fit: cross products of %zu vectors", count);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ create */

static void cuda_fit_destroy(fit_device *d) {
    cuda_fit *f = cuda_fit_self(d);
    (void)cudaSetDevice(f->device); /* nothing to report to: what follows frees as far as it can */
    if (f->stream) (void)cudaStreamSynchronize(f->stream);
    cuda_fit_close_algebra(f);
    cuda_fit_drop_scratch(f);
    if (f->staging) (void)cudaFreeHost(f->staging);
    if (f->stream) (void)cudaStreamDestroy(f->stream);
    free(f);
}

static const fit_device_interface interface = {
    .gram = cuda_fit_gram,
    .cross = cuda_fit_cross,
    .room = cuda_fit_room_now,
    .join = cuda_fit_join,
    .factor = cuda_fit_factor,
    .solve = cuda_fit_solve,
    .norms = cuda_fit_norms,
    .eigenvectors = cuda_fit_eigenvectors,
    .rotate = cuda_fit_rotate,
    .coordinates = cuda_fit_coordinates,
    .hold = cuda_fit_hold,
    .product = cuda_fit_product,
    .destroy = cuda_fit_destroy,
};

coar_status cuda_fit_create(int device, size_t memory, fit_device **out) {
    cuda_fit *f = NULL;
    size_t available;
    void *staging;
    coar_status status;
    *out = NULL;
    TRY(cuda_device_memory(device, &available));
    TRY_GOTO(memory_new(1, sizeof *f, "the fit", &f));
    *f = (cuda_fit){.base.interface = &interface, .device = device, .allowed = memory ? memory : available};
    TRY_CUDA_GOTO(cudaStreamCreateWithFlags(&f->stream, cudaStreamNonBlocking), "the fit: a stream");
    TRY_CUDA_GOTO(cudaMallocHost(&staging, CUDA_FIT_STAGING * sizeof *f->staging), "the fit: pinned memory");
    f->staging = staging;
    TRY_GOTO(cuda_fit_open_algebra(f)); /* a missing library is said now, not hours later */
    *out = &f->base;
    f = NULL;
done:
    if (f) cuda_fit_destroy(&f->base);
    return status;
}
