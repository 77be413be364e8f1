/*
 * next.cu - what a language model says of the next token: from a position's logits to four numbers, and back.
 *
 *   y[q] = {logit of the next token, largest of the others, log of the sum of exp over all, which the largest other is}
 *   dlogits[q][v] = exp(logits[q][v] - y[q][LOGSUM]) dy[q][LOGSUM] + [v is next] dy[q][LOGIT] + [v is other] dy[q][LARGEST]
 *   picked: dx[q] = dy[q][LOGIT] weight[next] + dy[q][LARGEST] weight[other]           where dy[..][LOGSUM] = 0
 *
 * logits fp32 [rows][gpu_stride(V)], y and dy fp32 [pairs * tokens][4], dlogits [rows][gpu_stride(V)], dx
 * [pairs * tokens][gpu_stride(channels)].
 *
 * Forward: one block per position, a thread takes the vectors of four logits i, i + threads, ..., so logits are read
 * once: the sum of exponentials is kept relative to the largest logit so far, as attention's online softmax keeps its
 * own (Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3). Results meet in trees of fixed shape, over lanes
 * and then over warps; threads follow from V alone, and so do all bits. dlogits and picked: one thread per vector. fp32
 * throughout. A largest logit of -inf begins at -FLT_MAX, so that logits of -inf weigh nothing instead of NaN.
 *
 * Shared memory: 128 bytes. Registers (sm_80): 19 to 31, no spills. Bytes, for each position: 4 V forward, (4 + size) V
 * backward; flops about 5 V with an exponential. GPT-2 (V = 50,257), 640 positions at a time: 129 MB, 63 us at 2.04
 * TB/s (A100 80 GB), 38 us at 3.35 TB/s (H100), beside products of 49 Gflop, 158 us at 312 Tflop/s and 50 us at 989
 * Tflop/s, which write those bytes: to reduce logits where they are made would save both.
 */
#include <cfloat>

#include "kernels/cuda/vectors.cuh"

constexpr uint32_t NEXT_THREADS = 256, NEXT_WARPS = NEXT_THREADS / 32;
constexpr float LOG2_E = 1.44269504088896341f;

static_assert(GPU_NEXT_CHANNELS == 4, "a position's numbers are one vector");
using next_numbers = channel_vector<float, GPU_NEXT_CHANNELS>;

/* The token behind a position of the batch; 0 where the text ends. */
static GPU_INLINE uint32_t next_token(const gpu_next &n, uint32_t position) {
    const uint32_t t = position % n.tokens;
    const int32_t *text = n.token + (size_t)n.example[position / n.tokens] * n.tokens;
    return t + 1 < n.tokens ? (uint32_t)text[t + 1] : 0;
}

/* ------------------------------------------------------------------------------------------------- forward */

/* Of some of a position's logits. */
struct logit_summary {
    float other;          /* the largest that is not the next token's, */
    uint32_t other_token; /* and whose it is; UINT32_MAX: there is none yet */
    float largest, sum;   /* sum of exp(logit - largest) */
};

/* NaN ranks above everything, the first above its equals. */
static GPU_INLINE bool ranks_above(float a, uint32_t a_token, float b, uint32_t b_token) {
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a != b) return a > b;
    return a_token < b_token;
}

static GPU_INLINE void take_other(logit_summary &s, float logit, uint32_t token) {
    if (!ranks_above(logit, token, s.other, s.other_token)) return;
    s.other = logit;
    s.other_token = token;
}

/* exp(logit - largest); 0 where logit is -inf, 1 where both are equal. */
static GPU_INLINE float weight_of(float logit, float largest) {
    return fast_exp2((logit - largest) * LOG2_E);
}

/* Four logits, of tokens first, first + 1, ... as far as there are so many. */
static GPU_INLINE void add_logits(logit_summary &s, next_numbers in, uint32_t first, uint32_t vocabulary,
                                  uint32_t next) {
    float largest = s.largest;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (first + i >= vocabulary)
            in.at[i] = -INFINITY; /* weighs nothing */
        else if (first + i != next)
            take_other(s, in.at[i], first + i);
        largest = fmaxf(largest, in.at[i]);
    }
    if (largest > s.largest) s.sum *= weight_of(s.largest, largest);
    s.largest = largest;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) s.sum += weight_of(in.at[i], largest);
}

static GPU_INLINE void add_summary(logit_summary &s, const logit_summary &more) {
    const float largest = fmaxf(s.largest, more.largest);
    take_other(s, more.other, more.other_token);
    s.sum = fmaf(s.sum, weight_of(s.largest, largest), more.sum * weight_of(more.largest, largest));
    s.largest = largest;
}

/* Lane 0 has what all lanes had. */
static GPU_INLINE void gather_lanes(logit_summary &s) {
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        const logit_summary more = {
            __shfl_down_sync(0xffffffffu, s.other, d), __shfl_down_sync(0xffffffffu, s.other_token, d),
            __shfl_down_sync(0xffffffffu, s.largest, d), __shfl_down_sync(0xffffffffu, s.sum, d)};
        add_summary(s, more);
    }
}

