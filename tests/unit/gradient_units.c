/*
 * gradient_units.c - `coar gradients` on real networks: sums against plain loops over single reverse passes; the same
 * bytes for any grouping, devices, interruptions and number of goes; what a derivative that is not finite does;
 * ablations before and after.
 */
#include "runs.h"
#include "test.h"

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

#include "ablate/gradient_units.h"
#include "ablate/run.h"
#include "core/files.h"
#include "core/memory.h"

enum { EXAMPLES = 40, PASSES = 11, DEVICES_MAX = 2, BLOCK_TAIL = EXAMPLES - LEVELS_BLOCK };

/* ------------------------------------------------------------------------------------------- made-up devices */

static int device_count;
static int runs[DEVICES_MAX];        /* calls of run_reverse on each */
static int fails_after[DEVICES_MAX]; /* calls; -1 = never */
static uint32_t bad_example;         /* within its block, of those that are bound in BLOCK_TAIL; UINT32_MAX = none */
static int bad_run;                  /* the call that gives it a derivative that is not finite */
static backend_interface devices[DEVICES_MAX];
static uint32_t bound[DEVICES_MAX]; /* examples */
static bool in_step;                /* the one device waits for the report of its last call: it is at most one ahead */
static sem_t reports;

static coar_status count_devices(int *count) {
    *count = device_count;
    return COAR_OK;
}

static coar_status device_prepare(const backend_settings *s, backend **out) {
    backend_settings on_host = *s;
    on_host.memory = 64 << 20; /* 0 = what a device has free */
    TRY(backend_cpu.prepare(&on_host, out));
    (*out)->interface = &devices[s->device];
    return COAR_OK;
}

static coar_status device_bind(backend *b, const example_batch *batch) {
    bound[b->interface - devices] = batch->count;
    return backend_cpu.bind(b, batch);
}

static coar_status device_reverse(backend *b, reverse_kind kind, size_t output, const mask_range *masks,
                                  float *gradients, float *outputs) {
    const ptrdiff_t device = b->interface - devices;
    if (in_step) sem_wait(&reports);
    if (runs[device]++ == fails_after[device]) {
        memset(gradients, 0x7f, sizeof *gradients); /* a failure may leave anything behind */
        return status_set(COAR_ERROR_IO, "planted: an illegal address was met");
    }
    TRY(backend_cpu.run_reverse(b, kind, output, masks, gradients, outputs));
    if (bad_example != UINT32_MAX && bound[device] == BLOCK_TAIL && runs[device] == bad_run)
        gradients[(size_t)bad_example * masks->n + 3] = -INFINITY; /* in the first pass of the group */
    return COAR_OK;
}

static void plan_devices(int count, int after0, int after1) {
    const int after[DEVICES_MAX] = {after0, after1};
    device_count = count;
    bad_example = UINT32_MAX;
    for (int d = 0; d < DEVICES_MAX; d++) {
        fails_after[d] = after[d];
        runs[d] = 0;
        devices[d] = backend_cpu;
        devices[d].devices = count_devices;
        devices[d].prepare = device_prepare;
        devices[d].bind = device_bind;
        devices[d].run_reverse = device_reverse;
    }
}

/* ------------------------------------------------------------------------------------------------ the caller */

typedef struct told {
    pthread_t caller;
    int warnings, elsewhere; /* elsewhere: callbacks from another thread than the caller's */
    uint64_t calls, last, total, stop_at;
    bool fell;
} told;

static int on_progress(void *user, const coar_progress *p) {
    told *t = user;
    t->calls++;
    t->fell |= p->done <= t->last;
    t->last = p->done;
    t->total = p->total;
    t->elsewhere += !pthread_equal(pthread_self(), t->caller);
    if (in_step) sem_post(&reports);
    return t->stop_at && p->done >= t->stop_at;
}

static void on_log(void *user, coar_log_level level, const char *line) {
    told *t = user;
    (void)line;
    t->warnings += level == COAR_LOG_WARNING;
}

static const char *data_file(void) {
    static char path[512], images[512], labels[512];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", test_temporary("digits.h5"));
    snprintf(images, sizeof images, "%s", test_path("../data/digits-images.npy"));
    snprintf(labels, sizeof labels, "%s", test_path("../data/digits-labels.npy"));
    coar_pack_options o = COAR_PACK_INIT;
    o.from = "npy";
    o.path = images;
    o.labels = labels;
    o.output = path;
    CHECK_OK(coar_pack(&o, NULL));
    return path;
}

static const char *model_file(void) {
    static char path[512];
    snprintf(path, sizeof path, "%s", test_path("../data/digits-resnet.safetensors"));
    return path;
}

static coar_gradients_options options_for(const char *output) {
    coar_gradients_options o = COAR_GRADIENTS_INIT;
    o.passes = PASSES;
    o.ablate.model = model_file();
    o.ablate.data = data_file();
    o.ablate.output = output;
    o.ablate.examples = "0:40";
    o.ablate.outputs = "margin,loss";
    o.ablate.alpha = 0.2;
    o.ablate.seed = 12345678901234567890u;
    o.ablate.backend = "cpu";
    o.ablate.threads = 2;
    return o;
}

