/*
 * correlation.h - Pearson, Spearman and their bootstrap intervals.
 * Must not know: runs, files.
 */
#ifndef COAR_EVALUATE_CORRELATION_H
#define COAR_EVALUATE_CORRELATION_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Two-pass in double; NaN when either side has zero variance or a pair fewer than two finite values. Pairs with a NaN are
 * left out. x[i * stride], y[i * stride]. */
double correlation_pearson(const float *x, const float *y, size_t count, size_t stride);
/* Pearson of ranks, ties get their mean rank. */
coar_status correlation_spearman(const float *x, const float *y, size_t count, size_t stride, double *out);

/* Percentile interval (2.5 %, 97.5 %) of the mean over examples of Pearson's r, drawing masks and examples with
 * replacement (Philox stream 4, `seed`); x and y are [masks][examples]. */
coar_status correlation_bootstrap(const float *x, const float *y, size_t masks, size_t examples, size_t draws,
                                  uint64_t seed, double *low, double *high);

/* Bootstrap draws behind every interval that coar gives: the ends then vary by about a fiftieth of the interval. */
enum { CORRELATION_DRAWS = 1000 };

#endif
