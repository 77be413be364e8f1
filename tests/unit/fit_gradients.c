/*
 * fit_gradients.c - the estimators grad and grad+eb: averages, calibration, residuals and the choice between them
 * against numpy (tools/golden_fit.py), and at the edges.
 */
#include "fits.h"
#include "test.h"

#include "core/npy.h"
#include "fit/combine.h"
#include "fit/plan.h"
#include "fit/sample.h"

/* The problem of golden/fit/grad_*: masks of gradients are of these settings. */
static const uint32_t group_first[4] = {0, 4, 9, 16};
enum { SEED = 5, GROUPS = 3, FEW = 3, MANY = 48 };
static const double alpha = .2;

typedef struct golden_gradients {
    fit_gradients head;
    double *sums;     /* [LEVELS][N][n] */
    double *of_block; /* [blocks][LEVELS][n] */
    double *of_component, *of_example;
    float *baseline;
    size_t N;
    uint64_t reads;
} golden_gradients;

static coar_status read_sums(void *context, uint64_t first, uint64_t count, double *sums) {
    golden_gradients *g = context;
    const size_t n = g->head.masks.n;
    CHECK(first % LEVELS_BLOCK == 0 && first + count <= g->N);
    for (size_t l = 0; l < LEVELS; l++)
        memcpy(sums + l * count * n, g->sums + (l * g->N + first) * n, count * n * sizeof *sums);
    g->reads++;
    return COAR_OK;
}

static double *doubles(const char *name, int passes) {
    char path[64];
    npy_array a;
    snprintf(path, sizeof path, "golden/fit/grad_%s_%d.npy", name, passes);
    CHECK_OK(npy_open(test_path(path), &a));
    double *values = fits_new(a.count, sizeof *values);
    for (size_t x = 0; x < a.count; x++) values[x] = npy_get_double(&a, x);
    npy_close(&a);
    return values;
}

/* Over all blocks, or all but the first. */
static void add_blocks(golden_gradients *g, uint32_t n, bool without_first) {
    const size_t size = LEVELS * (size_t)n;
    for (size_t x = 0; x < size; x++) {
        g->of_component[x] = 0;
        for (size_t b = without_first; b * LEVELS_BLOCK < g->N; b++) g->of_component[x] += g->of_block[b * size + x];
    }
}

/* f->gradients points into *g. */
static fixture open_golden(int passes, golden_gradients *g) {
    fixture f = fits_golden("grad");
    npy_array baseline;
    CHECK_OK(npy_open(test_path("golden/fit/grad_baseline.npy"), &baseline));
    *g = (golden_gradients){.sums = doubles("sums", passes),
                            .of_block = doubles("component", passes),
                            .of_component = fits_new(LEVELS * f.n, sizeof(double)),
                            .of_example = doubles("example", passes),
                            .baseline = fits_new(f.N, sizeof(float)),
                            .N = f.N};
    for (size_t z = 0; z < f.N; z++) g->baseline[z] = (float)npy_get_double(&baseline, z);
    npy_close(&baseline);
    add_blocks(g, f.n, false);
    g->head = (fit_gradients){.masks = {.seed = SEED, .alpha = alpha, .n = f.n},
                              .passes = (uint32_t)passes,
                              .read = read_sums,
                              .context = g,
                              .squares_of_component = g->of_component,
                              .squares_of_example = g->of_example,
                              .baseline = g->baseline};
    f.gradients = &g->head;
    f.group_first = group_first;
    f.groups = GROUPS;
    return f;
}

static void close_golden(fixture *f, golden_gradients *g) {
    free(g->sums), free(g->of_block), free(g->of_component), free(g->of_example), free(g->baseline);
    fixture_free(f);
}

/* --------------------------------------------------------------------------------------------- goldens */

