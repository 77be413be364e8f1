/*
 * cuda_libraries.h - cuDNN, cuBLASLt, cuBLAS, cuSOLVER and NCCL as tables of function pointers, loaded on first use.
 *
 * Loaded and not linked, because a program that is linked with them does not start where one is missing, and starts
 * slowly where all are there (docs/gpu.md, "Libraries"): our own kernels need none of them. A build that defines
 * COAR_LIBRARIES_LINKED (the stand-ins' one) takes the addresses from the linker instead.
 *
 * To use one more function, add its name to a list below; its type comes from the library's header.
 * Must not know: what the libraries are used for.
 */
#ifndef COAR_BACKEND_CUDA_LIBRARIES_H
#define COAR_BACKEND_CUDA_LIBRARIES_H

#include <cublas_v2.h>
#include <cublasLt.h>
#include <cusolverDn.h>

#if __has_include(<cudnn.h>)
#include <cudnn.h>
#endif
/* 9.8 is the first version whose plans can be built for device properties instead of a handle. */
#if defined(CUDNN_VERSION) && CUDNN_VERSION >= 90800
#define COAR_HAVE_CUDNN 1
#else
#define COAR_HAVE_CUDNN 0
#endif

#if __has_include(<nccl.h>) && !defined(COAR_NO_NCCL)
#include <nccl.h>
#endif
/* 2.14 is the first version whose calls can be told not to wait. */
#if defined(NCCL_VERSION_CODE) && NCCL_VERSION_CODE >= 21400
#define COAR_HAVE_NCCL 1
#else
#define COAR_HAVE_NCCL 0
#endif

#include "core/status.h"

#define CUDNN_FUNCTIONS(X)                                                                                             \
    X(cudnnGetVersion)                                                                                                 \
    X(cudnnGetErrorString)                                                                                             \
    X(cudnnGetLastErrorString)                                                                                         \
    X(cudnnCreate)                                                                                                     \
    X(cudnnDestroy)                                                                                                    \
    X(cudnnSetStream)                                                                                                  \
    X(cudnnBackendCreateDescriptor)                                                                                    \
    X(cudnnBackendDestroyDescriptor)                                                                                   \
    X(cudnnBackendFinalize)                                                                                            \
    X(cudnnBackendSetAttribute)                                                                                        \
    X(cudnnBackendGetAttribute)                                                                                        \
    X(cudnnBackendExecute)

#define CUBLASLT_FUNCTIONS(X)                                                                                          \
    X(cublasLtGetVersion)                                                                                              \
    X(cublasLtGetStatusString)                                                                                         \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtDestroy)                                                                                                 \
    X(cublasLtMatmulDescCreate)                                                                                        \
    X(cublasLtMatmulDescDestroy)                                                                                       \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatrixLayoutCreate)                                                                                      \
    X(cublasLtMatrixLayoutDestroy)                                                                                     \
    X(cublasLtMatmulPreferenceCreate)                                                                                  \
    X(cublasLtMatmulPreferenceDestroy)                                                                                 \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    X(cublasLtMatmulAlgoInit)                                                                                          \
    X(cublasLtMatmulAlgoCheck)                                                                                         \
    X(cublasLtMatmulAlgoConfigGetAttribute)                                                                            \
    X(cublasLtMatmulAlgoConfigSetAttribute)                                                                            \
    X(cublasLtMatmul)

#define CUBLAS_FUNCTIONS(X)                                                                                            \
    X(cublasCreate_v2)                                                                                                 \
    X(cublasDestroy_v2)                                                                                                \
    X(cublasSetStream_v2)                                                                                              \
    X(cublasDtrsm_v2)                                                                                                  \
    X(cublasDgemm_v2)                                                                                                  \
    X(cublasDgemmStridedBatched)                                                                                       \
    X(cublasIdamax_v2)                                                                                                 \
    X(cublasDaxpy_v2)

#define CUSOLVER_FUNCTIONS(X)                                                                                          \
    X(cusolverDnCreate)                                                                                                \
    X(cusolverDnDestroy)                                                                                               \
    X(cusolverDnSetStream)                                                                                             \
    X(cusolverDnDpotrf_bufferSize)                                                                                     \
    X(cusolverDnDpotrf)                                                                                                \
    X(cusolverDnDsyevd_bufferSize)                                                                                     \
    X(cusolverDnDsyevd)

#define NCCL_FUNCTIONS(X)                                                                                              \
    X(ncclGetErrorString)                                                                                              \
    X(ncclGetLastError)                                                                                                \
    X(ncclGetUniqueId)                                                                                                 \
    X(ncclCommInitRankConfig)                                                                                          \
    X(ncclCommGetAsyncError)                                                                                           \
    X(ncclCommFinalize)                                                                                                \
    X(ncclCommDestroy)                                                                                                 \
    X(ncclCommAbort)                                                                                                   \
    X(ncclBroadcast)                                                                                                   \
    X(ncclReduce)

#define X(name) __typeof__(name) *name;
#if COAR_HAVE_CUDNN
typedef struct cudnn_functions {
    CUDNN_FUNCTIONS(X)
} cudnn_functions;
#else
typedef struct cudnn_functions cudnn_functions;
#endif
typedef struct cublaslt_functions {
    CUBLASLT_FUNCTIONS(X)
} cublaslt_functions;
typedef struct cublas_functions {
    CUBLAS_FUNCTIONS(X)
} cublas_functions;
typedef struct cusolver_functions {
    CUSOLVER_FUNCTIONS(X)
} cusolver_functions;
#if COAR_HAVE_NCCL
typedef struct nccl_functions {
    NCCL_FUNCTIONS(X)
} nccl_functions;
#else
typedef struct nccl_functions nccl_functions;
#endif
#undef X

/* The library's functions, for the life of the process. COAR_ERROR_UNSUPPORTED, naming the file or the function that is
 * missing, where it cannot be had; every later call gives the same answer. Safe from any thread. */
coar_status cuda_library_cudnn(const cudnn_functions **out);
coar_status cuda_library_cublaslt(const cublaslt_functions **out);
coar_status cuda_library_cublas(const cublas_functions **out);
coar_status cuda_library_cusolver(const cusolver_functions **out);
coar_status cuda_library_nccl(const nccl_functions **out);

#endif
