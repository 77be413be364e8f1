/*
 * attention_reverse_mma.cu - the gradients of attention on tensor cores, 16-bit types, head widths that are a multiple
 * of 8 up to 128 (formulas and the two sides: attention_reverse.cu).
 *
 * A block owns up to 8 warps of 16 rows of one side, queries or keys, and goes over the other side in tiles of TILE
 * rows, two deep by cp.async. What it owns lies in shared memory too and is loaded as mma's left operand at every step:
 * held in registers it would not fit beside two accumulators of 16 x WIDTH. For each SPAN = 32 rows of the other side
 *   S = own[0] other[0]', dP = own[1] other[1]'   (fp32, mma)
 *   P = 2^(S log2(e) / sqrt(width) - logsum), dS = P (dP - delta)   fp32, rounded to the type as operands
 *   out[0] += dS other[0], keys also out[1] += P other[1]
 * where logsum and delta belong to the queries: to rows of S when queries are owned, to its columns when keys are; then
 * they travel with the tiles. P and dS go from accumulators to operands in registers. The order of all sums depends on
 * T and width only.
 *
 * Causal: only the tiles, and of these the spans, in which a query of the block or warp sees one of its keys.
 *
 * Shared memory: (2 x block rows + 4 x TILE) rows of WIDTH elements (width rounded up to 32, 64, 80, 96, 128, zeros
 * behind), swizzled as in attention_mma.cuh, and two numbers for each row of the tiles: at most 33, 65, 61, 73, 97 KiB.
 * Registers by WIDTH (sm_80), no spills: queries 102, 126, 122, 153, 169; keys 112, 157, 161, 207, 240.
 *
 * Flops 14 T^2 width, bytes 13 T width size (delta 2 values, queries 5, keys 6), per head and pair. ViT-B/16, T = 197,
 * 12 heads of 64, 256 pairs, bf16, A100 (312 TFLOP/s, 2.04 TB/s): 107 GFLOP, 0.34 ms; 1.01 GB, 0.49 ms: bound by
 * memory. H100 (989 TFLOP/s, 3.35 TB/s): 0.11 and 0.30 ms.
 */
#include "kernels/cuda/attention_mma.cuh"

namespace {

/* How a head of WIDTH stored channels is cut up. */
template <int WIDTH> struct tiling {
    static constexpr int VECTORS = WIDTH / 8; /* of 16 bytes, in a row */
    static constexpr int STEPS = WIDTH / 16;  /* of mma */
    static constexpr int TILE = WIDTH <= 64 ? 64 : 32;
    static constexpr int WARPS = 8, STAGES = 2;
    static constexpr int ROW_BYTES = WIDTH * 2;
    static constexpr int STAGE_BYTES = TILE * (2 * ROW_BYTES + 2 * (int)sizeof(float));
    static_assert(2 * WARPS * WARP_ROWS * ROW_BYTES + STAGES * STAGE_BYTES <= 99 << 10, "every device has it");
    static_assert(TILE % SPAN == 0, "whole spans");
    static_assert(STAGES == 2, "they take turns");
};

/* A stage of shared memory: two tiles, and of each row logsum and delta. */
template <int WIDTH> struct stage {
    const unsigned char *tile[2];
    const float *logsum, *delta;
    GPU_INLINE explicit stage(const unsigned char *at) {
        constexpr int bytes = tiling<WIDTH>::TILE * tiling<WIDTH>::ROW_BYTES;
        tile[0] = at;
        tile[1] = at + bytes;
        logsum = reinterpret_cast<const float *>(at + 2 * bytes);
        delta = logsum + tiling<WIDTH>::TILE;
    }
};

/* --------------------------------------------------------------------------------------------------- copies */

/* Begins to copy `rows` tokens from `first` on; what lies behind T or width becomes zeros. */
template <class T, int WIDTH>
GPU_INLINE void load_rows(const void *from, const gpu_attention &a, const attention_head &h, uint32_t first,
                          uint32_t rows, unsigned char *to) {
    constexpr uint32_t VECTORS = tiling<WIDTH>::VECTORS;
    const T *x = static_cast<const T *>(from) + h.first;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < rows * VECTORS; i += blockDim.x) {
        const uint32_t row = i / VECTORS, vector = i % VECTORS;
        const bool inside = first + row < a.tokens && vector * 8 < a.width;
        const size_t at = inside ? (size_t)(first + row) * h.stride + vector * 8 : 0;
        cp_async<16>(to + tile_offset<VECTORS>(row, vector), x + at, inside ? 16 : 0);
    }
}

