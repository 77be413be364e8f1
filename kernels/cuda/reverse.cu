/*
 * reverse.cu - the epilogue backwards, and what masks' gradients sum up there.
 *
 * Forward (epilogue.cuh), for each channel c and position q of a pair, with k the keep and W x the linear sum:
 *   pre = PRE(W x), s = POST(scale pre + shift), u = s + residual, a = act(u), y = OUT(a); PRE, POST or OUT mixes
 *   k x + (1 - k) fill, the others do nothing.
 * Backward:
 *   dL/da = k dL/dy (OUT), dL/du = act'(u) dL/da = dL/d(residual), dL/ds = dL/du, k dL/ds (POST),
 *   dL/d(W x) = scale times that, k times that (PRE)
 * and with x what the mask acts on and g the gradient just behind it, for each component (`width` channels):
 *   mask         sum of g (x - fill)           dL/dk; nothing is divided by k, so it is right where k = 0
 *   influence    sum of k g                    dL/dx
 *   conductance  sum of k g (x - x of the pair in front)
 *
 * dy, linear, y, residual, dlinear, dresidual [pairs][positions][gpu_stride(channels)] in the type's storage,
 * everything between in fp32, rounded once. An argument that is computed again comes from the stored `linear`, whose
 * rounding moves it by half a unit of the stored type; ReLU's sign is therefore taken from y where y is there.
 *
 * Sums, in two stages. A block has a chunk of one pair's positions: as many lanes as a row has quads, at most 32, lie
 * side by side, the block's other threads below one another, and each goes down CHUNK positions. A thread adds up its
 * positions in order, the block its threads as a tree: partial[pair][chunk][channel]. Then one thread or one warp adds
 * a component's partial sums. What is added to what depends on positions, channels and width alone.
 *
 * Accesses are quads in every type: 8 bytes of a 16-bit one, of which a warp still takes whole lines. The ROWS loads of
 * each stream that are under way at once make up 16 bytes of a thread; twice the channels would leave room for one row,
 * so for no more bytes, and leave half of the lanes of narrow layers without work.
 *
 * Shared memory 4 KiB; registers (sm_80) 108, second stage 31; no spills.
 * Bytes, 16-bit types, for each element: 2 each for dy, linear, y and dlinear; 2 more each for dresidual, for what that
 * is added to, and for a residual under GELU. Flops about 10, GELU 40: bound by memory. Roofline, ResNet-50 layer2 3x3
 * (128 channels, 28x28, bf16) at 256 pairs on an A100 (2.0 TB/s): 4 x 51 MB = 103 us.
 */
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/vectors.cuh"

/* ROWS: positions of a thread whose loads are under way at once; CHUNK: positions of a thread. */
static const uint32_t THREADS = 256, ROWS = 2, CHUNK = 16;

/* A gpu_conv and its gpu_reverse as the kernel sees them. Pointers to what need not be read are NULL. */
struct reverse_params {
    epilogue e; /* of the forward pass, y left out; e.residual and e.linear are read here */
    const void *y, *dy;
    void *dlinear, *dresidual;
    bool add;
    gpu_reverse_kind kind;
    const uint32_t *example;
    float *partial;  /* [pairs][chunks][stride]; NULL: nothing is summed */
    uint32_t chunks; /* of a pair */
    uint32_t lanes;  /* threads side by side: a power of two */
};

/* -------------------------------------------------------------------------------------- derivatives */

GPU_INLINE float activation_slope(gpu_activation activation, float u) {
    const float sqrt_half = 0.70710678118654752f, sqrt_2_over_pi = 0.79788456080286536f;
    if (activation == GPU_RELU) return u <= 0 ? 0 : 1; /* a NaN is no zero */
    if (activation == GPU_GELU_ERF) {                  /* Phi(u) + u phi(u) */
        const float density = 0.5f * sqrt_2_over_pi * expf(-0.5f * u * u);
        return fmaf(u, density, 0.5f * __fadd_rn(1, erff(u * sqrt_half)));
    }
    if (activation == GPU_GELU_TANH) { /* (1 + t) / 2 + u (1 - t^2) inner' / 2, t = tanh(inner(u)) */
        const float t = tanhf(sqrt_2_over_pi * fmaf(0.044715f * u * u, u, u));
        const float inner = sqrt_2_over_pi * fmaf(3 * 0.044715f * u, u, 1);
        return 0.5f * fmaf(u * fmaf(-t, t, 1), inner, __fadd_rn(1, t));
    }
    if (activation == GPU_QUICKGELU) { /* sigma + 1.702 u sigma (1 - sigma), sigma = sigmoid(1.702 u) */
        const float sigma = 1 / __fadd_rn(1, expf(-1.702f * u));
        return sigma * fmaf(1.702f * u, 1 - sigma, 1);
    }
    return 1;
}

