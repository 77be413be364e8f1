/*
 * cublaslt.h - what cuBLASLt's opaque types are in its stand-in; shared by cublaslt.c (descriptors) and
 * cublaslt_matmul.c (algorithms, products).
 *
 * Must not know: what the results are for.
 */
#ifndef COAR_TESTS_STAND_INS_CUBLASLT_H
#define COAR_TESTS_STAND_INS_CUBLASLT_H

#include "library.h"

#include <cublasLt.h>

#define LT_HANDLE "cublasLtHandle_t"
#define LT_DESCRIPTION "cublasLtMatmulDesc_t"
#define LT_LAYOUT "cublasLtMatrixLayout_t"
#define LT_PREFERENCE "cublasLtMatmulPreference_t"

/* Attributes have the sizes that the library's header documents. */
typedef struct lt_description {
    object object;
    int32_t compute, scale, pointer_mode, trans_a, trans_b;
    uint32_t epilogue;
    const void *bias;
    int32_t bias_type; /* -1: that of D */
} lt_description;

typedef struct lt_layout {
    object object;
    uint32_t type;
    int32_t order;
    uint64_t rows, columns;
    int64_t ld, stride;
    int32_t batch;
} lt_layout;

typedef struct lt_preference {
    object object;
    uint32_t search, reductions;
    uint64_t workspace;
    uint32_t alignment[4]; /* of A, B, C, D */
} lt_preference;

/* Behind cublasLtMatmulAlgo_t: made by a heuristic or by cublasLtMatmulAlgoInit for one combination of types. */
typedef struct lt_algorithm {
    int32_t magic, id, tile, split_k;
    uint32_t reduction, swizzle, custom, stages;
    uint16_t inner_shape, cluster_shape;
    int16_t types[4]; /* of A, B, C, D */
    int32_t compute;
} lt_algorithm;

enum { LT_MAGIC = 0x1f2e3d4c };
_Static_assert(sizeof(lt_algorithm) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm must fit");

/* Enter and leave a call of the library. */
cublasStatus_t lt_enter(const char *call);
cublasStatus_t lt_leave(cublasStatus_t status);

#endif
