/*
 * class_embeddings.h - what a zero-shot classifier compares an image's embedding with: one vector for each class, made
 * elsewhere of texts by the encoder that belongs to the image's.
 * Must not know: architectures.
 */
#ifndef COAR_MODEL_CLASS_EMBEDDINGS_H
#define COAR_MODEL_CLASS_EMBEDDINGS_H

#include "model/builder.h"

/* The options' file (.npy, f16 or f32, [classes, width]), else the weight file's tensor `class_embeddings`, as weights of
 * the last layer: each row divided by its length and times `scale`; owned by the graph. The file's hash goes into the
 * model. An error where there are none, fewer than 2, of another width, not finite, or without a direction. */
coar_status class_embeddings_load(model_builder *b, uint32_t width, double scale, uint32_t *classes,
                                  const float **weight);

#endif