static void test_alone(void) {
    golden_gradients g;
    test_begin("grad without masks agrees with numpy: levels combined by their moments");
    fixture f = open_golden(MANY, &g);
    f.m = 0;
    CHECK_OK(fits_solve(&f, FIT_GRAD, 2, 0));
    CHECK_INT(f.next, f.N);
    fits_check_golden(&f, "grad", "alone_48");
    CHECK(isnan(f.summary.predicted) && isnan(f.summary.r2_mean));
    close_golden(&f, &g);

    test_begin("grad of 3 passes agrees with numpy: fixed shares of the levels seen");
    f = open_golden(FEW, &g);
    f.m = 0;
    CHECK_OK(fits_solve(&f, FIT_GRAD, 1, 0));
    for (size_t x = 0; x < f.N * f.n; x++) CHECK(f.error[x] >= 0);
    for (size_t x = 0; x < f.N * f.n; x++) f.error[x] = NAN; /* numpy has no opinion */
    fits_check_golden(&f, "grad", "alone_3");
    close_golden(&f, &g);
}

static void test_calibrated(void) {
    golden_gradients g;
    test_begin("grad calibrated on masks agrees with numpy");
    fixture f = open_golden(MANY, &g);
    CHECK_OK(fits_solve(&f, FIT_GRAD, 2, 0));
    fits_check_golden(&f, "grad", "grad");
    CHECK_NEAR(f.summary.predicted, f.summary.heldout_mean, 1e-12);
    close_golden(&f, &g);

    test_begin("grad+eb agrees with numpy");
    f = open_golden(MANY, &g);
    CHECK_OK(fits_solve(&f, FIT_GRAD_EB, 2, 0));
    fits_check_golden(&f, "grad", "grad+eb");
    npy_array expected;
    CHECK_OK(npy_open(test_path("golden/fit/grad_grad+eb_predicted.npy"), &expected));
    CHECK_NEAR(f.summary.predicted, npy_get_double(&expected, 0), 1e-6);
    CHECK_NEAR(f.summary.predicted_low, npy_get_double(&expected, 1), 1e-6);
    CHECK_NEAR(f.summary.predicted_high, npy_get_double(&expected, 2), 1e-6);
    npy_close(&expected);
    close_golden(&f, &g);
}

static void test_iterative(void) {
    golden_gradients g, h;
    test_begin("grad+eb without eigenvectors comes near grad+eb with them");
    fixture f = open_golden(MANY, &g), exact = open_golden(MANY, &h);
    f.form = FIT_ITERATIVE;
    CHECK_OK(fits_solve(&f, FIT_GRAD_EB, 2, 0));
    CHECK_OK(fits_solve(&exact, FIT_GRAD_EB, 2, 0));
    const double difference = fits_difference(exact.weight, f.weight, f.N * f.n);
    if (!(difference < .02)) test_fail(__FILE__, __LINE__, "weights differ by %.4f of the largest", difference);
    CHECK_NEAR(f.summary.predicted, exact.summary.predicted, .002);
    close_golden(&f, &g);
    close_golden(&exact, &h);
}

/* ----------------------------------------------------------------------------------------------- edges */

static void test_fall_back(void) {
    golden_gradients g;
    test_begin("grad+eb is grad when masked passes add nothing but noise");
    fixture f = open_golden(MANY, &g), expected;
    for (size_t i = 0; i < f.m; i++)
        for (size_t z = 0; z < f.N; z++) f.y[i * f.N + z] += 8 * fits_noise(70 + z, i);
    CHECK_OK(fits_solve(&f, FIT_GRAD_EB, 1, 0));
    golden_gradients again;
    expected = open_golden(MANY, &again);
    memcpy(expected.y, f.y, f.m * f.N * sizeof *f.y);
    CHECK_OK(fits_solve(&expected, FIT_GRAD, 1, 0));
    CHECK(fits_difference(expected.weight, f.weight, f.N * f.n) < 1e-12);
    CHECK(fits_difference(expected.error, f.error, f.N * f.n) < 1e-12);
    CHECK_NEAR(f.summary.predicted, expected.summary.predicted, 1e-12);
    for (size_t z = 0; z < f.N; z++) CHECK_NEAR(f.penalty[z], 0, 0);
    close_golden(&f, &g);
    close_golden(&expected, &again);
}

