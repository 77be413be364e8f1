/*
 * elementwise.cu - ops that move values and at most add to them, and their gradients.
 *
 *   normalise    y[i][q][c] = (pixels[i][q][c] mul[c] + add[c]) scale[i]    rounded to fp32 twice, then to the type
 *   subsample    y[p][oy][ox][c] = x[p][oy s][ox s][c - before], zeros outside x     option A of arXiv 1512.03385
 *   embed        y[p][0] = table[0], y[p][t] = x[p][t - 1] + table[t]                class token and positions
 *   select       y[p] = x[p][0]
 *   keep gather  out[p][c] = keep[slot[p] rows + c]                                  fp32
 *
 *   subsample    dx[p][y][x][c] = dy[p][y / s][x / s][c + before] where s divides y and x, else 0
 *   embed        dx[p][t] = dy[p][t + 1]
 *   select       dx[p][0] = dy[p], dx[p][q] = 0
 *
 * Gradients replace what dx holds, or are added to it. Values [..][positions][gpu_stride(channels)]; pixels, mul, add,
 * table and keep are not padded. The channels behind the last one are written as zeros by all of them.
 *
 * One thread per vector of the result, neighbouring channels in neighbouring threads; no shared memory. Registers
 * (sm_80): 10 to 32, no spills.
 * Bytes: what is read and written once. Flops: 2 (normalise) or 1 (embed) an element.
 * Roofline, A100 80 GB (2.04 TB/s) and H100 (3.35 TB/s): embed of 197x768 bf16 tokens, 256 pairs: 77 + 77 MB and a
 * table that stays in L2, 76 us and 46 us; subsample 32x32x16 to 16x16x32 bf16, 2,048 pairs: 17 MB of whole 32-byte
 * sectors + 34 MB, 25 us and 15 us; normalise 224x224x3, 64 images: 10 + 26 MB, 17 us and 11 us, once for each block
 * of examples.
 */
#include "kernels/cuda/vectors.cuh"

/* ---------------------------------------------------------------------------------------------- normalise */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    normalise_kernel(const uint8_t *pixels, const float *mul, const float *add, const float *scale, void *y,
                     uint32_t positions, uint32_t channels, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t first = item % vectors * V::width, row = item / vectors;
    const uint8_t *pixel = pixels + (size_t)row * channels;
    const float factor = scale ? scale[row / positions] : 1;
    V out;
#pragma unroll
    for (int i = 0; i < V::width; i++) {
        const uint32_t c = first + i;
        out.at[i] = from_float<typename V::element>(c < channels ? fmaf(pixel[c], mul[c], add[c]) * factor : 0);
    }
    store_vector(y, item, out);
}

extern "C" cudaError_t gpu_normalise_launch(gpu_type type, uint32_t images, uint32_t positions, uint32_t channels,
                                            const uint8_t *pixels, const float *mul, const float *add,
                                            const float *scale, void *y, cudaStream_t stream) {
    if (!images || !positions || !channels) return cudaErrorInvalidValue;
    return with_vectors(type, channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(normalise_kernel<V>, (size_t)images * positions, channels, stream, pixels, mul, add,
                               scale, y, positions, channels);
    });
}

/* ---------------------------------------------------------------------------------------------- subsample */

/* V divides the rows of x and of y. Where `before` is a whole number of vectors, as in every CIFAR ResNet, a vector
 * of y is a vector of x or nothing of it; else it is put together from single channels. */
template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    subsample_kernel(gpu_subsample s, uint32_t in_stride, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t position = item / vectors, row = position / s.out_w, first = item % vectors * V::width;
    const uint32_t ox = position % s.out_w, oy = row % s.out_h, pair = row / s.out_h;
    const size_t pixel = (((size_t)pair * s.in_h + oy * s.stride) * s.in_w + ox * s.stride) * in_stride;
    V out;
    if (s.before % V::width == 0) {
        const uint32_t source = first - s.before; /* in front of x it wraps to a large number */
        out = V{};
        if (source < in_stride) out = load_vector<V>(s.x, (pixel + source) / V::width);
    } else {
        const typename V::element *x = static_cast<const typename V::element *>(s.x) + pixel;
#pragma unroll
        for (int i = 0; i < V::width; i++) {
            const uint32_t source = first + i - s.before;
            out.at[i] = source < s.in_channels ? x[source] : typename V::element{};
        }
    }
    store_vector(s.y, item, out);
}

