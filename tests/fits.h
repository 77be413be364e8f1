/*
 * fits.h - fit problems held in memory for tests: random masks, planted outputs, goldens (tools/golden_fit.py), and all
 * that fit_solve hands over.
 */
#ifndef COAR_FITS_H
#define COAR_FITS_H

#include <stdbool.h>

#include "fit/fit.h"

thread_pool *fits_pool(int threads);
void *fits_new(size_t count, size_t size);
uint8_t *fits_masks(size_t m, uint32_t n, double alpha, uint64_t seed);
bool fits_bit(const uint8_t *masks, uint32_t n, size_t i, size_t j);

/* Uniform in (-1, 1). */
float fits_noise(uint64_t seed, size_t i);

/* A problem, and everything the sink was given. */
typedef struct fixture {
    size_t m, N;
    uint32_t n;
    uint8_t *masks;
    float *y;                       /* [m][N] */
    float *weight, *bias, *error;   /* [N][n], [N], [N][n] */
    double *penalty, *r2, *heldout; /* [N] */
    uint64_t next, blocks;
    fit_summary summary;
    int stop_after, warnings;
    fit_form form;
    bool leave_one_out;
    const uint32_t *group_first; /* borrowed, as gradients */
    uint32_t groups;
    const fit_gradients *gradients;
} fixture;

fixture fixture_new(size_t m, uint32_t n, size_t N);
void fixture_free(fixture *f);

/* With standard errors where the estimator has any. memory: 0 = as much as it likes. */
coar_status fits_solve(fixture *f, fit_estimator estimator, int threads, size_t memory);

/* fit_problem's `read`; the context is the fixture. */
coar_status fits_read(void *context, uint64_t first, uint64_t count, float *y);

/* y = bias + X w + level * noise with weights and biases that tests can know. */
double fits_planted(size_t z, size_t j);
void fits_plant(fixture *f, double level);

/* About normal: twelve uniform numbers. */
double fits_normal(uint64_t seed, size_t i);

/* Weights whose variance differs between components, so that a prior can be learnt: three in four hardly matter. */
double fits_uneven_deviation(size_t j);
double fits_uneven(size_t z, size_t j);
/* Masks that ablate alpha, and outputs 2 + X w + level * noise with such weights. */
fixture fits_uneven_problem(size_t m, uint32_t n, size_t N, double alpha, double level);

/* Masks and outputs of golden/fit/NAME, and a check of results against golden/fit/NAME_ESTIMATOR.npy. */
fixture fits_golden(const char *name);
void fits_check_golden(const fixture *f, const char *name, const char *estimator);

/* NaN where that is expected, else within the tolerance. */
void fits_same(double actual, double expected, double tolerance);

/* Largest |a - b| over the largest |a|. */
double fits_difference(const float *a, const float *b, size_t count);

#endif
