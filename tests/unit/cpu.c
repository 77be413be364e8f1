/*
 * cpu.c - the cpu backend against the reference, on small random nets with every op, odd sizes and borders; and what
 * its outputs must not depend on: threads, memory, the masks and examples beside them.
 */
#include "test.h"

#include "backend/backend.h"
#include "backend/cpu/cpu_isa.h"
#include "core/philox.h"

enum { MASKS = 4, EXAMPLES_MAX = 70, CLASSES = 7 };

/* ---------------------------------------------------------------------------------------- random nets */

static uint32_t random_block;

/* Uniform in [-1, 1). */
static float random_value(void) {
    uint32_t words[4];
    philox_words(12345, 7, 0, random_block++, words);
    return (float)(words[0] >> 8) / (1 << 23) - 1;
}

static float *random_array(graph *g, size_t count, float centre, float spread) {
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = centre + spread * random_value();
    CHECK_OK(graph_own(g, values));
    return values;
}

/* A net under construction: components are numbered as sites are added. */
typedef struct net {
    graph *g;
    uint32_t components;
} net;

static mask_site site(net *n, mask_place place, uint32_t channels, uint32_t width) {
    if (place == PLACE_NONE) return (mask_site){0};
    mask_site s = {.place = place, .first = n->components, .count = channels / width, .width = width};
    n->components += s.count;
    return s;
}

static int add(net *n, op o, uint32_t channels) {
    int value = -1;
    snprintf(o.name, sizeof o.name, "op%zu", n->g->op_count);
    CHECK_OK(graph_add(n->g, &o, channels, &value));
    return value;
}

typedef struct conv_spec {
    uint32_t channels, kernel_h, kernel_w, stride, pad;
    activation act;
    mask_place place;
    uint32_t width;
} conv_spec;

static int conv(net *n, int input, int residual, conv_spec s) {
    const uint32_t inputs = n->g->values[input].c;
    const size_t patch = (size_t)inputs * s.kernel_h * s.kernel_w;
    op o = {
        .kind = OP_CONV,
        .input = {input, -1, -1},
        .residual = residual,
        .kernel_h = s.kernel_h,
        .kernel_w = s.kernel_w,
        .stride = s.stride,
        .pad = s.pad,
        .act = s.act,
        .weight = random_array(n->g, patch * s.channels, 0, 1.7f / sqrtf((float)patch)),
        .scale = random_array(n->g, s.channels, 1, 0.5f),
        .shift = random_array(n->g, s.channels, 0.2f, 0.5f),
        .mask = site(n, s.place, s.channels, s.width ? s.width : 1),
    };
    return add(n, o, s.channels);
}

static int pool(net *n, op_kind kind, int input, uint32_t kernel_h, uint32_t kernel_w, uint32_t stride, uint32_t pad) {
    op o = {.kind = kind,
            .input = {input, -1, -1},
            .kernel_h = kernel_h,
            .kernel_w = kernel_w,
            .stride = stride,
            .pad = pad};
    return add(n, o, 0);
}

static graph *finish(net *n, int logits) {
    CHECK_OK(graph_finish(n->g, logits, n->components));
    return n->g;
}

/* Basic blocks, a bottleneck and every window op; 11 x 9 pixels. */
static graph *convolutions(void) {
    net n = {0};
    CHECK_OK(graph_create((shape){11, 9, 3}, 0, &n.g));
    int x = conv(&n, 0, -1, (conv_spec){13, 3, 3, 1, 1, ACT_RELU, PLACE_PRE, 1});
    int y = conv(&n, x, -1, (conv_spec){7, 3, 3, 1, 1, ACT_RELU, PLACE_PRE, 1}); /* left out of the next */
    x = conv(&n, y, x, (conv_spec){13, 3, 3, 1, 1, ACT_RELU, PLACE_PRE, 1});     /* over its residual */
    y = conv(&n, x, -1, (conv_spec){5, 1, 1, 1, 0, ACT_RELU, PLACE_PRE, 1});
    y = conv(&n, y, -1, (conv_spec){19, 5, 5, 2, 2, ACT_GELU_TANH, PLACE_PRE, 1}); /* reads and leaves out */
    op shortcut = {.kind = OP_SUBSAMPLE, .input = {x, -1, -1}, .stride = 2, .pad = 1};
    x = add(&n, shortcut, 17);
    x = conv(&n, y, x, (conv_spec){17, 3, 3, 1, 1, ACT_RELU, PLACE_POST, 17}); /* a whole branch is one component */
    x = pool(&n, OP_MAXPOOL, x, 3, 2, 1, 1);
    x = conv(&n, x, -1, (conv_spec){17, 3, 4, 1, 1, ACT_QUICKGELU, PLACE_NONE, 0});
    y = conv(&n, x, -1, (conv_spec){17, 3, 3, 2, 1, ACT_GELU_ERF, PLACE_OUT, 1});
    x = conv(&n, pool(&n, OP_MAXPOOL, x, 3, 3, 2, 1), y, (conv_spec){17, 1, 1, 1, 0, ACT_RELU, PLACE_POST, 1});
    x = pool(&n, OP_AVGPOOL, pool(&n, OP_AVGPOOL, x, 2, 3, 1, 0), 2, 1, 1, 0);
    return finish(&n, conv(&n, x, -1, (conv_spec){CLASSES, 1, 1, 1, 0, ACT_NONE, PLACE_NONE, 0}));
}

