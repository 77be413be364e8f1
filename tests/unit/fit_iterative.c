/*
 * fit_iterative.c - empirical Bayes without eigenvectors, forced on problems that are small enough for both forms: its
 * parts against dense algebra, its results against the dense form's.
 */
#include "core/sampler.h"
#include "fit/conjugate.h"
#include "fit/spectrum.h"
#include "fits.h"
#include "test.h"

static fixture planted(size_t m, uint32_t n, size_t N, double level) {
    fixture f = fits_uneven_problem(m, n, N, .1, level);
    f.form = FIT_ITERATIVE;
    return f;
}

/* Mean over examples of the correlation of fitted and planted weights' predictions on fresh masks: with masks drawn
 * component by component, of the weights themselves about 0. */
static double fresh_correlation(const fixture *f) {
    double sum = 0;
    for (size_t z = 0; z < f->N; z++) {
        double aa = 0, bb = 0, ab = 0;
        for (size_t j = 0; j < f->n; j++) {
            const double a = fits_uneven(z, j), b = f->weight[z * f->n + j];
            aa += a * a, bb += b * b, ab += a * b;
        }
        sum += ab / sqrt(aa * bb);
    }
    return sum / (double)f->N;
}

/* ------------------------------------------------------------------------------------------------ parts */

static fit_system system_of(const fixture *f, thread_pool *pool) {
    const fit_problem problem = {.masks = f->masks, .m = f->m, .N = f->N, .n = f->n};
    const fit_settings settings = {.pool = pool};
    fit_system system;
    CHECK_OK(fit_system_create(&problem, f->masks, f->m, &settings, f->N, &system));
    return system;
}

static void test_operator(void) {
    const size_t sizes[][2] = {{3, 5}, {64, 64}, {130, 33}, {2100, 70}, {71, 2300}};
    thread_pool *pool = fits_pool(1);
    operator_scratch *scratch;
    CHECK_OK(operator_scratch_create(&scratch));
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t m = sizes[s][0], n = sizes[s][1], L = OPERATOR_LANES;
        test_begin("%zu masks of %zu components: products of the centred masks, both ways", m, n);
        fixture f = fixture_new(m, (uint32_t)n, 1);
        f.masks = fits_masks(m, (uint32_t)n, .3, 7);
        fit_system system = system_of(&f, pool);
        double *w = fits_new(n * L, sizeof *w), *u = fits_new(m * L, sizeof *u), sum[OPERATOR_LANES] = {0};
        double *forward = fits_new(m * L, sizeof *u), *back = fits_new(n * L, sizeof *w);
        for (size_t x = 0; x < n * L; x++) w[x] = 3 + fits_noise(1, x);
        for (size_t x = 0; x < m * L; x++) u[x] = fits_noise(2, x), sum[x % L] += u[x] / (double)m;
        for (size_t x = 0; x < m * L; x++) u[x] -= sum[x % L];
        operator_product(&system.by_mask, system.mean, w, scratch, forward);
        operator_product(&system.by_component, NULL, u, scratch, back);
        for (size_t i = 0; i < m; i++)
            for (size_t z = 0; z < L; z++) {
                double expected = 0;
                for (size_t j = 0; j < n; j++)
                    expected += (fits_bit(f.masks, f.n, i, j) - system.mean[j]) * w[j * L + z];
                CHECK_NEAR(forward[i * L + z], expected, 1e-5 * sqrt((double)n));
            }
        for (size_t j = 0; j < n; j++)
            for (size_t z = 0; z < L; z++) {
                double expected = 0;
                for (size_t i = 0; i < m; i++)
                    expected += (fits_bit(f.masks, f.n, i, j) - system.mean[j]) * u[i * L + z];
                CHECK_NEAR(back[j * L + z], expected, 1e-5 * sqrt((double)m));
            }
        void *all[] = {w, u, forward, back};
        for (size_t k = 0; k < 4; k++) free(all[k]);
        fit_system_free(&system);
        fixture_free(&f);
    }
    free(scratch);
    thread_pool_destroy(pool);
}

