/* What is wrong with a weight file, a setting or an image size, and how that is said; settings and their precedence. */
#include "core/files.h"
#include "model/model.h"
#include "test.h"

static const char *golden_weights(const char *name) {
    char relative[160];
    snprintf(relative, sizeof relative, "golden/models/%s.safetensors", name);
    return test_path(relative);
}

/* -------------------------------------------------------------------------------------------- settings */

/* A copy of golden weights in a folder of its own, with the config.json given (NULL = none). */
static const char *with_config(const char *name, const char *config) {
    static char path[512];
    char config_path[512];
    file_map map;
    snprintf(path, sizeof path, "%s", test_temporary("w.safetensors"));
    snprintf(config_path, sizeof config_path, "%s", test_temporary("config.json"));
    remove(config_path);
    CHECK_OK(file_map_open(golden_weights(name), &map));
    CHECK_OK(file_write(path, map.data, map.size));
    file_map_close(&map);
    if (config) CHECK_OK(file_write(config_path, config, strlen(config)));
    return path;
}

static const op *find_op(const model *m, op_kind kind) {
    for (size_t i = 0; i < m->graph->op_count; i++)
        if (m->graph->ops[i].kind == kind) return &m->graph->ops[i];
    return NULL;
}

/* The timm weights' metadata says heads = 3, mean and std, and nothing about ln_eps or the activation. */
static void check_settings(const char *config, const char *arch, uint32_t heads, float eps, activation act) {
    model *m = NULL;
    CHECK_OK(model_open(with_config("vit_timm", config), &(model_options){.arch = arch}, &m));
    if (!m) return;
    CHECK_INT(find_op(m, OP_ATTENTION)->heads, heads);
    CHECK_NEAR(find_op(m, OP_LAYERNORM)->eps, eps, eps * 1e-6);
    for (size_t i = 0; i < m->graph->op_count; i++)
        if (strstr(m->graph->ops[i].name, "fc1")) CHECK_INT(m->graph->ops[i].act, act);
    model_destroy(m);
}

static void check_arch_error(const char *config, const char *arch, coar_status status, const char *error) {
    model *m = NULL;
    status_clear();
    CHECK_ERROR(model_open(with_config("vit_timm", config), &(model_options){.arch = arch}, &m), status, error);
    CHECK(m == NULL);
    status_clear();
}

static void test_precedence(void) {
    test_begin("--arch before metadata before config.json before the family's default");
    check_settings(NULL, NULL, 3, 1e-6f, ACT_GELU_ERF);
    check_settings("{\"num_attention_heads\": 9, \"layer_norm_eps\": 1e-3, \"hidden_act\": \"gelu_new\"}", NULL, 3,
                   1e-3f, ACT_GELU_TANH);
    check_settings("{\"ln_eps\": \"1e-4\", \"layer_norm_eps\": 1e-3, \"activation\": null}", NULL, 3, 1e-4f,
                   ACT_GELU_ERF);
    check_settings("{\"layer_norm_eps\": 1e-3}", "vit,heads=6,ln_eps=1e-5,activation=quickgelu", 6, 1e-5f,
                   ACT_QUICKGELU);
    check_settings("{\"global_pool\": \"token\"}", "vit", 3, 1e-6f, ACT_GELU_ERF);

    test_begin("mean and std: a list in --arch, metadata, the MiniResNet's own");
    model *m = NULL;
    CHECK_OK(model_open(golden_weights("vit_timm"), &(model_options){.arch = "vit,mean=.1,.2,.3,std=[1, 2, 4]"}, &m));
    if (m) CHECK(m->has_normalisation && m->mean[0] == .1f && m->mean[2] == .3f && m->std[1] == 2 && m->std[2] == 4);
    model_destroy(m);
    CHECK_OK(model_open(golden_weights("bottleneck"), &(model_options){0}, &m));
    if (m) CHECK(m->has_normalisation && m->mean[0] == .45f && m->std[2] == .27f);
    model_destroy(m);
    CHECK_OK(model_open(golden_weights("mini_resnet"), &(model_options){0}, &m));
    if (m) CHECK(m->has_normalisation && m->mean[0] == .4914f && m->std[2] == .2010f);
    model_destroy(m);
    CHECK_OK(model_open(with_config("vit_timm", "{\"pretrained_cfg\":{\"mean\":[0,0,0],\"std\":[1,1,1]}}"),
                        &(model_options){0}, &m)); /* metadata first */
    if (m) CHECK(m->mean[0] == .45f);
    model_destroy(m);
}

