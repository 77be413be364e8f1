/*
 * fragments.cu - the seam's arithmetic laid bare: conversions, ldmatrix and mma of values that a test gives, into
 * buffers it reads. Fragments are filled here element by element as gpu.h describes them, without ldmatrix.
 */
#include "kernels/cuda/gpu.h"

static __global__ void narrow_kernel(const float *x, uint32_t n, uint16_t *as_bf16, uint16_t *as_half,
                                     uint32_t *as_tf32) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    as_bf16[i] = from_float<bf16>(x[i]).bits;
    as_half[i] = from_float<half>(x[i]).bits;
    as_tf32[i] = round_tf32(x[i]);
}
extern "C" cudaError_t narrow(const float *x, uint32_t n, uint16_t *as_bf16, uint16_t *as_half, uint32_t *as_tf32) {
    return gpu_launch(narrow_kernel, (n + 255) / 256, 256, 0, 0, x, n, as_bf16, as_half, as_tf32);
}

static __global__ void widen_kernel(float *from_bf16, float *from_half) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    from_bf16[i] = to_float(bf16{(uint16_t)i});
    from_half[i] = to_float(half{(uint16_t)i});
}
/* All 65,536 values of each. */
extern "C" cudaError_t widen(float *from_bf16, float *from_half) {
    return gpu_launch(widen_kernel, 256, 256, 0, 0, from_bf16, from_half);
}

GPU_INLINE uint32_t operand(const float *m, int pitch, int row, int column, int down, bf16) {
    return pack2<bf16>(m[row * pitch + column], m[(row + down) * pitch + column + !down]);
}
GPU_INLINE uint32_t operand(const float *m, int pitch, int row, int column, int down, half) {
    return pack2<half>(m[row * pitch + column], m[(row + down) * pitch + column + !down]);
}
GPU_INLINE uint32_t operand(const float *m, int pitch, int row, int column, int, tf32) {
    return __float_as_uint(m[row * pitch + column]);
}

/* d[16][8] += a[16][k] b[k][8], row-major in fp32, k = 16 or (tf32) 8. */
template <class T> static __global__ void mma_kernel(const float *a, const float *b, float *d) {
    const int per = sizeof(T) == 2 ? 2 : 1, depth = 8 * per;
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4, k = per * t;
    uint32_t ra[4], rb[2];
    ra[0] = operand(a, depth, g, k, 0, T{});
    ra[1] = operand(a, depth, g + 8, k, 0, T{});
    ra[2] = operand(a, depth, g, k + depth / 2, 0, T{});
    ra[3] = operand(a, depth, g + 8, k + depth / 2, 0, T{});
    rb[0] = operand(b, 8, k, g, 1, T{});
    rb[1] = operand(b, 8, k + depth / 2, g, 1, T{});
    float rd[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t], d[(g + 8) * 8 + 2 * t + 1]};
    mma(rd, ra, rb, T{});
    d[g * 8 + 2 * t] = rd[0];
    d[g * 8 + 2 * t + 1] = rd[1];
    d[(g + 8) * 8 + 2 * t] = rd[2];
    d[(g + 8) * 8 + 2 * t + 1] = rd[3];
}
extern "C" cudaError_t mma_bf16(const float *a, const float *b, float *d) {
    return gpu_launch(mma_kernel<bf16>, 1, 32, 0, 0, a, b, d);
}
extern "C" cudaError_t mma_half(const float *a, const float *b, float *d) {
    return gpu_launch(mma_kernel<half>, 1, 32, 0, 0, a, b, d);
}
extern "C" cudaError_t mma_tf32(const float *a, const float *b, float *d) {
    return gpu_launch(mma_kernel<tf32>, 1, 32, 0, 0, a, b, d);
}

/* Rows of eight 16-bit elements; lane l names rows[row[l]]. r[lane][4], then the same transposed. */
static __global__ void matrices_kernel(const uint4 *rows, const uint32_t *row, uint32_t *r, uint32_t *r_transposed) {
    GPU_SHARED(uint4, tile, [32]);
    uint32_t lane = threadIdx.x, got[4];
    tile[lane] = rows[lane];
    __syncwarp();
    ldmatrix_x4(got, &tile[row[lane]]);
    for (int i = 0; i < 4; i++) r[4 * lane + (uint32_t)i] = got[i];
    ldmatrix_x4_transposed(got, &tile[row[lane]]);
    for (int i = 0; i < 4; i++) r_transposed[4 * lane + (uint32_t)i] = got[i];
}
extern "C" cudaError_t matrices(const void *rows, const uint32_t *row, uint32_t *r, uint32_t *r_transposed) {
    return gpu_launch(matrices_kernel, 1, 32, 0, 0, (const uint4 *)rows, row, r, r_transposed);
}