static bool subsample_fits(const gpu_subsample *s) {
    if (!s->pairs || !s->in_channels || !s->stride || !s->out_h || !s->out_w) return false;
    return (uint64_t)(s->out_h - 1) * s->stride < s->in_h && (uint64_t)(s->out_w - 1) * s->stride < s->in_w &&
           (uint64_t)s->in_channels + s->before <= s->out_channels;
}

extern "C" cudaError_t gpu_subsample_launch(const gpu_subsample *s, cudaStream_t stream) {
    if (!subsample_fits(s)) return cudaErrorInvalidValue;
    return with_vectors(s->type, s->in_channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(subsample_kernel<V>, (size_t)s->pairs * s->out_h * s->out_w, s->out_channels, stream, *s,
                               gpu_stride(s->in_channels));
    });
}

/* V divides the rows of dx and of dy. Where `before` is a whole number of vectors, as in every CIFAR ResNet, a vector
 * of dx is one of dy, which may reach into channels that x does not have; a vector of padding alone is not read, for
 * dy's row may end in front of it. */
template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    subsample_reverse_kernel(gpu_subsample s, const void *dy, void *dx, bool add, uint32_t out_stride, uint32_t vectors,
                             uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t position = item / vectors, row = position / s.in_w, first = item % vectors * V::width;
    const uint32_t x = position % s.in_w, y = row % s.in_h, pair = row / s.in_h, oy = y / s.stride, ox = x / s.stride;
    float g[V::width] = {};
    if (oy * s.stride == y && ox * s.stride == x && oy < s.out_h && ox < s.out_w) {
        const size_t at = (((size_t)pair * s.out_h + oy) * s.out_w + ox) * out_stride + first + s.before;
        const typename V::element *from = static_cast<const typename V::element *>(dy) + at;
        if (s.before % V::width == 0) {
            V in = {};
            if (first < s.in_channels) in = load_vector<V>(from, 0);
#pragma unroll
            for (int i = 0; i < V::width; i++) g[i] = first + i < s.in_channels ? to_float(in.at[i]) : 0;
        } else {
#pragma unroll
            for (int i = 0; i < V::width; i++) g[i] = first + i < s.in_channels ? to_float(from[i]) : 0;
        }
    }
    store_gradient<V>(dx, item, g, add);
}

extern "C" cudaError_t gpu_subsample_reverse_launch(const gpu_subsample *s, const void *dy, void *dx, bool add,
                                                    cudaStream_t stream) {
    if (!subsample_fits(s)) return cudaErrorInvalidValue;
    return with_vectors(s->type, s->in_channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(subsample_reverse_kernel<V>, (size_t)s->pairs * s->in_h * s->in_w, s->in_channels,
                               stream, *s, dy, dx, add, gpu_stride(s->out_channels));
    });
}

/* -------------------------------------------------------------------------------------------------- embed */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS) embed_kernel(gpu_embed e, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t row = item / vectors, vector = item % vectors, token = row % e.tokens, pair = row / e.tokens;
    float table[V::width];
    load_floats<V::width>(e.table + (size_t)token * e.channels, vector * V::width, e.channels, table);
    V x = {};
    if (token > 0) x = load_vector<V>(e.x, ((size_t)pair * (e.tokens - 1) + token - 1) * vectors + vector);
    V y;
#pragma unroll
    for (int i = 0; i < V::width; i++) y.at[i] = from_float<typename V::element>(to_float(x.at[i]) + table[i]);
    store_vector(e.y, item, y);
}

extern "C" cudaError_t gpu_embed_launch(const gpu_embed *e, cudaStream_t stream) {
    if (!e->pairs || !e->tokens || !e->channels) return cudaErrorInvalidValue;
    return with_vectors(e->type, e->channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(embed_kernel<V>, (size_t)e->pairs * e->tokens, e->channels, stream, *e);
    });
}

