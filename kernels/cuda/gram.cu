/*
 * gram.cu - the integer half of a fit: common bits of bit vectors, sums of fixed-point outputs over their bits, and
 * the bits as numbers. All sums are exact, so neither blocking nor order shows in a bit of the results.
 *
 *   gram[j][k]  = sum over w of popcount(bits[j][w] & bits[k][w])                         int32, symmetric
 *   cross[j][z] = sum over the bits i of vector j of fixed[i][z]                          int64
 *
 *   rows[j][i]  = bit i of vector j, for products with dense matrices                     double
 *
 * bits [count][words], gram [count][count], fixed [32 words][examples], cross [count][examples], rows [count][length].
 *
 * Gram. A block has a GRAM_TILE x GRAM_TILE tile on or above the diagonal and also writes its mirror image; a thread
 * has 4 x 4 entries and reads four words of each of its 8 vectors at a time: 8 shared loads for 64 popcounts. Two
 * stages of GRAM_WORDS words are copied in turn (cp.async). Rows are GRAM_WORDS + 4 words apart in shared memory, so
 * that the 16-byte loads of eight lanes hit all 32 banks once. Shared memory 36 KiB; registers 80 (sm_80).
 * Why popcount and not tensor cores: an SM counts 16 words a cycle, 2.4e12 a second on an A100 and 3.7e12 on an
 * H100 (132 SMs, 1.75 GHz). ResNet-50's fit (22,720 components, 100,000 masks) is 22,720^2 / 2 * 3,125 = 8.1e11
 * words: 0.33 s and 0.22 s, once, beside a Cholesky factor of 3.9e12 double flops. int8 mma (624 Tops on an A100, 64
 * operations a word) would need 0.08 s at its peak and eight times the shared memory traffic for bits expanded to
 * bytes. mma on bits (and.popc) would need 0.01 s, but from sm_100 on it is no instruction any more: nvcc 13 puts a
 * subroutine in its place. Neither gain is worth a second exact kernel.
 * Bytes: a tile reads 2 * 64 * words * 4, 0.125 for each word counted: 300 GB/s from L2 on an A100. Bound by popcounts.
 *
 * Cross. Four masks at a time: a table holds the 16 sums that subsets of four rows of `fixed` can have, and a vector
 * adds the entry that four of its bits select: a quarter of the additions ("four Russians"). A block has 128 vectors
 * x 32 examples; lanes are examples, so a warp's 8-byte loads of one entry are contiguous; warp w makes the table of
 * masks 4 w .. 4 w + 3 of every 32 and holds 16 vectors' sums in registers. Shared memory 32 KiB (8 tables x 16
 * entries x 32 lanes x 8 bytes); registers 76. Work: count * 32 words * examples / 4 additions of 64 bits, about six
 * instructions and 256 bytes of shared memory a warp each. ResNet-50's 22,720 vectors x 100,000 masks x 1,024
 * examples: 5.8e11 additions, 1.8e10 a warp, at 3 cycles each on 108 SMs of 1.41 GHz: 0.36 s on an A100. Device
 * memory: `fixed` is read once for each 128 vectors, 0.82 GB * 178 = 146 GB in 0.36 s from L2. Bound by instructions.
 *
 * Rows. One thread per bit; 8 bytes written for each. Registers 12. 128 vectors of 22,720 bits: 23 MB, 11 us at 2.04
 * TB/s, before a product with 1,024 columns of 6.0e9 flops that takes 0.3 ms at the A100's 19.5 Tflop/s.
 */
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/kernels.h"

static uint32_t blocks_for(uint32_t count, uint32_t each) {
    return count / each + (count % each != 0);
}

/* --------------------------------------------------------------------------------------------------- gram */

constexpr int GRAM_THREADS = 256, GRAM_TILE = 64, GRAM_WORDS = 32, GRAM_PITCH = GRAM_WORDS + 4;

struct alignas(16) gram_stage {
    uint32_t row[GRAM_TILE][GRAM_PITCH], column[GRAM_TILE][GRAM_PITCH];
};

