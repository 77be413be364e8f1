/*
 * cuda_form.h - one layer, or its data gradient, computed in one form: our kernel, cuDNN's engine or cuBLASLt's
 * algorithm behind the same call.
 *
 * A data gradient is a gpu_conv with `transposed` (kernels.h) whose epilogue is empty but for residual = y. Our kernels
 * read its weight with the channels' order turned, libraries' forms as the forward pass does: of the transpose's
 * sizes [gpu_stride(in_channels)][kernel_h][kernel_w][gpu_stride(out_channels)]. So where a library computes it,
 * weights are in memory once.
 *
 * What a form needs besides its text (handles of the libraries, plans that take seconds to build) is made once in a
 * process and kept to its end: a job prepares several backends one after another, for the same layers.
 * Must not know: graphs of ops, numerics plans, which form is fastest.
 */
#ifndef COAR_BACKEND_CUDA_FORM_H
#define COAR_BACKEND_CUDA_FORM_H

#include "backend/cuda/cuda_cublaslt.h"
#include "backend/cuda/cuda_cudnn.h"
#include "core/log.h"
#include "core/threads.h"

/* -------------------------------------------------------------------------------------- devices' libraries */

/* The libraries' handles of one device, for the life of the process. A library that cannot be had is NULL and its
 * forms are no candidates; `why` says so ("" = there). */
typedef struct cuda_handles {
    int device;
    cuda_cudnn *cudnn;
    cuda_cublaslt *cublaslt;
    char cudnn_why[256], cublaslt_why[256];
    bool told; /* the log has the reasons already */
} cuda_handles;

/* Opens them at the first call; `device` becomes the calling thread's. Safe from any thread. */
coar_status cuda_handles_get(int device, cuda_handles **out);

/* Frees all that is kept: handles and forms. Nobody may use any of them any more. Not needed at exit, where the
 * libraries may be gone already. */
void cuda_forms_release(void);

/* ------------------------------------------------------------------------------------------------- forms */

enum { CUDA_SIGNATURE_SIZE = 192 };

/* Everything about a layer that a form's plan and its time depend on, as text: type, shape, and what the epilogue has.
 * Pointers count as given or not, and as the same or not; they are not followed.
 * "bf16 256 56x56x64 > 56x56x256 1x1/1+0 pre scale shift residual relu", "... 1x1/1+0 transposed" */
void cuda_signature(const gpu_conv *c, char text[CUDA_SIGNATURE_SIZE]);

/* Whether the text names a form of a library's: its bits may depend on the batch's size. */
bool cuda_form_is_library(const char *text);

/* A form ready to be launched on layers of one signature. */
typedef struct cuda_form cuda_form;

/* Makes one. COAR_ERROR_UNSUPPORTED, naming the form, where this build, device or library does not have it. `splits`
 * (of our own kernels only) as in gpu_conv. */
coar_status cuda_form_open(cuda_handles *h, const gpu_conv *c, const char *text, uint32_t splits, cuda_form **out);
void cuda_form_close(cuda_form *form);

/* Hands a form over to the process: from now on cuda_form_get finds it. */
coar_status cuda_form_keep(cuda_form *form);
/* The kept form of that text for layers like c; made, and kept, where there is none yet. Borrowed. */
coar_status cuda_form_get(cuda_handles *h, const gpu_conv *c, const char *text, uint32_t splits, const cuda_form **out);

/* A layer and its form, for cuda_forms_build. */
typedef struct cuda_form_wanted {
    gpu_conv conv;
    const char *text;
    uint32_t splits;
} cuda_form_wanted;

/* Makes and keeps those that are not kept yet, in parallel on the pool (NULL: one after another), and says so in the
 * log when there are some that take long. */
coar_status cuda_forms_build(cuda_handles *h, const cuda_form_wanted *wanted, size_t count, thread_pool *pool,
                             const coar_callbacks *callbacks);

/* The text that it was made from. */
const char *cuda_form_text(const cuda_form *form);

/* Bytes of workspace of a launch; and the most that any form of this engine ("cudnn:", "cublaslt:", "") takes for c. */
size_t cuda_form_workspace(const cuda_form *form);
size_t cuda_form_workspace_max(const gpu_conv *c, const char *text);

/* Enqueues layer c, of the form's signature, on the stream; c->workspace has room for cuda_form_workspace. Can be
 * captured. Safe from several threads, each on its stream. */
coar_status cuda_form_launch(const cuda_form *form, const gpu_conv *c, cudaStream_t stream);

#endif
