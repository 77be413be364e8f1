/* steps.c - which passes a budget is spent on: planted predicted correlations. */
#include "budget/steps.h"

#include <math.h>

#include "test.h"

/* Makes steps after those given until none follows; `predict` says what the fit of a step would predict. Returns how many
 * there are then, the step 0 of what the run held before among them. */
static size_t go_on(budget_step *steps, size_t count, bool gradients, double budget,
                    double (*predict)(uint32_t passes, uint64_t masks), step_choice *end) {
    const step_rules rules = {.reverse_cost = gradients ? REVERSE_COST : 0, .budget = budget};
    budget_step next;
    while ((*end = step_after(steps, count, &rules, &next)) == STEP_NEXT && count < STEPS_MAX) {
        if (count > 1) { /* each step adds something and stays within the budget */
            const budget_step *last = &steps[count - 1];
            CHECK(next.passes >= last->passes && next.masks >= last->masks);
            CHECK(next.passes > last->passes || next.masks > last->masks);
            const double cost =
                rules.reverse_cost * (next.passes - steps[0].passes) + (double)(next.masks - steps[0].masks);
            if (cost > budget)
                test_fail(__FILE__, __LINE__, "k = %u, m = %llu exceed the budget of %g", next.passes,
                          (unsigned long long)next.masks, budget);
        }
        next.predicted = predict(next.passes, next.masks);
        steps[count++] = next;
    }
    return count;
}

/* The same for a new run. */
static size_t walk(double budget, double (*predict)(uint32_t passes, uint64_t masks), budget_step *steps,
                   step_choice *end) {
    steps[0] = (budget_step){.predicted = NAN};
    return go_on(steps, 1, true, budget, predict, end);
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
    CHECK_INT(count, 6);
    CHECK_INT(steps[2].passes, 32);
    CHECK_INT(steps[3].masks, STEP_MASKS_FIT);
    CHECK_INT(steps[5].masks, 4 * STEP_MASKS_FIT);
    CHECK_INT(steps[5].passes, 32);
}

static void spent(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a correlation that always grows: k up to its most, then m, all of the budget but a work unit");
    size_t count = walk(5000, growing, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK_INT(steps[count - 1].passes, STEP_PASSES_MOST);
    CHECK(steps_spent(steps, count, REVERSE_COST) > 5000 - 64);
    test_begin("one doubling of m without gain is no end");
    count = walk(5000, late, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK(steps[count - 1].masks > 3500);
    test_begin("what is not known settles nothing");
    count = walk(2000, unknown, steps, &end);
    CHECK_INT(end, STEP_SPENT);
    CHECK(steps[count - 1].masks > 600);
}

static void small(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a small budget: gradients alone");
    CHECK_INT(walk(40, growing, steps, &end), 2);
    CHECK_INT(end, STEP_SPENT);
    CHECK_INT(steps[1].passes, 16);
    CHECK_INT(steps[1].masks, 0);
    test_begin("less than one reverse pass: one all the same");
    CHECK_INT(walk(1, growing, steps, &end), 2);
    CHECK_INT(steps[1].passes, 1);
    test_begin("a larger budget goes on from there");
    size_t count = go_on(steps, 2, true, 1000, growing, &end);
    CHECK(steps_spent(steps, count, REVERSE_COST) > 1000 - 64);
    CHECK(steps[count - 1].passes > 64 && steps[count - 1].masks >= 64);
    test_begin("a doubling that does not fit is cut");
    count = walk(300, growing, steps, &end);
    CHECK_INT(steps[count - 1].passes, 80);
    CHECK_INT(steps[count - 1].masks, 64);
}

/* What a run held before costs nothing, and does not keep reverse passes from being doubled. */
static void begun(void) {
    budget_step steps[STEPS_MAX] = {{.masks = 1000, .predicted = NAN}};
    step_choice end;
    test_begin("a run that has masks: reverse passes all the same");
    size_t count = go_on(steps, 1, true, 1500, growing, &end);
    CHECK_INT(steps[count - 1].passes, STEP_PASSES_MOST);
    CHECK(steps[count - 1].masks >= 1000);
    test_begin("a run that has more than the first step: it is fitted before anything is added");
    steps[0] = (budget_step){.passes = 64, .masks = 500, .predicted = NAN};
    count = go_on(steps, 1, true, 1e9, constant, &end);
    CHECK_INT(steps[1].passes, 64);
    CHECK_INT(steps[1].masks, 500);
    CHECK_INT(steps[2].passes, 128);
    CHECK_INT(end, STEP_SETTLED);
    test_begin("an estimator without gradients: masks alone");
    steps[0] = (budget_step){.predicted = NAN};
    count = go_on(steps, 1, false, 5000, growing, &end);
    CHECK_INT(steps[count - 1].passes, 0);
    CHECK(steps[count - 1].masks > 5000 - 64);
    CHECK_INT(steps[1].masks, STEP_MASKS_FIT);
    count = go_on(steps, 1, false, 1e9, constant, &end);
    CHECK_INT(end, STEP_SETTLED);
    CHECK_INT(steps[count - 1].masks, 4 * STEP_MASKS_FIT);
}

/* Gains below the threshold, but of a step that a budget has cut: a larger budget doubles k all the same. */
static void was_cut(void) {
    budget_step steps[STEPS_MAX];
    step_choice end;
    test_begin("a step that a budget has cut settles nothing");
    size_t count = walk(300, growing, steps, &end);
    CHECK_INT(steps[count - 1].passes, 80);
    steps[count - 1].predicted = steps[count - 2].predicted;
    count = go_on(steps, count, true, 5000, growing, &end);
    CHECK_INT(steps[count - 1].passes, STEP_PASSES_MOST);
}

int main(void) {
    settled();
    spent();
    small();
    begun();
    was_cut();
    return test_end();
}
