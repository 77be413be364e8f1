/*
 * attention_mma.cu - fused attention on tensor cores (FlashAttention-2: Dao 2023, arXiv 2307.08691, algorithm 1).
 *
 *   y[p][t][h] = out(sum over s of softmax_s(q[p][t][h] . k[p][s][h] / sqrt(width)) v[p][s][h])
 *
 * q, k, v, y [pairs][tokens][heads * width], 16-bit or tf32; width a multiple of 8 up to 128. The tokens x tokens scores
 * exist in registers only, KEYS columns at a time.
 *
 * Block: up to 8 warps of 16 query rows each, of one head of one pair; warps are chosen so that the row blocks of a head
 * have equally many (T = 197: 2 blocks of 7 warps). Keys and values come in tiles of KEYS tokens, three tiles deep by
 * cp.async; every warp reads all of a tile. For each tile, S = Q K' (fp32, mma), then the online softmax in fp32:
 *   m' = max(m, max S), P = exp(S - m'), l' = l exp(m - m') + sum P, O' = O exp(m - m') + P V (mma),
 * in base 2: m is kept times scale = log2(e) / sqrt(width), and S scale - m is one multiply-add, so no score is rounded
 * after scaling and none overflows. P is rounded to the operand's type and l adds the rounded values, so the weights that
 * are applied add up to one: a V that is constant over the keys (an ablated row's bias) comes out unchanged.
 * P goes from accumulators to operands in registers. At the end y = out(O / l).
 * The order of all sums depends on T and width only. Causal attention would be a template flag of attend_tile (the limit of
 * a row instead of that of all rows) and an earlier last tile.
 *
 * Shared memory: 3 x (K + V), rows of WIDTH elements (width rounded up to 32, 64, 80, 96 or 128, zeros behind), 16-byte
 * vectors swizzled by XOR so that neither ldmatrix nor the 4-byte reads of tf32 values hit a bank twice (but for tf32 of
 * width 80: values twice). 768 WIDTH bytes = 24, 48, 60, 72, 96 KiB; less where T has fewer than three tiles.
 * Registers: REGISTERS_HERE
 *
 * Flops 4 T^2 width, bytes 4 T width size, both per head and pair (a head's K and V are read from L2 by each of its row
 * blocks). ViT-B/16, T = 197, 12 heads of 64, 256 pairs, bf16, A100 (312 TFLOP/s, 2.04 TB/s): 30.5 GFLOP, 0.098 ms (0.109
 * with rows and keys rounded up to 16), 310 MB, 0.152 ms: bound by memory. H100 (989 TFLOP/s, 3.35 TB/s): 0.031 and 0.093
 * ms. tf32: twice the bytes and the time of the products.
 */
#include "kernels/cuda/attention.cuh"

/* How a head of WIDTH stored channels is cut up. The same in bytes for all types: a step of mma takes 32 bytes of a row
 * (16 channels of 16 bits, 8 of tf32), a tile has 128 bytes of keys (64 or 32). */
template <class T, int WIDTH> struct tiling {
    static constexpr int KEYS = 128 / sizeof(T);
    static constexpr int VECTORS = WIDTH * sizeof(T) / 16; /* of 16 bytes, in a row of K or V */
    static constexpr int STEPS = VECTORS / 2;
    static constexpr int TILE_BYTES = KEYS * VECTORS * 16; /* of K; V lies behind it */
    static constexpr int STAGES = 3;
    static constexpr int VECTOR = 16 / sizeof(T); /* elements */
    /* Registers that a thread holds all along: O, Q and a tile of S.
     * 8 warps x 2 blocks on a multiprocessor leave it 128, 6 x 2 leave 168, 8 x 1 the most there is, 255. */
    static constexpr int HELD = WIDTH / 2 + STEPS * 4 + KEYS / 2;
    static constexpr int BLOCKS = HELD <= 104 ? 2 : 1, WARPS = HELD > 80 && HELD <= 104 ? 6 : 8;
};

/* mma's rows are queries; a warp has 16, lane l rows l / 4 and l / 4 + 8 of them. */
constexpr int WARP_ROWS = 16;

/* What a warp knows of its queries: scores' running maximum (scaled) and sum, for both rows of the lane. Sums are over the
 * lane's own columns until the end. */
struct softmax_state {
    float largest[2], sum[2];
};

/* ------------------------------------------------------------------------------------------- shared memory */

