/*
 * clip_vit.c - CLIP's vision transformer (Radford et al., arXiv 2103.00020, section 2.4) in the names of OpenAI and
 * OpenCLIP, which are the same, and of Hugging Face: a ViT with a layer norm more before the blocks, whose patches have
 * no bias, and a projection of the class token without one.
 * Must not know: classes, devices, runs.
 */
#include <stdio.h>

#include "model/clip.h"
#include "model/vit_parts.h"

typedef struct clip_library {
    vit_names parts;
    const char *norm_before, *norm;
    const char *projection; /* [D,E] */
    const char *linear;     /* or a module without bias, [E,D] */
} clip_library;

static const clip_library libraries[] = {
    {{.class_token = "visual.class_embedding",
      .positions = "visual.positional_embedding",
      .patch = "visual.conv1",
      .clip = true,
      .block = "visual.transformer.resblocks.",
      .norm1 = "ln_1",
      .norm2 = "ln_2",
      .qkv_weight = "attn.in_proj_weight",
      .qkv_bias = "attn.in_proj_bias",
      .out = "attn.out_proj",
      .fc1 = "mlp.c_fc",
      .fc2 = "mlp.c_proj",
      .ln_eps = 1e-5f},
     .norm_before = "visual.ln_pre",
     .norm = "visual.ln_post",
     .projection = "visual.proj"},
    {{.class_token = "vision_model.embeddings.class_embedding",
      .positions = "vision_model.embeddings.position_embedding.weight",
      .patch = "vision_model.embeddings.patch_embedding",
      .clip = true,
      .block = "vision_model.encoder.layers.",
      .norm1 = "layer_norm1",
      .norm2 = "layer_norm2",
      .q = "self_attn.q_proj",
      .k = "self_attn.k_proj",
      .v = "self_attn.v_proj",
      .out = "self_attn.out_proj",
      .fc1 = "mlp.fc1",
      .fc2 = "mlp.fc2",
      .ln_eps = 1e-5f},
     .norm_before = "vision_model.pre_layrnorm", /* sic */
     .norm = "vision_model.post_layernorm",
     .linear = "visual_projection"},
};

static const clip_library *find_library(const tensor_table *table) {
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        if (tensor_find(table, libraries[i].parts.class_token)) return &libraries[i];
    return NULL;
}

bool clip_vit_recognise(const tensor_table *table) {
    return find_library(table) != NULL;
}

/* The class token times [D,E] is a linear layer of its transpose. */
static coar_status add_projection(const model_builder *b, const clip_library *library, int *value) {
    const uint32_t width = builder_shape(b, *value).c;
    op o = builder_op(OP_CONV, "proj", *value);
    tensor *t;
    if (library->projection) {
        TRY(builder_find(b, 2, &t, "%s", library->projection));
        TRY(builder_load_transposed(b, width, t->shape[1], &o.weight, "%s", library->projection));
        return builder_add(b, &o, (uint32_t)t->shape[1], value);
    }
    TRY(builder_find(b, 2, &t, "%s.weight", library->linear));
    TRY(builder_load(b, 2, (size_t[]){t->shape[0], width}, &o.weight, "%s.weight", library->linear));
    return builder_add(b, &o, (uint32_t)t->shape[0], value);
}

coar_status clip_vit_add(model_builder *b, char arch[CLIP_NAME], int *embedding) {
    const clip_library *library = find_library(b->table);
    vit_parts v;
    int x;
    if (!library) library = &libraries[0];
    TRY(vit_parts_open(b, &library->parts, "clip", ACT_QUICKGELU, &v));
    if (library->projection && !settings_find(b->settings, "activation"))
        b->model->assumed = "QuickGELU, as OpenAI trained its own; most others in these names, OpenCLIP's, have GELU: "
                            "--arch clip,activation=gelu";
    TRY(vit_parts_add_embedding(&v, clip_pixels, &x));
    TRY(builder_layernorm(b, library->norm_before, "norm_pre", v.eps, x, &x));
    TRY(vit_parts_add_blocks(&v, &x));
    TRY(vit_parts_select(&v, &x));
    TRY(builder_layernorm(b, library->norm, "norm", v.eps, x, &x));
    TRY(add_projection(b, library, &x));
    snprintf(arch, CLIP_NAME, "clip_%s", v.size ? v.size : "vit");
    *embedding = x;
    return COAR_OK;
}
