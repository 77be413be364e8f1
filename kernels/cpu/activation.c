/*
 * activation.c - elementwise functions, in place on [count] floats (count a multiple of 32).
 *
 *   relu       max(0, x)
 *   gelu_erf   x/2 (1 + erf(x / sqrt 2)); absolute error below 1e-6
 *   gelu_tanh  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
 *   quickgelu  x / (1 + e^(-1.702 x))
 *
 * 8 bytes and 1 to 25 flops per element; called on what a convolution has just written, so it comes from a cache.
 */
#include "kernels/cpu/simd.h"

/* x times the logistic function of u. */
INLINE vec times_sigmoid(vec x, vec u) {
    return x / (vec_set1(1.0f) + vec_exp(-u));
}

/* erfc(a) for a >= 0 by Abramowitz and Stegun 7.1.26: (a1 t + ... + a5 t^5) e^(-a^2), t = 1 / (1 + p a); |error| <=
 * 1.5e-7. Then x/2 erfc(|x| / sqrt 2) is what GELU loses on the right of zero, and all of it on the left. */
INLINE vec gelu_erf(vec x) {
    vec magnitude = (vec)((ivec)x & 0x7fffffff);
    vec a = magnitude * vec_set1(0.70710678f);
    vec t = vec_set1(1.0f) / vec_fma(a, vec_set1(0.3275911f), vec_set1(1.0f));
    vec p = vec_set1(1.061405429f);
    p = vec_fma(p, t, vec_set1(-1.453152027f));
    p = vec_fma(p, t, vec_set1(1.421413741f));
    p = vec_fma(p, t, vec_set1(-0.284496736f));
    p = vec_fma(p, t, vec_set1(0.254829592f));
    vec lost = vec_set1(0.5f) * magnitude * p * t * vec_exp(-a * a);
    return vec_relu(x) - lost;
}

INLINE vec gelu_tanh(vec x) {
    /* (1 + tanh u) / 2 is the logistic function of 2u. */
    vec cubic = vec_fma(x * x, vec_set1(0.044715f), vec_set1(1.0f));
    return times_sigmoid(x, vec_set1(2 * 0.79788456f) * x * cubic);
}

INLINE vec quickgelu(vec x) {
    return times_sigmoid(x, vec_set1(1.702f) * x);
}

#define ACTIVATION(name, function)                                                                                     \
    void KERNEL(name)(float *x, size_t count) {                                                                        \
        for (size_t i = 0; i < count; i += VEC) vec_store(x + i, function(vec_load(x + i)));                           \
    }
ACTIVATION(cpu_relu, vec_relu)
ACTIVATION(cpu_gelu_erf, gelu_erf)
ACTIVATION(cpu_gelu_tanh, gelu_tanh)
ACTIVATION(cpu_quickgelu, quickgelu)
