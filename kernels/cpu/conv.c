/*
 * conv.c - direct convolution with images in lanes, and its data gradient. One tap for every position: linear.c.
 *
 *   y[p][o]     = act(mul[o] (W x)[p][o] + add + residual),
 *   (W x)[p][o] = sum over taps t inside the image and channels c of W[o][t][c] x[p stride + t - pad][c]
 *   dx[p][c] (+)= sum over taps t and channels o of W[o][t][c] dy[(p + pad - t) / stride][o], where that is a position
 *
 * x [position][C][32], y [position][O][32]; W as product.h says, a block's columns being [tap][C].
 * Padding taps are skipped, not multiplied. The taps of one kernel row lie one after another in x and in W, so a
 * kernel row is one inner loop of (valid taps) * C steps.
 *
 * The data gradient runs the same tiles. Along each axis, positions p of one phase (p + pad) mod stride meet the taps
 * of the same phase, t mod stride, and neighbours of one phase meet neighbours in dy: for every phase it is a
 * convolution of stride 1 with those taps, the last first, rows and columns of W exchanged. So nothing is multiplied
 * by zeros, and a block's columns are [phase y][phase x][tap y][tap x][O].
 *
 * Flops: 2 * 32 * O * C * taps per position of y, in both directions. Bytes: x is read once per row block, from the
 * second-level cache when the block's window does not fit the first (columns_at_once below); W from the first-level
 * cache.
 * In bf16 columns are pairs of channels, and a stretch of positions begins with rounding the part of the image that it
 * reads into `scratch`, [position][pair][32]: some ten instructions for kernel_w * O products of a pair in 32 lanes.
 * fp32 accumulation, the taps in packed order: the order of a row's additions does not depend on its block or its lane.
 */
#include "kernels/cpu/tile_output.h"

/* What one tile reads: `segments` kernel rows of `length` (tap, channel) steps each. */
typedef struct tile_input {
    const float *x; /* first step, lane 0 */
    const float *w;
    const size_t *row;
    const uint32_t *column;
    size_t x_stride; /* floats between kernel rows */
    size_t w_stride;
    uint32_t segments;
    size_t length;
} tile_input;

/* TILE_LANES lanes from `lane` on of MO rows. */
INLINE void conv_tile(const uint32_t MO, const number type, uint32_t lane, const tile_input *in,
                      const tile_output *out) {
    const tile_output to = *out; /* a copy that no store can change */
    vec acc[TILE_ROWS][TILE_VECTORS];
    product_clear(MO, acc);
    for (uint32_t s = 0; s < in->segments; s++)
        product_add(MO, type, acc, in->x + lane + s * in->x_stride, in->w + s * in->w_stride, in->row, in->column,
                    in->length);
    UNROLL for (uint32_t o = 0; o < MO; o++) put_sums(&to, o, lane, acc[o]);
}

typedef void (*tile_function)(uint32_t lane, const tile_input *in, const tile_output *out);

#define TILE(MO)                                                                                                       \
    __attribute__((noinline)) static void conv_tile_##MO(uint32_t lane, const tile_input *in,                          \
                                                         const tile_output *out) {                                     \
        conv_tile(MO, NUMBER_FP32, lane, in, out);                                                                     \
    }                                                                                                                  \
    __attribute__((noinline)) static void bf16_tile_##MO(uint32_t lane, const tile_input *in,                          \
                                                         const tile_output *out) {                                     \
        conv_tile(MO, NUMBER_BF16, lane, in, out);                                                                     \
    }
PRODUCT_ROWS(TILE)
#define TILE_NAME(MO) conv_tile_##MO,
#define BF16_NAME(MO) bf16_tile_##MO,
static const tile_function tiles[][TILE_ROWS + 1] = {
    [NUMBER_FP32] = {NULL, PRODUCT_ROWS(TILE_NAME)},
    [NUMBER_BF16] = {NULL, PRODUCT_ROWS(BF16_NAME)},
};

/* A block's rows at one position. */
INLINE void all_lanes(number type, const tile_input *in, const tile_output *out, uint32_t MO) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) tiles[type][MO](lane, in, out);
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

/* Packed tap i of n is tap phase + (n - 1 - i) stride, and meets position (at + pad - phase) / stride - (n - 1 - i). */
static tap_range taps_reverse(uint32_t at, uint32_t stride, uint32_t pad, uint32_t kernel, uint32_t size) {
    const uint32_t phase = (uint32_t)(((uint64_t)at + pad) % stride), taps = conv_phase_taps(kernel, stride, phase);
    tap_range r = clip((int64_t)(((uint64_t)at + pad) / stride) - taps + 1, taps, size);
    for (uint32_t p = 0; p < phase; p++) r.before += conv_phase_taps(kernel, stride, p);
    return r;
}

