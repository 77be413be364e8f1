/*
 * kernels.h - the CUDA kernels, as launchers that C can call. Every launcher only enqueues on `stream`, allocates
 * nothing, keeps no state, and returns the launch's error (cudaErrorInvalidValue for arguments outside its contract).
 *
 * A batch is `pairs` (slot, example) pairs; a slot is one mask. Values are NHWC with channels padded to
 * gpu_stride(channels): [pairs][h][w][stride]. The channels behind the last one are zero in every value, and whoever
 * writes a value keeps it so: vectors of 8 or 16 bytes can then be read and multiplied without asking where a row ends.
 * An output element is the same bits whatever `pairs` is and whichever pairs are beside it.
 * Pointers are device memory, aligned to 256 bytes, unless they say otherwise; none may overlap but where they say so.
 *
 * Must not know: graphs, models, masks' generators other than Philox, files.
 */
#ifndef COAR_KERNELS_CUDA_KERNELS_H
#define COAR_KERNELS_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a value is stored, and what multiplies it. Sums are fp32 in every case. */
typedef enum gpu_type {
    GPU_F32,  /* fp32, fused multiply-adds: the reference grade */
    GPU_TF32, /* fp32 in memory, rounded to tf32 (to nearest, ties away) as an operand of mma */
    GPU_BF16,
    GPU_F16,
} gpu_type;

static inline size_t gpu_type_size(gpu_type type) {
    return type == GPU_BF16 || type == GPU_F16 ? 2 : 4;
}

/* Channels stored per position. 3 colours become 4, so that a pixel is one 8-byte (16-bit types) or 16-byte vector. */
static inline uint32_t gpu_stride(uint32_t channels) {
    return channels <= 4 ? 4 : (channels + 7) / 8 * 8;
}

typedef enum gpu_activation { GPU_NONE, GPU_RELU, GPU_GELU_ERF, GPU_GELU_TANH, GPU_QUICKGELU } gpu_activation;
typedef enum gpu_place { GPU_PLACE_NONE, GPU_PLACE_PRE, GPU_PLACE_POST, GPU_PLACE_OUT } gpu_place;

/* Where and how a mask acts: an ablated x becomes k x + (1 - k) fill, k = keep[slot[pair] * rows + channel]. */
typedef struct gpu_mask {
    gpu_place place;      /* GPU_PLACE_NONE: the other members are not read */
    const float *keep;    /* [slots][rows], already moved to this site's first row */
    const float *fill;    /* [channels of the value]; NULL = zeros */
    const uint32_t *slot; /* [pairs] */
    uint32_t rows;        /* from one slot to the next */
} gpu_mask;

/* ------------------------------------------------------------------------------- convolutions, linear layers
 * (conv*.cu) y = out(act(post(scale * pre(W x) + shift) + residual)); a linear layer is a 1x1 convolution; a patch
 * embedding one with stride = kernel. x may be read through `example`: the images of a block are stored once. */
typedef struct gpu_conv {
    gpu_type type;
    uint32_t pairs, in_h, in_w, in_channels, out_h, out_w, out_channels;
    uint32_t kernel_h, kernel_w, stride, pad;
    const void *x;           /* [pairs or examples][in_h][in_w][gpu_stride(in_channels)] */
    const uint32_t *example; /* [pairs] which image of x; NULL = one for each pair */
    const void *weight;      /* [gpu_stride(out_channels)][kernel_h][kernel_w][gpu_stride(in_channels)], zeros behind */
    const float *scale;      /* [out_channels]; NULL = 1 */
    const float *shift;      /* [out_channels]; NULL = 0 */
    const void *residual;    /* like y, of the type's storage; may be y itself (unless `wide`); NULL = none */
    void *y;                 /* [pairs][out_h][out_w][gpu_stride(out_channels)] */
    void *linear;            /* like y, of the type's storage: W x itself, for the reverse pass; NULL = not wanted */
    bool wide;               /* y is fp32 whatever the type: logits, and values that are observed */
    bool transposed;         /* W' instead of W: below */
    gpu_activation activation;
    gpu_mask mask;    /* PRE, POST or OUT */
    uint32_t splits;  /* partial sums over the inputs that are added in order (0 or 1: none) */
    float *workspace; /* gpu_conv_workspace(c) bytes; may be NULL when that is 0 */
} gpu_conv;

