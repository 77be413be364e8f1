/*
 * attention.c - softmax(q k^T / sqrt(d)) v, head by head and lane by lane; its reverse.
 *
 * q, k, v, y [token][width][32], head h = channels h d .. (h + 1) d - 1, T tokens. Forwards v and y may lack channels.
 * One head and one vector of lanes at a time. Products run over operands copied into tiles and panels, so that a step
 * reads its rows and its columns each from one place, and all of it in order (in the original, tokens lie width * 128
 * bytes apart and fall into few cache sets):
 *   tile     [steps][ROWS][VEC]               a few queries' channels, or their scores by key
 *   panels   [count / TILE_VECTORS][steps][TILE_VECTORS][VEC]   keys by channel (`keys`), channels by key (`values`)
 *   sums     [d / TILE_VECTORS][ROWS][TILE_VECTORS][VEC]   ROWS results of d channels
 * The largest score of a query is subtracted before the exponential; the sum divides at the end.
 * Flops: 4 T^2 d per head and lane, both products in register tiles of ROWS x TILE_VECTORS accumulators.
 * Bytes: q, k, v, y once from memory; the copies T / ROWS times from the second- or third-level cache.
 * fp32, sums in the order of channels and of keys.
 * Causal: a tile of queries meets the keys up to its last query alone, rounded up to whole panels, half of all in the mean;
 * what the others of the tile do not see among these gets the weight 0.
 *
 * In reverse, with g = dL/dy and p the probabilities, computed again:
 *   s = p (g v^T - sum over keys of p g v^T)     dL/dv = p^T g     dL/dq = s k / sqrt(d)     dL/dk = s^T q / sqrt(d)
 * p and s are held for BLOCK queries at a time, whose share in the sums over queries is then added, key by key.
 * Flops: 10 T^2 d per head and lane. Bytes: q, k, v, g and three gradients once from memory; the copies as above, the
 * sums T / BLOCK times. Sums in the order of channels, of keys, of queries.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/simd.h"

enum {
    ROWS = REGISTER_ROWS, /* queries, or keys: no pointer for each, and panels are read once per tile */
    TILES = (24 + ROWS - 1) / ROWS,
    BLOCK = TILES * ROWS, /* queries */
    /* Whose scores, for a tile of queries, stay in a cache over all channels: the first-level one with AVX2 (12 KB),
     * the second-level one with AVX-512, where a tile is 14 queries of 16 lanes (57 KB). */
    KEYS = 64,
};

static uint32_t at_most(uint32_t a, uint32_t limit) {
    return a < limit ? a : limit;
}

static size_t panels(size_t count) {
    return (count + TILE_VECTORS - 1) / TILE_VECTORS;
}

static size_t panel_size(size_t steps) {
    return steps * TILE_VECTORS * VEC;
}

static size_t tiles(size_t count) {
    return (count + ROWS - 1) / ROWS;
}

static size_t tile_size(size_t steps) {
    return steps * ROWS * VEC;
}

/* Also of a tile of queries: their channels, padded to whole panels. */
static size_t sums_size(size_t d) {
    return panels(d) * ROWS * TILE_VECTORS * VEC;
}

/* -------------------------------------------------------------------------------- into tiles and panels, and back */

/* One head and vector of lanes; `from` points at its first channel and lane. A partial panel repeats its last key. */
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

/* A tile of `queries` queries times `scale`; a partial tile repeats its last one, a partial panel its last channel. */
static void gather_queries(const float *from, size_t stride, uint32_t queries, uint32_t d, float scale, float *to) {
    for (uint32_t c = 0; c < panels(d) * TILE_VECTORS; c++)
        for (uint32_t i = 0; i < ROWS; i++, to += VEC)
            vec_store(to, vec_load(from + at_most(i, queries - 1) * stride + (size_t)at_most(c, d - 1) * LANES) *
                              vec_set1(scale));
}

