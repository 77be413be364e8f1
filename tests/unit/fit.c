/* fit.c - Gram matrix and cross products against counting by hand, estimators against numpy (tools/golden_fit.py). */
#include "test.h"

#include <stdbool.h>

#include "core/memory.h"
#include "core/npy.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "fit/fit.h"
#include "fit/gram.h"

/* ------------------------------------------------------------------------------------------- helpers */

static thread_pool *pool_of(int threads) {
    thread_pool *pool = NULL;
    CHECK_OK(thread_pool_create(threads, &pool));
    return pool;
}

static void *fresh(size_t count, size_t size) {
    void *block = NULL;
    CHECK_OK(memory_new(count, size, "test", &block));
    return block;
}

static uint8_t *random_masks(size_t m, uint32_t n, double alpha, uint64_t seed) {
    sampler s = {.kind = SAMPLER_BERNOULLI, .seed = seed, .alpha = alpha, .n = n};
    uint8_t *masks = fresh(m, mask_bytes(n));
    for (size_t i = 0; i < m; i++) sampler_mask(&s, i, masks + i * mask_bytes(n), NULL);
    return masks;
}

static bool bit(const uint8_t *masks, uint32_t n, size_t i, size_t j) {
    return masks[i * mask_bytes(n) + j / 8] >> (j % 8) & 1;
}

/* Uniform in (-1, 1). */
static float noise(uint64_t seed, size_t i) {
    uint32_t words[4];
    philox_words(seed, 7, i / 4, 0, words);
    return (float)words[i % 4] / 2147483648.0f - 1;
}

/* A problem held in memory, and everything the sink was given. */
typedef struct fixture {
    size_t m, N;
    uint32_t n;
    uint8_t *masks;
    float *y;                       /* [m][N] */
    float *weight, *bias, *error;   /* [N][n], [N], [N][n] */
    double *penalty, *r2, *heldout; /* [N] */
    uint64_t next;
    fit_summary summary;
    int stop_after, warnings;
    bool leave_one_out;
} fixture;

static fixture fixture_new(size_t m, uint32_t n, size_t N) {
    fixture f = {.m = m, .N = N, .n = n, .stop_after = -1};
    f.y = fresh(m * N, sizeof(float));
    f.weight = fresh(N * n, sizeof(float));
    f.error = fresh(N * n, sizeof(float));
    f.bias = fresh(N, sizeof(float));
    f.penalty = fresh(N, sizeof(double));
    f.r2 = fresh(N, sizeof(double));
    f.heldout = fresh(N, sizeof(double));
    return f;
}

