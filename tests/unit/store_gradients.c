/*
 * store_gradients.c - stages of chains and gradients.h5 made from them: what interruptions, other numbers of passes,
 * shards and damage do. The derivatives are planted: each is a function of (output, pass, example, component).
 */
#include "runs.h"
#include "test.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/files.h"
#include "core/h5.h"
#include "core/levels.h"

enum {
    BLOCKS = 2,
    UNITS = RUN_OUTPUTS * BLOCKS,
    PAYLOAD = LEVELS * (LEVELS_BLOCK * RUN_COMPONENTS + RUN_COMPONENTS + LEVELS_BLOCK), /* doubles of a whole block */
};

/* ------------------------------------------------------------------------------------------- planted chains */

static double derivative(size_t output, uint32_t pass, uint64_t example, size_t component) {
    return sin(1 + (double)output + 0.7 * pass + 0.013 * (double)example) /
           (3 + (double)component); /* rounds when added */
}

static size_t level_of(uint32_t pass, size_t component) {
    return (pass + component) % LEVELS;
}

static void add_pass(const gradient_grid *g, uint64_t unit, uint32_t pass, double *payload) {
    uint32_t output, count;
    uint64_t first;
    gradient_grid_unit(g, unit, &output, &first, &count);
    const gradient_state s = gradient_state_of(payload, count, g->components);
    for (uint32_t e = 0; e < count; e++)
        for (size_t j = 0; j < g->components; j++) {
            const double d = derivative(output, pass, first + e, j);
            const size_t level = level_of(pass, j);
            s.sums[(level * count + e) * g->components + j] += d;
            s.squares_of_component[level * g->components + j] += d * d;
            s.squares_of_example[level * count + e] += d * d;
        }
}

static gradient_grid grid_of(uint32_t first, uint32_t passes) {
    return (gradient_grid){.examples = RUN_EXAMPLES,
                           .components = RUN_COMPONENTS,
                           .outputs = RUN_OUTPUTS,
                           .first_pass = first,
                           .passes = passes};
}

static coar_status open_stage(run_store *store, const gradient_grid *g, uint32_t shard, uint32_t shards,
                              store_stage **out) {
    static const setting settings[] = {{"plan_hash", "--plan", "abc", SETTING_TEXT, true}};
    char name[64];
    snprintf(name, sizeof name, "gradients-%u", g->first_pass);
    const stage_options options = {.name = name,
                                   .settings = settings,
                                   .setting_count = 1,
                                   .plan_json = "{\"plan\":1}",
                                   .units = gradient_grid_units(g),
                                   .steps = g->passes,
                                   .payload_bytes = gradient_grid_payload,
                                   .context = g,
                                   .shard = shard,
                                   .shards = shards,
                                   .force_resume = true}; /* tests stand for several processes */
    return stage_open(store, &options, out);
}

/* Takes a unit on to `until` passes, in records of `step` passes, from what is there. */
static void advance(run_store *store, store_stage *stage, const gradient_grid *g, uint64_t unit, uint32_t until,
                    uint32_t step) {
    static double payload[PAYLOAD];
    const size_t bytes = gradient_grid_payload(g, unit);
    unit_mark mark = {.steps = g->first_pass};
    memset(payload, 0, sizeof payload);
    if (stage_steps(stage, unit))
        CHECK_OK(stage_read(stage, unit, &mark, payload, bytes));
    else if (g->first_pass)
        CHECK_OK(store_read_gradient_state(store, run_outputs[unit / BLOCKS], g, unit, payload));
    mark.flag = UNIT_DONE;
    while (mark.steps < until) {
        add_pass(g, unit, mark.steps++, payload);
        if (mark.steps == until || mark.steps % step == 0) CHECK_OK(stage_append(stage, unit, mark, payload, bytes));
    }
}

