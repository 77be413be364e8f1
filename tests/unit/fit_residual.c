/*
 * fit_residual.c - ols and ridge by conjugate gradients, forced on problems that are small enough for both forms: beside
 * the dense form, planted weights, and the equations themselves in plain loops.
 */
#include "core/sampler.h"
#include "fit/plan.h"
#include "fit/solver.h"
#include "fits.h"
#include "test.h"

static fixture planted(size_t m, uint32_t n, size_t N, double level, fit_form form) {
    fixture f = fits_uneven_problem(m, n, N, .1, level);
    f.form = form;
    return f;
}

/* The centred masks [m][n]. */
static double *centred(const fixture *f) {
    double *x = fits_new(f->m * f->n, sizeof *x);
    for (size_t j = 0; j < f->n; j++) {
        double kept = 0;
        for (size_t i = 0; i < f->m; i++) kept += fits_bit(f->masks, f->n, i, j);
        for (size_t i = 0; i < f->m; i++) x[i * f->n + j] = fits_bit(f->masks, f->n, i, j) - kept / (double)f->m;
    }
    return x;
}

/* |Xc' (y - Xc w) - p w| / |Xc' y| of the stored weights of example z. */
static double residual_of(const fixture *f, const double *x, size_t z) {
    double *left = fits_new(f->m, sizeof *left), above = 0, below = 0;
    for (size_t i = 0; i < f->m; i++) {
        left[i] = f->y[i * f->N + z];
        for (size_t j = 0; j < f->n; j++) left[i] -= x[i * f->n + j] * f->weight[z * f->n + j];
    }
    for (size_t j = 0; j < f->n; j++) {
        double r = -f->penalty[z] * f->weight[z * f->n + j], all = 0;
        for (size_t i = 0; i < f->m; i++) {
            r += x[i * f->n + j] * left[i];
            all += x[i * f->n + j] * f->y[i * f->N + z];
        }
        above += r * r;
        below += all * all;
    }
    free(left);
    return sqrt(above / below);
}

/* ------------------------------------------------------------------------------------------ beside dense */

static double mean_ratio(const float *a, const float *b, size_t count) {
    double sum = 0;
    for (size_t x = 0; x < count; x++) sum += (double)a[x] / b[x] / (double)count;
    return sum;
}

static void compare(const fixture *dense, const fixture *f, fit_estimator e) {
    double *x = centred(f), largest = 0;
    size_t same = 0;
    for (size_t z = 0; z < f->N; z++) {
        const size_t at = z * f->n;
        const double r = residual_of(f, x, z), steps = 8 * log10(f->penalty[z] / dense->penalty[z]);
        largest = fmax(largest, r);
        if (!(r <= 1e-6)) test_fail(__FILE__, __LINE__, "example %zu: residual %g", z, r);
        if (e == FIT_RIDGE) CHECK_NEAR(steps, 0, 1.01);
        if (e == FIT_RIDGE && fabs(steps) > .01) continue;
        same++;
        const double d = fits_difference(dense->weight + at, f->weight + at, f->n);
        if (!(d <= 5e-5)) test_fail(__FILE__, __LINE__, "example %zu: weights differ by %g of the largest", z, d);
        CHECK_NEAR(f->r2[z], dense->r2[z], 1e-5);
        CHECK_NEAR(f->heldout[z], dense->heldout[z], .03);
        if (e == FIT_RIDGE || f->m > f->n + 1u) CHECK_NEAR(mean_ratio(f->error + at, dense->error + at, f->n), 1, .03);
    }
    if (!(same >= f->N / 2))
        test_fail(__FILE__, __LINE__, "%zu of %zu penalties are those of eigenvectors", same, f->N);
    CHECK(f->summary.iterative && !dense->summary.iterative && isnan(dense->summary.residual_largest));
    CHECK_NEAR(f->summary.residual_largest, largest, .02 * largest + 1e-9);
    CHECK(f->summary.residual_median <= largest && f->summary.residual_median > 0 && f->summary.steps_most > 0);
    CHECK_INT(f->summary.unsolved, 0);
    CHECK_NEAR(f->summary.heldout_mean, dense->summary.heldout_mean, .01);
    free(x);
}

static void test_agrees(void) {
    const size_t sizes[][2] = {{400, 300}, {900, 200}, {200, 330}};
    const fit_estimator estimators[] = {FIT_OLS, FIT_RIDGE};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t e = 0; e < 2; e++) {
            test_begin("%s, %zu masks of %zu components: what dense algebra finds", fit_estimator_name(estimators[e]),
                       sizes[s][0], sizes[s][1]);
            fixture dense = planted(sizes[s][0], (uint32_t)sizes[s][1], 21, 2, FIT_DIRECT);
            fixture f = planted(sizes[s][0], (uint32_t)sizes[s][1], 21, 2, FIT_ITERATIVE);
            CHECK_OK(fits_solve(&dense, estimators[e], 2, 0));
            CHECK_OK(fits_solve(&f, estimators[e], 2, 0));
            CHECK_INT(f.warnings, 0);
            compare(&dense, &f, estimators[e]);
            fixture_free(&dense);
            fixture_free(&f);
        }
}