/* The transpose of a convolution takes dL/d(W x) back to dL/dx. Its x is the former, its y the latter, and in_* and
 * out_* are theirs; kernel, stride and pad are those of the convolution whose transpose it is, and so is the weight but
 * for the order of its channels: taps in place, [gpu_stride(out_channels)][kernel_h][kernel_w][gpu_stride(in_channels)]
 * as above. Pixels of y that the convolution never read are zero (before the residual: a gradient that is there already
 * is added by residual = y). With a 1x1 kernel and stride 1 it is a product like any other. `example` is NULL. */

/* Forms of a convolution kernel: block tiles. All give every element the same sum in the same order for the same
 * `splits`. gpu_conv_form(type, i) names form i ("128x128x32 s4 w8"), NULL behind the last; form 0 always exists. */
const char *gpu_conv_form(gpu_type type, int form);
/* Whether form `form` can compute c: sizes in range, and compiled for the way that c reads x (stems have fewer forms).
 * Every device has the shared memory for every form. */
bool gpu_conv_can(const gpu_conv *c, int form);
size_t gpu_conv_workspace(const gpu_conv *c);
cudaError_t gpu_conv_launch(const gpu_conv *c, int form, cudaStream_t stream);

/* The epilogue alone, behind a library's matrix product: sums[pairs * out_h * out_w][gpu_stride(out_channels)] fp32
 * takes the place of W x; members x, weight and workspace are not read. sums may be y when `wide`. */
cudaError_t gpu_epilogue_launch(const gpu_conv *c, const float *sums, cudaStream_t stream);

/* -------------------------------------------------------------------------------- the reverse pass (reverse.cu)
 * Gradients are stored like the values they belong to: layout, type, zeros behind the last channel. In fp16 the host
 * scales the seeds (gpu_output_gradient_launch) and takes the factor off the sums (gpu_reverse): everything between is
 * linear in them. A value's gradient is added up over the ops that read it; launchers with `add` add to what dx holds,
 * in fp32, rounded once. */

/* What is summed up for a component; k, x and fill as in gpu_mask, g = dL/d(k x + (1 - k) fill). */
typedef enum gpu_reverse_kind {
    GPU_REVERSE_NONE,        /* nothing */
    GPU_REVERSE_MASK,        /* g (x - fill) */
    GPU_REVERSE_INFLUENCE,   /* k g */
    GPU_REVERSE_CONDUCTANCE, /* k g (x - x of the pair in front); 0 where example[pair] is 0 */
} gpu_reverse_kind;

typedef struct gpu_reverse {
    const void *dy;          /* dL/dy */
    void *dlinear;           /* dL/d(W x); may be dy; NULL = not wanted */
    void *dresidual;         /* dL/d(residual); may be dy, but not dlinear; NULL = not wanted */
    bool add;                /* dresidual is added to what is there (it is not dy then) */
    gpu_reverse_kind kind;   /* with a mask */
    const uint32_t *example; /* GPU_REVERSE_CONDUCTANCE: [pairs]; the pairs of a slot stand in the order of examples */
    uint32_t width;          /* channels of one component */
    uint32_t components;     /* from one pair's sums to the next */
    float unscale;           /* the sums are multiplied by it: 1 over the loss scale of the seeds */
    float *sums;             /* sums[pair * components + channel / width], moved to this site's first component */
    float *workspace;        /* gpu_reverse_workspace(c, r) bytes; may be NULL when that is 0 */
} gpu_reverse;

