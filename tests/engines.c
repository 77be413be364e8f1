/* engines.c - see engines.h. */
#include "engines.h"

#include "test.h"

void engine_plan(engine *e, const graph *g, engine_options o) {
    *e = (engine){.g = g};
    CHECK_OK(backend_find(o.backend, NULL, &e->interface));
    CHECK_OK(plan_create(g, o.backend, o.precision ? o.precision : "fp32", o.exact, &e->plan));
    CHECK_OK(thread_pool_create(o.threads ? o.threads : 1, &e->pool));
    const char *all = g->vocabulary ? "margin,loss,logit" : "margin,loss,logit:2,logit:1-3";
    CHECK_OK(output_parse(o.outputs ? o.outputs : all, g, e->outputs, &e->output_count));
    const size_t enough = e->interface && e->interface->devices ? 0 : (size_t)1 << 30;
    e->settings = (backend_settings){.graph = g,
                                     .plan = &e->plan,
                                     .ablation = o.ablation,
                                     .outputs = e->outputs,
                                     .output_count = e->output_count,
                                     .pool = e->pool,
                                     .device = o.device,
                                     .memory = o.memory ? o.memory : enough,
                                     .examples_max = o.examples,
                                     .masks_max = o.masks,
                                     .reverse = o.reverse,
                                     .path_examples = o.paths ? o.examples : 0};
}

void engine_open(engine *e, const graph *g, engine_options o) {
    engine_plan(e, g, o);
    if (e->interface) CHECK_OK(e->interface->prepare(&e->settings, &e->b));
}

void engine_close(engine *e) {
    if (e->b) e->interface->destroy(e->b);
    thread_pool_destroy(e->pool);
    plan_free(&e->plan);
    *e = (engine){0};
}

static float *not_computed(size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = NAN;
    return values;
}

float *engine_run(engine *e, const example_batch *batch, const mask_range *masks) {
    float *outputs = not_computed(e->output_count * masks->count * batch->count);
    if (!e->b) return outputs;
    CHECK_OK(e->interface->bind(e->b, batch));
    CHECK_OK(e->interface->run(e->b, masks, outputs));
    return outputs;
}

float *engine_reverse(engine *e, const example_batch *batch, reverse_kind kind, size_t output, const mask_range *masks,
                      float *outputs) {
    float *gradients = not_computed(masks->count * batch->count * masks->n);
    if (!e->b) return gradients;
    CHECK_OK(e->interface->bind(e->b, batch));
    CHECK_OK(e->interface->run_reverse(e->b, kind, output, masks, gradients, outputs));
    return gradients;
}

size_t engine_memory(const graph *g, engine_options o, double share) {
    engine e;
    size_t least = 0, best = 0;
    o.memory = 0;
    engine_plan(&e, g, o);
    CHECK_OK(e.interface->memory(&e.settings, &least, &best));
    CHECK(least < best);
    engine_close(&e);
    return least + (size_t)(share * (double)(best - least));
}

void engine_same_bits(const float *actual, const float *expected, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&actual[i], &expected[i], sizeof *actual)) {
            test_fail(__FILE__, __LINE__, "value %zu: got %.9g, expected %.9g to the bit", i, (double)actual[i],
                      (double)expected[i]);
            return;
        }
}

double largest_difference(const float *actual, const float *expected, size_t count) {
    double largest = 0, magnitude = 0;
    for (size_t i = 0; i < count; i++) {
        const double difference = fabs((double)actual[i] - expected[i]);
        if (!(difference <= largest) && !isnan(largest)) largest = difference; /* a NaN stays */
        magnitude = fmax(magnitude, fabs(expected[i]));
    }
    return largest / magnitude;
}

double rms_difference(const float *actual, const float *expected, size_t count) {
    double difference = 0, magnitude = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)actual[i] - expected[i]) * ((double)actual[i] - expected[i]);
        magnitude += (double)expected[i] * expected[i];
    }
    return sqrt(difference / magnitude);
}
