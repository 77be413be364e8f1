/*
 * store_journal.c - what kills, damage and other processes do to work in progress: nothing that was saved is lost,
 * nothing that is damaged is used, and two processes never do the same work at once.
 */
#include "runs.h"
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"

enum { MASKS = 40 }; /* 3 mask blocks x 3 example blocks: 9 units, the last 8 x 5 */

/* The one file in the run's folder whose name ends so; static. */
static const char *only_file(const char *path, const char *suffix) {
    static char found[1200];
    char folder[600];
    int count = 0;
    snprintf(folder, sizeof folder, "%s.parts", path);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t length = strlen(e->d_name), after = strlen(suffix);
        if (length < after || strcmp(e->d_name + length - after, suffix)) continue;
        snprintf(found, sizeof found, "%s/%s", folder, e->d_name);
        count++;
    }
    if (d) closedir(d);
    CHECK_INT(count, 1);
    return found;
}

static uint8_t *read_whole(const char *path, size_t *size) {
    file_map map;
    uint8_t *bytes = NULL;
    CHECK_OK(file_map_open(path, &map));
    bytes = malloc(map.size + 1);
    memcpy(bytes, map.data, map.size);
    *size = map.size;
    file_map_close(&map);
    return bytes;
}

static void write_whole(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "w");
    CHECK(f && fwrite(bytes, 1, size, f) == size);
    if (f) fclose(f);
}

/* A run whose journal holds units 0 .. count - 1, closed; the journal's path in `journal`. */
static void interrupted_run(const char *path, const unit_grid *grid, uint64_t count, char journal[1200]) {
    store_stage *stage = NULL;
    run_store *store = run_new(path);
    CHECK_OK(run_open_stage(store, grid, 0, 1, false, &stage));
    for (uint64_t unit = 0; unit < count; unit++) CHECK_OK(run_unit(stage, grid, unit));
    stage_close(stage);
    store_close(store);
    snprintf(journal, 1200, "%s", only_file(path, ".journal"));
    run_warnings(NULL);
}

/* ------------------------------------------------------------------------------------------------- damage */

static void test_torn_tail(void) {
    test_begin("a journal cut at every byte of its last record loses that record alone");
    char path[512], journal[1200];
    snprintf(path, sizeof path, "%s", test_temporary("torn.h5"));
    const unit_grid grid = run_grid(0, 2); /* 3 units of 256, 256 and 80 bytes */
    interrupted_run(path, &grid, 3, journal);
    size_t size, last = 32 + unit_grid_payload(&grid, 2);
    uint8_t *bytes = read_whole(journal, &size);
    CHECK_INT(size, 64 + 3 * 32 + 256 + 256 + 80);
    run_store *store = NULL;
    CHECK_OK(store_open(path, &store));
    for (size_t cut = 0; cut <= last; cut++) {
        store_stage *stage = NULL;
        write_whole(journal, bytes, size - last + cut);
        CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
        if (!stage) break;
        CHECK_INT(stage_done_count(stage), cut == last ? 3 : 2);
        CHECK(stage_has(stage, 1) && stage_has(stage, 2) == (cut == last));
        stage_close(stage);
    }
    CHECK_INT(run_warnings(NULL), 0);
    write_whole(journal, bytes, size - last / 2);
    CHECK_OK(run_ablate(store, 0, 2, 3));
    CHECK_INT(run_wrong_outputs(store, 2), 0);
    store_close(store);
    free(bytes);
}