static void fixture_free(fixture *f) {
    void *all[] = {f->masks, f->y, f->weight, f->error, f->bias, f->penalty, f->r2, f->heldout};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static coar_status fixture_read(void *context, uint64_t first, uint64_t count, float *y) {
    const fixture *f = context;
    CHECK(first + count <= f->N);
    for (size_t i = 0; i < f->m; i++) memcpy(y + i * count, f->y + i * f->N + first, count * sizeof *y);
    return COAR_OK;
}

static coar_status fixture_sink(void *context, const fit_result_block *block) {
    fixture *f = context;
    CHECK_INT(block->first, f->next);
    f->next += block->count;
    for (size_t z = 0; z < block->count; z++) {
        size_t at = block->first + z;
        memcpy(f->weight + at * f->n, block->weight + z * f->n, f->n * sizeof(float));
        if (block->standard_error) memcpy(f->error + at * f->n, block->standard_error + z * f->n, f->n * sizeof(float));
        f->bias[at] = block->bias[z];
        f->penalty[at] = block->penalty[z];
        f->r2[at] = block->r2[z];
        f->heldout[at] = block->heldout[z];
    }
    return COAR_OK;
}

static int on_progress(void *user, const coar_progress *progress) {
    const fixture *f = user;
    return f->stop_after >= 0 && progress->done > (uint64_t)f->stop_after;
}

static void on_log(void *user, coar_log_level level, const char *line) {
    CHECK(strchr(line, '\n') == NULL);
    if (level == COAR_LOG_WARNING) ((fixture *)user)->warnings++;
}

static coar_status solve(fixture *f, fit_estimator estimator, int threads, size_t memory) {
    coar_callbacks callbacks = {.progress = on_progress, .log = on_log, .user = f};
    fit_problem problem = {f->masks, f->m, f->N, f->n, fixture_read, f, f->leave_one_out};
    fit_settings settings = {estimator, true, pool_of(threads), memory, &callbacks};
    f->next = 0;
    f->warnings = 0;
    status_clear();
    coar_status status = fit_solve(&problem, &settings, fixture_sink, f, &f->summary);
    thread_pool_destroy(settings.pool);
    return status;
}

/* y = bias + X w + level * noise with weights and biases that tests can know. */
static double planted_weight(size_t z, size_t j) {
    return noise(100 + z, j);
}
static void plant(fixture *f, double level) {
    for (size_t i = 0; i < f->m; i++)
        for (size_t z = 0; z < f->N; z++) {
            double y = 3.0 + (double)z;
            for (size_t j = 0; j < f->n; j++) y += bit(f->masks, f->n, i, j) * planted_weight(z, j);
            f->y[i * f->N + z] = (float)(y + level * noise(500 + z, i));
        }
}

/* -------------------------------------------------------------------------------------- integer half */

static void test_columns(void) {
    test_begin("bit columns are the masks turned, with zero padding");
    const size_t sizes[][2] = {{1, 1}, {7, 9}, {8, 8}, {63, 65}, {64, 64}, {65, 63}, {130, 201}};
    thread_pool *pool = pool_of(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0];
        uint32_t n = (uint32_t)sizes[s][1];
        uint8_t *masks = random_masks(m, n, 0.4, s);
        bit_columns turned, same;
        CHECK_OK(bit_columns_transpose(masks, m, n, pool, &turned));
        CHECK_OK(bit_columns_copy(masks, m, n, &same));
        size_t wrong = 0;
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < turned.stride * 64; i++) {
                bool expected = i < m && bit(masks, n, i, j);
                wrong += (turned.words[j * turned.stride + i / 64] >> (i % 64) & 1) != expected;
            }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < same.stride * 64; j++) {
                bool expected = j < n && bit(masks, n, i, j);
                wrong += (same.words[i * same.stride + j / 64] >> (j % 64) & 1) != expected;
            }
        CHECK_INT(wrong, 0);
        bit_columns_free(&turned);
        bit_columns_free(&same);
        free(masks);
    }
    thread_pool_destroy(pool);
}

#define SENTINEL INT64_C(0x5a5a5a5a5a5a5a5a)

static void test_gram(void) {
    test_begin("Gram matrix counts pairs, the same bytes from 1 and 3 threads");
    const size_t sizes[][2] = {{1, 1}, {5, 3}, {100, 33}, {4321, 65}, {200, 97}};
    thread_pool *one = pool_of(1), *three = pool_of(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0], n = sizes[s][1], wrong = 0;
        uint8_t *masks = random_masks(m, (uint32_t)n, 0.3, s);
        bit_columns columns;
        CHECK_OK(bit_columns_transpose(masks, m, (uint32_t)n, one, &columns));
        int64_t *a = fresh(n * n + 1, sizeof *a), *b = fresh(n * n + 1, sizeof *b);
        a[n * n] = SENTINEL;
        CHECK_OK(gram_count(&columns, one, a));
        CHECK_OK(gram_count(&columns, three, b));
        CHECK(a[n * n] == SENTINEL);
        CHECK(!memcmp(a, b, n * n * sizeof *a));
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++) {
                int64_t count = 0;
                for (size_t i = 0; i < m; i++) count += bit(masks, (uint32_t)n, i, j) && bit(masks, (uint32_t)n, i, k);
                wrong += a[j * n + k] != count;
            }
        CHECK_INT(wrong, 0);
        free(a);
        free(b);
        bit_columns_free(&columns);
        free(masks);
    }
    thread_pool_destroy(one);
    thread_pool_destroy(three);
}

