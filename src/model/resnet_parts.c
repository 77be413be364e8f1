/*
 * resnet_parts.c - see resnet_parts.h. Batch normalisation becomes scale and shift behind the mask (PRE), never part of
 * the masked row.
 */
#include "model/resnet_parts.h"

#include <stdio.h>
#include <string.h>

/* One convolution with its batch normalisation. */
typedef struct conv_bn {
    const char *name;      /* canonical; also the filters' group */
    const char *conv, *bn; /* modules in the file, without the prefix */
    const char *block;     /* canonical name of the block whose branch ends here, NULL elsewhere */
    bool filters;          /* its rows are components */
    uint32_t stride;
    int residual;
    activation act;
} conv_bn;

/* What the components at `site` take from a module. MiniResNet's checkpoints may hold it twice: block0 is layer.0. */
static coar_status add_weights(const resnet_parts *r, const mask_site *site, const char *module, const char *part) {
    static const char original[] = "layer.";
    TRY(components_weights(r->b, site, 0, 0, "%s%s.%s", r->prefix, module, part));
    if (strncmp(module, original, sizeof original - 1) != 0) return COAR_OK;
    const char *rest = module + sizeof original - 1;
    if (!builder_has(r->b, "block%s.%s", rest, part)) return COAR_OK;
    return components_weights(r->b, site, 0, 0, "block%s.%s", rest, part);
}

static coar_status add_conv_bn(const resnet_parts *r, const conv_bn *c, int in, int *value) {
    tensor *t;
    char bn[160];
    TRY(builder_find(r->b, 4, &t, "%s%s.weight", r->prefix, c->conv));
    uint32_t outputs = (uint32_t)t->shape[0], kernel = (uint32_t)t->shape[2];
    if (kernel % 2 == 0 || kernel != t->shape[3])
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': a kernel of %zu x %zu is not known in a ResNet",
                          r->b->table->path, t->name, t->shape[2], t->shape[3]);
    op o = builder_op(OP_CONV, c->name, in);
    o.kernel_h = o.kernel_w = kernel;
    o.pad = kernel / 2;
    o.stride = c->stride;
    o.residual = c->residual;
    o.act = c->act;
    size_t shape[4] = {outputs, builder_shape(r->b, in).c, kernel, kernel};
    TRY(builder_load(r->b, 4, shape, &o.weight, "%s", t->name));
    snprintf(bn, sizeof bn, "%s%s", r->prefix, c->bn);
    TRY(builder_batchnorm(r->b, bn, outputs, r->eps, &o.scale, &o.shift));
    if (c->filters) TRY(components_offer(r->b, SET_FILTERS, c->name, c->name, PLACE_PRE, outputs, 1, &o.mask));
    if (c->block && o.mask.place == PLACE_NONE)
        TRY(components_offer(r->b, SET_BLOCKS, c->block, c->name, PLACE_POST, 1, outputs, &o.mask));
    if (o.mask.place == PLACE_PRE) TRY(add_weights(r, &o.mask, c->conv, "weight"));
    if (o.mask.place == PLACE_POST) {
        TRY(add_weights(r, &o.mask, c->bn, "weight"));
        TRY(add_weights(r, &o.mask, c->bn, "bias"));
    }
    return builder_add(r->b, &o, outputs, value);
}

coar_status resnet_parts_add_stem(const resnet_parts *r, const char *name, const char *bn, uint32_t stride, int in,
                                  int *value) {
    conv_bn c = {
        .name = name, .conv = name, .bn = bn, .filters = true, .stride = stride, .residual = -1, .act = ACT_RELU};
    return add_conv_bn(r, &c, in, value);
}

coar_status resnet_parts_pool(const model_builder *b, const char *name, uint32_t k, int *value) {
    op pool = builder_op(OP_AVGPOOL, name, *value);
    pool.kernel_h = pool.kernel_w = pool.stride = k;
    return builder_add(b, &pool, 0, value);
}

/* ------------------------------------------------------------------------------------------------ shortcuts */

/* Option A: every stride-th pixel, zero channels half before and half behind. */
static coar_status add_option_a(const resnet_parts *r, const char *block, uint32_t stride, uint32_t outputs, int in,
                                int *value) {
    char name[96];
    uint32_t inputs = builder_shape(r->b, in).c;
    snprintf(name, sizeof name, "%s.shortcut", block);
    if (outputs < inputs)
        return status_set(COAR_ERROR_INPUT, "%s: block '%s': from %u to %u channels without a shortcut's weights",
                          r->b->table->path, block, inputs, outputs);
    op o = builder_op(OP_SUBSAMPLE, name, in);
    o.stride = stride;
    o.pad = (outputs - inputs) / 2;
    return builder_add(r->b, &o, outputs, value);
}

