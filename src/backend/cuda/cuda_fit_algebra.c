/*
 * cuda_fit_algebra.c - the dense half of a fit on a CUDA device: Cholesky and eigenvectors by cuSOLVER, triangular
 * solves and products by cuBLAS.
 *
 * Everything is in doubles, on every device. A factor in fp32 with refinement in double would save the factor alone:
 * each step of refinement multiplies the matrix with all right-hand sides in double, as many flops as the solve
 * itself, and there are mostly more right-hand sides (examples) than rows. On an A100 (doubles at half the rate of
 * fp32, on tensor cores at the full one) 22,720 components, 3.9e12 flops, take about 0.4 s to factor; on a consumer
 * card, which does doubles at 1/64 of that, about 8 s, once.
 * One step of refinement, with the residual formed from the matrix itself, is what makes a Cholesky solve stable in
 * every component (Skeel 1980, "Iterative refinement implies numerical stability for Gaussian elimination"); and its
 * size shows at once when a device computes wrongly. The matrix comes from exact integers, rounded once.
 *
 * The libraries are column-major. A row-major [n][E] is their E x n matrix, so that solves act from the right:
 * X = B U^-1 U'^-1 with the upper factor U, which read row-major is L in the lower triangle.
 */
#include "backend/cuda/cuda_fit.h"
#include "backend/cuda/error.h"
#include "kernels/cuda/kernels.h"

/* A correction larger than this fraction of the largest weight is no rounding error: matrices whose condition number
 * would allow it (above 1e10) are not solved by Cholesky. */
#define CORRECTION_MAX 1e-3

static coar_status blas_status(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return COAR_OK;
    return status_set(status == CUBLAS_STATUS_ALLOC_FAILED ? COAR_ERROR_MEMORY : COAR_ERROR_UNSUPPORTED,
                      "the fit: cuBLAS: %s failed (status %d)", what, (int)status);
}

static coar_status solver_status(cusolverStatus_t status, const char *what) {
    if (status == CUSOLVER_STATUS_SUCCESS) return COAR_OK;
    return status_set(status == CUSOLVER_STATUS_ALLOC_FAILED ? COAR_ERROR_MEMORY : COAR_ERROR_UNSUPPORTED,
                      "the fit: cuSOLVER: %s failed (status %d)", what, (int)status);
}

#define TRY_BLAS(f, name, ...) TRY(blas_status((f)->cublas->name((f)->blas, __VA_ARGS__), #name))
#define TRY_SOLVER(f, name, ...) TRY(solver_status((f)->cusolver->name((f)->solver, __VA_ARGS__), #name))

coar_status cuda_fit_open_algebra(cuda_fit *f) {
    TRY(cuda_library_cublas(&f->cublas));
    TRY(cuda_library_cusolver(&f->cusolver));
    TRY(blas_status(f->cublas->cublasCreate_v2(&f->blas), "cublasCreate"));
    TRY_BLAS(f, cublasSetStream_v2, f->stream);
    TRY(solver_status(f->cusolver->cusolverDnCreate(&f->solver), "cusolverDnCreate"));
    TRY_SOLVER(f, cusolverDnSetStream, f->stream);
    return COAR_OK;
}

static void drop_matrices(cuda_fit *f) {
    if (f->matrix) (void)cudaFree(f->matrix);
    if (f->factor) (void)cudaFree(f->factor);
    f->matrix = f->factor = NULL;
    f->side = 0;
}

static void drop_held(cuda_fit *f) {
    if (f->held) (void)cudaFree(f->held);
    f->held = NULL;
    f->held_bytes = 0;
}

void cuda_fit_close_algebra(cuda_fit *f) {
    drop_matrices(f);
    drop_held(f);
    if (f->blas) (void)f->cublas->cublasDestroy_v2(f->blas);
    if (f->solver) (void)f->cusolver->cusolverDnDestroy(f->solver);
}

