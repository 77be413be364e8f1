/*
 * stand_in_algebra.c - the stand-ins for cuBLAS, cuSOLVER and cuBLASLt: results against sums in double or against what
 * they must satisfy, work deferred like everything else, arguments refused as the manuals say.
 */
#include "stand_ins/stand_ins.h"
#include "test.h"

#include <cublas_v2.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>
#include <stdbool.h>
#include <stdint.h>

#define CHECK_CALL(call) CHECK_INT(call, 0)

enum { SENTINEL = 12345 };

static cublasHandle_t blas;
static cusolverDnHandle_t solver;
static cublasLtHandle_t lt;
static cudaStream_t stream;

/* A number between -1 and 1 that depends on both. */
static double number(size_t i, size_t seed) {
    const uint64_t z = (i * 2654435761u + seed * 40503u + 12345) * 0x9e3779b97f4a7c15u;
    return (double)(z >> 40) / (1 << 23) - 1;
}

static void fill(double *x, size_t count, size_t seed) {
    for (size_t i = 0; i < count; i++) x[i] = number(i, seed);
}

static void *upload(const void *host, size_t bytes) {
    void *p = NULL;
    CHECK_CALL(cudaMalloc(&p, bytes));
    CHECK_CALL(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    CHECK_CALL(cudaDeviceSynchronize()); /* the copy may return before it has arrived */
    return p;
}

/* Waits for the stream, reads and frees. */
static void take(void *host, void *device, size_t bytes) {
    CHECK_CALL(cudaStreamSynchronize(stream));
    CHECK_CALL(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
    CHECK_CALL(cudaFree(device));
}

static double element(const double *a, int ld, cublasOperation_t trans, int i, int j) {
    return trans == CUBLAS_OP_N ? a[i + j * ld] : a[j + i * ld];
}

/* ---------------------------------------------------------------------------------------------------- cuBLAS */

enum { M = 7, N = 5, K = 9, LD = 11 };

static void test_gemm(void) {
    test_begin("cublasDgemm: both operands transposed or not");
    const double alpha = -1.5, beta = 0.5;
    double a[LD * LD], b[LD * LD], c[LD * N], before[LD * N];
    for (int combination = 0; combination < 4; combination++) {
        const cublasOperation_t ta = combination & 1 ? CUBLAS_OP_T : CUBLAS_OP_N;
        const cublasOperation_t tb = combination & 2 ? CUBLAS_OP_T : CUBLAS_OP_N;
        fill(a, LD * LD, 1);
        fill(b, LD * LD, 2);
        fill(before, LD * N, 3);
        double *da = upload(a, sizeof a), *db = upload(b, sizeof b), *dc = upload(before, sizeof before);
        CHECK_CALL(cublasDgemm(blas, ta, tb, M, N, K, &alpha, da, LD, db, LD, &beta, dc, LD));
        take(c, dc, sizeof c);
        for (int j = 0; j < N; j++)
            for (int i = 0; i < LD; i++) {
                double expected = before[i + j * LD];
                if (i < M) {
                    expected *= beta;
                    for (int k = 0; k < K; k++) expected += alpha * element(a, LD, ta, i, k) * element(b, LD, tb, k, j);
                }
                CHECK_NEAR(c[i + j * LD], expected, i < M ? 1e-12 : 0);
            }
        cudaFree(da);
        cudaFree(db);
    }
}

static void test_gemm_types(void) {
    test_begin("cublasGemmEx: bf16 operands, fp32 result; tf32 rounds its operands");
    const float one = 1, zero = 0;
    const uint16_t bits[4] = {0x3f80, 0x4000, 0xbf80, 0x3f00}; /* 1, 2, -1, 1/2 */
    float c[4];
    uint16_t *a = upload(bits, sizeof bits);
    float *d = upload(c, sizeof c);
    CHECK_CALL(cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, 2, 2, 2, &one, a, CUDA_R_16BF, 2, a, CUDA_R_16BF, 2, &zero,
                            d, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    take(c, d, sizeof c);
    CHECK_NEAR(c[0], 5, 0);
    CHECK_NEAR(c[1], 0, 0);
    CHECK_NEAR(c[3], 1.25, 0);

    const float x = 1 + 3.0f / 4096, rounded = 1 + 1.0f / 1024; /* three quarters of tf32's last bit */
    float *dx = upload(&x, sizeof x), y, *dy = upload(&x, sizeof x);
    CHECK_CALL(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, dx, CUDA_R_32F, 1, dx, CUDA_R_32F, 1, &zero,
                            dy, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT));
    take(&y, dy, sizeof y);
    CHECK_NEAR(y, rounded * rounded, 0);
    cudaFree(a);
    cudaFree(dx);
}

static void test_syrk(void) {
    test_begin("cublasDsyrk: one triangle, the other one untouched");
    const double alpha = 2, beta = 0;
    double a[LD * LD], c[LD * M];
    fill(a, LD * LD, 4);
    for (int combination = 0; combination < 4; combination++) {
        const cublasOperation_t trans = combination & 1 ? CUBLAS_OP_T : CUBLAS_OP_N;
        const bool upper = combination & 2;
        for (int i = 0; i < LD * M; i++) c[i] = SENTINEL;
        double *da = upload(a, sizeof a), *dc = upload(c, sizeof c);
        CHECK_CALL(cublasDsyrk(blas, upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER, trans, M, K, &alpha, da,
                               LD, &beta, dc, LD));
        take(c, dc, sizeof c);
        for (int j = 0; j < M; j++)
            for (int i = 0; i < LD; i++) {
                double expected = 0;
                for (int k = 0; k < K && i < M; k++)
                    expected += alpha * element(a, LD, trans, i, k) * element(a, LD, trans, j, k);
                const bool written = i < M && (upper ? i <= j : i >= j);
                CHECK_NEAR(c[i + j * LD], written ? expected : SENTINEL, written ? 1e-12 : 0);
            }
        cudaFree(da);
    }
}

/* The solution, put back into the equation, gives the right-hand side. */
static void check_trsm(bool left, bool upper, bool transposed) {
    const double alpha = 0.5;
    const int n = left ? M : N;
    double a[LD * LD], b[LD * N], x[LD * N];
    fill(a, LD * LD, 5);
    fill(b, LD * N, 6);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            if (i == j)
                a[i + j * LD] = 3 + i;
            else if (upper != (i < j))
                a[i + j * LD] = NAN; /* not to be read */
        }
    double *da = upload(a, sizeof a), *db = upload(b, sizeof b);
    CHECK_CALL(cublasDtrsm(blas, left ? CUBLAS_SIDE_LEFT : CUBLAS_SIDE_RIGHT,
                           upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER,
                           transposed ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, M, N, &alpha, da, LD, db, LD));
    take(x, db, sizeof x);
    cudaFree(da);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (isnan(a[i + j * LD])) a[i + j * LD] = 0;
    const cublasOperation_t trans = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += left ? element(a, LD, trans, i, k) * x[k + j * LD] : x[i + k * LD] * element(a, LD, trans, k, j);
            CHECK_NEAR(sum, alpha * b[i + j * LD], 1e-12);
        }
}

