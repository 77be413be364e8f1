/*
 * statistics.h - order, quantiles and means of doubles, where NaN stands for "undefined".
 * Must not know: what the values are of.
 */
#ifndef COAR_CORE_STATISTICS_H
#define COAR_CORE_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

/* For qsort over doubles: ascending, NaN last. */
int double_ascending(const void *a, const void *b);

/* Quantile q in [0, 1] of count >= 1 sorted values, linear between the two nearest. */
double sorted_quantile(const double *sorted, size_t count, double q);

/* Mean of the finite values, NaN without any; their number in *defined (may be NULL). */
double mean_of_defined(const double *values, size_t count, uint64_t *defined);

#endif
