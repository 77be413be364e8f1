/*
 * cudnn_backend.h - descriptors of cuDNN's backend API in its stand-in; shared by cudnn.c (attributes), cudnn_check.c
 * (what a descriptor must be like to be finalized), cudnn_engine.c (engines and plans) and cudnn_execute.c (results).
 *
 * Must not know: what graphs are for.
 */
#ifndef COAR_TESTS_STAND_INS_CUDNN_BACKEND_H
#define COAR_TESTS_STAND_INS_CUDNN_BACKEND_H

#include "library.h"

#include <cudnn.h>

#define CUDNN_HANDLE "cudnnHandle_t"
#define CUDNN_DESCRIPTOR "cudnnBackendDescriptor_t"

typedef struct value {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count;
    void *data;
} value;

typedef struct descriptor {
    object object;
    cudnnBackendDescriptorType_t type;
    bool finalized;
    value values[16];
    size_t value_count;
} descriptor;

/* The error that a call has to return: the first one counts, and cudnnGetLastErrorString gives its text. */
cudnnStatus_t cudnn_error(const char *call, cudnnStatus_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same without a line on stderr: what the real library answers to a correct question. */
cudnnStatus_t cudnn_answer(cudnnStatus_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* -------------------------------------------------------------------------------------------- attributes (cudnn.c) */

descriptor *descriptor_create(cudnnBackendDescriptorType_t type);
/* NULL when it was not set. */
const value *descriptor_value(const descriptor *d, cudnnBackendAttributeName_t name);
void descriptor_set(descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                    const void *data);
/* Element i of an attribute that is there; `otherwise` when it is not. */
int64_t descriptor_integer(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i, int64_t otherwise);
int descriptor_enum(const descriptor *d, cudnnBackendAttributeName_t name, int otherwise);
double descriptor_real(const descriptor *d, cudnnBackendAttributeName_t name, double otherwise);
descriptor *descriptor_reference(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i); /* NULL = not set */
int64_t descriptor_count(const descriptor *d, cudnnBackendAttributeName_t name);

/* ------------------------------------------------------------------------------------------ tensors (cudnn_check.c) */

enum { TENSOR_DIMENSIONS = 8 };

typedef struct tensor {
    int64_t id;
    int dimensions;
    int64_t dimension[TENSOR_DIMENSIONS], stride[TENSOR_DIMENSIONS], alignment;
    cudaDataType type;
    bool virtual;
} tensor;

tensor tensor_of(const descriptor *d);
int64_t tensor_elements(const tensor *t);
/* From the first element to behind the last, in elements. */
int64_t tensor_extent(const tensor *t);

/* What a descriptor of this type must be like; CUDNN_STATUS_SUCCESS, or why not. */
cudnnStatus_t cudnn_check(const descriptor *d);

/* --------------------------------------------------------------------------------------- operations (cudnn_check.c) */

/* The operands of an operation, whatever it is. */
typedef struct operation_parts {
    const descriptor *inputs[3]; /* NULL behind the last */
    const descriptor *output;
} operation_parts;

operation_parts operation_parts_of(const descriptor *operation);
bool operation_is_sum(const descriptor *operation); /* a convolution, its data gradient or a matrix product */
bool pointwise_is_binary(cudnnPointwiseMode_t mode);

/* ----------------------------------------------------------------------------------------- engines (cudnn_engine.c) */

/* Finalizes what is computed: engines, heuristics, plans. */
cudnnStatus_t cudnn_finalize_engine(descriptor *engine);
cudnnStatus_t cudnn_finalize_heuristics(descriptor *heuristics);
cudnnStatus_t cudnn_finalize_plan(descriptor *plan);
/* The number of parts in which the plan's engine sums. */
size_t cudnn_plan_parts(const descriptor *plan);
int64_t cudnn_plan_engine(const descriptor *plan);
const descriptor *cudnn_plan_graph(const descriptor *plan);
int64_t cudnn_plan_workspace(const descriptor *plan);

#endif
