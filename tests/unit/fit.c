/* fit.c - Gram matrix and cross products against counting by hand, estimators against numpy (tools/golden_fit.py). */
#include "core/memory.h"
#include "core/sampler.h"
#include "fit/gram.h"
#include "fits.h"
#include "test.h"

/* -------------------------------------------------------------------------------------- integer half */

static void test_columns(void) {
    test_begin("bit columns are the masks turned, with zero padding");
    const size_t sizes[][2] = {{1, 1}, {7, 9}, {8, 8}, {63, 65}, {64, 64}, {65, 63}, {130, 201}};
    thread_pool *pool = fits_pool(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0];
        uint32_t n = (uint32_t)sizes[s][1];
        uint8_t *masks = fits_masks(m, n, 0.4, s);
        bit_columns turned, same;
        CHECK_OK(bit_columns_transpose(masks, m, n, pool, &turned));
        CHECK_OK(bit_columns_copy(masks, m, n, &same));
        size_t wrong = 0;
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < turned.stride * 64; i++) {
                bool expected = i < m && fits_bit(masks, n, i, j);
                wrong += (turned.words[j * turned.stride + i / 64] >> (i % 64) & 1) != expected;
            }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < same.stride * 64; j++) {
                bool expected = j < n && fits_bit(masks, n, i, j);
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
    thread_pool *one = fits_pool(1), *three = fits_pool(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0], n = sizes[s][1], wrong = 0;
        uint8_t *masks = fits_masks(m, (uint32_t)n, 0.3, s);
        bit_columns columns;
        CHECK_OK(bit_columns_transpose(masks, m, (uint32_t)n, one, &columns));
        int64_t *a = fits_new(n * n + 1, sizeof *a), *b = fits_new(n * n + 1, sizeof *b);
        a[n * n] = SENTINEL;
        CHECK_OK(gram_count(&columns, one, a));
        CHECK_OK(gram_count(&columns, three, b));
        CHECK(a[n * n] == SENTINEL);
        CHECK(!memcmp(a, b, n * n * sizeof *a));
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++) {
                int64_t count = 0;
                for (size_t i = 0; i < m; i++)
                    count += fits_bit(masks, (uint32_t)n, i, j) && fits_bit(masks, (uint32_t)n, i, k);
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
    thread_pool *one = fits_pool(1), *three = fits_pool(3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s][0], n = sizes[s][1], N = sizes[s][2], wrong = 0;
        uint8_t *masks = fits_masks(m, (uint32_t)n, 0.2, s);
        bit_columns columns;
        CHECK_OK(bit_columns_transpose(masks, m, (uint32_t)n, one, &columns));
        float *y = fits_new(m * N, sizeof *y);
        for (size_t x = 0; x < m * N; x++) y[x] = magnitudes[x % N % 4] * fits_noise(s, x);
        int64_t *a = fits_new(n * N + 1, sizeof *a), *b = fits_new(n * N, sizeof *b),
                *total = fits_new(N, sizeof *total);
        int *shift = fits_new(N, sizeof *shift);
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
                    if (fits_bit(masks, (uint32_t)n, i, j)) sum += llrint(ldexp(y[i * N + z], shift[z]));
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

static void test_goldens(void) {
    const char *names[] = {"tall", "wide", "same"};
    for (size_t c = 0; c < 3; c++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s agrees with numpy: %s", fit_estimator_name(e), names[c]);
            fixture f = fits_golden(names[c]);
            CHECK_OK(fits_solve(&f, e, 2, 0));
            CHECK_INT(f.warnings, e == FIT_OLS && c > 0);
            fits_check_golden(&f, names[c], fit_estimator_name(e));
            fixture_free(&f);
        }
    }
}

/* ------------------------------------------------------------------------------------------- solvers */

