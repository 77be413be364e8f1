/*
 * vit.c - vision transformers with a class token (Dosovitskiy et al., arXiv 2010.11929) in the names of torchvision,
 * timm and Hugging Face.
 *
 * Blocks are pre-norm: x += out(attention(q, k, v of LN1(x))); x += fc2(GELU(fc1(LN2(x)))). q, k and v are three
 * layers, each its own component group, also where the file holds them in one tensor. The last layer norm acts on the
 * class token alone, which is the same and cheaper.
 * Must not know: devices, runs.
 */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "model/builder.h"

static const char *const keys[] = {"heads", "ln_eps", "activation", "pool", "mean", "std", "image", NULL};

/* How a library names the tensors. Modules have .weight and .bias. */
typedef struct vit_names {
    const char *class_token, *positions, *patch; /* [1,1,D], [1,T,D], module [D,C,P,P] */
    const char *block;                           /* before a block's number; a point and one of these after it */
    const char *norm1, *norm2;
    const char *qkv_weight, *qkv_bias; /* fused, or NULL and */
    const char *q, *k, *v;             /* three modules */
    const char *out, *fc1, *fc2;
    const char *norm, *head; /* modules after the blocks */
    float ln_eps;            /* the library's default */
} vit_names;

/* One library each. The names of torchvision's MLP layers depend on its version. */
#define TORCHVISION(first, second)                                                                                     \
    {                                                                                                                  \
        .class_token = "class_token", .positions = "encoder.pos_embedding", .patch = "conv_proj",                      \
        .block = "encoder.layers.encoder_layer_", .norm1 = "ln_1", .norm2 = "ln_2",                                    \
        .qkv_weight = "self_attention.in_proj_weight", .qkv_bias = "self_attention.in_proj_bias",                      \
        .out = "self_attention.out_proj", .fc1 = first, .fc2 = second, .norm = "encoder.ln", .head = "heads.head",     \
        .ln_eps = 1e-6f                                                                                                \
    }

#define HUGGING_FACE(prefix)                                                                                           \
    {                                                                                                                  \
        .class_token = prefix "embeddings.cls_token", .positions = prefix "embeddings.position_embeddings",            \
        .patch = prefix "embeddings.patch_embeddings.projection", .block = prefix "encoder.layer.",                    \
        .norm1 = "layernorm_before", .norm2 = "layernorm_after", .q = "attention.attention.query",                     \
        .k = "attention.attention.key", .v = "attention.attention.value", .out = "attention.output.dense",             \
        .fc1 = "intermediate.dense", .fc2 = "output.dense", .norm = prefix "layernorm", .head = "classifier",          \
        .ln_eps = 1e-12f                                                                                               \
    }

#define TIMM                                                                                                           \
    {                                                                                                                  \
        .class_token = "cls_token", .positions = "pos_embed", .patch = "patch_embed.proj", .block = "blocks.",         \
        .norm1 = "norm1", .norm2 = "norm2", .qkv_weight = "attn.qkv.weight", .qkv_bias = "attn.qkv.bias",              \
        .out = "attn.proj", .fc1 = "mlp.fc1", .fc2 = "mlp.fc2", .norm = "norm", .head = "head", .ln_eps = 1e-6f        \
    }

static const vit_names namings[] = {
    TORCHVISION("mlp.0", "mlp.3"),
    TORCHVISION("mlp.linear_1", "mlp.linear_2"),
    TIMM,
    HUGGING_FACE("vit."),
    HUGGING_FACE(""),
};

enum { NAMINGS = sizeof namings / sizeof *namings };

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

/* The published sizes; the head width is 64 for all but H, which has 16 heads of 80. */
static const struct vit_size {
    const char *name;
    uint32_t width, depth, patch, heads;
} sizes[] = {
    {"vit_b_16", 768, 12, 16, 12},  {"vit_b_32", 768, 12, 32, 12},  {"vit_l_16", 1024, 24, 16, 16},
    {"vit_l_32", 1024, 24, 32, 16}, {"vit_h_14", 1280, 32, 14, 16},
};

typedef struct vit {
    model_builder *b;
    const vit_names *names;
    uint32_t width, patch, tokens, depth; /* D, P, T = 1 + patches, blocks */
    uint32_t heads;
    float eps;
    activation act;
} vit;

