/*
 * Edited weight files: run unablated they are the network under the ablation, which PyTorch has computed by other means
 * (tests/golden/models); nothing but the weights of the edited components changes; and what is refused.
 */
#include <float.h>
#include <unistd.h>

#include "core/half.h"
#include "golden_nets.h"
#include "model/weight_edit.h"
#include "test.h"

static const char *weights_path(const char *name) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s.safetensors", name);
    return test_path(relative);
}

static model *open_set(const char *path, component_set set) {
    model *m = NULL;
    CHECK_OK(model_open(path, &(model_options){.set = set}, &m));
    return m;
}

static bool same_files(const char *a, const char *b) {
    file_map first = {0}, second = {0};
    CHECK_OK(file_map_open(a, &first));
    CHECK_OK(file_map_open(b, &second));
    bool same = first.size == second.size && memcmp(first.data, second.data, first.size) == 0;
    file_map_close(&first);
    file_map_close(&second);
    return same;
}

/* --------------------------------------------------------------------------- the edited network's outputs */

/* The worst differences seen: from PyTorch, and on either backend from the whole network under the mask. */
typedef struct worst {
    double torch, reference, cpu;
} worst;

static void follow(double *largest, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (!(difference <= *largest)) *largest = difference;
    }
}

/* Ablates what `keeps` does and compares. `expected` [E]: PyTorch's margins. */
static void compare_edit(const golden *g, const model *m, const char *ablated, double gain, const float *keeps,
                         const float *expected, worst *w) {
    const char *copy = test_temporary("edited.safetensors");
    uint32_t *components = calloc(m->graph->components + 1, sizeof *components);
    size_t count = 0;
    for (uint32_t j = m->graph->components; j-- > 0;)
        if (keeps[j] == 0) components[count++] = j; /* backwards: any order will do */
    CHECK_OK(weight_edit_write(m, components, count, gain, copy, 1));
    if (count == 0) CHECK(same_files(copy, m->path));
    model *edited = golden_copy(g, copy, m->set);
    if (edited) {
        float *alone = golden_margins(g, edited, "reference", "zero", NULL);
        float *masked = golden_margins(g, m, "reference", ablated, keeps);
        follow(&w->torch, alone, expected, g->examples);
        follow(&w->reference, alone, masked, g->examples);
        free(alone);
        free(masked);
        alone = golden_margins(g, edited, "cpu", "zero", NULL);
        masked = golden_margins(g, m, "cpu", ablated, keeps);
        follow(&w->cpu, alone, masked, g->examples);
        free(alone);
        free(masked);
    }
    model_destroy(edited);
    free(components);
}

/* Every component takes something from the file. */
static void check_known(const model *m) {
    for (uint32_t g = 0; g < m->group_count; g++) {
        size_t slices = 0;
        for (size_t i = 0; i < m->slice_count; i++) slices += m->slices[i].group == g;
        if (slices == 0) test_fail(__FILE__, __LINE__, "group '%s' has no weights", m->groups[g].name);
    }
}

static void compare_set(golden *g, component_set set, const char *part, const char *ablated, double gain, worst *w) {
    if (!golden_has(g, set, "keeps")) return;
    model *m = golden_model(g, set);
    size_t inputs[2] = {0}, results[2] = {0};
    float *keeps = golden_array(g, set, "keeps", 2, inputs), *expected = golden_array(g, set, part, 2, results);
    if (m) check_known(m);
    CHECK_INT(results[0], inputs[0]);
    CHECK_INT(results[1], g->examples);
    if (m && inputs[1] == m->graph->components && results[0] == inputs[0] && results[1] == g->examples)
        for (size_t i = 0; i < inputs[0]; i++)
            compare_edit(g, m, ablated, gain, keeps + i * inputs[1], expected + i * results[1], w);
    model_destroy(m);
    free(keeps);
    free(expected);
}

