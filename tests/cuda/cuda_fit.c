/*
 * cuda_fit.c - fits on a CUDA device against the CPU's: integers to the bit, weights to 1e-6 of the largest; pieces
 * that fit little memory; and every way of failing, in one line and without leaks.
 */
#include "test.h"

#include <stdbool.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_fit.h"
#include "core/memory.h"
#include "core/npy.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "fit/fit.h"
#include "fit/gram.h"
#include "stand_ins/stand_ins.h"

static void *fresh(size_t count, size_t size) {
    void *block = NULL;
    CHECK_OK(memory_new(count, size, "test", &block));
    return block;
}

static thread_pool *pool_of(int threads) {
    thread_pool *pool = NULL;
    CHECK_OK(thread_pool_create(threads, &pool));
    return pool;
}

/* Uniform in (-1, 1). */
static float noise(uint64_t seed, size_t i) {
    uint32_t words[4];
    philox_words(seed, 7, i / 4, 0, words);
    return (float)words[i % 4] / 2147483648.0f - 1;
}

static uint8_t *random_masks(size_t m, uint32_t n, double alpha, uint64_t seed) {
    const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = seed, .alpha = alpha, .n = n};
    uint8_t *masks = fresh(m, mask_bytes(n));
    for (size_t i = 0; i < m; i++) sampler_mask(&s, i, masks + i * mask_bytes(n), NULL);
    return masks;
}

static void check_released(void) {
    CHECK_INT(stand_in_leaks(), 0);
    CHECK_INT(stand_in_refusals(), 0);
}

/* ---------------------------------------------------------------------------------------------- integers */

/* `memory` bytes of the device: what is counted in pieces is the same to the bit. */
static void check_gram(const bit_columns *columns, thread_pool *pool, size_t memory) {
    const size_t n = columns->count;
    fit_device *device = NULL;
    int64_t *expected = fresh(n * n, sizeof *expected), *gram = fresh(n * n + 1, sizeof *gram);
    CHECK_OK(gram_count(columns, pool, expected));
    CHECK_OK(cuda_fit_create(0, memory, &device));
    if (!device) return;
    gram[n * n] = -77;
    CHECK_OK(device->interface->gram(device, columns->words, n, columns->stride, gram));
    for (size_t x = 0; x < n * n; x++)
        if (gram[x] != expected[x]) {
            test_fail(__FILE__, __LINE__, "%zu vectors, %zu bytes: [%zu][%zu] is %lld, expected %lld", n, memory, x / n,
                      x % n, (long long)gram[x], (long long)expected[x]);
            break;
        }
    CHECK(gram[n * n] == -77);
    device->interface->destroy(device);
    free(gram), free(expected);
}

static void test_gram(void) {
    test_begin("the Gram matrix is the CPU's to the bit, in one piece and in many");
    const size_t sizes[][2] = {{1, 1}, {5, 3}, {65, 40}, {1000, 70}, {333, 130}};
    thread_pool *pool = pool_of(2);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t m = sizes[s][0];
        const uint32_t n = (uint32_t)sizes[s][1];
        uint8_t *masks = random_masks(m, n, 0.2, s);
        bit_columns columns;
        CHECK_OK(bit_columns_transpose(masks, m, n, pool, &columns));
        const size_t whole = n * columns.stride * 8 + n * n * 4 + 1024; /* all of it, and what rounding adds */
        check_gram(&columns, pool, 0);
        check_gram(&columns, pool, whole / 2);
        check_gram(&columns, pool, whole / 7 + 1024);
        bit_columns_free(&columns);
        free(masks);
    }
    thread_pool_destroy(pool);
    check_released();
}

static void check_cross(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, size_t memory) {
    const size_t n = columns->count;
    fit_device *device = NULL;
    int64_t *expected = fresh(n * N, sizeof *expected), *cross = fresh(n * N + 1, sizeof *cross);
    int64_t *totals = fresh(2 * N, sizeof *totals);
    int *shifts = fresh(2 * N, sizeof *shifts);
    CHECK_OK(cross_products(columns, y, N, pool, NULL, expected, totals, shifts));
    CHECK_OK(cuda_fit_create(0, memory, &device));
    if (!device) return;
    cross[n * N] = -77;
    CHECK_OK(cross_products(columns, y, N, pool, device, cross, totals + N, shifts + N));
    CHECK(!memcmp(cross, expected, n * N * sizeof *cross));
    CHECK(!memcmp(totals + N, totals, N * sizeof *totals));
    CHECK(!memcmp(shifts + N, shifts, N * sizeof *shifts));
    CHECK(cross[n * N] == -77);
    device->interface->destroy(device);
    free(shifts), free(totals), free(cross), free(expected);
}

