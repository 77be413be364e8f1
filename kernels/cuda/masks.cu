/*
 * masks.cu - what each slot keeps: masks expanded to one fp32 number for every masked channel.
 *
 *   keep[s][r] = k(s, component[r])
 *   bits     k(s, j) = bit j of packed mask s ? 1 : gain
 *   philox   k(s, j) = word j % 4 of philox(counter = (j / 4, mask, stream), key = seed) < threshold ? gain : 1,
 *            mask = *first + s: the Bernoulli sampler of src/core/sampler.c, bit for bit
 *   values   k(s, j) = values[s][j]
 *
 * keep [slots][rows], component [rows] < n. One thread per ROWS neighbouring rows of a slot; grid (rows, slots). Rows
 * that follow each other mostly belong to components that do, or to the same one (heads): four share one Philox block.
 *
 * No shared memory. Registers (sm_80): bits 21, philox 22, values 22; no spills.
 * Bytes: 4 written a row and slot; component is read once a slot, from L2. Integer operations of Philox: ten rounds
 * of two 32x32-bit products, about 120 a block of four components.
 * Roofline: ViT-B/16's 82,944 rows, 64 slots: 21 MB, 10 us at 2.04 TB/s (A100 80 GB), 6 us at 3.35 TB/s (H100);
 * philox adds 1.6e8 operations: 16 us at 9.7e12/s (A100), 11 us at 1.5e13/s (H100). Uploading packed bits (0.66 MB)
 * takes 26 us over 25 GB/s, but beside other work.
 */
#include "kernels/cuda/vectors.cuh"

constexpr uint32_t ROWS = 4;
using row_vector = channel_vector<float, ROWS>;

/* Writes the rows first .. first + ROWS - 1 of a slot that exist; in one store where every slot's rows are aligned to
 * it. */
static GPU_INLINE void store_rows(float *slot, uint32_t first, uint32_t rows, row_vector keep) {
    if (rows % ROWS == 0) {
        store_vector(slot, first / ROWS, keep);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < ROWS; i++)
            if (first + i < rows) slot[first + i] = keep.at[i];
    }
}

/* The same for all three: thread x of block (x, slot) has the rows from `first`; keep_of(component) gives each one's
 * k. */
template <class F> static GPU_INLINE void expand(const uint32_t *component, uint32_t rows, float *keep, F keep_of) {
    const uint32_t first = (blockIdx.x * VECTOR_THREADS + threadIdx.x) * ROWS;
    if (first >= rows) return;
    row_vector out;
#pragma unroll
    for (uint32_t i = 0; i < ROWS; i++) out.at[i] = first + i < rows ? keep_of(component[first + i]) : 0;
    store_rows(keep + (size_t)blockIdx.y * rows, first, rows, out);
}

template <class K, class... A>
static cudaError_t expand_launch(K kernel, uint32_t rows, uint32_t slots, cudaStream_t stream, A... arguments) {
    if (!rows || !slots || slots > 65535 || rows > UINT32_MAX - VECTOR_THREADS * ROWS) return cudaErrorInvalidValue;
    return gpu_launch(kernel, dim3(blocks_of(rows, VECTOR_THREADS * ROWS), slots), dim3(VECTOR_THREADS), 0, stream,
                      arguments...);
}

/* --------------------------------------------------------------------------------------------------- bits */

static __global__ void __launch_bounds__(VECTOR_THREADS)
    keep_from_bits_kernel(const uint8_t *bits, uint32_t bytes, float gain, const uint32_t *component, uint32_t rows,
                          float *keep) {
    const uint8_t *mask = bits + (size_t)blockIdx.y * bytes;
    expand(component, rows, keep, [&](uint32_t j) { return mask[j >> 3] >> (j & 7) & 1 ? 1 : gain; });
}

extern "C" cudaError_t gpu_keep_from_bits_launch(const uint8_t *bits, uint32_t bytes, float gain,
                                                 const uint32_t *component, uint32_t rows, uint32_t slots, float *keep,
                                                 cudaStream_t stream) {
    return expand_launch(keep_from_bits_kernel, rows, slots, stream, bits, bytes, gain, component, rows, keep);
}

/* ------------------------------------------------------------------------------------------------- philox */

/* The four words of a block: ten rounds of Salmon, Moraes, Dror, Shaw (SC 2011), section 3.3, constants of table 2. */
struct philox_block {
    uint32_t word[4];
};

static GPU_INLINE philox_block philox(uint32_t block, uint64_t mask, uint32_t stream, uint64_t seed) {
    uint32_t c0 = block, c1 = (uint32_t)mask, c2 = (uint32_t)(mask >> 32), c3 = stream;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

static __global__ void __launch_bounds__(VECTOR_THREADS)
    keep_from_philox_kernel(uint64_t seed, uint32_t stream, const uint64_t *first, uint64_t threshold, float gain,
                            const uint32_t *component, uint32_t rows, float *keep) {
    const uint64_t mask = *first + blockIdx.y;
    uint32_t made = UINT32_MAX; /* no component's block: that is at most UINT32_MAX / 4 */
    philox_block block = {};
    expand(component, rows, keep, [&](uint32_t j) {
        if (j / 4 != made) {
            made = j / 4;
            block = philox(made, mask, stream, seed);
        }
        /* by selection: an index known only at run time would put the words into local memory */
        const uint32_t even = j & 2 ? block.word[2] : block.word[0], odd = j & 2 ? block.word[3] : block.word[1];
        return (j & 1 ? odd : even) < threshold ? gain : 1;
    });
}

extern "C" cudaError_t gpu_keep_from_philox_launch(uint64_t seed, uint32_t philox_stream, const uint64_t *first,
                                                   uint64_t threshold, float gain, const uint32_t *component,
                                                   uint32_t rows, uint32_t slots, float *keep, cudaStream_t stream) {
    return expand_launch(keep_from_philox_kernel, rows, slots, stream, seed, philox_stream, first, threshold, gain,
                         component, rows, keep);
}

/* ------------------------------------------------------------------------------------------------- values */

static __global__ void __launch_bounds__(VECTOR_THREADS)
    keep_from_values_kernel(const float *values, uint32_t components, const uint32_t *component, uint32_t rows,
                            float *keep) {
    const float *mask = values + (size_t)blockIdx.y * components;
    expand(component, rows, keep, [&](uint32_t j) { return mask[j]; });
}

extern "C" cudaError_t gpu_keep_from_values_launch(const float *values, uint32_t components, const uint32_t *component,
                                                   uint32_t rows, uint32_t slots, float *keep, cudaStream_t stream) {
    return expand_launch(keep_from_values_kernel, rows, slots, stream, values, components, component, rows, keep);
}
