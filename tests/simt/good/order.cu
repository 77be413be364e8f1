/*
 * order.cu - kernels without a bug that come close to one: the shim must run them, and its checker keep silent.
 */
#include "kernels/cuda/gpu.h"

/* Halves of a warp on their own, at different operations, then together. y[i] = the sum over its half, + 100 if any
 * lane of the warp holds more than n. */
static __global__ void halves_kernel(const int *x, int *y, int n) {
    int v = x[threadIdx.x], sum = v;
    bool low = threadIdx.x % 32 < 16;
    unsigned half = low ? 0x0000ffffu : 0xffff0000u;
    if (low) {
        for (int d = 8; d; d >>= 1) sum += __shfl_xor_sync(half, sum, d);
    } else {
        for (int d = 1; d < 16; d <<= 1) {
            int before = __shfl_up_sync(half, sum, (unsigned)d, 16);
            if ((int)threadIdx.x % 16 >= d) sum += before;
        }
        sum = __shfl_sync(half, sum, 15, 16);
    }
    if (__any_sync(0xffffffffu, v > n)) sum += 100;
    y[threadIdx.x] = sum;
}
extern "C" cudaError_t halves(const int *x, int *y, int n) {
    return gpu_launch(halves_kernel, 1, 64, 0, 0, x, y, n);
}

/* A value handed from lane to lane, each pair meeting by itself: order is passed on. */
static __global__ void chain_kernel(int *y) {
    GPU_SHARED(int, cell, [2]);
    unsigned lane = threadIdx.x;
    if (lane == 0) cell[0] = 1;
    if (lane > 0) {
        __syncwarp(3u << (lane - 1));
        if (lane % 2) cell[1] = cell[0] + 1;
        if (lane % 2 == 0) cell[0] = cell[1] + 1;
    }
    if (lane < 31) __syncwarp(3u << lane);
    if (lane == 31) y[0] = cell[1];
}
extern "C" cudaError_t chain(int *y) {
    return gpu_launch(chain_kernel, 1, 32, 0, 0, y);
}

/* Barriers under a condition that is the same for the whole block, and of three kinds. */
static __global__ void uniform_kernel(int *y) {
    GPU_SHARED(int, cell, );
    GPU_SHARED(unsigned char, bytes, [64]);
    int sum = 0;
    for (unsigned i = 0; i <= blockIdx.x; i++) {
        if (threadIdx.x == 0) cell = (int)i;
        bytes[threadIdx.x] = (unsigned char)threadIdx.x; /* neighbours write neighbouring bytes */
        __syncthreads();
        sum += cell + bytes[63 - threadIdx.x];
        __syncthreads();
    }
    if (blockIdx.x == 1) __syncthreads();
    sum += 1000 * __syncthreads_count(threadIdx.x % 3 == 0);
    sum += 100000 * __syncthreads_or(threadIdx.x == 5) + 200000 * __syncthreads_and(threadIdx.x != 5);
    y[64 * blockIdx.x + threadIdx.x] = sum;
}
extern "C" cudaError_t uniform(int *y) {
    return gpu_launch(uniform_kernel, 3, 64, 0, 0, y);
}

/* The last block to finish adds up what all left. */
static __global__ void last_block_kernel(const int *x, int *partial, unsigned *finished, int *y) {
    GPU_SHARED(bool, is_last, );
    int sum = x[32 * blockIdx.x + threadIdx.x];
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(finished, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last && threadIdx.x == 0) {
        sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i];
        *y = sum;
    }
}
extern "C" cudaError_t last_block(const int *x, int *partial, unsigned *finished, int *y) {
    return gpu_launch(last_block_kernel, 5, 32, 0, 0, x, partial, finished, y);
}

