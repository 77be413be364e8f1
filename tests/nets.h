/*
 * nets.h - small networks with random weights, and examples for them, for the tests of the graph and of every backend.
 *
 * Sizes are odd on purpose: channels that fill no vector, images that are not square, stride 2 on odd sides.
 * A failure to build one ends the program: it is a defect of the test.
 */
#ifndef COAR_TEST_NETS_H
#define COAR_TEST_NETS_H

#include "backend/backend.h"

/* Where the components are. */
typedef enum net_components {
    NET_FILTERS, /* PRE, width 1: rows of the convolutions inside blocks; in the transformer q, k, v, out, mlp */
    NET_BLOCKS,  /* POST, one component for all channels of a branch */
    NET_INPUTS,  /* OUT: convolutions after their activation, layer norms, attention channels (GPT-2's input rows) */
    NET_HEADS,   /* OUT, width = channels of a head; transformer only */
} net_components;

/* 3x3 stem, basic blocks with an identity shortcut and with option A at stride 2, global pool, linear. 11 x 9 x 3, 7
 * classes. */
graph *net_basic(net_components components, uint64_t seed);

/* 7x7 stem of stride 2, max-pool, bottlenecks with a convolution shortcut and stride 2, pool, linear. 23 x 18 x 3. */
graph *net_bottleneck(net_components components, uint64_t seed);

/* Patches of 4 on 12 x 8 x 3, class token, two blocks of width 20 with 4 heads, layer norm, head. `act`: the MLP's. */
graph *net_transformer(net_components components, activation act, uint64_t seed);

/* Token and position tables of 67 words and 21 tokens, two causal blocks of width 32 with 4 heads, layer norm, a tied head. */
graph *net_language(net_components components, uint64_t seed);

/* Two convolutions, CLIP's attention pooling of width 20 with 4 heads, unit vectors, 7 classes. 11 x 9 x 3. */
graph *net_clip(net_components components, uint64_t seed);

/* CLIP's other encoder: the transformer above with a layer norm before its blocks, a projection and unit vectors. */
graph *net_clip_transformer(net_components components, uint64_t seed);

/* What kinds of networks there are, all of odd sizes, and of components in them; transformers differ in their activations. */
enum { NET_FAMILIES = 5 };
extern const char *const net_family_names[NET_FAMILIES], *const net_component_names[];
graph *net_family(size_t i, net_components components);

/* Any ops in any order with random residuals, shared and unread values, and masks at any place. */
graph *net_random(uint64_t seed);

/* All of the above in one row: number k of the NETS_NAMED that have a name each, then random ones without end. */
enum {
    NETS_TRANSFORMERS = 6, /* before them six residual networks */
    NETS_LANGUAGE = 10,    /* two, one with a vocabulary of 401, which the CPU backend cuts */
    NETS_NAMED = 15,       /* and three CLIPs */
};
typedef struct named_net {
    char name[48];
    graph *g; /* the caller's */
} named_net;
named_net net_number(size_t k);

/* Random pixels and labels, or texts and lengths, for a graph. Free the batch with net_batch_free. */
example_batch net_batch(const graph *g, uint32_t count, uint64_t seed);
void net_batch_free(example_batch *batch);

/* Uniform in 0 .. 2^64 - 1, in 0 .. bound - 1, in [-1, 1). */
uint64_t net_draw(uint64_t *state);
uint32_t net_below(uint64_t *state, uint32_t bound);
float net_uniform(uint64_t *state);

#endif