static coar_status add_weighted(const resnet_parts *r, const char *block, const char *module, const char *kind,
                                uint32_t stride, int in, int *value) {
    char name[96], conv[112], bn[112];
    if (r->pools && stride > 1) {
        snprintf(name, sizeof name, "%s.shortcut.pool", block);
        TRY(resnet_parts_pool(r->b, name, stride, &in));
    }
    snprintf(name, sizeof name, "%s.shortcut", block);
    snprintf(conv, sizeof conv, "%s.%s.0", module, kind);
    snprintf(bn, sizeof bn, "%s.%s.1", module, kind);
    conv_bn c = {.name = name, .conv = conv, .bn = bn, .stride = r->pools ? 1 : stride, .residual = -1};
    return add_conv_bn(r, &c, in, value);
}

static coar_status add_shortcut(const resnet_parts *r, const char *block, const char *module, uint32_t stride,
                                uint32_t outputs, int in, int *value) {
    static const char *const kinds[] = {"downsample", "shortcut"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (builder_has(r->b, "%s%s.%s.0.weight", r->prefix, module, kinds[i]))
            return add_weighted(r, block, module, kinds[i], stride, in, value);
    *value = in;
    if (stride == 1 && builder_shape(r->b, in).c == outputs) return COAR_OK;
    if (r->option_a) return add_option_a(r, block, stride, outputs, in, value);
    return status_set(COAR_ERROR_INPUT, "%s: tensor '%s%s.downsample.0.weight' is missing", r->b->table->path,
                      r->prefix, module);
}

/* --------------------------------------------------------------------------------------------------- blocks */

coar_status resnet_parts_add_block(const resnet_parts *r, const char *block, const char *module, uint32_t stride,
                                   int *value) {
    int convs = r->pools || builder_has(r->b, "%s%s.conv3.weight", r->prefix, module) ? 3 : 2;
    int strided = convs == 3 ? 2 : 1; /* torchvision's form of the bottleneck (v1.5): the 3x3 takes the stride */
    int shortcut, x = *value;
    tensor *last;
    TRY(builder_find(r->b, 4, &last, "%s%s.conv%d.weight", r->prefix, module, convs));
    TRY(add_shortcut(r, block, module, stride, (uint32_t)last->shape[0], x, &shortcut));
    for (int k = 1; k <= convs; k++) {
        char name[96], conv[112], bn[112];
        snprintf(name, sizeof name, "%s.conv%d", block, k);
        snprintf(conv, sizeof conv, "%s.conv%d", module, k);
        snprintf(bn, sizeof bn, "%s.bn%d", module, k);
        conv_bn c = {.name = name, .conv = conv, .bn = bn, .filters = true, .act = ACT_RELU};
        c.stride = k == strided && !r->pools ? stride : 1;
        c.residual = k == convs ? shortcut : -1;
        c.block = k == convs ? block : NULL;
        TRY(add_conv_bn(r, &c, x, &x));
        if (k == strided && r->pools && stride > 1) {
            snprintf(name, sizeof name, "%s.pool", block);
            TRY(resnet_parts_pool(r->b, name, stride, &x));
        }
    }
    *value = x;
    return COAR_OK;
}

coar_status resnet_parts_add_stages(const resnet_parts *r, uint32_t blocks[RESNET_STAGES_MAX], int *stages,
                                    int *value) {
    *stages = 0;
    while (builder_has(r->b, "%slayer%d.0.conv1.weight", r->prefix, *stages + 1)) {
        if (*stages == RESNET_STAGES_MAX)
            return status_set(COAR_ERROR_INPUT, "%s: more than %d stages", r->b->table->path, RESNET_STAGES_MAX);
        uint32_t *count = &blocks[(*stages)++];
        for (*count = 0; builder_has(r->b, "%slayer%d.%u.conv1.weight", r->prefix, *stages, *count); ++*count) {
            char name[64];
            snprintf(name, sizeof name, "layer%d.%u", *stages, *count);
            TRY(resnet_parts_add_block(r, name, name, *stages > 1 && *count == 0 ? 2 : 1, value));
        }
    }
    return COAR_OK;
}
