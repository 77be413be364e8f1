/*
 * ops.c - graphs of one op each, so that a wrong kernel is named by its case.
 *
 * A backend shows logits and outputs only, so a head reads the op's value: a linear layer over all its elements whose
 * rows either pick one element (a weight of one, exact in every precision: what comes out is the element as it was
 * stored) or add all of them with random weights (an element that no row picks cannot be far off unseen). Rows 0 to 7
 * are compared under masks, all rows without. A language model's head is its own: its case begins with a table of
 * tokens.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "selftest/selftest.h"

enum { SUMS = 2, PICKS_MASKED = 6, ROWS_MAX = 256, HEAD_ELEMENTS = 1 << 22 /* its weights: 16 MiB */ };

typedef struct op_case {
    op_kind kind;
    bool quick;
    shape in;
    uint32_t channels; /* of the output; 0 = as the input's */
    uint32_t kernel_h, kernel_w, stride, pad;
    activation act;
    mask_place place;
    uint32_t width; /* channels of one component; 0 = all */
    bool scale, shift, residual, causal;
    uint32_t heads;
    uint32_t vocabulary; /* OP_NEXT, behind an OP_LOOKUP and a layer norm, with the place's mask, of `in` */
    uint32_t slots, examples;
} op_case;

#define CONV(h, w, c, o, k, s)                                                                                         \
    .kind = OP_CONV, .in = {h, w, c}, .channels = o, .kernel_h = k, .kernel_w = k, .stride = s
#define LINEAR(t, c, o) .kind = OP_CONV, .in = {1, t, c}, .channels = o, .kernel_h = 1, .kernel_w = 1, .stride = 1
#define BATCHNORM .scale = true, .shift = true
#define WINDOW(op, h, w, c, kh, kw, s) .kind = op, .in = {h, w, c}, .kernel_h = kh, .kernel_w = kw, .stride = s
#define TOKENS(op, t, c) .kind = op, .in = {1, t, c}
#define EACH(p) .place = p, .width = 1
#define BATCH(s, e) .slots = s, .examples = e

/* Small ones are odd: channels that fill no vector, images that are not square, borders everywhere. The others are
 * layers of ResNet-50 and ViT-B/16, two of each kind of tile. */
