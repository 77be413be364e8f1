/*
 * vit_parts.c - see vit_parts.h.
 *
 * Blocks are pre-norm (Dosovitskiy et al., arXiv 2010.11929, equations 2 and 3): x += out(attention(q, k, v of LN1(x)));
 * x += fc2(act(fc1(LN2(x)))). q, k and v are three layers, each its own component group, also where the file holds them
 * in one tensor.
 */
#include "model/vit_parts.h"

#include <stdio.h>
#include <string.h>

#include "core/memory.h"

/* The published sizes of ViTs and CLIPs; the head width is 64 for all but the largest, which have 16 heads. */
static const struct vit_size {
    const char *name;
    uint32_t width, depth, patch, heads;
} sizes[] = {
    {"vit_b_16", 768, 12, 16, 12},  {"vit_b_32", 768, 12, 32, 12},     {"vit_l_14", 1024, 24, 14, 16},
    {"vit_l_16", 1024, 24, 16, 16}, {"vit_l_32", 1024, 24, 32, 16},    {"vit_h_14", 1280, 32, 14, 16},
    {"vit_g_14", 1408, 40, 14, 16}, {"vit_bigg_14", 1664, 48, 14, 16},
};

/* A layer of block i: its place in the file and its canonical name. */
typedef struct layer_name {
    char module[160], name[96];
} layer_name;

static layer_name in_block(const vit_parts *v, uint32_t i, const char *part, const char *canonical) {
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

static coar_status load_fused(const vit_parts *v, uint32_t i, qkv *out) {
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

static coar_status load_separate(const vit_parts *v, uint32_t i, qkv *out) {
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
static coar_status add_attention(const vit_parts *v, uint32_t i, int in, mask_site *heads, int *value) {
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
static coar_status add_layer(const vit_parts *v, const layer_name *l, const char *branch, uint32_t outputs,
                             activation act, int residual, int in, int *value) {
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

static coar_status add_block(const vit_parts *v, uint32_t i, int *value) {
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

coar_status vit_parts_add_blocks(const vit_parts *v, int *value) {
    for (uint32_t i = 0; i < v->depth; i++) TRY(add_block(v, i, value));
    return COAR_OK;
}

coar_status vit_parts_select(const vit_parts *v, int *value) {
    op select = builder_op(OP_SELECT, "class_token", *value);
    return builder_add(v->b, &select, 0, value);
}

/* ---------------------------------------------------------------------------------- before the blocks */

static coar_status add_patches(const vit_parts *v, int *value) {
    const size_t d = v->width;
    op o = builder_op(OP_CONV, "patch", 0);
    o.kernel_h = o.kernel_w = o.stride = v->patch;
    TRY(builder_load(v->b, 4, (size_t[]){d, v->channels, v->patch, v->patch}, &o.weight, "%s.weight", v->names->patch));
    if (!v->names->clip) TRY(builder_load(v->b, 1, &d, &o.shift, "%s.bias", v->names->patch));
    return builder_add(v->b, &o, v->width, value);
}

/* Class token and positions, [1,1,D] and [1,T,D], or without their first dimensions. */
static coar_status load_positions(const vit_parts *v, const float **token, const float **positions) {
    const bool clip = v->names->clip;
    const size_t token_shape[3] = {1, 1, v->width}, shape[3] = {1, v->tokens, v->width};
    TRY(builder_load(v->b, clip ? 1 : 3, token_shape + (clip ? 2 : 0), token, "%s", v->names->class_token));
    return builder_load(v->b, clip ? 2 : 3, shape + (clip ? 1 : 0), positions, "%s", v->names->positions);
}

/* out[0] = class token + position 0, out[t] = patch t-1 + position t: one table [T][D] with the token added. */
coar_status vit_parts_add_embedding(const vit_parts *v, const float (*pixels)[3], int *value) {
    const float *token, *positions;
    const size_t d = v->width;
    float *table;
    uint32_t side;
    TRY(builder_patched_side(v->b, v->names->positions, v->tokens, v->patch, &side));
    TRY(builder_begin(v->b, v->channels, side, side, pixels));
    TRY(add_patches(v, value));
    TRY(load_positions(v, &token, &positions));
    TRY(memory_new(v->tokens * d, sizeof *table, "position embedding", &table));
    TRY(graph_own(v->b->model->graph, table));
    memcpy(table, positions, v->tokens * d * sizeof *table);
    for (size_t c = 0; c < d; c++) table[c] += token[c];
    op embed = builder_op(OP_EMBED, "positions", *value);
    embed.weight = table;
    return builder_add(v->b, &embed, 0, value);
}

/* ------------------------------------------------------------------------------------ sizes and settings */

static coar_status read_shapes(vit_parts *v) {
    const vit_names *n = v->names;
    tensor *patch, *positions;
    TRY(builder_find(v->b, 4, &patch, "%s.weight", n->patch));
    TRY(builder_find(v->b, n->clip ? 2 : 3, &positions, "%s", n->positions));
    v->width = (uint32_t)patch->shape[0];
    v->channels = (uint32_t)patch->shape[1];
    v->patch = (uint32_t)patch->shape[2];
    v->tokens = (uint32_t)positions->shape[n->clip ? 0 : 1];
    while (builder_has(v->b, "%s%u.%s.weight", n->block, v->depth, n->fc1)) v->depth++;
    if (v->depth) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: tensor '%s0.%s.weight' is missing", v->b->table->path, n->block, n->fc1);
}

static coar_status read_settings(vit_parts *v, const char *family, activation act) {
    const model_settings *s = v->b->settings;
    uint32_t usual = v->width % 64 == 0 ? v->width / 64 : 0;
    double eps;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].width == v->width && sizes[i].depth == v->depth && sizes[i].patch == v->patch) {
            v->size = sizes[i].name;
            usual = sizes[i].heads;
        }
    TRY(builder_heads(v->b, family, v->width, usual, &v->heads));
    TRY(settings_real(s, "ln_eps", v->names->ln_eps, 0, 1, &eps));
    v->eps = (float)eps;
    return settings_activation(s, act, &v->act);
}

coar_status vit_parts_open(model_builder *b, const vit_names *names, const char *family, activation act,
                           vit_parts *out) {
    *out = (vit_parts){.b = b, .names = names};
    TRY(read_shapes(out));
    return read_settings(out, family, act);
}