static void test_trsm(void) {
    test_begin("cublasDtrsm: every side, triangle and transposition");
    for (int c = 0; c < 8; c++) check_trsm(c & 1, c & 2, c & 4);
}

static void test_vectors(void) {
    test_begin("cublasIdamax, cublasDaxpy, cublasDgemmStridedBatched");
    const double x[6] = {1, -9, 3, 2, 8, -4}, y[3] = {1, 1, 1}, alpha = 2, one = 1, zero = 0;
    double sum[3];
    int index = -1;
    double *dx = upload(x, sizeof x), *dy = upload(y, sizeof y);
    CHECK_CALL(cublasIdamax(blas, 6, dx, 1, &index));
    CHECK_INT(index, 2);
    CHECK_CALL(cublasIdamax(blas, 3, dx, 2, &index));
    CHECK_INT(index, 3);
    CHECK_CALL(cublasDaxpy(blas, 3, &alpha, dx, 2, dy, 1));
    take(sum, dy, sizeof sum);
    CHECK_NEAR(sum[0], 3, 0);
    CHECK_NEAR(sum[2], 17, 0);

    dy = upload(y, sizeof y); /* squared norms of three columns of two */
    CHECK_CALL(cublasDgemmStridedBatched(blas, CUBLAS_OP_T, CUBLAS_OP_N, 1, 1, 2, &one, dx, 2, 2, dx, 2, 2, &zero, dy,
                                         1, 1, 3));
    take(sum, dy, sizeof sum);
    CHECK_NEAR(sum[0], 82, 0);
    CHECK_NEAR(sum[1], 13, 0);
    CHECK_NEAR(sum[2], 80, 0);
    cudaFree(dx);
}

