/*
 * elementwise.c - pixels to lanes, keeps per channel, the embedding of a token sequence; what copies, in reverse.
 *
 *   normalise       y[i][lane] = pixel[i][lane] mul[c] + add[c],  c = i mod channels      (5 bytes, 2 flops)
 *   scale_channels  y[p][c][lane] = x mul[c][lane] + add[c][lane] + residual              (8 or 12 bytes, 2 or 3 flops)
 *   embed           y[0] = table[0], y[t] = x[t - 1] + table[t]                           (8 bytes, 1 flop)
 *   mean_token      the same, but y[0] = mean over t of x[t] + table[0]; in order of t    (8 bytes, 2 flops)
 *   X_reverse       dL/dx (+)= the elements of dL/dy that are copies of x, else 0         (8 or 12 bytes)
 *   mean_token_reverse  dL/dx[t] (+)= dL/dy[t + 1] + dL/dy[0] / T                         (12 or 16 bytes, 2 flops)
 */
#include <string.h>

#include "kernels/cpu/simd.h"

INLINE vec load_pixels(const uint8_t *p) {
    typedef uint8_t pixels __attribute__((vector_size(VEC)));
    pixels x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vec);
}

void KERNEL(cpu_normalise)(const uint8_t *pixels, size_t count, uint32_t channels, const float *mul, const float *add,
                           float *output) {
    for (size_t i = 0; i < count; i += channels)
        for (uint32_t c = 0; c < channels; c++) {
            const size_t at = (i + c) * LANES;
            vec m = vec_set1(mul[c]), a = vec_set1(add[c]);
            for (uint32_t lane = 0; lane < LANES; lane += VEC)
                vec_store(output + at + lane, vec_fma(load_pixels(pixels + at + lane), m, a));
        }
}

void KERNEL(cpu_scale_channels)(const float *x, size_t positions, uint32_t channels, const float *mul, const float *add,
                                const float *residual, float *output) {
    const size_t stride = (size_t)channels * LANES;
    for (size_t p = 0, at = 0; p < positions; p++)
        for (size_t i = 0; i < stride; i += VEC, at += VEC) {
            vec y = vec_fma(vec_load(x + at), vec_load(mul + i), vec_load(add + i));
            if (residual) y += vec_load(residual + at);
            vec_store(output + at, y);
        }
}

void KERNEL(cpu_embed)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output) {
    const size_t stride = (size_t)channels * LANES;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t c = 0; c < channels; c++) {
            const vec position = vec_set1(table[(size_t)t * channels + c]);
            for (uint32_t lane = 0; lane < LANES; lane += VEC) {
                const size_t at = (size_t)c * LANES + lane;
                vec y = position;
                if (t) y += vec_load(input + (t - 1) * stride + at);
                vec_store(output + t * stride + at, y);
            }
        }
}

void KERNEL(cpu_mean_token)(const float *input, const float *table, uint32_t tokens, uint32_t channels, float *output) {
    const size_t stride = (size_t)channels * LANES;
    for (uint32_t c = 0; c < channels; c++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) {
            const size_t at = (size_t)c * LANES + lane;
            vec sum = vec_zero();
            for (uint32_t t = 1; t < tokens; t++) {
                const vec x = vec_load(input + (t - 1) * stride + at);
                sum += x;
                vec_store(output + t * stride + at, x + vec_set1(table[(size_t)t * channels + c]));
            }
            vec_store(output + at, sum / vec_set1((float)(tokens - 1)) + vec_set1(table[c]));
        }
}

/* output (+)= gradient, or (+)= 0 where gradient is NULL. */
static void put(float *output, bool add, const float *gradient, size_t count) {
    if (gradient)
        for (size_t i = 0; i < count; i += VEC) vec_put(output + i, add, vec_load(gradient + i));
    else if (!add)
        memset(output, 0, count * sizeof *output);
}

void KERNEL(cpu_embed_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output) {
    const size_t stride = (size_t)channels * LANES;
    put(output.values, output.add, gradient + stride, (tokens - 1) * stride);
}

void KERNEL(cpu_mean_token_reverse)(const float *gradient, uint32_t tokens, uint32_t channels, gradient_sum output) {
    const size_t stride = (size_t)channels * LANES;
    const vec count = vec_set1((float)(tokens - 1));
    for (size_t i = 0; i < stride; i += VEC) {
        const vec of_mean = vec_load(gradient + i) / count;
        for (uint32_t t = 1; t < tokens; t++)
            vec_put(output.values + (t - 1) * stride + i, output.add, vec_load(gradient + t * stride + i) + of_mean);
    }
}

void KERNEL(cpu_select_reverse)(const float *gradient, size_t positions, uint32_t channels, gradient_sum output) {
    const size_t stride = (size_t)channels * LANES;
    put(output.values, output.add, gradient, stride);
    put(output.values + stride, output.add, NULL, (positions - 1) * stride);
}

void KERNEL(cpu_subsample_reverse)(const subsample_reverse_args *s) {
    const size_t in = (size_t)s->in_channels * LANES, out = (size_t)s->out_channels * LANES;
    const float *first = s->gradient + (size_t)s->before * LANES;
    float *to = s->output.values;
    for (size_t y = 0; y < s->in_h; y++)
        for (size_t x = 0; x < s->in_w; x++, to += in) {
            const size_t row = y / s->stride, column = x / s->stride;
            const bool copied = y % s->stride == 0 && x % s->stride == 0 && row < s->out_h && column < s->out_w;
            put(to, s->output.add, copied ? first + (row * s->out_w + column) * out : NULL, in);
        }
}
