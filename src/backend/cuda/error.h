/*
 * error.h - how failures of CUDA become a coar_status: one line that says what was tried, what CUDA called it, and
 * what to do. Must not know: graphs, kernels.
 */
#ifndef COAR_BACKEND_CUDA_ERROR_H
#define COAR_BACKEND_CUDA_ERROR_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "core/status.h"

/* COAR_OK for cudaSuccess. Else COAR_ERROR_MEMORY (out of device memory) or COAR_ERROR_UNSUPPORTED (anything that
 * another machine, driver or device would do) with "FORMAT: CUDA's text (its name); what to do". Forgets CUDA's own
 * last error, so that the next call does not report this one again. */
coar_status cuda_error(cudaError_t error, const char *format, ...) COAR_PRINTF(2, 3);

/* Whether nothing works any more in this process on that device: the context is lost. */
bool cuda_error_is_sticky(cudaError_t error);

#define TRY_CUDA(call, ...)                                                                                            \
    do {                                                                                                               \
        const cudaError_t try_cuda = (call);                                                                           \
        if (try_cuda != cudaSuccess) return cuda_error(try_cuda, __VA_ARGS__);                                         \
    } while (0)

#define TRY_CUDA_GOTO(call, ...)                                                                                       \
    do {                                                                                                               \
        const cudaError_t try_cuda = (call);                                                                           \
        status = try_cuda == cudaSuccess ? COAR_OK : cuda_error(try_cuda, __VA_ARGS__);                                \
        if (status != COAR_OK) goto done;                                                                              \
    } while (0)

#endif
