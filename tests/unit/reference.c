/* reference.c - the reference backend, by what must not change. Its ops: golden_ops.c, reverse_ops.c. */
#include "test.h"

#include "backend/reference/reference_ops.h"
#include "nets.h"

/* ----------------------------------------------------------------------------------------- the ops */

static void not_a_number(void) {
    test_begin("op: NaN passes through ReLU and max-pooling");
    CHECK(isnan(reference_activation(ACT_RELU, NAN)));
    for (int at = 0; at < 4; at++) {
        double x[4] = {3, -1, 7, 2}, y[1];
        x[at] = NAN;
        const op o = {.kind = OP_MAXPOOL, .kernel_h = 2, .kernel_w = 2, .stride = 1};
        reference_maxpool(&o, &(reference_operands){.in = {2, 2, 1}, .out = {1, 1, 1}, .x = {x}, .y = y});
        CHECK(isnan(y[0]));
    }
}

/* --------------------------------------------------------------------------------- the backend */

enum { EXAMPLES = 5, MASKS = 6 };

/* A prepared backend on a graph, with EXAMPLES examples bound. */
typedef struct fixture {
    graph *g; /* borrowed */
    numerics_plan plan;
    thread_pool *pool;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    backend_settings settings;
    example_batch batch;
    backend *b;
} fixture;

static void fixture_open(fixture *f, graph *g, int threads, ablation ablation) {
    *f = (fixture){.g = g};
    CHECK_OK(plan_create(g, "reference", "auto", 0, &f->plan));
    CHECK_OK(thread_pool_create(threads, &f->pool));
    CHECK_OK(output_parse("margin,loss,logit:2", g, f->outputs, &f->output_count));
    f->settings = (backend_settings){.graph = g,
                                     .plan = &f->plan,
                                     .ablation = ablation,
                                     .outputs = f->outputs,
                                     .output_count = f->output_count,
                                     .pool = f->pool,
                                     .memory = (size_t)1 << 30,
                                     .examples_max = EXAMPLES,
                                     .masks_max = 64};
    f->batch = net_batch(g, EXAMPLES, 77);
    CHECK_OK(backend_reference.prepare(&f->settings, &f->b));
    CHECK_OK(backend_reference.bind(f->b, &f->batch));
}

static void fixture_close(fixture *f) {
    backend_reference.destroy(f->b);
    thread_pool_destroy(f->pool);
    plan_free(&f->plan);
    net_batch_free(&f->batch);
}

static float *run(fixture *f, const mask_range *masks) {
    float *outputs;
    CHECK_OK(memory_new(f->output_count * masks->count * EXAMPLES, sizeof *outputs, "outputs", &outputs));
    CHECK_OK(backend_reference.run(f->b, masks, outputs));
    return outputs;
}

/* Outputs of one graph for `keep` [n] under an ablation, by a fresh backend: [output][E]. */
static float *run_once(graph *g, const float *keep, ablation ablation) {
    fixture f;
    fixture_open(&f, g, 1, ablation);
    const mask_range range = {.count = 1, .n = g->components, .keeps = keep};
    float *outputs = run(&f, &range);
    fixture_close(&f);
    return outputs;
}

static float *ones(uint32_t n) {
    float *keep;
    CHECK_OK(memory_new(n, sizeof *keep, "keeps", &keep));
    for (uint32_t j = 0; j < n; j++) keep[j] = 1;
    return keep;
}

static bool same_bytes(const float *a, const float *b, size_t count) {
    return !memcmp(a, b, count * sizeof *a);
}

static const ablation zero = {.kind = ABLATION_ZERO};