/* The image that is read, or a part of it, and the weights that multiply it. */
typedef struct source {
    const float *x, *weight;
    const uint32_t *column; /* [kernel_w][channels] */
    size_t width, channels; /* positions in a row of x, channels (or pairs of them) of each */
    size_t tap;             /* floats of a tap in a block of weights */
    uint32_t kernel_w;
    number type;
    size_t top, left; /* position of the image that x begins with */
} source;

/* What rows `row[0 .. MO - 1]` read for one row of positions. */
typedef struct strip {
    const source *s;
    tap_range down;
    const float *x, *weight; /* of the first kernel row */
    size_t x_stride;         /* floats between kernel rows */
} strip;

static strip locate_row(const source *s, tap_range down) {
    const size_t x_stride = s->width * s->channels * LANES;
    return (strip){
        .s = s,
        .down = down,
        .x = s->x + (down.start - s->top) * x_stride,
        .weight = s->weight + (size_t)down.before * s->kernel_w * s->tap,
        .x_stride = x_stride,
    };
}

/* What they read for one of its positions. */
INLINE tile_input locate(const strip *row, tap_range across, const size_t *rows) {
    const source *s = row->s;
    const size_t before = (size_t)row->down.packed * across.before + (size_t)row->down.first * across.packed;
    return (tile_input){
        .x = row->x + (across.start - s->left) * s->channels * LANES,
        .w = row->weight + before * s->tap,
        .row = rows,
        .column = s->column + across.first * s->channels,
        .x_stride = row->x_stride,
        .w_stride = across.packed * s->tap,
        .segments = row->down.count,
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

/* Output positions x0 .. x1-1 of row y, rows first .. first + MO - 1. */
static void conv_block(const conv_args *c, const source *s, uint32_t y, uint32_t x0, uint32_t x1, uint32_t first,
                       uint32_t MO) {
    const window *g = &c->window;
    const strip row = locate_row(s, taps_forward(y, g->stride, g->pad, g->kernel_h, g->in_h));
    for (uint32_t x = x0; x < x1; x++) {
        const tile_input in = locate(&row, taps_forward(x, g->stride, g->pad, g->kernel_w, g->in_w), c->row + first);
        tile_output out = conv_output(c, y, x);
        out.channel += first;
        out.mul += (size_t)first * LANES;
        out.add += (size_t)first * LANES;
        all_lanes(s->type, &in, &out, MO);
    }
}

/* Rows that are known without computing them, and activations that are not fused. */
void KERNEL(cpu_conv_finish)(const conv_args *c, size_t first, size_t count) {
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

/* One tap for every position: linear.c. Data gradients of a larger stride have positions without any. */
static bool has_one_tap(const window *g) {
    return g->kernel_h == 1 && g->kernel_w == 1 && g->pad == 0;
}

static bool is_linear(const window *g) {
    return has_one_tap(g) && g->stride == 1;
}

/* Output positions x0 .. x1-1 of row y. */
static void conv_stretch(const conv_args *c, const source *s, uint32_t y, uint32_t x0, uint32_t x1) {
    const uint32_t blocks = conv_blocks(c->rows, TILE_ROWS);
    for (uint32_t b = 0; b < blocks; b++) {
        const uint32_t first = conv_block_first(c->rows, blocks, b);
        conv_block(c, s, y, x0, x1, first, conv_block_first(c->rows, blocks, b + 1) - first);
    }
    KERNEL(cpu_conv_finish)(c, (size_t)y * c->window.out_w + x0, x1 - x0);
}

/* Positions of a stretch. */
static uint32_t stretch_of(const window *g, uint32_t columns) {
    return bounded(columns_at_once(g->kernel_h, (size_t)g->stride * columns), g->out_w);
}

void KERNEL(cpu_conv)(const conv_args *c) {
    const window *g = &c->window;
    if (has_one_tap(g)) {
        KERNEL(cpu_linear)(c);
        return;
    }
    const source s = {c->input, c->weight, c->column, g->in_w, c->in_channels, c->tap, g->kernel_w, NUMBER_FP32, 0, 0};
    const uint32_t step = stretch_of(g, c->in_channels);
    for (uint32_t y = 0; y < g->out_h; y++)
        for (uint32_t x0 = 0; x0 < g->out_w; x0 += step)
            conv_stretch(c, &s, y, x0, x0 + step < g->out_w ? x0 + step : g->out_w);
}

/* ----------------------------------------------------------------------------------------- forwards, in bf16 */

/* Along one axis, what positions first .. end - 1 read of an image of `size`. */
typedef struct extent {
    size_t start, count;
} extent;

static size_t inside(int64_t at, uint32_t size) {
    return at < 0 ? 0 : at < size ? (size_t)at : size;
}

static extent read_by(const window *g, uint32_t first, uint32_t end, uint32_t kernel, uint32_t size) {
    const int64_t start = (int64_t)first * g->stride - g->pad, stop = (int64_t)(end - 1) * g->stride - g->pad + kernel;
    return (extent){inside(start, size), inside(stop, size) - inside(start, size)};
}

/* What the stretch reads, rounded into c->scratch. */
static source round_part(const conv_args *c, uint32_t y, uint32_t x0, uint32_t x1) {
    const window *g = &c->window;
    const extent down = read_by(g, y, y + 1, g->kernel_h, g->in_h), across = read_by(g, x0, x1, g->kernel_w, g->in_w);
    const size_t position = (size_t)c->in_channels * LANES, rounded = (size_t)c->pairs * LANES;
    float *to = c->scratch;
    for (size_t row = 0; row < down.count; row++)
        for (size_t x = 0; x < across.count; x++, to += rounded)
            bf16_round_channels(c, c->input + ((down.start + row) * g->in_w + across.start + x) * position, to);
    return (source){c->scratch, c->weight,   c->column,   across.count, c->pairs,
                    c->tap,     g->kernel_w, NUMBER_BF16, down.start,   across.start};
}

/* A stretch's part with all channels, at least as much as under any mask; linear_bf16.c wants a position. */
size_t KERNEL(cpu_conv_bf16_scratch)(const window *g, uint32_t in_channels) {
    const uint32_t pairs = conv_pairs(in_channels);
    const size_t across = ((size_t)stretch_of(g, pairs) - 1) * g->stride + g->kernel_w;
    return (across < g->in_w ? across : g->in_w) * (g->kernel_h < g->in_h ? g->kernel_h : g->in_h) * pairs * LANES;
}

void KERNEL(cpu_conv_bf16)(const conv_args *c) {
    const window *g = &c->window;
    if (is_linear(g)) {
        KERNEL(cpu_linear_bf16)(c);
        return;
    }
    const uint32_t pairs = (uint32_t)(c->tap / TILE_ROWS); /* all there are: scratch is for them */
    const uint32_t step = stretch_of(g, pairs);
    for (uint32_t y = 0; y < g->out_h; y++)
        for (uint32_t x0 = 0; x0 < g->out_w; x0 += step) {
            const uint32_t x1 = x0 + step < g->out_w ? x0 + step : g->out_w;
            const source s = round_part(c, y, x0, x1);
            conv_stretch(c, &s, y, x0, x1);
        }
}

/* -------------------------------------------------------------------------------------------------- in reverse */

/* Input positions x0 .. x1-1 of row y, input channels first .. first + MO - 1. */
static void reverse_block(const conv_reverse_args *c, const source *s, uint32_t y, uint32_t x0, uint32_t x1,
                          uint32_t first, uint32_t MO) {
    const window *g = &c->window;
    const strip row = locate_row(s, taps_reverse(y, g->stride, g->pad, g->kernel_h, g->out_h));
    for (uint32_t x = x0; x < x1; x++) {
        const tile_input in = locate(&row, taps_reverse(x, g->stride, g->pad, g->kernel_w, g->out_w), c->row + first);
        if (c->output.add && (!in.segments || !in.length)) continue;
        tile_output out = conv_reverse_output(c, y, x);
        out.y += (size_t)first * LANES;
        all_lanes(s->type, &in, &out, MO);
    }
}

/* The epilogue of the op before, where it is to follow, for `count` positions from `first` on. */
void KERNEL(cpu_conv_reverse_finish)(const conv_reverse_args *c, size_t first, size_t count) {
    if (!c->then) return;
    const size_t at = first * c->then->channels * LANES;
    epilogue_reverse_args e = *c->then;
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
    if (is_linear(g)) {
        KERNEL(cpu_linear_reverse)(c);
        return;
    }
    const source s = {c->gradient, c->weight,   c->column,   g->out_w, c->out_channels,
                      c->tap,      g->kernel_w, NUMBER_FP32, 0,        0};
    const uint32_t blocks = conv_blocks(c->in_channels, TILE_ROWS), height = (g->kernel_h - 1) / g->stride + 1;
    const uint32_t step = bounded(columns_at_once(height, c->out_channels) * g->stride, g->in_w);
    for (uint32_t y = 0; y < g->in_h; y++) {
        for (uint32_t x0 = 0; x0 < g->in_w; x0 += step) {
            const uint32_t x1 = x0 + step < g->in_w ? x0 + step : g->in_w;
            for (uint32_t b = 0; b < blocks; b++) {
                const uint32_t first = conv_block_first(c->in_channels, blocks, b);
                reverse_block(c, &s, y, x0, x1, first, conv_block_first(c->in_channels, blocks, b + 1) - first);
            }
            KERNEL(cpu_conv_reverse_finish)(c, (size_t)y * g->in_w + x0, x1 - x0);
        }
    }
}
