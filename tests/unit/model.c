/*
 * From weight files to op lists: component counts and orders of docs/design.md, section 2, namings, number formats,
 * random weights. What is wrong with a file or a setting is for model_input.c, what ops compute for golden_models.c.
 */
#include "model/model.h"
#include "backend/backend.h"
#include "core/files.h"
#include "test.h"

static const char *golden_weights(const char *name) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s.safetensors", name);
    return test_path(relative);
}

/* ------------------------------------------------------------------------------- counts and orders */

static const struct count {
    const char *arch;
    component_set set;
    uint32_t components;
    size_t groups;
    int by_file; /* written to a weight file and read back */
} counts[] = {
    {"resnet20", SET_DEFAULT, 688, 19, 1},
    {"resnet20", SET_BLOCKS, 9, 9, 1},
    {"resnet32", SET_FILTERS, 1136, 31, 1},
    {"resnet44", SET_FILTERS, 1584, 43, 0},
    {"resnet56", SET_FILTERS, 2032, 55, 1},
    {"resnet110", SET_FILTERS, 4048, 109, 1},
    {"resnet18_cifar", SET_FILTERS, 3904, 17, 0},
    {"resnet18", SET_FILTERS, 3904, 17, 0},
    {"resnet34", SET_FILTERS, 7616, 33, 0},
    {"resnet50", SET_FILTERS, 22720, 49, 1},
    {"resnet50", SET_BLOCKS, 16, 16, 0},
    {"resnet101", SET_BLOCKS, 33, 33, 0},
    {"mini_resnet_256", SET_FILTERS, 2304, 9, 1},
    {"mini_resnet_256", SET_BLOCKS, 4, 4, 0},
    {"mini_resnet_10", SET_FILTERS, 90, 9, 1},
    {"vit_b_16", SET_DEFAULT, 82944, 72, 1},
    {"vit_b_16", SET_HEADS, 144, 12, 0},
    {"vit_b_16", SET_BLOCKS, 24, 24, 0},
    {"gpt2", SET_DEFAULT, 64512, 48, 0},
    {"gpt2_mini", SET_NEURONS, 1792, 8, 1},
    {"gpt2_mini", SET_HEADS, 4, 2, 1},
    {"gpt2_mini", SET_BLOCKS, 4, 4, 1},
    {"clip_vit_b_16", SET_DEFAULT, 82944, 72, 0},
    {"clip_rn50", SET_DEFAULT, 22784, 51, 0},
};

/* Groups follow each other without holes, and each lies on the op that it names. */
static void check_groups(const model *m) {
    uint32_t next = 0;
    for (size_t i = 0; i < m->group_count; i++) {
        const component_group *g = &m->groups[i];
        const op *found = NULL;
        CHECK_INT(g->first, next);
        next = g->first + g->count;
        for (size_t k = 0; k < m->graph->op_count && !found; k++)
            if (strcmp(m->graph->ops[k].name, g->layer) == 0) found = &m->graph->ops[k];
        CHECK(found && found->mask.place != PLACE_NONE);
        if (found) CHECK_INT(found->mask.first, g->first);
        if (found) CHECK_INT(found->mask.count, g->count);
    }
    CHECK_INT(m->graph->components, next);
}

static model *open_generated(const char *arch, component_set set, int by_file) {
    model *m = NULL;
    model_options options = {.set = set};
    if (by_file) {
        tensor_table table = {0};
        const char *path = test_temporary("generated.safetensors");
        CHECK_OK(model_random_tensors(arch, &table));
        CHECK_OK(safetensors_write(path, &table));
        CHECK_OK(model_open(path, &options, &m));
        if (m) CHECK_INT(strlen(m->sha256), 64);
        tensor_table_close(&table);
    } else {
        CHECK_OK(model_random(arch, &options, &m));
        if (m) CHECK_TEXT(m->sha256, "");
    }
    return m;
}

