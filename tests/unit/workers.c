/*
 * workers.c - several devices on one stage: the same bytes for any number of them, and what a failing one costs. The
 * devices are cpu backends behind an interface that counts and fails on demand.
 */
#include "devices.h"
#include "digits.h"
#include "runs.h"
#include "test.h"

#include "ablate/mask_units.h"

enum { EXAMPLES = 70, MASKS = 40, UNIT_MASKS = 16, UNIT_EXAMPLES = 32, UNITS = 9 };

/* ------------------------------------------------------------------------------------------- made-up devices */

static bool all_take_part; /* nobody ends a first unit before everybody has begun one */
static pthread_barrier_t first_unit;

static sem_t failures; /* posted for each failing call */

static coar_status device_run(backend *b, const mask_range *masks, float *outputs) {
    if (all_take_part && !device_calls[b->interface - devices]) pthread_barrier_wait(&first_unit);
    const coar_status status = device_call(b, outputs);
    if (status == COAR_OK) return backend_cpu.run(b, masks, outputs);
    sem_post(&failures);
    return status;
}

static void plan_devices(int count, int after0, int after1, int after2) {
    devices_plan(count, after0, after1, after2);
    for (int d = 0; d < DEVICES_MAX; d++) devices[d].run = device_run;
}

/* A job on the devices planned; the digits' transformer, as attention takes part in any mixing up of examples. */
static job *open_job(const coar_callbacks *callbacks) {
    const job_options options = {.model = digits_model("vit"),
                                 .data = digits_data(),
                                 .examples = "0:70",
                                 .backend = "cpu",
                                 .threads = 2,
                                 .callbacks = callbacks};
    job *j = digits_job(&options);
    j->unit_masks = UNIT_MASKS;
    j->unit_examples = UNIT_EXAMPLES;
    devices_take(j);
    return j;
}

typedef struct trial {
    told told;
    coar_callbacks callbacks;
    run_store *store;
    store_stage *stage;
    job *job;
    sampler sampler;
    mask_units units;
    unit_work work;
} trial;

/* As a public function begins: without a message of an earlier call. */
static void open_trial(trial *t, const char *name) {
    char path[512];
    status_clear();
    *t = (trial){.told = {.stop_at = 0}};
    t->callbacks = told_begin(&t->told);
    t->job = open_job(&t->callbacks);
    t->sampler = (sampler){
        .kind = SAMPLER_BERNOULLI, .alpha = 0.1, .seed = 3, .n = t->job->model->graph->components, .groups = 1};
    t->units = (mask_units){.grid = mask_units_grid(t->job, 0, MASKS), .sampler = &t->sampler};
    t->work = mask_units_work(t->job, &t->units);
    t->store = run_new(run_path(path, name));
    CHECK_OK(run_open_stage(t->store, &t->units.grid, 0, 1, false, &t->stage));
}

static void close_trial(trial *t) {
    CHECK_INT(t->told.elsewhere, 0);
    stage_close(t->stage);
    store_close(t->store);
    job_close(t->job);
}

/* All units, in the order of their numbers. */
static float expected[MASKS * EXAMPLES];

static void read_units(trial *t, float *values) {
    for (uint64_t unit = 0; unit < UNITS; unit++) {
        const size_t bytes = unit_grid_payload(&t->units.grid, unit);
        unit_mark mark = {0};
        CHECK_OK(stage_read(t->stage, unit, &mark, values, bytes));
        CHECK_INT(mark.flag, UNIT_DONE);
        values += bytes / sizeof *values;
    }
}

static void check_units(trial *t) {
    static float values[MASKS * EXAMPLES];
    CHECK_INT(stage_done_count(t->stage), UNITS);
    read_units(t, values);
    CHECK(!memcmp(values, expected, sizeof values));
    CHECK_INT(t->told.last, MASKS * EXAMPLES);
    CHECK_INT(t->told.total, MASKS * EXAMPLES);
    CHECK(!t->told.fell);
}

/* ---------------------------------------------------------------------------------------------------- tests */

static void test_one(void) {
    test_begin("one device computes all units, block by block");
    trial t;
    plan_devices(1, -1, -1, -1);
    open_trial(&t, "one.h5");
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    CHECK_INT(device_calls[0], UNITS);
    CHECK_INT(t.told.calls, UNITS);
    CHECK_INT(t.work.images, MASKS * EXAMPLES);
    read_units(&t, expected);
    float largest = 0;
    for (size_t i = 0; i < MASKS * EXAMPLES; i++) largest = fmaxf(largest, fabsf(expected[i]));
    CHECK(largest > 1);
    close_trial(&t);
}

