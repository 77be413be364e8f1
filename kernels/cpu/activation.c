/*
 * activation.c - elementwise functions, in place on [count] floats (count a multiple of 32).
 *
 *   relu       max(0, x)
 *   gelu_erf   x/2 (1 + erf(x / sqrt 2)); absolute error below 1e-6
 *   gelu_tanh  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
 *   quickgelu  x / (1 + e^(-1.702 x))
 *
 * and in reverse gradient *= derivative at x:
 *
 *   gelu_erf   P + x p,  P and p the normal distribution and its density; absolute error below 1e-6
 *   gelu_tanh  s + x s (1 - s) v',  s = 1 / (1 + e^-v),  v = 2 sqrt(2/pi) (x + 0.044715 x^3)
 *   quickgelu  the same with v = 1.702 x
 *
 * 8 bytes (in reverse 12) and 1 to 30 flops per element; called on what a convolution has just written, so it comes
 * from a cache.
 */
#include "kernels/cpu/simd.h"

/* x times the logistic function of v. */
INLINE vec times_sigmoid(vec x, vec v) {
    return x / (vec_set1(1.0f) + vec_exp(-v));
}

/* Its derivative, s + x s (1 - s) v'. */
INLINE vec times_sigmoid_slope(vec x, vec v, vec slope) {
    const vec s = vec_set1(1.0f) / (vec_set1(1.0f) + vec_exp(-v));
    return vec_fma(x * s * (vec_set1(1.0f) - s), slope, s);
}

/* erfc(a) for a >= 0 by Abramowitz and Stegun 7.1.26: (a1 t + ... + a5 t^5) e^(-a^2), t = 1 / (1 + p a); |error| <=
 * 1.5e-7. */
typedef struct erfc_factors {
    vec p, t, exponential; /* their product is erfc(a) */
} erfc_factors;

INLINE erfc_factors erfc_of(vec a) {
    erfc_factors f;
    f.t = vec_set1(1.0f) / vec_fma(a, vec_set1(0.3275911f), vec_set1(1.0f));
    f.p = vec_set1(1.061405429f);
    f.p = vec_fma(f.p, f.t, vec_set1(-1.453152027f));
    f.p = vec_fma(f.p, f.t, vec_set1(1.421413741f));
    f.p = vec_fma(f.p, f.t, vec_set1(-0.284496736f));
    f.p = vec_fma(f.p, f.t, vec_set1(0.254829592f));
    f.exponential = vec_exp(-a * a);
    return f;
}

INLINE vec magnitude(vec x) {
    return (vec)((ivec)x & 0x7fffffff);
}

/* x/2 erfc(|x| / sqrt 2) is what GELU loses on the right of zero, and all of it on the left. */
INLINE vec gelu_erf(vec x) {
    const erfc_factors f = erfc_of(magnitude(x) * vec_set1(0.70710678f));
    vec lost = vec_set1(0.5f) * magnitude(x) * f.p * f.t * f.exponential;
    return vec_relu(x) - lost;
}

/* The density is e^(-x^2/2) / sqrt(2 pi), and erfc_of's exponential is e^(-x^2/2). */
INLINE vec gelu_erf_slope(vec x) {
    const erfc_factors f = erfc_of(magnitude(x) * vec_set1(0.70710678f));
    vec tail = vec_set1(0.5f) * f.p * f.t * f.exponential; /* of the distribution, beyond |x| */
    vec distribution = vec_select(x > vec_zero(), vec_set1(1.0f) - tail, tail);
    return vec_fma(x * vec_set1(0.39894228f), f.exponential, distribution);
}

/* (1 + tanh u) / 2 is the logistic function of v = 2u. */
INLINE vec tanh_argument(vec x) {
    vec cubic = vec_fma(x * x, vec_set1(0.044715f), vec_set1(1.0f));
    return vec_set1(2 * 0.79788456f) * x * cubic;
}

INLINE vec gelu_tanh(vec x) {
    return times_sigmoid(x, tanh_argument(x));
}

INLINE vec quickgelu(vec x) {
    return times_sigmoid(x, vec_set1(1.702f) * x);
}

INLINE vec gelu_tanh_slope(vec x) {
    vec slope = vec_fma(x * x, vec_set1(3 * 0.044715f), vec_set1(1.0f)) * vec_set1(2 * 0.79788456f);
    return times_sigmoid_slope(x, tanh_argument(x), slope);
}

INLINE vec quickgelu_slope(vec x) {
    return times_sigmoid_slope(x, vec_set1(1.702f) * x, vec_set1(1.702f));
}

#define ACTIVATION(name, function)                                                                                     \
    void KERNEL(name)(float *x, size_t count) {                                                                        \
        for (size_t i = 0; i < count; i += VEC) vec_store(x + i, function(vec_load(x + i)));                           \
    }
ACTIVATION(cpu_relu, vec_relu)
ACTIVATION(cpu_gelu_erf, gelu_erf)
ACTIVATION(cpu_gelu_tanh, gelu_tanh)
ACTIVATION(cpu_quickgelu, quickgelu)

#define REVERSE(name, slope)                                                                                           \
    void KERNEL(name)(const float *x, float *gradient, size_t count) {                                                 \
        for (size_t i = 0; i < count; i += VEC)                                                                        \
            vec_store(gradient + i, vec_load(gradient + i) * slope(vec_load(x + i)));                                  \
    }
REVERSE(cpu_gelu_erf_reverse, gelu_erf_slope)
REVERSE(cpu_gelu_tanh_reverse, gelu_tanh_slope)
REVERSE(cpu_quickgelu_reverse, quickgelu_slope)
