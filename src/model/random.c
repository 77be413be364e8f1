/*
 * random.c - random weights of named architectures, for benchmarks and tests.
 *
 * Uniform weights of variance 2 / fan-in before a ReLU (He et al., arXiv 1502.01852), 1 / fan-in elsewhere, batch
 * statistics near (0, 1) and small residual branches: activations stay of order one at any depth. Tensor t is row t of
 * a Philox stream of its own, so the same name gives the same weights on every machine.
 * Must not know: devices, runs.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"
#include "model/model.h"

typedef struct resnet_spec {
    const char *name;
    uint32_t stages, blocks[4];
    uint32_t width;     /* of the first stage; doubled at each */
    uint32_t expansion; /* 1: basic blocks; 4: bottlenecks */
    bool cifar_stem, option_a;
    uint32_t classes;
} resnet_spec;

/* CLIP's form of it: a deep stem, attention pooling, embeddings of classes instead of a head. */
typedef struct clip_resnet_spec {
    const char *name;
    uint32_t blocks[4], width, image, embedding, classes;
} clip_resnet_spec;

typedef struct vit_spec {
    const char *name;
    uint32_t width, depth, hidden, patch, image, classes; /* the number of heads follows from these (vit_parts.c) */
    uint32_t embedding;                                   /* of a CLIP, else 0 */
} vit_spec;

typedef struct gpt2_spec {
    const char *name;
    uint32_t vocabulary, context, width, depth; /* hidden units: four times the width; head width 64 (gpt2.c) */
} gpt2_spec;

static const resnet_spec resnets[] = {
    {"resnet8", 3, {1, 1, 1}, 16, 1, true, true, 10},
    {"resnet20", 3, {3, 3, 3}, 16, 1, true, true, 10},
    {"resnet32", 3, {5, 5, 5}, 16, 1, true, true, 10},
    {"resnet44", 3, {7, 7, 7}, 16, 1, true, true, 10},
    {"resnet56", 3, {9, 9, 9}, 16, 1, true, true, 10},
    {"resnet110", 3, {18, 18, 18}, 16, 1, true, true, 10},
    {"resnet18_cifar", 4, {2, 2, 2, 2}, 64, 1, true, false, 10},
    {"resnet18", 4, {2, 2, 2, 2}, 64, 1, false, false, 1000},
    {"resnet34", 4, {3, 4, 6, 3}, 64, 1, false, false, 1000},
    {"resnet50", 4, {3, 4, 6, 3}, 64, 4, false, false, 1000},
    {"resnet101", 4, {3, 4, 23, 3}, 64, 4, false, false, 1000},
    {"resnet152", 4, {3, 8, 36, 3}, 64, 4, false, false, 1000},
    {"resnet8_bottleneck", 2, {1, 1}, 16, 4, false, false, 10}, /* src/selftest: none that anybody has published */
};

static const vit_spec vits[] = {
    {"vit_b_16", 768, 12, 3072, 16, 224, 1000},
    {"vit_b_32", 768, 12, 3072, 32, 224, 1000},
    {"vit_l_16", 1024, 24, 4096, 16, 224, 1000},
    {"vit_h_14", 1280, 32, 5120, 14, 224, 1000},
    {"clip_vit_b_16", 768, 12, 3072, 16, 224, 1000, 512},
    {"clip_vit_b_32", 768, 12, 3072, 32, 224, 1000, 512},
    {"clip_vit_l_14", 1024, 24, 4096, 14, 224, 1000, 768},
    /* src/selftest */
    {"vit_mini", 128, 2, 256, 16, 48, 10},
    {"clip_vit_mini", 128, 2, 256, 16, 48, 10, 48},
};

static const gpt2_spec gpt2s[] = {
    {"gpt2", 50257, 1024, 768, 12}, {"gpt2_mini", 300, 24, 128, 2}, /* src/selftest */
};

static const clip_resnet_spec clip_resnets[] = {
    {"clip_rn50", {3, 4, 6, 3}, 64, 224, 1024, 1000}, {"clip_rn_mini", {1, 1}, 16, 40, 48, 10}, /* src/selftest */
};

