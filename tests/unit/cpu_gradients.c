/*
 * cpu_gradients.c - the cpu backend's reverse pass against the reference, on small random nets with every op at every
 * place; what gradients must not depend on: threads, memory, the masks and examples beside them.
 */
#include "test.h"

#include "backend/cpu/cpu_isa.h"
#include "engines.h"
#include "nets.h"

enum { MASKS = 3, EXAMPLES_MAX = 37 };
/* Differences in a row of derivatives (one kind, mask and example), as a fraction of the row's largest, or of `least`
 * of the net's largest derivative by a mask where the row is less: an influence through a layer norm may be nothing but
 * rounding, since the norm's gradients add up to zero over its channels. */
typedef struct tolerance {
    double limit, least;
} tolerance;
static const tolerance NAMED = {3e-5, 0.01};
/* Random nets may normalise two channels, which is a step function and makes much of a rounding. */
static const tolerance RANDOM = {1e-3, 0.5};

/* ------------------------------------------------------------------------------------ running them */

typedef struct conditions {
    const char *isa; /* NULL: the reference */
    ablation ablation;
    int threads;
    size_t memory; /* 0 = enough */
} conditions;

static void plan(engine *e, const graph *g, conditions c) {
    if (c.isa) setenv("COAR_ISA", c.isa, 1);
    engine_plan(e, g,
                (engine_options){.backend = c.isa ? "cpu" : "reference",
                                 .outputs = "margin,loss",
                                 .ablation = c.ablation,
                                 .memory = c.memory,
                                 .examples = EXAMPLES_MAX,
                                 .masks = MASKS,
                                 .threads = c.threads,
                                 .reverse = true});
    unsetenv("COAR_ISA");
}

static void open_engine(engine *e, const graph *g, conditions c) {
    plan(e, g, c);
    CHECK_OK(e->interface->prepare(&e->settings, &e->b));
}

/* Gradients [S][E][n], and behind them the outputs [S][E]. */
static float *gradients_of(engine *e, const example_batch *batch, reverse_kind kind, const mask_range *masks) {
    const size_t pairs = masks->count * batch->count, count = pairs * (masks->n + 1);
    float *outputs = calloc(pairs, sizeof *outputs), *gradients = engine_reverse(e, batch, kind, 1, masks, outputs);
    float *both = malloc(count * sizeof *both);
    memcpy(both, gradients, pairs * masks->n * sizeof *both);
    memcpy(both + pairs * masks->n, outputs, pairs * sizeof *both);
    free(gradients);
    free(outputs);
    return both;
}

static size_t gradients_count(const example_batch *batch, const mask_range *masks) {
    return masks->count * batch->count * (masks->n + 1);
}

static example_batch first_examples(const example_batch *batch, uint32_t count) {
    example_batch part = *batch;
    part.count = count;
    return part;
}

/* Ones, halves, zeros, and numbers beyond. */
static float *random_keeps(const graph *g, uint64_t seed) {
    static const float levels[] = {1, 1, 0, 0.5f, 1.25f, -0.5f};
    float *keeps = malloc(((size_t)MASKS * g->components + 1) * sizeof *keeps);
    for (size_t i = 0; i < (size_t)MASKS * g->components; i++) keeps[i] = levels[net_below(&seed, 6)];
    return keeps;
}

/* ------------------------------------------------------------------------- against the reference */

enum { KINDS = REVERSE_CONDUCTANCE + 1 };

/* Over several calls; a NaN stays. */
typedef struct comparison {
    tolerance tolerance;
    double largest;      /* derivative by a mask, which are compared first */
    double worst[KINDS]; /* fraction */
} comparison;

static double largest_of(const float *values, size_t count) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

static void compare_examples(engine *truth, engine *cpu, const example_batch *batch, reverse_kind kind,
                             const mask_range *masks, comparison *c) {
    float *expected = gradients_of(truth, batch, kind, masks), *actual = gradients_of(cpu, batch, kind, masks);
    const size_t n = masks->n, rows = masks->count * batch->count;
    CHECK_NEAR(largest_difference(actual + rows * n, expected + rows * n, rows), 0, NAMED.limit);
    if (kind == REVERSE_MASK) c->largest = fmax(c->largest, largest_of(expected, rows * n));
    for (size_t i = 0; i < rows * n; i++) {
        const double scale = fmax(largest_of(expected + i / n * n, n), c->tolerance.least * c->largest);
        const double fraction = fabs((double)actual[i] - expected[i]) / (scale > 0 ? scale : 1);
        if (!(fraction <= c->worst[kind]) && !isnan(c->worst[kind])) c->worst[kind] = fraction;
    }
    free(expected);
    free(actual);
}

