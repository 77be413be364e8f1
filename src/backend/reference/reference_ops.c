/*
 * reference_ops.c - what every op means; the truth that other backends are tested against. Its derivatives are in
 * reference_reverse.c.
 *
 * Plain loops, double accumulation. Speed is no aim, but for one thing: a convolution first copies the pixels under its
 * kernel into one row, so that the sum of products is a dot product of two contiguous rows.
 * Must not know: batches, threads, where masks come from.
 */
#include "backend/reference/reference_ops.h"

#include <math.h>

/* -------------------------------------------------------------------------------------- masks */

/* Every op offers its x to the mask at each place it has; only the site's own place acts. `element` of the result. */
static double masked(const reference_operands *v, mask_place place, size_t element, double x) {
    const reference_site *site = &v->site;
    const size_t channel = element % v->out.c;
    if (site->place != place) return x;
    if (site->sums) site->sums[channel] += x;
    if (site->x) site->x[element] = x;
    double k = site->keep[channel / site->width];
    double fill = site->fill ? site->fill[channel] : 0;
    return k * x + (1 - k) * fill;
}

/* ------------------------------------------------------------------- convolutions, linear layers */

double reference_activation(activation act, double x) {
    const double sqrt_2_over_pi = 0.79788456080286535588;
    switch (act) {
    case ACT_NONE:
        return x;
    case ACT_RELU:
        return x < 0 ? 0 : x; /* in this order NaN stays NaN */
    case ACT_GELU_ERF:
        return x * 0.5 * (1 + erf(x * M_SQRT1_2));
    case ACT_GELU_TANH: /* Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2 */
        return x * 0.5 * (1 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
    case ACT_QUICKGELU:
        return x / (1 + exp(-1.702 * x));
    }
    return NAN;
}

/* What is stored in 16 bits is rounded already. */
double reference_operand(const reference_operands *v, double x) {
    return v->precision == PRECISION_TF32 ? precision_operand(v->precision, (float)x) : x;
}

/* The pixels under the kernel at output pixel (oy, ox), zeros outside the image: patch[I][kernel_h][kernel_w], the
 * order of a weight row. (im2col of one pixel.) */
static void gather_patch(const op *o, const reference_operands *v, uint32_t oy, uint32_t ox, double *patch) {
    const shape in = v->in;
    for (uint32_t i = 0; i < in.c; i++) {
        for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
            for (uint32_t kx = 0; kx < o->kernel_w; kx++) {
                int64_t iy = (int64_t)oy * o->stride + ky - o->pad;
                int64_t ix = (int64_t)ox * o->stride + kx - o->pad;
                bool inside = iy >= 0 && iy < in.h && ix >= 0 && ix < in.w;
                *patch++ = inside ? reference_operand(v, v->x[0][((size_t)iy * in.w + (size_t)ix) * in.c + i]) : 0;
            }
        }
    }
}

/* Four partial sums, because one chain of additions would wait for each of them. */
static double dot(const float *a, const double *b, size_t count) {
    double sum[4] = {0};
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (size_t k = 0; k < 4; k++) sum[k] += a[i + k] * b[i + k];
    for (; i < count; i++) sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* y = out(act(post(scale * pre(W * x) + shift) + residual)) */
void reference_conv(const op *o, const reference_operands *v) {
    const size_t row = (size_t)v->in.c * o->kernel_h * o->kernel_w; /* weights of one output channel */
    double *patch = v->scratch;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            const size_t pixel = ((size_t)oy * v->out.w + ox) * v->out.c;
            gather_patch(o, v, oy, ox, patch);
            for (uint32_t c = 0; c < v->out.c; c++) {
                double value = masked(v, PLACE_PRE, pixel + c, dot(o->weight + c * row, patch, row));
                if (o->scale) value *= o->scale[c];
                if (o->shift) value += o->shift[c];
                value = masked(v, PLACE_POST, pixel + c, value);
                if (v->residual) value += v->residual[pixel + c];
                if (v->argument) v->argument[pixel + c] = value;
                value = reference_activation(o->act, value);
                v->y[pixel + c] = masked(v, PLACE_OUT, pixel + c, value);
            }
        }
    }
}

/* ------------------------------------------------------------------------------- pools, shortcuts */

/* The largest value under the kernel; the padding never wins, NaN always does. */
void reference_maxpool(const op *o, const reference_operands *v) {
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            for (uint32_t c = 0; c < v->out.c; c++) {
                double largest = -INFINITY;
                for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
                    for (uint32_t kx = 0; kx < o->kernel_w; kx++) {
                        int64_t iy = (int64_t)oy * o->stride + ky - o->pad;
                        int64_t ix = (int64_t)ox * o->stride + kx - o->pad;
                        if (iy < 0 || iy >= v->in.h || ix < 0 || ix >= v->in.w) continue;
                        double x = v->x[0][((size_t)iy * v->in.w + (size_t)ix) * v->in.c + c];
                        if (x > largest || isnan(x)) largest = x;
                    }
                }
                v->y[((size_t)oy * v->out.w + ox) * v->out.c + c] = largest;
            }
        }
    }
}