static void test_planted(void) {
    test_begin("a planted model without noise is found again");
    fixture f = fixture_new(211, 41, 70);
    f.masks = fits_masks(f.m, f.n, 0.1, 3);
    fits_plant(&f, 0);
    CHECK_OK(fits_solve(&f, FIT_OLS, 2, 0));
    CHECK_INT(f.next, f.N);
    CHECK_INT(f.warnings, 0);
    for (size_t z = 0; z < f.N; z++) {
        CHECK_NEAR(f.bias[z], 3.0 + (double)z, 3e-5); /* outputs are floats of about 80 */
        CHECK_NEAR(f.r2[z], 1, 1e-9);
        CHECK_NEAR(f.heldout[z], 1, 1e-9);
        for (size_t j = 0; j < f.n; j++) CHECK_NEAR(f.weight[z * f.n + j], fits_planted(z, j), 1e-5);
    }
    CHECK_NEAR(f.summary.r2_mean, 1, 1e-9);
    fixture_free(&f);
}

static void test_independence(void) {
    const size_t sizes[][2] = {{300, 129}, {90, 150}};
    for (size_t s = 0; s < 2; s++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s, %zu masks of %zu components: threads and memory change nothing beyond 1e-6",
                       fit_estimator_name(e), sizes[s][0], sizes[s][1]);
            fixture f = fixture_new(sizes[s][0], (uint32_t)sizes[s][1], 133), g = f;
            f.masks = fits_masks(f.m, f.n, 0.15, 9);
            fits_plant(&f, 1);
            CHECK_OK(fits_solve(&f, e, 1, 0));
            g = fixture_new(f.m, f.n, f.N);
            memcpy(g.y, f.y, f.m * f.N * sizeof *f.y);
            g.masks = fits_masks(f.m, f.n, 0.15, 9);
            CHECK_OK(fits_solve(&g, e, 3, (size_t)2 << 20)); /* 2 MiB: several blocks */
            CHECK_INT(g.next, g.N);
            CHECK(fits_difference(f.weight, g.weight, f.N * f.n) < 1e-6);
            CHECK(fits_difference(f.error, g.error, f.N * f.n) < 1e-6 || isnan(f.error[0]));
            for (size_t z = 0; z < f.N; z++) CHECK(f.penalty[z] == 0 || fabs(g.penalty[z] / f.penalty[z] - 1) < 1e-9);
            fixture_free(&f);
            fixture_free(&g);
        }
    }
}

static void test_ridge_beats(void) {
    test_begin("ridge is nearer to a planted model than least squares where masks are few and noise is large");
    fixture f = fixture_new(160, 120, 20), g = fixture_new(160, 120, 20);
    f.masks = fits_masks(f.m, f.n, 0.1, 5);
    g.masks = fits_masks(f.m, f.n, 0.1, 5);
    fits_plant(&f, 4);
    fits_plant(&g, 4);
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
    CHECK_OK(fits_solve(&g, FIT_RIDGE, 1, 0));
    double ols = 0, ridge = 0;
    for (size_t z = 0; z < f.N; z++)
        for (size_t j = 0; j < f.n; j++) {
            ols += pow(f.weight[z * f.n + j] - fits_planted(z, j), 2);
            ridge += pow(g.weight[z * f.n + j] - fits_planted(z, j), 2);
        }
    CHECK(ridge < 0.5 * ols);
    CHECK(g.summary.heldout_mean > f.summary.heldout_mean);
    fixture_free(&f);
    fixture_free(&g);
}

static void test_standard_errors(void) {
    test_begin("standard errors cover the planted weights as often as they should");
    fixture f = fixture_new(400, 30, 40);
    f.masks = fits_masks(f.m, f.n, 0.2, 6);
    fits_plant(&f, 2);
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
    size_t covered = 0;
    for (size_t z = 0; z < f.N; z++)
        for (size_t j = 0; j < f.n; j++)
            covered += fabs(f.weight[z * f.n + j] - fits_planted(z, j)) < 1.96 * f.error[z * f.n + j];
    CHECK_NEAR((double)covered / (double)(f.N * f.n), 0.95, 0.03);
    fixture_free(&f);
}

