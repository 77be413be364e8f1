/*
 * cuda.h - the inside of the CUDA backend (docs/design.md, section 3, "CUDA").
 *
 * A batch is `pairs` (slot, example) pairs; a slot is one mask. One run cuts its (mask, example) pairs, in the order
 * of masks, into batches of equal size; a batch may begin anywhere in a mask. From mask bits to outputs, or to outputs
 * and gradients, a batch is one CUDA graph, captured once per shape and replayed. Two lanes of staging take turns: while
 * one lane's batch is computed, the other's masks go up and its results come down.
 *
 *   cuda.c      the backend interface: prepare, bind, run, run_reverse, logits, destroy
 *   device.c    which device, what it can do, its class
 *   error.c     CUDA's errors as coar_status
 *   memory.c    all device memory, planned before it is taken; how many pairs fit
 *   layer.c     what never changes about an op: packed weights, the convolution's arguments
 *   engine.c    who computes a convolution: the project's kernels, or a library (one table)
 *   next.c      OP_NEXT: a vocabulary of logits, for some positions at a time
 *   forward.c   the op list over one batch: op -> launcher
 *   cuda_tape.c what a reverse pass needs of its forward pass, and where all of it lives
 *   reverse.c   the op list over one batch, backwards
 *   batch.c     the pairs of a run as batches: staging, streams, graphs
 *   means.c     sums of x per masked channel, for `mean` ablation
 *   retry.c     non-finite outputs and gradients once more in fp32
 *   choose.c    the numerics plan of this device
 *
 * State is per backend, so that two of them on two devices can run in two threads. Must not know: models, files, runs.
 */
#ifndef COAR_BACKEND_CUDA_CUDA_H
#define COAR_BACKEND_CUDA_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/cuda_tape.h"
#include "backend/cuda/error.h"
#include "kernels/cuda/kernels.h"

/* ------------------------------------------------------------------------------------------ device.c */

typedef struct cuda_device {
    int index;
    char name[96];
    int major, minor; /* compute capability */
    int multiprocessors;
    char device_class[PLAN_CLASS_SIZE]; /* cuda/GPU/driver/cuDNN/cuBLAS */
} cuda_device;

/* How many there are; takes none of them, since their memory may be somebody else's. COAR_ERROR_UNSUPPORTED, in one
 * line, where none of them can be used. */
coar_status cuda_device_count(int *count);

/* Makes device `index` the calling thread's; fills *out (which may be NULL). One clear line when there is no driver,
 * an old one, no such device, or an older architecture than this build's kernels. */
coar_status cuda_device_open(int index, cuda_device *out);

/* Bytes of device memory that a backend may plan with when it is not told: what is free now, less some for CUDA
 * itself. */
coar_status cuda_device_memory(int index, size_t *bytes);

coar_status cuda_peak(const numerics_plan *plan, thread_pool *pool, double *flops);

/* ------------------------------------------------------------------------------------------- layer.c */

struct cuda_engine;
struct cuda_backend;

/* What never changes about an op. Pointers are device memory. */
typedef struct cuda_layer {
    const op *op;
    shape in, out;
    const struct cuda_engine *engine; /* OP_CONV: who computes it */
    int form;                         /* own kernels: gpu_conv_form's number */
    uint32_t splits;
    void *state; /* the engine's, host memory; engine->release frees it */
    void *
        weight; /* OP_CONV, OP_NEXT: packed as gpu_conv wants it; else fp32: OP_LAYERNORM gamma; OP_EMBED, OP_MEAN_TOKEN
                   * table; OP_LOOKUP table with padded rows, of a tied OP_NEXT perhaps. NULL = none */
    float *scale; /* OP_CONV [O]; NULL = 1 */
    float *shift; /* OP_CONV, OP_LAYERNORM: [channels]; OP_LOOKUP: [tokens][channels]; NULL = 0 */

    /* OP_CONV, OP_NEXT (data_form, transposed), of a reverse pass. The forward half takes own kernels, which keep W x. */
    int saving_form;
    uint32_t saving_splits;
    const struct cuda_engine *data_engine; /* who computes the transpose */
    int data_form;                         /* own kernels: gpu_conv_form's number */
    void *transposed; /* weight packed for it, of own kernels: a library reads `weight`. NULL = not wanted */
} cuda_layer;

