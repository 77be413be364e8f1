/* barriers.cu - barriers that are missing, or that not all threads reach. The line at fault ends in its mark. */
#include "kernels/cuda/gpu.h"

/* Each thread reads what its neighbour in another warp has written, or not yet. */
static __global__ void missing_barrier_kernel(float *x) {
    GPU_SHARED(float, tile, [64]);
    tile[threadIdx.x] = 0;
    __syncthreads();
    tile[threadIdx.x] = x[threadIdx.x];      /* bug */
    x[threadIdx.x] = tile[threadIdx.x ^ 32]; /* bug */
}
extern "C" cudaError_t missing_barrier(float *x) {
    return gpu_launch(missing_barrier_kernel, 1, 64, 0, 0, x);
}

/* The second stage overwrites what slower threads still read. */
static __global__ void missing_second_barrier_kernel(float *x) {
    GPU_SHARED(float, tile, [64]);
    float sum = 0;
    for (int i = 0; i < 2; i++) {
        tile[threadIdx.x] = x[threadIdx.x] + (float)i; /* bug */
        __syncthreads();
        sum += tile[threadIdx.x ^ 32]; /* bug */
    }
    x[threadIdx.x] = sum;
}
extern "C" cudaError_t missing_second_barrier(float *x) {
    return gpu_launch(missing_second_barrier_kernel, 1, 64, 0, 0, x);
}

static __global__ void divergent_barrier_kernel(float *x) {
    if (threadIdx.x < 32)
        __syncthreads(); /* bug */
    else
        __syncthreads(); /* bug */
    x[threadIdx.x] = 0;
}
extern "C" cudaError_t divergent_barrier(float *x) {
    return gpu_launch(divergent_barrier_kernel, 1, 64, 0, 0, x);
}

static __global__ void barrier_of_some_kernel(float *x) {
    if (threadIdx.x < 40) __syncthreads(); /* bug */
    x[threadIdx.x] = 1;
}
extern "C" cudaError_t barrier_of_some(float *x) {
    return gpu_launch(barrier_of_some_kernel, 1, 64, 0, 0, x);
}

static __global__ void early_exit_kernel(float *x, int n) {
    if ((int)threadIdx.x >= n) return;
    __syncthreads(); /* bug */
    x[threadIdx.x] = 1;
}
extern "C" cudaError_t early_exit(float *x) {
    return gpu_launch(early_exit_kernel, 1, 64, 0, 0, x, 63);
}

/* Half a warp waits at the barrier for the other half, which waits for it at a shuffle. */
static __global__ void barrier_against_shuffle_kernel(float *x) {
    float f = x[threadIdx.x];
    if (threadIdx.x < 16)
        __syncthreads();
    else
        f += __shfl_xor_sync(0xffffffffu, f, 1); /* bug */
    x[threadIdx.x] = f;
}
extern "C" cudaError_t barrier_against_shuffle(float *x) {
    return gpu_launch(barrier_against_shuffle_kernel, 1, 32, 0, 0, x);
}
