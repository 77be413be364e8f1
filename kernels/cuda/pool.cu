/*
 * pool.cu - maximum and mean over windows, and their gradients.
 *
 *   maximum  y[p][oy][ox][c] = max over ky, kx of x[p][oy s + ky - pad][ox s + kx - pad][c], pixels of the image only
 *   mean     y[p][oy][ox][c] = (sum over ky, kx of x[p][oy s + ky][ox s + kx][c]) / (kernel_h kernel_w)
 *   maximum  dx[p][y][x][c] = sum of dy[p][oy][ox][c] over the windows whose first largest pixel is (y, x)
 *   mean     dx[p][y][x][c] = (sum of dy[p][oy][ox][c] over the windows with (y, x) inside) / (kernel_h kernel_w)
 *
 * x [pairs][in_h][in_w][gpu_stride(channels)], y [pairs][out_h][out_w][gpu_stride(channels)]. The padding never wins a
 * maximum and NaN always does, as in the reference backend. Zeros behind the last channel give zeros.
 *
 * An item is one vector of channels at one output position; neighbouring threads take neighbouring channels, so that a
 * warp reads 512 contiguous bytes from 256 channels of 16 bits up, and whole 32-byte sectors always.
 * Maximum: one thread per item. Mean over four rows and more (the global pools: few items, long sums): ROWS threads per
 * item, each adds the window's rows ky = r, r + ROWS, ... from left to right, then the first adds the ROWS sums in
 * order. The order depends on the window alone.
 *
 * Gradients: an item is one vector of one pixel of dx, which gathers from its windows in their order, in fp32; so
 * nothing is written twice. A pixel is a window's first largest one where it holds y and no pixel of the window before
 * it does; where y is NaN it is the last one that is NaN (backend.h).
 *
 * Shared memory: mean with ROWS = 8: 8 KiB of partial sums, channel before item, so that lanes hit different banks.
 * Registers (sm_80): maximum 28 to 32, mean 32 to 40, gradients 53 to 64; no spills.
 * Bytes: input once (overlapping windows meet in L1 and L2) + output. Flops: kernel_h kernel_w a channel.
 * Roofline: 3x3/2 maximum, 112x112x64 bf16, 256 pairs (ResNet's stem): 411 + 103 MB, 0.25 ms at 2.04 TB/s (A100 80 GB),
 * 0.15 ms at 3.35 TB/s (H100); 4.6e8 comparisons, 0.9 per byte: bound by memory. Global 7x7x2048 bf16, 256 pairs: 51
 * MB, 25 us and 15 us. Gradient of that maximum: x, y, dy and dx, 1,028 MB, 0.50 ms and 0.31 ms.
 */
#include "kernels/cuda/vectors.cuh"

/* Where an item's window begins. */
struct pool_item {
    uint32_t pair, oy, ox, vector;
};

static GPU_INLINE pool_item item_of(const gpu_pool &p, uint32_t item, uint32_t vectors) {
    uint32_t position = item / vectors, row = position / p.out_w;
    return {row / p.out_h, row % p.out_h, position % p.out_w, item % vectors};
}

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS) maximum_kernel(gpu_pool p, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const pool_item at = item_of(p, item, vectors);
    float largest[V::width];
#pragma unroll
    for (int i = 0; i < V::width; i++) largest[i] = -INFINITY;
    for (uint32_t ky = 0; ky < p.kernel_h; ky++) {
        const uint32_t iy = at.oy * p.stride + ky - p.pad; /* in front of the image it wraps to a large number */
        if (iy >= p.in_h) continue;
        for (uint32_t kx = 0; kx < p.kernel_w; kx++) {
            const uint32_t ix = at.ox * p.stride + kx - p.pad;
            if (ix >= p.in_w) continue;
            const V x = load_vector<V>(p.x, (((size_t)at.pair * p.in_h + iy) * p.in_w + ix) * vectors + at.vector);
#pragma unroll
            for (int i = 0; i < V::width; i++) {
                const float value = to_float(x.at[i]);
                if (value > largest[i] || value != value) largest[i] = value;
            }
        }
    }
    V y;
#pragma unroll
    for (int i = 0; i < V::width; i++) y.at[i] = from_float<typename V::element>(largest[i]);
    store_vector(p.y, item, y);
}

