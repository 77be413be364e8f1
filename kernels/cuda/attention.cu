/*
 * attention.cu - the launcher of attention, and the plain kernel: fp32 arithmetic, any type, any width up to 256.
 *
 *   y[p][t][h] = out(sum over s of softmax_s(q[p][t][h] . k[p][s][h] / sqrt(width)) v[p][s][h])
 *
 * over all tokens s or, causal, s <= t: a block ends with the tile of its last query.
 *
 * q, k, v, y [pairs][tokens][gpu_stride(heads * width)]. The plain kernel computes GPU_F32 (reference grade: no
 * operand is rounded) and, for the other types, the widths that attention_mma.cu does not take; the last head zeroes
 * the channels behind it.
 *
 * Block: up to 8 warps (4 from width 129 up) of ROWS query rows each, of one head of one pair. Tiles of 32 keys, with
 * the online softmax between them (attention_mma.cu states it): a lane scores one key for all rows of the warp, then
 * owns the channels lane, lane + 32, ... of the result. Sums run over channels and over keys in order, one
 * multiply-add at a time; l is summed per lane and over lanes at the end. Bits depend on T and width only.
 *
 * Shared memory, fp32: K and V tiles, the block's queries, the weights of one tile: (64 + ROWS warps) pitch + 32 ROWS
 * warps values, pitch the width rounded up to a multiple of 4 that is odd in vectors (lanes read different keys at one
 * channel): 30 KiB at width 64, 53 at 128, 84 at 256, whatever T is. Registers: 128, no spills.
 *
 * Flops 4 T^2 width, bytes 4 T width size, per head and pair. ViT-B/16, T = 197, 12 heads of 64, 256 pairs, fp32, A100
 * (19.5 TFLOP/s, 2.04 TB/s): 30.5 GFLOP, 1.57 ms; 620 MB, 0.30 ms: bound by arithmetic, and by the reads of shared
 * memory that feed it (16 multiply-adds to 5 reads of 16 bytes in the scores, 32 to 12 in the mixing).
 */
#include "kernels/cuda/attention_plain.cuh"

/* y = out(o / sum) for the rows of a warp from `row` on, the zeros behind the last head, and, where they are wanted,
 * the result before the mask and log2 of the sums. */
template <class T>
static GPU_INLINE void write_rows(const gpu_attention &a, const attention_head &h, uint32_t row, uint32_t lane,
                                  const float o[ROWS][OWNED], const float sum[ROWS], const float largest[ROWS]) {
    const attention_mask mask = mask_of_head(a, h);
    const uint32_t behind = h.head + 1 == a.heads ? h.stride - a.heads * a.width : 0;
    const size_t first = h.first + (size_t)row * h.stride;
    T *y = static_cast<T *>(a.y) + first, *result = a.result ? static_cast<T *>(a.result) + first : nullptr;
    float inverse[ROWS];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        const float all = warp_sum(sum[r]);
        inverse[r] = 1 / all;
        if (a.logsum && lane == 0 && row + r < a.tokens)
            a.logsum[statistics_of(a, h) + row + r] = largest[r] + log2f(all);
    }
#pragma unroll
    for (uint32_t j = 0; j < OWNED; j++) {
        const uint32_t c = lane + 32 * j;
        if (c >= a.width) break;
        const channel_mask m = mask_of_channel(mask, c);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            if (row + r >= a.tokens) continue;
            y[r * h.stride + c] = from_float<T>(masked(m, o[r][j] * inverse[r]));
            if (result) result[r * h.stride + c] = from_float<T>(o[r][j] * inverse[r]);
        }
    }
    if (lane >= behind) return;
    for (uint32_t r = 0; r < ROWS && row + r < a.tokens; r++) {
        y[r * h.stride + a.width + lane] = from_float<T>(0);
        if (result) result[r * h.stride + a.width + lane] = from_float<T>(0);
    }
}