static void test_bad_settings(void) {
    test_begin("bad settings are named with where they came from");
    check_arch_error(NULL, "vit,head=3", COAR_ERROR_USAGE, "--arch: vit has no key 'head'; its keys: heads ln_eps");
    check_arch_error(NULL, "vit,bn_eps=1e-5", COAR_ERROR_USAGE, "no key 'bn_eps'");
    check_arch_error(NULL, "vit,heads=3,heads=6", COAR_ERROR_USAGE, "'heads' is given twice");
    check_arch_error(NULL, "vit,heads=x", COAR_ERROR_USAGE, "--arch: heads=x: must be a number");
    check_arch_error(NULL, "vit,heads=", COAR_ERROR_USAGE, "--arch: heads=: must be a number");
    check_arch_error(NULL, "vit,heads=1.5", COAR_ERROR_USAGE, "must be a whole number");
    check_arch_error(NULL, "vit,heads=4", COAR_ERROR_USAGE, "does not divide the width 18");
    check_arch_error(NULL, "vit,heads=nan", COAR_ERROR_USAGE, "must be a number");
    check_arch_error(NULL, "vit,ln_eps=-1", COAR_ERROR_USAGE, "must be a number from 0 to 1");
    check_arch_error(NULL, "vit,activation=tanh", COAR_ERROR_USAGE, "must be gelu, gelu_tanh");
    check_arch_error(NULL, "vit,pool=avg", COAR_ERROR_USAGE, "only the class token is supported");
    check_arch_error(NULL, "vit,mean=.5", COAR_ERROR_USAGE, "must be 3 finite numbers");
    check_arch_error(NULL, "vit,mean=.5,.5,.5,.5", COAR_ERROR_USAGE, "must be 3 finite numbers");
    check_arch_error(NULL, "vit,std=1,0,1", COAR_ERROR_USAGE, "must be above zero");
    check_arch_error(NULL, "vit,3", COAR_ERROR_USAGE, "'3' is not key=value");
    check_arch_error(NULL, "heads=3", COAR_ERROR_USAGE, "must begin with an architecture's name");
    check_arch_error(NULL, "", COAR_ERROR_USAGE, "must begin with an architecture's name");
    check_arch_error(NULL, "resnet99", COAR_ERROR_USAGE, "'resnet99' is no known architecture");
    check_arch_error(NULL, "resnet20", COAR_ERROR_INPUT, "is a vit, not the resnet20 that --arch names");
    check_arch_error("{\"layer_norm_eps\": \"x\"}", NULL, COAR_ERROR_INPUT, "config.json beside");
    check_arch_error("{", NULL, COAR_ERROR_INPUT, "config.json: is not a JSON object");
    check_arch_error("[]", NULL, COAR_ERROR_INPUT, "config.json: is not a JSON object");
    check_arch_error("", NULL, COAR_ERROR_INPUT, "config.json: is not a JSON object");
}

