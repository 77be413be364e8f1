/*
 * kernels.h - the CPU kernels: one table of functions per instruction set.
 *
 * Layout of every activation array: [position][channel][lane], 32 lanes of fp32, so 128 bytes per (position, channel)
 * and 64-byte alignment throughout. A lane is one example under one mask; no kernel mixes lanes, so the result of a
 * lane does not depend on the lanes beside it. (One sum does, as its purpose: SUM_DIFFERENCE.)
 * All kernels are thread-safe and allocate nothing. Must not know: graphs, masks, models.
 */
#ifndef COAR_KERNELS_CPU_KERNELS_H
#define COAR_KERNELS_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LANES 32

/* Floats of room for an activation array of so many, where others follow it. Kernels are at the same place in several
 * arrays at once. Were these multiples of 4,096 bytes apart, as sizes that are powers of two make them, a step's lines
 * would share the few places of one set of the first-level cache, and loads would wait for stores that have only the
 * last 12 bits of their address. */
static inline size_t lanes_room(size_t floats) {
    return floats % 1024 ? floats : floats + 5 * LANES;
}

/* Elementwise, in place, over `count` floats (a multiple of LANES). */
typedef void (*activate_kernel)(float *x, size_t count);
/* gradient[i] *= act'(x[i]): the reverse of an activate_kernel, from its argument. */
typedef void (*derive_kernel)(const float *x, float *gradient, size_t count);

/* A sliding window: convolution or pooling. */
typedef struct window {
    uint32_t in_h, in_w, out_h, out_w;
    uint32_t kernel_h, kernel_w, stride, pad;
} window;

/* Weights as the kernels read them: blocks of tile_rows rows, of each [point][column][tile_rows], where a point is a
 * tap or one of Winograd's products. They are packed once, for all masks: what a mask keeps are lists of rows (where each
 * begins) and columns (from there on). Rows that are computed together need not be neighbours. */
enum { WINOGRAD_POINTS = 36 };

/* Products may be of bf16 numbers, two at a time (bf16.h): then a column of the weights is not a channel but the pair of
 * channels 2i and 2i + 1, in as many bytes. Activations are fp32 all the same; the kernels round them. */
static inline uint32_t conv_pairs(uint32_t channels) {
    return (channels + 1) / 2;
}

static inline uint32_t conv_blocks(uint32_t rows, uint32_t tile_rows) {
    return (rows + tile_rows - 1) / tile_rows;
}
/* Rows are computed in balanced groups of at most tile_rows: group b of `blocks` begins with this one. */
static inline uint32_t conv_block_first(uint32_t rows, uint32_t blocks, uint32_t b) {
    return (uint32_t)((uint64_t)rows * b / blocks);
}
/* Floats. Sizes are those of weights that exist, a sixth more for small ones: no overflow. */
static inline size_t conv_packed_size(uint32_t rows, uint32_t columns, size_t points, uint32_t tile_rows) {
    return (size_t)conv_blocks(rows, tile_rows) * tile_rows * points * columns;
}
/* Where row r begins. */
static inline size_t conv_row(uint32_t r, uint32_t columns, size_t points, uint32_t tile_rows) {
    return (size_t)(r / tile_rows) * tile_rows * points * columns + r % tile_rows;
}
/* Taps t < kernel with t mod stride = phase. */
static inline uint32_t conv_phase_taps(uint32_t kernel, uint32_t stride, uint32_t phase) {
    return phase < kernel ? (kernel - 1 - phase) / stride + 1 : 0;
}

/* y[p][channel[r]] = act(mul[r] * (W x)[p][r] + add[zone(p)][r] + residual[p][channel[r]]) for the rows r, and
 * y[p][constant_channel[i]] = act(constant[i] + residual) for rows that are known without computing them. */
