/*
 * reverse.c - the reverse pass of the whole CUDA path: every architecture family and random graphs, in every precision,
 * against the reference backend with the same rounding; and what gradients must not depend on, to the bit: memory (and
 * with it the size of batches), the masks beside them, the order in which streams get on. And what becomes of gradients
 * that are not finite.
 */
#include "engines.h"
#include "nets.h"
#include "stand_ins/stand_ins.h"
#include "test.h"

#include <driver_types.h>

enum { MASKS = REDUCED ? 2 : 3, EXAMPLES = REDUCED ? 3 : 4, PAIRS = MASKS * EXAMPLES };

static const char *const precisions[] = {"fp32", "tf32", "bf16", "fp16"};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

static const reverse_kind kinds[] = {REVERSE_MASK, REVERSE_INFLUENCE, REVERSE_CONDUCTANCE};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Keeps [MASKS][n] of the levels that gradients are averaged over, and one beside them. */
static float *draw_keeps(uint32_t n, uint64_t seed) {
    static const float levels[] = {1, 1, 0.5f, 0, 1.25f};
    float *keeps = calloc(MASKS * n + 1, sizeof *keeps);
    for (size_t i = 0; i < MASKS * n; i++) keeps[i] = levels[net_below(&seed, 5)];
    return keeps;
}

/* A path of images: each example is a multiple of its own picture. */
static const float path[] = {1, 0.5f, 1.25f, 0.75f};

static size_t compared, zeros; /* arrays, and those of them that were nothing but zeros: a test of these shows little */

/* What differences are measured by where all is about zero: the influence of a transformer's branch is (a layer norm's
 * gradient adds up to zero over the channels). Others are about 1. */
static const double LEAST = 0.2;

/* Sums of many products cancel, so an error is a fraction of the largest, or in lower precisions rms of rms. */
static void compare(const char *precision, const float *actual, const float *expected, size_t count) {
    const bool exact = !strcmp(precision, "fp32");
    double largest = 0, worst = 0, squares = 0, errors = 0;
    for (size_t i = 0; i < count; i++) {
        const double difference = fabs((double)actual[i] - expected[i]);
        if (!(difference <= worst) && !isnan(worst)) worst = difference; /* a NaN stays */
        largest = fmax(largest, fabs(expected[i]));
        squares += (double)expected[i] * expected[i];
        errors += difference * difference;
    }
    compared++;
    zeros += largest == 0;
    if (largest == 0)
        CHECK_NEAR(worst, 0, 0);
    else if (exact)
        CHECK_NEAR(worst / fmax(largest, LEAST), 0, 1e-4);
    else
        CHECK_NEAR(sqrt(errors / (double)count) / fmax(sqrt(squares / (double)count), LEAST), 0, .03);
}

/* One network in one precision: the three sums, each of another output; the output itself; one example alone. */
static void compare_network(const graph *g, const char *precision, ablation a, uint64_t seed) {
    engine cuda, reference;
    float *keeps = draw_keeps(g->components, seed), outputs[2][PAIRS];
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES, seed), one = batch;
    batch.scale = path;
    one.count = 1;
    engine_options o = {.precision = precision,
                        .ablation = a,
                        .examples = EXAMPLES,
                        .masks = MASKS,
                        .reverse = true,
                        .paths = true,
                        .backend = "cuda"};
    engine_open(&cuda, g, o);
    o.backend = "reference";
    engine_open(&reference, g, o);
    /* Which other token is the likeliest hangs on roundings at some of so many positions, and the margin's slope on that. */
    const size_t smooth = g->vocabulary && strcmp(precision, "fp32") ? 1 : 0;
    for (size_t k = 0; k < KINDS; k++) {
        const size_t output = smooth + (seed + k) % (cuda.output_count - smooth);
        float *actual = engine_reverse(&cuda, &batch, kinds[k], output, &masks, outputs[0]);
        float *expected = engine_reverse(&reference, &batch, kinds[k], output, &masks, outputs[1]);
        compare(precision, actual, expected, (size_t)PAIRS * g->components);
        compare(precision, outputs[0], outputs[1], PAIRS);
        free(actual);
        free(expected);
    }
    float *actual = engine_reverse(&cuda, &one, REVERSE_MASK, smooth, &masks, NULL);
    float *expected = engine_reverse(&reference, &one, REVERSE_MASK, smooth, &masks, NULL);
    compare(precision, actual, expected, (size_t)MASKS * g->components);
    free(actual);
    free(expected);
    engine_close(&cuda);
    engine_close(&reference);
    free(keeps);
    net_batch_free(&batch);
}

