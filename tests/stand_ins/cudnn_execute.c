/*
 * cudnn_execute.c - results of the stand-in for cuDNN: a plan's graph, operation by operation, in fp32; tensors in
 * memory are rounded to their type. Every tensor that is not virtual must be in the variant pack, at an address aligned
 * as its descriptor promised, and all of it must be memory of the device.
 *
 * Must not know: which graphs engines take.
 */
#include "cudnn_backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXECUTE "cudnnBackendExecute"

enum { TENSORS_MAX = 32 };

/* What an execution needs, by value: the variant pack may be destroyed at once. */
typedef struct execution {
    const descriptor *plan;
    int device;
    int64_t count, ids[TENSORS_MAX];
    void *pointers[TENSORS_MAX], *workspace;
} execution;

static void *pointer_of(const execution *x, int64_t id) {
    for (int64_t i = 0; i < x->count; i++)
        if (x->ids[i] == id) return x->pointers[i];
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- tensors */

/* A tensor's elements in the order of its dimensions, the last one fastest. */
typedef struct array {
    tensor tensor;
    double *x;
} array;

/* Offset in memory of element i of that order. */
static int64_t offset_of(const tensor *t, int64_t i) {
    int64_t offset = 0;
    for (int d = t->dimensions; d-- > 0;) {
        offset += i % t->dimension[d] * t->stride[d];
        i /= t->dimension[d];
    }
    return offset;
}

static double *new_elements(int64_t count) {
    double *x = calloc((size_t)count + 1, sizeof *x);
    if (!x) misuse(EXECUTE, "out of host memory");
    return x;
}

static array load(const tensor *t, const void *p) {
    const int64_t count = tensor_elements(t);
    array a = {*t, new_elements(count)};
    for (int64_t i = 0; i < count; i++) a.x[i] = element_load(p, t->type, (size_t)offset_of(t, i));
    return a;
}

/* Rounds the elements as memory does, and stores them there unless the tensor is virtual. */
static void store(array *a, void *p) {
    const int64_t count = tensor_elements(&a->tensor);
    for (int64_t i = 0; i < count; i++) {
        double rounded[1];
        element_store(rounded, a->tensor.type, 0, a->x[i]);
        a->x[i] = element_load(rounded, a->tensor.type, 0);
        if (p) element_store(p, a->tensor.type, (size_t)offset_of(&a->tensor, i), a->x[i]);
    }
}

/* -------------------------------------------------------------------------------------------------------- sums */

/* One image as a matrix [P Q][C R S] of the values that each output position sees, zeros outside. */
static void gather_windows(double *out, const array *x, const tensor *w, const tensor *y, const descriptor *how,
                           int64_t image) {
    const int64_t channels = x->tensor.dimension[1], h = x->tensor.dimension[2], width = x->tensor.dimension[3];
    const int64_t stride_y = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 0, 1);
    const int64_t stride_x = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 1, 1);
    const int64_t pad_y = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 0, 0);
    const int64_t pad_x = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 1, 0);
    const int64_t step_y = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, 0, 1);
    const int64_t step_x = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, 1, 1);
    for (int64_t p = 0; p < y->dimension[2]; p++)
        for (int64_t q = 0; q < y->dimension[3]; q++)
            for (int64_t c = 0; c < channels; c++)
                for (int64_t r = 0; r < w->dimension[2]; r++)
                    for (int64_t s = 0; s < w->dimension[3]; s++) {
                        const int64_t i = p * stride_y - pad_y + r * step_y, j = q * stride_x - pad_x + s * step_x;
                        const bool inside = i >= 0 && i < h && j >= 0 && j < width;
                        *out++ = inside ? x->x[((image * channels + c) * h + i) * width + j] : 0;
                    }
}

static void convolve(array *y, const array *x, const array *w, const descriptor *how, size_t parts) {
    const int64_t n = x->tensor.dimension[0], out = w->tensor.dimension[0];
    const int64_t positions = y->tensor.dimension[2] * y->tensor.dimension[3];
    const int64_t window = x->tensor.dimension[1] * w->tensor.dimension[2] * w->tensor.dimension[3];
    double *windows = new_elements(positions * window), *sums = new_elements(positions * out);
    for (int64_t image = 0; image < n; image++) {
        gather_windows(windows, x, &w->tensor, &y->tensor, how, image);
        matrix_product(sums, (size_t)positions, (size_t)out, (size_t)window,
                       (matrix){windows, CUDA_R_64F, (size_t)window, 1}, (matrix){w->x, CUDA_R_64F, 1, (size_t)window},
                       SUMS_F32, parts);
        for (int64_t p = 0; p < positions; p++)
            for (int64_t k = 0; k < out; k++) y->x[(image * out + k) * positions + p] = sums[p * out + k];
    }
    free(sums);
    free(windows);
}