static void test_image_sizes(void) {
    model *m = NULL;
    model_options options = {.image_height = 45, .image_width = 37};
    test_begin("convolutional nets take the images' size from the data or --arch");
    CHECK_OK(model_open(golden_weights("bottleneck"), &options, &m));
    if (m) CHECK(m->graph->values[0].h == 45 && m->graph->values[0].w == 37);
    model_destroy(m);
    CHECK_OK(model_open(golden_weights("bottleneck"), &(model_options){0}, &m));
    if (m) CHECK(m->graph->values[0].h == 224);
    model_destroy(m);
    CHECK_OK(model_open(golden_weights("cifar_option_a"), &(model_options){.arch = "resnet,image=48"}, &m));
    if (m) CHECK(m->graph->values[0].h == 48 && m->graph->values[0].w == 48);
    model_destroy(m);
    CHECK_OK(model_random("resnet20,image=20", &(model_options){0}, &m));
    if (m) CHECK(m->graph->values[0].h == 20);
    model_destroy(m);
    options.arch = "resnet,image=48";
    m = NULL;
    CHECK_ERROR(model_open(golden_weights("bottleneck"), &options, &m), COAR_ERROR_USAGE, "data's images are 45 x 37");
    status_clear();
    options.arch = NULL;
    test_begin("a transformer and a MiniResNet are made for one size");
    CHECK_ERROR(model_open(golden_weights("vit_hf"), &options, &m), COAR_ERROR_INPUT,
                "made for images of 32 x 32, not 45 x 37: pack the data with --size 32");
    status_clear();
    CHECK_ERROR(model_open(golden_weights("mini_resnet"), &options, &m), COAR_ERROR_INPUT, "takes 128 features");
    status_clear();
    options.image_height = options.image_width = 7;
    CHECK_ERROR(model_open(golden_weights("mini_resnet"), &options, &m), COAR_ERROR_INPUT,
                "mini_resnet.safetensors: layer");
    status_clear();
}

/* The golden GPT-2 has 16 positions, and its metadata says heads = 3. */
static void test_gpt2(void) {
    model *m = NULL;
    test_begin("GPT-2: Hugging Face's settings; as many tokens as the data have");
    const char *path = with_config("gpt2", "{\"n_head\": 2, \"layer_norm_epsilon\": 1e-3, \"activation_function\": "
                                           "\"relu\", \"scale_attn_weights\": true}");
    CHECK_OK(model_open(path, &(model_options){.tokens = 7}, &m));
    CHECK_INT(find_op(m, OP_ATTENTION)->heads, 3);
    CHECK_NEAR(find_op(m, OP_LAYERNORM)->eps, 1e-3f, 0);
    for (size_t i = 0; i < m->graph->op_count; i++)
        if (strstr(m->graph->ops[i].name, "c_fc")) CHECK_INT(m->graph->ops[i].act, ACT_RELU);
    CHECK_INT(m->graph->values[0].w, 7);
    CHECK_INT(m->classes, 29);
    CHECK(find_op(m, OP_LOOKUP)->weight == find_op(m, OP_NEXT)->weight);
    model_destroy(m);
    CHECK_OK(model_open(path, &(model_options){.arch = "gpt2,heads=2", .tokens_max = 20}, &m));
    CHECK_INT(find_op(m, OP_ATTENTION)->heads, 2);
    CHECK_INT(m->graph->values[0].w, 16);
    model_destroy(m);
    m = NULL;
    CHECK_ERROR(model_open(path, &(model_options){.tokens = 17}, &m), COAR_ERROR_INPUT,
                "takes texts of up to 16 tokens, not 17");
    status_clear();
    CHECK_ERROR(model_open(path, &(model_options){.arch = "gpt2,heads=5"}, &m), COAR_ERROR_USAGE,
                "heads=5: does not divide the width 12");
    status_clear();
    path = with_config("gpt2", "{\"scale_attn_by_inverse_layer_idx\": true}");
    CHECK_ERROR(model_open(path, &(model_options){0}, &m), COAR_ERROR_INPUT, "scale_attn_by_inverse_layer_idx 'true'");
    status_clear();
    CHECK(!m);
}

/* ----------------------------------------------------------------------------------------- wrong files */

typedef enum change { DROP, RENAME, SHRINK, FLATTEN, NOT_A_NUMBER, NEGATIVE } change;

