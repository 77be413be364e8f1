/*
 * cudnn.c - a stand-in for cuDNN's handles and backend descriptors. An attribute can be set only on a descriptor that
 * has it, with its type and count, before the descriptor is finalized; references must be finalized. The table below is
 * the manual's, as far as it is in use.
 *
 * Must not know: what descriptors mean.
 */
#include "cudnn_backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cudnnContext {
    handle handle;
};

static _Thread_local char last_text[256];

/* --------------------------------------------------------------------------------------------------- errors */

cudnnStatus_t cudnn_answer(cudnnStatus_t status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(last_text, sizeof last_text, format, list);
    va_end(list);
    return status;
}

cudnnStatus_t cudnn_error(const char *call, cudnnStatus_t status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(last_text, sizeof last_text, format, list);
    va_end(list);
    refuse(call, "%s", last_text);
    return status;
}

void cudnnGetLastErrorString(char *message, size_t size) {
    if (size) snprintf(message, size, "%s", last_text);
    last_text[0] = 0;
}

const char *cudnnGetErrorString(cudnnStatus_t status) {
    switch (status) {
    case CUDNN_STATUS_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED:
        return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED:
        return "CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED";
    default:
        return status >= CUDNN_STATUS_EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED"
               : status >= CUDNN_STATUS_INTERNAL_ERROR ? "CUDNN_STATUS_INTERNAL_ERROR"
               : status >= CUDNN_STATUS_NOT_SUPPORTED  ? "CUDNN_STATUS_NOT_SUPPORTED"
                                                       : "CUDNN_STATUS_BAD_PARAM";
    }
}

static cudnnStatus_t enter_cudnn(const char *call) {
    return (cudnnStatus_t)enter_library(call);
}

static cudnnStatus_t leave_cudnn(cudnnStatus_t status) {
    return (cudnnStatus_t)leave_library((int)status);
}

/* -------------------------------------------------------------------------------------------------- handles */

size_t cudnnGetVersion(void) {
    return CUDNN_VERSION;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *out) {
    cudnnStatus_t status = enter_cudnn(__func__);
    *out = NULL;
    if (status == CUDNN_STATUS_SUCCESS && usable() != cudaSuccess) status = CUDNN_STATUS_NOT_INITIALIZED;
    if (status == CUDNN_STATUS_SUCCESS) *out = (cudnnHandle_t)handle_create(CUDNN_HANDLE, sizeof **out);
    return leave_cudnn(status);
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h) {
    cudnnStatus_t status = enter_cudnn(__func__);
    object_destroy(__func__, h, CUDNN_HANDLE);
    return leave_cudnn(status);
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream) {
    cudnnStatus_t status = enter_cudnn(__func__);
    handle_find(__func__, h, CUDNN_HANDLE)->stream = stream;
    handle_stream(__func__, &h->handle);
    return leave_cudnn(status);
}

/* --------------------------------------------------------------------------------------------- the attributes */

typedef enum access { REQUIRED, OPTIONAL, COMPUTED } access;

/* A descriptor's attribute: its type, its count, and whether it must be set. COMPUTED ones can only be read. */
typedef struct schema {
    cudnnBackendDescriptorType_t descriptor;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t least, most;
    access access;
} schema;

#define REFERENCE CUDNN_TYPE_BACKEND_DESCRIPTOR