/* A prior that spans four decades. */
static double *uneven(size_t n) {
    double *prior = fits_new(n, sizeof *prior);
    for (size_t j = 0; j < n; j++) prior[j] = pow(10, 2 * fits_noise(3, j));
    return prior;
}

static void test_limit(void) {
    const size_t sizes[][2] = {{500, 300}, {300, 500}};
    thread_pool *pool = fits_pool(1);
    for (size_t s = 0; s < 2; s++) {
        const size_t m = sizes[s][0], n = sizes[s][1];
        test_begin("%zu masks of %zu components: degrees of freedom, determinant and variances of the limit", m, n);
        fixture f = fixture_new(m, (uint32_t)n, 1);
        f.masks = fits_masks(m, (uint32_t)n, .1, 5);
        fit_system system = system_of(&f, pool);
        double *prior = uneven(n), *squares = fits_new(n * m, sizeof *squares);
        conjugate c;
        spectrum exact;
        CHECK_OK(conjugate_create(&system, &c));
        conjugate_believe(&c, prior);
        CHECK_OK(spectrum_create(&system, prior, &exact));
        for (size_t j = 0; j < n; j += DENSE_ROWS) /* of V [n][r] */
            CHECK_OK(
                spectrum_squares(&exact, false, j, n - j < DENSE_ROWS ? n - j : DENSE_ROWS, squares + j * exact.r));
        for (size_t g = PENALTY_MIDDLE - 24; g <= PENALTY_MIDDLE + 8; g += 8) {
            const double p = c.resolvent.grid.penalty[g];
            double freedom = 0, logs = 0, ratio = 0;
            for (size_t k = 0; k < exact.r; k++) {
                freedom += exact.value[k] / (exact.value[k] + p);
                logs += log1p(exact.value[k] / p);
            }
            for (size_t j = 0; j < n; j++) {
                double known = 0;
                for (size_t k = 0; k < exact.r; k++)
                    known += squares[j * exact.r + k] * exact.value[k] / (exact.value[k] + p);
                ratio += resolvent_variance(&c.resolvent, g, prior[j], c.information[j]) / (prior[j] * (1 - known)) /
                         (double)n;
            }
            CHECK_NEAR((double)m - 1 - c.resolvent.grid.left[g], freedom, .01 * freedom);
            CHECK_NEAR(c.resolvent.grid.offset[g] * ((double)m - 1), logs, .01 * logs);
            CHECK_NEAR(ratio, 1, .02);
            CHECK_NEAR(conjugate_freedom(&c, (uint32_t)g), freedom, .06 * freedom); /* sixteen vectors */
        }
        spectrum_free(&exact);
        conjugate_free(&c);
        free(prior);
        free(squares);
        fit_system_free(&system);
        fixture_free(&f);
    }
    thread_pool_destroy(pool);
}

/* ---------------------------------------------------------------------------------------------- results */