/* Generated ("resnet20") or golden ("vit_timm") weights with one tensor changed. */
static const struct wrong {
    const char *weights, *tensor;
    change how;
    const char *name; /* RENAME */
    coar_status status;
    const char *error;
} wrongs[] = {
    {"resnet20", "conv1.weight", DROP, NULL, COAR_ERROR_INPUT, "of no known architecture"},
    {"resnet20", "bn1.running_var", DROP, NULL, COAR_ERROR_INPUT, "tensor 'bn1.running_var' is missing"},
    {"resnet20", "layer2.1.conv2.weight", DROP, NULL, COAR_ERROR_INPUT, "tensor 'layer2.1.conv2.weight' is missing"},
    {"resnet20", "linear.weight", DROP, NULL, COAR_ERROR_INPUT, "tensor 'linear.weight' is missing"},
    {"resnet20", "linear.bias", DROP, NULL, COAR_ERROR_INPUT, "tensor 'linear.bias' is missing"},
    {"resnet20", "layer1.1.conv1.weight", DROP, NULL, COAR_ERROR_INPUT, "has no place in a"},
    {"resnet20", "layer1.0.bn2.bias", RENAME, "layer1.0.bn3.bias", COAR_ERROR_INPUT, "'layer1.0.bn2.bias' is missing"},
    {"resnet20", "layer1.0.conv1.weight", SHRINK, NULL, COAR_ERROR_INPUT,
     "tensor 'layer1.0.bn1.weight': shape is [16]"},
    {"resnet20", "layer3.2.bn1.weight", SHRINK, NULL, COAR_ERROR_INPUT,
     "shape is [63], the layers before it need [64]"},
    {"resnet20", "conv1.weight", FLATTEN, NULL, COAR_ERROR_INPUT, "'conv1.weight': has 3 dimensions instead of 4"},
    {"resnet20", "layer1.0.conv2.weight", NOT_A_NUMBER, NULL, COAR_ERROR_INPUT,
     "tensor 'layer1.0.conv2.weight': element 1 is NaN"},
    {"resnet20", "bn1.running_var", NEGATIVE, NULL, COAR_ERROR_INPUT, "tensor 'bn1.running_var': element 1 is -1"},
    {"resnet18_cifar", "layer2.0.downsample.0.weight", DROP, NULL, COAR_ERROR_INPUT,
     "tensor 'layer2.0.downsample.0.weight' is missing"},
    {"resnet18", "fc.bias", RENAME, "fc.extra", COAR_ERROR_INPUT, "tensor 'fc.bias' is missing"},
    {"mini_resnet_6", "layer.3.bn1.weight", RENAME, "block3.bn1.weight", COAR_ERROR_INPUT,
     "'layer.3.bn1.weight' is missing"},
    {"mini_resnet_6", "linear.weight", SHRINK, NULL, COAR_ERROR_INPUT, "tensor 'linear.bias': shape is [10]"},
    {"vit_timm", "cls_token", DROP, NULL, COAR_ERROR_INPUT, "tensor 'cls_token' is missing"},
    {"vit_timm", "cls_token", RENAME, "dist_token", COAR_ERROR_UNSUPPORTED, "a distillation token is not supported"},
    {"vit_timm", "norm.weight", RENAME, "fc_norm.weight", COAR_ERROR_UNSUPPORTED, "average pooling instead of a class"},
    {"vit_timm", "blocks.1.norm2.bias", RENAME, "blocks.1.ls1.gamma", COAR_ERROR_UNSUPPORTED, "layer scale"},
    {"vit_timm", "pos_embed", SHRINK, NULL, COAR_ERROR_INPUT, "tensor 'pos_embed': dimension 0 is 0"},
    {"vit_timm", "blocks.0.attn.qkv.weight", SHRINK, NULL, COAR_ERROR_INPUT,
     "shape is [53, 18], the layers before it need [54"},
    {"vit_timm", "blocks.1.mlp.fc1.weight", DROP, NULL, COAR_ERROR_INPUT, "has no place in a vit"},
    {"vit_timm", "head.weight", FLATTEN, NULL, COAR_ERROR_INPUT, "'head.weight': has 1 dimensions instead of 2"},
    {"vit_torchvision", "encoder.layers.encoder_layer_0.mlp.0.weight", DROP, NULL, COAR_ERROR_INPUT,
     "tensor 'encoder.layers.encoder_layer_0.mlp.0.weight' is missing"},
    {"vit_hf", "vit.encoder.layer.1.attention.attention.key.weight", DROP, NULL, COAR_ERROR_INPUT,
     "tensor 'vit.encoder.layer.1.attention.attention.key.weight' is missing"},
    {"gpt2_mini", "h.0.ln_1.weight", DROP, NULL, COAR_ERROR_INPUT, "tensor 'h.0.ln_1.weight' is missing"},
    {"gpt2_mini", "h.1.attn.c_attn.weight", SHRINK, NULL, COAR_ERROR_INPUT,
     "shape is [127, 384], the layers before it need [128, 384]"},
    {"gpt2_mini", "h.0.mlp.c_fc.bias", DROP, NULL, COAR_ERROR_INPUT, "tensor 'h.0.mlp.c_fc.bias' is missing"},
    {"gpt2_mini", "h.1.mlp.c_proj.weight", SHRINK, NULL, COAR_ERROR_INPUT, "shape is [511, 128]"},
    {"gpt2_mini", "h.1.ln_1.weight", RENAME, "h.2.ln_1.weight", COAR_ERROR_INPUT, "has no place in a gpt2"},
    {"gpt2_mini", "wpe.weight", FLATTEN, NULL, COAR_ERROR_INPUT, "'wpe.weight': has 1 dimensions instead of 2"},
    {"gpt2_mini", "ln_f.bias", NOT_A_NUMBER, NULL, COAR_ERROR_INPUT, "tensor 'ln_f.bias': element 1 is NaN"},
    {"gpt2_prefixed", "lm_head.weight", SHRINK, NULL, COAR_ERROR_INPUT, "tensor 'lm_head.weight': shape is [28, 12]"},
    {"clip_vit_mini", "visual.proj", DROP, NULL, COAR_ERROR_INPUT, "tensor 'visual.proj' is missing"},
    {"clip_vit_mini", "visual.proj", SHRINK, NULL, COAR_ERROR_INPUT,
     "shape is [127, 48], the layers before it need [128"},
    {"clip_vit_mini", "visual.positional_embedding", SHRINK, NULL, COAR_ERROR_INPUT,
     "9 positions are not a class token's and a square's"},
    {"clip_vit_mini", "visual.class_embedding", DROP, NULL, COAR_ERROR_INPUT, "of no known architecture"},
    {"clip_vit_mini", "visual.ln_post.bias", RENAME, "visual.trunk.bias", COAR_ERROR_INPUT,
     "tensor 'visual.ln_post.bias' is missing"},
    {"clip_vit_mini", "logit_scale", RENAME, "visual.ln_extra", COAR_ERROR_INPUT, "has no place in a clip_vit"},
    {"clip_vit_mini", "class_embeddings", DROP, NULL, COAR_ERROR_USAGE, "name the embeddings of its classes"},
    {"clip_vit_mini", "class_embeddings", FLATTEN, NULL, COAR_ERROR_INPUT, "class embeddings are [10]"},
    {"clip_vit_mini", "class_embeddings", NOT_A_NUMBER, NULL, COAR_ERROR_INPUT, "element 1 is NaN"},
    {"clip_rn_mini", "visual.attnpool.c_proj.weight", DROP, NULL, COAR_ERROR_INPUT,
     "tensor 'visual.attnpool.c_proj.weight' is missing"},
    {"clip_rn_mini", "visual.attnpool.v_proj.weight", SHRINK, NULL, COAR_ERROR_INPUT,
     "shape is [127, 128], the layers before it need [128, 128]"},
    {"clip_rn_mini", "visual.layer1.0.conv3.weight", DROP, NULL, COAR_ERROR_INPUT,
     "tensor 'visual.layer1.0.conv3.weight' is missing"},
    {"clip_rn_mini", "visual.bn2.running_var", NEGATIVE, NULL, COAR_ERROR_INPUT, "element 1 is -1"},
    {"mini_resnet", "block1.conv2.weight", RENAME, "block0.conv2.weightx", COAR_ERROR_INPUT,
     "has no place in a mini_resnet"},
};