static void test_counts(void) {
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const struct count *c = &counts[i];
        test_begin("%s has %u %s", c->arch, c->components, component_set_name(c->set));
        model *m = open_generated(c->arch, c->set, c->by_file);
        if (!m) continue;
        CHECK_INT(m->graph->components, c->components);
        CHECK_INT(m->group_count, c->groups);
        CHECK_TEXT(m->arch, strncmp(c->arch, "gpt2", 4) == 0 ? "gpt2" : c->arch);
        check_groups(m);
        model_destroy(m);
    }
}

/* The groups' names from `first` on. */
static void check_order(const char *arch, component_set set, size_t first, const char *const *names, const char *kind) {
    model *m = NULL;
    model_options options = {.set = set};
    const bool golden = strncmp(arch, "vit", 3) == 0 || strcmp(arch, "gpt2") == 0;
    CHECK_OK(golden ? model_open(golden_weights(arch), &options, &m) : model_random(arch, &options, &m));
    if (!m) return;
    for (size_t i = 0; names[i] && first + i < m->group_count; i++) {
        CHECK_TEXT(m->groups[first + i].name, names[i]);
        CHECK_TEXT(m->groups[first + i].kind, kind);
    }
    model_destroy(m);
}

static void test_orders(void) {
    test_begin("groups stand in the published order under canonical names");
    check_order("resnet20", SET_FILTERS, 0,
                (const char *const[]){"conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", NULL}, "filter");
    check_order("resnet50", SET_FILTERS, 9,
                (const char *const[]){"layer1.2.conv3", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.conv3", NULL},
                "filter");
    check_order("resnet20", SET_BLOCKS, 2, (const char *const[]){"layer1.2", "layer2.0", NULL}, "block");
    check_order("mini_resnet_8", SET_FILTERS, 0, (const char *const[]){"conv1", "layer.0.conv1", "layer.0.conv2", NULL},
                "filter");
    check_order("vit_torchvision", SET_NEURONS, 0,
                (const char *const[]){"blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v", "blocks.0.attn.out",
                                      "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.attn.q", NULL},
                "neuron");
    check_order("vit_torchvision", SET_HEADS, 1, (const char *const[]){"blocks.1.attn.heads", NULL}, "head");
    check_order("gpt2", SET_NEURONS, 0,
                (const char *const[]){"blocks.0.attn.c_attn", "blocks.0.attn.c_proj", "blocks.0.mlp.c_fc",
                                      "blocks.0.mlp.c_proj", "blocks.1.attn.c_attn", NULL},
                "neuron");
    check_order("gpt2", SET_HEADS, 1, (const char *const[]){"blocks.1.attn.heads", NULL}, "head");
    check_order("gpt2", SET_BLOCKS, 2, (const char *const[]){"blocks.1.attn", "blocks.1.mlp", NULL}, "block");
    check_order("vit_hf", SET_BLOCKS, 2, (const char *const[]){"blocks.1.attn", "blocks.1.mlp", NULL}, "block");
}

/* ---------------------------------------------------------------------------------- names and choices */

static void test_namings(void) {
    test_begin("the three namings of one ViT give the same op list, values and groups");
    static const char *const namings[] = {"vit_torchvision", "vit_timm", "vit_hf"};
    model *first = NULL;
    for (size_t i = 0; i < 3; i++) {
        model *m = NULL;
        CHECK_OK(model_open(golden_weights(namings[i]), &(model_options){0}, &m));
        if (!first) {
            first = m;
            continue;
        }
        if (!m) continue;
        CHECK_INT(m->graph->op_count, first->graph->op_count);
        CHECK_INT(m->group_count, first->group_count);
        for (size_t k = 0; k < m->group_count; k++) CHECK_TEXT(m->groups[k].name, first->groups[k].name);
        for (size_t k = 0; k < m->graph->op_count; k++) {
            const op *a = &m->graph->ops[k], *b = &first->graph->ops[k];
            size_t count = graph_weight_count(m->graph, a);
            CHECK_TEXT(a->name, b->name);
            CHECK_NEAR(a->eps, b->eps, 0);
            CHECK(count == 0 || memcmp(a->weight, b->weight, count * sizeof(float)) == 0);
        }
        model_destroy(m);
    }
    model_destroy(first);
}

static void check_choice(const char *only, const char *except, size_t groups, uint32_t components) {
    model *m = NULL;
    CHECK_OK(model_random("resnet20", &(model_options){.only = only, .except = except}, &m));
    if (!m) return;
    CHECK_INT(m->group_count, groups);
    CHECK_INT(m->graph->components, components);
    check_groups(m);
    model_destroy(m);
}

static void test_choices(void) {
    model *m = NULL;
    test_begin("--only and --except choose groups, numbered from 0 without holes");
    check_choice("layer2.*", NULL, 6, 192);
    check_choice(NULL, "layer?.*", 1, 16);
    check_choice("layer*", "*.conv2", 9, 3 * (16 + 32 + 64));
    check_choice("layer[13].0.conv[12]", NULL, 4, 2 * 16 + 2 * 64);
    test_begin("a choice of nothing and a set that a model has not are errors");
    CHECK_ERROR(model_random("resnet20", &(model_options){.only = "layer9*"}, &m), COAR_ERROR_USAGE,
                "leave no component group of resnet20; groups have names like 'conv1'");
    status_clear();
    CHECK_ERROR(model_random("resnet20", &(model_options){.set = SET_HEADS}, &m), COAR_ERROR_USAGE, "has no heads");
    status_clear();
    CHECK_ERROR(model_random("vit_b_32", &(model_options){.set = SET_FILTERS}, &m), COAR_ERROR_USAGE, "has no filters");
    status_clear();
    component_set set = SET_BLOCKS;
    CHECK_OK(component_set_parse(NULL, &set));
    CHECK_INT(set, SET_DEFAULT);
    CHECK_OK(component_set_parse("heads", &set));
    CHECK_INT(set, SET_HEADS);
    CHECK_ERROR(component_set_parse("head", &set), COAR_ERROR_USAGE, "'head' is none of filters, neurons");
    status_clear();
    CHECK(m == NULL);
}

/* --------------------------------------------------------------------------------------- number formats */

/* Writes the table as bf16 or fp16 by hand. Both truncate: the values need only be the same for both readers. */
static void write_half(const char *path, const char *dtype, tensor_table *table) {
    FILE *f = fopen(path, "wb");
    char *header = NULL;
    size_t length = 0, offset = 0;
    FILE *text = open_memstream(&header, &length);
    for (size_t i = 0; i < table->count; i++) {
        const tensor *t = &table->items[i];
        fprintf(text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{", t->name, dtype);
        for (int d = 0; d < t->rank; d++) fprintf(text, "%s%zu", d ? "," : "", t->shape[d]);
        fprintf(text, "],\"data_offsets\":[%zu,%zu]}", offset, offset + 2 * t->count);
        offset += 2 * t->count;
    }
    fprintf(text, "}");
    fclose(text);
    uint64_t size = length;
    fwrite(&size, 8, 1, f);
    fwrite(header, 1, length, f);
    for (size_t i = 0; i < table->count; i++)
        for (size_t k = 0; k < table->items[i].count; k++) {
            uint32_t bits;
            memcpy(&bits, &table->items[i].owned[k], 4);
            uint16_t brain = (uint16_t)(bits >> 16),
                     half = (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 13) - 0x1c000) & 0x7fff));
            bool tiny = (bits & 0x7fffffff) < 0x38800000; /* below fp16's normal numbers */
            fwrite(dtype[0] == 'B' ? &brain : tiny ? &(uint16_t){0} : &half, 2, 1, f);
        }
    fclose(f);
    free(header);
}

