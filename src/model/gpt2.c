/*
 * gpt2.c - GPT-2 (Radford et al. 2019) in the names of Hugging Face, with or without `transformer.` before them.
 *
 * Blocks are pre-norm: x += c_proj(attention(c_attn(ln_1(x)))); x += mlp.c_proj(GELU(c_fc(ln_2(x)))); a last norm, and the
 * table of tokens once more as the head. Weights of linear layers ("Conv1D") are [in, out], the transpose of everybody
 * else's; so a row of a weight is what one input channel does, and a component of `neurons` is the input of such a row:
 * the mask acts behind the layer norm, the attention or the GELU that makes it.
 * The graph is made for the data's T tokens: positions behind them are not loaded into it.
 * Must not know: devices, runs, tokenizers.
 */
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "model/builder.h"

static const char *const keys[] = {"heads", "ln_eps", "activation", NULL};

typedef struct gpt2 {
    model_builder *b;
    const char *prefix;                /* "" or "transformer." */
    uint32_t vocabulary, width, depth; /* V, D, blocks */
    uint32_t context, tokens;          /* positions there are; T: those of the graph */
    uint32_t heads;
    float eps;
    activation act;
} gpt2;

/* A layer of block i: its place in the file and its canonical name. */
typedef struct layer_name {
    char module[96], name[96];
} layer_name;

static layer_name in_block(const gpt2 *m, uint32_t i, const char *part, const char *canonical) {
    layer_name l;
    snprintf(l.module, sizeof l.module, "%sh.%u.%s", m->prefix, i, part);
    snprintf(l.name, sizeof l.name, "blocks.%u.%s", i, canonical);
    return l;
}

/* ---------------------------------------------------------------------------------------------- blocks */

/* A layer norm. `reader`: the weight whose rows multiply its result, and may be components; NULL when none is. */
static coar_status add_norm(const gpt2 *m, const layer_name *l, const char *reader, int in, mask_site *site,
                            int *value) {
    const size_t d = m->width;
    op o = builder_op(OP_LAYERNORM, l->name, in);
    o.eps = m->eps;
    TRY(builder_load(m->b, 1, &d, &o.weight, "%s.weight", l->module));
    TRY(builder_load(m->b, 1, &d, &o.shift, "%s.bias", l->module));
    if (reader) TRY(components_offer(m->b, SET_NEURONS, reader, l->name, PLACE_OUT, m->width, 1, &o.mask));
    *site = o.mask;
    return builder_add(m->b, &o, 0, value);
}

/* Query, key and value are three ops of the one tensor c_attn. */
static coar_status add_attention(const gpt2 *m, uint32_t i, int in, mask_site *site, int *value) {
    static const char *const parts[3] = {"attn.q", "attn.k", "attn.v"};
    const size_t d = m->width;
    const layer_name all = in_block(m, i, "attn.c_attn", "attn"), heads = in_block(m, i, "", "attn.heads");
    const layer_name reader = in_block(m, i, "", "attn.c_proj");
    const float *weight, *bias;
    op attention = builder_op(OP_ATTENTION, all.name, -1);
    attention.heads = m->heads;
    attention.causal = true;
    TRY(builder_load_transposed(m->b, d, 3 * d, &weight, "%s.weight", all.module));
    TRY(builder_load(m->b, 1, (size_t[]){3 * d}, &bias, "%s.bias", all.module));
    for (size_t k = 0; k < 3; k++) {
        op o = builder_op(OP_CONV, in_block(m, i, "", parts[k]).name, in);
        o.weight = weight + k * d * d;
        o.shift = bias + k * d;
        TRY(builder_add(m->b, &o, m->width, &attention.input[k]));
    }
    TRY(components_offer(m->b, SET_NEURONS, reader.name, all.name, PLACE_OUT, m->width, 1, &attention.mask));
    if (attention.mask.place == PLACE_NONE)
        TRY(components_offer(m->b, SET_HEADS, heads.name, all.name, PLACE_OUT, m->heads, m->width / m->heads,
                             &attention.mask));
    *site = attention.mask;
    return builder_add(m->b, &attention, 0, value);
}

