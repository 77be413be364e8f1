/*
 * networks.c - every architecture family, in small sizes, through the whole CUDA path against the reference backend:
 * in fp32 to 1e-4 of the largest output, in bf16, fp16 and tf32 to 3 % rms of the reference with the same rounding.
 */
#include "engines.h"
#include "nets.h"
#include "test.h"

enum { MASKS = 4, EXAMPLES = 5 };

static const char *const precisions[] = {"fp32", "tf32", "bf16", "fp16"};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

/* Masks of each kind that a backend takes. Owns what it points to. */
typedef struct masks {
    sampler bernoulli, fixed;
    uint8_t *bits; /* [MASKS][mask_bytes(n)] */
    float *keeps;  /* [MASKS][n] */
    mask_range range[4];
} masks;

static void masks_make(masks *m, uint32_t n, uint64_t seed) {
    const size_t bytes = mask_bytes(n);
    *m = (masks){.bernoulli = {.kind = SAMPLER_BERNOULLI, .seed = seed, .stream = 1, .alpha = .2, .n = n},
                 .fixed = {.kind = SAMPLER_FIXED, .seed = seed, .alpha = .3, .n = n}};
    m->bits = calloc(MASKS, bytes);
    m->keeps = calloc(MASKS * n, sizeof *m->keeps);
    for (size_t i = 0; i < MASKS * bytes; i++) m->bits[i] = (uint8_t)(net_draw(&seed) | net_draw(&seed));
    for (size_t i = 0; i < MASKS * n; i++) m->keeps[i] = 0.6f + 0.5f * net_uniform(&seed);
    m->range[0] = (mask_range){.count = MASKS, .n = n, .sampler = &m->bernoulli, .first = ((uint64_t)1 << 33) + 5};
    m->range[1] = (mask_range){.count = MASKS, .n = n, .sampler = &m->fixed, .first = 3};
    m->range[2] = (mask_range){.count = MASKS, .n = n, .bits = m->bits};
    m->range[3] = (mask_range){.count = MASKS, .n = n, .keeps = m->keeps};
}

static void masks_free(masks *m) {
    free(m->bits);
    free(m->keeps);
}

static void compare(const char *precision, const float *actual, const float *expected, size_t count) {
    if (!strcmp(precision, "fp32"))
        CHECK_NEAR(largest_difference(actual, expected, count), 0, 1e-4);
    else
        CHECK_NEAR(rms_difference(actual, expected, count), 0, .03);
}

static void compare_run(const char *precision, engine *cuda, engine *reference, const example_batch *batch,
                        const mask_range *range) {
    float *actual = engine_run(cuda, batch, range), *expected = engine_run(reference, batch, range);
    for (size_t k = 0; k < cuda->output_count; k++) {
        const size_t count = range->count * batch->count;
        compare(precision, actual + k * count, expected + k * count, count);
    }
    free(actual);
    free(expected);
}

/* Which of two tokens is the likeliest other may hang on a rounding, in all precisions but fp32. */
static void forget_others(const char *precision, const graph *g, float *logits, size_t count) {
    for (size_t i = NEXT_OTHER; g->vocabulary && strcmp(precision, "fp32") && i < count; i += NEXT_CHANNELS)
        logits[i] = 0;
}

static void compare_logits(const char *precision, engine *cuda, engine *reference, uint32_t examples) {
    const size_t count = examples * graph_logits(cuda->g, 1).count;
    float *actual = calloc(count, sizeof *actual), *expected = calloc(count, sizeof *expected);
    if (cuda->b) CHECK_OK(cuda->interface->logits(cuda->b, actual));
    CHECK_OK(reference->interface->logits(reference->b, expected));
    forget_others(precision, cuda->g, actual, count);
    forget_others(precision, cuda->g, expected, count);
    compare(precision, actual, expected, count);
    free(actual);
    free(expected);
}

static void compare_sums(const char *precision, engine *cuda, engine *reference) {
    const size_t rows = cuda->g->rows;
    double *sums[2] = {calloc(rows + 1, sizeof(double)), calloc(rows + 1, sizeof(double))};
    float *means[2] = {calloc(rows + 1, sizeof(float)), calloc(rows + 1, sizeof(float))};
    uint32_t *positions = calloc(rows + 1, sizeof *positions);
    if (cuda->b) CHECK_OK(cuda->interface->collect_row_sums(cuda->b, sums[0]));
    CHECK_OK(reference->interface->collect_row_sums(reference->b, sums[1]));
    backend_row_positions(cuda->g, positions);
    for (size_t i = 0; i < 2; i++)
        for (size_t r = 0; r < rows; r++) means[i][r] = (float)(sums[i][r] / (EXAMPLES * (double)positions[r]));
    compare(precision, means[0], means[1], rows);
    for (size_t i = 0; i < 2; i++) free(sums[i]), free(means[i]);
    free(positions);
}

