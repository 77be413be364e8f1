/* edit.c - how an edit chooses: tau by hand, ties, orders without attributions, the end of a sweep, the k that is taken. */
#include "core/philox.h"
#include "edit/method.h"
#include "edit/sweep.h"
#include "test.h"

/* ------------------------------------------------------------------------------------------------------------ tau */

static const edit_method *method(const char *name) {
    const edit_method *found = NULL;
    CHECK_OK(edit_method_find(name, &found));
    return found;
}

/* Five components: a difference of means over a spread; the same the other way round; none; a constant difference without any
 * variance; a difference with a variance in the reference alone. */
static const float targets[2][5] = {{1, -2, 3, 1, 0}, {3, -4, 3, 1, 0}};
static const float references[3][5] = {{0, 1, 3, 2, 1}, {0, 1, 3, 2, 3}, {3, 1, 3, 2, 5}};

static edit_problem problem(double direction) {
    return (edit_problem){.n = 5,
                          .direction = direction,
                          .target = {.count = 2, .weight = targets[0]},
                          .reference = {.count = 3, .weight = references[0]}};
}

static void check_tau(void) {
    /* component 0: means 2 and 1, population variances 1 and 2: 1 / sqrt(1/2 + 2/3). 1: -3 and 1, 1 and 0: -4 / sqrt(1/2).
     * 4: 0 and 3, 0 and 8/3: -3 / sqrt(8/9) */
    const double expected[5] = {1 / sqrt(0.5 + 2.0 / 3), -4 / sqrt(0.5), 0, 0, -3 / sqrt(8.0 / 9)};
    double scores[5];
    edit_problem p = problem(1);
    test_begin("tau of five components");
    CHECK_OK(edit_tau(&p, scores));
    for (int j = 0; j < 5; j++) CHECK_NEAR(scores[j], expected[j], 1e-14);
}

static void check_one_target(void) {
    double scores[5];
    edit_problem p = problem(1);
    test_begin("one target has variance 0");
    p.target.count = 1;
    CHECK_OK(edit_tau(&p, scores));
    CHECK_NEAR(scores[0], 0, 0); /* means 1 and 1 */
    CHECK_NEAR(scores[1], 0, 0); /* no variance at all: 0, not infinite */
    CHECK_NEAR(scores[4], -3 / sqrt(8.0 / 9), 1e-14);
}

static void check_orders(void) {
    static const uint32_t raise[5] = {1, 4, 2, 3, 0}, lower[5] = {0, 2, 3, 4, 1}; /* 2 and 3 tie: by index both times */
    double scores[5];
    uint32_t order[5], count = 5;
    test_begin("raise takes the smallest tau, lower the largest, ties by index");
    edit_problem p = problem(1);
    CHECK_OK(method("tau")->choose(&p, scores, order, &count));
    for (int i = 0; i < 5; i++) CHECK_INT(order[i], raise[i]);
    p = problem(-1);
    CHECK_OK(method("tau")->choose(&p, scores, order, &count));
    for (int i = 0; i < 5; i++) CHECK_INT(order[i], lower[i]);
    count = 2;
    order[2] = 77;
    CHECK_OK(method("tau")->choose(&p, scores, order, &count));
    CHECK_INT(count, 2);
    CHECK_INT(order[1], lower[1]);
    CHECK_INT(order[2], 77); /* no more than were wanted */
}

static void check_methods(void) {
    const edit_method *none;
    char names[256] = "";
    test_begin("methods: all are named, others refused");
    for (size_t i = 0; i < edit_method_count; i++) {
        strcat(names, i ? ", " : "");
        strcat(names, edit_methods[i].name);
        CHECK(strlen(edit_methods[i].name) < 16); /* what the run file has room for */
    }
    CHECK_TEXT(coar_edit_methods(), names);
    CHECK_ERROR(edit_method_find("taus", &none), COAR_ERROR_USAGE, "--method 'taus': give tau, ");
}

static void check_random(void) {
    enum { N = 103 };
    double scores[N];
    uint32_t order[N], other[N], count = N, words[4], seen[N] = {0};
    edit_problem p = {.n = N, .direction = -1, .seed = 7};
    test_begin("random: the smallest Philox words of stream 8, row 1; a permutation; another one for another seed");
    CHECK_OK(method("random")->choose(&p, scores, order, &count));
    for (int i = 0; i < N; i++) seen[order[i]]++;
    for (int i = 0; i < N; i++) CHECK_INT(seen[i], 1);
    philox_words(7, 8, 1, 100 / 4, words);
    CHECK_NEAR(scores[102], words[2], 0);
    for (int i = 1; i < N; i++) CHECK(scores[order[i - 1]] < scores[order[i]]);
    p.seed = 8;
    CHECK_OK(method("random")->choose(&p, scores, other, &count));
    CHECK(memcmp(order, other, sizeof order) != 0);
}

static void check_norms(void) {
    static const double norms[4] = {2, 1, 3, 1};
    static const uint32_t expected[4] = {1, 3, 0, 2};
    test_begin("weight-norm: the smallest first, whatever the direction");
    for (int direction = -1; direction <= 1; direction += 2) {
        double scores[4];
        uint32_t order[4], count = 4;
        edit_problem p = {.n = 4, .direction = direction, .norms = norms};
        CHECK_OK(method("weight-norm")->choose(&p, scores, order, &count));
        for (int i = 0; i < 4; i++) CHECK_INT(order[i], expected[i]);
    }
}

