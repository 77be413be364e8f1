/*
 * product.cu - a matrix product as the real kernels do it: three stages of cp.async into swizzled dynamic shared
 * memory, ldmatrix, mma. y[m][n] = a[m][k] b[k][n] in bf16, y in fp32; m, n multiples of 32, k of 16.
 *
 * A block of four warps makes 32 x 32 of y, a warp 16 x 16. Per stage a's tile is 32 rows of 32 bytes, b's 16 rows of
 * 64. The chunks of 16 bytes of a row are permuted by an exclusive or with bits of the row's number.
 */
#include "kernels/cuda/gpu.h"

namespace {

const int TILE = 32, DEPTH = 16, STAGES = 3, A_ELEMENTS = TILE * DEPTH, STAGE_ELEMENTS = A_ELEMENTS + DEPTH * TILE;

GPU_INLINE bf16 *a_chunk(bf16 *stage, int row, int chunk) {
    return stage + row * DEPTH + (chunk ^ (row / 4 & 1)) * 8;
}
GPU_INLINE bf16 *b_chunk(bf16 *stage, int row, int chunk) {
    return stage + A_ELEMENTS + row * TILE + (chunk ^ (row / 2 & 3)) * 8;
}

/* 64 chunks each of a and b: one for each of 128 threads. */
GPU_INLINE void load_stage(bf16 *stage, const bf16 *a, const bf16 *b, int n, int k, int first) {
    int i = (int)threadIdx.x % 64;
    if (threadIdx.x < 64) {
        int row = i / 2, chunk = i % 2;
        cp_async<16>(a_chunk(stage, row, chunk), a + (size_t)row * (size_t)k + first + chunk * 8, 16);
    } else {
        int row = i / 4, chunk = i % 4;
        cp_async<16>(b_chunk(stage, row, chunk), b + (size_t)(first + row) * (size_t)n + chunk * 8, 16);
    }
}

__global__ void __launch_bounds__(128) product_kernel(const bf16 *a, const bf16 *b, float *y, int n, int k) {
    GPU_DYNAMIC_SHARED(bf16, shared);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, m0 = warp / 2 * 16, n0 = warp % 2 * 16;
    a += (size_t)blockIdx.y * TILE * (size_t)k;
    b += (size_t)blockIdx.x * TILE;
    float d[2][4] = {};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s * DEPTH < k) load_stage(shared + s * STAGE_ELEMENTS, a, b, n, k, s * DEPTH);
        cp_async_commit();
    }
    for (int step = 0; step < k / DEPTH; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        int ahead = step + STAGES - 1;
        if (ahead * DEPTH < k) load_stage(shared + ahead % STAGES * STAGE_ELEMENTS, a, b, n, k, ahead * DEPTH);
        cp_async_commit();
        bf16 *stage = shared + step % STAGES * STAGE_ELEMENTS;
        uint32_t ra[4], rb[4];
        ldmatrix_x4(ra, a_chunk(stage, m0 + lane % 16, lane / 16));
        ldmatrix_x4_transposed(rb, b_chunk(stage, lane % 16, n0 / 8 + lane / 16));
        mma(d[0], ra, rb, bf16{});
        mma(d[1], ra, rb + 2, bf16{});
    }
    cp_async_wait<0>();
    for (int j = 0; j < 2; j++)
        for (int e = 0; e < 4; e++) {
            size_t row = blockIdx.y * TILE + (size_t)(m0 + lane / 4 + e / 2 * 8);
            y[row * (size_t)n + blockIdx.x * TILE + (size_t)(n0 + 8 * j + lane % 4 * 2 + e % 2)] = d[j][e];
        }
}

} // namespace

extern "C" cudaError_t product(const void *a, const void *b, float *y, int m, int n, int k) {
    return gpu_launch(product_kernel, dim3((unsigned)(n / TILE), (unsigned)(m / TILE)), 128,
                      STAGES * STAGE_ELEMENTS * sizeof(bf16), 0, (const bf16 *)a, (const bf16 *)b, y, n, k);
}
