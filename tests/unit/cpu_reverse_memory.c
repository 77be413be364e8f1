/*
 * cpu_reverse_memory.c - the memory of the cpu backend's reverse pass: schedules and their regions, what is planned
 * against what is taken, too little of it, none.
 */
#include "backend/cpu/cpu_schedule.h"
#include "engines.h"
#include "model/model.h"
#include "nets.h"
#include "test.h"

enum { EXAMPLES_MAX = 37, NETS = NETS_NAMED + (REDUCED ? 4 : 16) };

static void plan(engine *e, const graph *g, int threads, size_t memory) {
    engine_plan(e, g,
                (engine_options){.backend = "cpu",
                                 .memory = memory,
                                 .examples = EXAMPLES_MAX,
                                 .masks = 1,
                                 .threads = threads,
                                 .reverse = true});
}

/* --------------------------------------------------------------------------------------- schedules */

static void check_apart(const cpu_schedule *s) {
    for (size_t i = 0; i < s->region_count; i++) {
        const region *a = &s->regions[i];
        CHECK(a->start + a->size <= s->floats);
        for (size_t j = 0; j < i; j++) {
            const region *b = &s->regions[j];
            const bool at_once = a->first <= b->last && b->first <= a->last;
            CHECK(!at_once || a->start + a->size <= b->start || b->start + b->size <= a->start);
        }
    }
}

/* What no placement can do without: the most that is in use at once. */
static size_t most_at_once(const cpu_schedule *s) {
    size_t most = 0;
    for (size_t i = 0; i < s->region_count; i++) {
        size_t sum = 0;
        for (size_t j = 0; j < s->region_count; j++)
            if (s->regions[j].first <= s->regions[i].first && s->regions[i].first <= s->regions[j].last)
                sum += s->regions[j].size;
        if (sum > most) most = sum;
    }
    return most;
}

static size_t forward_steps(const cpu_schedule *s) {
    size_t count = 0;
    for (size_t i = 0; i < s->step_count; i++) count += s->steps[i].kind == STEP_FORWARD;
    return count;
}

static void test_schedules(const char *name, const graph *g) {
    cpu_schedule_choice *choices = NULL;
    size_t count = 0, steps = 0;
    double waste = 0;
    test_begin("%s: regions in use at once lie apart; less memory for more steps", name);
    CHECK_OK(cpu_schedule_choices(g, &choices, &count));
    CHECK(count > 0);
    for (size_t i = 0; i < count; i++) {
        cpu_schedule s;
        CHECK_OK(cpu_schedule_create(g, choices[i].kept_from, &s));
        CHECK_INT(s.floats, choices[i].floats);
        CHECK(i == 0 || choices[i].floats < choices[i - 1].floats);
        CHECK(i == 0 ? forward_steps(&s) == g->op_count : forward_steps(&s) > steps);
        steps = forward_steps(&s);
        check_apart(&s);
        waste = fmax(waste, (double)s.floats / (double)most_at_once(&s));
        cpu_schedule_free(&s);
    }
    CHECK(waste < 1.25); /* of networks worth the name: below 4 % (docs/performance.md) */
    printf("# %s: %zu schedules, %.0f %% to %.0f %% of the memory, at most %.1f %% unused\n", name, count,
           100.0 * (double)choices[count - 1].floats / (double)choices[0].floats, 100.0, 100 * (waste - 1));
    free(choices);
}

/* ------------------------------------------------------------------------------------------ memory */

/* How much more is resident after a reverse pass than before the backend was there. */
static double grown_bytes(const graph *g, const example_batch *batch, const mask_range *masks, size_t memory) {
    float *gradients = calloc(masks->count * batch->count, masks->n * sizeof *gradients);
    memset(gradients, 1, masks->count * batch->count * masks->n * sizeof *gradients); /* resident already */
    engine e;
    plan(&e, g, 2, memory);
    const double before = (double)memory_resident();
    CHECK_OK(e.interface->prepare(&e.settings, &e.b));
    CHECK_OK(e.interface->bind(e.b, batch));
    CHECK_OK(e.interface->run_reverse(e.b, REVERSE_MASK, 0, masks, gradients, NULL));
    const double after = (double)memory_resident();
    free(gradients);
    engine_close(&e);
    return after - before;
}

static void test_memory(void) {
    model *m = NULL;
    size_t least, best;
    engine e;
    test_begin("resident memory grows by what was planned, within 10 %%");
    if (REDUCED || memory_resident() == 0) {
        test_skip("a sanitizer keeps memory of its own, or there is no /proc");
        return;
    }
    CHECK_OK(model_random("resnet20", &(model_options){0}, &m));
    float *keeps = calloc(m->graph->components, sizeof *keeps);
    const mask_range masks = {.count = 1, .n = m->graph->components, .keeps = keeps};
    example_batch batch = net_batch(m->graph, EXAMPLES_MAX, 7);
    plan(&e, m->graph, 2, 0);
    CHECK_OK(e.interface->memory(&e.settings, &least, &best));
    engine_close(&e);
    CHECK_NEAR(grown_bytes(m->graph, &batch, &masks, best) / (double)best, 1, 0.1);
    CHECK_NEAR(grown_bytes(m->graph, &batch, &masks, least) / (double)least, 1, 0.1);
    net_batch_free(&batch);
    free(keeps);
    model_destroy(m);
}

/* What else is refused: reverse_nets.c. */
static void test_too_little(const graph *g) {
    size_t least, best;
    backend *refused = NULL;
    engine e;
    test_begin("a reverse pass in less memory than the least");
    plan(&e, g, 1, 0);
    CHECK_OK(e.interface->memory(&e.settings, &least, &best));
    e.settings.memory = least - 1;
    CHECK_ERROR(e.interface->prepare(&e.settings, &refused), COAR_ERROR_MEMORY, "raise --memory");
    CHECK(!refused);
    status_clear();
    engine_close(&e);
}

/* How many allocations of memory_new succeed from now on; it takes its memory by this function. */
static size_t allocations_left = SIZE_MAX;

void *aligned_alloc(size_t alignment, size_t size) {
    void *block = NULL;
    if (allocations_left == 0) return NULL;
    if (allocations_left != SIZE_MAX) allocations_left--;
    return posix_memalign(&block, alignment, size) ? NULL : block;
}

static void test_allocations(const graph *g) {
    enum { MOST = 1000 };
    size_t count = 0, least, best;
    backend *b = NULL;
    engine e;
    test_begin("whichever allocation fails, nothing is prepared (leaks: a sanitizer's business)");
    plan(&e, g, 1, 0);
    for (coar_status status = COAR_ERROR_MEMORY; status != COAR_OK && count < MOST; count++) {
        allocations_left = count;
        const coar_status measured = e.interface->memory(&e.settings, &least, &best);
        allocations_left = count;
        status = e.interface->prepare(&e.settings, &b);
        allocations_left = SIZE_MAX;
        CHECK(measured == COAR_OK || measured == COAR_ERROR_MEMORY);
        CHECK(status == COAR_OK ? b != NULL : status == COAR_ERROR_MEMORY && !b);
        status_clear();
    }
    CHECK(count > 20 && count < MOST);
    e.b = b;
    engine_close(&e);
}

int main(void) {
    setenv("COAR_ISA", "portable", 1);
    for (size_t k = 0; k < NETS; k++) {
        const named_net net = net_number(k);
        test_schedules(net.name, net.g);
        graph_destroy(net.g);
    }
    graph *g = net_basic(NET_FILTERS, 21);
    test_memory();
    test_too_little(g);
    test_allocations(g);
    graph_destroy(g);
    return test_end();
}
