/* gram.c - kernels/cuda/gram.cu against the CPU's own counting (src/fit/gram.c, cross.c). Integers: bytes are
 * compared. */
#include "fit/gram.h"
#include "kernel_test.h"

/* `count` vectors of `length` random bits, `density` of 16 set, in 64-bit words and in 32-bit words [count][words]. */
typedef struct vectors {
    bit_columns columns;
    uint32_t *bits, words;
} vectors;

static vectors make_vectors(size_t count, size_t length, uint32_t density, uint64_t seed) {
    vectors v = {.columns = {.count = count, .length = length, .stride = (length + 63) / 64},
                 .words = (uint32_t)((length + 31) / 32)};
    v.columns.words = (uint64_t *)kernel_zeros(count * v.columns.stride);
    v.bits = kernel_buffer(count * v.words * sizeof *v.bits);
    memset(v.bits, 0, count * v.words * sizeof *v.bits);
    for (size_t j = 0; j < count; j++)
        for (size_t i = 0; i < length; i++)
            if (kernel_random(seed, j * length + i, 16) < density) {
                v.columns.words[j * v.columns.stride + i / 64] |= (uint64_t)1 << i % 64;
                v.bits[j * v.words + i / 32] |= (uint32_t)1 << i % 32;
            }
    return v;
}

static void check_gram(void) {
    const size_t cases[][3] = {/* vectors, bits, density */
                               {1, 1, 16},    {5, 31, 8},      {64, 128, 15}, {65, 1024, 14},
                               {70, 1025, 3}, {130, 2500, 15}, {129, 96, 16}};
    thread_pool *pool;
    CHECK_OK(thread_pool_create(1, &pool));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const size_t n = cases[k][0];
        const vectors v = make_vectors(n, cases[k][1], (uint32_t)cases[k][2], k);
        int64_t *expected = (int64_t *)kernel_zeros(n * n);
        int32_t *gram = kernel_buffer(n * n * sizeof *gram);
        CHECK_OK(gram_count(&v.columns, pool, expected));
        KERNEL_RUN(gpu_gram_launch(v.bits, (uint32_t)n, v.words, gram, 0));
        size_t wrong = 0;
        for (size_t x = 0; x < n * n; x++)
            if (gram[x] != expected[x] && !wrong++)
                test_fail(__FILE__, __LINE__, "%zu vectors of %zu bits: [%zu][%zu] is %d, expected %lld", n,
                          cases[k][1], x / n, x % n, gram[x], (long long)expected[x]);
    }
    thread_pool_destroy(pool);
    CHECK(gpu_gram_launch(NULL, 0, 1, NULL, 0) == cudaErrorInvalidValue);
    CHECK(gpu_gram_launch(NULL, 1, UINT32_MAX / 32, NULL, 0) == cudaErrorInvalidValue);
}

/* The rows of `fixed` behind the last mask stay as kernel_buffer made them: they must not count. */
static void check_cross(void) {
    const size_t cases[][4] = {/* vectors, masks, density, examples */
                               {1, 1, 16, 1},      {7, 33, 8, 5},   {16, 64, 15, 32},
                               {128, 100, 15, 33}, {131, 65, 2, 3}, {300, 40, 14, 70}};
    thread_pool *pool;
    CHECK_OK(thread_pool_create(1, &pool));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const size_t n = cases[k][0], m = cases[k][1], N = cases[k][3];
        const vectors v = make_vectors(n, m, (uint32_t)cases[k][2], k);
        double *values = kernel_values(m * N, 30, KERNEL_FLOAT);
        float *y = kernel_floats(values, m * N);
        int64_t *expected = (int64_t *)kernel_zeros(n * N), *total = (int64_t *)kernel_zeros(N);
        int *shift = (int *)kernel_zeros(N);
        CHECK_OK(cross_products(&v.columns, y, N, pool, NULL, expected, total, shift));
        int64_t *fixed = kernel_buffer((size_t)v.words * 32 * N * sizeof *fixed);
        for (size_t x = 0; x < m * N; x++) fixed[x] = llrint(ldexp(y[x], shift[x % N]));
        int64_t *cross = kernel_buffer(n * N * sizeof *cross);
        KERNEL_RUN(gpu_cross_launch(v.bits, (uint32_t)n, v.words, fixed, (uint32_t)N, cross, 0));
        kernel_same_bytes("cross products", cross, expected, n * N * sizeof *cross);
    }
    thread_pool_destroy(pool);
    CHECK(gpu_cross_launch(NULL, 1, 1, NULL, 0, NULL, 0) == cudaErrorInvalidValue);
}

static void check_expanded(void) {
    const size_t cases[][2] = {{1, 1}, {3, 33}, {5, 256}, {2, 1000}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const size_t n = cases[k][0], length = cases[k][1];
        const vectors v = make_vectors(n, length, 9, k);
        double *expected = kernel_zeros(n * length), *rows = kernel_buffer(n * length * sizeof *rows);
        for (size_t x = 0; x < n * length; x++)
            expected[x] = v.columns.words[x / length * v.columns.stride + x % length / 64] >> x % length % 64 & 1;
        KERNEL_RUN(gpu_expand_bits_launch(v.bits, (uint32_t)n, v.words, (uint32_t)length, rows, 0));
        kernel_same_bytes("rows", rows, expected, n * length * sizeof *rows);
    }
    CHECK(gpu_expand_bits_launch(NULL, 1, 1, 33, NULL, 0) == cudaErrorInvalidValue);
    CHECK(gpu_expand_bits_launch(NULL, 65536, 1, 1, NULL, 0) == cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_check("Gram matrix of bits", check_gram);
    kernel_check("cross products of bits", check_cross);
    kernel_check("bits as numbers", check_expanded);
}

int main(void) {
    return kernel_main(tests);
}
