/*
 * digits.c - the networks of data/ against PyTorch: from weight file and pixels to margins, on every backend, and in every form
 * that convolutions have on CPUs.
 * Goldens: tools/golden_digits.py (margins in doubles, weight rows set to zero).
 */
#include "digits.h"
#include "backend/backend.h"
#include "core/npy.h"
#include "model/model.h"
#include "test.h"

enum { EXAMPLES = DIGITS_EXAMPLES, MASKS = 20, COMPONENTS_MAX = 896, SIDE = DIGITS_SIDE };

static npy_array open_golden(const char *name) {
    npy_array array = {0};
    char path[128];
    snprintf(path, sizeof path, "golden/digits/%s.npy", name);
    CHECK_OK(npy_open(test_path(path), &array));
    return array;
}

/* Masks of the golden, then one that keeps everything: bits[MASKS + 1][mask_bytes(n)]. */
static void read_masks(const char *net, uint32_t n, uint8_t *bits) {
    char name[64];
    snprintf(name, sizeof name, "%s-masks", net);
    npy_array masks = open_golden(name);
    CHECK_INT(masks.count, (size_t)MASKS * n);
    memset(bits, 0, (MASKS + 1) * mask_bytes(n));
    for (size_t i = 0; i <= MASKS && masks.count == (size_t)MASKS * n; i++)
        for (size_t j = 0; j < n; j++)
            if (i == MASKS || npy_get_int(&masks, i * n + j))
                bits[i * mask_bytes(n) + j / 8] |= (uint8_t)(1 << (j % 8));
    npy_close(&masks);
}

static void compare(const char *net, const char *what, const float *actual, size_t count) {
    char name[64];
    snprintf(name, sizeof name, "%s-%s", net, what);
    npy_array golden = open_golden(name);
    CHECK_INT(golden.count, count);
    double worst = 0;
    for (size_t i = 0; i < count && i < golden.count; i++)
        worst = fmax(worst, fabs((double)actual[i] - npy_get_double(&golden, i)));
    CHECK_NEAR(worst, 0, 1e-4); /* fp32 in a few layers on margins of about 5 */
    npy_close(&golden);
}

/* A way to compute a network. */
typedef struct way {
    const char *backend, *what;
    int exact;
    bool compacted; /* where the plan's rule says so; else ablated channels stay in what reads them */
} way;

static const way ways[] = {
    {"reference", "", 0, true},
    {"cpu", "", 0, true},
    {"cpu", ", direct", 1, true},
    {"cpu", ", nothing left out", 0, false},
    {"cpu", ", direct, nothing left out", 1, false},
};
enum { WAYS = sizeof ways / sizeof *ways, FIRST_OF_CPU = 1 };

static void leave_nothing_out(numerics_plan *plan) {
    for (size_t i = 0; i < plan->layers; i++)
        if (plan_is_compacted(plan->form[i]))
            plan->form[i] = plan_is_winograd(plan->form[i]) ? FORM_WINOGRAD : FORM_DIRECT;
}

/* The last mask keeps everything: its margins are the unablated network's to the bit. */
static void check_kept(const model *m, backend *b, const output_spec *output, const digits_examples *d,
                       const float *margins) {
    enum { CLASSES = 10 };
    float logits[EXAMPLES][CLASSES];
    CHECK_INT(m->classes, CLASSES);
    if (m->classes != CLASSES) return;
    CHECK_OK(b->interface->logits(b, logits[0]));
    int wrong = 0;
    for (size_t e = 0; e < EXAMPLES; e++)
        wrong +=
            output_value(output, &(logits_view){logits[e], 1, CLASSES, .label = (uint32_t)d->labels[e]}) != margins[e];
    CHECK_INT(wrong, 0);
}

