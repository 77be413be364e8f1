/*
 * cudnn_check.c - what cuDNN's descriptors must be like to be finalized: tensors, operations whose shapes fit together,
 * graphs in which every intermediate is made once. What is valid here may still find no engine (cudnn_engine.c).
 *
 * Must not know: engines, memory.
 */
#include "cudnn_backend.h"

#define FINALIZE "cudnnBackendFinalize"

/* --------------------------------------------------------------------------------------------------- tensors */

static cudaDataType type_of(int type) {
    switch (type) {
    case CUDNN_DATA_FLOAT:
        return CUDA_R_32F;
    case CUDNN_DATA_HALF:
        return CUDA_R_16F;
    case CUDNN_DATA_BFLOAT16:
        return CUDA_R_16BF;
    }
    misuse(FINALIZE, "the stand-in does not know data type %d", type);
}

tensor tensor_of(const descriptor *d) {
    tensor t = {.id = descriptor_integer(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0, 0),
                .dimensions = (int)descriptor_count(d, CUDNN_ATTR_TENSOR_DIMENSIONS),
                .alignment = descriptor_integer(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 0, 0),
                .type = type_of(descriptor_enum(d, CUDNN_ATTR_TENSOR_DATA_TYPE, -1))};
    const value *virtual = descriptor_value(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    t.virtual = virtual && *(const bool *)virtual->data;
    for (int i = 0; i < t.dimensions; i++) {
        t.dimension[i] = descriptor_integer(d, CUDNN_ATTR_TENSOR_DIMENSIONS, i, 0);
        t.stride[i] = descriptor_integer(d, CUDNN_ATTR_TENSOR_STRIDES, i, 0);
    }
    return t;
}

int64_t tensor_elements(const tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->dimensions; i++) n *= t->dimension[i];
    return n;
}

int64_t tensor_extent(const tensor *t) {
    int64_t last = 0;
    for (int i = 0; i < t->dimensions; i++) last += (t->dimension[i] - 1) * t->stride[i];
    return last + 1;
}

static cudnnStatus_t check_tensor(const descriptor *d) {
    const tensor t = tensor_of(d);
    if (descriptor_count(d, CUDNN_ATTR_TENSOR_STRIDES) != t.dimensions)
        return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "tensor %lld: not as many strides as dimensions",
                           (long long)t.id);
    for (int i = 0; i < t.dimensions; i++)
        if (t.dimension[i] < 1 || t.stride[i] < 0)
            return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "tensor %lld: dimension %d is %lld, its stride %lld",
                               (long long)t.id, i, (long long)t.dimension[i], (long long)t.stride[i]);
    const int64_t size = (int64_t)element_size(t.type);
    if (t.alignment < 1 || (t.alignment & (t.alignment - 1)) || t.alignment % size)
        return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "tensor %lld: an alignment of %lld bytes", (long long)t.id,
                           (long long)t.alignment);
    return CUDNN_STATUS_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ operations */

operation_parts operation_parts_of(const descriptor *o) {
    switch (o->type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return (operation_parts){{descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0),
                                  descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, 0)},
                                 descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, 0)};
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return (operation_parts){{descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, 0),
                                  descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, 0)},
                                 descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, 0)};
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return (operation_parts){{descriptor_reference(o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, 0),
                                  descriptor_reference(o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, 0)},
                                 descriptor_reference(o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, 0)};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return (operation_parts){{descriptor_reference(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, 0),
                                  descriptor_reference(o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 0)},
                                 descriptor_reference(o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0)};
    default:
        misuse(FINALIZE, "the stand-in knows no operation of type %d", (int)o->type);
    }
}

bool operation_is_sum(const descriptor *o) {
    return o->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
           o->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ||
           o->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR;
}

