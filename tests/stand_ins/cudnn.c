/*
 * cudnn.c - a stand-in for cuDNN's handles and backend descriptors. An attribute can be set only on a descriptor that has it,
 * with its type and count, before the descriptor is finalized; references must be finalized. The table below is the
 * manual's, as far as it is in use.
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
static const schema schemas[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 1, TENSOR_DIMENSIONS, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 1, TENSOR_DIMENSIONS, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, 2, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, 2, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, 2, REQUIRED},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, 2, REQUIRED},
    {CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_SWISH_BETA, CUDNN_TYPE_DOUBLE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_ADESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_BDESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_CDESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_DESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, REFERENCE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, REFERENCE, 1, 32, REQUIRED},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, CUDNN_TYPE_INT64, 1, 1, COMPUTED},
    {CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 1, 1 << 20, OPTIONAL},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_DEVICEPROP, REFERENCE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 0, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, COMPUTED},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, 0, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, COMPUTED},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, REFERENCE, 1, CUDNN_KNOB_TYPE_COUNTS, OPTIONAL},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, REFERENCE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_RESULTS, REFERENCE, 0, 64, COMPUTED},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, REFERENCE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, REFERENCE, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, 1, COMPUTED},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, 32, REQUIRED},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, 32, REQUIRED},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, OPTIONAL},
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
