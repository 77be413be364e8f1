/* cuda_cublaslt.c - see cuda_cublaslt.h. */
#include "backend/cuda/cuda_cublaslt.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda_libraries.h"
#include "backend/cuda/error.h"
#include "core/memory.h"

struct cuda_cublaslt {
    const cublaslt_functions *f;
    cublasLtHandle_t handle;
};

struct cuda_cublaslt_plan {
    const cuda_cublaslt *l;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, x, sums;
    cublasLtMatmulAlgo_t algorithm;
    uint32_t pairs;
    size_t sums_bytes, own_bytes; /* of the workspace, in this order */
};

/* The library's result is y itself, with nothing behind it. */
static bool is_bare(const gpu_conv *c) {
    return c->transposed;
}

static coar_status cublaslt_status(const cublaslt_functions *f, cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return COAR_OK;
    return status_set(status == CUBLAS_STATUS_ALLOC_FAILED ? COAR_ERROR_MEMORY : COAR_ERROR_UNSUPPORTED,
                      "cuBLASLt: %s: %s", what, f->cublasLtGetStatusString(status));
}

/* Needs `coar_status status`, a label `done` and the functions `f` in scope. */
#define TRY_LT(name, ...) TRY_GOTO(cublaslt_status(f, f->name(__VA_ARGS__), #name))

bool cuda_cublaslt_can(const gpu_conv *c) {
    const bool adds = c->residual && c->residual != c->y; /* to another array than the result */
    return c->kernel_h == 1 && c->kernel_w == 1 && c->stride == 1 && c->pad == 0 && !c->example &&
           !(is_bare(c) && adds);
}

coar_status cuda_cublaslt_open(cuda_cublaslt **out) {
    coar_status status = COAR_OK;
    cuda_cublaslt *l = NULL;
    const cublaslt_functions *f;
    *out = NULL;
    TRY(cuda_library_cublaslt(&f));
    TRY(memory_new(1, sizeof *l, "cuBLASLt", &l));
    l->f = f;
    TRY_LT(cublasLtCreate, &l->handle);
    *out = l;
    l = NULL;
done:
    free(l);
    return status;
}

void cuda_cublaslt_close(cuda_cublaslt *l) {
    if (!l) return;
    l->f->cublasLtDestroy(l->handle);
    free(l);
}

void cuda_cublaslt_version(char text[CUDA_VERSION_SIZE]) {
    const cublaslt_functions *f;
    if (cuda_library_cublaslt(&f) == COAR_OK) {
        cuda_text_version(f->cublasLtGetVersion(), text);
    } else {
        status_clear();
        snprintf(text, CUDA_VERSION_SIZE, "none");
    }
}

/* ------------------------------------------------------------------------------------------ descriptions */

typedef struct types {
    cudaDataType_t operand, result; /* of x and weight; of the product, whose sums are fp32 in any case */
    cublasComputeType_t compute;
} types;

