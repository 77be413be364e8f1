/* cuda_cudnn_graph.c - see cuda_cudnn_graph.h. */
#include "backend/cuda/cuda_cudnn_graph.h"

#if COAR_HAVE_CUDNN

#include <stdlib.h>

#include "core/memory.h"

/* ------------------------------------------------------------------------------------------ descriptors */

void cudnn_list_check(cudnn_list *l, cudnnStatus_t status, const char *what) {
    char detail[400] = "";
    if (status == CUDNN_STATUS_SUCCESS || l->status != COAR_OK) return;
    l->f->cudnnGetLastErrorString(detail, sizeof detail);
    l->status = status_set(status == CUDNN_STATUS_ALLOC_FAILED ? COAR_ERROR_MEMORY : COAR_ERROR_UNSUPPORTED,
                           "cuDNN: %s: %s: %s", what, l->f->cudnnGetErrorString(status), detail);
}

cudnnBackendDescriptor_t cudnn_list_make(cudnn_list *l, cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t descriptor = NULL;
    if (l->status == COAR_OK)
        l->status = memory_grow(&l->owned, &l->capacity, l->count + 1, sizeof *l->owned, "cuDNN descriptors");
    if (l->status != COAR_OK) return NULL;
    cudnn_list_check(l, l->f->cudnnBackendCreateDescriptor(type, &descriptor), "new descriptor");
    if (l->status != COAR_OK) return NULL;
    l->owned[l->count++] = descriptor;
    return descriptor;
}

void cudnn_list_set(cudnn_list *l, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                    cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (l->status == COAR_OK)
        cudnn_list_check(l, l->f->cudnnBackendSetAttribute(descriptor, name, type, count, values), "attribute");
}