/* Everything behind W x, backwards. Of c: type, pairs, out_*, scale, shift, activation, mask, and of the forward pass
 *   linear    as saved; read where gpu_reverse_reads_linear says so, else it may be NULL
 *   y         ReLU: where it is positive the derivative is 1. NULL (and ignored under an OUT mask, and where it is
 *             `wide`): the argument is computed again from `linear`, as other activations' always is
 *   residual  the value that was added, still as it was; read with `linear`, where an argument is computed again.
 * The mask of an attention or a layer norm (OUT) is an epilogue without scale, shift, activation or residual whose
 * `linear` is the result before the mask, and dlinear its gradient. Without mask, scale and activation dlinear and
 * dresidual are dy: no launch is needed. Conductances of pairs that repeat the one in front, as behind a batch's last,
 * mean nothing. Each sum has a fixed order, which depends on positions and channels alone. */
cudaError_t gpu_reverse_launch(const gpu_conv *c, const gpu_reverse *r, cudaStream_t stream);
bool gpu_reverse_reads_linear(const gpu_conv *c, gpu_reverse_kind kind);
size_t gpu_reverse_workspace(const gpu_conv *c, const gpu_reverse *r);

/* ------------------------------------------------------------------------------------------- attention (attention*.cu)
 * softmax(q k' / sqrt(width)) v for each head, over all keys or (causal) those up to the query; then the mask (OUT) on
 * the result. */
typedef struct gpu_attention {
    gpu_type type;
    uint32_t pairs, tokens, heads, width; /* width of one head; values are [pairs][tokens][gpu_stride(heads * width)] */
    bool
        causal; /* token t sees keys 0 to t. Of later ones, values that are not finite may spoil the results of their tile */
    const void *q, *k, *v;
    void *y;
    gpu_mask mask;
    void *result;  /* like y: before the mask; NULL = not wanted. For the reverse pass, as is the next */
    float *logsum; /* [pairs][heads][tokens]: log2 of the sum over keys of 2^(q k' log2(e) / sqrt(width)); NULL = not
                    * wanted */
} gpu_attention;

cudaError_t gpu_attention_launch(const gpu_attention *a, cudaStream_t stream);

/* From the gradient of the result before the mask to those of q, k and v. Of a: type, sizes, q, k, v and, as the
 * forward pass left them, result (without a mask y is that) and logsum. */
typedef struct gpu_attention_reverse {
    const void *dresult;
    void *dq, *dk, *dv; /* may be one buffer where q, k and v are one value and all but the first add */
    bool add_q, add_k, add_v;
    float *workspace; /* [pairs][heads][tokens] */
} gpu_attention_reverse;

cudaError_t gpu_attention_reverse_launch(const gpu_attention *a, const gpu_attention_reverse *r, cudaStream_t stream);

/* -------------------------------------------------------------------------------- other ops (one .cu each) */

typedef struct gpu_layernorm {
    gpu_type type;
    uint32_t pairs, positions, channels;
    const float *gamma, *beta; /* [channels]; NULL = 1, 0 */
    float eps;
    const void *x;
    void *y;       /* may be x */
    gpu_mask mask; /* OUT */
} gpu_layernorm;

cudaError_t gpu_layernorm_launch(const gpu_layernorm *l, cudaStream_t stream);

/* dy: the gradient of the result before the mask (beta, y and mask are not read); dx may be dy unless `add`. */
cudaError_t gpu_layernorm_reverse_launch(const gpu_layernorm *l, const void *dy, void *dx, bool add,
                                         cudaStream_t stream);

typedef struct gpu_pool {
    gpu_type type;
    bool maximum; /* else the mean over the whole kernel (pad = 0) */
    uint32_t pairs, in_h, in_w, out_h, out_w, channels, kernel_h, kernel_w, stride, pad;
    const void *x;
    void *y;
} gpu_pool;

cudaError_t gpu_pool_launch(const gpu_pool *p, cudaStream_t stream);

