/*
 * batches.c - what the CUDA path's outputs must not depend on, to the bit: memory (and with it the size of batches),
 * the masks and examples beside them, the order in which streams get on, replays of graphs. And what becomes of
 * outputs that are not finite.
 */
#include "engines.h"
#include "nets.h"
#include "stand_ins/stand_ins.h"
#include "test.h"

enum { MASKS = 6, EXAMPLES = 5, PAIRS = MASKS * EXAMPLES };

static sampler bernoulli(const graph *g) {
    return (sampler){.kind = SAMPLER_BERNOULLI, .seed = 3, .alpha = .15, .n = g->components};
}

static float *outputs_of(const graph *g, engine_options o, const example_batch *batch, const mask_range *range) {
    engine e;
    engine_open(&e, g, o);
    float *outputs = engine_run(&e, batch, range);
    engine_close(&e);
    return outputs;
}

static void batch_sizes(const char *precision, graph *g) {
    test_begin("%s, %s: outputs are the same bits whatever memory allows, and logits and row sums too",
               op_kind_name(g->ops[0].kind), precision);
    const size_t logits_bytes = EXAMPLES * graph_logits(g, 1).count * sizeof(float);
    example_batch batch = net_batch(g, EXAMPLES, 6);
    const sampler s = bernoulli(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    engine_options o = {
        .backend = "cuda", .precision = precision, .examples = EXAMPLES, .masks = MASKS, .outputs = "margin,loss"};
    float *expected = outputs_of(g, o, &batch, &range), *logits[2] = {malloc(logits_bytes), malloc(logits_bytes)};
    double *sums[2] = {calloc(g->rows, sizeof(double)), calloc(g->rows, sizeof(double))};
    const double shares[] = {1, 0, .1, .35};
    for (size_t i = 0; i < (REDUCED ? 2 : sizeof shares / sizeof *shares); i++) {
        engine e;
        o.memory = engine_memory(g, o, shares[i]);
        engine_open(&e, g, o);
        float *actual = engine_run(&e, &batch, &range);
        engine_same_bits(actual, expected, 2 * PAIRS);
        free(actual);
        if (!e.b) break;
        CHECK_OK(e.interface->logits(e.b, logits[i > 0]));
        memset(sums[i > 0], 0, g->rows * sizeof(double));
        CHECK_OK(e.interface->collect_row_sums(e.b, sums[i > 0]));
        CHECK(!memcmp(logits[i > 0], logits[0], logits_bytes));
        CHECK(!memcmp(sums[i > 0], sums[0], g->rows * sizeof(double)));
        engine_close(&e);
    }
    free(sums[0]), free(sums[1]);
    free(logits[0]), free(logits[1]);
    free(expected);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* Masks two by two, examples from the third on: each must find its own place in the large run. */
static void neighbours(void) {
    test_begin("masks and examples beside a pair do not change its output");
    graph *g = net_transformer(NET_HEADS, ACT_GELU_ERF, 7);
    example_batch batch = net_batch(g, EXAMPLES, 8), rest = batch;
    const size_t elements = shape_positions(g->values[0]) * g->values[0].c;
    const sampler s = bernoulli(g);
    mask_range range = {.count = MASKS, .n = g->components, .sampler = &s, .first = 100};
    const engine_options o = {
        .backend = "cuda", .precision = "bf16", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin"};
    float *all = outputs_of(g, o, &batch, &range);
    rest.inputs = (const uint8_t *)rest.inputs + 3 * elements;
    rest.labels += 3;
    rest.count = 2;
    range.count = 2;
    for (uint64_t first = 0; first < (REDUCED ? 2 : MASKS); first += 2) {
        range.first = 100 + first;
        float *some = outputs_of(g, o, &rest, &range);
        for (size_t m = 0; m < 2; m++) engine_same_bits(some + 2 * m, all + (first + m) * EXAMPLES + 3, 2);
        free(some);
    }
    free(all);
    net_batch_free(&batch);
    graph_destroy(g);
}

static void replays(void) {
    test_begin("one graph per lane and shape, replayed over run calls; another shape gets another");
    graph *g = net_basic(NET_FILTERS, 5);
    example_batch batch = net_batch(g, EXAMPLES, 6), two = batch;
    const sampler s = bernoulli(g);
    mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    engine_options o = {
        .backend = "cuda", .precision = "bf16", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin"};
    float *expected = outputs_of(g, o, &batch, &range);
    engine e;
    o.memory = engine_memory(g, o, .2); /* several batches in one run */
    engine_open(&e, g, o);
    const size_t before = stand_in_count("cudaGraphInstantiate");
    for (int i = 0; i < 3; i++) {
        float *actual = engine_run(&e, &batch, &range);
        engine_same_bits(actual, expected, PAIRS);
        free(actual);
    }
    CHECK_INT(stand_in_count("cudaGraphInstantiate") - before, 2);
    CHECK(stand_in_count("cudaGraphLaunch") >= 6);
    two.count = 2;
    float *fewer = engine_run(&e, &two, &range);
    for (size_t m = 0; m < MASKS; m++) engine_same_bits(fewer + 2 * m, expected + m * EXAMPLES, 2);
    free(fewer);
    float *again = engine_run(&e, &batch, &range);
    engine_same_bits(again, expected, PAIRS);
    free(again);
    engine_close(&e);
    free(expected);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* Whatever the streams do first, a missing wait would show in one of these. */
static void orders(void) {
    static const char *const names[] = {"lazy", "random:1", "others", "eager", "random:2"};
    float *expected = NULL;
    for (size_t i = 0; i < (REDUCED ? 2 : sizeof names / sizeof *names); i++) {
        test_begin("streams in order %s", names[i]);
        setenv("COAR_STANDIN_ORDER", names[i], 1);
        stand_in_reset();
        graph *g = net_basic(NET_BLOCKS, 5);
        example_batch batch = net_batch(g, EXAMPLES, 6);
        sampler s = bernoulli(g);
        s.kind = SAMPLER_FIXED; /* masks go up as bits */
        const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
        engine_options o = {.backend = "cuda", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin"};
        o.memory = engine_memory(g, o, .1);
        float *actual = outputs_of(g, o, &batch, &range);
        if (expected)
            engine_same_bits(actual, expected, PAIRS);
        else
            expected = actual;
        if (actual != expected) free(actual);
        net_batch_free(&batch);
        graph_destroy(g);
    }
    free(expected);
    unsetenv("COAR_STANDIN_ORDER");
    stand_in_reset();
}

/* ------------------------------------------------------------------------------------- not finite */

/* Multiplies what the first convolution puts out: beyond fp16's range at 1e6, beyond fp32's at 1e38. */
static graph *loud_net(float gain) {
    graph *g = net_basic(NET_FILTERS, 5);
    for (uint32_t c = 0; c < 7; c++) ((float *)g->ops[0].scale)[c] *= gain;
    for (uint32_t c = 0; c < 7; c++) ((float *)g->ops[0].shift)[c] *= gain;
    return g;
}

/* fp16 against fp32, where some of fp16's outputs are not finite at first. */
static void compare_overflow(const graph *g) {
    example_batch batch = net_batch(g, EXAMPLES, 6);
    const sampler s = bernoulli(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    engine_options o = {.backend = "cuda", .precision = "fp16", .examples = EXAMPLES, .masks = MASKS};
    engine half, full;
    double executed = 0, dense = 0;
    engine_open(&half, g, o);
    float *actual = engine_run(&half, &batch, &range);
    o.precision = "fp32";
    engine_open(&full, g, o);
    float *expected = engine_run(&full, &batch, &range);
    for (size_t k = 0; k < full.output_count; k++)
        CHECK_NEAR(largest_difference(actual + k * PAIRS, expected + k * PAIRS, PAIRS), 0, 1e-4);
    if (half.b) half.interface->work(half.b, &executed, &dense);
    CHECK(executed > dense);
    engine_close(&half);
    engine_close(&full);
    free(actual), free(expected);
    net_batch_free(&batch);
}

static void overflow(void) {
    test_begin("outputs beyond fp16's range are computed once more in fp32");
    graph *g = loud_net(1e5f);
    compare_overflow(g);
    graph_destroy(g);

    test_begin("of a language model too: its tokens are at hand");
    g = net_language(NET_HEADS, 5);
    for (size_t i = 0; i < graph_weight_count(g, &g->ops[0]); i++) ((float *)g->ops[0].weight)[i] *= i % 9 ? 1 : 2e5f;
    compare_overflow(g);
    graph_destroy(g);

    test_begin("what is not finite in fp32 either stays so");
    g = loud_net(1e38f);
    example_batch batch = net_batch(g, EXAMPLES, 6);
    const sampler s = bernoulli(g);
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s};
    const engine_options o = {
        .backend = "cuda", .precision = "bf16", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin"};
    float *lost = outputs_of(g, o, &batch, &range);
    size_t finite = 0;
    for (size_t i = 0; i < PAIRS; i++) finite += isfinite(lost[i]) != 0;
    CHECK_INT(finite, 0);
    free(lost);
    net_batch_free(&batch);
    graph_destroy(g);
}

int main(void) {
    batch_sizes("bf16", net_basic(NET_FILTERS, 5));
    batch_sizes("fp16", net_language(NET_HEADS, 5));
    if (!REDUCED) {
        batch_sizes("fp32", net_basic(NET_FILTERS, 5));
        batch_sizes("tf32", net_basic(NET_FILTERS, 5));
    }
    neighbours();
    replays();
    orders();
    overflow();
    test_begin("nothing is left");
    CHECK_INT(stand_in_leaks(), 0);
    CHECK_INT(stand_in_refusals(), 0);
    return test_end();
}