static const op_case cases[] = {
    {LINEAR(1, 65, 10), BATCH(1, 5), .quick = true},
    {LINEAR(17, 40, 70), BATCH(3, 2), .quick = true, .shift = true, .act = ACT_GELU_TANH, EACH(PLACE_PRE)},
    {LINEAR(33, 64, 128), BATCH(2, 2), .quick = true, .shift = true, .residual = true, EACH(PLACE_OUT)},
    {CONV(7, 5, 19, 33, 1, 1), BATCH(3, 3), .quick = true, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(7, 5, 24, 17, 1, 2), BATCH(5, 1), .quick = true, BATCHNORM, EACH(PLACE_PRE)},
    {CONV(9, 7, 13, 21, 3, 1), BATCH(3, 3), .quick = true, .pad = 1, BATCHNORM, .residual = true, .act = ACT_RELU,
     EACH(PLACE_PRE)},
    {CONV(11, 9, 16, 24, 3, 2), BATCH(1, 4), .quick = true, .pad = 1, BATCHNORM, .residual = true, .act = ACT_GELU_ERF,
     .place = PLACE_POST},
    {CONV(6, 6, 8, 40, 5, 1), BATCH(4, 2), .quick = true, .pad = 2, .shift = true, .act = ACT_QUICKGELU,
     EACH(PLACE_OUT)},
    {CONV(23, 18, 3, 9, 7, 2), BATCH(2, 3), .quick = true, .pad = 3, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(12, 8, 3, 20, 4, 4), BATCH(1, 1), .quick = true, .shift = true},
    {WINDOW(OP_MAXPOOL, 11, 9, 7, 3, 3, 2), BATCH(1, 3), .quick = true, .pad = 1},
    {WINDOW(OP_AVGPOOL, 4, 6, 9, 2, 3, 1), BATCH(1, 3), .quick = true},
    {WINDOW(OP_AVGPOOL, 7, 5, 20, 7, 5, 1), BATCH(1, 3), .quick = true},
    {WINDOW(OP_SUBSAMPLE, 9, 7, 5, 0, 0, 2), BATCH(1, 3), .quick = true, .channels = 12, .pad = 3},
    {TOKENS(OP_EMBED, 6, 20), BATCH(1, 3), .quick = true},
    {TOKENS(OP_SELECT, 5, 20), BATCH(1, 3), .quick = true},
    {TOKENS(OP_MEAN_TOKEN, 6, 20), BATCH(1, 3), .quick = true},
    {TOKENS(OP_NORMALISE, 5, 20), BATCH(1, 3), .quick = true},
    {TOKENS(OP_LAYERNORM, 5, 20), BATCH(3, 2), .quick = true, .shift = true, EACH(PLACE_OUT)},
    {TOKENS(OP_LAYERNORM, 17, 65), BATCH(1, 3), .quick = true},
    {TOKENS(OP_ATTENTION, 7, 20), BATCH(3, 2), .quick = true, .heads = 4, EACH(PLACE_OUT)},
    {TOKENS(OP_ATTENTION, 17, 64), BATCH(2, 2), .quick = true, .heads = 2, .place = PLACE_OUT, .width = 32},
    {TOKENS(OP_ATTENTION, 33, 128), BATCH(2, 1), .quick = true, .heads = 2, .place = PLACE_OUT, .width = 64},
    {TOKENS(OP_ATTENTION, 35, 64), BATCH(2, 2), .quick = true, .heads = 2, .causal = true, .place = PLACE_OUT,
     .width = 32},
    {TOKENS(OP_ATTENTION, 9, 20), BATCH(3, 2), .quick = true, .heads = 4, .causal = true, EACH(PLACE_OUT)},
    {TOKENS(OP_NEXT, 9, 20), BATCH(3, 2), .quick = true, .vocabulary = 67, EACH(PLACE_OUT)},

    {CONV(224, 224, 3, 64, 7, 2), BATCH(2, 2), .pad = 3, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(56, 56, 64, 64, 3, 1), BATCH(3, 3), .pad = 1, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(56, 56, 64, 256, 1, 1), BATCH(2, 3), BATCHNORM, .residual = true, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(56, 56, 256, 512, 1, 2), BATCH(1, 3), BATCHNORM},
    {CONV(28, 28, 512, 128, 1, 1), BATCH(5, 1), BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(28, 28, 256, 256, 3, 2), BATCH(1, 4), .pad = 1, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(14, 14, 256, 256, 3, 1), BATCH(3, 3), .pad = 1, BATCHNORM, .residual = true, .place = PLACE_POST},
    {CONV(14, 14, 1024, 256, 1, 1), BATCH(3, 3), BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(7, 7, 512, 512, 3, 1), BATCH(3, 3), .pad = 1, BATCHNORM, .act = ACT_RELU, EACH(PLACE_PRE)},
    {CONV(7, 7, 512, 2048, 1, 1), BATCH(2, 4), BATCHNORM, .residual = true, .act = ACT_RELU, EACH(PLACE_PRE)},
    {LINEAR(1, 2048, 1000), BATCH(1, 7), .shift = true},
    {CONV(224, 224, 3, 768, 16, 16), BATCH(1, 2), .shift = true},
    {LINEAR(197, 768, 768), BATCH(2, 2), .shift = true, .residual = true, EACH(PLACE_PRE)},
    {LINEAR(197, 768, 3072), BATCH(2, 1), .shift = true, .act = ACT_GELU_ERF, EACH(PLACE_PRE)},
    {LINEAR(197, 3072, 768), BATCH(1, 2), .shift = true, .residual = true, EACH(PLACE_PRE)},
    {WINDOW(OP_MAXPOOL, 112, 112, 64, 3, 3, 2), BATCH(1, 2), .pad = 1},
    {WINDOW(OP_AVGPOOL, 7, 7, 2048, 7, 7, 1), BATCH(1, 3)},
    {TOKENS(OP_EMBED, 196, 768), BATCH(1, 2)},
    {TOKENS(OP_MEAN_TOKEN, 49, 2048), BATCH(1, 3)},
    {TOKENS(OP_NORMALISE, 1, 1024), BATCH(1, 3)},
    {TOKENS(OP_LAYERNORM, 197, 768), BATCH(2, 2), .shift = true, EACH(PLACE_OUT)},
    {TOKENS(OP_ATTENTION, 197, 768), BATCH(2, 2), .heads = 12, .place = PLACE_OUT, .width = 64},
    {TOKENS(OP_ATTENTION, 257, 160), BATCH(2, 1), .heads = 2, EACH(PLACE_OUT)},
    {TOKENS(OP_ATTENTION, 1024, 128), BATCH(1, 1), .heads = 1, .place = PLACE_OUT},
    {TOKENS(OP_ATTENTION, 1024, 128), BATCH(1, 1), .heads = 2, .causal = true, .place = PLACE_OUT},
    {TOKENS(OP_NEXT, 9, 768), BATCH(1, 2), .vocabulary = 50257, EACH(PLACE_OUT)},
    {TOKENS(OP_NEXT, 50, 64), BATCH(2, 2), .vocabulary = 50257,
     EACH(PLACE_OUT)}, /* logits of some positions at a time */
};