typedef struct conv_args {
    window window;
    uint32_t in_channels;  /* channels stored per input position = columns */
    uint32_t out_channels; /* channels stored per output position */
    const float *input;    /* [in_h * in_w][in_channels][LANES] */
    float *output;         /* [out_h * out_w][out_channels][LANES]; must not overlap the input */
    const float *residual; /* shape of the output, may be the output itself; or NULL */

    uint32_t rows;
    const float *weight;    /* conv_pack, winograd_pack */
    const size_t *row;      /* [rows] where each begins in it */
    const uint32_t *column; /* [kernel_w][in_channels] where each column of a kernel row begins in a row: increasing; of
                              * Winograd's form [in_channels] in a point */
    size_t tap;             /* floats between a row's points: all columns there are * tile_rows */
    const uint32_t *channel; /* [rows] where each row goes */
    const float *mul; /* [rows][LANES]; of a 1x1 convolution with stride 1 NULL: the output is the sums themselves,
                              * row r at channel r, and all that follows is unused */
    const float *add; /* [zones][rows][LANES]; zone = zone_y[y] * zones_x + zone_x[x] */
    const uint32_t *zone_y; /* [out_h] */
    const uint32_t *zone_x; /* [out_w] */
    uint32_t zones_x;

    uint32_t constants;
    const uint32_t *constant_channel; /* [constants] */
    const float *constant;            /* [constants] */

    bool relu;                /* act = max(0, y), fused */
    activate_kernel activate; /* any other act, or NULL */
    float *scratch;           /* winograd_scratch(in_channels) floats, conv_bf16_scratch, winograd_bf16_scratch */

    /* Forms in bf16, whose columns are pairs: a pair that is stored in part is multiplied by zeros where it is not. */
    uint32_t pairs;            /* with a channel stored: columns are [kernel_w][pairs], of Winograd's form [pairs] */
    const uint32_t (*pair)[2]; /* [pairs] where its two channels are stored; in_channels or more: nowhere */

    /* What the reverse pass will want; NULL = not wanted. Of computed rows alone: nothing is written for constants. */
    float *linear; /* shape of the output: the sums W x themselves */
    uint8_t
        *positive; /* with relu. [out_h * out_w][out_channels][LANES / 8]: bit lane % 8 of byte lane / 8 = !(y <= 0):
                        * the gradient of a NaN goes on */
} conv_args;

typedef struct pool_args {
    window window;
    uint32_t channels;
    const float *input; /* [in_h * in_w][channels][LANES] */
    float *output;      /* [out_h * out_w][channels][LANES] */
} pool_args;

typedef struct layernorm_args {
    size_t positions;
    uint32_t channels;
    const float *gamma, *beta; /* [channels]; NULL = 1, 0 */
    float eps;
    const float *input; /* [positions][channels][LANES] */
    float *output;      /* the same; may be the input */
} layernorm_args;

typedef struct attention_args {
    uint32_t tokens, heads, head_width; /* width = heads * head_width */
    uint32_t queries;                   /* tokens whose results are wanted, from the first on */
    bool causal;                        /* a token sees those up to itself alone; others have the weight 0, if any */
    const uint32_t *value_width;        /* [heads] channels of each that are stored in v and output: at most head_width;
                                         * NULL = all of them */
    const float *q, *k, *v;             /* [tokens][width][LANES] each; v fewer channels by value_width */
    float *output;                      /* [tokens][channels of v][LANES]; must not overlap them */
    float *scratch;                     /* attention_scratch(tokens, head_width) floats */
} attention_args;

/* What is known of a language model's next token when some rows of its logits have been seen: arrays of [LANES] each. */
enum next_state {
    NEXT_STATE_LOGIT,   /* of that token, if it was among them */
    NEXT_STATE_LARGEST, /* of the others; begins with -inf, */
    NEXT_STATE_OTHER,   /* and with the first token that is not the next one: which it is */
    NEXT_STATE_PEAK,    /* the largest of all; begins with -inf */
    NEXT_STATE_SUM,     /* of exp(logit - peak); begins with 0 */
    NEXT_STATES
};

typedef struct next_rows_args {
    size_t positions;
    uint32_t first, rows; /* the tokens: chunks come in their order, without gaps */
    const float *logits;  /* [positions][rows][LANES] */
    const float *next;    /* [positions][LANES]: the token behind each position, a whole number */
    float *state;         /* [positions][NEXT_STATES][LANES] */
    bool sums;            /* peak and sum are wanted */
} next_rows_args;

/* ------------------------------------------------------------------------------------------- the reverse pass
 *
 * Gradients have the shape and layout of their values. The gradient of a value that several ops read is the sum of what
 * each of them sends: the first to come writes, the others add. */
typedef struct gradient_sum {
    float *values; /* NULL = not wanted */
    bool add;      /* to what is there; otherwise it is overwritten, every element of it */
} gradient_sum;

/* What is summed up over positions for every channel and lane; x and g as below. */
typedef enum sum_kind {
    SUM_NONE,
    SUM_PRODUCT,    /* g (a[c] x + b[c]) */
    SUM_GRADIENT,   /* g */
    SUM_DIFFERENCE, /* g (x - x of the lane before); 0 in lane 0. The one place where lanes meet */
} sum_kind;