static void test_blas_strict(void) {
    test_begin("cuBLAS: deferred, and strict about leading dimensions, alignment and types");
    const double one = 1, zero = 0, x[16] = {0};
    const float onef = 1;
    double *d = upload(x, sizeof x);
    const size_t refused = stand_in_refusals();
    CHECK_CALL(cublasDgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, d, 2, d + 4, 2, &zero, d + 8, 2));
    CHECK_INT(stand_in_count("run cublasDgemm_v2"), 4); /* those of test_gemm */
    CHECK_CALL(cudaStreamSynchronize(stream));
    CHECK_INT(stand_in_count("run cublasDgemm_v2"), 5);
    CHECK_INT(cublasDgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, d, 1, d + 4, 2, &zero, d + 8, 2),
              CUBLAS_STATUS_INVALID_VALUE);
    CHECK_INT(cublasDgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, (double *)((char *)d + 4), 2, d + 4, 2, &zero,
                          d + 8, 2),
              CUBLAS_STATUS_INVALID_VALUE);
    CHECK_INT(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &onef, d, CUDA_R_16F, 1, d, CUDA_R_16BF, 1, &onef,
                           d, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
              CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK_INT(stand_in_refusals(), refused + 3);
    stand_in_fail("cublasDgemm_v2", 0, CUBLAS_STATUS_EXECUTION_FAILED);
    CHECK_INT(cublasDgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, d, 2, d + 4, 2, &zero, d + 8, 2),
              CUBLAS_STATUS_EXECUTION_FAILED);
    cudaFree(d);
}

/* -------------------------------------------------------------------------------------------------- cuSOLVER */

/* A symmetric positive definite matrix: R'R + I. */
static void make_definite(double *a) {
    double r[M * M];
    fill(r, M * M, 8);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            a[i + j * LD] = i == j;
            for (int k = 0; k < M; k++) a[i + j * LD] += r[k + i * M] * r[k + j * M];
        }
}

static void check_cholesky(bool upper) {
    const cublasFillMode_t uplo = upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER;
    double a[LD * M], b[LD * N], x[LD * N];
    int size = 0, info = -1;
    fill(a, LD * M, 7);
    make_definite(a);
    fill(b, LD * N, 9);
    double *da = upload(a, sizeof a), *db = upload(b, sizeof b), *work = NULL;
    int *dinfo = upload(&info, sizeof info);
    CHECK_CALL(cusolverDnDpotrf_bufferSize(solver, uplo, M, da, LD, &size));
    CHECK_CALL(cudaMalloc((void **)&work, (size_t)size * sizeof *work));
    CHECK_INT(cusolverDnDpotrf(solver, uplo, M, da, LD, work, size - 1, dinfo), CUSOLVER_STATUS_INVALID_VALUE);
    CHECK_CALL(cusolverDnDpotrf(solver, uplo, M, da, LD, work, size, dinfo));
    CHECK_CALL(cusolverDnDpotrs(solver, uplo, M, N, da, LD, db, LD, dinfo));
    take(x, db, sizeof x);
    take(&info, dinfo, sizeof info);
    CHECK_INT(info, 0);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < M; k++) sum += a[i + k * LD] * x[k + j * LD];
            CHECK_NEAR(sum, b[i + j * LD], 1e-11);
        }

    a[2 + 2 * LD] = -1; /* the leading minor of order 3 is not positive */
    CHECK_CALL(cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice));
    CHECK_CALL(cudaDeviceSynchronize());
    dinfo = upload(&info, sizeof info);
    CHECK_CALL(cusolverDnDpotrf(solver, uplo, M, da, LD, work, size, dinfo));
    take(&info, dinfo, sizeof info);
    CHECK_INT(info, 3);
    cudaFree(da);
    cudaFree(work);
}

static void test_solver(void) {
    test_begin("cusolverDnDpotrf, potrs: solutions, failures in devInfo, workspaces");
    check_cholesky(true);
    check_cholesky(false);

    test_begin("cusolverDnDsyevd: A v = w v, in ascending order");
    double a[LD * M], v[LD * M], w[M];
    int size = 0, info = -1;
    fill(a, LD * M, 7);
    make_definite(a);
    double *da = upload(a, sizeof a), *dw = upload(w, sizeof w), *work = NULL;
    int *dinfo = upload(&info, sizeof info);
    CHECK_CALL(
        cusolverDnDsyevd_bufferSize(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, M, da, LD, dw, &size));
    CHECK_CALL(cudaMalloc((void **)&work, (size_t)size * sizeof *work));
    CHECK_CALL(
        cusolverDnDsyevd(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, M, da, LD, dw, work, size, dinfo));
    take(v, da, sizeof v);
    take(w, dw, sizeof w);
    take(&info, dinfo, sizeof info);
    cudaFree(work);
    CHECK_INT(info, 0);
    for (int j = 0; j < M; j++) {
        CHECK(!j || w[j - 1] <= w[j]);
        for (int i = 0; i < M; i++) {
            double sum = 0;
            for (int k = 0; k < M; k++) sum += a[i + k * LD] * v[k + j * LD];
            CHECK_NEAR(sum, w[j] * v[i + j * LD], 1e-11);
        }
    }
}