void reference_avgpool(const op *o, const reference_operands *v) {
    const double area = (double)o->kernel_h * o->kernel_w;
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            for (uint32_t c = 0; c < v->out.c; c++) {
                double sum = 0;
                for (uint32_t ky = 0; ky < o->kernel_h; ky++) {
                    for (uint32_t kx = 0; kx < o->kernel_w; kx++) {
                        size_t iy = (size_t)oy * o->stride + ky, ix = (size_t)ox * o->stride + kx;
                        sum += v->x[0][(iy * v->in.w + ix) * v->in.c + c];
                    }
                }
                v->y[((size_t)oy * v->out.w + ox) * v->out.c + c] = sum / area;
            }
        }
    }
}

/* Option A of He et al. 2016 (arXiv 1512.03385, section 3.3): every stride-th pixel, new channels are zero. */
void reference_subsample(const op *o, const reference_operands *v) {
    for (uint32_t oy = 0; oy < v->out.h; oy++) {
        for (uint32_t ox = 0; ox < v->out.w; ox++) {
            const double *x = v->x[0] + ((size_t)oy * o->stride * v->in.w + (size_t)ox * o->stride) * v->in.c;
            double *y = v->y + ((size_t)oy * v->out.w + ox) * v->out.c;
            for (uint32_t c = 0; c < v->out.c; c++) {
                bool copied = c >= o->pad && c - o->pad < v->in.c;
                y[c] = copied ? x[c - o->pad] : 0;
            }
        }
    }
}

/* ------------------------------------------------------------------------------------ transformers */

/* y[0] = weight[0] (class token and its position); y[t] = x[t-1] + weight[t] */
void reference_embed(const op *o, const reference_operands *v) {
    const size_t width = v->out.c;
    for (size_t c = 0; c < width; c++) v->y[c] = o->weight[c];
    for (size_t i = width; i < shape_positions(v->out) * width; i++) v->y[i] = v->x[0][i - width] + o->weight[i];
}

void reference_normalisation(const double *x, uint32_t channels, double eps, double *mean, double *inverse) {
    double sum = 0, squares = 0;
    for (uint32_t c = 0; c < channels; c++) sum += x[c];
    *mean = sum / channels;
    for (uint32_t c = 0; c < channels; c++) squares += (x[c] - *mean) * (x[c] - *mean);
    *inverse = 1 / sqrt(squares / channels + eps);
}

/* y = out((x - mean) / sqrt(variance + eps) * gamma + beta), mean and variance over the channels of each position */
void reference_layernorm(const op *o, const reference_operands *v) {
    const uint32_t channels = v->in.c;
    for (size_t first = 0; first < shape_positions(v->in) * channels; first += channels) {
        const double *x = v->x[0] + first;
        double mean, inverse;
        reference_normalisation(x, channels, o->eps, &mean, &inverse);
        for (uint32_t c = 0; c < channels; c++) {
            double value = (x[c] - mean) * inverse;
            if (o->weight) value *= o->weight[c];
            if (o->shift) value += o->shift[c];
            v->y[first + c] = masked(v, PLACE_OUT, first + c, value);
        }
    }
}

/* Shifted by the largest so that exp cannot overflow. */
double reference_softmax(double *scores, size_t count) {
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, scores[i]);
    for (size_t i = 0; i < count; i++) sum += scores[i] = exp(scores[i] - largest);
    for (size_t i = 0; i < count; i++) scores[i] /= sum;
    return largest + log(sum);
}

size_t reference_seen(const op *o, const reference_operands *v, size_t t) {
    return o->causal ? t + 1 : shape_positions(v->in);
}

void reference_probabilities(const op *o, const reference_operands *v, size_t t, size_t head, double *probabilities) {
    const size_t seen = reference_seen(o, v, t), width = v->in.c, d = width / o->heads;
    const double scale = 1 / sqrt((double)d);
    for (size_t s = 0; s < seen; s++) {
        double score = 0;
        for (size_t c = head * d; c < (head + 1) * d; c++)
            score += reference_operand(v, v->x[0][t * width + c]) * reference_operand(v, v->x[1][s * width + c]);
        probabilities[s] = score * scale;
    }
    reference_softmax(probabilities, seen);
}

/* For each head, channels h*d .. h*d + d - 1:  y[t] = out(sum over s of softmax_s(q[t].k[s] / sqrt(d)) v[s]), over the
 * tokens s that t sees */
void reference_attention(const op *o, const reference_operands *v) {
    const size_t tokens = shape_positions(v->in), width = v->in.c, d = width / o->heads;
    double *probabilities = v->scratch; /* [tokens] */
    for (size_t t = 0; t < tokens; t++) {
        for (size_t head = 0; head < o->heads; head++) {
            reference_probabilities(o, v, t, head, probabilities);
            for (size_t c = head * d; c < (head + 1) * d; c++) {
                double value = 0;
                for (size_t s = 0; s < reference_seen(o, v, t); s++)
                    value += probabilities[s] * reference_operand(v, v->x[2][s * width + c]);
                v->y[t * width + c] = masked(v, PLACE_OUT, t * width + c, value);
            }
        }
    }
}

