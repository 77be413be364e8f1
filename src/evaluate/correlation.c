/* correlation.c - see correlation.h. */
#include "evaluate/correlation.h"

#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"
#include "core/statistics.h"

/* ------------------------------------------------------------------------------------ Pearson, Spearman */

double correlation_pearson(const float *x, const float *y, size_t count, size_t stride) {
    size_t pairs = 0;
    double mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < count; i++) {
        double a = x[i * stride], b = y[i * stride];
        if (!isfinite(a) || !isfinite(b)) continue;
        mean_x += a, mean_y += b, pairs++;
    }
    if (pairs < 2) return NAN;
    mean_x /= (double)pairs, mean_y /= (double)pairs; /* exact for equal floats: constants have exactly no variance */
    for (size_t i = 0; i < count; i++) {
        double a = x[i * stride] - mean_x, b = y[i * stride] - mean_y;
        if (!isfinite(a) || !isfinite(b)) continue;
        xx += a * a, yy += b * b, xy += a * b;
    }
    if (xx == 0 || yy == 0) return NAN;
    return fmin(fmax(xy / sqrt(xx * yy), -1), 1);
}

typedef struct ranked {
    float value;
    size_t at;
} ranked;

static int by_value(const void *a, const void *b) {
    float x = ((const ranked *)a)->value, y = ((const ranked *)b)->value;
    return (x > y) - (x < y);
}

/* Ranks from 0, doubled so that the mean rank of ties stays a whole number; below 2^23 pairs a float holds it. */
static void rank(ranked *items, size_t count, float *ranks) {
    qsort(items, count, sizeof *items, by_value);
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && items[end].value == items[i].value; end++) continue;
        for (size_t k = i; k < end; k++) ranks[items[k].at] = (float)(i + end - 1);
    }
}

coar_status correlation_spearman(const float *x, const float *y, size_t count, size_t stride, double *out) {
    ranked *items = NULL;
    float *ranks = NULL;
    size_t pairs = 0;
    coar_status status;
    TRY_GOTO(memory_new(count, 2 * sizeof *items, "ranks", &items));
    TRY_GOTO(memory_new(count, 2 * sizeof *ranks, "ranks", &ranks));
    for (size_t i = 0; i < count; i++) {
        float a = x[i * stride], b = y[i * stride];
        if (!isfinite(a) || !isfinite(b)) continue;
        items[pairs] = (ranked){a, pairs};
        items[count + pairs] = (ranked){b, pairs};
        pairs++;
    }
    rank(items, pairs, ranks);
    rank(items + count, pairs, ranks + count);
    *out = correlation_pearson(ranks, ranks + count, pairs, 1);
done:
    free(ranks);
    free(items);
    return status;
}

/* -------------------------------------------------------------------------------------------- bootstrap */

/*
 * A draw repeats mask i c_i times, so each example's correlation in that draw follows from weighted sums of 1, x, y,
 * x^2, y^2 and xy: for many draws and examples together one matrix product, counts [draws][masks] * moments [masks][6
 * examples]. Work 12 draws masks examples flops, memory bounded by the blocks below: 1,000 draws of 100 masks and
 * 10,000 examples are 12 GFlop.
 */
enum { DRAWS = 256, EXAMPLES = 64 };
enum { ONE, X, Y, XX, YY, XY, MOMENTS };

/* Below this fraction of an example's variance a draw has none (all its masks alike): its sums are rounding error. */
#define VARIANCE_MIN 1e-9

typedef struct bootstrap {
    const float *x, *y; /* [masks][examples] */
    size_t masks, examples;
    size_t *defined; /* [defined_count] examples with a correlation */
    size_t defined_count;
    double *pair;             /* [2][masks] one example's x and y */
    double *mask_counts;      /* [DRAWS][masks] */
    uint32_t *example_counts; /* [DRAWS][defined_count] */
    double *moments;          /* [masks][MOMENTS * EXAMPLES] */
    double *sums;             /* [DRAWS][MOMENTS * EXAMPLES] */
} bootstrap;

/* Number k of a draw, below `limit`. Masks use numbers 0.., examples those after. */
static size_t pick(uint64_t seed, size_t draw, size_t k, size_t limit, uint32_t words[4]) {
    if (k % 4 == 0) philox_words(seed, PHILOX_STREAM_BOOTSTRAP, draw, (uint32_t)(k / 4), words);
    return (size_t)((uint64_t)words[k % 4] * limit >> 32);
}

static void draw_counts(bootstrap *b, uint64_t seed, size_t first, size_t count) {
    memset(b->mask_counts, 0, count * b->masks * sizeof *b->mask_counts);
    memset(b->example_counts, 0, count * b->defined_count * sizeof *b->example_counts);
    size_t examples_from = (b->masks + 3) / 4 * 4;
    for (size_t d = 0; d < count; d++) {
        uint32_t words[4];
        for (size_t k = 0; k < b->masks; k++)
            b->mask_counts[d * b->masks + pick(seed, first + d, k, b->masks, words)]++;
        for (size_t k = 0; k < b->defined_count; k++)
            b->example_counts[d * b->defined_count +
                              pick(seed, first + d, examples_from + k, b->defined_count, words)]++;
    }
}