/* The reverse of a convolution's epilogue y = act(u), u = mul x + add + residual, x the linear sums; one pass:
 *   g = dL/dy act'(u) = dL/du      residual (+)= g      output = mul g = dL/dx      sums += g (...)
 * With act = none, x an op's result and mul its keeps this is the reverse of scale_channels.
 * One of the arrays [positions][channels][LANES] that are overwritten may be `gradient` itself. */
typedef struct epilogue_reverse_args {
    size_t positions;
    uint32_t channels;
    const float *gradient;   /* dL/dy [positions][channels][LANES] */
    const uint8_t *positive; /* as conv_args left it: act = ReLU; else NULL */
    derive_kernel derive;    /* any other act, or NULL = none. Reads x, mul, add and residual_input for u */

    const float *x; /* [positions][channels][LANES]; for derive, SUM_PRODUCT, SUM_DIFFERENCE; else unread */
    const float *mul,
        *add; /* [channels][LANES], as in conv_args (one zone); mul for derive and output, add for derive */
    const float *residual_input; /* for derive only: what was added before the activation, or NULL */

    float *output;         /* [positions][channels][LANES], or NULL = not wanted */
    gradient_sum residual; /* of the value that was added before the activation */

    sum_kind kind;
    const float *a, *b; /* [channels], for SUM_PRODUCT */
    float *sums;        /* [channels][LANES]: added to, position by position, in order (the caller zeroes them) */
} epilogue_reverse_args;

/* dL/dx of y = W x:  dL/dx[p][i] (+)= sum over taps t, channels o of W[o][t][i] dL/dy[(p + pad - t) / stride][o]. */
typedef struct conv_reverse_args {
    window window;                      /* the forward convolution's */
    uint32_t in_channels, out_channels; /* the forward convolution's */
    const float *weight;                /* conv_reverse_pack, winograd_reverse_pack: rows are input channels */
    const size_t *row;                  /* [in_channels], as in conv_args */
    const uint32_t *column;             /* [kernel_w][out_channels], all there are: s * tile_rows */
    size_t tap;                         /* out_channels * tile_rows */
    float *scratch;                     /* Winograd's form: winograd_scratch(out_channels) floats */
    const float *gradient;              /* dL/dy [out_h * out_w][out_channels][LANES] */
    gradient_sum output;                /* dL/dx [in_h * in_w][in_channels][LANES]; must not overlap dL/dy */
    /* NULL, or the reverse epilogue of the op that made x, when nothing else is to be added to dL/dx: done on what has
     * just been written and still lies in a cache. Its `gradient` is output.values, its positions are in_h * in_w. The
     * results are those of a call of its own, bit for bit. */
    const epilogue_reverse_args *then;
} conv_reverse_args;

typedef struct pool_reverse_args {
    window window; /* the forward op's */
    uint32_t channels;
    const float *input;    /* maxpool only: [in_h * in_w][channels][LANES] */
    const float *gradient; /* dL/dy [out_h * out_w][channels][LANES] */
    gradient_sum output;   /* dL/dx [in_h * in_w][channels][LANES] */
} pool_reverse_args;

typedef struct layernorm_reverse_args {
    size_t positions;
    uint32_t channels;
    const float *gamma; /* [channels]; NULL = 1 */
    float eps;
    const float *input;    /* x [positions][channels][LANES]; mean and deviation are computed again */
    const float *gradient; /* dL/dy */
    gradient_sum output;   /* dL/dx; may be dL/dy itself */
} layernorm_reverse_args;

typedef struct attention_reverse_args {
    uint32_t tokens, heads, head_width;
    uint32_t queries; /* tokens whose results are wanted, from the first on: those of q, gradient and output_q */
    bool causal;
    const float *q, *k, *v;                    /* as in attention_args; the probabilities are computed again */
    const float *gradient;                     /* dL/dy [queries][width][LANES] */
    gradient_sum output_q, output_k, output_v; /* dL/dq, dL/dk, dL/dv; one that is not added to may be an input */
    float *scratch;                            /* attention_reverse_scratch(tokens, head_width) floats */
} attention_reverse_args;

/* The reverse of "every stride-th pixel, `before` zero channels before the input's and the rest after". */
typedef struct subsample_reverse_args {
    uint32_t in_h, in_w, out_h, out_w, stride;
    uint32_t in_channels, out_channels, before;
    const float *gradient; /* dL/dy [out_h * out_w][out_channels][LANES] */
    gradient_sum output;   /* dL/dx [in_h * in_w][in_channels][LANES] */
} subsample_reverse_args;