static void test_several(void) {
    for (int count = 2; count <= DEVICES_MAX; count++) {
        test_begin("%d devices give the bytes of one, and all take part", count);
        trial t;
        plan_devices(count, -1, -1, -1);
        open_trial(&t, count == 2 ? "two.h5" : "three.h5");
        all_take_part = true;
        pthread_barrier_init(&first_unit, NULL, (unsigned)count);
        CHECK_OK(workers_run(t.job, &t.work, t.stage));
        pthread_barrier_destroy(&first_unit);
        all_take_part = false;
        for (int d = 0; d < count; d++) CHECK(device_calls[d] > 0);
        CHECK_INT(device_calls[0] + device_calls[1] + device_calls[2], UNITS);
        CHECK_INT(t.told.warnings, 0);
        check_units(&t);
        close_trial(&t);
    }
}

static void test_failing(void) {
    static const struct {
        const char *what, *text;
        int after;
    } cases[] = {{"while it prepares", "no kernel image", -2},
                 {"in its first unit", "illegal address", 0},
                 {"in its second unit", "illegal address", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("a device that fails %s: one warning, the other computes its unit", cases[i].what);
        trial t;
        char name[32];
        snprintf(name, sizeof name, "fails%zu.h5", i);
        plan_devices(2, -1, cases[i].after, -1);
        open_trial(&t, name);
        all_take_part = cases[i].after == 0; /* so that it does fail */
        pthread_barrier_init(&first_unit, NULL, 2);
        CHECK_OK(workers_run(t.job, &t.work, t.stage));
        pthread_barrier_destroy(&first_unit);
        all_take_part = false;
        check_units(&t);
        if (cases[i].after != 1 || device_calls[1] == 2) { /* it may find nothing left for a second one */
            CHECK_INT(t.told.warnings, 1);
            CHECK(strstr(t.told.warning, "device 1 ") && strstr(t.told.warning, cases[i].text));
        }
        close_trial(&t);
    }
}

static void test_all_fail(void) {
    test_begin("when the last device fails, everything finished is saved and a rerun goes on");
    trial t;
    plan_devices(2, 3, 2, -1);
    open_trial(&t, "all.h5");
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_ERROR_IO, "planted: an illegal address");
    CHECK(strstr(coar_last_error(), "device "));
    CHECK_INT(t.told.warnings, 1);
    CHECK_INT(stage_done_count(t.stage), 3 + 2);
    for (int d = 0; d < 2; d++) device_fails_after[d] = -1;
    t.told.last = 0;
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    check_units(&t);
    close_trial(&t);

    test_begin("a single device that fails says what it said");
    plan_devices(1, 2, -1, -1);
    open_trial(&t, "single.h5");
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_ERROR_IO, "planted: an illegal address was met");
    CHECK(!strncmp(coar_last_error(), "planted", 7));
    CHECK_INT(t.told.warnings, 0);
    CHECK_INT(stage_done_count(t.stage), 2);
    close_trial(&t);
}

/* The caller's first report of progress takes until both devices have failed. */
static int slow_progress(void *user, const coar_progress *p) {
    told *t = user;
    (void)p;
    for (int d = 0; t->calls == 0 && d < 2; d++) sem_wait(&failures);
    t->calls++;
    return 0;
}

static void test_all_fail_at_once(void) {
    test_begin("devices that fail while the caller is busy: one is the reason, the other a warning all the same");
    trial t;
    plan_devices(2, 1, 1, -1);
    open_trial(&t, "once.h5");
    t.callbacks.progress = slow_progress;
    sem_destroy(&failures);
    sem_init(&failures, 0, 0);
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_ERROR_IO, "planted: an illegal address");
    CHECK_INT(t.told.warnings, 1);
    CHECK_INT(stage_done_count(t.stage), 2);
    close_trial(&t);
}