/* To mean 0 and variance 1, so that the one-pass sums of a draw lose no digits. NaN stays NaN. */
static void standardise(double *v, size_t count) {
    double valid = 0, mean = 0, square = 0;
    for (size_t i = 0; i < count; i++)
        if (!isnan(v[i])) mean += v[i], valid++;
    mean /= valid;
    for (size_t i = 0; i < count; i++)
        if (!isnan(v[i])) square += (v[i] - mean) * (v[i] - mean);
    for (size_t i = 0; i < count; i++) v[i] = (v[i] - mean) * sqrt(valid / square);
}

/* Column `slot` of the moments: example z. */
static void example_moments(bootstrap *b, size_t z, size_t slot) {
    double *x = b->pair, *y = b->pair + b->masks;
    for (size_t i = 0; i < b->masks; i++) {
        double p = b->x[i * b->examples + z], q = b->y[i * b->examples + z];
        bool valid = isfinite(p) && isfinite(q);
        x[i] = valid ? p : NAN;
        y[i] = valid ? q : NAN;
    }
    standardise(x, b->masks);
    standardise(y, b->masks);
    for (size_t i = 0; i < b->masks; i++) {
        double *m = b->moments + i * MOMENTS * EXAMPLES + slot;
        bool valid = !isnan(x[i]);
        m[ONE * EXAMPLES] = valid;
        m[X * EXAMPLES] = valid ? x[i] : 0;
        m[Y * EXAMPLES] = valid ? y[i] : 0;
        m[XX * EXAMPLES] = valid ? x[i] * x[i] : 0;
        m[YY * EXAMPLES] = valid ? y[i] * y[i] : 0;
        m[XY * EXAMPLES] = valid ? x[i] * y[i] : 0;
    }
}

/* Pearson's r from the sums of one draw and example; NaN without variance. */
static double drawn_correlation(const double *sums) {
    double count = sums[ONE * EXAMPLES], x = sums[X * EXAMPLES] / count, y = sums[Y * EXAMPLES] / count;
    double xx = sums[XX * EXAMPLES] / count - x * x, yy = sums[YY * EXAMPLES] / count - y * y;
    if (!(xx > VARIANCE_MIN && yy > VARIANCE_MIN)) return NAN;
    return (sums[XY * EXAMPLES] / count - x * y) / sqrt(xx * yy);
}

/* means[draw] of `count` draws from `first`: the mean of r over the examples drawn that have one. */
static void draw_means(bootstrap *b, uint64_t seed, size_t first, size_t count, double *means) {
    double total[DRAWS] = {0}, defined[DRAWS] = {0};
    draw_counts(b, seed, first, count);
    for (size_t z = 0; z < b->defined_count; z += EXAMPLES) {
        size_t width = b->defined_count - z < EXAMPLES ? b->defined_count - z : EXAMPLES;
        for (size_t slot = 0; slot < width; slot++) example_moments(b, b->defined[z + slot], slot);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, MOMENTS * EXAMPLES, (int)b->masks, 1,
                    b->mask_counts, (int)b->masks, b->moments, MOMENTS * EXAMPLES, 0, b->sums, MOMENTS * EXAMPLES);
        for (size_t d = 0; d < count; d++)
            for (size_t slot = 0; slot < width; slot++) {
                double times = b->example_counts[d * b->defined_count + z + slot];
                double r = times > 0 ? drawn_correlation(b->sums + d * MOMENTS * EXAMPLES + slot) : NAN;
                if (isnan(r)) continue;
                total[d] += times * r;
                defined[d] += times;
            }
    }
    for (size_t d = 0; d < count; d++) means[first + d] = defined[d] > 0 ? total[d] / defined[d] : NAN;
}

static coar_status bootstrap_allocate(bootstrap *b) {
    static const char what[] = "the bootstrap";
    TRY(memory_new(b->examples, sizeof *b->defined, what, &b->defined));
    TRY(memory_new(b->masks, 2 * sizeof *b->pair, what, &b->pair));
    TRY(memory_new(b->masks, DRAWS * sizeof *b->mask_counts, what, &b->mask_counts));
    TRY(memory_new(b->examples, DRAWS * sizeof *b->example_counts, what, &b->example_counts));
    TRY(memory_new(b->masks, MOMENTS * EXAMPLES * sizeof *b->moments, what, &b->moments));
    return memory_new(DRAWS, MOMENTS * EXAMPLES * sizeof *b->sums, what, &b->sums);
}

coar_status correlation_bootstrap(const float *x, const float *y, size_t masks, size_t examples, size_t draws,
                                  uint64_t seed, double *low, double *high) {
    bootstrap b = {.x = x, .y = y, .masks = masks, .examples = examples};
    double *means = NULL;
    size_t count = 0;
    coar_status status;
    TRY_GOTO(bootstrap_allocate(&b));
    TRY_GOTO(memory_new(draws, sizeof *means, "the bootstrap", &means));
    for (size_t z = 0; z < examples; z++)
        if (!isnan(correlation_pearson(x + z, y + z, masks, examples))) b.defined[b.defined_count++] = z;
    for (size_t first = 0; first < draws; first += DRAWS)
        draw_means(&b, seed, first, draws - first < DRAWS ? draws - first : DRAWS, means);
    for (size_t d = 0; d < draws; d++)
        if (!isnan(means[d])) means[count++] = means[d];
    qsort(means, count, sizeof *means, double_ascending);
    *low = count ? sorted_quantile(means, count, 0.025) : NAN;
    *high = count ? sorted_quantile(means, count, 0.975) : NAN;
done:
    free(means);
    free(b.sums);
    free(b.moments);
    free(b.example_counts);
    free(b.mask_counts);
    free(b.pair);
    free(b.defined);
    return status;
}
