/*
 * conv.c - direct convolution with images in lanes, and its data gradient; linear layers are 1x1 convolutions.
 *
 *   y[p][o]     = act(mul[o] (W x)[p][o] + add + residual),
 *   (W x)[p][o] = sum over taps t inside the image and channels c of W[o][t][c] x[p stride + t - pad][c]
 *   dx[p][c] (+)= sum over taps t and channels o of W[o][t][c] dy[(p + pad - t) / stride][o], where that is a position
 *
 * x [position][C][32], y [position][O][32], W packed in blocks of MO <= TILE_ROWS rows as [tap][C][MO] (kernels.h).
 * Padding taps are skipped, not multiplied. The taps of one kernel row lie one after another in x and in W, so a
 * kernel row is one inner loop of (valid taps) * C steps; a step loads TILE_VECTORS vectors of x and broadcasts MO
 * weights for MO * TILE_VECTORS multiply-adds. On AVX2 that is 6 x 2: 12 multiply-adds (6 cycles on two units) for 8
 * loads (4 cycles), 64 + 24 bytes.
 *
 * The data gradient runs the same tiles. Along each axis, positions p of one phase (p + pad) mod stride meet the taps
 * of the same phase, t mod stride, and neighbours of one phase meet neighbours in dy: for every phase it is a
 * convolution of stride 1 with those taps, the last first, rows and columns of W exchanged. So nothing is multiplied
 * by zeros, and weights are packed phase by phase: [phase y][block of rows][phase x][tap y][tap x][O][MO].
 *
 * Flops: 2 * 32 * O * C * taps per position of y, in both directions. Bytes: x is read once per row block, from the
 * second-level cache when the block's window does not fit the first (columns_at_once below); W from the first-level
 * cache.
 * fp32 accumulation, the taps in packed order: the order of a row's additions does not depend on its block or its lane.
 */
#include "kernels/cpu/simd.h"

/* What one tile reads: `segments` kernel rows of `length` (tap, channel) steps each. */
typedef struct tile_input {
    const float *x; /* first step, lane 0 */
    const float *w;
    size_t x_stride; /* floats between kernel rows */
    size_t w_stride;
    uint32_t segments;
    size_t length;
} tile_input;

/* Where MO rows go. All pointers are at the first row or channel, and at lane 0. */
typedef struct tile_output {
    const uint32_t *channel;
    const float *mul, *add; /* NULL, as all that follows but y: the sums themselves, row by row, are (added to) y */
    const float *residual;  /* or NULL */
    bool relu;
    float *linear;     /* or NULL */
    uint8_t *positive; /* or NULL */
    float *y;
    bool add_to_y;
} tile_output;

enum { TILE_LANES = TILE_VECTORS * VEC };
_Static_assert(TILE_LANES % 8 == 0 && LANES <= 32, "a tile's bits are whole bytes of one word");

/* Bits of the outputs just written. */
INLINE void write_positive(const uint32_t MO, uint32_t lane, const tile_output *out) {
    for (uint32_t o = 0; o < MO; o++) {
        const size_t at = (size_t)out->channel[o] * LANES + lane;
        uint32_t bits = 0;
        for (uint32_t i = 0; i < TILE_LANES; i += VEC)
            bits |= vec_bits(~(vec_load(out->y + at + i) <= vec_zero())) << i;
        for (uint32_t i = 0; i < TILE_LANES; i += 8) out->positive[(at + i) / 8] = (uint8_t)(bits >> i);
    }
}

INLINE void write_activations(const uint32_t MO, vec acc[TILE_ROWS][TILE_VECTORS], uint32_t lane,
                              const tile_output *out) {
    if (out->linear)
        UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++)
            vec_store(out->linear + (size_t)out->channel[o] * LANES + lane + v * VEC, acc[o][v]);
    UNROLL for (uint32_t o = 0; o < MO; o++) {
        const size_t at = (size_t)out->channel[o] * LANES + lane, row = o * LANES + lane;
        UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) {
            vec y = vec_fma(acc[o][v], vec_load(out->mul + row + v * VEC), vec_load(out->add + row + v * VEC));
            if (out->residual) y += vec_load(out->residual + at + v * VEC);
            if (out->relu) y = vec_relu(y);
            vec_store(out->y + at + v * VEC, y);
        }
    }
    if (out->positive) write_positive(MO, lane, out);
}

