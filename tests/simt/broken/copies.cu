/* copies.cu - asynchronous copies that are not waited for, or not as they should be. */
#include "kernels/cuda/gpu.h"

static __global__ void missing_wait_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    cp_async<4>(&tile[threadIdx.x], x + threadIdx.x, 4); /* pending */
    cp_async_commit();
    x[threadIdx.x + 32] = tile[threadIdx.x]; /* bug */
}
extern "C" cudaError_t missing_wait(float *x) {
    return gpu_launch(missing_wait_kernel, 1, 32, 0, 0, x);
}

static __global__ void missing_commit_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    cp_async<4>(&tile[threadIdx.x], x + threadIdx.x, 4); /* pending */
    cp_async_wait<0>();
    x[threadIdx.x + 32] = tile[threadIdx.x]; /* bug */
}
extern "C" cudaError_t missing_commit(float *x) {
    return gpu_launch(missing_commit_kernel, 1, 32, 0, 0, x);
}

/* Two stages: the second group may still be under way. */
static __global__ void wait_for_too_few_kernel(float *x) {
    GPU_SHARED(float, tile, [2][32]);
    for (int stage = 0; stage < 2; stage++) {
        cp_async<4>(&tile[stage][threadIdx.x], x + 32 * stage + threadIdx.x, 4); /* pending */
        cp_async_commit();
    }
    cp_async_wait<1>();
    x[threadIdx.x + 64] = tile[0][threadIdx.x] + tile[1][threadIdx.x]; /* bug */
}
extern "C" cudaError_t wait_for_too_few(float *x) {
    return gpu_launch(wait_for_too_few_kernel, 1, 32, 0, 0, x);
}

/* A wait is for one's own copies only. */
static __global__ void wait_without_barrier_kernel(float *x) {
    GPU_SHARED(float, tile, [64]);
    tile[threadIdx.x] = 0;
    __syncthreads();
    cp_async<4>(&tile[threadIdx.x], x + threadIdx.x, 4); /* bug */
    cp_async_commit();
    cp_async_wait<0>();
    x[threadIdx.x + 64] = tile[threadIdx.x ^ 32]; /* bug */
}
extern "C" cudaError_t wait_without_barrier(float *x) {
    return gpu_launch(wait_without_barrier_kernel, 1, 64, 0, 0, x);
}

/* The next copy begins while other warps still read. */
static __global__ void copy_over_readers_kernel(float *x) {
    GPU_SHARED(float, tile, [64]);
    float sum = 0;
    for (int stage = 0; stage < 2; stage++) {
        cp_async<4>(&tile[threadIdx.x], x + 64 * stage + threadIdx.x, 4); /* bug */
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        sum += tile[threadIdx.x ^ 32]; /* bug */
    }
    x[threadIdx.x + 128] = sum;
}
extern "C" cudaError_t copy_over_readers(float *x) {
    return gpu_launch(copy_over_readers_kernel, 1, 64, 0, 0, x);
}

static __global__ void copy_to_global_kernel(float *x) {
    cp_async<4>(x + 32 + threadIdx.x, x + threadIdx.x, 4); /* bug */
    cp_async_commit();
    cp_async_wait<0>();
}
extern "C" cudaError_t copy_to_global(float *x) {
    return gpu_launch(copy_to_global_kernel, 1, 32, 0, 0, x);
}

static __global__ void misaligned_copy_kernel(float *x) {
    GPU_SHARED(float4, tile, [32]);
    cp_async<16>(&tile[threadIdx.x], x + 4 * threadIdx.x + 1, 16); /* bug */
    cp_async_commit();
    cp_async_wait<0>();
    x[threadIdx.x] = tile[threadIdx.x].x;
}
extern "C" cudaError_t misaligned_copy(float *x) {
    return gpu_launch(misaligned_copy_kernel, 1, 32, 0, 0, x);
}

static __global__ void too_much_present_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    cp_async<4>(&tile[threadIdx.x], x + threadIdx.x, 8); /* bug */
    cp_async_commit();
    cp_async_wait<0>();
    x[threadIdx.x] = tile[threadIdx.x];
}
extern "C" cudaError_t too_much_present(float *x) {
    return gpu_launch(too_much_present_kernel, 1, 32, 0, 0, x);
}
