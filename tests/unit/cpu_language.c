/*
 * cpu_language.c - the CPU backend on language models, and wherever masks act on results (OUT): groups of 32 texts of all
 * lengths that leave out what is ablated, and the rest beside them, against the reference; with any fill and gain, on
 * every instruction set. Which texts share a tile, and how long these are, changes no bit.
 */
#include "backend/cpu/cpu_isa.h"
#include "engines.h"
#include "nets.h"
#include "test.h"

enum { EXAMPLES = 70, MASKS = 3 }; /* two groups and six more */
static const double LIMIT = 2e-5;  /* of the largest output: fp32 against double */

static float *outputs_of(const graph *g, const char *isa, ablation a, const example_batch *batch,
                         const mask_range *masks) {
    engine e;
    if (isa) setenv("COAR_ISA", isa, 1);
    engine_open(
        &e, g,
        (engine_options){
            .backend = isa ? "cpu" : "reference", .ablation = a, .examples = EXAMPLES, .masks = MASKS, .threads = 2});
    float *outputs = engine_run(&e, batch, masks);
    engine_close(&e);
    return outputs;
}

/* As the reference has it: [outputs][MASKS][EXAMPLES]. */
static void compare(const graph *g, const char *isa, const char *how, const float *fill, const example_batch *batch,
                    const mask_range *masks) {
    const size_t count = engine_outputs(g) * MASKS * EXAMPLES;
    ablation a = {0};
    CHECK_OK(ablation_parse(how, &a));
    a.fill = fill;
    float *expected = outputs_of(g, NULL, a, batch, masks), *actual = outputs_of(g, isa, a, batch, masks);
    CHECK_NEAR(largest_difference(actual, expected, count), 0, LIMIT);
    free(expected);
    free(actual);
}

static void compare_ablations(const graph *g, const char *name, const char *isa) {
    const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 9, .alpha = 0.3, .n = g->components};
    const mask_range masks = {.count = MASKS, .n = g->components, .sampler = &s};
    example_batch batch = net_batch(g, EXAMPLES, 8);
    float *fill = calloc(g->rows, sizeof *fill);
    uint64_t state = 3;
    for (uint32_t r = 0; r < g->rows; r++) fill[r] = 0.5f * net_uniform(&state);
    test_begin("%s, %s: the reference's outputs in groups that leave out what is ablated", isa, name);
    compare(g, isa, "zero", NULL, &batch, &masks);
    compare(g, isa, "scale:0.4", NULL, &batch, &masks);
    compare(g, isa, "mean", fill, &batch, &masks);
    free(fill);
    net_batch_free(&batch);
}

/* The last text of the second group among short ones and among long ones. */
static void check_company(const graph *g, const char *isa) {
    enum { WHICH = 63 };
    const sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 9, .alpha = 0.3, .n = g->components};
    const mask_range masks = {.count = MASKS, .n = g->components, .sampler = &s};
    const uint32_t tokens = g->values[0].w;
    example_batch batch = net_batch(g, EXAMPLES, 8);
    int32_t *lengths = (int32_t *)(void *)batch.labels;
    float *outputs[2];
    test_begin("%s: a text's outputs are the same bits whatever the lengths beside it", isa);
    for (int k = 0; k < 2; k++) {
        for (uint32_t e = 0; e < EXAMPLES; e++) lengths[e] = k ? (int32_t)tokens : 2 + (int32_t)(e % 3);
        lengths[WHICH] = (int32_t)tokens / 2;
        outputs[k] = outputs_of(g, isa, (ablation){0}, &batch, &masks);
    }
    for (size_t row = 0; row < engine_outputs(g) * MASKS; row++)
        engine_same_bits(outputs[0] + row * EXAMPLES + WHICH, outputs[1] + row * EXAMPLES + WHICH, 1);
    CHECK(memcmp(outputs[0], outputs[1], EXAMPLES * sizeof(float)) != 0);
    free(outputs[0]);
    free(outputs[1]);
    net_batch_free(&batch);
}

int main(void) {
    static const net_components sets[] = {NET_INPUTS, NET_HEADS, NET_BLOCKS};
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        const char *isa = cpu_isas[i].name;
        if (!cpu_isa_runs(&cpu_isas[i])) continue; /* cpu_isa.c says so */
        for (size_t k = 0; k < sizeof sets / sizeof *sets; k++) {
            char name[64];
            graph *g = net_language(sets[k], 31 + k);
            snprintf(name, sizeof name, "language model, %s", net_component_names[sets[k]]);
            compare_ablations(g, name, isa);
            if (sets[k] == NET_INPUTS) check_company(g, isa);
            graph_destroy(g);
        }
        graph *nets[] = {net_transformer(NET_INPUTS, ACT_GELU_ERF, 41), net_basic(NET_INPUTS, 42)};
        compare_ablations(nets[0], "transformer, inputs", isa);
        compare_ablations(nets[1], "basic blocks, inputs", isa);
        for (size_t k = 0; k < 2; k++) graph_destroy(nets[k]);
    }
    return test_end();
}
