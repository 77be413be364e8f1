/*
 * conv.c - direct convolution with images in lanes; linear layers are 1x1 convolutions.
 *
 *   y[p][o] = act(mul[o] * sum over taps t inside the image and channels c of W[o][t][c] x[p + t][c] + add + residual)
 *
 * x [position][C][32], y [position][O][32], W packed in blocks of MO <= TILE_ROWS rows as [tap][C][MO] (kernels.h).
 * Padding taps are skipped, not multiplied. The taps of one kernel row lie one after another in x and in W, so a
 * kernel row is one inner loop of (valid taps) * C steps; a step loads TILE_VECTORS vectors of x and broadcasts MO
 * weights for MO * TILE_VECTORS multiply-adds. On AVX2 that is 6 x 2: 12 multiply-adds (6 cycles on two units) for 8
 * loads (4 cycles), 64 + 24 bytes.
 *
 * Flops: 2 * 32 * O * C * taps per position. Bytes: x is read once per row block, from the second-level cache when
 * the block's window does not fit the first (x_block below); W from the first-level cache.
 * fp32 accumulation, the taps in order: the order of a row's additions does not depend on its block or its lane.
 */
#include "kernels/cpu/simd.h"

/* What one tile reads: `segments` kernel rows of `length` (tap, channel) steps each. */
typedef struct tile_input {
    const float *x; /* first step, first lane of the tile */
    const float *w;
    size_t x_stride; /* floats between kernel rows */
    size_t w_stride;
    uint32_t segments;
    size_t length;
} tile_input;

/* Where MO rows go. All pointers are at the first row or channel and at the tile's first lane. */
typedef struct tile_output {
    const uint32_t *channel;
    const float *mul, *add;
    const float *residual; /* or NULL */
    float *y;
    bool relu;
} tile_output;

/* MO is a constant wherever this is inlined, so acc lives in registers. */
INLINE void conv_tile(const uint32_t MO, const tile_input *in, const tile_output *out) {
    vec acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] = vec_zero();

    for (uint32_t s = 0; s < in->segments; s++) {
        const float *x = in->x + s * in->x_stride, *end = x + in->length * LANES;
        const float *w = in->w + s * in->w_stride;
        for (; x != end; x += LANES, w += MO) {
            vec xv[TILE_VECTORS];
            UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) xv[v] = vec_load(x + v * VEC);
            UNROLL for (uint32_t o = 0; o < MO; o++) {
                vec weight = vec_set1(w[o]);
                UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] = vec_fma(xv[v], weight, acc[o][v]);
            }
        }
    }

    UNROLL for (uint32_t o = 0; o < MO; o++) {
        size_t at = (size_t)out->channel[o] * LANES;
        UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) {
            size_t lane = v * VEC;
            vec y = vec_fma(acc[o][v], vec_load(out->mul + o * LANES + lane), vec_load(out->add + o * LANES + lane));
            if (out->residual) y += vec_load(out->residual + at + lane);
            if (out->relu) y = vec_relu(y);
            vec_store(out->y + at + lane, y);
        }
    }
}

typedef void (*tile_function)(const tile_input *in, const tile_output *out);

#define TILE(MO)                                                                                                       \
    static __attribute__((noinline)) void conv_tile_##MO(const tile_input *in, const tile_output *out) {               \
        conv_tile(MO, in, out);                                                                                        \
    }
TILE(1)
TILE(2)
#if TILE_ROWS >= 3
TILE(3)
#endif
#if TILE_ROWS >= 6
TILE(4)
TILE(5)
TILE(6)
static const tile_function tiles[] = {NULL,        conv_tile_1, conv_tile_2, conv_tile_3,
                                      conv_tile_4, conv_tile_5, conv_tile_6};
#elif TILE_ROWS >= 3
static const tile_function tiles[] = {NULL, conv_tile_1, conv_tile_2, conv_tile_3};
#else
static const tile_function tiles[] = {NULL, conv_tile_1, conv_tile_2};
#endif

/* The taps of one axis that lie inside the image, for output position `at`. */
typedef struct tap_range {
    uint32_t first, count; /* taps */
    size_t start;          /* input position of the first */
} tap_range;