/* gradients.h5 of a run made in one go by the command. */
static const char *whole_run(void) {
    static char path[512];
    if (path[0]) return path;
    run_path(path, "whole.h5");
    const coar_gradients_options o = options_for(path);
    CHECK_OK(coar_gradients(&o, NULL));
    return path;
}

static void check_same_file(const char *a, const char *b) {
    file_map x, y;
    CHECK_OK(file_map_open(run_file(a, "gradients.h5"), &x));
    CHECK_OK(file_map_open(run_file(b, "gradients.h5"), &y));
    CHECK(x.size == y.size && !memcmp(x.data, y.data, x.size));
    file_map_close(&x);
    file_map_close(&y);
}

/* ------------------------------------------------------------------------------------------------------ sums */

static job *open_job(const coar_callbacks *callbacks) {
    job *j = NULL;
    const job_options options = {.model = model_file(),
                                 .data = data_file(),
                                 .examples = "0:40",
                                 .outputs = "margin,loss",
                                 .backend = "cpu",
                                 .threads = 2,
                                 .callbacks = callbacks};
    CHECK_OK(job_open(&options, &j));
    if (!j) exit(1);
    return j;
}

/* Sums over single passes of one example at a time, in double and in pass order. */
static void expect_sums(double *sums, double *of_component, double *of_example) {
    job *j = open_job(NULL);
    const uint32_t n = j->model->graph->components;
    const job_pass pass = {.examples = LEVELS_BLOCK, .masks = 1, .reverse = true};
    const level_masks masks = {.seed = 12345678901234567890u, .alpha = 0.2, .n = n};
    uint8_t *images = malloc(LEVELS_BLOCK * job_image_bytes(j)), *level = malloc(n);
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
    CHECK_OK(store_open(whole_run(), &store));
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

static void test_same_bytes(void) {
    test_begin("the same bytes for one thread and little memory, and in three goes");
    char path[512];
    coar_gradients_options o = options_for(run_path(path, "small.h5"));
    coar_gradients_result r;
    o.ablate.threads = 1;
    o.ablate.memory = 6 << 20;
    CHECK_OK(coar_gradients(&o, &r));
    CHECK_INT(r.images, 2 * PASSES * EXAMPLES);
    CHECK_INT(r.units_total, 4);
    check_same_file(path, whole_run());

    o = options_for(run_path(path, "goes.h5"));
    for (uint32_t passes = 3; passes <= PASSES; passes += 4) { /* 3, 7, 11 */
        o.passes = passes;
        CHECK_OK(coar_gradients(&o, &r));
        CHECK_INT(r.passes, passes);
    }
    CHECK_INT(r.images, 2 * 4 * EXAMPLES);
    check_same_file(path, whole_run());
    for (int i = 0; i < 2; i++) { /* as many, and fewer */
        CHECK_OK(coar_gradients(&o, &r));
        CHECK(r.already_complete && r.passes == PASSES && r.images == 0);
        o.passes = 5;
    }
}

/* A stage of the whole run's settings on made-up devices, with groups of `group` passes; its status. */
static coar_status run_on_devices(const char *path, size_t group, told *t, bool finish) {
    const coar_callbacks callbacks = {.progress = on_progress, .log = on_log, .user = t};
    coar_gradients_options begin = options_for(path);
    run_store *store = NULL;
    store_stage *stage = NULL;
    begin.passes = 1;
    if (!file_exists(path)) { /* the run and its tables; the one pass is dropped */
        CHECK_OK(coar_gradients(&begin, NULL));
        unlink(run_file(path, "gradients.h5"));
        unlink(path);
    }
    status_clear();
    *t = (told){.caller = pthread_self(), .stop_at = t->stop_at};
    CHECK_OK(store_open(path, &store));
    job *j = open_job(&callbacks);
    j->interface = &devices[0];
    free(j->devices);
    j->devices = NULL;
    CHECK_OK(memory_new((size_t)device_count, sizeof *j->devices, "devices", &j->devices));
    for (int d = 0; d < device_count; d++) j->devices[d] = d;
    j->device_count = (size_t)device_count;
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
        check_same_file(path, whole_run());
    }
}