/* Starts copying words w0 .. w0 + GRAM_WORDS - 1 of the vectors from `first`; what does not exist becomes zeros. */
template <int BYTES>
static GPU_INLINE void load_bits(uint32_t (*tile)[GRAM_PITCH], const uint32_t *bits, uint32_t first, uint32_t count,
                                 uint32_t w0, uint32_t words) {
    constexpr int COPY = BYTES / 4, COPIES = GRAM_WORDS / COPY;
    for (int i = threadIdx.x; i < GRAM_TILE * COPIES; i += GRAM_THREADS) {
        const uint32_t r = i / COPIES, w = i % COPIES * COPY;
        const bool there = first + r < count && w0 + w < words;
        cp_async<BYTES>(&tile[r][w], there ? bits + (size_t)(first + r) * words + w0 + w : bits, there ? BYTES : 0);
    }
}

template <int BYTES>
static GPU_INLINE void load_stage(gram_stage *stage, const uint32_t *bits, uint32_t count, uint32_t w0,
                                  uint32_t words) {
    if (w0 < words) {
        load_bits<BYTES>(stage->row, bits, blockIdx.y * GRAM_TILE, count, w0, words);
        load_bits<BYTES>(stage->column, bits, blockIdx.x * GRAM_TILE, count, w0, words);
    }
    cp_async_commit();
}

struct alignas(16) four_words {
    uint32_t word[4];
};

/* sums[i][k] += common bits of row 4 ty + i and column tx + 16 k over the stage's words. */
static GPU_INLINE void count_stage(const gram_stage *stage, uint32_t tx, uint32_t ty, int32_t sums[4][4]) {
#pragma unroll 2
    for (int w = 0; w < GRAM_WORDS; w += 4) {
        four_words a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = *reinterpret_cast<const four_words *>(&stage->row[4 * ty + i][w]);
            b[i] = *reinterpret_cast<const four_words *>(&stage->column[tx + 16 * i][w]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int v = 0; v < 4; v++) sums[i][k] += __popc(a[i].word[v] & b[k].word[v]);
    }
}

/* grid (column tiles, row tiles); BYTES: width of the copies, 16 where rows of `words` words are aligned to it */
template <int BYTES>
static __global__ void __launch_bounds__(GRAM_THREADS)
    gram_kernel(const uint32_t *bits, uint32_t count, uint32_t words, int32_t *gram) {
    GPU_SHARED(gram_stage, stage, [2]);
    if (blockIdx.x < blockIdx.y) return; /* the mirror image of a tile above the diagonal */
    const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int32_t sums[4][4] = {};
    load_stage<BYTES>(&stage[0], bits, count, 0, words);
    for (uint32_t w0 = 0, turn = 0; w0 < words; w0 += GRAM_WORDS, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* this stage is there, and nobody reads the other one any more */
        load_stage<BYTES>(&stage[turn ^ 1], bits, count, w0 + GRAM_WORDS, words);
        count_stage(&stage[turn], tx, ty, sums);
    }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) {
            const uint32_t row = blockIdx.y * GRAM_TILE + 4 * ty + i, column = blockIdx.x * GRAM_TILE + tx + 16 * k;
            if (row >= count || column >= count) continue;
            gram[(size_t)row * count + column] = sums[i][k];
            if (blockIdx.x != blockIdx.y) gram[(size_t)column * count + row] = sums[i][k];
        }
}

extern "C" cudaError_t gpu_gram_launch(const uint32_t *bits, uint32_t count, uint32_t words, int32_t *gram,
                                       cudaStream_t stream) {
    const uint32_t tiles = blocks_for(count, GRAM_TILE);
    if (!count || !words || words >= UINT32_MAX / 32 || tiles > 65535) return cudaErrorInvalidValue;
    return gpu_launch(words % 4 ? gram_kernel<4> : gram_kernel<16>, dim3(tiles, tiles), dim3(GRAM_THREADS), 0, stream,
                      bits, count, words, gram);
}

/* -------------------------------------------------------------------------------------------------- cross */

constexpr int CROSS_WARPS = 8, CROSS_EACH = 16, CROSS_LANES = 32;

