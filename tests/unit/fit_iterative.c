/*
 * fit_iterative.c - empirical Bayes without eigenvectors, forced on problems that are small enough for both forms: its
 * parts against dense algebra, its results against the dense form's.
 */
#include <cblas.h>

#include "core/sampler.h"
#include "fit/conjugate.h"
#include "fits.h"
#include "test.h"

enum { ITERATIVE = 1 }; /* dense_side */

/* About normal: twelve uniform numbers. */
static double normal(uint64_t seed, size_t i) {
    double sum = 0;
    for (size_t k = 0; k < 12; k++) sum += fits_noise(seed, 12 * i + k);
    return sum / 2;
}

/* Three components in four hardly matter; the masks ablate a tenth. */
static double weight_of(size_t z, size_t j) {
    return (j % 4 ? .1 : 1) * normal(100 + z, j);
}

static fixture planted(size_t m, uint32_t n, size_t N, double level) {
    fixture f = fixture_new(m, n, N);
    f.masks = fits_masks(m, n, .1, 11);
    for (size_t z = 0; z < N; z++)
        for (size_t i = 0; i < m; i++) {
            double y = 2 + level * normal(9000 + z, i);
            for (size_t j = 0; j < n; j++) y += fits_bit(f.masks, n, i, j) * weight_of(z, j);
            f.y[i * N + z] = (float)y;
        }
    return f;
}

/* Mean over examples of the correlation of a fit's predictions with planted outputs without noise, on fresh masks. */
static double fresh_correlation(const fixture *f) {
    enum { FRESH = 500 };
    uint8_t *masks = fits_masks(FRESH, f->n, .1, 12);
    double sum = 0;
    for (size_t z = 0; z < f->N; z++) {
        double a = 0, b = 0, aa = 0, bb = 0, ab = 0;
        for (size_t i = 0; i < FRESH; i++) {
            double y = 0, predicted = 0;
            for (size_t j = 0; j < f->n; j++) {
                y += fits_bit(masks, f->n, i, j) * weight_of(z, j);
                predicted += fits_bit(masks, f->n, i, j) * (double)f->weight[z * f->n + j];
            }
            a += y, b += predicted, aa += y * y, bb += predicted * predicted, ab += y * predicted;
        }
        sum += (ab - a * b / FRESH) / sqrt((aa - a * a / FRESH) * (bb - b * b / FRESH));
    }
    free(masks);
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

/* ---------------------------------------------------------------------------------------------- results */

static void test_agrees(void) {
    const size_t sizes[][2] = {{200, 300}, {400, 300}, {900, 200}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const uint32_t n = (uint32_t)sizes[s][1];
        test_begin("%zu masks of %u components: as good as by eigenvectors", sizes[s][0], n);
        fixture f = planted(sizes[s][0], n, 40, 3), g = planted(sizes[s][0], n, 40, 3);
        g.dense_side = ITERATIVE;
        CHECK_OK(fits_solve(&f, FIT_EB, 2, 0));
        CHECK_OK(fits_solve(&g, FIT_EB, 2, 0));
        CHECK_INT(g.warnings, 0);
        printf("# fresh %.4f %.4f heldout %.4f %.4f predicted %.4f %.4f r2 %.4f %.4f diff %.4f err %.4f\n",
               fresh_correlation(&f), fresh_correlation(&g), f.summary.heldout_mean, g.summary.heldout_mean,
               f.summary.predicted, g.summary.predicted, f.summary.r2_mean, g.summary.r2_mean,
               fits_difference(f.weight, g.weight, f.N * n), fits_difference(f.error, g.error, f.N * n));
        fixture_free(&f);
        fixture_free(&g);
    }
}

int main(void) {
    test_operator();
    test_agrees();
    return test_end();
}