static void test_cross(void) {
    test_begin("cross products are exact sums, the same bytes from 1 and 3 threads");
    const size_t sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {65, 40, 9}, {333, 17, 24}, {100, 1030, 2}};
    const float magnitudes[] = {1, 3e38f, 1e-42f, 20}; /* per example, in turn */
    thread_pool *one = pool_of(1), *three = pool_of(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0], n = sizes[s][1], N = sizes[s][2], wrong = 0;
        uint8_t *masks = random_masks(m, (uint32_t)n, 0.2, s);
        bit_columns columns;
        CHECK_OK(bit_columns_transpose(masks, m, (uint32_t)n, one, &columns));
        float *y = fresh(m * N, sizeof *y);
        for (size_t x = 0; x < m * N; x++) y[x] = magnitudes[x % N % 4] * noise(s, x);
        int64_t *a = fresh(n * N + 1, sizeof *a), *b = fresh(n * N, sizeof *b), *total = fresh(N, sizeof *total);
        int *shift = fresh(N, sizeof *shift);
        a[n * N] = SENTINEL;
        CHECK_OK(cross_products(&columns, y, N, one, NULL, a, total, shift));
        CHECK_OK(cross_products(&columns, y, N, three, NULL, b, total, shift));
        CHECK(a[n * N] == SENTINEL);
        CHECK(!memcmp(a, b, n * N * sizeof *a));
        for (size_t z = 0; z < N; z++) {
            __int128 all = 0, room = 0;
            for (size_t i = 0; i < m; i++) {
                int64_t q = llrint(ldexp(y[i * N + z], shift[z]));
                all += q;
                room += q < 0 ? -q : q;
            }
            wrong += total[z] != all || room > (__int128)1 << 62;
            for (size_t j = 0; j < n; j++) {
                __int128 sum = 0;
                for (size_t i = 0; i < m; i++)
                    if (bit(masks, (uint32_t)n, i, j)) sum += llrint(ldexp(y[i * N + z], shift[z]));
                wrong += a[j * N + z] != sum;
            }
        }
        CHECK_INT(wrong, 0);
        free(a), free(b), free(total), free(shift), free(y), free(masks);
        bit_columns_free(&columns);
    }
    thread_pool_destroy(one);
    thread_pool_destroy(three);
}

/* ------------------------------------------------------------------------------------------- goldens */

static fixture golden_problem(const char *name) {
    char path[64];
    npy_array masks, y;
    snprintf(path, sizeof path, "golden/fit/%s_masks.npy", name);
    CHECK_OK(npy_open(test_path(path), &masks));
    snprintf(path, sizeof path, "golden/fit/%s_outputs.npy", name);
    CHECK_OK(npy_open(test_path(path), &y));
    fixture f = fixture_new(masks.shape[0], (uint32_t)masks.shape[1], y.shape[1]);
    f.masks = fresh(f.m, mask_bytes(f.n));
    for (size_t x = 0; x < masks.count; x++)
        if (npy_get_int(&masks, x)) f.masks[x / f.n * mask_bytes(f.n) + x % f.n / 8] |= (uint8_t)(1 << (x % f.n % 8));
    for (size_t x = 0; x < y.count; x++) f.y[x] = (float)npy_get_double(&y, x);
    npy_close(&masks);
    npy_close(&y);
    return f;
}

static void check_same(double actual, double expected, double tolerance) {
    if (isnan(expected))
        CHECK(isnan(actual));
    else
        CHECK_NEAR(actual, expected, tolerance);
}

static void test_goldens(void) {
    const char *names[] = {"tall", "wide", "same"};
    for (size_t c = 0; c < 3; c++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s agrees with numpy: %s", fit_estimator_name(e), names[c]);
            fixture f = golden_problem(names[c]);
            CHECK_OK(solve(&f, e, 2, 0));
            CHECK_INT(f.warnings, e == FIT_OLS && c > 0);
            char path[64];
            snprintf(path, sizeof path, "golden/fit/%s_%s.npy", names[c], fit_estimator_name(e));
            npy_array expected;
            CHECK_OK(npy_open(test_path(path), &expected));
            for (size_t z = 0; z < f.N; z++) {
                size_t row = z * expected.shape[1];
                CHECK_NEAR(f.penalty[z], npy_get_double(&expected, row), 1e-9 * f.penalty[z]);
                check_same(f.r2[z], npy_get_double(&expected, row + 1), 1e-9);
                check_same(f.heldout[z], npy_get_double(&expected, row + 2), 1e-6);
                CHECK_NEAR(f.bias[z], npy_get_double(&expected, row + 3), 2e-6 * 10);
                for (size_t j = 0; j < f.n; j++) {
                    CHECK_NEAR(f.weight[z * f.n + j], npy_get_double(&expected, row + 4 + j), 2e-6);
                    check_same(f.error[z * f.n + j], npy_get_double(&expected, row + 4 + f.n + j), 2e-6);
                }
            }
            npy_close(&expected);
            fixture_free(&f);
        }
    }
}

/* ------------------------------------------------------------------------------------------- solvers */