/* Passes first .. passes - 1 of everything, finished. */
static void differentiate(run_store *store, uint32_t first, uint32_t passes, uint32_t step) {
    const gradient_grid g = grid_of(first, passes);
    store_stage *stage = NULL;
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    for (uint64_t unit = 0; stage && unit < UNITS; unit++) advance(store, stage, &g, unit, passes, step);
    CHECK_OK(store_finish_gradients(store, stage, &g));
    stage_close(stage);
}

/* Whether two runs' gradients.h5 are the same bytes. */
static void check_same_file(const char *a, const char *b) {
    file_map x, y;
    CHECK_OK(file_map_open(run_file(a, "gradients.h5"), &x));
    CHECK_OK(file_map_open(run_file(b, "gradients.h5"), &y));
    CHECK_INT(x.size, y.size);
    CHECK(x.size == y.size && !memcmp(x.data, y.data, x.size));
    file_map_close(&x);
    file_map_close(&y);
}

/* A run made in one go, to compare with. */
static const char *whole_run(uint32_t passes) {
    static char path[512];
    char name[32];
    snprintf(name, sizeof name, "whole%u.h5", passes);
    snprintf(path, sizeof path, "%s", test_temporary(name));
    run_store *store = run_new(path);
    differentiate(store, 0, passes, passes);
    store_close(store);
    return path;
}

static int files_with(const char *path, const char *suffix) {
    char folder[600];
    int count = 0;
    snprintf(folder, sizeof folder, "%s.parts", path);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        const size_t length = strlen(e->d_name), tail = strlen(suffix);
        count += length > tail && !strcmp(e->d_name + length - tail, suffix);
    }
    if (d) closedir(d);
    return count;
}

/* ---------------------------------------------------------------------------------------------------- tests */

static void test_contents(void) {
    test_begin("gradients.h5 holds the sums, squares and attributes of every output");
    char path[512];
    run_store *store = run_new(run_path(path, "contents.h5"));
    gradients_info info;
    bool present = true;
    uint32_t passes = 1;
    CHECK_OK(store_passes_finished(store, &passes));
    CHECK_INT(passes, 0);
    CHECK_OK(store_gradients_info(store, "loss", &info, &present));
    CHECK(!present);
    double sums[LEVELS * 9 * RUN_COMPONENTS];
    CHECK_ERROR(store_read_gradients(store, "loss", 0, 9, sums), COAR_ERROR_INPUT, "coar gradients");
    status_clear();
    differentiate(store, 0, 7, 3);
    CHECK_OK(store_gradients_info(store, "loss", &info, &present));
    CHECK(present && info.passes == 7 && info.examples == RUN_EXAMPLES && info.components == RUN_COMPONENTS);
    CHECK(info.seed == UINT64_MAX && info.alpha == 0.1);
    CHECK_TEXT(info.output, "loss");
    CHECK_OK(store_gradients_info(store, "logit", &info, &present));
    CHECK(!present);
    /* examples 28 .. 36, across both blocks */
    CHECK_OK(store_read_gradients(store, "loss", 28, 9, sums));
    double of_component[LEVELS * RUN_COMPONENTS], of_example[LEVELS * RUN_EXAMPLES];
    CHECK_OK(store_read_gradient_squares(store, "loss", of_component, of_example));
    double expected_component[LEVELS * RUN_COMPONENTS] = {0}, expected_example[LEVELS * RUN_EXAMPLES] = {0};
    double expected[LEVELS * RUN_EXAMPLES * RUN_COMPONENTS] = {0};
    for (uint32_t p = 0; p < 7; p++)
        for (size_t e = 0; e < RUN_EXAMPLES; e++)
            for (size_t j = 0; j < RUN_COMPONENTS; j++) {
                const double d = derivative(1, p, e, j);
                expected[(level_of(p, j) * RUN_EXAMPLES + e) * RUN_COMPONENTS + j] += d;
                expected_component[level_of(p, j) * RUN_COMPONENTS + j] += d * d;
                expected_example[level_of(p, j) * RUN_EXAMPLES + e] += d * d;
            }
    for (size_t l = 0; l < LEVELS; l++)
        for (size_t i = 0; i < 9 * RUN_COMPONENTS; i++)
            CHECK_NEAR(sums[l * 9 * RUN_COMPONENTS + i], expected[(l * RUN_EXAMPLES + 28) * RUN_COMPONENTS + i], 0);
    for (size_t i = 0; i < LEVELS * RUN_COMPONENTS; i++) CHECK_NEAR(of_component[i], expected_component[i], 1e-12);
    for (size_t i = 0; i < LEVELS * RUN_EXAMPLES; i++) CHECK_NEAR(of_example[i], expected_example[i], 1e-12);
    CHECK_ERROR(store_read_gradients(store, "loss", 28, 10, sums), COAR_ERROR_INPUT, "holds 37 examples");
    status_clear();
    CHECK_INT(files_with(path, ".journal"), 0);
    store_close(store);
}

