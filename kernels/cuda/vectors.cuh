/*
 * vectors.cuh - channels as vectors, for the kernels that only move and add values: one thread, one vector.
 *
 * A value's row has gpu_stride(channels) elements, a multiple of 8 or exactly 4, so that rows are whole vectors of 16
 * bytes (8 of 16-bit types where the stride is 4), aligned to their size. tf32 is fp32 here: nothing is multiplied.
 * Must not know: any op.
 */
#ifndef COAR_KERNELS_CUDA_VECTORS_CUH
#define COAR_KERNELS_CUDA_VECTORS_CUH

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/kernels.h"

/* Threads of a block: eight warps hide latency at any register count up to 64, and a kernel has more
 * only for work of its own beside the moving. */
constexpr uint32_t VECTOR_THREADS = 256;

template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH) channel_vector {
    using element = T;
    static constexpr int width = WIDTH;
    T at[WIDTH];
};

/* The vector at `index` of a value, in one load or store. */
template <class V> GPU_INLINE V load_vector(const void *value, size_t index) {
    return static_cast<const V *>(value)[index];
}
template <class V> GPU_INLINE void store_vector(void *value, size_t index, V vector) {
    static_cast<V *>(value)[index] = vector;
}

/* The gradient at `index` becomes g, or that more; fp32 sums, rounded once. */
template <class V> GPU_INLINE void store_gradient(void *dx, size_t index, float (&g)[V::width], bool add) {
    V out;
    if (add) {
        const V there = load_vector<V>(dx, index);
#pragma unroll
        for (int i = 0; i < V::width; i++) g[i] = __fadd_rn(to_float(there.at[i]), g[i]);
    }
#pragma unroll
    for (int i = 0; i < V::width; i++) out.at[i] = from_float<typename V::element>(g[i]);
    store_vector(dx, index, out);
}

/* out[i] = row[first + i] where that is below `count`, else 0. Rows of fp32 parameters are not padded: they are read as
 * vectors only where every row of `count` is a whole number of them. */
template <int WIDTH> GPU_INLINE void load_floats(const float *row, uint32_t first, uint32_t count, float out[WIDTH]) {
    using V = channel_vector<float, 4>;
    if (count % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 4) {
            V part = {};
            if (first + i < count) part = load_vector<V>(row + first + i, 0);
#pragma unroll
            for (int k = 0; k < 4; k++) out[i + k] = part.at[k];
        }
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) out[i] = first + i < count ? row[first + i] : 0;
    }
}

/* Returns launch(V{}) with the vector type V of values of this type and these channels. */
template <class F> cudaError_t with_vectors(gpu_type type, uint32_t channels, F launch) {
    const bool narrow = gpu_stride(channels) == 4;
    switch (type) {
    case GPU_F32:
    case GPU_TF32:
        return launch(channel_vector<float, 4>{});
    case GPU_BF16:
        return narrow ? launch(channel_vector<bf16, 4>{}) : launch(channel_vector<bf16, 8>{});
    case GPU_F16:
        return narrow ? launch(channel_vector<half, 4>{}) : launch(channel_vector<half, 8>{});
    }
    return cudaErrorInvalidValue;
}

/* Items of a launch are numbered in 32 bits, because 64-bit divisions would cost more than the memory they point at:
 * values of 64 GiB and more are refused. */
static inline bool items_fit(size_t rows, uint32_t vectors) {
    return rows <= (UINT32_MAX - VECTOR_THREADS) / (vectors ? vectors : 1);
}

static inline uint32_t blocks_of(size_t items, uint32_t per_block) {
    return (uint32_t)((items + per_block - 1) / per_block);
}

/* One thread for each vector V of rows x channels: kernel(arguments..., vectors of a row, items). */
template <class V, class... P, class... A>
cudaError_t launch_items(void (*kernel)(P...), size_t rows, uint32_t channels, cudaStream_t stream, A... arguments) {
    const uint32_t vectors = gpu_stride(channels) / V::width;
    if (!items_fit(rows, vectors)) return cudaErrorInvalidValue;
    const uint32_t items = (uint32_t)rows * vectors;
    return gpu_launch(kernel, dim3(blocks_of(items, VECTOR_THREADS)), dim3(VECTOR_THREADS), 0, stream, arguments...,
                      vectors, items);
}

#endif
