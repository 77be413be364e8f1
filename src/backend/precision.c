/* precision.c - see precision.h. */
#include "backend/precision.h"

#include <math.h>
#include <string.h>

#include "core/half.h"

static const char *const names[] = {
    [PRECISION_FP32] = "fp32",
    [PRECISION_TF32] = "tf32",
    [PRECISION_BF16] = "bf16",
    [PRECISION_FP16] = "fp16",
};

const char *precision_name(precision p) {
    return names[p];
}

bool precision_parse(const char *name, precision *out) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) {
            *out = (precision)i;
            return true;
        }
    return false;
}

bool precision_is_narrow(precision p) {
    return p == PRECISION_BF16 || p == PRECISION_FP16;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The upper half of the fp32, to nearest even; a carry moves into the exponent, as it must. */
static uint16_t bf16_bits(float value) {
    const uint32_t bits = bits_of(value);
    if (isnan(value)) return (uint16_t)(bits >> 16 | 0x40); /* quiet: its payload may be in the bits that go */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static uint16_t fp16_bits(float value) {
    uint16_t bits;
    return half_from_float(value, &bits) ? bits : signbit(value) ? 0xFC00 : 0x7C00;
}

static float round_tf32(float value) {
    return isfinite(value) ? from_bits((bits_of(value) + 0x1000) & ~UINT32_C(0x1FFF)) : value;
}

uint16_t precision_bits(precision p, float value) {
    return p == PRECISION_BF16 ? bf16_bits(value) : fp16_bits(value);
}

float precision_stored(precision p, float value) {
    switch (p) {
    case PRECISION_BF16:
        return from_bits((uint32_t)bf16_bits(value) << 16);
    case PRECISION_FP16:
        return half_to_float(fp16_bits(value));
    default:
        return value;
    }
}

float precision_operand(precision p, float value) {
    return p == PRECISION_TF32 ? round_tf32(value) : precision_stored(p, value);
}

float precision_gradient(precision p, float gradient) {
    if (p != PRECISION_FP16) return precision_stored(p, gradient);
    return precision_stored(p, gradient * GRADIENT_SCALE_FP16) / GRADIENT_SCALE_FP16;
}

float precision_gradient_operand(precision p, float gradient) {
    return p == PRECISION_TF32 ? round_tf32(gradient) : precision_gradient(p, gradient);
}