static int layernorm(net *n, int input, mask_place place, bool affine) {
    const uint32_t channels = n->g->values[input].c;
    op o = {.kind = OP_LAYERNORM, .input = {input, -1, -1}, .eps = 1e-6f, .mask = site(n, place, channels, 1)};
    if (affine) o.weight = random_array(n->g, channels, 1, 0.3f), o.shift = random_array(n->g, channels, 0, 0.3f);
    return add(n, o, 0);
}

/* A pre-norm transformer block; `act` in its hidden layer. Masked at PRE, or at OUT as GPT-2 and heads are. */
static int transformer_block(net *n, int x, activation act, mask_place place, uint32_t heads) {
    const uint32_t width = n->g->values[x].c;
    const bool out = place == PLACE_OUT;
    const conv_spec linear = {width, 1, 1, 1, 0, ACT_NONE, out ? PLACE_NONE : PLACE_PRE, 1};
    int y = layernorm(n, x, out ? PLACE_OUT : PLACE_NONE, true);
    int q = conv(n, y, -1, linear), k = conv(n, y, -1, linear), v = conv(n, y, -1, linear);
    op attention = {.kind = OP_ATTENTION,
                    .input = {q, k, v},
                    .heads = heads,
                    .mask = site(n, out ? PLACE_OUT : PLACE_NONE, width, width / heads)};
    x = conv(n, add(n, attention, 0), x, linear);
    y = layernorm(n, x, PLACE_NONE, false);
    y = conv(n, y, -1, (conv_spec){2 * width + 3, 1, 1, 1, 0, act, place, 1});
    return conv(n, y, x, linear);
}

/* 10 x 6 pixels in patches of 2: 15 patches and the class token. */
static graph *transformer(void) {
    net n = {0};
    CHECK_OK(graph_create((shape){10, 6, 3}, 0, &n.g));
    int x = conv(&n, 0, -1, (conv_spec){15, 2, 2, 2, 0, ACT_NONE, PLACE_NONE, 0});
    op embed = {.kind = OP_EMBED, .input = {x, -1, -1}, .weight = random_array(n.g, 16 * 15, 0, 0.5f)};
    x = add(&n, embed, 0);
    x = transformer_block(&n, x, ACT_GELU_ERF, PLACE_PRE, 3);
    x = transformer_block(&n, x, ACT_GELU_TANH, PLACE_OUT, 5);
    op select = {.kind = OP_SELECT, .input = {layernorm(&n, x, PLACE_NONE, true), -1, -1}};
    return finish(&n, conv(&n, add(&n, select, 0), -1, (conv_spec){CLASSES, 1, 1, 1, 0, ACT_NONE, PLACE_NONE, 0}));
}

/* ------------------------------------------------------------------------------------ running them */

static uint8_t images[EXAMPLES_MAX * 11 * 9 * 3];
static int32_t labels[EXAMPLES_MAX];
static const float mean[] = {0.5f, 0.4f, 0.45f}, deviation[] = {0.25f, 0.2f, 0.3f};

static void make_examples(void) {
    for (size_t i = 0; i < sizeof images; i++) images[i] = (uint8_t)(127.5f + 127 * random_value());
    for (size_t e = 0; e < EXAMPLES_MAX; e++) labels[e] = (int32_t)(e * 5 % CLASSES);
}

/* A prepared backend and what it borrows. */
typedef struct setup {
    const graph *g;
    numerics_plan plan;
    thread_pool *pool;
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    backend *b;
} setup;

