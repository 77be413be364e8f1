/*
 * cuda_cublaslt.h - linear layers (1x1 convolutions of stride 1) as one cuBLASLt product with fp32 results, and our own
 * epilogue kernel behind it; and their data gradients, the product alone.
 *
 * The product is sums[rows][K] = x[rows][C] weight[K][C]', rows = pairs * positions, C and K as stored (padded with
 * zeros). It costs 4 K bytes a row to write and as much to read again, which cuDNN's fused graph and our own kernels
 * do not; it wins where the library's kernel is that much faster. A data gradient dx[rows][C] = dy[rows][K]
 * weight[K][C] has no epilogue: the product is written, or added to what is there, as dx is stored.
 *
 * A form is text: "cublaslt:id=66,tile=20,stages=35,splitk=1,reduction=0,swizzle=0,custom=0,inner=0,cluster=0", the
 * algorithm's id and its configuration attributes. With the same library on the same device it is the same algorithm.
 * Must not know: graphs of ops, numerics plans, which form is fastest.
 */
#ifndef COAR_BACKEND_CUDA_CUBLASLT_H
#define COAR_BACKEND_CUDA_CUBLASLT_H

#include "backend/cuda/cuda_text.h"
#include "core/status.h"
#include "kernels/cuda/kernels.h"

/* Whether the layer is such a product: 1x1, stride 1, no padding, images not read through `example`. Any precision. A
 * transpose reads the weight in the order of the convolution (cuda_form.h). */
bool cuda_cublaslt_can(const gpu_conv *c);

/* The library's handle for one device. It may be shared by threads. */
typedef struct cuda_cublaslt cuda_cublaslt;

/* For the current CUDA device. COAR_ERROR_UNSUPPORTED, saying why, without cuBLASLt. */
coar_status cuda_cublaslt_open(cuda_cublaslt **out);
void cuda_cublaslt_close(cuda_cublaslt *l);

/* "13.1.0"; "none" without the library. */
void cuda_cublaslt_version(char text[CUDA_VERSION_SIZE]);

/* The algorithms that the heuristics propose, best guess first, at most `max`; *count may be 0. Split sums are only
 * proposed where they are added from fp32 parts in a step of their own: in place, their order would not be fixed. */
coar_status cuda_cublaslt_propose(const cuda_cublaslt *l, const gpu_conv *c, size_t max, char (*forms)[CUDA_FORM_SIZE],
                                  size_t *count);

/* An algorithm with everything that it needs for one shape. */
typedef struct cuda_cublaslt_plan cuda_cublaslt_plan;

/* COAR_ERROR_UNSUPPORTED when this library or device does not have the algorithm, or it wants more workspace than
 * allowed. */
coar_status cuda_cublaslt_plan_create(const cuda_cublaslt *l, const gpu_conv *c, const char *form,
                                      cuda_cublaslt_plan **out);
void cuda_cublaslt_plan_destroy(cuda_cublaslt_plan *plan);

/* Bytes of device memory that a launch uses: the sums, then cuBLASLt's own. */
size_t cuda_cublaslt_plan_workspace(const cuda_cublaslt_plan *plan);
/* No plan for c needs more. */
size_t cuda_cublaslt_workspace_max(const gpu_conv *c);

/* Enqueues the product and the epilogue. c: of the shape that the plan was made for. */
coar_status cuda_cublaslt_launch(const cuda_cublaslt_plan *plan, const gpu_conv *c, void *workspace,
                                 cudaStream_t stream);

#endif