/* One element of dx, straight from the definition: what the windows that saw it make of dy. */
static double gradient_at(const array *dy, const array *w, const descriptor *how, int64_t image, int64_t channel,
                          const int64_t at[2], int64_t first, int64_t end) {
    const int64_t *size = dy->tensor.dimension, *window = w->tensor.dimension;
    float sum = 0;
    for (int64_t k = first; k < end; k++)
        for (int64_t tap = 0; tap < window[2] * window[3]; tap++) {
            int64_t place[2] = {tap / window[3], tap % window[3]};
            bool seen = true;
            for (int d = 0; d < 2; d++) {
                const int64_t stride = descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, d, 1);
                place[d] = at[d] + descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, d, 0) -
                           place[d] * descriptor_integer(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, d, 1);
                seen = seen && place[d] >= 0 && place[d] % stride == 0 && place[d] / stride < size[2 + d];
                place[d] /= stride;
            }
            if (!seen) continue;
            const double g = dy->x[((image * size[1] + k) * size[2] + place[0]) * size[3] + place[1]];
            sum = (float)(sum + g * w->x[(k * window[1] + channel) * window[2] * window[3] + tap]);
        }
    return (double)sum;
}

/* dx [N,C,H,W] of dy [N,K,P,Q] and w [K,C,R,S], in so many parts of K; added to what is in memory, with beta. */
static void convolve_backwards(array *dx, const array *dy, const array *w, const descriptor *o, size_t parts,
                               const void *memory) {
    const descriptor *how = descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, 0);
    const double beta = descriptor_real(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0);
    const int64_t *size = dx->tensor.dimension, channels = dy->tensor.dimension[1], count = (int64_t)parts;
    for (int64_t i = 0; i < tensor_elements(&dx->tensor); i++) {
        const int64_t at[2] = {i / size[3] % size[2], i % size[3]}, channel = i / (size[2] * size[3]) % size[1];
        float sum = 0;
        for (int64_t part = 0; part < count; part++)
            sum += (float)gradient_at(dy, w, how, i / (size[1] * size[2] * size[3]), channel, at,
                                      part * channels / count, (part + 1) * channels / count);
        dx->x[i] = (double)sum;
        if (beta != 0) dx->x[i] += beta * element_load(memory, dx->tensor.type, (size_t)offset_of(&dx->tensor, i));
    }
}

static void multiply(array *c, const array *a, const array *b, size_t parts) {
    const size_t m = (size_t)c->tensor.dimension[1], n = (size_t)c->tensor.dimension[2],
                 k = (size_t)a->tensor.dimension[2];
    for (int64_t i = 0; i < c->tensor.dimension[0]; i++) {
        const double *shared = b->tensor.dimension[0] == 1 ? b->x : b->x + (size_t)i * k * n;
        matrix_product(c->x + (size_t)i * m * n, m, n, k, (matrix){a->x + (size_t)i * m * k, CUDA_R_64F, k, 1},
                       (matrix){shared, CUDA_R_64F, n, 1}, SUMS_F32, parts);
    }
}

/* --------------------------------------------------------------------------------------------------- pointwise */

/* Element of `a` that stands beside element i of a tensor of the result's shape. */
static double beside(const array *a, const tensor *result, int64_t i) {
    int64_t at = 0, step = 1;
    for (int d = result->dimensions; d-- > 0;) {
        if (a->tensor.dimension[d] > 1) at += i % result->dimension[d] * step;
        step *= a->tensor.dimension[d];
        i /= result->dimension[d];
    }
    return a->x[at];
}

static double apply(const descriptor *how, double x, double b) {
    switch (descriptor_enum(how, CUDNN_ATTR_POINTWISE_MODE, -1)) {
    case CUDNN_POINTWISE_ADD:
        return (float)(x + b);
    case CUDNN_POINTWISE_SUB:
        return (float)(x - b);
    case CUDNN_POINTWISE_MUL:
        return (float)(x * b);
    case CUDNN_POINTWISE_RELU_FWD:
        return x > 0 ? x : isnan(x) && !the_machine.drops_nan ? x : 0;
    case CUDNN_POINTWISE_SIGMOID_FWD:
        return 1 / (1 + exp(-x));
    case CUDNN_POINTWISE_TANH_FWD:
        return tanh(x);
    case CUDNN_POINTWISE_GELU_FWD:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case CUDNN_POINTWISE_GELU_APPROX_TANH_FWD:
        return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    case CUDNN_POINTWISE_SWISH_FWD:
        return x / (1 + exp(-descriptor_real(how, CUDNN_ATTR_POINTWISE_SWISH_BETA, 1) * x));
    default:
        return x; /* identity: cudnn_check lets nothing else through */
    }
}

static void point(array *y, const array *x, const array *b, const descriptor *how) {
    const int64_t count = tensor_elements(&y->tensor);
    for (int64_t i = 0; i < count; i++)
        y->x[i] = apply(how, beside(x, &y->tensor, i), b ? beside(b, &y->tensor, i) : 0);
}

/* ----------------------------------------------------------------------------------------------------- graphs */

/* What has been made or read so far. */
typedef struct arrays {
    size_t count;
    array array[TENSORS_MAX];
} arrays;

static const array *operand(arrays *a, const execution *x, const descriptor *d) {
    if (!d) return NULL;
    const tensor t = tensor_of(d);
    for (size_t i = 0; i < a->count; i++)
        if (a->array[i].tensor.id == t.id) return &a->array[i];
    a->array[a->count] = load(&t, pointer_of(x, t.id));
    return &a->array[a->count++];
}

