/*
 * edit_greedy.c - the greedy choice of an edit's components: planted cases in which tau takes a component that harms and greedy
 * one that does not, and orders of random weights against an objective that is written down a second time.
 */
#include "core/philox.h"
#include "edit/method.h"
#include "test.h"

static const edit_method *method(const char *name) {
    const edit_method *found = NULL;
    CHECK_OK(edit_method_find(name, &found));
    return found;
}

static edit_problem problem(uint32_t n, size_t targets, const float *target, size_t references,
                            const float *reference) {
    return (edit_problem){.n = n,
                          .direction = 1,
                          .better = 1,
                          .harm_weight = 1,
                          .target = {.count = targets, .weight = target},
                          .reference = {.count = references, .weight = reference}};
}

/* The order of all n components by a method, on `threads` threads. */
static void choose(const char *name, edit_problem p, int threads, double *scores, uint32_t *order) {
    uint32_t count = p.n;
    CHECK_OK(thread_pool_create(threads, &p.pool));
    CHECK_OK(method(name)->choose(&p, scores, order, &count));
    CHECK_INT(count, p.n);
    thread_pool_destroy(p.pool);
}

/* Components 0 and 1 raise the target by 4 each. 0 takes about 2 from every reference, and next to no spread: the more it
 * takes the more tau likes it. 1 takes nothing in the mean, with ten times the spread. */
static void check_harm(void) {
    static const float target[2] = {-4, -4}, reference[4][2] = {{2, -0.1f}, {2.02f, 0.1f}, {1.98f, -0.1f}, {2, 0.1f}};
    const edit_problem p = problem(2, 1, target, 4, reference[0]);
    double scores[2];
    uint32_t order[2];
    test_begin("tau takes what harms every reference first, greedy what harms none");
    choose("tau", p, 1, scores, order);
    CHECK_INT(order[0], 0);
    choose("greedy", p, 1, scores, order);
    CHECK_INT(order[0], 1);
    CHECK_NEAR(scores[1], 4 - 0.1 * 0.1 / 2, 1e-6); /* two of the four lose 0.1 */
    CHECK_NEAR(scores[0], 4 - (4 + 2.02 * 2.02 + 1.98 * 1.98 + 4) / 4, 1e-6);
}

/* 0, 1 and 2 take 1 from a reference each, 0 and 1 from the same one. Alone 1 is better than 2, after 0 it is worse:
 * 2.9 - (2^2 + 0) / 2 < 2.8 - (1 + 1) / 2. 3 takes 3 from one reference and gives the other as much: no harm in the mean. */
static void check_sets(void) {
    static const float target[4] = {-3, -2.9f, -2.8f, -2.9f};
    static const float reference[2][4] = {{1, 1, 0, 3}, {0, 0, 1, -3}};
    static const uint32_t expected[4] = {0, 2, 1, 3};
    double scores[4];
    uint32_t order[4];
    test_begin("losses of one example add up over the set; nobody's gain pays for them");
    choose("greedy", problem(4, 1, target, 2, reference[0]), 1, scores, order);
    for (int i = 0; i < 4; i++) CHECK_INT(order[i], expected[i]);
    edit_problem p = problem(4, 1, target, 2, reference[0]);
    test_begin("without a weight of harm: by gain, the first of equal ones");
    static const uint32_t by_gain[4] = {0, 1, 3, 2};
    p.harm_weight = 0;
    choose("greedy", p, 1, scores, order);
    for (int i = 0; i < 4; i++) CHECK_INT(order[i], by_gain[i]);
}

/* ----------------------------------------------------------------------------------------------- random weights */

enum { N = 601, TARGETS = 3, REFERENCES = 17 }; /* three blocks of components, the last one short */

static float weights[TARGETS + REFERENCES][N];

static void draw_weights(void) {
    uint32_t words[4];
    for (uint32_t i = 0; i < TARGETS + REFERENCES; i++)
        for (uint32_t j = 0; j < N; j++) {
            philox_words(11, 0, i, j, words);
            weights[i][j] = (float)words[0] * 0x1p-31f - 1;
        }
}

/* gain - C harm of a set, from its definition. */
static double objective(const edit_problem *p, const uint32_t *set, uint32_t count) {
    double gain = 0, harm = 0;
    for (size_t i = 0; i < p->target.count; i++)
        for (uint32_t k = 0; k < count; k++) gain -= p->direction * p->target.weight[i * p->n + set[k]];
    for (size_t i = 0; i < p->reference.count; i++) {
        double lost = 0;
        for (uint32_t k = 0; k < count; k++) lost += p->better * p->reference.weight[i * p->n + set[k]];
        harm += lost > 0 ? lost * lost : 0;
    }
    return gain / (double)p->target.count - p->harm_weight * harm / (double)p->reference.count;
}

static void check_definition(double direction, double better) {
    enum { STEPS = 12 };
    static double scores[N];
    static uint32_t order[N], set[STEPS];
    edit_problem p = problem(N, TARGETS, weights[0], REFERENCES, weights[TARGETS]);
    p.direction = direction;
    p.better = better;
    p.harm_weight = 0.7;
    test_begin("each component is the best that the set can be given: direction %g, better %g", direction, better);
    choose("greedy", p, 1, scores, order);
    for (uint32_t k = 0; k < STEPS; k++) {
        double best = -INFINITY, taken = objective(&p, order, k + 1);
        for (uint32_t i = 0; i < k; i++) set[i] = order[i];
        for (uint32_t j = 0; j < N; j++) {
            bool used = false;
            for (uint32_t i = 0; i < k; i++) used |= order[i] == j;
            set[k] = j;
            const double value = used ? -INFINITY : objective(&p, set, k + 1);
            if (value > best) best = value;
        }
        CHECK_NEAR(taken, best, 1e-12);
    }
}

static void check_threads(void) {
    static double one[N], four[N];
    static uint32_t order[N], other[N], seen[N];
    const edit_problem p = problem(N, TARGETS, weights[0], REFERENCES, weights[TARGETS]);
    test_begin("a permutation; the same bits on one and four threads");
    choose("greedy", p, 1, one, order);
    choose("greedy", p, 4, four, other);
    CHECK(!memcmp(one, four, sizeof one) && !memcmp(order, other, sizeof order));
    for (int i = 0; i < N; i++) seen[order[i]]++;
    for (int i = 0; i < N; i++) CHECK_INT(seen[i], 1);
}

int main(void) {
    check_harm();
    check_sets();
    draw_weights();
    check_definition(1, 1);
    check_definition(-1, 1);
    check_definition(-1, -1);
    check_threads();
    return test_end();
}
