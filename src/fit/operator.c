/*
 * operator.c - see operator.h. As in cross.c, a table holds what any subset of 8 bits adds up to, and a row then adds
 * one entry per 8 bits instead of up to 8 vectors' elements: (rows + 256)/8 additions per bit column and lane instead
 * of `rows`. Where a shift is asked for, it is in the tables: the sums stay as small as what they are about, and single
 * precision loses nothing to the mean of the masks, which is many times larger than their deviations.
 */
#include "fit/operator.h"

#include <string.h>

#include "core/memory.h"

enum {
    ROWS = 2048, /* building tables costs 256/2048 of adding at this size; their sums stay in the second-level cache */
    TABLES = 4,  /* 32 bits a round */
    ROUND = 8 * TABLES
};

/* One number per lane. */
typedef float lane_values __attribute__((vector_size(OPERATOR_LANES * sizeof(float))));

struct operator_scratch {
    lane_values sums[ROWS];
    lane_values table[TABLES][256];
};

coar_status operator_scratch_create(operator_scratch **out) {
    return memory_new(1, sizeof **out, "products of masks", out);
}

double operator_scratch_memory(void) {
    return sizeof(operator_scratch);
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* table[s] = sum of the vectors' elements of the bits in s, less the shift of all 8. Bits behind the end are never
 * set. */
static inline __attribute__((always_inline)) void build_table(const double *right, const double *shift, size_t count,
                                                              lane_values *table) {
    table[0] = (lane_values){0};
    for (size_t b = 0; b < count; b++, right += OPERATOR_LANES)
        for (size_t z = 0; z < OPERATOR_LANES && shift; z++) table[0][z] -= (float)(shift[b] * right[z]);
    right -= count * OPERATOR_LANES;
    for (size_t b = 0; b < count; b++) {
        const size_t half = (size_t)1 << b;
        lane_values value;
        for (size_t z = 0; z < OPERATOR_LANES; z++) value[z] = (float)right[b * OPERATOR_LANES + z];
        for (size_t s = 0; s < half; s++) table[half + s] = table[s] + value;
    }
}

static inline __attribute__((always_inline)) void add_entries(operator_scratch *w, const uint64_t *row, size_t stride,
                                                              size_t rows, unsigned bit) {
    for (size_t r = 0; r < rows; r++, row += stride) {
        const uint32_t bits = (uint32_t)(*row >> bit);
        w->sums[r] += (w->table[0][bits & 255] + w->table[1][bits >> 8 & 255]) +
                      (w->table[2][bits >> 16 & 255] + w->table[3][bits >> 24]);
    }
}

static inline __attribute__((always_inline)) void product(const bit_columns *bits, const double *shift,
                                                          const double *right, operator_scratch *w, double *out) {
    for (size_t first = 0; first < bits->count; first += ROWS) {
        const size_t rows = smaller(bits->count - first, ROWS);
        memset(w->sums, 0, rows * sizeof *w->sums);
        for (size_t i = 0; i < bits->length; i += ROUND) {
            for (size_t t = 0; t < TABLES; t++) {
                const size_t from = smaller(i + 8 * t, bits->length), count = smaller(bits->length - from, 8);
                build_table(right + from * OPERATOR_LANES, shift ? shift + from : NULL, count, w->table[t]);
            }
            add_entries(w, bits->words + first * bits->stride + i / 64, bits->stride, rows, i % 64);
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t z = 0; z < OPERATOR_LANES; z++) out[(first + r) * OPERATOR_LANES + z] = w->sums[r][z];
    }
}

#if defined(__x86_64__)
/* The same additions in wider registers. */
__attribute__((target("avx2"))) static void product_avx2(const bit_columns *bits, const double *shift,
                                                         const double *right, operator_scratch *w, double *out) {
    product(bits, shift, right, w, out);
}
#endif

void operator_product(const bit_columns *rows, const double *shift, const double *right, operator_scratch *scratch,
                      double *out) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        product_avx2(rows, shift, right, scratch, out);
        return;
    }
#endif
    product(rows, shift, right, scratch, out);
}