/* Row i of `sums` times factor[i], to rows of a value; `to` points at the head's first channel and lane. */
static void scatter_rows(const float *sums, uint32_t rows, uint32_t d, const vec factor[ROWS], float *to, bool add,
                         size_t stride) {
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t c = 0; c < d; c++) {
            const size_t panel = c / TILE_VECTORS, j = c % TILE_VECTORS;
            vec_put(to + i * stride + (size_t)c * LANES, add,
                    vec_load(sums + ((panel * ROWS + i) * TILE_VECTORS + j) * VEC) * factor[i]);
        }
}

/* -------------------------------------------------------------------------------------------------- products */

/* How the operand of a product is laid out: floats from step to step, and from row to row (column to column). */
typedef struct strides {
    size_t step, next;
} strides;

/* acc[i][j] += sum over n < steps of left[n][i] right[n][j]. Strides are constants wherever this is inlined. */
INLINE void product_tile(const float *left, strides l, const float *right, strides r, size_t steps,
                         vec acc[ROWS][TILE_VECTORS]) {
    for (size_t n = 0; n < steps; n++, left += l.step, right += r.step) {
        vec column[TILE_VECTORS];
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) column[j] = vec_load(right + j * r.next);
        UNROLL for (int i = 0; i < ROWS; i++) {
            vec row = vec_keep(vec_load(left + i * l.next));
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_fma(row, column[j], acc[i][j]);
        }
    }
}

static const strides in_tile = {.step = ROWS * VEC, .next = VEC};
static const strides in_panel = {.step = TILE_VECTORS * VEC, .next = VEC};
static const strides across_tile = {.step = VEC, .next = ROWS * VEC}; /* the steps are the tile's rows */

/* scores[key][i] = query i . key, a tile from a tile and panels. */
static void multiply_keys(const float *queries, const float *keys, uint32_t tokens, uint32_t d, float *scores) {
    for (uint32_t key = 0; key < tokens; key += TILE_VECTORS) {
        vec acc[ROWS][TILE_VECTORS] = {0};
        product_tile(queries, in_tile, keys + (size_t)key * d * VEC, in_panel, d, acc);
        UNROLL for (uint32_t j = 0; j < TILE_VECTORS; j++) {
            float *to = scores + (size_t)at_most(key + j, tokens - 1) * ROWS * VEC;
            UNROLL for (uint32_t i = 0; i < ROWS; i++) vec_store(to + i * VEC, acc[i][j]);
        }
    }
}

/* One panel of sums. */
INLINE void load_sums(const float *sums, vec acc[ROWS][TILE_VECTORS]) {
    UNROLL for (int i = 0; i < ROWS; i++) {
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = vec_load(sums + (i * TILE_VECTORS + j) * VEC);
    }
}

INLINE void store_sums(float *sums, vec acc[ROWS][TILE_VECTORS]) {
    UNROLL for (int i = 0; i < ROWS; i++) {
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) vec_store(sums + (i * TILE_VECTORS + j) * VEC, acc[i][j]);
    }
}

/* sums[i] = sum over keys < seen of weights[key][i] times the key's value. */
static void mix_values(const float *weights, const float *values, uint32_t tokens, uint32_t seen, uint32_t d,
                       float *sums) {
    memset(sums, 0, sums_size(d) * sizeof *sums);
    for (uint32_t key = 0; key < seen; key += KEYS)
        for (size_t panel = 0; panel < panels(d); panel++) {
            vec acc[ROWS][TILE_VECTORS];
            load_sums(sums + panel * sums_size(1), acc);
            product_tile(weights + tile_size(key), in_tile, values + panel * panel_size(tokens) + panel_size(key),
                         in_panel, at_most(seen - key, KEYS), acc);
            store_sums(sums + panel * sums_size(1), acc);
        }
}

/* --------------------------------------------------------------------------------------------------- forwards */

/* Which keys a tile of queries meets. */
typedef struct sight {
    uint32_t keys;  /* of the tile: all tokens or, causal, whole panels with its last query's own */
    uint32_t first; /* keys that its first query sees; each that follows, */
    uint32_t more;  /* so many more: 0, or causal 1 */
} sight;

