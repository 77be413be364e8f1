/*
 * attention_mma.cu - fused attention on tensor cores (FlashAttention-2: Dao 2023, arXiv 2307.08691, algorithm 1).
 *
 *   y[p][t][h] = out(sum over s of softmax_s(q[p][t][h] . k[p][s][h] / sqrt(width)) v[p][s][h])
 *
 * q, k, v, y [pairs][tokens][heads * width], 16-bit or tf32; width a multiple of 8 up to 128. The tokens x tokens
 * scores exist in registers only, SPAN = 32 columns at a time.
 *
 * Block: up to 8 warps of 16 query rows each (6 where registers are scarce), of one head of one pair; the row blocks
 * of a head have equally many (T = 197: 2 blocks of 7 warps). Keys and values come in tiles of 64 tokens (tf32: 32),
 * three tiles deep by cp.async; every warp reads all of a tile. For each SPAN of keys, S = Q K' (fp32, mma), then the
 * online softmax:
 *   m' = max(m, max S), P = exp(S - m'), l' = l exp(m - m') + sum P, O' = O exp(m - m') + P V (mma),
 * in base 2 and fp32: m is kept times scale = log2(e) / sqrt(width), and S scale - m is one multiply-add, so no score
 * is rounded after scaling and none overflows. P is rounded to the operand's type and l adds the rounded values, so
 * that the weights which are applied add up to one: a V that is constant over the keys (an ablated row's bias) comes
 * out unchanged but for the fp32 rounding of the two sums. P goes from accumulators to operands in registers. At the
 * end y = out(O / l). The order of all sums depends on T and width only.
 *
 * Causal: a block ends with the tile of its last query, a warp with the span of its own last one. All keys of the spans
 * in front of that are seen by all of its queries: 16 rows from a multiple of 16 on meet the diagonal in one span of 32
 * keys.
 *
 * Shared memory: 3 x (K + V), rows of WIDTH elements (width rounded up to 32, 64, 80 in 16 bits, 96 or 128, zeros
 * behind), 16-byte vectors swizzled by XOR so that neither ldmatrix nor the 4-byte reads of tf32 values meet a bank
 * twice. 768 WIDTH bytes = 24, 48, 60, 72, 96 KiB; less where T has fewer than three tiles. Registers by WIDTH (sm_80
 * to sm_120), no spills: 16 bits 87 to 99, 120 to 128, 141 to 146, 158 to 165, 194 to 204; tf32 (no 80) 101 to 128, 134
 * to 167, 172 to 228, 211 to 254.
 *
 * Flops 4 T^2 width, bytes 4 T width size, both per head and pair (a head's K and V are read from L2 by each of its row
 * blocks). ViT-B/16, T = 197, 12 heads of 64, 256 pairs, bf16, A100 (312 TFLOP/s, 2.04 TB/s): 30.5 GFLOP, 0.098 ms
 * (0.109 with rows and keys rounded up to 16), 310 MB, 0.152 ms: bound by memory. H100 (989 TFLOP/s, 3.35 TB/s): 0.031
 * and 0.093 ms. tf32: twice the bytes, and twice the time of the products.
 */
#include "kernels/cuda/attention_mma.cuh"

/* How a head of WIDTH stored channels is cut up. The same in bytes for all types: a step of mma takes 32 bytes of a row
 * (16 channels of 16 bits, 8 of tf32), and a tile has as many bytes with 64 keys of 16 bits as with 32 of tf32. */
template <class T, int WIDTH> struct tiling {
    static constexpr int KEYS = 128 / sizeof(T);
    static constexpr int VECTORS = WIDTH * sizeof(T) / 16; /* of 16 bytes, in a row of K or V */
    static constexpr int STEPS = VECTORS / 2;
    static constexpr int TILE_BYTES = KEYS * VECTORS * 16; /* of K; V lies behind it */
    static constexpr int STAGES = 3;
    static constexpr int VECTOR = 16 / sizeof(T); /* elements */
    /* Registers that a thread holds all along: O, Q and one step's S.
     * 8 warps x 2 blocks on a multiprocessor leave it 128, 6 x 2 leave 168, 8 x 1 the most there is, 255. */
    static constexpr int HELD = WIDTH / 2 + STEPS * 4 + SPAN / 2;
    static constexpr int BLOCKS = HELD <= 104 ? 2 : 1, WARPS = HELD > 64 && HELD <= 104 ? 6 : 8;
};

