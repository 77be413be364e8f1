/*
 * cublaslt_matmul.c - algorithms and matrix products of the stand-in for cuBLASLt. The algorithms differ in what they
 * need and in the order of their sums, so that a program has to choose and results differ as they do between real
 * kernels:
 *
 *   0  takes whatever is allowed            sums in one go
 *   1  operands aligned to 16 bytes         sums in two parts
 *   2  as 1, and a workspace of sums        split-K: as many parts as SPLITK_NUM says (3 when a heuristic offers it)
 *   3  as 1, and a workspace of 1 MiB       sums in five parts
 *
 * Must not know: what the results are for.
 */
#include "cublaslt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALGORITHMS = 4, ALIGNED = 16, LARGE_WORKSPACE = 1 << 20 };

/* D = epilogue(alpha op(A) op(B) + beta C + bias), as the descriptors say it. */
typedef struct problem {
    int device;
    lt_description how;
    lt_layout a, b, c, d;
    int64_t m, n, k;
    lt_algorithm algorithm;
    double alpha, beta;
    const void *pa, *pb, *pc;
    void *pd, *workspace;
    size_t workspace_needed;
} problem;

/* ---------------------------------------------------------------------------------------------- the problem */

static cudaDataType type_of(const lt_layout *l) {
    return (cudaDataType)l->type;
}

static bool layout_valid(const char *call, const char *name, const lt_layout *l) {
    const bool row_major = l->order == CUBLASLT_ORDER_ROW;
    const uint64_t line = row_major ? l->columns : l->rows;
    if (!row_major && l->order != CUBLASLT_ORDER_COL)
        misuse(call, "the stand-in knows no matrix order %d (%s)", (int)l->order, name);
    if (!element_size(type_of(l))) misuse(call, "the stand-in does not know type %d (%s)", (int)l->type, name);
    if (l->rows && l->columns && l->batch > 0 && l->ld > 0 && (uint64_t)l->ld >= line) return true;
    refuse(call, "%s: %llu x %llu, leading dimension %lld, batch %d", name, (unsigned long long)l->rows,
           (unsigned long long)l->columns, (long long)l->ld, (int)l->batch);
    return false;
}

/* The manual's table of types for cublasLtMatmul, as far as it is in use. */
static bool types_known(const problem *p) {
    const cudaDataType a = type_of(&p->a), b = type_of(&p->b), c = type_of(&p->c), d = type_of(&p->d);
    if (a != b || c != d || p->how.scale != CUDA_R_32F) return false;
    switch (p->how.compute) {
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        return a == CUDA_R_32F && d == CUDA_R_32F;
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
        return a == CUDA_R_32F ? d == a : (a == CUDA_R_16F || a == CUDA_R_16BF) && (d == a || d == CUDA_R_32F);
    }
    return false;
}