/* block (VECTOR_THREADS / ROWS items, ROWS) */
template <class V, int ROWS>
static __global__ void __launch_bounds__(VECTOR_THREADS) mean_kernel(gpu_pool p, uint32_t vectors, uint32_t items) {
    constexpr int ITEMS = VECTOR_THREADS / ROWS;
    GPU_SHARED(float, partial, [ROWS > 1 ? ROWS : 1][V::width][ROWS > 1 ? ITEMS : 1]);
    const uint32_t lane = threadIdx.x, part = threadIdx.y, item = blockIdx.x * ITEMS + lane;
    float sum[V::width] = {};
    if (item < items) {
        const pool_item at = item_of(p, item, vectors);
        for (uint32_t ky = part; ky < p.kernel_h; ky += ROWS) {
            const size_t row = ((size_t)at.pair * p.in_h + at.oy * p.stride + ky) * p.in_w + at.ox * p.stride;
            for (uint32_t kx = 0; kx < p.kernel_w; kx++) {
                const V x = load_vector<V>(p.x, (row + kx) * vectors + at.vector);
#pragma unroll
                for (int i = 0; i < V::width; i++) sum[i] += to_float(x.at[i]);
            }
        }
    }
    if (ROWS > 1) {
#pragma unroll
        for (int i = 0; i < V::width; i++) partial[part][i][lane] = sum[i];
        __syncthreads();
        if (part > 0) return;
        for (int r = 1; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < V::width; i++) sum[i] += partial[r][i][lane];
    }
    if (item >= items) return;
    const float area = (float)(p.kernel_h * p.kernel_w);
    V y;
#pragma unroll
    for (int i = 0; i < V::width; i++) y.at[i] = from_float<typename V::element>(sum[i] / area);
    store_vector(p.y, item, y);
}

/* Whether every window has a pixel inside the image, and those of a mean nothing else. */
static bool windows_fit(const gpu_pool *p) {
    if (!p->kernel_h || !p->kernel_w || !p->stride || !p->out_h || !p->out_w) return false;
    if (p->pad >= p->kernel_h || p->pad >= p->kernel_w || (p->pad && !p->maximum)) return false;
    const uint64_t last_y = (uint64_t)(p->out_h - 1) * p->stride, last_x = (uint64_t)(p->out_w - 1) * p->stride;
    if (p->maximum) return last_y < (uint64_t)p->in_h + p->pad && last_x < (uint64_t)p->in_w + p->pad;
    return last_y + p->kernel_h <= p->in_h && last_x + p->kernel_w <= p->in_w;
}

template <class V, int ROWS>
static cudaError_t mean_launch(const gpu_pool *p, uint32_t vectors, uint32_t items, cudaStream_t stream) {
    constexpr uint32_t per_block = VECTOR_THREADS / ROWS;
    return gpu_launch(mean_kernel<V, ROWS>, dim3(blocks_of(items, per_block)), dim3(per_block, ROWS), 0, stream, *p,
                      vectors, items);
}

extern "C" cudaError_t gpu_pool_launch(const gpu_pool *p, cudaStream_t stream) {
    if (!p->pairs || !p->channels || !windows_fit(p)) return cudaErrorInvalidValue;
    return with_vectors(p->type, p->channels, [&](auto vector) {
        using V = decltype(vector);
        const uint32_t vectors = gpu_stride(p->channels) / V::width;
        const size_t positions = (size_t)p->pairs * p->out_h * p->out_w;
        if (!items_fit(positions, vectors)) return cudaErrorInvalidValue;
        const uint32_t items = (uint32_t)positions * vectors;
        if (p->maximum)
            return gpu_launch(maximum_kernel<V>, dim3(blocks_of(items, VECTOR_THREADS)), dim3(VECTOR_THREADS), 0,
                              stream, *p, vectors, items);
        return p->kernel_h < 4 ? mean_launch<V, 1>(p, vectors, items, stream)
                               : mean_launch<V, 8>(p, vectors, items, stream);
    });
}

/* ---------------------------------------------------------------------------------------------- gradients */

/* The windows over a pixel, from first to last, along one axis: none where last < first. */
struct pool_windows {
    uint32_t first, last;
};

static GPU_INLINE pool_windows windows_over(uint32_t pixel, uint32_t pad, uint32_t kernel, uint32_t stride,
                                            uint32_t out) {
    const uint32_t at = pixel + pad, first = at < kernel ? 0 : (at - kernel) / stride + 1, last = at / stride;
    return {first, last < out ? last : out - 1};
}