static size_t elements(const graph *g) {
    return shape_positions(g->values[0]) * g->values[0].c;
}

static backend_settings settings_of(const setup *s, ablation a, size_t memory) {
    return (backend_settings){.graph = s->g,
                              .plan = &s->plan,
                              .ablation = a,
                              .outputs = s->outputs,
                              .output_count = s->output_count,
                              .pool = s->pool,
                              .memory = memory,
                              .examples_max = EXAMPLES_MAX,
                              .masks_max = MASKS};
}

/* The rule's, but nothing is left out of what reads it. */
static void drop_compaction(numerics_plan *plan, const graph *g) {
    for (size_t i = 0; i < plan->layers; i++) {
        if (plan->form[i] == FORM_WINOGRAD_COMPACTED) plan->form[i] = FORM_WINOGRAD;
        if (plan->form[i] == FORM_COMPACTED) plan->form[i] = g->ops[i].kind == OP_CONV ? FORM_DIRECT : FORM_PLAIN;
    }
}

/* `isa`: NULL for the reference. */
static void open_form(setup *s, const graph *g, const char *isa, bool compacted, ablation a, int threads,
                      size_t memory) {
    const backend_interface *interface = NULL;
    *s = (setup){.g = g};
    if (isa) setenv("COAR_ISA", isa, 1);
    CHECK_OK(plan_create(g, isa ? "cpu" : "reference", "fp32", 0, &s->plan));
    if (!compacted) drop_compaction(&s->plan, g);
    CHECK_OK(thread_pool_create(threads, &s->pool));
    CHECK_OK(
        output_parse(g->vocabulary ? "margin,loss,logit" : "margin,loss,logit:2", g, s->outputs, &s->output_count));
    CHECK_OK(backend_find(isa ? "cpu" : "reference", NULL, &interface));
    backend_settings settings = settings_of(s, a, memory);
    CHECK_OK(interface->prepare(&settings, &s->b));
}

static void open_backend(setup *s, const graph *g, const char *isa, ablation a, int threads, size_t memory) {
    open_form(s, g, isa, true, a, threads, memory);
}

static void close_backend(setup *s) {
    s->b->interface->destroy(s->b);
    thread_pool_destroy(s->pool);
    plan_free(&s->plan);
    unsetenv("COAR_ISA");
}

static void bind(setup *s, uint32_t first, uint32_t count) {
    example_batch batch = {.inputs = images + first * elements(s->g),
                           .labels = labels + first,
                           .count = count,
                           .first = first,
                           .mean = mean,
                           .std = deviation};
    CHECK_OK(s->b->interface->bind(s->b, &batch));
}

#define SENTINEL 12345.5f

/* Outputs of masks for the bound examples, [output][S][E], with sentinels behind. */
static float *outputs_of(setup *s, const mask_range *masks, uint32_t examples) {
    const size_t count = s->output_count * masks->count * examples;
    float *y = malloc((count + 16) * sizeof *y);
    for (size_t i = 0; i < count + 16; i++) y[i] = SENTINEL;
    CHECK_OK(s->b->interface->run(s->b, masks, y));
    for (size_t i = count; i < count + 16; i++) CHECK(y[i] == SENTINEL);
    return y;
}

/* Largest difference over the largest value. */
static double difference(const float *a, const float *b, size_t count) {
    double largest = 0, apart = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(fabs((double)a[i] - b[i]) <= apart)) apart = fabs((double)a[i] - b[i]);
        if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
    }
    return apart / largest;
}

static sampler random_masks(const graph *g) {
    return (sampler){.kind = SAMPLER_BERNOULLI, .seed = 3, .alpha = 0.25, .n = g->components};
}

static mask_range generated(const sampler *s) {
    return (mask_range){.count = MASKS, .n = s->n, .sampler = s};
}

/* ----------------------------------------------------------------------------------------- the tests */

/* Real-valued keeps: a third zeros, a third ones, the rest between and beyond. */
static float *real_keeps(const graph *g) {
    float *keeps = malloc((size_t)MASKS * g->components * sizeof *keeps);
    for (size_t i = 0; i < (size_t)MASKS * g->components; i++)
        keeps[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 1.5f * random_value();
    return keeps;
}

static void compare_counts(const graph *g, const char *isa, ablation a, const mask_range *masks,
                           const float *expected) {
    static const uint32_t counts[] = {1, 31, 32, 33, 70};
    setup cpu;
    open_backend(&cpu, g, isa, a, 2, SIZE_MAX);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const uint32_t n = counts[i];
        bind(&cpu, 0, n);
        float *y = outputs_of(&cpu, masks, n);
        for (size_t row = 0; row < cpu.output_count * masks->count; row++)
            CHECK_NEAR(difference(y + row * n, expected + row * EXAMPLES_MAX, n), 0, 1e-4);
        free(y);
    }
    close_backend(&cpu);
}