static void test_planted(void) {
    test_begin("a planted model without noise is found again");
    fixture f = fixture_new(211, 41, 70);
    f.masks = random_masks(f.m, f.n, 0.1, 3);
    plant(&f, 0);
    CHECK_OK(solve(&f, FIT_OLS, 2, 0));
    CHECK_INT(f.next, f.N);
    CHECK_INT(f.warnings, 0);
    for (size_t z = 0; z < f.N; z++) {
        CHECK_NEAR(f.bias[z], 3.0 + (double)z, 3e-5); /* outputs are floats of about 80 */
        CHECK_NEAR(f.r2[z], 1, 1e-9);
        CHECK_NEAR(f.heldout[z], 1, 1e-9);
        for (size_t j = 0; j < f.n; j++) CHECK_NEAR(f.weight[z * f.n + j], planted_weight(z, j), 1e-5);
    }
    CHECK_NEAR(f.summary.r2_mean, 1, 1e-9);
    fixture_free(&f);
}

static double largest_difference(const float *a, const float *b, size_t count) {
    double difference = 0, largest = 0;
    for (size_t x = 0; x < count; x++) {
        difference = fmax(difference, fabs((double)a[x] - b[x]));
        largest = fmax(largest, fabs((double)a[x]));
    }
    return difference / largest;
}

static void test_independence(void) {
    const size_t sizes[][2] = {{300, 129}, {90, 150}};
    for (size_t s = 0; s < 2; s++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s, %zu masks of %zu components: threads and memory change nothing beyond 1e-6",
                       fit_estimator_name(e), sizes[s][0], sizes[s][1]);
            fixture f = fixture_new(sizes[s][0], (uint32_t)sizes[s][1], 133), g = f;
            f.masks = random_masks(f.m, f.n, 0.15, 9);
            plant(&f, 1);
            CHECK_OK(solve(&f, e, 1, 0));
            g = fixture_new(f.m, f.n, f.N);
            memcpy(g.y, f.y, f.m * f.N * sizeof *f.y);
            g.masks = random_masks(f.m, f.n, 0.15, 9);
            CHECK_OK(solve(&g, e, 3, (size_t)2 << 20)); /* 2 MiB: several blocks */
            CHECK_INT(g.next, g.N);
            CHECK(largest_difference(f.weight, g.weight, f.N * f.n) < 1e-6);
            CHECK(largest_difference(f.error, g.error, f.N * f.n) < 1e-6 || isnan(f.error[0]));
            for (size_t z = 0; z < f.N; z++) CHECK(f.penalty[z] == 0 || fabs(g.penalty[z] / f.penalty[z] - 1) < 1e-9);
            fixture_free(&f);
            fixture_free(&g);
        }
    }
}

static void test_ridge_beats(void) {
    test_begin("ridge is nearer to a planted model than least squares where masks are few and noise is large");
    fixture f = fixture_new(160, 120, 20), g = fixture_new(160, 120, 20);
    f.masks = random_masks(f.m, f.n, 0.1, 5);
    g.masks = random_masks(f.m, f.n, 0.1, 5);
    plant(&f, 4);
    plant(&g, 4);
    CHECK_OK(solve(&f, FIT_OLS, 1, 0));
    CHECK_OK(solve(&g, FIT_RIDGE, 1, 0));
    double ols = 0, ridge = 0;
    for (size_t z = 0; z < f.N; z++)
        for (size_t j = 0; j < f.n; j++) {
            ols += pow(f.weight[z * f.n + j] - planted_weight(z, j), 2);
            ridge += pow(g.weight[z * f.n + j] - planted_weight(z, j), 2);
        }
    CHECK(ridge < 0.5 * ols);
    CHECK(g.summary.heldout_mean > f.summary.heldout_mean);
    fixture_free(&f);
    fixture_free(&g);
}

static void test_standard_errors(void) {
    test_begin("standard errors cover the planted weights as often as they should");
    fixture f = fixture_new(400, 30, 40);
    f.masks = random_masks(f.m, f.n, 0.2, 6);
    plant(&f, 2);
    CHECK_OK(solve(&f, FIT_OLS, 1, 0));
    size_t covered = 0;
    for (size_t z = 0; z < f.N; z++)
        for (size_t j = 0; j < f.n; j++)
            covered += fabs(f.weight[z * f.n + j] - planted_weight(z, j)) < 1.96 * f.error[z * f.n + j];
    CHECK_NEAR((double)covered / (double)(f.N * f.n), 0.95, 0.03);
    fixture_free(&f);
}