static void test_given_prior(void) {
    const size_t sizes[][2] = {{400, 300}, {200, 330}};
    for (size_t s = 0; s < 2; s++) {
        const size_t m = sizes[s][0], n = sizes[s][1], N = 21;
        test_begin("%zu masks of %zu components under one prior: weights, penalties, slack and errors of eigenvectors",
                   m, n);
        thread_pool *pool = fits_pool(2);
        fixture f = planted(m, (uint32_t)n, N, 2);
        fit_system system = system_of(&f, pool);
        double *prior = fits_new(n, sizeof *prior), mean[21], squares[21], number[2][4][21];
        double *weight[2] = {fits_new(n * N, sizeof(double)), fits_new(n * N, sizeof(double))};
        uint32_t choice[2][21];
        fit_solver *solver[2];
        for (size_t j = 0; j < n; j++) prior[j] = j % 4 ? .01 : 1;
        fit_centre(f.y, m, N, mean, squares);
        system.standard_errors = true;
        CHECK_OK(shrink_create(&system, SHRINK_BAYES, prior, &solver[0]));
        CHECK_OK(bayes_create(&system, prior, &solver[1]));
        for (size_t k = 0; k < 2; k++) {
            solver_block block = {.count = N, .y = f.y, .mean = mean, .squares = squares, .weight = weight[k]};
            block.penalty = number[k][0], block.left = number[k][1], block.choice = choice[k];
            CHECK_OK(solver[k]->solve(solver[k], &block));
        }
        for (size_t z = 0; z < N; z++) {
            double largest = 0;
            CHECK_NEAR(choice[1][z], choice[0][z], 1); /* of eight a decade */
            for (size_t j = 0; j < n; j++) largest = fmax(largest, fabs(weight[0][j * N + z]));
            for (size_t j = 0; j < n && choice[0][z] == choice[1][z]; j++)
                CHECK_NEAR(weight[1][j * N + z], weight[0][j * N + z], .03 * largest);
            CHECK_NEAR(number[1][1][z], number[0][1][z], .1 * (double)m);
        }
        const uint32_t g = choice[0][0];
        double slack = 0, error = 0;
        for (size_t i = 0; i < m; i++)
            slack += solver[1]->slack[i * PENALTIES + g] / solver[0]->slack[i * PENALTIES + g] / (double)m;
        for (size_t j = 0; j < n; j++)
            error += solver[1]->error_scale[j * PENALTIES + g] / solver[0]->error_scale[j * PENALTIES + g] / (double)n;
        CHECK_NEAR(slack, 1, .02);
        CHECK_NEAR(error, 1, .02);
        for (size_t k = 0; k < 2; k++) {
            solver[k]->destroy(solver[k]);
            free(weight[k]);
        }
        free(prior);
        fit_system_free(&system);
        fixture_free(&f);
        thread_pool_destroy(pool);
    }
}

static void test_agrees(void) {
    const size_t sizes[][2] = {{200, 300}, {400, 300}, {900, 200}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const uint32_t n = (uint32_t)sizes[s][1];
        test_begin("%zu masks of %u components: as good as by eigenvectors", sizes[s][0], n);
        fixture f = planted(sizes[s][0], n, 40, 3), g = planted(sizes[s][0], n, 40, 3);
        f.form = FIT_DIRECT;
        CHECK_OK(fits_solve(&f, FIT_EB, 2, 0));
        CHECK_OK(fits_solve(&g, FIT_EB, 2, 0));
        CHECK_INT(g.warnings, 0);
        const double dense = fresh_correlation(&f), iterative = fresh_correlation(&g);
        if (!(iterative > dense - .005)) test_fail(__FILE__, __LINE__, "correlation %.4f, %.4f", iterative, dense);
        CHECK_NEAR(g.summary.predicted, f.summary.predicted, .02);
        CHECK_NEAR(g.summary.heldout_mean, f.summary.heldout_mean, .02);
        CHECK_NEAR(g.summary.r2_mean, f.summary.r2_mean, .02);
        fixture_free(&f);
        fixture_free(&g);
    }
}

static void test_independence(void) {
    test_begin("threads, memory and blocks do not change a bit of weights, errors and penalties");
    fixture f = planted(120, 90, 300, 1), g = planted(120, 90, 300, 1);
    size_t memory = (size_t)3 << 19; /* as little as will do: several blocks */
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    while (fits_solve(&g, FIT_EB, 2, memory) == COAR_ERROR_MEMORY) memory += (size_t)1 << 19;
    CHECK_TEXT(coar_last_error(), "");
    CHECK_INT(g.next, g.N);
    CHECK(!memcmp(f.weight, g.weight, f.N * f.n * sizeof *f.weight));
    CHECK(!memcmp(f.error, g.error, f.N * f.n * sizeof *f.error) ||
          fits_difference(f.error, g.error, f.N * f.n) < 1e-9); /* times a deviation that OpenBLAS helps to add up */
    CHECK(!memcmp(f.penalty, g.penalty, f.N * sizeof *f.penalty));
    CHECK_NEAR(g.summary.predicted, f.summary.predicted, 1e-9);
    fixture_free(&f);
    fixture_free(&g);
}

