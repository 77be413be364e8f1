/*
 * fit.h - linear models of outputs on masks: y(z) ~ b(z) + sum_j w_j(z) mask_j, all examples over one Gram matrix.
 * Must not know: files, runs, models.
 */
#ifndef COAR_FIT_FIT_H
#define COAR_FIT_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/log.h"
#include "core/threads.h"

/* Masks and outputs of one fit. Masks are packed bits, as in sampler.h. */
typedef struct fit_problem {
    const uint8_t *masks;   /* [m][ceil(n/8)] */
    uint64_t m, N;
    uint32_t n;
    /* y[m][count] of examples first .. first + count - 1, f32; NaN = missing. */
    coar_status (*read)(void *context, uint64_t first, uint64_t count, float *y);
    void *context;
} fit_problem;

typedef enum fit_estimator { FIT_OLS, FIT_RIDGE } fit_estimator;

typedef struct fit_settings {
    fit_estimator estimator;
    bool standard_errors;
    thread_pool *pool;
    size_t memory;
    const coar_callbacks *callbacks;
} fit_settings;

/* One block of solved examples; arrays live until the sink returns. */
typedef struct fit_result_block {
    uint64_t first, count;
    const float *weight, *bias;            /* [count][n], [count] */
    const double *penalty, *r2, *heldout;  /* [count] */
    const float *standard_error;           /* [count][n] or NULL */
} fit_result_block;

typedef struct fit_summary {
    uint64_t examples_left_out, masks_left_out;
    double r2_mean, heldout_mean;
} fit_summary;

coar_status fit_estimator_parse(const char *text, fit_estimator *out); /* NULL: ridge */
const char *fit_estimator_name(fit_estimator e);

/* Solves all examples, block by block in order, calling `sink` once per block. */
coar_status fit_solve(const fit_problem *problem, const fit_settings *settings,
                      coar_status (*sink)(void *context, const fit_result_block *block), void *context,
                      fit_summary *summary);

/* G[j][k] = number of masks that keep both j and k, upper triangle filled symmetrically; int64 [n][n]. Exact. */
coar_status gram_count(const uint8_t *masks, uint64_t m, uint32_t n, thread_pool *pool, int64_t *gram);

/* cross[j][z] = sum over masks that keep j of round(y[i][z] * 2^shift[z]), exact int64 in any order; shift per example
 * from max|y| and m so that it cannot overflow. cross [n][N], shift [N]. */
coar_status cross_products(const uint8_t *masks, uint64_t m, uint32_t n, const float *y, uint64_t N, thread_pool *pool,
                           int64_t *cross, int *shift);

#endif
