/*
 * kernel_test.h - the harness of kernel tests: guarded buffers, seeded values, padded layouts, comparison.
 *
 * A test computes in double on dense arrays, [positions][channels], whose values are exactly representable in the type
 * under test; kernel_upload makes the padded, typed buffer that a launcher takes, kernel_download brings a result back.
 *
 *     static void check(gpu_type type) {
 *         double *x = kernel_values(positions * channels, seed, kernel_exact(type));
 *         void *in = kernel_upload(type, x, positions, channels), *out = kernel_output(type, positions, channels);
 *         KERNEL_RUN(gpu_..._launch(..., in, out, 0));
 *         double *y = kernel_download(type, out, positions, channels);
 *         kernel_compare("y", y, expected, positions * channels, 1e-4, 1e-5);
 *     }
 *     static void tests(void) { kernel_each("op", KERNEL_ALL, check); }
 *     TEST_MAIN...: int main(void) { return kernel_main(tests); }
 *
 * Everything that the functions return is released, and the buffers' guards are checked, when a check ends. All of it
 * also runs on a real device (compiled with COAR_REAL_CUDA, linked with nvcc's kernels): buffers are then managed
 * memory.
 */
#ifndef COAR_TESTS_KERNEL_TEST_H
#define COAR_TESTS_KERNEL_TEST_H

#include "kernels/cuda/kernels.h"
#include "test.h"

/* ---- which values a type can hold */

typedef enum kernel_format { KERNEL_DOUBLE, KERNEL_FLOAT, KERNEL_TF32, KERNEL_BF16, KERNEL_HALF } kernel_format;

/* The format of an operand of `type`: what mma multiplies. Values of it are the same for the kernel and in double. */
kernel_format kernel_exact(gpu_type type);
/* The format in which a result of `type` is stored: tf32 values are stored as fp32. */
kernel_format kernel_stored(gpu_type type);
/* x rounded to the format, to nearest, ties to even (tf32: away from zero); not by the shim's conversions. */
double kernel_round(kernel_format format, double x);

/* ---- arrays of double, and device buffers. All are released at the end of the check. */

/* `count` values, uniform in [-1, 1), rounded to the format; a function of (count, seed, format) alone. */
double *kernel_values(size_t count, uint64_t seed, kernel_format format);
/* `count` zeros. */
double *kernel_zeros(size_t count);
/* A number in [0, n), a function of (seed, index). */
uint32_t kernel_random(uint64_t seed, uint64_t index, uint32_t n);

/* Device memory, aligned to 256 bytes and to no more, between guards; every byte 0xff. */
void *kernel_buffer(size_t bytes);
/* The same, with a copy of `bytes` bytes. */
void *kernel_copy(const void *data, size_t bytes);
/* fp32 vectors, for scales, shifts, keeps; values must be representable. NULL gives NULL. */
float *kernel_floats(const double *values, size_t count);

/* The buffer [positions][gpu_stride(channels)] that holds values[positions][channels], zeros behind each row. */
void *kernel_upload(gpu_type type, const double *values, size_t positions, uint32_t channels);
/* A buffer of that shape to be written: every byte 0xff, the padding too. */
void *kernel_output(gpu_type type, size_t positions, uint32_t channels);
/* What it holds now, dense. Fails the test when padding is not zero, or a value is not finite. */
double *kernel_download(gpu_type type, const void *buffer, size_t positions, uint32_t channels);

/* ---- checks */

/* Fails unless the launch succeeds and the work ends without an error. */
#define KERNEL_RUN(launch) kernel_launched(launch, #launch, __FILE__, __LINE__)
void kernel_launched(cudaError_t error, const char *text, const char *file, int line);

/* Both errors are relative: the largest one to the largest |expected|, the root of the mean square to that of
 * `expected`. A mismatch prints the worst element's index and both values. */
#define kernel_compare(what, actual, expected, count, largest, rms)                                                    \
    kernel_compare_at(__FILE__, __LINE__, what, actual, expected, count, largest, rms)
void kernel_compare_at(const char *file, int line, const char *what, const double *actual, const double *expected,
                       size_t count, double largest, double rms);

/* Fails unless two buffers hold the same bytes; prints the first difference. */
#define kernel_same_bytes(what, actual, expected, bytes)                                                               \
    kernel_same_bytes_at(__FILE__, __LINE__, what, actual, expected, bytes)
void kernel_same_bytes_at(const char *file, int line, const char *what, const void *actual, const void *expected,
                          size_t bytes);

/* Half a unit in the last place of the stored format, relative: the rounding that every stored result has. */
double kernel_epsilon(gpu_type type);

/* ---- running */

#define KERNEL_BIT(type) (1u << (type))
#define KERNEL_ALL (KERNEL_BIT(GPU_F32) | KERNEL_BIT(GPU_TF32) | KERNEL_BIT(GPU_BF16) | KERNEL_BIT(GPU_F16))

const char *kernel_type_name(gpu_type type);

/* One group of checks for each type in the set and each thread order of the shim (report.h): all four, but only one
 * where the memory checker or a sanitizer is built in: both are slow, and what they see does not hang on the order.
 * KERNEL_ORDERS in the environment names others, separated by commas. Shapes are small, so that all of it takes
 * seconds. */
void kernel_each(const char *name, unsigned types, void (*check)(gpu_type type));
/* The same for a check without a type. */
void kernel_check(const char *name, void (*check)(void));

#define KERNEL_ALL_ORDERS "forward,reverse,interleaved,random:1"

/* From now on these orders, unless the environment names some. NULL = those above. */
void kernel_orders(const char *orders);

/* Runs `body` in a child process, for checks that something ends or fails it: what it writes to `stream` (1 or 2) goes to
 * said[size] as text. The child's status as waitpid gives it. */
int kernel_child(void (*body)(void), int stream, char *said, size_t size);

/* Runs `tests`, then ends TAP. Returns main's value. */
int kernel_main(void (*tests)(void));

#endif
