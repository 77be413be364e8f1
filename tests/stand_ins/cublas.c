/*
 * cublas.c - a stand-in for the calls of cuBLAS in use: column-major, scalars on the host, work deferred to the
 * handle's stream. What the manual calls an invalid value is refused with CUBLAS_STATUS_INVALID_VALUE.
 *
 * Must not know: what the results are for.
 */
#include "library.h"

#include <cublas_v2.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KIND "cublasHandle_t"

struct cublasContext {
    handle handle;
    cublasMath_t math;
};

static handle *find(const char *call, cublasHandle_t h) {
    return handle_find(call, h, KIND);
}

static cublasStatus_t leave_cublas(cublasStatus_t status) {
    return (cublasStatus_t)leave_library((int)status);
}

static cublasStatus_t enter_cublas(const char *call) {
    return (cublasStatus_t)enter_library(call);
}

static cublasStatus_t put(const char *call, const handle *h, operation_run *run, const void *arguments, size_t size) {
    cudaError_t error = enqueue(call, handle_stream(call, h), run, arguments, size);
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* --------------------------------------------------------------------------------------------------- handles */

cublasStatus_t cublasCreate_v2(cublasHandle_t *out) {
    cublasStatus_t status = enter_cublas(__func__);
    *out = NULL;
    if (status == CUBLAS_STATUS_SUCCESS && usable() != cudaSuccess) status = CUBLAS_STATUS_NOT_INITIALIZED;
    if (status == CUBLAS_STATUS_SUCCESS) *out = (cublasHandle_t)handle_create(KIND, sizeof **out);
    return leave_cublas(status);
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t h) {
    cublasStatus_t status = enter_cublas(__func__);
    object_destroy(__func__, h, KIND);
    return leave_cublas(status);
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream) {
    cublasStatus_t status = enter_cublas(__func__);
    find(__func__, h)->stream = stream;
    handle_stream(__func__, &h->handle);
    return leave_cublas(status);
}

cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode) {
    cublasStatus_t status = enter_cublas(__func__);
    find(__func__, h);
    h->math = mode;
    return leave_cublas(status);
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void *workspace, size_t size) {
    cublasStatus_t status = enter_cublas(__func__);
    const handle *found = find(__func__, h);
    if (size) memory_check(__func__, "the workspace", workspace, size, found->device);
    if (size && !expect((uintptr_t)workspace % 256 == 0, __func__, "the workspace is aligned to 256 bytes"))
        status = CUBLAS_STATUS_INVALID_VALUE;
    return leave_cublas(status);
}