static coar_status compute(const model *m, const way *w, const digits_examples *d, const mask_range *masks,
                           float *margins) {
    coar_status status;
    thread_pool *pool = NULL;
    numerics_plan plan = {0};
    backend *b = NULL;
    const backend_interface *interface = NULL;
    output_spec output[OUTPUTS_MAX];
    size_t outputs;
    TRY_GOTO(backend_find(w->backend, NULL, &interface));
    TRY_GOTO(thread_pool_create(2, &pool));
    TRY_GOTO(plan_create(m->graph, w->backend, "fp32", w->exact, &plan));
    if (!w->compacted) leave_nothing_out(&plan);
    TRY_GOTO(output_parse("margin", m->graph, output, &outputs));
    const backend_settings settings = {.graph = m->graph,
                                       .plan = &plan,
                                       .outputs = output,
                                       .output_count = outputs,
                                       .pool = pool,
                                       .memory = 256 << 20,
                                       .examples_max = EXAMPLES,
                                       .masks_max = MASKS + 1};
    TRY_GOTO(interface->prepare(&settings, &b));
    const example_batch batch = {
        .inputs = d->images[0], .labels = d->labels, .count = EXAMPLES, .mean = m->mean, .std = m->std};
    TRY_GOTO(interface->bind(b, &batch));
    TRY_GOTO(interface->run(b, masks, margins));
    check_kept(m, b, output, d, margins + MASKS * EXAMPLES);
done:
    if (b) interface->destroy(b);
    plan_free(&plan);
    thread_pool_destroy(pool);
    return status;
}

static double farthest(const float a[MASKS][EXAMPLES], const float b[MASKS][EXAMPLES]) {
    double worst = 0;
    for (size_t i = 0; i < MASKS; i++)
        for (size_t e = 0; e < EXAMPLES; e++) worst = fmax(worst, fabs((double)a[i][e] - b[i][e]));
    return worst;
}

/* Forms differ by rounding, and a ResNet's by more than nothing: each was another way to compute. */
static void compare_ways(const char *net, float margins[WAYS][MASKS + 1][EXAMPLES]) {
    for (size_t a = FIRST_OF_CPU; a < WAYS; a++)
        for (size_t b = a + 1; b < WAYS; b++) {
            const double worst = farthest(margins[a], margins[b]);
            CHECK_NEAR(worst, 0, 5e-5);
            if (!strcmp(net, "resnet")) CHECK(worst > 0);
        }
}

static void margins_of(const char *net, uint32_t components, const digits_examples *d) {
    static uint8_t bits[(MASKS + 1) * ((COMPONENTS_MAX + 7) / 8)];
    static float margins[WAYS][MASKS + 1][EXAMPLES];
    char path[64];
    snprintf(path, sizeof path, "../data/digits-%s.safetensors", net);
    const model_options options = {.image_height = SIDE, .image_width = SIDE};
    model *m = NULL;
    test_begin("digits: %s", net);
    CHECK_OK(model_open(test_path(path), &options, &m));
    if (!m) return;
    CHECK_INT(m->graph->components, components);
    CHECK(m->has_normalisation);
    for (size_t i = 0; i < WAYS && m->graph->components == components; i++) {
        test_begin("digits: %s, %s%s gives PyTorch's margins", net, ways[i].backend, ways[i].what);
        read_masks(net, components, bits);
        const mask_range masks = {.count = MASKS + 1, .n = components, .bits = bits};
        CHECK_OK(compute(m, &ways[i], d, &masks, margins[i][0]));
        compare(net, "margins", margins[i][0], (size_t)MASKS * EXAMPLES);
        compare(net, "baseline", margins[i][MASKS], EXAMPLES);
    }
    test_begin("digits: %s, forms differ by rounding", net);
    compare_ways(net, margins);
    model_destroy(m);
}

static void component_counts(void) {
    test_begin("digits: blocks and heads, and the image's side from the file");
    static const struct {
        const char *net;
        component_set set;
        uint32_t components;
    } cases[] = {{"resnet", SET_BLOCKS, 3}, {"vit", SET_BLOCKS, 8}, {"vit", SET_HEADS, 16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[64];
        snprintf(path, sizeof path, "../data/digits-%s.safetensors", cases[i].net);
        const model_options options = {.set = cases[i].set};
        model *m = NULL;
        CHECK_OK(model_open(test_path(path), &options, &m));
        if (!m) continue;
        CHECK_INT(m->graph->components, cases[i].components);
        CHECK_INT(m->graph->values[0].h, SIDE);
        CHECK_INT(m->graph->values[0].c, 1);
        model_destroy(m);
    }
}

int main(void) {
    static digits_examples d;
    test_begin("digits: data");
    digits_read(&d);
    margins_of("resnet", 180, &d);
    margins_of("vit", COMPONENTS_MAX, &d);
    component_counts();
    return test_end();
}