static void all_ones(void) {
    test_begin("reference: an all-ones mask is the unmasked net, whatever the ablation");
    for (uint64_t seed = 0; seed < 8; seed++) {
        graph *g = seed < 4   ? net_random(seed)
                   : seed < 6 ? net_basic(seed % 2 ? NET_BLOCKS : NET_FILTERS, seed)
                              : net_transformer(seed % 2 ? NET_INPUTS : NET_HEADS, ACT_GELU_ERF, seed);
        float *fill = ones(g->rows), *keep = ones(g->components);
        const uint32_t classes = g->values[g->logits].c;
        fixture f;
        fixture_open(&f, g, 2, (ablation){ABLATION_MEAN, .fill = fill});
        float *logits, *masked = run(&f, &(mask_range){.count = 1, .n = g->components, .keeps = keep});
        CHECK_OK(memory_new((size_t)EXAMPLES * classes, sizeof *logits, "logits", &logits));
        CHECK_OK(backend_reference.logits(f.b, logits));
        for (uint32_t e = 0; e < EXAMPLES; e++)
            for (size_t k = 0; k < f.output_count; k++) {
                float expected = output_value(&f.outputs[k], &(logits_view){logits + e * classes, 1, classes,
                                                                            .label = (uint32_t)f.batch.labels[e]});
                CHECK(isfinite(expected));
                CHECK_NEAR(masked[k * EXAMPLES + e], expected, 0);
            }
        fixture_close(&f);
        /* The same ops without any mask. */
        for (size_t i = 0; i < g->op_count; i++) g->ops[i].mask.place = PLACE_NONE;
        float *plain = run_once(g, keep, zero);
        CHECK(same_bytes(plain, masked, f.output_count * EXAMPLES));
        free(plain);
        free(masked);
        free(logits);
        free(keep);
        free(fill);
        graph_destroy(g);
    }
}

static void threads_and_batches(void) {
    test_begin("reference: the same bytes for 1 and 3 threads, and one example at a time");
    graph *g = net_basic(NET_FILTERS, 3);
    const sampler s = {.kind = SAMPLER_FIXED, .seed = 9, .alpha = 0.3, .n = g->components};
    const mask_range range = {.count = MASKS, .n = g->components, .sampler = &s, .first = 40};
    const size_t rows = g->rows;
    fixture one, three;
    fixture_open(&one, g, 1, zero);
    fixture_open(&three, g, 3, zero);
    float *a = run(&one, &range), *b = run(&three, &range);
    CHECK(same_bytes(a, b, one.output_count * MASKS * EXAMPLES));

    double *sums, *sums3;
    CHECK_OK(memory_new(rows, sizeof *sums, "sums", &sums));
    CHECK_OK(memory_new(rows, sizeof *sums, "sums", &sums3));
    CHECK_OK(backend_reference.collect_row_sums(one.b, sums));
    CHECK_OK(backend_reference.collect_row_sums(three.b, sums3));
    CHECK(!memcmp(sums, sums3, rows * sizeof *sums));

    for (uint32_t e = 0; e < EXAMPLES; e++) {
        const size_t image = 11 * 9 * 3;
        example_batch single = one.batch;
        single.inputs = (const uint8_t *)one.batch.inputs + e * image;
        single.labels += e;
        single.count = 1;
        CHECK_OK(backend_reference.bind(one.b, &single));
        CHECK_OK(backend_reference.run(one.b, &range, b));
        for (size_t k = 0; k < one.output_count * MASKS; k++) CHECK(same_bytes(&b[k], &a[k * EXAMPLES + e], 1));
    }
    double executed, dense;
    backend_reference.work(one.b, &executed, &dense);
    CHECK_NEAR(dense, 2.0 * MASKS * EXAMPLES * graph_flops(g), 0);
    CHECK_NEAR(executed, dense, 0);
    free(sums);
    free(sums3);
    free(a);
    free(b);
    fixture_close(&one);
    fixture_close(&three);
    graph_destroy(g);
}

static void mask_forms(void) {
    test_begin("reference: generator, packed bits and real keeps give the same bytes");
    graph *g = net_bottleneck(NET_FILTERS, 5);
    const uint32_t n = g->components;
    const ablation half = {.kind = ABLATION_SCALE, .gain = 0.25f};
    fixture f;
    fixture_open(&f, g, 2, half);
    sampler s = {.kind = SAMPLER_BERNOULLI, .seed = 4, .alpha = 0.4, .n = n};
    uint8_t *bits;
    float *keeps;
    CHECK_OK(memory_new(MASKS, mask_bytes(n), "bits", &bits));
    CHECK_OK(memory_new((size_t)MASKS * n, sizeof *keeps, "keeps", &keeps));
    for (size_t m = 0; m < MASKS; m++) {
        sampler_mask(&s, 1000 + m, bits + m * mask_bytes(n), NULL);
        for (uint32_t j = 0; j < n; j++)
            keeps[m * n + j] = bits[m * mask_bytes(n) + j / 8] >> (j % 8) & 1 ? 1.0f : half.gain;
    }
    float *a = run(&f, &(mask_range){.count = MASKS, .n = n, .sampler = &s, .first = 1000});
    float *b = run(&f, &(mask_range){.count = MASKS, .n = n, .bits = bits});
    float *c = run(&f, &(mask_range){.count = MASKS, .n = n, .keeps = keeps});
    CHECK(same_bytes(a, b, f.output_count * MASKS * EXAMPLES));
    CHECK(same_bytes(a, c, f.output_count * MASKS * EXAMPLES));
    CHECK(!same_bytes(a, a + EXAMPLES, EXAMPLES)); /* masks differ, and so do outputs */
    free(a);
    free(b);
    free(c);
    free(bits);
    free(keeps);
    fixture_close(&f);
    graph_destroy(g);
}

