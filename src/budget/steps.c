/* steps.c - see steps.h. */
#include "budget/steps.h"

#include <math.h>

enum {
    PASSES_UNIT = 16, /* passes and masks are cut to multiples of what is computed together */
    MASKS_UNIT = 64,
};

static double added_cost(const budget_step *from, const budget_step *to, double reverse_cost) {
    return reverse_cost * (to->passes - from->passes) + (double)(to->masks - from->masks);
}

double steps_spent(const budget_step *steps, size_t count, double reverse_cost) {
    return added_cost(&steps[0], &steps[count - 1], reverse_cost);
}

/* Whether step i, a doubling of passes or of masks, has added little to the one before it. A step that tells nothing (NaN),
 * or was cut by a budget, does not settle anything: a larger budget goes on from it. */
static bool added_little(const budget_step *steps, size_t i) {
    const budget_step *from = &steps[i - 1], *to = &steps[i];
    const bool doubled = to->passes >= 2 * (uint64_t)from->passes || to->masks >= 2 * from->masks;
    return doubled && to->predicted - from->predicted < SETTLED_GAIN;
}

/* Reverse passes are still being doubled: the last step made some, and they were worth it. */
static bool in_gradients(const budget_step *steps, size_t count) {
    const budget_step *last = &steps[count - 1];
    if (last->passes >= STEP_PASSES_MOST) return false;
    return count == 2 || (last->passes > steps[count - 2].passes && !added_little(steps, count - 1));
}

/* The first doublings of m may add nothing where later ones do: the fit of the residuals needs enough masks to be
 * better than none. So two in a row must add little. */
static bool masks_settled(const budget_step *steps, size_t count) {
    if (count < 4) return false;
    const budget_step *s = &steps[count - 3];
    return s[0].passes == s[2].passes && s[0].masks >= STEP_MASKS_FIT && s[0].masks < s[1].masks &&
           added_little(steps, count - 1) && added_little(steps, count - 2);
}

/* The largest multiple of `unit` that is at most `most`; 0 where that is less than one unit. */
static uint64_t cut(double most, uint64_t unit) {
    return most < (double)unit ? 0 : (uint64_t)fmin(most / (double)unit, 1e15) * unit;
}

static bool grows(const budget_step *last, const budget_step *next) {
    return next->passes > last->passes || next->masks > last->masks;
}

/* The first step there is: enough of both kinds to predict from. Where a run holds that already the step costs nothing,
 * but its fit tells where it stands. A budget below it buys gradients alone, which need no forward passes. */
static step_choice first_step(const budget_step *last, bool first, const step_rules *rules, double left,
                              budget_step *next) {
    const bool gradients = rules->reverse_cost > 0;
    const uint64_t masks = gradients ? STEP_MASKS_FIRST : STEP_MASKS_FIT;
    if (gradients && next->passes < STEP_PASSES_FIRST) next->passes = STEP_PASSES_FIRST;
    if (next->masks < masks) next->masks = masks;
    if (added_cost(last, next, rules->reverse_cost) <= left) return STEP_NEXT;
    *next = *last;
    if (!first) return STEP_SPENT;
    if (gradients)
        next->passes += (uint32_t)fmax(floor(left / rules->reverse_cost), 1);
    else
        next->masks += (uint64_t)fmax(floor(left), 2);
    return STEP_NEXT;
}

step_choice step_after(const budget_step *steps, size_t count, const step_rules *rules, budget_step *next) {
    const budget_step *last = &steps[count - 1];
    const bool gradients = rules->reverse_cost > 0;
    const double left = rules->budget - steps_spent(steps, count, rules->reverse_cost);
    *next = (budget_step){.passes = last->passes, .masks = last->masks};
    if (count == STEPS_MAX) return STEP_SPENT;
    if (count == 1 || last->masks < (gradients ? STEP_MASKS_FIRST : STEP_MASKS_FIT))
        return first_step(last, count == 1, rules, left, next);
    if (gradients && in_gradients(steps, count)) {
        const uint64_t doubled = 2 * (uint64_t)last->passes;
        const uint64_t most = last->passes + cut(left / rules->reverse_cost, PASSES_UNIT);
        next->passes = (uint32_t)(doubled < most ? doubled : most);
        if (next->passes > STEP_PASSES_MOST) next->passes = STEP_PASSES_MOST;
        if (grows(last, next)) return STEP_NEXT;
    } else if (masks_settled(steps, count)) {
        return STEP_SETTLED;
    }
    const uint64_t wanted = last->masks < STEP_MASKS_FIT ? STEP_MASKS_FIT : 2 * last->masks;
    const uint64_t most = last->masks + cut(left, MASKS_UNIT);
    next->masks = most < wanted ? most : wanted;
    return grows(last, next) ? STEP_NEXT : STEP_SPENT;
}
