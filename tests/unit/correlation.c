/* correlation.c - Pearson and Spearman against numpy (tools/golden_correlation.py); does the bootstrap interval cover? */
#include "test.h"

#include "core/npy.h"
#include "core/philox.h"
#include "evaluate/correlation.h"

/* Sum of four uniforms, variance 1: near enough to normal. */
static double normal(uint64_t seed, size_t i) {
    uint32_t words[4];
    philox_words(seed, 9, i, 0, words);
    return (((double)words[0] + words[1] + words[2] + words[3]) / 4294967296.0 - 2) * sqrt(3);
}

static void test_goldens(void) {
    test_begin("Pearson and Spearman agree with numpy: ties, NaN, zero variance, large means, strides");
    npy_array golden;
    CHECK_OK(npy_open(test_path("golden/correlation.npy"), &golden));
    size_t examples = golden.shape[0], masks = (golden.shape[1] - 2) / 2;
    float x[64 * 16], y[64 * 16];
    for (size_t z = 0; z < examples; z++)
        for (size_t i = 0; i < masks; i++) {
            x[i * examples + z] = (float)npy_get_double(&golden, z * golden.shape[1] + i);
            y[i * examples + z] = (float)npy_get_double(&golden, z * golden.shape[1] + masks + i);
        }
    for (size_t z = 0; z < examples; z++) {
        double expected[2], actual[2];
        for (size_t k = 0; k < 2; k++) expected[k] = npy_get_double(&golden, z * golden.shape[1] + 2 * masks + k);
        actual[0] = correlation_pearson(x + z, y + z, masks, examples);
        CHECK_OK(correlation_spearman(x + z, y + z, masks, examples, &actual[1]));
        for (size_t k = 0; k < 2; k++) {
            if (isnan(expected[k]))
                CHECK(isnan(actual[k]));
            else
                CHECK_NEAR(actual[k], expected[k], 1e-12);
        }
    }
    npy_close(&golden);
}

static void test_small(void) {
    test_begin("fewer than two pairs have no correlation");
    const float v[2] = {1, 2};
    double rho;
    CHECK(isnan(correlation_pearson(v, v, 0, 1)));
    CHECK(isnan(correlation_pearson(v, v, 1, 1)));
    CHECK_NEAR(correlation_pearson(v, v, 2, 1), 1, 0);
    CHECK_OK(correlation_spearman(v, v, 0, 1, &rho));
    CHECK(isnan(rho));
}

/* One experiment: `masks` x `examples` pairs whose correlations are `r` plus an example's own deviation. */
static void draw(uint64_t seed, size_t masks, size_t examples, double r, float *x, float *y) {
    for (size_t z = 0; z < examples; z++) {
        double own = r + 0.1 * normal(seed, 10000000 + z);
        for (size_t i = 0; i < masks; i++) {
            double a = normal(seed, (i * examples + z) * 2), b = normal(seed, (i * examples + z) * 2 + 1);
            x[i * examples + z] = (float)(3 + a);
            y[i * examples + z] = (float)(own * a + sqrt(1 - own * own) * b);
        }
    }
}

static double mean_correlation(const float *x, const float *y, size_t masks, size_t examples) {
    double sum = 0;
    size_t defined = 0;
    for (size_t z = 0; z < examples; z++) {
        double r = correlation_pearson(x + z, y + z, masks, examples);
        if (!isnan(r)) sum += r, defined++;
    }
    return sum / (double)defined;
}

static void test_cover(void) {
    test_begin("the bootstrap interval covers the true mean about as often as it says");
    enum { MASKS = 60, EXAMPLES = 30, TRIALS = 150 };
    static float x[MASKS * EXAMPLES], y[MASKS * EXAMPLES];
    int covered = 0;
    double width = 0;
    for (uint64_t t = 0; t < TRIALS; t++) {
        double low = 0, high = 0;
        draw(t, MASKS, EXAMPLES, 0.6, x, y);
        CHECK_OK(correlation_bootstrap(x, y, MASKS, EXAMPLES, 200, t, &low, &high));
        CHECK(low <= mean_correlation(x, y, MASKS, EXAMPLES) && mean_correlation(x, y, MASKS, EXAMPLES) <= high);
        covered += low < 0.6 && 0.6 < high;
        width += (high - low) / TRIALS;
    }
    CHECK(covered >= 0.90 * TRIALS);
    CHECK(width < 0.15); /* wide enough to cover is easy; six standard errors are 0.13 */
}

static void test_against_plain(void) {
    test_begin("a bootstrap draw by matrix product is the draw made one by one");
    enum { MASKS = 11, EXAMPLES = 67 }; /* one block of examples and a bit */
    static float x[MASKS * EXAMPLES], y[MASKS * EXAMPLES], dx[MASKS * EXAMPLES], dy[MASKS * EXAMPLES];
    draw(5, MASKS, EXAMPLES, 0.5, x, y);
    x[4] = NAN; /* mask 0 of example 4 */
    for (size_t i = 0; i < MASKS; i++) y[i * EXAMPLES + 40] = 7;
    size_t defined[EXAMPLES], count = 0;
    for (size_t z = 0; z < EXAMPLES; z++)
        if (z != 40) defined[count++] = z;
    const size_t mask_words = (MASKS + 3) / 4 * 4;
    for (size_t k = 0; k < mask_words + count; k++) { /* draw 0 is the only draw: both quantiles are its mean */
        uint32_t words[4];
        philox_words(77, PHILOX_STREAM_BOOTSTRAP, 0, (uint32_t)(k / 4), words);
        uint64_t word = words[k % 4];
        for (size_t z = 0; z < EXAMPLES && k < MASKS; z++) {
            dx[k * EXAMPLES + z] = x[(word * MASKS >> 32) * EXAMPLES + z];
            dy[k * EXAMPLES + z] = y[(word * MASKS >> 32) * EXAMPLES + z];
        }
    }
    double sum = 0, total = 0, low, high;
    for (size_t k = 0; k < count; k++) {
        uint32_t words[4];
        philox_words(77, PHILOX_STREAM_BOOTSTRAP, 0, (uint32_t)((mask_words + k) / 4), words);
        size_t z = defined[(uint64_t)words[k % 4] * count >> 32];
        double r = correlation_pearson(dx + z, dy + z, MASKS, EXAMPLES);
        if (!isnan(r)) sum += r, total++;
    }
    CHECK_OK(correlation_bootstrap(x, y, MASKS, EXAMPLES, 1, 77, &low, &high));
    CHECK_NEAR(low, sum / total, 1e-9);
    CHECK_NEAR(high, sum / total, 1e-9);
}

static void test_undefined(void) {
    test_begin("no example with variance: the interval is NaN");
    const float x[6] = {1, 1, 1, 1, 1, 1}, y[6] = {1, 2, 3, 4, 5, 6};
    double low = 0, high = 0;
    CHECK_OK(correlation_bootstrap(x, y, 3, 2, 100, 0, &low, &high));
    CHECK(isnan(low) && isnan(high));
}

int main(void) {
    test_goldens();
    test_small();
    test_cover();
    test_against_plain();
    test_undefined();
    return test_end();
}