static void compare_kinds(const graph *g, const char *isa, ablation a, const mask_range *masks, comparison *c) {
    /* Conductance takes examples of one tile. */
    static const uint32_t counts[][2] = {
        [REVERSE_MASK] = {EXAMPLES_MAX, 1}, [REVERSE_INFLUENCE] = {EXAMPLES_MAX, 0}, [REVERSE_CONDUCTANCE] = {32, 7}};
    float scale[EXAMPLES_MAX];
    for (uint32_t e = 0; e < EXAMPLES_MAX; e++) scale[e] = (float)(e % 5) / 4;
    example_batch batch = net_batch(g, EXAMPLES_MAX, 5);
    engine truth, cpu;
    open_engine(&truth, g, (conditions){.ablation = a});
    open_engine(&cpu, g, (conditions){.isa = isa, .ablation = a});
    for (reverse_kind kind = REVERSE_MASK; kind <= REVERSE_CONDUCTANCE; kind++)
        for (int k = 0; k < 2 && counts[kind][k]; k++) {
            example_batch part = first_examples(&batch, counts[kind][k]);
            part.scale = kind == REVERSE_CONDUCTANCE ? scale : NULL;
            compare_examples(&truth, &cpu, &part, kind, masks, c);
        }
    engine_close(&cpu);
    engine_close(&truth);
    net_batch_free(&batch);
}

/* Returns whether there was anything to compare: a random net's components need not reach its output. */
static bool compare_net(const char *name, const graph *g, const char *isa, tolerance tolerance) {
    float *keeps = random_keeps(g, 11), *fill = malloc((g->rows + 1) * sizeof *fill);
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    uint64_t state = 3;
    comparison zero = {tolerance}, mean = {tolerance};
    ablation a = {0};
    test_begin("%s, %s: the derivatives of the reference", isa, name);
    for (uint32_t r = 0; r < g->rows; r++) fill[r] = 0.5f * net_uniform(&state);
    compare_kinds(g, isa, a, &masks, &zero);
    CHECK_OK(ablation_parse("mean", &a));
    a.fill = fill;
    compare_kinds(g, isa, a, &masks, &mean);
    for (int kind = 0; kind < KINDS; kind++) {
        CHECK_NEAR(zero.worst[kind], 0, tolerance.limit);
        CHECK_NEAR(mean.worst[kind], 0, tolerance.limit);
    }
    free(keeps);
    free(fill);
    return zero.largest > 0 && mean.largest > 0;
}

/* An example all of whose pixels are NaN: its output is one, and gradients pass its NaNs as they do in the reference
 * (an influence on the margin reads no x, so it is a number). The others are as they were. */
static void test_nan(const char *name, const graph *g, const char *isa) {
    enum { COUNT = 5, SPOILT = 2 };
    const size_t n = g->components;
    float *keeps = random_keeps(g, 11), scale[COUNT] = {1, 1, NAN, 1, 1}, margins[MASKS * COUNT];
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, COUNT, 5);
    size_t numbers = 0;
    double apart = 0, largest = 0;
    engine truth, cpu;
    test_begin("%s, %s: NaN in the forward pass", isa, name);
    open_engine(&truth, g, (conditions){0});
    open_engine(&cpu, g, (conditions){.isa = isa});
    float *clean = engine_reverse(&cpu, &batch, REVERSE_INFLUENCE, 0, &masks, margins);
    batch.scale = scale;
    float *expected = engine_reverse(&truth, &batch, REVERSE_INFLUENCE, 0, &masks, margins);
    float *actual = engine_reverse(&cpu, &batch, REVERSE_INFLUENCE, 0, &masks, margins);
    for (size_t pair = 0; pair < MASKS * COUNT; pair++) {
        const float *row = actual + pair * n;
        CHECK(isnan(margins[pair]) == (pair % COUNT == SPOILT));
        if (pair % COUNT != SPOILT) {
            CHECK(!memcmp(row, clean + pair * n, n * sizeof *row));
            continue;
        }
        for (size_t j = 0; j < n; j++) {
            CHECK_INT(isnan(row[j]) != 0, isnan(expected[pair * n + j]) != 0);
            if (isnan(row[j])) continue;
            numbers += row[j] != 0;
            apart = fmax(apart, fabs((double)row[j] - expected[pair * n + j]));
            largest = fmax(largest, fabs(expected[pair * n + j]));
        }
    }
    CHECK(numbers > 0);
    CHECK_NEAR(apart / largest, 0, NAMED.limit);
    free(clean);
    free(expected);
    free(actual);
    free(keeps);
    engine_close(&cpu);
    engine_close(&truth);
    net_batch_free(&batch);
}

