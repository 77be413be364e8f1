/*
 * report_run.c - coar_report on a run made with the store's own functions, with planted attributions: what is gathered,
 * and the errors.
 */
#include "test.h"

#include <locale.h>
#include <sys/stat.h>

#include "core/files.h"
#include "core/philox.h"
#include "evaluate/correlation.h"
#include "report/gather.h"

enum { EXAMPLES = 30, COMPONENTS = 25, MASKS = 90, TRUTH = 40, CLASSES = 3, HEIGHT = 5, WIDTH = 7, CHANNELS = 3 };

/* Groups of 9, 1 and 15 components. */
static const store_group groups[] = {{"stem.conv", "filter", "stem.conv", 0, 9},
                                     {"layer1.<b>", "filter", "layer1", 9, 1},
                                     {"layer2.conv", "filter", "layer2.conv", 10, 15}};

static double noise(uint32_t i) {
    uint32_t words[4];
    philox_words(5, 0, i, 0, words);
    return words[0] / 4294967296.0 - .5;
}

/* Example i: component 20 holds it up by 2 + i / 100, component 3 pushes it down by 1.5; the rest is small. */
static float weight_of(uint64_t i, uint32_t j) {
    if (j == 20) return 2 + (float)i / 100;
    if (j == 3) return -1.5f;
    return (float)(.1 * noise((uint32_t)i * COMPONENTS + j));
}

/* Wanted Pearson's r falls with the example's number, so example 0 is best; example 7 has no value. */
static double pearson_of(uint64_t i) {
    return i == 7 ? NAN : .9 - .02 * (double)i;
}

static uint64_t row_of(uint64_t i) {
    return 2 * i + 1;
}

static uint8_t pixel_of(uint64_t row, uint32_t k) {
    return (uint8_t)(row * 31 + k * 7);
}

