/*
 * reference_reverse.c - the derivative of every op with respect to its inputs, and to what its mask makes.
 *
 * One function beside each of reference_ops.c: from dL/dy it adds to dL/d inputs, and leaves dL/d(k x + (1 - k) fill)
 * where the op has a mask. There x is multiplied by k and nothing is divided by it, so that k = 0 is no exception.
 * There are no gradients of weights: nobody asks for them.
 * Must not know: batches, threads, where masks come from, what is summed up per component.
 */
#include <math.h>

#include "backend/reference/reference_ops.h"

/* -------------------------------------------------------------------------------------- masks */

/* From dL/d(k x + (1 - k) fill) to dL/dx, at the site's own place; elsewhere nothing was masked. */
static double unmasked(const reference_operands *v, const reference_gradients *d, mask_place place, size_t element,
                       double gradient) {
    if (v->site.place != place) return gradient;
    d->dmasked[element] = gradient;
    return v->site.keep[element % v->out.c / v->site.width] * gradient;
}

/* A gradient as a factor of a product. */
static double operand(const reference_operands *v, double gradient) {
    return v->precision == PRECISION_FP32 ? gradient : precision_gradient_operand(v->precision, (float)gradient);
}

/* ------------------------------------------------------------------- convolutions, linear layers */

double reference_activation_slope(activation act, double x) {
    const double sqrt_2_over_pi = 0.79788456080286535588;
    switch (act) {
    case ACT_NONE:
        return 1;
    case ACT_RELU:
        return x <= 0 ? 0 : 1;
    case ACT_GELU_ERF: /* x Phi(x): Phi(x) + x phi(x) */
        return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) * 0.5 * sqrt_2_over_pi;
    case ACT_GELU_TANH: {
        const double t = tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt_2_over_pi * (1 + 3 * 0.044715 * x * x);
    }
    case ACT_QUICKGELU: {
        const double sigmoid = 1 / (1 + exp(-1.702 * x));
        return sigmoid * (1 + 1.702 * x * (1 - sigmoid));
    }
    }
    return NAN;
}

/* The transpose of gather_patch: dpatch [I][kernel_h][kernel_w] is added to the pixels that it was copied from. */
static void scatter_patch(const op *o, const reference_operands *v, uint32_t oy, uint32_t ox, const double *dpatch,
                          double *dx) {
    const shape in = v->in;
    for (uint32_t i = 0; i < in.c; i++) {
        for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
            for (uint32_t kx = 0; kx < o->kernel_w; kx++, dpatch++) {
                int64_t iy = (int64_t)oy * o->stride + ky - o->pad;
                int64_t ix = (int64_t)ox * o->stride + kx - o->pad;
                if (iy >= 0 && iy < in.h && ix >= 0 && ix < in.w)
                    dx[((size_t)iy * in.w + (size_t)ix) * in.c + i] += *dpatch;
            }
        }
    }
}

/* y = out(act(post(scale * pre(W * x) + shift) + residual)), from the outside in; then dx = W^T d(W * x). */
void reference_conv_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const size_t row = (size_t)v->in.c * o->kernel_h * o->kernel_w; /* weights of one output channel */
    double *dpatch = v->scratch;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            const size_t pixel = ((size_t)oy * v->out.w + ox) * v->out.c;
            for (size_t i = 0; i < row; i++) dpatch[i] = 0;
            for (uint32_t c = 0; c < v->out.c; c++) {
                double gradient = unmasked(v, d, PLACE_OUT, pixel + c, d->dy[pixel + c]);
                gradient *= reference_activation_slope(o->act, v->argument[pixel + c]);
                if (d->dresidual) d->dresidual[pixel + c] += gradient;
                gradient = unmasked(v, d, PLACE_POST, pixel + c, gradient);
                if (o->scale) gradient *= o->scale[c];
                gradient = operand(v, unmasked(v, d, PLACE_PRE, pixel + c, gradient));
                if (!d->dx[0] || gradient == 0) continue; /* half of them are zero behind a ReLU */
                for (size_t i = 0; i < row; i++) dpatch[i] += gradient * o->weight[c * row + i];
            }
            if (d->dx[0]) scatter_patch(o, v, oy, ox, dpatch, d->dx[0]);
        }
    }
}

/* ------------------------------------------------------------------------------- pools, shortcuts */

