/*
 * precision.h - what a numerics plan's precision rounds, and how: one definition for the reference backend, for the
 * weights that a device gets, and for tests.
 *
 *   fp32  nothing
 *   tf32  operands of products, to 10 bits of fraction (to nearest, ties away from zero); values are stored as fp32
 *   bf16  every stored value and every weight of a product, to 7 bits of fraction (to nearest, ties to even)
 *   fp16  the same to IEEE binary16; what lies above its range becomes infinite
 *
 * The cpu backend, which stores fp32 whatever the plan says, rounds in bf16 the operands of convolutions' and linear
 * layers' products only (docs/design.md, section 3): less than the reference does, and by its own code.
 * Sums are fp32 (or better) in each of them, logits and what an epilogue adds (scale, shift, layer norms, positions)
 * stay fp32. Must not know: graphs, devices.
 */
#ifndef COAR_BACKEND_PRECISION_H
#define COAR_BACKEND_PRECISION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum precision { PRECISION_FP32, PRECISION_TF32, PRECISION_BF16, PRECISION_FP16 } precision;

const char *precision_name(precision p);

/* False for a name that is none ("auto" among them). */
bool precision_parse(const char *name, precision *out);

/* Whether values are stored in 16 bits. */
bool precision_is_narrow(precision p);

/* A value as it is stored; an operand of a product as it is multiplied. */
float precision_stored(precision p, float value);
float precision_operand(precision p, float value);

/* A gradient dL/d value as it is stored between ops, and as an operand: as values are, but in fp16 multiplied by
 * GRADIENT_SCALE_FP16, and divided by it again at the end. Gradients of single pixels are small: without the factor
 * many would be below 6e-5, where fp16 loses digits. The largest is then 255. */
#define GRADIENT_SCALE_FP16 256
float precision_gradient(precision p, float gradient);
float precision_gradient_operand(precision p, float gradient);

/* The 16 bits of a value in bf16 or fp16. */
uint16_t precision_bits(precision p, float value);

#endif