static void test_edges(void) {
    const size_t sizes[][2] = {{2, 1}, {3, 1}, {40, 1}, {25, 25}, {26, 25}, {27, 25}, {2, 30}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s of %zu masks and %zu components", fit_estimator_name(e), sizes[s][0], sizes[s][1]);
            fixture f = fixture_new(sizes[s][0], (uint32_t)sizes[s][1], 3);
            f.masks = random_masks(f.m, f.n, 0.5, 40);
            plant(&f, 0);
            for (size_t i = 0; i < f.m; i++) f.y[i * f.N + 1] = 0.1f; /* constant */
            CHECK_OK(solve(&f, e, 1, 0));
            for (size_t z = 0; z < f.N; z++) {
                CHECK(isfinite(f.bias[z]));
                for (size_t j = 0; j < f.n; j++) CHECK(isfinite(f.weight[z * f.n + j]));
                for (size_t i = 0; i < f.m && e == FIT_OLS; i++) { /* no noise: every output is met */
                    double y = f.bias[z];
                    for (size_t j = 0; j < f.n; j++) y += bit(f.masks, f.n, i, j) * (double)f.weight[z * f.n + j];
                    CHECK_NEAR(y, f.y[i * f.N + z], 2e-5);
                }
            }
            for (size_t j = 0; j < f.n; j++) CHECK(f.weight[f.n + j] == 0);
            CHECK_NEAR(f.bias[1], 0.1f, 0);
            CHECK(isnan(f.r2[1]) && isnan(f.heldout[1]));
            fixture_free(&f);
        }
    }
}

static void test_constant_masks(void) {
    for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
        test_begin("%s when every mask keeps everything: weights 0, bias the mean", fit_estimator_name(e));
        fixture f = fixture_new(12, 5, 2);
        f.masks = fresh(f.m, 1);
        memset(f.masks, 31, f.m);
        for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = (float)x;
        CHECK_OK(solve(&f, e, 1, 0));
        for (size_t x = 0; x < f.N * f.n; x++) CHECK(f.weight[x] == 0);
        CHECK_NEAR(f.bias[0], 11, 0);
        CHECK_NEAR(f.bias[1], 12, 0);
        CHECK_NEAR(f.r2[0], 0, 1e-12);
        CHECK(isnan(f.heldout[0]));
        fixture_free(&f);
    }
}

static void test_non_finite(void) {
    test_begin("non-finite outputs: broken examples go first, then the masks of the rest");
    const size_t m = 250;
    fixture f = fixture_new(m, 20, 4), g = fixture_new(m - 2, 20, 4);
    f.masks = random_masks(m, 20, 0.2, 8);
    plant(&f, 1);
    g.masks = fresh(m - 2, mask_bytes(20));
    for (size_t i = 0, k = 0; i < m; i++) {
        if (i == 17 || i == 200) continue;
        memcpy(g.masks + k * mask_bytes(20), f.masks + i * mask_bytes(20), mask_bytes(20));
        memcpy(g.y + k++ * f.N, f.y + i * f.N, f.N * sizeof *f.y);
    }
    f.y[17 * f.N + 1] = NAN; /* 2 of 250 = 0.8 %: example 1 stays, its masks go */
    f.y[200 * f.N + 1] = INFINITY;
    for (size_t i = 50; i < 53; i++) f.y[i * f.N + 2] = -INFINITY; /* 1.2 %: example 2 goes, its masks stay */
    CHECK_OK(solve(&f, FIT_RIDGE, 2, 0));
    CHECK_OK(solve(&g, FIT_RIDGE, 2, 0));
    CHECK_INT(f.summary.examples_left_out, 1);
    CHECK_INT(f.summary.masks_left_out, 2);
    CHECK_INT(f.warnings, 2);
    for (size_t z = 0; z < f.N; z++) {
        bool out = z == 2;
        CHECK(out == (bool)isnan(f.bias[z]) && out == (bool)isnan(f.r2[z]) && out == (bool)isnan(f.heldout[z]));
        for (size_t j = 0; j < f.n; j++) {
            check_same(f.weight[z * f.n + j], out ? NAN : g.weight[z * f.n + j], 1e-6);
            check_same(f.error[z * f.n + j], out ? NAN : g.error[z * f.n + j], 1e-6);
        }
    }
    for (size_t x = 0; x < m * f.N; x++) f.y[x] = NAN;
    for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
        CHECK_OK(solve(&f, e, 1, 0));
        CHECK_INT(f.summary.examples_left_out, 4);
        CHECK(isnan(f.summary.r2_mean) && isnan(f.weight[0]) && isnan(f.error[3]));
    }
    fixture_free(&f);
    fixture_free(&g);
}

