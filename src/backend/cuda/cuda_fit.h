/*
 * cuda_fit.h - a CUDA device at work for a fit (backend/fit_device.h): the integers are counted and added by the
 * project's kernels (kernels/cuda/gram.cu), the dense algebra is cuBLAS's and cuSOLVER's.
 *
 * All work goes through one stream, in order, and every function waits for its results. Device memory is one scratch
 * allocation that grows to what the hungriest call so far needed, the matrices that `factor` or `eigenvectors`
 * leaves, and the one that is held for products.
 * Must not know: graphs, masks, estimators.
 */
#ifndef COAR_BACKEND_CUDA_FIT_H
#define COAR_BACKEND_CUDA_FIT_H

#include <cuda_runtime_api.h>

#include "backend/cuda/cuda_libraries.h"
#include "backend/cuda/cuda_nccl.h"
#include "backend/fit_device.h"
#include "core/memory.h"

typedef struct cuda_fit {
    fit_device base;
    int device;
    size_t allowed; /* bytes of device memory that may be taken in all */
    cudaStream_t stream;
    arena scratch;     /* device memory; `used` begins at 0 with every call */
    int32_t *staging;  /* pinned, [CUDA_FIT_STAGING]: counts on their way to 64 bits */
    device_link *link; /* to the other ranks' devices; NULL = it works alone */
    size_t link_room;  /* what they all have */
    const cublas_functions *cublas;
    const cusolver_functions *cusolver;
    cublasHandle_t blas;
    cusolverDnHandle_t solver;
    double *matrix, *factor; /* [side][side] on the device, of the last `factor`; or its eigenvectors and NULL */
    size_t side;
    double *held; /* the last `hold`'s [held_length][held_width] on the device, held_bytes taken; NULL = none */
    size_t held_length, held_width, held_bytes;
} cuda_fit;

static inline cuda_fit *cuda_fit_self(fit_device *d) {
    return (cuda_fit *)d;
}

enum { CUDA_FIT_STAGING = 1 << 22 };

/* Device `device` for a fit that takes at most `memory` bytes of its memory (0 = what is free). */
coar_status cuda_fit_create(int device, size_t memory, fit_device **out);

/* Makes the device the calling thread's. Every entry point begins with it. */
coar_status cuda_fit_enter(const cuda_fit *f);

/* What may still be taken for scratch memory. */
size_t cuda_fit_room(const cuda_fit *f);

/* Scratch memory for what `measured` was measured with (an arena without a base); then *out is an arena to place it
 * in. What earlier calls had there is gone. `what` names the step in the message when it is more than the room. */
coar_status cuda_fit_scratch(cuda_fit *f, const arena *measured, const char *what, arena *out);
void cuda_fit_drop_scratch(cuda_fit *f);

/* cuda_fit_algebra.c: see fit_device.h. */
coar_status cuda_fit_factor(fit_device *d, double *matrix, size_t n, bool *positive);
coar_status cuda_fit_solve(fit_device *d, double *right, size_t E);
coar_status cuda_fit_norms(fit_device *d, const double *rows, size_t count, double *squares);
coar_status cuda_fit_eigenvectors(fit_device *d, double *matrix, size_t p, double *value);
coar_status cuda_fit_rotate(fit_device *d, size_t r, bool back, const double *x, size_t E, double *out);
coar_status cuda_fit_coordinates(fit_device *d, size_t r, const double *rows, size_t count, double *out);
coar_status cuda_fit_hold(fit_device *d, const double *right, size_t length, size_t E);
coar_status cuda_fit_product(fit_device *d, const uint64_t *words, size_t count, size_t stride, double *product);
/* Loads the libraries and makes the handles; gives back those that there are, and all that resides. */
coar_status cuda_fit_open_algebra(cuda_fit *f);
void cuda_fit_close_algebra(cuda_fit *f);

#endif