/* ------------------------------------------------------------------------------------ independence */

static float *whole(const graph *g, conditions c, const example_batch *batch, const mask_range *masks) {
    engine e;
    open_engine(&e, g, c);
    float *all = gradients_of(&e, batch, REVERSE_MASK, masks);
    engine_close(&e);
    return all;
}

static void check_memory(const graph *g, const char *isa, const example_batch *batch, const mask_range *masks,
                         const float *expected, int threads) {
    enum { STEPS = 7 };
    engine e;
    size_t least, best;
    plan(&e, g, (conditions){.isa = isa, .threads = threads});
    CHECK_OK(e.interface->memory(&e.settings, &least, &best));
    engine_close(&e);
    CHECK(threads > 1 ? least < best : least <= best);
    for (size_t k = 0; k <= STEPS; k++) {
        const size_t memory = least + (best - least) * k / STEPS;
        float *all = whole(g, (conditions){.isa = isa, .threads = threads, .memory = memory}, batch, masks);
        CHECK(!memcmp(all, expected, gradients_count(batch, masks) * sizeof *all));
        free(all);
    }
}

/* Pair by pair: a mask of its own call, an example of its own batch. */
static void check_pairs(const graph *g, const char *isa, const example_batch *batch, const mask_range *masks,
                        const float *expected) {
    const size_t n = g->components;
    engine e;
    open_engine(&e, g, (conditions){.isa = isa});
    for (size_t s = 0; s < MASKS; s++)
        for (uint32_t first = 0; first < batch->count; first += 9) {
            const mask_range one = {.count = 1, .n = masks->n, .keeps = masks->keeps + s * n};
            example_batch part = first_examples(batch, batch->count - first < 9 ? batch->count - first : 9);
            part.inputs = (const uint8_t *)batch->inputs + first * graph_input_bytes(g);
            part.labels += first;
            float *few = gradients_of(&e, &part, REVERSE_MASK, &one);
            CHECK(!memcmp(few, expected + (s * batch->count + first) * n, part.count * n * sizeof *few));
            free(few);
        }
    engine_close(&e);
}

/* A generator range and the same masks as bits and as keeps; with the gain of scale:G in place of zeros. */
static void check_forms(const graph *g, const char *isa, const example_batch *batch) {
    const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 3, .alpha = 0.3, .n = g->components};
    const ablation a = {.kind = ABLATION_SCALE, .gain = 0.25f};
    const size_t n = g->components, bytes = mask_bytes(s.n);
    uint8_t *bits = malloc(MASKS * bytes);
    float *keeps = malloc(MASKS * n * sizeof *keeps);
    for (size_t m = 0; m < MASKS; m++) {
        sampler_mask(&s, m, bits + m * bytes, NULL);
        for (size_t j = 0; j < n; j++) keeps[m * n + j] = bits[m * bytes + j / 8] >> j % 8 & 1 ? 1 : a.gain;
    }
    const mask_range forms[] = {{.count = MASKS, .n = s.n, .sampler = &s},
                                {.count = MASKS, .n = s.n, .bits = bits},
                                {.count = MASKS, .n = s.n, .keeps = keeps}};
    const conditions c = {.isa = isa, .ablation = a};
    float *expected = whole(g, c, batch, &forms[0]);
    for (size_t k = 1; k < 3; k++) {
        float *all = whole(g, c, batch, &forms[k]);
        CHECK(!memcmp(all, expected, gradients_count(batch, &forms[0]) * sizeof *all));
        free(all);
    }
    free(expected);
    free(bits);
    free(keeps);
}

static double *row_sums_of(engine *e, const example_batch *batch) {
    double *sums = calloc(e->settings.graph->rows + 1, sizeof *sums);
    CHECK_OK(e->interface->bind(e->b, batch));
    CHECK_OK(e->interface->collect_row_sums(e->b, sums));
    return sums;
}

static float *logits_of(engine *e, const example_batch *batch) {
    const graph *g = e->settings.graph;
    float *logits = calloc((size_t)batch->count * graph_logits(g, 1).count, sizeof *logits);
    CHECK_OK(e->interface->bind(e->b, batch));
    CHECK_OK(e->interface->logits(e->b, logits));
    return logits;
}

/* What shares its memory with reverse passes, each right behind one, against a backend that has seen none. All but the
 * first find weights that a mixed tile packed before the reverse pass. */
