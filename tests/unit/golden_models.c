/*
 * Every family against PyTorch: tests/golden/models (tools/golden_models.py) holds tiny networks, and the margins that
 * PyTorch computes with components ablated in all three ways and at real-valued keeps; every backend must agree.
 */
#include "backend/backend.h"
#include "core/npy.h"
#include "model/model.h"
#include "test.h"

static const struct golden {
    const char *weights, *golden, *images, *arch;
} goldens[] = {
    {"cifar_option_a", "cifar_option_a", "32x32", "resnet8"},
    {"cifar_shortcut", "cifar_shortcut", "32x32", "resnet"},
    {"basic_cifar_stem", "basic_cifar_stem", "32x32", "resnet"},
    {"bottleneck", "bottleneck", "45x37", "resnet"},
    {"mini_resnet", "mini_resnet", "32x32", "mini_resnet"},
    {"vit_torchvision", "vit", "32x32", "vit"},
    {"vit_timm", "vit", "32x32", "vit"},
    {"vit_hf", "vit", "32x32", "vit"},
};

static const char *const backends[] = {"reference", "cpu"};

enum { MASKS_MAX = 8 };

/* What one comparison needs, and the worst difference seen. */
typedef struct fixture {
    const struct golden *g;
    tensor_table table; /* of the golden file */
    npy_array images;
    int32_t *labels;
    uint32_t examples;
    const char *backend;
    thread_pool *pool;
    double worst;
} fixture;

static const char *golden_path(const char *name, const char *suffix) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s%s", name, suffix);
    return test_path(relative);
}

/* SET.part of the golden file as fp32 [rows][columns]; NULL when it has none. */
static float *golden_array(fixture *f, component_set set, const char *part, size_t *rows, size_t *columns) {
    char name[64];
    float *values = NULL;
    snprintf(name, sizeof name, "%s.%s", component_set_name(set), part);
    tensor *t = tensor_find(&f->table, name);
    if (!t) return NULL;
    CHECK_OK(tensor_to_f32(&f->table, t, &values));
    CHECK_INT(t->rank, 2);
    *rows = t->shape[0];
    *columns = t->shape[1];
    return values;
}

static example_batch batch_of(const fixture *f, const model *m) {
    return (example_batch){
        .images = f->images.data, .labels = f->labels, .count = f->examples, .mean = m->mean, .std = m->std};
}

/* Means of x per masked channel over the examples and positions of the unablated model. */
static float *row_means(const fixture *f, const model *m, backend *b) {
    const graph *g = m->graph;
    double *sums = calloc(g->rows, sizeof *sums);
    uint32_t *positions = calloc(g->rows, sizeof *positions);
    float *means = calloc(g->rows, sizeof *means);
    CHECK_OK(b->interface->collect_row_sums(b, sums));
    backend_row_positions(g, positions);
    for (uint32_t r = 0; r < g->rows; r++) means[r] = (float)(sums[r] / ((double)f->examples * positions[r]));
    free(sums);
    free(positions);
    return means;
}

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
                          .examples_max = f->examples,
                          .masks_max = MASKS_MAX};
    TRY(output_parse("margin", m->classes, outputs, &s.output_count));
    TRY(backend_find(f->backend, &interface));
    TRY(interface->prepare(&s, out));
    example_batch batch = batch_of(f, m);
    coar_status status = interface->bind(*out, &batch);
    if (status == COAR_OK) return COAR_OK;
    interface->destroy(*out);
    *out = NULL;
    return status;
}