INLINE void write_sums(const uint32_t MO, vec acc[TILE_ROWS][TILE_VECTORS], uint32_t lane, const tile_output *out) {
    UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++)
        vec_put(out->y + o * LANES + lane + v * VEC, out->add_to_y, acc[o][v]);
}

/* Lanes from `lane` on. MO is a constant wherever this is inlined, so acc lives in registers. */
INLINE void conv_tile(const uint32_t MO, uint32_t lane, const tile_input *in, const tile_output *out) {
    vec acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] = vec_zero();

    for (uint32_t s = 0; s < in->segments; s++) {
        const float *x = in->x + lane + s * in->x_stride, *end = x + in->length * LANES;
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

    if (out->mul)
        write_activations(MO, acc, lane, out);
    else
        write_sums(MO, acc, lane, out);
}

typedef void (*tile_function)(uint32_t lane, const tile_input *in, const tile_output *out);

#define TILE(MO)                                                                                                       \
    __attribute__((noinline)) static void conv_tile_##MO(uint32_t lane, const tile_input *in,                          \
                                                         const tile_output *out) {                                     \
        conv_tile(MO, lane, in, out);                                                                                  \
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

/* A block's rows at one position. */
INLINE void all_lanes(const tile_input *in, const tile_output *out, uint32_t MO) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) tiles[MO](lane, in, out);
}

/* ------------------------------------------------------------------------------------- what a position reads */

/* Along one axis, for one position of the result. */
typedef struct tap_range {
    uint32_t first, count; /* taps that meet the image, in packed order */
    size_t start;          /* the position that the first of them meets */
    uint32_t packed;       /* taps packed for positions of this phase; forwards all of them */
    uint32_t before;       /* taps of the phases packed before */
} tap_range;

/* `taps` neighbours from position `start` on, as far as they lie inside the image. */
static tap_range clip(int64_t start, uint32_t taps, uint32_t size) {
    const int64_t first = start < 0 ? -start : 0, end = start + taps > size ? (int64_t)size - start : taps;
    tap_range r = {.packed = taps};
    if (end <= first) return r;
    r.first = (uint32_t)first;
    r.count = (uint32_t)(end - first);
    r.start = (size_t)(start + first);
    return r;
}

static tap_range taps_forward(uint32_t at, uint32_t stride, uint32_t pad, uint32_t kernel, uint32_t size) {
    return clip((int64_t)at * stride - pad, kernel, size);
}

/* Taps t < kernel with t mod stride = phase. */
static uint32_t phase_taps(uint32_t kernel, uint32_t stride, uint32_t phase) {
    return phase < kernel ? (kernel - 1 - phase) / stride + 1 : 0;
}

/* Packed tap i of n is tap phase + (n - 1 - i) stride, and meets position (at + pad - phase) / stride - (n - 1 - i). */
static tap_range taps_reverse(uint32_t at, uint32_t stride, uint32_t pad, uint32_t kernel, uint32_t size) {
    const uint32_t phase = (uint32_t)(((uint64_t)at + pad) % stride), taps = phase_taps(kernel, stride, phase);
    tap_range r = clip((int64_t)(((uint64_t)at + pad) / stride) - taps + 1, taps, size);
    for (uint32_t p = 0; p < phase; p++) r.before += phase_taps(kernel, stride, p);
    return r;
}

/* The image that is read, and the weights that multiply it. */
typedef struct source {
    const float *x, *weight;
    size_t width, channels; /* positions in a row of the image, channels of each */
    uint32_t kernel_w, rows;
} source;

/* What rows first .. first + MO - 1 of a block read for one row of positions. */
typedef struct strip {
    tap_range down;
    const float *x, *weight;   /* of the first kernel row */
    size_t x_stride, channels; /* floats between kernel rows; of a position */
    size_t step;               /* weights of a tap: channels * MO */
} strip;