/* ------------------------------------------------------------------------------------------------- building */

typedef struct op_builder {
    graph *graph;
    uint32_t case_number, arrays; /* together the row of the random stream */
    uint32_t components;          /* so far */
    bool reverse;
    int input; /* value that the op under test reads: the image, or with components of its own what is made of it */
} op_builder;

/* centre + spread * uniform on -1 .. 1, owned by the graph. */
static coar_status random_array(op_builder *b, size_t count, float centre, float spread, const float **out) {
    float *values;
    const uint64_t row = (uint64_t)b->case_number << 32 | b->arrays++;
    TRY(memory_new(count, sizeof *values, "selftest weights", &values));
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        philox_words(1, PHILOX_STREAM_WEIGHTS, row, (uint32_t)(i / 4), words);
        for (size_t k = 0; k < 4 && i + k < count; k++)
            values[i + k] = centre + spread * ((float)(words[k] >> 8) * 0x1p-23f - 1);
    }
    *out = values;
    return graph_own(b->graph, values);
}

static op plain_op(op_kind kind, int input) {
    return (op){.kind = kind, .input = {input, -1, -1}, .residual = -1, .kernel_h = 1, .kernel_w = 1, .stride = 1};
}

/* The next components: all channels of an op, `width` each. */
static mask_site next_site(op_builder *b, mask_place place, uint32_t channels, uint32_t width) {
    const mask_site site = {.place = place, .first = b->components, .count = channels / width, .width = width};
    b->components += site.count;
    return site;
}

static coar_status add(op_builder *b, op o, uint32_t channels, int *value) {
    snprintf(o.name, sizeof o.name, "%s%zu", op_kind_name(o.kind), b->graph->op_count);
    return graph_add(b->graph, &o, channels, value);
}

/* A convolution's weights such that its sums are of order one. */
static coar_status conv_weights(op_builder *b, op *o, uint32_t channels) {
    const size_t row = (size_t)b->graph->values[o->input[0]].c * o->kernel_h * o->kernel_w;
    return random_array(b, row * channels, 0, 1.7f / sqrtf((float)row), &o->weight);
}

/* A convolution of the input with the case's window and nothing else: an operand of the op under test. For a reverse
 * pass its channels are components, so that the gradients of every operand are seen. */
static coar_status add_operand(op_builder *b, const op_case *c, uint32_t channels, int *value) {
    op o = plain_op(OP_CONV, b->input);
    if (c->kind == OP_CONV) o.kernel_h = c->kernel_h, o.kernel_w = c->kernel_w, o.stride = c->stride, o.pad = c->pad;
    TRY(conv_weights(b, &o, channels));
    if (b->reverse) o.mask = next_site(b, PLACE_PRE, channels, 1);
    return add(b, o, channels, value);
}

/* What the op under test reads instead of the image, which has no gradient: a mixture of its channels, each of them a
 * component. */
static coar_status add_stem(op_builder *b, const op_case *c) {
    op o = plain_op(OP_CONV, 0);
    TRY(conv_weights(b, &o, c->in.c));
    o.mask = next_site(b, PLACE_PRE, c->in.c, 1);
    return add(b, o, c->in.c, &b->input);
}

