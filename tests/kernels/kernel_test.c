/* kernel_test.c - see kernel_test.h. */
#include "kernel_test.h"

#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/simt/sanitizers.h"

#ifndef COAR_REAL_CUDA
#include "tests/simt/report.h"
#endif

/* ------------------------------------------------------------------------------------------------------- memory */

/* Bytes in front of a buffer and behind it. The address sanitizer's own redzone, which sees reads too, begins with the
 * first byte behind. */
#ifdef __SANITIZE_ADDRESS__
enum { FRONT = 256, BEHIND = 0, SANITIZED = true };
#else
enum { FRONT = 256, BEHIND = 256, SANITIZED = false };
#endif
static const unsigned char GUARD_BYTE = 0xc3;

typedef struct block {
    struct block *next;
    unsigned char *base; /* a guard, the data, a guard; NULL: an ordinary array */
    void *data;
    size_t bytes;
} block;

static block *blocks;

static void *checked(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "out of memory\n");
    exit(2);
}

static block *remember(void *data, unsigned char *base, size_t bytes) {
    block *b = checked(malloc(sizeof *b));
    *b = (block){.next = blocks, .base = base, .data = data, .bytes = bytes};
    blocks = b;
    return b;
}

#ifdef COAR_REAL_CUDA
static unsigned char *device_allocate(size_t bytes) {
    void *memory = NULL;
    return cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal) == cudaSuccess ? memory : NULL;
}
static void device_free(void *memory) {
    cudaFree(memory);
}
static cudaError_t device_finish(void) {
    return cudaDeviceSynchronize();
}
#else
static unsigned char *device_allocate(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 512, bytes) ? NULL : memory;
}
static void device_free(void *memory) {
    free(memory);
}
static cudaError_t device_finish(void) {
    return cudaSuccess;
}
#endif

/* Tells the memory checker, where it is built in, that kernels must not touch what is around b. */
static void guard(const block *b, bool guarded) {
#ifndef COAR_REAL_CUDA
    simt_guard(b->base, FRONT, guarded);
    simt_guard(b->base + FRONT + b->bytes, BEHIND, guarded);
#else
    (void)b, (void)guarded;
#endif
}

/* The data begin at 256 in a block aligned to 512: an odd multiple of 256, so that a kernel which counts on more than
 * it was promised is found out. */
void *kernel_buffer(size_t bytes) {
    unsigned char *base = checked(device_allocate(FRONT + bytes + BEHIND));
    memset(base, GUARD_BYTE, FRONT);
    memset(base + FRONT, 0xff, bytes);
    memset(base + FRONT + bytes, GUARD_BYTE, BEHIND);
    block *b = remember(base + FRONT, base, bytes);
    guard(b, true);
    return b->data;
}

/* The first byte of a guard that was written to; its size when none was. */
static size_t first_touched(const unsigned char *guard, size_t size) {
    size_t i = 0;
    while (i < size && guard[i] == GUARD_BYTE) i++;
    return i;
}

static void check_guards(const block *b) {
    size_t front = first_touched(b->base, FRONT), behind = first_touched(b->base + FRONT + b->bytes, BEHIND);
    if (front != FRONT)
        test_fail(__FILE__, __LINE__, "a buffer of %zu bytes was written %zu bytes in front of it", b->bytes,
                  FRONT - front);
    if (behind != BEHIND)
        test_fail(__FILE__, __LINE__, "a buffer of %zu bytes was written %zu bytes behind its end", b->bytes, behind);
}

static void release_all(void) {
    while (blocks) {
        block *b = blocks;
        blocks = b->next;
        if (b->base) {
            check_guards(b);
            guard(b, false);
            device_free(b->base);
        } else {
            free(b->data);
        }
        free(b);
    }
}

void *kernel_copy(const void *data, size_t bytes) {
    return memcpy(kernel_buffer(bytes), data, bytes);
}

double *kernel_zeros(size_t count) {
    return remember(checked(calloc(count ? count : 1, sizeof(double))), NULL, count * sizeof(double))->data;
}

float *kernel_floats(const double *values, size_t count) {
    if (!values) return NULL;
    float *copy = kernel_buffer(count * sizeof *copy);
    for (size_t i = 0; i < count; i++) copy[i] = (float)values[i];
    return copy;
}

/* ------------------------------------------------------------------------------------------------------- values */

kernel_format kernel_exact(gpu_type type) {
    switch (type) {
    case GPU_TF32:
        return KERNEL_TF32;
    case GPU_BF16:
        return KERNEL_BF16;
    case GPU_F16:
        return KERNEL_HALF;
    default:
        return KERNEL_FLOAT;
    }
}

