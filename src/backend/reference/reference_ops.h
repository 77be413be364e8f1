/*
 * reference_ops.h - what every op means, in plain loops over one example under one mask.
 *
 * Values are double [positions][channels]; an image is [h][w][c]. One function per op, without state: what a reverse
 * pass needs is the op, its inputs and its result. In a precision below fp32 results are rounded as a device stores
 * them, and operands of products as it multiplies them; sums stay double. Weights come rounded already.
 * Must not know: batches, threads, where masks come from.
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
} reference_site;

/* The values around one op. */
typedef struct reference_operands {
    shape in, out;
    const double *x[3];     /* inputs; [1] and [2] for attention only */
    const double *residual; /* shape out; may be y itself; NULL = none */
    reference_site site;
    precision precision;
    bool wide;       /* the result stays as it is (logits) */
    double *scratch; /* reference_scratch(graph) elements */
    double *y;       /* shape out */
} reference_operands;

void reference_conv(const op *o, const reference_operands *v);
void reference_maxpool(const op *o, const reference_operands *v);
void reference_avgpool(const op *o, const reference_operands *v);
void reference_subsample(const op *o, const reference_operands *v);
void reference_embed(const op *o, const reference_operands *v);
void reference_layernorm(const op *o, const reference_operands *v);
void reference_attention(const op *o, const reference_operands *v);
void reference_select(const op *o, const reference_operands *v);

/* The one of the above that o->kind names, its result rounded to v->precision. */
void reference_op(const op *o, const reference_operands *v);

/* Doubles of scratch that the hungriest op of the graph needs. */
size_t reference_scratch(const graph *g);

double reference_activation(activation act, double x);

#endif