const char *cublasGetStatusString(cublasStatus_t status) {
    static const struct {
        cublasStatus_t status;
        const char *text;
    } texts[] = {
        {CUBLAS_STATUS_SUCCESS, "success"},
        {CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized"},
        {CUBLAS_STATUS_ALLOC_FAILED, "the resource allocation failed"},
        {CUBLAS_STATUS_INVALID_VALUE, "an unsupported value or parameter was passed to the function"},
        {CUBLAS_STATUS_ARCH_MISMATCH, "a feature is absent from the device"},
        {CUBLAS_STATUS_EXECUTION_FAILED, "the program failed to execute on the device"},
        {CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed"},
        {CUBLAS_STATUS_NOT_SUPPORTED, "the functionality is not supported"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].status == status) return texts[i].text;
    return "an unknown error";
}

/* -------------------------------------------------------------------------------------------- matrix products */

/* C = alpha op(A) op(B) + beta C for every matrix of a batch; `triangle` (0, 'U' or 'L') of C only. */
typedef struct gemm {
    const char *call;
    int device;
    argument a, b, c;
    cublasOperation_t trans_a, trans_b;
    int64_t m, n, k;
    double alpha, beta;
    sums sums;
    char triangle;
} gemm;

static matrix view(const argument *a, cublasOperation_t trans, int64_t i) {
    const bool as_is = trans == CUBLAS_OP_N;
    const char *p = (const char *)a->p + (size_t)(i * a->stride) * element_size(a->type);
    return (matrix){p, a->type, as_is ? 1 : (size_t)a->ld, as_is ? (size_t)a->ld : 1};
}

static void multiply_one(const gemm *g, int64_t i, double *product) {
    char *c = (char *)(uintptr_t)g->c.p + (size_t)(i * g->c.stride) * element_size(g->c.type);
    matrix_product(product, (size_t)g->m, (size_t)g->n, (size_t)g->k, view(&g->a, g->trans_a, i),
                   view(&g->b, g->trans_b, i), g->sums, 1);
    for (int64_t row = 0; row < g->m; row++)
        for (int64_t column = 0; column < g->n; column++) {
            if ((g->triangle == 'U' && row > column) || (g->triangle == 'L' && row < column)) continue;
            const size_t at = (size_t)(row + column * g->c.ld);
            double v = g->alpha * product[row * g->n + column];
            if (g->beta != 0) v += g->beta * element_load(c, g->c.type, at); /* beta 0: C may be NaN */
            element_store(c, g->c.type, at, v);
        }
}

static cudaError_t run_gemm(const void *arguments) {
    const gemm *g = arguments;
    argument_check(g->call, &g->a, g->device);
    argument_check(g->call, &g->b, g->device);
    argument_check(g->call, &g->c, g->device);
    double *product = malloc((size_t)(g->m * g->n + 1) * sizeof *product);
    if (!product) misuse(g->call, "out of host memory");
    for (int64_t i = 0; i < g->c.batch; i++) multiply_one(g, i, product);
    free(product);
    return cudaSuccess;
}

static cublasStatus_t do_gemm(const char *call, cublasHandle_t h, gemm g) {
    const handle *found = find(call, h);
    g.call = call;
    g.device = found->device;
    if (!expect(g.m >= 0 && g.n >= 0 && g.k >= 0, call, "m, n and k are not negative"))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!g.m || !g.n || !g.c.batch) return CUBLAS_STATUS_SUCCESS;
    if (!argument_valid(call, &g.a) || !argument_valid(call, &g.b) || !argument_valid(call, &g.c))
        return CUBLAS_STATUS_INVALID_VALUE;
    argument_check(call, &g.a, g.device);
    argument_check(call, &g.b, g.device);
    argument_check(call, &g.c, g.device);
    return put(call, found, run_gemm, &g, sizeof g);
}

/* op(X) is rows x columns. */
static argument operand(const char *name, const void *p, cudaDataType type, cublasOperation_t trans, int64_t rows,
                        int64_t columns, int64_t ld) {
    const bool as_is = trans == CUBLAS_OP_N;
    return (argument){name, p, type, as_is ? rows : columns, as_is ? columns : rows, ld, 0, 1};
}

static gemm make_gemm(cudaDataType type, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, double alpha,
                      const void *a, int lda, const void *b, int ldb, double beta, const void *c, int ldc) {
    return (gemm){.a = operand("A", a, type, ta, m, k, lda),
                  .b = operand("B", b, type, tb, k, n, ldb),
                  .c = operand("C", c, type, CUBLAS_OP_N, m, n, ldc),
                  .trans_a = ta,
                  .trans_b = tb,
                  .m = m,
                  .n = n,
                  .k = k,
                  .alpha = alpha,
                  .beta = beta,
                  .sums = type == CUDA_R_64F ? SUMS_F64 : SUMS_F32};
}

cublasStatus_t cublasDgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const double *alpha, const double *a, int lda, const double *b, int ldb,
                              const double *beta, double *c, int ldc) {
    cublasStatus_t status = enter_cublas(__func__);
    gemm g = make_gemm(CUDA_R_64F, ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
    return leave_cublas(status != CUBLAS_STATUS_SUCCESS ? status : do_gemm(__func__, h, g));
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const float *alpha, const float *a, int lda, const float *b, int ldb, const float *beta,
                              float *c, int ldc) {
    cublasStatus_t status = enter_cublas(__func__);
    gemm g = make_gemm(CUDA_R_32F, ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
    return leave_cublas(status != CUBLAS_STATUS_SUCCESS ? status : do_gemm(__func__, h, g));
}

cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                         int k, const double *alpha, const double *a, int lda, long long stride_a,
                                         const double *b, int ldb, long long stride_b, const double *beta, double *c,
                                         int ldc, long long stride_c, int batch) {
    cublasStatus_t status = enter_cublas(__func__);
    gemm g = make_gemm(CUDA_R_64F, ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
    g.a.batch = g.b.batch = g.c.batch = batch;
    g.a.stride = stride_a;
    g.b.stride = stride_b;
    g.c.stride = stride_c;
    if (status == CUBLAS_STATUS_SUCCESS && batch > 1 &&
        !expect(stride_c >= (n - 1) * (long long)ldc + m, __func__, "the matrices C of the batch do not overlap"))
        status = CUBLAS_STATUS_INVALID_VALUE;
    return leave_cublas(status != CUBLAS_STATUS_SUCCESS ? status : do_gemm(__func__, h, g));
}

/* The combinations of types that the manual's table has for fp32 scalars, as far as they are in use. */
static bool types_known(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
    if (compute == CUBLAS_COMPUTE_64F) return a == CUDA_R_64F && b == a && c == a;
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32 &&
        compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return false;
    if (a != b) return false;
    if (compute == CUBLAS_COMPUTE_32F_FAST_TF32 || a == CUDA_R_32F) return a == CUDA_R_32F && c == a;
    return (a == CUDA_R_16F || a == CUDA_R_16BF) && (c == a || c == CUDA_R_32F);
}

cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType type_a, int lda, const void *b,
                            cudaDataType type_b, int ldb, const void *beta, void *c, cudaDataType type_c, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    cublasStatus_t status = enter_cublas(__func__);
    (void)algorithm; /* without effect since sm_80 */
    if (status == CUBLAS_STATUS_SUCCESS && !types_known(type_a, type_b, type_c, compute)) {
        refuse(__func__, "types %d, %d -> %d with compute type %d", (int)type_a, (int)type_b, (int)type_c,
               (int)compute);
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (status != CUBLAS_STATUS_SUCCESS) return leave_cublas(status);
    const cudaDataType scalar = compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    gemm g = make_gemm(type_a, ta, tb, m, n, k, element_load(alpha, scalar, 0), a, lda, b, ldb,
                       element_load(beta, scalar, 0), c, ldc);
    g.c.type = type_c;
    g.sums = compute == CUBLAS_COMPUTE_64F ? SUMS_F64 : compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? SUMS_TF32 : SUMS_F32;
    return leave_cublas(do_gemm(__func__, h, g));
}

/* C = alpha op(A) op(A)' + beta C, op(A) n x k. */
static cublasStatus_t do_syrk(const char *call, cublasHandle_t h, cudaDataType type, cublasFillMode_t uplo,
                              cublasOperation_t trans, int n, int k, double alpha, const void *a, int lda, double beta,
                              void *c, int ldc) {
    if (!expect(uplo == CUBLAS_FILL_MODE_LOWER || uplo == CUBLAS_FILL_MODE_UPPER, call, "uplo is lower or upper"))
        return CUBLAS_STATUS_INVALID_VALUE;
    const cublasOperation_t other = trans == CUBLAS_OP_N ? CUBLAS_OP_T : CUBLAS_OP_N;
    gemm g = make_gemm(type, trans, other, n, n, k, alpha, a, lda, a, lda, beta, c, ldc);
    g.triangle = uplo == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L';
    return do_gemm(call, h, g);
}

cublasStatus_t cublasDsyrk_v2(cublasHandle_t h, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                              const double *alpha, const double *a, int lda, const double *beta, double *c, int ldc) {
    cublasStatus_t status = enter_cublas(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = do_syrk(__func__, h, CUDA_R_64F, uplo, trans, n, k, *alpha, a, lda, *beta, c, ldc);
    return leave_cublas(status);
}

cublasStatus_t cublasSsyrk_v2(cublasHandle_t h, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                              const float *alpha, const float *a, int lda, const float *beta, float *c, int ldc) {
    cublasStatus_t status = enter_cublas(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = do_syrk(__func__, h, CUDA_R_32F, uplo, trans, n, k, *alpha, a, lda, *beta, c, ldc);
    return leave_cublas(status);
}

/* ---------------------------------------------------------------------------------------- triangular systems */

/* op(A) X = alpha B (left) or X op(A) = alpha B (right); X overwrites B, which is m x n. */
typedef struct trsm {
    int device;
    argument a, b;
    bool left, upper, unit; /* upper: op(A) is */
    cublasOperation_t trans;
    double alpha;
} trsm;

static double triangle_element(const trsm *t, int64_t i, int64_t j) {
    const double *a = t->a.p;
    return t->trans == CUBLAS_OP_N ? a[i + j * t->a.ld] : a[j + i * t->a.ld];
}

/* One system T x = x in place, the elements of x `step` apart; T = op(A), or its transpose for X op(A) = B. */
static void substitute(const trsm *t, double *x, int64_t step, int64_t n) {
    const bool backwards = t->left == t->upper;
    for (int64_t r = 0; r < n; r++) {
        const int64_t i = backwards ? n - 1 - r : r;
        double v = t->alpha * x[i * step];
        for (int64_t q = 0; q < r; q++) {
            const int64_t j = backwards ? n - 1 - q : q;
            v -= (t->left ? triangle_element(t, i, j) : triangle_element(t, j, i)) * x[j * step];
        }
        x[i * step] = t->unit ? v : v / triangle_element(t, i, i);
    }
}

static cudaError_t run_trsm(const void *arguments) {
    const trsm *t = arguments;
    double *b = (double *)(uintptr_t)t->b.p;
    argument_check("cublasDtrsm_v2", &t->a, t->device);
    argument_check("cublasDtrsm_v2", &t->b, t->device);
    const int64_t systems = t->left ? t->b.columns : t->b.rows;
    for (int64_t s = 0; s < systems; s++) {
        if (t->left)
            substitute(t, b + s * t->b.ld, 1, t->b.rows);
        else
            substitute(t, b + s, t->b.ld, t->b.columns);
    }
    return cudaSuccess;
}

cublasStatus_t cublasDtrsm_v2(cublasHandle_t h, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans,
                              cublasDiagType_t diag, int m, int n, const double *alpha, const double *a, int lda,
                              double *b, int ldb) {
    cublasStatus_t status = enter_cublas(__func__);
    if (status != CUBLAS_STATUS_SUCCESS) return leave_cublas(status);
    const handle *found = find(__func__, h);
    const bool left = side == CUBLAS_SIDE_LEFT, as_is = trans == CUBLAS_OP_N;
    trsm t = {.device = found->device,
              .a = {"A", a, CUDA_R_64F, left ? m : n, left ? m : n, lda, 0, 1},
              .b = {"B", b, CUDA_R_64F, m, n, ldb, 0, 1},
              .left = left,
              .upper = (uplo == CUBLAS_FILL_MODE_UPPER) == as_is,
              .unit = diag == CUBLAS_DIAG_UNIT,
              .trans = trans,
              .alpha = *alpha};
    if (!m || !n) return leave_cublas(status);
    if (!argument_valid(__func__, &t.a) || !argument_valid(__func__, &t.b))
        return leave_cublas(CUBLAS_STATUS_INVALID_VALUE);
    argument_check(__func__, &t.a, t.device);
    argument_check(__func__, &t.b, t.device);
    return leave_cublas(put(__func__, found, run_trsm, &t, sizeof t));
}

/* --------------------------------------------------------------------------------------------------- vectors */

typedef struct axpy {
    int device;
    argument x, y; /* as rows of a matrix whose leading dimension is the increment */
    double alpha;
} axpy;

static cudaError_t run_axpy(const void *arguments) {
    const axpy *v = arguments;
    const double *x = v->x.p;
    double *y = (double *)(uintptr_t)v->y.p;
    argument_check("cublasDaxpy_v2", &v->x, v->device);
    argument_check("cublasDaxpy_v2", &v->y, v->device);
    for (int64_t i = 0; i < v->x.columns; i++) y[i * v->y.ld] += v->alpha * x[i * v->x.ld];
    return cudaSuccess;
}

cublasStatus_t cublasDaxpy_v2(cublasHandle_t h, int n, const double *alpha, const double *x, int incx, double *y,
                              int incy) {
    cublasStatus_t status = enter_cublas(__func__);
    if (status != CUBLAS_STATUS_SUCCESS || n <= 0) return leave_cublas(status);
    const handle *found = find(__func__, h);
    axpy v = {found->device, {"x", x, CUDA_R_64F, 1, n, incx, 0, 1}, {"y", y, CUDA_R_64F, 1, n, incy, 0, 1}, *alpha};
    if (!argument_valid(__func__, &v.x) || !argument_valid(__func__, &v.y))
        return leave_cublas(CUBLAS_STATUS_INVALID_VALUE);
    argument_check(__func__, &v.x, v.device);
    argument_check(__func__, &v.y, v.device);
    return leave_cublas(put(__func__, found, run_axpy, &v, sizeof v));
}

typedef struct amax {
    int device;
    argument x;
    int *result;
} amax;

static cudaError_t run_amax(const void *arguments) {
    const amax *v = arguments;
    const double *x = v->x.p;
    argument_check("cublasIdamax_v2", &v->x, v->device);
    int best = 0;
    for (int64_t i = 1; i < v->x.columns; i++)
        if (fabs(x[i * v->x.ld]) > fabs(x[best * v->x.ld])) best = (int)i;
    *v->result = best + 1;
    return cudaSuccess;
}

/* The result is in host memory, so the call waits for the stream. */
cublasStatus_t cublasIdamax_v2(cublasHandle_t h, int n, const double *x, int incx, int *result) {
    cublasStatus_t status = enter_cublas(__func__);
    if (status != CUBLAS_STATUS_SUCCESS) return leave_cublas(status);
    const handle *found = find(__func__, h);
    struct CUstream_st *s = handle_stream(__func__, found);
    *result = 0;
    if (n <= 0) return leave_cublas(status);
    amax v = {found->device, {"x", x, CUDA_R_64F, 1, n, incx, 0, 1}, result};
    if (!argument_valid(__func__, &v.x)) return leave_cublas(CUBLAS_STATUS_INVALID_VALUE);
    argument_check(__func__, &v.x, v.device);
    if (capture_forbids_stream(__func__, s) != cudaSuccess) return leave_cublas(CUBLAS_STATUS_EXECUTION_FAILED);
    status = put(__func__, found, run_amax, &v, sizeof v);
    if (status == CUBLAS_STATUS_SUCCESS && run_until(stream_end(s)) != cudaSuccess)
        status = CUBLAS_STATUS_EXECUTION_FAILED;
    return leave_cublas(status);
}