static void test_scale(void) {
    test_begin("outputs times 2^124 give weights times 2^124, to the bit: single precision sees deviations");
    fixture f = planted(90, 70, 5, 1), g = planted(90, 70, 5, 1);
    for (size_t x = 0; x < g.m * g.N; x++) g.y[x] = ldexpf(g.y[x], 124);
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    CHECK_OK(fits_solve(&g, FIT_EB, 1, 0));
    for (size_t x = 0; x < f.N * f.n; x++) CHECK_NEAR(ldexpf(g.weight[x], -124), f.weight[x], 0);
    fixture_free(&f);
    fixture_free(&g);
}

/* ------------------------------------------------------------------------------------------------ edges */

static void test_edges(void) {
    const size_t sizes[][2] = {{3, 2}, {3, 7}, {5, 4}, {21, 20}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        test_begin("%zu masks and %zu components: finite", sizes[s][0], sizes[s][1]);
        fixture f = planted(sizes[s][0], (uint32_t)sizes[s][1], 2, 1);
        CHECK_OK(fits_solve(&f, FIT_EB, 2, 0));
        for (size_t x = 0; x < f.n * f.N; x++) CHECK(isfinite(f.weight[x]));
        for (size_t z = 0; z < f.N; z++) CHECK(isfinite(f.bias[z]) && isfinite(f.penalty[z]));
        fixture_free(&f);
    }
    test_begin("constant outputs, one and all");
    fixture f = planted(50, 20, 3, 1);
    for (size_t i = 0; i < f.m; i++) f.y[i * f.N + 1] = .1f;
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    for (size_t j = 0; j < f.n; j++) CHECK_NEAR(f.weight[f.n + j], 0, 0);
    CHECK_NEAR(f.bias[1], .1f, 0);
    CHECK(isnan(f.r2[1]) && isnan(f.heldout[1]) && isfinite(f.heldout[0]) && isfinite(f.weight[0]));
    for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = .1f;
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    for (size_t x = 0; x < f.n * f.N; x++) CHECK_NEAR(f.weight[x], 0, 0);
    CHECK(isnan(f.summary.predicted));
    memset(f.masks, 255, f.m * mask_bytes(f.n));
    for (size_t i = 0; i < f.m; i++) f.masks[(i + 1) * mask_bytes(f.n) - 1] = 15; /* 20 components */
    for (size_t x = 0; x < f.m * f.N; x++) f.y[x] = (float)x;
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    for (size_t x = 0; x < f.n * f.N; x++) CHECK_NEAR(f.weight[x], 0, 0);
    fixture_free(&f);
}

static void test_foreign(void) {
    test_begin("masks whose components come and go in pairs are warned of");
    fixture f = planted(200, 160, 4, 1);
    for (size_t i = 0; i < f.m; i++) memcpy(f.masks + i * mask_bytes(f.n) + 10, f.masks + i * mask_bytes(f.n), 10);
    CHECK_OK(fits_solve(&f, FIT_EB, 1, 0));
    CHECK_INT(f.warnings, 1);
    fixture_free(&f);
}

static void test_errors(void) {
    test_begin("too little memory, and a stop");
    fixture f = planted(60, 40, 3, 1);
    CHECK_ERROR(fits_solve(&f, FIT_EB, 1, 1000), COAR_ERROR_MEMORY, "--memory: the fit of 60 masks and 40 components");
    f.stop_after = 3;
    CHECK_ERROR(fits_solve(&f, FIT_EB, 1, 0), COAR_STOPPED, "stopped");
    CHECK_INT(f.next, 0);
    fixture_free(&f);
}

int main(void) {
    test_operator();
    test_limit();
    test_given_prior();
    test_agrees();
    test_independence();
    test_scale();
    test_edges();
    test_foreign();
    test_errors();
    return test_end();
}