bool pointwise_is_binary(cudnnPointwiseMode_t mode) {
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
    case CUDNN_POINTWISE_SUB:
    case CUDNN_POINTWISE_MUL:
        return true;
    case CUDNN_POINTWISE_IDENTITY:
    case CUDNN_POINTWISE_RELU_FWD:
    case CUDNN_POINTWISE_GELU_FWD:
    case CUDNN_POINTWISE_GELU_APPROX_TANH_FWD:
    case CUDNN_POINTWISE_SWISH_FWD:
    case CUDNN_POINTWISE_SIGMOID_FWD:
    case CUDNN_POINTWISE_TANH_FWD:
        return false;
    default:
        misuse(FINALIZE, "the stand-in knows no pointwise mode %d", (int)mode);
    }
}

static cudnnStatus_t shape_error(const char *what) {
    return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "%s: the shapes do not fit together", what);
}

/* x [N,C,H,W], w [K,C,R,S], y [N,K,P,Q]; of a data gradient x is what it makes, and y what it reads. */
static cudnnStatus_t check_convolution(const descriptor *o) {
    const operation_parts parts = operation_parts_of(o);
    const bool forward = o->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    const descriptor *how = descriptor_reference(o,
                                                 forward ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC
                                                         : CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                                 0);
    const tensor x = tensor_of(forward ? parts.inputs[0] : parts.output), w = tensor_of(parts.inputs[1]),
                 y = tensor_of(forward ? parts.output : parts.inputs[0]);
    if (how->type != CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR || x.dimensions != 4 || w.dimensions != 4 ||
        y.dimensions != 4)
        return shape_error("convolution");
    if (y.dimension[0] != x.dimension[0] || y.dimension[1] != w.dimension[0] || x.dimension[1] != w.dimension[1])
        return shape_error("convolution");
    for (int i = 0; i < 2; i++) {
        const int64_t padded = x.dimension[2 + i] + descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i, 0) +
                               descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i, 0);
        const int64_t window =
            (w.dimension[2 + i] - 1) * descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, i, 1) + 1;
        const int64_t stride = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i, 1);
        if (stride < 1 || padded < window || y.dimension[2 + i] != (padded - window) / stride + 1)
            return shape_error("convolution");
    }
    if (descriptor_enum(how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, -1) != CUDNN_DATA_FLOAT ||
        descriptor_enum(how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, -1) != CUDNN_CROSS_CORRELATION)
        misuse(FINALIZE, "the stand-in computes cross-correlations in fp32 only");
    return CUDNN_STATUS_SUCCESS;
}

/* What is added to must be there. */
static cudnnStatus_t check_factors(const descriptor *o) {
    const bool forward = o->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    const double alpha = descriptor_real(
        o, forward ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA : CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
        0);
    const double beta = descriptor_real(
        o, forward ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA : CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
        -1);
    if (alpha != 1 || (beta != 0 && (forward || beta != 1)))
        misuse(FINALIZE, "the stand-in wants alpha 1 and beta 0, or 1 of a data gradient");
    if (beta != 0 && tensor_of(operation_parts_of(o).output).virtual)
        return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "a data gradient is added to a virtual tensor");
    return CUDNN_STATUS_SUCCESS;
}

/* a [B,M,K], b [B or 1,K,N], c [B,M,N] */
static cudnnStatus_t check_matmul(const descriptor *o) {
    const operation_parts parts = operation_parts_of(o);
    const tensor a = tensor_of(parts.inputs[0]), b = tensor_of(parts.inputs[1]), c = tensor_of(parts.output);
    if (a.dimensions != 3 || b.dimensions != 3 || c.dimensions != 3) return shape_error("matrix product");
    if (a.dimension[0] != c.dimension[0] || (b.dimension[0] != 1 && b.dimension[0] != c.dimension[0]) ||
        a.dimension[1] != c.dimension[1] || a.dimension[2] != b.dimension[1] || b.dimension[2] != c.dimension[2])
        return shape_error("matrix product");
    return CUDNN_STATUS_SUCCESS;
}

static bool broadcasts(const tensor *t, const tensor *to) {
    if (t->dimensions != to->dimensions) return false;
    for (int i = 0; i < t->dimensions; i++)
        if (t->dimension[i] != 1 && t->dimension[i] != to->dimension[i]) return false;
    return true;
}

