/* store_edits.c - edits in a run: written whole, read back equal, listed, replaced by force alone, gone with their fit; damaged
 * files. */
#include <hdf5.h>

#include "core/memory.h"
#include "runs.h"
#include "store/edits.h"
#include "test.h"

enum { K = 5, POINTS = 4, PAIRS = 3, TAKEN = 2 };

/* Bytes that depend on what they are of. */
static void *planted(size_t count, size_t size, uint8_t seed) {
    uint8_t *bytes = NULL;
    CHECK_OK(memory_new(count, size, "planted", &bytes));
    for (size_t i = 0; i < count * size; i++)
        bytes[i] = (uint8_t)(seed + 7 * i) & 0x3f; /* no number among them is NaN */
    return bytes;
}

static void plant_set(edit_examples *e, size_t count, uint8_t seed, bool groups) {
    *e = (edit_examples){.count = count, .shown = count > 2 ? 2 : 0};
    e->spec = strdup("class:3 & 0:9");
    e->data_path = strdup("../d.h5");
    snprintf(e->data_sha256, sizeof e->data_sha256, "%064d", seed);
    e->rows = planted(count, sizeof *e->rows, seed);
    e->labels = planted(count, sizeof *e->labels, seed + 1);
    if (groups) e->groups = planted(count, sizeof *e->groups, seed + 2);
    e->before = planted(count, sizeof *e->before, seed + 3);
    e->after = planted(count, sizeof *e->after, seed + 4);
    e->margin_before = planted(count, sizeof *e->margin_before, seed + 5);
    e->margin_after = planted(count, sizeof *e->margin_after, seed + 6);
    e->shown_at = planted(e->shown, sizeof *e->shown_at, 0);
    for (size_t i = 0; i < e->shown; i++) e->shown_at[i] = count - 1 - i;
    e->predicted_before = planted(e->shown, sizeof *e->predicted_before, seed + 7);
    e->predicted_after = planted(e->shown, sizeof *e->predicted_after, seed + 8);
    e->scores = planted(2 * EDIT_COLUMNS, sizeof *e->scores, seed + 9);
}

static edit_record plant(const char *name, const char *fit) {
    edit_record r = {.method = "tau",
                     .direction = "lower",
                     .output = "margin",
                     .components = RUN_COMPONENTS,
                     .max_k = 9,
                     .k = TAKEN,
                     .stopped = 6,
                     .select = 2.5,
                     .until = 90,
                     .harm_weight = .75,
                     .has_classes = true,
                     .order_count = K,
                     .points = POINTS,
                     .pairs = PAIRS,
                     .comparison_count = 2};
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.fit, sizeof r.fit, "%s", fit);
    r.command = strdup("coar edit ...");
    r.scores = planted(RUN_COMPONENTS, sizeof *r.scores, 1);
    r.order = planted(K, sizeof *r.order, 0);
    for (uint32_t i = 0; i < K; i++) r.order[i] = RUN_COMPONENTS - 1 - i;
    r.sweep_k = planted(POINTS, sizeof *r.sweep_k, 2);
    for (size_t i = 0; i < EDIT_SWEPT; i++)
        r.sweep[i] = planted(POINTS * EDIT_COLUMNS, sizeof(double), (uint8_t)(3 + i));
    r.pair_label = planted(PAIRS, sizeof *r.pair_label, 7);
    r.pair_group = planted(PAIRS, sizeof *r.pair_group, 8);
    r.pair_count = planted(2 * PAIRS, sizeof *r.pair_count, 9);
    r.pair_sweep = planted(POINTS * PAIRS, sizeof *r.pair_sweep, 10);
    r.pair_test = planted(2 * PAIRS, sizeof *r.pair_test, 11);
    for (size_t i = 0; i < EDIT_SETS - 1; i++) plant_set(&r.sets[i], 3 + i, (uint8_t)(12 + i), i % 2);
    CHECK_OK(memory_new(2, sizeof *r.comparisons, "planted", &r.comparisons));
    for (size_t i = 0; i < 2; i++) {
        snprintf(r.comparisons[i].method, sizeof r.comparisons[i].method, "method%zu", i);
        r.comparisons[i].values = planted(4 * 3, sizeof(double), (uint8_t)(20 + i));
        r.comparisons[i].order = planted(TAKEN, sizeof(uint32_t), 0);
        for (uint32_t k = 0; k < TAKEN; k++) r.comparisons[i].order[k] = k;
    }
    return r;
}

#define SAME(a, b, count) CHECK((a) && (b) && !memcmp((a), (b), (count) * sizeof *(a)))

