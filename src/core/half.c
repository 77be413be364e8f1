/* half.c - see half.h. */
#include "core/half.h"

#include <math.h>
#include <string.h>

float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
    float value;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
        value = ldexpf((float)fraction, -24);
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

bool half_from_float(float value, uint16_t *out) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float magnitude = fabsf(value);
    if (isnan(value) || isinf(value)) {
        *out = (uint16_t)(sign | (isnan(value) ? 0x7E00 : 0x7C00));
        return true;
    }
    if (magnitude >= 65520.0f) return false; /* half-way between the largest f16, 65504, and the next power of two */
    if (magnitude <
        0x1p-14f) { /* subnormal: a multiple of 2^-24; rintf rounds to even, and 1024 carries into the exponent */
        *out = (uint16_t)(sign | (uint16_t)rintf(magnitude * 0x1p24f));
        return true;
    }
    bits &= 0x7FFFFFFF;
    bits += 0xFFF + (bits >> 13 & 1); /* round the 13 bits that go; a carry moves into the exponent, as it must */
    *out = (uint16_t)(sign | ((bits >> 13) - ((127 - 15) << 10)));
    return true;
}

float bfloat_to_float(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

bool bfloat_from_float(float value, uint16_t *out) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value) || isinf(value)) {
        *out = (uint16_t)(bits >> 16 | (isnan(value) ? 0x40 : 0)); /* a NaN whose fraction is in the lower half alone */
        return true;
    }
    bits += 0x7FFF + (bits >> 16 & 1); /* round the 16 bits that go; a carry moves into the exponent, as it must */
    *out = (uint16_t)(bits >> 16);
    return (bits & 0x7F800000) != 0x7F800000;
}