static void test_index(void) {
    test_begin("gradients stand in run.h5 and in the merged file, alone or beside ablations");
    char path[512], merged[512];
    run_store *store = run_new(run_path(path, "index.h5"));
    differentiate(store, 0, 4, 4);
    for (int ablated = 0; ablated < 2; ablated++) {
        if (ablated) CHECK_OK(run_ablate(store, 0, 20, 1));
        CHECK_OK(run_merge(path, run_path(merged, "index-merged.h5"), 1, NULL));
        const char *const files[] = {path, merged};
        for (int f = 0; f < 2; f++) {
            struct cJSON *root = NULL;
            CHECK_OK(store_describe(files[f], &root));
            const cJSON *list = cJSON_GetObjectItem(root, "gradients"), *second = cJSON_GetArrayItem(list, 1);
            CHECK_INT(cJSON_GetArraySize(list), RUN_OUTPUTS);
            CHECK_TEXT(cJSON_GetStringValue(cJSON_GetObjectItem(second, "output")), "margin");
            CHECK_TEXT(cJSON_GetStringValue(cJSON_GetObjectItem(second, "passes")), "4");
            CHECK(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "settings"), "plan_hash"));
            cJSON_Delete(root);
            hid_t file = H5I_INVALID_HID;
            CHECK_OK(h5_open(files[f], &file));
            CHECK(h5_has(file, "/gradients/loss/sum") && h5_has(file, "/gradients/margin/done"));
            CHECK_INT(h5_has(file, "/ablations/margin"), ablated);
            CHECK(h5_has_attribute(file, "plan"));
            h5_close(&file);
        }
    }
    store_close(store);
}

static void test_interrupted(void) {
    test_begin("an interrupted chain goes on from its furthest record, whatever the number of passes is then");
    char path[512];
    run_store *store = run_new(run_path(path, "interrupted.h5"));
    gradient_grid g = grid_of(0, 8);
    store_stage *stage = NULL;
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    advance(store, stage, &g, 0, 8, 4);
    advance(store, stage, &g, 3, 4, 4);
    CHECK_INT(stage_done_count(stage), 1);
    CHECK(stage_has(stage, 0) && !stage_has(stage, 3) && stage_steps(stage, 3) == 4 && stage_steps(stage, 1) == 0);
    stage_close(stage);

    g.passes = 6; /* fewer: the record of 8 passes is of no use, that of 4 is */
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    CHECK_INT(stage_steps(stage, 0), 4);
    CHECK_INT(stage_steps(stage, 3), 4);
    CHECK_INT(stage_done_count(stage), 0);
    stage_close(stage);

    g.passes = 12; /* more */
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    CHECK_INT(stage_steps(stage, 0), 8);
    CHECK_INT(stage_done_count(stage), 0);
    struct cJSON *root = NULL;
    CHECK_OK(store_describe(path, &root));
    const cJSON *described = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "stages"), 0);
    CHECK_INT(cJSON_GetNumberValue(cJSON_GetObjectItem(described, "units")), UNITS);
    CHECK_INT(cJSON_GetNumberValue(cJSON_GetObjectItem(described, "units_in_journals")), 0);
    CHECK_INT(cJSON_GetNumberValue(cJSON_GetObjectItem(described, "passes_finished")), 0);
    cJSON_Delete(root);
    CHECK_OK(store_finish_gradients(store, stage, &g)); /* does nothing yet */
    CHECK(!file_exists(run_file(path, "gradients.h5")));
    for (uint64_t unit = 0; unit < UNITS; unit++) advance(store, stage, &g, unit, 12, 5);
    CHECK_OK(store_finish_gradients(store, stage, &g));
    stage_close(stage);
    store_close(store);
    check_same_file(path, whole_run(12));
}

