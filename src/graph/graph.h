/*
 * graph.h - the op list: a network as data. Models emit it, backends execute it.
 *
 * A value is what one op produces for one example: `positions` = h*w places with c channels each. An image is
 * [h][w][c]; tokens are h = 1, w = T, c = D, so that a linear layer is a 1x1 convolution. Values are numbered in the
 * order of the ops that make them; value 0 is the input: the normalised image or, of a language model, one channel of
 * token numbers (whole numbers, exact in fp32). Each value is written once, so a reverse pass can walk the same list
 * backwards; ops hold no state.
 *
 * Must not know: weight files, devices.
 */
#ifndef COAR_GRAPH_GRAPH_H
#define COAR_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"

typedef enum op_kind {
    OP_CONV,      /* y = act(post(scale * pre(W * x) + shift) + residual); linear layers are 1x1 convolutions */
    OP_MAXPOOL,   /* kernel, stride, pad; padding never wins */
    OP_AVGPOOL,   /* kernel_h x kernel_w, stride, no padding; kernel = whole image is the global pool */
    OP_SUBSAMPLE, /* option-A shortcut: every stride-th pixel, `pad` zero channels before and the rest after */
    OP_EMBED,     /* out[0] = weight[0]; out[t] = in[t-1] + weight[t]: class token and positions, weight [T][D] */
    OP_MEAN_TOKEN, /* out[0] = mean over t of in[t] + weight[0]; out[t] = in[t-1] + weight[t]: CLIP's attention pooling */
    OP_LOOKUP,     /* out[t] = weight[token t] + shift[t]: token and position embeddings, [vocabulary][D], [T][D] */
    OP_LAYERNORM, /* over channels: weight = gamma [C], shift = beta [C] (either may be NULL), eps */
    OP_ATTENTION, /* input q, k, v of [T][D]; `heads` heads, softmax(q k^T / sqrt(D/heads)) v; out() on the result.
                   * `causal`: token t sees the tokens up to itself alone */
    OP_SELECT,    /* the value at position 0 (class token) */
    OP_NORMALISE, /* x / |x|, the Euclidean norm over the channels of each position; 0 stays 0 */
    OP_NEXT,      /* what a language model says of the next token: in[t] times weight [vocabulary][D] are the logits at
                   * position t, of which out[t] holds NEXT_CHANNELS numbers. input[1] is value 0, the tokens. What comes
                   * out of the last position, which has no next token, counts for nothing */
} op_kind;

/* Channels of an OP_NEXT's result: all that outputs are made of (next_value), without the logits themselves, which for a
 * vocabulary of 50,257 would be 1,000 times what the rest of the network holds. */
enum next_channel {
    NEXT_LOGIT,   /* of token t + 1 */
    NEXT_LARGEST, /* the largest logit of all other tokens; NaN if any is */
    NEXT_LOGSUM,  /* log of the sum of exp over all tokens */
    NEXT_OTHER,   /* the token whose logit NEXT_LARGEST is, the first of equal ones; has no derivative */
    NEXT_CHANNELS
};

typedef enum activation { ACT_NONE, ACT_RELU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU } activation;

/* Where a mask acts (docs/design.md, section 2, "What ablating does, and where"). */
typedef enum mask_place {
    PLACE_NONE,
    PLACE_PRE,  /* on the row's linear output, before scale and shift (OP_CONV) */
    PLACE_POST, /* after scale and shift, before the residual is added and the activation (OP_CONV) */
    PLACE_OUT,  /* on the op's result (OP_CONV after activation, OP_LAYERNORM, OP_ATTENTION) */
} mask_place;

/* Channel c of the op's output belongs to component first + c / width; count * width = channels of the output.
 * An ablated x becomes k x + (1 - k) fill[row_first + c]. */
typedef struct mask_site {
    mask_place place;
    uint32_t first, count, width;
    uint32_t row_first; /* this site's first entry in arrays of length graph->rows ("one scalar per masked channel") */
} mask_site;

typedef struct shape {
    uint32_t h, w, c;
} shape;

static inline size_t shape_positions(shape s) {
    return (size_t)s.h * s.w;
}

typedef struct op {
    op_kind kind;
    char name[96]; /* canonical layer name, "layer1.0.conv1" */
    int input[3];  /* value numbers; -1 = none. Only attention and OP_NEXT use more than the first */
    int residual;  /* OP_CONV: value added before the activation, -1 = none */
    int output;    /* value number */
    uint32_t kernel_h, kernel_w, stride, pad;
    activation act;
    uint32_t heads;
    bool causal;
    uint32_t vocabulary; /* OP_LOOKUP, OP_NEXT: rows of the table */
    float eps;
    const float *weight; /* OP_CONV: [O][I][kernel_h][kernel_w]. Owned by the graph; two ops may share one array */
    const float *scale;  /* OP_CONV: [O] (folded BatchNorm), NULL = 1 */
    const float *shift;  /* OP_CONV: [O] (bias and folded BatchNorm), NULL = 0 */
    mask_site mask;      /* .place == PLACE_NONE: no component here */
} op;

typedef struct graph {
    op *ops;
    size_t op_count, op_capacity;
    shape *values; /* value_count entries; values[0] is the input */
    size_t value_count, value_capacity;
    int logits;          /* the value that holds the logits: shape 1 x 1 x classes; or an OP_NEXT's result */
    uint32_t vocabulary; /* of a language model, whose input is tokens: 1 x T x 1; else 0 */
    uint32_t components; /* n */
    uint32_t rows;       /* masked channels in all sites together */
    void **owned;        /* weight arrays */
    size_t owned_count, owned_capacity;
} graph;