void reference_select(const op *o, const reference_operands *v) {
    (void)o;
    for (uint32_t c = 0; c < v->out.c; c++) v->y[c] = v->x[0][c];
}

/* y[0] = mean over t of x[t] + weight[0]; y[t] = x[t-1] + weight[t] (Radford et al. 2021, arXiv 2103.00020, section 2.4,
 * attention pooling) */
void reference_mean_token(const op *o, const reference_operands *v) {
    const size_t width = v->out.c, tokens = shape_positions(v->in);
    for (size_t c = 0; c < width; c++) {
        double sum = 0;
        for (size_t t = 0; t < tokens; t++) sum += v->x[0][t * width + c];
        v->y[c] = sum / (double)tokens + o->weight[c];
    }
    for (size_t i = width; i < (tokens + 1) * width; i++) v->y[i] = v->x[0][i - width] + o->weight[i];
}

/* y[t] = weight[token t] + shift[t] */
void reference_lookup(const op *o, const reference_operands *v) {
    const size_t width = v->out.c;
    for (size_t t = 0; t < shape_positions(v->out); t++)
        for (size_t c = 0; c < width; c++)
            v->y[t * width + c] = (double)o->weight[(size_t)v->x[0][t] * width + c] + o->shift[t * width + c];
}

/* y = x / |x| */
void reference_normalise(const op *o, const reference_operands *v) {
    const size_t width = v->in.c;
    (void)o;
    for (size_t first = 0; first < shape_positions(v->in) * width; first += width) {
        double squares = 0;
        for (size_t c = first; c < first + width; c++) squares += v->x[0][c] * v->x[0][c];
        for (size_t c = first; c < first + width; c++) v->y[c] = squares > 0 ? v->x[0][c] / sqrt(squares) : v->x[0][c];
    }
}

void reference_next_logits(const op *o, const reference_operands *v, size_t t, double *logits) {
    const size_t width = v->in.c;
    for (size_t token = 0; token < o->vocabulary; token++) {
        logits[token] = 0;
        for (size_t c = 0; c < width; c++)
            logits[token] += o->weight[token * width + c] * reference_operand(v, v->x[0][t * width + c]);
    }
}

void reference_next(const op *o, const reference_operands *v) {
    const size_t tokens = shape_positions(v->in);
    double *logits = v->scratch; /* [vocabulary] */
    for (size_t t = 0; t < tokens; t++) {
        const size_t next = t + 1 < tokens ? (size_t)v->x[1][t + 1] : 0;
        double *y = v->y + t * NEXT_CHANNELS;
        size_t other = next == 0;
        reference_next_logits(o, v, t, logits);
        for (size_t token = other + 1; token < o->vocabulary && !isnan(logits[other]); token++)
            if (token != next && !(logits[token] <= logits[other])) other = token;
        y[NEXT_LOGIT] = logits[next];
        y[NEXT_LARGEST] = logits[other];
        y[NEXT_OTHER] = (double)other;
        y[NEXT_LOGSUM] = reference_softmax(logits, o->vocabulary);
    }
}

/* ---------------------------------------------------------------------------------------- dispatch */

void reference_op(const op *o, const reference_operands *v) {
    static void (*const functions[])(const op *, const reference_operands *) = {
        [OP_CONV] = reference_conv,
        [OP_MAXPOOL] = reference_maxpool,
        [OP_AVGPOOL] = reference_avgpool,
        [OP_SUBSAMPLE] = reference_subsample,
        [OP_EMBED] = reference_embed,
        [OP_LAYERNORM] = reference_layernorm,
        [OP_ATTENTION] = reference_attention,
        [OP_SELECT] = reference_select,
        [OP_MEAN_TOKEN] = reference_mean_token,
        [OP_LOOKUP] = reference_lookup,
        [OP_NORMALISE] = reference_normalise,
        [OP_NEXT] = reference_next,
    };
    functions[o->kind](o, v);
    if (v->wide || !precision_is_narrow(v->precision)) return;
    for (size_t i = 0; i < shape_positions(v->out) * v->out.c; i++)
        v->y[i] = precision_stored(v->precision, (float)v->y[i]);
}

size_t reference_scratch(const graph *g) {
    size_t most = 0;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        shape in = g->values[o->input[0]];
        size_t need = o->kind == OP_CONV        ? (size_t)in.c * o->kernel_h * o->kernel_w
                      : o->kind == OP_LAYERNORM ? in.c
                      : o->kind == OP_ATTENTION ? 2 * shape_positions(in) + in.c / o->heads
                      : o->kind == OP_NEXT      ? o->vocabulary
                                                : 0;
        if (need > most) most = need;
    }
    return most;
}