static void test_cross(void) {
    test_begin("cross products are the CPU's to the bit, in one piece and in many");
    const size_t sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {65, 40, 9}, {333, 17, 70}, {40, 300, 2}};
    const float magnitudes[] = {1, 3e38f, 1e-42f, 20}; /* per example, in turn */
    thread_pool *pool = pool_of(2);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t m = sizes[s][0], n = sizes[s][1], N = sizes[s][2];
        uint8_t *masks = random_masks(m, (uint32_t)n, 0.2, s);
        bit_columns columns;
        float *y = fresh(m * N, sizeof *y);
        CHECK_OK(bit_columns_transpose(masks, m, (uint32_t)n, pool, &columns));
        for (size_t x = 0; x < m * N; x++) y[x] = magnitudes[x % N % 4] * noise(s, x);
        const size_t words = columns.stride * 64, whole = n * columns.stride * 8 + (words + n) * N * 8 + 1024;
        check_cross(&columns, y, N, pool, 0);
        check_cross(&columns, y, N, pool, whole / 2 + 512);
        check_cross(&columns, y, N, pool, whole / 9 + words * 8 + 1024); /* one example at a time, or a few vectors */
        bit_columns_free(&columns);
        free(y), free(masks);
    }
    thread_pool_destroy(pool);
    check_released();
}

/* ------------------------------------------------------------------------------------------------- fits */

typedef struct problem {
    size_t m, N;
    uint32_t n;
    uint8_t *masks;
    float *y; /* [m][N] */
    fit_estimator estimator;
} problem;

typedef struct solution {
    float *weight, *error, *bias;   /* [N][n], [N][n], [N] */
    double *penalty, *r2, *heldout; /* [N] */
    uint32_t n;
} solution;

static coar_status read_outputs(void *context, uint64_t first, uint64_t count, float *y) {
    const problem *p = context;
    for (size_t i = 0; i < p->m; i++) memcpy(y + i * count, p->y + i * p->N + first, count * sizeof *y);
    return COAR_OK;
}

static coar_status keep_block(void *context, const fit_result_block *b) {
    const solution *s = context;
    memcpy(s->weight + b->first * s->n, b->weight, b->count * s->n * sizeof(float));
    memcpy(s->error + b->first * s->n, b->standard_error, b->count * s->n * sizeof(float));
    memcpy(s->bias + b->first, b->bias, b->count * sizeof(float));
    memcpy(s->penalty + b->first, b->penalty, b->count * sizeof(double));
    memcpy(s->r2 + b->first, b->r2, b->count * sizeof(double));
    memcpy(s->heldout + b->first, b->heldout, b->count * sizeof(double));
    return COAR_OK;
}

static coar_status solve(const problem *p, fit_device *device, solution *s) {
    const fit_problem asked = {p->masks, p->m, p->N, p->n, read_outputs, (void *)(uintptr_t)p, false};
    const fit_settings settings = {
        .estimator = p->estimator, .standard_errors = true, .pool = pool_of(1), .device = device};
    fit_summary summary;
    status_clear();
    coar_status status = fit_solve(&asked, &settings, keep_block, s, &summary);
    thread_pool_destroy(settings.pool);
    return status;
}

static solution solution_new(const problem *p) {
    return (solution){.n = p->n,
                      .weight = fresh(p->N * p->n, sizeof(float)),
                      .error = fresh(p->N * p->n, sizeof(float)),
                      .bias = fresh(p->N, sizeof(float)),
                      .penalty = fresh(p->N, sizeof(double)),
                      .r2 = fresh(p->N, sizeof(double)),
                      .heldout = fresh(p->N, sizeof(double))};
}

static void solution_free(solution *s) {
    free(s->weight), free(s->error), free(s->bias), free(s->penalty), free(s->r2), free(s->heldout);
}

/* TWINS: component 1 is masked with component 0, so that X has not full rank. CONSTANT: every mask keeps everything. */
typedef enum mask_kind { DISTINCT, TWINS, CONSTANT } mask_kind;

