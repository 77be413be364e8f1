/*
 * model.h - a weight file becomes an op list and a list of component groups.
 *
 * A family file (resnet.c, vit.c, clip.c) does two things only: recognise a table of tensors, and emit an op list. Adding an
 * architecture = one more file and one more line in the table of model.c.
 * Must not know: devices, runs, data sets.
 */
#ifndef COAR_MODEL_MODEL_H
#define COAR_MODEL_MODEL_H

#include "graph/graph.h"
#include "model/safetensors.h"

typedef enum component_set { SET_DEFAULT, SET_FILTERS, SET_NEURONS, SET_HEADS, SET_BLOCKS } component_set;

/* The rows of one tensor (or the heads or branches of one layer): components first .. first + count - 1. */
typedef struct component_group {
    char name[96];  /* canonical, the same for every naming of a model: "layer1.0.conv1", "blocks.3.attn.q" */
    char kind[16];  /* filter, neuron, head, block */
    char layer[96]; /* the op it acts on */
    uint32_t first, count;
} component_group;

/* What an ablation takes from the weight file, so that an edited file can do the same: component i of the group owns the indices
 * first + i * width .. first + (i + 1) * width - 1 along one axis of a tensor, whole in all other dimensions. A group may
 * have several: a branch's weight and bias, or copies of one tensor. */
typedef struct weight_slice {
    char tensor[192]; /* its name in the file */
    uint32_t group;   /* index into model->groups */
    uint32_t axis, first, width;
} weight_slice;

typedef struct model_options {
    const char *arch; /* NAME[,key=value...] or NULL */
    component_set set;
    const char *only, *except;          /* globs over group names, or NULL */
    const char *classes;                /* .npy of class embeddings, for zero-shot classifiers alone; or NULL */
    uint32_t image_height, image_width; /* the data's images; 0 = the family's default (CIFAR nets 32, others 224) */
    uint32_t tokens;                    /* of the data's texts, padding included; 0 = the model's context, */
    uint32_t tokens_max;                /* but at most so many; 0 = no bound */
} model_options;

typedef struct model {
    char *path;              /* the weight file; the architecture's name for random weights */
    char sha256[65];         /* of the weight file; "" for random weights */
    char classes_sha256[65]; /* of the options' class embeddings, "" where there are none */
    char arch[64];           /* recognised name: "resnet20", "mini_resnet", "vit", ... */
    component_set set;       /* resolved */
    graph *graph;
    component_group *groups; /* in definition order */
    size_t group_count;
    weight_slice *slices; /* of every group, in their order */
    size_t slice_count;
    const char *assumed;   /* what had to be assumed and may be wrong, for a warning; static, NULL = nothing */
    uint32_t classes;      /* of a language model: tokens in its vocabulary */
    int has_normalisation; /* mean and std from --arch, metadata or config.json */
    float mean[4], std[4]; /* of pixels/255, per input channel */
} model;

/* Recognises and loads. `path` is a safetensors file. A convolutional net takes the images' size from the options (or
 * from --arch NAME,image=SIDE); a transformer has its own, and another size in the options is an error. A language model
 * takes texts of options->tokens, which its context must be enough for. */
coar_status model_open(const char *path, const model_options *options, model **out);

/* The same from tensors in memory (path, sha256: the caller's business). Takes arrays that the table owns. */
coar_status model_build(tensor_table *table, const model_options *options, model **out);

/* Random weights of a named architecture (benchmarks, tests): "resnet20", "vit_b_16", "mini_resnet_256,image=32", ...
 * options->arch, when given, is what --arch says about it. */
coar_status model_random(const char *arch, const model_options *options, model **out);

/* Generates the tensors that model_random uses, in the family's usual names; the same for the same name. */
coar_status model_random_tensors(const char *arch, tensor_table *out);

/* The names of model_random, for messages: "resnet20, resnet32, ...". */
const char *model_random_names(void);

void model_destroy(model *m);

coar_status component_set_parse(const char *text, component_set *out); /* NULL text: SET_DEFAULT */
const char *component_set_name(component_set set);

#endif