static sight tile_sight(bool causal, uint32_t tokens, uint32_t first, uint32_t queries) {
    if (!causal) return (sight){.keys = tokens, .first = tokens};
    const uint32_t whole = (first + queries + TILE_VECTORS - 1) / TILE_VECTORS * TILE_VECTORS;
    return (sight){.keys = at_most(whole, tokens), .first = first + 1, .more = 1};
}

/* Replaces the scores by exp(score - largest of the query), and those of keys that it does not see by 0; inverse[i] = 1 /
 * their sum. */
static void exponentials(float *weights, sight s, vec inverse[ROWS]) {
    for (uint32_t i = 0; i < ROWS; i++) {
        const uint32_t seen = at_most(s.first + i * s.more, s.keys);
        float *row = weights + i * VEC;
        const size_t step = ROWS * VEC;
        vec largest = vec_load(row), sum = vec_zero();
        for (uint32_t t = 1; t < seen; t++) largest = vec_max(largest, vec_load(row + t * step));
        for (uint32_t t = 0; t < seen; t++) {
            vec e = vec_exp(vec_load(row + t * step) - largest);
            vec_store(row + t * step, e);
            sum += e;
        }
        for (uint32_t t = seen; t < s.keys; t++) vec_store(row + t * step, vec_zero());
        inverse[i] = vec_set1(1.0f) / sum;
    }
}

/* The next `count` floats of a scratch array; without one (base = NULL) they are only counted. */
static float *take(float *base, size_t *used, size_t count) {
    float *place = base ? base + *used : NULL;
    *used += count;
    return place;
}

typedef struct workspace {
    float *keys, *values; /* panels */
    float *queries;       /* tile */
    float *weights;       /* tile: scores, then their exponentials */
    float *sums;
} workspace;

static size_t carve(float *base, size_t tokens, size_t d, workspace *w) {
    size_t used = 0;
    w->keys = take(base, &used, panels(tokens) * panel_size(d));
    w->values = take(base, &used, panels(d) * panel_size(tokens));
    w->queries = take(base, &used, sums_size(d));
    w->weights = take(base, &used, tile_size(tokens));
    w->sums = take(base, &used, sums_size(d));
    return used;
}

size_t KERNEL(cpu_attention_scratch)(uint32_t tokens, uint32_t head_width) {
    workspace w;
    return carve(NULL, tokens, head_width, &w);
}

static float score_scale(uint32_t d) {
    return 1.0f / sqrtf((float)d);
}

/* Channels of some heads' values. */
static uint32_t values_before(const attention_args *a, uint32_t head) {
    uint32_t channels = 0;
    if (!a->value_width) return head * a->head_width;
    for (uint32_t h = 0; h < head; h++) channels += a->value_width[h];
    return channels;
}

/* One head and vector of lanes. */
static void attend(const attention_args *a, const workspace *w, uint32_t head, uint32_t lane) {
    const uint32_t d = a->head_width, tokens = a->tokens, before = values_before(a, head);
    const uint32_t e = values_before(a, head + 1) - before;
    const size_t stride = (size_t)a->heads * d * LANES, offset = (size_t)head * d * LANES + lane;
    const size_t value_stride = (size_t)values_before(a, a->heads) * LANES;
    const size_t value_offset = (size_t)before * LANES + lane;
    if (e == 0) return;
    gather_keys(a->k + offset, stride, tokens, d, w->keys);
    gather_values(a->v + value_offset, value_stride, tokens, e, w->values);
    for (uint32_t first = 0; first < a->queries; first += ROWS) {
        vec inverse[ROWS];
        const uint32_t queries = at_most(a->queries - first, ROWS);
        const sight s = tile_sight(a->causal, tokens, first, queries);
        gather_queries(a->q + first * stride + offset, stride, queries, d, score_scale(d), w->queries);
        multiply_keys(w->queries, w->keys, s.keys, d, w->weights);
        exponentials(w->weights, s, inverse);
        mix_values(w->weights, w->values, tokens, s.keys, e, w->sums);
        scatter_rows(w->sums, queries, e, inverse, a->output + first * value_stride + value_offset, false,
                     value_stride);
    }
}

