/*
 * linear.c - 1x1 convolution with images in lanes, and for stride 1 its data gradient. Linear layers are that.
 *
 *   y[p][o]     = act(mul[o] (W x)[p][o] + add[o] + residual[p][o]),  (W x)[p][o] = sum over c of W[o][c] x[p stride][c]
 *   dx[p][c] (+)= sum over o of W[o][c] dy[p][o]
 *
 * x [position][C][32], y [position][O][32]; W as product.h says.
 * One position at a time. COLUMNS of its channels (96 KB) stay in the second-level cache while ROWS rows pass over them;
 * what these have summed up so far waits in `sums` for the next channels. W comes once for each position, in order, from
 * wherever it lies: 4 bytes for 64 flops. Smaller cuts that keep x in the first-level cache, or W in the second for
 * several positions, were slower: loading and storing sums costs as much as some 12 columns, so a tile should be long
 * (docs/performance.md).
 *
 * Flops: 2 * 32 * O * C per position. Bytes: 128 C of x, 128 O of y, 4 O C of W.
 * fp32 accumulation. A sum that waits is neither rounded nor reordered: the order of a row's additions is that of its
 * columns, whatever the cuts are.
 */
#include "kernels/cpu/tile_output.h"

#ifndef LINEAR_BF16
#define LINEAR_BF16 0 /* 1 in linear_bf16.c: columns are pairs of channels */
#endif

enum {
    COLUMNS = 768,
    ROWS = 384, /* about so many: whole blocks */
    BLOCKS = ROWS / TILE_ROWS,
    BLOCK_SUMS = TILE_ROWS * LANES,
    FINISH = 32 * 1024, /* floats of results that are finished together, from the second-level cache */
};

/* Forwards, or the data gradient. */
typedef struct job {
    const float *x;
    size_t positions;
    uint32_t channels; /* of x */
    uint32_t columns;  /* the channels, or pairs of them */
    const float *weight;
    const uint32_t *column; /* [columns] */
    const size_t *row;      /* [rows] */
    uint32_t rows;
    const conv_args *forward; /* NULL in reverse */
    const conv_reverse_args *reverse;
} job;

/* ----------------------------------------------------------------------------------------- one block of rows */

/* What a tile computes: so many columns of some rows at one position. */
typedef struct tile {
    const float *x; /* first column, lane 0 */
    const float *weight;
    const size_t *row;
    const uint32_t *column;
    size_t steps;
    bool first, last;       /* columns: sums begin with them, are complete with them */
    float *sums;            /* [MO][LANES] */
    const tile_output *out; /* for complete sums */
} tile;

/* As put_sums does it, without asking for every row what is the same for all of them. */
INLINE void put_rows(const uint32_t MO, const tile_output *out, bool residual, uint32_t lane,
                     vec acc[TILE_ROWS][TILE_VECTORS]) {
    const vec least = vec_set1(out->relu ? 0 : -__builtin_inff());
    const float *mul = out->mul + lane, *add = out->add + lane;
    UNROLL for (uint32_t o = 0; o < MO; o++) {
        const size_t at = (size_t)out->channel[o] * LANES + lane;
        UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) {
            const size_t i = (size_t)o * LANES + v * VEC;
            const vec y =
                scale_sum(acc[o][v], vec_load(mul + i), add + i, residual ? out->residual + at + v * VEC : NULL);
            vec_store(out->y + at + v * VEC, vec_max(least, y));
        }
    }
}

INLINE void put_any(const uint32_t MO, const tile_output *out, uint32_t lane, vec acc[TILE_ROWS][TILE_VECTORS]) {
    const tile_output to = *out; /* a copy that no store can change */
    UNROLL for (uint32_t o = 0; o < MO; o++) put_sums(&to, o, lane, acc[o]);
}

INLINE void put_tile(const uint32_t MO, const tile_output *out, uint32_t lane, vec acc[TILE_ROWS][TILE_VECTORS]) {
    if (!out->mul || out->linear || out->positive)
        put_any(MO, out, lane, acc);
    else if (out->residual)
        put_rows(MO, out, true, lane, acc);
    else
        put_rows(MO, out, false, lane, acc);
}

INLINE void linear_tile(const uint32_t MO, const tile *t) {
    for (uint32_t lane = 0; lane < LANES; lane += TILE_LANES) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        float *sums = t->sums + lane;
        if (t->first)
            product_clear(MO, acc);
        else
            UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++) acc[o][v] =
                vec_load(sums + (size_t)o * LANES + v * VEC);
        product_add(MO, LINEAR_BF16 ? NUMBER_BF16 : NUMBER_FP32, acc, t->x + lane, t->weight, t->row, t->column,
                    t->steps);
        if (t->last)
            put_tile(MO, t->out, lane, acc);
        else
            UNROLL for (uint32_t o = 0; o < MO; o++) UNROLL for (uint32_t v = 0; v < TILE_VECTORS; v++)
                vec_store(sums + (size_t)o * LANES + v * VEC, acc[o][v]);
    }
}

