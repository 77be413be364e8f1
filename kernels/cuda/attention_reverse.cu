/*
 * attention_reverse.cu - the gradients of attention: the launcher, and the plain kernels: fp32 arithmetic, any type,
 * any width up to 256.
 *
 * For each head, with scale = 1 / sqrt(width), S = Q K' and dO the gradient of the result O (before the mask):
 *   P = exp(scale S) / sum over keys, again from Q, K and the sums that the forward pass left (logsum)
 *   dV = P' dO,   dP = dO V',   delta[t] = dO[t] . O[t],   dS = P (dP - delta),   dQ = scale dS K,   dK = scale dS' Q
 * (Dao 2023, arXiv 2307.08691, algorithm 2). A block of one launch owns queries and goes over all keys, giving dQ; a
 * block of another owns keys and goes over all queries, giving dK and dV. So S and dP are computed twice, seven
 * products where five would do, but nothing is added up across blocks: no atomics, and one order whatever the batch.
 *
 * Causal, a block of queries ends with the tile of its last one, a block of keys begins with the tile of its first one:
 * the queries in front of a key do not see it.
 *
 * q, k, v, dresult, dq, dk, dv [pairs][tokens][gpu_stride(heads * width)]; logsum, delta [pairs][heads][tokens] fp32.
 * The plain kernels compute GPU_F32 and GPU_TF32 (no operand is rounded) and, for the other types, the widths that
 * attention_reverse_mma.cu does not take; the last head zeroes the channels behind it (or leaves them, with `add`).
 *
 * delta: a warp a row. Block of the plain kernels: up to 8 warps (2 from width 129 up) of ROWS rows each, of one head
 * of one pair; tiles of 32 rows of the other side. A lane scores one of them for all rows of the warp, then owns the
 * channels lane, lane + 32, ... of the result, like attention.cu. Sums run over channels and over the other side in
 * order.
 *
 * Shared memory, fp32: two tiles, two times the block's rows, two weights for each of a tile's scores: (64 + 2 ROWS
 * warps) pitch + 64 ROWS warps values: 42 KiB at width 64, 74 at 128, 83 at 256. Registers (sm_80): 154 (queries), 180
 * (keys), delta 26; no spills.
 * Flops 14 T^2 width, bytes 13 T width size, per head and pair. ViT-B/16, T = 197, 12 heads of 64, 256 pairs, fp32,
 * A100 (19.5 TFLOP/s, 2.04 TB/s): 107 GFLOP, 5.5 ms; 2.0 GB, 0.99 ms: bound by arithmetic.
 */
#include "kernels/cuda/attention_plain.cuh"

/* ------------------------------------------------------------------------------------------------- delta */

constexpr uint32_t DELTA_WARPS = 8;

