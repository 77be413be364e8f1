/*
 * attention_mma.cuh - what the tensor-core kernels of attention share, forward and backward: rows of operands in shared
 * memory, and rows of results on their way out.
 *
 * Must not know: what is multiplied, or softmax.
 */
#ifndef COAR_KERNELS_CUDA_ATTENTION_MMA_CUH
#define COAR_KERNELS_CUDA_ATTENTION_MMA_CUH

#include "kernels/cuda/attention.cuh"

/* Rows of a warp (mma's), and columns of scores that it holds at once: more would not fit in registers. */
constexpr int WARP_ROWS = 16, SPAN = 32;

/* ------------------------------------------------------------------------------------------- shared memory */

/* Byte offset of a 16-byte vector in a tile. ldmatrix reads 8 rows at one vector column, which must lie at 8 different
 * places of a 128-byte line. Rows are VECTORS vectors apart, so that by themselves they take turns at 8 / span places
 * only: within groups of `span` columns the order is changed, by XOR, from one turn to the next. */
template <int VECTORS> static GPU_INLINE uint32_t tile_offset(uint32_t row, uint32_t vector) {
    constexpr uint32_t span = VECTORS % 8 == 0 ? 8 : VECTORS % 4 == 0 ? 4 : 2;
    const uint32_t turned = (vector % span) ^ (row / (8 / span) % span);
    return (row * VECTORS + vector / span * span + turned) * 16;
}

/* Where a lane points ldmatrix for 16 keys and two vector columns: matrices 0 and 1 are keys 0-7 and 8-15 of the first
 * column, 2 and 3 of the second. The same for K and V, so that a thread holds one set of addresses. */
template <int VECTORS> static GPU_INLINE uint32_t matrices_offset(uint32_t group, uint32_t columns, uint32_t lane) {
    return tile_offset<VECTORS>(group * 16 + lane % 16, columns * 2 + lane / 16);
}

/* ------------------------------------------------------------------------------------------------- results */

/* Writes channels c, c + 1 of n-tiles n and n + 1 (x[tile][2]) in one row. Lanes swap words in pairs, so that a lane
 * has 8 contiguous bytes and four lanes a 32-byte sector. All lanes of a warp must come here. */
template <class T>
static GPU_INLINE void store_tiles(T *row, const float (*x)[2], uint32_t n, uint32_t lane, bool inside,
                                   uint32_t width) {
    using words = channel_vector<uint32_t, 2>;
    const bool odd = lane % 2;
    const uint32_t low = pack2<T>(x[0][0], x[0][1]), high = pack2<T>(x[1][0], x[1][1]);
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
    const uint32_t channel = n * 8 + odd * 8 + lane % 4 / 2 * 4;
    if (inside && channel < width)
        *reinterpret_cast<words *>(row + channel) = odd ? words{{other, high}} : words{{low, other}};
}
static GPU_INLINE void store_tiles(tf32 *row, const float (*x)[2], uint32_t n, uint32_t lane, bool inside,
                                   uint32_t width) {
    using words = channel_vector<float, 2>;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t channel = (n + i) * 8 + lane % 4 * 2;
        if (inside && channel < width) *reinterpret_cast<words *>(row + channel) = {{x[i][0], x[i][1]}};
    }
}

#endif