static tap_range taps_inside(uint32_t at, uint32_t stride, uint32_t pad, uint32_t kernel, uint32_t size) {
    int64_t start = (int64_t)at * stride - pad;
    int64_t first = start < 0 ? -start : 0, end = start + kernel > size ? (int64_t)size - start : kernel;
    if (end <= first) return (tap_range){0};
    return (tap_range){(uint32_t)first, (uint32_t)(end - first), (size_t)(start + first)};
}

/* Output positions x0 .. x1-1 of row y, packed rows of block `first .. first + MO - 1`. */
static void conv_block(const conv_args *c, uint32_t y, tap_range rows, uint32_t x0, uint32_t x1, uint32_t first,
                       uint32_t MO) {
    const window *g = &c->window;
    const size_t columns = c->in_channels, taps = (size_t)g->kernel_h * g->kernel_w;
    const float *weight = c->weight + first * taps * columns;
    tile_input in = {.x_stride = g->in_w * columns * LANES, .w_stride = g->kernel_w * columns * MO};
    tile_output out = {.channel = c->channel + first, .mul = c->mul + (size_t)first * LANES, .relu = c->relu};
    const size_t zone_size = (size_t)c->rows * LANES;
    const float *zone_row = c->add + c->zone_y[y] * c->zones_x * zone_size + (size_t)first * LANES;

    for (uint32_t x = x0; x < x1; x++) {
        tap_range across = taps_inside(x, g->stride, g->pad, g->kernel_w, g->in_w);
        in.segments = rows.count;
        in.length = across.count * columns;
        const float *corner = c->input + (rows.start * g->in_w + across.start) * columns * LANES;
        in.w = weight + (size_t)(rows.first * g->kernel_w + across.first) * columns * MO;
        const size_t at = ((size_t)y * g->out_w + x) * c->out_channels * LANES;
        for (uint32_t lane = 0; lane < LANES; lane += TILE_VECTORS * VEC) {
            tile_output half = out;
            in.x = corner + lane;
            half.mul += lane;
            half.add = zone_row + c->zone_x[x] * zone_size + lane;
            half.residual = c->residual ? c->residual + at + lane : NULL;
            half.y = c->output + at + lane;
            tiles[MO](&in, &half);
        }
    }
}

/* Rows that are known without computing them, and activations that are not fused. */
static void finish(const conv_args *c, size_t first, size_t count) {
    const size_t stride = (size_t)c->out_channels * LANES;
    for (size_t p = first; p < first + count; p++)
        for (uint32_t i = 0; i < c->constants; i++) {
            const size_t at = p * stride + (size_t)c->constant_channel[i] * LANES;
            for (uint32_t lane = 0; lane < LANES; lane += VEC) {
                vec y = vec_set1(c->constant[i]);
                if (c->residual) y += vec_load(c->residual + at + lane);
                if (c->relu) y = vec_relu(y);
                vec_store(c->output + at + lane, y);
            }
        }
    if (c->activate) c->activate(c->output + first * stride, count * stride);
}

/* Neighbouring output positions share most of their window, and a row block's weights serve all of them: as many
 * positions at a time as keep the window within about a quarter of a common second-level cache. */
static uint32_t x_block(const conv_args *c) {
    const size_t budget = 128 * 1024;
    size_t column = (size_t)c->window.kernel_h * c->window.stride * c->in_channels * LANES * sizeof(float);
    size_t block = budget / (column ? column : 1);
    return block < 1 ? 1 : block > c->window.out_w ? c->window.out_w : (uint32_t)block;
}

void KERNEL(cpu_conv)(const conv_args *c) {
    const window *g = &c->window;
    const uint32_t blocks = conv_blocks(c->rows, TILE_ROWS), step = x_block(c);
    for (uint32_t y = 0; y < g->out_h; y++) {
        tap_range rows = taps_inside(y, g->stride, g->pad, g->kernel_h, g->in_h);
        for (uint32_t x0 = 0; x0 < g->out_w; x0 += step) {
            uint32_t x1 = x0 + step < g->out_w ? x0 + step : g->out_w;
            for (uint32_t b = 0; b < blocks; b++) {
                uint32_t first = conv_block_first(c->rows, blocks, b);
                conv_block(c, y, rows, x0, x1, first, conv_block_first(c->rows, blocks, b + 1) - first);
            }
            finish(c, (size_t)y * g->out_w + x0, x1 - x0);
        }
    }
}
