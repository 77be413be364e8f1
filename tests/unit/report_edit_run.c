/* report_edit_run.c - what a report gathers of edits that were planted in a run file, and the errors. */
#include <unistd.h>

#include "core/files.h"
#include "data/dataset.h"
#include "report/gather.h"
#include "runs.h"
#include "store/edits.h"
#include "test.h"

enum { SIDE = 5, ROWS = 150, CLASSES = 3, K = 6, POINTS = 9, PAIRS = 70, SHOWN = 8, TARGETS = 10, OTHERS = 20 };

/* Components of the run's groups 0 .. 7 and 8 .. 12, in the order in which the edit takes them. */
static const uint32_t order[] = {9, 0, 12, 7, 8, 3, 1, 2};
enum { ORDER = sizeof order / sizeof *order };

static uint8_t pixel_of(uint32_t salt, uint64_t row, uint32_t k) {
    return (uint8_t)(row * 31 + k * 7 + salt);
}

static void make_data(const char *path, uint32_t salt, char *first_class) {
    char *names[CLASSES] = {first_class, "dog", "bird"};
    enum { PIXELS = SIDE * SIDE };
    int32_t labels[ROWS];
    static uint8_t images[ROWS * PIXELS];
    for (uint32_t r = 0; r < ROWS; r++) {
        labels[r] = (int32_t)(r % CLASSES);
        for (uint32_t k = 0; k < PIXELS; k++) images[r * PIXELS + k] = pixel_of(salt, r, k);
    }
    dataset_description description = {.count = ROWS,
                                       .height = SIDE,
                                       .width = SIDE,
                                       .channels = 1,
                                       .class_names = names,
                                       .classes = CLASSES,
                                       .labels = labels,
                                       .source = "test",
                                       .command = "test"};
    dataset_writer *writer = NULL;
    CHECK_OK(dataset_writer_create(path, &description, &writer));
    CHECK_OK(dataset_writer_append(writer, images, ROWS));
    CHECK_OK(dataset_writer_finish(writer));
    dataset_writer_destroy(writer);
}

/* --------------------------------------------------------------------------------------------- a planted edit */

static double sweep_of(size_t set, size_t score, size_t point) {
    return (double)set + (double)score / 8 + (double)point / 128;
}

/* Pair p has accuracy (p * 37 mod 70) / 70 on test after the edit: all different. */
static double pair_of(size_t p) {
    return (double)(p * 37 % PAIRS) / PAIRS;
}

static void *zeros(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) exit(2);
    return memory;
}

static void plant_set(edit_examples *x, size_t set, size_t count, size_t shown, const char *data, const char *run) {
    static const char *const specs[EDIT_SETS] = {"class:cat", "rest", "@v.npy", "@t.npy", ""};
    *x = (edit_examples){.count = count, .shown = shown, .spec = strdup(specs[set])};
    x->data_path = path_relative(data, run);
    CHECK_OK(file_sha256(data, x->data_sha256));
    x->rows = zeros(count, sizeof *x->rows);
    x->labels = zeros(count, sizeof *x->labels);
    x->before = zeros(count, sizeof *x->before);
    x->after = zeros(count, sizeof *x->after);
    x->margin_before = zeros(count, sizeof *x->margin_before);
    x->margin_after = zeros(count, sizeof *x->margin_after);
    for (size_t i = 0; i < count; i++) {
        x->rows[i] = 3 * i + set;
        x->labels[i] = (int32_t)(i % CLASSES);
        x->margin_before[i] = (float)i - 4;
        x->margin_after[i] = (float)i + (float)set;
    }
    x->shown_at = zeros(shown, sizeof *x->shown_at);
    x->predicted_before = zeros(shown, sizeof *x->predicted_before);
    x->predicted_after = zeros(shown, sizeof *x->predicted_after);
    for (size_t i = 0; i < shown; i++) {
        x->shown_at[i] = count - 1 - i;
        x->predicted_before[i] = (int32_t)((i + 1) % CLASSES);
        x->predicted_after[i] = 7; /* a class without a name */
    }
    x->scores = zeros(2 * EDIT_COLUMNS, sizeof *x->scores);
    for (size_t i = 0; i < 2 * EDIT_COLUMNS; i++) x->scores[i] = (double)set + (double)i / 16;
}