/* A layer of block i: its place in the file and its canonical name. */
typedef struct layer_name {
    char module[160], name[96];
} layer_name;

static layer_name in_block(const vit *v, uint32_t i, const char *part, const char *canonical) {
    layer_name l;
    snprintf(l.module, sizeof l.module, "%s%u.%s", v->names->block, i, part);
    snprintf(l.name, sizeof l.name, "blocks.%u.%s", i, canonical);
    return l;
}

/* ------------------------------------------------------------------------------------ q, k, v, attention */

typedef struct qkv {
    const float *weight[3], *bias[3];
    char tensor[3][160]; /* the name of the weight in the file, */
    uint32_t row[3];     /* and the row at which the part begins there */
} qkv;

static coar_status load_fused(const vit *v, uint32_t i, qkv *out) {
    const vit_names *n = v->names;
    size_t d = v->width;
    const float *weight, *bias = NULL;
    TRY(builder_load(v->b, 2, (size_t[]){3 * d, d}, &weight, "%s%u.%s", n->block, i, n->qkv_weight));
    if (builder_has(v->b, "%s%u.%s", n->block, i, n->qkv_bias))
        TRY(builder_load(v->b, 1, (size_t[]){3 * d}, &bias, "%s%u.%s", n->block, i, n->qkv_bias));
    for (size_t k = 0; k < 3; k++) {
        out->weight[k] = weight + k * d * d;
        out->bias[k] = bias ? bias + k * d : NULL;
        out->row[k] = (uint32_t)(k * d);
        snprintf(out->tensor[k], sizeof out->tensor[k], "%s%u.%s", n->block, i, n->qkv_weight);
    }
    return COAR_OK;
}

static coar_status load_separate(const vit *v, uint32_t i, qkv *out) {
    const vit_names *n = v->names;
    const char *const parts[3] = {n->q, n->k, n->v};
    size_t d = v->width;
    for (size_t k = 0; k < 3; k++) {
        snprintf(out->tensor[k], sizeof out->tensor[k], "%s%u.%s.weight", n->block, i, parts[k]);
        TRY(builder_load(v->b, 2, (size_t[]){d, d}, &out->weight[k], "%s", out->tensor[k]));
        if (builder_has(v->b, "%s%u.%s.bias", n->block, i, parts[k]))
            TRY(builder_load(v->b, 1, &d, &out->bias[k], "%s%u.%s.bias", n->block, i, parts[k]));
    }
    return COAR_OK;
}

/* *heads: where heads act; what they take from the file is the next layer's. */
static coar_status add_attention(const vit *v, uint32_t i, int in, mask_site *heads, int *value) {
    static const char *const canonical[3] = {"attn.q", "attn.k", "attn.v"};
    qkv w = {0};
    TRY(v->names->qkv_weight ? load_fused(v, i, &w) : load_separate(v, i, &w));
    layer_name l = in_block(v, i, "", "attn"), group = in_block(v, i, "", "attn.heads");
    op attention = builder_op(OP_ATTENTION, l.name, -1);
    attention.heads = v->heads;
    for (int k = 0; k < 3; k++) {
        l = in_block(v, i, "", canonical[k]);
        op o = builder_op(OP_CONV, l.name, in);
        o.weight = w.weight[k];
        o.shift = w.bias[k];
        TRY(components_offer(v->b, SET_NEURONS, l.name, l.name, PLACE_PRE, v->width, 1, &o.mask));
        TRY(components_weights(v->b, &o.mask, 0, w.row[k], "%s", w.tensor[k]));
        TRY(builder_add(v->b, &o, v->width, &attention.input[k]));
    }
    TRY(components_offer(v->b, SET_HEADS, group.name, attention.name, PLACE_OUT, v->heads, v->width / v->heads,
                         &attention.mask));
    *heads = attention.mask;
    return builder_add(v->b, &attention, 0, value);
}

/* ---------------------------------------------------------------------------------------------- blocks */

