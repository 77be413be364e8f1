/* sums.cu - block sums through static shared memory, barriers and shuffles. */
#include "kernels/cuda/gpu.h"

static __global__ void block_sums_kernel(const float *x, float *y, int n) {
    GPU_SHARED(float, partial, [32]);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = warp_sum(i < n ? x[i] : 0);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = warp_sum(lane < (int)blockDim.x / 32 ? partial[lane] : 0);
        if (lane == 0) y[blockIdx.x] = sum;
    }
}

extern "C" cudaError_t block_sums_launch(const float *x, float *y, int n, cudaStream_t stream) {
    return gpu_launch(block_sums_kernel, dim3((unsigned)(n + 255) / 256), dim3(256), 0, stream, x, y, n);
}
