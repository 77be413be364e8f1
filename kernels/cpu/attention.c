/*
 * attention.c - softmax(q k^T / sqrt(d)) v, head by head and lane by lane.
 *
 * q, k, v, y [token][width][32], head h = channels h d .. (h + 1) d - 1, T tokens.
 * One head and one vector of lanes at a time. Both products run over operands copied into panels, so that a step reads
 * its tile of rows and its tile of columns each from one place, and all of it in order (in the original, tokens lie
 * width * 128 bytes apart and fall into few cache sets):
 *   scores   q [d][TILE_ROWS][VEC]         times k [T / TILE_VECTORS][d][TILE_VECTORS][VEC]
 *   mixing   weights [T][TILE_ROWS][VEC]   times v [d / TILE_VECTORS][T][TILE_VECTORS][VEC]
 * The largest score of a query is subtracted before the exponential; the sum divides at the end.
 * Flops: 4 T^2 d per head and lane, both products in register tiles of TILE_ROWS x TILE_VECTORS accumulators.
 * Bytes: q, k, v, y once from memory; the copies T / TILE_ROWS times from the second- or third-level cache.
 * fp32, sums in the order of channels and of keys.
 */
#include <math.h>

#include "kernels/cpu/simd.h"

typedef struct workspace {
    float *k, *v, *q;
    float *weights; /* scores, then their exponentials */
} workspace;

static size_t panels(size_t count) {
    return (count + TILE_VECTORS - 1) / TILE_VECTORS;
}

static size_t panel_size(size_t steps) {
    return steps * TILE_VECTORS * VEC;
}

size_t KERNEL(cpu_attention_scratch)(uint32_t tokens, uint32_t head_width) {
    const size_t d = head_width;
    return panels(tokens) * panel_size(d) + panels(d) * panel_size(tokens) + TILE_ROWS * (d + tokens) * VEC;
}

static workspace carve(float *scratch, size_t tokens, size_t d) {
    workspace w = {.k = scratch};
    w.v = w.k + panels(tokens) * panel_size(d);
    w.q = w.v + panels(d) * panel_size(tokens);
    w.weights = w.q + TILE_ROWS * d * VEC;
    return w;
}

static uint32_t at_most(uint32_t a, uint32_t limit) {
    return a < limit ? a : limit;
}

/* One head and one vector of lanes; `from` points at its first channel and lane. A partial panel repeats its last key. */
static void gather_keys(const float *from, size_t stride, uint32_t tokens, uint32_t d, float *to) {
    for (uint32_t key = 0; key < tokens; key += TILE_VECTORS)
        for (uint32_t c = 0; c < d; c++)
            for (uint32_t j = 0; j < TILE_VECTORS; j++, to += VEC)
                vec_store(to, vec_load(from + at_most(key + j, tokens - 1) * stride + (size_t)c * LANES));
}

/* What a partial panel has behind the last channel is computed with and never stored. */
static void gather_values(const float *from, size_t stride, uint32_t tokens, uint32_t d, float *to) {
    for (uint32_t t = 0; t < tokens; t++)
        for (size_t panel = 0; panel < panels(d); panel++)
            for (uint32_t j = 0; j < TILE_VECTORS; j++) {
                const size_t c = at_most((uint32_t)panel * TILE_VECTORS + j, d - 1);
                vec_store(to + panel * panel_size(tokens) + ((size_t)t * TILE_VECTORS + j) * VEC,
                          vec_load(from + t * stride + c * LANES));
            }
}

/* TILE_ROWS queries side by side; a partial tile repeats its last one. */
static void gather_queries(const float *from, size_t stride, uint32_t queries, uint32_t d, float *to) {
    const vec scale = vec_set1(1.0f / sqrtf((float)d));
    for (uint32_t c = 0; c < d; c++)
        for (uint32_t i = 0; i < TILE_ROWS; i++, to += VEC) {
            const size_t query = i < queries ? i : queries - 1;
            vec_store(to, vec_load(from + query * stride + (size_t)c * LANES) * scale);
        }
}