static void check_half(const char *dtype, double tolerance) {
    tensor_table table = {0};
    model *exact = NULL, *rounded = NULL;
    const char *path = test_temporary("half.safetensors");
    CHECK_OK(model_random_tensors("mini_resnet_5", &table));
    write_half(path, dtype, &table);
    CHECK_OK(model_build(&table, &(model_options){0}, &exact));
    CHECK_OK(model_open(path, &(model_options){0}, &rounded));
    for (size_t i = 0; exact && rounded && i < exact->graph->op_count; i++) {
        const op *a = &exact->graph->ops[i], *b = &rounded->graph->ops[i];
        size_t count = graph_weight_count(exact->graph, a);
        for (size_t k = 0; k < count; k++)
            CHECK_NEAR(b->weight[k], a->weight[k], tolerance * (fabsf(a->weight[k]) + 1e-4f));
    }
    model_destroy(exact);
    model_destroy(rounded);
    tensor_table_close(&table);
}

static void test_half(void) {
    test_begin("fp16 and bf16 weights");
    check_half("F16", 0x1p-10);
    check_half("BF16", 0x1p-7);
}

/* ------------------------------------------------------------------------------------- random weights */

/* Logits of the unablated model for two random images. */
static void check_activations(const char *arch) {
    model *m = NULL;
    backend *b = NULL;
    numerics_plan plan = {0};
    thread_pool *pool = NULL;
    output_spec outputs[OUTPUTS_MAX];
    CHECK_OK(model_random(arch, &(model_options){0}, &m));
    if (!m) return;
    shape in = m->graph->values[0];
    size_t elements = shape_positions(in) * in.c;
    uint8_t *images = malloc(2 * elements);
    int32_t labels[2] = {0, 1};
    float *logits = calloc(2 * m->classes, sizeof *logits);
    for (size_t i = 0; i < 2 * elements; i++) images[i] = (uint8_t)(i * 2654435761u >> 24);
    backend_settings s = {.graph = m->graph,
                          .plan = &plan,
                          .outputs = outputs,
                          .memory = (size_t)1 << 30,
                          .examples_max = 2,
                          .masks_max = 1};
    example_batch batch = {.inputs = images, .labels = labels, .count = 2, .mean = m->mean, .std = m->std};
    CHECK_OK(thread_pool_create(2, &pool));
    s.pool = pool;
    CHECK_OK(output_parse("margin", m->graph, outputs, &s.output_count));
    CHECK_OK(plan_create(m->graph, "reference", "fp32", 0, &plan));
    CHECK_OK(backend_reference.prepare(&s, &b));
    if (b) {
        CHECK_OK(b->interface->bind(b, &batch));
        CHECK_OK(b->interface->logits(b, logits));
        double size = 0, difference = 0;
        for (uint32_t c = 0; c < m->classes; c++) {
            size += logits[c] * logits[c] / m->classes;
            difference += fabs(logits[c] - logits[m->classes + c]) / m->classes;
        }
        CHECK(size > 0.01 && size < 100);
        CHECK(difference > 1e-4);
        b->interface->destroy(b);
    }
    thread_pool_destroy(pool);
    plan_free(&plan);
    model_destroy(m);
    free(images);
    free(logits);
}