/* Shapes, engines and forms of all layers, from the plan. */
coar_status cuda_layers_describe(struct cuda_backend *b);
/* Sizes (arena without a base) or places the weights of all layers. */
void cuda_layers_place(struct cuda_backend *b, arena *arena);
/* Packs and uploads them. */
coar_status cuda_layers_upload(struct cuda_backend *b);
/* Before the first launch on batches of `pairs`: engines make what they need. */
coar_status cuda_layers_prepare(struct cuda_backend *b, uint32_t pairs);
/* The same for a reverse pass. */
coar_status cuda_layers_prepare_reverse(struct cuda_backend *b, uint32_t pairs);
void cuda_layers_release(struct cuda_backend *b);

/* The arguments of a convolution on batches of `pairs`, as far as they do not depend on a batch's buffers: no x,
 * residual, y, mask pointers or workspace. What an engine needs to prepare itself, to choose and to be measured. */
gpu_conv cuda_layer_conv(const struct cuda_backend *b, const cuda_layer *layer, uint32_t pairs);
/* The same for the forward pass that a reverse pass follows, and for the transpose, dL/d(W x) to dL/dx. */
gpu_conv cuda_layer_saving(const struct cuda_backend *b, const cuda_layer *layer, uint32_t pairs);
gpu_conv cuda_layer_transposed(const struct cuda_backend *b, const cuda_layer *layer, uint32_t pairs);
/* Whether a reverse pass computes the layer's transpose. The tape must be there. */
bool cuda_layer_wants_transposed(const struct cuda_backend *b, const cuda_layer *layer);

/* ------------------------------------------------------------------------------------------ engine.c */

/* Who computes a convolution, or (c->transposed) its data gradient. The plan's kernel texts name it by their prefix. */
typedef struct cuda_engine {
    const char *prefix; /* "cudnn:", "cublaslt:"; "" = the project's own kernels */

    /* Whether there is a kernel of that name (prefix left out); *form as the engine likes to number it. */
    bool (*find)(gpu_type type, const char *kernel, int *form);

    /* Bytes of workspace for the convolution c at most. Cheap: asked for many batch sizes while memory is planned. */
    size_t (*workspace)(const struct cuda_backend *b, const cuda_layer *layer, const gpu_conv *c);

    /* Makes what launches of this shape need; keeps what earlier calls for other numbers of pairs made. NULL =
     * nothing. Never called while a graph is captured. */
    coar_status (*prepare)(struct cuda_backend *b, cuda_layer *layer, const gpu_conv *c);

    /* Enqueues it on the stream; allocates nothing and waits for nothing (it may be captured). */
    coar_status (*launch)(const struct cuda_backend *b, const cuda_layer *layer, const gpu_conv *c,
                          cudaStream_t stream);

    void (*release)(cuda_layer *layer); /* frees layer->state. NULL = nothing */
} cuda_engine;

/* The engine of the kernel that the plan names for layer i, or (data) for its data gradient, and its number there.
 * COAR_ERROR_MISMATCH when this build has none. */
coar_status cuda_engine_find(const numerics_plan *plan, size_t i, bool data, const cuda_engine **engine, int *form);
extern const cuda_engine cuda_engine_own;

/* "cuDNN/cuBLAS" of the device class: versions of the libraries that this build calls, "none" for one that it does
 * not. */
void cuda_library_versions(char *text, size_t size);

/* ------------------------------------------------------------------------------------------ memory.c */

/* A batch of forward passes alone (run, logits, sums), or one of forward passes that are taken back. */
typedef enum cuda_mode { CUDA_FORWARD, CUDA_REVERSE, CUDA_MODES } cuda_mode;

typedef enum cuda_source { SOURCE_NONE, SOURCE_PHILOX, SOURCE_BITS, SOURCE_VALUES } cuda_source;

/* What a batch is launched for: another shape is other launches. */
typedef struct cuda_shape {
    uint32_t pairs, slots;
    cuda_source source;
    uint64_t seed, threshold; /* SOURCE_PHILOX */
    uint32_t stream;          /* SOURCE_PHILOX: Philox's, not CUDA's */
    reverse_kind kind;        /* CUDA_REVERSE, of output `output` */
    size_t output;
} cuda_shape;

