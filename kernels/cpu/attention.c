/*
 * attention.c - softmax(q k^T / sqrt(d)) v, head by head and lane by lane.
 *
 * q, k, v, y [token][width][32], head h = channels h d .. (h + 1) d - 1, T tokens.
 * One head and one vector of lanes at a time: k and v are copied together first ([T][d][VEC]: in place, tokens lie
 * width * 128 bytes apart and fall into few cache sets), then TILE_ROWS queries at a time: scores [row][T][VEC], their
 * softmax (the largest score is subtracted first), and the weighted sum of v; normalised at the end.
 * Flops: 4 T^2 d per head and lane, both products in register tiles of TILE_ROWS x TILE_VECTORS accumulators.
 * Bytes: q, k, v, y once from memory; the copies T / TILE_ROWS times from the second- or third-level cache.
 * fp32, sums in the order of channels and of keys.
 */
#include <math.h>

#include "kernels/cpu/simd.h"

typedef struct workspace {
    float *k, *v;   /* [T][d][VEC] */
    float *q;       /* [TILE_ROWS][d][VEC], scaled by 1 / sqrt(d) */
    float *weights; /* [TILE_ROWS][T][VEC] scores, then their exponentials */
} workspace;

size_t KERNEL(cpu_attention_scratch)(uint32_t tokens, uint32_t head_width) {
    return ((size_t)2 * tokens * head_width + (size_t)TILE_ROWS * (head_width + tokens)) * VEC;
}

static workspace carve(float *scratch, size_t tokens, size_t d) {
    workspace w = {.k = scratch};
    w.v = w.k + tokens * d * VEC;
    w.q = w.v + tokens * d * VEC;
    w.weights = w.q + TILE_ROWS * d * VEC;
    return w;
}

/* Rows first .. first + count - 1 of one head and one vector of lanes; `from` points at its first channel and lane. */
static void gather(const float *from, size_t stride, size_t first, size_t count, uint32_t d, float factor, float *to) {
    const vec scale = vec_set1(factor);
    for (size_t t = first; t < first + count; t++)
        for (uint32_t c = 0; c < d; c++, to += VEC)
            vec_store(to, vec_load(from + t * stride + (size_t)c * LANES) * scale);
}

static uint32_t at_most(uint32_t a, uint32_t limit) {
    return a < limit ? a : limit;
}

/* acc[i][j] = sum over n < steps of left[i][n * left_step] right[j][n * right_step]: the tile of both products. */
INLINE void product_tile(const float *const left[TILE_ROWS], const float *const right[TILE_VECTORS], size_t steps,
                         size_t left_step, size_t right_step, vec acc[TILE_ROWS][TILE_VECTORS]) {
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_zero();
    for (size_t n = 0; n < steps; n++) {
        vec r[TILE_VECTORS];
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) r[j] = vec_load(right[j] + n * right_step);
        UNROLL for (int i = 0; i < TILE_ROWS; i++) {
            vec l = vec_load(left[i] + n * left_step);
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_fma(l, r[j], acc[i][j]);
        }
    }
}

/* weights[i][key] = q_i . k_key. A tile that reaches beyond the last key computes that one again. */
static void scores(const workspace *w, uint32_t tokens, uint32_t d) {
    const float *q[TILE_ROWS], *k[TILE_VECTORS];
    for (int i = 0; i < TILE_ROWS; i++) q[i] = w->q + (size_t)i * d * VEC;
    for (uint32_t key = 0; key < tokens; key += TILE_VECTORS) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        for (uint32_t j = 0; j < TILE_VECTORS; j++) k[j] = w->k + (size_t)at_most(key + j, tokens - 1) * d * VEC;
        product_tile(q, k, d, VEC, VEC, acc);
        UNROLL for (uint32_t i = 0; i < TILE_ROWS; i++)
            UNROLL for (uint32_t j = 0; j < TILE_VECTORS; j++) if (key + j < tokens)
                vec_store(w->weights + ((size_t)i * tokens + key + j) * VEC, acc[i][j]);
    }
}

/* Replaces the scores of one query by exp(score - largest); returns the inverse of their sum. */
static vec exponentials(float *row, uint32_t tokens) {
    vec largest = vec_load(row), sum = vec_zero();
    for (uint32_t t = 1; t < tokens; t++) largest = vec_max(largest, vec_load(row + (size_t)t * VEC));
    for (uint32_t t = 0; t < tokens; t++) {
        vec e = vec_exp(vec_load(row + (size_t)t * VEC) - largest);
        vec_store(row + (size_t)t * VEC, e);
        sum += e;
    }
    return vec_set1(1.0f) / sum;
}

/* y of `queries` queries: the weighted sums of v. `y` points at the head's first channel and lane. */
static void mix_values(const workspace *w, uint32_t tokens, uint32_t d, uint32_t queries, const vec *inverse, float *y,
                       size_t stride) {
    const float *weights[TILE_ROWS], *v[TILE_VECTORS];
    for (int i = 0; i < TILE_ROWS; i++) weights[i] = w->weights + (size_t)i * tokens * VEC;
    for (uint32_t c = 0; c < d; c += TILE_VECTORS) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        for (uint32_t j = 0; j < TILE_VECTORS; j++) v[j] = w->v + (size_t)at_most(c + j, d - 1) * VEC;
        product_tile(weights, v, tokens, VEC, (size_t)d * VEC, acc);
        UNROLL for (uint32_t i = 0; i < TILE_ROWS; i++)
            UNROLL for (uint32_t j = 0; j < TILE_VECTORS; j++) if (i < queries && c + j < d)
                vec_store(y + i * stride + (size_t)(c + j) * LANES, acc[i][j] * inverse[i]);
    }
}

static void attend(const attention_args *a, const workspace *w, size_t offset) {
    const uint32_t d = a->head_width, tokens = a->tokens;
    const size_t stride = (size_t)a->heads * d * LANES;
    gather(a->k + offset, stride, 0, tokens, d, 1.0f, w->k);
    gather(a->v + offset, stride, 0, tokens, d, 1.0f, w->v);
    for (uint32_t first = 0; first < tokens; first += TILE_ROWS) {
        vec inverse[TILE_ROWS];
        const uint32_t queries = at_most(tokens - first, TILE_ROWS);
        gather(a->q + offset, stride, first, queries, d, 1.0f / sqrtf((float)d), w->q);
        for (uint32_t i = queries; i < TILE_ROWS; i++) /* a partial tile computes its first query again */
            gather(a->q + offset, stride, first, 1, d, 1.0f / sqrtf((float)d), w->q + (size_t)i * d * VEC);
        scores(w, tokens, d);
        for (uint32_t i = 0; i < TILE_ROWS; i++)
            inverse[i] = exponentials(w->weights + (size_t)i * tokens * VEC, tokens);
        mix_values(w, tokens, d, queries, inverse, a->output + first * stride + offset, stride);
    }
}

void KERNEL(cpu_attention)(const attention_args *a) {
    const workspace w = carve(a->scratch, a->tokens, a->head_width);
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) attend(a, &w, (size_t)h * a->head_width * LANES + lane);
}