/* Atomics of several kinds on shared and global words. */
static __global__ void atomics_kernel(unsigned *y, unsigned long long *wide, float *sum) {
    GPU_SHARED(unsigned, bins, [4]);
    if (threadIdx.x < 4) bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[threadIdx.x % 3], 1u);
    atomicMax(&bins[3], threadIdx.x);
    __syncthreads();
    if (threadIdx.x < 4) atomicAdd(&y[threadIdx.x], bins[threadIdx.x]);
    atomicOr(&y[4], 1u << threadIdx.x % 32);
    atomicMin(&y[5], 1000 - threadIdx.x);
    if (threadIdx.x == 7) atomicCAS(&y[6], 0u, 77u);
    atomicAdd(wide, 1ull << 40);
    atomicAdd(sum, 0.5f);
}
extern "C" cudaError_t atomics(unsigned *y, unsigned long long *wide, float *sum) {
    return gpu_launch(atomics_kernel, 2, 96, 0, 0, y, wide, sum);
}

/* Each warp stages its own rows and reads them as matrices; whole warps without rows end early. */
static __global__ void private_rows_kernel(const uint16_t *x, uint16_t *y, int rows) {
    GPU_SHARED(uint4, tile, [4][32]);
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if ((int)warp * 32 >= rows) return;
    uint32_t r[4];
    for (int trial = 0; trial < 2; trial++) {
        tile[warp][lane] = ((const uint4 *)x)[32 * warp + lane];
        __syncwarp();
        ldmatrix_x4_transposed(r, &tile[warp][lane]);
        __syncwarp();
    }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) /* y[8 x 8 matrix i], transposed */
            y[(32 * warp + 8 * (unsigned)i + lane / 4) * 8 + lane % 4 * 2 + (unsigned)h] = (uint16_t)(r[i] >> 16 * h);
}
extern "C" cudaError_t private_rows(const uint16_t *x, uint16_t *y, int rows) {
    return gpu_launch(private_rows_kernel, 1, 128, 0, 0, x, y, rows);
}

/* Copies of every size, whole and in part, whose source may end where it is not read. */
static __global__ void copies_kernel(const uint32_t *x, uint32_t *y) {
    GPU_SHARED(uint4, tile, [32]);
    GPU_DYNAMIC_SHARED(uint2, pairs);
    unsigned i = threadIdx.x;
    cp_async<16>(&tile[i], x + 4 * i, i == 31 ? 8 : 16);
    cp_async_commit();
    cp_async<8>(&pairs[i], x + 2 * i, i % 3 == 0 ? 0 : i % 3 == 1 ? 4 : 8);
    cp_async_commit();
    cp_async_wait<1>();
    uint4 q = tile[i]; /* its own: no barrier is needed */
    cp_async_wait<0>();
    y[i] = q.x + q.y + q.z + q.w + 1000 * pairs[i].x + 100000 * pairs[i].y;
}
extern "C" cudaError_t copies(const uint32_t *x, uint32_t *y) {
    return gpu_launch(copies_kernel, 1, 32, 32 * sizeof(uint2), 0, x, y);
}

/* y[global index] = index, from coordinates in three dimensions. */
static __global__ void coordinates_kernel(unsigned *y) {
    unsigned in_block = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned number = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned i = number * (blockDim.x * blockDim.y * blockDim.z) + in_block;
    y[i] += i;
}
extern "C" cudaError_t coordinates(unsigned *y) {
    return gpu_launch(coordinates_kernel, dim3(2, 3, 2), dim3(5, 2, 3), 0, 0, y);
}

/* CUDA's integer and bit functions, one result each. */
static __global__ void functions_kernel(unsigned x, unsigned *y) {
    y[0] = (unsigned)__popc(x);
    y[1] = (unsigned)__ffs((int)x);
    y[2] = (unsigned)__clz((int)x);
    y[3] = __brev(x);
    y[4] = __float_as_uint(1.5f) + (unsigned)__float_as_int(0.0f);
    y[5] = (unsigned)(max(3, -7) + min(2u, 9u) + (int)max(2.5f, 1.0f));
    y[6] = (unsigned)(1000 * rsqrtf(0.25f)) + (unsigned)__popcll(1ull << 40 | 1);
    y[7] = __umulhi(0x80000000u, 6) + (unsigned)__ldg(&y[0]);
    y[8] = (unsigned)__clz(0) + (unsigned)__ffs(0);
}
extern "C" cudaError_t functions(unsigned x, unsigned *y) {
    return gpu_launch(functions_kernel, 1, 1, 0, 0, x, y);
}