/* What a lane holds of its warp's queries: parts of rows lane / 4 and lane / 4 + 8, in mma's layouts (gpu.h). */
template <class T, int WIDTH> struct query_rows {
    uint32_t lane, first;                   /* first: the warp's first query */
    uint32_t q[tiling<T, WIDTH>::STEPS][4]; /* operands */
    float o[WIDTH / 8][4];                  /* accumulators, by n-tile of 8 channels */
    float largest[2];                       /* running maximum of a row's scores, times scale */
    float sum[2];                           /* running sum of the weights in the lane's own columns */
};

/* ------------------------------------------------------------------------------------------- shared memory */

/* Begins to copy the KEYS tokens from `first` on of K and V; what lies behind T or width becomes zeros, so that
 * weights of zero meet no NaN. */
template <class T, int WIDTH>
static GPU_INLINE void load_tile(const gpu_attention &a, const attention_head &h, uint32_t first, unsigned char *tile) {
    using shape = tiling<T, WIDTH>;
    const T *k = static_cast<const T *>(a.k) + h.first, *v = static_cast<const T *>(a.v) + h.first;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < shape::KEYS * shape::VECTORS; i += blockDim.x) {
        const uint32_t row = i / shape::VECTORS, vector = i % shape::VECTORS;
        const bool inside = first + row < a.tokens && vector * shape::VECTOR < a.width;
        const uint32_t from = inside ? (first + row) * h.stride + vector * shape::VECTOR : 0;
        unsigned char *to = tile + tile_offset<shape::VECTORS>(row, vector);
        cp_async<16>(to, k + from, inside ? 16 : 0);
        cp_async<16>(to + shape::TILE_BYTES, v + from, inside ? 16 : 0);
    }
}

/* Rounds to tf32, in place, what this thread has copied of a tile. Between the wait, which shows a thread its own
 * copies, and the barrier, which shows them to the others: each element once, not once in every warp that reads it. */
template <int WIDTH> static GPU_INLINE void round_tile(unsigned char *tile) {
    using shape = tiling<tf32, WIDTH>;
    using words = channel_vector<float, 4>;
    for (uint32_t i = threadIdx.x; i < shape::KEYS * shape::VECTORS; i += blockDim.x) {
        unsigned char *at = tile + tile_offset<shape::VECTORS>(i / shape::VECTORS, i % shape::VECTORS);
#pragma unroll
        for (int part = 0; part < 2; part++) {
            words *to = reinterpret_cast<words *>(at + part * shape::TILE_BYTES), x = *to;
#pragma unroll
            for (int e = 0; e < 4; e++) x.at[e] = __uint_as_float(round_tf32(x.at[e]));
            *to = x;
        }
    }
}

/* ------------------------------------------------------------------------------------------------ products */

/* Q for all steps: words t and t + 4 of a row, zeros behind T and width. Read straight from memory: each word is
 * needed by one lane only. */
template <class T, int WIDTH>
static GPU_INLINE void load_queries(const gpu_attention &a, const attention_head &h, query_rows<T, WIDTH> &w) {
    const uint32_t words = a.width * sizeof(T) / 4;
#pragma unroll
    for (int step = 0; step < tiling<T, WIDTH>::STEPS; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t row = w.first + w.lane / 4 + i % 2 * 8, word = step * 8 + w.lane % 4 + i / 2 * 4;
            const T *from = static_cast<const T *>(a.q) + h.first + (size_t)row * h.stride;
            const bool inside = row < a.tokens && word < words;
            const uint32_t value = inside ? reinterpret_cast<const uint32_t *>(from)[word] : 0;
            w.q[step][i] = sizeof(T) == 4 ? round_tf32(__uint_as_float(value)) : value;
        }
}

