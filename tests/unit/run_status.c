/*
 * run_status.c - coar_run_status of runs whose heartbeats are planted: who counts as at work, what time is left, and what
 * shards have nobody. (tests/cli/status.sh asks it of programs that run.)
 */
#include "runs.h"
#include "test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MASKS = 40 }; /* 3 mask blocks x 3 example blocks: 9 units */

static coar_run_state *state_of(const char *path) {
    coar_run_state *state = NULL;
    status_clear();
    CHECK_OK(coar_run_status(path, &state));
    return state;
}

/* A heartbeat of another host, some seconds old. */
static void plant(const char *path, const char *name, const char *more, double age) {
    char text[512];
    struct timespec now, times[2];
    snprintf(text, sizeof text, "{\"host\":\"%s\",\"boot\":\"b\",\"pid\":4321,\"start\":\"7\",%s}", name, more);
    char file[64];
    snprintf(file, sizeof file, "ablate-0.%s-4321-0.alive", name);
    const char *place = run_file(path, file);
    run_write_text(place, text);
    clock_gettime(CLOCK_REALTIME, &now);
    times[0] = times[1] = (struct timespec){now.tv_sec - (time_t)age, now.tv_nsec};
    CHECK(utimensat(AT_FDCWD, place, times, 0) == 0);
}

/* A run with some units done by shard 0 of 3, which has ended. */
static run_store *begun_run(const char *path, const unit_grid *grid) {
    store_stage *stage = NULL;
    run_store *store = run_new(path);
    CHECK_OK(run_open_stage(store, grid, 0, 3, false, &stage));
    CHECK_OK(run_unit(stage, grid, 0));
    CHECK_OK(run_unit(stage, grid, 3));
    stage_tell(stage, 512, 2);
    stage_close(stage);
    return store;
}

static void test_stages(void) {
    test_begin("a new run has no stage under way, one that has begun has its units, a finished one its parts");
    char buffer[512];
    const char *path = run_path(buffer, "stages.h5");
    const unit_grid grid = run_grid(0, MASKS);
    store_close(run_new(path));
    coar_run_state *s = state_of(path);
    CHECK(s->stage_count == 0 && s->part_count == 0);
    coar_free(s);
    run_store *store = begun_run(run_path(buffer, "begun.h5"), &grid);
    s = state_of(path);
    CHECK_INT(s->stage_count, 1);
    const coar_run_stage *stage = &s->stages[0];
    CHECK_TEXT(stage->name, "ablate-0");
    CHECK_INT(stage->units, 9);
    CHECK_INT(stage->done, 2);
    CHECK_NEAR(stage->fraction, 2. / 9, 1e-12);
    CHECK(stage->rate == 0 && stage->seconds_left < 0);
    CHECK_INT(stage->process_count, 1);
    const coar_run_process *p = &stage->processes[0];
    CHECK_INT(p->state, COAR_PROCESS_ENDED);
    CHECK(p->pid == (long)getpid() && p->shard == 0 && p->shards == 3 && p->units == 2 && p->images == 512);
    CHECK_NEAR(p->rate, 256, 1e-9);
    CHECK_INT(stage->shard_count, 3);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK(stage->shards[k].shard == k && stage->shards[k].shards == 3 && stage->shards[k].units == 3);
        CHECK_INT(stage->shards[k].done, k == 0 ? 2 : 0);
        CHECK_INT(stage->shards[k].processes, 0);
    }
    coar_free(s);
    CHECK_OK(run_ablate(store, 0, MASKS, 3));
    store_close(store);
    s = state_of(path);
    CHECK_INT(s->stage_count, 0);
    CHECK_INT(s->part_count, 1);
    CHECK_TEXT(s->parts[0], "outputs-0-39.h5");
    coar_free(s);
}

static void test_processes(void) {
    test_begin("processes elsewhere work while their beat is younger than 60 s, whatever clocks say");
    char buffer[512];
    const char *path = run_path(buffer, "elsewhere.h5");
    const unit_grid grid = run_grid(0, MASKS);
    store_close(begun_run(path, &grid));
    plant(path, "far", "\"shard\":1,\"shards\":3,\"job\":\"9_1\",\"units\":4,\"images\":400,\"seconds\":8", 20);
    plant(path, "further", "\"shard\":2,\"shards\":3,\"units\":1,\"images\":30,\"seconds\":3", 70);
    plant(path, "ahead", "\"shard\":0,\"shards\":3,\"rank\":1,\"ranks\":2,\"units\":2,\"images\":90,\"seconds\":1",
          -30);
    plant(path, "gone", "\"shard\":2,\"shards\":3,\"ended\":true", 1);
    coar_run_state *s = state_of(path);
    const coar_run_stage *stage = &s->stages[0];
    CHECK(s->file_clock);
    CHECK_INT(stage->process_count, 5);
    for (size_t i = 0; i < stage->process_count; i++) {
        const coar_run_process *p = &stage->processes[i];
        if (!strcmp(p->host, "far")) {
            CHECK_INT(p->state, COAR_PROCESS_WORKS);
            CHECK(p->beat_seconds > 19 && p->beat_seconds < 40);
            CHECK_TEXT(p->job, "9_1");
        } else if (!strcmp(p->host, "further")) {
            CHECK_INT(p->state, COAR_PROCESS_GONE);
        } else if (!strcmp(p->host, "ahead")) {
            CHECK_INT(p->state, COAR_PROCESS_WORKS);
            CHECK(p->beat_seconds == 0 && p->rank == 1 && p->ranks == 2);
        } else {
            CHECK_INT(p->state, COAR_PROCESS_ENDED);
        }
    }
    CHECK_NEAR(stage->rate, 140, 1e-9);
    CHECK_NEAR(stage->seconds_left, 6, 1e-9); /* shard 1: 3 units at half a unit a second; shard 0: 1 at 2 */
    CHECK(stage->shards[0].processes == 1 && stage->shards[1].processes == 1 && stage->shards[2].processes == 0);
    coar_free(s);
}

static void test_damage(void) {
    test_begin("damaged journals and heartbeats are passed over");
    char buffer[512];
    const char *path = run_path(buffer, "damage.h5");
    const unit_grid grid = run_grid(0, MASKS);
    store_close(begun_run(path, &grid));
    run_write_text(run_file(path, "ablate-0.x-1-0.journal"), "COARJRNL, and no more");
    run_write_text(run_file(path, "ablate-0.x-1-0.alive"), "{\"host\":\"x\",\"pid\":1e300}");
    run_write_text(run_file(path, "ablate-0.y-1-0.alive"), "");
    CHECK(mkfifo(run_file(path, "ablate-0.z-1-0.alive"), 0600) == 0);
    coar_run_state *s = state_of(path);
    CHECK(s->stage_count == 1 && s->stages[0].done == 2 && s->stages[0].process_count == 1);
    coar_free(s);
    status_clear();
    CHECK_ERROR(coar_run_status(run_file(path, "none.h5"), &s), COAR_ERROR_IO, "no such file");
    CHECK_ERROR(coar_run_status(NULL, &s), COAR_ERROR_USAGE, "run file");
}

int main(void) {
    test_stages();
    test_processes();
    test_damage();
    return test_end();
}