/* What a library calls the layers of a transformer block. */
typedef struct block_names {
    const char *block, *norm1, *norm2, *qkv_weight, *qkv_bias, *out, *fc1, *fc2;
} block_names;

static const block_names torchvision = {
    "encoder.layers.encoder_layer_", "ln_1",  "ln_2", "self_attention.in_proj_weight", "self_attention.in_proj_bias",
    "self_attention.out_proj",       "mlp.0", "mlp.3"};
static const block_names openai = {"visual.transformer.resblocks.",
                                   "ln_1",
                                   "ln_2",
                                   "attn.in_proj_weight",
                                   "attn.in_proj_bias",
                                   "attn.out_proj",
                                   "mlp.c_fc",
                                   "mlp.c_proj"};

const char *model_random_names(void) {
    return "resnet8, resnet20, resnet32, resnet44, resnet56, resnet110, resnet18_cifar, resnet18, "
           "resnet34, resnet50, resnet101, resnet152, mini_resnet_256, vit_b_16, vit_b_32, vit_l_16, vit_h_14, "
           "clip_vit_b_16, clip_vit_b_32, clip_vit_l_14, clip_rn50, gpt2";
}

/* ----------------------------------------------------------------------------------------- one tensor */

/* Appends a tensor of values uniform around `centre` with standard deviation `deviation`. */
static coar_status add(tensor_table *table, int rank, const size_t *shape, float centre, float deviation,
                       const char *format, ...) COAR_PRINTF(6, 7);

static coar_status add(tensor_table *table, int rank, const size_t *shape, float centre, float deviation,
                       const char *format, ...) {
    char name[128];
    float *data;
    size_t count = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (int d = 0; d < rank; d++) count *= shape[d];
    TRY(memory_new(count, sizeof *data, name, &data));
    double reach = sqrt(3.0) * deviation; /* a uniform number on -reach .. reach has this deviation */
    float step = (float)(2 * reach / 4294967296.0), low = (float)(centre - reach);
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_WEIGHTS, table->count, (uint32_t)(i / 4), words);
        for (size_t k = 0; k < 4 && i + k < count; k++) data[i + k] = low + step * (float)words[k];
    }
    return tensor_table_add(table, name, rank, shape, data);
}

static coar_status add_conv(tensor_table *table, const char *name, size_t outputs, size_t inputs, size_t kernel) {
    float deviation = (float)sqrt(2.0 / (double)(inputs * kernel * kernel));
    return add(table, 4, (size_t[]){outputs, inputs, kernel, kernel}, 0, deviation, "%s.weight", name);
}

/* `gain`: what the normalised values are multiplied by, give or take. */
static coar_status add_batchnorm(tensor_table *table, const char *name, size_t channels, float gain) {
    TRY(add(table, 1, &channels, gain, 0.1f * gain, "%s.weight", name));
    TRY(add(table, 1, &channels, 0, 0.1f, "%s.bias", name));
    TRY(add(table, 1, &channels, 0, 0.1f, "%s.running_mean", name));
    return add(table, 1, &channels, 1, 0.1f, "%s.running_var", name);
}

static coar_status add_linear(tensor_table *table, const char *name, size_t outputs, size_t inputs, float gain) {
    float deviation = gain * (float)sqrt(1.0 / (double)inputs);
    TRY(add(table, 2, (size_t[]){outputs, inputs}, 0, deviation, "%s.weight", name));
    return add(table, 1, &outputs, 0, 0.02f, "%s.bias", name);
}

/* ---------------------------------------------------------------------------------------- the families */

enum { BRANCH_STEPS = 4 }; /* a block adds about 1/BRANCH_STEPS of the stream's standard deviation */

