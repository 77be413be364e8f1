/*
 * correct.c - kernels without a bug give the right values in every thread order, and nothing is reported: a report
 * would end the program.
 */
#include <pthread.h>

#include "report.h"
#include "tests/kernels/kernel_test.h"

cudaError_t product(const void *a, const void *b, float *y, int m, int n, int k);
cudaError_t halves(const int *x, int *y, int n);
cudaError_t chain(int *y);
cudaError_t uniform(int *y);
cudaError_t last_block(const int *x, int *partial, unsigned *finished, int *y);
cudaError_t atomics(unsigned *y, unsigned long long *wide, float *sum);
cudaError_t private_rows(const uint16_t *x, uint16_t *y, int rows);
cudaError_t copies(const uint32_t *x, uint32_t *y);
cudaError_t coordinates(unsigned *y);
cudaError_t functions(unsigned x, unsigned *y);

static void check_product(void) {
    static const int shapes[][3] = {{32, 32, 16}, {32, 64, 48}, {64, 32, 112}};
    for (int s = 0; s < 3; s++) {
        int m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        size_t count = (size_t)m * (size_t)n;
        double *a = kernel_values((size_t)m * (size_t)k, 1, KERNEL_BF16);
        double *b = kernel_values((size_t)k * (size_t)n, 2, KERNEL_BF16);
        double *expected = kernel_zeros(count), *got = kernel_zeros(count);
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                for (int l = 0; l < k; l++) expected[i * n + j] += a[i * k + l] * b[l * n + j];
        float *y = kernel_buffer(count * sizeof *y);
        KERNEL_RUN(product(kernel_upload(GPU_BF16, a, (size_t)m, (uint32_t)k),
                           kernel_upload(GPU_BF16, b, (size_t)k, (uint32_t)n), y, m, n, k));
        for (size_t i = 0; i < count; i++) got[i] = y[i];
        kernel_compare("product", got, expected, count, 1e-6, 1e-6);
    }
}

static void check_halves(void) {
    int x[64], *y = kernel_buffer(sizeof x);
    for (int i = 0; i < 64; i++) x[i] = i;
    KERNEL_RUN(halves(kernel_copy(x, sizeof x), y, 40));
    for (int i = 0; i < 64; i++) CHECK_INT(y[i], 16 * (i / 16 * 16) + 120 + (i < 32 ? 0 : 100));
}

static void check_chain(void) {
    int *y = kernel_buffer(sizeof *y);
    KERNEL_RUN(chain(y));
    CHECK_INT(*y, 32);
}

static void check_uniform(void) {
    int *y = kernel_buffer(3 * 64 * sizeof *y);
    KERNEL_RUN(uniform(y));
    for (int block = 0; block < 3; block++)
        for (int i = 0; i < 64; i++)
            CHECK_INT(y[64 * block + i],
                      block * (block + 1) / 2 + (block + 1) * (63 - i) + 1000 * 22 + 100000 * 1 + 200000 * 0);
}

static void check_last_block(void) {
    enum { N = 5 * 32 };
    int x[N], *y = kernel_buffer(sizeof *y), sum = 0;
    unsigned zero = 0;
    for (int i = 0; i < N; i++) sum += x[i] = i * i % 37;
    KERNEL_RUN(
        last_block(kernel_copy(x, sizeof x), kernel_buffer(5 * sizeof(int)), kernel_copy(&zero, sizeof zero), y));
    CHECK_INT(*y, sum);
}

static void check_atomics(void) {
    unsigned start[7] = {0, 0, 0, 0, 0, 2000, 0}, *y = kernel_copy(start, sizeof start);
    unsigned long long none = 0, *wide = kernel_copy(&none, sizeof none);
    float zero = 0, *sum = kernel_copy(&zero, sizeof zero);
    KERNEL_RUN(atomics(y, wide, sum));
    static const unsigned expected[7] = {64, 64, 64, 2 * 95, 0xffffffff, 1000 - 95, 77};
    for (int i = 0; i < 7; i++) CHECK_INT(y[i], expected[i]);
    CHECK_INT(*wide >> 40, 192);
    CHECK_NEAR(*sum, 96, 0);
}

static void check_private_rows(void) {
    enum { ROWS = 96 };
    uint16_t x[ROWS][8], *y = kernel_buffer(sizeof x);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < 8; j++) x[i][j] = (uint16_t)(8 * i + j);
    KERNEL_RUN(private_rows(kernel_copy(x, sizeof x), y, ROWS));
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < 8; j++) CHECK_INT(y[8 * i + j], x[i / 8 * 8 + j][i % 8]);
}

static void check_copies(void) {
    uint32_t x[126], *y = kernel_buffer(32 * sizeof *y); /* the last 2 of 4 * 32 are not there */
    for (uint32_t i = 0; i < 126; i++) x[i] = i % 10;
    KERNEL_RUN(copies(kernel_copy(x, sizeof x), y));
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t expected = 0;
        for (uint32_t j = 4 * i; j < 4 * i + 4 && j < 126; j++) expected += x[j];
        if (i % 3) expected += 1000 * x[2 * i];
        if (i % 3 == 2) expected += 100000 * x[2 * i + 1];
        CHECK_INT(y[i], expected);
    }
}

static void check_coordinates(void) {
    enum { N = 2 * 3 * 2 * 5 * 2 * 3 };
    unsigned zeros[N] = {0}, *y = kernel_copy(zeros, sizeof zeros);
    KERNEL_RUN(coordinates(y));
    for (unsigned i = 0; i < N; i++) CHECK_INT(y[i], i);
}

static void check_functions(void) {
    static const unsigned expected[9] = {4, 4, 3, 0x10000148, 0x3fc00000, 3 + 2 + 2, 2000 + 2, 3 + 4, 32};
    unsigned *y = kernel_buffer(sizeof expected);
    KERNEL_RUN(functions(0x12800008, y));
    for (int i = 0; i < 9; i++) CHECK_INT(y[i], expected[i]);
}

/* Launches of several host threads wait for each other. */
static void *launch_often(void *y) {
    static cudaError_t failed = cudaErrorLaunchFailure;
    for (int i = 0; i < 50; i++)
        if (chain(y) != cudaSuccess || *(int *)y != 32) return &failed;
    return NULL;
}

static void check_host_threads(void) {
    pthread_t workers[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&workers[i], NULL, launch_often, kernel_buffer(sizeof(int))) == 0);
    for (int i = 0; i < 3; i++) {
        void *failed;
        CHECK(pthread_join(workers[i], &failed) == 0 && !failed);
    }
}

static void check_orders(void) {
    CHECK(simt_set_order("random:0x10"));
    CHECK(!simt_set_order("backwards"));
    CHECK(!simt_set_order(""));
    CHECK(simt_set_order("forward"));
}

static void tests(void) {
    kernel_orders(KERNEL_ALL_ORDERS);
    kernel_check("thread orders by name", check_orders);
    kernel_check("product", check_product);
    kernel_check("halves of warps", check_halves);
    kernel_check("a chain of syncwarps", check_chain);
    kernel_check("uniform barriers", check_uniform);
    kernel_check("the last block", check_last_block);
    kernel_check("atomics", check_atomics);
    kernel_check("rows private to warps", check_private_rows);
    kernel_check("copies", check_copies);
    kernel_check("coordinates", check_coordinates);
    kernel_check("functions", check_functions);
    kernel_check("several host threads", check_host_threads);
}

int main(void) {
    return kernel_main(tests);
}