void KERNEL(cpu_attention)(const attention_args *a) {
    workspace w;
    carve(a->scratch, a->tokens, a->head_width, &w);
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC) attend(a, &w, h, lane);
}

/* -------------------------------------------------------------------------------------------------- in reverse */

/* Of a head and vector of lanes, and of a block of queries. Keys are padded to whole tiles in `weights`, `slopes` and
 * the sums over queries. */
typedef struct reverse_workspace {
    float *k_keys, *v_keys, *k_values; /* panels */
    float *k_sums, *v_sums;            /* [tiles of keys] sums: dL/dk, dL/dv */
    float *queries, *gradients;        /* [TILES] tiles: q / sqrt(d), dL/dy */
    float *weights, *slopes;           /* [TILES] tiles: probabilities; dL/d(score) */
    float *sums;                       /* dL/dq of a tile */
    size_t weights_size;               /* floats of a tile of `weights` */
} reverse_workspace;

static size_t carve_reverse(float *base, size_t tokens, size_t d, reverse_workspace *w) {
    size_t used = 0;
    w->weights_size = tile_size(tiles(tokens) * ROWS);
    w->k_keys = take(base, &used, panels(tokens) * panel_size(d));
    w->v_keys = take(base, &used, panels(tokens) * panel_size(d));
    w->k_values = take(base, &used, panels(d) * panel_size(tokens));
    w->k_sums = take(base, &used, tiles(tokens) * sums_size(d));
    w->v_sums = take(base, &used, tiles(tokens) * sums_size(d));
    w->queries = take(base, &used, TILES * sums_size(d));
    w->gradients = take(base, &used, TILES * sums_size(d));
    w->weights = take(base, &used, TILES * w->weights_size);
    w->slopes = take(base, &used, TILES * w->weights_size);
    w->sums = take(base, &used, sums_size(d));
    return used;
}

size_t KERNEL(cpu_attention_reverse_scratch)(uint32_t tokens, uint32_t head_width) {
    reverse_workspace w;
    return carve_reverse(NULL, tokens, head_width, &w);
}

/* Scores become probabilities p, and dL/dp becomes dL/d(score) = p (dL/dp - sum over keys of p dL/dp). */
static void reverse_softmax(float *weights, float *slopes, sight s) {
    vec inverse[ROWS], sum[ROWS] = {0};
    exponentials(weights, s, inverse);
    for (size_t at = 0; at < tile_size(s.keys); at += tile_size(1)) UNROLL for (uint32_t i = 0; i < ROWS; i++) {
            const vec p = vec_load(weights + at + i * VEC) * inverse[i];
            vec_store(weights + at + i * VEC, p);
            sum[i] = vec_fma(p, vec_load(slopes + at + i * VEC), sum[i]);
        }
    for (size_t at = 0; at < tile_size(s.keys); at += tile_size(1)) UNROLL for (uint32_t i = 0; i < ROWS; i++) {
            float *slope = slopes + at + i * VEC;
            vec_store(slope, vec_load(weights + at + i * VEC) * (vec_load(slope) - sum[i]));
        }
}

/* Adds a block's share in sums over queries: sums[key] += sum over queries of weights[key][query] rows[query]. */
static void add_to_keys(const reverse_workspace *w, const float *weights, const float *rows, uint32_t queries,
                        uint32_t keys, uint32_t d, float *sums) {
    for (uint32_t key = 0; key < keys; key += ROWS)
        for (uint32_t c = 0; c < d; c += TILE_VECTORS, sums += sums_size(1)) {
            vec acc[ROWS][TILE_VECTORS];
            load_sums(sums, acc);
            for (uint32_t t = 0; t * ROWS < queries; t++)
                product_tile(weights + t * w->weights_size + tile_size(key), across_tile,
                             rows + t * sums_size(d) + tile_size(c), across_tile, at_most(queries - t * ROWS, ROWS),
                             acc);
            store_sums(sums, acc);
        }
}

/* Nothing of the keys from..until - 1, which other tiles of the block see. */
static void clear_keys(float *weights, uint32_t from, uint32_t until) {
    if (until > from) memset(weights + tile_size(from), 0, (until - from) * tile_size(1) * sizeof *weights);
}

