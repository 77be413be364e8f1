/*
 * tokens.cu - what language models and CLIP do to tokens beside attention, and its gradients.
 *
 *   lookup      y[p][t] = table[token[example[p]][t]] + position[t]
 *   mean token  y[p][0] = (sum over t of x[p][t]) / T + table[0], y[p][t] = x[p][t - 1] + table[t]
 *   unit        y[q] = x[q] / |x[q]|, 0 where x[q] is
 *
 *   mean token  dx[p][t] = dy[p][t + 1] + dy[p][0] / T
 *   unit        dx[q] = (dy[q] - x[q] (x[q] . dy[q]) / |x[q]|^2) / |x[q]|, dy[q] where x[q] = 0
 *
 * Values [..][positions][gpu_stride(channels)], tables fp32; sums fp32. Token numbers have no gradient. The channels
 * behind the last one are written as zeros.
 *
 * Lookup and gradients of mean tokens: one thread per vector of the result. Mean token: one thread for a vector of all
 * tokens of a pair, which it adds up in their order on the way. Unit: one warp per position, eight a block; a lane
 * takes the vectors lane, lane + 32, ..., sums meet in a tree of fixed shape, and the position is read once more (from
 * L1) to be scaled. No shared memory. Registers (sm_80): 16 to 46, no spills. Bytes: what is read and written once;
 * flops 1 to 4 an element. Roofline, A100 80 GB (2.04 TB/s) and H100 (3.35 TB/s): lookup of 1,024 x 768 bf16 tokens, 64
 * pairs: 201 MB of fp32 rows of the table (from L2 where texts share words) + 101 MB, 0.15 and 0.09 ms; mean token of
 * 49 x 2,048 bf16, 256 pairs: 103 MB, 50 us and 31 us.
 */
#include "kernels/cuda/vectors.cuh"

/* ------------------------------------------------------------------------------------------------- lookup */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    lookup_kernel(gpu_lookup l, uint32_t stride, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t row = item / vectors, first = item % vectors * V::width, t = row % l.tokens;
    const uint32_t token = (uint32_t)l.token[(size_t)l.example[row / l.tokens] * l.tokens + t];
    float table[V::width], position[V::width];
    load_floats<V::width>(l.table + (size_t)token * stride, first, stride, table);
    load_floats<V::width>(l.position + (size_t)t * l.channels, first, l.channels, position);
    V y;
#pragma unroll
    for (int i = 0; i < V::width; i++) y.at[i] = from_float<typename V::element>(table[i] + position[i]);
    store_vector(l.y, item, y);
}

extern "C" cudaError_t gpu_lookup_launch(const gpu_lookup *l, cudaStream_t stream) {
    if (!l->pairs || !l->tokens || !l->channels) return cudaErrorInvalidValue;
    return with_vectors(l->type, l->channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(lookup_kernel<V>, (size_t)l->pairs * l->tokens, l->channels, stream, *l,
                               gpu_stride(l->channels));
    });
}

/* --------------------------------------------------------------------------------------------- mean token */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    mean_token_kernel(gpu_embed e, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t vector = item % vectors, first = vector * V::width, pair = item / vectors;
    const size_t x = (size_t)pair * (e.tokens - 1) * vectors + vector, y = (size_t)pair * e.tokens * vectors + vector;
    float sum[V::width] = {}, table[V::width];
    for (uint32_t t = 1; t < e.tokens; t++) {
        const V in = load_vector<V>(e.x, x + (size_t)(t - 1) * vectors);
        V out;
        load_floats<V::width>(e.table + (size_t)t * e.channels, first, e.channels, table);
#pragma unroll
        for (int i = 0; i < V::width; i++) {
            sum[i] += to_float(in.at[i]);
            out.at[i] = from_float<typename V::element>(to_float(in.at[i]) + table[i]);
        }
        store_vector(e.y, y + (size_t)t * vectors, out);
    }
    V mean;
    load_floats<V::width>(e.table, first, e.channels, table);
#pragma unroll
    for (int i = 0; i < V::width; i++)
        mean.at[i] = from_float<typename V::element>(__fadd_rn(sum[i] / (float)(e.tokens - 1), table[i]));
    store_vector(e.y, y, mean);
}

extern "C" cudaError_t gpu_mean_token_launch(const gpu_embed *e, cudaStream_t stream) {
    if (!e->pairs || e->tokens < 2 || !e->channels) return cudaErrorInvalidValue;
    return with_vectors(e->type, e->channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(mean_token_kernel<V>, e->pairs, e->channels, stream, *e);
    });
}

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    mean_token_reverse_kernel(gpu_embed e, const void *dy, void *dx, bool add, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t row = item / vectors, vector = item % vectors, rows = e.tokens - 1, pair = row / rows;
    const size_t from = (size_t)pair * e.tokens * vectors + vector;
    const V mean = load_vector<V>(dy, from), own = load_vector<V>(dy, from + (size_t)(row % rows + 1) * vectors);
    float g[V::width];
#pragma unroll
    for (int i = 0; i < V::width; i++) g[i] = __fadd_rn(to_float(own.at[i]), to_float(mean.at[i]) / (float)rows);
    store_gradient<V>(dx, item, g, add);
}

