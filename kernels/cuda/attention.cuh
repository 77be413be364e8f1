/*
 * attention.cuh - what the attention kernels share: where a block works, the mask of a head, who calls whom.
 *
 * A block computes some query rows (backwards: or keys) of one head of one pair, whatever kernel it runs. Blocks are
 * numbered rows first, then heads, then pairs, so that those which read the same keys and values run side by side and
 * find them in L2. Must not know: graphs, models, other ops.
 */
#ifndef COAR_KERNELS_CUDA_ATTENTION_CUH
#define COAR_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/vectors.cuh"

/* Widest head of the tensor-core kernels, and of any. */
constexpr uint32_t ATTENTION_MMA_WIDTH = 128, ATTENTION_WIDTH = 256;

/* One launch: the arguments and what follows from them. */
struct attention_job {
    gpu_attention a;
    uint32_t row_blocks; /* blocks of one head */
    uint32_t block_rows; /* query rows of one block */
    uint32_t stride;     /* elements from one token to the next */
    float scale;         /* log2(e) / sqrt(width): exponentials are taken to the base 2 */
};

/* The head that a block works on, and its first query. A pair's value has less than 2^31 elements. */
struct attention_head {
    uint32_t head, pair, row;
    uint32_t stride; /* elements from one token to the next */
    size_t first;    /* element of token 0, channel 0 of the head: the same in q, k, v and y */
};

static GPU_INLINE attention_head head_of_block(const attention_job &job) {
    const gpu_attention &a = job.a;
    const uint32_t row_block = blockIdx.x % job.row_blocks, item = blockIdx.x / job.row_blocks;
    const uint32_t head = item % a.heads, pair = item / a.heads;
    return {head, pair, row_block * job.block_rows, job.stride,
            (size_t)pair * (a.tokens * job.stride) + head * a.width};
}

/* Keys that some of `rows` queries from `row` on see are those below this. */
static GPU_INLINE uint32_t keys_seen(const gpu_attention &a, uint32_t row, uint32_t rows) {
    return a.causal ? min(a.tokens, row + rows) : a.tokens;
}

/* Where a head's logsum, or another number for each of its tokens, begins in [pairs][heads][tokens]. */
static GPU_INLINE size_t statistics_of(const gpu_attention &a, const attention_head &h) {
    return ((size_t)h.pair * a.heads + h.head) * a.tokens;
}

/* The mask of a head. Looked up where results are written: kept through the loop over keys, it would cost registers. */
struct attention_mask {
    const float *keep, *fill; /* of channel 0 of the head; keep NULL: no mask; fill NULL: zeros */
};

static GPU_INLINE attention_mask mask_of_head(const gpu_attention &a, const attention_head &h) {
    const gpu_mask &m = a.mask;
    const uint32_t channel = h.head * a.width;
    if (m.place == GPU_PLACE_NONE) return {nullptr, nullptr};
    return {m.keep + (size_t)m.slot[h.pair] * m.rows + channel, m.fill ? m.fill + channel : nullptr};
}

/* One channel of it: x becomes keep x + constant. Without a mask 1 and 0, which leave x as it is. */
struct channel_mask {
    float keep, constant;
};

static GPU_INLINE channel_mask mask_of_channel(const attention_mask &m, uint32_t c) {
    if (!m.keep) return {1, 0};
    const float keep = m.keep[c];
    return {keep, m.fill ? (1 - keep) * m.fill[c] : 0.0f};
}

static GPU_INLINE float masked(channel_mask m, float x) {
    return fmaf(m.keep, x, m.constant);
}

/* The job and grid of a launch whose blocks have `block_rows` rows each; false where the grid or a value is too
 * large. */
static inline bool attention_job_of(const gpu_attention *a, uint32_t block_rows, attention_job *job, dim3 *grid) {
    const uint32_t row_blocks = blocks_of(a->tokens, block_rows);
    const uint32_t stride = gpu_stride(a->heads * a->width);
    if ((uint64_t)a->pairs * a->heads > INT32_MAX / row_blocks || a->tokens > INT32_MAX / stride) return false;
    *job = {*a, row_blocks, block_rows, stride, 1.44269504088896341f / sqrtf((float)a->width)};
    *grid = dim3(a->pairs * a->heads * row_blocks);
    return true;
}

/* attention_mma.cu: whether the tensor-core kernels can compute a, and their launch. */
bool attention_mma_can(const gpu_attention *a);
cudaError_t attention_mma_launch(const gpu_attention *a, cudaStream_t stream);

/* ---------------------------------------------------------------------------------------------- gradients */

/* A block of the reverse kernels owns rows of one side of a head's scores and goes over all rows of the other: queries,
 * whose gradient is dq, or keys, with dk and dv. What a side is multiplied by, rows [tokens][width] of a head each:
 *   queries   own q, dresult    other k, v          scores = own[0] other[0]', weights' gradients = own[1] other[1]'
 *   keys      own k, v          other q, dresult    the same, transposed */
enum attention_side { ATTENTION_QUERIES, ATTENTION_KEYS };

/* What `rows` rows of a side from `row` on have weights with: rows of the other side from `first` to before `end`. */
struct rows_met {
    uint32_t first, end;
};

static GPU_INLINE rows_met rows_of_other(const gpu_attention &a, attention_side side, uint32_t row, uint32_t rows) {
    if (side == ATTENTION_QUERIES) return {0, keys_seen(a, row, rows)};
    return {a.causal ? row : 0, a.tokens};
}

struct attention_gradients {
    const void *own[2], *other[2];
    void *out[2]; /* sum of (gradients of scores) other[0]; keys: sum of weights other[1]. NULL = not wanted */
    bool add[2];
    const float *delta; /* [pairs][heads][tokens]: dresult . result */
};

/* attention_reverse_mma.cu: 16-bit types, and the widths that attention_mma.cu takes. */
bool attention_reverse_mma_can(const gpu_attention *a);
cudaError_t attention_reverse_mma_launch(const gpu_attention *a, attention_side side, const attention_gradients &d,
                                         cudaStream_t stream);

#endif