/* A residual block; shortcut NULL = none with weights. */
static coar_status add_block(tensor_table *table, const char *block, size_t inputs, size_t width, size_t expansion,
                             const char *shortcut) {
    size_t convs = expansion == 1 ? 2 : 3, in = inputs;
    char name[96];
    for (size_t k = 1; k <= convs; k++) {
        bool last = k == convs;
        size_t out = last ? width * expansion : width, kernel = expansion == 1 || k == 2 ? 3 : 1;
        snprintf(name, sizeof name, "%s.conv%zu", block, k);
        TRY(add_conv(table, name, out, in, kernel));
        snprintf(name, sizeof name, "%s.bn%zu", block, k);
        TRY(add_batchnorm(table, name, out, last ? 1.0f / BRANCH_STEPS : 1));
        in = out;
    }
    if (!shortcut) return COAR_OK;
    snprintf(name, sizeof name, "%s.%s.0", block, shortcut);
    TRY(add_conv(table, name, in, inputs, 1));
    snprintf(name, sizeof name, "%s.%s.1", block, shortcut);
    return add_batchnorm(table, name, in, 1);
}

static coar_status add_resnet(tensor_table *table, const resnet_spec *spec) {
    size_t in = spec->width;
    TRY(add_conv(table, "conv1", spec->width, 3, spec->cifar_stem ? 3 : 7));
    TRY(add_batchnorm(table, "bn1", spec->width, 1));
    for (uint32_t s = 0; s < spec->stages; s++)
        for (uint32_t i = 0; i < spec->blocks[s]; i++) {
            char block[32];
            size_t width = (size_t)spec->width << s, out = width * spec->expansion;
            bool changes = in != out && !spec->option_a;
            snprintf(block, sizeof block, "layer%u.%u", s + 1, i);
            TRY(add_block(table, block, in, width, spec->expansion, changes ? "downsample" : NULL));
            in = out;
        }
    return add_linear(table, spec->option_a ? "linear" : "fc", spec->classes, in, 1);
}

static coar_status add_mini_resnet(tensor_table *table, size_t planes) {
    TRY(add_conv(table, "conv1", planes, 3, 3));
    TRY(add_batchnorm(table, "bn1", planes, 1));
    for (int i = 0; i < 4; i++) {
        char block[32];
        snprintf(block, sizeof block, "layer.%d", i);
        TRY(add_block(table, block, planes, planes, 1, NULL));
    }
    return add_linear(table, "linear", 10, 16 * planes, 1);
}

static coar_status add_layernorm(tensor_table *table, const char *name, size_t width) {
    TRY(add(table, 1, &width, 1, 0.1f, "%s.weight", name));
    return add(table, 1, &width, 0, 0.1f, "%s.bias", name);
}

static coar_status add_vit_block(tensor_table *table, const vit_spec *spec, const block_names *n, uint32_t i) {
    size_t d = spec->width;
    float small = 1.0f / BRANCH_STEPS;
    char block[64], name[128];
    snprintf(block, sizeof block, "%s%u", n->block, i);
    snprintf(name, sizeof name, "%s.%s", block, n->norm1);
    TRY(add_layernorm(table, name, d));
    TRY(add(table, 2, (size_t[]){3 * d, d}, 0, (float)sqrt(1.0 / (double)d), "%s.%s", block, n->qkv_weight));
    TRY(add(table, 1, (size_t[]){3 * d}, 0, 0.02f, "%s.%s", block, n->qkv_bias));
    snprintf(name, sizeof name, "%s.%s", block, n->out);
    TRY(add_linear(table, name, d, d, small));
    snprintf(name, sizeof name, "%s.%s", block, n->norm2);
    TRY(add_layernorm(table, name, d));
    snprintf(name, sizeof name, "%s.%s", block, n->fc1);
    TRY(add_linear(table, name, spec->hidden, d, 1));
    snprintf(name, sizeof name, "%s.%s", block, n->fc2);
    return add_linear(table, name, d, spec->hidden, small);
}

static coar_status add_patches(tensor_table *table, const vit_spec *spec, const char *name) {
    size_t d = spec->width, patch = spec->patch;
    float deviation = (float)sqrt(1.0 / (double)(3 * patch * patch));
    return add(table, 4, (size_t[]){d, 3, patch, patch}, 0, deviation, "%s.weight", name);
}