/* A warp for each (pair, head, token); rows = pairs * heads * tokens. */
template <class T>
static __global__ void __launch_bounds__(DELTA_WARPS * 32)
    attention_delta_kernel(gpu_attention a, const void *result, const void *dresult, float *delta, uint32_t stride,
                           uint32_t rows) {
    const uint32_t row = blockIdx.x * DELTA_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const uint32_t token = row % a.tokens, head = row / a.tokens % a.heads, pair = row / a.tokens / a.heads;
    const size_t first = ((size_t)pair * a.tokens + token) * stride + head * a.width;
    const T *o = static_cast<const T *>(result) + first, *g = static_cast<const T *>(dresult) + first;
    float sum = 0;
    for (uint32_t c = lane; c < a.width; c += 32) sum = fmaf(to_float(o[c]), to_float(g[c]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[row] = sum;
}

/* --------------------------------------------------------------------------------------------- plain kernels */

/* Rows of a head that a warp has finished: scaled, rounded, added to what is there. */
template <class T>
static GPU_INLINE void write_gradient(const gpu_attention &a, const attention_head &h, uint32_t row, uint32_t lane,
                                      const float o[ROWS][OWNED], float scale, void *out, bool add) {
    using one = channel_vector<T, 1>;
    const uint32_t behind = h.head + 1 == a.heads && !add ? h.stride - a.heads * a.width : 0;
    for (uint32_t r = 0; r < ROWS && row + r < a.tokens; r++)
        if (lane < behind)
            static_cast<T *>(out)[h.first + (size_t)(row + r) * h.stride + a.width + lane] = from_float<T>(0);
#pragma unroll
    for (uint32_t j = 0; j < OWNED; j++) {
        const uint32_t c = lane + 32 * j;
        if (c >= a.width) break;
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            float value[1] = {o[r][j] * scale};
            if (row + r < a.tokens) store_gradient<one>(out, h.first + (size_t)(row + r) * h.stride + c, value, add);
        }
    }
}

/* What belongs to a row of queries: logsum and delta, zeros behind the last. */
struct query_statistics {
    float logsum, delta;
};

static GPU_INLINE query_statistics statistics_at(const gpu_attention &a, const attention_head &h,
                                                 const attention_gradients &d, uint32_t row) {
    if (row >= a.tokens) return {0, 0};
    const size_t at = statistics_of(a, h) + row;
    return {a.logsum[at], d.out[0] ? d.delta[at] : 0};
}

template <class T, attention_side SIDE>
static __global__ void __launch_bounds__(256, 1)
    attention_reverse_kernel(attention_job job, attention_gradients d, uint32_t pitch) {
    GPU_DYNAMIC_SHARED(float, other);
    const gpu_attention &a = job.a;
    const attention_head h = head_of_block(job);
    const uint32_t lane = threadIdx.x % 32, warp_row = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0) * ROWS;
    const uint32_t tile = KEYS * pitch, block = job.block_rows * pitch, row = h.row + warp_row;
    float *own = other + 2 * tile, *slopes = own + 2 * block + warp_row * (2 * KEYS), *weights = slopes + ROWS * KEYS;
    load_rows<T>(d.own[0], a, h, h.row, job.block_rows, pitch, own);
    load_rows<T>(d.own[1], a, h, h.row, job.block_rows, pitch, own + block);

    float out[2][ROWS][OWNED] = {};
    query_statistics mine[ROWS];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) mine[r] = statistics_at(a, h, d, row + r);
    const rows_met block_meets = rows_of_other(a, SIDE, h.row, job.block_rows),
                   meets = rows_of_other(a, SIDE, row, ROWS);
    for (uint32_t first = block_meets.first / KEYS * KEYS; first < block_meets.end; first += KEYS) {
        __syncthreads(); /* nobody reads the tile before */
        load_rows<T>(d.other[0], a, h, first, KEYS, pitch, other);
        load_rows<T>(d.other[1], a, h, first, KEYS, pitch, other + tile);
        __syncthreads();
        if (row >= a.tokens || first + KEYS <= meets.first || first >= meets.end) continue;
        float s[ROWS], dp[ROWS];
        score_key(own + warp_row * pitch, other + lane * pitch, a.width, pitch, s);
        score_key(own + block + warp_row * pitch, other + tile + lane * pitch, a.width, pitch, dp);
        const query_statistics theirs = statistics_at(a, h, d, first + lane);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            const query_statistics q = SIDE == ATTENTION_QUERIES ? mine[r] : theirs;
            const rows_met met = rows_of_other(a, SIDE, row + r, 1);
            const bool inside = first + lane >= met.first && first + lane < met.end;
            const float p = inside ? exp2f(fmaf(s[r], job.scale, -q.logsum)) : 0;
            slopes[r * KEYS + lane] = p * __fadd_rn(dp[r], -q.delta);
            if (SIDE == ATTENTION_KEYS) weights[r * KEYS + lane] = p;
        }
        __syncwarp(); /* a lane's numbers are for all lanes; the barrier above keeps the next tile's from them */
        if (SIDE == ATTENTION_QUERIES || d.out[0]) mix_values(slopes, other, a.width, pitch, lane, out[0]);
        if (SIDE == ATTENTION_KEYS && d.out[1]) mix_values(weights, other + tile, a.width, pitch, lane, out[1]);
    }
    if (row >= a.tokens) return;
    const float scale = 1 / sqrtf((float)a.width);
    if (d.out[0]) write_gradient<T>(a, h, row, lane, out[0], scale, d.out[0], d.add[0]);
    if (SIDE == ATTENTION_KEYS && d.out[1]) write_gradient<T>(a, h, row, lane, out[1], 1, d.out[1], d.add[1]);
}