static strip locate_row(const source *s, tap_range down, uint32_t first, uint32_t MO) {
    const size_t above = (size_t)down.before * s->rows + (size_t)first * down.packed; /* rows x taps y packed before */
    const size_t x_stride = s->width * s->channels * LANES;
    return (strip){
        .down = down,
        .x = s->x + down.start * x_stride,
        .weight = s->weight + above * s->kernel_w * s->channels,
        .x_stride = x_stride,
        .channels = s->channels,
        .step = s->channels * MO,
    };
}

/* What they read for one of its positions. */
INLINE tile_input locate(const strip *s, tap_range across) {
    const size_t left = (size_t)s->down.packed * across.before; /* taps packed before, within the block */
    return (tile_input){
        .x = s->x + across.start * s->channels * LANES,
        .w = s->weight + (left + (size_t)s->down.first * across.packed + across.first) * s->step,
        .x_stride = s->x_stride,
        .w_stride = across.packed * s->step,
        .segments = s->down.count,
        .length = across.count * s->channels,
    };
}

/* Neighbouring positions share most of their window, and a row block's weights serve all of them: as many columns of
 * the image (`height` positions high) at a time as stay within about a quarter of a common second-level cache. */
static size_t columns_at_once(size_t height, size_t channels) {
    const size_t budget = 128 * 1024, column = height * channels * LANES * sizeof(float);
    return budget / (column ? column : 1);
}

/* At least one, at most all. */
static uint32_t bounded(size_t positions, uint32_t all) {
    return positions < 1 ? 1 : positions > all ? all : (uint32_t)positions;
}

/* -------------------------------------------------------------------------------------------------- forwards */

