/*
 * epilogue.c - the reverse of a convolution's epilogue, and the sums that mask gradients are made of.
 *
 *   y = act(u), u = mul x + add + residual, act = ReLU by its bits or any other by its argument:
 *   g = dL/dy act'(u)   residual's gradient (+)= g   output = mul g   sums[c] += over positions g (a[c] x + b[c]), or
 *   g, or g (x - x of the lane before)
 *
 * All arrays [position][C][32], sums and mul [C][32]. One pass over memory: reads dL/dy and x, writes output and the
 * residual's gradient, up to 16 bytes an element (ReLU's bits add 1/8) and about 5 flops; so it is bound by bandwidth,
 * and conv_reverse runs it on positions whose dL/dy still lies in a cache.
 * GROUP positions share one read and write of sums and mul. fp32; a sum takes the positions in order, whatever the
 * groups are.
 */
#include <string.h>

#include "kernels/cpu/simd.h"

/* g of one position and channel through an activation that is known by its argument. `at`: of its first lane. */
static void derive(const epilogue_reverse_args *e, uint32_t channel, size_t at, float *g) {
    float u[LANES] __attribute__((aligned(64)));
    const float *mul = e->mul + (size_t)channel * LANES, *add = e->add + (size_t)channel * LANES;
    for (uint32_t lane = 0; lane < LANES; lane += VEC) {
        vec sum = vec_fma(vec_load(e->x + at + lane), vec_load(mul + lane), vec_load(add + lane));
        if (e->residual_input) sum += vec_load(e->residual_input + at + lane);
        vec_store(u + lane, sum);
        vec_store(g + lane, vec_load(e->gradient + at + lane));
    }
    e->derive(u, g, LANES);
}

/* x - x of the lane before, for the lanes from `lane` on; x points at lane 0, which has none before it. */
INLINE vec difference(const float *x, uint32_t lane) {
    if (lane) return vec_load(x + lane) - vec_loadu(x + lane - 1);
    float before[VEC] __attribute__((aligned(64)));
    before[0] = x[0];
    memcpy(before + 1, x, (VEC - 1) * sizeof *x);
    return vec_load(x) - vec_load(before);
}

/* One channel of one position; `at`: of its first lane. */
INLINE void reverse_channel(const sum_kind kind, const epilogue_reverse_args e, const float *gradient, uint32_t channel,
                            size_t at) {
    const size_t values = (size_t)channel * LANES;
    const vec a = vec_set1(kind == SUM_PRODUCT ? e.a[channel] : 0);
    const vec b = vec_set1(kind == SUM_PRODUCT ? e.b[channel] : 0);
    UNROLL for (uint32_t lane = 0; lane < LANES; lane += VEC) {
        const size_t i = at + lane;
        vec g = vec_load(gradient + lane);
        if (e.positive) g = (vec)(vec_load_mask(e.positive, i) & (ivec)g);
        if (kind != SUM_NONE) {
            vec sum = vec_load(e.sums + values + lane);
            if (kind == SUM_PRODUCT) sum = vec_fma(g, vec_fma(a, vec_load(e.x + i), b), sum);
            if (kind == SUM_GRADIENT) sum += g;
            if (kind == SUM_DIFFERENCE) sum = vec_fma(g, difference(e.x + at, lane), sum);
            vec_store(e.sums + values + lane, sum);
        }
        if (e.residual.values) vec_put(e.residual.values + i, e.residual.add, g);
        if (e.output) vec_store(e.output + i, vec_load(e.mul + values + lane) * g);
    }
}

/* `args` is copied: no store can change what the copy says. */
INLINE void reverse_all(const sum_kind kind, const epilogue_reverse_args *args) {
    const epilogue_reverse_args e = *args;
    float derived[LANES] __attribute__((aligned(64)));
    for (size_t p = 0, at = 0; p < e.positions; p++)
        for (uint32_t c = 0; c < e.channels; c++, at += LANES) {
            if (e.derive) derive(args, c, at, derived);
            reverse_channel(kind, e, e.derive ? derived : e.gradient + at, c, at);
        }
}

void KERNEL(cpu_epilogue_reverse)(const epilogue_reverse_args *e) {
    switch (e->kind) {
    case SUM_NONE:
        reverse_all(SUM_NONE, e);
        break;
    case SUM_PRODUCT:
        reverse_all(SUM_PRODUCT, e);
        break;
    case SUM_GRADIENT:
        reverse_all(SUM_GRADIENT, e);
        break;
    case SUM_DIFFERENCE:
        reverse_all(SUM_DIFFERENCE, e);
        break;
    }
}
