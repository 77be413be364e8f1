/*
 * golden_edited.c - edited copies of the networks of data/, and of language models and CLIPs of tests/golden/models:
 * the files are those that PyTorch has loaded, and they predict what PyTorch computes with them.
 *
 *     golden_edited FOLDER   writes the copies (FOLDER/NET-SET.safetensors) for tools/golden_edited.py, which has coar
 *                            make the files, loads them, and stores margins and hashes in
 *                            tests/golden/edited.safetensors, whose cases are the ones that are compared
 */
#include "digits.h"
#include "golden_nets.h"
#include "model/weight_edit.h"
#include "test.h"

/* The networks of data/, whose examples and labels are not in files of tests/golden/models. */
static const golden_net digits[] = {
    {.weights = "digits-resnet", .arch = "resnet8"},
    {.weights = "digits-vit", .arch = "vit"},
};

/* One copy: the golden file has its parts as NET.SET.PART. */
typedef struct edited_case {
    char net[64], set_name[16];
    component_set set;
} edited_case;

/* Whether a part is a case's list of components, of which every case has one. Leaves c->set alone. */
static bool case_of(const char *part, edited_case *c) {
    char what[16];
    return sscanf(part, "%63[^.].%15[^.].%15s", c->net, c->set_name, what) == 3 && !strcmp(what, "components");
}

/* *count numbers; malloc'ed, NULL and a failed check when they are not there. */
static float *golden_part(const tensor_table *goldens, const edited_case *c, const char *part, size_t *count) {
    char name[128];
    float *values = NULL;
    snprintf(name, sizeof name, "%s.%s.%s", c->net, c->set_name, part);
    tensor *t = tensor_find(goldens, name);
    *count = t ? t->count : 0;
    if (!t)
        test_fail(__FILE__, __LINE__, "no part %s", name);
    else
        CHECK_OK(tensor_to_f32(goldens, t, &values));
    return values;
}

static void open_digits(const golden_net *net, golden *g) {
    static digits_examples d;
    digits_read(&d);
    *g = (golden){.net = net, .examples = DIGITS_EXAMPLES, .labels = malloc(sizeof d.labels)};
    g->images = (npy_array){.rank = 4, .shape = {DIGITS_EXAMPLES, DIGITS_SIDE, DIGITS_SIDE, 1}, .data = d.images};
    memcpy(g->labels, d.labels, sizeof d.labels);
}

/* The network that a case is about and its examples; golden_close whatever comes of it. */
static bool open_net(const char *name, golden *g) {
    *g = (golden){0};
    for (size_t i = 0; i < sizeof digits / sizeof *digits; i++)
        if (!strcmp(digits[i].weights, name)) open_digits(&digits[i], g);
    for (size_t i = 0; i < golden_net_count; i++)
        if (!strcmp(golden_nets[i].weights, name)) CHECK_OK(golden_open(&golden_nets[i], "golden", g));
    if (!g->net) test_fail(__FILE__, __LINE__, "no network %s", name);
    return g->net;
}

/* Writes the copy that the golden file asks for. */
static void write_copy(const tensor_table *goldens, const edited_case *c, const golden *g, const char *copy) {
    size_t count, one;
    char original[128];
    float *chosen = golden_part(goldens, c, "components", &count), *gain = golden_part(goldens, c, "gain", &one);
    uint32_t *components = calloc(count + 1, sizeof *components);
    for (size_t i = 0; chosen && i < count; i++) components[i] = (uint32_t)chosen[i];
    CHECK(count > 0);
    snprintf(original, sizeof original, "%s/%s.safetensors", g->net->golden ? "golden/models" : "../data", c->net);
    model *m = golden_copy(g, test_path(original), c->set);
    if (m && one == 1) CHECK_OK(weight_edit_write(m, components, count, gain[0], copy, 1));
    model_destroy(m);
    free(components);
    free(chosen);
    free(gain);
}

/* Margins of the unablated copy against PyTorch's. */
static void check_margins(const golden *g, const char *copy, component_set set, const char *backend,
                          const float *expected) {
    model *m = golden_copy(g, copy, set);
    if (!m) return;
    float *margins = golden_margins(g, m, backend, "zero", NULL);
    for (uint32_t i = 0; i < g->examples; i++) CHECK_NEAR(margins[i], expected[i], 1e-4);
    free(margins);
    model_destroy(m);
}

static void compare(const tensor_table *goldens, const edited_case *c, const golden *g) {
    char copy[512], sha256[65] = "", key[128];
    size_t count;
    snprintf(copy, sizeof copy, "%s", test_temporary("edited.safetensors"));
    write_copy(goldens, c, g, copy);
    snprintf(key, sizeof key, "%s.%s.sha256", c->net, c->set_name);
    CHECK_OK(file_sha256(copy, sha256));
    CHECK_TEXT(sha256, tensor_metadata(goldens, key));
    float *expected = golden_part(goldens, c, "margins", &count);
    CHECK_INT(count, g->examples);
    if (expected && count == g->examples) {
        check_margins(g, copy, c->set, "reference", expected);
        check_margins(g, copy, c->set, "cpu", expected);
    }
    free(expected);
}

int main(int argc, char **argv) {
    tensor_table goldens = {0};
    edited_case c;
    golden g;
    size_t cases = 0;
    test_begin("the golden file opens");
    CHECK_OK(safetensors_open(test_path("golden/edited.safetensors"), &goldens));
    for (size_t i = 0; i < goldens.count; i++) {
        if (!case_of(goldens.items[i].name, &c)) continue;
        test_begin("%s with %s edited: the file that PyTorch loaded, and its margins", c.net, c.set_name);
        CHECK_OK(component_set_parse(c.set_name, &c.set));
        if (open_net(c.net, &g) && argc == 2) {
            char copy[512];
            snprintf(copy, sizeof copy, "%s/%s-%s.safetensors", argv[1], c.net, c.set_name);
            write_copy(&goldens, &c, &g, copy);
        } else if (g.net) {
            compare(&goldens, &c, &g);
        }
        golden_close(&g);
        cases++;
    }
    test_begin("there are copies to compare");
    CHECK(cases > 0);
    tensor_table_close(&goldens);
    return test_end();
}