/* ---------------------------------------------------------------------------------------- one quad */

/* What one position's quad is made from. */
struct reverse_quad {
    float dy[4], linear[4], y[4], residual[4];
    float added[4];  /* what dresidual holds already */
    float before[4]; /* conductance: x of the pair in front */
};

/* W x -> what the mask acts on. */
GPU_INLINE void site_value(const epilogue &e, const epilogue_channels &c, const float (&residual)[4], float (&v)[4]) {
    if (e.mask.place == GPU_PLACE_POST) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = fmaf(c.scale[i], v[i], c.shift[i]);
    } else if (e.mask.place == GPU_PLACE_OUT) {
        epilogue_argument(e, c, residual, v);
        epilogue_activate(e.activation, v);
    }
}

/* Adds to a thread's sums, then takes g, the gradient behind the mask, to the one in front of it. */
GPU_INLINE void reverse_mask(const reverse_params &p, const epilogue_channels &c, const reverse_quad &q, float (&g)[4],
                             float (&sums)[4]) {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = q.linear[i];
    if (p.kind != GPU_REVERSE_INFLUENCE) site_value(p.e, c, q.residual, x);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float kept = c.keep[i] * g[i];
        if (p.kind == GPU_REVERSE_MASK) sums[i] = fmaf(g[i], x[i] - c.fill[i], sums[i]);
        if (p.kind == GPU_REVERSE_INFLUENCE) sums[i] = __fadd_rn(sums[i], kept);
        if (p.kind == GPU_REVERSE_CONDUCTANCE) sums[i] = fmaf(kept, x[i] - q.before[i], sums[i]);
        g[i] = kept;
    }
}

/* dL/dy of a quad -> dL/d(W x), in g, and dL/d(residual). Behind the last channel dy is zero, and so are they. */
GPU_INLINE void reverse_quad_of(const reverse_params &p, const epilogue_channels &c, const reverse_quad &q,
                                float (&sums)[4], float (&g)[4], float (&dresidual)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) g[i] = q.dy[i];
    if (p.e.mask.place == GPU_PLACE_OUT) reverse_mask(p, c, q, g, sums);
    if (p.y) {
#pragma unroll
        for (int i = 0; i < 4; i++) g[i] = q.y[i] <= 0 ? 0 : g[i]; /* a NaN is no zero */
    } else if (p.e.activation != GPU_NONE) {
        float u[4];
#pragma unroll
        for (int i = 0; i < 4; i++) u[i] = q.linear[i];
        epilogue_argument(p.e, c, q.residual, u);
#pragma unroll
        for (int i = 0; i < 4; i++) g[i] *= activation_slope(p.e.activation, u[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) dresidual[i] = __fadd_rn(q.added[i], g[i]);
    if (p.e.mask.place == GPU_PLACE_POST) reverse_mask(p, c, q, g, sums);
#pragma unroll
    for (int i = 0; i < 4; i++) g[i] *= c.scale[i];
    if (p.e.mask.place == GPU_PLACE_PRE) reverse_mask(p, c, q, g, sums);
}

/* ------------------------------------------------------------------------------------- first stage */

template <class T> GPU_INLINE void load_quad(const reverse_params &p, size_t at, reverse_quad &q) {
    epilogue_load<T>(p.dy, at, q.dy);
    if (p.e.linear) epilogue_load<T>(p.e.linear, at, q.linear);
    if (p.y) epilogue_load<T>(p.y, at, q.y);
    if (p.e.residual) epilogue_load<T>(p.e.residual, at, q.residual);
    if (p.add) epilogue_load<T>(p.dresidual, at, q.added);
}

/* x of the pair in front of the one that element `at` belongs to. */
template <class T>
GPU_INLINE void load_before(const reverse_params &p, const epilogue_channels &c, size_t at, reverse_quad &q) {
    const size_t before = at - (size_t)p.e.positions.value * p.e.stride;
    float residual[4] = {};
    epilogue_load<T>(p.e.linear, before, q.before);
    if (p.e.residual) epilogue_load<T>(p.e.residual, before, residual);
    site_value(p.e, c, residual, q.before);
}

/* Goes over this thread's positions, the block's first being `first`, and stores their gradients. */
template <class T>
GPU_INLINE void reverse_positions(const reverse_params &p, const epilogue_channels &c, uint32_t pair, uint32_t first,
                                  float (&sums)[4]) {
    const uint32_t step = THREADS / p.lanes, positions = p.e.positions.value;
    const bool has_before = p.kind == GPU_REVERSE_CONDUCTANCE && p.example[pair] > 0;
#pragma unroll 1
    for (uint32_t position = first + threadIdx.x / p.lanes, i = 0; i < CHUNK; i += ROWS, position += ROWS * step) {
        reverse_quad q[ROWS] = {};
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            const size_t row = (size_t)pair * positions + position + r * step;
            if (position + r * step < positions) load_quad<T>(p, row * p.e.stride + c.first, q[r]);
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            if (position + r * step >= positions) continue;
            const size_t at = ((size_t)pair * positions + position + r * step) * p.e.stride + c.first;
            if (has_before) load_before<T>(p, c, at, q[r]);
            float g[4], dresidual[4];
            reverse_quad_of(p, c, q[r], sums, g, dresidual);
            if (p.dlinear) epilogue_store<T>(p.dlinear, at, g);
            if (p.dresidual) epilogue_store<T>(p.dresidual, at, dresidual);
        }
    }
    if (p.kind == GPU_REVERSE_CONDUCTANCE && !has_before) sums[0] = sums[1] = sums[2] = sums[3] = 0;
}