/* Clears held[i] for channels whose largest value a pixel before tap `own` of the window holds, or whose NaN one behind
 * it does: a window with a NaN has no other largest value. */
template <class V>
static GPU_INLINE void drop_others(const gpu_pool &p, const V &largest, size_t image, uint32_t oy, uint32_t ox,
                                   uint32_t own, uint32_t vectors, bool (&held)[V::width]) {
    bool nan = false;
#pragma unroll
    for (int i = 0; i < V::width; i++) nan |= to_float(largest.at[i]) != to_float(largest.at[i]);
    const uint32_t taps = nan ? p.kernel_h * p.kernel_w : own;
    for (uint32_t tap = 0; tap < taps; tap++) {
        const uint32_t iy = oy * p.stride + tap / p.kernel_w - p.pad; /* in front of the image it wraps around */
        const uint32_t ix = ox * p.stride + tap % p.kernel_w - p.pad;
        if (iy >= p.in_h || ix >= p.in_w || tap == own) continue;
        const V other = load_vector<V>(p.x, image + ((size_t)iy * p.in_w + ix) * vectors);
#pragma unroll
        for (int i = 0; i < V::width; i++) {
            const float x = to_float(other.at[i]);
            held[i] = held[i] && (tap < own ? x != to_float(largest.at[i]) : x == x);
        }
    }
}

template <class V>
static __global__ void __launch_bounds__(VECTOR_THREADS)
    pool_reverse_kernel(gpu_pool p, const void *dy, void *dx, bool add, uint32_t vectors, uint32_t items) {
    const uint32_t item = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (item >= items) return;
    const uint32_t position = item / vectors, row = position / p.in_w, vector = item % vectors;
    const uint32_t ix = position % p.in_w, iy = row % p.in_h, pair = row / p.in_h;
    const pool_windows ys = windows_over(iy, p.pad, p.kernel_h, p.stride, p.out_h);
    const pool_windows xs = windows_over(ix, p.pad, p.kernel_w, p.stride, p.out_w);
    const size_t image = (size_t)pair * p.in_h * p.in_w * vectors + vector;
    float g[V::width] = {};
    V x = {};
    if (p.maximum) x = load_vector<V>(p.x, item);
    for (uint32_t oy = ys.first; oy <= ys.last; oy++)
        for (uint32_t ox = xs.first; ox <= xs.last; ox++) {
            const size_t window = (((size_t)pair * p.out_h + oy) * p.out_w + ox) * vectors + vector;
            bool held[V::width], any = !p.maximum;
            V largest = {};
            if (p.maximum) largest = load_vector<V>(p.y, window);
#pragma unroll
            for (int i = 0; i < V::width; i++) {
                const float value = to_float(x.at[i]);
                held[i] = !p.maximum || value == to_float(largest.at[i]) || value != value;
                any |= held[i];
            }
            if (!any) continue;
            if (p.maximum)
                drop_others<V>(p, largest, image, oy, ox,
                               (iy + p.pad - oy * p.stride) * p.kernel_w + ix + p.pad - ox * p.stride, vectors, held);
            const V given = load_vector<V>(dy, window);
#pragma unroll
            for (int i = 0; i < V::width; i++) g[i] += held[i] ? to_float(given.at[i]) : 0;
        }
    if (!p.maximum) {
        const float area = (float)(p.kernel_h * p.kernel_w);
#pragma unroll
        for (int i = 0; i < V::width; i++) g[i] /= area;
    }
    store_gradient<V>(dx, item, g, add);
}

extern "C" cudaError_t gpu_pool_reverse_launch(const gpu_pool *p, const void *dy, void *dx, bool add,
                                               cudaStream_t stream) {
    if (!p->pairs || !p->channels || !windows_fit(p)) return cudaErrorInvalidValue;
    if (!dy || !dx || (p->maximum && (!p->x || !p->y))) return cudaErrorInvalidValue;
    return with_vectors(p->type, p->channels, [&](auto vector) {
        using V = decltype(vector);
        return launch_items<V>(pool_reverse_kernel<V>, (size_t)p->pairs * p->in_h * p->in_w, p->channels, stream, *p,
                               dy, dx, add);
    });
}