static void test_random(void) {
    test_begin("random weights: the same for the same name, other tensors differ");
    tensor_table a = {0}, b = {0};
    CHECK_OK(model_random_tensors("mini_resnet_4", &a));
    CHECK_OK(model_random_tensors("mini_resnet_4", &b));
    for (size_t i = 0; i < a.count && i < b.count; i++) CHECK(tensor_equal(&a.items[i], &b.items[i]));
    CHECK(!tensor_equal(tensor_find(&a, "layer.0.conv1.weight"), tensor_find(&a, "layer.1.conv1.weight")));
    tensor_table_close(&a);
    tensor_table_close(&b);
    test_begin("random weights: logits of order one that depend on the image");
    check_activations("resnet20");
    check_activations("resnet110,image=16");
    check_activations("resnet50,image=32");
    check_activations("mini_resnet_12");
    test_begin("names without random weights are a usage error");
    model *m = NULL;
    static const char *const unknown[] = {"resnet21",       "",        "mini_resnet_", "mini_resnet_0",
                                          "mini_resnet_8x", "vit_b_17"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        CHECK_ERROR(model_random(unknown[i], &(model_options){0}, &m), COAR_ERROR_USAGE, "no architecture with random");
        status_clear();
    }
}

int main(void) {
    test_counts();
    test_orders();
    test_namings();
    test_choices();
    test_half();
    test_random();
    return test_end();
}