static cudnnStatus_t check_pointwise(const descriptor *o) {
    const operation_parts parts = operation_parts_of(o);
    const descriptor *how = descriptor_reference(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 0);
    const tensor y = tensor_of(parts.output);
    if (how->type != CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
        return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE,
                           "PW_DESCRIPTOR is no pointwise descriptor");
    const cudnnPointwiseMode_t mode = (cudnnPointwiseMode_t)descriptor_enum(how, CUDNN_ATTR_POINTWISE_MODE, -1);
    if (pointwise_is_binary(mode) != (parts.inputs[1] != NULL))
        return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "pointwise mode %d: one operand too many or too few",
                           (int)mode);
    for (int i = 0; i < 2 && parts.inputs[i]; i++) {
        const tensor t = tensor_of(parts.inputs[i]);
        if (!broadcasts(&t, &y)) return shape_error("pointwise");
    }
    return CUDNN_STATUS_SUCCESS;
}

/* Operands that are no tensors are refused before their shapes are looked at. */
static cudnnStatus_t check_operation(const descriptor *o) {
    const operation_parts parts = operation_parts_of(o);
    const descriptor *const operands[] = {parts.inputs[0], parts.inputs[1], parts.output};
    for (size_t i = 0; i < 3; i++)
        if (operands[i] && operands[i]->type != CUDNN_BACKEND_TENSOR_DESCRIPTOR)
            return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "an operand is no tensor");
    if (o->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) return check_pointwise(o);
    if (o->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) return check_matmul(o);
    const cudnnStatus_t status = check_convolution(o);
    return status == CUDNN_STATUS_SUCCESS ? check_factors(o) : status;
}

/* ---------------------------------------------------------------------------------------------------- graphs */

/* Index of the operation that makes tensor `id`, of those before `end`; -1 = none. */
static int64_t maker_of(const descriptor *graph, int64_t id, int64_t end) {
    for (int64_t i = 0; i < end; i++) {
        const descriptor *o = descriptor_reference(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i);
        if (tensor_of(operation_parts_of(o).output).id == id) return i;
    }
    return -1;
}

static bool is_operation(const descriptor *d) {
    return operation_is_sum(d) || d->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
}

static cudnnStatus_t check_graph(const descriptor *graph) {
    const int64_t count = descriptor_count(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
    for (int64_t i = 0; i < count; i++) {
        const descriptor *o = descriptor_reference(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i);
        if (!is_operation(o)) return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "no operation");
        const operation_parts parts = operation_parts_of(o);
        const tensor y = tensor_of(parts.output);
        if (maker_of(graph, y.id, i) >= 0)
            return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "tensor %lld is made twice",
                               (long long)y.id);
        for (int k = 0; k < 2 && parts.inputs[k]; k++) {
            const tensor x = tensor_of(parts.inputs[k]);
            if (x.virtual && maker_of(graph, x.id, i) < 0)
                return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM,
                                   "virtual tensor %lld is not made by an operation before", (long long)x.id);
        }
        if (i == count - 1 && y.virtual)
            return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "the last tensor, %lld, is virtual", (long long)y.id);
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_one_of(const descriptor *d, cudnnBackendAttributeName_t a, cudnnBackendAttributeName_t b) {
    if (descriptor_value(d, a) || descriptor_value(d, b)) return CUDNN_STATUS_SUCCESS;
    return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d lacks attribute %d or %d",
                       (int)d->type, (int)a, (int)b);
}

cudnnStatus_t cudnn_check(const descriptor *d) {
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return check_tensor(d);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return check_operation(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return check_graph(d);
    case CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR:
        return check_one_of(d, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return check_one_of(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        if (descriptor_count(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS) !=
            descriptor_count(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS))
            return cudnn_error(FINALIZE, CUDNN_STATUS_BAD_PARAM, "a variant pack needs one pointer for each id");
        return CUDNN_STATUS_SUCCESS;
    default:
        return CUDNN_STATUS_SUCCESS;
    }
}