/* y = 3 + z + X w + noise, w planted. */
static problem problem_new(size_t m, uint32_t n, size_t N, fit_estimator estimator, mask_kind kind) {
    const double alpha = kind == CONSTANT ? 1e-12 : 0.2;
    problem p = {.m = m, .n = n, .N = N, .estimator = estimator, .masks = random_masks(m, n, alpha, m)};
    p.y = fresh(m * N, sizeof *p.y);
    for (size_t i = 0; i < m; i++) {
        uint8_t *mask = p.masks + i * mask_bytes(n);
        if (kind == TWINS) mask[0] = (uint8_t)((mask[0] & ~2) | (mask[0] & 1) << 1);
        for (size_t z = 0; z < N; z++) {
            double y = 3 + (double)z + 0.1 * noise(500 + z, i);
            for (size_t j = 0; j < n; j++) y += (mask[j / 8] >> j % 8 & 1) * noise(100 + z, j);
            p.y[i * N + z] = (float)y;
        }
    }
    return p;
}

static void problem_free(problem *p) {
    free(p->masks), free(p->y);
}

/* Within `tolerance` of the largest |expected|; undefined where that is. */
static void check_floats(const char *what, const float *actual, const float *expected, size_t count, double tolerance) {
    double largest = 0, worst = 0;
    size_t at = 0;
    for (size_t x = 0; x < count; x++) {
        if (isnan(actual[x]) && isnan(expected[x])) continue;
        double difference = fabs((double)actual[x] - expected[x]);
        largest = fmax(largest, fabs((double)expected[x]));
        if (!(difference <= worst) && !isnan(worst)) worst = difference, at = x; /* a NaN stays */
    }
    if (!(worst <= tolerance * largest))
        test_fail(__FILE__, __LINE__, "%s[%zu]: got %.9g, expected %.9g, largest %.9g", what, at, actual[at],
                  expected[at], largest);
}

static void check_same_fit(const problem *p) {
    solution cpu = solution_new(p), gpu = solution_new(p);
    fit_device *device = NULL;
    CHECK_OK(solve(p, NULL, &cpu));
    CHECK_OK(cuda_fit_create(0, 0, &device));
    if (!device) return;
    CHECK_OK(solve(p, device, &gpu));
    device->interface->destroy(device);
    check_floats("weight", gpu.weight, cpu.weight, p->N * p->n, 1e-6);
    check_floats("error", gpu.error, cpu.error, p->N * p->n, 1e-6);
    check_floats("bias", gpu.bias, cpu.bias, p->N, 1e-6);
    for (size_t z = 0; z < p->N; z++) {
        CHECK_NEAR(gpu.penalty[z], cpu.penalty[z], 1e-9 * fabs(cpu.penalty[z]));
        CHECK_NEAR(gpu.r2[z], cpu.r2[z], 1e-9);
        CHECK(isnan(gpu.heldout[z]) == isnan(cpu.heldout[z]));
        if (!isnan(cpu.heldout[z])) CHECK_NEAR(gpu.heldout[z], cpu.heldout[z], 1e-9);
    }
    solution_free(&cpu), solution_free(&gpu);
}

static void test_fits(void) {
    static const char *const orders[] = {"lazy", "others", "eager"};
    const struct {
        const char *name, *ran, *did_not;
        size_t m;
        uint32_t n;
        size_t N;
        fit_estimator estimator;
        mask_kind kind;
    } cases[] = {
        {"ols by Cholesky", "cusolverDnDpotrf", "cusolverDnDsyevd", 200, 37, 5, FIT_OLS, DISTINCT},
        {"ols of components that are masked together", "cusolverDnDsyevd", NULL, 150, 20, 3, FIT_OLS, TWINS},
        {"ols of few masks", "cusolverDnDsyevd", "cusolverDnDpotrf", 30, 50, 4, FIT_OLS, DISTINCT},
        {"ridge", "cusolverDnDsyevd", "cusolverDnDpotrf", 160, 33, 6, FIT_RIDGE, DISTINCT},
        {"ridge of few masks", "cusolverDnDsyevd", "cusolverDnDpotrf", 40, 64, 2, FIT_RIDGE, DISTINCT},
        {"ridge of masks that never differ", "cusolverDnDsyevd", "cusolverDnDpotrf", 30, 9, 2, FIT_RIDGE, CONSTANT},
    };
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            test_begin("%s on a device is the CPU's, %s", cases[k].name, orders[o]);
            setenv("COAR_STANDIN_ORDER", orders[o], 1);
            stand_in_reset();
            problem p = problem_new(cases[k].m, cases[k].n, cases[k].N, cases[k].estimator, cases[k].kind);
            check_same_fit(&p);
            CHECK(stand_in_count(cases[k].ran) > 0);
            if (cases[k].did_not) CHECK_INT(stand_in_count(cases[k].did_not), 0);
            problem_free(&p);
            check_released();
        }
    unsetenv("COAR_STANDIN_ORDER");
    stand_in_reset();
}