static void check_forward_between(const graph *g, const char *isa, const example_batch *batch, const mask_range *masks,
                                  const float *expected) {
    engine e, alone;
    open_engine(&e, g, (conditions){.isa = isa});
    open_engine(&alone, g, (conditions){.isa = isa});
    const size_t outputs = e.output_count * masks->count * batch->count;
    const size_t logits = (size_t)batch->count * graph_logits(g, 1).count;
    double *sums_alone = row_sums_of(&alone, batch);
    float *y_alone = engine_run(&alone, batch, masks), *z_alone = logits_of(&alone, batch);
    for (int round = 0; round < 3; round++) {
        float *all = gradients_of(&e, batch, REVERSE_MASK, masks);
        double *sums = row_sums_of(&e, batch);
        CHECK(!memcmp(all, expected, gradients_count(batch, masks) * sizeof *all));
        CHECK(!memcmp(sums, sums_alone, g->rows * sizeof *sums));
        free(all);
        all = gradients_of(&e, batch, REVERSE_MASK, masks);
        float *y = round % 2 ? logits_of(&e, batch) : engine_run(&e, batch, masks);
        CHECK(!memcmp(all, expected, gradients_count(batch, masks) * sizeof *all));
        CHECK(!memcmp(y, round % 2 ? z_alone : y_alone, (round % 2 ? logits : outputs) * sizeof *y));
        free(all);
        free(sums);
        free(y);
    }
    free(sums_alone);
    free(y_alone);
    free(z_alone);
    engine_close(&e);
    engine_close(&alone);
}

static void test_independence(const char *name, const graph *g, const char *isa) {
    float *keeps = random_keeps(g, 2);
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES_MAX, 7);
    float *expected = whole(g, (conditions){.isa = isa}, &batch, &masks);
    test_begin("%s, %s: the same bytes with any memory, on 1 and 3 threads", isa, name);
    check_memory(g, isa, &batch, &masks, expected, 1);
    check_memory(g, isa, &batch, &masks, expected, 3);
    test_begin("%s, %s: the same bytes for each pair in other company", isa, name);
    check_pairs(g, isa, &batch, &masks, expected);
    test_begin("%s, %s: the same bytes from a generator, bits and keeps", isa, name);
    check_forms(g, isa, &batch);
    test_begin("%s, %s: runs, row sums, logits and reverse passes in turn", isa, name);
    check_forward_between(g, isa, &batch, &masks, expected);
    free(expected);
    free(keeps);
    net_batch_free(&batch);
}

/* Lanes never meet, sums are in the order of columns or keys, and a product and its sum are rounded once wherever the
 * machine can: so vectors of any width and tiles of any shape have the same bits. */
static void test_same_on_all(const char *name, const graph *g) {
    float *keeps = random_keeps(g, 2), *expected = NULL;
    const mask_range masks = {.count = MASKS, .n = g->components, .keeps = keeps};
    example_batch batch = net_batch(g, EXAMPLES_MAX, 7);
    test_begin("%s: the same bytes on all instruction sets with a fused multiply-add", name);
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i]) || !strcmp(cpu_isas[i].name, "portable")) continue;
        float *all = whole(g, (conditions){.isa = cpu_isas[i].name}, &batch, &masks);
        if (expected)
            engine_same_bits(all, expected, (size_t)MASKS * EXAMPLES_MAX * g->components);
        else
            expected = all;
        if (all != expected) free(all);
    }
    if (!expected) test_skip("this machine has none");
    free(expected);
    free(keeps);
    net_batch_free(&batch);
}

enum { RANDOM_NETS = REDUCED ? 4 : 16, RESIDUAL_NETS = 6 };

int main(void) {
    enum { COUNT = NETS_NAMED + RANDOM_NETS };
    named_net nets[COUNT];
    for (size_t k = 0; k < COUNT; k++) nets[k] = net_number(k);
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        const char *isa = cpu_isas[i].name;
        if (!cpu_isa_runs(&cpu_isas[i]) || (REDUCED && cpu_isas[i].emulated)) continue; /* minutes */
        size_t compared = 0, tried = 0;
        for (size_t k = 0; k < COUNT; k += REDUCED ? 4 : 1, tried++)
            compared += compare_net(nets[k].name, nets[k].g, isa, k < NETS_NAMED ? NAMED : RANDOM);
        test_begin("%s: most nets have derivatives", isa);
        CHECK(compared >= tried * 3 / 4);
        for (size_t k = 0; k < RESIDUAL_NETS; k += 3) test_nan(nets[k].name, nets[k].g, isa);
        for (size_t k = 0; k < COUNT && !cpu_isas[i].emulated; k += REDUCED ? 5 : 2)
            test_independence(nets[k].name, nets[k].g, isa);
    }
    for (size_t k = 0; k < COUNT; k += 4) test_same_on_all(nets[k].name, nets[k].g);
    for (size_t k = 0; k < COUNT; k++) graph_destroy(nets[k].g);
    return test_end();
}