static void make_data(const char *path) {
    char *names[CLASSES] = {"<i>cat</i>", "dog & co", "bird"};
    enum { ROWS = 2 * EXAMPLES + 2, PIXELS = HEIGHT * WIDTH * CHANNELS };
    int32_t labels[ROWS];
    static uint8_t images[ROWS * PIXELS];
    for (int r = 0; r < ROWS; r++) {
        labels[r] = r % CLASSES;
        for (uint32_t k = 0; k < PIXELS; k++) images[r * PIXELS + k] = pixel_of((uint64_t)r, k);
    }
    dataset_description description = {.count = ROWS,
                                       .height = HEIGHT,
                                       .width = WIDTH,
                                       .channels = CHANNELS,
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

static run_store *make_run(const char *path, const char *data_path) {
    char hash[65] = "";
    CHECK_OK(file_sha256(data_path, hash));
    char *relative = path_relative(data_path, path);
    const setting settings[] = {{"arch", "--arch", "toy<net>", SETTING_TEXT, true},
                                {"model_path", "--model", "weights/toy.safetensors", SETTING_TEXT, false},
                                {"model_sha256", "--model", "0123456789abcdef", SETTING_TEXT, true},
                                {"data_path", "--data", relative, SETTING_TEXT, false},
                                {"data_sha256", "--data", hash, SETTING_TEXT, true},
                                {"label", "--label", "", SETTING_TEXT, true},
                                {"seed", "--seed", "18446744073709551615", SETTING_INTEGER, true},
                                {"alpha", "--alpha", "0.1", SETTING_REAL, true}};
    run_store *store = NULL;
    bool created;
    CHECK_OK(store_create(path, settings, sizeof settings / sizeof *settings, false, &created, &store));
    free(relative);

    uint64_t rows[EXAMPLES];
    int32_t labels[EXAMPLES];
    float baseline[2][EXAMPLES];
    char names[2][40] = {"loss", "margin"};
    for (uint64_t i = 0; i < EXAMPLES; i++) {
        rows[i] = row_of(i);
        labels[i] = (int32_t)(row_of(i) % CLASSES);
        baseline[0][i] = 9;
        baseline[1][i] = i < 24 ? 2.5f : -1; /* 24 of 30 right */
    }
    run_tables tables = {.groups = (store_group *)groups,
                         .group_count = 3,
                         .components = COMPONENTS,
                         .examples = EXAMPLES,
                         .example_rows = rows,
                         .labels = labels,
                         .output_count = 2,
                         .output_names = names,
                         .baseline = baseline[0]};
    CHECK_OK(store_write_tables(store, &tables));
    return store;
}

static void add_fit(run_store *store, const char *name) {
    static float weight[EXAMPLES][COMPONENTS], bias[EXAMPLES];
    double penalty[EXAMPLES], r2[EXAMPLES], heldout[EXAMPLES];
    for (uint64_t i = 0; i < EXAMPLES; i++) {
        bias[i] = 1;
        penalty[i] = 1;
        r2[i] = i == 11 ? NAN : .5;
        heldout[i] = i == 11 ? NAN : -.3 + .03 * (double)i; /* the other way round */
        for (uint32_t j = 0; j < COMPONENTS; j++)
            weight[i][j] = i == 11 ? NAN : weight_of(i, j); /* 11: left out of the fit */
    }
    fit_header header = {.name = name,
                         .estimator = "ridge",
                         .output = "margin",
                         .examples = EXAMPLES,
                         .components = COMPONENTS,
                         .masks = MASKS,
                         .command = "test"};
    fit_writer *writer = NULL;
    CHECK_OK(fit_writer_create(store, NULL, &header, false, &writer));
    fit_block block = {0, EXAMPLES, weight[0], bias, penalty, r2, heldout, NULL};
    CHECK_OK(fit_writer_block(writer, &block));
    CHECK_OK(fit_writer_finish(writer));
    fit_writer_destroy(writer);
}

static float truth_of(uint64_t k, uint64_t i) {
    return (float)noise((uint32_t)(k * EXAMPLES + i));
}

static void add_truth(run_store *store, const char *name) {
    enum { UNIT = TRUTH * EXAMPLES };
    unit_grid grid = {.masks = TRUTH, .examples = EXAMPLES, .unit_masks = 64, .unit_examples = EXAMPLES, .outputs = 2};
    const setting settings[] = {{"masks", "--masks", "40", SETTING_INTEGER, false}};
    stage_options options = {.name = name,
                             .settings = settings,
                             .setting_count = 1,
                             .plan_json = "{}",
                             .units = unit_grid_units(&grid),
                             .payload_bytes = unit_grid_payload,
                             .context = &grid,
                             .shards = 1};
    store_stage *stage = NULL;
    static float payload[2][UNIT];
    for (uint64_t k = 0; k < TRUTH; k++)
        for (uint64_t i = 0; i < EXAMPLES; i++) payload[1][k * EXAMPLES + i] = truth_of(k, i);
    CHECK_OK(stage_open(store, &options, &stage));
    CHECK_OK(stage_append(stage, 0, (unit_mark){.flag = UNIT_DONE}, payload, sizeof payload));
    CHECK_OK(store_finish_truth(store, stage, &grid));
    stage_close(stage);
}

static void add_evaluation(run_store *store, const char *stage, const char *fit) {
    static float predicted[TRUTH][EXAMPLES];
    double pearson[EXAMPLES], spearman[EXAMPLES];
    for (uint64_t i = 0; i < EXAMPLES; i++) {
        pearson[i] = pearson_of(i);
        spearman[i] = i == 7 ? NAN : .25;
        for (uint64_t k = 0; k < TRUTH; k++) predicted[k][i] = 2 * truth_of(k, i) + .5f;
    }
    CHECK_OK(store_write_predicted(store, stage, fit, "margin", TRUTH, EXAMPLES, predicted[0], pearson, spearman));
}

/* Reads a whole file; the caller frees it. */
static char *read_text(const char *path) {
    file_map map = {0};
    CHECK_OK(file_map_open(path, &map));
    char *text = calloc(map.size + 1, 1);
    if (map.size) memcpy(text, map.data, map.size);
    file_map_close(&map);
    return text;
}

static void check_gathered(const char *run) {
    report_source source;
    report_data data = {0};
    CHECK_OK(report_source_open(run, NULL, "ridge", &source));
    CHECK_OK(report_gather(&source, NULL, &data));

    test_begin("groups: strength, mean with its sign, share");
    CHECK_INT(data.group_count, 3);
    double strength[COMPONENTS] = {0}, mean[3] = {0}, total = 0;
    for (uint32_t j = 0; j < COMPONENTS; j++) {
        for (uint64_t i = 0; i < EXAMPLES; i++)
            if (i != 11) strength[j] += fabs(weight_of(i, j)) / (EXAMPLES - 1);
        total += strength[j];
    }
    for (size_t g = 0; g < 3; g++) {
        double sum = 0, low = INFINITY, high = 0;
        for (uint32_t j = groups[g].first; j < groups[g].first + groups[g].count; j++) {
            sum += strength[j];
            low = fmin(low, strength[j]);
            high = fmax(high, strength[j]);
            for (uint64_t i = 0; i < EXAMPLES; i++)
                if (i != 11) mean[g] += weight_of(i, j) / (EXAMPLES - 1) / groups[g].count;
        }
        CHECK_NEAR(data.groups[g].strength, sum / groups[g].count, 1e-9);
        CHECK_NEAR(data.groups[g].share, sum / total, 1e-9);
        CHECK_NEAR(data.groups[g].mean, mean[g], 1e-9);
        CHECK(data.groups[g].low >= low - 1e-12 && data.groups[g].high <= high + 1e-12);
        CHECK(data.groups[g].lower <= data.groups[g].median && data.groups[g].median <= data.groups[g].upper);
    }
    CHECK_NEAR(data.groups[1].low, data.groups[1].high, 0); /* one component: all quantiles are it */

    test_begin("figures of the run, the fit and its evaluation");
    CHECK_INT(data.examples_left_out, 1);
    CHECK_NEAR(data.accuracy, 24.0 / 30, 1e-12);
    CHECK_NEAR(data.r2_mean, .5, 1e-12);
    CHECK_INT(data.heldout.count, EXAMPLES - 1);
    CHECK_INT(data.evaluation_count, 2);
    CHECK_INT(data.featured, 1); /* alpha 0.1, not 0.05 */
    const report_evaluation *e = &data.evaluations[1];
    CHECK_NEAR(e->alpha, .1, 0);
    CHECK_NEAR(e->spearman_mean, .25, 1e-12);
    CHECK_INT(e->pearson.undefined, 1);
    double sum = 0;
    for (uint64_t i = 0; i < EXAMPLES; i++)
        if (i != 7) sum += pearson_of(i) / (EXAMPLES - 1);
    CHECK_NEAR(e->pearson.mean, sum, 1e-12);
    static float x[TRUTH][EXAMPLES], y[TRUTH][EXAMPLES];
    for (uint64_t k = 0; k < TRUTH; k++)
        for (uint64_t i = 0; i < EXAMPLES; i++) {
            y[k][i] = truth_of(k, i);
            x[k][i] = 2 * y[k][i] + .5f;
        }
    double low, high;
    CHECK_OK(correlation_bootstrap(x[0], y[0], TRUTH, EXAMPLES, CORRELATION_DRAWS, 0, &low, &high));
    CHECK_NEAR(e->pearson_low, low, 0);
    CHECK_NEAR(e->pearson_high, high, 0);

    test_begin("examples: best to worst, with their components, pictures and points");
    CHECK_INT(data.shown_count, REPORT_EXAMPLES);
    CHECK_INT(data.shown[0].row, row_of(0));
    CHECK_INT(data.shown[REPORT_EXAMPLES - 1].row, row_of(EXAMPLES - 1));
    CHECK_TEXT(data.shown[0].rank, "Best");
    CHECK_TEXT(data.shown[10].rank, "Median");
    CHECK_TEXT(data.shown[20].rank, "Worst");
    for (size_t s = 0; s < data.shown_count; s++) {
        const report_example *shown = &data.shown[s];
        uint64_t i = (shown->row - 1) / 2;
        CHECK(i != 7);
        CHECK(s == 0 || data.shown[s - 1].correlation > shown->correlation);
        CHECK_NEAR(shown->correlation, pearson_of(i), 1e-12);
        CHECK_INT(shown->has_weights, i != 11);
        if (shown->has_weights) {
            CHECK_TEXT(shown->positive[0].group, "layer2.conv");
            CHECK_INT(shown->positive[0].index, 10);
            CHECK_NEAR(shown->positive[0].weight, weight_of(i, 20), 0);
            CHECK_TEXT(shown->negative[0].group, "stem.conv");
            CHECK_INT(shown->negative[0].index, 3);
        }
        CHECK_INT(shown->picture.width, WIDTH);
        CHECK_INT(shown->picture.height, HEIGHT);
        for (uint32_t k = 0; shown->picture.pixels && k < HEIGHT * WIDTH * CHANNELS; k++)
            if (shown->picture.pixels[k] != pixel_of(shown->row, k))
                test_fail(__FILE__, __LINE__, "row %d: pixel %u", (int)shown->row, k);
        CHECK_INT(shown->points, shown->rank ? TRUTH : 0);
        for (size_t k = 0; k < shown->points; k++) CHECK_NEAR(shown->truth[k], truth_of(k, i), 0);
    }
    report_data_free(&data);
    report_source_close(&source);
}

static void check_page(const char *run, const char *folder) {
    test_begin("the page is written whole, and never over another without force");
    char path[600];
    snprintf(path, sizeof path, "%s/report.html", folder);
    coar_report_options o = COAR_REPORT_INIT;
    o.run = run;
    o.output = path;
    CHECK_OK(coar_report(&o));
    char *page = read_text(path);
    CHECK(!strncmp(page, "<!DOCTYPE html>", 15));
    CHECK(strstr(page, "</html>") != NULL);
    CHECK(strstr(page, "toy&lt;net&gt;") != NULL);
    CHECK(strstr(page, "&lt;i&gt;cat&lt;/i&gt;") != NULL);
    CHECK(strstr(page, "layer1.&lt;b&gt;") != NULL);
    CHECK(strstr(page, "data:image/png;base64,") != NULL);
    CHECK(strstr(page, "0123456789ab") != NULL);
    CHECK_ERROR(coar_report(&o), COAR_ERROR_EXISTS, "--force");
    o.force = 1;
    CHECK_OK(coar_report(&o));
    char *again = read_text(path);
    CHECK_TEXT(again, page);
    free(again);
    free(page);
}

static void check_errors(const char *run, const char *folder) {
    test_begin("errors name the file and what to do");
    char path[600], other[600], wrong[600];
    snprintf(path, sizeof path, "%s/none.html", folder);
    snprintf(other, sizeof other, "%s/other.h5", folder);
    snprintf(wrong, sizeof wrong, "%s/absent/page.html", folder);
    coar_report_options o = COAR_REPORT_INIT;
    CHECK_ERROR(coar_report(&o), COAR_ERROR_USAGE, "run");
    o.run = run;
    CHECK_ERROR(coar_report(&o), COAR_ERROR_USAGE, "-o");
    o.output = path;
    o.fit = "lasso";
    CHECK_ERROR(coar_report(&o), COAR_ERROR_USAGE, "lasso");
    o.fit = NULL;
    make_data(other);
    FILE *f = fopen(other, "ab"); /* the same data, other bytes */
    fputc(0, f);
    fclose(f);
    o.data = other;
    CHECK_ERROR(coar_report(&o), COAR_ERROR_MISMATCH, "--data");
    o.data = "absent.h5";
    CHECK_ERROR(coar_report(&o), COAR_ERROR_IO, "absent.h5");
    o.data = NULL;
    o.output = wrong;
    CHECK_ERROR(coar_report(&o), COAR_ERROR_IO, "absent");
    CHECK(!file_exists(path));
}

static int stop(void *user, const coar_progress *progress) {
    (void)user;
    CHECK_TEXT(progress->stage, "report");
    return 1;
}

static void check_stop(const char *run, const char *folder) {
    test_begin("a stop asked for leaves no page");
    char path[600];
    snprintf(path, sizeof path, "%s/stopped.html", folder);
    coar_callbacks callbacks = {.progress = stop};
    coar_report_options o = COAR_REPORT_INIT;
    o.run = run;
    o.output = path;
    o.callbacks = &callbacks;
    CHECK_INT(coar_report(&o), COAR_STOPPED);
    CHECK(!file_exists(path));
}

static void check_locale(const char *run, const char *folder) {
    test_begin("the same bytes under a locale with decimal commas");
    char path[600];
    snprintf(path, sizeof path, "%s/locale.html", folder);
    coar_report_options o = COAR_REPORT_INIT;
    o.run = run;
    o.output = path;
    o.force = 1;
    CHECK_OK(coar_report(&o));
    char *page = read_text(path);
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8")) {
        test_skip("neither de_DE.UTF-8 nor fr_FR.UTF-8 is installed");
    } else {
        CHECK_OK(coar_report(&o));
        setlocale(LC_ALL, "C");
        char *comma = read_text(path);
        CHECK_TEXT(comma, page);
        free(comma);
    }
    free(page);
}

int main(void) {
    char folder[512], run[600], data_path[600], page[600];
    snprintf(folder, sizeof folder, "%s", test_temporary("run"));
    mkdir(folder, 0777);
    snprintf(run, sizeof run, "%s/run.h5", folder);
    snprintf(data_path, sizeof data_path, "%s/data.h5", folder);
    snprintf(page, sizeof page, "%s/early.html", folder);
    coar_report_options o = COAR_REPORT_INIT;
    o.run = run;
    o.output = page;

    test_begin("a run without a fit says to fit first");
    make_data(data_path);
    run_store *store = make_run(run, data_path);
    CHECK_ERROR(coar_report(&o), COAR_ERROR_INPUT, "coar fit");
    CHECK(!file_exists(page));

    test_begin("a run without an evaluation: the leave-one-out correlation orders the examples");
    add_fit(store, "ridge");
    CHECK_OK(coar_report(&o));
    char *text = read_text(page);
    CHECK(strstr(text, "coar evaluate") != NULL);
    free(text);

    test_begin("a run with evaluations at two alphas");
    add_truth(store, "truth-a0.05-s0");
    add_truth(store, "truth-a0.1-s0");
    add_evaluation(store, "truth-a0.05-s0", "ridge");
    add_evaluation(store, "truth-a0.1-s0", "ridge");
    store_close(store);
    check_gathered(run);
    check_page(run, folder);
    check_errors(run, folder);
    check_stop(run, folder);
    check_locale(run, folder);
    return test_end();
}