/* A copy of `count` floats that belongs to the graph. */
static float *own_copy(graph *g, const float *from, size_t count) {
    float *copy;
    CHECK_OK(memory_new(count, sizeof *copy, "copy", &copy));
    memcpy(copy, from, count * sizeof *copy);
    CHECK_OK(graph_own(g, copy));
    return copy;
}

/* Gives masked op o the weights that do what its mask does for keeps of 0 and 1: a row whose linear output is a constant
 * c ends up with shift + scale c (PRE), a branch with c (POST). With c = 0 this is docs/design.md's edited weight file. */
static void edit_weights(graph *g, op *o, const float *keep, const float *fill) {
    const uint32_t channels = g->values[o->output].c;
    const size_t row = graph_weight_count(g, o) / channels;
    float *weight = own_copy(g, o->weight, graph_weight_count(g, o));
    float *shift = own_copy(g, o->shift, channels);
    for (uint32_t c = 0; c < channels; c++) {
        if (keep[o->mask.first + c / o->mask.width]) continue;
        memset(weight + c * row, 0, row * sizeof *weight);
        const float constant = fill ? fill[o->mask.row_first + c] : 0;
        if (o->mask.place == PLACE_PRE) shift[c] += (o->scale ? o->scale[c] : 1) * constant;
        if (o->mask.place == PLACE_POST) shift[c] = constant;
    }
    o->weight = weight;
    o->shift = shift;
}

static void edited_weights(void) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        const net_components set = seed % 2 ? NET_BLOCKS : NET_FILTERS;
        const char *const nets[] = {"basic", "bottleneck", "transformer"};
        const size_t net = seed / 2 % 3, count = 3 * EXAMPLES;
        const bool mean = seed >= 6;
        test_begin("reference: %s, masks of %s equal edited weights, %s ablation", nets[net],
                   seed % 2 ? "blocks" : "filters", mean ? "mean" : "zero");
        graph *g = net == 0   ? net_basic(set, seed)
                   : net == 1 ? net_bottleneck(set, seed)
                              : net_transformer(set, ACT_QUICKGELU, seed);
        float *keep = ones(g->components), *all = ones(g->components), *fill = ones(g->rows);
        uint64_t state = seed;
        for (uint32_t j = 0; j < g->components; j++) keep[j] = net_below(&state, 3) ? 1 : 0;
        for (uint32_t row = 0; row < g->rows; row++) fill[row] = net_uniform(&state);
        keep[g->components - 1] = 0;
        const ablation ablation = {.kind = mean ? ABLATION_MEAN : ABLATION_ZERO, .fill = mean ? fill : NULL};
        float *masked = run_once(g, keep, ablation), *before = run_once(g, all, ablation);
        CHECK(!same_bytes(masked, before, count));
        for (size_t i = 0; i < g->op_count; i++)
            if (g->ops[i].mask.place != PLACE_NONE) edit_weights(g, &g->ops[i], keep, ablation.fill);
        float *edited = run_once(g, all, zero);
        for (size_t i = 0; i < count; i++) CHECK_NEAR(edited[i], masked[i], 1e-5 * (1 + fabs(masked[i])));
        free(edited);
        free(before);
        free(masked);
        free(fill);
        free(keep);
        free(all);
        graph_destroy(g);
    }
}