/* Byte offset of a 16-byte vector in a tile. ldmatrix reads 8 rows at one vector column, and such rows lie VECTORS vectors
 * apart: of the 8 places in a 128-byte line, they meet gcd(VECTORS, 8) less often than they should, which the XOR mends. */
template <int VECTORS> static GPU_INLINE uint32_t tile_offset(uint32_t row, uint32_t vector) {
    constexpr uint32_t span = VECTORS % 8 == 0 ? 8 : VECTORS % 4 == 0 ? 4 : 2;
    return (row * VECTORS + vector / span * span + (vector % span ^ row / (8 / span) % span)) * 16;
}

/* Where a lane points ldmatrix for 16 keys and two vector columns: matrices 0 and 1 are keys 0-7 and 8-15 of the first
 * column, 2 and 3 of the second. The same for K and V, so that a thread holds one set of addresses. */
template <int VECTORS> static GPU_INLINE uint32_t matrices_offset(uint32_t group, uint32_t columns, uint32_t lane) {
    return tile_offset<VECTORS>(group * 16 + lane % 16, columns * 2 + lane / 16);
}

/* Begins to copy the KEYS tokens from `first` on of K and V; what lies behind T or width becomes zeros, so that weights of
 * zero meet no NaN. */
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

/* Rounds to tf32, in place, what this thread has copied of a tile. Between the wait, which shows a thread its own copies,
 * and the barrier, which shows them to the others: each element once, not once in every warp that reads it. */
template <int WIDTH> static GPU_INLINE void round_tile(unsigned char *tile) {
    using shape = tiling<tf32, WIDTH>;
    struct alignas(16) words {
        float at[4];
    };
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

/* Q as operands of mma, for all steps: words t and t + 4 of the lane's rows, zeros behind T and width. Read straight from
 * memory: each word is needed by one lane only. */
template <class T, int WIDTH>
static GPU_INLINE void load_queries(const gpu_attention &a, const attention_head &h, uint32_t first, uint32_t lane,
                                    uint32_t (*q)[4]) {
    const uint32_t words = a.width * sizeof(T) / 4;
#pragma unroll
    for (int step = 0; step < tiling<T, WIDTH>::STEPS; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t row = first + lane / 4 + i % 2 * 8, word = step * 8 + lane % 4 + i / 2 * 4;
            const T *from = static_cast<const T *>(a.q) + h.first + row * h.stride;
            const bool inside = row < a.tokens && word < words;
            q[step][i] = inside ? reinterpret_cast<const uint32_t *>(from)[word] : 0;
            if (sizeof(T) == 4) q[step][i] = round_tf32(__uint_as_float(q[step][i]));
        }
}

/* s[KEYS / 8][4] = Q K' in the layout of mma's accumulators: s[n] holds keys 8 n + 2 t and the next. Groups of 16 keys
 * behind `keys` are left zero when PARTIAL. */
template <class T, int WIDTH>
static GPU_INLINE void score_tile(const uint32_t (*q)[4], const unsigned char *k, uint32_t keys, uint32_t lane,
                                  float (*s)[4]) {
    using shape = tiling<T, WIDTH>;
#pragma unroll
    for (int n = 0; n < shape::KEYS / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int step = 0; step < shape::STEPS; step++)
#pragma unroll
        for (int group = 0; group < shape::KEYS / 16; group++) {
            if (group * 16 >= (int)keys) continue;
            uint32_t b[4];
            ldmatrix_x4(b, k + matrices_offset<shape::VECTORS>(group, step, lane));
            const uint32_t even[2] = {b[0], b[2]}, odd[2] = {b[1], b[3]};
            mma(s[group * 2], q[step], even, T{});
            mma(s[group * 2 + 1], q[step], odd, T{});
        }
}

/* o += P V for 16 keys of 16-bit types, in one step. P = s rounded: accumulators of two n-tiles are the operand's quarters. */
template <class T, int WIDTH>
static GPU_INLINE void mix_group(const float (*s)[4], const unsigned char *v, uint32_t group, uint32_t lane,
                                 float (*o)[4], float sum[2], T) {
    using shape = tiling<T, WIDTH>;
    uint32_t p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p[i] = pack2<T>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]);
        sum[i % 2] += to_float(T{(uint16_t)p[i]}) + to_float(T{(uint16_t)(p[i] >> 16)});
    }
