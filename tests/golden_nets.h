/*
 * golden_nets.h - the small networks of tests/golden/models (tools/golden_models.py, golden_clips.py, golden_gpt2.py), and
 * what PyTorch says about them.
 * A part that is missing, or has another shape, is a failed check.
 */
#ifndef COAR_TEST_GOLDEN_NETS_H
#define COAR_TEST_GOLDEN_NETS_H

#include "backend/backend.h"
#include "core/npy.h"
#include "model/model.h"

typedef struct golden_net {
    const char *weights, *golden, *images, *arch; /* arch: what it must be recognised as */
    const char *classes;                          /* of a CLIP, else NULL */
} golden_net;

extern const golden_net golden_nets[];
extern const size_t golden_net_count;

/* One network's images, and one of its files of numbers. */
typedef struct golden {
    const golden_net *net;
    tensor_table table;
    npy_array images; /* u8 [E][H][W][C], or of a language model texts, i32 [E][T] */
    int32_t *labels;  /* [examples]; of texts lengths */
    uint32_t examples;
} golden;

/* `file`: "golden" or "gradients". golden_close accepts what a failure left. */
coar_status golden_open(const golden_net *net, const char *file, golden *out);
void golden_close(golden *g);

/* Whether there is a part SET.part, e.g. "filters.keeps"; its numbers (malloc'ed), and the lengths of its first
 * dimensions: the last is the product of what is left. NULL and a failed check when there is none. */
bool golden_has(const golden *g, component_set set, const char *part);
float *golden_array(golden *g, component_set set, const char *part, size_t dimensions, size_t *lengths);

/* The network with the components of a set, or what an edited copy of its weights makes; NULL and a failed check when it
 * cannot be opened. */
model *golden_model(const golden *g, component_set set);
model *golden_copy(const golden *g, const char *weights, component_set set);

example_batch golden_batch(const golden *g, const model *m);

/* Margins [E] of one mask, given as keeps [n] of 0 and 1 (NULL: all kept), with what is left out ablated as `ablated`
 * says ("zero", "scale:0.3"); malloc'ed, NaN where the backend failed. */
float *golden_margins(const golden *g, const model *m, const char *backend, const char *ablated, const float *keeps);

/* Means of x per masked channel over the bound examples and positions of the unablated model: [rows], malloc'ed. */
float *golden_row_means(const model *m, backend *b, uint32_t examples);

#endif