/* ------------------------------------------------------------------------------------------------- select */

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    select_kernel(const void *x, void *y, uint32_t positions, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    store_vector(y, item, load_vector<V>(x, (size_t)(item / vectors) * positions * vectors + item % vectors));
}

extern "C" cudaError_t gpu_select_launch(gpu_type type, uint32_t pairs, uint32_t positions, uint32_t channels,
                                         const void *x, void *y, cudaStream_t stream) {
    if (!pairs || !positions || !channels) return cudaErrorInvalidValue;
    return with_vectors(type, channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(select_kernel<V>, pairs, channels, stream, x, y, positions);
    });
}

/* ----------------------------------------------------------- gradients that are rows of vectors, moved */

/* dx[pair][q] (+)= dy[pair][q + offset] for the first `moved` of dx's positions, of which there are dx_rows a pair,
 * dy_rows in dy; zeros (or nothing more) at the others. */
struct moved_rows {
    const void *dy;
    void *dx;
    bool add;
    uint32_t dx_rows, dy_rows, offset, moved;
};

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS) move_kernel(moved_rows m, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t row = item / vectors, q = row % m.dx_rows, pair = row / m.dx_rows;
    if (m.add && q >= m.moved) return;
    float g[V::width] = {};
    if (q < m.moved) {
        const size_t from = ((size_t)pair * m.dy_rows + q + m.offset) * vectors + item % vectors;
        const V in = load_vector<V>(m.dy, from);
#pragma unroll
        for (int i = 0; i < V::width; i++) g[i] = to_float(in.at[i]);
    }
    store_gradient<V>(m.dx, item, g, m.add);
}

static cudaError_t move_launch(gpu_type type, const moved_rows &m, uint32_t pairs, uint32_t channels,
                               cudaStream_t stream) {
    if (!pairs || !channels || !m.dx_rows) return cudaErrorInvalidValue;
    return with_vectors(type, channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(move_kernel<V>, (size_t)pairs * m.dx_rows, channels, stream, m);
    });
}

extern "C" cudaError_t gpu_embed_reverse_launch(const gpu_embed *e, const void *dy, void *dx, bool add,
                                                cudaStream_t stream) {
    const uint32_t rows = e->tokens - 1;
    if (e->tokens == 0) return cudaErrorInvalidValue;
    return move_launch(e->type, {dy, dx, add, rows, e->tokens, 1, rows}, e->pairs, e->channels, stream);
}

extern "C" cudaError_t gpu_select_reverse_launch(gpu_type type, uint32_t pairs, uint32_t positions, uint32_t channels,
                                                 const void *dy, void *dx, bool add, cudaStream_t stream) {
    return move_launch(type, {dy, dx, add, positions, 1, 0, 1}, pairs, channels, stream);
}

/* -------------------------------------------------------------------------------------------- keep gather */

static __global__ void __launch_bounds__(VECTOR_THREADS)
    keep_gather_kernel(gpu_mask mask, uint32_t channels, float *out, uint32_t vectors, uint32_t items) {
    using V = channel_vector<float, 4>;
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const float *keep = mask.keep + (size_t)mask.slot[item / vectors] * mask.rows;
    const uint32_t first = item % vectors * V::width;
    V y; /* loaded one by one: where a site's rows begin, nothing is aligned */
#pragma unroll
    for (int i = 0; i < V::width; i++) y.at[i] = first + i < channels ? keep[first + i] : 0;
    store_vector(out, item, y);
}

extern "C" cudaError_t gpu_keep_gather_launch(const gpu_mask *mask, uint32_t pairs, uint32_t channels, float *out,
                                              cudaStream_t stream) {
    const uint32_t vectors = gpu_stride(channels) / 4;
    if (mask->place == GPU_PLACE_NONE || !pairs || !channels || !items_fit(pairs, vectors))
        return cudaErrorInvalidValue;
    const uint32_t items = pairs * vectors;
    return gpu_launch(keep_gather_kernel, dim3(blocks_of(items, VECTOR_THREADS)), dim3(VECTOR_THREADS), 0, stream,
                      *mask, channels, out, vectors, items);
}
