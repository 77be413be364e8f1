/*
 * resnet.c - residual convolutional nets (He et al., arXiv 1512.03385): torchvision's ResNet-18 to 152 (also with a
 * CIFAR stem), the CIFAR ResNet-20 to 110 with option-A shortcuts, COAR's CIFAR ResNet and its MiniResNet.
 *
 * What the tensors tell: a 3x3 stem means stride 1 and no max-pool, a 7x7 one stride 2 and a 3x3 max-pool; a block with
 * conv3 is a bottleneck, whose stride stands at conv2; shortcut.{0,1} or downsample.{0,1} is a 1x1 conv with
 * batch normalisation; three stages without any such tensor mean option A.
 * Batch normalisation becomes scale and shift behind the mask (PRE), never part of the masked row.
 * Must not know: devices, runs.
 */
#include <stdio.h>
#include <string.h>

#include "model/builder.h"

static const char *const keys[] = {"bn_eps", "mean", "std", "image", NULL};

typedef struct resnet {
    model_builder *b;
    double eps;    /* of batch normalisation */
    bool option_a; /* shortcuts that change shape have no weights */
} resnet;

/* One convolution with its batch normalisation. */
typedef struct conv_bn {
    const char *name;      /* canonical; also the filters' group */
    const char *conv, *bn; /* modules in the file */
    const char *block;     /* canonical name of the block whose branch ends here, NULL elsewhere */
    bool filters;          /* its rows are components */
    uint32_t stride;
    int residual;
    activation act;
} conv_bn;

/* What the components at `site` take from a module. MiniResNet's checkpoints may hold it twice: block0 is layer.0. */
static coar_status add_weights(const resnet *r, const mask_site *site, const char *module, const char *part) {
    static const char original[] = "layer.";
    TRY(components_weights(r->b, site, 0, 0, "%s.%s", module, part));
    if (strncmp(module, original, sizeof original - 1) != 0) return COAR_OK;
    const char *rest = module + sizeof original - 1;
    if (!builder_has(r->b, "block%s.%s", rest, part)) return COAR_OK;
    return components_weights(r->b, site, 0, 0, "block%s.%s", rest, part);
}

