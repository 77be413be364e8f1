/*
 * resnet.c - residual convolutional nets (He et al., arXiv 1512.03385): torchvision's ResNet-18 to 152 (also with a
 * CIFAR stem), the CIFAR ResNet-20 to 110 with option-A shortcuts, COAR's CIFAR ResNet and its MiniResNet.
 *
 * What the tensors tell: a 3x3 stem means stride 1 and no max-pool, a 7x7 one stride 2 and a 3x3 max-pool; a block with
 * conv3 is a bottleneck, whose stride stands at conv2; shortcut.{0,1} or downsample.{0,1} is a 1x1 conv with
 * batch normalisation; three stages without any such tensor mean option A.
 * Must not know: devices, runs.
 */
#include <stdio.h>
#include <string.h>

#include "model/resnet_parts.h"

static const char *const keys[] = {"bn_eps", "mean", "std", "image", NULL};

/* ---------------------------------------------------------------------------------------------- ResNet */

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

static coar_status build_resnet(model_builder *b) {
    resnet_parts r = {.b = b, .prefix = ""};
    tensor *stem, *head;
    uint32_t height, width, blocks[RESNET_STAGES_MAX] = {0};
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
    TRY(resnet_parts_add_stem(&r, "conv1", "bn1", cifar_stem ? 1 : 2, 0, &x));
    if (!cifar_stem) {
        op pool = builder_op(OP_MAXPOOL, "maxpool", x);
        pool.kernel_h = pool.kernel_w = 3;
        pool.stride = 2;
        pool.pad = 1;
        TRY(builder_add(b, &pool, 0, &x));
    }
    TRY(resnet_parts_add_stages(&r, blocks, &stages, &x));
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
    resnet_parts r = {.b = b, .prefix = ""};
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
    TRY(resnet_parts_add_stem(&r, "conv1", "bn1", 1, 0, &x));
    for (i = 0;; i++) {
        char name[64], alias[64];
        snprintf(name, sizeof name, "layer.%u", i);
        snprintf(alias, sizeof alias, "block%u", i);
        if (builder_has(b, "%s.conv1.weight", name))
            TRY(resnet_parts_add_block(&r, name, name, 1, &x));
        else if (builder_has(b, "%s.conv1.weight", alias))
            TRY(resnet_parts_add_block(&r, name, alias, 1, &x));
        else
            break;
    }
    TRY(resnet_parts_pool(b, "avgpool", MINI_POOL, &x));
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
