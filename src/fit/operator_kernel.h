/*
 * operator_kernel.h - the product of operator.c for one type of sums: included by it once for each, with
 *
 *   REAL     float or double; a cache line of them is what is added at once, WIDTH of the lanes
 *   NAME(x)  x with the type's suffix
 */
#define WIDTH (LINE / sizeof(REAL))

typedef REAL NAME(line) __attribute__((vector_size(LINE)));

/* table[s] = sum of the vectors' elements of the bits in s, less the shift of all of them. Bits behind the end are
 * never set. */
static inline __attribute__((always_inline)) void NAME(build_table)(const double *right, const double *shift,
                                                                    size_t count, NAME(line) * table) {
    table[0] = (NAME(line)){0};
    for (size_t b = 0; b < count && shift; b++)
        for (size_t z = 0; z < WIDTH; z++) table[0][z] -= (REAL)(shift[b] * right[b * OPERATOR_LANES + z]);
    for (size_t b = 0; b < count; b++) {
        const size_t half = (size_t)1 << b;
        NAME(line) value;
        for (size_t z = 0; z < WIDTH; z++) value[z] = (REAL)right[b * OPERATOR_LANES + z];
        for (size_t s = 0; s < half; s++) table[half + s] = table[s] + value;
    }
}

/* Adds the entries of one word of each row. */
static inline __attribute__((always_inline)) void NAME(add_entries)(NAME(line) * sums, NAME(line) table[TABLES][256],
                                                                    const uint64_t *row, size_t stride, size_t rows) {
    for (size_t r = 0; r < rows; r++, row += stride) {
        const uint64_t bits = *row;
        NAME(line) even = table[0][bits & 255], odd = table[1][bits >> 8 & 255];
        __builtin_prefetch((const void *)((uintptr_t)row + AHEAD * stride * sizeof *row)); /* may be behind the end */
        for (size_t t = 2; t < TABLES; t += 2) {
            even += table[t][bits >> (8 * t) & 255];
            odd += table[t + 1][bits >> (8 * t + 8) & 255];
        }
        sums[r] += even + odd;
    }
}

static inline __attribute__((always_inline)) void NAME(product)(const bit_columns *bits, const double *shift,
                                                                const double *right, operator_scratch *w, double *out) {
    NAME(line) *sums = (NAME(line) *)w->sums, (*table)[256] = (NAME(line)(*)[256])w->table;
    for (size_t first = 0; first < bits->count; first += ROWS) {
        const size_t rows = smaller(bits->count - first, ROWS);
        for (size_t lane = 0; lane < OPERATOR_LANES; lane += WIDTH) {
            memset(sums, 0, rows * sizeof *sums);
            for (size_t i = 0; i < bits->length; i += 64) {
                for (size_t t = 0; t < TABLES; t++) {
                    const size_t from = smaller(i + 8 * t, bits->length), count = smaller(bits->length - from, 8);
                    NAME(build_table)
                    (right + from * OPERATOR_LANES + lane, shift ? shift + from : NULL, count, table[t]);
                }
                NAME(add_entries)(sums, table, bits->words + first * bits->stride + i / 64, bits->stride, rows);
            }
            for (size_t r = 0; r < rows; r++)
                for (size_t z = 0; z < WIDTH; z++) out[(first + r) * OPERATOR_LANES + lane + z] = sums[r][z];
        }
    }
}

#if defined(__x86_64__)
/* The same additions in wider registers. */
__attribute__((target("avx2"))) static void NAME(product_avx2)(const bit_columns *bits, const double *shift,
                                                               const double *right, operator_scratch *w, double *out) {
    NAME(product)(bits, shift, right, w, out);
}
#endif

static void NAME(product_here)(const bit_columns *bits, const double *shift, const double *right, operator_scratch *w,
                               double *out) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        NAME(product_avx2)(bits, shift, right, w, out);
        return;
    }
#endif
    NAME(product)(bits, shift, right, w, out);
}

#undef WIDTH
