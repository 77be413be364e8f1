/*
 * store.c - the run file as a whole: creation and refusal, hostile manifests, stages, tables, read-only folders,
 * describe.
 */
#include "runs.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/memory.h"

/* ------------------------------------------------------------------------------------------ create and open */

static void test_create(void) {
    test_begin("create, resume, and the setting that differs by name");
    char buffer[512];
    const char *path = run_path(buffer, "create.h5");
    run_store *store = NULL;
    bool created = false;
    CHECK_ERROR(store_open(path, &store), COAR_ERROR_IO, "no such file");
    status_clear();
    CHECK_OK(run_create(path, "0.1", false, &created, &store));
    CHECK(created && file_exists(path));
    CHECK_TEXT(store_setting(store, "sampler"), "bernoulli");
    CHECK(!store_setting(store, "nothing"));
    store_close(store);
    CHECK_OK(run_create(path, ".10", false, &created, &store)); /* the same number */
    CHECK(!created);
    store_close(store);
    store = NULL;
    CHECK_ERROR(run_create(path, "0.05", false, &created, &store), COAR_ERROR_MISMATCH, "--alpha");
    CHECK(strstr(coar_last_error(), "0.05") && strstr(coar_last_error(), "0.1") && strstr(coar_last_error(), path));
    status_clear();
    const setting more[] = {{"seed", "--seed", "18446744073709551615", SETTING_INTEGER, true},
                            {"alpha", "--alpha", "0.1", SETTING_REAL, true}};
    CHECK_ERROR(store_create(path, more, 2, false, &created, &store), COAR_ERROR_MISMATCH, "--sampler");
    CHECK(!store);
    status_clear();
    run_write_text(run_file(path, "fit-old.h5"), "of the old run");
    CHECK_OK(run_create(path, "0.05", true, &created, &store)); /* --force */
    CHECK(created && !file_exists(run_file(path, "fit-old.h5")));
    store_close(store);
    hid_t file;
    uint64_t seed = 0;
    double alpha = 0;
    CHECK_OK(h5_open(path, &file));
    CHECK_OK(h5_read_unsigned(file, path, "seed", &seed)); /* above 2^53: JSON's numbers would have lost it */
    CHECK(seed == UINT64_MAX);
    CHECK_OK(h5_read_real(file, path, "alpha", &alpha));
    CHECK_NEAR(alpha, 0.05, 0);
    CHECK_OK(h5_check_format(file, path, "coar.run", 1));
    h5_close(&file);
}

static void test_foreign(void) {
    test_begin("what is there and is no run is left alone without force");
    char buffer[512], parts[600];
    const char *path = run_path(buffer, "foreign.h5");
    run_store *store = NULL;
    bool created;
    run_write_text(path, "my thesis\n");
    CHECK_ERROR(run_create(path, "0.1", false, &created, &store), COAR_ERROR_EXISTS, path);
    status_clear();
    snprintf(parts, sizeof parts, "%s.parts", path);
    CHECK(!file_exists(parts));
    CHECK_ERROR(store_open(path, &store), COAR_ERROR_EXISTS, path);
    status_clear();
    CHECK_OK(run_create(path, "0.1", true, &created, &store));
    store_close(store);
    run_write_text(path, "my thesis\n"); /* over the index of a run: still not coar's to replace */
    CHECK_ERROR(run_create(path, "0.1", false, &created, &store), COAR_ERROR_EXISTS, path);
    status_clear();
    unlink(path);
    CHECK_OK(store_open(path, &store)); /* rebuilt */
    CHECK(file_exists(path));
    store_close(store);

    path = run_path(buffer, "folder.h5");
    mkdir(path, 0777);
    CHECK_ERROR(run_create(path, "0.1", true, &created, &store), COAR_ERROR_USAGE, "is a folder");
    status_clear();
    path = run_path(buffer, "no/such/folder.h5");
    CHECK_ERROR(run_create(path, "0.1", false, &created, &store), COAR_ERROR_IO, path);
    status_clear();
    path = run_path(buffer, "deep.h5");
    snprintf(parts, sizeof parts, "%s.parts/sub", path);
    mkdir(run_file(path, ""), 0777);
    mkdir(parts, 0777);
    CHECK_ERROR(run_create(path, "0.1", true, &created, &store), COAR_ERROR_EXISTS, "holds sub"); /* not ours */
    CHECK(strstr(coar_last_error(), path) != NULL);
    status_clear();
}