/* clang-format off */
#define ROW(descriptor, attribute, type, least, most, access) \
    {CUDNN_BACKEND_##descriptor##_DESCRIPTOR, CUDNN_ATTR_##attribute, CUDNN_TYPE_##type, least, most, access},
static const schema schemas[] = {
    ROW(TENSOR, TENSOR_UNIQUE_ID, INT64, 1, 1, REQUIRED)
    ROW(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE, 1, 1, REQUIRED)
    ROW(TENSOR, TENSOR_DIMENSIONS, INT64, 1, TENSOR_DIMENSIONS, REQUIRED)
    ROW(TENSOR, TENSOR_STRIDES, INT64, 1, TENSOR_DIMENSIONS, REQUIRED)
    ROW(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64, 1, 1, REQUIRED)
    ROW(TENSOR, TENSOR_IS_VIRTUAL, BOOLEAN, 1, 1, OPTIONAL)
    ROW(CONVOLUTION, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, 1, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, 1, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_SPATIAL_DIMS, INT64, 1, 1, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_DILATIONS, INT64, 2, 2, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_FILTER_STRIDES, INT64, 2, 2, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_PRE_PADDINGS, INT64, 2, 2, REQUIRED)
    ROW(CONVOLUTION, CONVOLUTION_POST_PADDINGS, INT64, 2, 2, REQUIRED)
    ROW(MATMUL, MATMUL_COMP_TYPE, DATA_TYPE, 1, 1, REQUIRED)
    ROW(POINTWISE, POINTWISE_MODE, POINTWISE_MODE, 1, 1, REQUIRED)
    ROW(POINTWISE, POINTWISE_MATH_PREC, DATA_TYPE, 1, 1, REQUIRED)
    ROW(POINTWISE, POINTWISE_SWISH_BETA, DOUBLE, 1, 1, OPTIONAL)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_X, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_W, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_Y, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_CONV_DESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_ALPHA, FLOAT, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_BETA, FLOAT, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_DY, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_W, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_DX, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, BACKEND_DESCRIPTOR, 1, 1,
        REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_ALPHA, FLOAT, 1, 1, REQUIRED)
    ROW(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA_BETA, FLOAT, 1, 1, REQUIRED)
    ROW(OPERATION_MATMUL, OPERATION_MATMUL_ADESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_MATMUL, OPERATION_MATMUL_BDESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_MATMUL, OPERATION_MATMUL_CDESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_MATMUL, OPERATION_MATMUL_DESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC, BACKEND_DESCRIPTOR, 1, 1, OPTIONAL)
    ROW(OPERATION_POINTWISE, OPERATION_POINTWISE_YDESC, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(OPERATIONGRAPH, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, 1, 32, REQUIRED)
    ROW(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE, 1, 1, OPTIONAL)
    ROW(OPERATIONGRAPH, OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, INT64, 1, 1, COMPUTED)
    ROW(DEVICEPROP, DEVICEPROP_HANDLE, HANDLE, 1, 1, OPTIONAL)
    ROW(DEVICEPROP, DEVICEPROP_JSON_REPRESENTATION, CHAR, 1, 1 << 20, OPTIONAL)
    ROW(ENGINE, ENGINE_OPERATION_GRAPH, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(ENGINE, ENGINE_GLOBAL_INDEX, INT64, 1, 1, REQUIRED)
    ROW(ENGINE, ENGINE_DEVICEPROP, BACKEND_DESCRIPTOR, 1, 1, OPTIONAL)
    ROW(ENGINE, ENGINE_NUMERICAL_NOTE, NUMERICAL_NOTE, 0, 16, COMPUTED)
    ROW(ENGINE, ENGINE_BEHAVIOR_NOTE, BEHAVIOR_NOTE, 0, 16, COMPUTED)
    ROW(KNOB_CHOICE, KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, 1, 1, REQUIRED)
    ROW(KNOB_CHOICE, KNOB_CHOICE_KNOB_VALUE, INT64, 1, 1, REQUIRED)
    ROW(ENGINECFG, ENGINECFG_ENGINE, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(ENGINECFG, ENGINECFG_KNOB_CHOICES, BACKEND_DESCRIPTOR, 1, CUDNN_KNOB_TYPE_COUNTS, OPTIONAL)
    ROW(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(ENGINEHEUR, ENGINEHEUR_MODE, HEUR_MODE, 1, 1, REQUIRED)
    ROW(ENGINEHEUR, ENGINEHEUR_DEVICEPROP, BACKEND_DESCRIPTOR, 1, 1, OPTIONAL)
    ROW(ENGINEHEUR, ENGINEHEUR_RESULTS, BACKEND_DESCRIPTOR, 0, 64, COMPUTED)
    ROW(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, BACKEND_DESCRIPTOR, 1, 1, REQUIRED)
    ROW(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE, HANDLE, 1, 1, OPTIONAL)
    ROW(EXECUTION_PLAN, EXECUTION_PLAN_DEVICEPROP, BACKEND_DESCRIPTOR, 1, 1, OPTIONAL)
    ROW(EXECUTION_PLAN, EXECUTION_PLAN_WORKSPACE_SIZE, INT64, 1, 1, COMPUTED)
    ROW(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS, INT64, 1, 32, REQUIRED)
    ROW(VARIANT_PACK, VARIANT_PACK_DATA_POINTERS, VOID_PTR, 1, 32, REQUIRED)
    ROW(VARIANT_PACK, VARIANT_PACK_WORKSPACE, VOID_PTR, 1, 1, OPTIONAL)
};
/* clang-format on */

static const schema *find_schema(cudnnBackendDescriptorType_t descriptor, cudnnBackendAttributeName_t name) {
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        if (schemas[i].descriptor == descriptor && schemas[i].name == name) return &schemas[i];
    return NULL;
}

static size_t type_size(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_CHAR:
        return 1;
    case CUDNN_TYPE_INT64:
        return sizeof(int64_t);
    case CUDNN_TYPE_DOUBLE:
        return sizeof(double);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return sizeof(void *);
    default:
        return 4; /* float, int32 and the enumerations */
    }
}

const value *descriptor_value(const descriptor *d, cudnnBackendAttributeName_t name) {
    for (size_t i = 0; i < d->value_count; i++)
        if (d->values[i].name == name) return &d->values[i];
    return NULL;
}

void descriptor_set(descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                    const void *data) {
    value *v = (value *)(uintptr_t)descriptor_value(d, name);
    if (!v) v = &d->values[d->value_count++];
    free(v->data);
    const size_t bytes = (size_t)count * type_size(type);
    *v = (value){name, type, count, malloc(bytes + 1)};
    if (!v->data) misuse("cudnnBackendSetAttribute", "out of host memory");
    memcpy(v->data, data, bytes);
}

int64_t descriptor_integer(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i, int64_t otherwise) {
    const value *v = descriptor_value(d, name);
    return v && i < v->count ? ((const int64_t *)v->data)[i] : otherwise;
}

int descriptor_enum(const descriptor *d, cudnnBackendAttributeName_t name, int otherwise) {
    const value *v = descriptor_value(d, name);
    return v ? *(const int *)v->data : otherwise;
}

double descriptor_real(const descriptor *d, cudnnBackendAttributeName_t name, double otherwise) {
    const value *v = descriptor_value(d, name);
    if (!v) return otherwise;
    return v->type == CUDNN_TYPE_FLOAT ? *(const float *)v->data : *(const double *)v->data;
}

descriptor *descriptor_reference(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i) {
    const value *v = descriptor_value(d, name);
    return v && i < v->count ? ((descriptor *const *)v->data)[i] : NULL;
}

int64_t descriptor_count(const descriptor *d, cudnnBackendAttributeName_t name) {
    const value *v = descriptor_value(d, name);
    return v ? v->count : 0;
}

/* ----------------------------------------------------------------------------------------------- descriptors */

descriptor *descriptor_create(cudnnBackendDescriptorType_t type) {
    descriptor *d = object_create(CUDNN_DESCRIPTOR, sizeof *d);
    d->type = type;
    return d;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out) {
    cudnnStatus_t status = enter_cudnn(__func__);
    bool known = false;
    *out = NULL;
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) known = known || schemas[i].descriptor == type;
    if (!known) misuse(__func__, "the stand-in knows no descriptor of type %d", (int)type);
    if (status == CUDNN_STATUS_SUCCESS) *out = descriptor_create(type);
    return leave_cudnn(status);
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) {
    cudnnStatus_t status = enter_cudnn(__func__);
    object_destroy(__func__, d, CUDNN_DESCRIPTOR);
    return leave_cudnn(status);
}

static cudnnStatus_t check_references(const char *call, const schema *s, int64_t count, const void *values) {
    for (int64_t i = 0; i < count && s->type == REFERENCE; i++) {
        const descriptor *d = ((descriptor *const *)values)[i];
        if (!d)
            return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "attribute %d refers to nothing",
                               (int)s->name);
        object_check(call, d, CUDNN_DESCRIPTOR);
        if (!d->finalized)
            return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
                               "attribute %d refers to what is not finalized", (int)s->name);
    }
    if (s->type == CUDNN_TYPE_HANDLE) handle_find(call, *(void *const *)values, CUDNN_HANDLE);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t set_attribute(const char *call, descriptor *d, cudnnBackendAttributeName_t name,
                                   cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    const schema *s = find_schema(d->type, name);
    if (!s || s->access == COMPUTED)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d has no attribute %d that can be set",
                           (int)d->type, (int)name);
    if (d->finalized)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "attribute %d: the descriptor is finalized", (int)name);
    if (type != s->type)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d has type %d, not %d", (int)name,
                           (int)s->type, (int)type);
    if (count < s->least || count > s->most || !values)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "attribute %d: %lld elements", (int)name, (long long)count);
    cudnnStatus_t status = check_references(call, s, count, values);
    if (status == CUDNN_STATUS_SUCCESS) descriptor_set(d, name, type, count, values);
    return status;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    cudnnStatus_t status = enter_cudnn(__func__);
    object_check(__func__, d, CUDNN_DESCRIPTOR);
    if (status == CUDNN_STATUS_SUCCESS) status = set_attribute(__func__, d, name, type, count, values);
    return leave_cudnn(status);
}

