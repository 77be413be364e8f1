/*
 * cusolver.c - a stand-in for the calls of cuSOLVER's dense part in use. Workspaces are filled with NaN, since nothing
 * else may live in them; results of a failed factorisation are reported in devInfo, when the work has run.
 *
 * Must not know: what the systems are for.
 */
#include "library.h"

#include <cusolverDn.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#define KIND "cusolverDnHandle_t"

struct cusolverDnContext {
    handle handle;
};

static handle *find(const char *call, cusolverDnHandle_t h) {
    return handle_find(call, h, KIND);
}

static cusolverStatus_t enter_cusolver(const char *call) {
    return (cusolverStatus_t)enter_library(call);
}

static cusolverStatus_t leave_cusolver(cusolverStatus_t status) {
    return (cusolverStatus_t)leave_library((int)status);
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *out) {
    cusolverStatus_t status = enter_cusolver(__func__);
    *out = NULL;
    if (status == CUSOLVER_STATUS_SUCCESS && usable() != cudaSuccess) status = CUSOLVER_STATUS_NOT_INITIALIZED;
    if (status == CUSOLVER_STATUS_SUCCESS) *out = (cusolverDnHandle_t)handle_create(KIND, sizeof **out);
    return leave_cusolver(status);
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t h) {
    cusolverStatus_t status = enter_cusolver(__func__);
    object_destroy(__func__, h, KIND);
    return leave_cusolver(status);
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t h, cudaStream_t stream) {
    cusolverStatus_t status = enter_cusolver(__func__);
    find(__func__, h)->stream = stream;
    handle_stream(__func__, &h->handle);
    return leave_cusolver(status);
}

/* ----------------------------------------------------------------------------------- one call, of any function */

typedef struct solve {
    const char *call;
    int device;
    argument a, b; /* b: right-hand sides, or eigenvalues; rows 0 = none */
    argument workspace, info;
    bool upper, vectors;
} solve;

typedef cudaError_t solve_run(const void *arguments);

static argument square(const void *a, cudaDataType type, int n, int lda) {
    return (argument){"A", a, type, n, n, lda, 0, 1};
}

static argument vector(const char *name, const void *p, cudaDataType type, int64_t n) {
    return (argument){name, p, type, n, 1, n > 1 ? n : 1, 0, 1};
}

static void check_memory(const solve *s) {
    argument_check(s->call, &s->a, s->device);
    argument_check(s->call, &s->b, s->device);
    argument_check(s->call, &s->workspace, s->device);
    argument_check(s->call, &s->info, s->device);
}

/* When the work runs: checks the memory again and spoils the workspace. */
static void begin_run(const solve *s) {
    check_memory(s);
    if (s->workspace.rows)
        memset((void *)(uintptr_t)s->workspace.p, 0xff, (size_t)s->workspace.rows * element_size(s->workspace.type));
}

static void set_info(const solve *s, int value) {
    *(int *)(uintptr_t)s->info.p = value;
}

static cusolverStatus_t put(const char *call, cusolverDnHandle_t h, solve_run *run, solve s, int64_t needed) {
    const handle *found = find(call, h);
    s.call = call;
    s.device = found->device;
    if (!argument_valid(call, &s.a) || (s.b.rows && !argument_valid(call, &s.b)) || !argument_valid(call, &s.info))
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (s.workspace.rows < needed) {
        refuse(call, "the workspace has %lld elements, %lld are needed", (long long)s.workspace.rows,
               (long long)needed);
        return CUSOLVER_STATUS_INVALID_VALUE;
    }
    check_memory(&s);
    cudaError_t error = enqueue(call, handle_stream(call, found), run, &s, sizeof s);
    return error == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INTERNAL_ERROR;
}

/* Any number would do that depends on the arguments. */
static int64_t workspace_of(int64_t n) {
    return 32 * n + 64;
}

static cusolverStatus_t give_size(const char *call, cusolverDnHandle_t h, argument a, int *size) {
    find(call, h);
    if (!argument_valid(call, &a)) return CUSOLVER_STATUS_INVALID_VALUE;
    *size = (int)workspace_of(a.rows);
    return CUSOLVER_STATUS_SUCCESS;
}

/* -------------------------------------------------------------------------------------------------- Cholesky */

static double get(const solve *s, int64_t i, int64_t j) {
    return element_load(s->a.p, s->a.type, (size_t)(s->upper ? j + i * s->a.ld : i + j * s->a.ld));
}

static void set(const solve *s, int64_t i, int64_t j, double v) {
    element_store((void *)(uintptr_t)s->a.p, s->a.type, (size_t)(s->upper ? j + i * s->a.ld : i + j * s->a.ld), v);
}

/* A = L L', in the triangle that was asked for: get and set see L (U = L'). */
static cudaError_t run_potrf(const void *arguments) {
    const solve *s = arguments;
    const int64_t n = s->a.rows;
    begin_run(s);
    for (int64_t j = 0; j < n; j++) {
        double d = get(s, j, j);
        for (int64_t k = 0; k < j; k++) d -= get(s, j, k) * get(s, j, k);
        if (!(d > 0)) {
            set_info(s, (int)j + 1);
            return cudaSuccess;
        }
        set(s, j, j, sqrt(d));
        for (int64_t i = j + 1; i < n; i++) {
            double v = get(s, i, j);
            for (int64_t k = 0; k < j; k++) v -= get(s, i, k) * get(s, j, k);
            set(s, i, j, v / get(s, j, j));
        }
    }
    set_info(s, 0);
    return cudaSuccess;
}

