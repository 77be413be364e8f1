/*
 * weight_edit.h - a copy of a weight file in which components are ablated for good.
 *
 * The file is the same byte for byte (header, metadata, order, types), but for the weights of the components that
 * are edited (weight_slice in model.h): run unablated, the copy is the network under that ablation. What names and shapes do
 * not tell (--arch, a config.json) holds for the copy too and is not written into it.
 * Must not know: how components are chosen, architectures.
 */
#ifndef COAR_MODEL_WEIGHT_EDIT_H
#define COAR_MODEL_WEIGHT_EDIT_H

#include "model/model.h"

/* Writes `output` from the file that `m` was opened from. Each of the `count` components (numbers below n, any order; twice is
 * once) is multiplied by `gain`: 0 for an ablation to zero, G for scale:G. (A `mean` ablation is no edit of weights: refused
 * by the caller.) The output appears complete or not at all, replaces a file only with `force` and never the input.
 *
 * COAR_ERROR_USAGE: random weights, output = input; COAR_ERROR_EXISTS: the output is there; COAR_ERROR_MISMATCH: the weight
 * file is not what it was when `m` was opened; COAR_ERROR_INPUT: a weight times the gain is too large for its type. */
coar_status weight_edit_write(const model *m, const uint32_t *components, size_t count, double gain, const char *output,
                              int force);

#endif
