/*
 * simd.h - the vector operations that the kernels are written in, one section per instruction set.
 *
 * Every kernels/cpu/X.c is compiled once per instruction set with -DKERNEL_ISA=NAME. A section says how wide a `vec`
 * is and what of the register file a register tile may fill, and defines the seven operations that the compiler's vector
 * arithmetic (+ - * / and comparisons, by GCC and Clang alike) does not cover. An instruction set more is a section
 * more, a name in the Makefile's ISAS, what it needs in src/backend/cpu/cpu_isa.c, and in product.h a PRODUCT_ROWS list
 * where its TILE_ROWS is new; nothing else in the kernels changes. NAMEemulated is the section NAME with its operations
 * done by others: for machines without it, in tests.
 * Must not know: what is computed.
 */
#ifndef COAR_KERNELS_CPU_SIMD_H
#define COAR_KERNELS_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/kernels.h"

#define KERNEL_JOIN2(a, b) a##b
#define KERNEL_JOIN(a, b) KERNEL_JOIN2(a, b)
/* KERNEL(cpu_conv) is cpu_conv_avx2 in the avx2 build of a file. */
#define KERNEL(name) KERNEL_JOIN(name##_, KERNEL_ISA)

#define SIMD_portable 1
#define SIMD_avx2 2
#define SIMD_avx512 3
#define SIMD_avx512emulated 4
#define SIMD_avx512bf16 5 /* avx512, and the products of bf16.h */
#define SIMD_LEVEL KERNEL_JOIN(SIMD_, KERNEL_ISA)

#define INLINE static inline __attribute__((always_inline))

/* Accumulators stay in registers only if the loops over them are unrolled before registers are assigned. Clang must not
 * unroll a loop whose length it will know only once the function is inlined: what it makes of that stays a loop. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ------------------------------------------------------------------------------------------- sections */

#if SIMD_LEVEL == SIMD_avx512 || SIMD_LEVEL == SIMD_avx512emulated || SIMD_LEVEL == SIMD_avx512bf16

#include <immintrin.h>

#define VEC 16
#define VECTOR_REGISTERS 32
#define TILE_VECTORS 2
#define TILE_SPARE (TILE_VECTORS + 1) /* activations, a broadcast weight */

typedef float vec __attribute__((vector_size(64), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), may_alias));

#if SIMD_LEVEL != SIMD_avx512emulated

INLINE vec vec_set1(float x) {
    return _mm512_set1_ps(x);
}
INLINE vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vec vec_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
INLINE vec vec_sqrt(vec a) {
    return _mm512_sqrt_ps(a);
}
INLINE uint32_t vec_bits(ivec mask) {
    return _mm512_movepi32_mask((__m512i)mask);
}
INLINE ivec vec_mask(uint32_t bits) {
    return (ivec)_mm512_movm_epi32((__mmask16)bits);
}
INLINE vec vec_keep(vec a) {
    __asm__("" : "+v"(a));
    return a;
}

#else

/* The same numbers on machines with AVX2, bit for bit and slowly: every operation on both halves. Both compilers do the
 * same to the arithmetic on vectors that they cannot hold. */
typedef union halves {
    vec whole;
    __m256 half[2];
} halves;

INLINE vec vec_set1(float x) {
    return (halves){.half = {_mm256_set1_ps(x), _mm256_set1_ps(x)}}.whole;
}
INLINE vec vec_fma(vec a, vec b, vec c) {
    const halves x = {a}, y = {b}, z = {c};
    return (halves){
        .half = {_mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]), _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1])}}
        .whole;
}
INLINE vec vec_max(vec a, vec b) {
    const halves x = {a}, y = {b};
    return (halves){.half = {_mm256_max_ps(x.half[0], y.half[0]), _mm256_max_ps(x.half[1], y.half[1])}}.whole;
}
INLINE vec vec_sqrt(vec a) {
    const halves x = {a};
    return (halves){.half = {_mm256_sqrt_ps(x.half[0]), _mm256_sqrt_ps(x.half[1])}}.whole;
}
INLINE uint32_t vec_bits(ivec mask) {
    const halves x = {(vec)mask};
    return (uint32_t)_mm256_movemask_ps(x.half[0]) | (uint32_t)_mm256_movemask_ps(x.half[1]) << 8;
}
INLINE ivec vec_mask(uint32_t bits) {
    const int32_t b = (int32_t)bits;
    const ivec bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    return ((ivec){b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b} & bit) == bit;
}
INLINE vec vec_keep(vec a) {
    return a;
}

#endif

#elif SIMD_LEVEL == SIMD_avx2

#include <immintrin.h>

#define VEC 8
#define VECTOR_REGISTERS 16
/* Tiles of 3 x 4 are as fast by GCC, but 4 activations and a weight leave no room beside 12 accumulators: Clang spills,
 * at half the speed. */
#define TILE_VECTORS 2
#define TILE_SPARE (TILE_VECTORS + 1) /* activations, a broadcast weight */

