/* warps.cu - warp operations with wrong masks, with lanes elsewhere, and without order in memory. */
#include "kernels/cuda/gpu.h"

static __global__ void mask_without_caller_kernel(float *x) {
    x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1); /* bug */
}
extern "C" cudaError_t mask_without_caller(float *x) {
    return gpu_launch(mask_without_caller_kernel, 1, 32, 0, 0, x);
}

static __global__ void shuffle_from_outside_kernel(float *x) {
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 16); /* bug */
}
extern "C" cudaError_t shuffle_from_outside(float *x) {
    return gpu_launch(shuffle_from_outside_kernel, 1, 32, 0, 0, x);
}

static __global__ void mask_of_ended_lanes_kernel(float *x) {
    if (threadIdx.x % 32 >= 24) return;
    x[threadIdx.x] = warp_sum(x[threadIdx.x]); /* bug */
}
extern "C" cudaError_t mask_of_ended_lanes(float *x) {
    return gpu_launch(mask_of_ended_lanes_kernel, 1, 32, 0, 0, x);
}

/* The last warp of 40 threads has 8 lanes. */
static __global__ void mask_of_absent_lanes_kernel(float *x) {
    x[threadIdx.x] = warp_max(x[threadIdx.x]); /* bug */
}
extern "C" cudaError_t mask_of_absent_lanes(float *x) {
    return gpu_launch(mask_of_absent_lanes_kernel, 1, 40, 0, 0, x);
}

static __global__ void different_operations_kernel(float *x) {
    float f = x[threadIdx.x];
    if (threadIdx.x & 1)
        f = __shfl_xor_sync(0xffffffffu, f, 2); /* bug */
    else
        f = __any_sync(0xffffffffu, f > 0) ? 1.0f : 0.0f; /* bug */
    x[threadIdx.x] = f;
}
extern "C" cudaError_t different_operations(float *x) {
    return gpu_launch(different_operations_kernel, 1, 32, 0, 0, x);
}

static __global__ void different_places_kernel(float *x) {
    float f = x[threadIdx.x];
    if (threadIdx.x < 16)
        f = __shfl_xor_sync(0xffffffffu, f, 1); /* bug */
    else
        f = __shfl_xor_sync(0xffffffffu, f, 2); /* bug */
    x[threadIdx.x] = f;
}
extern "C" cudaError_t different_places(float *x) {
    return gpu_launch(different_places_kernel, 1, 32, 0, 0, x);
}

static __global__ void bad_width_kernel(float *x) {
    x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1, 12); /* bug */
}
extern "C" cudaError_t bad_width(float *x) {
    return gpu_launch(bad_width_kernel, 1, 32, 0, 0, x);
}

static __global__ void missing_syncwarp_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    tile[threadIdx.x] = 0;
    __syncwarp();
    tile[threadIdx.x] = x[threadIdx.x];      /* bug */
    x[threadIdx.x] = tile[31 - threadIdx.x]; /* bug */
}
extern "C" cudaError_t missing_syncwarp(float *x) {
    return gpu_launch(missing_syncwarp_kernel, 1, 32, 0, 0, x);
}

/* A shuffle makes lanes wait for each other but not for each other's stores. */
static __global__ void shuffle_is_no_barrier_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    tile[threadIdx.x] = x[threadIdx.x];
    float sum = warp_sum(x[threadIdx.x]);
    x[threadIdx.x] = sum + tile[31 - threadIdx.x]; /* bug */
}
extern "C" cudaError_t shuffle_is_no_barrier(float *x) {
    return gpu_launch(shuffle_is_no_barrier_kernel, 1, 32, 0, 0, x);
}

/* Each half is in order by itself; across the halves nothing is. */
static __global__ void syncwarp_of_halves_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    tile[threadIdx.x] = 0;
    __syncwarp();
    tile[threadIdx.x] = x[threadIdx.x]; /* bug */
    if (threadIdx.x < 16)
        __syncwarp(0x0000ffffu);
    else
        __syncwarp(0xffff0000u);
    x[threadIdx.x] = tile[threadIdx.x ^ 16]; /* bug */
}
extern "C" cudaError_t syncwarp_of_halves(float *x) {
    return gpu_launch(syncwarp_of_halves_kernel, 1, 32, 0, 0, x);
}

/* Every lane fills the row it then names: the others read it too. */
static __global__ void ldmatrix_without_syncwarp_kernel(float *x) {
    GPU_SHARED(uint4, rows, [32]);
    rows[threadIdx.x] = make_uint4(threadIdx.x, 0, 0, 0);
    uint32_t r[4];
    ldmatrix_x4(r, &rows[threadIdx.x]); /* bug */
    x[threadIdx.x] = (float)(r[0] + r[1] + r[2] + r[3]);
}
extern "C" cudaError_t ldmatrix_without_syncwarp(float *x) {
    return gpu_launch(ldmatrix_without_syncwarp_kernel, 1, 32, 0, 0, x);
}

/* The fragments of b for a column-major product, given to the row-major one: found by value. x = a b for a of ones and
 * b[k][n] = k, so that each element is 120. */
static __global__ void wrong_fragment_kernel(float *x) {
    int group = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    float d[4] = {0, 0, 0, 0};
    uint32_t one = pack2<bf16>(1, 1), a[4] = {one, one, one, one};
    float k = (float)group;
    uint32_t b[2] = {pack2<bf16>(k, k), pack2<bf16>(k + 8, k + 8)};
    mma(d, a, b, bf16{});
    x[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + 0 * (float)t;
}
extern "C" cudaError_t wrong_fragment(float *x) {
    return gpu_launch(wrong_fragment_kernel, 1, 32, 0, 0, x);
}