/* acc[i][j] = sum over n < steps of left[n][i] right[n][j]: the tile of both products. */
INLINE void product_tile(const float *left, const float *right, size_t steps, vec acc[TILE_ROWS][TILE_VECTORS]) {
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_zero();
    for (size_t n = 0; n < steps; n++, left += TILE_ROWS * VEC, right += TILE_VECTORS * VEC) {
        vec r[TILE_VECTORS];
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) r[j] = vec_load(right + j * VEC);
        UNROLL for (int i = 0; i < TILE_ROWS; i++) {
            vec l = vec_load(left + i * VEC);
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_fma(l, r[j], acc[i][j]);
        }
    }
}

/* weights[key][i] = q_i . k_key */
static void scores(const workspace *w, uint32_t tokens, uint32_t d) {
    for (uint32_t key = 0; key < tokens; key += TILE_VECTORS) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        product_tile(w->q, w->k + (size_t)key * d * VEC, d, acc);
        UNROLL for (uint32_t j = 0; j < TILE_VECTORS; j++) {
            float *to = w->weights + (size_t)at_most(key + j, tokens - 1) * TILE_ROWS * VEC;
            UNROLL for (uint32_t i = 0; i < TILE_ROWS; i++) vec_store(to + i * VEC, acc[i][j]);
        }
    }
}

/* Replaces the scores by exp(score - largest of the query); inverse[i] = 1 / their sum. */
static void exponentials(float *weights, uint32_t tokens, vec inverse[TILE_ROWS]) {
    for (uint32_t i = 0; i < TILE_ROWS; i++) {
        float *row = weights + i * VEC;
        const size_t step = TILE_ROWS * VEC;
        vec largest = vec_load(row), sum = vec_zero();
        for (uint32_t t = 1; t < tokens; t++) largest = vec_max(largest, vec_load(row + t * step));
        for (uint32_t t = 0; t < tokens; t++) {
            vec e = vec_exp(vec_load(row + t * step) - largest);
            vec_store(row + t * step, e);
            sum += e;
        }
        inverse[i] = vec_set1(1.0f) / sum;
    }
}

/* y of `queries` queries: the weighted sums of v. `y` points at the head's first channel and lane. */
static void mix_values(const workspace *w, uint32_t tokens, uint32_t d, uint32_t queries, const vec *inverse, float *y,
                       size_t stride) {
    for (uint32_t c = 0; c < d; c += TILE_VECTORS) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        product_tile(w->weights, w->v + (size_t)c * tokens * VEC, tokens, acc);
        UNROLL for (uint32_t i = 0; i < TILE_ROWS; i++)
            UNROLL for (uint32_t j = 0; j < TILE_VECTORS; j++) if (i < queries && c + j < d)
                vec_store(y + i * stride + (size_t)(c + j) * LANES, acc[i][j] * inverse[i]);
    }
}

static void attend(const attention_args *a, const workspace *w, size_t offset) {
    const uint32_t d = a->head_width, tokens = a->tokens;
    const size_t stride = (size_t)a->heads * d * LANES;
    gather_keys(a->k + offset, stride, tokens, d, w->k);
    gather_values(a->v + offset, stride, tokens, d, w->v);
    for (uint32_t first = 0; first < tokens; first += TILE_ROWS) {
        vec inverse[TILE_ROWS];
        const uint32_t queries = at_most(tokens - first, TILE_ROWS);
        gather_queries(a->q + first * stride + offset, stride, queries, d, w->q);
        scores(w, tokens, d);
        exponentials(w->weights, tokens, inverse);
        mix_values(w, tokens, d, queries, inverse, a->output + first * stride + offset, stride);
    }
}

void KERNEL(cpu_attention)(const attention_args *a) {
    const workspace w = carve(a->scratch, a->tokens, a->head_width);
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) attend(a, &w, (size_t)h * a->head_width * LANES + lane);
}
