/*
 * correlation.h - Pearson, Spearman and their bootstrap intervals.
 * Must not know: runs, files.
 */
#ifndef COAR_EVALUATE_CORRELATION_H
#define COAR_EVALUATE_CORRELATION_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Bootstrap draws behind every interval that coar gives: the ends then vary by about a fiftieth of the interval. */
enum { CORRELATION_DRAWS = 1000 };

/* Pearson's r of x[i * stride] and y[i * stride], two passes in double. Pairs with a non-finite value are left out;
 * NaN when fewer than two remain or either side has zero variance. */
double correlation_pearson(const float *x, const float *y, size_t count, size_t stride);
/* Spearman's: Pearson's r of the ranks, ties get their mean rank; the same pairs, NaN likewise. */
coar_status correlation_spearman(const float *x, const float *y, size_t count, size_t stride, double *out);

/* Percentile interval (2.5 %, 97.5 %) of the mean over examples of Pearson's r, drawing masks and examples with
 * replacement (Philox stream 4, `seed`, counter = draw); x and y are [masks][examples]. Examples without a correlation
 * are left out first; an example whose drawn masks have no variance is left out of that draw. NaN when no example has
 * one. Takes 12 * draws * masks * examples flops in matrix products, and about 1 KiB an example and 5 KiB a mask. */
coar_status correlation_bootstrap(const float *x, const float *y, size_t masks, size_t examples, size_t draws,
                                  uint64_t seed, double *low, double *high);

#endif