/* The same of a tile of the other side, with its queries' numbers where the other side is queries. */
template <class T, int WIDTH, attention_side SIDE>
GPU_INLINE void load_stage(const gpu_attention &a, const attention_head &h, const attention_gradients &d,
                           uint32_t first, unsigned char *to) {
    constexpr int TILE = tiling<WIDTH>::TILE, bytes = TILE * tiling<WIDTH>::ROW_BYTES;
    load_rows<T, WIDTH>(d.other[0], a, h, first, TILE, to);
    load_rows<T, WIDTH>(d.other[1], a, h, first, TILE, to + bytes);
    if constexpr (SIDE == ATTENTION_KEYS)
        for (uint32_t i = threadIdx.x; i < 2 * TILE; i += blockDim.x) {
            const bool inside = first + i % TILE < a.tokens;
            const size_t at = inside ? statistics_of(a, h) + first + i % TILE : 0;
            const bool there = inside && (i < TILE || d.out[0]); /* where dv alone is wanted there is no delta */
            cp_async<4>(to + 2 * bytes + i * sizeof(float), (i < TILE ? a.logsum : d.delta) + at, there ? 4 : 0);
        }
}

/* ------------------------------------------------------------------------------------------------- products */

/* What a lane holds of its warp's rows, in mma's layouts. */
template <int WIDTH> struct warp_rows {
    uint32_t lane, first;
    const unsigned char *own[2]; /* the warp's rows of them, in shared memory */
    float logsum[2], delta[2];   /* of rows lane / 4 and lane / 4 + 8; where queries are owned */
    float out[2][WIDTH / 8][4];  /* accumulators, by n-tile of 8 channels */
};

/* s[SPAN / 8][4] = own other' in the layout of mma's accumulators: s[n] holds columns 8 n + 2 (lane % 4), + 1. */
template <class T, int WIDTH>
GPU_INLINE void score(const unsigned char *own, const unsigned char *other, uint32_t lane, float (&s)[SPAN / 8][4]) {
    constexpr int VECTORS = tiling<WIDTH>::VECTORS;
#pragma unroll
    for (int n = 0; n < SPAN / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int step = 0; step < tiling<WIDTH>::STEPS; step++) {
        uint32_t x[4];
        ldmatrix_x4(x, own + matrices_offset<VECTORS>(0, step, lane));
#pragma unroll
        for (int group = 0; group < SPAN / 16; group++) {
            uint32_t b[4];
            ldmatrix_x4(b, other + matrices_offset<VECTORS>(group, step, lane));
            const uint32_t even[2] = {b[0], b[2]}, odd[2] = {b[1], b[3]};
            mma(s[group * 2], x, even, T{});
            mma(s[group * 2 + 1], x, odd, T{});
        }
    }
}

/* out += s other: s rounded, its accumulators are the operand's quarters. */
template <class T, int WIDTH>
GPU_INLINE void mix(const float (&s)[SPAN / 8][4], const unsigned char *other, uint32_t lane,
                    float (&out)[WIDTH / 8][4]) {
#pragma unroll
    for (int group = 0; group < SPAN / 16; group++) {
        uint32_t p[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *from = s[group * 2 + i / 2] + i % 2 * 2;
            p[i] = pack2<T>(from[0], from[1]);
        }
#pragma unroll
        for (int n = 0; n < WIDTH / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, other + matrices_offset<tiling<WIDTH>::VECTORS>(group, n, lane));
            mma(out[n * 2], p, b, T{});
            mma(out[n * 2 + 1], p, b + 2, T{});
        }
    }
}

/* SPAN rows of the other side, `at` being the first of them in its tile, `first` in the head. Behind T rows are zeros:
 * as queries they give nothing, as keys their weight has to be cleared; and so has that of a key behind the query. */
