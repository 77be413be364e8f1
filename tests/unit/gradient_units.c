/*
 * gradient_units.c - `coar gradients` on real networks: sums against plain loops over single reverse passes; the same
 * bytes for any grouping, devices, interruptions and number of goes; what a derivative that is not finite does;
 * ablations before and after.
 */
#include "devices.h"
#include "gradient_runs.h"
#include "runs.h"
#include "test.h"

#include <unistd.h>

#include "ablate/gradient_units.h"
#include "ablate/run.h"
#include "core/files.h"

enum { EXAMPLES = GRADIENT_EXAMPLES, PASSES = GRADIENT_PASSES, BLOCK_TAIL = EXAMPLES - LEVELS_BLOCK };

/* ------------------------------------------------------------------------------------------- made-up devices */

static uint32_t bad_example;        /* within its block, of those that are bound in BLOCK_TAIL; UINT32_MAX = none */
static int bad_run;                 /* the call that gives it a derivative that is not finite */
static bool bad_output;             /* its output, not a derivative */
static uint32_t bound[DEVICES_MAX]; /* examples */
static bool in_step;                /* the one device waits for the report of its last call: it is at most one ahead */
static sem_t reports;

static coar_status device_bind(backend *b, const example_batch *batch) {
    bound[b->interface - devices] = batch->count;
    return backend_cpu.bind(b, batch);
}

static coar_status device_reverse(backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                  float *gradients, float *outputs) {
    const ptrdiff_t device = b->interface - devices;
    if (in_step) sem_wait(&reports);
    TRY(device_call(b, gradients));
    TRY(backend_cpu.run_reverse(b, kind, output, masks, gradients, outputs));
    if (bad_example != UINT32_MAX && bound[device] == BLOCK_TAIL && device_calls[device] == bad_run) {
        if (bad_output)
            outputs[bad_example] = NAN; /* in the first pass of the group, as the derivative below */
        else
            gradients[(size_t)bad_example * masks->n + 3] = -INFINITY;
    }
    return COAR_OK;
}

static void plan_devices(int count, int after0, int after1) {
    devices_plan(count, after0, after1, -1);
    bad_example = UINT32_MAX;
    for (int d = 0; d < DEVICES_MAX; d++) {
        devices[d].bind = device_bind;
        devices[d].run_reverse = device_reverse;
    }
}

/* ------------------------------------------------------------------------------------------------------ sums */

static job *open_job(const coar_callbacks *callbacks) {
    const job_options options = {.model = digits_model("resnet"),
                                 .data = digits_data(),
                                 .examples = "0:40",
                                 .outputs = "margin,loss",
                                 .backend = "cpu",
                                 .threads = 2,
                                 .callbacks = callbacks};
    return digits_job(&options);
}

/* Sums over single passes of one example at a time, in double and in pass order. */
static void expect_sums(double *sums, double *of_component, double *of_example) {
    job *j = open_job(NULL);
    const uint32_t n = j->model->graph->components;
    const job_pass pass = {.examples = LEVELS_BLOCK, .masks = 1, .reverse = true};
    const level_masks masks = {.seed = 12345678901234567890u, .alpha = 0.2, .n = n};
    uint8_t *images = malloc(LEVELS_BLOCK * dataset_example_bytes(j->data)), *level = malloc(n);
    float *keeps = malloc(n * sizeof *keeps), *gradients = malloc(LEVELS_BLOCK * n * sizeof *gradients);
    backend *b = NULL;
    CHECK_OK(job_prepare(j, &pass, 0, j->pool, &b));
    for (uint32_t first = 0; first < EXAMPLES; first += LEVELS_BLOCK) {
        const uint32_t count = EXAMPLES - first < LEVELS_BLOCK ? EXAMPLES - first : LEVELS_BLOCK;
        CHECK_OK(job_read(j, first, count, images));
        CHECK_OK(job_bind(j, b, first, count, images));
        for (uint32_t p = 0; p < PASSES; p++) {
            level_mask(&masks, first / LEVELS_BLOCK, p, 1, level);
            for (uint32_t c = 0; c < n; c++) keeps[c] = level_keep[level[c]];
            CHECK_OK(b->interface->run_reverse(b, REVERSE_MASK, 1, &(mask_range){.count = 1, .n = n, .keeps = keeps},
                                               gradients, NULL));
            for (uint32_t e = 0; e < count; e++)
                for (uint32_t c = 0; c < n; c++) {
                    const double g = gradients[e * n + c];
                    sums[((size_t)level[c] * EXAMPLES + first + e) * n + c] += g;
                    of_component[(size_t)level[c] * n + c] += g * g;
                    of_example[level[c] * EXAMPLES + first + e] += g * g;
                }
        }
    }
    b->interface->destroy(b);
    free(gradients);
    free(keeps);
    free(level);
    free(images);
    job_close(j);
}

