/* memory.cu - accesses outside variables, to what nobody wrote, at odd addresses, and races in global memory. */
#include "kernels/cuda/gpu.h"

static __global__ void static_overrun_kernel(float *x, int n) {
    GPU_SHARED(float, tile, [32]);
    for (int i = (int)threadIdx.x; i < n; i += 32) tile[i] = x[i % 32]; /* bug */
    __syncthreads();
    x[threadIdx.x] = tile[31 - threadIdx.x];
}
extern "C" cudaError_t static_overrun(float *x) {
    return gpu_launch(static_overrun_kernel, 1, 32, 0, 0, x, 33);
}

static __global__ void static_underrun_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    (tile - 1)[threadIdx.x] = x[threadIdx.x]; /* bug */
    __syncthreads();
    x[threadIdx.x] = 0;
}
extern "C" cudaError_t static_underrun(float *x) {
    return gpu_launch(static_underrun_kernel, 1, 32, 0, 0, x);
}

static __global__ void static_overread_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = tile[threadIdx.x + 1]; /* bug */
}
extern "C" cudaError_t static_overread(float *x) {
    return gpu_launch(static_overread_kernel, 1, 32, 0, 0, x);
}

/* One element less asked for than used. */
static __global__ void dynamic_overrun_kernel(float *x) {
    GPU_DYNAMIC_SHARED(float, tile);
    tile[threadIdx.x] = x[threadIdx.x]; /* bug */
    __syncthreads();
    x[threadIdx.x] = tile[31 - threadIdx.x];
}
extern "C" cudaError_t dynamic_overrun(float *x) {
    return gpu_launch(dynamic_overrun_kernel, 1, 32, 31 * sizeof(float), 0, x);
}

static __global__ void uninitialised_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    if (threadIdx.x < 31) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = tile[31 - threadIdx.x]; /* bug */
}
extern "C" cudaError_t uninitialised(float *x) {
    return gpu_launch(uninitialised_kernel, 1, 32, 0, 0, x);
}

/* What the block before left is not there. */
static __global__ void uninitialised_in_second_block_kernel(float *x) {
    GPU_SHARED(float, tile, [32]);
    if (blockIdx.x == 0) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[32 * blockIdx.x + threadIdx.x] = tile[threadIdx.x]; /* bug */
}
extern "C" cudaError_t uninitialised_in_second_block(float *x) {
    return gpu_launch(uninitialised_in_second_block_kernel, 2, 32, 0, 0, x);
}

static __global__ void too_much_static_kernel(float *x) {
    GPU_SHARED(float, tile, [12][1024]);
    GPU_SHARED(float, one_more, ); /* bug */
    if (threadIdx.x == 0) one_more = x[0];
    tile[0][threadIdx.x] = x[threadIdx.x];
}
extern "C" cudaError_t too_much_static(float *x) {
    return gpu_launch(too_much_static_kernel, 1, 32, 0, 0, x);
}

static __global__ void misaligned_ldmatrix_kernel(float *x) {
    GPU_SHARED(uint4, rows, [33]);
    rows[threadIdx.x] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) rows[32] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    uint32_t r[4];
    ldmatrix_x4(r, (const unsigned char *)&rows[threadIdx.x] + 8); /* bug */
    x[threadIdx.x] = (float)r[0];
}
extern "C" cudaError_t misaligned_ldmatrix(float *x) {
    return gpu_launch(misaligned_ldmatrix_kernel, 1, 32, 0, 0, x);
}

static __global__ void ldmatrix_of_global_kernel(float *x) {
    uint32_t r[4];
    ldmatrix_x4(r, x + 4 * threadIdx.x); /* bug */
    x[threadIdx.x] = (float)r[0];
}
extern "C" cudaError_t ldmatrix_of_global(float *x) {
    return gpu_launch(ldmatrix_of_global_kernel, 1, 32, 0, 0, x);
}

static __global__ void misaligned_vector_kernel(float *x) {
    float2 pair = *(const float2 *)(x + 2 * threadIdx.x + 1); /* bug */
    x[threadIdx.x] = pair.x + pair.y;
}
extern "C" cudaError_t misaligned_vector(float *x) {
    return gpu_launch(misaligned_vector_kernel, 1, 32, 0, 0, x);
}

/* SAMPLE elements are there. */
static __global__ void global_overread_kernel(float *x, int n) {
    x[threadIdx.x] = x[(int)threadIdx.x + n - 31]; /* bug */
}
extern "C" cudaError_t global_overread(float *x) {
    return gpu_launch(global_overread_kernel, 1, 32, 0, 0, x, 256);
}

static __global__ void race_of_threads_kernel(float *x) {
    x[threadIdx.x / 2] = (float)threadIdx.x; /* bug */
}
extern "C" cudaError_t race_of_threads(float *x) {
    return gpu_launch(race_of_threads_kernel, 1, 64, 0, 0, x);
}

/* Blocks may run in any order, or at once. */
static __global__ void race_of_blocks_kernel(float *x) {
    x[(blockIdx.x + 1) * 32 + threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x]; /* bug */
}
extern "C" cudaError_t race_of_blocks(float *x) {
    return gpu_launch(race_of_blocks_kernel, 2, 32, 0, 0, x);
}

static __global__ void nothing_kernel(float *x) {
    x[0] = 1;
}
extern "C" cudaError_t too_much_dynamic(float *x) {
    return gpu_launch(nothing_kernel, 1, 32, 99 * 1024 + 1, 0, x);
}
extern "C" cudaError_t block_too_large(float *x) {
    return gpu_launch(nothing_kernel, 1, dim3(32, 33), 0, 0, x);
}
extern "C" cudaError_t empty_grid(float *x) {
    return gpu_launch(nothing_kernel, dim3(1, 0), 32, 0, 0, x);
}