static coar_status add_vit(tensor_table *table, const vit_spec *spec) {
    size_t d = spec->width, grid = spec->image / spec->patch;
    TRY(add(table, 3, (size_t[]){1, 1, d}, 0, 0.5f, "class_token"));
    TRY(add_patches(table, spec, "conv_proj"));
    TRY(add(table, 1, &d, 0, 0.02f, "conv_proj.bias"));
    TRY(add(table, 3, (size_t[]){1, 1 + grid * grid, d}, 0, 0.5f, "encoder.pos_embedding"));
    for (uint32_t i = 0; i < spec->depth; i++) TRY(add_vit_block(table, spec, &torchvision, i));
    TRY(add_layernorm(table, "encoder.ln", d));
    return add_linear(table, "heads.head", spec->classes, d, 1);
}

/* A linear layer of GPT-2: [in, out]. */
static coar_status add_conv1d(tensor_table *table, const char *name, size_t inputs, size_t outputs, float gain) {
    const float deviation = gain * (float)sqrt(1.0 / (double)inputs);
    TRY(add(table, 2, (size_t[]){inputs, outputs}, 0, deviation, "%s.weight", name));
    return add(table, 1, &outputs, 0, 0.02f, "%s.bias", name);
}

static coar_status add_gpt2_block(tensor_table *table, size_t d, uint32_t i) {
    static const struct {
        const char *name;
        size_t inputs, outputs; /* times d */
        float gain;
    } layers[] = {{"attn.c_attn", 1, 3, 1},
                  {"attn.c_proj", 1, 1, 1.0f / BRANCH_STEPS},
                  {"mlp.c_fc", 1, 4, 1},
                  {"mlp.c_proj", 4, 1, 1.0f / BRANCH_STEPS}};
    char name[64];
    for (int k = 1; k <= 2; k++) {
        snprintf(name, sizeof name, "h.%u.ln_%d", i, k);
        TRY(add_layernorm(table, name, d));
    }
    for (size_t k = 0; k < sizeof layers / sizeof *layers; k++) {
        snprintf(name, sizeof name, "h.%u.%s", i, layers[k].name);
        TRY(add_conv1d(table, name, layers[k].inputs * d, layers[k].outputs * d, layers[k].gain));
    }
    return COAR_OK;
}

/* The table is the head as well: logits of order one from normalised values. */
static coar_status add_gpt2(tensor_table *table, const gpt2_spec *spec) {
    const size_t d = spec->width;
    const float deviation = (float)sqrt(1.0 / (double)d);
    TRY(add(table, 2, (size_t[]){spec->vocabulary, d}, 0, deviation, "wte.weight"));
    TRY(add(table, 2, (size_t[]){spec->context, d}, 0, deviation, "wpe.weight"));
    for (uint32_t i = 0; i < spec->depth; i++) TRY(add_gpt2_block(table, d, i));
    return add_layernorm(table, "ln_f", d);
}

/* Of length 1 or so, as different as random ones are; logits of order one. */
static coar_status add_classes(tensor_table *table, size_t classes, size_t embedding) {
    TRY(add(table, 0, NULL, 0.5f * logf((float)embedding), 0, "logit_scale"));
    return add(table, 2, (size_t[]){classes, embedding}, 0, 1, "class_embeddings");
}

static coar_status add_clip_vit(tensor_table *table, const vit_spec *spec) {
    size_t d = spec->width, grid = spec->image / spec->patch, e = spec->embedding;
    TRY(add(table, 1, &d, 0, 0.5f, "visual.class_embedding"));
    TRY(add_patches(table, spec, "visual.conv1"));
    TRY(add(table, 2, (size_t[]){1 + grid * grid, d}, 0, 0.5f, "visual.positional_embedding"));
    TRY(add_layernorm(table, "visual.ln_pre", d));
    for (uint32_t i = 0; i < spec->depth; i++) TRY(add_vit_block(table, spec, &openai, i));
    TRY(add_layernorm(table, "visual.ln_post", d));
    TRY(add(table, 2, (size_t[]){d, e}, 0, (float)sqrt(1.0 / (double)d), "visual.proj"));
    return add_classes(table, spec->classes, e);
}

