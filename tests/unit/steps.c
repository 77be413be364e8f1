/* steps.c - which passes a budget is spent on: planted predicted correlations. */
#include "budget/steps.h"

#include <math.h>

#include "test.h"

/* Makes steps until none follows; `predict` says what the fit of a step would predict. */
static size_t walk(double budget, double (*predict)(uint32_t passes, uint64_t masks), budget_step *steps,
                   step_choice *end) {
    size_t count = 0;
    budget_step next;
    while ((*end = step_after(steps, count, budget, &next)) == STEP_NEXT && count < STEPS_MAX) {
        if (count) { /* each step adds something and stays within the budget */
            CHECK(next.passes >= steps[count - 1].passes && next.masks >= steps[count - 1].masks);
            CHECK(next.passes > steps[count - 1].passes || next.masks > steps[count - 1].masks);
        }
        if (count && step_cost(next.passes, next.masks) > budget)
            test_fail(__FILE__, __LINE__, "k = %u, m = %llu cost %g of %g", next.passes, (unsigned long long)next.masks,
                      step_cost(next.passes, next.masks), budget);
        next.predicted = predict(next.passes, next.masks);
        steps[count++] = next;
    }
    return count;
}

static double constant(uint32_t passes, uint64_t masks) {
    (void)passes, (void)masks;
    return .5;
}

static double unknown(uint32_t passes, uint64_t masks) {
    (void)passes, (void)masks;
    return NAN;
}

static double growing(uint32_t passes, uint64_t masks) {
    return .02 * log2(passes) + .02 * log2(1 + (double)masks);
}

/* Nothing between 256 and 512 masks, much more beyond. */
static double late(uint32_t passes, uint64_t masks) {
    return .02 * log2(passes) + (masks > 512 ? .02 * log2((double)masks / 512) : 0);
}

static void settled(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a correlation that never grows: one doubling of k, two of m from 256");
    const size_t count = walk(1e9, constant, steps, &end);
    CHECK_INT(end, STEP_SETTLED);
    CHECK_INT(count, 5);
    CHECK_INT(steps[1].passes, 32);
    CHECK_INT(steps[2].masks, STEP_MASKS_FIT);
    CHECK_INT(steps[4].masks, 4 * STEP_MASKS_FIT);
    CHECK_INT(steps[4].passes, 32);
}

static void spent(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a correlation that always grows: k up to its most, then m, all of the budget but a work unit");
    size_t count = walk(5000, growing, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK_INT(steps[count - 1].passes, STEP_PASSES_MOST);
    CHECK(step_cost(steps[count - 1].passes, steps[count - 1].masks) > 5000 - 64);
    test_begin("one doubling of m without gain is no end");
    count = walk(5000, late, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK(steps[count - 1].masks > 4000);
    test_begin("what is not known settles nothing");
    count = walk(2000, unknown, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK(steps[count - 1].masks > 1000);
}

static void small(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a small budget: gradients alone");
    CHECK_INT(walk(40, growing, steps, &end), 1);
    CHECK_INT(end, STEP_SPENT);
    CHECK_INT(steps[0].passes, 16);
    CHECK_INT(steps[0].masks, 0);
    test_begin("less than one reverse pass: one all the same");
    CHECK_INT(walk(1, growing, steps, &end), 1);
    CHECK_INT(steps[0].passes, 1);
    test_begin("a doubling that does not fit is cut");
    const size_t count = walk(300, growing, steps, &end);
    CHECK_INT(steps[count - 1].passes, 80);
    CHECK_INT(steps[count - 1].masks, 64);
}

int main(void) {
    settled();
    spent();
    small();
    return test_end();
}
