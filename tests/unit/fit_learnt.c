/*
 * fit_learnt.c - estimators that learn from all examples at once, and the lasso: against numpy and scikit-learn
 * (tools/golden_fit.py), on planted models, and at the edges.
 */
#include "core/sampler.h"
#include "fits.h"
#include "test.h"

#include "core/npy.h"
#include "fit/lasso.h"

/* --------------------------------------------------------------------------------------------- goldens */

static const struct {
    const char *name;
    uint32_t group_first[3];
} goldens[] = {{"tall", {0, 5, 13}}, {"wide", {0, 12, 37}}, {"same", {0, 4, 9}}};

static void check_predicted(const fixture *f, const char *name) {
    char path[64];
    npy_array expected;
    snprintf(path, sizeof path, "golden/fit/%s_eb_predicted.npy", name);
    CHECK_OK(npy_open(test_path(path), &expected));
    CHECK_NEAR(f->summary.predicted, npy_get_double(&expected, 0), 1e-6);
    CHECK_NEAR(f->summary.predicted_low, npy_get_double(&expected, 1), 1e-6);
    CHECK_NEAR(f->summary.predicted_high, npy_get_double(&expected, 2), 1e-6);
    npy_close(&expected);
}

static void test_goldens(void) {
    const fit_estimator estimators[] = {FIT_EB, FIT_LASSO};
    for (size_t c = 0; c < sizeof goldens / sizeof *goldens; c++)
        for (size_t k = 0; k < (strcmp(goldens[c].name, "same") ? 2 : 1);
             k++) { /* twins share in any way in the lasso */
            test_begin("%s agrees with %s: %s", fit_estimator_name(estimators[k]), k ? "scikit-learn" : "numpy",
                       goldens[c].name);
            fixture f = fits_golden(goldens[c].name);
            f.group_first = goldens[c].group_first;
            f.groups = 2;
            CHECK_OK(fits_solve(&f, estimators[k], 2, 0));
            CHECK_INT(f.warnings, 0);
            fits_check_golden(&f, goldens[c].name, fit_estimator_name(estimators[k]));
            if (k == 0) check_predicted(&f, goldens[c].name);
            fixture_free(&f);
        }
}

/* --------------------------------------------------------------------------------------------- planted */

/* All weights of example z, which take longer to draw than to use. */
static double *weights_of(size_t z, uint32_t n) {
    double *weight = fits_new(n, sizeof *weight);
    for (size_t j = 0; j < n; j++) weight[j] = fits_uneven(z, j);
    return weight;
}

static fixture planted(size_t m, uint32_t n, size_t N, double level) {
    return fits_uneven_problem(m, n, N, .2, level);
}

static double mean_square_error(const fixture *f) {
    double sum = 0;
    for (size_t z = 0; z < f->N; z++)
        for (size_t j = 0; j < f->n; j++) sum += pow(f->weight[z * f->n + j] - fits_uneven(z, j), 2);
    return sum / (double)(f->N * f->n);
}

static void test_beats_ridge(void) {
    const size_t sizes[][2] = {{160, 100}, {70, 120}};
    for (size_t s = 0; s < 2; s++) {
        test_begin("%zu masks of %zu components that matter differently: eb comes nearer than ridge by a third",
                   sizes[s][0], sizes[s][1]);
        fixture f = planted(sizes[s][0], (uint32_t)sizes[s][1], 40, 1);
        CHECK_OK(fits_solve(&f, FIT_RIDGE, 2, 0));
        const double ridge = mean_square_error(&f);
        CHECK_OK(fits_solve(&f, FIT_EB, 2, 0));
        const double eb = mean_square_error(&f);
        if (!(eb < ridge * 2 / 3)) test_fail(__FILE__, __LINE__, "eb %.4g, ridge %.4g", eb, ridge);
        fixture_free(&f);
    }
}

/* How many of the 90 % intervals hold the planted weight. */
static double coverage(const fixture *f) {
    size_t inside = 0;
    for (size_t z = 0; z < f->N; z++)
        for (size_t j = 0; j < f->n; j++) {
            const size_t at = z * f->n + j;
            CHECK(f->error[at] > 0);
            inside += fabs(f->weight[at] - fits_uneven(z, j)) <= 1.645 * f->error[at];
        }
    return (double)inside / (double)(f->N * f->n);
}

