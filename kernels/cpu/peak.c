/*
 * peak.c - the most that this machine can do: what every figure of coar bench is compared with.
 *
 * Multiply-adds: twelve independent chains of c = a c + b in registers, enough to hide the latency of two units, no
 * memory at all. 2 flops per lane and multiply-add; a product of pairs of bf16 numbers is two of them.
 * Memory: the triad of STREAM (McCalpin, "Memory bandwidth and machine balance in current high performance computers",
 * 1995), two streams in and one out.
 */
#include "kernels/cpu/product.h"

enum { CHAINS = 12 };

INLINE double spend(const number type, size_t iterations) {
    const vec a = vec_set1(0.999999f), b = vec_set1(1e-7f); /* towards 0.1: neither overflow nor subnormals */
    const vec pair = bf16_pair(b, b);
    vec c[CHAINS];
    UNROLL for (int i = 0; i < CHAINS; i++) c[i] = vec_set1((float)i);
    for (size_t n = 0; n < iterations; n++) {
        UNROLL for (int i = 0; i < CHAINS; i++) c[i] =
            type == NUMBER_BF16 ? bf16_dot(c[i], pair, pair) : vec_fma(c[i], a, b);
    }
    vec sum = vec_zero();
    UNROLL for (int i = 0; i < CHAINS; i++) sum += c[i];
    float sink[VEC] __attribute__((aligned(64)));
    vec_store(sink, sum);
    __asm__ volatile("" : : "r"(sink) : "memory"); /* the result is wanted, as far as the compiler knows */
    return (type == NUMBER_BF16 ? 4.0 : 2.0) * VEC * CHAINS * (double)iterations;
}

double KERNEL(cpu_peak)(size_t iterations) {
    return spend(NUMBER_FP32, iterations);
}

double KERNEL(cpu_peak_bf16)(size_t iterations) {
    return spend(NUMBER_BF16, iterations);
}

void KERNEL(cpu_triad)(const float *b, const float *c, float *a, size_t count) {
    const vec s = vec_set1(3);
    for (size_t i = 0; i < count; i += VEC) vec_store(a + i, vec_fma(s, vec_load(c + i), vec_load(b + i)));
}