static void test_outputs(void) {
    for (size_t i = 0; i < golden_net_count; i++) {
        golden g;
        worst zero = {0}, scale = {0};
        test_begin("%s: an edited file is the network under the mask, for every set", golden_nets[i].weights);
        CHECK_OK(golden_open(&golden_nets[i], "golden", &g));
        for (component_set set = SET_FILTERS; set <= SET_BLOCKS; set++) {
            compare_set(&g, set, "zero", "zero", 0, &zero);
            compare_set(&g, set, "scale", "scale:0.3", 0.3, &scale);
        }
        printf("# %s: differences zero %.2g %.2g %.2g, scale %.2g %.2g %.2g\n", golden_nets[i].weights, zero.torch,
               zero.reference, zero.cpu, scale.torch, scale.reference, scale.cpu);
        CHECK_NEAR(zero.torch, 0, 1e-4);
        CHECK_NEAR(zero.reference, 0, 0);
        CHECK_NEAR(zero.cpu, 0, 1e-4);
        CHECK_NEAR(scale.torch, 0, 1e-4);
        CHECK_NEAR(scale.reference, 0, 1e-5); /* weights times .3, rounded to fp32 */
        CHECK_NEAR(scale.cpu, 0, 1e-4);
        golden_close(&g);
    }
}

/* -------------------------------------------------------------------------------- what changes in the file */

enum { PARTS = 3 };