/* What goes up for one batch: one block, the same layout in pinned and in device memory. */
typedef struct cuda_input {
    uint64_t *first;   /* [1] SOURCE_PHILOX: index of slot 0's mask */
    uint32_t *slot;    /* [pairs] */
    uint32_t *example; /* [pairs] */
    void *masks;       /* SOURCE_BITS [slots][mask_bytes(n)]; SOURCE_VALUES fp32 [value_slots][n] */
} cuda_input;

/* Staging of one batch in flight. */
typedef struct cuda_lane {
    char *host_block, *device_block; /* of the inputs */
    cuda_input host, device;
    float *host_outputs, *outputs;     /* [output_count][pairs]; of a reverse pass one output */
    float *host_gradients, *gradients; /* CUDA_REVERSE: [pairs][n]; else NULL */
    cudaEvent_t uploaded, computed, downloaded;
    size_t first;   /* pair of the run that the batch begins with */
    uint32_t count; /* pairs of the run in it; 0 = no batch in flight. The last one is repeated up to shape.pairs */
} cuda_lane;

enum { CUDA_LANES = 2 };

/* Shapes whose graphs are kept. Paths take kinds of sums and outputs in turn, in binds of two sizes. */
enum { CUDA_SHAPES = 16 };

/* A shape that has been launched op by op already, so that graphs of it may be captured. */
typedef struct cuda_known {
    cuda_shape shape;                  /* of 0 pairs: none */
    cudaGraphExec_t graph[CUDA_LANES]; /* NULL = none yet */
} cuda_known;

/* Everything whose size depends on the number of pairs. The batches of both modes lie in the same device and pinned
 * memory: a run of one of them has ended before another begins. */
typedef struct cuda_batch {
    cuda_mode mode;
    uint32_t pairs, slots, value_slots, observed_pairs; /* room for */
    cuda_known known[CUDA_SHAPES];
    uint32_t oldest;                  /* of them: gives way to a new shape */
    void **buffer;                    /* CUDA_FORWARD: host array [buffers.buffers]: device address of each */
    char *tape;                       /* CUDA_REVERSE: where offset * pairs of the backend's tape begins */
    float *logits;                    /* [pairs][logits_stride] */
    float *keep;                      /* [slots][rows] */
    float *observed;                  /* x of one PRE or POST site of observed_pairs pairs, fp32 */
    void *workspace;                  /* of one convolution */
    size_t input_header, input_bytes; /* of a lane's block: what a batch without masks takes, and in all */
    cuda_lane lane[CUDA_LANES];
} cuda_batch;

/* The batch that the plan asks for; 0 = any. */
uint32_t cuda_planned_pairs(const struct cuda_backend *b, cuda_mode mode);
/* Bytes of device memory with batches of `pairs`. */
size_t cuda_memory_bytes(struct cuda_backend *b, cuda_mode mode, uint32_t pairs);
/* More pairs than this gain nothing: every layer fills the device several times, or there are no more. Of reverse
 * passes not less than the examples of a path. */
uint32_t cuda_memory_useful_pairs(const struct cuda_backend *b, cuda_mode mode);
/* The batch that a plan is tuned for on a device of `total` bytes of memory: the plan's own where it has one, else what
 * fills the device, in part of its memory. A function of model, precision and device alone, for backends of large jobs
 * without paths: it decides bits when a library's form is chosen. */
uint32_t cuda_memory_tuned_pairs(struct cuda_backend *b, cuda_mode mode, size_t total);
/* What backend_interface.memory says. */
void cuda_memory_sizes(struct cuda_backend *b, size_t *least, size_t *best);
/* Takes the memory for as many pairs as are useful and allowed; fewer when the device refuses. */
coar_status cuda_memory_allocate(struct cuda_backend *b);
/* Whether smaller batches would take less memory: not where the larger of the two kinds has the size that the plan or a
 * path wants, or one pair. */
bool cuda_memory_can_shrink(struct cuda_backend *b);
/* Halves the larger of them. */
coar_status cuda_memory_shrink(struct cuda_backend *b);
void cuda_memory_free(struct cuda_backend *b);

