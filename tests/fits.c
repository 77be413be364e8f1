/* fits.c - see fits.h. */
#include "fits.h"

#include "core/memory.h"
#include "core/npy.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "test.h"

thread_pool *fits_pool(int threads) {
    thread_pool *pool = NULL;
    CHECK_OK(thread_pool_create(threads, &pool));
    return pool;
}

void *fits_new(size_t count, size_t size) {
    void *block = NULL;
    CHECK_OK(memory_new(count, size, "test", &block));
    return block;
}

uint8_t *fits_masks(size_t m, uint32_t n, double alpha, uint64_t seed) {
    sampler s = {.kind = SAMPLER_BERNOULLI, .seed = seed, .alpha = alpha, .n = n};
    uint8_t *masks = fits_new(m, mask_bytes(n));
    for (size_t i = 0; i < m; i++) sampler_mask(&s, i, masks + i * mask_bytes(n), NULL);
    return masks;
}

bool fits_bit(const uint8_t *masks, uint32_t n, size_t i, size_t j) {
    return masks[i * mask_bytes(n) + j / 8] >> (j % 8) & 1;
}

float fits_noise(uint64_t seed, size_t i) {
    uint32_t words[4];
    philox_words(seed, 7, i / 4, 0, words);
    return (float)words[i % 4] / 2147483648.0f - 1;
}

fixture fixture_new(size_t m, uint32_t n, size_t N) {
    fixture f = {.m = m, .N = N, .n = n, .stop_after = -1};
    f.y = fits_new(m * N, sizeof(float));
    f.weight = fits_new(N * n, sizeof(float));
    f.error = fits_new(N * n, sizeof(float));
    f.bias = fits_new(N, sizeof(float));
    f.penalty = fits_new(N, sizeof(double));
    f.r2 = fits_new(N, sizeof(double));
    f.heldout = fits_new(N, sizeof(double));
    return f;
}