static bool epilogue_known(uint32_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_DEFAULT || epilogue == CUBLASLT_EPILOGUE_RELU ||
           epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_GELU || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

static cublasStatus_t read_problem(const char *call, cublasLtHandle_t h, const void *how, const void *a, const void *b,
                                   const void *c, const void *d, problem *p) {
    object_check(call, how, LT_DESCRIPTION);
    object_check(call, a, LT_LAYOUT);
    object_check(call, b, LT_LAYOUT);
    object_check(call, c, LT_LAYOUT);
    object_check(call, d, LT_LAYOUT);
    *p = (problem){.device = handle_find(call, h, LT_HANDLE)->device,
                   .how = *(const lt_description *)how,
                   .a = *(const lt_layout *)a,
                   .b = *(const lt_layout *)b,
                   .c = *(const lt_layout *)c,
                   .d = *(const lt_layout *)d};
    const bool ta = p->how.trans_a != CUBLAS_OP_N, tb = p->how.trans_b != CUBLAS_OP_N;
    p->m = (int64_t)(ta ? p->a.columns : p->a.rows);
    p->k = (int64_t)(ta ? p->a.rows : p->a.columns);
    p->n = (int64_t)(tb ? p->b.rows : p->b.columns);
    const int64_t k = (int64_t)(tb ? p->b.columns : p->b.rows);
    if (!layout_valid(call, "A", &p->a) || !layout_valid(call, "B", &p->b) || !layout_valid(call, "C", &p->c) ||
        !layout_valid(call, "D", &p->d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (p->how.pointer_mode != CUBLASLT_POINTER_MODE_HOST) misuse(call, "the stand-in wants scalars on the host");
    if (k != p->k || (int64_t)p->d.rows != p->m || (int64_t)p->d.columns != p->n || p->c.rows != p->d.rows ||
        p->c.columns != p->d.columns || p->a.batch != p->d.batch || p->b.batch != p->d.batch ||
        p->c.batch != p->d.batch) {
        refuse(call, "op(A) is %lld x %lld, op(B) %lld x %lld, D %llu x %llu; or the batches differ", (long long)p->m,
               (long long)p->k, (long long)k, (long long)p->n, (unsigned long long)p->d.rows,
               (unsigned long long)p->d.columns);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return types_known(p) && epilogue_known(p->how.epilogue) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* ----------------------------------------------------------------------------------------------- algorithms */

static lt_algorithm make_algorithm(int id, const int types[4], int compute) {
    lt_algorithm a = {.magic = LT_MAGIC, .id = id, .tile = 15 + id, .split_k = id == 2 ? 3 : 1, .compute = compute};
    a.stages = (uint32_t)(8 + id);
    a.reduction = id == 2 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
    for (int i = 0; i < 4; i++) a.types[i] = (int16_t)types[i];
    return a;
}

static size_t parts_of(const lt_algorithm *a) {
    return a->id == 2 ? (size_t)a->split_k : a->id == 1 ? 2 : a->id == 3 ? 5 : 1;
}

static size_t workspace_of(const problem *p, const lt_algorithm *a) {
    if (a->id == 3) return LARGE_WORKSPACE;
    return a->id == 2 ? (size_t)(p->m * p->n * p->d.batch) * sizeof(float) * (size_t)a->split_k : 0;
}

static bool lines_aligned(const lt_layout *l) {
    return (size_t)l->ld * element_size(type_of(l)) % ALIGNED == 0;
}

/* What the library says before it sees pointers. */
static cublasStatus_t check_algorithm(const char *call, const problem *p, const lt_algorithm *a) {
    if (a->magic != LT_MAGIC) misuse(call, "the algorithm is neither from a heuristic nor from cublasLtMatmulAlgoInit");
    if (a->types[0] != (int)p->a.type || a->types[1] != (int)p->b.type || a->types[2] != (int)p->c.type ||
        a->types[3] != (int)p->d.type || a->compute != p->how.compute) {
        refuse(call, "the algorithm was made for other types");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const bool splits = a->split_k > 1;
    if (a->split_k < 1 || (splits && (a->id != 2 || a->reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a->id && !(lines_aligned(&p->a) && lines_aligned(&p->b) && lines_aligned(&p->d)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t h, cublasComputeType_t compute, cudaDataType_t scale,
                                      cudaDataType_t type_a, cudaDataType_t type_b, cudaDataType_t type_c,
                                      cudaDataType_t type_d, int id, cublasLtMatmulAlgo_t *algo) {
    cublasStatus_t status = lt_enter(__func__);
    (void)scale;
    handle_find(__func__, h, LT_HANDLE);
    if (status == CUBLAS_STATUS_SUCCESS && (id < 0 || id >= ALGORITHMS)) {
        refuse(__func__, "there is no algorithm %d", id);
        status = CUBLAS_STATUS_INVALID_VALUE;
    }
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    const int types[4] = {(int)type_a, (int)type_b, (int)type_c, (int)type_d};
    lt_algorithm a = make_algorithm(id, types, (int)compute);
    a.tile = 0; /* the caller's to set */
    a.stages = 0;
    a.split_k = 1;
    a.reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    memset(algo, 0, sizeof *algo);
    memcpy(algo, &a, sizeof a);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result) {
    problem p;
    cublasStatus_t status = lt_enter(__func__);
    const lt_algorithm *algorithm = (const lt_algorithm *)algo;
    if (status == CUBLAS_STATUS_SUCCESS) status = read_problem(__func__, h, how, a, b, c, d, &p);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_algorithm(__func__, &p, algorithm);
    result->state = status;
    result->workspaceSize = status == CUBLAS_STATUS_SUCCESS ? workspace_of(&p, algorithm) : 0;
    result->wavesCount = 1;
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int max,
                                              cublasLtMatmulHeuristicResult_t results[], int *count) {
    problem p;
    static const int order[ALGORITHMS] = {2, 1, 3, 0}; /* best guess first */
    cublasStatus_t status = lt_enter(__func__);
    *count = 0;
    object_check(__func__, preference, LT_PREFERENCE);
    const lt_preference *wish = (const lt_preference *)(const void *)preference;
    if (status == CUBLAS_STATUS_SUCCESS && !expect(max > 0, __func__, "at least one result is asked for"))
        status = CUBLAS_STATUS_INVALID_VALUE;
    if (status == CUBLAS_STATUS_SUCCESS) status = read_problem(__func__, h, how, a, b, c, d, &p);
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    const int types[4] = {(int)p.a.type, (int)p.b.type, (int)p.c.type, (int)p.d.type};
    for (int i = 0; i < ALGORITHMS && *count < max; i++) {
        const lt_algorithm algorithm = make_algorithm(order[i], types, p.how.compute);
        bool fits = check_algorithm(__func__, &p, &algorithm) == CUBLAS_STATUS_SUCCESS &&
                    workspace_of(&p, &algorithm) <= wish->workspace && !(algorithm.reduction & ~wish->reductions);
        for (int k = 0; k < 4; k++) fits = fits && (!algorithm.id || wish->alignment[k] >= ALIGNED);
        if (!fits) continue;
        cublasLtMatmulHeuristicResult_t *r = &results[(*count)++];
        memset(r, 0, sizeof *r);
        memcpy(&r->algo, &algorithm, sizeof algorithm);
        r->workspaceSize = workspace_of(&p, &algorithm);
        r->state = CUBLAS_STATUS_SUCCESS;
        r->wavesCount = 1;
    }
    return lt_leave(*count ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED);
}

/* -------------------------------------------------------------------------------------------------- products */

/* Element (i, j) of matrix `index` of a batch. */
static size_t element_at(const lt_layout *l, int64_t index, int64_t i, int64_t j) {
    return (size_t)(index * l->stride + (l->order == CUBLASLT_ORDER_ROW ? i * l->ld + j : i + j * l->ld));
}

static matrix view(const lt_layout *l, const void *p, bool transposed, int64_t index) {
    const size_t row = element_at(l, 0, 1, 0), column = element_at(l, 0, 0, 1);
    const char *start = (const char *)p + (size_t)(index * l->stride) * element_size(type_of(l));
    return (matrix){start, type_of(l), transposed ? column : row, transposed ? row : column};
}

static void check_matrix(const char *name, const lt_layout *l, const void *p, int device) {
    const size_t last = element_at(l, l->batch - 1, (int64_t)l->rows - 1, (int64_t)l->columns - 1);
    memory_check("cublasLtMatmul", name, p, (last + 1) * element_size(type_of(l)), device);
}

static cudaDataType bias_type(const problem *p) {
    return p->how.bias_type < 0 ? type_of(&p->d) : (cudaDataType)p->how.bias_type;
}

static void check_memory(const problem *p) {
    check_matrix("A", &p->a, p->pa, p->device);
    check_matrix("B", &p->b, p->pb, p->device);
    if (p->beta != 0) check_matrix("C", &p->c, p->pc, p->device);
    check_matrix("D", &p->d, p->pd, p->device);
    if (p->how.epilogue & CUBLASLT_EPILOGUE_BIAS)
        memory_check("cublasLtMatmul", "the bias", p->how.bias, (size_t)p->m * element_size(bias_type(p)), p->device);
    if (p->workspace_needed)
        memory_check("cublasLtMatmul", "the workspace", p->workspace, p->workspace_needed, p->device);
}

static double epilogue(const problem *p, double v, int64_t row) {
    if (p->how.epilogue & CUBLASLT_EPILOGUE_BIAS) v += element_load(p->how.bias, bias_type(p), (size_t)row);
    if (p->how.epilogue & CUBLASLT_EPILOGUE_RELU) v = v > 0 ? v : 0;
    if (p->how.epilogue & CUBLASLT_EPILOGUE_GELU) /* the tanh form, as the library's own */
        v = 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    return v;
}

static cudaError_t run_matmul(const void *arguments) {
    const problem *p = arguments;
    const double factor = error_factor("cublaslt", p->algorithm.id);
    double *product = malloc((size_t)(p->m * p->n) * sizeof *product);
    if (!product) misuse("cublasLtMatmul", "out of host memory");
    check_memory(p);
    if (p->workspace_needed) memset(p->workspace, 0xff, p->workspace_needed); /* nothing else may live there */
    for (int32_t index = 0; index < p->d.batch; index++) {
        matrix_product(product, (size_t)p->m, (size_t)p->n, (size_t)p->k,
                       view(&p->a, p->pa, p->how.trans_a != CUBLAS_OP_N, index),
                       view(&p->b, p->pb, p->how.trans_b != CUBLAS_OP_N, index),
                       p->how.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? SUMS_TF32 : SUMS_F32, parts_of(&p->algorithm));
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++) {
                double v = factor * p->alpha * product[i * p->n + j];
                if (p->beta != 0) v += p->beta * element_load(p->pc, type_of(&p->c), element_at(&p->c, index, i, j));
                element_store(p->pd, type_of(&p->d), element_at(&p->d, index, i, j), epilogue(p, v, i));
            }
    }
    free(product);
    return cudaSuccess;
}

static bool pointer_aligned(const char *name, const void *p, size_t alignment) {
    if (p && (uintptr_t)p % alignment == 0) return true;
    refuse("cublasLtMatmul", "%s = %p is not aligned to %zu bytes", name, p, alignment);
    return false;
}

/* What can be refused only when pointers are known. */
static cublasStatus_t check_pointers(const problem *p, size_t workspace_size) {
    const size_t alignment = p->algorithm.id ? ALIGNED : 0;
    const size_t of_a = element_size(type_of(&p->a)), of_d = element_size(type_of(&p->d));
    if (!pointer_aligned("A", p->pa, alignment ? alignment : of_a) ||
        !pointer_aligned("B", p->pb, alignment ? alignment : of_a) ||
        !pointer_aligned("D", p->pd, alignment ? alignment : of_d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (p->workspace_needed > workspace_size) {
        refuse("cublasLtMatmul", "the workspace has %zu bytes, the algorithm needs %zu", workspace_size,
               p->workspace_needed);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (workspace_size && !pointer_aligned("the workspace", p->workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
    if (p->pc == p->pd && p->beta != 0 &&
        (p->c.ld != p->d.ld || p->c.order != p->d.order || p->c.stride != p->d.stride)) {
        refuse("cublasLtMatmul", "C and D are the same memory in different layouts");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t how, const void *alpha, const void *pa,
                              cublasLtMatrixLayout_t a, const void *pb, cublasLtMatrixLayout_t b, const void *beta,
                              const void *pc, cublasLtMatrixLayout_t c, void *pd, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_size,
                              cudaStream_t stream) {
    problem p;
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS) status = read_problem(__func__, h, how, a, b, c, d, &p);
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    struct CUstream_st *s = stream_find(__func__, stream);
    if (s->device != p.device)
        misuse(__func__, "the stream belongs to device %d, the handle to %d", s->device, p.device);
    const int types[4] = {(int)p.a.type, (int)p.b.type, (int)p.c.type, (int)p.d.type};
    p.algorithm = algo ? *(const lt_algorithm *)algo : make_algorithm(0, types, p.how.compute);
    p.alpha = *(const float *)alpha;
    p.beta = *(const float *)beta;
    p.pa = pa;
    p.pb = pb;
    p.pc = pc;
    p.pd = pd;
    p.workspace = workspace;
    status = check_algorithm(__func__, &p, &p.algorithm);
    p.workspace_needed = workspace_of(&p, &p.algorithm);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_pointers(&p, workspace_size);
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    check_memory(&p);
    if (enqueue(__func__, s, run_matmul, &p, sizeof p) != cudaSuccess) status = CUBLAS_STATUS_EXECUTION_FAILED;
    return lt_leave(status);
}
