/*
 * half.h - IEEE 754 binary16, and bfloat16, <-> binary32.
 * Must not know: what the numbers mean.
 */
#ifndef COAR_CORE_HALF_H
#define COAR_CORE_HALF_H

#include <stdbool.h>
#include <stdint.h>

/* Exact. */
float half_to_float(uint16_t half);

/* Rounds to nearest even; infinities and NaN stay such. False when a finite value leaves the range. */
bool half_from_float(float value, uint16_t *out);

/* The same of bfloat16, the upper half of a binary32. */
float bfloat_to_float(uint16_t bfloat);
bool bfloat_from_float(float value, uint16_t *out);

#endif