void cudnn_list_refer(cudnn_list *l, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendDescriptor_t value) {
    cudnn_list_set(l, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void cudnn_list_finalize(cudnn_list *l, cudnnBackendDescriptor_t descriptor) {
    if (l->status == COAR_OK) cudnn_list_check(l, l->f->cudnnBackendFinalize(descriptor), "finalize");
}

void cudnn_list_free(cudnn_list *l) {
    while (l->count) l->f->cudnnBackendDestroyDescriptor(l->owned[--l->count]);
    free(l->owned);
    l->owned = NULL;
    l->capacity = 0;
}

/* ---------------------------------------------------------------------------------------------- tensors */

/* One layer's graph while it is written down. */
typedef struct builder {
    cudnn_list *list;
    const gpu_conv *c;
    cuda_cudnn_kind kind;
    uint32_t tensors; /* 1 << id of every tensor in memory */
    int64_t virtuals; /* made so far: their ids begin behind those of the tensors in memory */
    cudnnBackendDescriptor_t operations[16];
    size_t operation_count;
} builder;

/* n images (1: shared by all) of h x w positions with `channels` channels, channels innermost in memory. For a matrix
 * product the positions of an image are rows: [n][h * w][channels]. */
typedef struct extent {
    int64_t n, h, w, channels;
} extent;

/* Every pointer is aligned to 256 bytes, so what a row's length leaves is what vectors may use; 16 bytes are the
 * widest. */
static int64_t row_alignment(int64_t channels, cudnnDataType_t type) {
    const int64_t bytes = channels * (type == CUDNN_DATA_FLOAT ? 4 : 2);
    return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : 4;
}

static cudnnBackendDescriptor_t tensor(builder *b, int64_t id, bool virtual, cudnnDataType_t type, int dimensions,
                                       const int64_t *dimension, const int64_t *stride, int64_t alignment) {
    cudnn_list *l = b->list;
    cudnnBackendDescriptor_t t = cudnn_list_make(l, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dimensions, dimension);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, dimensions, stride);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    cudnn_list_set(l, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual);
    cudnn_list_finalize(l, t);
    if (!virtual) b->tensors |= 1u << id;
    return t;
}

static cudnnBackendDescriptor_t value(builder *b, int64_t id, bool virtual, cudnnDataType_t type, extent e) {
    const int64_t image = e.h * e.w * e.channels, alignment = row_alignment(e.channels, type);
    if (b->kind == CUDA_CUDNN_MATMUL) {
        const int64_t dimension[3] = {e.n, e.h * e.w, e.channels}, stride[3] = {image, e.channels, 1};
        return tensor(b, id, virtual, type, 3, dimension, stride, alignment);
    }
    const int64_t dimension[4] = {e.n, e.channels, e.h, e.w}, stride[4] = {image, 1, e.w * e.channels, e.channels};
    return tensor(b, id, virtual, type, 4, dimension, stride, alignment);
}

static cudnnDataType_t storage(const gpu_conv *c) {
    return c->type == GPU_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

/* Channels as stored: those behind the last are zeros of the weights and of x, and take part like any other. */
static int64_t stored_in(const gpu_conv *c) {
    return gpu_stride(c->in_channels);
}
static int64_t stored_out(const gpu_conv *c) {
    return gpu_stride(c->out_channels);
}

/* fp32 channels of the output: the same for all images, or one row for each. */
static cudnnBackendDescriptor_t channels(builder *b, int64_t id, int64_t images) {
    return value(b, id, false, CUDNN_DATA_FLOAT, (extent){images, 1, 1, stored_out(b->c)});
}

static cudnnBackendDescriptor_t output_like(builder *b, int64_t id, bool virtual, cudnnDataType_t type) {
    const gpu_conv *c = b->c;
    return value(b, id, virtual, type, (extent){c->pairs, c->out_h, c->out_w, stored_out(c)});
}

/* y itself, or an intermediate: fp32 and never in memory. */
static cudnnBackendDescriptor_t result(builder *b, bool last) {
    if (last) return output_like(b, CUDNN_Y, false, b->c->wide ? CUDNN_DATA_FLOAT : storage(b->c));
    return output_like(b, CUDNN_TENSORS + b->virtuals++, true, CUDNN_DATA_FLOAT);
}

/* ------------------------------------------------------------------------------------------- operations */

static void add_operation(builder *b, cudnnBackendDescriptor_t operation) {
    cudnn_list_finalize(b->list, operation);
    b->operations[b->operation_count++] = operation;
}

static cudnnBackendDescriptor_t input(builder *b) {
    const gpu_conv *c = b->c;
    return value(b, CUDNN_X, false, storage(c), (extent){c->pairs, c->in_h, c->in_w, stored_in(c)});
}

/* Window, stride and padding. */
static cudnnBackendDescriptor_t convolution_descriptor(builder *b) {
    cudnn_list *l = b->list;
    const gpu_conv *c = b->c;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t two = 2, ones[2] = {1, 1}, stride[2] = {c->stride, c->stride}, pad[2] = {c->pad, c->pad};
    cudnnBackendDescriptor_t how = cudnn_list_make(l, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &two);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones);
    cudnn_list_set(l, how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    cudnn_list_finalize(l, how);
    return how;
}

static void convolution(builder *b, cudnnBackendDescriptor_t y) {
    cudnn_list *l = b->list;
    const gpu_conv *c = b->c;
    const float alpha = 1, beta = 0;
    cudnnBackendDescriptor_t x = input(b);
    cudnnBackendDescriptor_t w =
        value(b, CUDNN_WEIGHT, false, storage(c), (extent){stored_out(c), c->kernel_h, c->kernel_w, stored_in(c)});
    cudnnBackendDescriptor_t how = convolution_descriptor(b);

    cudnnBackendDescriptor_t o = cudnn_list_make(l, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how);
    cudnn_list_set(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    cudnn_list_set(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    add_operation(b, o);
}

/* c->in_* and out_* are the transpose's, weight the convolution's own. A gradient that is there already is added by
 * beta: for a sum behind it there are few engines, and those are compiled when they are asked for, a second each. */
static void data_gradient(builder *b, cudnnBackendDescriptor_t dx) {
    cudnn_list *l = b->list;
    const gpu_conv *c = b->c;
    const float alpha = 1, beta = c->residual ? 1 : 0;
    cudnnBackendDescriptor_t dy = input(b);
    cudnnBackendDescriptor_t w =
        value(b, CUDNN_WEIGHT, false, storage(c), (extent){stored_in(c), c->kernel_h, c->kernel_w, stored_out(c)});
    cudnnBackendDescriptor_t how = convolution_descriptor(b);

    cudnnBackendDescriptor_t o = cudnn_list_make(l, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, dy);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, w);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, dx);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, how);
    cudnn_list_set(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    cudnn_list_set(l, o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    add_operation(b, o);
}

static void product(builder *b, cudnnBackendDescriptor_t y) {
    cudnn_list *l = b->list;
    const gpu_conv *c = b->c;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const int64_t in = stored_in(c), out = stored_out(c);
    /* weight[out][in], or a transpose's weight[in][out], read as a [in][out] matrix, the same for every image */
    const int64_t dimension[3] = {1, in, out}, turned[3] = {in * out, 1, in}, straight[3] = {in * out, out, 1};
    cudnnBackendDescriptor_t x = input(b);
    cudnnBackendDescriptor_t w =
        tensor(b, CUDNN_WEIGHT, false, storage(c), 3, dimension, c->transposed ? straight : turned,
               row_alignment(c->transposed ? out : in, storage(c)));

    cudnnBackendDescriptor_t how = cudnn_list_make(l, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    cudnn_list_set(l, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    cudnn_list_finalize(l, how);

    cudnnBackendDescriptor_t o = cudnn_list_make(l, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, x);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, w);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add_operation(b, o);
}

static void pointwise(builder *b, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x,
                      cudnnBackendDescriptor_t operand, cudnnBackendDescriptor_t y) {
    cudnn_list *l = b->list;
    const cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT;
    const double quick_gelu = 1.702; /* x * sigmoid(1.702 x) */
    cudnnBackendDescriptor_t how = cudnn_list_make(l, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    cudnn_list_set(l, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    cudnn_list_set(l, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &arithmetic);
    if (mode == CUDNN_POINTWISE_SWISH_FWD)
        cudnn_list_set(l, how, CUDNN_ATTR_POINTWISE_SWISH_BETA, CUDNN_TYPE_DOUBLE, 1, &quick_gelu);
    cudnn_list_finalize(l, how);

    cudnnBackendDescriptor_t o = cudnn_list_make(l, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (operand) cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, operand);
    cudnn_list_refer(l, o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_operation(b, o);
}

/* --------------------------------------------------------------------------------------------- epilogue */

/* One step behind the sums: y = mode(x, operand); operand NULL = none. */
typedef struct step {
    cudnnPointwiseMode_t mode;
    cudnnBackendDescriptor_t operand;
} step;

/* The longest: scale, shift, three of a mask with a fill, residual, activation. */
enum { STEPS_MAX = 7 };

typedef struct step_list {
    step steps[STEPS_MAX];
    size_t count;
} step_list;

static void add_step(step_list *s, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t operand) {
    s->steps[s->count++] = (step){mode, operand};
}

static void add_mask(builder *b, step_list *s, gpu_place place) {
    const gpu_mask *mask = &b->c->mask;
    if (mask->place != place) return;
    cudnnBackendDescriptor_t fill = mask->fill ? channels(b, CUDNN_FILL, 1) : NULL;
    if (fill) add_step(s, CUDNN_POINTWISE_SUB, fill);
    add_step(s, CUDNN_POINTWISE_MUL, channels(b, CUDNN_KEEP, b->c->pairs));
    if (fill) add_step(s, CUDNN_POINTWISE_ADD, fill);
}

static void add_activation(step_list *s, gpu_activation activation) {
    switch (activation) {
    case GPU_NONE:
        break;
    case GPU_RELU:
        add_step(s, CUDNN_POINTWISE_RELU_FWD, NULL);
        break;
    case GPU_GELU_ERF:
        add_step(s, CUDNN_POINTWISE_GELU_FWD, NULL);
        break;
    case GPU_GELU_TANH:
        add_step(s, CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, NULL);
        break;
    case GPU_QUICKGELU:
        add_step(s, CUDNN_POINTWISE_SWISH_FWD, NULL);
        break;
    }
}

static void collect_steps(builder *b, step_list *s) {
    const gpu_conv *c = b->c;
    add_mask(b, s, GPU_PLACE_PRE);
    if (c->scale) add_step(s, CUDNN_POINTWISE_MUL, channels(b, CUDNN_SCALE, 1));
    if (c->shift) add_step(s, CUDNN_POINTWISE_ADD, channels(b, CUDNN_SHIFT, 1));
    add_mask(b, s, GPU_PLACE_POST);
    if (c->residual && b->kind != CUDA_CUDNN_DGRAD)
        add_step(s, CUDNN_POINTWISE_ADD, output_like(b, CUDNN_RESIDUAL, false, storage(c)));
    add_activation(s, c->activation);
    add_mask(b, s, GPU_PLACE_OUT);
}

cudnnBackendDescriptor_t cudnn_graph_build(cudnn_list *l, const gpu_conv *c, cuda_cudnn_kind kind, uint32_t *tensors) {
    static void (*const sums[CUDA_CUDNN_KINDS])(builder *, cudnnBackendDescriptor_t) = {
        [CUDA_CUDNN_CONV] = convolution, [CUDA_CUDNN_MATMUL] = product, [CUDA_CUDNN_DGRAD] = data_gradient};
    builder b = {.list = l, .c = c, .kind = kind};
    step_list s = {.count = 0};
    collect_steps(&b, &s);
    cudnnBackendDescriptor_t current = result(&b, s.count == 0);
    sums[kind](&b, current);
    for (size_t i = 0; i < s.count; i++) {
        cudnnBackendDescriptor_t next = result(&b, i + 1 == s.count);
        pointwise(&b, s.steps[i].mode, current, s.steps[i].operand, next);
        current = next;
    }
    cudnnBackendDescriptor_t graph = cudnn_list_make(l, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    cudnn_list_set(l, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)b.operation_count,
                   b.operations);
    cudnn_list_finalize(l, graph);
    *tensors = b.tensors;
    return graph;
}

#endif