/* -------------------------------------------------------------------------------------------------- cuBLASLt */

enum {
    ROWS = 24,
    OUT = 16,
    IN = 32
}; /* y[ROWS][OUT] = x[ROWS][IN] w[OUT][IN]', all row-major: D = op(w) x, column-major */

typedef struct product {
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found[8];
    int count;
} product;

static void open_product(product *p, int64_t ld, uint64_t workspace) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    CHECK_CALL(cublasLtMatmulDescCreate(&p->how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CHECK_CALL(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    CHECK_CALL(cublasLtMatrixLayoutCreate(&p->w, CUDA_R_32F, IN, OUT, ld));
    CHECK_CALL(cublasLtMatrixLayoutCreate(&p->x, CUDA_R_32F, IN, ROWS, ld));
    CHECK_CALL(cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32F, OUT, ROWS, OUT));
    CHECK_CALL(cublasLtMatmulPreferenceCreate(&p->wish));
    CHECK_CALL(cublasLtMatmulPreferenceSetAttribute(p->wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                    sizeof workspace));
    CHECK_CALL(cublasLtMatmulAlgoGetHeuristic(lt, p->how, p->w, p->x, p->y, p->y, p->wish, 8, p->found, &p->count));
}

static void close_product(product *p) {
    CHECK_CALL(cublasLtMatmulDescDestroy(p->how));
    CHECK_CALL(cublasLtMatrixLayoutDestroy(p->w));
    CHECK_CALL(cublasLtMatrixLayoutDestroy(p->x));
    CHECK_CALL(cublasLtMatrixLayoutDestroy(p->y));
    CHECK_CALL(cublasLtMatmulPreferenceDestroy(p->wish));
}

static void test_lt_algorithms(void) {
    test_begin("cublasLtMatmul: every algorithm agrees, with bias and ReLU; one is wrong on request");
    static float w[OUT * IN], x[ROWS * IN], bias[OUT], y[ROWS * OUT];
    const float alpha = 1, beta = 0;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_RELU_BIAS;
    size_t different = 0;
    for (int i = 0; i < OUT * IN; i++) w[i] = (float)number((size_t)i, 1);
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)number((size_t)i, 2);
    for (int i = 0; i < OUT; i++) bias[i] = (float)number((size_t)i, 3);
    float *dw = upload(w, sizeof w), *dx = upload(x, sizeof x), *db = upload(bias, sizeof bias);
    void *workspace = NULL;
    product p;
    open_product(&p, IN, 1 << 20);
    CHECK_CALL(cudaMalloc(&workspace, 1 << 20));
    CHECK_CALL(cublasLtMatmulDescSetAttribute(p.how, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    CHECK_CALL(cublasLtMatmulDescSetAttribute(p.how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &db, sizeof db));
    CHECK_INT(p.count, 4);
    for (int a = 0; a < p.count; a++) {
        float *dy = upload(y, sizeof y);
        double worst = 0;
        CHECK_CALL(cublasLtMatmul(lt, p.how, &alpha, dw, p.w, dx, p.x, &beta, dy, p.y, dy, p.y, &p.found[a].algo,
                                  workspace, p.found[a].workspaceSize, stream));
        take(y, dy, sizeof y);
        for (int r = 0; r < ROWS; r++)
            for (int o = 0; o < OUT; o++) {
                double sum = bias[o];
                for (int k = 0; k < IN; k++) sum += (double)w[o * IN + k] * x[r * IN + k];
                worst = fmax(worst, fabs(y[r * OUT + o] - fmax(sum, 0)));
            }
        different += worst > 1e-5;
    }
    CHECK_INT(different, getenv("COAR_STANDIN_WRONG") != NULL);
    close_product(&p);
    cudaFree(workspace);
    cudaFree(dw);
    cudaFree(dx);
    cudaFree(db);
}

static void test_lt_strict(void) {
    test_begin("cuBLASLt: algorithms kept by their settings; workspaces, alignment, shapes and types");
    const float alpha = 1, beta = 0;
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulAlgo_t again;
    int32_t id = -1, splits = 0;
    const int32_t two = 2;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    char *memory = NULL;
    product p, odd;
    CHECK_CALL(cudaMalloc((void **)&memory, 1 << 20));
    CHECK_CALL(cudaMemset(memory, 0, 1 << 20));
    open_product(&p, IN, 1 << 20);
    CHECK_CALL(cublasLtMatmulAlgoConfigGetAttribute(&p.found[0].algo, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, NULL));
    CHECK_CALL(cublasLtMatmulAlgoConfigGetAttribute(&p.found[0].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits,
                                                    sizeof splits, NULL));
    CHECK_INT(id, 2);
    CHECK_INT(splits, 3);
    CHECK_CALL(cublasLtMatmulAlgoInit(lt, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F,
                                      CUDA_R_32F, 2, &again));
    CHECK_CALL(cublasLtMatmulAlgoConfigSetAttribute(&again, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &two, sizeof two));
    CHECK_INT(cublasLtMatmulAlgoCheck(lt, p.how, p.w, p.x, p.y, p.y, &again, &result), CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK_CALL(cublasLtMatmulAlgoConfigSetAttribute(&again, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                                    sizeof reduction));
    CHECK_CALL(cublasLtMatmulAlgoCheck(lt, p.how, p.w, p.x, p.y, p.y, &again, &result));
    CHECK_INT(result.workspaceSize, ROWS * OUT * 2 * sizeof(float));

    float *w = (float *)memory, *x = (float *)(memory + 8192), *y = (float *)(memory + 16384);
    void *workspace = memory + 65536;
    CHECK_INT(cublasLtMatmul(lt, p.how, &alpha, w, p.w, x, p.x, &beta, y, p.y, y, p.y, &again, workspace, 8, stream),
              CUBLAS_STATUS_INVALID_VALUE);
    CHECK_INT(
        cublasLtMatmul(lt, p.how, &alpha, w + 1, p.w, x, p.x, &beta, y, p.y, y, p.y, &again, workspace, 65536, stream),
        CUBLAS_STATUS_INVALID_VALUE);
    CHECK_INT(
        cublasLtMatmul(lt, p.how, &alpha, w, p.w, x, p.x, &beta, y, p.y, y, p.x, &again, workspace, 65536, stream),
        CUBLAS_STATUS_INVALID_VALUE);
    CHECK_INT(cublasLtMatmulDescSetAttribute(p.how, CUBLASLT_MATMUL_DESC_TRANSB, &two, 1), CUBLAS_STATUS_INVALID_VALUE);
    CHECK_CALL(cublasLtMatmulAlgoInit(lt, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF, CUDA_R_32F,
                                      CUDA_R_32F, 0, &again));
    CHECK_INT(cublasLtMatmulAlgoCheck(lt, p.how, p.w, p.x, p.y, p.y, &again, &result), CUBLAS_STATUS_INVALID_VALUE);

    open_product(&odd, IN + 1, 0); /* rows that are not aligned to 16 bytes, no workspace: one algorithm is left */
    CHECK_INT(odd.count, 1);
    close_product(&odd);
    close_product(&p);
    CHECK_CALL(cudaDeviceSynchronize());
    cudaFree(memory);
}

int main(void) {
    CHECK_CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CALL(cublasCreate(&blas));
    CHECK_CALL(cublasSetStream(blas, stream));
    CHECK_CALL(cusolverDnCreate(&solver));
    CHECK_CALL(cusolverDnSetStream(solver, stream));
    test_gemm();
    test_gemm_types();
    test_syrk();
    test_trsm();
    test_vectors();
    test_blas_strict();
    test_solver();
    CHECK_CALL(cublasDestroy(blas));
    CHECK_CALL(cusolverDnDestroy(solver));
    CHECK_CALL(cublasLtCreate(&lt));
    test_lt_algorithms();
    test_lt_strict();
    CHECK_CALL(cublasLtDestroy(lt));
    CHECK_CALL(cudaStreamDestroy(stream));

    setenv("COAR_STANDIN_WRONG", "cublaslt:1", 1);
    stand_in_reset();
    CHECK_CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CALL(cublasLtCreate(&lt));
    test_lt_algorithms();
    CHECK_CALL(cublasLtDestroy(lt));
    CHECK_CALL(cudaStreamDestroy(stream));
    CHECK_INT(stand_in_leaks(), 0);
    return test_end();
}
