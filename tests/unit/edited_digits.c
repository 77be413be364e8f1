/*
 * edited_digits.c - edited copies of the networks of data/: the files are those that PyTorch has loaded, and they predict what
 * PyTorch computes with them.
 *
 *     edited_digits FOLDER      writes the copies (FOLDER/NET-SET.safetensors) for tools/golden_edited.py, which has coar make
 *                               the files, loads them, and stores margins and hashes in tests/golden/digits/edited.safetensors
 */
#include "core/npy.h"
#include "digits.h"
#include "engines.h"
#include "model/weight_edit.h"
#include "test.h"

enum { EXAMPLES = 40, PIXELS = 64 };

static const struct edited_case {
    const char *net;
    component_set set;
} cases[] = {
    {"resnet", SET_FILTERS}, {"resnet", SET_BLOCKS}, {"vit", SET_NEURONS}, {"vit", SET_HEADS}, {"vit", SET_BLOCKS},
};
enum { CASES = sizeof cases / sizeof *cases };

/* A part of the golden file: NET.SET.PART, *count numbers; malloc'ed. */
static float *golden_part(tensor_table *golden, const struct edited_case *c, const char *part, size_t *count) {
    char name[64];
    float *values = NULL;
    snprintf(name, sizeof name, "%s.%s.%s", c->net, component_set_name(c->set), part);
    tensor *t = tensor_find(golden, name);
    *count = t ? t->count : 0;
    if (!t)
        test_fail(__FILE__, __LINE__, "no part %s", name);
    else
        CHECK_OK(tensor_to_f32(golden, t, &values));
    return values;
}

/* Writes the copy that the golden file asks for. */
static void write_copy(tensor_table *golden, const struct edited_case *c, const char *copy) {
    model *m = NULL;
    size_t count, one;
    float *chosen = golden_part(golden, c, "components", &count), *gain = golden_part(golden, c, "gain", &one);
    uint32_t *components = calloc(count + 1, sizeof *components);
    for (size_t i = 0; i < count; i++) components[i] = (uint32_t)chosen[i];
    CHECK(count > 0);
    CHECK_OK(model_open(digits_model(c->net), &(model_options){.set = c->set}, &m));
    if (m && one == 1) CHECK_OK(weight_edit_write(m, components, count, gain[0], copy, 1));
    model_destroy(m);
    free(components);
    free(chosen);
    free(gain);
}

/* ----------------------------------------------------------------------------------------------- margins */

static npy_array open_array(const char *name) {
    npy_array array = {0};
    CHECK_OK(npy_open(test_path(name), &array));
    return array;
}

static void read_examples(uint8_t images[EXAMPLES][PIXELS], int32_t labels[EXAMPLES]) {
    npy_array rows = open_array("golden/digits/examples.npy");
    npy_array all = open_array("../data/digits-images.npy"), classes = open_array("../data/digits-labels.npy");
    CHECK_INT(rows.count, EXAMPLES);
    for (size_t i = 0; i < EXAMPLES && i < rows.count; i++) {
        size_t row = (size_t)npy_get_int(&rows, i);
        memcpy(images[i], (const uint8_t *)all.data + row * PIXELS, PIXELS);
        labels[i] = (int32_t)npy_get_int(&classes, row);
    }
    npy_close(&rows);
    npy_close(&all);
    npy_close(&classes);
}

/* Margins of the unablated copy against PyTorch's. */
static void check_margins(const char *copy, const char *backend, const float *expected) {
    static uint8_t images[EXAMPLES][PIXELS];
    int32_t labels[EXAMPLES] = {0};
    model *m = NULL;
    read_examples(images, labels);
    CHECK_OK(model_open(copy, &(model_options){0}, &m));
    if (!m) return;
    const uint32_t n = m->graph->components;
    uint8_t *bits = malloc(mask_bytes(n));
    memset(bits, 0xff, mask_bytes(n));
    engine e;
    engine_open(&e, m->graph,
                (engine_options){.backend = backend, .outputs = "margin", .examples = EXAMPLES, .masks = 1});
    example_batch batch = {.inputs = images[0], .labels = labels, .count = EXAMPLES, .mean = m->mean, .std = m->std};
    float *margins = engine_run(&e, &batch, &(mask_range){.count = 1, .n = n, .bits = bits});
    for (size_t i = 0; i < EXAMPLES; i++) CHECK_NEAR(margins[i], expected[i], 1e-4);
    free(margins);
    engine_close(&e);
    free(bits);
    model_destroy(m);
}

static void compare(tensor_table *golden, const struct edited_case *c) {
    char copy[512], sha256[65] = "", key[64];
    size_t count;
    snprintf(copy, sizeof copy, "%s", test_temporary("edited.safetensors"));
    write_copy(golden, c, copy);
    snprintf(key, sizeof key, "%s.%s.sha256", c->net, component_set_name(c->set));
    CHECK_OK(file_sha256(copy, sha256));
    CHECK_TEXT(sha256, tensor_metadata(golden, key));
    float *expected = golden_part(golden, c, "margins", &count);
    CHECK_INT(count, EXAMPLES);
    if (count == EXAMPLES) {
        check_margins(copy, "reference", expected);
        check_margins(copy, "cpu", expected);
    }
    free(expected);
}

int main(int argc, char **argv) {
    tensor_table golden = {0};
    test_begin("the golden file opens");
    CHECK_OK(safetensors_open(test_path("golden/digits/edited.safetensors"), &golden));
    for (size_t i = 0; i < CASES && golden.count; i++) {
        const struct edited_case *c = &cases[i];
        const char *set = component_set_name(c->set);
        if (argc == 2) {
            char copy[512];
            test_begin("a copy of %s with %s edited", c->net, set);
            snprintf(copy, sizeof copy, "%s/%s-%s.safetensors", argv[1], c->net, set);
            write_copy(&golden, c, copy);
        } else {
            test_begin("%s with %s edited is the file that PyTorch loaded, and predicts the same", c->net, set);
            compare(&golden, c);
        }
    }
    tensor_table_close(&golden);
    return test_end();
}