/* ----------------------------------------------------------------------------------------------------------- sweep */

enum { POINTS = 12 };

/* A sweep of one component a point: the target's mean output and accuracy, validation's accuracy in points. */
static void plant(coar_edit_point points[POINTS], const double *output, const double *right, const double *validation,
                  size_t count) {
    for (size_t i = 0; i < count; i++) {
        points[i] = (coar_edit_point){.k = (uint32_t)i};
        points[i].set[COAR_EDIT_TARGET].output = output[i];
        points[i].set[COAR_EDIT_TARGET].accuracy = right ? right[i] : NAN;
        points[i].set[COAR_EDIT_VALIDATION].accuracy = validation[i] / 100;
        points[i].set[COAR_EDIT_VALIDATION].output = validation[i];
    }
}

static void check_choice(void) {
    static const double output[5] = {-1, 0, 2, 2, 5}, validation[5] = {90, 90.5, 88, 89, 87.9};
    coar_edit_point points[POINTS];
    sweep_rules r = {.direction = 1, .output_direction = 1, .select = 2, .has_classes = true};
    plant(points, output, NULL, validation, 5);
    test_begin("the largest gain within X, the smaller k of equal ones");
    CHECK_INT(sweep_choose(&r, points, 5), 2); /* costs 2.0: 2 points are 2 points, whatever 0.9 - 0.88 is */
    r.select = 1.9;
    CHECK_INT(sweep_choose(&r, points, 5), 3);
    r.select = 2.1;
    CHECK_INT(sweep_choose(&r, points, 5), 4);
    r.select = 0;
    CHECK_INT(sweep_choose(&r, points, 5), 1); /* an edit may also make validation better */
    r.direction = -1;
    CHECK_INT(sweep_choose(&r, points, 5), 0); /* nothing lowers it: no edit */
}

static void check_not_finite(void) {
    static const double output[3] = {0, NAN, 1}, validation[3] = {90, 90, NAN};
    coar_edit_point points[POINTS];
    sweep_rules r = {.direction = 1, .output_direction = 1, .select = 100, .has_classes = true};
    plant(points, output, NULL, validation, 3);
    test_begin("what is not finite is never taken");
    CHECK_INT(sweep_choose(&r, points, 3), 0);
}

static void check_until(void) {
    static const double output[5] = {-3, -1, 1, 2, 5}, right[5] = {0, .4, .8, 1, 1},
                        validation[5] = {90, 90, 87, 89, 88};
    coar_edit_point points[POINTS];
    sweep_rules r = {
        .direction = 1, .output_direction = 1, .select = 2, .has_classes = true, .has_until = true, .until = 80};
    plant(points, output, right, validation, 5);
    test_begin("--until: the first within X where so many are right, and there the sweep ends");
    CHECK_INT(sweep_choose(&r, points, 5), 3); /* point 2 costs 3 */
    CHECK(!sweep_ends(&r, points, 3));
    CHECK(sweep_ends(&r, points, 4));
    r.until = 100;
    r.select = 1;
    CHECK_INT(sweep_choose(&r, points, 4), 3);
    r.select = .5; /* nowhere: the largest gain within X */
    CHECK_INT(sweep_choose(&r, points, 5), 1);
    r.direction = -1;
    r.until = 0;
    CHECK(sweep_ends(&r, points, 1)); /* lower: at most so many; nothing is to be done */
    CHECK_INT(sweep_choose(&r, points, 5), 0);
}

static void check_end(void) {
    double output[POINTS] = {0}, validation[POINTS] = {90, 79, 79, 79, 79, 81, 79, 79, 79, 79, 79.9, 79};
    coar_edit_point points[POINTS];
    sweep_rules r = {.direction = 1, .output_direction = 1, .select = 2, .has_classes = true};
    plant(points, output, NULL, validation, POINTS);
    test_begin("the sweep ends after five points in a row that cost more than max(10, 3 X)");
    for (size_t i = 1; i <= POINTS; i++) CHECK_INT(sweep_ends(&r, points, i), i >= 11);
    r.select = 4; /* 12 points */
    CHECK(!sweep_ends(&r, points, POINTS));
}

static void check_outputs(void) {
    static const double output[3] = {0, 1, 2}, loss[3] = {2.0, 2.05, 2.2};
    coar_edit_point points[POINTS];
    sweep_rules r = {.direction = 1, .output_direction = -1, .select = .1};
    plant(points, output, NULL, loss, 3);
    test_begin("without classes the mean output counts: a loss must not grow by more than X");
    CHECK_NEAR(sweep_cost(&r, &points[0], &points[2]), .2, 1e-12);
    CHECK_INT(sweep_choose(&r, points, 3), 1);
    r.output_direction = 1;
    CHECK_INT(sweep_choose(&r, points, 3), 2); /* a margin may grow */
}

static void check_steps(void) {
    test_begin("at most 101 points");
    CHECK_INT(sweep_step(1), 1);
    CHECK_INT(sweep_step(100), 1);
    CHECK_INT(sweep_step(101), 2);
    CHECK_INT(sweep_step(330), 4);
    CHECK_INT(sweep_step(UINT32_MAX), 42949673);
}

int main(void) {
    check_tau();
    check_one_target();
    check_orders();
    check_methods();
    check_random();
    check_norms();
    check_choice();
    check_not_finite();
    check_until();
    check_end();
    check_outputs();
    check_steps();
    return test_end();
}