static void plant_sweep(edit_record *r) {
    r->points = POINTS;
    r->sweep_k = zeros(POINTS, sizeof *r->sweep_k);
    for (uint32_t i = 0; i < POINTS; i++) r->sweep_k[i] = i;
    for (size_t set = 0; set < EDIT_SWEPT; set++) {
        r->sweep[set] = zeros(POINTS * EDIT_COLUMNS, sizeof *r->sweep[set]);
        for (size_t i = 0; i < POINTS * EDIT_COLUMNS; i++)
            r->sweep[set][i] = sweep_of(set, i % EDIT_COLUMNS, i / EDIT_COLUMNS);
    }
}

static void plant_pairs(edit_record *r) {
    r->pairs = PAIRS;
    r->pair_label = zeros(PAIRS, sizeof *r->pair_label);
    r->pair_group = zeros(PAIRS, sizeof *r->pair_group);
    r->pair_count = zeros(2 * PAIRS, sizeof *r->pair_count);
    r->pair_sweep = zeros(POINTS * PAIRS, sizeof *r->pair_sweep);
    r->pair_test = zeros(2 * PAIRS, sizeof *r->pair_test);
    for (size_t p = 0; p < PAIRS; p++) {
        r->pair_label[p] = (int32_t)p;
        r->pair_group[p] = (int32_t)(p % 2);
        r->pair_count[p] = 5 + p;
        r->pair_count[PAIRS + p] = 500 + p;
        r->pair_test[p] = .25;
        r->pair_test[PAIRS + p] = pair_of(p);
    }
    for (size_t i = 0; i < POINTS * PAIRS; i++) r->pair_sweep[i] = (double)(i / PAIRS) / 10;
}

static void plant_choices(edit_record *r) {
    static const char *const methods[] = {"tau", "random"};
    r->comparison_count = 2;
    r->comparisons = zeros(2, sizeof *r->comparisons);
    for (size_t i = 0; i < 2; i++) {
        edit_comparison *c = &r->comparisons[i];
        snprintf(c->method, sizeof c->method, "%s", methods[i]);
        c->values = zeros(REPORT_FIGURES * 3, sizeof *c->values);
        c->order = zeros(K, sizeof *c->order);
        for (size_t v = 0; v < REPORT_FIGURES * 3; v++) c->values[v] = (double)(100 * i + v);
    }
}

/* `target_data`: where the target's examples come from; the other sets are of `data`. */
static edit_record plant(const char *name, const char *run, const char *data, const char *target_data) {
    edit_record r = {.components = RUN_COMPONENTS,
                     .max_k = ORDER,
                     .k = K,
                     .stopped = 0,
                     .select = 1.5,
                     .until = NAN,
                     .harm_weight = 2,
                     .has_classes = true,
                     .order_count = ORDER,
                     .command = strdup("coar edit")};
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.method, sizeof r.method, "tau");
    snprintf(r.direction, sizeof r.direction, "lower");
    snprintf(r.output, sizeof r.output, "margin");
    snprintf(r.fit, sizeof r.fit, "ridge");
    r.scores = zeros(RUN_COMPONENTS, sizeof *r.scores);
    for (uint32_t j = 0; j < RUN_COMPONENTS; j++) r.scores[j] = j / 4.;
    r.order = zeros(ORDER, sizeof *r.order);
    memcpy(r.order, order, sizeof order);
    plant_sweep(&r);
    plant_pairs(&r);
    plant_choices(&r);
    for (size_t set = 0; set < EDIT_SETS; set++)
        plant_set(&r.sets[set], set,
                  set == 0   ? TARGETS
                  : set == 4 ? 0
                             : OTHERS,
                  set == 0 || set == 3 ? SHOWN : 0, set == 0 ? target_data : data, run);
    return r;
}

/* ----------------------------------------------------------------------------------------------------- fixture */

typedef struct fixture {
    char run[512], data[512], other[512];
    report_source source;
    report_data gathered;
    int warnings;
    char warning[512];
} fixture;

static void hear(void *user, coar_log_level level, const char *line) {
    fixture *f = user;
    f->warnings += level == COAR_LOG_WARNING;
    snprintf(f->warning, sizeof f->warning, "%s", line);
}

static void write_edit(fixture *f, const char *name, bool spoil_order) {
    edit_record r = plant(name, f->run, f->data, f->other);
    if (spoil_order) r.order[2] = 1000;
    CHECK_OK(store_write_edit(f->source.store, &r, true));
    edit_record_free(&r);
}