#pragma unroll
    for (int n = 0; n < WIDTH / 16; n++) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, v + matrices_offset<shape::VECTORS>(group, n, lane));
        mma(o[n * 2], p, b, T{});
        mma(o[n * 2 + 1], p, b + 2, T{});
    }
}

/* The same for tf32, 8 keys a step. A lane's accumulators are keys 2 t and 2 t + 1, its operand is columns t and t + 4: the
 * sum over keys may run in any order, so columns t and t + 4 are said to be keys 2 t and 2 t + 1, in P and V alike. */
template <class, int WIDTH>
static GPU_INLINE void mix_group(const float (*s)[4], const unsigned char *v, uint32_t group, uint32_t lane,
                                 float (*o)[4], float sum[2], tf32) {
    using shape = tiling<tf32, WIDTH>;
#pragma unroll
    for (int half_group = 0; half_group < 2; half_group++) {
        uint32_t p[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            p[i] = round_tf32(s[half_group][i % 2 * 2 + i / 2]);
            sum[i % 2] += __uint_as_float(p[i]);
        }
        const uint32_t row = group * 16 + half_group * 8 + lane % 4 * 2, element = lane / 4;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            uint32_t b[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t even = tile_offset<shape::VECTORS>(row, n * 2 + element / 4) + element % 4 * 4;
                const uint32_t at = i ? (even ^ 16) + shape::VECTORS * 16 : even;
                b[i] = *reinterpret_cast<const uint32_t *>(v + at);
            }
            mma(o[n], p, b, tf32{});
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

/* s becomes exp(s - largest so far); rescale[2]: what everything before must be multiplied by. */
template <int TILES>
static GPU_INLINE void softmax_step(float (*s)[4], float scale, softmax_state *state, float rescale[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < TILES; n++) largest = fmaxf(largest, fmaxf(s[n][r * 2], s[n][r * 2 + 1]));
        largest = fmaxf(state->largest[r], quad_max(largest) * scale);
        rescale[r] = exp2f(state->largest[r] - largest);
        state->largest[r] = largest;
        state->sum[r] *= rescale[r];
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = r * 2; e < r * 2 + 2; e++) s[n][e] = exp2f(fmaf(s[n][e], scale, -largest));
    }
}

/* One tile of keys, of which the first `keys` exist (all of them unless PARTIAL). */
template <class T, int WIDTH>
static GPU_INLINE void attend_tile(const uint32_t (*q)[4], const unsigned char *tile, uint32_t keys, float scale,
                                   uint32_t lane, softmax_state *state, float (*o)[4]) {
    using shape = tiling<T, WIDTH>;
    float s[shape::KEYS / 8][4], rescale[2];
    score_tile<T, WIDTH>(q, tile, keys, lane, s);
    if (keys < shape::KEYS)
#pragma unroll
        for (int n = 0; n < shape::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (n * 8 + lane % 4 * 2 + e % 2 >= keys) s[n][e] = -INFINITY;
    softmax_step<shape::KEYS / 8>(s, scale, state, rescale);
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= rescale[e / 2];
#pragma unroll
    for (int group = 0; group < shape::KEYS / 16; group++) {
        if (group * 16 >= (int)keys) continue;
        mix_group<T, WIDTH>(s + group * 2, tile + shape::TILE_BYTES, group, lane, o, state->sum, T{});
    }
}

/* ------------------------------------------------------------------------------------------------ epilogue */

/* Writes channels c, c + 1 of n-tiles n and n + 1 (x[tile][2]) in one row. Lanes swap words in pairs, so that a lane has 8
 * contiguous bytes and four lanes a 32-byte sector. All lanes of a warp must come here. */
template <class T>
static GPU_INLINE void store_tiles(T *row, const float (*x)[2], uint32_t n, uint32_t lane, bool inside,
                                   uint32_t width) {
    struct alignas(8) words {
        uint32_t at[2];
    };
    const bool odd = lane % 2;
    const uint32_t low = pack2<T>(x[0][0], x[0][1]), high = pack2<T>(x[1][0], x[1][1]);
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
    const uint32_t channel = n * 8 + odd * 8 + lane % 4 / 2 * 4;
    if (inside && channel < width)
        *reinterpret_cast<words *>(row + channel) = odd ? words{{other, high}} : words{{low, other}};
}
static GPU_INLINE void store_tiles(tf32 *row, const float (*x)[2], uint32_t n, uint32_t lane, bool inside,
                                   uint32_t width) {
    struct alignas(8) pair {
        float at[2];
    };
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t channel = (n + i) * 8 + lane % 4 * 2;
        if (inside && channel < width) *reinterpret_cast<pair *>(row + channel) = {{x[i][0], x[i][1]}};
    }
}

