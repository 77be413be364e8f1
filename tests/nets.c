/* nets.c - see nets.h. */
#include "nets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* SplitMix64 (Steele, Lea, Flood 2014): one word of state, so a seed is a network. */
uint64_t net_draw(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t net_below(uint64_t *state, uint32_t bound) {
    return (uint32_t)((net_draw(state) >> 32) * bound >> 32);
}

float net_uniform(uint64_t *state) {
    return (float)(net_draw(state) >> 40) * 0x1p-23f - 1;
}

typedef struct builder {
    graph *g;
    uint64_t state;
    net_components set;
    bool causal;         /* its attention */
    uint32_t components; /* so far */
} builder;

static void require(coar_status status) {
    if (status == COAR_OK) return;
    fprintf(stderr, "nets.c: %s\n", coar_last_error());
    exit(2);
}

static builder begin_with(shape input, uint32_t vocabulary, net_components set, uint64_t seed) {
    builder b = {.state = seed, .set = set, .causal = vocabulary > 0};
    require(graph_create(input, vocabulary, &b.g));
    return b;
}

static builder begin(shape input, net_components set, uint64_t seed) {
    return begin_with(input, 0, set, seed);
}

static graph *finish(builder *b, int logits) {
    require(graph_finish(b->g, logits, b->components));
    return b->g;
}

/* centre + spread * uniform, owned by the graph. */
static const float *random_array(builder *b, size_t count, float centre, float spread) {
    float *array;
    require(memory_new(count, sizeof *array, "test weights", &array));
    for (size_t i = 0; i < count; i++) array[i] = centre + spread * net_uniform(&b->state);
    require(graph_own(b->g, array));
    return array;
}

static int add(builder *b, op o, uint32_t channels) {
    int value;
    snprintf(o.name, sizeof o.name, "%s%zu", op_kind_name(o.kind), b->g->op_count);
    require(graph_add(b->g, &o, channels, &value));
    return value;
}

static op plain_op(op_kind kind, int input) {
    return (op){.kind = kind, .input = {input, -1, -1}, .residual = -1, .kernel_h = 1, .kernel_w = 1, .stride = 1};
}

/* The next components, `width` channels each, of an op with so many channels. */
static mask_site site(builder *b, mask_place place, uint32_t channels, uint32_t width) {
    mask_site m = {.place = place, .first = b->components, .count = channels / width, .width = width};
    b->components += m.count;
    return m;
}

/* A convolution's op with random weights that keep the size of what passes through; same padding. */
static op conv_op(builder *b, int input, uint32_t channels, uint32_t kernel, uint32_t stride, activation act) {
    op o = plain_op(OP_CONV, input);
    const uint32_t row = b->g->values[input].c * kernel * kernel;
    o.kernel_h = o.kernel_w = kernel;
    o.stride = stride;
    o.pad = kernel / 2;
    o.act = act;
    o.weight = random_array(b, (size_t)channels * row, 0, sqrtf(6.0f / (float)row));
    o.scale = random_array(b, channels, 1, 0.4f);
    o.shift = random_array(b, channels, 0.1f, 0.5f);
    return o;
}

/* A linear layer: bias, no scale. */
static op linear_op(builder *b, int input, uint32_t channels, activation act) {
    op o = conv_op(b, input, channels, 1, 1, act);
    o.scale = NULL;
    return o;
}

static int layernorm(builder *b, int input, bool masked) {
    const uint32_t channels = b->g->values[input].c;
    op o = plain_op(OP_LAYERNORM, input);
    o.eps = 1e-5f;
    o.weight = random_array(b, channels, 1, 0.3f);
    o.shift = random_array(b, channels, 0, 0.3f);
    if (masked) o.mask = site(b, PLACE_OUT, channels, 1);
    return add(b, o, 0);
}

/* A convolution inside a block: `last` = the one that ends the branch and adds `residual`. */
static int block_conv(builder *b, op o, uint32_t channels, bool last, int residual) {
    o.residual = residual;
    if (b->set == NET_FILTERS) o.mask = site(b, PLACE_PRE, channels, 1);
    if (b->set == NET_BLOCKS && last) o.mask = site(b, PLACE_POST, channels, channels);
    if (b->set == NET_INPUTS) o.mask = site(b, PLACE_OUT, channels, 1);
    return add(b, o, channels);
}

static int pool_and_classify(builder *b, int value, uint32_t classes) {
    op pool = plain_op(OP_AVGPOOL, value);
    pool.kernel_h = b->g->values[value].h;
    pool.kernel_w = b->g->values[value].w;
    return add(b, linear_op(b, add(b, pool, 0), classes, ACT_NONE), classes);
}

static int basic_block(builder *b, int input, uint32_t channels, uint32_t stride) {
    int shortcut = input;
    if (stride > 1) {
        op o = plain_op(OP_SUBSAMPLE, input);
        o.stride = stride;
        o.pad = (channels - b->g->values[input].c) / 2;
        shortcut = add(b, o, channels);
    }
    int inner = block_conv(b, conv_op(b, input, channels, 3, stride, ACT_RELU), channels, false, -1);
    return block_conv(b, conv_op(b, inner, channels, 3, 1, ACT_RELU), channels, true, shortcut);
}

graph *net_basic(net_components components, uint64_t seed) {
    builder b = begin((shape){11, 9, 3}, components, seed);
    int v = block_conv(&b, conv_op(&b, 0, 7, 3, 1, ACT_RELU), 7, false, -1);
    v = basic_block(&b, v, 7, 1);
    v = basic_block(&b, v, 13, 2);
    v = basic_block(&b, v, 13, 1);
    return finish(&b, pool_and_classify(&b, v, 7));
}

static int bottleneck_block(builder *b, int input, uint32_t inner, uint32_t channels, uint32_t stride) {
    int shortcut = input;
    if (stride > 1 || b->g->values[input].c != channels)
        shortcut = add(b, conv_op(b, input, channels, 1, stride, ACT_NONE), channels);
    int v = block_conv(b, conv_op(b, input, inner, 1, 1, ACT_RELU), inner, false, -1);
    v = block_conv(b, conv_op(b, v, inner, 3, stride, ACT_RELU), inner, false, -1);
    return block_conv(b, conv_op(b, v, channels, 1, 1, ACT_RELU), channels, true, shortcut);
}

graph *net_bottleneck(net_components components, uint64_t seed) {
    builder b = begin((shape){23, 18, 3}, components, seed);
    int v = block_conv(&b, conv_op(&b, 0, 9, 7, 2, ACT_RELU), 9, false, -1);
    op pool = plain_op(OP_MAXPOOL, v);
    pool.kernel_h = pool.kernel_w = 3;
    pool.stride = 2;
    pool.pad = 1;
    v = bottleneck_block(&b, add(&b, pool, 0), 6, 20, 1);
    v = bottleneck_block(&b, v, 6, 20, 1);
    v = bottleneck_block(&b, v, 11, 35, 2);
    return finish(&b, pool_and_classify(&b, v, 10));
}

static int attention(builder *b, int q, int k, int v, uint32_t heads) {
    const uint32_t width = b->g->values[q].c;
    op o = plain_op(OP_ATTENTION, q);
    o.input[1] = k;
    o.input[2] = v;
    o.heads = heads;
    o.causal = b->causal;
    if (b->set == NET_INPUTS) o.mask = site(b, PLACE_OUT, width, 1);
    if (b->set == NET_HEADS) o.mask = site(b, PLACE_OUT, width, width / heads);
    return add(b, o, 0);
}

/* A linear layer of a transformer block; its own rows are components of NET_FILTERS and NET_BLOCKS only, but for the
 * hidden units of the MLP, which are inputs of the layer after it. */
static int block_linear(builder *b, int input, uint32_t channels, activation act, bool last, int residual) {
    op o = linear_op(b, input, channels, act);
    o.residual = residual;
    if (b->set == NET_FILTERS) o.mask = site(b, PLACE_PRE, channels, 1);
    if (b->set == NET_BLOCKS && last) o.mask = site(b, PLACE_POST, channels, channels);
    if (b->set == NET_INPUTS && act != ACT_NONE) o.mask = site(b, PLACE_OUT, channels, 1);
    return add(b, o, channels);
}

static int transformer_block(builder *b, int input, activation act) {
    const uint32_t width = b->g->values[input].c, hidden = 3 * width + 1;
    const bool inputs = b->set == NET_INPUTS;
    int norm = layernorm(b, input, inputs);
    int q = block_linear(b, norm, width, ACT_NONE, false, -1);
    int k = block_linear(b, norm, width, ACT_NONE, false, -1);
    int v = block_linear(b, norm, width, ACT_NONE, false, -1);
    int mixed = attention(b, q, k, v, 4);
    int middle = block_linear(b, mixed, width, ACT_NONE, true, input);
    int up = block_linear(b, layernorm(b, middle, inputs), hidden, act, false, -1);
    return block_linear(b, up, width, ACT_NONE, true, middle);
}

static int embed_patches(builder *b) {
    op patches = linear_op(b, 0, 20, ACT_NONE);
    patches.kernel_h = patches.kernel_w = patches.stride = 4;
    patches.weight = random_array(b, 20 * 3 * 4 * 4, 0, 0.3f);
    op embed = plain_op(OP_EMBED, add(b, patches, 20));
    embed.weight = random_array(b, (3 * 2 + 1) * 20, 0, 0.5f);
    return add(b, embed, 0);
}

graph *net_transformer(net_components components, activation act, uint64_t seed) {
    builder b = begin((shape){12, 8, 3}, components, seed);
    int v = embed_patches(&b);
    v = transformer_block(&b, v, act);
    v = transformer_block(&b, v, act);
    v = add(&b, plain_op(OP_SELECT, layernorm(&b, v, false)), 0);
    return finish(&b, add(&b, linear_op(&b, v, 7, ACT_NONE), 7));
}

/* ------------------------------------------------------------------------------- language models, CLIP */

static graph *language(net_components components, uint32_t vocabulary, uint64_t seed) {
    const uint32_t tokens = 21, width = 32;
    builder b = begin_with((shape){1, tokens, 1}, vocabulary, components, seed);
    op lookup = plain_op(OP_LOOKUP, 0), next = plain_op(OP_NEXT, -1);
    lookup.vocabulary = next.vocabulary = vocabulary;
    lookup.weight = next.weight = random_array(&b, vocabulary * width, 0, 0.5f); /* tied */
    lookup.shift = random_array(&b, tokens * width, 0, 0.5f);
    int v = add(&b, lookup, width);
    v = transformer_block(&b, v, ACT_GELU_TANH);
    v = transformer_block(&b, v, ACT_GELU_TANH);
    next.input[0] = layernorm(&b, v, false);
    next.input[1] = 0;
    return finish(&b, add(&b, next, 0));
}

graph *net_language(net_components components, uint64_t seed) {
    return language(components, 67, seed);
}

graph *net_clip(net_components components, uint64_t seed) {
    const uint32_t width = 20, classes = 7;
    builder b = begin((shape){11, 9, 3}, components, seed);
    int v = block_conv(&b, conv_op(&b, 0, 9, 3, 2, ACT_RELU), 9, false, -1);
    v = block_conv(&b, conv_op(&b, v, width, 3, 2, ACT_RELU), width, true, -1);
    op mean = plain_op(OP_MEAN_TOKEN, v);
    mean.weight = random_array(&b, (3 * 3 + 1) * width, 0, 0.5f);
    v = add(&b, mean, 0);
    int q = block_linear(&b, v, width, ACT_NONE, false, -1);
    int k = block_linear(&b, v, width, ACT_NONE, false, -1);
    int mixed = attention(&b, q, k, block_linear(&b, v, width, ACT_NONE, false, -1), 4);
    v = add(&b, linear_op(&b, mixed, 11, ACT_NONE), 11);
    v = add(&b, plain_op(OP_NORMALISE, add(&b, plain_op(OP_SELECT, v), 0)), 0);
    op head = linear_op(&b, v, classes, ACT_NONE);
    head.scale = random_array(&b, classes, 8, 0); /* exp(logit_scale) */
    head.shift = NULL;
    return finish(&b, add(&b, head, classes));
}

/* A linear layer without bias. */
static int project(builder *b, int input, uint32_t channels) {
    op o = linear_op(b, input, channels, ACT_NONE);
    o.shift = NULL;
    return add(b, o, channels);
}

/* Logits of classes that an embedding is compared with. */
static int compare(builder *b, int embedding, uint32_t classes) {
    return project(b, add(b, plain_op(OP_NORMALISE, embedding), 0), classes);
}

graph *net_clip_transformer(net_components components, uint64_t seed) {
    builder b = begin((shape){12, 8, 3}, components, seed);
    int v = layernorm(&b, embed_patches(&b), false);
    v = transformer_block(&b, v, ACT_QUICKGELU);
    v = transformer_block(&b, v, ACT_QUICKGELU);
    v = layernorm(&b, add(&b, plain_op(OP_SELECT, v), 0), false);
    return finish(&b, compare(&b, project(&b, v, 13), 7));
}

/* -------------------------------------------------------------------------------------- any graph */

/* Half of the ops that may have a mask get one: channel by channel, in pairs, or all as one. */
static mask_site random_site(builder *b, mask_place place, uint32_t channels) {
    const uint32_t widths[] = {1, channels % 2 ? 1 : 2, channels};
    if (net_below(&b->state, 2)) return (mask_site){.place = PLACE_NONE};
    return site(b, place, channels, widths[net_below(&b->state, 3)]);
}

/* A convolution of `input` at full size that adds some value of its shape, when there is one. */
static int random_conv(builder *b, int input) {
    static const activation acts[] = {ACT_NONE, ACT_RELU, ACT_RELU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU};
    const shape in = b->g->values[input];
    const int other = (int)net_below(&b->state, (uint32_t)b->g->value_count);
    const shape add_to = b->g->values[other];
    const bool adds = other > 0 && add_to.h == in.h && add_to.w == in.w;
    const uint32_t channels = adds ? add_to.c : 2 + 2 * net_below(&b->state, 6);
    const uint32_t kernel = 1 + 2 * net_below(&b->state, 3), stride = adds ? 1 : 1 + net_below(&b->state, 2);
    op o = conv_op(b, input, channels, kernel, stride, acts[net_below(&b->state, 6)]);
    if (net_below(&b->state, 2)) o.scale = NULL;
    if (!net_below(&b->state, 4)) o.shift = NULL;
    if (adds) o.residual = other;
    o.mask = random_site(b, (mask_place)(PLACE_PRE + net_below(&b->state, 3)), channels);
    return add(b, o, channels);
}

static int random_op(builder *b, int input) {
    const shape in = b->g->values[input];
    op o = plain_op(OP_MAXPOOL, input);
    switch (net_below(&b->state, 10)) {
    case 0:
        o.kernel_h = o.kernel_w = 3;
        o.stride = 1 + net_below(&b->state, 2);
        o.pad = 1;
        return add(b, o, 0);
    case 1:
        o.kind = OP_AVGPOOL;
        o.kernel_h = in.h < 2 ? 1 : 2;
        o.kernel_w = in.w < 3 ? 1 : 3;
        return add(b, o, 0);
    case 2:
        o.kind = OP_SUBSAMPLE;
        o.stride = 1 + net_below(&b->state, 2);
        o.pad = 1;
        return add(b, o, in.c + 3 + net_below(&b->state, 2));
    case 3:
        return layernorm(b, input, net_below(&b->state, 2));
    case 4:
        o.kind = OP_ATTENTION;
        o.input[1] = o.input[2] = input;
        o.heads = in.c % 2 ? 1 : 2;
        o.mask = random_site(b, PLACE_OUT, in.c);
        return add(b, o, 0);
    default:
        return random_conv(b, input);
    }
}

graph *net_random(uint64_t seed) {
    builder b = begin((shape){5, 6, 2}, NET_FILTERS, seed);
    const uint32_t count = 3 + net_below(&b.state, 14);
    int value = 0;
    for (uint32_t i = 0; i < count; i++) {
        /* Mostly a chain, so that something deep reaches the logits; sometimes an older value is read again. */
        const bool older = !net_below(&b.state, 4);
        value = random_op(&b, older ? (int)net_below(&b.state, (uint32_t)b.g->value_count) : value);
    }
    return finish(&b, pool_and_classify(&b, value, 5));
}

/* ------------------------------------------------------------------------------------------- rows */

const char *const net_component_names[] = {
    [NET_FILTERS] = "filters", [NET_BLOCKS] = "blocks", [NET_INPUTS] = "inputs", [NET_HEADS] = "heads"};
const char *const net_family_names[NET_FAMILIES] = {"basic blocks", "bottlenecks", "transformer, erf",
                                                    "transformer, tanh", "transformer, quick"};

graph *net_family(size_t i, net_components components) {
    static const activation acts[] = {ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU};
    if (i == 0) return net_basic(components, 11);
    return i == 1 ? net_bottleneck(components, 12) : net_transformer(components, acts[i - 2], 13 + i);
}

named_net net_number(size_t k) {
    static const activation acts[] = {ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICKGELU, ACT_RELU};
    named_net net;
    if (k < NETS_TRANSFORMERS) {
        snprintf(net.name, sizeof net.name, "%s, %s", k % 2 ? "bottlenecks" : "basic blocks",
                 net_component_names[k / 2]);
        net.g = k % 2 ? net_bottleneck((net_components)(k / 2), 22) : net_basic((net_components)(k / 2), 21);
    } else if (k < NETS_LANGUAGE) {
        snprintf(net.name, sizeof net.name, "transformer, %s", net_component_names[k - NETS_TRANSFORMERS]);
        net.g = net_transformer((net_components)(k - NETS_TRANSFORMERS), acts[k - NETS_TRANSFORMERS], 23);
    } else if (k < NETS_LANGUAGE + 2) {
        const net_components set = k == NETS_LANGUAGE ? NET_INPUTS : NET_HEADS;
        snprintf(net.name, sizeof net.name, "language model, %s", net_component_names[set]);
        net.g = language(set, set == NET_HEADS ? 401 : 67, 24);
    } else if (k < NETS_LANGUAGE + 4) {
        const net_components set = k == NETS_LANGUAGE + 2 ? NET_FILTERS : NET_HEADS;
        snprintf(net.name, sizeof net.name, "CLIP's attention pooling, %s", net_component_names[set]);
        net.g = net_clip(set, 24);
    } else if (k < NETS_NAMED) {
        snprintf(net.name, sizeof net.name, "CLIP's transformer, blocks");
        net.g = net_clip_transformer(NET_BLOCKS, 25);
    } else {
        snprintf(net.name, sizeof net.name, "random ops %zu", k - NETS_NAMED);
        net.g = net_random(k - NETS_NAMED);
    }
    return net;
}

/* --------------------------------------------------------------------------------------- examples */

/* Random texts, and lengths of all kinds. */
static example_batch token_batch(const graph *g, uint32_t count, uint64_t seed) {
    const uint32_t tokens = g->values[0].w;
    int32_t *inputs, *lengths;
    require(memory_new(count * (size_t)tokens, sizeof *inputs, "test tokens", &inputs));
    require(memory_new(count, sizeof *lengths, "test lengths", &lengths));
    for (size_t i = 0; i < count * (size_t)tokens; i++) inputs[i] = (int32_t)net_below(&seed, g->vocabulary);
    for (uint32_t e = 0; e < count; e++) lengths[e] = (int32_t)(e ? 2 + net_below(&seed, tokens - 1) : tokens);
    return (example_batch){.inputs = inputs, .labels = lengths, .count = count};
}

example_batch net_batch(const graph *g, uint32_t count, uint64_t seed) {
    if (g->vocabulary) return token_batch(g, count, seed);
    const size_t elements = shape_positions(g->values[0]) * g->values[0].c;
    uint8_t *images;
    int32_t *labels;
    float *mean, *deviation;
    require(memory_new(count, elements, "test images", &images));
    require(memory_new(count, sizeof *labels, "test labels", &labels));
    require(memory_new(g->values[0].c, sizeof *mean, "test mean", &mean));
    require(memory_new(g->values[0].c, sizeof *deviation, "test std", &deviation));
    for (size_t i = 0; i < count * elements; i++) images[i] = (uint8_t)net_draw(&seed);
    for (uint32_t e = 0; e < count; e++) labels[e] = (int32_t)net_below(&seed, g->values[g->logits].c);
    for (uint32_t c = 0; c < g->values[0].c; c++) {
        mean[c] = 0.45f + 0.05f * (float)c;
        deviation[c] = 0.2f + 0.03f * (float)c;
    }
    return (example_batch){.inputs = images, .labels = labels, .count = count, .mean = mean, .std = deviation};
}

void net_batch_free(example_batch *batch) {
    free((void *)batch->inputs);
    free((void *)batch->labels);
    free((void *)batch->mean);
    free((void *)batch->std);
    *batch = (example_batch){0};
}
