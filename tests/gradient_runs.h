/*
 * gradient_runs.h - runs of `coar gradients` on the digits' ResNet, and one to compare them with.
 */
#ifndef COAR_TEST_GRADIENT_RUNS_H
#define COAR_TEST_GRADIENT_RUNS_H

#include "coar.h"
#include "digits.h"

/* Two blocks of examples, of which one is not full; no multiple of a cycle of passes. */
enum { GRADIENT_EXAMPLES = 40, GRADIENT_PASSES = 11 };

coar_gradients_options gradient_options(const char *output);

/* The run of these options made in one go; its path. */
const char *gradient_run(void);

/* Whether the gradients of two runs are the same bytes. */
void gradient_check_same(const char *a, const char *b);

#endif