/* Every family with every set of components, in fp32 and in one other precision that takes turns. */
static void families(void) {
    size_t turn = 0;
    for (size_t f = 0; f < NET_FAMILIES; f++)
        for (net_components set = NET_FILTERS; set <= (f < 2 ? NET_INPUTS : NET_HEADS); set++, turn++)
            for (size_t p = 0; p < PRECISIONS; p++) {
                if (f > 2 && set != NET_FILTERS) continue; /* activations differ, masks do not */
                if (p && p != 1 + turn % (PRECISIONS - 1)) continue;
                if (REDUCED && (f > 2 || turn % 2 || p == 0)) continue; /* every other, each in another precision */
                test_begin("%s, %s, %s", net_family_names[f], net_component_names[set], precisions[p]);
                graph *g = net_family(f, set);
                compare_network(g, precisions[p], (ablation){.kind = ABLATION_ZERO}, 20 + turn);
                graph_destroy(g);
            }
    test_begin("the families have gradients");
    CHECK(compared > 0);
    CHECK_INT(zeros, 0);
}

/* Language models and CLIP's pooling: every set of components, each in another precision, and in fp32. */
static void texts_and_clip(void) {
    compared = zeros = 0;
    for (int clip = 0; clip < 2; clip++)
        for (net_components set = NET_FILTERS; set <= NET_HEADS; set++)
            for (size_t p = 0; p < PRECISIONS; p++) {
                if (p && p != 1 + (set + (size_t)clip) % (PRECISIONS - 1)) continue;
                if (REDUCED && (set % 2 || p == 0)) continue;
                test_begin("%s, %s, %s", clip ? "CLIP" : "language model", net_component_names[set], precisions[p]);
                graph *g = clip ? net_clip(set, 61) : net_language(set, 62);
                compare_network(g, precisions[p], (ablation){.kind = ABLATION_ZERO}, 80 + set);
                graph_destroy(g);
            }
    test_begin("language models and CLIP have gradients");
    CHECK(compared > 0);
    CHECK_INT(zeros, 0);
}

/* Fills are what x changes to, so the derivative is that of the difference. */
static void fills(void) {
    for (net_components set = NET_FILTERS; set <= (REDUCED ? NET_FILTERS : NET_INPUTS); set++) {
        test_begin("mean ablation: %s", net_component_names[set]);
        graph *g = net_family(set == NET_BLOCKS ? 1 : 2, set);
        uint64_t seed = 40 + set;
        float *fill = calloc(g->rows, sizeof *fill);
        for (size_t r = 0; r < g->rows; r++) fill[r] = net_uniform(&seed);
        compare_network(g, "fp32", (ablation){.kind = ABLATION_MEAN, .fill = fill}, 50);
        free(fill);
        graph_destroy(g);
    }
}

/* Ops in any order: values that several ops read, masks at any place, or nowhere; components that no gradient
 * reaches. */
static void random_graphs(void) {
    compared = zeros = 0;
    for (uint64_t seed = 1; seed <= (REDUCED ? 1 : 10); seed++) {
        test_begin("random graph %d, %s", (int)seed, precisions[seed % PRECISIONS]);
        graph *g = net_random(seed);
        compare_network(g, precisions[seed % PRECISIONS], (ablation){.kind = ABLATION_ZERO}, seed);
        graph_destroy(g);
    }
    test_begin("most random graphs have gradients");
    CHECK(zeros < compared / 2);
}

static int add_conv(graph *g, int input, uint32_t channels, uint32_t kernel, int residual, mask_site site) {
    static uint64_t seed = 77;
    const size_t count = (size_t)channels * kernel * kernel * g->values[input].c;
    float *weight = NULL;
    int value = -1;
    CHECK_OK(memory_new(count, sizeof *weight, "test weights", &weight));
    for (size_t i = 0; i < count; i++) weight[i] = 0.4f * net_uniform(&seed);
    CHECK_OK(graph_own(g, weight));
    const op o = {.kind = OP_CONV,
                  .name = "conv",
                  .input = {input, -1, -1},
                  .residual = residual,
                  .kernel_h = kernel,
                  .kernel_w = kernel,
                  .stride = 1,
                  .pad = kernel / 2,
                  .weight = weight,
                  .mask = site};
    CHECK_OK(graph_add(g, &o, channels, &value));
    return value;
}

/* x + W x, with nothing behind it: its gradient is that of x too, and W' reads it while it is added to. Then a
 * classifier whose logits are `last`. */