typedef float vec __attribute__((vector_size(32), may_alias));
typedef int32_t ivec __attribute__((vector_size(32), may_alias));

INLINE vec vec_set1(float x) {
    return _mm256_set1_ps(x);
}
INLINE vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
} /* a b + c, rounded once */
INLINE vec vec_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
} /* a > b ? a : b; b where unordered */
INLINE vec vec_sqrt(vec a) {
    return _mm256_sqrt_ps(a);
}
INLINE uint32_t vec_bits(ivec mask) {
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
} /* bit i = element i of a comparison */
INLINE ivec vec_mask(uint32_t bits) {
    const ivec bit = {1, 2, 4, 8, 16, 32, 64, 128};
    return ((ivec)_mm256_set1_epi32((int)bits) & bit) == bit;
} /* and back; bits beyond the vector are ignored */
INLINE vec vec_keep(vec a) {
    __asm__("" : "+x"(a));
    return a;
} /* in a register: GCC would rather read it again for every use */

#elif SIMD_LEVEL == SIMD_portable

#include <math.h>

#define VEC 4
#define VECTOR_REGISTERS 16
#define TILE_VECTORS 4
#define TILE_SPARE (TILE_VECTORS + 3) /* activations, a broadcast weight; without a fused multiply-add, products too */

typedef float vec __attribute__((vector_size(16), may_alias));
typedef int32_t ivec __attribute__((vector_size(16), may_alias));

INLINE vec vec_set1(float x) {
    return (vec){x, x, x, x};
}
INLINE vec vec_fma(vec a, vec b, vec c) {
    return a * b + c;
}
INLINE vec vec_max(vec a, vec b) {
    ivec greater = a > b;
    return (vec)((greater & (ivec)a) | (~greater & (ivec)b));
}
INLINE vec vec_sqrt(vec a) {
    return (vec){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])};
}
INLINE uint32_t vec_bits(ivec mask) {
    const ivec bit = mask & (ivec){1, 2, 4, 8};
    return (uint32_t)(bit[0] | bit[1] | bit[2] | bit[3]);
}
INLINE ivec vec_mask(uint32_t bits) {
    const ivec bit = {1, 2, 4, 8};
    const int32_t b = (int32_t)bits;
    return ((ivec){b, b, b, b} & bit) == bit;
}
INLINE vec vec_keep(vec a) {
    return a;
}

#else
#error "KERNEL_ISA names no section of simd.h"
#endif

/* --------------------------------------------------------------------------------- common to all of them */

/* Rows of a register tile: as many as fill the vector registers with accumulators. */
#define REGISTER_ROWS ((VECTOR_REGISTERS - TILE_SPARE) / TILE_VECTORS)
/* And of product.h, where each row of weights has a pointer, beside those to activations, columns and their end, and a
 * column: 8 rows are what both compilers keep in the 15 general registers of x86-64. Their 16 multiply-adds hide latency
 * and loads already; more rows would only read activations less often. */
#define TILE_ROWS (REGISTER_ROWS < 8 ? REGISTER_ROWS : 8)

INLINE vec vec_load(const float *p) {
    return *(const vec *)p;
}
/* From any address. */
INLINE vec vec_loadu(const float *p) {
    vec a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
}
INLINE void vec_store(float *p, vec a) {
    *(vec *)p = a;
}
INLINE vec vec_zero(void) {
    return (vec){0};
}
INLINE vec vec_select(ivec mask, vec a, vec b) {
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}
/* Propagates NaN, as the frameworks do. */
INLINE vec vec_relu(vec a) {
    return vec_max(vec_zero(), a);
}

/* Of an array of bits, those from bit i (a multiple of VEC) on, as a comparison of the elements would have given. */
INLINE ivec vec_load_mask(const uint8_t *bits, size_t i) {
    uint32_t b = (uint32_t)bits[i / 8] >> i % 8;
    for (uint32_t more = 8; more < VEC; more += 8) b |= (uint32_t)bits[(i + more) / 8] << more;
    return vec_mask(b);
}
/* A gradient_sum's way of taking a value. */
INLINE void vec_put(float *p, bool add, vec a) {
    if (add) a += vec_load(p);
    vec_store(p, a);
}

/* e^x with a relative error of about 1e-7; below -87 it is about 1e-38 instead of a subnormal, above 88 about 1e38.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (remainder < 6e-9); 2^n is added to
 * the exponent. NaN stays NaN. */