/* Margins under `keeps`, as real keeps and (where they are bits and the fill is known) as packed bits. */
static void compare(fixture *f, const model *m, component_set set, const char *ablation_text, const char *keeps_part,
                    const char *margins_part) {
    size_t masks, n, rows, examples;
    float *keeps = golden_array(f, set, keeps_part, &masks, &n), *expected, *means = NULL;
    if (!keeps || !(expected = golden_array(f, set, margins_part, &rows, &examples))) {
        test_fail(__FILE__, __LINE__, "%s: no %s or %s", f->g->golden, keeps_part, margins_part);
        free(keeps);
        return;
    }
    CHECK_INT(n, m->graph->components);
    CHECK_INT(rows, masks);
    CHECK_INT(examples, f->examples);
    ablation how;
    numerics_plan plan = {0};
    backend *b = NULL;
    CHECK_OK(ablation_parse(ablation_text, &how));
    CHECK_OK(plan_create(m->graph, f->backend, "fp32", 0, &plan));
    CHECK_OK(open_backend(f, m, &plan, how, &b));
    if (b && how.kind == ABLATION_MEAN) {
        how.fill = means = row_means(f, m, b);
        b->interface->destroy(b);
        CHECK_OK(open_backend(f, m, &plan, how, &b));
    }
    if (b && n == m->graph->components && masks <= MASKS_MAX) {
        size_t bytes = mask_bytes((uint32_t)n);
        uint8_t *bits = calloc(masks, bytes);
        float *margins = calloc(masks * examples, sizeof *margins);
        bool binary = true;
        for (size_t i = 0; i < masks * n; i++) {
            binary = binary && (keeps[i] == 0 || keeps[i] == 1);
            if (keeps[i] == 1) bits[i / n * bytes + i % n / 8] |= (uint8_t)(1u << (i % n % 8));
        }
        mask_range range = {
            .count = masks, .n = (uint32_t)n, .bits = binary ? bits : NULL, .keeps = binary ? NULL : keeps};
        CHECK_OK(b->interface->run(b, &range, margins));
        for (size_t i = 0; i < masks * examples; i++) {
            double difference = fabs((double)margins[i] - (double)expected[i]);
            if (!(difference <= f->worst)) f->worst = difference;
        }
        free(bits);
        free(margins);
    }
    if (b) b->interface->destroy(b);
    plan_free(&plan);
    free(means);
    free(keeps);
    free(expected);
}

static void compare_set(fixture *f, component_set set) {
    char name[64];
    snprintf(name, sizeof name, "%s.keeps", component_set_name(set));
    if (!tensor_find(&f->table, name)) return;
    model *m = NULL;
    model_options options = {
        .set = set, .image_height = (uint32_t)f->images.shape[1], .image_width = (uint32_t)f->images.shape[2]};
    CHECK_OK(model_open(golden_path(f->g->weights, ".safetensors"), &options, &m));
    if (!m) return;
    CHECK_TEXT(m->arch, f->g->arch);
    CHECK(m->has_normalisation);
    compare(f, m, set, "zero", "keeps", "zero");
    compare(f, m, set, "scale:0.3", "keeps", "scale");
    compare(f, m, set, "mean", "keeps", "mean");
    compare(f, m, set, "zero", "half_keeps", "half");
    model_destroy(m);
}

static coar_status open_fixture(fixture *f) {
    char images[64];
    float *labels;
    snprintf(images, sizeof images, "images-%s", f->g->images);
    TRY(npy_open(golden_path(images, ".npy"), &f->images));
    TRY(safetensors_open(golden_path(f->g->golden, "-golden.safetensors"), &f->table));
    f->examples = (uint32_t)f->images.shape[0];
    f->labels = calloc(f->examples, sizeof *f->labels);
    TRY(tensor_to_f32(&f->table, tensor_find(&f->table, "labels"), &labels));
    for (uint32_t i = 0; i < f->examples; i++) f->labels[i] = (int32_t)labels[i];
    free(labels);
    return thread_pool_create(1, &f->pool);
}

int main(void) {
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++)
        for (size_t k = 0; k < sizeof backends / sizeof *backends; k++) {
            const backend_interface *interface;
            fixture f = {.g = &goldens[i], .backend = backends[k]};
            test_begin("%s: margins of %s are PyTorch's", backends[k], goldens[i].weights);
            if (backend_find(backends[k], &interface) != COAR_OK) {
                test_skip("this build has no backend %s", backends[k]);
                status_clear();
                continue;
            }
            CHECK_OK(open_fixture(&f));
            if (f.pool)
                for (component_set set = SET_FILTERS; set <= SET_BLOCKS; set++) compare_set(&f, set);
            CHECK_NEAR(f.worst, 0, 1e-4);
            printf("# %s, %s: largest difference %.2g\n", backends[k], goldens[i].weights, f.worst);
            thread_pool_destroy(f.pool);
            tensor_table_close(&f.table);
            npy_close(&f.images);
            free(f.labels);
        }
    return test_end();
}