kernel_format kernel_stored(gpu_type type) {
    return type == GPU_TF32 ? KERNEL_FLOAT : kernel_exact(type);
}

/* Significant bits, and the exponents of the smallest normal and of the overflow threshold. */
static const struct {
    int bits, smallest, largest;
} FORMATS[] = {[KERNEL_DOUBLE] = {53, -1022, 1024},
               [KERNEL_FLOAT] = {24, -126, 128},
               [KERNEL_TF32] = {11, -126, 128},
               [KERNEL_BF16] = {8, -126, 128},
               [KERNEL_HALF] = {11, -14, 16}};

double kernel_round(kernel_format format, double x) {
    if (format == KERNEL_DOUBLE || x == 0 || !isfinite(x)) return x;
    int exponent;
    frexp(x, &exponent); /* |x| in [2^(exponent - 1), 2^exponent) */
    if (exponent - 1 < FORMATS[format].smallest) exponent = FORMATS[format].smallest + 1;
    int unit = exponent - FORMATS[format].bits; /* exponent of the last place */
    double scaled = ldexp(x, -unit);
    double rounded = format == KERNEL_TF32 ? round(scaled) : nearbyint(scaled);
    double result = ldexp(rounded, unit);
    return fabs(result) >= ldexp(1, FORMATS[format].largest) ? copysign(INFINITY, x) : result;
}

/* splitmix64: neighbouring indices give unrelated values. */
static uint64_t mix(uint64_t seed, uint64_t index) {
    uint64_t z = seed * 0xd1342543de82ef95ull + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

double *kernel_values(size_t count, uint64_t seed, kernel_format format) {
    double *values = kernel_zeros(count);
    for (size_t i = 0; i < count; i++) values[i] = kernel_round(format, (double)(mix(seed, i) >> 11) * 0x1p-52 - 1);
    return values;
}

uint32_t kernel_random(uint64_t seed, uint64_t index, uint32_t n) {
    return (uint32_t)((mix(seed, index) >> 32) * n >> 32);
}

/* ------------------------------------------------------------------------------------------------------- layouts */

/* The bits of x, which has at most 8 or 11 significant ones, as a 16-bit value; and back. */
static uint16_t encode(kernel_format format, double x) {
    if (format == KERNEL_BF16) {
        float f = (float)x;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        return (uint16_t)(bits >> 16);
    }
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double magnitude = fabs(x);
    if (isinf(x)) return sign | 0x7c00;
    if (magnitude < 0x1p-14) return (uint16_t)(sign | (uint16_t)(magnitude * 0x1p24));
    int exponent;
    double fraction = frexp(magnitude, &exponent); /* [1/2, 1) */
    return (uint16_t)(sign | (exponent + 14) << 10 | ((int)(fraction * 2048) - 1024));
}

static double decode(kernel_format format, uint16_t bits) {
    if (format == KERNEL_BF16) {
        uint32_t wide = (uint32_t)bits << 16;
        float f;
        memcpy(&f, &wide, sizeof f);
        return f;
    }
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static void store(gpu_type type, void *buffer, size_t index, double x) {
    if (gpu_type_size(type) == 4)
        ((float *)buffer)[index] = (float)x;
    else
        ((uint16_t *)buffer)[index] = encode(kernel_stored(type), kernel_round(kernel_stored(type), x));
}

static double load(gpu_type type, const void *buffer, size_t index) {
    if (gpu_type_size(type) == 4) return ((const float *)buffer)[index];
    return decode(kernel_stored(type), ((const uint16_t *)buffer)[index]);
}

void *kernel_output(gpu_type type, size_t positions, uint32_t channels) {
    return kernel_buffer(positions * gpu_stride(channels) * gpu_type_size(type));
}

void *kernel_upload(gpu_type type, const double *values, size_t positions, uint32_t channels) {
    size_t stride = gpu_stride(channels);
    void *buffer = kernel_output(type, positions, channels);
    for (size_t p = 0; p < positions; p++)
        for (size_t c = 0; c < stride; c++)
            store(type, buffer, p * stride + c, c < channels ? values[p * channels + c] : 0);
    return buffer;
}

double *kernel_download(gpu_type type, const void *buffer, size_t positions, uint32_t channels) {
    size_t stride = gpu_stride(channels);
    double *values = kernel_zeros(positions * channels);
    size_t dirty = 0, infinite = 0;
    for (size_t p = 0; p < positions; p++)
        for (size_t c = 0; c < stride; c++) {
            double x = load(type, buffer, p * stride + c);
            if (c >= channels) {
                if (x != 0 && !dirty++)
                    test_fail(__FILE__, __LINE__, "padding: position %zu, channel %zu of %u holds %g", p, c, channels,
                              x);
                continue;
            }
            values[p * channels + c] = x;
            if (!isfinite(x) && !infinite++)
                test_fail(__FILE__, __LINE__, "position %zu, channel %zu of %u holds %g", p, c, channels, x);
        }
    return values;
}

/* ------------------------------------------------------------------------------------------------------- checks */

void kernel_launched(cudaError_t error, const char *text, const char *file, int line) {
    if (error == cudaSuccess) error = device_finish();
    if (error != cudaSuccess) test_fail(file, line, "%s: error %d", text, (int)error);
}

void kernel_compare_at(const char *file, int line, const char *what, const double *actual, const double *expected,
                       size_t count, double largest, double rms) {
    double magnitude = 0, squares = 0, worst = -1, error_squares = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        double error = fabs(actual[i] - expected[i]);
        magnitude = fmax(magnitude, fabs(expected[i]));
        squares += expected[i] * expected[i];
        error_squares += error * error;
        if (error > worst || isnan(error)) worst = isnan(error) ? INFINITY : error, at = i;
    }
    double largest_error = worst <= 0 ? 0 : worst / magnitude;
    double rms_error = error_squares == 0 ? 0 : sqrt(error_squares / squares);
    if (!(largest_error <= largest))
        test_fail(file, line,
                  "%s: largest error %.3g of the largest magnitude, allowed %.3g: [%zu] is %.9g, expected %.9g", what,
                  largest_error, largest, at, actual[at], expected[at]);
    if (!(rms_error <= rms))
        test_fail(file, line, "%s: rms error %.3g of the rms, allowed %.3g; worst: [%zu] is %.9g, expected %.9g", what,
                  rms_error, rms, at, actual[at], expected[at]);
}

void kernel_same_bytes_at(const char *file, int line, const char *what, const void *actual, const void *expected,
                          size_t bytes) {
    const unsigned char *a = actual, *e = expected;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != e[i]) {
            test_fail(file, line, "%s: byte %zu of %zu is %02x, expected %02x", what, i, bytes, a[i], e[i]);
            return;
        }
}