/* A linear layer of a block: its rows are neurons; `branch` names the block component that ends here, or is NULL. */
static coar_status add_layer(const vit *v, const layer_name *l, const char *branch, uint32_t outputs, activation act,
                             int residual, int in, int *value) {
    op o = builder_op(OP_CONV, l->name, in);
    o.act = act;
    o.residual = residual;
    TRY(components_offer(v->b, SET_NEURONS, l->name, l->name, PLACE_PRE, outputs, 1, &o.mask));
    if (branch && o.mask.place == PLACE_NONE)
        TRY(components_offer(v->b, SET_BLOCKS, branch, l->name, PLACE_POST, 1, outputs, &o.mask));
    TRY(builder_linear(v->b, l->module, &o, outputs, value));
    TRY(components_weights(v->b, &o.mask, 0, 0, "%s.weight", l->module));
    if (o.mask.place == PLACE_POST) TRY(components_weights(v->b, &o.mask, 0, 0, "%s.bias", l->module));
    return COAR_OK;
}

static coar_status add_block(const vit *v, uint32_t i, int *value) {
    const vit_names *n = v->names;
    layer_name norm1 = in_block(v, i, n->norm1, "norm1"), norm2 = in_block(v, i, n->norm2, "norm2");
    layer_name out = in_block(v, i, n->out, "attn.out"), attn = in_block(v, i, "", "attn");
    layer_name fc1 = in_block(v, i, n->fc1, "mlp.fc1"), fc2 = in_block(v, i, n->fc2, "mlp.fc2");
    layer_name mlp = in_block(v, i, "", "mlp");
    tensor *hidden;
    mask_site heads;
    int x = *value, y;
    TRY(builder_layernorm(v->b, norm1.module, norm1.name, v->eps, x, &y));
    TRY(add_attention(v, i, y, &heads, &y));
    TRY(add_layer(v, &out, attn.name, v->width, ACT_NONE, x, y, &x));
    TRY(components_weights(v->b, &heads, 1, 0, "%s.weight", out.module));
    TRY(builder_layernorm(v->b, norm2.module, norm2.name, v->eps, x, &y));
    TRY(builder_find(v->b, 2, &hidden, "%s.weight", fc1.module));
    TRY(add_layer(v, &fc1, NULL, (uint32_t)hidden->shape[0], v->act, -1, y, &y));
    return add_layer(v, &fc2, mlp.name, v->width, ACT_NONE, x, y, value);
}

/* ---------------------------------------------------------------------------------- before the blocks */

/* out[0] = class token + position 0, out[t] = patch t-1 + position t: one table [T][D] with the token added. */
static coar_status add_embedding(const vit *v, int *value) {
    const float *patch, *bias, *token, *positions;
    graph *g = v->b->model->graph;
    size_t d = v->width, channels = g->values[0].c;
    op o = builder_op(OP_CONV, "patch", 0);
    o.kernel_h = o.kernel_w = o.stride = v->patch;
    TRY(builder_load(v->b, 4, (size_t[]){d, channels, v->patch, v->patch}, &patch, "%s.weight", v->names->patch));
    TRY(builder_load(v->b, 1, &d, &bias, "%s.bias", v->names->patch));
    o.weight = patch;
    o.shift = bias;
    TRY(builder_add(v->b, &o, v->width, value));

    TRY(builder_load(v->b, 3, (size_t[]){1, 1, d}, &token, "%s", v->names->class_token));
    TRY(builder_load(v->b, 3, (size_t[]){1, v->tokens, d}, &positions, "%s", v->names->positions));
    float *table;
    TRY(memory_new(v->tokens * d, sizeof *table, "position embedding", &table));
    TRY(graph_own(g, table));
    memcpy(table, positions, v->tokens * d * sizeof *table);
    for (size_t c = 0; c < d; c++) table[c] += token[c];
    op embed = builder_op(OP_EMBED, "positions", *value);
    embed.weight = table;
    return builder_add(v->b, &embed, 0, value);
}

/* The image's side follows from the positions, which must be one and a square, and the patch. */
static coar_status find_side(const vit *v, uint32_t *side) {
    const char *path = v->b->table->path;
    uint32_t grid = 1, height, width;
    while ((uint64_t)(grid + 1) * (grid + 1) < v->tokens) grid++;
    if (grid * grid + 1 != v->tokens)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': %u positions are not a class token's and a square's",
                          path, v->names->positions, v->tokens);
    if ((uint64_t)grid * v->patch > 65536)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s.weight': patches of %u make the image too large", path,
                          v->names->patch, v->patch);
    *side = grid * v->patch;
    TRY(builder_image(v->b, *side, &height, &width));
    if (height != *side || width != *side)
        return status_set(COAR_ERROR_INPUT,
                          "%s: is made for images of %u x %u, not %u x %u: pack the data with --size %u", path, *side,
                          *side, height, width, *side);
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------- settings */