static coar_status gather(fixture *f) {
    const coar_callbacks callbacks = {.log = hear, .user = f};
    report_data_free(&f->gathered);
    f->warnings = 0;
    status_clear();
    return report_edits(&f->source, &callbacks, &f->gathered);
}

static void open_fixture(fixture *f) {
    *f = (fixture){.source.featured = -1};
    run_path(f->run, "edited.h5");
    run_path(f->data, "data.h5");
    run_path(f->other, "triggered.h5");
    make_data(f->data, 0, "cat");
    make_data(f->other, 100, "cat & trigger");
    f->source.store = run_new(f->run);
    CHECK_OK(store_read_tables(f->source.store, &f->source.tables, NULL));
    CHECK_OK(dataset_open(f->data, &f->source.data));
    CHECK_OK(dataset_hash(f->source.data));
}

/* ------------------------------------------------------------------------------------------------------- tests */

static void check_figures(const report_edit *e) {
    test_begin("what was done, the sweep, before and after, other choices");
    CHECK_TEXT(e->name, "one");
    CHECK_TEXT(e->method, "tau");
    CHECK_TEXT(e->fit, "ridge");
    CHECK_INT(e->given, 0);
    CHECK_INT(isnan(e->until), 1);
    CHECK_NEAR(e->harm_weight, 2, 0);
    CHECK(!e->raise && e->has_classes);
    CHECK_INT(e->k, K);
    CHECK_INT(e->max_k, ORDER);
    CHECK_NEAR(e->select, 1.5, 0);
    CHECK_INT(e->points, POINTS);
    for (size_t p = 0; p < e->points; p++) {
        CHECK_NEAR(e->ablated[p], (double)p, 0);
        for (size_t set = 0; set < EDIT_SWEPT; set++)
            for (size_t s = 0; s < EDIT_COLUMNS; s++) CHECK_NEAR(e->sweep[set][s][p], sweep_of(set, s, p), 0);
    }
    for (size_t set = 0; set < 4; set++) {
        CHECK_INT(e->sets[set].examples, set ? OTHERS : TARGETS);
        CHECK_NEAR(e->sets[set].before[REPORT_WORST], (double)set + 2 / 16., 0);
        CHECK_NEAR(e->sets[set].after[REPORT_ACCURACY], (double)set + 5 / 16., 0);
    }
    CHECK_INT(e->sets[REPORT_FRESH].examples, 0);
    CHECK_TEXT(e->sets[0].spec, "class:cat");
    CHECK_INT(e->choice_count, 2);
    CHECK_TEXT(e->choices[1].method, "random");
    CHECK_NEAR(e->choices[1].figure[REPORT_TEST_LOSS][1], 107, 0);
}

static void check_components(const report_edit *e) {
    test_begin("ablated components by group, and by name in their order");
    CHECK_INT(e->group_count, 2);
    CHECK_INT(e->groups[0].edited, 3); /* 0, 7, 3 */
    CHECK_INT(e->groups[1].edited, 3); /* 9, 12, 8 */
    CHECK_INT(e->groups[1].count, RUN_COMPONENTS - 8);
    CHECK_INT(e->listed_count, K);
    CHECK_TEXT(e->listed[0].group, "layer2.conv");
    CHECK_INT(e->listed[0].index, 1);
    CHECK_NEAR(e->listed[0].score, 9 / 4., 0);
    CHECK_TEXT(e->listed[3].group, "layer1.conv");
    CHECK_INT(e->listed[3].index, 7);
}

static void check_pairs(const report_edit *e) {
    test_begin("of many pairs the ones with the lowest accuracy on test, in their order");
    CHECK(e->has_groups);
    CHECK_INT(e->pair_count, REPORT_EDIT_PAIRS);
    CHECK_INT(e->pairs_hidden, PAIRS - REPORT_EDIT_PAIRS);
    for (size_t p = 0, shown = 0; p < PAIRS; p++) {
        if (pair_of(p) >= (double)REPORT_EDIT_PAIRS / PAIRS) continue;
        const report_edit_pair *pair = &e->pairs[shown++];
        CHECK_INT(pair->examples[0], 5 + p);
        CHECK_INT(pair->examples[1], 500 + p);
        CHECK_NEAR(pair->before[0], 0, 0);
        CHECK_NEAR(pair->after[0], K / 10., 0); /* at the point that was taken */
        CHECK_NEAR(pair->before[1], .25, 0);
        CHECK_NEAR(pair->after[1], pair_of(p), 0);
    }
    CHECK_TEXT(e->pairs[1].label, "dog");
    CHECK_TEXT(e->pairs[1].group, "group 1");
}