/* x and y as the forward pass left them: a maximum's gradient goes to the first pixel, in the order of rows, that holds
 * it (none where it is NaN). A mean reads neither. */
cudaError_t gpu_pool_reverse_launch(const gpu_pool *p, const void *dy, void *dx, bool add, cudaStream_t stream);

/* Every stride-th pixel, `before` zero channels in front of x's and zeros behind (option-A shortcut). */
typedef struct gpu_subsample {
    gpu_type type;
    uint32_t pairs, in_h, in_w, out_h, out_w, in_channels, out_channels, stride, before;
    const void *x;
    void *y;
} gpu_subsample;

cudaError_t gpu_subsample_launch(const gpu_subsample *s, cudaStream_t stream);
cudaError_t gpu_subsample_reverse_launch(const gpu_subsample *s, const void *dy, void *dx, bool add,
                                         cudaStream_t stream);

/* y[0] = table[0], y[t] = x[t - 1] + table[t]; table fp32 [tokens][channels]. */
typedef struct gpu_embed {
    gpu_type type;
    uint32_t pairs, tokens, channels; /* of y; x has one token less */
    const float *table;
    const void *x;
    void *y;
} gpu_embed;

cudaError_t gpu_embed_launch(const gpu_embed *e, cudaStream_t stream);
cudaError_t gpu_embed_reverse_launch(const gpu_embed *e, const void *dy, void *dx, bool add, cudaStream_t stream);

/* y[pairs][stride] = position 0 of x[pairs][positions][stride]. */
cudaError_t gpu_select_launch(gpu_type type, uint32_t pairs, uint32_t positions, uint32_t channels, const void *x,
                              void *y, cudaStream_t stream);
cudaError_t gpu_select_reverse_launch(gpu_type type, uint32_t pairs, uint32_t positions, uint32_t channels,
                                      const void *dy, void *dx, bool add, cudaStream_t stream);

/* --------------------------------------------------------------------------------------------- tokens (tokens.cu) */

/* y[p][t] = table[token[example[p]][t]] + position[t]: token and position embeddings. */
typedef struct gpu_lookup {
    gpu_type type;
    uint32_t pairs, tokens, channels;
    const float *table;      /* [vocabulary][gpu_stride(channels)], zeros behind: as gpu_conv's weight in fp32 */
    const float *position;   /* [tokens][channels] */
    const int32_t *token;    /* [examples][tokens], below the vocabulary */
    const uint32_t *example; /* [pairs] */
    void *y;
} gpu_lookup;

cudaError_t gpu_lookup_launch(const gpu_lookup *l, cudaStream_t stream);

/* y[0] = mean over t of x[t] + table[0], y[t] = x[t - 1] + table[t]: the mean token in front of the others. */
cudaError_t gpu_mean_token_launch(const gpu_embed *e, cudaStream_t stream);
cudaError_t gpu_mean_token_reverse_launch(const gpu_embed *e, const void *dy, void *dx, bool add, cudaStream_t stream);

/* y = x / |x|, the Euclidean norm over the channels of each of `rows` positions; 0 stays 0. y may be x. */
cudaError_t gpu_unit_launch(gpu_type type, uint32_t rows, uint32_t channels, const void *x, void *y,
                            cudaStream_t stream);
/* dx may be dy unless `add`. */
cudaError_t gpu_unit_reverse_launch(gpu_type type, uint32_t rows, uint32_t channels, const void *x, const void *dy,
                                    void *dx, bool add, cudaStream_t stream);

/* ---------------------------------------------------------------------------------------------- next tokens (next.cu)
 * What a language model says of the next token. The logits of all positions of a batch would be a thousand times what
 * the rest of it holds, so they are made by gpu_conv (wide) for some positions at a time, and four numbers a position
 * are left of them. */