static void test_torn(void) {
    test_begin("a journal cut anywhere in its last record goes back to the state before");
    char path[512], journal[600] = "";
    run_store *store = run_new(run_path(path, "torn.h5"));
    const gradient_grid g = grid_of(0, 8);
    store_stage *stage = NULL;
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    advance(store, stage, &g, 1, 8, 4);
    stage_close(stage);
    char folder[600];
    snprintf(folder, sizeof folder, "%s.parts", path);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, ".journal")) snprintf(journal, sizeof journal, "%s", run_file(path, e->d_name));
    closedir(d);
    file_map map;
    CHECK_OK(file_map_open(journal, &map));
    char *bytes = malloc(map.size);
    const size_t size = map.size, record = 32 + gradient_grid_payload(&g, 1);
    memcpy(bytes, map.data, size);
    file_map_close(&map);
    CHECK_INT(size, 64 + 2 * record);
    for (size_t cut = 0; cut <= record; cut += cut < 64 ? 1 : 97) {
        FILE *f = fopen(journal, "w");
        CHECK(f && fwrite(bytes, 1, size - record + cut, f) == size - record + cut);
        fclose(f);
        CHECK_OK(open_stage(store, &g, 0, 1, &stage));
        CHECK_INT(stage_steps(stage, 1), cut == record ? 8 : 4);
        stage_close(stage);
    }
    free(bytes);
    CHECK_OK(open_stage(store, &g, 0, 1, &stage));
    for (uint64_t unit = 0; unit < UNITS; unit++) advance(store, stage, &g, unit, 8, 8);
    CHECK_OK(store_finish_gradients(store, stage, &g));
    stage_close(stage);
    store_close(store);
    check_same_file(path, whole_run(8));
}

static void test_extension(void) {
    test_begin("more passes go on from the sums in gradients.h5, to the bytes of one go");
    char path[512];
    run_store *store = run_new(run_path(path, "extended.h5"));
    uint32_t passes;
    differentiate(store, 0, 5, 2);
    differentiate(store, 5, 6, 1);
    const gradient_grid late = grid_of(6, 13);
    store_stage *stage = NULL;
    CHECK_OK(open_stage(store, &late, 0, 1, &stage));
    differentiate(store, 6, 9, 9); /* in another process, say; its journals are not these */
    double state[PAYLOAD];
    CHECK_ERROR(store_read_gradient_state(store, run_outputs[0], &late, 0, state), COAR_ERROR_BUSY, "passes up to 9");
    CHECK_ERROR(store_finish_gradients(store, stage, &late), COAR_ERROR_BUSY, "passes up to 9");
    status_clear();
    stage_close(stage);
    CHECK_ERROR(open_stage(store, &late, 0, 1, &stage), COAR_ERROR_BUSY, "passes up to 9");
    status_clear();
    differentiate(store, 9, 13, 4);
    CHECK_OK(store_passes_finished(store, &passes));
    CHECK_INT(passes, 13);
    store_close(store);
    check_same_file(path, whole_run(13));
}

