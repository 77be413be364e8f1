/*
 * arithmetic.c - conversions, ldmatrix and mma of the shim against double arithmetic and plain loops.
 */
#include "tests/kernels/kernel_test.h"

cudaError_t narrow(const float *x, uint32_t n, uint16_t *as_bf16, uint16_t *as_half, uint32_t *as_tf32);
cudaError_t widen(float *from_bf16, float *from_half);
cudaError_t mma_bf16(const float *a, const float *b, float *d);
cudaError_t mma_half(const float *a, const float *b, float *d);
cudaError_t mma_tf32(const float *a, const float *b, float *d);
cudaError_t matrices(const void *rows, const uint32_t *row, uint32_t *r, uint32_t *r_transposed);

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static double bf16_value(uint16_t bits) {
    return float_of((uint32_t)bits << 16);
}

/* IEEE 754's binary16, read off its definition. */
static double half_value(uint16_t bits) {
    int sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1 + fraction / 1024.0, exponent - 15) : ldexp(fraction / 1024.0, -14));
}

/* Whether `got` is x rounded to the format: the same value with the same sign; any NaN is the one with all bits set. */
static bool is_rounded(kernel_format format, double x, double got, bool all_bits) {
    if (isnan(x)) return isnan(got) && all_bits;
    double expected = kernel_round(format, x);
    return got == expected && !signbit(got) == !signbit(x);
}

/* Every upper half of an fp32 number with lower halves around each place where some format rounds. */
static void check_narrow(void) {
    static const uint16_t lower[] = {0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff};
    enum { LOWER = sizeof lower / sizeof *lower, COUNT = 65536 * LOWER };
    float *x = kernel_buffer(COUNT * sizeof *x);
    uint16_t *as_bf16 = kernel_buffer(COUNT * sizeof *as_bf16), *as_half = kernel_buffer(COUNT * sizeof *as_half);
    uint32_t *as_tf32 = kernel_buffer(COUNT * sizeof *as_tf32);
    for (uint32_t i = 0; i < COUNT; i++) x[i] = float_of(i / LOWER << 16 | lower[i % LOWER]);
    KERNEL_RUN(narrow(x, COUNT, as_bf16, as_half, as_tf32));
    int wrong = 0;
    for (uint32_t i = 0; i < COUNT && wrong < 5; i++) {
        const struct {
            const char *name;
            kernel_format format;
            double got;
            bool all_bits;
        } results[] = {{"bf16", KERNEL_BF16, bf16_value(as_bf16[i]), as_bf16[i] == 0x7fff},
                       {"fp16", KERNEL_HALF, half_value(as_half[i]), as_half[i] == 0x7fff},
                       {"tf32", KERNEL_TF32, float_of(as_tf32[i]), as_tf32[i] == 0x7fffffff}};
        for (int f = 0; f < 3; f++)
            if (!is_rounded(results[f].format, x[i], results[f].got, results[f].all_bits) && wrong++ < 5)
                test_fail(__FILE__, __LINE__, "%a to %s: got %a, expected %a", (double)x[i], results[f].name,
                          results[f].got, kernel_round(results[f].format, x[i]));
    }
}

static void check_widen(void) {
    float *from_bf16 = kernel_buffer(65536 * sizeof(float)), *from_half = kernel_buffer(65536 * sizeof(float));
    KERNEL_RUN(widen(from_bf16, from_half));
    int wrong = 0;
    for (uint32_t i = 0; i < 65536 && wrong < 5; i++) {
        double half = half_value((uint16_t)i);
        uint32_t bits;
        memcpy(&bits, &from_bf16[i], sizeof bits);
        if (bits != i << 16) wrong++, test_fail(__FILE__, __LINE__, "bf16 %04x: got %08x", i, bits);
        bool same =
            isnan(half) ? isnan(from_half[i]) : from_half[i] == half && !signbit(from_half[i]) == !signbit(half);
        if (!same)
            wrong++, test_fail(__FILE__, __LINE__, "fp16 %04x: got %a, expected %a", i, (double)from_half[i], half);
    }
}

/* Small whole numbers: sums are exact in any order, so that a misplaced element cannot hide. */
static double whole(uint64_t seed, uint64_t i) {
    return (double)kernel_random(seed, i, 17) - 8;
}

