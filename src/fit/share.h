/*
 * share.h - the exact integer sums of a fit over all ranks: each counts and adds for its part of the masks, and rank 0 gets
 * the sum, which in integers has the same bits for any number of ranks.
 *
 * Only these sums are divided. What follows (factors, solutions, choices of penalties) stays on rank 0: it is dense
 * algebra, whose bits depend on how it is divided, and which LAPACK does at one machine's peak.
 * Must not know: estimators.
 */
#ifndef COAR_FIT_SHARE_H
#define COAR_FIT_SHARE_H

#include "fit/gram.h"
#include "fit/share_device.h"

/* Rank 0: as gram_count and cross_products, with the help of the other ranks where that is worth it. `s`: of every rank's device,
 * whose sums go over the link between them or, without one, over MPI; without devices those of CPUs do. */
coar_status gram_share(const bit_columns *columns, thread_pool *pool, const shared_device *s, int64_t *gram);
coar_status cross_share(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, const shared_device *s,
                        int64_t *cross, int64_t *total, int *shift);

/* The others, with so many threads (0 = one for each core). */
coar_status gram_follow(packet *p, int threads, const shared_device *s);
coar_status cross_follow(packet *p, int threads, const shared_device *s);

#endif