static void test_half_created(void) {
    test_begin("killed between mkdir and link: the next process goes on; a folder that lost its manifest does not");
    char buffer[512];
    const char *path = run_path(buffer, "half.h5");
    run_store *store = NULL;
    bool created = false;
    mkdir(run_file(path, ""), 0777);
    run_write_text(run_file(path, "lock"), "");
    run_write_text(run_file(path, "manifest.json.tmp.host-1"), "{\"for");
    CHECK_OK(run_create(path, "0.1", false, &created, &store));
    CHECK(created);
    store_close(store);
    store = NULL;
    unlink(run_file(path, "manifest.json"));
    unlink(path);
    run_write_text(run_file(path, "ablate-0.json"), "{}");
    CHECK_ERROR(run_create(path, "0.1", false, &created, &store), COAR_ERROR_EXISTS, "ablate-0.json");
    status_clear();
    CHECK_ERROR(store_open(path, &store), COAR_ERROR_IO, path);
    status_clear();
}

static void test_manifests(void) {
    test_begin("a manifest cut at any byte, and hostile ones, are clean errors");
    static const char *const hostile[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"format\":1}",
        "{\"format\":\"coar.manifest\"}",
        "{\"format\":\"coar.manifest\",\"version_major\":2,\"settings\":[]}",
        "{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":{}}",
        "{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":[1]}",
        "{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":[{\"key\":\"a\",\"flag\":\"b\",\"value\":3,"
        "\"type\":"
        "\"text\",\"compared\":true}]}",
        "{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":[{\"key\":\"a\",\"flag\":\"b\",\"value\":\"3\","
        "\"type\":"
        "\"blob\",\"compared\":true}]}",
        "{\"format\":\"coar.manifest\",\"version_major\":1,\"settings\":[{\"key\":\"\",\"flag\":\"b\",\"value\":\"3\","
        "\"type\":"
        "\"text\",\"compared\":true}]}",
    };
    char buffer[512];
    const char *path = run_path(buffer, "manifest.h5"), *manifest;
    run_store *store = run_new(path);
    store_close(store);
    store = NULL;
    manifest = run_file(path, "manifest.json");
    file_map map;
    CHECK_OK(file_map_open(manifest, &map));
    size_t size = map.size;
    char *text = strndup((const char *)map.data, size);
    file_map_close(&map);
    for (size_t cut = 0; cut + 2 < size; cut += 3) {
        CHECK_OK(file_write(manifest, text, cut));
        CHECK_ERROR(store_open(path, &store), COAR_ERROR_INPUT, "manifest.json");
        status_clear();
    }
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        run_write_text(manifest, hostile[i]);
        CHECK_ERROR(store_open(path, &store), COAR_ERROR_INPUT, "manifest.json");
        status_clear();
    }
    char *deep = malloc(200001);
    memset(deep, '[', 200000);
    deep[200000] = '\0';
    run_write_text(manifest, deep);
    free(deep);
    CHECK_ERROR(store_open(path, &store), COAR_ERROR_INPUT, "manifest.json");
    status_clear();
    CHECK(truncate(manifest, 17 << 20) == 0);
    CHECK_ERROR(store_open(path, &store), COAR_ERROR_INPUT, "too large");
    status_clear();
    CHECK_OK(file_write(manifest, text, size));
    CHECK_OK(store_open(path, &store));
    store_close(store);
    free(text);
}

static void test_stage_settings(void) {
    test_begin("a stage with another plan or setting is refused");
    char buffer[512], *plan = NULL;
    const char *path = run_path(buffer, "stage.h5");
    run_store *store = run_new(path);
    const unit_grid grid = run_grid(0, 40);
    store_stage *stage = NULL;
    CHECK_OK(store_existing_plan(path, &plan));
    CHECK(!plan);
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    stage_close(stage);
    CHECK_OK(store_existing_plan(path, &plan));
    CHECK_TEXT(plan, "{\"plan\":1}");
    free(plan);
    const setting settings[] = {{"plan_hash", "--plan", "xyz", SETTING_TEXT, true}};
    stage_options options = {.name = "ablate-0",
                             .settings = settings,
                             .setting_count = 1,
                             .plan_json = "{\"plan\":1}",
                             .units = 1,
                             .payload_bytes = unit_grid_payload,
                             .context = &grid,
                             .shards = 1};
    stage = NULL;
    CHECK_ERROR(stage_open(store, &options, &stage), COAR_ERROR_MISMATCH, "--plan (plan_hash) is xyz");
    status_clear();
    options.setting_count = 0;
    CHECK_ERROR(stage_open(store, &options, &stage), COAR_ERROR_MISMATCH, "plan_hash");
    status_clear();
    const setting same[] = {{"plan_hash", "--plan", "abc", SETTING_TEXT, true}};
    options.settings = same;
    options.setting_count = 1;
    options.plan_json = "{\"plan\":2}";
    CHECK_ERROR(stage_open(store, &options, &stage), COAR_ERROR_MISMATCH, "numerics plan");
    status_clear();
    options.name = "../ablate-0";
    CHECK_ERROR(stage_open(store, &options, &stage), COAR_ERROR_USAGE, "stage");
    status_clear();
    run_write_text(run_file(path, "ablate-0.json"), "{\"format\":\"coar.stage\"");
    CHECK_ERROR(run_open_stage(store, &grid, 0, 1, false, &stage), COAR_ERROR_INPUT, "ablate-0.json");
    CHECK(!stage);
    status_clear();
    store_close(store);
}

static void test_read_only(void) {
    test_begin("a read-only folder: nothing is created; a finished run can be read");
    char buffer[512], folder[512];
    const char *path;
    run_store *store = NULL;
    bool created;
    run_path(folder, "read-only");
    mkdir(folder, 0777);
    path = run_path(buffer, "read-only/run.h5");
    store = run_new(path);
    CHECK_OK(run_ablate(store, 0, 40, 1));
    store_close(store);
    store = NULL;
    char temporary[512];
    snprintf(temporary, sizeof temporary, "%s", test_temporary(""));
    chmod(temporary, 0755);
    chmod(run_file(path, ""), 0555);
    chmod(folder, 0555);
    bool root = geteuid() == 0; /* nothing is read-only to root */
    if (root && seteuid(65534)) root = false;
    CHECK_OK(store_open(path, &store));
    CHECK_INT(run_wrong_outputs(store, 40), 0);
    CHECK_ERROR(run_ablate(store, 40, 60, 0), COAR_ERROR_IO, path);
    store_close(store);
    store = NULL;
    status_clear();
    CHECK_ERROR(run_create(run_path(buffer, "read-only/new.h5"), "0.1", false, &created, &store), COAR_ERROR_IO,
                folder);
    status_clear();
    if (root && seteuid(0)) CHECK(false);
    chmod(folder, 0755);
    chmod(run_file(run_path(buffer, "read-only/run.h5"), ""), 0755);
}

/* -------------------------------------------------------------------------------------------------- tables */

static void test_tables(void) {
    test_begin("tables come back as they were; a second writer must agree");
    char buffer[512];
    run_store *store = NULL;
    run_tables a, b;
    bool created, present = true;
    CHECK_OK(run_create(run_path(buffer, "tables.h5"), "0.1", false, &created, &store));
    CHECK_OK(store_read_tables(store, &b, &present));
    CHECK(!present);
    CHECK_ERROR(store_read_tables(store, &b, NULL), COAR_ERROR_INPUT, "coar ablate");
    status_clear();
    run_tables_fill(&a);
    uint8_t given[3 * 2] = {1, 2, 3, 4, 5, 6};
    a.given_masks = given;
    a.given_count = 3;
    CHECK_OK(store_write_tables(store, &a));
    CHECK_OK(store_write_tables(store, &a));
    CHECK_OK(store_read_tables(store, &b, &present));
    CHECK(present && b.components == a.components && b.examples == a.examples && b.group_count == 2 &&
          b.output_count == 2);
    CHECK_TEXT(b.groups[1].layer, "layer2");
    CHECK_INT(b.groups[1].first, 8);
    CHECK_TEXT(b.output_names[1], "loss");
    CHECK(!memcmp(a.baseline, b.baseline, RUN_OUTPUTS * RUN_EXAMPLES * sizeof(float)));
    CHECK(!memcmp(a.subgroups, b.subgroups, RUN_EXAMPLES * sizeof(int32_t)) && b.example_rows[36] == 109);
    CHECK(b.given_count == 3 && !memcmp(b.given_masks, given, sizeof given) && b.fill_count == 5);
    run_tables_free(&b);
    a.baseline[7] += 1;
    CHECK_ERROR(store_write_tables(store, &a), COAR_ERROR_MISMATCH, "/baseline");
    status_clear();
    a.baseline[7] -= 1;
    a.labels[0] = 9;
    CHECK_ERROR(store_write_tables(store, &a), COAR_ERROR_MISMATCH, "/examples/label");
    status_clear();
    snprintf(a.output_names[0], sizeof a.output_names[0], "done");
    CHECK_ERROR(store_write_tables(store, &a), COAR_ERROR_USAGE, "done");
    status_clear();
    a.given_masks = NULL;
    run_tables_free(&a);
    store_close(store);
}

static void test_describe(void) {
    test_begin("describe: a run at work, finished, merged");
    char buffer[512], merged[512], *text = NULL;
    const char *path = run_path(buffer, "describe.h5");
    run_store *store = run_new(path);
    const unit_grid grid = run_grid(0, 40);
    store_stage *stage = NULL;
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    CHECK_OK(run_unit(stage, &grid, 5));
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 0, &text));
    CHECK(strstr(text, "1 of 9 work units in journals, 1 live processes") && strstr(text, "18446744073709551615"));
    free(text);
    CHECK_OK(run_units(stage, &grid, 1));
    CHECK_OK(store_finish_outputs(store, stage, &grid, false, NULL));
    stage_close(stage);
    run_fit(store, "ridge", 1, false);
    store_close(store);
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 0, &text));
    CHECK(strstr(text, "masks finished     40") && strstr(text, "fit ridge: ridge of margin over 40 masks"));
    free(text);
    CHECK_OK(run_merge(path, run_path(merged, "described.h5"), 0, NULL));
    CHECK_OK(coar_info(merged, NULL, NULL, NULL, 1, &text));
    CHECK(strstr(text, "\"merged\":true") && strstr(text, "layer2.conv") && strstr(text, "\"masks\":40"));
    free(text);
    CHECK_OK(store_plan_file(merged, &text));
    CHECK_TEXT(text, "{\"plan\":1}");
    free(text);
    run_write_text(merged, "{\"plan\":3}");
    CHECK_OK(store_plan_file(merged, &text));
    CHECK_TEXT(text, "{\"plan\":3}");
    free(text);
    CHECK_ERROR(coar_info(merged, NULL, NULL, NULL, 1, &text), COAR_ERROR_INPUT, merged);
    status_clear();
}

int main(void) {
    test_create();
    test_foreign();
    test_half_created();
    test_manifests();
    test_stage_settings();
    test_read_only();
    test_tables();
    test_describe();
    return test_end();
}
