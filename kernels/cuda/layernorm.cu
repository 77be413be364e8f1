/*
 * layernorm.cu - layer norm over the channels of a position.
 *
 *   y[p][c] = out((x[p][c] - mean) / sqrt(variance + eps) * gamma[c] + beta[c])
 *
 * x, y [pairs * positions][gpu_stride(channels)], y may be x; gamma, beta, and all arithmetic, fp32; tf32 is fp32 here:
 * nothing is multiplied by tensor cores.
 *
 * One warp per position, 8 positions a block, no shared memory. Up to 2,048 channels a lane reads its 16-byte vectors of
 * the position once and keeps them in registers for all three passes; other counts (also those up to 4, whose rows are
 * shorter than a vector) are read three times, element by element.
 * Mean and variance are the corrected two-pass sums of Chan, Golub and LeVeque (1983, equation 1.7): the first mean is
 * rounded, so the deviations d from it have a small mean of their own, which is taken off them:
 *   mean = sum x / C, d = x - mean, rest = sum d / C, variance = (sum d^2 - rest sum d) / C, y = (d - rest) / ...
 * Sums run over a lane's elements in order, then over lanes as a tree: bits depend on the channel count only.
 *
 * Registers (sm_80), by values in a lane: 8 31 to 37, 24 58 to 64, 32 75 to 80, 64 101 to 121; read three times 24; no
 * spills.
 * Bytes 2 C size per position (gamma and beta stay in L1), flops about 10 C. ViT-B/16, 197 x 768 bf16, 256 pairs: 155 MB,
 * 0.076 ms at 2.04 TB/s (A100), 0.046 ms at 3.35 TB/s (H100); 0.4 GFLOP: bound by memory.
 */
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

/* At most VALUES channels in a lane. */
template <class T, int VALUES>
static __global__ void __launch_bounds__(WARPS * 32) layernorm_kernel(gpu_layernorm l, uint32_t rows, uint32_t stride) {
    using V = channel_vector<T, 16 / sizeof(T)>;
    constexpr int VECTORS = VALUES / V::width;
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, vectors = stride / V::width;
    if (row >= rows) return;
    float x[VECTORS][V::width], sum = 0, deviations = 0, squares = 0;
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
    const moments m = moments_of(deviations, squares, l);
    const channel_map map = map_of(l, row);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
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
            float y = fmaf((x[v][i] - m.rest) * m.inverse, gamma[i], beta[i]);
            y = first + i < l.channels ? masked(map, first + i, y) : 0;
            out.at[i] = from_float<T>(y);
        }
        store_vector(l.y, (size_t)row * vectors + v * 32 + lane, out);
    }
}

/* Any number of channels. */
template <class T>
static __global__ void __launch_bounds__(WARPS * 32)
    layernorm_long_kernel(gpu_layernorm l, uint32_t rows, uint32_t stride) {
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *x = static_cast<const T *>(l.x) + (size_t)row * stride;
    T *y = static_cast<T *>(l.y) + (size_t)row * stride;
    float sum = 0, deviations = 0, squares = 0;
    for (uint32_t c = lane; c < l.channels; c += 32) sum += to_float(x[c]);
    const float mean = warp_sum(sum) / (float)l.channels;
    for (uint32_t c = lane; c < l.channels; c += 32) {
        const float d = to_float(x[c]) - mean;
        deviations += d;
        squares = fmaf(d, d, squares);
    }
    const moments m = moments_of(deviations, squares, l);
    const channel_map map = map_of(l, row);
    for (uint32_t c = lane; c < l.channels; c += 32) {
        const float unit = (to_float(x[c]) - mean - m.rest) * m.inverse;
        const float value = fmaf(unit, map.gamma ? map.gamma[c] : 1, map.beta ? map.beta[c] : 0);
        y[c] = from_float<T>(masked(map, c, value));
    }
    if (l.channels + lane < stride) y[l.channels + lane] = from_float<T>(0);
}

/* Vectors of 16 bytes begin with a stride of 8. */
template <class T> static cudaError_t launch(const gpu_layernorm *l, uint32_t rows, cudaStream_t stream) {
    const uint32_t stride = gpu_stride(l->channels);
    const dim3 grid(blocks_of(rows, WARPS)), block(WARPS * 32);
    if (stride < 8 || stride > 2048)
        return gpu_launch(layernorm_long_kernel<T>, grid, block, 0, stream, *l, rows, stride);
    if (stride <= 256) return gpu_launch(layernorm_kernel<T, 8>, grid, block, 0, stream, *l, rows, stride);
    if (stride <= 768) return gpu_launch(layernorm_kernel<T, 24>, grid, block, 0, stream, *l, rows, stride);
    if (stride <= 1024) return gpu_launch(layernorm_kernel<T, 32>, grid, block, 0, stream, *l, rows, stride);
    return gpu_launch(layernorm_kernel<T, 64>, grid, block, 0, stream, *l, rows, stride);
}

static bool valid(const gpu_layernorm *l) {
    const gpu_mask *m = &l->mask;
    if (!l->pairs || !l->positions || !l->channels || !l->x || !l->y) return false;
    return m->place == GPU_PLACE_NONE || (m->place == GPU_PLACE_OUT && m->keep && m->slot);
}

extern "C" cudaError_t gpu_layernorm_launch(const gpu_layernorm *l, cudaStream_t stream) {
    const uint64_t rows = (uint64_t)l->pairs * l->positions;
    if (!valid(l) || rows > UINT32_MAX - WARPS) return cudaErrorInvalidValue;
    switch (l->type) {
    case GPU_F32:
    case GPU_TF32:
        return launch<float>(l, (uint32_t)rows, stream);
    case GPU_BF16:
        return launch<bf16>(l, (uint32_t)rows, stream);
    case GPU_F16:
        return launch<half>(l, (uint32_t)rows, stream);
    }
    return cudaErrorInvalidValue;
}