static void test_devices(void) {
    test_begin("two devices, of which one fails in the middle of a unit: the same bytes");
    char path[512];
    told t = {.stop_at = 0};
    plan_devices(2, 1, -1);
    CHECK_OK(run_on_devices(run_path(path, "devices.h5"), 2, &t, true));
    CHECK(t.warnings == 1 || runs[0] < 2); /* it may find nothing to do for its second call */
    check_same_file(path, whole_run());

    test_begin("when all fail, the units in hand are lost back to their last record, and a rerun goes on");
    plan_devices(2, 5, 4);
    CHECK_ERROR(run_on_devices(run_path(path, "failing.h5"), 2, &t, true), COAR_ERROR_IO, "planted");
    CHECK(!file_exists(run_file(path, "gradients.h5")));
    plan_devices(1, -1, -1);
    CHECK_OK(run_on_devices(path, 4, &t, true));
    CHECK(t.total == 2 * PASSES * EXAMPLES && t.calls > 0);
    check_same_file(path, whole_run());
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
    CHECK_INT(runs[0], 4 * 6); /* of 2, 2, 2 | 2, 2, 1: a record after 6 of the 11 passes; nothing was computed twice */
    check_same_file(path, whole_run());
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

static void test_not_finite(void) {
    test_begin("an example with a derivative that is not finite is NaN, its block has no squares; the others are as "
               "they were");
    char path[512];
    told t = {.stop_at = 0};
    plan_devices(1, -1, -1);
    bad_example = 5;
    bad_run = 6; /* calls 5 and 6 are the second block's first unit */
    CHECK_OK(run_on_devices(run_path(path, "bad.h5"), 16, &t, true));
    run_store *bad = NULL, *whole = NULL;
    gradients_info info;
    bool present;
    CHECK_OK(store_open(path, &bad));
    CHECK_OK(store_open(whole_run(), &whole));
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

static void test_usage(void) {
    test_begin("an alpha of a half and more, and what is none of gradients' business");
    char path[512];
    coar_gradients_options o = options_for(run_path(path, "usage.h5"));
    o.ablate.alpha = 0.5;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "--alpha 0.5: gradients need one below 0.5");
    CHECK(!file_exists(path));
    o.ablate.alpha = 0.2;
    o.ablate.sampler = "no such sampler";
    o.ablate.masks = 1;
    o.passes = 2;
    CHECK_OK(coar_gradients(&o, NULL));
    o.ablate.seed++;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_MISMATCH, "--seed");
    o.size = 0;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "COAR_GRADIENTS_INIT");
    o = (coar_gradients_options)COAR_GRADIENTS_INIT;
    o.ablate.size = 0;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "COAR_GRADIENTS_INIT");
}

/* Ablations of the run in `path` with these options; 9 masks. */
static coar_status ablate(const char *path, const char *sampler, int store_masks, uint64_t masks) {
    coar_ablate_options o = options_for(path).ablate;
    o.sampler = sampler;
    o.masks = masks;
    o.store_masks = store_masks;
    return coar_ablate(&o, NULL);
}

static void test_both(void) {
    test_begin("ablations and gradients in either order; what is one's alone does not bind the other");
    char path[512], other[512], masks[512], sampler[600];
    run_path(path, "both.h5");
    CHECK_OK(ablate(path, "fixed", 1, 5));
    coar_gradients_options o = options_for(path);
    CHECK_OK(coar_gradients(&o, NULL));
    check_same_file(path, whole_run());
    CHECK_ERROR(ablate(path, "bernoulli", 1, 5), COAR_ERROR_MISMATCH, "--sampler (sampler) is bernoulli");
    CHECK_ERROR(ablate(path, "fixed", 0, 9), COAR_ERROR_MISMATCH, "--store-masks");
    CHECK_OK(ablate(path, "fixed", 1, 9));

    run_path(other, "gradients-first.h5");
    o = options_for(other);
    CHECK_OK(coar_gradients(&o, NULL));
    run_store *store = NULL;
    run_tables tables = {.groups = NULL};
    CHECK_OK(store_open(other, &store));
    CHECK_OK(store_read_tables(store, &tables, NULL));
    const uint32_t n = tables.components;
    CHECK(!tables.given_masks && !store_setting(store, "sampler"));
    run_tables_free(&tables);
    store_close(store);
    snprintf(masks, sizeof masks, "%s", test_temporary("given.npy"));
    char text[128] = "\x93NUMPY\x01\x00\x76";
    const int used = 10 + snprintf(text + 10, 118, "{'descr': '|b1', 'fortran_order': False, 'shape': (4, %u), }", n);
    memset(text + used, ' ', 127 - (size_t)used);
    text[127] = '\n';
    FILE *f = fopen(masks, "w");
    CHECK(f && fwrite(text, 1, 128, f) == 128);
    for (uint32_t i = 0; i < 4 * n; i++) fputc(i % 5 != 0, f);
    fclose(f);
    snprintf(sampler, sizeof sampler, "file:%s", masks);
    CHECK_OK(ablate(other, sampler, 0, 0));
    CHECK_OK(store_open(other, &store));
    CHECK_OK(store_read_tables(store, &tables, NULL));
    CHECK_INT(tables.given_count, 4);
    CHECK_TEXT(store_setting(store, "sampler"), "file");
    run_tables_free(&tables);
    store_close(store);
    f = fopen(masks, "r+");
    fseek(f, 200, SEEK_SET);
    fputc(0, f);
    fputc(0, f);
    fclose(f);
    CHECK_ERROR(ablate(other, sampler, 0, 0), COAR_ERROR_MISMATCH, "--sampler (sampler_masks_sha256)");
    check_same_file(other, whole_run());
    o.passes = PASSES + 1;
    CHECK_OK(coar_gradients(&o, NULL));
}

int main(void) {
    test_sums();
    test_same_bytes();
    test_groups();
    test_devices();
    test_stop();
    test_not_finite();
    test_usage();
    test_both();
    return test_end();
}