static void test_bit_flips(void) {
    test_begin("a flipped bit in any field costs one unit and gives a warning");
    char path[512], journal[1200];
    const char *warning;
    snprintf(path, sizeof path, "%s", test_temporary("flip.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    interrupted_run(path, &grid, 9, journal);
    size_t size, start = 64;
    uint8_t *bytes = read_whole(journal, &size);
    for (uint64_t unit = 0; unit < 4; unit++) start += 32 + unit_grid_payload(&grid, unit);
    /* magic, flag, padding, unit, length (low, high), payload's CRC, header's CRC, payload (first, last) */
    const size_t payload = unit_grid_payload(&grid, 4);
    const size_t places[] = {0, 4, 6, 8, 16, 23, 24, 28, 31, 32, 32 + payload - 1};
    run_store *store = NULL;
    CHECK_OK(store_open(path, &store));
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (int bit = 0; bit < 8; bit += 7) {
            store_stage *stage = NULL;
            bytes[start + places[i]] ^= (uint8_t)(1 << bit);
            write_whole(journal, bytes, size);
            bytes[start + places[i]] ^= (uint8_t)(1 << bit);
            run_warnings(NULL);
            CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
            if (!stage) return;
            CHECK_INT(stage_done_count(stage), 8);
            CHECK(!stage_has(stage, 4));
            CHECK_INT(run_warnings(&warning), 1);
            CHECK(strstr(warning, journal) && strstr(warning, "computed again"));
            stage_close(stage);
        }
    /* the file's own header: nothing of it is used */
    for (size_t at = 0; at < 64; at += 9) {
        store_stage *stage = NULL;
        bytes[at] ^= 2;
        write_whole(journal, bytes, size);
        bytes[at] ^= 2;
        CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
        if (!stage) return;
        CHECK_INT(stage_done_count(stage), 0);
        CHECK_INT(run_warnings(NULL), 1);
        stage_close(stage);
    }
    bytes[start + 40] ^= 64; /* damaged while the stage is open: reading it says so */
    write_whole(journal, bytes, size);
    CHECK_OK(run_ablate(store, 0, MASKS, 1));
    CHECK_INT(run_wrong_outputs(store, MASKS), 0);
    store_close(store);
    free(bytes);
}

static void test_read_back(void) {
    test_begin("payloads are read back as they were written, and checked again");
    char path[512], journal[1200];
    snprintf(path, sizeof path, "%s", test_temporary("back.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    interrupted_run(path, &grid, 9, journal);
    run_store *store = NULL;
    store_stage *stage = NULL;
    unit_mark mark = {0};
    float payload[RUN_OUTPUTS * 8 * 5];
    CHECK_OK(store_open(path, &store));
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    CHECK_INT(unit_grid_payload(&grid, 8), sizeof payload);
    CHECK_OK(stage_read(stage, 8, &mark, payload, sizeof payload));
    CHECK_INT(mark.flag, 1);
    CHECK_NEAR(payload[0], run_value(0, 32, 32), 0);
    CHECK_NEAR(payload[RUN_OUTPUTS * 8 * 5 - 1], run_value(1, 39, 36), 0);
    status_clear();
    CHECK_ERROR(stage_read(stage, 8, &mark, payload, sizeof payload - 4), COAR_ERROR_INTERNAL, "unit 8");
    status_clear();
    CHECK_ERROR(stage_append(stage, 9, (unit_mark){.flag = UNIT_DONE}, payload, sizeof payload), COAR_ERROR_INTERNAL,
                "unit 9");
    int file = open(journal, O_WRONLY);
    struct stat s;
    fstat(file, &s);
    CHECK(pwrite(file, "\xff", 1, s.st_size - 2) == 1);
    close(file);
    status_clear();
    CHECK_ERROR(stage_read(stage, 8, &mark, payload, sizeof payload), COAR_ERROR_INPUT, journal);
    stage_close(stage);
    store_close(store);
}

static void test_duplicates(void) {
    test_begin("a unit twice: equal records are one, different ones are an error naming both files");
    char path[512], journal[1200], copy[1300];
    snprintf(path, sizeof path, "%s", test_temporary("twice.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    interrupted_run(path, &grid, 4, journal);
    size_t size;
    uint8_t *bytes = read_whole(journal, &size);
    snprintf(copy, sizeof copy, "%s.parts/ablate-0.elsewhere-7-0.journal", path);
    write_whole(copy, bytes, size);
    run_store *store = NULL;
    store_stage *stage = NULL;
    CHECK_OK(store_open(path, &store));
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    CHECK_INT(stage_done_count(stage), 4);
    CHECK_OK(run_unit(stage, &grid, 2)); /* once more, in its own journal */
    CHECK_INT(stage_done_count(stage), 4);
    stage_close(stage);
    /* another value with the same CRC: CRC32C's own polynomial, added to five bytes */
    size_t start = 64 + 32 + unit_grid_payload(&grid, 0), length = unit_grid_payload(&grid, 1);
    const uint64_t polynomial = 1 | (uint64_t)0x82F63B78 << 1;
    uint32_t crc = crc32c(0, bytes + start + 32, length);
    for (int i = 0; i < 5; i++) bytes[start + 32 + i] ^= (uint8_t)(polynomial >> 8 * i);
    CHECK(crc32c(0, bytes + start + 32, length) == crc);
    write_whole(copy, bytes, size);
    stage = NULL;
    status_clear();
    CHECK_ERROR(run_open_stage(store, &grid, 0, 1, false, &stage), COAR_ERROR_INPUT, "unit 1");
    CHECK(strstr(coar_last_error(), "elsewhere-7-0") && !stage);
    store_close(store);
    free(bytes);
}

static void test_other_masks(void) {
    test_begin("units saved under another number of masks: those that fit are used");
    char path[512], journal[1200];
    snprintf(path, sizeof path, "%s", test_temporary("other.h5"));
    const unit_grid grid = run_grid(0, MASKS), larger = run_grid(0, 64);
    interrupted_run(path, &grid, 9, journal);
    run_store *store = NULL;
    store_stage *stage = NULL;
    CHECK_OK(store_open(path, &store));
    CHECK_OK(run_open_stage(store, &larger, 0, 1, false, &stage));
    CHECK_INT(stage_done_count(stage), 6); /* the last block had 8 masks, has 16 now */
    stage_close(stage);
    CHECK_OK(run_ablate(store, 0, 64, 2));
    CHECK_INT(run_wrong_outputs(store, 64), 0);
    store_close(store);
}

/* --------------------------------------------------------------------------------------------------- kills */

/* Runs `work` in a child and kills it after `microseconds`; true when it was killed before it ended by itself. */
static bool killed(void (*work)(const char *path), const char *path, unsigned microseconds) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        work(path);
        _exit(0);
    }
    usleep(microseconds);
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

static void work_on_run(const char *path) {
    run_store *store = NULL;
    store_stage *stage = NULL;
    run_tables tables;
    bool created;
    const unit_grid grid = run_grid(0, 400);
    if (run_create(path, "0.1", false, &created, &store) != COAR_OK) _exit(1);
    run_tables_fill(&tables);
    if (store_write_tables(store, &tables) != COAR_OK) _exit(1);
    run_tables_free(&tables);
    uint64_t finished;
    if (store_masks_finished(store, &finished) != COAR_OK) _exit(1);
    if (finished) goto done;
    if (run_open_stage(store, &grid, 0, 1, false, &stage) != COAR_OK) _exit(1);
    for (uint64_t unit = 0; unit < unit_grid_units(&grid); unit++)
        if (!stage_has(stage, unit) && run_unit(stage, &grid, unit) != COAR_OK) _exit(1);
    if (store_finish_outputs(store, stage, &grid, false, NULL) != COAR_OK) _exit(1);
    stage_close(stage);
done:
    store_close(store);
}

static void test_kills(void) {
    test_begin("kill -9 at random moments: the run opens, goes on, and ends with the same bytes");
    char path[512], whole[512], part[600], digest[65] = "", expected[65] = "";
    const char *name = "outputs-0-399.h5";
    run_store *store = NULL;
    snprintf(path, sizeof path, "%s", test_temporary("killed.h5"));
    snprintf(whole, sizeof whole, "%s", test_temporary("whole.h5"));
    double start = clock_seconds();
    work_on_run(whole);
    double took = clock_seconds() - start;
    uint32_t random = 12345;
    int kills = 0, rounds = getenv("TEST_REDUCED") ? 10 : 40;
    for (int i = 0; i < rounds; i++) {
        random = random * 1664525 + 1013904223;
        kills += killed(work_on_run, path, (unsigned)(random / 4294967296.0 * took / 3 * 1e6));
        snprintf(part, sizeof part, "%s.parts/manifest.json", path);
        if (!file_exists(part)) continue;
        status_clear();
        CHECK_OK(store_open(path, &store));
        store_close(store);
        store = NULL;
        char *text = NULL;
        CHECK_OK(coar_info(path, NULL, NULL, NULL, 1, &text));
        free(text);
        snprintf(part, sizeof part, "%s.parts/%s", path, name);
        if (file_exists(part) && i < rounds - 1) { /* begin again: other moments */
            bool created;
            CHECK_OK(run_create(path, "0.1", true, &created, &store));
            store_close(store);
            store = NULL;
        }
    }
    CHECK(kills > rounds / 4);
    work_on_run(path);
    snprintf(part, sizeof part, "%s.parts/%s", whole, name);
    CHECK_OK(file_sha256(part, expected));
    snprintf(part, sizeof part, "%s.parts/%s", path, name);
    CHECK_OK(file_sha256(part, digest));
    CHECK_TEXT(digest, expected);
    CHECK_OK(store_open(path, &store));
    CHECK_INT(run_wrong_outputs(store, 400), 0);
    store_close(store);
}

static void test_removal_interrupted(void) {
    test_begin("a kill between a part's rename and its journals' removal leaves journals that are never used again");
    char path[512], journal[1200], folder[600];
    snprintf(path, sizeof path, "%s", test_temporary("renamed.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    interrupted_run(path, &grid, 9, journal);
    size_t size;
    uint8_t *bytes = read_whole(journal, &size);
    run_store *store = NULL;
    CHECK_OK(store_open(path, &store));
    CHECK_OK(run_ablate(store, 0, MASKS, 0));
    CHECK(!file_exists(journal));
    write_whole(journal, bytes, size);
    snprintf(folder, sizeof folder, "%s", path);
    unlink(path); /* and the index was not there yet */
    store_close(store);
    CHECK_OK(store_open(path, &store));
    CHECK(file_exists(path));
    CHECK_OK(run_ablate(store, MASKS, 100, 5));
    CHECK(!file_exists(journal));
    CHECK_INT(run_wrong_outputs(store, 100), 0);
    store_close(store);
    free(bytes);
}

/* ------------------------------------------------------------------------------------------------ processes */

/* Opens the stage, says so through the pipe and waits to be killed. */
static pid_t start_worker(const char *path, const unit_grid *grid, uint32_t shard, uint32_t shards) {
    int ready[2];
    char byte;
    CHECK(pipe(ready) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        run_store *store = NULL;
        store_stage *stage = NULL;
        bool good = store_open(path, &store) == COAR_OK &&
                    run_open_stage(store, grid, shard, shards, false, &stage) == COAR_OK &&
                    run_unit(stage, grid, shard) == COAR_OK;
        if (write(ready[1], good ? "y" : "n", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1 && byte == 'y');
    close(ready[0]);
    return child;
}

static void test_two_processes(void) {
    test_begin("two live processes: refused on one shard, not on two; a killed one stands in nobody's way");
    char path[512], pid[32];
    snprintf(path, sizeof path, "%s", test_temporary("two.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    run_store *store = run_new(path);
    store_stage *stage = NULL;
    bool created;
    pid_t child = start_worker(path, &grid, 0, 2);
    snprintf(pid, sizeof pid, "process %ld on ", (long)child);
    status_clear();
    CHECK_ERROR(run_open_stage(store, &grid, 0, 2, false, &stage), COAR_ERROR_BUSY, pid);
    CHECK(strstr(coar_last_error(), "--force-resume") && strstr(coar_last_error(), path));
    status_clear();
    CHECK_ERROR(run_open_stage(store, &grid, 0, 1, false, &stage), COAR_ERROR_BUSY, pid); /* all units: overlaps */
    status_clear();
    CHECK_ERROR(run_open_stage(store, &grid, 1, 3, false, &stage), COAR_ERROR_BUSY, pid); /* another partition */
    run_store *other = NULL;
    status_clear();
    CHECK_ERROR(run_create(path, "0.2", true, &created, &other), COAR_ERROR_BUSY, pid); /* --force waits, too */
    CHECK_OK(run_open_stage(store, &grid, 1, 2, false, &stage));
    CHECK_OK(run_unit(stage, &grid, 1));
    stage_close(stage);
    CHECK_OK(run_open_stage(store, &grid, 0, 2, true, &stage)); /* --force-resume */
    CHECK_INT(stage_done_count(stage), 2);
    stage_close(stage);
    kill(child, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT); /* dead, but a zombie still */
    CHECK_OK(run_open_stage(store, &grid, 0, 2, false, &stage));
    CHECK_INT(stage_done_count(stage), 2);
    stage_close(stage);
    waitpid(child, NULL, 0);
    CHECK_OK(run_ablate(store, 0, MASKS, 9));
    CHECK_INT(run_wrong_outputs(store, MASKS), 0);
    store_close(store);
}

static void test_elsewhere(void) {
    test_begin("a process on another host lives while its heartbeat is younger than 60 s");
    char path[512], alive[600];
    snprintf(path, sizeof path, "%s", test_temporary("elsewhere.h5"));
    const char *text = "{\"host\":\"far away\",\"boot\":\"b\",\"pid\":4321,\"start\":\"77\",\"shard\":0,\"shards\":1}";
    const unit_grid grid = run_grid(0, MASKS);
    run_store *store = run_new(path);
    store_stage *stage = NULL;
    snprintf(alive, sizeof alive, "%s.parts/ablate-0.far_away-4321-0.alive", path);
    write_whole(alive, text, strlen(text));
    status_clear();
    CHECK_ERROR(run_open_stage(store, &grid, 0, 1, false, &stage), COAR_ERROR_BUSY, "process 4321 on far away");
    const struct timespec old[2] = {{time(NULL) - 70, 0}, {time(NULL) - 70, 0}};
    CHECK(utimensat(AT_FDCWD, alive, old, 0) == 0);
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    stage_close(stage);
    write_whole(alive, text, 20); /* killed while it wrote this */
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    stage_close(stage);
    store_close(store);
}

static void test_shards(void) {
    test_begin("shards: the last to finish writes the part; its bytes do not depend on who did what");
    char path[512], one[512], part[600], digest[65], expected[65];
    snprintf(path, sizeof path, "%s", test_temporary("shards.h5"));
    snprintf(one, sizeof one, "%s", test_temporary("one.h5"));
    const unit_grid grid = run_grid(0, 150);
    run_store *store = run_new(path), *other = NULL, *single = run_new(one);
    store_stage *a = NULL, *b = NULL;
    uint64_t finished = 1;
    CHECK_OK(store_open(path, &other));
    CHECK_OK(run_open_stage(store, &grid, 0, 2, false, &a));
    CHECK_OK(run_open_stage(other, &grid, 1, 2, false, &b));
    for (uint64_t unit = unit_grid_units(&grid); unit-- > 0;)
        if (unit % 2 == 0) CHECK_OK(run_unit(a, &grid, unit));
    CHECK_OK(store_finish_outputs(store, a, &grid, false, NULL)); /* nothing to do yet */
    CHECK_OK(store_masks_finished(store, &finished));
    CHECK_INT(finished, 0);
    for (uint64_t unit = 1; unit < unit_grid_units(&grid); unit += 2) CHECK_OK(run_unit(b, &grid, unit));
    CHECK_OK(store_finish_outputs(other, b, &grid, false, NULL));
    CHECK_OK(store_masks_finished(store, &finished));
    CHECK_INT(finished, 150);
    CHECK_OK(store_finish_outputs(store, a, &grid, false, NULL)); /* a second caller */
    stage_close(a);
    stage_close(b);
    CHECK_INT(run_wrong_outputs(store, 150), 0);
    CHECK_OK(run_ablate(single, 0, 150, 77));
    snprintf(part, sizeof part, "%s.parts/outputs-0-149.h5", path);
    CHECK_OK(file_sha256(part, digest));
    snprintf(part, sizeof part, "%s.parts/outputs-0-149.h5", one);
    CHECK_OK(file_sha256(part, expected));
    CHECK_TEXT(digest, expected);
    store_close(single);
    store_close(other);
    store_close(store);
}

static void test_full_disk(void) {
    test_begin("a full disk: the unit is refused, what was saved stays, and work goes on when there is room");
    char path[512];
    struct rlimit old, small;
    snprintf(path, sizeof path, "%s", test_temporary("full.h5"));
    const unit_grid grid = run_grid(0, MASKS);
    run_store *store = run_new(path);
    store_stage *stage = NULL;
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    CHECK_OK(run_unit(stage, &grid, 0));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 64 + 32 + unit_grid_payload(&grid, 0) + 100; /* inside the second record */
    setrlimit(RLIMIT_FSIZE, &small);
    status_clear();
    CHECK_ERROR(run_unit(stage, &grid, 1), COAR_ERROR_IO, "what was saved before is safe");
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_INT(stage_done_count(stage), 1);
    status_clear();
    CHECK_OK(run_unit(stage, &grid, 1));
    CHECK_OK(run_units(stage, &grid, 4));
    char part[600];
    snprintf(part, sizeof part, "%s.parts/outputs-0-%d.h5", path, MASKS - 1);
    for (small.rlim_cur = 0; small.rlim_cur < 9000; small.rlim_cur += 700) { /* full at every point of the part */
        setrlimit(RLIMIT_FSIZE, &small);
        status_clear();
        CHECK_ERROR(store_finish_outputs(store, stage, &grid, false, NULL), COAR_ERROR_IO, "File too large");
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK(!file_exists(part));
    }
    status_clear();
    CHECK_OK(store_finish_outputs(store, stage, &grid, false, NULL));
    CHECK(file_exists(part));
    stage_close(stage);
    CHECK_INT(run_wrong_outputs(store, MASKS), 0);
    store_close(store);
}

int main(void) {
    test_torn_tail();
    test_bit_flips();
    test_read_back();
    test_duplicates();
    test_other_masks();
    test_removal_interrupted();
    test_two_processes();
    test_elsewhere();
    test_shards();
    test_kills();
    test_full_disk();
    return test_end();
}
