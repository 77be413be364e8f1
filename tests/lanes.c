/* lanes.c - see lanes.h. */
#include "lanes.h"

#include "backend/cpu/cpu_isa.h"

enum { GUARD = 256, ARRAYS_MAX = 256 };

static const unsigned char guard_byte = 0xa5;

typedef struct array {
    unsigned char *base; /* GUARD bytes, the array, at least GUARD bytes */
    size_t bytes, all;   /* of the array; with its guards */
} array;

static array arrays[ARRAYS_MAX];
static size_t array_count;
static uint64_t state;

static void *new_array(size_t count, size_t size) {
    if (array_count == ARRAYS_MAX) abort();
    array *a = &arrays[array_count++];
    a->bytes = count * size;
    a->all = (a->bytes + 63) / 64 * 64 + 2 * GUARD;
    a->base = aligned_alloc(64, a->all);
    memset(a->base, guard_byte, a->all);
    return a->base + GUARD;
}

/* Where bytes first .. end - 1 of an array's allocation are not the guard's any more. */
static void check_guard(size_t index, size_t first, size_t end) {
    const array *a = &arrays[index];
    for (size_t k = first; k < end; k++)
        if (a->base[k] != guard_byte) {
            test_fail(__FILE__, __LINE__, "array %zu of %zu bytes: byte %lld written", index, a->bytes,
                      (long long)k - GUARD);
            return;
        }
}

void lanes_release(void) {
    for (size_t i = 0; i < array_count; i++) {
        check_guard(i, 0, GUARD);
        check_guard(i, GUARD + arrays[i].bytes, arrays[i].all);
        free(arrays[i].base);
    }
    array_count = 0;
}

void lanes_each(const char *name, void (*check)(const cpu_kernels *k)) {
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i])) continue; /* unit/cpu_isa.c says so */
        test_begin("%s (%s)", name, cpu_isas[i].name);
        state = 1;
        check(cpu_isa_kernels(&cpu_isas[i]));
        lanes_release();
    }
}

/* Knuth's MMIX generator; the high bits are the good ones. */
uint32_t lanes_random(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 32) * n >> 32);
}

float lanes_value(void) {
    return (float)lanes_random(1 << 24) / (1 << 23) - 1;
}

float *lanes_weights(size_t count) {
    float *values = new_array(count, sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = lanes_value();
    return values;
}

float *lanes_values(size_t count) {
    return lanes_weights(count * LANES);
}

float *lanes_output(size_t count) {
    float *values = new_array(count, LANES * sizeof *values);
    memset(values, 0xff, count * LANES * sizeof *values);
    return values;
}

float *lanes_copy(const float *values, size_t count) {
    return memcpy(new_array(count, LANES * sizeof *values), values, count * LANES * sizeof *values);
}

uint8_t *lanes_bytes(size_t count) {
    return new_array(count, 1);
}

double *lanes_doubles(size_t count) {
    double *values = new_array(count, sizeof *values);
    memset(values, 0, count * sizeof *values);
    return values;
}

void lanes_compare_at(const char *file, int line, const char *what, const float *actual, const double *expected,
                      size_t count, double tolerance) {
    double largest = 0, worst = -1;
    size_t at = 0;
    for (size_t i = 0; i < count * LANES; i++) {
        const double error = fabs(actual[i] - expected[i]);
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
        if (!(error <= worst)) { /* also where it is not a number */
            worst = error;
            at = i;
            if (isnan(error)) break;
        }
    }
    if (!(worst <= tolerance * largest))
        test_fail(file, line, "%s[%zu] lane %zu: got %.9g, expected %.9g +- %.3g", what, at / LANES, at % LANES,
                  actual[at], expected[at], tolerance * largest);
}

void lanes_same_at(const char *file, int line, const char *what, const float *actual, const float *expected,
                   size_t count) {
    for (size_t i = 0; i < count * LANES; i++)
        if (memcmp(&actual[i], &expected[i], sizeof *actual)) {
            test_fail(file, line, "%s[%zu] lane %zu: got %.9g, expected %.9g exactly", what, i / LANES, i % LANES,
                      actual[i], expected[i]);
            return;
        }
}