static void test_stop(void) {
    test_begin("a stop saves the units in hand, and the next call does the rest");
    trial t;
    plan_devices(2, -1, -1, -1);
    open_trial(&t, "stop.h5");
    t.told.stop_at = 1;
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_STOPPED, "the same command goes on");
    const uint64_t done = stage_done_count(t.stage);
    CHECK(done >= 1 && done <= 1 + 2 * 2); /* one that was counted, and two buffers of each device */
    CHECK_INT(done, device_calls[0] + device_calls[1]);
    status_clear();
    t.told.stop_at = t.told.last = 0;
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    CHECK_INT(device_calls[0] + device_calls[1], UNITS);
    check_units(&t);
    t.told.calls = 0;
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    CHECK_INT(t.told.calls, 0);
    close_trial(&t);

    test_begin("a time limit that is over at once still does at least one unit");
    open_trial(&t, "limit.h5");
    t.work.time_limit = 1e-9;
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_STOPPED, "stopped after");
    CHECK(stage_done_count(t.stage) >= 1 && stage_done_count(t.stage) < UNITS);
    close_trial(&t);
}

static void test_not_the_device(void) {
    test_begin("examples that cannot be read end the run: no device is blamed");
    trial t;
    plan_devices(2, -1, -1, -1);
    open_trial(&t, "rows.h5");
    for (size_t i = 0; i < EXAMPLES; i++) t.job->rows[i] = 1 << 20;
    CHECK_ERROR(workers_run(t.job, &t.work, t.stage), COAR_ERROR_USAGE, "row 1048576");
    CHECK(!strstr(coar_last_error(), "device "));
    CHECK_TEXT(t.told.warning, "");
    CHECK_INT(device_calls[0] + device_calls[1], 0);
    close_trial(&t);
}

static void test_shards(void) {
    test_begin("devices take the units of their shard alone");
    trial t;
    plan_devices(2, -1, -1, -1);
    open_trial(&t, "shard.h5");
    t.work.shard = 1;
    t.work.shards = 2;
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    CHECK_INT(stage_done_count(t.stage), UNITS / 2);
    for (uint64_t unit = 0; unit < UNITS; unit++) CHECK_INT(stage_has(t.stage, unit), unit % 2);
    close_trial(&t);
}

static void test_baseline(void) {
    test_begin("a device that fails in the unablated pass is left out for good, and the next one does the pass");
    trial whole, t;
    plan_devices(1, -1, -1, -1);
    open_trial(&whole, "baseline1.h5");
    CHECK_OK(job_baseline(whole.job));
    plan_devices(2, -2, -1, -1);
    open_trial(&t, "baseline2.h5");
    CHECK_OK(job_baseline(t.job));
    CHECK_INT(t.told.warnings, 1);
    CHECK(strstr(t.told.warning, "device 0 ") && strstr(t.told.warning, "no kernel image"));
    CHECK_INT(t.job->device_count, 1);
    CHECK_INT(t.job->devices[0], 1);
    CHECK(!memcmp(t.job->baseline, whole.job->baseline, EXAMPLES * sizeof *t.job->baseline));
    CHECK_OK(workers_run(t.job, &t.work, t.stage));
    check_units(&t);
    CHECK_INT(t.told.warnings, 1);
    close_trial(&t);
    close_trial(&whole);

    test_begin("the last device's failure in it is the caller's");
    plan_devices(2, -2, -2, -1);
    open_trial(&t, "baseline3.h5");
    CHECK_ERROR(job_baseline(t.job), COAR_ERROR_UNSUPPORTED, "no kernel image");
    CHECK_INT(t.told.warnings, 1);
    close_trial(&t);
}

/* Small, ResNet-20, ResNet-50 and ViT-B/16: flops of a pass, and what docs/design.md then says. */
static void test_unit_size(void) {
    static const struct {
        double flops;
        uint64_t examples;
        uint32_t masks, of;
    } cases[] = {
        {1e3, 1, 2048, 1},    {81e6, 1, 2048, 1},     {81e6, 5, 512, 5},   {81e6, 31, 128, 31}, {81e6, 32, 64, 32},
        {81e6, 200, 64, 200}, {81e6, 5000, 64, 1024}, {8.2e9, 1, 1024, 1}, {8.2e9, 64, 16, 64}, {35e9, 1, 256, 1},
        {35e9, 32, 8, 32},    {35e9, 2000, 1, 256},   {1e15, 1, 1, 1},
    };
    test_begin("work units: few examples take more masks, expensive networks fewer");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t masks, examples;
        unit_size(cases[i].flops, cases[i].examples, &masks, &examples);
        CHECK_INT(masks, cases[i].masks);
        CHECK_INT(examples, cases[i].of);
    }
}

int main(void) {
    sem_init(&failures, 0, 0);
    test_unit_size();
    test_one();
    test_several();
    test_failing();
    test_all_fail();
    test_all_fail_at_once();
    test_stop();
    test_not_the_device();
    test_shards();
    test_baseline();
    return test_end();
}