static coar_status set_parameters(op_builder *b, const op_case *c, uint32_t channels, op *o) {
    switch (c->kind) {
    case OP_CONV:
        TRY(conv_weights(b, o, channels));
        if (c->scale) TRY(random_array(b, channels, 1, 0.4f, &o->scale));
        if (c->shift) TRY(random_array(b, channels, 0.1f, 0.5f, &o->shift));
        if (c->residual) TRY(add_operand(b, c, channels, &o->residual));
        return COAR_OK;
    case OP_LAYERNORM:
        o->eps = 1e-6f;
        if (!c->shift) return COAR_OK;
        TRY(random_array(b, channels, 1, 0.3f, &o->weight));
        return random_array(b, channels, 0, 0.3f, &o->shift);
    case OP_EMBED:
    case OP_MEAN_TOKEN:
        return random_array(b, (shape_positions(c->in) + 1) * channels, 0, 0.5f, &o->weight);
    case OP_ATTENTION:
        for (int i = 0; i < 3; i++) TRY(add_operand(b, c, channels, &o->input[i]));
        return COAR_OK;
    default:
        return COAR_OK;
    }
}

static coar_status add_tested(op_builder *b, const op_case *c, int *value) {
    const uint32_t channels = c->channels ? c->channels : c->in.c;
    op o = plain_op(c->kind, b->input);
    if (c->kernel_h) o.kernel_h = c->kernel_h, o.kernel_w = c->kernel_w;
    if (c->stride) o.stride = c->stride;
    o.pad = c->pad;
    o.act = c->act;
    o.heads = c->heads;
    o.causal = c->causal;
    TRY(set_parameters(b, c, channels, &o));
    if (c->place != PLACE_NONE) o.mask = next_site(b, c->place, channels, c->width ? c->width : channels);
    return add(b, o, c->channels, value);
}

/* Which element row `row` of the head picks: the last and the first ones, where tiles end, then places spread evenly.
 *  */
static size_t picked(shape s, uint32_t row, uint32_t rows) {
    const size_t elements = shape_positions(s) * s.c;
    switch (row) {
    case 0:
        return elements - 1;
    case 1:
        return 0;
    case 2:
        return s.c - 1;
    case 3:
        return elements - s.c;
    default:
        return elements * (row - 4) / (rows - 4);
    }
}

/* Every element is picked once where they are few. */
static uint32_t head_rows(size_t elements) {
    const uint32_t least = PICKS_MASKED + SUMS;
    const size_t fit = HEAD_ELEMENTS / elements;
    if (elements < ROWS_MAX) return (uint32_t)elements + SUMS + 4;
    return fit < least ? least : fit > ROWS_MAX ? ROWS_MAX : (uint32_t)fit;
}

static coar_status add_head(op_builder *b, int value, int *logits) {
    const shape s = b->graph->values[value];
    const size_t positions = shape_positions(s), elements = positions * s.c;
    const uint32_t rows = head_rows(elements);
    op o = plain_op(OP_CONV, value);
    const float *weight;
    o.kernel_h = s.h;
    o.kernel_w = s.w;
    TRY(random_array(b, rows * elements, 0, 1.7f / sqrtf((float)elements), &weight));
    o.weight = weight;
    float *writable = (float *)weight; /* [rows][channels][positions], the graph's own copy */
    for (uint32_t row = 0; row < rows; row++) {
        if (row >= PICKS_MASKED && row < PICKS_MASKED + SUMS) continue;
        const uint32_t pick = row < PICKS_MASKED ? row : row - SUMS;
        const size_t element = picked(s, pick, rows - SUMS);
        memset(writable + row * elements, 0, elements * sizeof *writable);
        writable[row * elements + element % s.c * positions + element / s.c] = 1;
    }
    return add(b, o, rows, logits);
}

/* A language model of one layer norm, which has the mask; its head is tied to its table. */
static coar_status add_language_model(op_builder *b, const op_case *c, int *logits) {
    const uint32_t tokens = c->in.w, width = c->in.c;
    op lookup = plain_op(OP_LOOKUP, 0), norm = plain_op(OP_LAYERNORM, -1), next = plain_op(OP_NEXT, -1);
    TRY(random_array(b, (size_t)c->vocabulary * width, 0, 1.7f / sqrtf((float)width), &lookup.weight));
    TRY(random_array(b, (size_t)tokens * width, 0, 0.5f, &lookup.shift));
    lookup.vocabulary = next.vocabulary = c->vocabulary;
    TRY(add(b, lookup, width, &norm.input[0]));
    norm.eps = 1e-5f;
    norm.mask = next_site(b, c->place, width, c->width ? c->width : width);
    TRY(add(b, norm, 0, &next.input[0]));
    next.input[1] = 0;
    next.weight = lookup.weight;
    return add(b, next, 0, logits);
}

