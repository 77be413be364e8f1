/*
 * operator.c - see operator.h. As in cross.c, a table holds what any subset of a few bits adds up to, and a row then adds
 * one entry for each of them instead of up to as many vectors' elements. Tables of 5 bits, 13 of which serve a word of 64,
 * stay in a first-level cache of 32 KiB; with 8 bits fewer entries are added, but they come from the second level.
 * Where a shift is asked for, it is in the tables: the sums stay as small as what they are about, and single
 * precision loses nothing to the mean of the masks, which is many times larger than their deviations.
 */
#include "fit/operator.h"

#include <string.h>

#include "core/memory.h"

enum {
    LINE = 64, /* bytes of an entry, a cache line: wider ones are no faster */
    PER_TABLE = 5,
    ENTRIES = 1 << PER_TABLE,
    TABLES = (64 + PER_TABLE - 1) / PER_TABLE,
    ROWS = 1024, /* building tables costs 400/1024 of an entry each; their sums stay in the second-level cache */
    AHEAD = 16   /* rows are far apart, and no hardware foresees the next one */
};

struct operator_scratch {
    _Alignas(LINE) unsigned char sums[ROWS][LINE];
    _Alignas(LINE) unsigned char table[TABLES][ENTRIES][LINE];
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