INLINE vec vec_exp(vec x) {
    const vec round = vec_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
    x = vec_select(x < vec_set1(-87.0f), vec_set1(-87.0f), x);
    x = vec_select(x > vec_set1(88.0f), vec_set1(88.0f), x);
    vec shifted = vec_fma(x, vec_set1(1.44269504f), round);
    vec n = shifted - round;
    vec r = vec_fma(n, vec_set1(-0.693359375f), x); /* ln 2 in two parts; the first has trailing zeros */
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    vec p = vec_set1(1.0f / 5040);
    p = vec_fma(p, r, vec_set1(1.0f / 720));
    p = vec_fma(p, r, vec_set1(1.0f / 120));
    p = vec_fma(p, r, vec_set1(1.0f / 24));
    p = vec_fma(p, r, vec_set1(1.0f / 6));
    p = vec_fma(p, r, vec_set1(0.5f));
    p = vec_fma(p, r, vec_set1(1.0f));
    p = vec_fma(p, r, vec_set1(1.0f));
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* -------------------------------------------------------------- the functions of this instruction set (table.c) */

void KERNEL(cpu_conv)(const conv_args *c);
void KERNEL(cpu_linear)(const conv_args *c); /* cpu_conv and cpu_conv_reverse call these where they can compute it */
void KERNEL(cpu_linear_bf16)(const conv_args *c);
void KERNEL(cpu_linear_reverse)(const conv_reverse_args *c);
void KERNEL(cpu_winograd)(const conv_args *c);
size_t KERNEL(cpu_winograd_scratch)(uint32_t channels);
/* What either form does with `count` positions from `first` on once all their rows are computed: rows that are known
 * without that, and activations that are not fused. */
void KERNEL(cpu_conv_finish)(const conv_args *c, size_t first, size_t count);
void KERNEL(cpu_conv_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                           float *packed);
void KERNEL(cpu_winograd_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                               float *packed);
void KERNEL(cpu_conv_bf16)(const conv_args *c);
void KERNEL(cpu_winograd_bf16)(const conv_args *c);
size_t KERNEL(cpu_conv_bf16_scratch)(const window *g, uint32_t in_channels);
size_t KERNEL(cpu_winograd_bf16_scratch)(uint32_t in_channels);
void KERNEL(cpu_conv_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                float *packed);
void KERNEL(cpu_winograd_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                    float *packed);
void KERNEL(cpu_maxpool)(const pool_args *p);
void KERNEL(cpu_avgpool)(const pool_args *p);
void KERNEL(cpu_layernorm)(const layernorm_args *a);
void KERNEL(cpu_attention)(const attention_args *a);
size_t KERNEL(cpu_attention_scratch)(uint32_t tokens, uint32_t head_width);
void KERNEL(cpu_relu)(float *x, size_t count);
void KERNEL(cpu_gelu_erf)(float *x, size_t count);
void KERNEL(cpu_gelu_tanh)(float *x, size_t count);
void KERNEL(cpu_quickgelu)(float *x, size_t count);
void KERNEL(cpu_normalise)(const uint8_t *pixels, size_t count, uint32_t channels, const float *mul, const float *add,
                           float *output);
void KERNEL(cpu_scale_channels)(const float *x, size_t positions, uint32_t channels, const float *mul, const float *add,
                                const float *residual, float *output);
void KERNEL(cpu_embed)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output);
void KERNEL(cpu_mean_token)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output);
void KERNEL(cpu_l2norm)(const float *x, size_t positions, uint32_t channels, float *y);
void KERNEL(cpu_conv_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                   float *packed);
void KERNEL(cpu_winograd_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels,
                                       const float *weight, float *packed);
void KERNEL(cpu_conv_reverse)(const conv_reverse_args *c);
void KERNEL(cpu_winograd_reverse)(const conv_reverse_args *c);
void KERNEL(cpu_conv_reverse_finish)(const conv_reverse_args *c, size_t first, size_t count);
void KERNEL(cpu_epilogue_reverse)(const epilogue_reverse_args *e);
void KERNEL(cpu_maxpool_reverse)(const pool_reverse_args *p);
void KERNEL(cpu_avgpool_reverse)(const pool_reverse_args *p);
void KERNEL(cpu_layernorm_reverse)(const layernorm_reverse_args *a);
void KERNEL(cpu_next_rows)(const next_rows_args *a);
void KERNEL(cpu_next_slopes)(float *logits, size_t positions, uint32_t rows, const float *log_sum,
                             const float *gradient, size_t stride);
void KERNEL(cpu_attention_reverse)(const attention_reverse_args *a);
size_t KERNEL(cpu_attention_reverse_scratch)(uint32_t tokens, uint32_t head_width);
void KERNEL(cpu_gelu_erf_reverse)(const float *x, float *gradient, size_t count);
void KERNEL(cpu_gelu_tanh_reverse)(const float *x, float *gradient, size_t count);
void KERNEL(cpu_quickgelu_reverse)(const float *x, float *gradient, size_t count);
void KERNEL(cpu_subsample_reverse)(const subsample_reverse_args *s);
void KERNEL(cpu_embed_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output);
void KERNEL(cpu_mean_token_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output);
void KERNEL(cpu_l2norm_reverse)(const float *x, const float *gradient, size_t positions, uint32_t channels,
                                gradient_sum output);
void KERNEL(cpu_select_reverse)(const float *gradient, size_t positions, uint32_t channels, gradient_sum output);
double KERNEL(cpu_peak)(size_t iterations);
double KERNEL(cpu_peak_bf16)(size_t iterations);
void KERNEL(cpu_triad)(const float *b, const float *c, float *a, size_t count);

#endif