static void test_coverage(void) {
    const struct {
        fit_estimator estimator;
        size_t m;
    } cases[] = {{FIT_OLS, 400}, {FIT_RIDGE, 2000}, {FIT_EB, 400}, {FIT_EB, 1000}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        test_begin("%s, %zu masks: 85 to 95 %% of the 90 %% intervals hold the planted weight",
                   fit_estimator_name(cases[c].estimator), cases[c].m);
        fixture f = planted(cases[c].m, 80, 40, 1);
        CHECK_OK(fits_solve(&f, cases[c].estimator, 2, 0));
        CHECK_NEAR(coverage(&f), .9, .05);
        fixture_free(&f);
    }
}

/* Correlation of predictions and a planted model's outputs without noise over fresh masks, mean over examples. */
static double fresh_correlation(const fixture *f, double level) {
    enum { FRESH = 1000 };
    uint8_t *masks = fits_masks(FRESH, f->n, .2, 12);
    double sum = 0;
    for (size_t z = 0; z < f->N; z++) {
        double a = 0, b = 0, aa = 0, bb = 0, ab = 0, *weight = weights_of(z, f->n);
        for (size_t i = 0; i < FRESH; i++) {
            double y = level * fits_normal(5000 + z, i), predicted = 0;
            for (size_t j = 0; j < f->n; j++) {
                y += fits_bit(masks, f->n, i, j) * weight[j];
                predicted += fits_bit(masks, f->n, i, j) * (double)f->weight[z * f->n + j];
            }
            a += y, b += predicted, aa += y * y, bb += predicted * predicted, ab += y * predicted;
        }
        free(weight);
        sum += (ab - a * b / FRESH) / sqrt((aa - a * a / FRESH) * (bb - b * b / FRESH));
    }
    free(masks);
    return sum / (double)f->N;
}

static void test_outlook(void) {
    const fit_estimator estimators[] = {FIT_OLS, FIT_RIDGE, FIT_EB, FIT_LASSO};
    for (size_t k = 0; k < 4; k++) {
        test_begin("%s: the predicted correlation is that with fresh masks, and so are the examples'",
                   fit_estimator_name(estimators[k]));
        fixture f = planted(240, 80, 40, 2);
        CHECK_OK(fits_solve(&f, estimators[k], 2, 0));
        const double fresh = fresh_correlation(&f, 2);
        const fit_summary *s = &f.summary;
        CHECK_NEAR(s->predicted, fresh, .04);
        CHECK(s->predicted_low < fresh && fresh < s->predicted_high);
        CHECK(s->predicted_low < s->predicted && s->predicted < s->predicted_high);
        CHECK(s->predicted_high - s->predicted_low < .2);
        CHECK_NEAR(s->heldout_mean, s->predicted, 1e-6);
        fixture_free(&f);
    }
}

/* ------------------------------------------------------------------------------------ nothing but time */

static void test_independence(void) {
    const size_t sizes[][2] = {{300, 65}, {90, 120}};
    const fit_estimator estimators[] = {FIT_EB, FIT_LASSO};
    for (size_t s = 0; s < 2; s++)
        for (size_t k = 0; k < 2; k++) {
            test_begin("%s, %zu masks of %zu components: threads, memory and blocks change nothing beyond 1e-6",
                       fit_estimator_name(estimators[k]), sizes[s][0], sizes[s][1]);
            const uint32_t n = (uint32_t)sizes[s][1];
            const size_t m = sizes[s][0], N = k ? 20 : 150; /* eb: more than a chunk (128) of what it learns from */
            fixture f = planted(m, n, N, 1), g = planted(m, n, N, 1);
            CHECK_OK(fits_solve(&f, estimators[k], 1, 0));
            CHECK_INT(f.blocks, 1);
            size_t memory = (size_t)1 << 16; /* as little as will do */
            while (fits_solve(&g, estimators[k], 3, memory) == COAR_ERROR_MEMORY) memory += (size_t)1 << 16;
            CHECK_TEXT(coar_last_error(), "");
            CHECK_INT(g.next, g.N);
            CHECK(g.blocks > 1);
            CHECK(fits_difference(f.weight, g.weight, f.N * f.n) < 1e-6);
            CHECK(k || fits_difference(f.error, g.error, f.N * f.n) < 1e-6);
            CHECK_NEAR(g.summary.predicted, f.summary.predicted, 1e-9);
            for (size_t z = 0; z < f.N; z++) CHECK_NEAR(g.heldout[z], f.heldout[z], 1e-9);
            fixture_free(&f);
            fixture_free(&g);
        }
}

/* ----------------------------------------------------------------------------------------------- edges */