static __global__ void __launch_bounds__(NEXT_THREADS) next_kernel(gpu_next n, uint32_t vectors) {
    GPU_SHARED(logit_summary, part, [NEXT_WARPS]);
    const uint32_t row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const uint32_t next = next_token(n, n.first + row);
    const logit_summary none = {-INFINITY, UINT32_MAX, -FLT_MAX, 0};
    logit_summary s = none;
    for (uint32_t v = threadIdx.x; v < vectors; v += blockDim.x)
        add_logits(s, load_vector<next_numbers>(n.logits, (size_t)row * vectors + v), v * 4, n.vocabulary, next);
    gather_lanes(s);
    if (lane == 0) part[warp] = s;
    __syncthreads();
    if (warp > 0) return;
    s = lane < warps ? part[lane] : none;
    gather_lanes(s);
    if (lane > 0) return;
    next_numbers y;
    y.at[GPU_NEXT_LOGIT] = n.logits[(size_t)row * vectors * 4 + next];
    y.at[GPU_NEXT_LARGEST] = s.other;
    y.at[GPU_NEXT_LOGSUM] = s.largest + logf(s.sum);
    y.at[GPU_NEXT_OTHER] = (float)s.other_token;
    store_vector(n.y, n.first + row, y);
}

static bool valid(const gpu_next *n) {
    return n->rows && n->tokens && n->rows <= UINT32_MAX - n->first && n->vocabulary >= 2 &&
           n->vocabulary <= 1u << 24 && n->token && n->example && n->y;
}

extern "C" cudaError_t gpu_next_launch(const gpu_next *n, cudaStream_t stream) {
    if (!valid(n) || !n->logits) return cudaErrorInvalidValue;
    const uint32_t vectors = gpu_stride(n->vocabulary) / 4, warps = blocks_of(vectors, 2 * 32);
    return gpu_launch(next_kernel, dim3(n->rows), dim3(32 * (warps < NEXT_WARPS ? warps : NEXT_WARPS)), 0, stream, *n,
                      vectors);
}

/* ----------------------------------------------------------------------------------------------- gradients */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    next_reverse_kernel(gpu_next n, const float *dy, void *dlogits, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t position = n.first + item / vectors, first = item % vectors * V::width;
    const next_numbers given = load_vector<next_numbers>(dy, position), y = load_vector<next_numbers>(n.y, position);
    const uint32_t next = next_token(n, position), other = (uint32_t)y.at[GPU_NEXT_OTHER];
    const float sum = given.at[GPU_NEXT_LOGSUM];
    V out;
#pragma unroll
    for (uint32_t v = 0; v < V::width; v += 4) {
        const next_numbers logits = load_vector<next_numbers>(n.logits, ((size_t)item * V::width + v) / 4);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t token = first + v + i;
            float g = sum != 0 ? weight_of(logits.at[i], y.at[GPU_NEXT_LOGSUM]) * sum : 0;
            if (token == next) g = __fadd_rn(g, given.at[GPU_NEXT_LOGIT]);
            if (token == other) g = __fadd_rn(g, given.at[GPU_NEXT_LARGEST]);
            out.at[v + i] = from_float<typename V::element>(token < n.vocabulary ? g : 0);
        }
    }
    store_vector(dlogits, item, out);
}

extern "C" cudaError_t gpu_next_reverse_launch(const gpu_next *n, const float *dy, void *dlogits, cudaStream_t stream) {
    if (!valid(n) || !n->logits || !dy || !dlogits) return cudaErrorInvalidValue;
    return with_vectors(n->type, n->vocabulary, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(next_reverse_kernel<V>, n->rows, n->vocabulary, stream, *n, dy, dlogits);
    });
}

/* A factor of a product, as tensor cores take it. */
template <class T> static GPU_INLINE float factor(float x, bool as_tf32) {
    return as_tf32 ? __uint_as_float(round_tf32(x)) : to_float(from_float<T>(x));
}

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    next_picked_kernel(gpu_next n, const float *dy, const void *weight, void *dx, bool add, uint32_t vectors,
                       uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t position = n.first + item / vectors, vector = item % vectors;
    const bool as_tf32 = n.type == GPU_TF32;
    const next_numbers given = load_vector<next_numbers>(dy, position);
    const float logit = factor<typename V::element>(given.at[GPU_NEXT_LOGIT], as_tf32);
    const float largest = factor<typename V::element>(given.at[GPU_NEXT_LARGEST], as_tf32);
    const uint32_t next = next_token(n, position);
    const uint32_t other = (uint32_t)n.y[(size_t)position * GPU_NEXT_CHANNELS + GPU_NEXT_OTHER];
    V mine = {}, theirs = {};
    if (logit != 0) mine = load_vector<V>(weight, (size_t)next * vectors + vector);
    if (largest != 0) theirs = load_vector<V>(weight, (size_t)other * vectors + vector);
    float g[V::width];
#pragma unroll
    for (int i = 0; i < V::width; i++)
        g[i] = fmaf(logit, factor<typename V::element>(to_float(mine.at[i]), as_tf32),
                    largest * factor<typename V::element>(to_float(theirs.at[i]), as_tf32));
    store_gradient<V>(dx, (size_t)position * vectors + vector, g, add);
}

extern "C" cudaError_t gpu_next_picked_launch(const gpu_next *n, const float *dy, uint32_t channels, const void *weight,
                                              void *dx, bool add, cudaStream_t stream) {
    if (!valid(n) || !dy || !channels || !weight || !dx) return cudaErrorInvalidValue;
    return with_vectors(n->type, channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(next_picked_kernel<V>, n->rows, channels, stream, *n, dy, weight, dx, add);
    });
}