/* grid (pairs * chunks, column parts) */
template <class T> __global__ void __launch_bounds__(THREADS, 2) reverse_kernel(reverse_params p) {
    GPU_SHARED(epilogue_quad<float>, shared, [THREADS]);
    const uint32_t pair = blockIdx.x / p.chunks, chunk = blockIdx.x % p.chunks, step = THREADS / p.lanes;
    const uint32_t column = (blockIdx.y * p.lanes + threadIdx.x % p.lanes) * 4, thread = threadIdx.x;
    float sums[4] = {};
    if (column < p.e.stride) {
        epilogue_channels c = epilogue_begin(p.e, column);
        if (p.e.mask.place != GPU_PLACE_NONE)
            epilogue_gather(p.e, p.e.mask.keep + (size_t)p.e.mask.slot[pair] * p.e.mask.rows, column, 1, c.keep);
        reverse_positions<T>(p, c, pair, chunk * (step * CHUNK), sums);
    }
    if (!p.partial) return;
    epilogue_store<float>(shared, thread * 4, sums);
    for (uint32_t half = step / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread >= half * p.lanes) continue;
        float more[4];
        epilogue_load<float>(shared, (thread + half * p.lanes) * 4, more);
#pragma unroll
        for (int i = 0; i < 4; i++) sums[i] += more[i];
        epilogue_store<float>(shared, thread * 4, sums);
    }
    if (thread < p.lanes && column < p.e.stride)
        epilogue_store<float>(p.partial, (size_t)blockIdx.x * p.e.stride + column, sums);
}

/* ------------------------------------------------------------------------------------ second stage */

/* sums[pair][j] = unscale times the sum of partial[pair][chunk][j width + i] over chunks and, within them, i: by one
 * thread, or by a warp whose lanes take every 32nd of them. */
struct reverse_fold {
    const float *partial;
    float *sums, unscale;
    uint32_t chunks, stride, width, count, components;
    uint32_t items; /* pairs * count */
};

template <uint32_t LANES> __global__ void __launch_bounds__(THREADS) fold_kernel(reverse_fold f) {
    const uint32_t item = (blockIdx.x * THREADS + threadIdx.x) / LANES, lane = threadIdx.x % LANES;
    if (item >= f.items) return; /* whole warps */
    const uint32_t pair = item / f.count, component = item % f.count;
    const float *from = f.partial + (size_t)pair * f.chunks * f.stride + (size_t)component * f.width;
    float sum = 0;
    for (uint32_t i = lane; i < f.chunks * f.width; i += LANES) sum += from[i / f.width * f.stride + i % f.width];
    if (LANES > 1) sum = warp_sum(sum);
    if (lane == 0) f.sums[(size_t)pair * f.components + component] = sum * f.unscale;
}

template <uint32_t LANES> static cudaError_t fold_launch(const reverse_fold &f, cudaStream_t stream) {
    return gpu_launch(fold_kernel<LANES>, dim3(blocks_of(f.items, THREADS / LANES)), dim3(THREADS), 0, stream, f);
}

/* --------------------------------------------------------------------------------------- launchers */

static bool sums_up(const gpu_conv *c, gpu_reverse_kind kind) {
    return c->mask.place != GPU_PLACE_NONE && kind != GPU_REVERSE_NONE;
}

/* x of the mask's site. */
static bool reads_site(const gpu_conv *c, gpu_reverse_kind kind) {
    return sums_up(c, kind) && kind != GPU_REVERSE_INFLUENCE;
}

/* Logits are fp32 whatever the type, which is no stream of this kernel's. */
static bool reads_y(const gpu_conv *c) {
    return c->activation == GPU_RELU && c->mask.place != GPU_PLACE_OUT && c->y && !c->wide;
}

