/*
 * clip_resnet.c - CLIP's ModifiedResNet (Radford et al., arXiv 2103.00020, section 2.4; the names of OpenAI's weights): a
 * stem of three convolutions, bottlenecks whose strides are average pools, and attention pooling: pixels become tokens,
 * their mean is one more, and what attention makes of it, projected, is the embedding.
 * Must not know: classes, devices, runs.
 */
#include <stdio.h>
#include <string.h>

#include "model/clip.h"
#include "model/resnet_parts.h"

enum { STEM_POOL = 2, HEAD_WIDTH = 64 };

static const char positions[] = "visual.attnpool.positional_embedding"; /* [1 + pixels, C] */

bool clip_resnet_recognise(const tensor_table *table) {
    return tensor_find(table, positions) != NULL;
}

/* "clip_rn50", "clip_rn50x4", ...; "clip_rn" where nobody has given the depths and the width a name. */
static void name_resnet(const uint32_t *blocks, int stages, uint32_t width, char arch[CLIP_NAME]) {
    static const struct {
        uint32_t blocks[4], width;
        const char *name;
    } known[] = {
        {{3, 4, 6, 3}, 64, "50"},     {{3, 4, 23, 3}, 64, "101"},      {{4, 6, 10, 6}, 80, "50x4"},
        {{6, 8, 18, 8}, 96, "50x16"}, {{3, 15, 36, 10}, 128, "50x64"},
    };
    snprintf(arch, CLIP_NAME, "clip_rn");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (stages == 4 && known[i].width == width && memcmp(known[i].blocks, blocks, sizeof known[i].blocks) == 0)
            snprintf(arch, CLIP_NAME, "clip_rn%s", known[i].name);
}

/* Three 3x3 convolutions, the first of stride 2, and a pool of 2. */
static coar_status add_stem(const resnet_parts *r, int *value) {
    TRY(resnet_parts_add_stem(r, "conv1", "bn1", 2, 0, value));
    TRY(resnet_parts_add_stem(r, "conv2", "bn2", 1, *value, value));
    TRY(resnet_parts_add_stem(r, "conv3", "bn3", 1, *value, value));
    return resnet_parts_pool(r->b, "stem.pool", STEM_POOL, value);
}

/* What attention makes of the mean token; query, key and value are made of all tokens, of which the other queries have
 * no reader. */
static coar_status add_attention_pool(const model_builder *b, int in, int *value) {
    static const char *const modules[3] = {"visual.attnpool.q_proj", "visual.attnpool.k_proj",
                                           "visual.attnpool.v_proj"},
                             *const names[3] = {"attnpool.q", "attnpool.k", "attnpool.v"};
    const shape s = builder_shape(b, in);
    int tokens;
    op mean = builder_op(OP_MEAN_TOKEN, "attnpool.mean", in);
    TRY(builder_load(b, 2, (size_t[]){shape_positions(s) + 1, s.c}, &mean.weight, "%s", positions));
    TRY(builder_add(b, &mean, 0, &tokens));
    op attention = builder_op(OP_ATTENTION, "attnpool", -1);
    TRY(builder_heads(b, "clip", s.c, s.c % HEAD_WIDTH ? 0 : s.c / HEAD_WIDTH, &attention.heads));
    for (int k = 0; k < 3; k++) {
        const op o = builder_op(OP_CONV, names[k], tokens);
        TRY(builder_linear(b, modules[k], &o, s.c, &attention.input[k]));
    }
    TRY(builder_add(b, &attention, 0, value));
    op select = builder_op(OP_SELECT, "attnpool.token", *value);
    TRY(builder_add(b, &select, 0, value));
    tensor *projection;
    TRY(builder_find(b, 2, &projection, "visual.attnpool.c_proj.weight"));
    const op o = builder_op(OP_CONV, "proj", *value);
    return builder_linear(b, "visual.attnpool.c_proj", &o, (uint32_t)projection->shape[0], value);
}

static uint32_t count_stages(const model_builder *b) {
    uint32_t stages = 0;
    while (stages < RESNET_STAGES_MAX && builder_has(b, "visual.layer%u.0.conv1.weight", stages + 1)) stages++;
    return stages;
}

coar_status clip_resnet_add(model_builder *b, char arch[CLIP_NAME], int *embedding) {
    resnet_parts r = {.b = b, .prefix = "visual.", .pools = true};
    tensor *stem, *table, *first;
    uint32_t side, blocks[RESNET_STAGES_MAX] = {0};
    int x, stages;
    TRY(settings_real(b->settings, "bn_eps", 1e-5, 0, 1, &r.eps));
    TRY(builder_find(b, 4, &stem, "visual.conv1.weight"));
    TRY(builder_find(b, 4, &first, "visual.layer1.0.conv1.weight"));
    TRY(builder_find(b, 2, &table, "%s", positions));
    /* Each pixel of the last stage stands for 4 behind the stem, and twice as many with each further stage. */
    const uint32_t patch = 4u << (count_stages(b) - 1);
    TRY(builder_patched_side(b, positions, (uint32_t)table->shape[0], patch, &side));
    TRY(builder_begin(b, (uint32_t)stem->shape[1], side, side, clip_pixels));
    TRY(add_stem(&r, &x));
    TRY(resnet_parts_add_stages(&r, blocks, &stages, &x));
    TRY(add_attention_pool(b, x, &x));
    name_resnet(blocks, stages, (uint32_t)first->shape[0], arch);
    *embedding = x;
    return COAR_OK;
}