/* Every instruction set against one run of the reference. */
static void compare_with_reference(const char *name, const char *what, const graph *g, ablation a,
                                   const mask_range *masks) {
    setup truth;
    open_backend(&truth, g, NULL, a, 2, SIZE_MAX);
    bind(&truth, 0, EXAMPLES_MAX);
    float *expected = outputs_of(&truth, masks, EXAMPLES_MAX);
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i])) continue; /* cpu_isa.c says so */
        test_begin("%s, %s: %s", cpu_isas[i].name, name, what);
        compare_counts(g, cpu_isas[i].name, a, masks, expected);
    }
    free(expected);
    close_backend(&truth);
}

static void test_against_reference(const char *name, const graph *g) {
    const sampler s = random_masks(g);
    const mask_range masks = generated(&s);
    ablation a = {0};
    float *fill = malloc(g->rows * sizeof *fill), *keeps = real_keeps(g);
    for (uint32_t r = 0; r < g->rows; r++) fill[r] = 0.5f * random_value();

    compare_with_reference(name, "zero ablation as the reference", g, a, &masks);
    CHECK_OK(ablation_parse("scale:0.3", &a));
    compare_with_reference(name, "scale:0.3", g, a, &masks);
    CHECK_OK(ablation_parse("mean", &a));
    a.fill = fill;
    compare_with_reference(name, "mean", g, a, &masks);
    const mask_range real = {.count = MASKS, .n = g->components, .keeps = keeps};
    compare_with_reference(name, "real-valued keeps", g, a, &real);
    free(keeps);
    free(fill);
}

static void test_logits_and_means(const char *name, const graph *g, const char *isa) {
    setup cpu, truth;
    float logits[EXAMPLES_MAX * CLASSES], expected[EXAMPLES_MAX * CLASSES];
    double *sums = calloc(g->rows, sizeof *sums), *expected_sums = calloc(g->rows, sizeof *sums), largest = 0;
    test_begin("%s, %s: logits and row sums of the unablated model", isa, name);
    open_backend(&truth, g, NULL, (ablation){0}, 2, SIZE_MAX);
    open_backend(&cpu, g, isa, (ablation){0}, 2, SIZE_MAX);
    bind(&truth, 0, EXAMPLES_MAX);
    bind(&cpu, 0, EXAMPLES_MAX);
    CHECK_OK(truth.b->interface->logits(truth.b, expected));
    CHECK_OK(cpu.b->interface->logits(cpu.b, logits));
    CHECK_NEAR(difference(logits, expected, EXAMPLES_MAX * CLASSES), 0, 1e-4);
    CHECK_OK(truth.b->interface->collect_row_sums(truth.b, expected_sums));
    CHECK_OK(cpu.b->interface->collect_row_sums(cpu.b, sums));
    for (uint32_t r = 0; r < g->rows; r++) largest = fmax(largest, fabs(expected_sums[r]));
    for (uint32_t r = 0; r < g->rows; r++) CHECK_NEAR(sums[r] / largest, expected_sums[r] / largest, 1e-5);

    /* All components kept is the unablated model, in every form, to the bit. */
    const size_t bytes = mask_bytes(g->components);
    uint8_t *ones = malloc(bytes);
    memset(ones, 255, bytes);
    float *y = outputs_of(&cpu, &(mask_range){.count = 1, .n = g->components, .bits = ones}, EXAMPLES_MAX);
    for (size_t e = 0; e < EXAMPLES_MAX; e++) CHECK(y[2 * EXAMPLES_MAX + e] == logits[e * CLASSES + 2]);
    free(y);
    free(ones);
    free(sums);
    free(expected_sums);
    close_backend(&cpu);
    close_backend(&truth);
}

/* The bytes of a whole run: MASKS masks, all examples. */
static float *whole_run(const graph *g, const char *isa, int threads, size_t memory) {
    const sampler s = random_masks(g);
    setup cpu;
    open_backend(&cpu, g, isa, (ablation){0}, threads, memory);
    bind(&cpu, 0, EXAMPLES_MAX);
    float *y = outputs_of(&cpu, &(mask_range){.count = MASKS, .n = s.n, .sampler = &s}, EXAMPLES_MAX);
    close_backend(&cpu);
    return y;
}