/* ----------------------------------------------------------------------------------------------- failures */

/* Every call that can fail does so once: the fit ends with the given status, and nothing stays behind. */
static void test_failing_calls(void) {
    const struct {
        const char *call;
        int error;
        coar_status expected;
        const char *text;
    } cases[] = {
        {"cudaStreamCreateWithFlags", 2, COAR_ERROR_MEMORY, "stream"},
        {"cudaMallocHost", 2, COAR_ERROR_MEMORY, "pinned"},
        {"cublasCreate_v2", 3, COAR_ERROR_MEMORY, "cublasCreate"},
        {"cusolverDnCreate", 2, COAR_ERROR_MEMORY, "cusolverDnCreate"},
        {"cudaMalloc", 2, COAR_ERROR_MEMORY, "Gram"},
        {"cudaMemcpyAsync", 719, COAR_ERROR_UNSUPPORTED, "masks"},
        {"cudaMemcpy2DAsync", 719, COAR_ERROR_UNSUPPORTED, "numbers"},
        {"cusolverDnDpotrf", 6, COAR_ERROR_UNSUPPORTED, "Dpotrf"},
        {"cusolverDnDpotrf_bufferSize", 7, COAR_ERROR_UNSUPPORTED, "Dpotrf"},
        {"cublasDtrsm_v2", 13, COAR_ERROR_UNSUPPORTED, "Dtrsm"},
        {"cublasDgemm_v2", 13, COAR_ERROR_UNSUPPORTED, "Dgemm"},
        {"cublasDgemmStridedBatched", 13, COAR_ERROR_UNSUPPORTED, "Strided"},
        {"cublasIdamax_v2", 13, COAR_ERROR_UNSUPPORTED, "Idamax"},
        {"cublasDaxpy_v2", 13, COAR_ERROR_UNSUPPORTED, "Daxpy"},
    };
    problem p = problem_new(120, 21, 3, FIT_OLS, DISTINCT);
    solution s = solution_new(&p);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        test_begin("a failing %s ends the fit", cases[k].call);
        fit_device *device = NULL;
        stand_in_reset();
        stand_in_fail(cases[k].call, 0, cases[k].error);
        status_clear();
        coar_status status = cuda_fit_create(0, 0, &device);
        if (status == COAR_OK) status = solve(&p, device, &s);
        CHECK_ERROR(status, cases[k].expected, cases[k].text);
        if (device) device->interface->destroy(device);
        CHECK_INT(stand_in_leaks(), 0);
    }
    stand_in_reset();
    solution_free(&s), problem_free(&p);
}

static void test_little_memory(void) {
    test_begin("a device with too little memory says what is needed");
    problem p = problem_new(120, 64, 3, FIT_OLS, DISTINCT);
    solution s = solution_new(&p);
    fit_device *device = NULL;
    CHECK_OK(cuda_fit_create(0, 40000, &device)); /* two 64 x 64 matrices of doubles are 65,536 bytes */
    if (!device) return;
    CHECK_ERROR(solve(&p, device, &s), COAR_ERROR_MEMORY, "device memory");
    device->interface->destroy(device);
    p.estimator = FIT_RIDGE;
    CHECK_OK(cuda_fit_create(0, 20000, &device));
    CHECK_ERROR(solve(&p, device, &s), COAR_ERROR_MEMORY, "device memory");
    device->interface->destroy(device);
    CHECK_OK(cuda_fit_create(0, 300, &device));
    CHECK_ERROR(solve(&p, device, &s), COAR_ERROR_MEMORY, "Gram matrix");
    device->interface->destroy(device);
    solution_free(&s), problem_free(&p);
    check_released();
}