static coar_status copy(cuda_fit *f, void *to, const void *from, size_t count, enum cudaMemcpyKind kind) {
    TRY_CUDA(cudaMemcpyAsync(to, from, count * sizeof(double), kind, f->stream), "the fit: copy of %zu doubles", count);
    return COAR_OK;
}

static coar_status finish(cuda_fit *f, const char *what) {
    TRY_CUDA(cudaStreamSynchronize(f->stream), "the fit: %s", what);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ factor */

/* A matrix, and on request its factor; uploads the matrix. */
static coar_status make_matrices(cuda_fit *f, const double *matrix, size_t n, bool factor) {
    const size_t bytes = n * n * sizeof(double), all = (factor ? 2 : 1) * bytes;
    void *memory;
    drop_matrices(f);
    cuda_fit_drop_scratch(f); /* counting left it large */
    if (all > cuda_fit_room(f))
        return status_set(COAR_ERROR_MEMORY,
                          "the fit: %s of %zu x %zu need %.0f MiB of device memory, and may take %.0f MiB: give more "
                          "--memory, or --backend cpu",
                          factor ? "matrix and factor" : "eigenvectors", n, n, (double)all / 1048576,
                          (double)cuda_fit_room(f) / 1048576);
    f->side = n;
    TRY_CUDA(cudaMalloc(&memory, bytes), "the fit: %zu MiB for a matrix", bytes >> 20);
    f->matrix = memory;
    TRY(copy(f, f->matrix, matrix, n * n, cudaMemcpyHostToDevice));
    if (!factor) return COAR_OK;
    TRY_CUDA(cudaMalloc(&memory, bytes), "the fit: %zu MiB for its factor", bytes >> 20);
    f->factor = memory;
    return copy(f, f->factor, f->matrix, n * n, cudaMemcpyDeviceToDevice);
}

/* What a call of cuSOLVER works in. */
typedef struct solver_memory {
    double *value; /* [values] */
    double *work;  /* [size] */
    int *info;
} solver_memory;

static void solver_place(arena *arena, size_t values, int size, solver_memory *m) {
    arena_place(arena, values, sizeof *m->value, &m->value);
    arena_place(arena, (size_t)size, sizeof *m->work, &m->work);
    arena_place(arena, 1, sizeof *m->info, &m->info);
}

static coar_status solver_scratch(cuda_fit *f, size_t values, int size, const char *what, solver_memory *m) {
    arena measure = {0}, scratch;
    solver_place(&measure, values, size, m);
    TRY(cuda_fit_scratch(f, &measure, what, &scratch));
    solver_place(&scratch, values, size, m);
    return COAR_OK;
}

/* cuSOLVER's verdict: below 0 an argument was wrong, above 0 the matrix was. */
static coar_status read_info(cuda_fit *f, const int *device_info, const char *what, int *info) {
    TRY_CUDA(cudaMemcpyAsync(info, device_info, sizeof *info, cudaMemcpyDeviceToHost, f->stream), "the fit: %s", what);
    TRY(finish(f, what));
    if (*info < 0) return status_set(COAR_ERROR_INTERNAL, "the fit: cuSOLVER: %s: argument %d is wrong", what, -*info);
    return COAR_OK;
}

coar_status cuda_fit_factor(fit_device *d, double *matrix, size_t n, bool *positive) {
    cuda_fit *f = cuda_fit_self(d);
    const int side = (int)n;
    int size, info;
    solver_memory m;
    TRY(cuda_fit_enter(f));
    TRY(make_matrices(f, matrix, n, true));
    TRY_SOLVER(f, cusolverDnDpotrf_bufferSize, CUBLAS_FILL_MODE_UPPER, side, f->factor, side, &size);
    TRY(solver_scratch(f, 0, size, "a Cholesky factor", &m));
    TRY_SOLVER(f, cusolverDnDpotrf, CUBLAS_FILL_MODE_UPPER, side, f->factor, side, m.work, size, m.info);
    TRY(read_info(f, m.info, "Cholesky factor", &info));
    *positive = info == 0;
    if (!*positive) return COAR_OK;
    TRY(copy(f, matrix, f->factor, n * n, cudaMemcpyDeviceToHost));
    return finish(f, "download of a factor");
}

/* ------------------------------------------------------------------------------------------------- solve */

/* x (E x n, column-major) becomes x U^-1 U'^-1. */
static coar_status solve_right(cuda_fit *f, double *x, int E) {
    const double one = 1;
    const int n = (int)f->side;
    TRY_BLAS(f, cublasDtrsm_v2, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, E, n,
             &one, f->factor, n, x, E);
    TRY_BLAS(f, cublasDtrsm_v2, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, E, n,
             &one, f->factor, n, x, E);
    return COAR_OK;
}

/* The largest |x[i]|, NaN as it is. */
static coar_status largest(cuda_fit *f, const double *x, size_t count, double *out) {
    int index;
    TRY_BLAS(f, cublasIdamax_v2, (int)count, x, 1, &index); /* counts from 1, and waits for the stream */
    TRY(copy(f, out, x + index - 1, 1, cudaMemcpyDeviceToHost));
    TRY(finish(f, "largest weight"));
    *out = *out < 0 ? -*out : *out;
    return COAR_OK;
}

static coar_status check_correction(cuda_fit *f, const double *x, const double *correction, size_t count) {
    double weight, change;
    TRY(largest(f, x, count, &weight));
    TRY(largest(f, correction, count, &change));
    if (change <= CORRECTION_MAX * weight) return COAR_OK;
    return status_set(
        COAR_ERROR_INTERNAL,
        "the fit: device %d solves a system and its own residual differently (largest weight %g, correction "
        "%g): is the device sound? Give --backend cpu",
        f->device, weight, change);
}

static void solve_place(arena *arena, size_t count, double **x, double **residual) {
    arena_place(arena, count, sizeof **x, x);
    arena_place(arena, count, sizeof **residual, residual);
}

coar_status cuda_fit_solve(fit_device *d, double *right, size_t E) {
    cuda_fit *f = cuda_fit_self(d);
    const double one = 1, minus_one = -1;
    const int n = (int)f->side, width = (int)E;
    const size_t count = f->side * E;
    arena measure = {0}, scratch;
    double *x, *residual;
    TRY(cuda_fit_enter(f));
    solve_place(&measure, count, &x, &residual);
    TRY(cuda_fit_scratch(f, &measure, "a block of examples", &scratch));
    solve_place(&scratch, count, &x, &residual);
    TRY(copy(f, residual, right, count, cudaMemcpyHostToDevice));
    TRY(copy(f, x, residual, count, cudaMemcpyDeviceToDevice));
    TRY(solve_right(f, x, width));
    TRY_BLAS(f, cublasDgemm_v2, CUBLAS_OP_N, CUBLAS_OP_N, width, n, n, &minus_one, x, width, f->matrix, n, &one,
             residual, width);
    TRY(solve_right(f, residual, width));
    TRY(check_correction(f, x, residual, count));
    TRY_BLAS(f, cublasDaxpy_v2, (int)count, &one, residual, 1, x, 1);
    TRY(copy(f, right, x, count, cudaMemcpyDeviceToHost));
    return finish(f, "download of weights");
}

/* ------------------------------------------------------------------------------------------------- norms */

static void norms_place(arena *arena, size_t count, size_t n, double **rows, double **squares) {
    arena_place(arena, count * n, sizeof **rows, rows);
    arena_place(arena, count, sizeof **squares, squares);
}

/* Rows [count][n] are n x count: U'^-1 from the left; then the product of each column with itself, as a batch of 1 x 1
 * matrices. */
coar_status cuda_fit_norms(fit_device *d, const double *rows, size_t count, double *squares) {
    cuda_fit *f = cuda_fit_self(d);
    const double one = 1, zero = 0;
    const int n = (int)f->side, width = (int)count;
    arena measure = {0}, scratch;
    double *x, *norms;
    TRY(cuda_fit_enter(f));
    norms_place(&measure, count, f->side, &x, &norms);
    TRY(cuda_fit_scratch(f, &measure, "leverages", &scratch));
    norms_place(&scratch, count, f->side, &x, &norms);
    TRY(copy(f, x, rows, count * f->side, cudaMemcpyHostToDevice));
    TRY_BLAS(f, cublasDtrsm_v2, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, n, width,
             &one, f->factor, n, x, n);
    TRY_BLAS(f, cublasDgemmStridedBatched, CUBLAS_OP_T, CUBLAS_OP_N, 1, 1, n, &one, x, n, n, x, n, n, &zero, norms, 1,
             1, width);
    TRY(copy(f, squares, norms, count, cudaMemcpyDeviceToHost));
    return finish(f, "leverages");
}

/* ------------------------------------------------------------------------------------------ eigenvectors */

coar_status cuda_fit_eigenvectors(fit_device *d, double *matrix, size_t p, double *value) {
    cuda_fit *f = cuda_fit_self(d);
    const int side = (int)p;
    int size, info;
    solver_memory m;
    TRY(cuda_fit_enter(f));
    TRY(make_matrices(f, matrix, p, false));
    TRY(solver_scratch(f, p, 0, "eigenvectors", &m)); /* the question about the workspace names the eigenvalues */
    TRY_SOLVER(f, cusolverDnDsyevd_bufferSize, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, side, f->matrix, side,
               m.value, &size);
    TRY(solver_scratch(f, p, size, "eigenvectors", &m));
    TRY_SOLVER(f, cusolverDnDsyevd, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, side, f->matrix, side, m.value,
               m.work, size, m.info);
    TRY(read_info(f, m.info, "eigenvectors", &info));
    if (info > 0)
        return status_set(COAR_ERROR_INTERNAL, "the fit: the eigenvectors of a %d x %d matrix did not converge (%d)",
                          side, side, info);
    TRY(copy(f, matrix, f->matrix, p * p, cudaMemcpyDeviceToHost)); /* its columns are rows here */
    TRY(copy(f, value, m.value, p, cudaMemcpyDeviceToHost));
    return finish(f, "download of eigenvectors");
}

typedef struct pair_memory {
    double *in, *out;
} pair_memory;

static void pair_place(arena *arena, size_t in, size_t out, pair_memory *m) {
    arena_place(arena, in, sizeof *m->in, &m->in);
    arena_place(arena, out, sizeof *m->out, &m->out);
}

/* Scratch for `in` and `out` doubles; the former are uploaded. */
static coar_status pair_scratch(cuda_fit *f, const double *x, size_t in, size_t out, pair_memory *m) {
    arena measure = {0}, scratch;
    pair_place(&measure, in, out, m);
    TRY(cuda_fit_scratch(f, &measure, "a product with eigenvectors", &scratch));
    pair_place(&scratch, in, out, m);
    return copy(f, m->in, x, in, cudaMemcpyHostToDevice);
}

/* Column-major, the last r eigenvectors are a matrix B of p x r: out (E x r) = x (E x p) B, or back, out (E x p) = x
 * (E x r) B'. */
coar_status cuda_fit_rotate(fit_device *d, size_t r, bool back, const double *x, size_t E, double *out) {
    cuda_fit *f = cuda_fit_self(d);
    const double one = 1, zero = 0, *basis = f->matrix + (f->side - r) * f->side;
    const size_t from = back ? r : f->side, to = back ? f->side : r;
    pair_memory m;
    TRY(cuda_fit_enter(f));
    TRY(pair_scratch(f, x, from * E, to * E, &m));
    TRY_BLAS(f, cublasDgemm_v2, CUBLAS_OP_N, back ? CUBLAS_OP_T : CUBLAS_OP_N, (int)E, (int)to, (int)from, &one, m.in,
             (int)E, basis, (int)f->side, &zero, m.out, (int)E);
    TRY(copy(f, out, m.out, to * E, cudaMemcpyDeviceToHost));
    return finish(f, "product with eigenvectors");
}

/* out (r x count) = B' rows (p x count) */
coar_status cuda_fit_coordinates(fit_device *d, size_t r, const double *rows, size_t count, double *out) {
    cuda_fit *f = cuda_fit_self(d);
    const double one = 1, zero = 0, *basis = f->matrix + (f->side - r) * f->side;
    const int side = (int)f->side;
    pair_memory m;
    TRY(cuda_fit_enter(f));
    TRY(pair_scratch(f, rows, f->side * count, r * count, &m));
    TRY_BLAS(f, cublasDgemm_v2, CUBLAS_OP_T, CUBLAS_OP_N, (int)r, (int)count, side, &one, basis, side, m.in, side,
             &zero, m.out, (int)r);
    TRY(copy(f, out, m.out, r * count, cudaMemcpyDeviceToHost));
    return finish(f, "coordinates along eigenvectors");
}

/* ---------------------------------------------------------------------------------------------- products */

coar_status cuda_fit_hold(fit_device *d, const double *right, size_t length, size_t E) {
    cuda_fit *f = cuda_fit_self(d);
    const size_t bytes = length * E * sizeof(double);
    TRY(cuda_fit_enter(f));
    if (bytes > f->held_bytes) {
        void *memory;
        drop_held(f);
        cuda_fit_drop_scratch(f); /* it may have taken what is wanted here */
        if (bytes > cuda_fit_room(f))
            return status_set(
                COAR_ERROR_MEMORY,
                "the fit: %zu x %zu numbers need %.0f MiB of device memory, and may take %.0f MiB: give more "
                "--memory, or --backend cpu",
                length, E, (double)bytes / 1048576, (double)cuda_fit_room(f) / 1048576);
        TRY_CUDA(cudaMalloc(&memory, bytes), "the fit: %zu MiB for products", bytes >> 20);
        f->held = memory;
        f->held_bytes = bytes;
    }
    f->held_length = length;
    f->held_width = E;
    TRY(copy(f, f->held, right, length * E, cudaMemcpyHostToDevice));
    return finish(f, "upload for products");
}

/* Vectors as bits and as numbers, and their product with the held matrix. */
typedef struct product_memory {
    uint32_t *bits;
    double *rows, *product;
} product_memory;

static void product_place(arena *arena, size_t count, size_t words, size_t length, size_t width, product_memory *m) {
    arena_place(arena, count * words, sizeof *m->bits, &m->bits);
    arena_place(arena, count * length, sizeof *m->rows, &m->rows);
    arena_place(arena, count * width, sizeof *m->product, &m->product);
}

/* Column-major: product (E x count) = held (E x length) rows (length x count). */
coar_status cuda_fit_product(fit_device *d, const uint64_t *words, size_t count, size_t stride, double *product) {
    cuda_fit *f = cuda_fit_self(d);
    const double one = 1, zero = 0;
    const int length = (int)f->held_length, width = (int)f->held_width;
    arena measure = {0}, scratch;
    product_memory m;
    TRY(cuda_fit_enter(f));
    product_place(&measure, count, 2 * stride, f->held_length, f->held_width, &m);
    TRY(cuda_fit_scratch(f, &measure, "a product of masks", &scratch));
    product_place(&scratch, count, 2 * stride, f->held_length, f->held_width, &m);
    TRY_CUDA(cudaMemcpyAsync(m.bits, words, count * stride * sizeof *words, cudaMemcpyHostToDevice, f->stream),
             "the fit: upload of masks");
    TRY_CUDA(
        gpu_expand_bits_launch(m.bits, (uint32_t)count, (uint32_t)(2 * stride), (uint32_t)length, m.rows, f->stream),
        "the fit: %zu vectors of %d bits as numbers", count, length);
    TRY_BLAS(f, cublasDgemm_v2, CUBLAS_OP_N, CUBLAS_OP_N, width, (int)count, length, &one, f->held, width, m.rows,
             length, &zero, m.product, width);
    TRY(copy(f, product, m.product, count * f->held_width, cudaMemcpyDeviceToHost));
    return finish(f, "product of masks");
}