/* s[SPAN / 8][4] = Q K' in the layout of mma's accumulators: s[n] holds keys 8 n + 2 t and the next. When PARTIAL,
 * groups of 16 keys behind `keys` are left zero. */
template <class T, int WIDTH, bool PARTIAL>
static GPU_INLINE void score(const query_rows<T, WIDTH> &w, const unsigned char *k, uint32_t keys, float (*s)[4]) {
    using shape = tiling<T, WIDTH>;
#pragma unroll
    for (int n = 0; n < SPAN / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int step = 0; step < shape::STEPS; step++)
#pragma unroll
        for (int group = 0; group < SPAN / 16; group++) {
            if (PARTIAL && group * 16 >= (int)keys) continue;
            uint32_t b[4];
            ldmatrix_x4(b, k + matrices_offset<shape::VECTORS>(group, step, w.lane));
            const uint32_t even[2] = {b[0], b[2]}, odd[2] = {b[1], b[3]};
            mma(s[group * 2], w.q[step], even, T{});
            mma(s[group * 2 + 1], w.q[step], odd, T{});
        }
}

/* o += P V for 16 keys of 16-bit types, in one step. P = s rounded: accumulators of two n-tiles are the operand's
 * quarters. */
template <class T, int WIDTH>
static GPU_INLINE void mix_group(query_rows<T, WIDTH> &w, const float (*s)[4], const unsigned char *v, uint32_t group) {
    using shape = tiling<T, WIDTH>;
    uint32_t p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p[i] = pack2<T>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]);
        w.sum[i % 2] += to_float(T{(uint16_t)p[i]}) + to_float(T{(uint16_t)(p[i] >> 16)});
    }
#pragma unroll
    for (int n = 0; n < WIDTH / 16; n++) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, v + matrices_offset<shape::VECTORS>(group, n, w.lane));
        mma(w.o[n * 2], p, b, T{});
        mma(w.o[n * 2 + 1], p, b + 2, T{});
    }
}

/* The same for tf32, 8 keys a step. A lane's accumulators are keys 2 t and 2 t + 1, its operand is columns t and t +
 * 4: the sum over keys may run in any order, so columns t and t + 4 are said to be keys 2 t and 2 t + 1, in P and V
 * alike. */
template <int WIDTH>
static GPU_INLINE void mix_group(query_rows<tf32, WIDTH> &w, const float (*s)[4], const unsigned char *v,
                                 uint32_t group) {
    using shape = tiling<tf32, WIDTH>;
    static_assert(shape::VECTORS % 8 == 0, "the row behind an even one has its vectors swapped in pairs: offset ^ 16");
#pragma unroll
    for (int half_group = 0; half_group < 2; half_group++) {
        uint32_t p[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            p[i] = round_tf32(s[half_group][i % 2 * 2 + i / 2]);
            w.sum[i % 2] += __uint_as_float(p[i]);
        }
        const uint32_t row = group * 16 + half_group * 8 + w.lane % 4 * 2, element = w.lane / 4;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            uint32_t b[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t even = tile_offset<shape::VECTORS>(row, n * 2 + element / 4) + element % 4 * 4;
                const uint32_t at = i ? (even ^ 16) + shape::VECTORS * 16 : even;
                b[i] = *reinterpret_cast<const uint32_t *>(v + at);
            }
            mma(w.o[n], p, b, tf32{});
        }
    }
}

/* ------------------------------------------------------------------------------------------------- softmax */

/* The four lanes that share a row. */
static GPU_INLINE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
static GPU_INLINE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* s becomes exp(s - largest so far), and what was summed up before is brought to the new largest. */
template <class T, int WIDTH> static GPU_INLINE void softmax_step(query_rows<T, WIDTH> &w, float scale, float (*s)[4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < SPAN / 8; n++) largest = fmaxf(largest, fmaxf(s[n][r * 2], s[n][r * 2 + 1]));
        largest = fmaxf(w.largest[r], quad_max(largest) * scale);
        const float rescale = fast_exp2(w.largest[r] - largest);
        w.largest[r] = largest;
        w.sum[r] *= rescale;
#pragma unroll
        for (int e = r * 2; e < r * 2 + 2; e++) {
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) w.o[n][e] *= rescale;
#pragma unroll
            for (int n = 0; n < SPAN / 8; n++) s[n][e] = fast_exp2(fmaf(s[n][e], scale, -largest));
        }
    }
}