/* References are read into descriptors of the caller's, which become copies. */
static cudnnStatus_t read_references(const char *call, const value *v, int64_t count, void *values) {
    for (int64_t i = 0; i < count; i++) {
        const descriptor *from = ((descriptor *const *)v->data)[i];
        descriptor *to = ((descriptor **)values)[i];
        object_check(call, to, CUDNN_DESCRIPTOR);
        if (to->type != from->type)
            return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE,
                               "a descriptor of type %d is read into one of type %d", (int)from->type, (int)to->type);
        for (size_t k = 0; k < from->value_count; k++) {
            const value *f = &from->values[k];
            descriptor_set(to, f->name, f->type, f->count, f->data);
        }
        to->finalized = true;
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t get_attribute(const char *call, const descriptor *d, cudnnBackendAttributeName_t name,
                                   cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
    const schema *s = find_schema(d->type, name);
    if (!s)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d has no attribute %d", (int)d->type,
                           (int)name);
    if (!d->finalized)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d: the descriptor is not finalized",
                           (int)name);
    if (type != s->type)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d has type %d, not %d", (int)name,
                           (int)s->type, (int)type);
    const value *v = descriptor_value(d, name);
    const int64_t available = v ? v->count : 0, copied = available < room ? available : room;
    if (count) *count = available; /* which may be more than there was room for */
    if (!copied) return CUDNN_STATUS_SUCCESS;
    if (!values)
        return cudnn_error(call, CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "attribute %d: nowhere to put it", (int)name);
    if (type == REFERENCE) return read_references(call, v, copied, values);
    memcpy(values, v->data, (size_t)copied * type_size(type));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
    cudnnStatus_t status = enter_cudnn(__func__);
    object_check(__func__, d, CUDNN_DESCRIPTOR);
    if (status == CUDNN_STATUS_SUCCESS) status = get_attribute(__func__, d, name, type, room, count, values);
    return leave_cudnn(status);
}

static cudnnStatus_t finalize(const char *call, descriptor *d) {
    if (d->finalized) return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "the descriptor is finalized already");
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        if (schemas[i].descriptor == d->type && schemas[i].access == REQUIRED && !descriptor_value(d, schemas[i].name))
            return cudnn_error(call, CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d lacks attribute %d", (int)d->type,
                               (int)schemas[i].name);
    cudnnStatus_t status = cudnn_check(d);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    switch (d->type) {
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
        status = cudnn_finalize_engine(d);
        break;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        status = cudnn_finalize_heuristics(d);
        break;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        status = cudnn_finalize_plan(d);
        break;
    default:
        break;
    }
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) {
    cudnnStatus_t status = enter_cudnn(__func__);
    object_check(__func__, d, CUDNN_DESCRIPTOR);
    if (status == CUDNN_STATUS_SUCCESS) status = finalize(__func__, d);
    return leave_cudnn(status);
}
