/* nets.c - whole networks with random weights, one for each architecture, component set and kind of ablation. See
 * selftest.h. */
#include <stdio.h>

#include "selftest/selftest.h"

typedef struct net_case {
    const char *name, *arch; /* model_random's; what --arch would say of it, NULL = the same */
    component_set set;
    ablation_kind kind;
    uint32_t image; /* side; 0 = the architecture's own */
    uint32_t slots, examples;
    bool quick;
} net_case;

static const net_case cases[] = {
    {"resnet8", NULL, SET_FILTERS, ABLATION_ZERO, 16, 3, 3, true},
    {"resnet8_bottleneck", "resnet", SET_BLOCKS, ABLATION_MEAN, 32, 2, 3, true},
    {"mini_resnet_8", "mini_resnet", SET_FILTERS, ABLATION_SCALE, 0, 1, 2, true},
    {"vit_mini", "vit", SET_NEURONS, ABLATION_ZERO, 0, 3, 2, true},
    {"vit_mini", "vit", SET_HEADS, ABLATION_MEAN, 0, 4, 1, true},
    {"clip_vit_mini", "clip", SET_NEURONS, ABLATION_ZERO, 0, 2, 2, true},
    {"clip_rn_mini", "clip", SET_FILTERS, ABLATION_MEAN, 0, 3, 2, true},
    {"gpt2_mini", "gpt2", SET_NEURONS, ABLATION_MEAN, 0, 1, 2, true},
    {"resnet20", NULL, SET_FILTERS, ABLATION_ZERO, 0, 5, 5, false},
    {"resnet18_cifar", NULL, SET_BLOCKS, ABLATION_ZERO, 0, 2, 3, false},
    {"resnet50", NULL, SET_FILTERS, ABLATION_ZERO, 0, 2, 1, false},
    {"vit_b_32", NULL, SET_NEURONS, ABLATION_ZERO, 0, 1, 2, false},
};

coar_status selftest_net(size_t index, bool quick, bool reverse, selftest_item *out) {
    const net_case *c = NULL;
    *out = (selftest_item){0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !c; i++)
        if ((cases[i].quick || !quick) && !index--) c = &cases[i];
    if (!c) return COAR_OK;
    const model_options options = {.arch = c->arch, .set = c->set, .image_height = c->image, .image_width = c->image};
    selftest_item item = {.kind = c->kind,
                          .slots = c->slots,
                          .examples = c->examples,
                          .outputs = "margin,logit,logit:1,logit:0-2,loss",
                          .reverse = reverse,
                          .derived = {4, 3, 4}, /* margins have kinks, which a rounding may cross */
                          .rms_most = 0.03};
    TRY(model_random(c->name, &options, &item.model));
    item.graph = item.model->graph;
    if (item.graph->vocabulary) selftest_texts(&item);
    snprintf(item.name, sizeof item.name, "%s%s, %s", reverse ? "reverse " : "", c->name, component_set_name(c->set));
    *out = item;
    return COAR_OK;
}