/* All to the first of the largest values under the kernel, in the order of rows (a NaN is the largest). */
void reference_maxpool_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    if (!d->dx[0]) return;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            for (uint32_t c = 0; c < v->out.c; c++) {
                double largest = -INFINITY;
                size_t from = SIZE_MAX;
                for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
                    for (uint32_t kx = 0; kx < o->kernel_w; kx++) {
                        int64_t iy = (int64_t)oy * o->stride + ky - o->pad;
                        int64_t ix = (int64_t)ox * o->stride + kx - o->pad;
                        if (iy < 0 || iy >= v->in.h || ix < 0 || ix >= v->in.w) continue;
                        size_t at = ((size_t)iy * v->in.w + (size_t)ix) * v->in.c + c;
                        if (from != SIZE_MAX && !(v->x[0][at] > largest) && !isnan(v->x[0][at])) continue;
                        largest = v->x[0][at];
                        from = at;
                    }
                }
                d->dx[0][from] += d->dy[((size_t)oy * v->out.w + ox) * v->out.c + c];
            }
        }
    }
}

void reference_avgpool_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const double area = (double)o->kernel_h * o->kernel_w;
    if (!d->dx[0]) return;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            const double *dy = d->dy + ((size_t)oy * v->out.w + ox) * v->out.c;
            for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
                for (uint32_t kx = 0; kx < o->kernel_w; kx++) {
                    size_t iy = (size_t)oy * o->stride + ky, ix = (size_t)ox * o->stride + kx;
                    double *dx = d->dx[0] + (iy * v->in.w + ix) * v->in.c;
                    for (uint32_t c = 0; c < v->out.c; c++) dx[c] += dy[c] / area;
                }
            }
        }
    }
}

void reference_subsample_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    if (!d->dx[0]) return;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            double *dx = d->dx[0] + ((size_t)oy * o->stride * v->in.w + (size_t)ox * o->stride) * v->in.c;
            const double *dy = d->dy + ((size_t)oy * v->out.w + ox) * v->out.c + o->pad;
            for (uint32_t c = 0; c < v->in.c; c++) dx[c] += dy[c];
        }
    }
}

/* ------------------------------------------------------------------------------------ transformers */

void reference_embed_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    (void)o;
    if (!d->dx[0]) return;
    for (size_t i = 0; i < shape_positions(v->in) * v->in.c; i++) d->dx[0][i] += d->dy[i + v->out.c];
}

/* With xhat = (x - mean) / s, s = sqrt(variance + eps), and g = dL/dxhat:
 * dx = (g - mean(g) - xhat mean(g xhat)) / s, means over the channels (Ba et al. 2016, arXiv 1607.06450,
 * differentiated). */
void reference_layernorm_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const uint32_t channels = v->in.c;
    double *g = v->scratch; /* [channels] */
    for (size_t first = 0; first < shape_positions(v->in) * channels; first += channels) {
        const double *x = v->x[0] + first;
        double mean, inverse, sum = 0, products = 0;
        reference_normalisation(x, channels, o->eps, &mean, &inverse);
        for (uint32_t c = 0; c < channels; c++) {
            g[c] = unmasked(v, d, PLACE_OUT, first + c, d->dy[first + c]);
            if (o->weight) g[c] *= o->weight[c];
            sum += g[c];
            products += g[c] * (x[c] - mean) * inverse;
        }
        if (!d->dx[0]) continue;
        for (uint32_t c = 0; c < channels; c++)
            d->dx[0][first + c] += inverse * (g[c] - sum / channels - (x[c] - mean) * inverse * products / channels);
    }
}

/* One token t of one head, with p = its probabilities and do = dL/d(sum over s of p[s] v[s]):
 * dv[s] += p[s] do;  dscore[s] = p[s] (do.v[s] - sum over s' of p[s'] do.v[s']);  dq[t] += dscore[s] k[s] / sqrt(d) and
 * dk[s] += dscore[s] q[t] / sqrt(d). */
static void attention_token(const op *o, const reference_operands *v, const reference_gradients *d, size_t t,
                            size_t head) {
    const size_t tokens = reference_seen(o, v, t), width = v->in.c, each = width / o->heads;
    const double scale = 1 / sqrt((double)each);
    double *p = v->scratch, *dscore = p + tokens, *dout = dscore + tokens; /* [tokens], [tokens], [each] */
    double mean = 0;
    reference_probabilities(o, v, t, head, p);
    for (size_t i = 0; i < each; i++) {
        const size_t at = t * width + head * each + i;
        dout[i] = operand(v, unmasked(v, d, PLACE_OUT, at, d->dy[at]));
    }
    for (size_t s = 0; s < tokens; s++) {
        const size_t at = s * width + head * each;
        dscore[s] = 0;
        for (size_t i = 0; i < each; i++) dscore[s] += dout[i] * reference_operand(v, v->x[2][at + i]);
        mean += p[s] * dscore[s];
        for (size_t i = 0; d->dx[2] && i < each; i++) d->dx[2][at + i] += p[s] * dout[i];
    }
    for (size_t s = 0; s < tokens; s++) {
        const size_t to = t * width + head * each, from = s * width + head * each;
        const double ds = p[s] * (dscore[s] - mean) * scale;
        for (size_t i = 0; d->dx[0] && i < each; i++) d->dx[0][to + i] += ds * reference_operand(v, v->x[1][from + i]);
        for (size_t i = 0; d->dx[1] && i < each; i++) d->dx[1][from + i] += ds * reference_operand(v, v->x[0][to + i]);
    }
}

