/*
 * cublaslt.c - a stand-in for cuBLASLt's handles and descriptors, with the attributes in use.
 *
 * Must not know: algorithms.
 */
#include "cublaslt.h"

#include <string.h>

struct cublasLtContext {
    handle handle;
};

cublasStatus_t lt_enter(const char *call) {
    return (cublasStatus_t)enter_library(call);
}

cublasStatus_t lt_leave(cublasStatus_t status) {
    return (cublasStatus_t)leave_library((int)status);
}

/* ------------------------------------------------------------------------------------- handles and descriptors */

size_t cublasLtGetVersion(void) {
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return cublasGetStatusString(status);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    cublasStatus_t status = lt_enter(__func__);
    *out = NULL;
    if (status == CUBLAS_STATUS_SUCCESS && usable() != cudaSuccess) status = CUBLAS_STATUS_NOT_INITIALIZED;
    if (status == CUBLAS_STATUS_SUCCESS) *out = (cublasLtHandle_t)handle_create(LT_HANDLE, sizeof **out);
    return lt_leave(status);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    cublasStatus_t status = lt_enter(__func__);
    object_destroy(__func__, h, LT_HANDLE);
    return lt_leave(status);
}

static cublasStatus_t destroy(const char *call, void *p, const char *kind) {
    cublasStatus_t status = lt_enter(call);
    object_destroy(call, p, kind);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
    cublasStatus_t status = lt_enter(__func__);
    *out = NULL;
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    lt_description *d = object_create(LT_DESCRIPTION, sizeof *d);
    d->compute = (int32_t)compute;
    d->scale = (int32_t)scale;
    d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    d->bias_type = -1;
    *out = (cublasLtMatmulDesc_t)(void *)d;
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    return destroy(__func__, d, LT_DESCRIPTION);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    cublasStatus_t status = lt_enter(__func__);
    *out = NULL;
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    lt_layout *l = object_create(LT_LAYOUT, sizeof *l);
    l->type = (uint32_t)type;
    l->rows = rows;
    l->columns = columns;
    l->ld = ld;
    l->batch = 1;
    *out = (cublasLtMatrixLayout_t)(void *)l;
    return lt_leave(status);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    return destroy(__func__, l, LT_LAYOUT);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    cublasStatus_t status = lt_enter(__func__);
    *out = NULL;
    if (status != CUBLAS_STATUS_SUCCESS) return lt_leave(status);
    lt_preference *p = object_create(LT_PREFERENCE, sizeof *p);
    p->reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    for (int i = 0; i < 4; i++) p->alignment[i] = 256;
    *out = (cublasLtMatmulPreference_t)(void *)p;
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    return destroy(__func__, p, LT_PREFERENCE);
}

/* ---------------------------------------------------------------------------------------------- attributes */

/* Where an attribute lies, and its size as the header documents it. */
typedef struct attribute {
    void *p;
    size_t size;
} attribute;

static attribute description_attribute(const char *call, void *descriptor, int name) {
    object_check(call, descriptor, LT_DESCRIPTION);
    lt_description *d = descriptor;
    switch (name) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return (attribute){&d->compute, sizeof d->compute};
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return (attribute){&d->scale, sizeof d->scale};
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return (attribute){&d->pointer_mode, sizeof d->pointer_mode};
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return (attribute){&d->trans_a, sizeof d->trans_a};
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return (attribute){&d->trans_b, sizeof d->trans_b};
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return (attribute){&d->epilogue, sizeof d->epilogue};
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return (attribute){&d->bias, sizeof d->bias};
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return (attribute){&d->bias_type, sizeof d->bias_type};
    }
    misuse(call, "the stand-in does not know attribute %d", name);
}