/* y = out(o / sum) for the warp's rows. */
template <class T, int WIDTH>
static GPU_INLINE void write_rows(const gpu_attention &a, const attention_head &h, uint32_t first, uint32_t lane,
                                  const float (*o)[4], const softmax_state &state) {
    const attention_mask mask = mask_of_head(a, h);
    const float inverse[2] = {1 / quad_sum(state.sum[0]), 1 / quad_sum(state.sum[1])};
    const uint32_t row = first + lane / 4;
    T *y = static_cast<T *>(a.y) + h.first + (size_t)row * h.stride;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
        float x[2][2][2]; /* [row][tile][channel] */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t channel = (n + i / 2) * 8 + lane % 4 * 2 + i % 2;
            const channel_mask m = channel < a.width ? mask_of_channel(mask, channel) : channel_mask{0, 0};
#pragma unroll
            for (int r = 0; r < 2; r++) x[r][i / 2][i % 2] = masked(m, o[n + i / 2][r * 2 + i % 2] * inverse[r]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) store_tiles(y + r * 8 * h.stride, x[r], n, lane, row + r * 8 < a.tokens, a.width);
    }
}

/* ------------------------------------------------------------------------------------------------- kernel */

/* Two blocks of 8 warps on a multiprocessor leave 128 registers a thread: enough up to width 80. */
template <class T, int WIDTH>
static __global__ void __launch_bounds__(tiling<T, WIDTH>::WARPS * 32, tiling<T, WIDTH>::BLOCKS)
    attention_mma_kernel(attention_job job) {
    using shape = tiling<T, WIDTH>;
    GPU_DYNAMIC_SHARED(unsigned char, stages);
    const gpu_attention &a = job.a;
    const attention_head h = head_of_block(job);
    /* by a shuffle, so that the compiler knows that a warp takes one way at every branch on it */
    const uint32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    const uint32_t lane = threadIdx.x % 32, first = h.row + warp * WARP_ROWS;
    const uint32_t tiles = (a.tokens + shape::KEYS - 1) / shape::KEYS;
    for (uint32_t tile = 0; tile < shape::STAGES - 1; tile++) {
        if (tile < tiles) load_tile<T, WIDTH>(a, h, tile * shape::KEYS, stages + tile * 2 * shape::TILE_BYTES);
        cp_async_commit();
    }
    uint32_t q[shape::STEPS][4];
    load_queries<T, WIDTH>(a, h, first, lane, q);
    softmax_state state = {{-INFINITY, -INFINITY}, {0, 0}};
    float o[WIDTH / 8][4] = {};
    for (uint32_t tile = 0; tile < tiles; tile++) {
        unsigned char *at = stages + tile % shape::STAGES * 2 * shape::TILE_BYTES;
        cp_async_wait<shape::STAGES - 2>();
        if constexpr (sizeof(T) == 4) round_tile<WIDTH>(at);
        __syncthreads(); /* the whole tile is there, and nobody reads the one before, whose place is filled next */
        const uint32_t next = tile + shape::STAGES - 1;
        if (next < tiles)
            load_tile<T, WIDTH>(a, h, next * shape::KEYS, stages + next % shape::STAGES * 2 * shape::TILE_BYTES);
        cp_async_commit(); /* also when empty: the wait above counts groups */
        if (first >= a.tokens) continue;
        const uint32_t keys = a.tokens - tile * shape::KEYS;
        attend_tile<T, WIDTH>(q, at, keys, job.scale, lane, &state, o);
    }
    if (first < a.tokens) write_rows<T, WIDTH>(a, h, first, lane, o, state);
}

/* ------------------------------------------------------------------------------------------------- launch */

bool attention_mma_can(const gpu_attention *a) {
    return a->type != GPU_F32 && a->width <= ATTENTION_MMA_WIDTH && a->width % 8 == 0;
}

template <class T, int WIDTH> static cudaError_t launch_width(const gpu_attention *a, cudaStream_t stream) {
    using shape = tiling<T, WIDTH>;
    const uint32_t groups = divide_up(a->tokens, WARP_ROWS), row_blocks = divide_up(groups, shape::WARPS);
    const uint32_t warps = divide_up(groups, row_blocks), tiles = divide_up(a->tokens, shape::KEYS);
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