static void check_product(cudaError_t (*launch)(const float *, const float *, float *), int depth) {
    double a[16 * 16], b[16 * 8], d[16 * 8], expected[16 * 8], got[16 * 8];
    for (int trial = 0; trial < 4; trial++) {
        for (int i = 0; i < 16 * depth; i++) a[i] = whole(10 + (uint64_t)trial, (uint64_t)i);
        for (int i = 0; i < depth * 8; i++) b[i] = whole(20 + (uint64_t)trial, (uint64_t)i);
        for (int i = 0; i < 16 * 8; i++) d[i] = whole(30 + (uint64_t)trial, (uint64_t)i);
        for (int m = 0; m < 16; m++)
            for (int n = 0; n < 8; n++) {
                expected[m * 8 + n] = d[m * 8 + n];
                for (int k = 0; k < depth; k++) expected[m * 8 + n] += a[m * depth + k] * b[k * 8 + n];
            }
        float *sums = kernel_floats(d, 16 * 8);
        KERNEL_RUN(launch(kernel_floats(a, (size_t)(16 * depth)), kernel_floats(b, (size_t)(depth * 8)), sums));
        for (int i = 0; i < 16 * 8; i++) got[i] = sums[i];
        kernel_compare("product", got, expected, 16 * 8, 0, 0);
    }
}

static void check_mma_bf16(void) {
    check_product(mma_bf16, 16);
}
static void check_mma_half(void) {
    check_product(mma_half, 16);
}
static void check_mma_tf32(void) {
    check_product(mma_tf32, 8);
}

/* Sums are kept in fp32: 2^24 + 1 needs more than tf32's or bf16's bits, 2^24 + 2^24 * 2^-24 more than fp32's. */
static void check_mma_precision(void) {
    double a[16 * 16] = {0}, b[16 * 8] = {0}, d[16 * 8];
    a[0] = 1, b[0] = 1.5;
    for (int i = 0; i < 16 * 8; i++) d[i] = 0x1p23;
    float *sums = kernel_floats(d, 16 * 8);
    KERNEL_RUN(mma_bf16(kernel_floats(a, 16 * 16), kernel_floats(b, 16 * 8), sums));
    CHECK(sums[0] == 0x1p23f + 1 || sums[0] == 0x1p23f + 2); /* 1.5 more: rounded or truncated to a whole number */
    CHECK(sums[1] == 0x1p23f);
    /* The hardware takes the first 19 bits of a tf32 operand. */
    a[0] = 1 + 0x1p-10 + 0x1p-11, b[0] = 1, d[0] = 0;
    sums = kernel_floats(d, 16 * 8);
    KERNEL_RUN(mma_tf32(kernel_floats(a, 16 * 8), kernel_floats(b, 8 * 8), sums));
    CHECK_NEAR(sums[0], 1 + 0x1p-10, 0);
}

/* Element j of row i is 8 i + j; lanes name the rows in another order. */
static void check_matrices(void) {
    uint16_t rows[32][8];
    uint32_t row[32];
    for (uint32_t i = 0; i < 32; i++) {
        row[i] = (i * 11 + 5) % 32;
        for (uint32_t j = 0; j < 8; j++) rows[i][j] = (uint16_t)(8 * i + j);
    }
    uint32_t *r = kernel_buffer(32 * 4 * sizeof *r), *t = kernel_buffer(32 * 4 * sizeof *t);
    KERNEL_RUN(matrices(kernel_copy(rows, sizeof rows), kernel_copy(row, sizeof row), r, t));
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t i = 0; i < 4; i++) {
            const uint16_t *named = rows[row[8 * i + lane / 4]];
            CHECK_INT(r[4 * lane + i], named[lane % 4 * 2] | (uint32_t)named[lane % 4 * 2 + 1] << 16);
            uint32_t first = rows[row[8 * i + lane % 4 * 2]][lane / 4];
            uint32_t second = rows[row[8 * i + lane % 4 * 2 + 1]][lane / 4];
            CHECK_INT(t[4 * lane + i], first | second << 16);
        }
}

static void tests(void) {
    kernel_check("fp32 to bf16, fp16, tf32", check_narrow);
    kernel_check("bf16 and fp16 to fp32", check_widen);
    kernel_check("mma of bf16", check_mma_bf16);
    kernel_check("mma of fp16", check_mma_half);
    kernel_check("mma of tf32", check_mma_tf32);
    kernel_check("precision of mma", check_mma_precision);
    kernel_check("ldmatrix", check_matrices);
}

int main(void) {
    return kernel_main(tests);
}