static graph *sum_with_itself(activation last) {
    graph *g = NULL;
    int v = 0;
    op pool = {.kind = OP_AVGPOOL, .name = "pool", .input = {-1, -1, -1}, .residual = -1};
    pool.kernel_h = 9, pool.kernel_w = 8, pool.stride = 1;
    CHECK_OK(graph_create((shape){9, 8, 3}, 0, &g));
    v = add_conv(g, v, 6, 1, -1, (mask_site){.place = PLACE_PRE, .count = 6, .width = 1});
    v = add_conv(g, v, 6, 3, v, (mask_site){0});
    pool.input[0] = v;
    CHECK_OK(graph_add(g, &pool, 0, &v));
    v = add_conv(g, v, 5, 1, -1, (mask_site){0});
    g->ops[v - 1].act = last;
    CHECK_OK(graph_finish(g, v, 6));
    return g;
}

/* Tokens and positions, a layer norm whose channels are components, a head of its own. */
static graph *small_language(uint32_t tokens, uint32_t words) {
    enum { WIDTH = 5 };
    graph *g = NULL;
    float *arrays[3] = {NULL};
    const size_t counts[] = {words * WIDTH, tokens * WIDTH, words * WIDTH};
    uint64_t seed = 91;
    int v = 0;
    CHECK_OK(graph_create((shape){1, tokens, 1}, words, &g));
    for (int k = 0; k < 3; k++) {
        CHECK_OK(memory_new(counts[k], sizeof *arrays[k], "test weights", &arrays[k]));
        for (size_t i = 0; i < counts[k]; i++) arrays[k][i] = net_uniform(&seed);
        CHECK_OK(graph_own(g, arrays[k]));
    }
    const op lookup = {
        .kind = OP_LOOKUP, .name = "lookup", .vocabulary = words, .weight = arrays[0], .shift = arrays[1]};
    CHECK_OK(graph_add(g, &lookup, WIDTH, &v));
    const op norm = {.kind = OP_LAYERNORM,
                     .name = "norm",
                     .input = {v},
                     .eps = 1e-5f,
                     .mask = {.place = PLACE_OUT, .count = WIDTH, .width = 1}};
    CHECK_OK(graph_add(g, &norm, 0, &v));
    const op next = {.kind = OP_NEXT, .name = "next", .input = {v, 0}, .vocabulary = words, .weight = arrays[2]};
    CHECK_OK(graph_add(g, &next, 0, &v));
    CHECK_OK(graph_finish(g, v, WIDTH));
    return g;
}

/* Losses and their gradients under one mask against the reference, and of the last example alone to the bit. */
static void compare_losses(const graph *g, uint32_t examples) {
    engine cuda, reference;
    const float keeps[] = {1, 0.5f, 1, 0, 1.25f};
    const mask_range mask = {.count = 1, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, examples, 7), last = batch;
    engine_options o = {
        .backend = "cuda", .precision = "bf16", .examples = examples, .masks = 1, .outputs = "loss", .reverse = true};
    float *outputs = calloc(2 * (size_t)examples, sizeof *outputs), alone;
    engine_open(&cuda, g, o);
    o.backend = "reference";
    engine_open(&reference, g, o);
    float *actual = engine_reverse(&cuda, &batch, REVERSE_MASK, 0, &mask, outputs);
    float *expected = engine_reverse(&reference, &batch, REVERSE_MASK, 0, &mask, outputs + examples);
    compare("bf16", actual, expected, (size_t)examples * g->components);
    compare("bf16", outputs, outputs + examples, examples);
    last.inputs = (const int32_t *)batch.inputs + (examples - 1) * (size_t)g->values[0].w;
    last.labels += examples - 1;
    last.count = 1;
    float *one = engine_reverse(&cuda, &last, REVERSE_MASK, 0, &mask, &alone);
    engine_same_bits(one, actual + (examples - 1) * (size_t)g->components, g->components);
    engine_same_bits(&alone, outputs + examples - 1, 1);
    free(one);
    free(actual);
    free(expected);
    free(outputs);
    engine_close(&cuda);
    engine_close(&reference);
    net_batch_free(&batch);
}