static coar_status add_layers(op_builder *b, const op_case *c, int *logits) {
    int value;
    if (c->vocabulary) return add_language_model(b, c, logits);
    if (b->reverse) TRY(add_stem(b, c));
    TRY(add_tested(b, c, &value));
    return add_head(b, value, logits);
}

/* ---------------------------------------------------------------------------------------------------- names */

static void append(char *text, size_t size, const char *more) {
    const size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

static void name_case(const op_case *c, bool reverse, char *text, size_t size) {
    static const char *const acts[] = {"", ", relu", ", gelu", ", gelu tanh", ", quickgelu"};
    static const char *const places[] = {"", ", pre", ", post", ", out"};
    const bool linear = c->kind == OP_CONV && c->in.h == 1;
    char part[64];
    snprintf(text, size, "%s%s", reverse ? "reverse " : "", linear ? "linear" : op_kind_name(c->kind));
    if (c->kernel_h && !linear) {
        snprintf(part, sizeof part, " %ux%u", c->kernel_h, c->kernel_w);
        append(text, size, part);
    }
    if (c->stride > 1) {
        snprintf(part, sizeof part, "/%u", c->stride);
        append(text, size, part);
    }
    if (c->in.h == 1)
        snprintf(part, sizeof part, " %ux%u", c->in.w, c->in.c);
    else
        snprintf(part, sizeof part, " %ux%ux%u", c->in.h, c->in.w, c->in.c);
    append(text, size, part);
    if (c->channels) {
        snprintf(part, sizeof part, " to %u", c->channels);
        append(text, size, part);
    }
    if (c->heads) {
        snprintf(part, sizeof part, ", %u heads", c->heads);
        append(text, size, part);
    }
    if (c->vocabulary) {
        snprintf(part, sizeof part, ", %u tokens", c->vocabulary);
        append(text, size, part);
    }
    append(text, size, c->causal ? ", causal" : "");
    append(text, size, acts[c->act]);
    append(text, size, c->residual ? ", residual" : "");
    append(text, size, places[c->place]);
}

/* --------------------------------------------------------------------------------------------------- interface */

coar_status selftest_op(size_t index, bool quick, bool reverse, selftest_item *out) {
    coar_status status;
    const op_case *c = NULL;
    *out = (selftest_item){0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !c; i++)
        if ((cases[i].quick || !quick) && !index--) c = &cases[i];
    if (!c) return COAR_OK;
    const ptrdiff_t number = c - cases;
    op_builder b = {.case_number = (uint32_t)number, .reverse = reverse};
    const shape input = {c->in.h, c->in.w, c->vocabulary ? 1 : c->in.c};
    int logits;
    TRY_GOTO(graph_create(input, c->vocabulary, &b.graph));
    TRY_GOTO(add_layers(&b, c, &logits));
    TRY_GOTO(graph_finish(b.graph, logits, b.components ? b.components : 1));
    *out = (selftest_item){.graph = b.graph,
                           .kind = (ablation_kind)(number % 3),
                           .slots = c->slots,
                           .examples = c->examples,
                           .outputs = "logit:0,logit:1,logit:2,logit:3,logit:4,logit:5,logit:6,logit:7",
                           .reverse = reverse,
                           .derived = {PICKS_MASKED, PICKS_MASKED + 1, PICKS_MASKED}, /* sums: no gradient is zero */
                           .rms_most = 0.01};
    if (c->vocabulary) selftest_texts(out);
    name_case(c, reverse, out->name, sizeof out->name);
    b.graph = NULL;
done:
    graph_destroy(b.graph);
    return status;
}

/* Margins have kinks, at any of a text's positions. */
void selftest_texts(selftest_item *item) {
    item->outputs = "margin,logit,loss";
    memcpy(item->derived, (const size_t[SELFTEST_KINDS]){2, 1, 2}, sizeof item->derived);
}

void selftest_item_free(selftest_item *item) {
    if (item->model)
        model_destroy(item->model);
    else
        graph_destroy(item->graph);
    *item = (selftest_item){0};
}
