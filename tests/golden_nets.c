/* golden_nets.c - see golden_nets.h. */
#include "golden_nets.h"

#include "engines.h"
#include "test.h"

const golden_net golden_nets[] = {
    {"cifar_option_a", "cifar_option_a", "32x32", "resnet8"},
    {"cifar_shortcut", "cifar_shortcut", "32x32", "resnet"},
    {"basic_cifar_stem", "basic_cifar_stem", "32x32", "resnet"},
    {"bottleneck", "bottleneck", "45x37", "resnet"},
    {"mini_resnet", "mini_resnet", "32x32", "mini_resnet"},
    {"vit_torchvision", "vit", "32x32", "vit"},
    {"vit_timm", "vit", "32x32", "vit"},
    {"vit_hf", "vit", "32x32", "vit"},
    {"gpt2", "gpt2", "tokens", "gpt2"},
    {"gpt2_prefixed", "gpt2", "tokens", "gpt2"},
    {"clip_vit_openai", "clip_vit", "32x32", "clip_vit", "clip-classes"},
    {"clip_vit_openclip", "clip_vit_erf", "32x32", "clip_vit", "clip-classes"},
    {"clip_vit_hf", "clip_vit", "32x32", "clip_vit", "clip-classes"},
    {"clip_rn", "clip_rn", "32x32", "clip_rn", "clip-classes"},
};
const size_t golden_net_count = sizeof golden_nets / sizeof *golden_nets;

static const char *path_of(const char *name, const char *middle, const char *suffix) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s%s%s", name, middle, suffix);
    return test_path(relative);
}

coar_status golden_open(const golden_net *net, const char *file, golden *out) {
    char middle[32];
    float *labels;
    *out = (golden){.net = net};
    TRY(npy_open(path_of("images-", net->images, ".npy"), &out->images));
    snprintf(middle, sizeof middle, "-%s", file);
    TRY(safetensors_open(path_of(net->golden, middle, ".safetensors"), &out->table));
    out->examples = (uint32_t)out->images.shape[0];
    out->labels = calloc(out->examples, sizeof *out->labels);
    TRY(tensor_to_f32(&out->table, tensor_find(&out->table, "labels"), &labels));
    for (uint32_t i = 0; i < out->examples; i++) out->labels[i] = (int32_t)labels[i];
    free(labels);
    return COAR_OK;
}

void golden_close(golden *g) {
    tensor_table_close(&g->table);
    npy_close(&g->images);
    free(g->labels);
    *g = (golden){0};
}

static tensor *find(const golden *g, component_set set, const char *part) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", component_set_name(set), part);
    return tensor_find(&g->table, name);
}

bool golden_has(const golden *g, component_set set, const char *part) {
    return find(g, set, part) != NULL;
}

float *golden_array(golden *g, component_set set, const char *part, size_t dimensions, size_t *lengths) {
    float *values = NULL;
    tensor *t = find(g, set, part);
    if (!t) {
        test_fail(__FILE__, __LINE__, "%s: no part %s.%s", g->net->golden, component_set_name(set), part);
        return NULL;
    }
    CHECK_OK(tensor_to_f32(&g->table, t, &values));
    for (size_t i = 0; i < dimensions; i++) lengths[i] = 1;
    for (int i = 0; i < t->rank; i++) lengths[(size_t)i < dimensions ? (size_t)i : dimensions - 1] *= t->shape[i];
    return values;
}

model *golden_copy(const golden *g, const char *weights, component_set set) {
    model *m = NULL;
    const bool texts = g->images.rank == 2;
    char classes[512] = "";
    if (g->net->classes) snprintf(classes, sizeof classes, "%s", path_of(g->net->classes, "", ".npy"));
    model_options options = {.set = set, .classes = *classes ? classes : NULL};
    if (texts) options.tokens = (uint32_t)g->images.shape[1];
    if (!texts) options.image_height = (uint32_t)g->images.shape[1], options.image_width = (uint32_t)g->images.shape[2];
    CHECK_OK(model_open(weights, &options, &m));
    if (!m) return NULL;
    CHECK_TEXT(m->arch, g->net->arch);
    CHECK(m->has_normalisation == !texts);
    return m;
}

model *golden_model(const golden *g, component_set set) {
    return golden_copy(g, path_of(g->net->weights, "", ".safetensors"), set);
}

example_batch golden_batch(const golden *g, const model *m) {
    return (example_batch){
        .inputs = g->images.data, .labels = g->labels, .count = g->examples, .mean = m->mean, .std = m->std};
}

float *golden_margins(const golden *g, const model *m, const char *backend, const char *ablated, const float *keeps) {
    const uint32_t n = m->graph->components;
    engine e;
    uint8_t *bits = calloc(mask_bytes(n), 1);
    engine_options options = {.backend = backend, .outputs = "margin", .examples = g->examples, .masks = 1};
    CHECK_OK(ablation_parse(ablated, &options.ablation));
    for (uint32_t j = 0; j < n; j++)
        if (!keeps || keeps[j] == 1) bits[j / 8] |= (uint8_t)(1u << j % 8);
    const example_batch batch = golden_batch(g, m);
    engine_open(&e, m->graph, options);
    float *margins = engine_run(&e, &batch, &(mask_range){.count = 1, .n = n, .bits = bits});
    engine_close(&e);
    free(bits);
    return margins;
}

float *golden_row_means(const model *m, backend *b, uint32_t examples) {
    const graph *g = m->graph;
    double *sums = calloc(g->rows, sizeof *sums);
    uint32_t *positions = calloc(g->rows, sizeof *positions);
    float *means = calloc(g->rows, sizeof *means);
    CHECK_OK(b->interface->collect_row_sums(b, sums));
    backend_row_positions(g, positions);
    for (uint32_t r = 0; r < g->rows; r++) means[r] = (float)(sums[r] / ((double)examples * positions[r]));
    free(sums);
    free(positions);
    return means;
}