/* A linear layer whose weights are [in, out]. */
static coar_status add_linear(const gpt2 *m, const layer_name *l, const op *given, uint32_t outputs, int *value) {
    op o = *given;
    TRY(builder_load_transposed(m->b, builder_shape(m->b, o.input[0]).c, outputs, &o.weight, "%s.weight", l->module));
    TRY(builder_load(m->b, 1, (size_t[]){outputs}, &o.shift, "%s.bias", l->module));
    return builder_add(m->b, &o, outputs, value);
}

/* The last layer of a branch, which is added to the residual; `branch` names the block component. */
static coar_status add_projection(const gpt2 *m, const layer_name *l, const char *branch, int residual, int in,
                                  int *value) {
    op o = builder_op(OP_CONV, l->name, in);
    o.residual = residual;
    TRY(components_offer(m->b, SET_BLOCKS, branch, l->name, PLACE_POST, 1, m->width, &o.mask));
    TRY(add_linear(m, l, &o, m->width, value));
    TRY(components_weights(m->b, &o.mask, 1, 0, "%s.weight", l->module));
    return components_weights(m->b, &o.mask, 0, 0, "%s.bias", l->module);
}

/* What a site ablates are rows of the layer that reads it. */
static coar_status take_rows(const gpt2 *m, const mask_site *site, const layer_name *reader) {
    return components_weights(m->b, site, 0, 0, "%s.weight", reader->module);
}

static coar_status add_block(const gpt2 *m, uint32_t i, int *value) {
    const layer_name norm1 = in_block(m, i, "ln_1", "norm1"), norm2 = in_block(m, i, "ln_2", "norm2");
    const layer_name qkv = in_block(m, i, "attn.c_attn", "attn.c_attn"), attn = in_block(m, i, "", "attn");
    const layer_name out = in_block(m, i, "attn.c_proj", "attn.c_proj"), mlp = in_block(m, i, "", "mlp");
    const layer_name fc = in_block(m, i, "mlp.c_fc", "mlp.c_fc");
    const layer_name proj = in_block(m, i, "mlp.c_proj", "mlp.c_proj");
    tensor *hidden;
    mask_site site, attention;
    int x = *value, y;
    TRY(add_norm(m, &norm1, qkv.name, x, &site, &y));
    TRY(add_attention(m, i, y, &attention, &y));
    TRY(take_rows(m, &site, &qkv));
    TRY(add_projection(m, &out, attn.name, x, y, &x));
    TRY(take_rows(m, &attention, &out));
    TRY(add_norm(m, &norm2, fc.name, x, &site, &y));
    TRY(builder_find(m->b, 2, &hidden, "%s.weight", fc.module));
    op o = builder_op(OP_CONV, fc.name, y);
    o.act = m->act;
    const uint32_t units = (uint32_t)hidden->shape[1];
    TRY(components_offer(m->b, SET_NEURONS, proj.name, fc.name, PLACE_OUT, units, 1, &o.mask));
    TRY(add_linear(m, &fc, &o, units, &y));
    TRY(take_rows(m, &site, &fc));
    TRY(add_projection(m, &proj, mlp.name, x, y, value));
    return take_rows(m, &o.mask, &proj);
}

/* ------------------------------------------------------------------------------------ before and after them */

static coar_status add_lookup(const gpt2 *m, const float **table, int *value) {
    const size_t d = m->width;
    op o = builder_op(OP_LOOKUP, "tokens", 0);
    o.vocabulary = m->vocabulary;
    TRY(builder_load(m->b, 2, (size_t[]){m->vocabulary, d}, &o.weight, "%swte.weight", m->prefix));
    TRY(builder_load(m->b, 2, (size_t[]){m->context, d}, &o.shift, "%swpe.weight", m->prefix));
    *table = o.weight;
    return builder_add(m->b, &o, m->width, value);
}

/* The head is the table of tokens, unless the file has another. */
static coar_status add_head(const gpt2 *m, const float *table, int in, int *value) {
    op o = builder_op(OP_NEXT, "head", in);
    o.input[1] = 0;
    o.vocabulary = m->vocabulary;
    o.weight = table;
    if (builder_has(m->b, "lm_head.weight"))
        TRY(builder_load(m->b, 2, (size_t[]){m->vocabulary, m->width}, &o.weight, "lm_head.weight"));
    return builder_add(m->b, &o, 0, value);
}