/* SPAN keys of a tile, all of them unless PARTIAL: then the first `keys`, and the lane's first row sees no more than
 * `seen` of them, its other one 8 more. */
template <bool PARTIAL, class T, int WIDTH>
static GPU_INLINE void attend(query_rows<T, WIDTH> &w, const unsigned char *tile, uint32_t keys, uint32_t seen,
                              float scale) {
    using shape = tiling<T, WIDTH>;
    float s[SPAN / 8][4];
    score<T, WIDTH, PARTIAL>(w, tile, keys, s);
    if (PARTIAL)
#pragma unroll
        for (int n = 0; n < SPAN / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t key = n * 8 + w.lane % 4 * 2 + e % 2;
                if (key >= keys || key >= seen + e / 2 * 8) s[n][e] = -INFINITY;
            }
    softmax_step(w, scale, s);
#pragma unroll
    for (int group = 0; group < SPAN / 16; group++) {
        if (PARTIAL && group * 16 >= (int)keys) continue;
        mix_group(w, s + group * 2, tile + shape::TILE_BYTES, group);
    }
}

/* ------------------------------------------------------------------------------------------------ epilogue */

/* y = out(o / sum) for the warp's rows; and, where they are wanted, the result before the mask and log2 of the sums. */
template <class T, int WIDTH>
static GPU_INLINE void write_rows(const gpu_attention &a, const attention_head &h, const query_rows<T, WIDTH> &w) {
    const attention_mask mask = mask_of_head(a, h);
    const float sum[2] = {quad_sum(w.sum[0]), quad_sum(w.sum[1])}, inverse[2] = {1 / sum[0], 1 / sum[1]};
    const uint32_t row = w.first + w.lane / 4;
    const size_t first = h.first + (size_t)row * h.stride;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
        float x[2][2][2], y[2][2][2]; /* [row][tile][channel] */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t channel = (n + i / 2) * 8 + w.lane % 4 * 2 + i % 2;
            const channel_mask m = channel < a.width ? mask_of_channel(mask, channel) : channel_mask{0, 0};
#pragma unroll
            for (int r = 0; r < 2; r++) {
                x[r][i / 2][i % 2] = w.o[n + i / 2][r * 2 + i % 2] * inverse[r];
                y[r][i / 2][i % 2] = masked(m, x[r][i / 2][i % 2]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const size_t at = first + r * 8 * h.stride;
            const bool inside = row + r * 8 < a.tokens;
            store_tiles(static_cast<T *>(a.y) + at, y[r], n, w.lane, inside, a.width);
            if (a.result) store_tiles(static_cast<T *>(a.result) + at, x[r], n, w.lane, inside, a.width);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++)
        if (a.logsum && w.lane % 4 == 0 && row + r * 8 < a.tokens)
            a.logsum[statistics_of(a, h) + row + r * 8] = w.largest[r] + log2f(sum[r]);
}

/* ------------------------------------------------------------------------------------------------- kernel */

template <class T, int WIDTH> static GPU_INLINE unsigned char *stage_of(unsigned char *stages, uint32_t tile) {
    return stages + tile % tiling<T, WIDTH>::STAGES * 2 * tiling<T, WIDTH>::TILE_BYTES;
}

template <class T, int WIDTH>
static __global__ void __launch_bounds__(tiling<T, WIDTH>::WARPS * 32, tiling<T, WIDTH>::BLOCKS)
    attention_mma_kernel(attention_job job) {
    using shape = tiling<T, WIDTH>;
    constexpr int SPAN_BYTES = SPAN * shape::VECTORS * 16;
    GPU_DYNAMIC_SHARED(unsigned char, stages);
    const gpu_attention &a = job.a;
    const attention_head h = head_of_block(job);
    const uint32_t tiles = (keys_seen(a, h.row, job.block_rows) + shape::KEYS - 1) / shape::KEYS;
    for (uint32_t tile = 0; tile < shape::STAGES - 1; tile++) {
        if (tile < tiles) load_tile<T, WIDTH>(a, h, tile * shape::KEYS, stage_of<T, WIDTH>(stages, tile));
        cp_async_commit();
    }
    /* The warp's number by a shuffle: so the compiler knows that its lanes take one way at every branch on it. */
    const uint32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    query_rows<T, WIDTH> w = {};
    w.lane = threadIdx.x % 32;
    w.first = h.row + warp * WARP_ROWS;
    w.largest[0] = w.largest[1] = -INFINITY;
    load_queries(a, h, w);
    const uint32_t own = keys_seen(a, w.first, WARP_ROWS);               /* keys of the warp, */
    const uint32_t whole = a.causal ? (w.first + 1) / SPAN * SPAN : own; /* and of those what all its rows see */
    for (uint32_t tile = 0; tile < tiles; tile++) {
        unsigned char *at = stage_of<T, WIDTH>(stages, tile);
        cp_async_wait<shape::STAGES - 2>();
        if constexpr (sizeof(T) == 4) round_tile<WIDTH>(at);
        __syncthreads(); /* the whole tile is there, and nobody reads the one before, whose place is filled next */
        const uint32_t next = tile + shape::STAGES - 1;
        if (next < tiles) load_tile<T, WIDTH>(a, h, next * shape::KEYS, stage_of<T, WIDTH>(stages, next));
        cp_async_commit(); /* also when empty: the wait above counts groups */
        if (w.first >= a.tokens) continue;
        uint32_t first = tile * shape::KEYS;
#pragma unroll 1
        for (const uint32_t end = first + shape::KEYS; first < end && first + SPAN <= whole;
             first += SPAN, at += SPAN_BYTES)
            attend<false>(w, at, SPAN, SPAN, job.scale);
        if (first < own && first < (tile + 1) * shape::KEYS)
            attend<true>(w, at, own - first, a.causal ? w.first + w.lane / 4 + 1 - first : SPAN, job.scale);
    }
    if (w.first < a.tokens) write_rows(a, h, w);
}

/* ------------------------------------------------------------------------------------------------- launch */

bool attention_mma_can(const gpu_attention *a) {
    return a->type != GPU_F32 && a->width <= ATTENTION_MMA_WIDTH && a->width % 8 == 0;
}

template <class T, int WIDTH> static cudaError_t launch_width(const gpu_attention *a, cudaStream_t stream) {
    using shape = tiling<T, WIDTH>;
    const uint32_t groups = blocks_of(a->tokens, WARP_ROWS), row_blocks = blocks_of(groups, shape::WARPS);
    const uint32_t warps = blocks_of(groups, row_blocks), tiles = blocks_of(a->tokens, shape::KEYS);
    const size_t stages = tiles < shape::STAGES ? tiles : shape::STAGES;
    attention_job job;
    dim3 grid;
    if (!attention_job_of(a, warps * WARP_ROWS, &job, &grid)) return cudaErrorInvalidValue;
    return gpu_launch(attention_mma_kernel<T, WIDTH>, grid, dim3(warps * 32), stages * 2 * shape::TILE_BYTES, stream,
                      job);
}

template <class T> static cudaError_t launch_type(const gpu_attention *a, cudaStream_t stream) {
    if (a->width <= 32) return launch_width<T, 32>(a, stream);
    if (a->width <= 64) return launch_width<T, 64>(a, stream);
    if constexpr (sizeof(T) == 2)
        if (a->width <= 80) return launch_width<T, 80>(a, stream);
    if (a->width <= 96) return launch_width<T, 96>(a, stream);
    return launch_width<T, 128>(a, stream);
}

cudaError_t attention_mma_launch(const gpu_attention *a, cudaStream_t stream) {
    switch (a->type) {
    case GPU_TF32:
        return launch_type<tf32>(a, stream);
    case GPU_BF16:
        return launch_type<bf16>(a, stream);
    case GPU_F16:
        return launch_type<half>(a, stream);
    case GPU_F32:
        break;
    }
    return cudaErrorInvalidValue;
}