/* --------------------------------------------------------------------------------------------- cuda.c */

typedef struct cuda_backend {
    backend base;
    backend_settings settings;
    output_spec outputs[OUTPUTS_MAX];
    cuda_device device;
    precision precision;
    gpu_type type;
    buffer_plan buffers;
    size_t *buffer_bytes; /* [buffers.buffers] for one pair */
    cuda_tape tape;       /* settings.reverse */
    size_t logits_stride; /* floats from one pair's logits to the next */
    size_t input_bytes;   /* of one example */
    bool gathers;         /* an op other than a convolution reads the input: it is copied for each pair */
    cuda_layer *layers;   /* [op_count] */
    cudaStream_t compute, upload, download;
    size_t fixed_bytes; /* of device memory that no batch is in; 0 = not measured yet */
    void *memory;       /* one device allocation for all that follows */
    void *inputs;       /* [examples_max] of input_bytes: pixels, or i32 tokens */
    void *input;        /* [examples_max][positions][stride] normalised, in the type; NULL of tokens, as are */
    float *pixel_mul, *pixel_add; /* [input channels] */
    float *scale;                 /* [examples_max] */
    int32_t *labels;              /* [examples_max] */
    uint32_t *component;          /* [rows] */
    float *fill;                  /* [rows]; NULL = zeros */
    double *sums;                 /* [rows] */
    cuda_batch batch[CUDA_MODES];
    void *batch_memory, *batch_pinned; /* of both */
    uint32_t examples;                 /* bound now */
    float *mul, *add, *host_scale; /* host twins of pixel_mul, pixel_add, scale: a side context is bound from them */
    int32_t *host_labels;
    numerics_plan fp32_plan;   /* of `fp32` */
    struct cuda_backend *fp32; /* computes non-finite outputs once more; NULL until there are some */
    size_t retry_bytes;        /* of device memory, left to it */
    double passes;             /* done by run */
} cuda_backend;

static inline cuda_backend *cuda_self(backend *b) {
    return (cuda_backend *)b;
}

/* Everything but device memory and streams: enough for cuda_memory_bytes. */
coar_status cuda_describe(const backend_settings *s, cuda_backend **out);
/* Ready for bind and run; `s` as in backend.h. */
coar_status cuda_create(const backend_settings *s, cuda_backend **out);
void cuda_destroy(backend *b);
/* The bound examples' inputs are on the device, labels, mul, add and scale on the host: uploads the latter, and fills
 * b->input. Of tokens labels alone. */
coar_status cuda_finish_bind(cuda_backend *b);

/* ------------------------------------------------------------------------------------------ forward.c */

/* One pass over the op list. */
typedef struct cuda_pass {
    cuda_backend *b;
    const cuda_batch *batch;
    uint32_t pairs, count;          /* computed; and the first `count` of them, behind which the last one is repeated */
    const uint32_t *slot, *example; /* device */
    cudaStream_t stream;
    bool backwards; /* what is launched belongs to the reverse pass: errors say so */
    bool checked;   /* waits after each op, so that a failure is that op's; not while a graph is captured */
    /* Sees each op after it was enqueued; NULL = nobody. */
    coar_status (*see)(void *context, const struct cuda_pass *pass, const cuda_layer *layer);
    void *context;
} cuda_pass;

/* From batch->keep to batch->logits. In a batch of reverse passes it leaves what they need on the tape. */
coar_status cuda_forward(const cuda_pass *pass);
/* Where a value lives; NULL for -1. */
void *cuda_value(const cuda_pass *pass, int value);
/* The arguments of an op's launcher in this pass. */
gpu_conv cuda_conv_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_mask cuda_mask_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_attention cuda_attention_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_layernorm cuda_layernorm_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_pool cuda_pool_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_subsample cuda_subsample_args(const cuda_pass *pass, const cuda_layer *layer);
gpu_embed cuda_embed_args(const cuda_pass *pass, const cuda_layer *layer); /* OP_MEAN_TOKEN too */
/* A launcher's result as a status that names op, shape and stream; waits for it when the pass is checked. */
coar_status cuda_launched(const cuda_pass *pass, const cuda_layer *layer, cudaError_t error);