static void check_set(const edit_examples *a, const edit_examples *b) {
    CHECK_INT(a->count, b->count);
    CHECK_INT(a->shown, b->shown);
    if (!a->count || a->count != b->count || a->shown != b->shown) return;
    CHECK_TEXT(a->spec, b->spec);
    CHECK_TEXT(a->data_path, b->data_path);
    CHECK_TEXT(a->data_sha256, b->data_sha256);
    SAME(a->rows, b->rows, a->count);
    SAME(a->labels, b->labels, a->count);
    CHECK_INT(a->groups != NULL, b->groups != NULL);
    if (a->groups && b->groups) SAME(a->groups, b->groups, a->count);
    SAME(a->before, b->before, a->count);
    SAME(a->after, b->after, a->count);
    SAME(a->margin_before, b->margin_before, a->count);
    SAME(a->margin_after, b->margin_after, a->count);
    SAME(a->shown_at, b->shown_at, a->shown);
    SAME(a->predicted_before, b->predicted_before, a->shown);
    SAME(a->predicted_after, b->predicted_after, a->shown);
    SAME(a->scores, b->scores, 2 * EDIT_COLUMNS);
}

static void check_record(const edit_record *a, const edit_record *b) {
    CHECK_TEXT(a->name, b->name);
    CHECK_TEXT(a->method, b->method);
    CHECK_TEXT(a->direction, b->direction);
    CHECK_TEXT(a->output, b->output);
    CHECK_TEXT(a->fit, b->fit);
    CHECK_TEXT(a->command, b->command);
    CHECK_INT(a->components, b->components);
    CHECK_INT(a->max_k, b->max_k);
    CHECK_INT(a->k, b->k);
    CHECK_INT(a->stopped, b->stopped);
    CHECK_NEAR(a->select, b->select, 0);
    CHECK_NEAR(a->until, b->until, 0);
    CHECK_NEAR(a->harm_weight, b->harm_weight, 0);
    CHECK_INT(a->has_classes, b->has_classes);
    SAME(a->scores, b->scores, RUN_COMPONENTS);
    SAME(a->order, b->order, K);
    SAME(a->sweep_k, b->sweep_k, POINTS);
    for (size_t i = 0; i < EDIT_SWEPT; i++) SAME(a->sweep[i], b->sweep[i], POINTS * EDIT_COLUMNS);
    SAME(a->pair_label, b->pair_label, PAIRS);
    SAME(a->pair_group, b->pair_group, PAIRS);
    SAME(a->pair_count, b->pair_count, 2 * PAIRS);
    SAME(a->pair_sweep, b->pair_sweep, POINTS * PAIRS);
    SAME(a->pair_test, b->pair_test, 2 * PAIRS);
    for (size_t i = 0; i < EDIT_SETS; i++) check_set(&a->sets[i], &b->sets[i]);
    CHECK_INT(a->comparison_count, b->comparison_count);
    for (size_t i = 0; i < a->comparison_count && a->comparison_count == b->comparison_count; i++) {
        CHECK_TEXT(a->comparisons[i].method, b->comparisons[i].method);
        SAME(a->comparisons[i].values, b->comparisons[i].values, 4 * 3);
        SAME(a->comparisons[i].order, b->comparisons[i].order, TAKEN);
    }
}

static run_store *new_run(const char *path) {
    run_store *store = run_new(path);
    CHECK_OK(run_ablate(store, 0, 32, 1));
    run_fit(store, "ridge", 1, false);
    run_fit(store, "eb", 2, false);
    return store;
}

static void check_round_trip(run_store *store) {
    edit_record planted_record = plant("first", "ridge"), back = {.k = 0};
    test_begin("an edit is read back as it was written");
    CHECK_OK(store_write_edit(store, &planted_record, false));
    CHECK_OK(store_read_edit(store, "first", &back));
    check_record(&back, &planted_record);
    edit_record_free(&back);
    test_begin("a language model's has neither margins nor pairs; k may be 0");
    snprintf(planted_record.name, sizeof planted_record.name, "second");
    planted_record.has_classes = false;
    planted_record.k = planted_record.stopped = 0;
    planted_record.pairs = 0;
    for (size_t i = 0; i < EDIT_SETS; i++) {
        free(planted_record.sets[i].margin_before);
        planted_record.sets[i].margin_before = NULL;
        planted_record.sets[i].shown = 0;
    }
    CHECK_OK(store_write_edit(store, &planted_record, false));
    CHECK_OK(store_read_edit(store, "second", &back));
    CHECK(!back.sets[0].margin_before && !back.sets[0].margin_after && !back.pair_label && !back.comparisons[0].order);
    SAME(back.sets[0].before, planted_record.sets[0].before, planted_record.sets[0].count);
    edit_record_free(&back);
    edit_record_free(&planted_record);
}

