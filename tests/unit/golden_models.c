/*
 * Every family against PyTorch: tests/golden/models (tools/golden_models.py) holds tiny networks, and the margins that
 * PyTorch computes with components ablated in all three ways and at real-valued keeps; every backend must
 * agree, on CPUs with every instruction set.
 */
#include "backend/cpu/cpu_isa.h"
#include "golden_nets.h"
#include "test.h"

enum { MASKS_MAX = 8 };

/* What one comparison needs, and the worst difference seen. */
typedef struct fixture {
    golden g;
    const char *backend;
    thread_pool *pool;
    double worst;
} fixture;

static coar_status open_backend(const fixture *f, const model *m, const numerics_plan *plan, ablation how,
                                backend **out) {
    const backend_interface *interface;
    static output_spec outputs[OUTPUTS_MAX];
    backend_settings s = {.graph = m->graph,
                          .plan = plan,
                          .ablation = how,
                          .outputs = outputs,
                          .pool = f->pool,
                          .memory = (size_t)1 << 30,
                          .examples_max = f->g.examples,
                          .masks_max = MASKS_MAX};
    TRY(output_parse("margin,loss", m->graph, outputs, &s.output_count));
    TRY(backend_find(f->backend, NULL, &interface));
    TRY(interface->prepare(&s, out));
    example_batch batch = golden_batch(&f->g, m);
    coar_status status = interface->bind(*out, &batch);
    if (status == COAR_OK) return COAR_OK;
    interface->destroy(*out);
    *out = NULL;
    return status;
}

/* Margins, or with `losses` losses, under `keeps`, as real keeps and (where they are bits) as packed bits. */
static void compare(fixture *f, const model *m, component_set set, const char *ablation_text, const char *keeps_part,
                    const char *margins_part, bool losses) {
    size_t inputs[2] = {0}, results[2] = {0};
    float *keeps = golden_array(&f->g, set, keeps_part, 2, inputs), *means = NULL;
    float *expected = golden_array(&f->g, set, margins_part, 2, results);
    const size_t masks = inputs[0], n = inputs[1], examples = results[1];
    CHECK_INT(n, m->graph->components);
    CHECK_INT(results[0], masks);
    CHECK_INT(examples, f->g.examples);
    ablation how;
    numerics_plan plan = {0};
    backend *b = NULL;
    CHECK_OK(ablation_parse(ablation_text, &how));
    CHECK_OK(plan_create(m->graph, f->backend, "fp32", 0, &plan));
    CHECK_OK(open_backend(f, m, &plan, how, &b));
    if (b && how.kind == ABLATION_MEAN) {
        how.fill = means = golden_row_means(m, b, f->g.examples);
        b->interface->destroy(b);
        CHECK_OK(open_backend(f, m, &plan, how, &b));
    }
    if (b && n == m->graph->components && masks == results[0] && masks <= MASKS_MAX) {
        size_t bytes = mask_bytes((uint32_t)n);
        uint8_t *bits = calloc(masks, bytes);
        float *outputs = calloc(2 * masks * examples, sizeof *outputs);
        const float *margins = outputs + (losses ? masks * examples : 0);
        bool binary = true;
        for (size_t i = 0; i < masks * n; i++) {
            binary = binary && (keeps[i] == 0 || keeps[i] == 1);
            if (keeps[i] == 1) bits[i / n * bytes + i % n / 8] |= (uint8_t)(1u << (i % n % 8));
        }
        mask_range range = {
            .count = masks, .n = (uint32_t)n, .bits = binary ? bits : NULL, .keeps = binary ? NULL : keeps};
        CHECK_OK(b->interface->run(b, &range, outputs));
        for (size_t i = 0; i < masks * examples; i++) {
            double difference = fabs((double)margins[i] - (double)expected[i]);
            if (!(difference <= f->worst)) f->worst = difference;
        }
        free(bits);
        free(outputs);
    }
    if (b) b->interface->destroy(b);
    plan_free(&plan);
    free(means);
    free(keeps);
    free(expected);
}

static void compare_set(fixture *f, component_set set) {
    if (!golden_has(&f->g, set, "keeps")) return;
    model *m = golden_model(&f->g, set);
    if (!m) return;
    compare(f, m, set, "zero", "keeps", "zero", false);
    compare(f, m, set, "scale:0.3", "keeps", "scale", false);
    compare(f, m, set, "mean", "keeps", "mean", false);
    compare(f, m, set, "zero", "half_keeps", "half", false);
    if (golden_has(&f->g, set, "loss")) compare(f, m, set, "zero", "keeps", "loss", true);
    model_destroy(m);
}

static void compare_nets(const char *name, const char *backend) {
    for (size_t i = 0; i < golden_net_count; i++) {
        fixture f = {.backend = backend};
        test_begin("%s: margins of %s are PyTorch's", name, golden_nets[i].weights);
        CHECK_OK(golden_open(&golden_nets[i], "golden", &f.g));
        CHECK_OK(thread_pool_create(1, &f.pool));
        for (component_set set = SET_FILTERS; set <= SET_BLOCKS; set++) compare_set(&f, set);
        CHECK_NEAR(f.worst, 0, 1e-4);
        printf("# %s, %s: largest difference %.2g\n", name, golden_nets[i].weights, f.worst);
        thread_pool_destroy(f.pool);
        golden_close(&f.g);
    }
}

int main(void) {
    compare_nets("reference", "reference");
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i])) continue; /* cpu_isa.c says so */
        setenv("COAR_ISA", cpu_isas[i].name, 1);
        compare_nets(cpu_isas[i].name, "cpu");
    }
    return test_end();
}