static void row_sums(void) {
    test_begin("reference: sums per masked channel");
    graph *g = net_basic(NET_FILTERS, 8);
    const op *stem = &g->ops[0];
    fixture f;
    double *sums;
    uint32_t *positions;
    fixture_open(&f, g, 2, zero);
    CHECK_OK(memory_new(g->rows, sizeof *sums, "sums", &sums));
    CHECK_OK(memory_new(g->rows, sizeof *positions, "positions", &positions));
    sums[2] = 100; /* added to, not overwritten */
    CHECK_OK(backend_reference.collect_row_sums(f.b, sums));
    backend_row_positions(g, positions);
    CHECK_INT(positions[0], 11 * 9);
    CHECK_INT(positions[g->rows - 1], 6 * 5);
    /* Row 2 of the stem by hand: the sum of its linear outputs = sum over taps of weight * (sum of the pixels it sees). */
    double expected = 100;
    for (uint32_t e = 0; e < EXAMPLES; e++)
        for (int tap = 0; tap < 27; tap++) {
            const int channel = tap / 9, dy = tap / 3 % 3 - 1, dx = tap % 3 - 1;
            for (int y = 0; y < 11; y++)
                for (int x = 0; x < 9; x++) {
                    if (y + dy < 0 || y + dy >= 11 || x + dx < 0 || x + dx >= 9) continue;
                    double pixel = ((const uint8_t *)f.batch.inputs)[((e * 11 + y + dy) * 9 + x + dx) * 3 + channel];
                    expected +=
                        stem->weight[2 * 27 + tap] * (pixel / 255 - f.batch.mean[channel]) / f.batch.std[channel];
                }
        }
    CHECK_NEAR(sums[2], expected, 1e-9 * fabs(expected));
    fixture_close(&f);
    free(positions);
    free(sums);
    graph_destroy(g);
}

static void prepare_errors(void) {
    test_begin("reference: what cannot be prepared, bound or run");
    graph *g = net_basic(NET_FILTERS, 1);
    fixture f;
    fixture_open(&f, g, 2, zero);
    size_t least, best;
    backend *other;
    CHECK_OK(backend_reference.memory(&f.settings, &least, &best));
    CHECK(least > 0 && least <= best);
    backend_settings settings = f.settings;
    settings.memory = least;
    CHECK_OK(backend_reference.prepare(&settings, &other));
    backend_reference.destroy(other);
    settings.memory = least - 1;
    CHECK_ERROR(backend_reference.prepare(&settings, &other), COAR_ERROR_MEMORY, "--memory");
    CHECK(!other);
    status_clear();
    numerics_plan avx2 = f.plan;
    snprintf(avx2.device_class, sizeof avx2.device_class, "cpu/avx2");
    settings = f.settings;
    settings.plan = &avx2;
    CHECK_ERROR(backend_reference.prepare(&settings, &other), COAR_ERROR_MISMATCH, "cpu/avx2");
    status_clear();
    int32_t labels[EXAMPLES] = {0, 1, 2, 7, 3};
    example_batch wrong = f.batch;
    wrong.labels = labels;
    wrong.first = 32;
    CHECK_ERROR(backend_reference.bind(f.b, &wrong), COAR_ERROR_INPUT, "example 35 has label 7");
    status_clear();
    labels[3] = -1;
    CHECK_ERROR(backend_reference.bind(f.b, &wrong), COAR_ERROR_INPUT, "label -1");
    status_clear();
    wrong.count = EXAMPLES + 1;
    CHECK_ERROR(backend_reference.bind(f.b, &wrong), COAR_ERROR_INTERNAL, "prepared for 5");
    status_clear();
    CHECK_ERROR(backend_reference.run(f.b, &(mask_range){.count = 1, .n = 3}, NULL), COAR_ERROR_INTERNAL,
                "3 components for a model");
    status_clear();
    fixture_close(&f);
    graph_destroy(g);
    backend_reference.destroy(NULL);
}

static void names(void) {
    test_begin("backend: names and ablations");
    const backend_interface *found;
    ablation a;
    CHECK_OK(backend_find("reference", NULL, &found));
    CHECK_TEXT(found->name, "reference");
    CHECK_OK(backend_find(NULL, NULL, &found));
    CHECK_ERROR(backend_find("tpu", NULL, &found), COAR_ERROR_USAGE, "tpu");
    status_clear();
    CHECK_OK(ablation_parse("zero", &a));
    CHECK_INT(a.kind, ABLATION_ZERO);
    CHECK_OK(ablation_parse("mean", &a));
    CHECK_INT(a.kind, ABLATION_MEAN);
    CHECK_OK(ablation_parse("scale:-0.5", &a));
    CHECK_INT(a.kind, ABLATION_SCALE);
    CHECK_NEAR(a.gain, -0.5, 0);
    static const char *const wrong[] = {"",         "none",      "scale:",    "scale:x",
                                        "scale:1x", "scale:nan", "scale:inf", "scale:1e99"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_ERROR(ablation_parse(wrong[i], &a), COAR_ERROR_USAGE, "ablation");
        status_clear();
    }
}

int main(void) {
    not_a_number();
    all_ones();
    threads_and_batches();
    mask_forms();
    edited_weights();
    row_sums();
    prepare_errors();
    names();
    return test_end();
}
