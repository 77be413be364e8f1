/*
 * layernorm.cu - layer norm over the channels of a position, and its gradient.
 *
 *   y[p][c] = out((x[p][c] - mean) / sqrt(variance + eps) * gamma[c] + beta[c])
 *
 * x, y [pairs * positions][gpu_stride(channels)], y may be x; gamma, beta, and all arithmetic, fp32; tf32 is fp32 here:
 * nothing is multiplied by tensor cores.
 *
 * One warp per position, 8 positions a block, no shared memory. Up to 2,048 channels a lane reads its 16-byte vectors
 * of the position once and keeps them in registers for all three passes; other counts (also those up to 4, whose rows
 * are shorter than a vector) are read three times, element by element. Mean and variance are the corrected two-pass
 * sums of Chan, Golub and LeVeque (1983, equation 1.7): the first mean is rounded, so the deviations d from it have a
 * small mean of their own, which is taken off them:
 *   mean = sum x / C, d = x - mean, rest = sum d / C, variance = (sum d^2 - rest sum d) / C, y = (d - rest) / ...
 * With n the normalised values and g = dy gamma the gradient is
 *   dx[c] = (g[c] - mean(g) - n[c] mean(g n)) / sqrt(variance + eps)
 * Sums run over a lane's elements in order, then over lanes as a tree: bits depend on the channel count only.
 *
 * Registers: up to 256 channels 38 (sm_120: 47), 768: 64 (80), 1,024: 80, 2,048: 121 (127), any: 26 (40); gradients
 * 40, 63, 73, 107 (fp32: 201), 32; no spills.
 * Bytes 2 C size per position (gamma and beta stay in L1), gradients 3 or 4, flops about 10 C. ViT-B/16, 197 x 768
 * bf16, 256 pairs: 155 MB, 0.076 ms at 2.04 TB/s (A100), 0.046 ms at 3.35 TB/s (H100); 0.4 GFLOP: bound by memory.
 * Gradient, added to another: 310 MB, 0.152 and 0.093 ms.
 */
#include <type_traits>

#include "kernels/cuda/vectors.cuh"

constexpr uint32_t WARPS = 8;

/* The OUT mask of a position, and gamma and beta: what becomes of a normalised value. */
struct channel_map {
    const float *gamma, *beta; /* [channels]; NULL = 1, 0 */
    const float *keep, *fill;  /* [channels]; keep NULL: no mask; fill NULL: zeros */
};

static GPU_INLINE channel_map map_of(const gpu_layernorm &l, uint32_t position) {
    const gpu_mask &m = l.mask;
    if (m.place == GPU_PLACE_NONE) return {l.gamma, l.beta, nullptr, nullptr};
    return {l.gamma, l.beta, m.keep + (size_t)m.slot[position / l.positions] * m.rows, m.fill};
}

static GPU_INLINE float masked(const channel_map &map, uint32_t c, float y) {
    if (!map.keep) return y;
    const float k = map.keep[c];
    return fmaf(k, y, map.fill ? (1 - k) * map.fill[c] : 0.0f);
}

/* What turns the deviations from the first mean into normalised values: (d - rest) * inverse. */
struct moments {
    float rest, inverse;
};

/* From a lane's sums of its deviations and of their squares. */
static GPU_INLINE moments moments_of(float deviations, float squares, const gpu_layernorm &l) {
    deviations = warp_sum(deviations);
    squares = warp_sum(squares);
    const float count = (float)l.channels, rest = deviations / count;
    return {rest, 1 / sqrtf((squares - rest * deviations) / count + l.eps)};
}