static void test_one_example(void) {
    test_begin("eb learns from one example");
    fixture f = planted(120, 60, 1, 1);
    CHECK_OK(fits_solve(&f, FIT_RIDGE, 1, 0));
    const double ridge = mean_square_error(&f);
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    CHECK(mean_square_error(&f) < ridge);
    CHECK(f.summary.predicted > 0 && f.summary.predicted_low < f.summary.predicted);
    fixture_free(&f);
}

static void test_constant(void) {
    const fit_estimator estimators[] = {FIT_EB, FIT_LASSO};
    for (size_t k = 0; k < 2; k++) {
        test_begin("%s with constant outputs, one and all", fit_estimator_name(estimators[k]));
        fixture f = planted(50, 20, 3, 1);
        for (size_t i = 0; i < f.m; i++) f.y[i * f.N + 1] = .1f;
        CHECK_OK(fits_solve(&f, estimators[k], 1, 0));
        for (size_t j = 0; j < f.n; j++) CHECK_NEAR(f.weight[f.n + j], 0, 0);
        CHECK_NEAR(f.bias[1], .1f, 0);
        CHECK(isnan(f.r2[1]) && isnan(f.heldout[1]));
        CHECK(isfinite(f.heldout[0]) && isfinite(f.weight[0]));
        for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = .1f;
        CHECK_OK(fits_solve(&f, estimators[k], 1, 0));
        for (size_t x = 0; x < f.n * f.N; x++) CHECK_NEAR(f.weight[x], 0, 0);
        CHECK(isnan(f.summary.predicted) && isnan(f.summary.heldout_mean));
        fixture_free(&f);
    }
}

static void test_small(void) {
    const size_t sizes[][2] = {{2, 1}, {2, 7}, {3, 2}, {5, 4}, {6, 5}, {11, 1}, {21, 20}};
    const fit_estimator estimators[] = {FIT_EB, FIT_LASSO};
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            test_begin("%s of %zu masks and %zu components is finite", fit_estimator_name(estimators[k]), sizes[s][0],
                       sizes[s][1]);
            fixture f = planted(sizes[s][0], (uint32_t)sizes[s][1], 2, 1);
            CHECK_OK(fits_solve(&f, estimators[k], 2, 0));
            for (size_t x = 0; x < f.n * f.N; x++) CHECK(isfinite(f.weight[x]));
            for (size_t z = 0; z < f.N; z++) CHECK(isfinite(f.bias[z]) && isfinite(f.penalty[z]));
            fixture_free(&f);
        }
}

static void test_constant_masks(void) {
    const fit_estimator estimators[] = {FIT_EB, FIT_LASSO};
    for (size_t k = 0; k < 2; k++) {
        test_begin("%s when every mask keeps everything: weights 0, bias the mean", fit_estimator_name(estimators[k]));
        fixture f = fixture_new(12, 5, 2);
        f.masks = fits_new(f.m, 1);
        memset(f.masks, 31, f.m);
        for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = (float)x;
        CHECK_OK(fits_solve(&f, estimators[k], 1, 0));
        for (size_t x = 0; x < f.N * f.n; x++) CHECK_NEAR(f.weight[x], 0, 0);
        CHECK_NEAR(f.bias[0], 11, 0);
        CHECK(isnan(f.heldout[0]));
        fixture_free(&f);
    }
}

static void test_non_finite(void) {
    test_begin("eb leaves out broken examples and masks, and learns from the rest");
    const size_t m = 250;
    fixture f = planted(m, 20, 4, 1), g = fixture_new(m - 1, 20, 3);
    g.masks = fits_new(m - 1, mask_bytes(20));
    for (size_t i = 0, k = 0; i < m; i++) {
        if (i == 17) continue;
        memcpy(g.masks + k * mask_bytes(20), f.masks + i * mask_bytes(20), mask_bytes(20));
        for (size_t z = 0; z < 3; z++) g.y[k * 3 + z] = f.y[i * 4 + z + (z == 2)];
        k++;
    }
    f.y[17 * f.N + 1] = NAN;                                       /* its mask goes */
    for (size_t i = 50; i < 53; i++) f.y[i * f.N + 2] = -INFINITY; /* 1.2 %: the example goes */
    CHECK_OK(fits_solve(&f, FIT_EB, 2, 0));
    CHECK_OK(fits_solve(&g, FIT_EB, 2, 0));
    CHECK_INT(f.summary.examples_left_out, 1);
    CHECK_INT(f.summary.masks_left_out, 1);
    CHECK_NEAR(f.summary.predicted, g.summary.predicted, 1e-9);
    for (size_t z = 0; z < 4; z++)
        for (size_t j = 0; j < f.n; j++)
            fits_same(f.weight[z * f.n + j], z == 2 ? NAN : g.weight[(z - (z == 3)) * f.n + j], 1e-6);
    fixture_free(&f);
    fixture_free(&g);
}