/* Component `component` of a network stands at indices first .. first + width - 1 of `axis` of so many tensors. */
static const struct planted {
    const char *net;
    component_set set;
    uint32_t component;
    const char *tensors[PARTS];
    uint32_t axis, first, width;
} planted[] = {
    {"cifar_option_a", SET_FILTERS, 1, {"conv1.weight"}, 0, 1, 1},
    {"cifar_option_a", SET_FILTERS, 4 + 4 + 4 + 7, {"layer2.0.conv1.weight"}, 0, 7, 1},
    {"cifar_option_a", SET_BLOCKS, 2, {"layer3.0.bn2.weight", "layer3.0.bn2.bias"}, 0, 0, 16},
    {"bottleneck", SET_FILTERS, 4 + 4 + 4 + 15, {"layer1.0.conv3.weight"}, 0, 15, 1},
    {"bottleneck", SET_BLOCKS, 0, {"layer1.0.bn3.weight", "layer1.0.bn3.bias"}, 0, 0, 16},
    {"mini_resnet", SET_FILTERS, 8 + 2, {"layer.0.conv1.weight", "block0.conv1.weight"}, 0, 2, 1},
    {"mini_resnet", SET_FILTERS, 7, {"conv1.weight"}, 0, 7, 1},
    {"vit_torchvision", SET_NEURONS, 3, {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight"}, 0, 3, 1},
    {"vit_torchvision",
     SET_NEURONS,
     18 + 5,
     {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight"},
     0,
     23,
     1},
    {"vit_timm", SET_NEURONS, 116 + 36 + 17, {"blocks.1.attn.qkv.weight"}, 0, 53, 1},
    {"vit_timm", SET_NEURONS, 54 + 6, {"blocks.0.attn.proj.weight"}, 0, 6, 1},
    {"vit_timm", SET_NEURONS, 72 + 25, {"blocks.0.mlp.fc1.weight"}, 0, 25, 1},
    {"vit_torchvision", SET_NEURONS, 98 + 1, {"encoder.layers.encoder_layer_0.mlp.3.weight"}, 0, 1, 1},
    {"vit_hf", SET_NEURONS, 18 + 5, {"vit.encoder.layer.0.attention.attention.key.weight"}, 0, 5, 1},
    {"vit_hf", SET_NEURONS, 36 + 5, {"vit.encoder.layer.0.attention.attention.value.weight"}, 0, 5, 1},
    {"vit_timm", SET_HEADS, 3 + 1, {"blocks.1.attn.proj.weight"}, 1, 6, 6},
    {"vit_hf", SET_HEADS, 2, {"vit.encoder.layer.0.attention.output.dense.weight"}, 1, 12, 6},
    {"vit_timm", SET_BLOCKS, 2, {"blocks.1.attn.proj.weight", "blocks.1.attn.proj.bias"}, 0, 0, 18},
    {"vit_timm", SET_BLOCKS, 1, {"blocks.0.mlp.fc2.weight", "blocks.0.mlp.fc2.bias"}, 0, 0, 18},
    {"gpt2", SET_NEURONS, 5, {"h.0.attn.c_attn.weight"}, 0, 5, 1},
    {"gpt2", SET_NEURONS, 12 + 7, {"h.0.attn.c_proj.weight"}, 0, 7, 1},
    {"gpt2_prefixed", SET_NEURONS, 24 + 1, {"transformer.h.0.mlp.c_fc.weight"}, 0, 1, 1},
    {"gpt2", SET_NEURONS, 36 + 9, {"h.0.mlp.c_proj.weight"}, 0, 9, 1},
    {"gpt2", SET_HEADS, 3 + 2, {"h.1.attn.c_proj.weight"}, 0, 8, 4},
};

/* Element i of an fp32 tensor. */
static float element(const tensor *t, size_t i) {
    float value;
    memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
    return value;
}

static size_t wrong_elements(const struct planted *p, const tensor *before, const tensor *after) {
    size_t inner = 1, wrong = 0;
    for (int d = (int)p->axis + 1; d < before->rank; d++) inner *= before->shape[d];
    for (size_t i = 0; i < before->count; i++) {
        size_t at = i / inner % before->shape[p->axis];
        bool edited = at >= p->first && at < p->first + p->width;
        wrong += element(after, i) != (edited ? 0 : element(before, i));
    }
    return wrong;
}

static void check_planted(const struct planted *p) {
    const char *copy = test_temporary("planted.safetensors");
    tensor_table before = {0}, after = {0};
    model *m = open_set(weights_path(p->net), p->set);
    if (!m) return;
    CHECK_OK(weight_edit_write(m, &p->component, 1, 0, copy, 1));
    CHECK_OK(safetensors_open(m->path, &before));
    CHECK_OK(safetensors_open(copy, &after));
    const size_t header = (size_t)((const uint8_t *)before.items[0].data - before.map.data);
    CHECK_INT(after.map.size, before.map.size);
    CHECK(memcmp(after.map.data, before.map.data, header) == 0);
    int found = 0, wanted = 0;
    for (size_t i = 0; i < PARTS; i++) wanted += p->tensors[i] != NULL;
    for (size_t i = 0; i < before.count && i < after.count; i++) {
        const tensor *t = &before.items[i];
        bool edited = false;
        for (size_t k = 0; k < PARTS; k++) edited = edited || (p->tensors[k] && strcmp(t->name, p->tensors[k]) == 0);
        found += edited;
        if (edited ? wrong_elements(p, t, &after.items[i]) != 0 : !tensor_equal(t, &after.items[i]))
            test_fail(__FILE__, __LINE__, "component %u: tensor '%s' is wrong", p->component, t->name);
    }
    CHECK_INT(found, wanted);
    tensor_table_close(&before);
    tensor_table_close(&after);
    model_destroy(m);
}

static void test_places(void) {
    for (size_t i = 0; i < sizeof planted / sizeof *planted; i++) {
        test_begin("component %u of %s's %s is what it takes, and nothing else changes", planted[i].component,
                   planted[i].net, component_set_name(planted[i].set));
        check_planted(&planted[i]);
    }
}

/* ------------------------------------------------------------------------------------------- number types */

static const struct dtype {
    const char *name;
    size_t size;
    int bits; /* of the significand */
} dtypes[] = {{"F32", 4, 24}, {"F16", 2, 11}, {"BF16", 2, 8}, {"F64", 8, 53}};

static double get(const char *dtype, const void *at) {
    float single;
    double wide;
    uint16_t half;
    memcpy(&single, at, dtype[1] == '3' ? 4 : 2);
    memcpy(&half, at, 2);
    if (strcmp(dtype, "F32") == 0) return single;
    if (strcmp(dtype, "F16") == 0) return half_to_float(half);
    if (strcmp(dtype, "BF16") == 0) return bfloat_to_float(half);
    memcpy(&wide, at, 8);
    return wide;
}

/* Writes a value of few bits, which every type holds exactly. */
static void put(const char *dtype, double value, FILE *f) {
    float single = (float)value;
    uint32_t bits;
    uint16_t half;
    memcpy(&bits, &single, 4);
    CHECK(half_from_float(single, &half));
    if (dtype[0] == 'B') half = (uint16_t)(bits >> 16);
    if (strcmp(dtype, "F32") == 0) fwrite(&single, 4, 1, f);
    if (strcmp(dtype, "F64") == 0) fwrite(&value, 8, 1, f);
    if (strstr(dtype, "F16")) fwrite(&half, 2, 1, f);
}

/* A network whose weights have 8 bits each and both signs, in any type; batch variances are 1. */
static void write_typed(const char *path, const struct dtype *type) {
    tensor_table table = {0};
    char *header = NULL;
    size_t length = 0, offset = 0;
    CHECK_OK(model_random_tensors("mini_resnet_5", &table));
    FILE *text = open_memstream(&header, &length), *f = fopen(path, "wb");
    for (size_t i = 0; i < table.count; i++) {
        const tensor *t = &table.items[i];
        fprintf(text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{", t->name, type->name);
        for (int d = 0; d < t->rank; d++) fprintf(text, "%s%zu", d ? "," : "", t->shape[d]);
        fprintf(text, "],\"data_offsets\":[%zu,%zu]}", offset, offset + type->size * t->count);
        offset += type->size * t->count;
    }
    fprintf(text, "}   "); /* an odd end: the data are not aligned */
    fclose(text);
    fwrite(&(uint64_t){length}, 8, 1, f);
    fwrite(header, 1, length, f);
    for (size_t i = 0; i < table.count; i++)
        for (size_t k = 0; k < table.items[i].count; k++)
            put(type->name, strstr(table.items[i].name, "running_var") ? 1 : ((double)(k * 37 % 255) - 127) / 256, f);
    fclose(f);
    free(header);
    tensor_table_close(&table);
}

/* Row 3 of the stem times the gain, to half a unit of the last place; the rest to the bit. */
static void check_type(const struct dtype *type, double gain) {
    char source[512], copy[512];
    tensor_table before = {0}, after = {0};
    snprintf(source, sizeof source, "%s", test_temporary("typed.safetensors"));
    snprintf(copy, sizeof copy, "%s", test_temporary("typed-edited.safetensors"));
    write_typed(source, type);
    model *m = open_set(source, SET_FILTERS), *edited = NULL;
    if (!m) return;
    CHECK_OK(weight_edit_write(m, (const uint32_t[]){3, 3}, 2, gain, copy, 1)); /* twice is once */
    CHECK_OK(model_open(copy, &(model_options){0}, &edited));
    CHECK_OK(safetensors_open(source, &before));
    CHECK_OK(safetensors_open(copy, &after));
    const tensor *was = tensor_find(&before, "conv1.weight"), *is = tensor_find(&after, "conv1.weight");
    const size_t row = was->count / was->shape[0];
    for (size_t i = 0; i < was->count; i++) {
        double x = get(type->name, (const char *)was->data + i * type->size);
        double y = get(type->name, (const char *)is->data + i * type->size);
        double exact = i / row == 3 ? x * gain : x;
        CHECK_NEAR(y, exact, ldexp(fabs(exact), -type->bits) * (1 + 1e-6));
        if (gain == 0 && i / row == 3) CHECK(!signbit(y));
    }
    size_t others = 0;
    for (size_t i = 0; i < before.count; i++) others += !tensor_equal(&before.items[i], &after.items[i]);
    CHECK_INT(others, gain != 1);
    tensor_table_close(&before);
    tensor_table_close(&after);
    model_destroy(m);
    model_destroy(edited);
}

static void test_types(void) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        test_begin("%s weights stay %s", dtypes[i].name, dtypes[i].name);
        check_type(&dtypes[i], 0);
        check_type(&dtypes[i], 0.3);
        check_type(&dtypes[i], -2.5);
        check_type(&dtypes[i], 1);
    }
}

static void test_rounding(void) {
    test_begin("bfloat16: rounds to the nearest, halves to even");
    static const struct {
        float value;
        uint16_t bits;
    } cases[] = {
        {1, 0x3f80},
        {-1, 0xbf80},
        {1 + 0x1p-8f, 0x3f80},
        {1 + 0x1p-8f + 0x1p-20f, 0x3f81},
        {1 + 0x3p-8f, 0x3f82},
        {2 - 0x1p-9f, 0x4000},
        {0, 0},
        {-0.0f, 0x8000},
        {0x1p-133f, 0x0001},
        {0x1p-134f, 0x0000},
        {INFINITY, 0x7f80},
    };
    uint16_t bits;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(bfloat_from_float(cases[i].value, &bits));
        CHECK_INT(bits, cases[i].bits);
    }
    CHECK(!bfloat_from_float(FLT_MAX, &bits));
    CHECK(bfloat_from_float(NAN, &bits) && isnan(bfloat_to_float(bits)));
    for (uint32_t b = 0; b < 0x7f80; b++) {
        CHECK(bfloat_from_float(bfloat_to_float((uint16_t)b), &bits));
        if (bits != b) CHECK_INT(bits, b);
    }
}

/* ---------------------------------------------------------------------------------------------- bad input */

/* Messages of the library's inner functions stay until somebody clears them. */
#define REFUSED(expression, expected, text)                                                                            \
    do {                                                                                                               \
        CHECK_ERROR(expression, expected, text);                                                                       \
        status_clear();                                                                                                \
    } while (0)

static void test_refused(void) {
    test_begin("what is refused leaves nothing behind");
    status_clear();
    char source[512], link[512], copy[512], temporary[600];
    snprintf(source, sizeof source, "%s", test_temporary("source.safetensors"));
    snprintf(link, sizeof link, "%s", test_temporary("link.safetensors"));
    snprintf(copy, sizeof copy, "%s", test_temporary("refused.safetensors"));
    snprintf(temporary, sizeof temporary, "%s.tmp.%ld", copy, (long)getpid());
    write_typed(source, &dtypes[1]);
    CHECK_INT(symlink(source, link), 0);
    model *m = open_set(source, SET_FILTERS), *random = NULL;
    CHECK_OK(model_random("mini_resnet_5", &(model_options){0}, &random));
    if (!m || !random) return;
    const uint32_t first = 0, beyond = m->graph->components;
    REFUSED(weight_edit_write(m, &first, 1, 0, source, 1), COAR_ERROR_USAGE, "is the input");
    REFUSED(weight_edit_write(m, &first, 1, 0, link, 1), COAR_ERROR_USAGE, "is the input");
    REFUSED(weight_edit_write(m, &beyond, 1, 0, copy, 0), COAR_ERROR_USAGE, "has 45 components");
    REFUSED(weight_edit_write(random, &first, 1, 0, copy, 0), COAR_ERROR_USAGE, "random weights");
    REFUSED(weight_edit_write(m, &first, 1, 1e6, copy, 0), COAR_ERROR_INPUT, "'conv1.weight': element 0 times 1e+06");
    REFUSED(weight_edit_write(m, &first, 1, 1e300, copy, 0), COAR_ERROR_INPUT, "too large");
    REFUSED(weight_edit_write(m, &first, 1, 0, "/nowhere/edited.safetensors", 0), COAR_ERROR_IO, "/nowhere");
    CHECK(!file_exists(copy));
    CHECK(!file_exists(temporary));

    CHECK_OK(weight_edit_write(m, &first, 1, 0, copy, 0));
    REFUSED(weight_edit_write(m, &first, 1, 0, copy, 0), COAR_ERROR_EXISTS, "--force");
    CHECK_OK(weight_edit_write(m, &first, 1, 0, copy, 1));
    write_typed(source, &dtypes[2]); /* of the same size */
    REFUSED(weight_edit_write(m, &first, 1, 0, copy, 1), COAR_ERROR_MISMATCH, "has changed");
    CHECK(file_exists(copy));
    CHECK(!file_exists(temporary));
    model_destroy(m);
    model_destroy(random);
}

int main(void) {
    test_outputs();
    test_places();
    test_types();
    test_rounding();
    test_refused();
    return test_end();
}