static coar_status add_conv_bn(const resnet *r, const conv_bn *c, int in, int *value) {
    tensor *t;
    TRY(builder_find(r->b, 4, &t, "%s.weight", c->conv));
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
    TRY(builder_batchnorm(r->b, c->bn, outputs, r->eps, &o.scale, &o.shift));
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

/* Option A: every stride-th pixel, zero channels half before and half behind. */
static coar_status add_option_a(const resnet *r, const char *block, uint32_t stride, uint32_t outputs, int in,
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

static coar_status add_shortcut(const resnet *r, const char *block, const char *module, uint32_t stride,
                                uint32_t outputs, int in, int *value) {
    static const char *const kinds[] = {"downsample", "shortcut"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[96], conv[112], bn[112];
        if (!builder_has(r->b, "%s.%s.0.weight", module, kinds[i])) continue;
        snprintf(name, sizeof name, "%s.shortcut", block);
        snprintf(conv, sizeof conv, "%s.%s.0", module, kinds[i]);
        snprintf(bn, sizeof bn, "%s.%s.1", module, kinds[i]);
        conv_bn c = {.name = name, .conv = conv, .bn = bn, .stride = stride, .residual = -1};
        return add_conv_bn(r, &c, in, value);
    }
    *value = in;
    if (stride == 1 && builder_shape(r->b, in).c == outputs) return COAR_OK;
    if (r->option_a) return add_option_a(r, block, stride, outputs, in, value);
    return status_set(COAR_ERROR_INPUT, "%s: tensor '%s.downsample.0.weight' is missing", r->b->table->path, module);
}

/* y = ReLU(branch(x) + shortcut(x)). `module`: the block's prefix in the file; `block`: its canonical name. */
static coar_status add_block(const resnet *r, const char *block, const char *module, uint32_t stride, int *value) {
    int convs = builder_has(r->b, "%s.conv3.weight", module) ? 3 : 2;
    int strided = convs == 3 ? 2 : 1; /* torchvision's form of the bottleneck (v1.5): the 3x3 takes the stride */
    int shortcut, x = *value;
    tensor *last;
    TRY(builder_find(r->b, 4, &last, "%s.conv%d.weight", module, convs));
    TRY(add_shortcut(r, block, module, stride, (uint32_t)last->shape[0], x, &shortcut));
    for (int k = 1; k <= convs; k++) {
        char name[96], conv[112], bn[112];
        snprintf(name, sizeof name, "%s.conv%d", block, k);
        snprintf(conv, sizeof conv, "%s.conv%d", module, k);
        snprintf(bn, sizeof bn, "%s.bn%d", module, k);
        conv_bn c = {.name = name, .conv = conv, .bn = bn, .filters = true, .act = ACT_RELU};
        c.stride = k == strided ? stride : 1;
        c.residual = k == convs ? shortcut : -1;
        c.block = k == convs ? block : NULL;
        TRY(add_conv_bn(r, &c, x, &x));
    }
    *value = x;
    return COAR_OK;
}

static coar_status add_stem(const resnet *r, uint32_t stride, int *value) {
    conv_bn c = {.name = "conv1",
                 .conv = "conv1",
                 .bn = "bn1",
                 .filters = true,
                 .stride = stride,
                 .residual = -1,
                 .act = ACT_RELU};
    return add_conv_bn(r, &c, 0, value);
}

/* ---------------------------------------------------------------------------------------------- ResNet */

enum { STAGES_MAX = 8 };

/* "resnet20", "resnet50", "resnet18_cifar"; "resnet" where nobody has given the depths a name. */
static void name_resnet(const uint32_t *blocks, int stages, bool bottleneck, bool cifar_stem, char *name, size_t size) {
    static const struct {
        bool bottleneck;
        uint32_t blocks[4];
        int layers;
    } known[] = {
        {false, {2, 2, 2, 2}, 18},  {false, {3, 4, 6, 3}, 34},  {true, {3, 4, 6, 3}, 50},
        {true, {3, 4, 23, 3}, 101}, {true, {3, 8, 36, 3}, 152},
    };
    snprintf(name, size, "resnet");
    if (stages == 3 && cifar_stem && !bottleneck && blocks[0] == blocks[1] && blocks[1] == blocks[2])
        snprintf(name, size, "resnet%u", 6 * blocks[0] + 2);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (stages == 4 && known[i].bottleneck == bottleneck &&
            memcmp(known[i].blocks, blocks, sizeof known[i].blocks) == 0)
            snprintf(name, size, "resnet%d%s", known[i].layers, cifar_stem ? "_cifar" : "");
}

static coar_status add_stages(const resnet *r, uint32_t *blocks, int *stages, int *value) {
    *stages = 0;
    while (builder_has(r->b, "layer%d.0.conv1.weight", *stages + 1)) {
        if (*stages == STAGES_MAX)
            return status_set(COAR_ERROR_INPUT, "%s: more than %d stages", r->b->table->path, STAGES_MAX);
        uint32_t *count = &blocks[(*stages)++];
        for (*count = 0; builder_has(r->b, "layer%d.%u.conv1.weight", *stages, *count); ++*count) {
            char name[64];
            snprintf(name, sizeof name, "layer%d.%u", *stages, *count);
            TRY(add_block(r, name, name, *stages > 1 && *count == 0 ? 2 : 1, value));
        }
    }
    return COAR_OK;
}

static coar_status build_resnet(model_builder *b) {
    resnet r = {.b = b};
    tensor *stem, *head;
    uint32_t height, width, blocks[STAGES_MAX] = {0};
    int stages, x;
    char arch[64];
    const char *module = builder_has(b, "fc.weight") ? "fc" : "linear";
    TRY(settings_real(b->settings, "bn_eps", 1e-5, 0, 1, &r.eps));
    TRY(builder_find(b, 4, &stem, "conv1.weight"));
    TRY(builder_find(b, 2, &head, "%s.weight", module));
    bool cifar_stem = stem->shape[2] == 3, bottleneck = builder_has(b, "layer1.0.conv3.weight");
    if (!cifar_stem && stem->shape[2] != 7)
        return status_set(COAR_ERROR_INPUT, "%s: tensor 'conv1.weight': a ResNet's stem is 3x3 or 7x7, not %zux%zu",
                          b->table->path, stem->shape[2], stem->shape[3]);
    r.option_a = cifar_stem && !bottleneck && !builder_has(b, "layer4.0.conv1.weight") &&
                 !builder_has(b, "layer2.0.downsample.0.weight") && !builder_has(b, "layer2.0.shortcut.0.weight");

    TRY(builder_image(b, cifar_stem ? 32 : 224, &height, &width));
    TRY(builder_begin(b, (uint32_t)stem->shape[1], height, width, NULL));
    TRY(add_stem(&r, cifar_stem ? 1 : 2, &x));
    if (!cifar_stem) {
        op pool = builder_op(OP_MAXPOOL, "maxpool", x);
        pool.kernel_h = pool.kernel_w = 3;
        pool.stride = 2;
        pool.pad = 1;
        TRY(builder_add(b, &pool, 0, &x));
    }
    TRY(add_stages(&r, blocks, &stages, &x));
    op pool = builder_op(OP_AVGPOOL, "avgpool", x);
    pool.kernel_h = builder_shape(b, x).h;
    pool.kernel_w = builder_shape(b, x).w;
    TRY(builder_add(b, &pool, 0, &x));
    op fc = builder_op(OP_CONV, "fc", x);
    TRY(builder_linear(b, module, &fc, (uint32_t)head->shape[0], &x));
    name_resnet(blocks, stages, bottleneck, cifar_stem, arch, sizeof arch);
    return builder_finish(b, arch, x);
}

static bool recognise_resnet(const tensor_table *table) {
    return tensor_find(table, "conv1.weight") && tensor_find(table, "layer1.0.conv1.weight");
}

const model_family family_resnet = {
    .name = "resnet", .keys = keys, .first_set = SET_FILTERS, .recognise = recognise_resnet, .build = build_resnet};

/* ------------------------------------------------------------------------------------------ MiniResNet */

enum { MINI_POOL = 8 }; /* average pooling before the linear layer, which keeps the places apart */

/* Checkpoints hold each block twice: block{i} is the same tensors as layer.{i}. */
static coar_status check_twins(const model_builder *b) {
    for (size_t i = 0; i < b->table->count; i++) {
        tensor *t = &b->table->items[i], *twin;
        char name[192];
        if (strncmp(t->name, "block", 5) != 0) continue;
        snprintf(name, sizeof name, "layer.%s", t->name + 5);
        twin = tensor_find(b->table, name);
        if (!twin) continue; /* used itself, or reported as unknown */
        if (!tensor_equal(t, twin))
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': differs from '%s', which must be the same block",
                              b->table->path, t->name, name);
        t->used = 1;
    }
    return COAR_OK;
}

/* A linear layer over C, H, W in this order is a convolution with a kernel as large as the map. */
static coar_status add_mini_head(model_builder *b, const tensor *weight, int *value) {
    shape in = builder_shape(b, *value);
    size_t features = weight->shape[1];
    if (shape_positions(in) * in.c != features) {
        shape image = builder_shape(b, 0);
        return status_set(
            COAR_ERROR_INPUT,
            "%s: tensor '%s': takes %zu features, but images of %u x %u give %u x %u x %u: pack them in the "
            "size the network was trained for",
            b->table->path, weight->name, features, image.h, image.w, in.c, in.h, in.w);
    }
    op o = builder_op(OP_CONV, "linear", *value);
    o.kernel_h = in.h;
    o.kernel_w = in.w;
    uint32_t classes = (uint32_t)weight->shape[0];
    TRY(builder_load(b, 2, (size_t[]){classes, features}, &o.weight, "linear.weight"));
    TRY(builder_load(b, 1, (size_t[]){classes}, &o.shift, "linear.bias"));
    return builder_add(b, &o, classes, value);
}

static coar_status build_mini_resnet(model_builder *b) {
    static const float pixels[2][3] = {{.4914f, .4822f, .4465f}, {.2022f, .1994f, .2010f}}; /* COAR's CIFAR-10 */
    resnet r = {.b = b};
    tensor *stem, *head;
    uint32_t height, width, side = 1, i;
    int x;
    char arch[64];
    TRY(settings_real(b->settings, "bn_eps", 1e-5, 0, 1, &r.eps));
    TRY(check_twins(b));
    TRY(builder_find(b, 4, &stem, "conv1.weight"));
    TRY(builder_find(b, 2, &head, "linear.weight"));
    uint32_t planes = (uint32_t)stem->shape[0];
    while ((uint64_t)side * side * planes < head->shape[1]) side++;
    TRY(builder_image(b, MINI_POOL * side, &height, &width));
    TRY(builder_begin(b, (uint32_t)stem->shape[1], height, width, pixels));
    TRY(add_stem(&r, 1, &x));
    for (i = 0;; i++) {
        char name[64], alias[64];
        snprintf(name, sizeof name, "layer.%u", i);
        snprintf(alias, sizeof alias, "block%u", i);
        if (builder_has(b, "%s.conv1.weight", name))
            TRY(add_block(&r, name, name, 1, &x));
        else if (builder_has(b, "%s.conv1.weight", alias))
            TRY(add_block(&r, name, alias, 1, &x));
        else
            break;
    }
    op pool = builder_op(OP_AVGPOOL, "avgpool", x);
    pool.kernel_h = pool.kernel_w = pool.stride = MINI_POOL;
    TRY(builder_add(b, &pool, 0, &x));
    TRY(add_mini_head(b, head, &x));
    snprintf(arch, sizeof arch, i == 4 ? "mini_resnet_%u" : "mini_resnet", planes);
    return builder_finish(b, arch, x);
}

static bool recognise_mini_resnet(const tensor_table *table) {
    return tensor_find(table, "conv1.weight") &&
           (tensor_find(table, "layer.0.conv1.weight") || tensor_find(table, "block0.conv1.weight"));
}

const model_family family_mini_resnet = {.name = "mini_resnet",
                                         .keys = keys,
                                         .first_set = SET_FILTERS,
                                         .recognise = recognise_mini_resnet,
                                         .build = build_mini_resnet};