template <class T, attention_side SIDE>
static cudaError_t plain_launch(const gpu_attention *a, const attention_gradients &d, cudaStream_t stream) {
    const uint32_t warps = attention_warps(a->tokens, a->width <= 128 ? 8 : 2), pitch = attention_pitch(a->width);
    const size_t shared = (2 * (KEYS + ROWS * warps) * pitch + 2 * ROWS * warps * KEYS) * sizeof(float);
    attention_job job;
    dim3 grid;
    if (!attention_job_of(a, ROWS * warps, &job, &grid)) return cudaErrorInvalidValue;
    return gpu_launch(attention_reverse_kernel<T, SIDE>, grid, dim3(warps * 32), shared, stream, job, d, pitch);
}

/* ------------------------------------------------------------------------------------------------ launchers */

template <class T>
static cudaError_t side_launch(const gpu_attention *a, attention_side side, const attention_gradients &d,
                               cudaStream_t stream) {
    if (!d.out[0] && !d.out[1]) return cudaSuccess;
    if (attention_reverse_mma_can(a)) return attention_reverse_mma_launch(a, side, d, stream);
    return side == ATTENTION_QUERIES ? plain_launch<T, ATTENTION_QUERIES>(a, d, stream)
                                     : plain_launch<T, ATTENTION_KEYS>(a, d, stream);
}

template <class T>
static cudaError_t launch(const gpu_attention *a, const gpu_attention_reverse *r, cudaStream_t stream) {
    const void *result = a->result ? a->result : a->y;
    const uint32_t rows = a->pairs * a->heads * a->tokens, stride = gpu_stride(a->heads * a->width);
    const attention_gradients queries = {
        {a->q, r->dresult}, {a->k, a->v}, {r->dq, NULL}, {r->add_q, false}, r->workspace};
    const attention_gradients keys = {
        {a->k, a->v}, {a->q, r->dresult}, {r->dk, r->dv}, {r->add_k, r->add_v}, r->workspace};
    cudaError_t error = cudaSuccess;
    if (r->dq || r->dk) /* dv needs the weights alone */
        error = gpu_launch(attention_delta_kernel<T>, dim3(blocks_of(rows, DELTA_WARPS)), dim3(DELTA_WARPS * 32), 0,
                           stream, *a, result, r->dresult, r->workspace, stride, rows);
    if (error == cudaSuccess) error = side_launch<T>(a, ATTENTION_QUERIES, queries, stream);
    return error == cudaSuccess ? side_launch<T>(a, ATTENTION_KEYS, keys, stream) : error;
}

static bool valid(const gpu_attention *a, const gpu_attention_reverse *r) {
    if (!a->pairs || !a->tokens || !a->heads || !a->width || a->width > ATTENTION_WIDTH) return false;
    if ((uint64_t)a->heads * a->width > INT32_MAX || a->tokens > INT32_MAX) return false;
    if ((uint64_t)a->pairs * a->heads > (UINT32_MAX - DELTA_WARPS) / a->tokens) return false;
    if (!a->q || !a->k || !a->v || !a->logsum || !(a->result || a->y)) return false;
    return r->dresult && r->workspace;
}

extern "C" cudaError_t gpu_attention_reverse_launch(const gpu_attention *a, const gpu_attention_reverse *r,
                                                    cudaStream_t stream) {
    if (!valid(a, r)) return cudaErrorInvalidValue;
    switch (a->type) {
    case GPU_F32:
    case GPU_TF32:
        return launch<float>(a, r, stream);
    case GPU_BF16:
        return launch<bf16>(a, r, stream);
    case GPU_F16:
        return launch<half>(a, r, stream);
    }
    return cudaErrorInvalidValue;
}