enum gpu_next_channel {
    GPU_NEXT_LOGIT,   /* of the next token; at a text's last position of token 0 */
    GPU_NEXT_LARGEST, /* the largest other logit; NaN ranks above all numbers */
    GPU_NEXT_LOGSUM,  /* log of the sum of exp over all tokens */
    GPU_NEXT_OTHER,   /* the token whose logit GPU_NEXT_LARGEST is, the first of equal ones */
    GPU_NEXT_CHANNELS
};

/* Some positions of a batch: first .. first + rows - 1 of its pairs * tokens, in their order. */
typedef struct gpu_next {
    gpu_type type;
    uint32_t first, rows, tokens;
    uint32_t vocabulary;     /* 2 to 2^24: OTHER is exact */
    const int32_t *token;    /* [examples][tokens], below the vocabulary */
    const uint32_t *example; /* [pairs] */
    const float *logits;     /* [rows][gpu_stride(vocabulary)], of these positions */
    float *y;                /* [pairs * tokens][GPU_NEXT_CHANNELS], of the whole batch */
} gpu_next;

cudaError_t gpu_next_launch(const gpu_next *n, cudaStream_t stream);

/* dlogits[rows][gpu_stride(vocabulary)], of the type's storage, zeros behind: the gradient of these positions' logits,
 * given dy = dL/dy, shaped like y, which is as the forward pass left it. In fp32 and tf32 it may be the logits. */
cudaError_t gpu_next_reverse_launch(const gpu_next *n, const float *dy, void *dlogits, cudaStream_t stream);

/* Where dy has no part in the sum of exponentials, a gradient is made of two rows of the weight: dx[position] =
 * dy[LOGIT] weight[next token] + dy[LARGEST] weight[other token], without any logits. weight as gpu_conv's; dx of the
 * whole batch. */
cudaError_t gpu_next_picked_launch(const gpu_next *n, const float *dy, uint32_t channels, const void *weight, void *dx,
                                   bool add, cudaStream_t stream);

/* y[images][positions][gpu_stride(channels)] = (pixels[images][positions][channels] * mul[c] + add[c]) * scale[image];
 * mul, add and scale fp32, scale NULL = 1. */
cudaError_t gpu_normalise_launch(gpu_type type, uint32_t images, uint32_t positions, uint32_t channels,
                                 const uint8_t *pixels, const float *mul, const float *add, const float *scale, void *y,
                                 cudaStream_t stream);

/* ----------------------------------------------------------------------------------------------- masks (masks.cu)
 * All write keep[slots][rows], row r of a slot being the keep of component `component[r]`; slots up to 65,535. */

/* From packed bits [slots][bytes] (little bit order, 1 = kept): 1, or gain where the bit is 0. */
cudaError_t gpu_keep_from_bits_launch(const uint8_t *bits, uint32_t bytes, float gain, const uint32_t *component,
                                      uint32_t rows, uint32_t slots, float *keep, cudaStream_t stream);

/* Bernoulli masks `*first + slot` made on the device: component j is ablated when word j of Philox4x32-10 with counter
 * (block, mask low, mask high, philox_stream), key = seed, is below threshold (64 bits: ceil(alpha 2^32) may be 2^32).
 * `first` is device memory, so that a captured graph can be replayed for other masks. */
cudaError_t gpu_keep_from_philox_launch(uint64_t seed, uint32_t philox_stream, const uint64_t *first,
                                        uint64_t threshold, float gain, const uint32_t *component, uint32_t rows,
                                        uint32_t slots, float *keep, cudaStream_t stream);

/* From real-valued keeps [slots][components]. */
cudaError_t gpu_keep_from_values_launch(const float *values, uint32_t components, const uint32_t *component,
                                        uint32_t rows, uint32_t slots, float *keep, cudaStream_t stream);

/* The keeps of one site for each pair, for libraries that take one per image: out[pairs][gpu_stride(channels)] =
 * keep[slot[pair] * rows + channel] (zeros behind), fp32. */
cudaError_t gpu_keep_gather_launch(const gpu_mask *mask, uint32_t pairs, uint32_t channels, float *out,
                                   cudaStream_t stream);

