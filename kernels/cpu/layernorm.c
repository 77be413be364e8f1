/*
 * layernorm.c - y = (x - mean) / sqrt(variance + eps) * gamma + beta over the channels of a position; its reverse.
 *
 * x, y [position][C][32]. Two passes for mean and variance (one pass cancels), a third to write: 16 bytes and about 7
 * flops per element; a position (C * 128 bytes) stays in the second-level cache between the passes.
 * In reverse, with u = (x - mean) i, i = 1 / sqrt(variance + eps) and g = gamma dL/dy:
 *   dL/dx = i (g - mean(g) - u mean(g u))
 * Mean and i are computed again, then two passes over x and dL/dy: 28 bytes and about 16 flops per element.
 * fp32 sums, in the order of the channels.
 */
#include "kernels/cpu/simd.h"

typedef struct moments {
    vec mean, inverse; /* 1 / sqrt(variance + eps) */
} moments;

static moments position_moments(const float *x, uint32_t channels, float eps) {
    const vec count = vec_set1((float)channels);
    vec sum = vec_zero(), squares = vec_zero();
    for (uint32_t c = 0; c < channels; c++) sum += vec_load(x + (size_t)c * LANES);
    const vec mean = sum / count;
    for (uint32_t c = 0; c < channels; c++) {
        vec deviation = vec_load(x + (size_t)c * LANES) - mean;
        squares = vec_fma(deviation, deviation, squares);
    }
    return (moments){mean, vec_set1(1.0f) / vec_sqrt(squares / count + vec_set1(eps))};
}

void KERNEL(cpu_layernorm)(const layernorm_args *a) {
    const size_t stride = (size_t)a->channels * LANES;
    for (size_t p = 0; p < a->positions; p++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) {
            const float *x = a->input + p * stride + lane;
            float *y = a->output + p * stride + lane;
            const moments m = position_moments(x, a->channels, a->eps);
            for (uint32_t c = 0; c < a->channels; c++) {
                vec unit = (vec_load(x + (size_t)c * LANES) - m.mean) * m.inverse;
                vec gamma = vec_set1(a->gamma ? a->gamma[c] : 1.0f), beta = vec_set1(a->beta ? a->beta[c] : 0.0f);
                vec_store(y + (size_t)c * LANES, vec_fma(unit, gamma, beta));
            }
        }
}

/* One position and vector of lanes. */
static void reverse_position(const layernorm_reverse_args *a, const float *x, const float *gradient, float *output) {
    const moments m = position_moments(x, a->channels, a->eps);
    const vec count = vec_set1((float)a->channels);
    vec sum = vec_zero(), product = vec_zero();
    for (size_t c = 0; c < a->channels; c++) {
        vec g = vec_load(gradient + c * LANES) * vec_set1(a->gamma ? a->gamma[c] : 1.0f);
        sum += g;
        product = vec_fma(g, (vec_load(x + c * LANES) - m.mean) * m.inverse, product);
    }
    const vec mean = sum / count, slope = product / count;
    for (size_t c = 0; c < a->channels; c++) {
        vec g = vec_load(gradient + c * LANES) * vec_set1(a->gamma ? a->gamma[c] : 1.0f);
        vec unit = (vec_load(x + c * LANES) - m.mean) * m.inverse;
        vec_put(output + c * LANES, a->output.add, (g - mean - unit * slope) * m.inverse);
    }
}

void KERNEL(cpu_layernorm_reverse)(const layernorm_reverse_args *a) {
    const size_t stride = (size_t)a->channels * LANES;
    for (size_t at = 0; at < a->positions * stride; at += stride)
        for (uint32_t lane = 0; lane < LANES; lane += VEC)
            reverse_position(a, a->input + at + lane, a->gradient + at + lane, a->output.values + at + lane);
}