/* -------------------------------------------------------------------------------------------- settings */

/* Relatives whose attention differs though their tensors look alike. */
static coar_status refuse_variants(const model_settings *s) {
    static const struct {
        const char *key, *value;
    } variants[] = {{"scale_attn_weights", "false"}, {"scale_attn_by_inverse_layer_idx", "true"}};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const model_setting *item = settings_find(s, variants[i].key);
        if (item && strcmp(item->value, variants[i].value) == 0)
            return settings_bad(s, item, "a GPT-2 with other scales of its attention is not supported");
    }
    return COAR_OK;
}

static coar_status read_settings(gpt2 *m) {
    const model_settings *s = m->b->settings;
    const uint32_t usual = m->width % 64 == 0 ? m->width / 64 : 0;
    double eps;
    TRY(refuse_variants(s));
    TRY(builder_heads(m->b, "gpt2", m->width, usual, &m->heads));
    TRY(settings_real(s, "ln_eps", 1e-5, 0, 1, &eps));
    m->eps = (float)eps;
    return settings_activation(s, ACT_GELU_TANH, &m->act);
}

/* The causal mask and the number that stood for minus infinity, which older files hold as tensors. */
static void pass_over_masks(const gpt2 *m) {
    static const char *const parts[] = {"attn.bias", "attn.masked_bias"};
    for (uint32_t i = 0; i < m->depth; i++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            tensor *t = tensor_find(m->b->table, in_block(m, i, parts[k], "").module);
            if (t) t->used = 1;
        }
}

static coar_status find_sizes(gpt2 *m) {
    const model_builder *b = m->b;
    tensor *tokens, *positions;
    TRY(builder_find(b, 2, &tokens, "%swte.weight", m->prefix));
    TRY(builder_find(b, 2, &positions, "%swpe.weight", m->prefix));
    m->vocabulary = (uint32_t)tokens->shape[0];
    m->width = (uint32_t)tokens->shape[1];
    m->context = (uint32_t)positions->shape[0];
    m->tokens = b->options->tokens ? b->options->tokens : m->context;
    if (!b->options->tokens && b->options->tokens_max && m->tokens > b->options->tokens_max)
        m->tokens = b->options->tokens_max;
    if (m->tokens > m->context)
        return status_set(COAR_ERROR_INPUT,
                          "%s: takes texts of up to %u tokens, not %u: `coar pack --length %u` cuts them",
                          b->table->path, m->context, m->tokens, m->context);
    while (builder_has(b, "%sh.%u.ln_1.weight", m->prefix, m->depth)) m->depth++;
    if (!m->depth)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%sh.0.ln_1.weight' is missing", b->table->path, m->prefix);
    return COAR_OK;
}

static const char *find_prefix(const tensor_table *table) {
    return tensor_find(table, "wte.weight") ? "" : tensor_find(table, "transformer.wte.weight") ? "transformer." : NULL;
}

static coar_status build_gpt2(model_builder *b) {
    const char *prefix = find_prefix(b->table);
    gpt2 m = {.b = b, .prefix = prefix ? prefix : ""};
    const float *table;
    int x;
    TRY(find_sizes(&m));
    TRY(read_settings(&m));
    TRY(builder_begin_tokens(b, m.vocabulary, m.tokens));
    TRY(add_lookup(&m, &table, &x));
    for (uint32_t i = 0; i < m.depth; i++) TRY(add_block(&m, i, &x));
    mask_site none;
    layer_name norm = {.name = "norm"};
    snprintf(norm.module, sizeof norm.module, "%sln_f", m.prefix);
    TRY(add_norm(&m, &norm, NULL, x, &none, &x));
    TRY(add_head(&m, table, x, &x));
    pass_over_masks(&m);
    return builder_finish(b, "gpt2", x);
}

static bool recognise_gpt2(const tensor_table *table) {
    return find_prefix(table) != NULL;
}

const model_family family_gpt2 = {
    .name = "gpt2", .keys = keys, .first_set = SET_NEURONS, .recognise = recognise_gpt2, .build = build_gpt2};
