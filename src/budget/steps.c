/* steps.c - see steps.h. */
#include "budget/steps.h"

#include <math.h>

enum {
    PASSES_UNIT = 16, /* passes and masks are cut to multiples of what is computed together */
    MASKS_UNIT = 64,
};

double step_cost(uint32_t passes, uint64_t masks) {
    return REVERSE_COST * passes + (double)masks;
}

/* Whether step i has added little to the one before it. A step that tells nothing (NaN) does not settle anything. */
static bool added_little(const budget_step *steps, size_t i) {
    return steps[i].predicted - steps[i - 1].predicted < SETTLED_GAIN;
}

/* Reverse passes are still being doubled. */
static bool in_gradients(const budget_step *steps, size_t count) {
    const budget_step *last = &steps[count - 1];
    if (last->passes >= STEP_PASSES_MOST || last->masks > STEP_MASKS_FIRST) return false;
    return count < 2 || !added_little(steps, count - 1);
}

/* The first doublings of m may add nothing where later ones do: the fit of the residuals needs enough masks to be
 * better than none. So two in a row must add little. */
static bool masks_settled(const budget_step *steps, size_t count) {
    return count >= 3 && steps[count - 3].masks >= STEP_MASKS_FIT && added_little(steps, count - 1) &&
           added_little(steps, count - 2);
}

/* A budget below the first step's: all of it for gradients, which need no forward passes. */
static step_choice first_step(double budget, budget_step *next) {
    *next = (budget_step){.passes = STEP_PASSES_FIRST, .masks = STEP_MASKS_FIRST};
    if (step_cost(next->passes, next->masks) > budget) {
        const double passes = floor(budget / REVERSE_COST);
        *next = (budget_step){.passes = passes < 1 ? 1 : (uint32_t)passes};
    }
    return STEP_NEXT;
}

/* The largest multiple of `unit` that is at most `most`; 0 where that is less than one unit. */
static uint64_t cut(double most, uint64_t unit) {
    return most < (double)unit ? 0 : (uint64_t)(most / (double)unit) * unit;
}

step_choice step_after(const budget_step *steps, size_t count, double budget, budget_step *next) {
    if (count == 0) return first_step(budget, next);
    const budget_step *last = &steps[count - 1];
    *next = (budget_step){.passes = last->passes, .masks = last->masks};
    if (last->masks < STEP_MASKS_FIRST || count == STEPS_MAX) return STEP_SPENT;
    if (in_gradients(steps, count)) {
        const uint64_t left = cut((budget - (double)last->masks) / REVERSE_COST, PASSES_UNIT);
        next->passes = left < 2 * (uint64_t)last->passes ? (uint32_t)left : 2 * last->passes;
        if (next->passes > last->passes) return STEP_NEXT;
        next->passes = last->passes;
    } else if (masks_settled(steps, count)) {
        return STEP_SETTLED;
    }
    const uint64_t wanted = last->masks < STEP_MASKS_FIT ? STEP_MASKS_FIT : 2 * last->masks;
    const uint64_t left = cut(budget - step_cost(last->passes, 0), MASKS_UNIT);
    next->masks = left < wanted ? left : wanted;
    return next->masks > last->masks ? STEP_NEXT : STEP_SPENT;
}
