/*
 * library_net.h - a small network with every kind of convolution that libraries compute, for tests of plans that name
 * their forms.
 */
#ifndef COAR_TESTS_CUDA_LIBRARY_NET_H
#define COAR_TESTS_CUDA_LIBRARY_NET_H

#include "graph/graph.h"
#include "nets.h"
#include "test.h"

enum { MASKS = 3, EXAMPLES = 4, PAIRS = 5 }; /* 12 pairs are no multiple of 5 */

static inline const float *random_values(graph *g, size_t count, float scale, uint64_t *state) {
    float *values;
    CHECK_OK(memory_new(count, sizeof *values, "test weights", &values));
    for (size_t i = 0; i < count; i++) values[i] = scale * net_uniform(state);
    CHECK_OK(graph_own(g, values));
    return values;
}

static inline int conv(graph *g, int input, int residual, uint32_t channels, uint32_t kernel, uint32_t stride,
                       uint32_t first, uint64_t *state) {
    const uint32_t in = g->values[input].c, products = in * kernel * kernel;
    op o = {.kind = OP_CONV,
            .input = {input, -1, -1},
            .residual = residual,
            .kernel_h = kernel,
            .kernel_w = kernel,
            .stride = stride,
            .pad = kernel / 2,
            .act = ACT_RELU};
    int value;
    snprintf(o.name, sizeof o.name, "conv%zu", g->op_count);
    o.weight = random_values(g, (size_t)channels * products, 2 / sqrtf((float)products), state);
    o.scale = random_values(g, channels, 1.5f, state);
    o.shift = random_values(g, channels, .5f, state);
    o.mask = (mask_site){.place = PLACE_PRE, .first = first, .count = channels, .width = 1};
    CHECK_OK(graph_add(g, &o, channels, &value));
    return value;
}

/* 3x3 stem to 8, 3x3 of stride 2 to 16, 3x3 with a residual, 1x1, pool, linear to 7. Components: all filters. */
static inline graph *network(void) {
    graph *g;
    uint64_t state = 3;
    int value;
    CHECK_OK(graph_create((shape){6, 6, 3}, 0, &g));
    value = conv(g, 0, -1, 8, 3, 1, 0, &state);
    const int small = conv(g, value, -1, 16, 3, 2, 8, &state);
    value = conv(g, small, -1, 16, 3, 1, 24, &state);
    value = conv(g, value, small, 16, 1, 1, 40, &state);
    op pool = {.kind = OP_AVGPOOL,
               .name = "pool",
               .input = {value, -1, -1},
               .residual = -1,
               .kernel_h = 3,
               .kernel_w = 3,
               .stride = 3};
    CHECK_OK(graph_add(g, &pool, 0, &value));
    op head = {.kind = OP_CONV,
               .name = "head",
               .input = {value, -1, -1},
               .residual = -1,
               .kernel_h = 1,
               .kernel_w = 1,
               .stride = 1};
    head.weight = random_values(g, 7 * 16, .5f, &state);
    CHECK_OK(graph_add(g, &head, 7, &value));
    CHECK_OK(graph_finish(g, value, 56));
    return g;
}

/* As it does between a run and its continuation. */
static inline void plan_through_json(const graph *g, numerics_plan *plan) {
    char *json = plan_to_json(plan);
    plan_free(plan);
    CHECK_OK(plan_from_json(g, json, "test", plan));
    CHECK_OK(plan_check_executable(plan, 0));
    coar_free(json);
}

#endif
