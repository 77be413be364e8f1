/* element.c - see element.h. */
#include "element.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t element_size(cudaDataType type) {
    switch (type) {
    case CUDA_R_64F:
        return 8;
    case CUDA_R_32F:
    case CUDA_R_32I:
        return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
        return 2;
    case CUDA_R_8I:
        return 1;
    default:
        return 0;
    }
}

static float bf16_to_float(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

static uint16_t float_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isnan(f)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float f = exponent == 31 ? (mantissa ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                             : ldexpf((float)mantissa, -24);
    return bits & 0x8000 ? -f : f;
}

static uint16_t float_to_half(float f) {
    const uint16_t sign = signbit(f) ? 0x8000 : 0;
    const float size = fabsf(f);
    int exponent;
    if (isnan(f)) return 0x7e00;
    if (size >= 65520) return sign | 0x7c00; /* halfway between the largest number and the next */
    if (size < ldexpf(1, -14)) return sign | (uint16_t)nearbyintf(ldexpf(size, 24));
    frexpf(size, &exponent); /* size = fraction * 2^exponent, fraction in [1/2, 1) */
    const unsigned mantissa = (unsigned)nearbyintf(ldexpf(size, 11 - exponent)); /* 1024 to 2048 */
    return (uint16_t)(sign + (unsigned)((exponent + 13) << 10) + mantissa);
}

double element_load(const void *p, cudaDataType type, size_t i) {
    switch (type) {
    case CUDA_R_64F:
        return ((const double *)p)[i];
    case CUDA_R_32F:
        return ((const float *)p)[i];
    case CUDA_R_16F:
        return half_to_float(((const uint16_t *)p)[i]);
    case CUDA_R_16BF:
        return bf16_to_float(((const uint16_t *)p)[i]);
    case CUDA_R_32I:
        return ((const int32_t *)p)[i];
    case CUDA_R_8I:
        return ((const int8_t *)p)[i];
    default:
        fprintf(stderr, "stand-in: unknown type %d\n", (int)type);
        abort();
    }
}

void element_store(void *p, cudaDataType type, size_t i, double value) {
    switch (type) {
    case CUDA_R_64F:
        ((double *)p)[i] = value;
        return;
    case CUDA_R_32F:
        ((float *)p)[i] = (float)value;
        return;
    case CUDA_R_16F:
        ((uint16_t *)p)[i] = float_to_half((float)value);
        return;
    case CUDA_R_16BF:
        ((uint16_t *)p)[i] = float_to_bf16((float)value);
        return;
    case CUDA_R_32I:
        ((int32_t *)p)[i] = (int32_t)value;
        return;
    default:
        fprintf(stderr, "stand-in: unknown type %d\n", (int)type);
        abort();
    }
}

float round_to_tf32(float f) {
    uint32_t bits;
    if (!isfinite(f)) return f;
    memcpy(&bits, &f, sizeof bits);
    bits = (bits + 0x1000) & ~(uint32_t)0x1fff;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void *new_array(size_t count, size_t size) {
    void *p = calloc(count + 1, size);
    if (!p) abort();
    return p;
}

/* The matrix as rows x columns numbers in order. */
static double *gather_f64(matrix a, size_t rows, size_t columns) {
    double *out = new_array(rows * columns, sizeof *out);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) out[i * columns + j] = element_load(a.p, a.type, i * a.row + j * a.column);
    return out;
}

static float *gather_f32(matrix a, size_t rows, size_t columns, sums kind) {
    float *out = new_array(rows * columns, sizeof *out);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            const float v = (float)element_load(a.p, a.type, i * a.row + j * a.column);
            out[i * columns + j] = kind == SUMS_TF32 ? round_to_tf32(v) : v;
        }
    return out;
}

/* sum[j] += sum over l of a[l] b[l][j], in order of l. */
static void add_products_f64(double *restrict sum, const double *a, const double *restrict b, size_t k, size_t n) {
    for (size_t l = 0; l < k; l++)
        for (size_t j = 0; j < n; j++) sum[j] += a[l] * b[l * n + j];
}

static void add_products_f32(float *restrict sum, const float *a, const float *restrict b, size_t k, size_t n) {
    for (size_t l = 0; l < k; l++)
        for (size_t j = 0; j < n; j++) sum[j] += a[l] * b[l * n + j];
}

static void product_f64(double *out, size_t m, size_t n, size_t k, matrix a, matrix b) {
    double *x = gather_f64(a, m, k), *y = gather_f64(b, k, n);
    memset(out, 0, m * n * sizeof *out);
    for (size_t i = 0; i < m; i++) add_products_f64(out + i * n, x + i * k, y, k, n);
    free(y);
    free(x);
}

static void product_f32(double *out, size_t m, size_t n, size_t k, matrix a, matrix b, sums kind, size_t parts) {
    float *x = gather_f32(a, m, k, kind), *y = gather_f32(b, k, n, kind);
    float *part = new_array(n, sizeof *part), *sum = new_array(n, sizeof *sum);
    for (size_t i = 0; i < m; i++) {
        memset(sum, 0, n * sizeof *sum);
        for (size_t p = 0; p < parts; p++) {
            const size_t from = k * p / parts, to = k * (p + 1) / parts;
            memset(part, 0, n * sizeof *part);
            add_products_f32(part, x + i * k + from, y + from * n, to - from, n);
            for (size_t j = 0; j < n; j++) sum[j] += part[j];
        }
        for (size_t j = 0; j < n; j++) out[i * n + j] = sum[j];
    }
    free(sum);
    free(part);
    free(y);
    free(x);
}

void matrix_product(double *out, size_t m, size_t n, size_t k, matrix a, matrix b, sums kind, size_t parts) {
    if (kind == SUMS_F64)
        product_f64(out, m, n, k, a, b);
    else
        product_f32(out, m, n, k, a, b, kind, parts);
}