/* Empty graph with the input's shape, for images or, with vocabulary above 0, for tokens. graph_destroy accepts NULL. */
coar_status graph_create(shape input, uint32_t vocabulary, graph **out);
void graph_destroy(graph *g);

/* Takes over ownership of a malloc'ed array (freed at once on failure). */
coar_status graph_own(graph *g, void *array);

/* Appends *op (copied); computes the output's shape from the inputs, checks every size (channels against weights are
 * the model's business, they are given in `out_channels` for OP_CONV, OP_SUBSAMPLE and OP_LOOKUP; 0 elsewhere), assigns
 * op->output and returns it in *value. mask.row_first is assigned here; mask.first, count, width are the caller's. */
coar_status graph_add(graph *g, const op *op, uint32_t out_channels, int *value);

/* After the last op: the logits value and the number of components; checks that every site lies below n and that sites
 * do not overlap. */
coar_status graph_finish(graph *g, int logits, uint32_t components);

/* Multiply-adds times two of one dense pass of one example, direct form; per op and in all. */
double graph_op_flops(const graph *g, const op *o);
double graph_flops(const graph *g);

/* Parameters of op o's weight array (elements). */
size_t graph_weight_count(const graph *g, const op *o);

/* Bytes of all ops' weights, scales and shifts: what a graph takes, give or take its lists. */
size_t graph_weight_bytes(const graph *g);

/* How often each value is read ([value_count], as input or residual). A value read once, as a plain input of an
 * OP_CONV, is "inner": ablated channels of it can be left out of the reader. */
void graph_count_reads(const graph *g, uint32_t *reads);

/* wanted[value_count]: whether some component acts at or before a value, so that a reverse pass has use for its
 * gradient. */
void graph_find_wanted(const graph *g, bool *wanted);

/* The index of the op that makes a value but the input: graph_add numbers values in the order of the ops. */
static inline size_t graph_maker(int value) {
    return (size_t)value - 1;
}

const char *op_kind_name(op_kind kind);

/* Bytes of one example as a backend is given it: u8 pixels, or i32 tokens. */
size_t graph_input_bytes(const graph *g);

/* Whether an example can have this label: a class; of a language model, whose next tokens are its labels, the length: 2
 * tokens or more. */
bool graph_label_fits(const graph *g, int32_t label);

/* ------------------------------------------------------------------------------------- buffer planner */

/* Values share buffers by lifetime. An OP_CONV's output takes over its residual's buffer when the residual dies there
 * (element by element the same place is read and written). The input has buffer 0 to itself: it stays for the next mask
 * of the same examples. Sizes in elements (positions * channels). */
typedef struct buffer_plan {
    int *buffer;  /* [value_count]: which buffer a value lives in */
    size_t *size; /* [buffers]: elements for one example */
    size_t buffers;
    size_t total; /* elements of all buffers */
} buffer_plan;

/* keep_all: every value gets its own buffer (a reverse pass, debugging). */
coar_status buffer_plan_create(const graph *g, bool keep_all, buffer_plan *out);
void buffer_plan_free(buffer_plan *plan);

/* ------------------------------------------------------------------------------------------- outputs */

typedef enum output_kind {
    OUTPUT_MARGIN,
    OUTPUT_LOGIT,
    OUTPUT_LOGIT_CLASS,
    OUTPUT_LOGIT_DIFFERENCE,
    OUTPUT_LOSS,
} output_kind;

/* One output function of the logits. */
typedef struct output_spec {
    output_kind kind;
    uint32_t a, b; /* classes of logit:A and logit:A-B */
    char name[40]; /* "margin", "logit:3-5": the data set's name in the run file */
} output_spec;

#define OUTPUTS_MAX 8
#define OUTPUT_NAMES_SIZE (OUTPUTS_MAX * sizeof(((output_spec *)0)->name))

/* Parses "margin,logit:3,loss" for a graph's logits; duplicates, classes that it does not have and what a language model
 * has not (logit:K: it has no classes) are an error. */
coar_status output_parse(const char *text, const graph *g, output_spec specs[OUTPUTS_MAX], size_t *count);

/* The inverse: their names, joined by commas. */
void output_names_join(const output_spec *specs, size_t count, char out[OUTPUT_NAMES_SIZE]);

/* The logits of one example as a backend has computed them. */
typedef struct logits_view {
    const float *values; /* [classes], or of a language model [T][NEXT_CHANNELS] */
    size_t stride;       /* floats from one to the next */
    uint32_t count;      /* classes; T * NEXT_CHANNELS */
    bool next;           /* of a language model */
    uint32_t label;      /* class; of a language model the length, 2 to T */
} logits_view;

/* The output of logits; computed in double, returned as float.
 * margin: logits[label] minus the largest other (first wins ties); loss: -log softmax(logits)[label].
 * Of a language model the mean of that over the positions 0 .. length - 2, the label being the next token. */
float output_value(const output_spec *spec, const logits_view *logits);

/* What a backend's logits value looks like; values and label are the caller's to fill in. */
logits_view graph_logits(const graph *g, size_t stride);

/* Its derivative with respect to every logit (or next_channel): gradient[stride * i]. Of equal largest logits (margin) the
 * first. */
void output_gradient(const output_spec *spec, const logits_view *logits, float *gradient);

#endif