template <class T, int WIDTH, attention_side SIDE>
GPU_INLINE void reverse_span(const gpu_attention &a, const attention_gradients &d, warp_rows<WIDTH> &w,
                             const stage<WIDTH> &tile, uint32_t at, uint32_t first, float scale) {
    const uint32_t skip = at * tiling<WIDTH>::ROW_BYTES;
    float p[SPAN / 8][4], dp[SPAN / 8][4];
    score<T, WIDTH>(w.own[0], tile.tile[0] + skip, w.lane, p);
    score<T, WIDTH>(w.own[1], tile.tile[1] + skip, w.lane, dp);
#pragma unroll
    for (int n = 0; n < SPAN / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const uint32_t column = n * 8 + w.lane % 4 * 2 + e % 2;
            const bool queries = SIDE == ATTENTION_QUERIES;
            const float logsum = queries ? w.logsum[e / 2] : tile.logsum[at + column];
            const float delta = queries ? w.delta[e / 2] : tile.delta[at + column];
            const float weight = fast_exp2(fmaf(p[n][e], scale, -logsum));
            const rows_met met = rows_of_other(a, SIDE, w.first + w.lane / 4 + e / 2 * 8, 1);
            const bool hidden = queries ? first + column >= met.end : first + column < met.first;
            p[n][e] = hidden ? 0 : weight;
            dp[n][e] = p[n][e] * __fadd_rn(dp[n][e], -delta);
        }
    if (SIDE == ATTENTION_QUERIES || d.out[0]) mix<T, WIDTH>(dp, tile.tile[0] + skip, w.lane, w.out[0]);
    if (SIDE == ATTENTION_KEYS && d.out[1]) mix<T, WIDTH>(p, tile.tile[1] + skip, w.lane, w.out[1]);
}

/* ------------------------------------------------------------------------------------------------- results */

/* The warp's rows, scaled, rounded, added to what is there. All lanes of a warp must come here. */
template <class T, int WIDTH>
GPU_INLINE void write_rows(const gpu_attention &a, const attention_head &h, const warp_rows<WIDTH> &w,
                           const float (&out)[WIDTH / 8][4], float scale, void *to, bool add) {
    const uint32_t row = w.first + w.lane / 4;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            T *line = static_cast<T *>(to) + h.first + (size_t)(row + r * 8) * h.stride;
            const bool inside = row + r * 8 < a.tokens;
            float x[2][2]; /* [tile][channel] */
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t channel = (n + i / 2) * 8 + w.lane % 4 * 2 + i % 2;
                x[i / 2][i % 2] = out[n + i / 2][r * 2 + i % 2] * scale;
                if (add && inside && channel < a.width)
                    x[i / 2][i % 2] = __fadd_rn(to_float(line[channel]), x[i / 2][i % 2]);
            }
            __syncwarp(); /* lanes store what their neighbours have read */
            store_tiles(line, x, n, w.lane, inside, a.width);
        }
}

/* ------------------------------------------------------------------------------------------------- kernel */