typedef struct cpu_kernels {
    const char *isa;    /* "portable", "avx2", ... */
    uint32_t tile_rows; /* rows of a block of weights */

    /* weight [out_channels][in_channels][kernel_h * kernel_w] -> packed, conv_packed_size floats. Winograd's form is for
     * kernels of 3x3, stride 1 and pad 0 to 2. */
    void (*conv_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight, float *packed);
    void (*winograd_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                          float *packed);
    void (*conv)(const conv_args *args);
    void (*winograd)(const conv_args *args);
    size_t (*winograd_scratch)(uint32_t channels);
    /* The same with products in bf16, summed up in fp32. */
    void (*conv_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                           float *packed);
    void (*winograd_bf16_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                               float *packed);
    void (*conv_bf16)(const conv_args *args);
    void (*winograd_bf16)(const conv_args *args);
    size_t (*conv_bf16_scratch)(const window *g, uint32_t in_channels);
    size_t (*winograd_bf16_scratch)(uint32_t in_channels);
    void (*maxpool)(const pool_args *args); /* padding never wins */
    void (*avgpool)(const pool_args *args); /* no padding */
    void (*layernorm)(const layernorm_args *args);
    void (*attention)(const attention_args *args);
    size_t (*attention_scratch)(uint32_t tokens, uint32_t head_width);
    void (*next_rows)(const next_rows_args *args);
    activate_kernel relu, gelu_erf, gelu_tanh, quickgelu;

    /* output[i][lane] = pixels[i][lane] * mul[i % channels] + add[i % channels] for i < count. */
    void (*normalise)(const uint8_t *pixels, size_t count, uint32_t channels, const float *mul, const float *add,
                      float *output);
    /* output[p][c][lane] = x[p][c][lane] * mul[c][lane] + add[c][lane] + residual[p][c][lane] (NULL = 0); output may be
     * x. */
    void (*scale_channels)(const float *x, size_t positions, uint32_t channels, const float *mul, const float *add,
                           const float *residual, float *output);
    /* output[0] = table[0], output[t] = input[t - 1] + table[t]; table [tokens][channels], input one token shorter. */
    void (*embed)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output);
    /* The same, but output[0] = mean over t of input[t] + table[0]. */
    void (*mean_token)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output);
    /* y = x / |x| over the channels of each position, 0 for 0; y may be x. */
    void (*l2norm)(const float *x, size_t positions, uint32_t channels, float *y);

    /* The reverse pass. */
    void (*conv_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                              float *packed);
    void (*winograd_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                  float *packed);
    void (*conv_reverse)(const conv_reverse_args *args);
    void (*winograd_reverse)(const conv_reverse_args *args);
    void (*epilogue_reverse)(const epilogue_reverse_args *args);
    void (*maxpool_reverse)(const pool_reverse_args *args); /* to the first of equal largest; padding never wins */
    void (*avgpool_reverse)(const pool_reverse_args *args);
    void (*layernorm_reverse)(const layernorm_reverse_args *args);
    void (*attention_reverse)(const attention_reverse_args *args);
    size_t (*attention_reverse_scratch)(uint32_t tokens, uint32_t head_width);
    /* logits[position][row][LANES] = exp(itself - log_sum[position * stride + lane]) * gradient[likewise]. */
    void (*next_slopes)(float *logits, size_t positions, uint32_t rows, const float *log_sum, const float *gradient,
                        size_t stride);
    derive_kernel gelu_erf_reverse, gelu_tanh_reverse, quickgelu_reverse;
    void (*subsample_reverse)(const subsample_reverse_args *args);
    /* output[t - 1] (+)= gradient[t], t >= 1; gradient [tokens][channels], output one token shorter. */
    void (*embed_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output);
    /* output[t - 1] (+)= gradient[t] + gradient[0] / (tokens - 1), likewise. */
    void (*mean_token_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output);
    /* From the gradient of x / |x|; x itself is read again. */
    void (*l2norm_reverse)(const float *x, const float *gradient, size_t positions, uint32_t channels,
                           gradient_sum output);
    /* output[0] (+)= gradient, the rest (+)= 0; gradient [channels], output [positions][channels]. */
    void (*select_reverse)(const float *gradient, size_t positions, uint32_t channels, gradient_sum output);

    /* Multiply-adds that do nothing but keep the units busy; returns how many flops that were. */
    double (*peak)(size_t iterations);
    double (*peak_bf16)(size_t iterations); /* products of bf16 */
    /* a = b + 3 c for arrays much larger than any cache; count is a multiple of LANES. */
    void (*triad)(const float *b, const float *c, float *a, size_t count);
} cpu_kernels;

#endif