/* More positions than logits are made for at once; and so many tokens that sums over them are cut into parts. */
static void blocks_of_logits(void) {
    static const uint32_t cases[][3] = {/* examples, tokens, words */ {2, 2100, 9}, {3, 17, 9000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("%u texts of %u tokens, %u words", cases[i][0], cases[i][1], cases[i][2]);
        graph *g = small_language(cases[i][1], cases[i][2]);
        compare_losses(g, cases[i][0]);
        graph_destroy(g);
    }
}

static void odd_graphs(void) {
    test_begin("a convolution without epilogue that is added to its input");
    graph *g = sum_with_itself(ACT_NONE);
    compare_network(g, "fp32", (ablation){.kind = ABLATION_ZERO}, 3);
    graph_destroy(g);
    test_begin("logits with ReLU, which are no bf16");
    g = sum_with_itself(ACT_RELU);
    compare_network(g, "bf16", (ablation){.kind = ABLATION_ZERO}, 3);
    graph_destroy(g);
}

/* ------------------------------------------------------------------------------ what bits do not depend on */

/* Memory for about `pairs` in a batch of reverse passes. */
static size_t memory_for(const graph *g, engine_options o, uint32_t pairs) {
    o.paths = false; /* or one pair would not be the least */
    return engine_memory(g, o, (pairs - 1.) / (PAIRS - 1));
}

/* The gradients of one job, and its outputs; `memory` 0 = enough. */
static float *gradients_of(const graph *g, const char *precision, uint32_t pairs, reverse_kind kind,
                           const mask_range *masks, float *outputs) {
    engine e;
    example_batch batch = net_batch(g, EXAMPLES, 6);
    engine_options o = {.backend = "cuda",
                        .precision = precision,
                        .examples = EXAMPLES,
                        .masks = MASKS,
                        .outputs = "margin,loss",
                        .reverse = true,
                        .paths = kind == REVERSE_CONDUCTANCE};
    if (pairs < PAIRS) o.memory = memory_for(g, o, pairs);
    batch.scale = path;
    engine_open(&e, g, o);
    float *gradients = engine_reverse(&e, &batch, kind, 1, masks, outputs);
    engine_close(&e);
    net_batch_free(&batch);
    return gradients;
}

static void batch_sizes(const char *precision, graph *g) {
    const uint32_t sizes[] = {1, 3, 5};
    float *keeps = draw_keeps(g->components, 9), outputs[2][PAIRS];
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    float *expected = gradients_of(g, precision, PAIRS, REVERSE_MASK, &masks, outputs[1]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (REDUCED && i != 1) continue;
        test_begin("%s, %s: the same bits with memory for %u pairs", op_kind_name(g->ops[0].kind), precision, sizes[i]);
        float *actual = gradients_of(g, precision, sizes[i], REVERSE_MASK, &masks, outputs[0]);
        engine_same_bits(actual, expected, (size_t)PAIRS * g->components);
        engine_same_bits(outputs[0], outputs[1], PAIRS);
        free(actual);
    }
    test_begin("%s, %s: conductance with memory for a mask and a half", op_kind_name(g->ops[0].kind), precision);
    float *whole = gradients_of(g, precision, PAIRS, REVERSE_CONDUCTANCE, &masks, NULL);
    float *one_by_one = gradients_of(g, precision, EXAMPLES + 2, REVERSE_CONDUCTANCE, &masks, NULL);
    engine_same_bits(one_by_one, whole, (size_t)PAIRS * g->components);
    free(whole);
    free(one_by_one);
    free(expected);
    free(keeps);
    graph_destroy(g);
}

/* A path's examples are one batch. Where its memory is not allowed, that is said before anything is computed. */
static void too_little_memory(void) {
    graph *g = net_basic(NET_BLOCKS, 5);
    engine e;
    float *keeps = draw_keeps(g->components, 9), *gradients = calloc(PAIRS * g->components, sizeof *gradients);
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES, 6);
    engine_options o = {.backend = "cuda", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin", .reverse = true};
    size_t least = 0, best = 0;
    o.memory = memory_for(g, o, 2);
    test_begin("memory for two pairs: sums, but no paths");
    engine_open(&e, g, o);
    CHECK_OK(e.interface->bind(e.b, &batch));
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_CONDUCTANCE, 0, &masks, gradients, NULL), COAR_ERROR_INTERNAL,
                "not prepared for paths");
    status_clear();
    CHECK_OK(e.interface->run_reverse(e.b, REVERSE_MASK, 0, &masks, gradients, NULL));
    CHECK_ERROR(e.interface->run_reverse(e.b, REVERSE_MASK, 1, &masks, gradients, NULL), COAR_ERROR_INTERNAL,
                "output 1");
    status_clear();
    engine_close(&e);
    test_begin("memory for two pairs: a job of paths is refused at once");
    o.paths = true;
    engine_plan(&e, g, o);
    CHECK_OK(e.interface->memory(&e.settings, &least, &best));
    CHECK(least > o.memory);
    CHECK_ERROR(e.interface->prepare(&e.settings, &e.b), COAR_ERROR_MEMORY, "of device memory for a reverse pass");
    status_clear();
    engine_close(&e);
    free(gradients);
    free(keeps);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* Only the larger batches give memory back when they are halved: forward passes do not get on by it, and paths do. */