/* --------------------------------------------------------------------------------------------- outputs (head.cu) */

typedef enum gpu_output_kind {
    GPU_OUTPUT_MARGIN,     /* logits[label] minus the largest other */
    GPU_OUTPUT_LOGIT,      /* logits[label] */
    GPU_OUTPUT_CLASS,      /* logits[a] */
    GPU_OUTPUT_DIFFERENCE, /* logits[a] - logits[b] */
    GPU_OUTPUT_LOSS,       /* -log softmax(logits)[label] */
} gpu_output_kind;

/* out[pair] = the output of fp32 logits[pair][gpu_stride(classes)]; label[example[pair]] is below `classes`. NaN logits
 * give NaN. The arithmetic is output_value's of graph.h: differences and sums of exponentials in double. */
cudaError_t gpu_output_launch(gpu_output_kind kind, uint32_t a, uint32_t b, uint32_t pairs, uint32_t classes,
                              const float *logits, const int32_t *label, const uint32_t *example, float *out,
                              cudaStream_t stream);

/* gradient[pairs][gpu_stride(classes)], of the type's storage, zeros behind: loss_scale times the output's derivative
 * with respect to each logit, by output_gradient's rules (graph.h): of equal largest logits the first counts. */
cudaError_t gpu_output_gradient_launch(gpu_output_kind kind, uint32_t a, uint32_t b, gpu_type type, uint32_t pairs,
                                       uint32_t classes, const float *logits, const int32_t *label,
                                       const uint32_t *example, float loss_scale, void *gradient, cudaStream_t stream);

/* The same of a language model: the mean of f over the positions 0 .. length - 2 of
 * values[pairs][tokens][GPU_NEXT_CHANNELS] (gpu_next), length[example[pair]] being 2 to tokens: MARGIN, LOGIT or LOSS,
 * whose label is the next token. */
cudaError_t gpu_next_output_launch(gpu_output_kind kind, uint32_t pairs, uint32_t tokens, const float *values,
                                   const int32_t *length, const uint32_t *example, float *out, cudaStream_t stream);

/* gradient[pairs][tokens][GPU_NEXT_CHANNELS], fp32: loss_scale times that output's derivative. */
cudaError_t gpu_next_gradient_launch(gpu_output_kind kind, uint32_t pairs, uint32_t tokens, const int32_t *length,
                                     const uint32_t *example, float loss_scale, float *gradient, cudaStream_t stream);

/* sums[c] += sum over pairs and positions, in that order, of x[pair][position][c], in double. x fp32 when `wide`. */
cudaError_t gpu_channel_sums_launch(gpu_type type, bool wide, uint32_t pairs, uint32_t positions, uint32_t channels,
                                    const void *x, double *sums, cudaStream_t stream);

/* --------------------------------------------------------------------------------------------- the fit (gram.cu)
 * Bit vectors: [count][words] 32-bit words, bits behind the last mask zero. */

/* gram[j][k] = number of common bits of vectors j and k; symmetric, [count][count] int32 (length < 2^31). */
cudaError_t gpu_gram_launch(const uint32_t *bits, uint32_t count, uint32_t words, int32_t *gram, cudaStream_t stream);

/* cross[j][z] = sum over the bits i of vector j of fixed[i][z], int64 (exact in any order): fixed [32 *
 * words][examples], rows behind the last mask may hold anything: they are read, and count nothing. */
cudaError_t gpu_cross_launch(const uint32_t *bits, uint32_t count, uint32_t words, const int64_t *fixed,
                             uint32_t examples, int64_t *cross, cudaStream_t stream);

/* rows[j][i] = bit i of vector j as 0.0 or 1.0, for the `length` <= 32 words bits of [count][length] doubles; count
 * up to 65,535. */
cudaError_t gpu_expand_bits_launch(const uint32_t *bits, uint32_t count, uint32_t words, uint32_t length, double *rows,
                                   cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
