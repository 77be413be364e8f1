/*
 * CLIP's image encoders as zero-shot classifiers: namings, what decides the activation and the scale, class embeddings
 * and what is wrong with them. What the networks compute is for golden_models.c.
 */
#include "core/files.h"
#include "core/half.h"
#include "core/npy.h"
#include "model/model.h"
#include "test.h"

enum { CLASSES = 7, WIDTH = 11 }; /* of clip-classes.npy (tools/golden_clips.py) */

static const char *golden_file(const char *name) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s", name);
    return test_path(relative);
}

/* With --arch, and class embeddings where they are not the goldens' own. */
static model *open_clip(const char *weights, const char *arch, const char *classes) {
    model *m = NULL;
    const model_options options = {.arch = arch, .classes = classes ? classes : golden_file("clip-classes.npy")};
    CHECK_OK(model_open(weights, &options, &m));
    return m;
}

static const op *last_op(const model *m) {
    return &m->graph->ops[m->graph->op_count - 1];
}

static activation mlp_activation(const model *m) {
    for (size_t i = 0; i < m->graph->op_count; i++)
        if (strstr(m->graph->ops[i].name, "fc1")) return m->graph->ops[i].act;
    return ACT_NONE;
}

/* --------------------------------------------------------------------------------------------- namings */

static void compare_models(const model *a, const model *b, bool activations) {
    CHECK_INT(a->graph->op_count, b->graph->op_count);
    CHECK_INT(a->group_count, b->group_count);
    for (size_t k = 0; k < a->group_count; k++) CHECK_TEXT(a->groups[k].name, b->groups[k].name);
    for (size_t k = 0; k < a->graph->op_count; k++) {
        const op *x = &a->graph->ops[k], *y = &b->graph->ops[k];
        const size_t count = graph_weight_count(a->graph, x);
        CHECK_TEXT(x->name, y->name);
        CHECK_NEAR(x->eps, y->eps, 0);
        if (activations) CHECK_INT(x->act, y->act);
        CHECK(count == 0 || memcmp(x->weight, y->weight, count * sizeof(float)) == 0);
        CHECK(!x->shift == !y->shift);
    }
}

static void test_namings(void) {
    test_begin("OpenAI's, OpenCLIP's and Hugging Face's names give the same op list, values and groups");
    model *openai = open_clip(golden_file("clip_vit_openai.safetensors"), NULL, NULL);
    model *hf = open_clip(golden_file("clip_vit_hf.safetensors"), NULL, NULL);
    model *openclip = open_clip(golden_file("clip_vit_openclip.safetensors"), NULL, NULL);
    if (openai && hf && openclip) {
        compare_models(hf, openai, true);
        compare_models(openclip, openai, false);
        CHECK_INT(mlp_activation(openai), ACT_QUICKGELU);
        CHECK_INT(mlp_activation(openclip), ACT_GELU_ERF);
    }
    model_destroy(openai);
    model_destroy(hf);
    model_destroy(openclip);
}

/* ------------------------------------------------------------------------------- activation, scale, pixels */

/* A copy of the weights in OpenAI's names, whose metadata has the heads alone, with a configuration beside it. */
static const char *with_config(const char *name, const char *config) {
    static char path[512];
    file_map map;
    snprintf(path, sizeof path, "%s", test_temporary("w.safetensors"));
    remove(test_temporary("config.json"));
    remove(test_temporary("open_clip_config.json"));
    CHECK_OK(file_map_open(golden_file("clip_vit_openai.safetensors"), &map));
    CHECK_OK(file_write(path, map.data, map.size));
    file_map_close(&map);
    CHECK_OK(file_write(test_temporary(name), config, strlen(config)));
    return path;
}

/* The activation; whether it had to be assumed, which is told, or something says it. */
static void check_config(const char *name, const char *config, const char *arch, activation act, double eps,
                         bool assumed) {
    model *m = open_clip(with_config(name, config), arch, NULL);
    if (!m) return;
    CHECK_INT(mlp_activation(m), act);
    CHECK_INT(m->assumed != NULL, assumed);
    for (size_t i = 0; i < m->graph->op_count; i++)
        if (m->graph->ops[i].kind == OP_LAYERNORM) CHECK_NEAR(m->graph->ops[i].eps, eps, 1e-6 * eps);
    model_destroy(m);
}

