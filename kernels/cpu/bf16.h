/*
 * bf16.h - products of bf16 numbers, two at a time, added up in fp32.
 *
 * A pair is two bf16 numbers in the 32 bits of an element: channel 2i in the lower half, channel 2i + 1 in the upper
 * one. So pairs of channels lie where channels of fp32 would, and the loops over them are the same.
 *
 * What is defined here has the bits of the instructions VCVTNE2PS2BF16 and VDPBF16PS (Intel 64 and IA-32 Architectures
 * Software Developer's Manual, volume 2): rounding is to nearest, ties to even; a number below 2^-126, read or made, is
 * a zero of its sign; the upper product is added first, and each addition rounds the exact product and the sum once.
 * Instruction sets without them compute the same, several times slower. Only which NaN comes out is not defined.
 */
#ifndef COAR_KERNELS_CPU_BF16_H
#define COAR_KERNELS_CPU_BF16_H

#include "kernels/cpu/simd.h"

typedef uint32_t uvec __attribute__((vector_size(VEC * 4), may_alias));

#if SIMD_LEVEL == SIMD_avx512bf16

INLINE vec bf16_pair(vec lower, vec upper) {
    const ivec i = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i all = (__m512i)_mm512_cvtne2ps_pbh((__m512)upper, (__m512)lower); /* the lower ones first */
    return (vec)_mm512_permutexvar_epi16((__m512i)(i | (i + VEC) << 16), all);
}

/* sum + both products of pairs. */
INLINE vec bf16_dot(vec sum, vec a, vec b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

#else

INLINE vec bf16_flush(vec a) {
    const uvec bits = (uvec)a;
    const uvec below = (uvec)((bits & 0x7F800000) == 0); /* all ones where only the sign stays */
    return (vec)(bits & ~(below >> 1));
}

/* In the upper halves; below them is what the rounding left. */
INLINE uvec bf16_round(vec a) {
    const uvec bits = (uvec)bf16_flush(a), nan = (uvec)(a != a);
    const uvec rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return (nan & (bits | 0x400000)) | (~nan & rounded);
}

INLINE vec bf16_pair(vec lower, vec upper) {
    return (vec)((bf16_round(lower) >> 16) | (bf16_round(upper) & 0xFFFF0000));
}

#if SIMD_LEVEL == SIMD_portable
/* a b + c of bf16 a and b, rounded once. In double the product is exact, and so is the sum, unless one of the two is so
 * small beside the other that it decides no tie: their bits reach no further than 24 + 16 places below a tie's. */
typedef double dvec __attribute__((vector_size(VEC * 8)));
INLINE vec bf16_fma(vec a, vec b, vec c) {
    const dvec product = __builtin_convertvector(a, dvec) * __builtin_convertvector(b, dvec);
    return __builtin_convertvector(product + __builtin_convertvector(c, dvec), vec);
}
#else
INLINE vec bf16_fma(vec a, vec b, vec c) {
    return vec_fma(a, b, c);
}
#endif

/* sum + both products of pairs. */
INLINE vec bf16_dot(vec sum, vec a, vec b) {
    const uvec x = (uvec)a, y = (uvec)b;
    sum = bf16_flush(bf16_fma((vec)(x & 0xFFFF0000), (vec)(y & 0xFFFF0000), sum));
    return bf16_flush(bf16_fma((vec)(x << 16), (vec)(y << 16), sum));
}

#endif

/* The channels of a position, [in_channels][LANES], as pairs [pairs][LANES]. */
INLINE void bf16_round_channels(const conv_args *c, const float *x, float *pairs) {
    static const _Alignas(64) float zeros[LANES];
    for (uint32_t i = 0; i < c->pairs; i++, pairs += LANES) {
        const uint32_t lower = c->pair[i][0], upper = c->pair[i][1];
        const float *from[] = {lower < c->in_channels ? x + (size_t)lower * LANES : zeros,
                               upper < c->in_channels ? x + (size_t)upper * LANES : zeros};
        for (uint32_t lane = 0; lane < LANES; lane += VEC)
            vec_store(pairs + lane, bf16_pair(vec_load(from[0] + lane), vec_load(from[1] + lane)));
    }
}

#endif