static void short_of_memory(void) {
    test_begin("a forward pass that is out of memory leaves room for a path");
    graph *g = net_basic(NET_BLOCKS, 5);
    engine e;
    float *keeps = draw_keeps(g->components, 9), outputs[PAIRS];
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES, 6);
    const engine_options o = {
        .backend = "cuda", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin", .reverse = true, .paths = true};
    engine_open(&e, g, o);
    float *expected = engine_reverse(&e, &batch, REVERSE_CONDUCTANCE, 0, &masks, NULL);
    CHECK_OK(e.interface->run(e.b, &masks, outputs)); /* op by op */
    for (unsigned i = 0; i < 6; i++) stand_in_fail("cudaGraphInstantiate", 0, cudaErrorMemoryAllocation);
    for (size_t i = 0; i < 12; i++) { /* each first try with other batches is op by op again */
        const coar_status status = e.interface->run(e.b, &masks, outputs);
        CHECK(status == COAR_OK || status == COAR_ERROR_MEMORY);
        status_clear();
    }
    float *actual = engine_reverse(&e, &batch, REVERSE_CONDUCTANCE, 0, &masks, NULL);
    engine_same_bits(actual, expected, (size_t)PAIRS * g->components);
    free(actual);
    free(expected);
    engine_close(&e);
    free(keeps);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* Forward and reverse passes share memory: neither may leave traces in the other. Masks in every form. */
static void turns(void) {
    test_begin("forward and reverse passes in turn, replayed; masks as bits and by generator");
    graph *g = net_transformer(NET_HEADS, ACT_GELU_ERF, 7);
    engine e;
    sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 3, .alpha = .3, .n = g->components};
    float keeps[MASKS * 8];
    uint8_t bits[MASKS * 8];
    CHECK(g->components <= 8);
    for (uint64_t m = 0; m < MASKS; m++) {
        sampler_mask(&s, m, bits + m, NULL);
        for (uint32_t j = 0; j < g->components; j++) keeps[m * g->components + j] = (float)(bits[m] >> j & 1);
    }
    const mask_range forms[] = {{.count = MASKS, .n = g->components, .sampler = &s},
                                {.count = MASKS, .n = g->components, .bits = bits},
                                {.count = MASKS, .n = g->components, .keeps = keeps}};
    example_batch batch = net_batch(g, EXAMPLES, 8);
    engine_options o = {.backend = "cuda", .examples = EXAMPLES, .masks = MASKS, .outputs = "margin", .reverse = true};
    o.memory = memory_for(g, o, 3);
    engine_open(&e, g, o);
    float outputs[PAIRS], *before = engine_run(&e, &batch, &forms[0]), *first = NULL;
    const size_t launches = stand_in_count("cudaGraphLaunch");
    for (size_t i = 0; i < 6; i++) {
        float *gradients = engine_reverse(&e, &batch, REVERSE_MASK, 0, &forms[i / 2], outputs);
        float *after = engine_run(&e, &batch, &forms[0]);
        engine_same_bits(after, before, PAIRS);
        engine_same_bits(outputs, before, PAIRS); /* own kernels compute both */
        if (first) engine_same_bits(gradients, first, (size_t)PAIRS * g->components);
        free(after);
        if (first) free(gradients);
        if (!first) first = gradients;
    }
    CHECK(stand_in_count("cudaGraphLaunch") > launches);
    free(first);
    free(before);
    engine_close(&e);
    net_batch_free(&batch);
    graph_destroy(g);
}