static void test_settings(void) {
    static const char openclip[] = "open_clip_config.json", hf[] = "config.json";
    test_begin("the activation: OpenAI's without a word, else as a configuration or --arch says");
    check_config(hf, "{}", NULL, ACT_QUICKGELU, 1e-5, true);
    check_config(hf, "{\"vision_config\":{\"hidden_act\":\"gelu\",\"layer_norm_eps\":1e-3}}", NULL, ACT_GELU_ERF, 1e-3,
                 false);
    check_config(hf, "{\"text_config\":{\"hidden_act\":\"gelu\"}}", NULL, ACT_QUICKGELU, 1e-5, true);
    check_config(openclip, "{\"model_cfg\":{\"embed_dim\":11}}", NULL, ACT_GELU_ERF, 1e-5, false);
    check_config(openclip, "{\"model_cfg\":{\"quick_gelu\":true}}", NULL, ACT_QUICKGELU, 1e-5, false);
    check_config(openclip, "{\"model_cfg\":{\"quick_gelu\":true}}", "clip,activation=gelu", ACT_GELU_ERF, 1e-5, false);

    test_begin("pixels: CLIP's own, or a configuration's");
    model *m = open_clip(golden_file("clip_rn.safetensors"), NULL, NULL);
    if (m) CHECK(m->has_normalisation && m->mean[0] == 0.48145466f && m->std[2] == 0.27577711f);
    model_destroy(m);
    m = open_clip(with_config(openclip, "{\"preprocess_cfg\":{\"mean\":[0,0,0],\"std\":[1,2,3]}}"), NULL, NULL);
    if (m) CHECK(m->has_normalisation && m->mean[0] == 0 && m->std[2] == 3);
    model_destroy(m);
}

/* What the length of the classes' rows says. */
static double scale_of(const model *m, size_t row) {
    double squares = 0;
    for (size_t c = 0; c < WIDTH; c++) squares += pow(last_op(m)->weight[row * WIDTH + c], 2);
    return sqrt(squares);
}

/* OpenAI's weights with another logit_scale, or NULL: with none. */
static model *with_scale(const float *scale) {
    tensor_table table = {0};
    model *m = NULL;
    CHECK_OK(safetensors_open(golden_file("clip_vit_openai.safetensors"), &table));
    tensor *t = tensor_find(&table, "logit_scale");
    CHECK(t != NULL);
    if (t && scale) t->data = scale;
    if (t && !scale) {
        free(t->name);
        t->name = strdup("text.scale"); /* the text encoder's is passed over */
    }
    CHECK_OK(tensor_table_index(&table));
    CHECK_OK(model_build(&table, &(model_options){.classes = golden_file("clip-classes.npy")}, &m));
    tensor_table_close(&table);
    return m;
}

static void test_scale(void) {
    test_begin("logits are scaled by the file's logit_scale, what --arch says instead, or by 100");
    model *m = open_clip(golden_file("clip_vit_openai.safetensors"), NULL, NULL);
    for (size_t row = 0; m && row < CLASSES; row++) CHECK_NEAR(scale_of(m, row), exp(1), 1e-5);
    model_destroy(m);
    m = open_clip(golden_file("clip_rn.safetensors"), "clip,logit_scale=.5", NULL);
    if (m) CHECK_NEAR(scale_of(m, 3), exp(.5), 1e-6);
    model_destroy(m);
    static const float other = -1;
    m = with_scale(&other);
    if (m) CHECK_NEAR(scale_of(m, 3), exp(-1), 1e-6);
    model_destroy(m);
    m = with_scale(NULL);
    if (m) CHECK_NEAR(scale_of(m, 3), 100, 1e-4);
    model_destroy(m);
    test_begin("a logit_scale that is none");
    CHECK_ERROR(model_open(golden_file("clip_rn.safetensors"),
                           &(model_options){.arch = "clip,logit_scale=50", .classes = golden_file("clip-classes.npy")},
                           &m),
                COAR_ERROR_USAGE, "--arch: logit_scale=50: must be a number from -20 to 20");
    status_clear();
}

/* -------------------------------------------------------------------------------------------- classes */

static const char *write_classes(npy_type type, int rank, const size_t *shape, const void *data) {
    const char *path = test_temporary("classes.npy");
    CHECK_OK(npy_write(path, type, rank, shape, data));
    return path;
}

static void random_rows(float values[CLASSES * WIDTH], float spread) {
    uint32_t state = 5;
    for (size_t i = 0; i < CLASSES * WIDTH; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = spread * ((float)(state >> 16) / 65536 - 0.5f);
    }
}