/* A position of at most 32 VALUES channels, whose lane has the vectors lane, lane + 32, ... */
template <class T, int VALUES> struct layernorm_row {
    using V = channel_vector<T, 16 / sizeof(T)>;
    static constexpr int VECTORS = VALUES / V::width;
    float x[VECTORS][V::width]; /* deviations from the first mean; 0 behind the last channel */
    moments m;

    GPU_INLINE layernorm_row(const gpu_layernorm &l, uint32_t row, uint32_t vectors) {
        const uint32_t lane = threadIdx.x % 32;
        float sum = 0, deviations = 0, squares = 0;
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            V in = {};
            if (v * 32 + lane < vectors) in = load_vector<V>(l.x, (size_t)row * vectors + v * 32 + lane);
#pragma unroll
            for (int i = 0; i < V::width; i++) sum += x[v][i] = to_float(in.at[i]);
        }
        const float mean = warp_sum(sum) / (float)l.channels;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
#pragma unroll
            for (int i = 0; i < V::width; i++) {
                const bool inside = (v * 32 + lane) * V::width + i < l.channels;
                x[v][i] = inside ? x[v][i] - mean : 0;
                deviations += x[v][i];
                squares = fmaf(x[v][i], x[v][i], squares);
            }
        m = moments_of(deviations, squares, l);
    }
};

template <class T, int VALUES>
static __global__ void __launch_bounds__(WARPS * 32) layernorm_kernel(gpu_layernorm l, uint32_t rows, uint32_t stride) {
    using line = layernorm_row<T, VALUES>;
    using V = typename line::V;
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, vectors = stride / V::width;
    if (row >= rows) return;
    const line n(l, row, vectors);
    const channel_map map = map_of(l, row);
#pragma unroll
    for (int v = 0; v < line::VECTORS; v++) {
        if (v * 32 + lane >= vectors) break;
        const uint32_t first = (v * 32 + lane) * V::width;
        float gamma[V::width], beta[V::width] = {};
#pragma unroll
        for (int i = 0; i < V::width; i++) gamma[i] = 1;
        if (map.gamma) load_floats<V::width>(map.gamma, first, l.channels, gamma);
        if (map.beta) load_floats<V::width>(map.beta, first, l.channels, beta);
        V out;
#pragma unroll
        for (int i = 0; i < V::width; i++) {
            float y = fmaf((n.x[v][i] - n.m.rest) * n.m.inverse, gamma[i], beta[i]);
            y = first + i < l.channels ? masked(map, first + i, y) : 0;
            out.at[i] = from_float<T>(y);
        }
        store_vector(l.y, (size_t)row * vectors + v * 32 + lane, out);
    }
}

/* The same of any number of channels, read again whenever they are needed. */
template <class T> static GPU_INLINE moments long_moments(const gpu_layernorm &l, const T *x, float *first_mean) {
    const uint32_t lane = threadIdx.x % 32;
    float sum = 0, deviations = 0, squares = 0;
    for (uint32_t c = lane; c < l.channels; c += 32) sum += to_float(x[c]);
    const float mean = *first_mean = warp_sum(sum) / (float)l.channels;
    for (uint32_t c = lane; c < l.channels; c += 32) {
        const float d = to_float(x[c]) - mean;
        deviations += d;
        squares = fmaf(d, d, squares);
    }
    return moments_of(deviations, squares, l);
}

template <class T>
static __global__ void __launch_bounds__(WARPS * 32)
    layernorm_long_kernel(gpu_layernorm l, uint32_t rows, uint32_t stride) {
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *x = static_cast<const T *>(l.x) + (size_t)row * stride;
    T *y = static_cast<T *>(l.y) + (size_t)row * stride;
    float mean;
    const moments m = long_moments(l, x, &mean);
    const channel_map map = map_of(l, row);
    for (uint32_t c = lane; c < l.channels; c += 32) {
        const float unit = (to_float(x[c]) - mean - m.rest) * m.inverse;
        const float value = fmaf(unit, map.gamma ? map.gamma[c] : 1, map.beta ? map.beta[c] : 0);
        y[c] = from_float<T>(masked(map, c, value));
    }
    if (l.channels + lane < stride) y[l.channels + lane] = from_float<T>(0);
}

/* ---------------------------------------------------------------------------------------------- gradients */