static void test_shards(void) {
    test_begin("shards of a stage make one file, by whichever ends last");
    char path[512];
    run_store *store = run_new(run_path(path, "shards.h5"));
    const gradient_grid g = grid_of(0, 6);
    uint32_t passes;
    for (uint32_t shard = 0; shard < 2; shard++) {
        store_stage *stage = NULL;
        CHECK_OK(open_stage(store, &g, shard, 2, &stage));
        for (uint64_t unit = shard; unit < UNITS; unit += 2) advance(store, stage, &g, unit, 6, 3);
        CHECK_OK(store_finish_gradients(store, stage, &g));
        stage_close(stage);
        CHECK_OK(store_passes_finished(store, &passes));
        CHECK_INT(passes, shard ? 6 : 0);
    }
    CHECK_INT(files_with(path, ".journal"), 0);
    store_close(store);
    check_same_file(path, whole_run(6));
}

/* ---------------------------------------------------------------------------------------------------- damage */

/* Opens gradients.h5 of a run for changes that no version of coar makes. */
static hid_t open_to_harm(const char *path, const char *group, hid_t *file) {
    *file = H5Fopen(run_file(path, "gradients.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t id = H5Gopen2(*file, group, H5P_DEFAULT);
    CHECK(*file >= 0 && id >= 0);
    return id;
}

static void replace_array(hid_t group, const char *name, int rank, const hsize_t *dims, hid_t type) {
    H5Ldelete(group, name, H5P_DEFAULT);
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t id = H5Dcreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(id >= 0);
    h5_close(&id);
    h5_close(&space);
}

static void replace_number(hid_t group, const char *name, uint64_t value) {
    H5Adelete(group, name);
    CHECK_OK(h5_write_unsigned(group, "harm", name, value));
}

static void harm_passes(hid_t g) {
    replace_number(g, "passes", 0);
}
static void harm_many_passes(hid_t g) {
    replace_number(g, "passes", UINT64_MAX);
}
static void harm_more_passes(hid_t g) {
    replace_number(g, "passes", LEVELS_PASSES_MOST + 1);
}
static void replace_levels(hid_t g, hsize_t count) {
    const double wrong[LEVELS] = {1, 0.5, 0.25};
    H5Adelete(g, "levels");
    hid_t space = H5Screate_simple(1, &count, NULL);
    hid_t id = H5Acreate2(g, "levels", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(H5Awrite(id, H5T_NATIVE_DOUBLE, wrong) >= 0);
    h5_close(&id);
    h5_close(&space);
}
static void harm_levels(hid_t g) {
    replace_levels(g, LEVELS);
}
static void harm_few_levels(hid_t g) {
    replace_levels(g, 2);
}
static void harm_no_levels(hid_t g) {
    H5Adelete(g, "levels");
}
static void harm_no_passes(hid_t g) {
    H5Adelete(g, "passes");
}
static void harm_seed(hid_t g) {
    replace_number(g, "seed", 3);
}
static void harm_alpha(hid_t g) {
    H5Adelete(g, "alpha");
    CHECK_OK(h5_write_real(g, "harm", "alpha", NAN));
}
static void harm_design(hid_t g) {
    H5Adelete(g, "design");
    CHECK_OK(h5_write_text(g, "harm", "design", "levels/0"));
}
static void harm_shape(hid_t g) {
    replace_array(g, "sum", 3, (hsize_t[]){LEVELS, RUN_EXAMPLES, RUN_COMPONENTS - 1}, H5T_IEEE_F64LE);
}
static void harm_rank(hid_t g) {
    replace_array(g, "sum", 2, (hsize_t[]){LEVELS, RUN_EXAMPLES}, H5T_IEEE_F64LE);
}
static void harm_blocks(hid_t g) {
    replace_array(g, "squares_of_component", 3, (hsize_t[]){LEVELS, 1, RUN_COMPONENTS}, H5T_IEEE_F64LE);
}
static void harm_type(hid_t g) {
    replace_array(g, "squares_of_example", 2, (hsize_t[]){LEVELS, RUN_EXAMPLES}, H5T_STD_I32LE);
}
static void harm_missing(hid_t g) {
    H5Ldelete(g, "squares_of_example", H5P_DEFAULT);
}

static void test_hostile(void) {
    static const struct {
        const char *text;
        void (*harm)(hid_t group);
    } cases[] = {{"'passes' is 0, not from 1", harm_passes},
                 {"'passes' is 18446744073709551615, not from 1", harm_many_passes},
                 {"'passes' is 65537, not from 1 to 65536", harm_more_passes},
                 {"passes", harm_no_passes},
                 {"'levels' has a keep 0.5 where the run's ablation has 0.788675", harm_levels},
                 {"'levels' does not have 3 numbers", harm_few_levels},
                 {"'levels' is missing", harm_no_levels},
                 {"'seed' is not the run's", harm_seed},
                 {"'alpha' is not the run's", harm_alpha},
                 {"'design' is not " LEVELS_DESIGN, harm_design},
                 {"/gradients/loss/sum' is not", harm_shape},
                 {"sum", harm_rank},
                 {"squares_of_component' is not", harm_blocks},
                 {"squares_of_example", harm_type},
                 {"squares_of_example", harm_missing}};
    test_begin("a gradients.h5 that is not the run's is refused in one line naming file and field");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512], name[32];
        snprintf(name, sizeof name, "hostile%zu.h5", i);
        run_store *store = run_new(run_path(path, name));
        differentiate(store, 0, 2, 2);
        hid_t file, group = open_to_harm(path, "/gradients/loss", &file);
        cases[i].harm(group);
        h5_close(&group);
        h5_close(&file);
        gradients_info info;
        bool present;
        double sums[LEVELS * RUN_COMPONENTS];
        uint32_t passes;
        status_clear();
        CHECK_ERROR(store_gradients_info(store, "loss", &info, &present), COAR_ERROR_INPUT, cases[i].text);
        CHECK(strstr(coar_last_error(), "gradients.h5") && !strchr(coar_last_error(), '\n'));
        CHECK_ERROR(store_read_gradients(store, "loss", 0, 1, sums), COAR_ERROR_INPUT, "gradients.h5");
        CHECK_ERROR(store_passes_finished(store, &passes), COAR_ERROR_INPUT, "gradients.h5");
        status_clear();
        CHECK_OK(store_read_gradients(store, "margin", 0, 1, sums)); /* the other output is whole */
        store_close(store);
    }
}

static void test_damaged(void) {
    test_begin("a gradients.h5 without an output, cut short or of another kind");
    char path[512];
    run_store *store = run_new(run_path(path, "damaged.h5"));
    uint32_t passes;
    differentiate(store, 0, 2, 2);
    hid_t file, group = open_to_harm(path, "/gradients", &file);
    H5Ldelete(group, "loss", H5P_DEFAULT);
    h5_close(&group);
    h5_close(&file);
    CHECK_ERROR(store_passes_finished(store, &passes), COAR_ERROR_INPUT, "'/gradients/loss' is missing");
    CHECK(truncate(run_file(path, "gradients.h5"), 3000) == 0);
    status_clear();
    CHECK_ERROR(store_passes_finished(store, &passes), COAR_ERROR_INPUT, "gradients.h5");
    unlink(run_file(path, "gradients.h5"));
    CHECK(symlink("tables.h5", run_file(path, "gradients.h5")) == 0);
    status_clear();
    CHECK_ERROR(store_passes_finished(store, &passes), COAR_ERROR_INPUT, "coar.gradients");
    unlink(run_file(path, "gradients.h5"));
    status_clear();
    CHECK_OK(store_passes_finished(store, &passes)); /* as never made */
    CHECK_INT(passes, 0);
    differentiate(store, 0, 2, 1);
    store_close(store);
    check_same_file(path, whole_run(2));
}

int main(void) {
    test_contents();
    test_index();
    test_interrupted();
    test_torn();
    test_extension();
    test_shards();
    test_hostile();
    test_damaged();
    return test_end();
}
