/*
 * cuda_cudnn_graph.h - a layer as an operation graph of cuDNN's backend API; private to cuda_cudnn*.c.
 *
 * The graph is the convolution (or, for 1x1 of stride 1, the matrix product; or a convolution's data gradient) and the
 * whole epilogue of kernels.h:
 *   y = out(act(post(scale * pre(W x) + shift) + residual)),
 * everything between the sums and y in fp32 and never in memory. What cuDNN 9.19 takes and refuses (docs/gpu.md):
 * one keep per image and channel, [N,K,1,1], is accepted behind the sums and nowhere else; zero strides are refused.
 * A fill needs no second tensor per image: k x + (1 - k) c = (x - c) k + c.
 *
 * Must not know: engines, devices, masks' generators.
 */
#ifndef COAR_BACKEND_CUDA_CUDNN_GRAPH_H
#define COAR_BACKEND_CUDA_CUDNN_GRAPH_H

#include "backend/cuda/cuda_cudnn.h"
#include "backend/cuda/cuda_libraries.h"

#if COAR_HAVE_CUDNN

/* Descriptors under construction. The first failure is kept in `status`, with its message; every later call does
 * nothing, so that a graph is written down as a straight list and tested once. */
typedef struct cudnn_list {
    const cudnn_functions *f;
    coar_status status;
    cudnnBackendDescriptor_t *owned; /* [count] destroyed in reverse */
    size_t count, capacity;
} cudnn_list;

/* NULL after a failure. */
cudnnBackendDescriptor_t cudnn_list_make(cudnn_list *l, cudnnBackendDescriptorType_t type);
void cudnn_list_set(cudnn_list *l, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                    cudnnBackendAttributeType_t type, int64_t count, const void *values);
/* One descriptor as the value. */
void cudnn_list_refer(cudnn_list *l, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendDescriptor_t value);
void cudnn_list_finalize(cudnn_list *l, cudnnBackendDescriptor_t descriptor);
void cudnn_list_free(cudnn_list *l);

/* Takes note of a failure of `what`; the message has cuDNN's own. */
void cudnn_list_check(cudnn_list *l, cudnnStatus_t status, const char *what);

/* The tensors in memory, by their unique ids. */
enum {
    CUDNN_X = 1,
    CUDNN_WEIGHT,
    CUDNN_Y,
    CUDNN_SCALE,
    CUDNN_SHIFT,
    CUDNN_KEEP, /* fp32 [pairs][out_channels], gathered from the slots */
    CUDNN_FILL,
    CUDNN_RESIDUAL,
    CUDNN_TENSORS, /* one more than the last */
};

/* Adds the operation graph of layer c to the list; the bits of *tensors (1 << id) say which tensors it takes. c must
 * pass cuda_cudnn_can. NULL after a failure. */
cudnnBackendDescriptor_t cudnn_graph_build(cudnn_list *l, const gpu_conv *c, cuda_cudnn_kind kind, uint32_t *tensors);

#endif
#endif