static void check_names(run_store *store) {
    edit_record r = plant("first", "eb");
    test_begin("a name that is taken, or none");
    CHECK_ERROR(store_write_edit(store, &r, false), COAR_ERROR_EXISTS, "edit 'first' exists already");
    status_clear();
    CHECK_ERROR(store_check_edit(store, "a/b", true), COAR_ERROR_USAGE, "--name 'a/b'");
    status_clear();
    edit_record none = {.k = 0};
    CHECK_ERROR(store_read_edit(store, "none", &none), COAR_ERROR_INPUT, "has no edit 'none'");
    status_clear();
    test_begin("force replaces it");
    CHECK_OK(store_write_edit(store, &r, true));
    edit_record_free(&r);
}

static void check_list(run_store *store) {
    edit_info *list = NULL;
    size_t count = 0;
    test_begin("edits in name order");
    CHECK_OK(store_list_edits(store, &list, &count));
    CHECK_INT(count, 2);
    if (count == 2) {
        CHECK_TEXT(list[0].name, "first");
        CHECK_TEXT(list[0].fit, "eb");
        CHECK_INT(list[0].k, TAKEN);
        CHECK_TEXT(list[1].name, "second");
        CHECK_TEXT(list[1].fit, "ridge");
    }
    free(list);
}

/* Another value of one attribute, or one array less, in the finished part. */
static void check_damaged(run_store *store, const char *group, const char *what, uint64_t value, const char *expected) {
    edit_record r = plant("bad", "eb"), back = {.k = 0};
    char path[512];
    snprintf(path, sizeof path, "%s", run_file(store_path(store), "edit-bad.h5"));
    CHECK_OK(store_write_edit(store, &r, true));
    const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), object = H5Gopen2(file, group, H5P_DEFAULT);
    if (H5Aexists(object, what) > 0) {
        const hid_t attribute = H5Aopen(object, what, H5P_DEFAULT);
        CHECK(H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0);
        H5Aclose(attribute);
    } else {
        CHECK(H5Ldelete(object, what, H5P_DEFAULT) >= 0);
    }
    H5Gclose(object);
    CHECK(H5Fclose(file) >= 0);
    status_clear();
    CHECK_ERROR(store_read_edit(store, "bad", &back), COAR_ERROR_INPUT, expected);
    status_clear();
    edit_record_free(&r);
}

static void check_all_damaged(run_store *store) {
    test_begin("damaged files are told, not believed");
    check_damaged(store, "/edits/bad", "k", 6, "'k' is more than the components in its order");
    check_damaged(store, "/edits/bad", "order_count", 4, "'/edits/bad/order' has the wrong shape");
    check_damaged(store, "/edits/bad", "order_count", 1000, "attribute 'order_count' is 1000: at most 13 is possible");
    check_damaged(store, "/edits/bad", "components", 12, "has the wrong shape");
    check_damaged(store, "/edits/bad", "components", (uint64_t)1 << 40, "at most 4294967295");
    check_damaged(store, "/edits/bad/sweep", "points", 3, "has the wrong shape");
    check_damaged(store, "/edits/bad/sweep", "pairs", 4000000000u, "has the wrong shape");
    check_damaged(store, "/edits/bad/target", "examples", (uint64_t)1 << 39, "has the wrong shape");
    check_damaged(store, "/edits/bad/target", "shown", 4, "at most 3 is possible");
    check_damaged(store, "/edits/bad/test", "after", 0, "'/edits/bad/test/after' is missing");
    check_damaged(store, "/edits/bad/comparison", "methods", 3, "/edits/bad/comparison/2");
    check_damaged(store, "/edits/bad", "scores", 0, "'/edits/bad/scores' is missing");
    edit_record r = plant("bad", "eb"), back = {.k = 0};
    r.order[3] = RUN_COMPONENTS;
    CHECK_OK(store_write_edit(store, &r, true));
    CHECK_ERROR(store_read_edit(store, "bad", &back), COAR_ERROR_INPUT,
                "'/edits/bad/order' holds 13: it must be below 13");
    status_clear();
    r.order[3] = 0;
    r.sets[1].shown_at[1] = r.sets[1].count;
    CHECK_OK(store_write_edit(store, &r, true));
    CHECK_ERROR(store_read_edit(store, "bad", &back), COAR_ERROR_INPUT, "names an example that is not there");
    status_clear();
    edit_record_free(&r);
}

static void check_replaced_fit(run_store *store) {
    edit_info *list = NULL;
    size_t count = 0;
    test_begin("a fit that is replaced takes its edits with it, and no others");
    run_fit(store, "eb", 3, true);
    CHECK_OK(store_list_edits(store, &list, &count));
    CHECK_INT(count, 1);
    if (count == 1) CHECK_TEXT(list[0].name, "second");
    free(list);
}

int main(void) {
    char path[512];
    run_store *store = new_run(run_path(path, "run.h5"));
    check_round_trip(store);
    check_names(store);
    check_list(store);
    check_all_damaged(store);
    check_replaced_fit(store);
    store_close(store);
    return test_end();
}