static void test_indefinite(void) {
    test_begin("a matrix without a Cholesky factor is none, and no error");
    double matrix[] = {1, 2, 0, 2, 1, 0, 0, 0, 1};
    bool positive = true;
    fit_device *device = NULL;
    CHECK_OK(cuda_fit_create(0, 0, &device));
    if (!device) return;
    CHECK_OK(device->interface->factor(device, matrix, 3, &positive));
    CHECK(!positive);
    device->interface->destroy(device);
    check_released();
}

/* A matrix that is kept wrong: the residual of what the factor solves gives it away. */
static void test_unsound_device(void) {
    test_begin("a device that computes wrongly is found out by the refinement step");
    enum { SIDE = 12 };
    double matrix[SIDE * SIDE], right[SIDE];
    bool positive = false;
    fit_device *device = NULL;
    for (size_t x = 0; x < SIDE * SIDE; x++) matrix[x] = x % (SIDE + 1) ? 1 : SIDE;
    for (size_t x = 0; x < SIDE; x++) right[x] = noise(1, x);
    CHECK_OK(cuda_fit_create(0, 0, &device));
    if (!device) return;
    CHECK_OK(device->interface->factor(device, matrix, SIDE, &positive));
    CHECK(positive);
    cuda_fit *f = (cuda_fit *)device;
    double wrong = 5;
    CHECK_INT(cudaMemcpy(f->factor + 3 * SIDE + 3, &wrong, sizeof wrong, cudaMemcpyHostToDevice), cudaSuccess);
    CHECK_INT(cudaDeviceSynchronize(), cudaSuccess);
    status_clear();
    CHECK_ERROR(device->interface->solve(device, right, 1), COAR_ERROR_INTERNAL, "residual");
    device->interface->destroy(device);
    check_released();
}

/* ----------------------------------------------------------------------------------------------- coar_fit */

static void write_npy(const char *path, npy_type type, const void *data, size_t rows, size_t columns) {
    CHECK_OK(npy_write(path, type, 2, (const size_t[]){rows, columns}, data));
}

static void test_coar_fit(void) {
    test_begin("coar_fit: --backend");
    problem p = problem_new(90, 13, 4, FIT_RIDGE, DISTINCT);
    uint8_t *kept = fresh(p.m * p.n, 1);
    const char *masks = test_temporary("masks.npy"), *outputs = test_temporary("outputs.npy");
    for (size_t i = 0; i < p.m; i++)
        for (size_t j = 0; j < p.n; j++) kept[i * p.n + j] = p.masks[i * mask_bytes(p.n) + j / 8] >> j % 8 & 1;
    write_npy(masks, NPY_BOOL, kept, p.m, p.n);
    write_npy(outputs, NPY_F32, p.y, p.m, p.N);
    coar_fit_options o = COAR_FIT_INIT;
    coar_fit_result cpu, cuda;
    o.masks = masks;
    o.outputs = outputs;
    o.threads = 1;
    o.backend = "cpu";
    o.output_file = test_temporary("cpu.h5");
    CHECK_OK(coar_fit(&o, &cpu));
    CHECK_INT(stand_in_count("cusolverDnDsyevd"), 0);
    o.backend = "cuda";
    o.output_file = test_temporary("cuda.h5");
    CHECK_OK(coar_fit(&o, &cuda));
    CHECK(stand_in_count("cusolverDnDsyevd") > 0);
    CHECK_NEAR(cuda.heldout_mean, cpu.heldout_mean, 1e-9);
    o.force = 1;
    o.memory = 4096;
    CHECK_ERROR(coar_fit(&o, NULL), COAR_ERROR_MEMORY, "device memory");
    o.memory = 0;
    o.devices = "7";
    CHECK_ERROR(coar_fit(&o, NULL), COAR_ERROR_UNSUPPORTED, "device 7");
    o.devices = "-1";
    CHECK_ERROR(coar_fit(&o, NULL), COAR_ERROR_USAGE, "--devices '-1'");
    o.devices = NULL;
    o.backend = "abacus";
    CHECK_ERROR(coar_fit(&o, NULL), COAR_ERROR_USAGE, "abacus");
    problem_free(&p);
    free(kept);
    check_released();
}

int main(void) {
    test_gram();
    test_cross();
    test_fits();
    test_failing_calls();
    test_little_memory();
    test_indefinite();
    test_unsound_device();
    test_coar_fit();
    return test_end();
}
