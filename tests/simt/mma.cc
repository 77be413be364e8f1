/* mma.cc - see mma.h; and the conversions between fp32 and the types that tensor cores multiply. */
#include "mma.h"

#include <string.h>

namespace simt {

namespace {

float as_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
uint32_t as_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
bool is_nan(uint32_t bits) {
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

/* Without branches, so that many are done at once. */
inline float widen_half(uint32_t h) {
    uint32_t magnitude = h & 0x7fff;
    uint32_t not_finite = 0u - (magnitude >= 0x7c00), no_number = 0u - (magnitude > 0x7c00); /* all ones or none */
    uint32_t sign = (h & 0x8000) << 16 & ~no_number;
    /* Read as fp32 the exponent is 112 too small, for subnormals too. */
    uint32_t finite = as_bits(as_float(magnitude << 13) * 0x1p112f);
    return as_float(sign | (finite & ~not_finite) | (0x7f800000u & not_finite) | (0x7fffffffu & no_number));
}

/* x rounded to a multiple of 2^drop, to nearest, ties to even. */
uint32_t round_even(uint32_t x, int drop) {
    uint32_t odd = x >> drop & 1;
    return (x + (1u << (drop - 1)) - 1 + odd) >> drop;
}

} // namespace

/* NaNs become the one NaN with all mantissa bits set, as the hardware's do. */

uint16_t float_to_bf16(float f) {
    uint32_t bits = as_bits(f);
    return is_nan(bits) ? 0x7fff : (uint16_t)round_even(bits, 16);
}

uint16_t float_to_half(float f) {
    uint32_t bits = as_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    if (is_nan(bits)) return 0x7fff;
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* from 65520 up: infinity */
    if (magnitude >= 0x38800000u)                                   /* from 2^-14 up: the exponent's bias is 112 less */
        return (uint16_t)(sign | round_even(magnitude - (112u << 23), 13));
    if (magnitude < 0x33000000u) return (uint16_t)sign; /* below 2^-25 */
    /* A multiple of 2^-24: the mantissa with its leading 1, shifted by how far the exponent is below that of 2^-1. */
    int drop = 126 - (int)(magnitude >> 23);
    return (uint16_t)(sign | round_even((magnitude & 0x7fffffu) | 0x800000u, drop));
}

float half_to_float(uint16_t h) {
    return widen_half(h);
}

uint32_t float_to_tf32(float f) {
    uint32_t bits = as_bits(f);
    return is_nan(bits) ? 0x7fffffffu : (bits + 0x1000u) & ~0x1fffu;
}

namespace {

const int ROWS = 16, COLUMNS = 8;
typedef float vector __attribute__((vector_size(COLUMNS * sizeof(float))));

/* Element h of a register. */
template <mma_kind KIND> inline float element(uint32_t bits, int h) {
    switch (KIND) {
    case MMA_BF16:
        return as_float(h ? bits & 0xffff0000u : bits << 16);
    case MMA_HALF:
        return widen_half(h ? bits >> 16 : bits & 0xffffu);
    default:
        return as_float(bits & ~0x1fffu); /* the hardware does not read the last 13 bits */
    }
}

/* `PER` elements share a register: the k of register i, element h of lane l is PER (l % 4) + h, and `half` more for
 * every second step of a's rows and for b's second register. */
template <mma_kind KIND, int PER> void multiply_warp(const mma_fragments *f) {
    const int half = 4 * PER, depth = 2 * half;
    float a[ROWS][depth];
    vector b[depth], d[ROWS];
    uint32_t bits[6][32]; /* a's registers, then b's, of all lanes */
    float wide[PER][6][32];
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) bits[i][lane] = f->a[lane][i];
        for (int i = 0; i < 2; i++) bits[4 + i][lane] = f->b[lane][i];
        for (int i = 0; i < 4; i++) d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = f->d[lane][i];
    }
    for (int h = 0; h < PER; h++)
        for (int i = 0; i < 6; i++)
            for (int lane = 0; lane < 32; lane++) wide[h][i][lane] = element<KIND>(bits[i][lane], h);
    for (int lane = 0; lane < 32; lane++)
        for (int h = 0; h < PER; h++) {
            int group = lane / 4, k = PER * (lane % 4) + h;
            for (int i = 0; i < 4; i++) a[group + 8 * (i % 2)][k + half * (i / 2)] = wide[h][i][lane];
            for (int i = 0; i < 2; i++) b[k + half * i][group] = wide[h][4 + i][lane];
        }
    for (int row = 0; row < ROWS; row++)
        for (int k = 0; k < depth; k++) d[row] += a[row][k] * b[k];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) f->d[lane][i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
}

} // namespace

void mma_warp(mma_kind kind, const mma_fragments *f) {
    switch (kind) {
    case MMA_BF16:
        multiply_warp<MMA_BF16, 2>(f);
        break;
    case MMA_HALF:
        multiply_warp<MMA_HALF, 2>(f);
        break;
    case MMA_TF32:
        multiply_warp<MMA_TF32, 1>(f);
        break;
    }
}

} // namespace simt