static void run_operation(const execution *x, const descriptor *o, arrays *a) {
    const operation_parts parts = operation_parts_of(o);
    const array *first = operand(a, x, parts.inputs[0]), *second = operand(a, x, parts.inputs[1]);
    const tensor t = tensor_of(parts.output);
    array *y = &a->array[a->count++];
    *y = (array){t, new_elements(tensor_elements(&t))};
    if (o->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)
        point(y, first, second, descriptor_reference(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 0));
    else if (o->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
        multiply(y, first, second, cudnn_plan_parts(x->plan));
    else if (o->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)
        convolve_backwards(y, first, second, o, cudnn_plan_parts(x->plan), pointer_of(x, t.id));
    else
        convolve(y, first, second, descriptor_reference(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 0),
                 cudnn_plan_parts(x->plan));
    if (operation_is_sum(o)) {
        const double factor = error_factor("cudnn", (int)cudnn_plan_engine(x->plan));
        for (int64_t i = 0; i < tensor_elements(&t); i++) y->x[i] *= factor;
    }
    store(y, t.virtual ? NULL : pointer_of(x, t.id));
}

static cudnnStatus_t check_tensor(const execution *x, const descriptor *d) {
    if (!d) return CUDNN_STATUS_SUCCESS;
    const tensor t = tensor_of(d);
    if (t.virtual) return CUDNN_STATUS_SUCCESS;
    const void *p = pointer_of(x, t.id);
    if (!p)
        return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM, "tensor %lld is not in the variant pack", (long long)t.id);
    if ((uintptr_t)p % (uintptr_t)t.alignment)
        return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
                           "tensor %lld is not aligned to %lld bytes", (long long)t.id, (long long)t.alignment);
    memory_check(EXECUTE, "a tensor", p, (size_t)tensor_extent(&t) * element_size(t.type), x->device);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_memory(const execution *x) {
    const descriptor *graph = cudnn_plan_graph(x->plan);
    for (int64_t i = 0; i < descriptor_count(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS); i++) {
        const operation_parts parts = operation_parts_of(descriptor_reference(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i));
        const descriptor *const tensors[] = {parts.inputs[0], parts.inputs[1], parts.output};
        for (size_t k = 0; k < 3; k++) {
            const cudnnStatus_t status = check_tensor(x, tensors[k]);
            if (status != CUDNN_STATUS_SUCCESS) return status;
        }
    }
    const int64_t bytes = cudnn_plan_workspace(x->plan);
    if (bytes && !x->workspace) return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM, "the plan needs a workspace");
    if (bytes && (uintptr_t)x->workspace % 16)
        return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
                           "the workspace is not aligned to 16 bytes");
    if (bytes) memory_check(EXECUTE, "the workspace", x->workspace, (size_t)bytes, x->device);
    return CUDNN_STATUS_SUCCESS;
}

static cudaError_t run_graph(const void *arguments) {
    const execution *x = arguments;
    const descriptor *graph = cudnn_plan_graph(x->plan);
    const int64_t bytes = cudnn_plan_workspace(x->plan);
    arrays a = {0};
    check_memory(x);
    if (bytes) memset(x->workspace, 0xff, (size_t)bytes); /* nothing else may live there */
    for (int64_t i = 0; i < descriptor_count(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS); i++)
        run_operation(x, descriptor_reference(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i), &a);
    for (size_t i = 0; i < a.count; i++) free(a.array[i].x);
    return cudaSuccess;
}

static cudnnStatus_t execute(const handle *h, const descriptor *plan, const descriptor *pack) {
    const descriptor *device = descriptor_reference(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, 0);
    execution x = {.plan = plan, .device = h->device};
    if (!plan->finalized || plan->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR || !pack->finalized ||
        pack->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
        return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
                           "a finalized plan and a finalized variant pack are needed");
    if (device && !descriptor_value(device, CUDNN_ATTR_DEVICEPROP_HANDLE))
        return cudnn_error(EXECUTE, CUDNN_STATUS_BAD_PARAM,
                           "the plan was built for a described device, which is not here");
    x.count = descriptor_count(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    for (int64_t i = 0; i < x.count; i++) {
        x.ids[i] = descriptor_integer(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i, 0);
        x.pointers[i] = ((void *const *)descriptor_value(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)->data)[i];
    }
    const value *workspace = descriptor_value(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    if (workspace) x.workspace = *(void *const *)workspace->data;
    const cudnnStatus_t status = check_memory(&x);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    const cudaError_t error = enqueue(EXECUTE, handle_stream(EXECUTE, h), run_graph, &x, sizeof x);
    return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    cudnnStatus_t status = (cudnnStatus_t)enter_library(__func__);
    object_check(__func__, plan, CUDNN_DESCRIPTOR);
    object_check(__func__, pack, CUDNN_DESCRIPTOR);
    const handle *found = handle_find(__func__, h, CUDNN_HANDLE);
    if (status == CUDNN_STATUS_SUCCESS) status = execute(found, plan, pack);
    return (cudnnStatus_t)leave_library((int)status);
}
