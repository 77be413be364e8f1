/*
 * resnet_parts.h - what residual convolutional nets have in common: convolutions with batch normalisation, basic blocks
 * and bottlenecks with their shortcuts, stages of them.
 *
 * resnet.c and clip_resnet.c say what stands before the stages and behind them.
 * Must not know: devices, runs.
 */
#ifndef COAR_MODEL_RESNET_PARTS_H
#define COAR_MODEL_RESNET_PARTS_H

#include "model/builder.h"

enum { RESNET_STAGES_MAX = 8 };

typedef struct resnet_parts {
    model_builder *b;
    const char *prefix; /* of tensor names: "", "visual." */
    double eps;         /* of batch normalisation */
    bool option_a;      /* shortcuts that change shape have no weights */
    bool pools;         /* CLIP: bottlenecks whose stride is that of average pools, before conv3 and in the shortcut */
} resnet_parts;

/* The rows of conv module NAME with batch normalisation BN are filters; ReLU. Both names without the prefix. */
coar_status resnet_parts_add_stem(const resnet_parts *r, const char *name, const char *bn, uint32_t stride, int in,
                                  int *value);

/* y = ReLU(branch(x) + shortcut(x)). `module`: the block's name in the file, without the prefix; `block`: its canonical
 * one. */
coar_status resnet_parts_add_block(const resnet_parts *r, const char *block, const char *module, uint32_t stride,
                                   int *value);

/* layer1.0, layer1.1, ... layer2.0 ... as far as there are any; from the second on a stage begins with stride 2.
 * blocks[stage]: how many. */
coar_status resnet_parts_add_stages(const resnet_parts *r, uint32_t blocks[RESNET_STAGES_MAX], int *stages, int *value);

/* The average over k x k pixels, k apart. */
coar_status resnet_parts_pool(const model_builder *b, const char *name, uint32_t k, int *value);

#endif
