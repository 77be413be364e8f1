/*
 * attention_plain.cuh - what the plain kernels of attention share, forward and backward: fp32 products of rows in
 * shared memory, one multiply-add at a time and in order.
 *
 * Rows are `pitch` elements apart, the width rounded up to a multiple of 4 that is odd in vectors (attention_pitch):
 * lanes read different rows at one channel. Must not know: softmax.
 */
#ifndef COAR_KERNELS_CUDA_ATTENTION_PLAIN_CUH
#define COAR_KERNELS_CUDA_ATTENTION_PLAIN_CUH

#include "kernels/cuda/attention.cuh"

/* Rows of a warp, and rows of the other side in a tile: one for each lane to score. */
constexpr uint32_t ROWS = 4, KEYS = 32;
constexpr uint32_t OWNED = ATTENTION_WIDTH / 32; /* channels of the result in one lane */

using float_vector = channel_vector<float, 4>;

/* Copies rows [first, first + rows) of a head to fp32 rows of `pitch` elements, zeros behind T and width. A warp a
 * row. */
template <class T>
static GPU_INLINE void load_rows(const void *x, const gpu_attention &a, const attention_head &h, uint32_t first,
                                 uint32_t rows, uint32_t pitch, float *to) {
    for (uint32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
        const T *from = static_cast<const T *>(x) + h.first + (first + row) * h.stride;
#pragma unroll 2 /* more at once would take registers from the sums, which spill on sm_100 then */
        for (uint32_t c = threadIdx.x % 32; c < pitch; c += 32)
            to[row * pitch + c] = first + row < a.tokens && c < a.width ? to_float(from[c]) : 0;
    }
}

/* s[r] = row r of q . the lane's key */
static GPU_INLINE void score_key(const float *q, const float *key, uint32_t width, uint32_t pitch, float s[ROWS]) {
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) s[r] = 0;
    for (uint32_t c = 0; c < width; c += 4) {
        const float_vector k = load_vector<float_vector>(key + c, 0);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            const float_vector x = load_vector<float_vector>(q + r * pitch + c, 0);
#pragma unroll
            for (int i = 0; i < 4; i++) s[r] = fmaf(x.at[i], k.at[i], s[r]);
        }
    }
}

/* o[r][j] += sum over the tile's keys of weights[r][key] v[key][lane + 32 j] */
static GPU_INLINE void mix_values(const float *weights, const float *v, uint32_t width, uint32_t pitch, uint32_t lane,
                                  float o[ROWS][OWNED]) {
    for (uint32_t key = 0; key < KEYS; key += 4) {
        float_vector p[ROWS];
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) p[r] = load_vector<float_vector>(weights + r * KEYS + key, 0);
#pragma unroll
        for (uint32_t j = 0; j < OWNED; j++) {
            const uint32_t c = lane + 32 * j;
            if (c >= width) break;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const float value = v[(key + i) * pitch + c];
#pragma unroll
                for (uint32_t r = 0; r < ROWS; r++) o[r][j] = fmaf(p[r].at[i], value, o[r][j]);
            }
        }
    }
}

static inline uint32_t attention_pitch(uint32_t width) {
    return (blocks_of(width, 4) | 1) * 4;
}

/* Warps of a block for `tokens` rows, at most `most`: the blocks of a head have equally many. */
static inline uint32_t attention_warps(uint32_t tokens, uint32_t most) {
    const uint32_t groups = blocks_of(tokens, ROWS);
    return blocks_of(groups, blocks_of(groups, most));
}

#endif
