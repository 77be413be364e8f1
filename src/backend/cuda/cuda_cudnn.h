/*
 * cuda_cudnn.h - convolutions, linear layers and their data gradients by cuDNN 9: one fused operation graph a layer,
 * run by one engine.
 *
 * A form is text: "cudnn:conv,engine=12,knobs=2:5/14:3" is engine 12 with knob 2 set to 5 and knob 14 to 3, on the
 * layer's convolution graph; "cudnn:matmul,..." the same on its matrix product, "cudnn:dgrad,..." on the data gradient
 * of a convolution. Text and shape make the same plan
 * again with the same cuDNN on the same device, so a numerics plan can name it.
 *
 * Only 16-bit layers are offered to cuDNN, and only engines whose sums are fp32 in a fixed order of the inputs:
 * Winograd, FFT, reduced-precision and non-deterministic engines are left out by their numerical notes.
 * Must not know: graphs of ops, numerics plans, which form is fastest.
 */
#ifndef COAR_BACKEND_CUDA_CUDNN_H
#define COAR_BACKEND_CUDA_CUDNN_H

#include "backend/cuda/cuda_text.h"
#include "core/status.h"
#include "kernels/cuda/kernels.h"

typedef enum cuda_cudnn_kind {
    CUDA_CUDNN_CONV,
    CUDA_CUDNN_MATMUL, /* [pairs, positions, C] x [1, C, K]: 1x1 of stride 1, or the transpose of one */
    CUDA_CUDNN_DGRAD,  /* the transpose of any convolution, written to y or added to it */
    CUDA_CUDNN_KINDS,
} cuda_cudnn_kind;

/* Whether the layer can be put as such a graph at all (whether an engine takes it is another question). Left to our own
 * kernels: fp32 and tf32, channels out that fill no whole vector (scale and shift have no entries behind the last
 * channel; a transpose has neither), and layers that read their images through `example`, which cuDNN cannot. A
 * transpose reads the weight in the order of the convolution (cuda_form.h). */
bool cuda_cudnn_can(const gpu_conv *c, cuda_cudnn_kind kind);

/* What plans are built for: a device's properties; and the handle that runs them where the device is there. */
typedef struct cuda_cudnn cuda_cudnn;

/* For the current CUDA device. COAR_ERROR_UNSUPPORTED, saying why, without cuDNN. One per worker: its handle belongs to
 * one thread at a time. */
coar_status cuda_cudnn_open(cuda_cudnn **out);
/* For the device that `json` describes (cuDNN's serialisation of device properties): plans can be built, not run. */
coar_status cuda_cudnn_open_described(const char *json, cuda_cudnn **out);
void cuda_cudnn_close(cuda_cudnn *d);

/* "9.19.0"; "none" without cuDNN. */
void cuda_cudnn_version(char text[CUDA_VERSION_SIZE]);

/* The forms that cuDNN's heuristics propose for the layer, best guess first, at most `max`; *count may be 0. *offered:
 * engine configurations before the numerical notes were read. cuDNN reports success and no configuration where
 * libcuda.so.1 cannot be loaded: the count is the answer, not the status. Safe on one `d` from any thread. */
coar_status cuda_cudnn_propose(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t max,
                               char (*forms)[CUDA_FORM_SIZE], size_t *count, size_t *offered);

/* An execution plan: compiled and ready, the same for every pointer of that shape. */
typedef struct cuda_cudnn_plan cuda_cudnn_plan;

/* Builds one (0.5 to 2 s where it is compiled at run time). COAR_ERROR_UNSUPPORTED when this cuDNN or device refuses
 * it, or when it wants more than workspace_max bytes. Safe on one `d` from any thread. */
coar_status cuda_cudnn_plan_create(const cuda_cudnn *d, const gpu_conv *c, const char *form, size_t workspace_max,
                                   cuda_cudnn_plan **out);
void cuda_cudnn_plan_destroy(cuda_cudnn_plan *plan);

/* Bytes of device memory that a launch uses: the gathered keeps, then cuDNN's own. */
size_t cuda_cudnn_plan_workspace(const cuda_cudnn_plan *plan);
/* The first part, which is known without a plan. */
size_t cuda_cudnn_keep_bytes(const gpu_conv *c);

/* Enqueues the layer: gathers its keeps, runs the plan. c: of the shape that the plan was made for. */
coar_status cuda_cudnn_launch(cuda_cudnn *d, const cuda_cudnn_plan *plan, const gpu_conv *c, void *workspace,
                              cudaStream_t stream);

/* What cuDNN answers for a layer on a described device; no GPU is used. */
typedef struct cuda_cudnn_answer {
    size_t offered, admitted;  /* engine configurations; those whose notes are as above */
    size_t planned;            /* of the first `tries` admitted ones, how many became a plan */
    size_t workspace;          /* of the first plan */
    char form[CUDA_FORM_SIZE]; /* the first plan; "" = none */
    char why[256];             /* the last refusal; "" = none */
} cuda_cudnn_answer;

/* Builds the layer's graph, asks for engines, and builds plans for the first `tries` of them. Refusals by cuDNN are
 * part of the answer; an error is a failure to ask. */
coar_status cuda_cudnn_ask(const cuda_cudnn *d, const gpu_conv *c, cuda_cudnn_kind kind, size_t tries,
                           cuda_cudnn_answer *answer);

#endif