static attribute layout_attribute(const char *call, void *descriptor, int name) {
    object_check(call, descriptor, LT_LAYOUT);
    lt_layout *l = descriptor;
    switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return (attribute){&l->type, sizeof l->type};
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return (attribute){&l->order, sizeof l->order};
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return (attribute){&l->rows, sizeof l->rows};
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return (attribute){&l->columns, sizeof l->columns};
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return (attribute){&l->ld, sizeof l->ld};
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return (attribute){&l->batch, sizeof l->batch};
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return (attribute){&l->stride, sizeof l->stride};
    }
    misuse(call, "the stand-in does not know attribute %d", name);
}

static attribute preference_attribute(const char *call, void *descriptor, int name) {
    object_check(call, descriptor, LT_PREFERENCE);
    lt_preference *p = descriptor;
    switch (name) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
        return (attribute){&p->search, sizeof p->search};
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return (attribute){&p->workspace, sizeof p->workspace};
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return (attribute){&p->reductions, sizeof p->reductions};
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return (attribute){&p->alignment[0], sizeof p->alignment[0]};
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return (attribute){&p->alignment[1], sizeof p->alignment[1]};
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return (attribute){&p->alignment[2], sizeof p->alignment[2]};
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return (attribute){&p->alignment[3], sizeof p->alignment[3]};
    }
    misuse(call, "the stand-in does not know attribute %d", name);
}

static attribute algorithm_attribute(const char *call, lt_algorithm *a, int name) {
    if (a->magic != LT_MAGIC) misuse(call, "the algorithm is neither from a heuristic nor from cublasLtMatmulAlgoInit");
    switch (name) {
    case CUBLASLT_ALGO_CONFIG_ID:
        return (attribute){&a->id, sizeof a->id};
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        return (attribute){&a->tile, sizeof a->tile};
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        return (attribute){&a->split_k, sizeof a->split_k};
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        return (attribute){&a->reduction, sizeof a->reduction};
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
        return (attribute){&a->swizzle, sizeof a->swizzle};
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION:
        return (attribute){&a->custom, sizeof a->custom};
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        return (attribute){&a->stages, sizeof a->stages};
    case CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID:
        return (attribute){&a->inner_shape, sizeof a->inner_shape};
    case CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID:
        return (attribute){&a->cluster_shape, sizeof a->cluster_shape};
    }
    misuse(call, "the stand-in does not know attribute %d", name);
}

static cublasStatus_t write_attribute(const char *call, attribute a, const void *value, size_t size) {
    if (!value || size != a.size) {
        refuse(call, "the attribute has %zu bytes, not %zu", a.size, size);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(a.p, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t read_attribute(const char *call, attribute a, void *value, size_t size, size_t *written) {
    if (written) *written = a.size;
    if (!size) return CUBLAS_STATUS_SUCCESS; /* only the size was asked for */
    if (!value || size != a.size) {
        refuse(call, "the attribute has %zu bytes, not %zu", a.size, size);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(value, a.p, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t size) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = write_attribute(__func__, description_attribute(__func__, d, (int)name), value, size);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, void *value,
                                              size_t size, size_t *written) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = read_attribute(__func__, description_attribute(__func__, d, (int)name), value, size, written);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t size) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = write_attribute(__func__, layout_attribute(__func__, l, (int)name), value, size);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                                    size_t size) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = write_attribute(__func__, preference_attribute(__func__, p, (int)name), value, size);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t name, const void *value,
                                                    size_t size) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS && name == CUBLASLT_ALGO_CONFIG_ID) {
        refuse(__func__, "the id of an algorithm can only be read");
        status = CUBLAS_STATUS_INVALID_VALUE;
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        status = write_attribute(__func__, algorithm_attribute(__func__, (lt_algorithm *)algo, (int)name), value, size);
    return lt_leave(status);
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t name, void *value, size_t size,
                                                    size_t *written) {
    cublasStatus_t status = lt_enter(__func__);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = read_attribute(__func__, algorithm_attribute(__func__, (lt_algorithm *)(uintptr_t)algo, (int)name),
                                value, size, written);
    return lt_leave(status);
}