/* A golden problem with huge derivatives of two examples until they break, as networks that overflow have them. */
static fixture open_broken(size_t first, size_t second, golden_gradients *g) {
    fixture f = open_golden(MANY, g);
    for (size_t x = 0; x < LEVELS * (size_t)f.n; x++) {
        g->sums[((x / f.n) * f.N + first) * f.n + x % f.n] = NAN;
        g->sums[((x / f.n) * f.N + second) * f.n + x % f.n] = x % f.n ? NAN : INFINITY;
        g->of_block[x] += 1e30;
        if (second >= LEVELS_BLOCK) g->of_block[LEVELS * f.n + x] += 1e30;
    }
    for (size_t l = 0; l < LEVELS; l++) g->of_example[l * f.N + first] = g->of_example[l * f.N + second] = NAN;
    return f;
}

static void check_left_out(const fixture *f, size_t first, size_t second) {
    CHECK_INT(f->summary.examples_left_out, 2);
    CHECK_INT(f->summary.masks_left_out, 0);
    CHECK_INT(f->warnings, 1);
    for (size_t z = 0; z < f->N; z++) {
        const bool out = z == first || z == second;
        CHECK_INT(isnan(f->bias[z]) != 0, out);
        for (size_t j = 0; j < f->n; j++) CHECK_INT(isnan(f->weight[z * f->n + j]) != 0, out);
    }
}

static void test_broken(void) {
    golden_gradients g, h;
    const fit_estimator estimators[] = {FIT_GRAD, FIT_GRAD_EB};
    for (size_t k = 0; k < 2; k++) {
        test_begin("%s: examples with gradients that are not finite are left out, and their block tells no noise",
                   fit_estimator_name(estimators[k]));
        fixture f = open_broken(7, 20, &g), whole = open_golden(MANY, &h);
        add_blocks(&g, f.n, true);
        CHECK_OK(fits_solve(&whole, estimators[k], 2, 0));
        CHECK_OK(fits_solve(&f, estimators[k], 2, 0));
        check_left_out(&f, 7, 20);
        double ratio = 0; /* of errors, which the second block's 8 examples tell nearly as well */
        for (size_t x = 0; x < f.N * f.n; x++) {
            if (isnan(f.weight[x])) continue;
            CHECK(f.error[x] > 0);
            CHECK_NEAR(f.weight[x], whole.weight[x], .25);
            ratio += f.error[x] / whole.error[x] / (double)((f.N - 2) * f.n);
        }
        if (estimators[k] == FIT_GRAD) CHECK_NEAR(ratio, 1, .1); /* grad+eb may keep its residuals here and not there */
        CHECK(f.summary.predicted > .9);
        close_golden(&f, &g);
        close_golden(&whole, &h);
    }
    test_begin("no block is intact: fixed shares, and errors that are not known");
    fixture f = open_broken(7, 35, &g);
    memset(g.of_component, 0, LEVELS * f.n * sizeof *g.of_component);
    CHECK_OK(fits_solve(&f, FIT_GRAD, 2, 0));
    check_left_out(&f, 7, 35);
    for (size_t x = 0; x < f.N * f.n; x++) CHECK(isnan(f.error[x]));
    CHECK(f.summary.predicted > .9);
    close_golden(&f, &g);
}

static void test_independence(void) {
    const fit_estimator estimators[] = {FIT_GRAD, FIT_GRAD_EB};
    for (size_t k = 0; k < 2; k++) {
        golden_gradients g, h;
        test_begin("%s: threads and memory change nothing beyond 1e-6", fit_estimator_name(estimators[k]));
        fixture a = open_golden(MANY, &g), b = open_golden(MANY, &h);
        size_t memory = (size_t)1 << 16;
        CHECK_OK(fits_solve(&a, estimators[k], 1, 0));
        while (fits_solve(&b, estimators[k], 3, memory) == COAR_ERROR_MEMORY) memory += (size_t)1 << 16;
        CHECK_TEXT(coar_last_error(), "");
        CHECK(fits_difference(a.weight, b.weight, a.N * a.n) < 1e-6);
        CHECK(fits_difference(a.error, b.error, a.N * a.n) < 1e-6);
        CHECK_NEAR(a.summary.predicted, b.summary.predicted, 1e-9);
        close_golden(&a, &g);
        close_golden(&b, &h);
    }
}