/* The argument of the activation, by itself or as a part of OUT's x. */
static bool reads_argument(const gpu_conv *c, gpu_reverse_kind kind) {
    return (c->activation != GPU_NONE && !reads_y(c)) || (c->mask.place == GPU_PLACE_OUT && reads_site(c, kind));
}

bool gpu_reverse_reads_linear(const gpu_conv *c, gpu_reverse_kind kind) {
    return reads_site(c, kind) || reads_argument(c, kind);
}

static uint32_t lanes_of(const gpu_conv *c) {
    uint32_t lanes = 1;
    while (lanes < 32 && lanes * 4 < gpu_stride(c->out_channels)) lanes *= 2;
    return lanes;
}

static uint32_t chunks_of(const gpu_conv *c) {
    return blocks_of((size_t)c->out_h * c->out_w, THREADS / lanes_of(c) * CHUNK);
}

size_t gpu_reverse_workspace(const gpu_conv *c, const gpu_reverse *r) {
    if (!sums_up(c, r->kind)) return 0;
    return sizeof(float) * c->pairs * chunks_of(c) * gpu_stride(c->out_channels);
}

static bool valid(const gpu_conv *c, const gpu_reverse *r) {
    const gpu_mask *mask = &c->mask;
    if (!conv_result_in_range(c) || (unsigned)c->activation > GPU_QUICKGELU || !r->dy) return false;
    if ((unsigned)r->kind > GPU_REVERSE_CONDUCTANCE || (unsigned)mask->place > GPU_PLACE_OUT) return false;
    if (r->add && (!r->dresidual || r->dresidual == r->dy)) return false;
    if (r->dlinear && r->dlinear == r->dresidual) return false;
    if (mask->place != GPU_PLACE_NONE && (!mask->keep || !mask->slot)) return false;
    if (gpu_reverse_reads_linear(c, r->kind) && !c->linear) return false;
    if (!sums_up(c, r->kind)) return true;
    return r->width && c->out_channels % r->width == 0 && r->components >= c->out_channels / r->width &&
           items_fit(c->pairs, c->out_channels / r->width) && r->sums && r->workspace &&
           (r->kind != GPU_REVERSE_CONDUCTANCE || r->example);
}

static reverse_params describe(const gpu_conv *c, const gpu_reverse *r) {
    reverse_params p = {};
    p.e = conv_epilogue_of(c);
    if (!gpu_reverse_reads_linear(c, r->kind)) p.e.linear = NULL;
    if (!reads_argument(c, r->kind)) p.e.residual = NULL;
    p.y = reads_y(c) ? c->y : NULL;
    p.dy = r->dy;
    p.dlinear = r->dlinear;
    p.dresidual = r->dresidual;
    p.add = r->add;
    p.kind = sums_up(c, r->kind) ? r->kind : GPU_REVERSE_NONE;
    p.example = r->example;
    p.partial = sums_up(c, r->kind) ? r->workspace : NULL;
    p.chunks = chunks_of(c);
    p.lanes = lanes_of(c);
    return p;
}

template <class T> static cudaError_t launch(const gpu_conv *c, const reverse_params &p, cudaStream_t stream) {
    const uint64_t blocks = (uint64_t)c->pairs * p.chunks;
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
    return gpu_launch(reverse_kernel<T>, dim3((uint32_t)blocks, blocks_of(p.e.stride, p.lanes * 4)), dim3(THREADS), 0,
                      stream, p);
}

static cudaError_t launch_of_type(const gpu_conv *c, const reverse_params &p, cudaStream_t stream) {
    switch (c->type) {
    case GPU_F32:
    case GPU_TF32:
        return launch<float>(c, p, stream);
    case GPU_BF16:
        return launch<bf16>(c, p, stream);
    case GPU_F16:
        return launch<half>(c, p, stream);
    }
    return cudaErrorInvalidValue;
}

cudaError_t gpu_reverse_launch(const gpu_conv *c, const gpu_reverse *r, cudaStream_t stream) {
    if (!valid(c, r)) return cudaErrorInvalidValue;
    const reverse_params p = describe(c, r);
    const cudaError_t error = launch_of_type(c, p, stream);
    if (error != cudaSuccess || !p.partial) return error;
    const uint32_t count = c->out_channels / r->width;
    const reverse_fold f = {p.partial, r->sums, r->unscale,    p.chunks,        p.e.stride,
                            r->width,  count,   r->components, c->pairs * count};
    return (uint64_t)p.chunks * r->width < 32 ? fold_launch<1>(f, stream) : fold_launch<32>(f, stream);
}