static void rename_tensor(tensor *t, const char *name) {
    free(t->name);
    t->name = strdup(name);
}

static void apply(tensor *t, change how, const char *name) {
    switch (how) {
    case DROP:
        rename_tensor(t, "dropped.num_batches_tracked");
        break; /* a name that is always ignored */
    case RENAME:
        rename_tensor(t, name);
        break;
    case SHRINK:
        t->count = t->count / t->shape[0] * (t->shape[0] - 1);
        t->bytes = t->count * sizeof(float);
        t->shape[0]--;
        break;
    case FLATTEN:
        t->rank--;
        break;
    case NOT_A_NUMBER:
        t->owned[1] = NAN;
        break;
    case NEGATIVE:
        t->owned[1] = -1;
        break;
    }
}

static void test_wrong_files(void) {
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        const struct wrong *w = &wrongs[i];
        static const char *const verbs[] = {"without", "renamed", "smaller", "flatter", "NaN in", "negative"};
        test_begin("refused: %s, %s %s", w->weights, verbs[w->how], w->tensor);
        tensor_table table = {0};
        model *m = NULL;
        if (model_random_tensors(w->weights, &table) != COAR_OK) {
            status_clear();
            CHECK_OK(safetensors_open(golden_weights(w->weights), &table));
        }
        tensor *t = tensor_find(&table, w->tensor);
        CHECK(t != NULL);
        if (t) {
            apply(t, w->how, w->name);
            CHECK_OK(tensor_table_index(&table));
            CHECK_ERROR(model_build(&table, &(model_options){0}, &m), w->status, w->error);
            CHECK(strstr(coar_last_error(), w->weights) != NULL);
        }
        CHECK(m == NULL);
        status_clear();
        tensor_table_close(&table);
    }
}