static size_t wrong_pixels(const report_edit_example *x, uint32_t salt) {
    size_t wrong = 0;
    for (uint32_t k = 0; x->picture.pixels && k < SIDE * SIDE; k++)
        wrong += x->picture.pixels[k] != pixel_of(salt, x->row, k);
    return x->picture.pixels ? wrong : SIDE * SIDE;
}

static void check_examples(const report_edit *e) {
    test_begin("examples with predictions, margins, and pictures of their own data files");
    CHECK_INT(e->example_count[0], REPORT_EDIT_EXAMPLES);
    CHECK_INT(e->example_count[1], 0);
    CHECK_INT(e->example_count[3], REPORT_EDIT_EXAMPLES);
    for (size_t i = 0; i < REPORT_EDIT_EXAMPLES; i++) {
        const report_edit_example *target = &e->examples[0][i], *test = &e->examples[3][i];
        CHECK_INT(target->row, 3 * (TARGETS - 1 - i));
        CHECK_NEAR(target->margin_before, (double)(TARGETS - 1 - i) - 4, 0);
        CHECK_NEAR(test->margin_after, (double)(OTHERS - 1 - i) + 3, 0);
        CHECK_INT(wrong_pixels(target, 100), 0);
        CHECK_INT(wrong_pixels(test, 0), 0);
        CHECK_INT(target->picture.channels, 1);
    }
    CHECK_TEXT(e->examples[0][0].label, "cat & trigger");
    CHECK_TEXT(e->examples[0][0].before, "dog");
    CHECK_TEXT(e->examples[0][0].after, "class 7");
    CHECK_TEXT(e->examples[3][1].label, "cat");
}

static void test_gathered(fixture *f) {
    test_begin("all edits of a run, in name order");
    write_edit(f, "two", false);
    write_edit(f, "one", false);
    CHECK_OK(gather(f));
    CHECK_INT(f->gathered.edit_count, 2);
    CHECK_INT(f->warnings, 0);
    if (f->gathered.edit_count != 2) return;
    CHECK_TEXT(f->gathered.edits[1].name, "two");
    const report_edit *e = &f->gathered.edits[0];
    check_figures(e);
    check_components(e);
    check_pairs(e);
    check_examples(e);
}

static void test_many(fixture *f) {
    test_begin("more edits than the page has room for are counted");
    for (int i = 0; i < REPORT_EDITS; i++) {
        char name[16];
        snprintf(name, sizeof name, "z%02d", i);
        write_edit(f, name, false);
    }
    CHECK_OK(gather(f));
    CHECK_INT(f->gathered.edit_count, REPORT_EDITS);
    CHECK_INT(f->gathered.edits_hidden, 2);
}

static void test_data_gone(fixture *f) {
    test_begin("examples whose data file changed, or is gone, have no picture");
    make_data(f->other, 7, "cat");
    CHECK_OK(gather(f));
    CHECK_INT(f->warnings, REPORT_EDITS);
    CHECK(strstr(f->warning, "not the data of an edit's examples any more") != NULL);
    unlink(f->other);
    CHECK_OK(gather(f));
    CHECK_INT(f->warnings, REPORT_EDITS);
    CHECK(strstr(f->warning, "are not there") != NULL);
    CHECK(f->gathered.edits[0].examples[0][0].picture.pixels == NULL);
    CHECK_TEXT(f->gathered.edits[0].examples[0][0].label, "cat"); /* by the run's names */
    CHECK(f->gathered.edits[0].examples[3][0].picture.pixels != NULL);
}

static void test_refused(fixture *f) {
    test_begin("an edit of components that the run has not is refused");
    make_data(f->other, 100, "cat & trigger");
    write_edit(f, "one", true);
    CHECK_ERROR(gather(f), COAR_ERROR_INPUT, "order");
    write_edit(f, "one", false);
    f->source.tables.components++;
    CHECK_ERROR(gather(f), COAR_ERROR_INPUT, "edit 'one' is of 13 components, the run has 14");
    f->source.tables.components--;
    CHECK_OK(gather(f));
}

int main(void) {
    fixture f;
    test_begin("a run with planted edits");
    open_fixture(&f);
    test_gathered(&f);
    test_many(&f);
    test_data_gone(&f);
    test_refused(&f);
    report_data_free(&f.gathered);
    report_source_close(&f.source);
    return test_end();
}
