/*
 * cpu_language.c - the two ends of a language model: tokens to vectors, and what follows from the last ones.
 *
 * The logits of a position are as many numbers as there are tokens, too many to keep: they are made CHUNK tokens at a time
 * for a few positions, by the kernel of linear layers, and reduced to NEXT_CHANNELS numbers as they come. Positions share a
 * chunk's weights while these lie in a cache.
 * In reverse, with the gradients g of a position's channels, x what is multiplied by the table W, p = softmax(W x):
 *   dL/dx = g[logit] W[next] + g[largest] W[other] + g[log sum] sum over tokens v of p[v] W[v]
 * The first two are rows of the table. The last is asked for by losses alone: logits once more, chunk by chunk.
 * Must not know: masks, in what order ops come.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

enum {
    CHUNK = 384,   /* tokens: whole blocks of rows of every instruction set; 1.2 MB of weights for a width of 768 */
    POSITIONS = 8, /* their logits are 400 KB */
};

static const window one_position = {1, 1, 1, 1, 1, 1, 1, 0};

static size_t chunk_count(uint32_t vocabulary) {
    return (vocabulary + CHUNK - 1) / CHUNK;
}

static uint32_t chunk_rows(uint32_t vocabulary, size_t chunk) {
    const uint32_t left = vocabulary - (uint32_t)chunk * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

/* A linear layer of as many rows as there are tokens. */
void cpu_next_describe(cpu_backend *b, cpu_layer *layer, bool bf16) {
    const uint32_t width = layer->in.c;
    layer->fp32 = (cpu_form){.points = 1, .columns = width};
    layer->form = (cpu_form){.bf16 = bf16, .points = 1, .columns = bf16 ? conv_pairs(width) : width};
    b->columns = cpu_larger(b->columns, b->settings.reverse ? cpu_larger(width, CHUNK) : width);
    if (bf16) b->pairs = cpu_larger(b->pairs, layer->form.columns);
}

size_t cpu_next_conv_scratch(const cpu_backend *b, const cpu_layer *layer) {
    return layer->form.bf16 ? b->kernels->conv_bf16_scratch(&one_position, layer->in.c) : 0;
}

size_t cpu_next_scratch(void) {
    return (size_t)POSITIONS * (CHUNK + NEXT_STATES + 1) * LANES;
}

/* Of one group of positions, in a worker's scratch. */
typedef struct next_space {
    float *logits; /* [POSITIONS][CHUNK][LANES] */
    float *state;  /* [POSITIONS][NEXT_STATES][LANES] */
    float *next;   /* [POSITIONS][LANES] */
} next_space;

static next_space space_of(const cpu_worker *w) {
    float *logits = w->next, *state = logits + (size_t)POSITIONS * CHUNK * LANES;
    return (next_space){logits, state, state + (size_t)POSITIONS * NEXT_STATES * LANES};
}

/* ---------------------------------------------------------------------------------------------------- lookup */

void cpu_lookup(const cpu_layer *layer, size_t positions, const float *tokens, float *output) {
    const op *o = layer->op;
    const size_t width = layer->out.c;
    for (size_t p = 0; p < positions; p++, tokens += LANES) {
        const float *row[LANES], *position = o->shift + p * width;
        for (size_t lane = 0; lane < LANES; lane++) row[lane] = o->weight + (size_t)tokens[lane] * width;
        for (size_t c = 0; c < width; c++, output += LANES)
            for (size_t lane = 0; lane < LANES; lane++) output[lane] = row[lane][c] + position[c];
    }
}

/* ---------------------------------------------------------------------------------------------------- logits */

/* The logits of a chunk at positions first .. first + count - 1 of x, as they are. */
static void multiply(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const cpu_form *form,
                     const float *x, uint32_t count, size_t chunk, float *logits) {
    static const uint32_t zone[POSITIONS];
    const uint32_t rows = chunk_rows(layer->op->vocabulary, chunk);
    const conv_args args = {
        .window = {1, count, 1, count, 1, 1, 1, 0},
        .in_channels = layer->in.c,
        .out_channels = rows,
        .input = x,
        .output = logits,
        .rows = rows,
        .weight = form->weight,
        .row = layer->next_row + (form == &layer->fp32 ? layer->op->vocabulary : 0) + chunk * CHUNK,
        .column = b->column,
        .tap = (size_t)form->columns * b->kernels->tile_rows,
        .zone_y = zone,
        .zone_x = zone,
        .zones_x = 1,
        .scratch = w->conv,
        .pairs = form->bf16 ? form->columns : 0,
        .pair = (const uint32_t(*)[2])b->pair,
    };
    cpu_convolve(b, form, &args);
}

/* Positions first .. first + count - 1 of an op, at most POSITIONS. */
typedef struct stretch {
    size_t first, count;
} stretch;

static stretch next_stretch(size_t first, size_t positions) {
    return (stretch){first, positions - first < POSITIONS ? positions - first : POSITIONS};
}

/* The last position of all has no next token: any will do there. */
static void begin_states(const cpu_layer *layer, const float *tokens, stretch s, const next_space *space) {
    const size_t all = shape_positions(layer->in);
    for (size_t p = 0; p < s.count; p++) {
        float *state = space->state + p * NEXT_STATES * LANES, *next = space->next + p * LANES;
        for (size_t lane = 0; lane < LANES; lane++) {
            next[lane] = s.first + p + 1 < all ? tokens[(s.first + p + 1) * LANES + lane] : 0;
            state[NEXT_STATE_LOGIT * LANES + lane] = 0;
            state[NEXT_STATE_LARGEST * LANES + lane] = state[NEXT_STATE_PEAK * LANES + lane] = -INFINITY;
            state[NEXT_STATE_OTHER * LANES + lane] = next[lane] == 0;
            state[NEXT_STATE_SUM * LANES + lane] = 0;
        }
    }
}

static void store_states(const next_space *space, stretch s, bool sums, float *output) {
    output += s.first * NEXT_CHANNELS * LANES;
    for (size_t p = 0; p < s.count; p++, output += NEXT_CHANNELS * LANES) {
        const float *state = space->state + p * NEXT_STATES * LANES;
        memcpy(output + NEXT_LOGIT * LANES, state + NEXT_STATE_LOGIT * LANES, LANES * sizeof *output);
        memcpy(output + NEXT_LARGEST * LANES, state + NEXT_STATE_LARGEST * LANES, LANES * sizeof *output);
        memcpy(output + NEXT_OTHER * LANES, state + NEXT_STATE_OTHER * LANES, LANES * sizeof *output);
        const float *peak = state + NEXT_STATE_PEAK * LANES, *sum = state + NEXT_STATE_SUM * LANES;
        for (size_t lane = 0; lane < LANES; lane++)
            output[NEXT_LOGSUM * LANES + lane] = sums ? peak[lane] + logf(sum[lane]) : 0;
    }
}

void cpu_next(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const cpu_form *form, const float *x,
              const float *tokens, float *output) {
    const next_space space = space_of(w);
    const size_t positions = cpu_positions(w, layer);
    for (stretch s = next_stretch(0, positions); s.count; s = next_stretch(s.first + s.count, positions)) {
        begin_states(layer, tokens, s, &space);
        for (size_t chunk = 0; chunk < chunk_count(layer->op->vocabulary); chunk++) {
            const next_rows_args args = {
                .positions = s.count,
                .first = (uint32_t)chunk * CHUNK,
                .rows = chunk_rows(layer->op->vocabulary, chunk),
                .logits = space.logits,
                .next = space.next,
                .state = space.state,
                .sums = w->log_sums,
            };
            multiply(b, w, layer, form, x + s.first * layer->in.c * LANES, (uint32_t)s.count, chunk, space.logits);
            b->kernels->next_rows(&args);
        }
        store_states(&space, s, w->log_sums, output);
    }
}

/* --------------------------------------------------------------------------------------------------- reverse */

/* Weights of a chunk's data gradient: rows are the width's channels, columns the chunk's tokens. */
static size_t reverse_chunk_size(const cpu_backend *b, const cpu_layer *layer, uint32_t rows) {
    return conv_packed_size(layer->in.c, rows, 1, b->kernels->tile_rows);
}

size_t cpu_next_reverse_size(const cpu_backend *b, const cpu_layer *layer) {
    size_t floats = 0;
    for (size_t chunk = 0; chunk < chunk_count(layer->op->vocabulary); chunk++)
        floats += reverse_chunk_size(b, layer, chunk_rows(layer->op->vocabulary, chunk));
    return floats;
}

void cpu_next_pack_reverse(const cpu_backend *b, const cpu_layer *layer, float *packed) {
    const size_t width = layer->in.c;
    for (size_t chunk = 0; chunk < chunk_count(layer->op->vocabulary); chunk++) {
        const uint32_t rows = chunk_rows(layer->op->vocabulary, chunk);
        b->kernels->conv_reverse_pack(&one_position, layer->in.c, rows, layer->op->weight + chunk * CHUNK * width,
                                      packed);
        packed += reverse_chunk_size(b, layer, rows);
    }
}

void cpu_next_list_rows(const cpu_backend *b, const cpu_layer *layer) {
    const uint32_t tile_rows = b->kernels->tile_rows, vocabulary = layer->op->vocabulary, width = layer->in.c;
    const uint32_t last = chunk_rows(vocabulary, chunk_count(vocabulary) - 1);
    for (uint32_t v = 0; v < vocabulary; v++) {
        layer->next_row[v] = conv_row(v, layer->form.columns, 1, tile_rows);
        layer->next_row[vocabulary + v] = conv_row(v, layer->fp32.columns, 1, tile_rows);
    }
    for (uint32_t c = 0; layer->reverse_row && c < width; c++) {
        layer->reverse_row[c] = conv_row(c, CHUNK, 1, tile_rows);
        layer->reverse_row[width + c] = conv_row(c, last, 1, tile_rows);
    }
}

/* Adds the two rows of the table. `y`: what cpu_next has left. */
static void add_rows(const cpu_layer *layer, stretch s, const float *next, const float *y, const float *gradient,
                     gradient_sum output) {
    const size_t width = layer->in.c;
    float *to = output.values + s.first * width * LANES;
    for (size_t p = 0; p < s.count; p++) {
        const size_t at = (s.first + p) * NEXT_CHANNELS * LANES;
        const float *logit = gradient + at + NEXT_LOGIT * LANES, *largest = gradient + at + NEXT_LARGEST * LANES;
        const float *other = y + at + NEXT_OTHER * LANES, *own_row[LANES], *other_row[LANES];
        for (size_t lane = 0; lane < LANES; lane++) {
            own_row[lane] = layer->op->weight + (size_t)next[p * LANES + lane] * width;
            other_row[lane] = layer->op->weight + (size_t)other[lane] * width;
        }
        for (size_t c = 0; c < width; c++, to += LANES)
            for (size_t lane = 0; lane < LANES; lane++) {
                const float sum = logit[lane] * own_row[lane][c] + largest[lane] * other_row[lane][c];
                to[lane] = output.add ? to[lane] + sum : sum;
            }
    }
}

/* Adds what goes through the log of the sum. */
static void add_softmax(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, stretch s, const float *x,
                        const float *y, const float *gradient, float *output) {
    const next_space space = space_of(w);
    const size_t width = layer->in.c, at = s.first * NEXT_CHANNELS * LANES + NEXT_LOGSUM * LANES;
    const size_t chunks = chunk_count(layer->op->vocabulary);
    const float *weight = layer->reverse_weight;
    for (size_t chunk = 0; chunk < chunks; chunk++) {
        const uint32_t rows = chunk_rows(layer->op->vocabulary, chunk);
        const conv_reverse_args args = {
            .window = {1, (uint32_t)s.count, 1, (uint32_t)s.count, 1, 1, 1, 0},
            .in_channels = layer->in.c,
            .out_channels = rows,
            .weight = weight,
            .row = layer->reverse_row + (chunk + 1 < chunks ? 0 : width),
            .column = b->column,
            .tap = (size_t)rows * b->kernels->tile_rows,
            .gradient = space.logits,
            .output = {output + s.first * width * LANES, true},
        };
        multiply(b, w, layer, &layer->fp32, x + s.first * width * LANES, (uint32_t)s.count, chunk, space.logits);
        b->kernels->next_slopes(space.logits, s.count, rows, y + at, gradient + at, NEXT_CHANNELS * LANES);
        b->kernels->conv_reverse(&args);
        weight += reverse_chunk_size(b, layer, rows);
    }
}

void cpu_next_reverse(const cpu_backend *b, const cpu_worker *w, const cpu_layer *layer, const float *x,
                      const float *tokens, const float *y, const float *gradient, gradient_sum output) {
    const next_space space = space_of(w);
    const size_t positions = cpu_positions(w, layer);
    for (stretch s = next_stretch(0, positions); s.count; s = next_stretch(s.first + s.count, positions)) {
        begin_states(layer, tokens, s, &space);
        add_rows(layer, s, space.next, y, gradient, output);
        if (w->log_sums) add_softmax(b, w, layer, s, x, y, gradient, output.values);
    }
}