static coar_status add_attention_pool(tensor_table *table, size_t pixels, size_t d, size_t embedding) {
    TRY(add(table, 2, (size_t[]){1 + pixels, d}, 0, 0.5f, "visual.attnpool.positional_embedding"));
    TRY(add_linear(table, "visual.attnpool.q_proj", d, d, 1));
    TRY(add_linear(table, "visual.attnpool.k_proj", d, d, 1));
    TRY(add_linear(table, "visual.attnpool.v_proj", d, d, 1));
    return add_linear(table, "visual.attnpool.c_proj", embedding, d, 1);
}

static coar_status add_clip_resnet(tensor_table *table, const clip_resnet_spec *spec) {
    const size_t w = spec->width, channels[4] = {3, w / 2, w / 2, w};
    size_t in = w, side = spec->image / 4;
    char name[64];
    for (int k = 1; k <= 3; k++) {
        snprintf(name, sizeof name, "visual.conv%d", k);
        TRY(add_conv(table, name, channels[k], channels[k - 1], 3));
        snprintf(name, sizeof name, "visual.bn%d", k);
        TRY(add_batchnorm(table, name, channels[k], 1));
    }
    for (uint32_t s = 0; s < 4 && spec->blocks[s]; s++) {
        for (uint32_t i = 0; i < spec->blocks[s]; i++) {
            snprintf(name, sizeof name, "visual.layer%u.%u", s + 1, i);
            TRY(add_block(table, name, in, w << s, 4, i == 0 ? "downsample" : NULL));
            in = 4 * w << s;
        }
        if (s) side /= 2;
    }
    TRY(add_attention_pool(table, side * side, in, spec->embedding));
    return add_classes(table, spec->classes, spec->embedding);
}

/* P of "mini_resnet_P", 0 for other names. */
static uint32_t mini_planes(const char *arch) {
    static const char prefix[] = "mini_resnet_";
    const char *digits = arch + sizeof prefix - 1;
    if (strncmp(arch, prefix, sizeof prefix - 1) != 0 || *digits < '1' || *digits > '9') return 0;
    char *end;
    unsigned long planes = strtoul(digits, &end, 10);
    return *end == '\0' && planes <= 4096 ? (uint32_t)planes : 0;
}

static coar_status add_named(tensor_table *table, const char *arch) {
    for (size_t i = 0; i < sizeof resnets / sizeof *resnets; i++)
        if (strcmp(arch, resnets[i].name) == 0) return add_resnet(table, &resnets[i]);
    for (size_t i = 0; i < sizeof vits / sizeof *vits; i++)
        if (strcmp(arch, vits[i].name) == 0)
            return vits[i].embedding ? add_clip_vit(table, &vits[i]) : add_vit(table, &vits[i]);
    for (size_t i = 0; i < sizeof clip_resnets / sizeof *clip_resnets; i++)
        if (strcmp(arch, clip_resnets[i].name) == 0) return add_clip_resnet(table, &clip_resnets[i]);
    for (size_t i = 0; i < sizeof gpt2s / sizeof *gpt2s; i++)
        if (strcmp(arch, gpt2s[i].name) == 0) return add_gpt2(table, &gpt2s[i]);
    uint32_t planes = mini_planes(arch);
    if (planes) return add_mini_resnet(table, planes);
    return status_set(COAR_ERROR_USAGE, "'%s' is no architecture with random weights: %s", arch, model_random_names());
}

coar_status model_random_tensors(const char *arch, tensor_table *out) {
    coar_status status;
    tensor_table table = {.path = strdup(arch)};
    if (!table.path) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "not enough memory"));
    TRY_GOTO(add_named(&table, arch));
    /* Any pixels will do; without these two the caller would be asked for them. */
    TRY_GOTO(tensor_table_add_metadata(&table, "mean", ".5,.5,.5"));
    TRY_GOTO(tensor_table_add_metadata(&table, "std", ".25,.25,.25"));
    TRY_GOTO(tensor_table_index(&table));
    *out = table;
    memset(&table, 0, sizeof table);
done:
    tensor_table_close(&table);
    return status;
}
