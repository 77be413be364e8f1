/*
 * epilogue.cuh - everything behind the products of a convolution or a linear layer, once, for every kernel that ends
 * in it:
 *
 *   y = out(act(post(scale * pre(sum) + shift) + residual))
 *
 * pre, post, out: the mask at its own place, k x + (1 - k) fill. sum is W x in fp32; scale, shift and fill are per
 * channel, k = keep[slot[pair]][channel]. Everything is computed in fp32 and rounded once, when it is stored.
 * What a thread handles is a quad: four neighbouring channels of a row, a row being one position of one pair: 8 or 16
 * bytes to load (residual) and to store. A thread stays with its channels and goes down the rows, so that scale,
 * shift, fill and keep stay in registers; keep is read again only where the slot changes. The channels behind the last
 * one are written as zeros.
 * Products and sums are fused where the source says fmaf and not by the compiler's choice, so that the bits do not
 * depend on the kernel around: a sum whose operand may end in a product (expf's does) is an __fadd_rn.
 *
 * Must not know: how the sums came about.
 */
#ifndef COAR_KERNELS_CUDA_EPILOGUE_CUH
#define COAR_KERNELS_CUDA_EPILOGUE_CUH

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/kernels.h"

/* ------------------------------------------------------------------------------------ fixed divisors */

/* n / value for n < 2^31 without a division: n * multiplier >> shift (Granlund and Montgomery 1994, section 4). */
struct epilogue_divisor {
    uint32_t value, multiplier, shift;
};

/* 1 <= value <= 2^31. multiplier = ceil(2^shift / value), shift = 31 + ceil(log2 value): it fits 32 bits. */
__host__ __device__ constexpr epilogue_divisor epilogue_divisor_of(uint32_t value) {
    uint32_t shift = 31;
    while (((uint64_t)1 << (shift - 31)) < value) shift++;
    return {value, (uint32_t)((((uint64_t)1 << shift) + value - 1) / value), shift};
}

GPU_INLINE constexpr uint32_t epilogue_divide(uint32_t n, const epilogue_divisor &d) {
    return (uint32_t)((uint64_t)n * d.multiplier >> d.shift);
}

/* The quotients around the largest multiples below 2^31 are the first to go wrong. */
GPU_INLINE constexpr bool epilogue_divides(uint32_t value) {
    const epilogue_divisor d = epilogue_divisor_of(value);
    const uint32_t end = 0x7fffffff, last = end - end % value;
    return epilogue_divide(value - 1, d) == 0 && epilogue_divide(end, d) == end / value &&
           epilogue_divide(last, d) == last / value && epilogue_divide(last - 1, d) == (last - 1) / value;
}
static_assert(epilogue_divides(1) && epilogue_divides(2) && epilogue_divides(3) && epilogue_divides(7) &&
                  epilogue_divides(641) && epilogue_divides(12544) && epilogue_divides(0x40000001) &&
                  epilogue_divides(0x7fffffff),
              "the multiplier has enough bits");

/* -------------------------------------------------------------------------------------------- quads */

template <class T> struct alignas(4 * sizeof(T)) epilogue_quad { T value[4]; };

template <class T> GPU_INLINE void epilogue_load(const void *from, size_t at, float (&v)[4]) {
    const epilogue_quad<T> q = *(const epilogue_quad<T> *)((const T *)from + at);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = to_float(q.value[i]);
}

template <class T> GPU_INLINE void epilogue_store(void *to, size_t at, const float (&v)[4]) {
    if constexpr (sizeof(T) == 2) {
        *(uint2 *)((T *)to + at) = make_uint2(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]));
    } else {
        *(float4 *)((T *)to + at) = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* --------------------------------------------------------------------------------------- the epilogue */

/* What gpu_conv says about everything behind W x; kernels take it by value. */
struct epilogue {
    const float *scale, *shift; /* [channels]; NULL = 1, 0 */
    const void *residual;       /* [rows][stride] of the type's storage, or NULL */
    void *y;                    /* [rows][stride], of the type's storage or, if `wide`, fp32 */
    void *linear;               /* [rows][stride] of the type's storage: W x itself; NULL = not wanted */
    gpu_mask mask;
    gpu_activation activation;
    bool wide;
    uint32_t rows, channels, stride;
    epilogue_divisor positions; /* rows of one pair */
};

/* A thread's four channels. */
struct epilogue_channels {
    uint32_t first;
    uint32_t slot; /* whose keeps are in `keep`; EPILOGUE_NO_SLOT at first */
    float scale[4], shift[4], fill[4], keep[4];
};

#define EPILOGUE_NO_SLOT 0xffffffffu

/* Four entries of values[channels]; `otherwise` behind the last and for NULL. The array may lie at any float. */
GPU_INLINE void epilogue_gather(const epilogue &e, const float *values, uint32_t first, float otherwise,
                                float (&v)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) v[i] = values && first + i < e.channels ? values[first + i] : otherwise;
}