static void test_lengths(void) {
    const size_t shape[2] = {CLASSES, WIDTH};
    float rows[CLASSES * WIDTH], longer[CLASSES * WIDTH];
    uint16_t halves[CLASSES * WIDTH];
    test_begin("rows count by their directions alone; float16 is read as well");
    random_rows(rows, 1);
    random_rows(longer, 1024);
    model *a = open_clip(golden_file("clip_rn.safetensors"), NULL, write_classes(NPY_F32, 2, shape, rows));
    model *b = open_clip(golden_file("clip_rn.safetensors"), NULL, write_classes(NPY_F32, 2, shape, longer));
    for (size_t i = 0; i < CLASSES * WIDTH; i++) {
        CHECK(half_from_float(rows[i], &halves[i]));
        longer[i] = half_to_float(halves[i]);
    }
    model *half = open_clip(golden_file("clip_rn.safetensors"), NULL, write_classes(NPY_F16, 2, shape, halves));
    model *same = open_clip(golden_file("clip_rn.safetensors"), NULL, write_classes(NPY_F32, 2, shape, longer));
    const size_t bytes = sizeof rows;
    if (a && b && half && same) {
        CHECK_INT(a->classes, CLASSES);
        CHECK(memcmp(last_op(a)->weight, last_op(b)->weight, bytes) == 0); /* a power of two apart */
        CHECK(memcmp(last_op(half)->weight, last_op(same)->weight, bytes) == 0);
        CHECK_INT(strlen(a->classes_sha256), 64);
        CHECK(strcmp(a->classes_sha256, b->classes_sha256) != 0);
    }
    model_destroy(a);
    model_destroy(b);
    model_destroy(half);
    model_destroy(same);
}

static void refused(const char *weights, const char *classes, coar_status status, const char *error) {
    model *m = NULL;
    CHECK_ERROR(model_open(golden_file(weights), &(model_options){.classes = classes}, &m), status, error);
    CHECK(m == NULL);
    status_clear();
}

static void test_refused(void) {
    float rows[CLASSES * WIDTH];
    random_rows(rows, 1);
    test_begin("class embeddings that are none, for a network that needs them and one that does not");
    refused("clip_rn.safetensors", NULL, COAR_ERROR_USAGE, "--classes: ");
    refused("clip_vit_hf.safetensors", NULL, COAR_ERROR_USAGE, "a .npy of [classes, 11]");
    refused("bottleneck.safetensors", golden_file("clip-classes.npy"), COAR_ERROR_USAGE,
            "is a resnet, which takes none");
    refused("clip_rn.safetensors", "/none.npy", COAR_ERROR_IO, "/none.npy");
    refused("clip_rn.safetensors", golden_file("clip_rn.safetensors"), COAR_ERROR_INPUT, "not a .npy file");
    refused("clip_rn.safetensors", write_classes(NPY_F32, 2, (size_t[]){WIDTH, CLASSES}, rows), COAR_ERROR_INPUT,
            "class embeddings are [11, 7], the image encoder's have 11 numbers each");
    refused("clip_rn.safetensors", write_classes(NPY_F32, 1, (size_t[]){WIDTH}, rows), COAR_ERROR_INPUT, "are [11]");
    refused("clip_rn.safetensors", write_classes(NPY_F32, 2, (size_t[]){1, WIDTH}, rows), COAR_ERROR_INPUT,
            "fewer than 2 classes");
    refused("clip_rn.safetensors", write_classes(NPY_F32, 2, (size_t[]){0, WIDTH}, rows), COAR_ERROR_INPUT,
            "fewer than 2 classes");
    refused("clip_rn.safetensors", write_classes(NPY_I32, 2, (size_t[]){CLASSES, WIDTH}, rows), COAR_ERROR_INPUT,
            "must be float32 or float16");
    rows[3 * WIDTH + 2] = NAN;
    refused("clip_rn.safetensors", write_classes(NPY_F32, 2, (size_t[]){CLASSES, WIDTH}, rows), COAR_ERROR_INPUT,
            "class 3: number 2 is nan");
    memset(rows + 3 * WIDTH, 0, WIDTH * sizeof *rows);
    refused("clip_rn.safetensors", write_classes(NPY_F32, 2, (size_t[]){CLASSES, WIDTH}, rows), COAR_ERROR_INPUT,
            "class 3: all numbers are 0");
}

static void test_own(void) {
    test_begin("a weight file may have the classes itself; --classes goes before");
    model *own = NULL, *given = NULL;
    float rows[3 * 48] = {0};
    for (size_t row = 0; row < 3; row++) rows[row * 48 + row] = 2;
    CHECK_OK(model_random("clip_vit_mini", &(model_options){.arch = "clip"}, &own));
    CHECK_OK(model_random(
        "clip_vit_mini",
        &(model_options){.arch = "clip", .classes = write_classes(NPY_F32, 2, (size_t[]){3, 48}, rows)}, &given));
    if (own && given) {
        CHECK_INT(own->classes, 10);
        CHECK_TEXT(own->classes_sha256, "");
        CHECK_INT(given->classes, 3);
        CHECK_NEAR(last_op(given)->weight[48 + 1], sqrt(48), 1e-4);
    }
    model_destroy(own);
    model_destroy(given);
}

int main(void) {
    test_namings();
    test_settings();
    test_scale();
    test_lengths();
    test_refused();
    test_own();
    return test_end();
}