static void test_edges(void) {
    const size_t sizes[][2] = {{2, 1}, {3, 1}, {40, 1}, {25, 25}, {26, 25}, {27, 25}, {2, 30}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
            test_begin("%s of %zu masks and %zu components", fit_estimator_name(e), sizes[s][0], sizes[s][1]);
            fixture f = fixture_new(sizes[s][0], (uint32_t)sizes[s][1], 3);
            f.masks = fits_masks(f.m, f.n, 0.5, 40);
            fits_plant(&f, 0);
            for (size_t i = 0; i < f.m; i++) f.y[i * f.N + 1] = 0.1f; /* constant */
            CHECK_OK(fits_solve(&f, e, 1, 0));
            for (size_t z = 0; z < f.N; z++) {
                CHECK(isfinite(f.bias[z]));
                for (size_t j = 0; j < f.n; j++) CHECK(isfinite(f.weight[z * f.n + j]));
                for (size_t i = 0; i < f.m && e == FIT_OLS; i++) { /* no noise: every output is met */
                    double y = f.bias[z];
                    for (size_t j = 0; j < f.n; j++) y += fits_bit(f.masks, f.n, i, j) * (double)f.weight[z * f.n + j];
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
        f.masks = fits_new(f.m, 1);
        memset(f.masks, 31, f.m);
        for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = (float)x;
        CHECK_OK(fits_solve(&f, e, 1, 0));
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
    f.masks = fits_masks(m, 20, 0.2, 8);
    fits_plant(&f, 1);
    g.masks = fits_new(m - 2, mask_bytes(20));
    for (size_t i = 0, k = 0; i < m; i++) {
        if (i == 17 || i == 200) continue;
        memcpy(g.masks + k * mask_bytes(20), f.masks + i * mask_bytes(20), mask_bytes(20));
        memcpy(g.y + k++ * f.N, f.y + i * f.N, f.N * sizeof *f.y);
    }
    f.y[17 * f.N + 1] = NAN; /* 2 of 250 = 0.8 %: example 1 stays, its masks go */
    f.y[200 * f.N + 1] = INFINITY;
    for (size_t i = 50; i < 53; i++) f.y[i * f.N + 2] = -INFINITY; /* 1.2 %: example 2 goes, its masks stay */
    CHECK_OK(fits_solve(&f, FIT_RIDGE, 2, 0));
    CHECK_OK(fits_solve(&g, FIT_RIDGE, 2, 0));
    CHECK_INT(f.summary.examples_left_out, 1);
    CHECK_INT(f.summary.masks_left_out, 2);
    CHECK_INT(f.warnings, 2);
    for (size_t z = 0; z < f.N; z++) {
        bool out = z == 2;
        CHECK(out == (bool)isnan(f.bias[z]) && out == (bool)isnan(f.r2[z]) && out == (bool)isnan(f.heldout[z]));
        for (size_t j = 0; j < f.n; j++) {
            fits_same(f.weight[z * f.n + j], out ? NAN : g.weight[z * f.n + j], 1e-6);
            fits_same(f.error[z * f.n + j], out ? NAN : g.error[z * f.n + j], 1e-6);
        }
    }
    for (size_t x = 0; x < m * f.N; x++) f.y[x] = NAN;
    for (fit_estimator e = FIT_OLS; e <= FIT_RIDGE; e++) {
        CHECK_OK(fits_solve(&f, e, 1, 0));
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
    f.masks = fits_new(f.m, mask_bytes(f.n));
    g.masks = fits_new(f.m, mask_bytes(f.n));
    for (size_t i = 0; i < f.m; i++) sampler_mask(&s, i, f.masks + i * mask_bytes(f.n), NULL);
    memcpy(g.masks, f.masks, f.m * mask_bytes(f.n));
    for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = g.y[x] = fits_noise(1, x);
    f.leave_one_out = true;
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
    CHECK_OK(fits_solve(&g, FIT_OLS, 1, 0));
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
    CHECK_OK(fits_solve(&f, FIT_RIDGE, 1, 0)); /* asked for: solved as any other masks */
    f.y[5] = NAN;
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
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
    f.masks = fits_masks(f.m, f.n, 0.1, 1);
    fits_plant(&f, 1);
    CHECK_ERROR(fits_solve(&f, FIT_OLS, 1, 1000), COAR_ERROR_MEMORY,
                "--memory: the fit of 300 masks and 10 components");
    f.stop_after = 0;
    CHECK_ERROR(fits_solve(&f, FIT_OLS, 2, 0), COAR_STOPPED, "stopped");
    CHECK(f.next < f.N);
    fit_problem problem = {f.masks, f.m, f.N, f.n, fits_read, &f, false};
    fit_settings settings = {.estimator = FIT_OLS, .form = FIT_DIRECT, .pool = fits_pool(1)};
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