void fixture_free(fixture *f) {
    void *all[] = {f->masks, f->y, f->weight, f->error, f->bias, f->penalty, f->r2, f->heldout};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

coar_status fits_read(void *context, uint64_t first, uint64_t count, float *y) {
    const fixture *f = context;
    CHECK(first + count <= f->N);
    for (size_t i = 0; i < f->m; i++) memcpy(y + i * count, f->y + i * f->N + first, count * sizeof *y);
    return COAR_OK;
}

static coar_status fixture_sink(void *context, const fit_result_block *block) {
    fixture *f = context;
    CHECK_INT(block->first, f->next);
    f->next += block->count;
    f->blocks++;
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

coar_status fits_solve(fixture *f, fit_estimator estimator, int threads, size_t memory) {
    coar_callbacks callbacks = {.progress = on_progress, .log = on_log, .user = f};
    const fit_problem problem = {.masks = f->masks,
                                 .m = f->m,
                                 .N = f->N,
                                 .n = f->n,
                                 .read = fits_read,
                                 .context = f,
                                 .leave_one_out = f->leave_one_out,
                                 .gradients = f->gradients,
                                 .group_first = f->group_first,
                                 .groups = f->groups};
    const fit_settings settings = {.estimator = estimator,
                                   .standard_errors = estimator != FIT_LASSO,
                                   .pool = fits_pool(threads),
                                   .memory = memory,
                                   .form = f->form,
                                   .callbacks = &callbacks};
    f->next = f->blocks = 0;
    f->warnings = 0;
    status_clear();
    coar_status status = fit_solve(&problem, &settings, fixture_sink, f, &f->summary);
    thread_pool_destroy(settings.pool);
    return status;
}

double fits_planted(size_t z, size_t j) {
    return fits_noise(100 + z, j);
}
void fits_plant(fixture *f, double level) {
    for (size_t i = 0; i < f->m; i++)
        for (size_t z = 0; z < f->N; z++) {
            double y = 3.0 + (double)z;
            for (size_t j = 0; j < f->n; j++) y += fits_bit(f->masks, f->n, i, j) * fits_planted(z, j);
            f->y[i * f->N + z] = (float)(y + level * fits_noise(500 + z, i));
        }
}

fixture fits_golden(const char *name) {
    char path[64];
    npy_array masks, y;
    snprintf(path, sizeof path, "golden/fit/%s_masks.npy", name);
    CHECK_OK(npy_open(test_path(path), &masks));
    snprintf(path, sizeof path, "golden/fit/%s_outputs.npy", name);
    CHECK_OK(npy_open(test_path(path), &y));
    fixture f = fixture_new(masks.shape[0], (uint32_t)masks.shape[1], y.shape[1]);
    f.masks = fits_new(f.m, mask_bytes(f.n));
    for (size_t x = 0; x < masks.count; x++)
        if (npy_get_int(&masks, x)) f.masks[x / f.n * mask_bytes(f.n) + x % f.n / 8] |= (uint8_t)(1 << (x % f.n % 8));
    for (size_t x = 0; x < y.count; x++) f.y[x] = (float)npy_get_double(&y, x);
    npy_close(&masks);
    npy_close(&y);
    return f;
}

void fits_same(double actual, double expected, double tolerance) {
    if (isnan(expected))
        CHECK(isnan(actual));
    else
        CHECK_NEAR(actual, expected, tolerance);
}

double fits_difference(const float *a, const float *b, size_t count) {
    double difference = 0, largest = 0;
    for (size_t x = 0; x < count; x++) {
        difference = fmax(difference, fabs((double)a[x] - b[x]));
        largest = fmax(largest, fabs((double)a[x]));
    }
    return difference / largest;
}

void fits_check_golden(const fixture *f, const char *name, const char *estimator) {
    char path[64];
    npy_array expected;
    snprintf(path, sizeof path, "golden/fit/%s_%s.npy", name, estimator);
    CHECK_OK(npy_open(test_path(path), &expected));
    CHECK_INT(expected.shape[0], f->N);
    CHECK_INT(expected.shape[1], 4 + 2 * f->n);
    for (size_t z = 0; z < f->N; z++) {
        const size_t row = z * expected.shape[1];
        CHECK_NEAR(f->penalty[z], npy_get_double(&expected, row), 1e-9 * f->penalty[z]);
        fits_same(f->r2[z], npy_get_double(&expected, row + 1), 1e-8);
        fits_same(f->heldout[z], npy_get_double(&expected, row + 2), 1e-6);
        CHECK_NEAR(f->bias[z], npy_get_double(&expected, row + 3), 2e-6 * 10);
        for (size_t j = 0; j < f->n; j++) {
            CHECK_NEAR(f->weight[z * f->n + j], npy_get_double(&expected, row + 4 + j), 2e-6);
            const double error = npy_get_double(&expected, row + 4 + f->n + j);
            /* relative: of an output that is met almost exactly, rounding is a larger part of the noise */
            if (strcmp(estimator, "lasso")) fits_same(f->error[z * f->n + j], error, 2e-6 + 1e-5 * fabs(error));
        }
    }
    npy_close(&expected);
}

double fits_normal(uint64_t seed, size_t i) {
    double sum = 0;
    for (size_t k = 0; k < 12; k++) sum += fits_noise(seed, 12 * i + k);
    return sum / 2;
}

double fits_uneven_deviation(size_t j) {
    return j % 4 ? .1 : 1;
}

double fits_uneven(size_t z, size_t j) {
    return fits_uneven_deviation(j) * fits_normal(100 + z, j);
}

fixture fits_uneven_problem(size_t m, uint32_t n, size_t N, double alpha, double level) {
    fixture f = fixture_new(m, n, N);
    double *weight = fits_new(n, sizeof *weight); /* they take longer to draw than to use */
    f.masks = fits_masks(m, n, alpha, 11);
    for (size_t z = 0; z < N; z++) {
        for (size_t j = 0; j < n; j++) weight[j] = fits_uneven(z, j);
        for (size_t i = 0; i < m; i++) {
            double y = 2 + level * fits_normal(9000 + z, i);
            for (size_t j = 0; j < n; j++) y += fits_bit(f.masks, n, i, j) * weight[j];
            f.y[i * N + z] = (float)y;
        }
    }
    free(weight);
    return f;
}