/* One network in one precision: outputs under every kind of masks, one example alone, logits, row sums. */
static void compare_network(const graph *g, const char *precision, ablation a, uint64_t seed) {
    engine cuda, reference;
    masks m;
    example_batch batch = net_batch(g, EXAMPLES, seed), one = batch;
    one.count = 1;
    masks_make(&m, g->components, seed);
    engine_options o = {.precision = precision, .ablation = a, .examples = EXAMPLES, .masks = MASKS};
    o.backend = "cuda";
    engine_open(&cuda, g, o);
    o.backend = "reference";
    engine_open(&reference, g, o);
    for (size_t i = 0; i < sizeof m.range / sizeof *m.range; i += REDUCED ? 3 : 1)
        compare_run(precision, &cuda, &reference, &batch, &m.range[i]);
    compare_logits(precision, &cuda, &reference, EXAMPLES);
    if (g->rows) compare_sums(precision, &cuda, &reference);
    compare_run(precision, &cuda, &reference, &one, &m.range[0]);
    engine_close(&cuda);
    engine_close(&reference);
    masks_free(&m);
    net_batch_free(&batch);
}

/* Every family with every set of components; each combination meets another kind of ablation. */
static void families(void) {
    const ablation kinds[] = {{.kind = ABLATION_ZERO}, {.kind = ABLATION_SCALE, .gain = -0.3f}};
    for (size_t f = 0; f < NET_FAMILIES; f++)
        for (net_components set = NET_FILTERS; set <= (f < 2 ? NET_INPUTS : NET_HEADS); set++)
            for (size_t p = 0; p < PRECISIONS; p++) {
                if (f > 2 && set != NET_FILTERS) continue; /* activations differ, masks do not */
                if (REDUCED && (f > 2 || p != (f + set) % PRECISIONS)) continue;
                test_begin("%s, %s, %s", net_family_names[f], net_component_names[set], precisions[p]);
                graph *g = net_family(f, set);
                compare_network(g, precisions[p], kinds[(f + set + p) % 2], 20 + f);
                graph_destroy(g);
            }
}

/* Language models and CLIP's pooling, with every set of components, each in fp32 and another precision that takes turns. */
static void texts_and_clip(void) {
    for (int clip = 0; clip < 2; clip++)
        for (net_components set = NET_FILTERS; set <= NET_HEADS; set++)
            for (size_t p = 0; p < PRECISIONS; p++) {
                if (p && p != 1 + (set + (size_t)clip) % (PRECISIONS - 1)) continue;
                if (REDUCED && (set % 2 || p == 0)) continue;
                test_begin("%s, %s, %s", clip ? "CLIP" : "language model", net_component_names[set], precisions[p]);
                graph *g = clip ? net_clip(set, 61) : net_language(set, 62);
                compare_network(g, precisions[p], (ablation){.kind = ABLATION_ZERO}, 70 + set);
                graph_destroy(g);
            }
}

/* Fills as the reference's means would be, but larger, so that a wrong one is seen. */
static void fills(void) {
    for (size_t f = 0; f < (REDUCED ? 1 : 3); f++)
        for (net_components set = NET_FILTERS; set <= NET_INPUTS; set++) {
            test_begin("mean ablation: %s, %s", net_family_names[f], net_component_names[set]);
            graph *g = net_family(f, set);
            uint64_t seed = 40 + f;
            float *fill = calloc(g->rows, sizeof *fill);
            for (size_t r = 0; r < g->rows; r++) fill[r] = net_uniform(&seed);
            compare_network(g, "fp32", (ablation){.kind = ABLATION_MEAN, .fill = fill}, 50 + f);
            compare_network(g, "bf16", (ablation){.kind = ABLATION_MEAN, .fill = fill}, 50 + f);
            free(fill);
            graph_destroy(g);
        }
}

/* Ops in any order: convolutions that write over their residual, values read twice or never, pools and attention of
 * the input. */
static void random_graphs(void) {
    for (uint64_t seed = 1; seed <= (REDUCED ? 3 : 12); seed++) {
        test_begin("random graph %d", (int)seed);
        graph *g = net_random(seed);
        compare_network(g, "fp32", (ablation){.kind = ABLATION_ZERO}, seed);
        graph_destroy(g);
    }
}

int main(void) {
    families();
    texts_and_clip();
    fills();
    random_graphs();
    return test_end();
}