/* first: a multiple of 4 below e.stride. */
GPU_INLINE epilogue_channels epilogue_begin(const epilogue &e, uint32_t first) {
    epilogue_channels c;
    c.first = first;
    c.slot = EPILOGUE_NO_SLOT;
    epilogue_gather(e, e.scale, first, 1, c.scale);
    epilogue_gather(e, e.shift, first, 0, c.shift);
    epilogue_gather(e, e.mask.place == GPU_PLACE_NONE ? NULL : e.mask.fill, first, 0, c.fill);
    epilogue_gather(e, NULL, first, 1, c.keep);
    return c;
}

GPU_INLINE void epilogue_ablate(const epilogue_channels &c, float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = fmaf(c.keep[i], v[i], (1 - c.keep[i]) * c.fill[i]);
}

GPU_INLINE void epilogue_activate(gpu_activation activation, float (&v)[4]) {
    const float sqrt_half = 0.70710678118654752f, sqrt_2_over_pi = 0.79788456080286536f;
    if (activation == GPU_RELU) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = v[i] < 0 ? 0 : v[i]; /* in this order NaN stays NaN */
    } else if (activation == GPU_GELU_ERF) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = v[i] * 0.5f * __fadd_rn(1, erff(v[i] * sqrt_half));
    } else if (activation == GPU_GELU_TANH) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = v[i] * 0.5f * __fadd_rn(1, tanhf(sqrt_2_over_pi * fmaf(0.044715f * v[i] * v[i], v[i], v[i])));
    } else if (activation == GPU_QUICKGELU) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = v[i] / __fadd_rn(1, expf(-1.702f * v[i]));
    }
}

/* sums -> the argument of the activation; residual is added if there is one. c holds the row's keeps. */
GPU_INLINE void epilogue_argument(const epilogue &e, const epilogue_channels &c, const float (&residual)[4],
                                  float (&v)[4]) {
    if (e.mask.place == GPU_PLACE_PRE) epilogue_ablate(c, v);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = fmaf(c.scale[i], v[i], c.shift[i]);
    if (e.mask.place == GPU_PLACE_POST) epilogue_ablate(c, v);
    if (e.residual) {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] += residual[i];
    }
}

/* Channels behind the last one: zeros stay zeros through the whole epilogue. */
GPU_INLINE void epilogue_clear_behind(const epilogue &e, const epilogue_channels &c, float (&v)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) v[i] = c.first + i < e.channels ? v[i] : 0;
}

constexpr uint32_t EPILOGUE_NO_ROW = 0xffffffffu;

/* Finishes and stores the sums v of the rows row_of(0), row_of(1), ..., of which each is below e.rows or
 * EPILOGUE_NO_ROW. All loads come first, so that the residuals of R rows are under way at once. */
template <class T, int R, class F>
GPU_INLINE void epilogue_rows(const epilogue &e, epilogue_channels &c, float (&v)[R][4], F row_of) {
    uint32_t slot[R];
    float residual[R][4] = {};
#pragma unroll
    for (int r = 0; r < R; r++) {
        const uint32_t row = row_of(r);
        slot[r] = c.slot;
        if (row == EPILOGUE_NO_ROW) continue;
        if (e.mask.place != GPU_PLACE_NONE) slot[r] = e.mask.slot[epilogue_divide(row, e.positions)];
        if (e.residual) epilogue_load<T>(e.residual, (size_t)row * e.stride + c.first, residual[r]);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        const uint32_t row = row_of(r);
        if (row == EPILOGUE_NO_ROW) continue;
        if (slot[r] != c.slot) {
            c.slot = slot[r];
            epilogue_gather(e, e.mask.keep + (size_t)c.slot * e.mask.rows, c.first, 1, c.keep);
        }
        const size_t at = (size_t)row * e.stride + c.first;
        epilogue_clear_behind(e, c, v[r]);
        if (e.linear) epilogue_store<T>(e.linear, at, v[r]);
        epilogue_argument(e, c, residual[r], v[r]);
        epilogue_activate(e.activation, v[r]);
        if (e.mask.place == GPU_PLACE_OUT) epilogue_ablate(c, v[r]);
        if (e.wide)
            epilogue_store<float>(e.y, at, v[r]);
        else
            epilogue_store<T>(e.y, at, v[r]);
    }
}

#endif