static cudaError_t run_potrs(const void *arguments) {
    const solve *s = arguments;
    const int64_t n = s->a.rows;
    void *b = (void *)(uintptr_t)s->b.p;
    begin_run(s);
    for (int64_t column = 0; column < s->b.columns; column++) {
        const size_t at = (size_t)(column * s->b.ld);
        for (int64_t i = 0; i < n; i++) {
            double v = element_load(b, s->b.type, at + (size_t)i);
            for (int64_t k = 0; k < i; k++) v -= get(s, i, k) * element_load(b, s->b.type, at + (size_t)k);
            element_store(b, s->b.type, at + (size_t)i, v / get(s, i, i));
        }
        for (int64_t i = n; i-- > 0;) {
            double v = element_load(b, s->b.type, at + (size_t)i);
            for (int64_t k = i + 1; k < n; k++) v -= get(s, k, i) * element_load(b, s->b.type, at + (size_t)k);
            element_store(b, s->b.type, at + (size_t)i, v / get(s, i, i));
        }
    }
    set_info(s, 0);
    return cudaSuccess;
}

#define POTRF(LETTER, number, TYPE)                                                                                    \
    cusolverStatus_t cusolverDn##LETTER##potrf_bufferSize(cusolverDnHandle_t h, cublasFillMode_t uplo, int n,          \
                                                          number *a, int lda, int *size) {                             \
        cusolverStatus_t status = enter_cusolver(__func__);                                                            \
        (void)uplo;                                                                                                    \
        if (status == CUSOLVER_STATUS_SUCCESS) status = give_size(__func__, h, square(a, TYPE, n, lda), size);         \
        return leave_cusolver(status);                                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    cusolverStatus_t cusolverDn##LETTER##potrf(cusolverDnHandle_t h, cublasFillMode_t uplo, int n, number *a, int lda, \
                                               number *workspace, int size, int *info) {                               \
        cusolverStatus_t status = enter_cusolver(__func__);                                                            \
        const solve s = {.a = square(a, TYPE, n, lda),                                                                 \
                         .workspace = vector("the workspace", workspace, TYPE, size),                                  \
                         .info = vector("devInfo", info, CUDA_R_32I, 1),                                               \
                         .upper = uplo == CUBLAS_FILL_MODE_UPPER};                                                     \
        if (status == CUSOLVER_STATUS_SUCCESS) status = put(__func__, h, run_potrf, s, workspace_of(n));               \
        return leave_cusolver(status);                                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    cusolverStatus_t cusolverDn##LETTER##potrs(cusolverDnHandle_t h, cublasFillMode_t uplo, int n, int columns,        \
                                               const number *a, int lda, number *b, int ldb, int *info) {              \
        cusolverStatus_t status = enter_cusolver(__func__);                                                            \
        const solve s = {.a = square(a, TYPE, n, lda),                                                                 \
                         .b = {"B", b, TYPE, n, columns, ldb, 0, 1},                                                   \
                         .info = vector("devInfo", info, CUDA_R_32I, 1),                                               \
                         .upper = uplo == CUBLAS_FILL_MODE_UPPER};                                                     \
        if (status == CUSOLVER_STATUS_SUCCESS) status = put(__func__, h, run_potrs, s, 0);                             \
        return leave_cusolver(status);                                                                                 \
    }

POTRF(D, double, CUDA_R_64F)
POTRF(S, float, CUDA_R_32F)

/* ----------------------------------------------------------------------------------------------- eigenvalues */

static cudaError_t run_syevd(const void *arguments) {
    const solve *s = arguments;
    begin_run(s);
    set_info(s, LAPACKE_dsyevd(LAPACK_COL_MAJOR, s->vectors ? 'V' : 'N', s->upper ? 'U' : 'L', (lapack_int)s->a.rows,
                               (double *)(uintptr_t)s->a.p, (lapack_int)s->a.ld, (double *)(uintptr_t)s->b.p));
    return cudaSuccess;
}

cusolverStatus_t cusolverDnDsyevd_bufferSize(cusolverDnHandle_t h, cusolverEigMode_t jobz, cublasFillMode_t uplo, int n,
                                             const double *a, int lda, const double *w, int *size) {
    cusolverStatus_t status = enter_cusolver(__func__);
    (void)jobz;
    (void)uplo;
    (void)w;
    if (status == CUSOLVER_STATUS_SUCCESS) status = give_size(__func__, h, square(a, CUDA_R_64F, n, lda), size);
    return leave_cusolver(status);
}

cusolverStatus_t cusolverDnDsyevd(cusolverDnHandle_t h, cusolverEigMode_t jobz, cublasFillMode_t uplo, int n, double *a,
                                  int lda, double *w, double *workspace, int size, int *info) {
    cusolverStatus_t status = enter_cusolver(__func__);
    const solve s = {.a = square(a, CUDA_R_64F, n, lda),
                     .b = vector("W", w, CUDA_R_64F, n),
                     .workspace = vector("the workspace", workspace, CUDA_R_64F, size),
                     .info = vector("devInfo", info, CUDA_R_32I, 1),
                     .upper = uplo == CUBLAS_FILL_MODE_UPPER,
                     .vectors = jobz == CUSOLVER_EIG_MODE_VECTOR};
    if (status == CUSOLVER_STATUS_SUCCESS) status = put(__func__, h, run_syevd, s, workspace_of(n));
    return leave_cusolver(status);
}