static void test_independence(const char *name, const graph *g, const char *isa) {
    const size_t row = EXAMPLES_MAX * sizeof(float), all = 3 * MASKS * row;
    const sampler s = random_masks(g);
    float *y = whole_run(g, isa, 1, SIZE_MAX);

    test_begin("%s, %s: the same bytes with 3 threads, and with the least memory", isa, name);
    setup cpu;
    size_t least, best;
    float *other = whole_run(g, isa, 3, SIZE_MAX);
    CHECK(!memcmp(y, other, all));
    free(other);
    open_backend(&cpu, g, isa, (ablation){0}, 3, SIZE_MAX);
    backend_settings settings = settings_of(&cpu, (ablation){0}, SIZE_MAX);
    CHECK_OK(cpu.b->interface->memory(&settings, &least, &best));
    CHECK(least < best);
    other = whole_run(g, isa, 3, least);
    CHECK(!memcmp(y, other, all));
    free(other);

    test_begin("%s, %s: the same bytes one mask at a time, and as bits or keeps", isa, name);
    bind(&cpu, 0, EXAMPLES_MAX);
    uint8_t *bits = malloc(mask_bytes(s.n));
    float *keeps = malloc(s.n * sizeof *keeps);
    for (size_t m = 0; m < MASKS; m++) {
        sampler_mask(&s, m, bits, NULL);
        for (uint32_t j = 0; j < s.n; j++) keeps[j] = bits[j / 8] >> j % 8 & 1;
        const mask_range forms[] = {{.count = 1, .n = s.n, .sampler = &s, .first = m},
                                    {.count = 1, .n = s.n, .bits = bits},
                                    {.count = 1, .n = s.n, .keeps = keeps}};
        for (size_t form = 0; form < 3; form++) {
            float *one = outputs_of(&cpu, &forms[form], EXAMPLES_MAX);
            for (size_t k = 0; k < 3; k++)
                CHECK(!memcmp(one + k * EXAMPLES_MAX, y + (k * MASKS + m) * EXAMPLES_MAX, row));
            free(one);
        }
    }
    free(bits);
    free(keeps);

    test_begin("%s, %s: the same bytes in smaller batches", isa, name);
    for (uint32_t first = 0; first < EXAMPLES_MAX; first += 32) {
        const uint32_t count = EXAMPLES_MAX - first < 32 ? EXAMPLES_MAX - first : 32;
        bind(&cpu, first, count);
        float *part = outputs_of(&cpu, &(mask_range){.count = MASKS, .n = s.n, .sampler = &s}, count);
        for (size_t r = 0; r < 3 * MASKS; r++)
            CHECK(!memcmp(part + r * count, y + r * EXAMPLES_MAX + first, count * sizeof *y));
        free(part);
    }
    close_backend(&cpu);
    free(y);
}

/* Outputs of a group of 32 examples under all masks; `executed`: flops. */
static float *form_outputs(const graph *g, const char *isa, bool compacted, ablation a, const mask_range *masks,
                           double *executed) {
    setup cpu;
    double dense;
    open_form(&cpu, g, isa, compacted, a, 1, SIZE_MAX);
    bind(&cpu, 0, 32);
    float *y = outputs_of(&cpu, masks, 32);
    cpu.b->interface->work(cpu.b, executed, &dense);
    close_backend(&cpu);
    return y;
}

static void test_compaction(const char *name, const graph *g, const char *isa) {
    static const char *const kinds[] = {"zero", "mean", "scale:0.3"};
    const sampler s = random_masks(g);
    const mask_range masks = generated(&s);
    float *fill = malloc(g->rows * sizeof *fill);
    for (uint32_t r = 0; r < g->rows; r++) fill[r] = 0.5f * random_value();
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        ablation a;
        double executed[2];
        CHECK_OK(ablation_parse(kinds[k], &a));
        if (!strcmp(kinds[k], "mean")) a.fill = fill;
        test_begin("%s, %s: compacted equals not compacted, %s", isa, name, kinds[k]);
        float *y = form_outputs(g, isa, true, a, &masks, &executed[0]);
        float *expected = form_outputs(g, isa, false, a, &masks, &executed[1]);
        CHECK_NEAR(difference(y, expected, 3 * MASKS * 32), 0, 1e-5);
        if (strcmp(kinds[k], "scale:0.3"))
            CHECK(executed[0] < 0.95 * executed[1]);
        else
            CHECK(executed[0] == executed[1]); /* nothing has keep 0 */
        free(y);
        free(expected);
    }
    free(fill);
}

