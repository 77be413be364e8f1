/* sums.c - the smallest kernel test: a buffer there and back, and a sum that needs barriers, shuffles and shared
 * memory. */
#include "tests/kernels/kernel_test.h"

cudaError_t block_sums_launch(const float *x, float *y, int n, cudaStream_t stream);

static void check(gpu_type type) {
    double *x = kernel_values(15, 1, kernel_exact(type));
    void *buffer = kernel_upload(type, x, 3, 5);
    double *y = kernel_download(type, buffer, 3, 5);
    kernel_compare("round trip", y, x, 15, 0, 0);
}
static void sums(void) {
    enum { N = 1000 };
    double *x = kernel_values(N, 2, KERNEL_BF16), expected[4] = {0}, got[4];
    float *in = kernel_floats(x, N), *out = kernel_buffer(4 * sizeof *out);
    for (int i = 0; i < N; i++) expected[i / 256] += x[i];
    KERNEL_RUN(block_sums_launch(in, out, N, 0));
    for (int i = 0; i < 4; i++) got[i] = out[i];
    kernel_compare("sums", got, expected, 4, 1e-6, 1e-6);
}
static void tests(void) {
    kernel_each("upload, download", KERNEL_ALL, check);
    kernel_check("block sums", sums);
}
int main(void) {
    return kernel_main(tests);
}
