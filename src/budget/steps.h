/*
 * steps.h - how many reverse and forward passes come next when a budget decides: a pure function of the steps so far.
 *
 * Reverse passes come first, since none is worth as much (docs/estimators.md), doubled until the predicted correlation
 * has settled; then forward passes, doubled until it has settled again. Must not know: runs, clocks, how a step is made.
 */
#ifndef COAR_BUDGET_STEPS_H
#define COAR_BUDGET_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Forward passes that the reverse pass of one output counts for: what it costs at most (docs/performance.md). */
#define REVERSE_COST 2.5

/* Predicted correlation that a doubling must add for the passes to be worth their time. */
#define SETTLED_GAIN 0.005

enum {
    STEP_PASSES_FIRST = 16, /* k of the first step */
    STEP_PASSES_MOST = 512, /* more have not been measured (docs/estimators.md) */
    STEP_MASKS_FIRST = 64,  /* to calibrate gradients and to tell how well they predict */
    STEP_MASKS_FIT = 256,   /* from here on a fit of the residuals can pay */
    STEPS_MAX = 64,         /* doublings: more than any run has */
};

/* What a run holds after a step. Step 0 is what it held before the first one. */
typedef struct budget_step {
    uint32_t passes;  /* k: reverse passes of every example */
    uint64_t masks;   /* m: forward passes */
    double predicted; /* correlation on fresh masks, as the fit predicts it; NaN = it could not */
} budget_step;

typedef enum step_choice { STEP_NEXT, STEP_SETTLED, STEP_SPENT } step_choice;

/* What decides beside the steps themselves. */
typedef struct step_rules {
    double reverse_cost; /* forward passes that a reverse pass of every output counts for; 0 = there are to be none */
    double budget;       /* forward passes' worth in all, beyond what the run held before */
} step_rules;

/* Forward passes' worth that the steps have added to what the run held before. */
double steps_spent(const budget_step *steps, size_t count, double reverse_cost);

/* The step after steps[0 .. count - 1], count >= 1: *next (its passes and masks alone) when there is one. Reverse passes
 * come first. What a doubling would exceed is cut to what is left, in whole work units. */
step_choice step_after(const budget_step *steps, size_t count, const step_rules *rules, budget_step *next);

#endif