static void test_few(void) {
    test_begin("one example, two masks: finite, and near the gradients themselves");
    golden_gradients g;
    fixture f = open_golden(MANY, &g), alone;
    f.N = 1;
    f.m = 2;
    f.masks[0] ^= 1; /* the two differ */
    golden_gradients h;
    alone = open_golden(MANY, &h);
    alone.m = 0;
    CHECK_OK(fits_solve(&alone, FIT_GRAD, 1, 0));
    double *sums = g.sums; /* of example 0 alone, with the problem's own size */
    for (size_t l = 1; l < LEVELS; l++) memcpy(sums + l * f.n, sums + l * g.N * f.n, f.n * sizeof *sums);
    for (size_t l = 1; l < LEVELS; l++) g.of_example[l] = g.of_example[l * g.N];
    g.N = 1;
    CHECK_OK(fits_solve(&f, FIT_GRAD, 1, 0));
    for (size_t j = 0; j < f.n; j++) CHECK(isfinite(f.weight[j]));
    CHECK_OK(fits_solve(&f, FIT_GRAD_EB, 1, 0));
    for (size_t j = 0; j < f.n; j++) CHECK(isfinite(f.weight[j]));
    close_golden(&f, &g);
    close_golden(&alone, &h);
}

static void test_silent(void) {
    test_begin("gradients that are all 0 give weights 0");
    golden_gradients g;
    fixture f = open_golden(MANY, &g);
    memset(g.sums, 0, LEVELS * f.N * f.n * sizeof *g.sums);
    memset(g.of_component, 0, LEVELS * f.n * sizeof *g.of_component);
    memset(g.of_example, 0, LEVELS * f.N * sizeof *g.of_example);
    CHECK_OK(fits_solve(&f, FIT_GRAD, 1, 0));
    for (size_t x = 0; x < f.N * f.n; x++) CHECK_NEAR(f.weight[x], 0, 0);
    CHECK_OK(fits_solve(&f, FIT_GRAD_EB, 1, 0)); /* plain eb then */
    CHECK(f.summary.predicted > .5);
    close_golden(&f, &g);
}

/* Moments of a group of 4 components and 40 examples, each seen 30, 8 and 8 times at the levels: derivatives with this
 * covariance of level means, and noise of this variance. */
static level_moments planted_moments(const double C[LEVELS][LEVELS], double noise) {
    const double count[LEVELS] = {30, 8, 8}, all = 4 * 40;
    level_moments m = {.components = 4};
    for (size_t l = 0; l < LEVELS; l++) {
        m.count[l] = all * count[l];
        m.squares[l] = all * count[l] * (C[l][l] + noise);
        for (size_t k = 0; k < LEVELS; k++) {
            m.pairs[l][k] = all * count[l] * (count[k] - (l == k));
            m.products[l][k] = m.pairs[l][k] * C[l][k] + (l == k ? m.squares[l] : 0);
        }
    }
    return m;
}

static void test_noise_group(void) {
    const double signal[LEVELS][LEVELS] = {{1, .6, .3}, {.6, 1.5, .7}, {.3, .7, 2}};
    const double nothing[LEVELS][LEVELS] = {{1e-9, .01, -.02}, {.01, .01, .03}, {-.02, .03, -.01}};
    const level_moments moments[2] = {planted_moments(signal, 4), planted_moments(nothing, 1)};
    level_model both[2], alone;
    test_begin("a group whose derivatives are nothing but noise does not change another's model");
    CHECK_OK(combine_models(moments, 1, 8, &alone));
    CHECK_OK(combine_models(moments, 2, 8, both));
    for (size_t l = 0; l < LEVELS; l++) {
        CHECK_NEAR(both[0].noise[l], alone.noise[l], 1e-12);
        for (size_t k = 0; k < LEVELS; k++) CHECK_NEAR(both[0].covariance[l][k], alone.covariance[l][k], 1e-12);
    }
    test_begin("such a group alone gets weights near 0");
    CHECK_OK(combine_models(moments + 1, 1, 8, both));
    const uint32_t count[LEVELS] = {30, 8, 8};
    double coefficient[LEVELS];
    combine_coefficients(both, count, coefficient);
    for (size_t l = 0; l < LEVELS; l++) CHECK_NEAR(coefficient[l] * count[l], 0, .2);
}

