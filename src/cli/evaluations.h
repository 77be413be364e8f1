/* evaluations.h - how evaluations are printed, by `evaluate` and `run`. */
#ifndef COAR_CLI_EVALUATIONS_H
#define COAR_CLI_EVALUATIONS_H

#include <stddef.h>

#include "coar.h"

void evaluations_print(const coar_evaluation *list, size_t count, int json);

#endif
