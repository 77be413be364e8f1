/*
 * vit_parts.h - what vision transformers have in common: patches and positions, pre-norm blocks, the number of heads.
 *
 * vit.c and clip_vit.c say what a library calls the tensors, what stands before the blocks and what behind them.
 * Must not know: devices, runs.
 */
#ifndef COAR_MODEL_VIT_PARTS_H
#define COAR_MODEL_VIT_PARTS_H

#include "model/builder.h"

/* How a library names the tensors. Modules have .weight and .bias. */
typedef struct vit_names {
    const char *class_token, *positions, *patch; /* [1,1,D], [1,T,D], module [D,C,P,P] */
    bool clip;                                   /* [D], [T,D], and patches without a bias */
    const char *block;                           /* before a block's number; a point and one of these after it */
    const char *norm1, *norm2;
    const char *qkv_weight, *qkv_bias; /* fused, or NULL and */
    const char *q, *k, *v;             /* three modules */
    const char *out, *fc1, *fc2;
    float ln_eps; /* the library's default */
} vit_names;

typedef struct vit_parts {
    model_builder *b;
    const vit_names *names;
    uint32_t width, patch, tokens, depth; /* D, P, T = 1 + patches, blocks */
    uint32_t channels;                    /* of the images */
    const char *size;                     /* "vit_b_16" where the sizes are published ones, else NULL */
    uint32_t heads;
    float eps;
    activation act;
} vit_parts;

/* Sizes from the shapes, the rest from the settings. `family`: what --arch may call it; `act`: its usual activation. */
coar_status vit_parts_open(model_builder *b, const vit_names *names, const char *family, activation act,
                           vit_parts *out);

/* Begins the graph with patches, class token and positions: *value is [1][T][D]. `pixels` as in builder_begin. */
coar_status vit_parts_add_embedding(const vit_parts *v, const float (*pixels)[3], int *value);

/* All blocks, with their components, from *value to *value. */
coar_status vit_parts_add_blocks(const vit_parts *v, int *value);

/* The class token alone. */
coar_status vit_parts_select(const vit_parts *v, int *value);

#endif