/* --------------------------------------------------------------------------------------------- next.c */

/* Chooses the kernels of an OP_NEXT. COAR_ERROR_UNSUPPORTED where the vocabulary is too large for them. */
coar_status cuda_next_describe(const cuda_backend *b, cuda_layer *layer);
/* Whether some output's reverse pass computes the layer's transpose. The tape must be there. */
bool cuda_next_wants_transposed(const cuda_backend *b, const cuda_layer *layer);
/* Bytes of workspace for a batch of `pairs`, reverse pass included where there are any. */
size_t cuda_next_workspace(const cuda_backend *b, const cuda_layer *layer, uint32_t pairs);
coar_status cuda_next_forward(const cuda_pass *pass, const cuda_layer *layer);
/* dx = dL/d(the op's input) from dy = dL/dlogits of output `output`, or that is added to it. */
coar_status cuda_next_reverse(const cuda_pass *pass, const cuda_layer *layer, size_t output, const float *dy, void *dx,
                              bool add);

/* ------------------------------------------------------------------------------------------ reverse.c */

/* After cuda_forward, with the derivative of output `output` at the logits' place on the tape: sums[pairs][n] of every
 * component. */
coar_status cuda_reverse(const cuda_pass *pass, reverse_kind kind, size_t output, float *sums);
/* Where something of the tape is for this batch; NULL for CUDA_NOWHERE. */
void *cuda_tape_at(const cuda_pass *pass, size_t place);
/* Bytes of workspace of the hungriest launch of a forward and a reverse pass on `pairs`. */
size_t cuda_reverse_workspace(const cuda_backend *b, uint32_t pairs);
/* The factor of dL/dlogits, which the sums are divided by (precision.h, GRADIENT_SCALE_FP16). */
float cuda_loss_scale(const cuda_backend *b);

/* -------------------------------------------------------------------------------------------- batch.c */

/* outputs [output_count][S][E]. After a failure nothing is under way any more. */
coar_status cuda_batches_run(cuda_backend *b, const mask_range *masks, float *outputs);
/* gradients [S][E][n], outputs [S][E] or NULL. */
coar_status cuda_batches_reverse(cuda_backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                 float *gradients, float *outputs);
/* The unablated model: logits [E][graph_logits count]. */
coar_status cuda_batches_logits(cuda_backend *b, float *logits);
/* Bound examples first .. first + count - 1 as a batch in which everything is kept: uploads and expands what it needs
 * (by lane 0, on the compute stream, not waited for) and fills *pass for cuda_forward. */
coar_status cuda_batches_unablated(cuda_backend *b, uint32_t first, uint32_t count, cuda_pass *pass);
void cuda_batches_free_graphs(cuda_backend *b);

/* -------------------------------------------------------------------------------------------- means.c */

/* Adds the bound examples' sums to sums[rows]. */
coar_status cuda_means_add(cuda_backend *b, double *sums);

/* -------------------------------------------------------------------------------------------- retry.c */

/* Computes the pairs of outputs[output_count][S][E] with a non-finite output once more in fp32, and puts the results
 * in their place. */
coar_status cuda_retry_non_finite(cuda_backend *b, const mask_range *masks, float *outputs);
/* The same for pairs with a non-finite gradient (gradients[S][E][n]) or output ([S][E]). */
coar_status cuda_retry_reverse(cuda_backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                               float *gradients, float *outputs);
/* Makes b->fp32_plan, and finds b->retry_bytes. */
coar_status cuda_retry_plan(cuda_backend *b);

/* ------------------------------------------------------------------------------------------- choose.c */

extern const plan_device cuda_plan_device;

gpu_type cuda_type(const numerics_plan *plan);

/* The batch that our own kernels are chosen for by rule: about what memory.c takes. */
#define CUDA_TYPICAL_PAIRS 256

/* The number of our own kernel for convolutions like c, by rule. */
int cuda_choose_own_form(const gpu_conv *c);

/* Own kernels in fp32, form 0, one partial sum: the most careful form there is. */
coar_status cuda_plan_direct(const graph *g, const char *device_class, numerics_plan *out);

#endif