/* dx is dy, or not; with `add` it holds another gradient. */
struct layernorm_gradients {
    const void *dy;
    void *dx;
    bool add;
};

/* g = dy gamma of the lane's vector v; read twice, since g and x together would take too many registers. */
template <class V>
static GPU_INLINE void load_gradient(const gpu_layernorm &l, const void *dy, uint32_t row, uint32_t vectors, uint32_t v,
                                     float (&g)[V::width]) {
    const uint32_t vector = v * 32 + threadIdx.x % 32, first = vector * V::width;
    V in = {};
    float gamma[V::width];
    if (vector < vectors) in = load_vector<V>(dy, (size_t)row * vectors + vector);
#pragma unroll
    for (int i = 0; i < V::width; i++) gamma[i] = 1;
    if (l.gamma) load_floats<V::width>(l.gamma, first, l.channels, gamma);
#pragma unroll
    for (int i = 0; i < V::width; i++) g[i] = first + i < l.channels ? to_float(in.at[i]) * gamma[i] : 0;
}

template <class T, int VALUES>
static __global__ void __launch_bounds__(WARPS * 32)
    layernorm_reverse_kernel(gpu_layernorm l, layernorm_gradients d, uint32_t rows, uint32_t stride) {
    using line = layernorm_row<T, VALUES>;
    using V = typename line::V;
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, vectors = stride / V::width;
    if (row >= rows) return;
    line n(l, row, vectors);
    float g[V::width], sum = 0, product = 0;
#pragma unroll
    for (int v = 0; v < line::VECTORS; v++) {
        load_gradient<V>(l, d.dy, row, vectors, v, g);
#pragma unroll
        for (int i = 0; i < V::width; i++) {
            n.x[v][i] = (n.x[v][i] - n.m.rest) * n.m.inverse;
            sum = __fadd_rn(sum, g[i]);
            product = fmaf(g[i], n.x[v][i], product);
        }
    }
    const float mean = warp_sum(sum) / (float)l.channels, slope = warp_sum(product) / (float)l.channels;
#pragma unroll
    for (int v = 0; v < line::VECTORS; v++) {
        const uint32_t vector = v * 32 + lane, first = vector * V::width;
        if (vector >= vectors) break;
        load_gradient<V>(l, d.dy, row, vectors, v, g);
#pragma unroll
        for (int i = 0; i < V::width; i++)
            g[i] = first + i < l.channels ? fmaf(-n.x[v][i], slope, __fadd_rn(g[i], -mean)) * n.m.inverse : 0;
        store_gradient<V>(d.dx, (size_t)row * vectors + vector, g, d.add);
    }
}

template <class T>
static __global__ void __launch_bounds__(WARPS * 32)
    layernorm_long_reverse_kernel(gpu_layernorm l, layernorm_gradients d, uint32_t rows, uint32_t stride) {
    using one = channel_vector<T, 1>;
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *x = static_cast<const T *>(l.x) + (size_t)row * stride;
    const T *dy = static_cast<const T *>(d.dy) + (size_t)row * stride;
    T *dx = static_cast<T *>(d.dx) + (size_t)row * stride;
    float first_mean, sum = 0, product = 0;
    const moments m = long_moments(l, x, &first_mean);
    for (uint32_t c = lane; c < l.channels; c += 32) {
        const float g = to_float(dy[c]) * (l.gamma ? l.gamma[c] : 1);
        sum = __fadd_rn(sum, g);
        product = fmaf(g, (to_float(x[c]) - first_mean - m.rest) * m.inverse, product);
    }
    const float mean = warp_sum(sum) / (float)l.channels, slope = warp_sum(product) / (float)l.channels;
    for (uint32_t c = lane; c < stride; c += 32) {
        float value[1] = {0};
        if (c < l.channels) {
            const float g = to_float(dy[c]) * (l.gamma ? l.gamma[c] : 1);
            const float n = (to_float(x[c]) - first_mean - m.rest) * m.inverse;
            value[0] = fmaf(-n, slope, __fadd_rn(g, -mean)) * m.inverse;
        }
        store_gradient<one>(dx, c, value, d.add);
    }
}

