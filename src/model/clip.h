/*
 * clip.h - the two kinds of image encoders that clip.c makes classifiers of.
 * Must not know: classes, devices, runs.
 */
#ifndef COAR_MODEL_CLIP_H
#define COAR_MODEL_CLIP_H

#include "model/builder.h"

/* Mean and standard deviation that the published networks were trained with, of pixels/255. */
extern const float clip_pixels[2][3];

enum { CLIP_NAME = 64 }; /* room for an architecture's name */

/* From the images to *embedding [1][1][D], of any length. arch: "clip_vit_b_16", "clip_rn50", ...; "clip_vit", "clip_rn"
 * where nobody has given the sizes a name. */
coar_status clip_vit_add(model_builder *b, char arch[CLIP_NAME], int *embedding);
coar_status clip_resnet_add(model_builder *b, char arch[CLIP_NAME], int *embedding);

bool clip_vit_recognise(const tensor_table *table);
bool clip_resnet_recognise(const tensor_table *table);

#endif
