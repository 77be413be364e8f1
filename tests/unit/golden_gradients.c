/*
 * golden_gradients.c - every family's derivatives against PyTorch's (tests/golden/models, tools/golden_models.py): of
 * the margin with respect to every keep under masks of ones, halves and zeros, with zero and mean ablation; internal
 * influence and neuron conductance. Every backend of the build that has a reverse pass must agree, and every
 * instruction set of the CPU kernels.
 */
#include "backend/cpu/cpu_isa.h"
#include "engines.h"
#include "golden_nets.h"
#include "test.h"

enum { MASKS = 3 };
static const double LIMIT = 1e-5; /* of each example's largest derivative: fp32 against float64 */

static const struct {
    const char *part;
    reverse_kind kind;
    ablation_kind ablation;
    size_t output;     /* of OUTPUTS */
    size_t first_mask; /* the part is of this one and those behind it */
} parts[] = {
    {"zero", REVERSE_MASK, ABLATION_ZERO, 1, 0},
    {"mean", REVERSE_MASK, ABLATION_MEAN, 1, 0},
    {"loss", REVERSE_MASK, ABLATION_ZERO, 0, 0}, /* of language models, which differentiate it in another way */
    {"influence", REVERSE_INFLUENCE, ABLATION_ZERO, 1, MASKS - 1},
    {"conductance", REVERSE_CONDUCTANCE, ABLATION_ZERO, 1, MASKS - 1},
};
static const char OUTPUTS[] = "loss,margin";

/* What a row's differences are measured by when all of it is about zero: a first example's conductance, and the
 * influence of a transformer's branch (a layer norm's gradients add up to zero over its channels). Others: about 1. */
static const double LEAST = 0.1;

/* The largest difference of any row [n] of gradients, as a fraction of that row's largest. */
static double worst_row(const float *actual, const float *expected, size_t rows, size_t n) {
    double worst = 0;
    for (size_t row = 0; row < rows; row++) {
        double largest = LEAST, difference = 0;
        for (size_t j = row * n; j < (row + 1) * n; j++) {
            const double d = fabs((double)actual[j] - expected[j]);
            largest = fmax(largest, fabs(expected[j]));
            if (!(d <= difference) && !isnan(difference)) difference = d; /* a NaN stays */
        }
        if (!(difference / largest <= worst) && !isnan(worst)) worst = difference / largest;
    }
    return worst;
}

/* One part of the goldens; *worst grows. */
static void compare(golden *g, const model *m, component_set set, engine_options o, size_t p, double *worst) {
    size_t input[2] = {0}, result[2] = {0};
    const graph *graph = m->graph;
    const uint32_t n = graph->components;
    const size_t masks = MASKS - parts[p].first_mask, count = masks * g->examples * n;
    float *keeps = golden_array(g, set, "levels", 2, input), *means = NULL;
    float *expected = golden_array(g, set, parts[p].part, 2, result);
    float *margins = calloc(masks * g->examples, sizeof *margins);
    const example_batch batch = golden_batch(g, m);
    o.outputs = OUTPUTS;
    o.ablation.kind = parts[p].ablation;
    o.examples = g->examples;
    o.masks = MASKS;
    o.reverse = o.paths = true;
    engine e = {0};
    CHECK_INT(input[0] * input[1], MASKS * n);
    CHECK_INT(result[0] * result[1], count);
    if (input[0] * input[1] != MASKS * n || result[0] * result[1] != count) goto done;
    if (o.ablation.kind == ABLATION_MEAN) {
        engine_open(&e, graph, o);
        if (!e.b) goto done;
        CHECK_OK(e.interface->bind(e.b, &batch));
        o.ablation.fill = means = golden_row_means(m, e.b, g->examples);
        engine_close(&e);
    }
    engine_open(&e, graph, o);
    if (!e.b) goto done;
    const mask_range range = {.count = masks, .n = n, .keeps = keeps + parts[p].first_mask * n};
    float *actual = engine_reverse(&e, &batch, parts[p].kind, parts[p].output, &range, margins);
    const double seen = worst_row(actual, expected, masks * g->examples, n);
    if (!(seen <= *worst) && !isnan(*worst)) *worst = seen;
    float *outputs = engine_run(&e, &batch, &range);
    CHECK_NEAR(largest_difference(margins, outputs + parts[p].output * masks * g->examples, masks * g->examples), 0,
               1e-5);
    free(outputs);
    free(actual);
done:
    engine_close(&e);
    free(keeps);
    free(means);
    free(expected);
    free(margins);
}

static void compare_net(const golden_net *net, const char *name, engine_options o) {
    double worst[sizeof parts / sizeof *parts] = {0};
    int sets = 0;
    golden g;
    test_begin("%s: derivatives of %s are PyTorch's", name, net->weights);
    CHECK_OK(golden_open(net, "gradients", &g));
    for (component_set set = SET_FILTERS; set <= SET_BLOCKS; set++) {
        model *m = golden_has(&g, set, "levels") ? golden_model(&g, set) : NULL;
        for (size_t p = 0; m && p < sizeof parts / sizeof *parts; p++)
            if (strcmp(parts[p].part, "loss") || golden_has(&g, set, "loss")) compare(&g, m, set, o, p, &worst[p]);
        sets += m != NULL;
        model_destroy(m);
    }
    CHECK(sets > 0);
    printf("# %s, %s:", name, net->weights);
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
        CHECK_NEAR(worst[p], 0, LIMIT);
        printf(" %s %.1e", parts[p].part, worst[p]);
    }
    printf("\n");
    golden_close(&g);
}

static void compare_backend(const char *backend) {
    const backend_interface *interface;
    if (backend_find(backend, NULL, &interface) != COAR_OK) {
        test_begin("%s: derivatives are PyTorch's", backend);
        test_skip("%s", coar_last_error());
        status_clear();
    } else if (!interface->run_reverse) {
        test_begin("%s: derivatives are PyTorch's", backend);
        test_skip("backend %s has no reverse pass", backend);
    } else {
        for (size_t i = 0; i < golden_net_count; i++)
            compare_net(&golden_nets[i], backend, (engine_options){.backend = backend});
    }
}

/* Direct forms alone: a derivative jumps where a ReLU's argument is zero, and Winograd's rounding, which differs between
 * instruction sets, takes one of these networks' across. */
static void compare_isa(const cpu_isa *isa) {
    if (!cpu_isa_runs(isa)) return; /* cpu_isa.c says so */
    setenv("COAR_ISA", isa->name, 1);
    for (size_t i = 0; i < golden_net_count; i++)
        compare_net(&golden_nets[i], isa->name, (engine_options){.backend = "cpu", .exact = true});
    unsetenv("COAR_ISA");
}

int main(void) {
    static const char *const backends[] = {"reference", "cpu", "cuda"};
    for (size_t k = 0; k < sizeof backends / sizeof *backends; k++) compare_backend(backends[k]);
    for (size_t i = 0; i < CPU_ISAS_KNOWN && !REDUCED; i++) compare_isa(&cpu_isas[i]);
    return test_end();
}