static void test_least_norm(void) {
    test_begin("masks that each ablate as many components: the solution of least norm");
    const sampler s = {.kind = SAMPLER_FIXED, .seed = 3, .alpha = .1, .n = 90};
    fixture dense = planted(300, 90, 5, 1, FIT_DIRECT), f = planted(300, 90, 5, 1, FIT_ITERATIVE);
    void *scratch = fits_new(1, sampler_scratch(&s));
    for (size_t i = 0; i < f.m; i++) {
        sampler_mask(&s, i, f.masks + i * mask_bytes(90), scratch);
        memcpy(dense.masks + i * mask_bytes(90), f.masks + i * mask_bytes(90), mask_bytes(90));
    }
    free(scratch);
    CHECK_OK(fits_solve(&dense, FIT_OLS, 1, 0));
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
    CHECK_INT(dense.warnings, 1); /* of 89 directions */
    const double d = fits_difference(dense.weight, f.weight, f.N * f.n);
    if (!(d <= 2e-5)) test_fail(__FILE__, __LINE__, "weights differ by %g of the largest", d);
    fixture_free(&dense);
    fixture_free(&f);
}

static void test_planted(void) {
    test_begin("outputs without noise: the planted weights");
    fixture f = planted(500, 300, 7, 0, FIT_ITERATIVE);
    CHECK_OK(fits_solve(&f, FIT_OLS, 2, 0));
    for (size_t z = 0; z < f.N; z++)
        for (size_t j = 0; j < f.n; j++) CHECK_NEAR(f.weight[z * f.n + j], fits_uneven(z, j), 2e-5);
    fixture_free(&f);
}

/* ---------------------------------------------------------------------------------------- same bits */

static void test_independence(fit_estimator e) {
    test_begin("%s: threads, memory and blocks do not change a bit", fit_estimator_name(e));
    fixture f = planted(120, 90, 100, 1, FIT_ITERATIVE);
    CHECK_OK(fits_solve(&f, e, 1, 0));
    for (int threads = 2; threads <= 3; threads++) {
        fixture g = planted(120, 90, 100, 1, FIT_ITERATIVE);
        size_t memory = (size_t)1 << 18; /* as little as will do: several blocks */
        while (fits_solve(&g, e, threads, memory) == COAR_ERROR_MEMORY) memory += (size_t)1 << 16;
        CHECK_TEXT(coar_last_error(), "");
        CHECK_INT(g.next, g.N);
        if (!(g.blocks > 1)) test_fail(__FILE__, __LINE__, "%llu blocks", (unsigned long long)g.blocks);
        CHECK(!memcmp(f.weight, g.weight, f.N * f.n * sizeof *f.weight));
        CHECK(!memcmp(f.penalty, g.penalty, f.N * sizeof *f.penalty));
        CHECK_NEAR(g.summary.residual_largest, f.summary.residual_largest, 0);
        CHECK_NEAR(g.summary.residual_median, f.summary.residual_median, 0);
        CHECK_INT(g.summary.steps_most, f.summary.steps_most);
        fixture_free(&g);
    }
    fixture_free(&f);
}

/* ------------------------------------------------------------------------------------------------ edges */

