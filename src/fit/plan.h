/*
 * plan.h - how much memory a fit takes, and how many examples it solves at once.
 * Must not know: values of any kind.
 */
#ifndef COAR_FIT_PLAN_H
#define COAR_FIT_PLAN_H

#include "fit/fit.h"

/* *block = examples of a block. COAR_ERROR_MEMORY and COAR_ERROR_UNSUPPORTED as fit_solve says. */
coar_status fit_plan_block(const fit_problem *problem, const fit_settings *settings, size_t *block);

/* What the fit takes with such a block, beside what the process has. */
double fit_plan_bytes(const fit_problem *problem, const fit_settings *settings, size_t block);

#endif