template <class T>
static __global__ void __launch_bounds__(256, 2) attention_plain_kernel(attention_job job, uint32_t pitch) {
    GPU_DYNAMIC_SHARED(float, k);
    const gpu_attention &a = job.a;
    const attention_head h = head_of_block(job);
    const uint32_t lane = threadIdx.x % 32, warp_row = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0) * ROWS;
    float *v = k + KEYS * pitch, *queries = v + KEYS * pitch, *q = queries + warp_row * pitch;
    float *weights = queries + job.block_rows * pitch + warp_row * KEYS;
    load_rows<T>(a.q, a, h, h.row, job.block_rows, pitch, queries);

    float o[ROWS][OWNED] = {}, largest[ROWS], sum[ROWS];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) largest[r] = -INFINITY, sum[r] = 0;
    const uint32_t row = h.row + warp_row, keys = keys_seen(a, h.row, job.block_rows);
    for (uint32_t first = 0; first < keys; first += KEYS) {
        __syncthreads(); /* nobody reads the tile before */
        load_rows<T>(a.k, a, h, first, KEYS, pitch, k);
        load_rows<T>(a.v, a, h, first, KEYS, pitch, v);
        __syncthreads();
        if (row >= a.tokens) continue;
        float s[ROWS];
        score_key(q, k + lane * pitch, a.width, pitch, s);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            if (first + lane >= keys_seen(a, row + r, 1)) s[r] = -INFINITY;
            const float next = fmaxf(largest[r], warp_max(s[r]) * job.scale), rescale = exp2f(largest[r] - next);
            const float p = exp2f(fmaf(s[r], job.scale, -next));
            weights[r * KEYS + lane] = p;
            sum[r] = sum[r] * rescale + p;
            largest[r] = next;
#pragma unroll
            for (uint32_t j = 0; j < OWNED; j++) o[r][j] *= rescale;
        }
        __syncwarp(); /* a lane's weights are for all lanes; the barrier above keeps the next tile's from them */
        mix_values(weights, v, a.width, pitch, lane, o);
    }
    if (row < a.tokens) write_rows<T>(a, h, row, lane, o, sum, largest);
}

template <class T> static cudaError_t plain_launch(const gpu_attention *a, cudaStream_t stream) {
    const uint32_t warps = attention_warps(a->tokens, a->width <= 128 ? 8 : 4), pitch = attention_pitch(a->width);
    const size_t shared = ((2 * KEYS + ROWS * warps) * pitch + ROWS * warps * KEYS) * sizeof(float);
    attention_job job;
    dim3 grid;
    if (!attention_job_of(a, ROWS * warps, &job, &grid)) return cudaErrorInvalidValue;
    return gpu_launch(attention_plain_kernel<T>, grid, dim3(warps * 32), shared, stream, job, pitch);
}

static bool valid(const gpu_attention *a) {
    const gpu_mask *m = &a->mask;
    if (!a->pairs || !a->tokens || a->tokens > INT32_MAX || !a->heads) return false;
    if (!a->width || a->width > ATTENTION_WIDTH) return false;
    if ((uint64_t)a->heads * a->width > INT32_MAX) return false;
    if (!a->q || !a->k || !a->v || !a->y) return false;
    return m->place == GPU_PLACE_NONE || (m->place == GPU_PLACE_OUT && m->keep && m->slot);
}

extern "C" cudaError_t gpu_attention_launch(const gpu_attention *a, cudaStream_t stream) {
    if (!valid(a)) return cudaErrorInvalidValue;
    if (attention_mma_can(a)) return attention_mma_launch(a, stream);
    switch (a->type) {
    case GPU_F32:
    case GPU_TF32:
        return plain_launch<float>(a, stream);
    case GPU_BF16:
        return plain_launch<bf16>(a, stream);
    case GPU_F16:
        return plain_launch<half>(a, stream);
    }
    return cudaErrorInvalidValue;
}
