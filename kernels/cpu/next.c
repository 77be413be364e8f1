/*
 * next.c - what a language model says of the next token, from the logits of some tokens at a time.
 *
 *   next_rows    logit    l[next]                                         largest  max over v != next of l[v], and which
 *                peak     max over v of l[v] so far                       sum      sum over v of exp(l[v] - peak)
 *   next_slopes  l[v] = d exp(l[v] - log sum)                             d log-sum / d l[v], times its gradient d
 *
 * l [position][row][32]; a row is a token. No more than a chunk of the vocabulary's logits exists at any time: whoever
 * makes them calls next_rows chunk by chunk, in the order of the tokens, with the same state.
 * Flops: none that count beside the products that make a logit. Bytes: 4 for each logit, twice with sums.
 * Of equal largest logits the first is taken; a NaN is the largest and stays, as in the frameworks. fp32: a chunk's
 * exponentials are added to each other first, so that 50,000 of them lose no more than those of one chunk do.
 */
#include "kernels/cpu/simd.h"

/* One position and vector of lanes. */
static void largest_of(const next_rows_args *a, const float *logits, vec next, float *state) {
    vec logit = vec_load(state + NEXT_STATE_LOGIT * LANES), largest = vec_load(state + NEXT_STATE_LARGEST * LANES);
    vec other = vec_load(state + NEXT_STATE_OTHER * LANES), token = vec_set1((float)a->first);
    for (uint32_t r = 0; r < a->rows; r++, token += vec_set1(1)) {
        const vec l = vec_load(logits + (size_t)r * LANES);
        const ivec own = token == next, larger = ~own & ~(l <= largest) & (largest == largest);
        logit = vec_select(own, l, logit);
        largest = vec_select(larger, l, largest);
        other = vec_select(larger, token, other);
    }
    vec_store(state + NEXT_STATE_LOGIT * LANES, logit);
    vec_store(state + NEXT_STATE_LARGEST * LANES, largest);
    vec_store(state + NEXT_STATE_OTHER * LANES, other);
}

static void add_exponentials(const next_rows_args *a, const float *logits, float *state) {
    const vec before = vec_load(state + NEXT_STATE_PEAK * LANES);
    vec peak = before, sum = vec_zero();
    for (uint32_t r = 0; r < a->rows; r++) peak = vec_max(peak, vec_load(logits + (size_t)r * LANES));
    for (uint32_t r = 0; r < a->rows; r++) sum += vec_exp(vec_load(logits + (size_t)r * LANES) - peak);
    vec_store(state + NEXT_STATE_SUM * LANES,
              vec_fma(vec_load(state + NEXT_STATE_SUM * LANES), vec_exp(before - peak), sum));
    vec_store(state + NEXT_STATE_PEAK * LANES, peak);
}

void KERNEL(cpu_next_rows)(const next_rows_args *a) {
    const float *logits = a->logits;
    for (size_t p = 0; p < a->positions; p++, logits += (size_t)a->rows * LANES)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) {
            float *state = a->state + p * NEXT_STATES * LANES + lane;
            largest_of(a, logits + lane, vec_load(a->next + p * LANES + lane), state);
            if (a->sums) add_exponentials(a, logits + lane, state);
        }
}

void KERNEL(cpu_next_slopes)(float *logits, size_t positions, uint32_t rows, const float *log_sum,
                             const float *gradient, size_t stride) {
    for (size_t p = 0; p < positions; p++)
        for (uint32_t r = 0; r < rows; r++, logits += LANES)
            for (uint32_t lane = 0; lane < LANES; lane += VEC) {
                const vec slope = vec_exp(vec_load(logits + lane) - vec_load(log_sum + p * stride + lane));
                vec_store(logits + lane, slope * vec_load(gradient + p * stride + lane));
            }
}
