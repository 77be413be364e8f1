/*
 * reference_ops.h - what every op means, forward and in reverse, in plain loops over one example under one mask.
 *
 * Values are double [positions][channels]; an image is [h][w][c]. Two functions per op, without state. A reverse pass
 * needs the op, its inputs, and for a convolution the argument of its activation, which the forward pass leaves.
 * In a precision below fp32 results and gradients are rounded as a device stores them, and operands of products as it
 * multiplies them; sums stay double. Weights come rounded already.
 * Must not know: batches, threads, where masks come from, what is summed up per component.
 */
#ifndef COAR_BACKEND_REFERENCE_OPS_H
#define COAR_BACKEND_REFERENCE_OPS_H

#include "backend/precision.h"
#include "graph/graph.h"

/* The mask at one op: x of channel c becomes k x + (1 - k) fill[c], k = keep[c / width]. */
typedef struct reference_site {
    mask_place place;
    uint32_t width;
    const float *keep; /* [components of this op] */
    const float *fill; /* [channels]; NULL = zeros */
    double *sums;      /* [channels]: x is added, position by position; NULL = not wanted */
    double *x;         /* shape out: x is left here; NULL = not wanted */
} reference_site;

/* The values around one op. */
typedef struct reference_operands {
    shape in, out;
    const double *x[3];     /* inputs; [1] and [2] for attention, [1] for OP_NEXT: tokens */
    const double *residual; /* shape out; may be y itself; NULL = none */
    reference_site site;
    precision precision;
    bool wide;        /* the result stays as it is (logits) */
    double *scratch;  /* reference_scratch(graph) elements */
    double *argument; /* shape out: the activation's argument, left by reference_conv, read by its reverse; NULL in
                       * passes that are not reversed */
    double *y;        /* shape out */
} reference_operands;

/* dL / d the values around one op, L being the output that is differentiated. What an op adds to may hold parts of
 * other readers already; arrays may be the same one (an attention whose three inputs are one value). */
typedef struct reference_gradients {
    const double *dy;  /* shape out: of the op's result */
    double *dx[3];     /* shape in: of its inputs, added to; NULL = not wanted (value 0) or no such input */
    double *dresidual; /* shape out: added to; NULL = none, or not wanted */
    double *dmasked;   /* shape out: of k x + (1 - k) fill, left here where the op has a site. dL/dx is k times it */
} reference_gradients;

void reference_conv(const op *o, const reference_operands *v);
void reference_maxpool(const op *o, const reference_operands *v);
void reference_avgpool(const op *o, const reference_operands *v);
void reference_subsample(const op *o, const reference_operands *v);
void reference_embed(const op *o, const reference_operands *v);
void reference_layernorm(const op *o, const reference_operands *v);
void reference_attention(const op *o, const reference_operands *v);
void reference_select(const op *o, const reference_operands *v);
void reference_mean_token(const op *o, const reference_operands *v);
void reference_lookup(const op *o, const reference_operands *v);
void reference_normalise(const op *o, const reference_operands *v);
void reference_next(const op *o, const reference_operands *v);

/* The one of the above that o->kind names, its result rounded to v->precision. */
void reference_op(const op *o, const reference_operands *v);

void reference_conv_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_maxpool_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_avgpool_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_subsample_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_embed_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_layernorm_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_attention_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_select_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_mean_token_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_lookup_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_normalise_reverse(const op *o, const reference_operands *v, const reference_gradients *d);
void reference_next_reverse(const op *o, const reference_operands *v, const reference_gradients *d);

/* The one of these that o->kind names; what it added to is rounded as gradients of v->precision are stored. */
void reference_op_reverse(const op *o, const reference_operands *v, const reference_gradients *d);

/* Doubles of scratch that the hungriest op of the graph needs, forward or in reverse. */
size_t reference_scratch(const graph *g);

double reference_activation(activation act, double x);

/* Its derivative; 0 for ReLU at 0. */
double reference_activation_slope(activation act, double x);

/* Mean and 1 / sqrt(variance + eps) over the channels of one position. */
void reference_normalisation(const double *x, uint32_t channels, double eps, double *mean, double *inverse);

/* How many tokens token t sees: the first so many. */
size_t reference_seen(const op *o, const reference_operands *v, size_t t);

/* Head `head`'s probabilities of token t over those it sees: softmax_s(q[t].k[s] / sqrt(d)), d channels a head. */
void reference_probabilities(const op *o, const reference_operands *v, size_t t, size_t head, double *probabilities);

/* Logits of an OP_NEXT at position t: [vocabulary]. */
void reference_next_logits(const op *o, const reference_operands *v, size_t t, double *logits);

/* Turns `count` scores into probabilities, and returns the log of the sum of their exponentials. */
double reference_softmax(double *scores, size_t count);

/* A value as a factor of a product. */
double reference_operand(const reference_operands *v, double x);

#endif