static void test_twins(void) {
    test_begin("MiniResNet: block{i} must be layer.{i}, and may stand alone");
    tensor_table table = {0};
    model *m = NULL;
    float *other = calloc(8, sizeof *other);
    CHECK_OK(model_random_tensors("mini_resnet_8", &table));
    CHECK_OK(tensor_table_add(&table, "block2.bn1.weight", 1, (size_t[]){8}, other));
    CHECK_OK(tensor_table_index(&table));
    CHECK_ERROR(model_build(&table, &(model_options){0}, &m), COAR_ERROR_INPUT,
                "tensor 'block2.bn1.weight': differs from 'layer.2.bn1.weight'");
    status_clear();
    tensor_table_close(&table);

    CHECK_OK(model_random_tensors("mini_resnet_8", &table));
    for (size_t i = 0; i < table.count; i++)
        if (strncmp(table.items[i].name, "layer.", 6) == 0) {
            char name[64];
            snprintf(name, sizeof name, "block%s", table.items[i].name + 6);
            rename_tensor(&table.items[i], name);
        }
    CHECK_OK(tensor_table_index(&table));
    CHECK_OK(model_build(&table, &(model_options){0}, &m));
    if (m) CHECK_TEXT(m->groups[1].name, "layer.0.conv1");
    model_destroy(m);
    tensor_table_close(&table);
}

int main(void) {
    test_precedence();
    test_bad_settings();
    test_image_sizes();
    test_gpt2();
    test_wrong_files();
    test_twins();
    return test_end();
}
