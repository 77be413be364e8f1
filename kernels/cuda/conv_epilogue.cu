/*
 * conv_epilogue.cu - the epilogue alone: behind a library's matrix product, and behind a convolution split along K.
 *
 *   y[m][n] = epilogue(sums[0][m][n] + sums[1][m][n] + ...)       added in this order
 *
 * sums fp32 [splits][rows][stride] -> y [rows][stride]. A thread finishes one quad of 4 rows; as many lanes as a
 * row has quads, at most 32, lie side by side, the block's other threads below one another.
 * No shared memory; 70 to 72 registers (ptxas, sm_80), no spills.
 * Bytes, for each element: 4 for each split, 2 or 4 for y, 2 or 4 for a residual; a few flops, 20 to 40 with GELU:
 * bound by bytes. Roofline, ResNet-50 layer2 3x3 (128 channels, 28x28, bf16) at 256 pairs on an A100 (2.0 TB/s):
 * 103 MB of sums + 51 MB of y = 77 us.
 */
#include "kernels/cuda/conv.cuh"

static const uint32_t THREADS = 256, ROWS = 4; /* ROWS: of a thread at once */

/* lanes: threads side by side, a power of two; grid (row parts, column parts). */
template <class T>
__global__ void __launch_bounds__(THREADS)
    finish_kernel(epilogue e, const float *sums, uint32_t splits, uint32_t lanes) {
    const uint32_t column = (blockIdx.y * lanes + threadIdx.x % lanes) * 4, step = THREADS / lanes;
    const uint32_t first = blockIdx.x * (step * ROWS) + threadIdx.x / lanes;
    if (column >= e.stride) return;
    epilogue_channels c = epilogue_begin(e, column);
    float v[ROWS][4] = {};
    for (uint32_t s = 0; s < splits; s++) {
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            const uint32_t row = first + r * step;
            if (row >= e.rows) continue;
            float more[4];
            epilogue_load<float>(sums, ((size_t)s * e.rows + row) * e.stride + column, more);
#pragma unroll
            for (int i = 0; i < 4; i++) v[r][i] = s == 0 ? more[i] : v[r][i] + more[i];
        }
    }
    epilogue_rows<T>(e, c, v,
                     [&](uint32_t r) { return first + r * step < e.rows ? first + r * step : EPILOGUE_NO_ROW; });
}

template <class T>
static cudaError_t launch(const epilogue &e, const float *sums, uint32_t splits, cudaStream_t stream) {
    uint32_t lanes = 1;
    while (lanes < 32 && lanes * 4 < e.stride) lanes *= 2;
    const uint32_t rows = THREADS / lanes * ROWS, columns = lanes * 4; /* of a block */
    const dim3 grid((e.rows + rows - 1) / rows, (e.stride + columns - 1) / columns);
    return gpu_launch(finish_kernel<T>, grid, dim3(THREADS), 0, stream, e, sums, splits, lanes);
}

cudaError_t conv_finish_launch(gpu_type type, const epilogue &e, const float *sums, uint32_t splits,
                               cudaStream_t stream) {
    switch (type) {
    case GPU_F32:
    case GPU_TF32:
        return launch<float>(e, sums, splits, stream);
    case GPU_BF16:
        return launch<bf16>(e, sums, splits, stream);
    case GPU_F16:
        return launch<half>(e, sums, splits, stream);
    }
    return cudaErrorInvalidValue;
}