static types types_of(const gpu_conv *c) {
    types t = {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    if (c->type == GPU_BF16) t.operand = CUDA_R_16BF;
    if (c->type == GPU_F16) t.operand = CUDA_R_16F;
    if (c->type == GPU_TF32) t.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    if (is_bare(c)) t.result = t.operand;
    return t;
}

static size_t sums_bytes(const gpu_conv *c) {
    const size_t rows = (size_t)c->pairs * c->out_h * c->out_w;
    return c->wide || is_bare(c) ? 0 : (rows * gpu_stride(c->out_channels) * sizeof(float) + 255) / 256 * 256;
}

size_t cuda_cublaslt_workspace_max(const gpu_conv *c) {
    return sums_bytes(c) + CUDA_LIBRARY_WORKSPACE;
}

/* A plan without its algorithm. cuBLASLt's matrices are column-major, so that a row-major [r][c] array is a c x r one:
 * sums' = (weight')' x', with weight' [C x K] transposed back and x' [C x rows] as it lies. Of a data gradient
 * dx' = weight' dy', with weight' [C x K] and dy' [K x rows] as they lie. */
static coar_status describe(const cuda_cublaslt *l, const gpu_conv *c, cuda_cublaslt_plan **out) {
    coar_status status = COAR_OK;
    const cublaslt_functions *f = l->f;
    const types t = types_of(c);
    const cublasOperation_t turned = c->transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    const uint64_t in = gpu_stride(c->in_channels), outputs = gpu_stride(c->out_channels);
    const uint64_t rows = (uint64_t)c->pairs * c->out_h * c->out_w;
    cuda_cublaslt_plan *p = NULL;
    *out = NULL;
    TRY(memory_new(1, sizeof *p, "cuBLASLt plan", &p));
    *p = (cuda_cublaslt_plan){.l = l, .pairs = c->pairs, .sums_bytes = sums_bytes(c)};
    TRY_LT(cublasLtMatmulDescCreate, &p->product, t.compute, CUDA_R_32F);
    TRY_LT(cublasLtMatmulDescSetAttribute, p->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    if (c->transposed)
        TRY_LT(cublasLtMatrixLayoutCreate, &p->weight, t.operand, outputs, in, (int64_t)outputs);
    else
        TRY_LT(cublasLtMatrixLayoutCreate, &p->weight, t.operand, in, outputs, (int64_t)in);
    TRY_LT(cublasLtMatrixLayoutCreate, &p->x, t.operand, in, rows, (int64_t)in);
    TRY_LT(cublasLtMatrixLayoutCreate, &p->sums, t.result, outputs, rows, (int64_t)outputs);
    *out = p;
    p = NULL;
done:
    cuda_cublaslt_plan_destroy(p);
    return status;
}

void cuda_cublaslt_plan_destroy(cuda_cublaslt_plan *p) {
    if (!p) return;
    const cublaslt_functions *f = p->l->f;
    if (p->sums) f->cublasLtMatrixLayoutDestroy(p->sums);
    if (p->x) f->cublasLtMatrixLayoutDestroy(p->x);
    if (p->weight) f->cublasLtMatrixLayoutDestroy(p->weight);
    if (p->product) f->cublasLtMatmulDescDestroy(p->product);
    free(p);
}

/* --------------------------------------------------------------------------------- algorithms and their names */

/* The attributes of an algorithm, in the order of a form's text. All but the id, which makes it, are set. */
static const struct attribute {
    const char *name;
    cublasLtMatmulAlgoConfigAttributes_t attribute;
    size_t size; /* cublasLt.h: 32 or 16 bits */
} attributes[] = {
    {"id", CUBLASLT_ALGO_CONFIG_ID, 4},
    {"tile", CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
    {"stages", CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
    {"splitk", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
    {"reduction", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
    {"swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
    {"custom", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
    {"inner", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
    {"cluster", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2},
};
enum { ATTRIBUTES = sizeof attributes / sizeof *attributes, REDUCTION = 4 /* its place */ };

/* Partial sums that are added in fp32, in a step of their own: in place, their order would not be fixed. */
#define REDUCTIONS CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE

static coar_status read_attribute(const cublaslt_functions *f, const cublasLtMatmulAlgo_t *algorithm,
                                  const struct attribute *a, uint32_t *value) {
    uint16_t narrow;
    size_t written;
    const bool wide = a->size == sizeof *value;
    void *to = wide ? (void *)value : (void *)&narrow;
    TRY(cublaslt_status(f, f->cublasLtMatmulAlgoConfigGetAttribute(algorithm, a->attribute, to, a->size, &written),
                        a->name));
    if (!wide) *value = narrow;
    return COAR_OK;
}

static coar_status algorithm_format(const cublaslt_functions *f, const cublasLtMatmulAlgo_t *algorithm,
                                    char form[CUDA_FORM_SIZE]) {
    int used = snprintf(form, CUDA_FORM_SIZE, "cublaslt:");
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        uint32_t value;
        TRY(read_attribute(f, algorithm, &attributes[i], &value));
        used += snprintf(form + used, CUDA_FORM_SIZE - (size_t)used, "%s%s=%u", i ? "," : "", attributes[i].name,
                         value); /* nine numbers of at most ten digits: they fit */
    }
    return COAR_OK;
}

static bool algorithm_parse(const char *text, uint32_t values[ATTRIBUTES]) {
    if (!cuda_text_skip(&text, "cublaslt:")) return false;
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        const int64_t most = attributes[i].size == 2 ? UINT16_MAX : INT32_MAX;
        int64_t value;
        if ((i && !cuda_text_skip(&text, ",")) || !cuda_text_skip(&text, attributes[i].name) ||
            !cuda_text_skip(&text, "=") || !cuda_text_integer(&text, &value) || value < 0 || value > most)
            return false;
        values[i] = (uint32_t)value;
    }
    return !*text && !(values[REDUCTION] & ~(uint32_t)REDUCTIONS);
}

/* -------------------------------------------------------------------------------------- proposals, plans */

static coar_status preference_create(const cublaslt_functions *f, cublasLtMatmulPreference_t *out) {
    coar_status status = COAR_OK;
    const uint64_t workspace = CUDA_LIBRARY_WORKSPACE;
    const uint32_t reductions = REDUCTIONS;
    TRY_LT(cublasLtMatmulPreferenceCreate, out);
    TRY_LT(cublasLtMatmulPreferenceSetAttribute, *out, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
           sizeof workspace);
    TRY_LT(cublasLtMatmulPreferenceSetAttribute, *out, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
           sizeof reductions);
done:
    return status;
}

coar_status cuda_cublaslt_propose(const cuda_cublaslt *l, const gpu_conv *c, size_t max, char (*forms)[CUDA_FORM_SIZE],
                                  size_t *count) {
    enum { RESULTS_MAX = 16 };
    coar_status status = COAR_OK;
    const cublaslt_functions *f = l->f;
    cublasLtMatmulHeuristicResult_t results[RESULTS_MAX];
    cublasLtMatmulPreference_t preference = NULL;
    cuda_cublaslt_plan *p = NULL;
    int found = 0;
    *count = 0;
    TRY_GOTO(describe(l, c, &p));
    TRY_GOTO(preference_create(f, &preference));
    const int wanted = max < RESULTS_MAX ? (int)max : RESULTS_MAX;
    TRY_LT(cublasLtMatmulAlgoGetHeuristic, l->handle, p->product, p->weight, p->x, p->sums, p->sums, preference, wanted,
           results, &found);
    for (int i = 0; i < found; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        TRY_GOTO(algorithm_format(f, &results[i].algo, forms[*count]));
        ++*count;
    }
done:
    if (preference) f->cublasLtMatmulPreferenceDestroy(preference);
    cuda_cublaslt_plan_destroy(p);
    return status;
}

static coar_status rebuild(cuda_cublaslt_plan *p, types t, const uint32_t values[ATTRIBUTES]) {
    coar_status status = COAR_OK;
    const cublaslt_functions *f = p->l->f;
    cublasLtMatmulHeuristicResult_t result;
    TRY_LT(cublasLtMatmulAlgoInit, p->l->handle, t.compute, CUDA_R_32F, t.operand, t.operand, t.result, t.result,
           (int)values[0], &p->algorithm);
    for (size_t i = 1; i < ATTRIBUTES; i++) {
        const uint16_t narrow = (uint16_t)values[i];
        const void *value = attributes[i].size == sizeof narrow ? (const void *)&narrow : (const void *)&values[i];
        TRY_LT(cublasLtMatmulAlgoConfigSetAttribute, &p->algorithm, attributes[i].attribute, value, attributes[i].size);
    }
    TRY_LT(cublasLtMatmulAlgoCheck, p->l->handle, p->product, p->weight, p->x, p->sums, p->sums, &p->algorithm,
           &result);
    p->own_bytes = result.workspaceSize;
done:
    return status;
}

coar_status cuda_cublaslt_plan_create(const cuda_cublaslt *l, const gpu_conv *c, const char *form,
                                      cuda_cublaslt_plan **out) {
    coar_status status = COAR_OK;
    cuda_cublaslt_plan *p = NULL;
    uint32_t values[ATTRIBUTES];
    *out = NULL;
    if (!algorithm_parse(form, values) || !cuda_cublaslt_can(c))
        return status_set(COAR_ERROR_UNSUPPORTED, "'%s' is no form of cuBLASLt's for this layer", form);
    TRY_GOTO(describe(l, c, &p));
    TRY_GOTO(rebuild(p, types_of(c), values));
    if (p->own_bytes > CUDA_LIBRARY_WORKSPACE) {
        status = status_set(COAR_ERROR_UNSUPPORTED, "'%s' wants a workspace of %zu bytes; %zu are allowed", form,
                            p->own_bytes, CUDA_LIBRARY_WORKSPACE);
        goto done;
    }
    *out = p;
    p = NULL;
done:
    cuda_cublaslt_plan_destroy(p);
    return status;
}

size_t cuda_cublaslt_plan_workspace(const cuda_cublaslt_plan *plan) {
    return plan->sums_bytes + plan->own_bytes;
}

coar_status cuda_cublaslt_launch(const cuda_cublaslt_plan *p, const gpu_conv *c, void *workspace, cudaStream_t stream) {
    coar_status status = COAR_OK;
    const cublaslt_functions *f = p->l->f;
    const bool bare = is_bare(c);
    const float one = 1, beta = bare && c->residual ? 1 : 0;
    void *sums = bare || c->wide ? c->y : workspace; /* the epilogue may work in place */
    if (c->pairs != p->pairs)
        return status_set(COAR_ERROR_INTERNAL, "cuBLASLt: a plan for %u pairs was given %u", p->pairs, c->pairs);
    TRY_LT(cublasLtMatmul, p->l->handle, p->product, &one, c->weight, p->weight, c->x, p->x, &beta, sums, p->sums, sums,
           p->sums, &p->algorithm, (char *)workspace + p->sums_bytes, p->own_bytes, stream);
    if (!bare) TRY_GOTO(cuda_error(gpu_epilogue_launch(c, sums, stream), "epilogue behind cuBLASLt"));
done:
    return status;
}