/* See cpu_gradients.c. */
static void test_same_on_all(const char *name, const graph *g) {
    const size_t all = (size_t)3 * MASKS * EXAMPLES_MAX * sizeof(float);
    float *expected = NULL;
    test_begin("%s: the same bytes on all instruction sets with a fused multiply-add", name);
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        if (!cpu_isa_runs(&cpu_isas[i]) || !strcmp(cpu_isas[i].name, "portable")) continue;
        float *y = whole_run(g, cpu_isas[i].name, 1, SIZE_MAX);
        if (!expected) expected = y;
        if (memcmp(y, expected, all)) test_fail(__FILE__, __LINE__, "%s differs", cpu_isas[i].name);
        if (y != expected) free(y);
    }
    if (!expected) test_skip("this machine has none");
    free(expected);
}

/* Every component of a net of one masked layer after another ablated: nothing but constants is left. */
static void test_all_ablated(const char *name, const graph *g, const char *isa) {
    uint8_t *none = calloc(mask_bytes(g->components), 1);
    const mask_range masks = {.count = 1, .n = g->components, .bits = none};
    setup cpu, truth;
    double executed, dense;
    test_begin("%s, %s: everything ablated", isa, name);
    open_backend(&truth, g, NULL, (ablation){0}, 1, SIZE_MAX);
    open_backend(&cpu, g, isa, (ablation){0}, 1, SIZE_MAX);
    bind(&truth, 0, 32);
    bind(&cpu, 0, 32);
    float *expected = outputs_of(&truth, &masks, 32), *y = outputs_of(&cpu, &masks, 32);
    CHECK_NEAR(difference(y, expected, 3 * 32), 0, 1e-4);
    cpu.b->interface->work(cpu.b, &executed, &dense);
    CHECK(executed > 0 && executed < 0.5 * dense);
    CHECK_NEAR(dense, 32 * graph_flops(g), 1);
    free(expected);
    free(y);
    free(none);
    close_backend(&cpu);
    close_backend(&truth);
}

static void test_refusals(const graph *g) {
    setup cpu;
    backend *refused = NULL;
    test_begin("memory that does not suffice");
    open_backend(&cpu, g, "portable", (ablation){0}, 2, SIZE_MAX);
    backend_settings settings = settings_of(&cpu, (ablation){0}, 1 << 16);
    CHECK_ERROR(backend_cpu.prepare(&settings, &refused), COAR_ERROR_MEMORY, "--memory");
    CHECK(!refused);
    test_begin("a label beyond the classes");
    status_clear();
    labels[3] = CLASSES;
    example_batch batch = {.inputs = images, .labels = labels, .count = 5, .mean = mean, .std = deviation};
    CHECK_ERROR(backend_cpu.bind(cpu.b, &batch), COAR_ERROR_INPUT, "example 3 has label 7");
    labels[3] = 0;
    test_begin("a plan for another backend");
    status_clear();
    settings.memory = SIZE_MAX;
    snprintf(cpu.plan.device_class, sizeof cpu.plan.device_class, "reference");
    CHECK_ERROR(backend_cpu.prepare(&settings, &refused), COAR_ERROR_MISMATCH, "reference");
    close_backend(&cpu);
}

int main(void) {
    graph *nets[] = {convolutions(), transformer()};
    static const char *const names[] = {"convolutions", "transformer"};
    make_examples();
    for (size_t k = 0; k < 2; k++) test_against_reference(names[k], nets[k]);
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        const char *isa = cpu_isas[i].name;
        if (!cpu_isa_runs(&cpu_isas[i])) continue;
        for (size_t k = 0; k < 2; k++) {
            test_logits_and_means(names[k], nets[k], isa);
            if (!cpu_isas[i].emulated) test_independence(names[k], nets[k], isa);
            test_compaction(names[k], nets[k], isa);
        }
        for (size_t k = 0; k < 2; k++) test_all_ablated(names[k], nets[k], isa);
    }
    for (size_t k = 0; k < 2; k++) test_same_on_all(names[k], nets[k]);
    test_refusals(nets[1]);
    for (size_t k = 0; k < 2; k++) graph_destroy(nets[k]);
    return test_end();
}