typedef void (*tile_function)(const tile *t);
#define TILE(MO)                                                                                                       \
    __attribute__((noinline)) static void linear_tile_##MO(const tile *t) {                                            \
        linear_tile(MO, t);                                                                                            \
    }
PRODUCT_ROWS(TILE)
#define TILE_NAME(MO) linear_tile_##MO,
static const tile_function tiles[] = {NULL, PRODUCT_ROWS(TILE_NAME)};

/* ------------------------------------------------------------------------------------------------- all of it */

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Where the rows of a position go. */
static tile_output output_at(const job *j, size_t p) {
    if (!j->forward) return conv_reverse_output(j->reverse, 0, (uint32_t)p);
    return conv_output(j->forward, (uint32_t)(p / j->forward->window.out_w), (uint32_t)(p % j->forward->window.out_w));
}

/* Where x begins for position p of the result. */
static const float *input_at(const job *j, size_t p) {
    if (j->forward && j->forward->window.stride != 1) {
        const window *g = &j->forward->window;
        p = p / g->out_w * g->stride * g->in_w + p % g->out_w * g->stride;
    }
    return j->x + p * j->channels * LANES;
}

/* What output_at gives, for rows from row o on. */
static tile_output rows_from(const tile_output *all, uint32_t o) {
    tile_output out = *all;
    if (out.mul) {
        out.channel += o;
        out.mul += (size_t)o * LANES;
        out.add += (size_t)o * LANES;
    } else {
        out.y += (size_t)o * LANES;
    }
    return out;
}

/* Blocks first .. end - 1 of all rows at a position whose columns begin at x. */
static void run_blocks(const job *j, const float *x, const tile_output *all, uint32_t first, uint32_t end) {
    float sums[BLOCKS * BLOCK_SUMS] __attribute__((aligned(64))); /* 48 KB */
    const uint32_t blocks = conv_blocks(j->rows, TILE_ROWS);
    const uint32_t cuts = j->columns ? (j->columns + COLUMNS - 1) / COLUMNS : 1; /* masks may leave no column */
    for (uint32_t cut = 0; cut < cuts; cut++) {
        const uint32_t c = conv_block_first(j->columns, cuts, cut);
        tile t = {
            .x = x + (size_t)c * LANES,
            .weight = j->weight,
            .column = j->column + c,
            .steps = conv_block_first(j->columns, cuts, cut + 1) - c,
            .first = cut == 0,
            .last = cut + 1 == cuts,
            .sums = sums,
        };
        uint32_t o = conv_block_first(j->rows, blocks, first);
        for (uint32_t b = first, next; b < end; b++, o = next, t.sums += BLOCK_SUMS) {
            const tile_output out = rows_from(all, o);
            next = conv_block_first(j->rows, blocks, b + 1);
            t.row = j->row + o;
            t.out = &out;
            tiles[next - o](&t);
        }
    }
}

static void run_position(const job *j, size_t p) {
    const tile_output all = output_at(j, p);
    const uint32_t blocks = conv_blocks(j->rows, TILE_ROWS);
    const float *x = input_at(j, p);
    if (LINEAR_BF16) {
        bf16_round_channels(j->forward, x, j->forward->scratch);
        x = j->forward->scratch;
    }
    for (uint32_t first = 0; first < blocks; first += BLOCKS)
        run_blocks(j, x, &all, first, (uint32_t)smaller(first + BLOCKS, blocks));
}

static void run(const job *j) {
    const size_t channels = j->forward ? j->forward->out_channels : j->reverse->in_channels;
    const size_t together = 1 + FINISH / (channels * LANES + 1); /* at least one; there may be no channel */
    for (size_t first = 0, count; first < j->positions; first += count) {
        count = smaller(j->positions - first, together);
        for (size_t p = first; p < first + count; p++) run_position(j, p);
        if (j->forward)
            KERNEL(cpu_conv_finish)(j->forward, first, count);
        else
            KERNEL(cpu_conv_reverse_finish)(j->reverse, first, count);
    }
}

static void run_forward(const conv_args *c) {
    run(&(job){
        .x = c->input,
        .positions = (size_t)c->window.out_h * c->window.out_w,
        .channels = c->in_channels,
        .columns = LINEAR_BF16 ? c->pairs : c->in_channels,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->rows,
        .forward = c,
    });
}

#if LINEAR_BF16

void KERNEL(cpu_linear_bf16)(const conv_args *c) {
    run_forward(c);
}

#else

void KERNEL(cpu_linear)(const conv_args *c) {
    run_forward(c);
}

void KERNEL(cpu_linear_reverse)(const conv_reverse_args *c) {
    run(&(job){
        .x = c->gradient,
        .positions = (size_t)c->window.in_h * c->window.in_w,
        .channels = c->out_channels,
        .columns = c->out_channels,
        .weight = c->weight,
        .column = c->column,
        .row = c->row,
        .rows = c->in_channels,
        .reverse = c,
    });
}

#endif