/* Queries first .. first + queries - 1, all but dL/dk and dL/dv themselves. */
static void reverse_block(const attention_reverse_args *a, const reverse_workspace *w, size_t offset, uint32_t first,
                          uint32_t queries) {
    const uint32_t d = a->head_width, tokens = a->tokens;
    const size_t stride = (size_t)a->heads * d * LANES;
    const uint32_t block_keys = tile_sight(a->causal, tokens, first, queries).keys;
    const uint32_t whole_keys = (uint32_t)tiles(block_keys) * ROWS; /* add_to_keys reads whole tiles of them */
    vec scale[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) scale[i] = vec_set1(score_scale(d));
    for (uint32_t t = 0; t * ROWS < queries; t++) {
        const uint32_t rows = at_most(queries - t * ROWS, ROWS);
        const size_t from = (first + t * ROWS) * stride + offset;
        float *tile_queries = w->queries + t * sums_size(d), *gradients = w->gradients + t * sums_size(d);
        float *weights = w->weights + t * w->weights_size, *slopes = w->slopes + t * w->weights_size;
        gather_queries(a->q + from, stride, rows, d, score_scale(d), tile_queries);
        gather_queries(a->gradient + from, stride, rows, d, 1, gradients);
        const sight s = tile_sight(a->causal, tokens, first + t * ROWS, rows);
        multiply_keys(tile_queries, w->k_keys, s.keys, d, weights);
        multiply_keys(gradients, w->v_keys, s.keys, d, slopes);
        reverse_softmax(weights, slopes, s);
        clear_keys(weights, s.keys, whole_keys);
        clear_keys(slopes, s.keys, whole_keys);
        if (!a->output_q.values) continue;
        mix_values(slopes, w->k_values, tokens, s.keys, d, w->sums);
        scatter_rows(w->sums, rows, d, scale, a->output_q.values + from, a->output_q.add, stride);
    }
    if (a->output_k.values) add_to_keys(w, w->slopes, w->queries, queries, block_keys, d, w->k_sums);
    if (a->output_v.values) add_to_keys(w, w->weights, w->gradients, queries, block_keys, d, w->v_sums);
}

static void scatter_keys(const float *sums, uint32_t tokens, uint32_t d, gradient_sum output, size_t offset,
                         size_t stride) {
    vec one[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) one[i] = vec_set1(1);
    if (!output.values) return;
    for (uint32_t key = 0; key < tokens; key += ROWS, sums += sums_size(d))
        scatter_rows(sums, at_most(tokens - key, ROWS), d, one, output.values + key * stride + offset, output.add,
                     stride);
}

static void attend_reverse(const attention_reverse_args *a, const reverse_workspace *w, size_t offset) {
    const uint32_t d = a->head_width, tokens = a->tokens;
    const size_t stride = (size_t)a->heads * d * LANES, sums = tiles(tokens) * sums_size(d) * sizeof(float);
    gather_keys(a->k + offset, stride, tokens, d, w->k_keys);
    gather_keys(a->v + offset, stride, tokens, d, w->v_keys);
    gather_values(a->k + offset, stride, tokens, d, w->k_values);
    memset(w->k_sums, 0, sums);
    memset(w->v_sums, 0, sums);
    for (uint32_t first = 0; first < a->queries; first += BLOCK)
        reverse_block(a, w, offset, first, at_most(a->queries - first, BLOCK));
    scatter_keys(w->k_sums, tokens, d, a->output_k, offset, stride);
    scatter_keys(w->v_sums, tokens, d, a->output_v, offset, stride);
}

void KERNEL(cpu_attention_reverse)(const attention_reverse_args *a) {
    reverse_workspace w;
    carve_reverse(a->scratch, a->tokens, a->head_width, &w);
    for (uint32_t h = 0; h < a->heads; h++)
        for (uint32_t lane = 0; lane < LANES; lane += VEC)
            attend_reverse(a, &w, (size_t)h * a->head_width * LANES + lane);
}