double kernel_epsilon(gpu_type type) {
    return ldexp(1, -FORMATS[kernel_stored(type)].bits);
}

/* ------------------------------------------------------------------------------------------------------- running */

const char *kernel_type_name(gpu_type type) {
    static const char *const names[] = {"fp32", "tf32", "bf16", "fp16"};
    return names[type];
}

#ifdef COAR_REAL_CUDA
static const char *default_orders(void) {
    return "device";
}
static bool set_order(const char *order) {
    return order != NULL;
}
#else
static const char *default_orders(void) {
    return simt_checks_memory() || SANITIZED ? "random:1" : KERNEL_ALL_ORDERS;
}
static bool set_order(const char *order) {
    return simt_set_order(order);
}
#endif

static const char *own_orders;

void kernel_orders(const char *orders) {
    own_orders = orders;
}

/* Calls typed(type), or plain() when it is not NULL, at every order. */
static void at_every_order(const char *name, void (*typed)(gpu_type), gpu_type type, void (*plain)(void)) {
    const char *chosen = getenv("KERNEL_ORDERS");
    char orders[200];
    if (!chosen) chosen = own_orders ? own_orders : default_orders();
    snprintf(orders, sizeof orders, "%s", chosen);
    for (char *order = strtok(orders, ","); order; order = strtok(NULL, ",")) {
        if (plain)
            test_begin("%s, %s", name, order);
        else
            test_begin("%s %s, %s", name, kernel_type_name(type), order);
        if (!set_order(order)) test_fail(__FILE__, __LINE__, "no such thread order: %s", order);
        if (plain)
            plain();
        else
            typed(type);
        release_all();
    }
}

void kernel_each(const char *name, unsigned types, void (*check)(gpu_type type)) {
    for (gpu_type type = GPU_F32; type <= GPU_F16; type++)
        if (types & KERNEL_BIT(type)) at_every_order(name, check, type, NULL);
}

void kernel_check(const char *name, void (*check)(void)) {
    at_every_order(name, NULL, GPU_F32, check);
}

int kernel_child(void (*body)(void), int stream, char *said, size_t size) {
    int channel[2], status = 0;
    size_t length = 0;
    CHECK(pipe(channel) == 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(channel[1], stream);
        close(channel[0]);
        body();
        fflush(stdout);
        _exit(0);
    }
    close(channel[1]);
    for (ssize_t n; length < size - 1 && (n = read(channel[0], said + length, size - 1 - length)) > 0;)
        length += (size_t)n;
    said[length] = 0;
    close(channel[0]);
    waitpid(child, &status, 0);
    return status;
}

int kernel_main(void (*tests)(void)) {
    tests();
    return test_end();
}