static const struct vit_size *find_size(const vit *v) {
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].width == v->width && sizes[i].depth == v->depth && sizes[i].patch == v->patch) return &sizes[i];
    return NULL;
}

static coar_status read_settings(vit *v) {
    const model_settings *s = v->b->settings;
    const model_setting *pool = settings_find(s, "pool");
    const struct vit_size *size = find_size(v);
    uint32_t usual = size ? size->heads : v->width % 64 == 0 ? v->width / 64 : 0;
    double eps;
    if (!usual && !settings_find(s, "heads"))
        return status_set(COAR_ERROR_INPUT,
                          "%s: a width of %u does not tell the number of heads: give --arch vit,heads=H",
                          v->b->table->path, v->width);
    TRY(settings_integer(s, "heads", usual, 1, v->width, &v->heads));
    if (v->width % v->heads) {
        char problem[64];
        snprintf(problem, sizeof problem, "does not divide the width %u", v->width);
        return settings_bad(s, settings_find(s, "heads"), problem);
    }
    TRY(settings_real(s, "ln_eps", v->names->ln_eps, 0, 1, &eps));
    v->eps = (float)eps;
    TRY(settings_activation(s, ACT_GELU_ERF, &v->act));
    if (pool && strcmp(pool->value, "token") != 0 && strcmp(pool->value, "cls") != 0)
        return settings_bad(s, pool, "only the class token is supported: pool=token");
    return COAR_OK;
}

/* The naming whose patch module is there; of several, the one whose first MLP layer is there too. */
static const vit_names *find_names(const tensor_table *table) {
    const vit_names *found = NULL;
    for (size_t i = 0; i < NAMINGS; i++) {
        char patch[160], fc1[160];
        snprintf(patch, sizeof patch, "%s.weight", namings[i].patch);
        snprintf(fc1, sizeof fc1, "%s0.%s.weight", namings[i].block, namings[i].fc1);
        if (!tensor_find(table, patch)) continue;
        if (tensor_find(table, fc1)) return &namings[i];
        if (!found) found = &namings[i];
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

static coar_status build_vit(model_builder *b) {
    const vit_names *names = find_names(b->table);
    vit v = {.b = b, .names = names ? names : &namings[0]};
    tensor *patch, *positions, *head;
    uint32_t side = 0;
    int x;
    TRY(refuse_variants(b));
    TRY(builder_find(b, 4, &patch, "%s.weight", v.names->patch));
    TRY(builder_find(b, 3, &positions, "%s", v.names->positions));
    TRY(builder_find(b, 2, &head, "%s.weight", v.names->head));
    v.width = (uint32_t)patch->shape[0];
    v.patch = (uint32_t)patch->shape[2];
    v.tokens = (uint32_t)positions->shape[1];
    while (builder_has(b, "%s%u.%s.weight", v.names->block, v.depth, v.names->fc1)) v.depth++;
    if (!v.depth)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s0.%s.weight' is missing", b->table->path, v.names->block,
                          v.names->fc1);
    TRY(read_settings(&v));
    TRY(find_side(&v, &side));
    TRY(builder_begin(b, (uint32_t)patch->shape[1], side, side, NULL));
    TRY(add_embedding(&v, &x));
    for (uint32_t i = 0; i < v.depth; i++) TRY(add_block(&v, i, &x));
    op select = builder_op(OP_SELECT, "class_token", x);
    TRY(builder_add(b, &select, 0, &x));
    TRY(builder_layernorm(b, v.names->norm, "norm", v.eps, x, &x));
    op o = builder_op(OP_CONV, "head", x);
    TRY(builder_linear(b, v.names->head, &o, (uint32_t)head->shape[0], &x));
    const struct vit_size *size = find_size(&v);
    return builder_finish(b, size ? size->name : "vit", x);
}

static bool recognise_vit(const tensor_table *table) {
    return find_names(table) != NULL;
}

const model_family family_vit = {
    .name = "vit", .keys = keys, .first_set = SET_NEURONS, .recognise = recognise_vit, .build = build_vit};