static void test_rule(void) {
    const struct {
        uint64_t m;
        uint32_t n;
        fit_estimator estimator;
        bool iterative;
    } cases[] = {
        {30002, 30000, FIT_OLS, false},  {30003, 30001, FIT_OLS, true},    {12289, 12288, FIT_OLS, false},
        {12289, 12289, FIT_OLS, true},   {12288, 82944, FIT_OLS, false},   {12288, 82944, FIT_RIDGE, false},
        {20000, 82944, FIT_RIDGE, true}, {100000, 12289, FIT_RIDGE, true}, {4096, 9000, FIT_EB, false},
        {4097, 9000, FIT_EB, true},      {4097, 9000, FIT_GRAD_EB, true},  {9000, 9000, FIT_RIDGE, false},
        {90000, 90000, FIT_GRAD, false}, {90000, 90000, FIT_LASSO, false},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const fit_problem problem = {.m = cases[k].m, .n = cases[k].n};
        fit_settings settings = {.estimator = cases[k].estimator};
        test_begin("%s of %llu masks and %u components by size: %s", fit_estimator_name(cases[k].estimator),
                   (unsigned long long)cases[k].m, cases[k].n, fit_form_name(cases[k].iterative));
        CHECK_INT(fit_is_iterative(&problem, &settings), cases[k].iterative);
        settings.form = FIT_DIRECT;
        CHECK(!fit_is_iterative(&problem, &settings));
        settings.form = FIT_ITERATIVE;
        CHECK(fit_is_iterative(&problem, &settings));
    }
    test_begin("forms that cannot be had are refused in one line");
    size_t block;
    const fit_problem problem = {.m = 40000, .n = 40000, .N = 10};
    fit_settings settings = {.estimator = FIT_RIDGE, .form = FIT_DIRECT};
    CHECK_ERROR(fit_plan_block(&problem, &settings, &block), COAR_ERROR_UNSUPPORTED, "take --solver iterative");
    status_clear();
    settings = (fit_settings){.estimator = FIT_RIDGE, .memory = (size_t)1 << 24};
    CHECK_ERROR(fit_plan_block(&problem, &settings, &block), COAR_ERROR_MEMORY, "--memory: the fit of 40000 masks");
    fixture f = planted(60, 40, 3, 1, FIT_ITERATIVE);
    CHECK_ERROR(fits_solve(&f, FIT_LASSO, 1, 0), COAR_ERROR_USAGE, "--solver iterative");
    fixture_free(&f);
}

static void test_edges(fit_estimator e) {
    const size_t sizes[][2] = {{3, 2}, {3, 7}, {5, 4}, {21, 20}, {20, 20}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        test_begin("%s, %zu masks and %zu components: finite", fit_estimator_name(e), sizes[s][0], sizes[s][1]);
        fixture f = planted(sizes[s][0], (uint32_t)sizes[s][1], 2, 1, FIT_ITERATIVE);
        CHECK_OK(fits_solve(&f, e, 2, 0));
        for (size_t x = 0; x < f.n * f.N; x++) CHECK(isfinite(f.weight[x]));
        for (size_t z = 0; z < f.N; z++) CHECK(isfinite(f.bias[z]) && isfinite(f.penalty[z]));
        fixture_free(&f);
    }
    test_begin("%s: constant outputs, an example left out, and outputs times 2^100", fit_estimator_name(e));
    fixture f = planted(50, 20, 3, 1, FIT_ITERATIVE), g = planted(50, 20, 3, 1, FIT_ITERATIVE);
    for (size_t i = 0; i < f.m; i++) f.y[i * f.N + 1] = .1f, f.y[i * f.N + 2] = NAN;
    for (size_t x = 0; x < g.m * g.N; x++) g.y[x] = ldexpf(g.y[x], 100);
    CHECK_OK(fits_solve(&f, e, 1, 0));
    CHECK_OK(fits_solve(&g, e, 1, 0));
    for (size_t j = 0; j < f.n; j++) {
        CHECK_NEAR(f.weight[f.n + j], 0, 0);
        CHECK(isnan(f.weight[2 * f.n + j]));
        CHECK_NEAR(ldexpf(g.weight[j], -100), f.weight[j], 0);
    }
    CHECK_NEAR(f.bias[1], .1f, 0);
    CHECK(isnan(f.r2[1]) && isnan(f.heldout[1]) && isfinite(f.heldout[0]));
    CHECK_INT(f.summary.unsolved, 0);
    fixture_free(&f);
    fixture_free(&g);
}

static void test_unsolved(void) {
    test_begin("weights that floats cannot hold well enough are said to be unsolved");
    fixture f = planted(100, 50, 6, 1, FIT_ITERATIVE);
    for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = ldexpf(f.y[x], -142);
    CHECK_OK(fits_solve(&f, FIT_OLS, 1, 0));
    double *x = centred(&f), largest = 0;
    for (size_t z = 0; z < f.N; z++) largest = fmax(largest, residual_of(&f, x, z));
    CHECK_NEAR(f.summary.residual_largest, largest, .02 * largest);
    if (!(f.summary.unsolved > 0 && f.warnings > 0))
        test_fail(__FILE__, __LINE__, "%llu unsolved, %d warnings, residual %g", (unsigned long long)f.summary.unsolved,
                  f.warnings, f.summary.residual_largest);
    free(x);
    fixture_free(&f);
    test_begin("a stop");
    f = planted(60, 40, 300, 1, FIT_ITERATIVE);
    f.stop_after = 40;
    CHECK_ERROR(fits_solve(&f, FIT_RIDGE, 1, 0), COAR_STOPPED, "stopped");
    CHECK_INT(f.next, 0);
    fixture_free(&f);
}

int main(void) {
    test_agrees();
    test_least_norm();
    test_planted();
    test_independence(FIT_OLS);
    test_independence(FIT_RIDGE);
    test_rule();
    test_edges(FIT_OLS);
    test_edges(FIT_RIDGE);
    test_unsolved();
    return test_end();
}