static void test_sums(void) {
    test_begin("sums by level are those of single passes under the masks of levels.h");
    run_store *store = NULL;
    gradients_info info = {.components = 0};
    bool present;
    CHECK_OK(store_open(gradient_run(), &store));
    CHECK_OK(store_gradients_info(store, "loss", &info, &present));
    CHECK_INT(info.passes, PASSES);
    const size_t n = info.components, all = LEVELS * EXAMPLES * n;
    double *sums = malloc(all * sizeof *sums), *expected = calloc(all, sizeof *expected), largest = 0;
    double *component = malloc(LEVELS * n * sizeof *component),
           *expected_component = calloc(LEVELS * n, sizeof(double));
    double example[LEVELS * EXAMPLES], expected_example[LEVELS * EXAMPLES] = {0};
    CHECK_OK(store_read_gradients(store, "loss", 0, EXAMPLES, sums));
    CHECK_OK(store_read_gradient_squares(store, "loss", component, example));
    expect_sums(expected, expected_component, expected_example);
    size_t wrong = 0;
    for (size_t i = 0; i < all; i++) {
        wrong += sums[i] != expected[i];
        largest = fmax(largest, fabs(sums[i]));
    }
    CHECK_INT(wrong, 0);
    CHECK(largest > 0.1);
    for (size_t i = 0; i < LEVELS * n; i++)
        CHECK_NEAR(component[i], expected_component[i], 1e-9 * expected_component[i]);
    for (size_t i = 0; i < LEVELS * EXAMPLES; i++)
        CHECK_NEAR(example[i], expected_example[i], 1e-9 * expected_example[i]);
    free(expected_component);
    free(component);
    free(expected);
    free(sums);
    store_close(store);
}

/* ------------------------------------------------------------------------------------- groups, goes, memory */

