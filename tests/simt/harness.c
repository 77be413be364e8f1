/*
 * harness.c - kernel_test itself: it rounds and lays out as it says, and what is wrong makes a test fail.
 *
 * A check that has to fail runs in a child whose TAP is read.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "sanitizers.h"
#include "tests/kernels/kernel_test.h"

static void check_round(void) {
    CHECK_NEAR(kernel_round(KERNEL_BF16, 1 + 0x1p-8), 1, 0); /* a tie, to even */
    CHECK_NEAR(kernel_round(KERNEL_BF16, 1 + 0x1.8p-7), 1 + 0x1p-6, 0);
    CHECK_NEAR(kernel_round(KERNEL_TF32, -1 - 0x1p-11), -1 - 0x1p-10, 0); /* a tie, away from zero */
    CHECK_NEAR(kernel_round(KERNEL_HALF, 65519), 65504, 0);
    CHECK(isinf(kernel_round(KERNEL_HALF, 65520)));
    CHECK_NEAR(kernel_round(KERNEL_HALF, 0x1.8p-25), 0x1p-24, 0);
    CHECK_NEAR(kernel_round(KERNEL_HALF, 0x1p-25), 0, 0);
    CHECK_NEAR(kernel_round(KERNEL_FLOAT, 0.1), 0.1f, 0);
    CHECK_NEAR(kernel_round(KERNEL_DOUBLE, 0.1), 0.1, 0);
    CHECK(isnan(kernel_round(KERNEL_BF16, NAN)));
}

static void check_values(void) {
    double *a = kernel_values(1000, 5, KERNEL_HALF), *b = kernel_values(1000, 6, KERNEL_HALF), mean = 0;
    int same = 0;
    for (int i = 0; i < 1000; i++) {
        CHECK(a[i] >= -1 && a[i] <= 1 && kernel_round(KERNEL_HALF, a[i]) == a[i]);
        same += a[i] == b[i];
        mean += a[i] / 1000;
        CHECK(kernel_random(7, (uint64_t)i, 3) < 3);
    }
    CHECK_NEAR(mean, 0, 0.1);
    CHECK(same < 50);
    CHECK_NEAR(kernel_values(3, 5, KERNEL_HALF)[2], a[2], 0);
}

static void check_layout(gpu_type type) {
    static const uint32_t channels[] = {1, 3, 4, 5, 8, 17};
    for (int i = 0; i < 6; i++) {
        size_t count = 7 * channels[i];
        double *x = kernel_values(count, (uint64_t)i, kernel_exact(type));
        x[0] = 0x1p-14 / 8; /* a subnormal of fp16 */
        void *buffer = kernel_upload(type, x, 7, channels[i]);
        CHECK_INT((uintptr_t)buffer % 512, 256);
        kernel_compare("there and back", kernel_download(type, buffer, 7, channels[i]), x, count, 0, 0);
    }
}

/* ---- what must fail */

static void pad_is_dirty(void) {
    double *x = kernel_zeros(5);
    float *buffer = kernel_upload(GPU_F32, x, 1, 5);
    buffer[6] = 1;
    kernel_download(GPU_F32, buffer, 1, 5);
}
static void never_written(void) {
    kernel_download(GPU_BF16, kernel_output(GPU_BF16, 2, 8), 2, 8);
}
static void one_is_off(void) {
    double *x = kernel_values(100, 1, KERNEL_FLOAT), *y = kernel_values(100, 1, KERNEL_FLOAT);
    y[50] += 0.01;
    kernel_compare("off", y, x, 100, 1e-3, 1);
}
static void all_are_off(void) {
    double *x = kernel_values(100, 1, KERNEL_FLOAT), *y = kernel_values(100, 1, KERNEL_FLOAT);
    for (int i = 0; i < 100; i++) y[i] *= 1.01;
    kernel_compare("off", y, x, 100, 1, 1e-3);
}
static void no_number(void) {
    double x[2] = {1, 2}, y[2] = {1, NAN};
    kernel_compare("NaN", y, x, 2, 1, 1);
}
static void error_where_zeros_belong(void) {
    double x[2] = {0, 0}, y[2] = {0, 1e-9};
    kernel_compare("zeros", y, x, 2, 1, 1);
}
static void bytes_differ(void) {
    kernel_same_bytes("bytes", "abc", "abd", 3);
}
static void written_in_front(void) {
    unsigned char *buffer = kernel_buffer(10);
    buffer[-1] = 0;
}
#ifndef __SANITIZE_ADDRESS__ /* which ends the program */
static void written_behind(void) {
    unsigned char *volatile buffer = kernel_buffer(10);
    buffer[10] = 0;
}
#endif
static void launch_failed(void) {
    KERNEL_RUN(cudaErrorInvalidValue);
}

static void (*suspect)(void);

static void run_suspect(void) {
    kernel_check("child", suspect);
    const int code = test_end();
    fflush(stdout);
    _exit(code);
}

static void check_fails(void) {
    char said[4000];
    const int status = kernel_child(run_suspect, 1, said, sizeof said);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1 || !strstr(said, "not ok"))
        test_fail(__FILE__, __LINE__, "it passed: %s", said);
}

static void fails(const char *name, void (*check)(void)) {
    suspect = check;
    kernel_check(name, check_fails);
}

static void tests(void) {
    kernel_orders("forward");
    kernel_check("rounding", check_round);
    kernel_check("values", check_values);
    kernel_each("layouts", KERNEL_ALL, check_layout);
    fails("dirty padding fails", pad_is_dirty);
    fails("values never written fail", never_written);
    fails("one wrong element fails", one_is_off);
    fails("small errors everywhere fail", all_are_off);
    fails("NaN fails", no_number);
    fails("an error where all is zero fails", error_where_zeros_belong);
    fails("different bytes fail", bytes_differ);
    fails("a write in front fails", written_in_front);
#ifndef __SANITIZE_ADDRESS__
    fails("a write behind fails", written_behind);
#endif
    fails("a failed launch fails", launch_failed);
}

int main(void) {
    return kernel_main(tests);
}
