/*
 * l2norm.c - y = x / |x|, the Euclidean norm over the channels of a position; its reverse. Where |x| = 0, y = x.
 *
 * x, y [position][C][32]. Two passes, 12 bytes and 3 flops per element. In reverse, with g = dL/dy:
 *   dL/dx = (g - x (x.g) / |x|^2) / |x|
 * where two passes over x and g take 20 bytes and about 8 flops per element. fp32 sums, in the order of the channels.
 */
#include "kernels/cpu/simd.h"

/* 1 / sqrt(squares), 1 for 0, and NaN where the sum has overflowed: 1 / infinity would pass for a number. */
INLINE vec inverse_length(vec squares) {
    return vec_select(squares == vec_zero(), vec_set1(1), vec_sqrt(squares) / squares);
}

void KERNEL(cpu_l2norm)(const float *x, size_t positions, uint32_t channels, float *y) {
    const size_t stride = (size_t)channels * LANES;
    for (size_t p = 0; p < positions * stride; p += stride)
        for (size_t lane = p; lane < p + LANES; lane += VEC) {
            vec squares = vec_zero();
            for (size_t at = lane; at < lane + stride; at += LANES)
                squares = vec_fma(vec_load(x + at), vec_load(x + at), squares);
            const vec inverse = inverse_length(squares);
            for (size_t at = lane; at < lane + stride; at += LANES) vec_store(y + at, vec_load(x + at) * inverse);
        }
}

void KERNEL(cpu_l2norm_reverse)(const float *x, const float *gradient, size_t positions, uint32_t channels,
                                gradient_sum output) {
    const size_t stride = (size_t)channels * LANES;
    for (size_t p = 0; p < positions * stride; p += stride)
        for (size_t lane = p; lane < p + LANES; lane += VEC) {
            vec squares = vec_zero(), product = vec_zero();
            for (size_t at = lane; at < lane + stride; at += LANES) {
                squares = vec_fma(vec_load(x + at), vec_load(x + at), squares);
                product = vec_fma(vec_load(x + at), vec_load(gradient + at), product);
            }
            const vec inverse = inverse_length(squares), slope = product * inverse * inverse;
            for (size_t at = lane; at < lane + stride; at += LANES)
                vec_put(output.values + at, output.add, (vec_load(gradient + at) - vec_load(x + at) * slope) * inverse);
        }
}