/* table[s] = sum of those of four masks' values that are in subset s. Unsigned: rows behind the last mask hold
 * anything, and what they make of entries that no vector selects may wrap. */
static GPU_INLINE void make_table(const uint64_t value[4], uint64_t (*table)[CROSS_LANES], uint32_t lane) {
    uint64_t sum[16] = {};
#pragma unroll
    for (int s = 1; s < 16; s++) sum[s] = sum[s & (s - 1)] + value[s & 1 ? 0 : s & 2 ? 1 : s & 4 ? 2 : 3];
#pragma unroll
    for (int s = 0; s < 16; s++) table[s][lane] = sum[s];
}

/* grid (tiles of vectors, tiles of examples), one word of 32 masks a round */
static __global__ void __launch_bounds__(CROSS_WARPS * 32)
    cross_kernel(const uint32_t *bits, uint32_t count, uint32_t words, const int64_t *fixed, uint32_t examples,
                 int64_t *cross) {
    GPU_SHARED(uint64_t, table, [CROSS_WARPS][16][CROSS_LANES]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, z = blockIdx.y * CROSS_LANES + lane;
    const uint32_t first = (blockIdx.x * CROSS_WARPS + warp) * CROSS_EACH, mine = first + lane % CROSS_EACH;
    uint64_t sums[CROSS_EACH] = {};
    for (uint32_t w = 0; w < words; w++) {
        uint64_t value[4];
#pragma unroll
        for (uint32_t b = 0; b < 4; b++)
            value[b] = z < examples ? (uint64_t)fixed[((size_t)w * 32 + warp * 4 + b) * examples + z] : 0;
        make_table(value, table[warp], lane);
        const uint32_t word = mine < count ? bits[(size_t)mine * words + w] : 0;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < CROSS_EACH; j++) {
            const uint32_t chosen = __shfl_sync(0xffffffffu, word, j);
#pragma unroll
            for (int t = 0; t < CROSS_WARPS; t++) sums[j] += table[t][chosen >> 4 * t & 15][lane];
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < CROSS_EACH; j++)
        if (first + j < count && z < examples) cross[(size_t)(first + j) * examples + z] = (int64_t)sums[j];
}

extern "C" cudaError_t gpu_cross_launch(const uint32_t *bits, uint32_t count, uint32_t words, const int64_t *fixed,
                                        uint32_t examples, int64_t *cross, cudaStream_t stream) {
    const uint32_t tiles = blocks_for(examples, CROSS_LANES);
    if (!count || !words || words >= UINT32_MAX / 32 || !examples || tiles > 65535) return cudaErrorInvalidValue;
    return gpu_launch(cross_kernel, dim3(blocks_for(count, CROSS_WARPS * CROSS_EACH), tiles), dim3(CROSS_WARPS * 32), 0,
                      stream, bits, count, words, fixed, examples, cross);
}

/* --------------------------------------------------------------------------------------------------- rows */

constexpr uint32_t EXPAND_THREADS = 256;

/* grid (tiles of bits, vectors) */
static __global__ void __launch_bounds__(EXPAND_THREADS)
    expand_bits_kernel(const uint32_t *bits, uint32_t words, uint32_t length, double *rows) {
    const uint32_t i = blockIdx.x * EXPAND_THREADS + threadIdx.x;
    if (i < length) rows[(size_t)blockIdx.y * length + i] = bits[(size_t)blockIdx.y * words + i / 32] >> i % 32 & 1;
}

extern "C" cudaError_t gpu_expand_bits_launch(const uint32_t *bits, uint32_t count, uint32_t words, uint32_t length,
                                              double *rows, cudaStream_t stream) {
    if (!count || count > 65535 || !length || blocks_for(length, 32) > words || length > UINT32_MAX - EXPAND_THREADS)
        return cudaErrorInvalidValue;
    return gpu_launch(expand_bits_kernel, dim3(blocks_for(length, EXPAND_THREADS), count), dim3(EXPAND_THREADS), 0,
                      stream, bits, words, length, rows);
}