static void test_leave_one_out(void) {
    test_begin("a leave-one-out run: baseline minus output, as least squares has it");
    fixture f = fixture_new(18, 17, 3), g = fixture_new(18, 17, 3);
    sampler s = {.kind = SAMPLER_LOO, .n = f.n};
    f.masks = fresh(f.m, mask_bytes(f.n));
    g.masks = fresh(f.m, mask_bytes(f.n));
    for (size_t i = 0; i < f.m; i++) sampler_mask(&s, i, f.masks + i * mask_bytes(f.n), NULL);
    memcpy(g.masks, f.masks, f.m * mask_bytes(f.n));
    for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = g.y[x] = noise(1, x);
    f.leave_one_out = true;
    CHECK_OK(solve(&f, FIT_OLS, 1, 0));
    CHECK_OK(solve(&g, FIT_OLS, 1, 0));
    CHECK_INT(f.warnings, 0);
    for (size_t z = 0; z < f.N; z++) {
        CHECK_NEAR(f.bias[z], g.bias[z], 1e-5);
        CHECK_NEAR(f.r2[z], 1, 0);
        CHECK(isnan(f.heldout[z]));
        for (size_t j = 0; j < f.n; j++) {
            CHECK_NEAR(f.weight[z * f.n + j], f.y[17 * f.N + z] - f.y[j * f.N + z], 1e-6);
            CHECK_NEAR(f.weight[z * f.n + j], g.weight[z * f.n + j], 2e-6);
        }
    }
    CHECK_OK(solve(&f, FIT_RIDGE, 1, 0)); /* asked for: solved as any other masks */
    f.y[5] = NAN;
    CHECK_OK(solve(&f, FIT_OLS, 1, 0));
    CHECK_INT(f.summary.examples_left_out, 1);
    fixture_free(&f);
    fixture_free(&g);
}

static coar_status refuse(void *context, const fit_result_block *block) {
    (void)context;
    (void)block;
    return status_set(COAR_ERROR_IO, "sink is full");
}

static void test_errors(void) {
    test_begin("a fit that cannot be made says why");
    fit_estimator e;
    CHECK_OK(fit_estimator_parse(NULL, &e));
    CHECK_INT(e, FIT_RIDGE);
    status_clear();
    CHECK_ERROR(fit_estimator_parse("lassoo", &e), COAR_ERROR_USAGE, "--estimator 'lassoo'");
    fixture f = fixture_new(300, 10, 2000);
    f.masks = random_masks(f.m, f.n, 0.1, 1);
    plant(&f, 1);
    CHECK_ERROR(solve(&f, FIT_OLS, 1, 1000), COAR_ERROR_MEMORY, "--memory: the fit of 300 masks and 10 components");
    f.stop_after = 0;
    CHECK_ERROR(solve(&f, FIT_OLS, 2, 0), COAR_STOPPED, "stopped");
    CHECK(f.next < f.N);
    fit_problem problem = {f.masks, f.m, f.N, f.n, fixture_read, &f, false};
    fit_settings settings = {FIT_OLS, false, pool_of(1), 0, NULL};
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, refuse, NULL, &f.summary), COAR_ERROR_IO, "sink is full");
    problem.m = 1;
    f.m = 1;
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, refuse, NULL, &f.summary), COAR_ERROR_INPUT, "at least 2");
    problem.m = (uint64_t)1 << 40;
    problem.n = 50000;
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, refuse, NULL, &f.summary), COAR_ERROR_UNSUPPORTED, "at most 30000");
    problem.n = 0;
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, refuse, NULL, &f.summary), COAR_ERROR_INPUT, "no components");
    thread_pool_destroy(settings.pool);
    fixture_free(&f);
}

int main(void) {
    test_columns();
    test_gram();
    test_cross();
    test_goldens();
    test_planted();
    test_independence();
    test_ridge_beats();
    test_standard_errors();
    test_edges();
    test_constant_masks();
    test_non_finite();
    test_leave_one_out();
    test_errors();
    return test_end();
}