/* Output positions x0 .. x1-1 of row y, packed rows of block `first .. first + MO - 1`. */
static void conv_block(const conv_args *c, const source *s, uint32_t y, uint32_t x0, uint32_t x1, uint32_t first,
                       uint32_t MO) {
    const window *g = &c->window;
    const strip row = locate_row(s, taps_forward(y, g->stride, g->pad, g->kernel_h, g->in_h), first, MO);
    const size_t zone_size = (size_t)c->rows * LANES;
    const float *zone_row = c->add + c->zone_y[y] * c->zones_x * zone_size + (size_t)first * LANES;
    tile_output out = {.channel = c->channel + first, .mul = c->mul + (size_t)first * LANES, .relu = c->relu};

    for (uint32_t x = x0; x < x1; x++) {
        const tile_input in = locate(&row, taps_forward(x, g->stride, g->pad, g->kernel_w, g->in_w));
        const size_t at = ((size_t)y * g->out_w + x) * c->out_channels * LANES;
        out.add = zone_row + c->zone_x[x] * zone_size;
        out.residual = c->residual ? c->residual + at : NULL;
        out.linear = c->linear ? c->linear + at : NULL;
        out.positive = c->positive ? c->positive + at / 8 : NULL;
        out.y = c->output + at;
        all_lanes(&in, &out, MO);
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

void KERNEL(cpu_conv)(const conv_args *c) {
    const window *g = &c->window;
    const source s = {c->input, c->weight, g->in_w, c->in_channels, g->kernel_w, c->rows};
    const uint32_t blocks = conv_blocks(c->rows, TILE_ROWS);
    const uint32_t step = bounded(columns_at_once(g->kernel_h, (size_t)g->stride * c->in_channels), g->out_w);
    for (uint32_t y = 0; y < g->out_h; y++) {
        for (uint32_t x0 = 0; x0 < g->out_w; x0 += step) {
            const uint32_t x1 = x0 + step < g->out_w ? x0 + step : g->out_w;
            for (uint32_t b = 0; b < blocks; b++) {
                const uint32_t first = conv_block_first(c->rows, blocks, b);
                conv_block(c, &s, y, x0, x1, first, conv_block_first(c->rows, blocks, b + 1) - first);
            }
            finish(c, (size_t)y * g->out_w + x0, x1 - x0);
        }
    }
}

/* -------------------------------------------------------------------------------------------------- in reverse */

/* The taps of one pair of phases, for rows (input channels) first .. first + MO - 1: [tap y][tap x][O][MO]. */
static float *pack_phase(const window *g, uint32_t in_channels, uint32_t out_channels, uint32_t phase_y,
                         uint32_t phase_x, uint32_t first, uint32_t MO, const float *weight, float *to) {
    const size_t taps = (size_t)g->kernel_h * g->kernel_w;
    for (uint32_t y = phase_taps(g->kernel_h, g->stride, phase_y); y-- > 0;)
        for (uint32_t x = phase_taps(g->kernel_w, g->stride, phase_x); x-- > 0;) {
            const size_t tap =
                ((size_t)phase_y + (size_t)y * g->stride) * g->kernel_w + phase_x + (size_t)x * g->stride;
            for (uint32_t o = 0; o < out_channels; o++)
                for (uint32_t i = 0; i < MO; i++) *to++ = weight[(o * taps + tap) * in_channels + first + i];
        }
    return to;
}

void KERNEL(cpu_conv_reverse_pack)(const window *g, uint32_t in_channels, uint32_t out_channels, const float *weight,
                                   float *packed) {
    const uint32_t blocks = conv_blocks(in_channels, TILE_ROWS);
    for (uint32_t phase_y = 0; phase_y < g->stride; phase_y++)
        for (uint32_t b = 0; b < blocks; b++) {
            const uint32_t first = conv_block_first(in_channels, blocks, b);
            const uint32_t MO = conv_block_first(in_channels, blocks, b + 1) - first;
            for (uint32_t phase_x = 0; phase_x < g->stride; phase_x++)
                packed = pack_phase(g, in_channels, out_channels, phase_y, phase_x, first, MO, weight, packed);
        }
}

/* Input positions x0 .. x1-1 of row y, input channels first .. first + MO - 1. */
static void reverse_block(const conv_reverse_args *c, const source *s, uint32_t y, uint32_t x0, uint32_t x1,
                          uint32_t first, uint32_t MO) {
    const window *g = &c->window;
    const strip row = locate_row(s, taps_reverse(y, g->stride, g->pad, g->kernel_h, g->out_h), first, MO);
    tile_output out = {.add_to_y = c->output.add};
    for (uint32_t x = x0; x < x1; x++) {
        const tile_input in = locate(&row, taps_reverse(x, g->stride, g->pad, g->kernel_w, g->out_w));
        if (c->output.add && (!in.segments || !in.length)) continue;
        out.y = c->output.values + (((size_t)y * g->in_w + x) * c->in_channels + first) * LANES;
        all_lanes(&in, &out, MO);
    }
}

/* The epilogue of the op before, for `count` positions from `first` on. */
static void reverse_epilogue(const epilogue_reverse_args *all, size_t first, size_t count) {
    const size_t at = first * all->channels * LANES;
    epilogue_reverse_args e = *all;
    e.positions = count;
    e.gradient += at;
    if (e.positive) e.positive += at / 8;
    if (e.x) e.x += at;
    if (e.residual_input) e.residual_input += at;
    if (e.output) e.output += at;
    if (e.residual.values) e.residual.values += at;
    KERNEL(cpu_epilogue_reverse)(&e);
}

void KERNEL(cpu_conv_reverse)(const conv_reverse_args *c) {
    const window *g = &c->window;
    const source s = {c->gradient, c->weight, g->out_w, c->out_channels, g->kernel_w, c->in_channels};
    const uint32_t blocks = conv_blocks(c->in_channels, TILE_ROWS), height = (g->kernel_h - 1) / g->stride + 1;
    const uint32_t step = bounded(columns_at_once(height, c->out_channels) * g->stride, g->in_w);
    for (uint32_t y = 0; y < g->in_h; y++) {
        for (uint32_t x0 = 0; x0 < g->in_w; x0 += step) {
            const uint32_t x1 = x0 + step < g->in_w ? x0 + step : g->in_w;
            for (uint32_t b = 0; b < blocks; b++) {
                const uint32_t first = conv_block_first(c->in_channels, blocks, b);
                reverse_block(c, &s, y, x0, x1, first, conv_block_first(c->in_channels, blocks, b + 1) - first);
            }
            if (c->then) reverse_epilogue(c->then, (size_t)y * g->in_w + x0, x1 - x0);
        }
    }
}
