/*
 * operator.c - see operator.h. As in cross.c, a table holds what any subset of 8 bits adds up to, and a row then adds
 * one entry per 8 bits instead of up to 8 vectors' elements: (rows + 256)/8 additions per bit column and lane instead
 * of `rows`. A round takes a whole word of every row, so that sums are fetched and stored once for 8 entries; tables and
 * sums together stay in the second-level cache (docs/performance.md has what smaller tables, in the first, are worth).
 * Where a shift is asked for, it is in the tables: the sums stay as small as what they are about, and single
 * precision loses nothing to the mean of the masks, which is many times larger than their deviations.
 */
#include "fit/operator.h"

#include <string.h>

#include "core/memory.h"

enum {
    LINE = 64,   /* bytes of an entry */
    TABLES = 8,  /* of 8 bits: a word */
    ROWS = 4096, /* building tables costs 256/4096 of adding at this size */
    AHEAD = 16   /* rows are far apart, and no hardware foresees the next one */
};

struct operator_scratch {
    _Alignas(LINE) unsigned char sums[ROWS][LINE];
    _Alignas(LINE) unsigned char table[TABLES][256][LINE];
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

#define REAL float
#define NAME(x) x##_single
#include "fit/operator_kernel.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(x) x##_double
#include "fit/operator_kernel.h"
#undef REAL
#undef NAME

void operator_product(const bit_columns *rows, const double *shift, const double *right, operator_scratch *scratch,
                      double *out) {
    product_here_single(rows, shift, right, scratch, out);
}

void operator_product_double(const bit_columns *rows, const double *shift, const double *right,
                             operator_scratch *scratch, double *out) {
    product_here_double(rows, shift, right, scratch, out);
}