extern "C" cudaError_t gpu_mean_token_reverse_launch(const gpu_embed *e, const void *dy, void *dx, bool add,
                                                     cudaStream_t stream) {
    if (!e->pairs || e->tokens < 2 || !e->channels) return cudaErrorInvalidValue;
    return with_vectors(e->type, e->channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(mean_token_reverse_kernel<V>, (size_t)e->pairs * (e->tokens - 1), e->channels, stream,
                               *e, dy, dx, add);
    });
}

/* --------------------------------------------------------------------------------------------------- unit */

constexpr uint32_t UNIT_WARPS = 8;

/* x . y over a row of vectors that begins at vector `first`, in every lane; the channels behind the last are zeros. */
template <class V> static GPU_INLINE float row_product(const void *x, const void *y, size_t first, uint32_t vectors) {
    float sum = 0;
    for (uint32_t v = threadIdx.x % 32; v < vectors; v += 32) {
        const V a = load_vector<V>(x, first + v), b = load_vector<V>(y, first + v);
#pragma unroll
        for (int i = 0; i < V::width; i++) sum = fmaf(to_float(a.at[i]), to_float(b.at[i]), sum);
    }
    return warp_sum(sum);
}

template <class V>
static __global__ void __launch_bounds__(UNIT_WARPS * 32)
    unit_kernel(const void *x, void *y, uint32_t rows, uint32_t vectors) {
    const uint32_t row = blockIdx.x * UNIT_WARPS + threadIdx.x / 32;
    if (row >= rows) return; /* whole warps */
    const size_t first = (size_t)row * vectors;
    const float squares = row_product<V>(x, x, first, vectors), inverse = squares > 0 ? sqrtf(squares) / squares : 1;
    for (uint32_t v = threadIdx.x % 32; v < vectors; v += 32) {
        const V in = load_vector<V>(x, first + v);
        V out;
#pragma unroll
        for (int i = 0; i < V::width; i++) out.at[i] = from_float<typename V::element>(to_float(in.at[i]) * inverse);
        store_vector(y, first + v, out);
    }
}

extern "C" cudaError_t gpu_unit_launch(gpu_type type, uint32_t rows, uint32_t channels, const void *x, void *y,
                                       cudaStream_t stream) {
    if (!rows || !channels) return cudaErrorInvalidValue;
    return with_vectors(type, channels, [&](auto vector) {
        using V = decltype(vector);
        return gpu_launch(unit_kernel<V>, dim3(blocks_of(rows, UNIT_WARPS)), dim3(UNIT_WARPS * 32), 0, stream, x, y,
                          rows, gpu_stride(channels) / V::width);
    });
}

template <class V>
static __global__ void __launch_bounds__(UNIT_WARPS * 32)
    unit_reverse_kernel(const void *x, const void *dy, void *dx, bool add, uint32_t rows, uint32_t vectors) {
    const uint32_t row = blockIdx.x * UNIT_WARPS + threadIdx.x / 32;
    if (row >= rows) return; /* whole warps */
    const size_t first = (size_t)row * vectors;
    const float squares = row_product<V>(x, x, first, vectors), product = row_product<V>(x, dy, first, vectors);
    const float inverse = squares > 0 ? sqrtf(squares) / squares : 1, along = squares > 0 ? product / squares : 0;
    for (uint32_t v = threadIdx.x % 32; v < vectors; v += 32) {
        const V in = load_vector<V>(x, first + v), given = load_vector<V>(dy, first + v);
        float g[V::width];
#pragma unroll
        for (int i = 0; i < V::width; i++) g[i] = fmaf(-to_float(in.at[i]), along, to_float(given.at[i])) * inverse;
        store_gradient<V>(dx, first + v, g, add);
    }
}

extern "C" cudaError_t gpu_unit_reverse_launch(gpu_type type, uint32_t rows, uint32_t channels, const void *x,
                                               const void *dy, void *dx, bool add, cudaStream_t stream) {
    if (!rows || !channels) return cudaErrorInvalidValue;
    return with_vectors(type, channels, [&](auto vector) {
        using V = decltype(vector);
        return gpu_launch(unit_reverse_kernel<V>, dim3(blocks_of(rows, UNIT_WARPS)), dim3(UNIT_WARPS * 32), 0, stream,
                          x, dy, dx, add, rows, gpu_stride(channels) / V::width);
    });
}