void reference_attention_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    for (size_t t = 0; t < shape_positions(v->in); t++)
        for (size_t head = 0; head < o->heads; head++) attention_token(o, v, d, t, head);
}

void reference_select_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    (void)o;
    if (!d->dx[0]) return;
    for (uint32_t c = 0; c < v->out.c; c++) d->dx[0][c] += d->dy[c];
}

void reference_mean_token_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const size_t width = v->in.c, tokens = shape_positions(v->in);
    (void)o;
    if (!d->dx[0]) return;
    for (size_t i = 0; i < tokens * width; i++) d->dx[0][i] += d->dy[i + width] + d->dy[i % width] / (double)tokens;
}

/* Token numbers have no derivative. */
void reference_lookup_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    (void)o, (void)v, (void)d;
}

/* dx = (g - y (y.g)) / |x| with y = x / |x| */
void reference_normalise_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const size_t width = v->in.c;
    (void)o;
    if (!d->dx[0]) return;
    for (size_t first = 0; first < shape_positions(v->in) * width; first += width) {
        double squares = 0, product = 0;
        for (size_t c = first; c < first + width; c++) squares += v->x[0][c] * v->x[0][c];
        for (size_t c = first; c < first + width; c++) product += v->x[0][c] * d->dy[c];
        for (size_t c = first; c < first + width; c++)
            d->dx[0][c] += squares > 0 ? (d->dy[c] - v->x[0][c] * product / squares) / sqrt(squares) : d->dy[c];
    }
}

/* dx = W^T dlogits, where the logits of the next token, of the largest other one, and through the log of the sum all of
 * them by their probabilities, are what dy is of. */
void reference_next_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    const size_t tokens = shape_positions(v->in), width = v->in.c;
    double *dlogits = v->scratch; /* [vocabulary] */
    if (!d->dx[0]) return;
    for (size_t t = 0; t + 1 < tokens; t++) {
        const double *dy = d->dy + t * NEXT_CHANNELS;
        if (dy[NEXT_LOGSUM] != 0) {
            reference_next_logits(o, v, t, dlogits);
            reference_softmax(dlogits, o->vocabulary);
        }
        for (size_t token = 0; token < o->vocabulary; token++)
            dlogits[token] = dy[NEXT_LOGSUM] != 0 ? dlogits[token] * dy[NEXT_LOGSUM] : 0;
        dlogits[(size_t)v->x[1][t + 1]] += dy[NEXT_LOGIT];
        dlogits[(size_t)v->y[t * NEXT_CHANNELS + NEXT_OTHER]] += dy[NEXT_LARGEST];
        for (size_t token = 0; token < o->vocabulary; token++) {
            const double gradient = operand(v, dlogits[token]);
            for (size_t c = 0; gradient != 0 && c < width; c++)
                d->dx[0][t * width + c] += gradient * o->weight[token * width + c];
        }
    }
}

/* ---------------------------------------------------------------------------------------- dispatch */

static void round_gradients(precision p, shape s, double *gradients) {
    if (!gradients || !precision_is_narrow(p)) return;
    for (size_t i = 0; i < shape_positions(s) * s.c; i++) gradients[i] = precision_gradient(p, (float)gradients[i]);
}

void reference_op_reverse(const op *o, const reference_operands *v, const reference_gradients *d) {
    static void (*const functions[])(const op *, const reference_operands *, const reference_gradients *) = {
        [OP_CONV] = reference_conv_reverse,
        [OP_MAXPOOL] = reference_maxpool_reverse,
        [OP_AVGPOOL] = reference_avgpool_reverse,
        [OP_SUBSAMPLE] = reference_subsample_reverse,
        [OP_EMBED] = reference_embed_reverse,
        [OP_LAYERNORM] = reference_layernorm_reverse,
        [OP_ATTENTION] = reference_attention_reverse,
        [OP_SELECT] = reference_select_reverse,
        [OP_MEAN_TOKEN] = reference_mean_token_reverse,
        [OP_LOOKUP] = reference_lookup_reverse,
        [OP_NORMALISE] = reference_normalise_reverse,
        [OP_NEXT] = reference_next_reverse,
    };
    functions[o->kind](o, v, d);
    for (int i = 0; i < 3; i++) round_gradients(v->precision, v->in, d->dx[i]); /* OP_NEXT's tokens have none */
    round_gradients(v->precision, v->out, d->dresidual);
}