static coar_status read_nothing(void *context, uint64_t first, uint64_t count, float *y) {
    (void)context, (void)first;
    for (uint64_t x = 0; x < 2 * count; x++) y[x] = (float)x;
    return COAR_OK;
}

static void test_sample(void) {
    const size_t sizes[] = {100, 1024, 1030, 5000, 40000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        test_begin("a sample of %zu examples is of whole blocks, without examples that are left out", sizes[s]);
        const uint64_t N = sizes[s];
        const fit_problem problem = {.m = 2, .N = N, .n = 1, .read = read_nothing};
        fit_scan scan = {.example_out = fits_new(N, 1), .mask_out = fits_new(2, 1), .examples_left_out = 1};
        float *y = fits_new(2 * 64, sizeof *y);
        fit_sample sample;
        scan.example_out[5] = 1;
        CHECK_OK(fit_sample_create(&problem, &scan, true, 64, y, &sample));
        CHECK(sample.count <= SAMPLE_MAX && sample.count >= (N < SAMPLE_MAX ? N : 980) - 1);
        size_t blocks = 0;
        for (size_t k = 0; k < sample.count; k++) {
            CHECK(sample.index[k] != 5 && sample.index[k] < N);
            CHECK(!k || sample.index[k] > sample.index[k - 1]);
            blocks += !k || sample.index[k] / LEVELS_BLOCK != sample.index[k - 1] / LEVELS_BLOCK;
        }
        CHECK(blocks <= SAMPLE_MAX / LEVELS_BLOCK);
        CHECK(sample.index[sample.count - 1] >= N - N / 16 - LEVELS_BLOCK);
        fit_sample_free(&sample);
        memset(scan.example_out, 1, N); /* only the last is whole */
        scan.example_out[N - 1] = 0;
        CHECK_OK(fit_sample_create(&problem, &scan, true, 64, y, &sample));
        CHECK_INT(sample.count, 1);
        CHECK_INT(sample.index[0], N - 1);
        fit_sample_free(&sample);
        fit_scan_free(&scan);
        free(y);
    }
}

static void test_large(void) {
    test_begin("100,000 masks of 82,944 components: no system is solved, and none charged for");
    const fit_problem problem = {.m = 100000, .N = 2000, .n = 82944, .groups = 100};
    fit_settings settings = {.estimator = FIT_GRAD, .memory = (size_t)16 << 30, .pool = fits_pool(2)};
    size_t block = 0;
    CHECK_OK(fit_plan_block(&problem, &settings, &block));
    CHECK(block >= 128);
    settings.estimator = FIT_GRAD_EB;
    CHECK_OK(fit_plan_block(&problem, &settings, &block));
    CHECK(block >= 128);
    const fit_settings without_pool = {.estimator = FIT_GRAD_EB, .memory = (size_t)64 << 30};
    CHECK_OK(fit_plan_block(&problem, &without_pool, &block)); /* as a budget plans: before there is a fit */
    settings.estimator = FIT_RIDGE;
    CHECK_OK(fit_plan_block(&problem, &settings, &block));
    settings.form = FIT_DIRECT;
    CHECK_ERROR(fit_plan_block(&problem, &settings, &block), COAR_ERROR_UNSUPPORTED, "take --solver iterative");
    status_clear();
    settings.estimator = FIT_GRAD;
    settings.memory = (size_t)1 << 30;
    CHECK_ERROR(fit_plan_block(&problem, &settings, &block), COAR_ERROR_MEMORY, "--memory");
    status_clear();
    thread_pool_destroy(settings.pool);
}

int main(void) {
    test_alone();
    test_calibrated();
    test_iterative();
    test_fall_back();
    test_broken();
    test_independence();
    test_few();
    test_silent();
    test_noise_group();
    test_sample();
    test_large();
    return test_end();
}