/* A stage of the whole run's settings on made-up devices, with groups of `group` passes; its status. */
static coar_status run_on_devices(const char *path, size_t group, told *t, bool finish) {
    coar_gradients_options begin = gradient_options(path);
    run_store *store = NULL;
    store_stage *stage = NULL;
    begin.passes = 1;
    if (!file_exists(path)) { /* the run and its tables; the one pass is dropped */
        CHECK_OK(coar_gradients(&begin, NULL));
        unlink(run_file(path, "gradients.h5"));
        unlink(path);
    }
    status_clear();
    t->reports = in_step ? &reports : NULL;
    const coar_callbacks callbacks = told_begin(t);
    CHECK_OK(store_open(path, &store));
    job *j = open_job(&callbacks);
    devices_take(j);
    const uint32_t n = j->model->graph->components;
    const gradient_units units = {.grid = {.examples = EXAMPLES, .components = n, .outputs = 2, .passes = PASSES},
                                  .masks = {.seed = begin.ablate.seed, .alpha = begin.ablate.alpha, .n = n},
                                  .store = store};
    const setting settings[] = {{"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
                                {"gradient_design", "", LEVELS_DESIGN, SETTING_TEXT, true}};
    stage_run run = {
        .name = "gradients-0", .settings = settings, .setting_count = 2, .work = gradient_units_work(j, &units)};
    run.work.pass.masks = group;
    sem_init(&reports, 0, 1); /* one call without a report before it */
    coar_status status = run_stage(j, store, &run, &stage);
    if (status == COAR_OK && finish) status = store_finish_gradients(store, stage, &units.grid);
    CHECK_INT(t->elsewhere, 0);
    CHECK(!t->fell);
    sem_destroy(&reports);
    stage_close(stage);
    store_close(store);
    job_close(j);
    return status;
}

static void test_groups(void) {
    static const size_t groups[] = {1, 3, 16};
    for (size_t i = 0; i < 3; i++) {
        test_begin("groups of %zu passes: the same bytes", groups[i]);
        char path[512], name[32];
        told t = {.stop_at = 0};
        snprintf(name, sizeof name, "group%zu.h5", groups[i]);
        plan_devices(1, -1, -1);
        CHECK_OK(run_on_devices(run_path(path, name), groups[i], &t, true));
        CHECK_INT(t.last, 2 * PASSES * EXAMPLES);
        CHECK_INT(t.total, 2 * PASSES * EXAMPLES);
        gradient_check_same(path, gradient_run());
    }
}

/* 16 passes of 32 examples, or as many pairs of fewer, but hardly more than there are passes. */
static void test_group_size(void) {
    static const struct {
        uint64_t examples;
        uint32_t first, passes;
        size_t group;
    } cases[] = {{40, 0, 512, 16}, {32, 0, 512, 16}, {5, 0, 512, 64},
                 {1, 0, 512, 512}, {1, 0, 16, 16},   {1, 64, 100, 64}};
    test_begin("few examples: more passes at once");
    job *j = open_job(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const gradient_units units = {.grid = {.examples = cases[i].examples,
                                               .components = j->model->graph->components,
                                               .outputs = 1,
                                               .first_pass = cases[i].first,
                                               .passes = cases[i].passes}};
        CHECK_INT(gradient_units_work(j, &units).pass.masks, cases[i].group);
    }
    job_close(j);
}

static void test_devices(void) {
    test_begin("two devices, of which one fails in the middle of a unit: the same bytes");
    char path[512];
    told t = {.stop_at = 0};
    plan_devices(2, 1, -1);
    CHECK_OK(run_on_devices(run_path(path, "devices.h5"), 2, &t, true));
    CHECK(t.warnings == 1 || device_calls[0] < 2); /* it may find nothing to do for its second call */
    gradient_check_same(path, gradient_run());

    test_begin("when all fail, the units in hand are lost back to their last record, and a rerun goes on");
    plan_devices(2, 5, 4);
    CHECK_ERROR(run_on_devices(run_path(path, "failing.h5"), 2, &t, true), COAR_ERROR_IO, "planted");
    CHECK(!file_exists(run_file(path, "gradients.h5")));
    plan_devices(1, -1, -1);
    CHECK_OK(run_on_devices(path, 4, &t, true));
    CHECK(t.total == 2 * PASSES * EXAMPLES && t.calls > 0);
    gradient_check_same(path, gradient_run());
}

static void test_stop(void) {
    test_begin("a stop saves the unit in hand after any group, and reruns go on there");
    char path[512];
    told t = {.stop_at = 1};
    int stops = 0;
    uint64_t done = 0;
    plan_devices(1, -1, -1);
    run_path(path, "stop.h5");
    in_step = true;
    for (coar_status status = COAR_STOPPED; status == COAR_STOPPED && stops < 100; stops++) {
        t.stop_at = done + 1;
        status = run_on_devices(path, 2, &t, true);
        if (status == COAR_STOPPED) CHECK(strstr(coar_last_error(), "the same command goes on"));
        CHECK(t.last > done);
        done = t.last;
    }
    in_step = false;
    CHECK(stops >= 4 * 6 / 2);
    CHECK_INT(device_calls[0],
              4 * 6); /* of 2, 2, 2 | 2, 2, 1: a record after 6 of the 11 passes; nothing was computed twice */
    gradient_check_same(path, gradient_run());
}

/* ------------------------------------------------------------------------------------------- not finite, usage */

/* [LEVELS][n] of block 0 alone. */
static void first_block_squares(run_store *store, const char *output, double *of_component) {
    gradients_info info;
    bool present;
    CHECK_OK(store_gradients_info(store, output, &info, &present));
    const gradient_grid g = {.examples = EXAMPLES, .components = info.components, .outputs = 2, .first_pass = PASSES};
    double *payload = malloc(gradient_grid_payload(&g, 0));
    CHECK_OK(store_read_gradient_state(store, output, &g, 0, payload));
    memcpy(of_component, gradient_state_of(payload, LEVELS_BLOCK, info.components).squares_of_component,
           LEVELS * info.components * sizeof *of_component);
    free(payload);
}

static void test_not_finite(bool output_alone) {
    test_begin("an example with %s that is not finite is NaN, its block has no squares; others are as they were",
               output_alone ? "an output" : "a derivative");
    char path[512];
    told t = {.stop_at = 0};
    plan_devices(1, -1, -1);
    bad_example = 5;
    bad_output = output_alone;
    bad_run = 6; /* calls 5 and 6 are the second block's first unit */
    CHECK_OK(run_on_devices(run_path(path, output_alone ? "bad-output.h5" : "bad.h5"), 16, &t, true));
    run_store *bad = NULL, *whole = NULL;
    gradients_info info;
    bool present;
    CHECK_OK(store_open(path, &bad));
    CHECK_OK(store_open(gradient_run(), &whole));
    CHECK_OK(store_gradients_info(bad, "margin", &info, &present));
    const size_t n = info.components, count = LEVELS * EXAMPLES * n;
    double *a = malloc(count * sizeof *a), *b = malloc(count * sizeof *b), a_squares[LEVELS * EXAMPLES];
    double *a_component = malloc(LEVELS * n * sizeof *a), *b_component = malloc(LEVELS * n * sizeof *a);
    double b_squares[LEVELS * EXAMPLES];
    size_t wrong = 0, marked = 0, other = 0;
    for (int output = 0; output < 2; output++) {
        CHECK_OK(store_read_gradients(bad, output ? "loss" : "margin", 0, EXAMPLES, a));
        CHECK_OK(store_read_gradients(whole, output ? "loss" : "margin", 0, EXAMPLES, b));
        CHECK_OK(store_read_gradient_squares(bad, output ? "loss" : "margin", a_component, a_squares));
        CHECK_OK(store_read_gradient_squares(whole, output ? "loss" : "margin", b_component, b_squares));
        if (output == 0) first_block_squares(whole, "margin", b_component); /* the loss is finite everywhere */
        for (size_t i = 0; i < LEVELS * n; i++) other += a_component[i] != b_component[i];
        for (size_t i = 0; i < count; i++) {
            const size_t e = i / n % EXAMPLES;
            if (isnan(a_squares[e])) {
                marked += isnan(a[i]) != 0;
                CHECK_INT(e, LEVELS_BLOCK + 5);
            } else {
                wrong += a[i] != b[i];
            }
        }
    }
    CHECK_INT(marked, LEVELS * n);
    CHECK_INT(wrong, 0);
    CHECK_INT(other, 0);
    free(b_component);
    free(a_component);
    free(b);
    free(a);
    store_close(whole);
    store_close(bad);
}

int main(void) {
    test_sums();
    test_groups();
    test_group_size();
    test_devices();
    test_stop();
    test_not_finite(false);
    test_not_finite(true);
    return test_end();
}
