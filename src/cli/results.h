/* results.h - how fits and evaluations are printed, by `fit`, `evaluate` and `run`. */
#ifndef COAR_CLI_RESULTS_H
#define COAR_CLI_RESULTS_H

#include <stddef.h>

#include "coar.h"

/* Evaluations as a table, or as one line of JSON with the fits, if any, that were made on the way. */
void evaluations_print(const coar_evaluation *list, size_t count, const coar_fit_result *fits, size_t fit_count,
                       int json);

/* One line of JSON. */
void fit_print_json(const coar_fit_result *fit);

/* An edit: the sweep's notable rows, what was chosen, before and after, comparisons; or all of it as one line of JSON. */
void edit_print(const coar_edit_result *result, int json);

#endif