static void test_nothing(void) {
    test_begin("outputs of noise alone: no held-out correlation where fresh masks will have none");
    size_t worthless = 0;
    for (size_t seed = 0; seed < 8; seed++) {
        fixture f = fixture_new(40, 30, 6);
        f.masks = fits_masks(f.m, f.n, .2, 40 + seed);
        for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = (float)fits_normal(700 + seed, x);
        CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
        worthless += f.summary.predicted <= 0;
        if (!(f.summary.heldout_mean <= fmax(f.summary.predicted, 0) + 1e-6))
            test_fail(__FILE__, __LINE__, "held-out mean %.3f, predicted %.3f", f.summary.heldout_mean,
                      f.summary.predicted);
        fixture_free(&f);
    }
    CHECK(worthless >= 2);

    test_begin("masks too few to learn a prior without a fifth of them: held-out correlations are not known");
    fixture f = planted(2, 5, 3, 1);
    f.masks[0] ^= 1;
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    CHECK(isnan(f.summary.predicted) && isnan(f.summary.heldout_mean));
    fixture_free(&f);
}

static void test_lasso_sweeps(void) {
    const double easy[4] = {1, .5, .5, 1}, hard[4] = {1, 1 - 1e-9, 1 - 1e-9, 1};
    const double cross[2] = {.5, -.5}, hard_cross[2] = {5e-6, -5e-6}; /* weights 1 and -1, 5,000 and -5,000 */
    double weight[2] = {0}, residual[2], best[2], own[2], rss;
    uint32_t list[2];
    size_t active;
    lasso_workspace w = {.cross = own, .residual = residual, .best = best, .weight = weight, .active = list};
    lasso_problem p = {.gram = easy, .cross = cross, .squares = 2, .n = 2, .m = 10};
    test_begin("the lasso says when its sweeps were not enough");
    memcpy(residual, cross, sizeof cross);
    CHECK(lasso_descend(&p, 1e-9, weight, &w, &rss, &active));
    CHECK_NEAR(weight[0], 1, 1e-6);
    CHECK_NEAR(weight[1], -1, 1e-6);
    p.gram = hard;
    p.cross = hard_cross;
    memset(weight, 0, sizeof weight);
    memcpy(residual, hard_cross, sizeof hard_cross);
    CHECK(!lasso_descend(&p, 1e-12, weight, &w, &rss, &active));
}

static void test_errors(void) {
    test_begin("what cannot be estimated is said in one line");
    fixture f = planted(40, 10, 3, 1);
    CHECK_ERROR(fits_solve(&f, FIT_GRAD, 1, 0), COAR_ERROR_INPUT, "there are no gradients");
    CHECK_ERROR(fits_solve(&f, FIT_EB, 1, 1000), COAR_ERROR_MEMORY, "--memory: the fit of 40 masks and 10 components");
    f.stop_after = 3;
    CHECK_ERROR(fits_solve(&f, FIT_EB, 1, 0), COAR_STOPPED, "stopped");
    fit_problem problem = {.masks = f.masks, .m = f.m, .N = f.N, .n = f.n, .read = fits_read, .context = &f};
    fit_settings settings = {.estimator = FIT_LASSO, .standard_errors = true, .pool = fits_pool(1)};
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, NULL, NULL, &f.summary), COAR_ERROR_USAGE, "--standard-errors");
    settings.standard_errors = false;
    problem.n = 50000;
    status_clear();
    CHECK_ERROR(fit_solve(&problem, &settings, NULL, NULL, &f.summary), COAR_ERROR_UNSUPPORTED, "at most 30000");
    CHECK(strstr(coar_last_error(), "take another estimator than lasso, or fit fewer components"));
    thread_pool_destroy(settings.pool);
    fixture_free(&f);
}

int main(void) {
    test_goldens();
    test_beats_ridge();
    if (!getenv("TEST_REDUCED")) { /* statistics alone: a sanitizer learns nothing from them */
        test_coverage();
        test_outlook();
    }
    test_independence();
    test_one_example();
    test_constant();
    test_small();
    test_constant_masks();
    test_non_finite();
    test_nothing();
    test_lasso_sweeps();
    test_errors();
    return test_end();
}
