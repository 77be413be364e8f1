/*
 * builder.h - what a family file sees while it turns tensors into ops and component groups.
 *
 * A family asks for tensors by name (missing ones, wrong shapes and non-finite values end in one line that names file
 * and tensor), adds ops, and offers every group of components it has; which of them the caller wants is decided here.
 * Must not know: devices, runs.
 */
#ifndef COAR_MODEL_BUILDER_H
#define COAR_MODEL_BUILDER_H

#include "model/model.h"
#include "model/settings.h"

typedef struct model_builder {
    tensor_table *table;
    const model_settings *settings;
    const model_options *options;
    model *model; /* under construction */
    size_t group_capacity, slice_capacity;
    char offered[96]; /* the first group of the wanted set, left out or not; "" = none */
} model_builder;

typedef struct model_family {
    const char *name;        /* "resnet": what --arch may say for any member */
    const char *const *keys; /* of --arch, NULL-terminated */
    component_set first_set; /* SET_DEFAULT means this one */
    bool zero_shot;          /* its classes are embeddings that the options name */
    bool (*recognise)(const tensor_table *table);
    coar_status (*build)(model_builder *b); /* emits all ops, offers all groups, sets arch and classes, finishes */
} model_family;

extern const model_family family_resnet, family_mini_resnet, family_vit, family_clip_vit, family_clip_resnet,
    family_gpt2;

/* ------------------------------------------------------------------------------------- tensors by name */

bool builder_has(const model_builder *b, const char *format, ...) COAR_PRINTF(2, 3);

/* The tensor, with `rank` dimensions, all between 1 and 2^31 - 1; an error when it is missing. */
coar_status builder_find(const model_builder *b, int rank, tensor **out, const char *format, ...) COAR_PRINTF(4, 5);

/* Its values as fp32, owned by the graph; the shape must be exactly shape[rank]. */
coar_status builder_load(const model_builder *b, int rank, const size_t *shape, const float **out, const char *format,
                         ...) COAR_PRINTF(5, 6);

/* The same of a matrix [inputs, outputs] that is wanted as [outputs, inputs]. */
coar_status builder_load_transposed(const model_builder *b, size_t inputs, size_t outputs, const float **out,
                                    const char *format, ...) COAR_PRINTF(5, 6);

/* ------------------------------------------------------------------------------------------------- ops */

/* Creates the graph for images of `channels` channels, and settles mean and std. Without mean and std from any source,
 * `pixels` [2][3] (the family's own, or NULL) holds for three channels. */
coar_status builder_begin(model_builder *b, uint32_t channels, uint32_t height, uint32_t width,
                          const float (*pixels)[3]);

/* Creates the graph of a language model for texts of `tokens` tokens. */
coar_status builder_begin_tokens(model_builder *b, uint32_t vocabulary, uint32_t tokens);

/* The size of the input images for a family that takes any: the options', else --arch image=, else `side`. */
coar_status builder_image(const model_builder *b, uint32_t side, uint32_t *height, uint32_t *width);

/* The same for a network whose positions ([1 + patches] of tensor `positions`, a square's and a class token's) and
 * `patch`, pixels that one stands for along an axis, fix the side. */
coar_status builder_patched_side(const model_builder *b, const char *positions, uint32_t tokens, uint32_t patch,
                                 uint32_t *side);

/* Heads of attention over `width` channels: the key `heads`, else `usual`. An error where neither says how many (usual
 * 0), naming --arch `family`, or where they do not divide the width. */
coar_status builder_heads(const model_builder *b, const char *family, uint32_t width, uint32_t usual, uint32_t *heads);

/* An op with its unused fields set. */
op builder_op(op_kind kind, const char *name, int input);

/* graph_add, with the file's name before what it finds wrong. */
coar_status builder_add(const model_builder *b, const op *o, uint32_t out_channels, int *value);

shape builder_shape(const model_builder *b, int value);

/* A fully connected layer over the channels of `in`: tensors MODULE.weight [outputs, channels], MODULE.bias. */
coar_status builder_linear(const model_builder *b, const char *module, const op *o, uint32_t outputs, int *value);

/* Layer normalisation over the channels of `in`: tensors MODULE.weight, MODULE.bias. */
coar_status builder_layernorm(const model_builder *b, const char *module, const char *name, float eps, int in,
                              int *value);

/* scale and shift of a batch normalisation over C channels in its inference form, from MODULE.{weight, bias,
 * running_mean, running_var}: y = scale x + shift. */
coar_status builder_batchnorm(const model_builder *b, const char *module, uint32_t channels, double eps,
                              const float **scale, const float **shift);

/* ------------------------------------------------------------------------------------------ components */

/* Offers the `count` components of one layer, each `width` channels wide. When the set is the wanted one and the globs
 * let `name` pass, they get the next numbers and *site is filled; otherwise it says PLACE_NONE. */
coar_status components_offer(model_builder *b, component_set set, const char *name, const char *layer, mask_place place,
                             uint32_t count, uint32_t width, mask_site *site);

/* Says what an ablation at `site` takes from the weight file (weight_slice in model.h): component i's channels, site->width
 * of them, are the indices first + i * site->width .. along `axis` of the tensor that `format` names. Once for each tensor
 * that holds something of the group, after its shape was checked (builder_load); nothing where the site has no component.
 *
 *     PRE   the rows of the weight          axis 0 of [O][I]..., first > 0 in the later parts of a fused tensor
 *     POST  all of the weight and the bias, or of the batch normalisation's weight and bias behind it
 *     OUT   what the next layer reads: its columns (axis 1 of [O][I]; axis 0 of GPT-2's [I][O]) */
coar_status components_weights(model_builder *b, const mask_site *site, uint32_t axis, uint32_t first,
                               const char *format, ...) COAR_PRINTF(5, 6);

/* The last step of a family: the arch's name, the number of classes (of a language model its vocabulary) and the logits;
 * an error when no component is left. */
coar_status builder_finish(model_builder *b, const char *arch, int logits);

#endif