template <class T, int WIDTH, attention_side SIDE>
__global__ void __launch_bounds__(tiling<WIDTH>::WARPS * 32, 1)
    attention_reverse_mma_kernel(attention_job job, attention_gradients d) {
    using shape = tiling<WIDTH>;
    GPU_DYNAMIC_SHARED(unsigned char, shared);
    const gpu_attention &a = job.a;
    const attention_head h = head_of_block(job);
    const rows_met block_meets = rows_of_other(a, SIDE, h.row, job.block_rows);
    const uint32_t begin = block_meets.first / shape::TILE * shape::TILE, own_bytes = job.block_rows * shape::ROW_BYTES;
    unsigned char *stages = shared + 2 * own_bytes;
    load_rows<T, WIDTH>(d.own[0], a, h, h.row, job.block_rows, shared);
    load_rows<T, WIDTH>(d.own[1], a, h, h.row, job.block_rows, shared + own_bytes);
    load_stage<T, WIDTH, SIDE>(a, h, d, begin, stages);
    cp_async_commit();

    /* The warp's number by a shuffle: so the compiler knows that its lanes take one way at every branch on it. */
    const uint32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    warp_rows<WIDTH> w = {};
    w.lane = threadIdx.x % 32;
    w.first = h.row + warp * WARP_ROWS;
    w.own[0] = shared + warp * WARP_ROWS * shape::ROW_BYTES;
    w.own[1] = w.own[0] + own_bytes;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t row = w.first + w.lane / 4 + r * 8;
        if (SIDE == ATTENTION_KEYS || row >= a.tokens) continue;
        w.logsum[r] = a.logsum[statistics_of(a, h) + row];
        w.delta[r] = d.delta[statistics_of(a, h) + row];
    }
    const rows_met meets = rows_of_other(a, SIDE, w.first, WARP_ROWS);
    uint32_t stage_now = 0;
    for (uint32_t first = begin; first < block_meets.end; first += shape::TILE, stage_now ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* the tile is there, and nobody reads the one before, whose place is filled next */
        const uint32_t next = first + shape::TILE;
        if (next < block_meets.end)
            load_stage<T, WIDTH, SIDE>(a, h, d, next, stages + (stage_now ^ 1) * shape::STAGE_BYTES);
        cp_async_commit();
        if (w.first >= a.tokens) continue;
        const stage<WIDTH> at(stages + stage_now * shape::STAGE_BYTES);
#pragma unroll 1
        for (uint32_t i = 0; i < shape::TILE && first + i < meets.end; i += SPAN)
            if (first + i + SPAN > meets.first) reverse_span<T, WIDTH, SIDE>(a, d, w, at, i, first + i, job.scale);
    }
    if (w.first >= a.tokens) return;
    if (d.out[0]) write_rows<T, WIDTH>(a, h, w, w.out[0], 1 / sqrtf((float)a.width), d.out[0], d.add[0]);
    if (SIDE == ATTENTION_KEYS && d.out[1]) write_rows<T, WIDTH>(a, h, w, w.out[1], 1, d.out[1], d.add[1]);
}

/* ------------------------------------------------------------------------------------------------- launch */

template <class T, int WIDTH>
cudaError_t launch_width(const gpu_attention *a, attention_side side, const attention_gradients &d,
                         cudaStream_t stream) {
    using shape = tiling<WIDTH>;
    const uint32_t groups = blocks_of(a->tokens, WARP_ROWS), warps = blocks_of(groups, blocks_of(groups, shape::WARPS));
    const uint32_t tiles = blocks_of(a->tokens, shape::TILE), stages = tiles < shape::STAGES ? tiles : shape::STAGES;
    const size_t shared = 2 * warps * WARP_ROWS * shape::ROW_BYTES + stages * shape::STAGE_BYTES;
    attention_job job;
    dim3 grid;
    if (!attention_job_of(a, warps * WARP_ROWS, &job, &grid)) return cudaErrorInvalidValue;
    return side == ATTENTION_QUERIES ? gpu_launch(attention_reverse_mma_kernel<T, WIDTH, ATTENTION_QUERIES>, grid,
                                                  dim3(warps * 32), shared, stream, job, d)
                                     : gpu_launch(attention_reverse_mma_kernel<T, WIDTH, ATTENTION_KEYS>, grid,
                                                  dim3(warps * 32), shared, stream, job, d);
}

template <class T>
cudaError_t launch_type(const gpu_attention *a, attention_side side, const attention_gradients &d,
                        cudaStream_t stream) {
    if (a->width <= 32) return launch_width<T, 32>(a, side, d, stream);
    if (a->width <= 64) return launch_width<T, 64>(a, side, d, stream);
    if (a->width <= 80) return launch_width<T, 80>(a, side, d, stream);
    if (a->width <= 96) return launch_width<T, 96>(a, side, d, stream);
    return launch_width<T, 128>(a, side, d, stream);
}

} // namespace

bool attention_reverse_mma_can(const gpu_attention *a) {
    return gpu_type_size(a->type) == 2 && a->width <= ATTENTION_MMA_WIDTH && a->width % 8 == 0;
}

cudaError_t attention_reverse_mma_launch(const gpu_attention *a, attention_side side, const attention_gradients &d,
                                         cudaStream_t stream) {
    return a->type == GPU_BF16 ? launch_type<bf16>(a, side, d, stream) : launch_type<half>(a, side, d, stream);
}
