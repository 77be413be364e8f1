/*
 * vit.c - vision transformers with a class token (Dosovitskiy et al., arXiv 2010.11929) in the names of torchvision,
 * timm and Hugging Face. The last layer norm acts on the class token alone, which is the same and cheaper.
 * Must not know: devices, runs.
 */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "model/vit_parts.h"

static const char *const keys[] = {"heads", "ln_eps", "activation", "pool", "mean", "std", "image", NULL};

/* One library each, and its modules behind the blocks. The names of torchvision's MLP layers depend on its version. */
typedef struct vit_library {
    vit_names parts;
    const char *norm, *head;
} vit_library;

#define TORCHVISION(first, second)                                                                                     \
    {                                                                                                                  \
        {.class_token = "class_token",                                                                                 \
         .positions = "encoder.pos_embedding",                                                                         \
         .patch = "conv_proj",                                                                                         \
         .block = "encoder.layers.encoder_layer_",                                                                     \
         .norm1 = "ln_1",                                                                                              \
         .norm2 = "ln_2",                                                                                              \
         .qkv_weight = "self_attention.in_proj_weight",                                                                \
         .qkv_bias = "self_attention.in_proj_bias",                                                                    \
         .out = "self_attention.out_proj",                                                                             \
         .fc1 = first,                                                                                                 \
         .fc2 = second,                                                                                                \
         .ln_eps = 1e-6f},                                                                                             \
            "encoder.ln", "heads.head"                                                                                 \
    }

#define HUGGING_FACE(prefix)                                                                                           \
    {                                                                                                                  \
        {.class_token = prefix "embeddings.cls_token",                                                                 \
         .positions = prefix "embeddings.position_embeddings",                                                         \
         .patch = prefix "embeddings.patch_embeddings.projection",                                                     \
         .block = prefix "encoder.layer.",                                                                             \
         .norm1 = "layernorm_before",                                                                                  \
         .norm2 = "layernorm_after",                                                                                   \
         .q = "attention.attention.query",                                                                             \
         .k = "attention.attention.key",                                                                               \
         .v = "attention.attention.value",                                                                             \
         .out = "attention.output.dense",                                                                              \
         .fc1 = "intermediate.dense",                                                                                  \
         .fc2 = "output.dense",                                                                                        \
         .ln_eps = 1e-12f},                                                                                            \
            prefix "layernorm", "classifier"                                                                           \
    }

#define TIMM                                                                                                           \
    {                                                                                                                  \
        {.class_token = "cls_token",                                                                                   \
         .positions = "pos_embed",                                                                                     \
         .patch = "patch_embed.proj",                                                                                  \
         .block = "blocks.",                                                                                           \
         .norm1 = "norm1",                                                                                             \
         .norm2 = "norm2",                                                                                             \
         .qkv_weight = "attn.qkv.weight",                                                                              \
         .qkv_bias = "attn.qkv.bias",                                                                                  \
         .out = "attn.proj",                                                                                           \
         .fc1 = "mlp.fc1",                                                                                             \
         .fc2 = "mlp.fc2",                                                                                             \
         .ln_eps = 1e-6f},                                                                                             \
            "norm", "head"                                                                                             \
    }

static const vit_library libraries[] = {
    TORCHVISION("mlp.0", "mlp.3"),
    TORCHVISION("mlp.linear_1", "mlp.linear_2"),
    TIMM,
    HUGGING_FACE("vit."),
    HUGGING_FACE(""),
};

/* Relatives of the ViT whose forward pass differs: better named than called unknown. */
static const struct variant {
    const char *tensors, *what;
} variants[] = {
    {"*dist_token*", "a distillation token"},
    {"*distillation_token*", "a distillation token"},
    {"*head_dist*", "a distillation head"},
    {"*fc_norm*", "average pooling instead of a class token"},
    {"*reg_token*", "register tokens"},
    {"*register_tokens*", "register tokens"},
    {"*norm_pre*", "a norm before the blocks"},
    {"*q_norm*", "query and key norms"},
    {"*ls1*", "layer scale"},
    {"*layer_scale*", "layer scale"},
    {"*pre_logits*", "a pre-logits layer"},
    {"*relative_position*", "relative positions"},
};

/* The library whose patch module is there; of several, the one whose first MLP layer is there too. */
static const vit_library *find_library(const tensor_table *table) {
    const vit_library *found = NULL;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        const vit_names *n = &libraries[i].parts;
        char patch[160], fc1[160];
        snprintf(patch, sizeof patch, "%s.weight", n->patch);
        snprintf(fc1, sizeof fc1, "%s0.%s.weight", n->block, n->fc1);
        if (!tensor_find(table, patch)) continue;
        if (tensor_find(table, fc1)) return &libraries[i];
        if (!found) found = &libraries[i];
    }
    return found;
}

static coar_status refuse_variants(const model_builder *b) {
    for (size_t i = 0; i < b->table->count; i++)
        for (size_t k = 0; k < sizeof variants / sizeof *variants; k++)
            if (fnmatch(variants[k].tensors, b->table->items[i].name, 0) == 0)
                return status_set(COAR_ERROR_UNSUPPORTED,
                                  "%s: tensor '%s': a vision transformer with %s is not supported", b->table->path,
                                  b->table->items[i].name, variants[k].what);
    return COAR_OK;
}

static coar_status check_pool(const model_builder *b) {
    const model_setting *pool = settings_find(b->settings, "pool");
    if (pool && strcmp(pool->value, "token") != 0 && strcmp(pool->value, "cls") != 0)
        return settings_bad(b->settings, pool, "only the class token is supported: pool=token");
    return COAR_OK;
}

static coar_status build_vit(model_builder *b) {
    const vit_library *library = find_library(b->table);
    vit_parts v;
    tensor *head;
    int x;
    if (!library) library = &libraries[0];
    TRY(refuse_variants(b));
    TRY(builder_find(b, 2, &head, "%s.weight", library->head));
    TRY(vit_parts_open(b, &library->parts, "vit", ACT_GELU_ERF, &v));
    TRY(check_pool(b));
    TRY(vit_parts_add_embedding(&v, NULL, &x));
    TRY(vit_parts_add_blocks(&v, &x));
    TRY(vit_parts_select(&v, &x));
    TRY(builder_layernorm(b, library->norm, "norm", v.eps, x, &x));
    op o = builder_op(OP_CONV, "head", x);
    TRY(builder_linear(b, library->head, &o, (uint32_t)head->shape[0], &x));
    return builder_finish(b, v.size ? v.size : "vit", x);
}

static bool recognise_vit(const tensor_table *table) {
    return find_library(table) != NULL;
}

const model_family family_vit = {
    .name = "vit", .keys = keys, .first_set = SET_NEURONS, .recognise = recognise_vit, .build = build_vit};