/* ---------------------------------------------------------------------------------------------- launchers */

/* Calls launch(integral_constant) with the least VALUES whose kernels take this stride; 0: the long kernels, for rows
 * shorter than a vector of 16 bytes, or too long for registers. */
template <class F> static cudaError_t with_values(uint32_t stride, F launch) {
    if (stride < 8 || stride > 2048) return launch(std::integral_constant<int, 0>{});
    if (stride <= 256) return launch(std::integral_constant<int, 8>{});
    if (stride <= 768) return launch(std::integral_constant<int, 24>{});
    if (stride <= 1024) return launch(std::integral_constant<int, 32>{});
    return launch(std::integral_constant<int, 64>{});
}

template <class T> static cudaError_t launch(const gpu_layernorm *l, uint32_t rows, cudaStream_t stream) {
    const uint32_t stride = gpu_stride(l->channels);
    const dim3 grid(blocks_of(rows, WARPS)), block(WARPS * 32);
    return with_values(stride, [&](auto values) {
        if constexpr (values() == 0)
            return gpu_launch(layernorm_long_kernel<T>, grid, block, 0, stream, *l, rows, stride);
        else
            return gpu_launch(layernorm_kernel<T, values()>, grid, block, 0, stream, *l, rows, stride);
    });
}

template <class T>
static cudaError_t launch_reverse(const gpu_layernorm *l, const layernorm_gradients &d, uint32_t rows,
                                  cudaStream_t stream) {
    const uint32_t stride = gpu_stride(l->channels);
    const dim3 grid(blocks_of(rows, WARPS)), block(WARPS * 32);
    return with_values(stride, [&](auto values) {
        if constexpr (values() == 0)
            return gpu_launch(layernorm_long_reverse_kernel<T>, grid, block, 0, stream, *l, d, rows, stride);
        else
            return gpu_launch(layernorm_reverse_kernel<T, values()>, grid, block, 0, stream, *l, d, rows, stride);
    });
}

static bool sizes_valid(const gpu_layernorm *l) {
    return l->pairs && l->positions && l->channels && l->x && (uint64_t)l->pairs * l->positions <= UINT32_MAX - WARPS;
}

static bool valid(const gpu_layernorm *l) {
    const gpu_mask *m = &l->mask;
    if (!sizes_valid(l) || !l->y) return false;
    return m->place == GPU_PLACE_NONE || (m->place == GPU_PLACE_OUT && m->keep && m->slot);
}

extern "C" cudaError_t gpu_layernorm_launch(const gpu_layernorm *l, cudaStream_t stream) {
    if (!valid(l)) return cudaErrorInvalidValue;
    const uint32_t rows = l->pairs * l->positions;
    switch (l->type) {
    case GPU_F32:
    case GPU_TF32:
        return launch<float>(l, rows, stream);
    case GPU_BF16:
        return launch<bf16>(l, rows, stream);
    case GPU_F16:
        return launch<half>(l, rows, stream);
    }
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t gpu_layernorm_reverse_launch(const gpu_layernorm *l, const void *dy, void *dx, bool add,
                                                    cudaStream_t stream) {
    if (!sizes_valid(l) || !dy || !dx || (add && dx == dy)) return cudaErrorInvalidValue;
    const uint32_t rows = l->pairs * l->positions;
    const layernorm_gradients d = {dy, dx, add};
    switch (l->type) {
    case GPU_F32:
    case GPU_TF32:
        return launch_reverse<float>(l, d, rows, stream);
    case GPU_BF16:
        return launch_reverse<bf16>(l, d, rows, stream);
    case GPU_F16:
        return launch_reverse<half>(l, d, rows, stream);
    }
    return cudaErrorInvalidValue;
}