/* As the points of a path are computed: one batch a call, kinds and outputs in turn. */
static void shapes_in_turn(void) {
    test_begin("kinds and outputs in turn are replayed, and stay what they are");
    graph *g = net_basic(NET_BLOCKS, 5);
    engine e;
    float *keeps = draw_keeps(g->components, 9), *first[4], outputs[PAIRS];
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES, 8);
    engine_options o = {.backend = "cuda",
                        .examples = EXAMPLES,
                        .masks = MASKS,
                        .outputs = "margin,loss",
                        .reverse = true,
                        .paths = true};
    engine_open(&e, g, o);
    for (size_t round = 0; round < 3; round++) { /* op by op, captured, replayed */
        const size_t launched = stand_in_count("cudaGraphLaunch"), made = stand_in_count("cudaGraphInstantiate");
        for (size_t i = 0; i < 4; i++) {
            const reverse_kind kind = i % 2 ? REVERSE_INFLUENCE : REVERSE_CONDUCTANCE;
            float *gradients = engine_reverse(&e, &batch, kind, i / 2, &masks, outputs);
            if (round) engine_same_bits(gradients, first[i], (size_t)PAIRS * g->components);
            if (round) free(gradients);
            if (!round) first[i] = gradients;
        }
        CHECK_INT(stand_in_count("cudaGraphLaunch") - launched, round ? 4 : 0);
        CHECK_INT(stand_in_count("cudaGraphInstantiate") - made, round == 1 ? 4 : 0);
    }
    for (size_t i = 0; i < 4; i++) free(first[i]);
    engine_close(&e);
    net_batch_free(&batch);
    free(keeps);
    graph_destroy(g);
}

/* Whatever the streams do first, a missing wait would show in one of these. */
static void orders(void) {
    static const char *const names[] = {"lazy", "others", "eager", "random:1"};
    graph *g = net_basic(NET_BLOCKS, 5);
    float *keeps = draw_keeps(g->components, 9), *expected = NULL;
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    for (size_t i = 0; i < (REDUCED ? 2 : sizeof names / sizeof *names); i++) {
        test_begin("streams in order %s", names[i]);
        setenv("COAR_STANDIN_ORDER", names[i], 1);
        stand_in_reset();
        float *actual = gradients_of(g, "fp32", 4, REVERSE_MASK, &masks, NULL);
        if (expected) engine_same_bits(actual, expected, (size_t)PAIRS * g->components);
        if (expected) free(actual);
        if (!expected) expected = actual;
    }
    unsetenv("COAR_STANDIN_ORDER");
    stand_in_reset();
    free(expected);
    free(keeps);
    graph_destroy(g);
}

/* ------------------------------------------------------------------------------------- not finite */

/* Gradients of fp16 against those of fp32. Whether the caller wants outputs must not matter: where an overflow lies
 * behind the last site, or the sums read no x, they alone are not finite. */
static void compare_overflow(const graph *g, reverse_kind kind, const mask_range *masks, bool wanted) {
    float outputs[2][PAIRS];
    float *actual = gradients_of(g, "fp16", PAIRS, kind, masks, wanted ? outputs[0] : NULL);
    float *expected = gradients_of(g, "fp32", PAIRS, kind, masks, outputs[1]);
    CHECK_NEAR(largest_difference(actual, expected, (size_t)PAIRS * g->components), 0, 1e-4);
    if (wanted) CHECK_NEAR(largest_difference(outputs[0], outputs[1], PAIRS), 0, 1e-4);
    free(actual);
    free(expected);
}

/* Multiplies what the first convolution puts out: beyond fp16's range at 1e6. */
static void overflow(void) {
    graph *g = net_basic(NET_FILTERS, 5);
    for (uint32_t c = 0; c < 7; c++) ((float *)g->ops[0].scale)[c] *= 1e6f;
    float *keeps = draw_keeps(g->components, 9);
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    for (size_t k = REDUCED ? KINDS - 1 : 0; k < KINDS; k++)
        for (int wanted = 0; wanted < 2; wanted++) {
            test_begin("sums %zu, outputs %swanted: what is not finite in fp16 is computed in fp32", k,
                       wanted ? "" : "not ");
            compare_overflow(g, kinds[k], &masks, wanted);
        }
    free(keeps);
    graph_destroy(g);
}

int main(void) {
    families();
    texts_and_clip();
    fills();
    random_graphs();
    odd_graphs();
    batch_sizes("fp32", net_bottleneck(NET_FILTERS, 5));
    if (!REDUCED) batch_sizes("bf16", net_bottleneck(NET_FILTERS, 5));
    if (!REDUCED) batch_sizes("bf16", net_language(NET_INPUTS, 5));
    blocks_of_logits();
    too_little_memory();
    short_of_memory();
    turns();
    shapes_in_turn();
    orders();
    overflow();
    test_begin("nothing is left");
    CHECK_INT(stand_in_leaks(), 0);
    CHECK_INT(stand_in_refusals(), 0);
    return test_end();
}
