/*
 * cuda_runtime_api.h - for machines without the CUDA toolkit: what kernels.h and the kernels need of it, under its
 * names and with its values (tests/simt/headers.c: both builds give the same). C and C++.
 *
 * Must not become a replacement: the host side of the CUDA backend is compiled with the toolkit's headers or not at
 * all.
 */
#ifndef COAR_TESTS_SIMT_CUDA_RUNTIME_API_H
#define COAR_TESTS_SIMT_CUDA_RUNTIME_API_H

#include <stddef.h>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

#define SIMT_VECTOR(type, element, align2, align4)                                                                     \
    struct __attribute__((aligned(align2))) type##2 {                                                                  \
        element x, y;                                                                                                  \
    };                                                                                                                 \
    struct type##3 {                                                                                                   \
        element x, y, z;                                                                                               \
    };                                                                                                                 \
    struct __attribute__((aligned(align4))) type##4 {                                                                  \
        element x, y, z, w;                                                                                            \
    };                                                                                                                 \
    typedef struct type##2 type##2;                                                                                    \
    typedef struct type##3 type##3;                                                                                    \
    typedef struct type##4 type##4;
SIMT_VECTOR(char, signed char, 2, 4)
SIMT_VECTOR(uchar, unsigned char, 2, 4)
SIMT_VECTOR(short, short, 4, 8)
SIMT_VECTOR(ushort, unsigned short, 4, 8)
SIMT_VECTOR(int, int, 8, 16)
SIMT_VECTOR(uint, unsigned, 8, 16)
SIMT_VECTOR(float, float, 8, 16)
#undef SIMT_VECTOR

struct __attribute__((aligned(16))) longlong2 {
    long long x, y;
};
struct __attribute__((aligned(16))) ulonglong2 {
    unsigned long long x, y;
};
struct __attribute__((aligned(16))) double2 {
    double x, y;
};
typedef struct longlong2 longlong2;
typedef struct ulonglong2 ulonglong2;
typedef struct double2 double2;

struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
#endif
};
typedef struct dim3 dim3;

typedef struct CUstream_st *cudaStream_t;

enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorLaunchFailure = 719,
};
typedef enum cudaError cudaError_t;

#endif
