/*
 * fit_files.c - coar_fit and coar_evaluate on files: a run made with the store's own functions from a planted linear
 * model, and .npy arrays; every mismatch is an error of one line.
 */
#include "test.h"

#include <hdf5.h>
#include <stdbool.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/npy.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "store/store.h"

enum { N = 37, COMPONENTS = 21, MASKS = 130, FRESH = 50 };

static double uniform(uint32_t stream, uint64_t i) {
    uint32_t words[4];
    philox_words(3, 20 + stream, i, 0, words);
    return words[0] / 4294967296.0 - .5;
}

/* Output o (0 margin, 1 loss) of example z: bias 1 + z + 10 o, and these weights. */
static double weight_of(uint32_t o, size_t z, size_t j) {
    return uniform(o, z * COMPONENTS + j);
}

static float output_of(uint32_t o, size_t z, const uint8_t *mask) {
    double y = 1 + (double)z + 10 * o;
    for (size_t j = 0; j < COMPONENTS; j++) y += (mask[j / 8] >> (j % 8) & 1) * weight_of(o, z, j);
    return (float)y;
}

/* ------------------------------------------------------------------------------------- a run made by hand */

static sampler sampler_of(uint32_t stream, double alpha, uint64_t seed) {
    return (sampler){.kind = SAMPLER_BERNOULLI, .seed = seed, .stream = stream, .alpha = alpha, .n = COMPONENTS};
}

static size_t payload_bytes(const void *context, uint64_t unit) {
    uint64_t first_mask, first_example;
    uint32_t masks, examples;
    unit_grid_unit(context, unit, &first_mask, &masks, &first_example, &examples);
    return (size_t)2 * masks * examples * sizeof(float);
}

/* Fills a stage with the planted model's outputs of masks from `s`. */
static void fill_stage(run_store *store, const char *name, const sampler *s, uint64_t masks, bool truth) {
    const unit_grid grid = {.masks = masks, .examples = N, .unit_masks = 16, .unit_examples = N, .outputs = 2};
    const stage_options options = {.name = name,
                                   .plan_json = "{}",
                                   .units = unit_grid_units(&grid),
                                   .payload_bytes = payload_bytes,
                                   .context = &grid,
                                   .shards = 1};
    store_stage *stage = NULL;
    CHECK_OK(stage_open(store, &options, &stage));
    for (uint64_t unit = 0; unit < options.units; unit++) {
        float payload[2 * 16 * N];
        uint64_t first, example;
        uint32_t count, examples;
        unit_grid_unit(&grid, unit, &first, &count, &example, &examples);
        for (uint32_t o = 0; o < 2; o++)
            for (uint32_t i = 0; i < count; i++) {
                uint8_t mask[(COMPONENTS + 7) / 8];
                sampler_mask(s, first + i, mask, NULL);
                for (uint32_t z = 0; z < examples; z++)
                    payload[(o * count + i) * examples + z] = output_of(o, example + z, mask);
            }
        CHECK_OK(stage_append(stage, unit, (unit_mark){.flag = UNIT_DONE}, payload, payload_bytes(&grid, unit)));
    }
    CHECK_OK(truth ? store_finish_truth(store, stage, &grid) : store_finish_outputs(store, stage, &grid, false, NULL));
    stage_close(stage);
}

static run_store *make_run(const char *path, const char *kind, uint64_t masks) {
    const setting settings[] = {{"seed", "--seed", "9", SETTING_INTEGER, true},
                                {"alpha", "--alpha", "0.2", SETTING_REAL, true},
                                {"sampler", "--sampler", kind, SETTING_TEXT, true}};
    run_store *store = NULL;
    bool created = false;
    CHECK_OK(store_create(path, settings, 3, false, &created, &store));
    store_group group = {"layer", "filter", "layer", 0, COMPONENTS};
    uint64_t rows[N];
    int32_t labels[N] = {0};
    float baseline[2 * N] = {0};
    char names[2][40] = {"margin", "loss"};
    for (uint64_t z = 0; z < N; z++) rows[z] = z;
    const run_tables tables = {.groups = &group,
                               .group_count = 1,
                               .components = COMPONENTS,
                               .examples = N,
                               .example_rows = rows,
                               .labels = labels,
                               .output_count = 2,
                               .output_names = names,
                               .baseline = baseline};
    CHECK_OK(store_write_tables(store, &tables));
    sampler s = sampler_of(PHILOX_STREAM_TRAINING, .2, 9);
    if (!strcmp(kind, "loo")) s.kind = SAMPLER_LOO;
    fill_stage(store, "ablate-0", &s, masks, false);
    return store;
}

static void check_fit(const char *run, const char *name, uint32_t output, double tolerance) {
    static float weight[N * COMPONENTS], bias[N];
    run_store *store = NULL;
    status_clear();
    CHECK_OK(store_open(run, &store));
    CHECK_OK(store_read_fit(store, name, 0, N, weight, bias, NULL, NULL, NULL));
    for (size_t z = 0; z < N; z++) {
        CHECK_NEAR(bias[z], 1 + (double)z + 10 * output, COMPONENTS * tolerance);
        for (size_t j = 0; j < COMPONENTS; j++)
            CHECK_NEAR(weight[z * COMPONENTS + j], weight_of(output, z, j), tolerance);
    }
    store_close(store);
}

static void test_run(const char *path) {
    test_begin("fits of a run: default, other output, names, force");
    store_close(make_run(path, "bernoulli", MASKS));
    coar_fit_options o = COAR_FIT_INIT;
    coar_fit_result r;
    o.run = path;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_TEXT(r.name, "ridge");
    CHECK_INT(r.masks, MASKS);
    CHECK_INT(r.components, COMPONENTS);
    CHECK_INT(r.examples, N);
    CHECK_NEAR(r.heldout_mean, 1, 1e-4);
    check_fit(path, "ridge", 0, 1e-4);
    o.estimator = "ols";
    o.output = "loss";
    o.threads = 3;
    o.standard_errors = 1;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_TEXT(r.name, "ols-loss");
    check_fit(path, "ols-loss", 1, 1e-5);
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_EXISTS, "ols-loss");
    o.force = 1;
    CHECK_OK(coar_fit(&o, &r));
    o.name = "mine";
    o.output = "margin";
    CHECK_OK(coar_fit(&o, &r));
    check_fit(path, "mine", 0, 1e-5);

    test_begin("fits that may be kept: standard errors asked for later, and another estimator's under the name");
    o.standard_errors = 0;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_INT(r.already_complete, 0);
    o.force = 0;
    o.keep = 1;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_INT(r.already_complete, 1);
    o.standard_errors = 1;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_INT(r.already_complete, 0);
    o.standard_errors = 0; /* more than is asked for does */
    CHECK_OK(coar_fit(&o, &r));
    CHECK_INT(r.already_complete, 1);
    o.estimator = "ridge";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_EXISTS, "estimator ols");
    o.estimator = "ols";
    o.output = "loss";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_EXISTS, "output margin");
    o.output = "margin";
    CHECK_OK(coar_fit(&o, &r)); /* it is still there */
    CHECK_INT(r.already_complete, 1);
    o.keep = 0;
    o.force = 1;

    test_begin("fits of a run: options that are wrong");
    o.name = "../x";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "--name '../x'");
    o.name = "z";
    o.output = "margins";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "--output 'margins'");
    o.output = NULL;
    o.estimator = "sagaa";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "--estimator 'sagaa'");
    o.estimator = NULL;
    o.memory = 1000;
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_MEMORY, "--memory");
    o.memory = 0;
    o.output_file = "x.h5";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "-o goes with");
    o.output_file = NULL;
    o.masks = "m.npy";
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "not both");
}

static void test_loo(void) {
    test_begin("a leave-one-out run is fitted by baseline minus output, and is ols by default");
    const char *path = test_temporary("loo.h5");
    store_close(make_run(path, "loo", COMPONENTS + 1));
    coar_fit_options o = COAR_FIT_INIT;
    coar_fit_result r;
    o.run = path;
    CHECK_OK(coar_fit(&o, &r));
    CHECK_TEXT(r.name, "ols");
    CHECK(isnan(r.heldout_mean));
    check_fit(path, "ols", 0, 1e-5);
}

/* --------------------------------------------------------------------------------------------- evaluate */

static void check_stored(const char *path, const coar_evaluation *e) {
    run_store *store = NULL;
    evaluation_info *list = NULL;
    size_t count = 0;
    static float truth[FRESH * N], predicted[FRESH * N];
    double pearson[N], spearman[N];
    status_clear();
    CHECK_OK(store_open(path, &store));
    CHECK_OK(store_list_evaluations(store, &list, &count));
    CHECK_INT(count, 3);
    for (size_t k = 0; k < count; k++) {
        if (strcmp(list[k].fit, e->fit)) continue;
        CHECK_INT(list[k].masks, FRESH);
        CHECK_OK(store_read_evaluation(store, &list[k], truth, predicted, pearson, spearman));
        for (size_t x = 0; x < FRESH * N; x++) CHECK_NEAR(predicted[x], truth[x], 1e-4);
        for (size_t z = 0; z < N; z++) CHECK_NEAR(pearson[z], 1, 1e-6);
    }
    free(list);
    store_close(store);
}

static void test_evaluate(const char *path) {
    test_begin("evaluation: planted models are predicted on fresh masks; a fit of another output is not mixed up");
    run_store *store = NULL;
    CHECK_OK(store_open(path, &store));
    sampler fresh = sampler_of(PHILOX_STREAM_EVALUATION, .3, 9);
    fill_stage(store, "truth-a0.3-s9", &fresh, FRESH, true);
    store_close(store);
    coar_evaluate_options o = COAR_EVALUATE_INIT;
    coar_evaluation *list = NULL;
    size_t count = 0;
    o.run = path;
    o.alphas = ".3";
    o.masks = FRESH;
    CHECK_OK(coar_evaluate(&o, &list, &count));
    CHECK_INT(count, 3);
    for (size_t k = 0; k < count; k++) {
        CHECK_NEAR(list[k].pearson_mean, 1, 1e-6);
        CHECK_NEAR(list[k].spearman_mean, 1, 1e-3);
        CHECK(list[k].pearson_low <= list[k].pearson_high && list[k].pearson_low > .9999);
        CHECK_INT(list[k].examples, N);
        CHECK_INT(list[k].examples_undefined, 0);
        CHECK_NEAR(list[k].alpha, .3, 0);
        CHECK_TEXT(list[k].output, strcmp(list[k].fit, "ols-loss") ? "margin" : "loss");
    }
    check_stored(path, &list[0]);
    coar_free(list);
    o.fits = "ridge,mine";
    o.threads = 2;
    CHECK_OK(coar_evaluate(&o, &list, &count)); /* once more: rewritten */
    CHECK_INT(count, 2);
    CHECK_TEXT(list[0].fit, "ridge");
    check_stored(path, &list[1]);
    coar_free(list);

    test_begin("evaluation: an alpha that differs in its tenth digit only does not take the other's truth");
    o.alphas = ".3000000001"; /* this run has no model to compute its truth with */
    CHECK_ERROR(coar_evaluate(&o, &list, &count), COAR_ERROR_INPUT, "model_path");

    test_begin("evaluation: options that are wrong");
    const char *const alphas[] = {"0", "1", "", "0.1,", "x", "-0.1", "nan", "0.1;0.2"};
    for (size_t k = 0; k < sizeof alphas / sizeof *alphas; k++) {
        o.alphas = alphas[k];
        CHECK_ERROR(coar_evaluate(&o, &list, &count), COAR_ERROR_USAGE, "--alpha");
    }
    o.alphas = ".3";
    o.fits = "ridge,lasso";
    CHECK_ERROR(coar_evaluate(&o, &list, &count), COAR_ERROR_USAGE, "--fit 'lasso'");
    o.fits = NULL;
    o.masks = 1;
    CHECK_ERROR(coar_evaluate(&o, &list, &count), COAR_ERROR_USAGE, "--masks");
    o.masks = FRESH;
    o.memory = 100;
    CHECK_ERROR(coar_evaluate(&o, &list, &count), COAR_ERROR_MEMORY, "--memory");
}

/* ----------------------------------------------------------------------------------------------- arrays */

/* masks.npy and outputs.npy of m masks in the temporary folder; output 0 of the planted model. */
static void write_arrays(size_t m, npy_type mask_type, npy_type output_type) {
    static uint8_t masks[MASKS * COMPONENTS];
    static float single[MASKS * N];
    static double twice[MASKS * N];
    const sampler s = sampler_of(PHILOX_STREAM_TRAINING, .2, 4);
    for (size_t i = 0; i < m; i++) {
        uint8_t mask[(COMPONENTS + 7) / 8];
        sampler_mask(&s, i, mask, NULL);
        for (size_t j = 0; j < COMPONENTS; j++) masks[i * COMPONENTS + j] = mask[j / 8] >> (j % 8) & 1;
        for (size_t z = 0; z < N; z++) twice[i * N + z] = single[i * N + z] = output_of(0, z, mask);
    }
    const size_t mask_shape[2] = {m, COMPONENTS}, output_shape[2] = {m, N};
    status_clear();
    CHECK_OK(npy_write(test_temporary("masks.npy"), mask_type, 2, mask_shape, masks));
    CHECK_OK(npy_write(test_temporary("outputs.npy"), output_type, 2, output_shape,
                       output_type == NPY_F64 ? (const void *)twice : single));
}

static void check_attributions(const char *path) {
    static float weight[N * COMPONENTS];
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, "/attributions/ols/weight", H5P_DEFAULT);
    CHECK(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, weight) >= 0);
    H5Dclose(set);
    H5Fclose(file);
    for (size_t x = 0; x < N * COMPONENTS; x++)
        CHECK_NEAR(weight[x], weight_of(0, x / COMPONENTS, x % COMPONENTS), 1e-5);
}

static void test_arrays(void) {
    test_begin("masks and outputs made elsewhere: bool or uint8, float32 or float64");
    coar_fit_options o = COAR_FIT_INIT;
    coar_fit_result r;
    char masks[512], outputs[512], target[512];
    snprintf(masks, sizeof masks, "%s", test_temporary("masks.npy"));
    snprintf(outputs, sizeof outputs, "%s", test_temporary("outputs.npy"));
    snprintf(target, sizeof target, "%s", test_temporary("attributions.h5"));
    o.masks = masks;
    o.outputs = outputs;
    o.output_file = target;
    o.estimator = "ols";
    write_arrays(MASKS, NPY_BOOL, NPY_F32);
    CHECK_OK(coar_fit(&o, &r));
    check_attributions(target);
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_EXISTS, "attributions.h5");
    o.force = 1;
    write_arrays(MASKS, NPY_U8, NPY_F64);
    CHECK_OK(coar_fit(&o, &r));
    check_attributions(target);

    test_begin("masks and outputs made elsewhere: what does not fit together");
    write_arrays(MASKS, NPY_I8, NPY_F32);
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "dtype: must be bool");
    write_arrays(MASKS, NPY_BOOL, NPY_I32);
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "dtype: must be float32");
    write_arrays(MASKS, NPY_BOOL, NPY_F32);
    const uint8_t cells[6] = {0, 1, 2, 0, 1, 1};
    const size_t two_by_three[2] = {2, 3}, flat[1] = {6}, none[2] = {0, 3};
    CHECK_OK(npy_write(masks, NPY_U8, 2, two_by_three, cells));
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "2 rows");
    const float values[2] = {1, 2};
    const size_t two_by_one[2] = {2, 1};
    status_clear();
    CHECK_OK(npy_write(outputs, NPY_F32, 2, two_by_one, values));
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "[0, 2] is 2");
    status_clear();
    CHECK_OK(npy_write(masks, NPY_BOOL, 1, flat, cells));
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "1 dimensions");
    status_clear();
    CHECK_OK(npy_write(masks, NPY_BOOL, 2, none, cells));
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_INPUT, "empty");
    o.output_file = NULL;
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "-o FILE");
    o.output_file = target;
    o.outputs = NULL;
    CHECK_ERROR(coar_fit(&o, &r), COAR_ERROR_USAGE, "--masks and --outputs");
    CHECK(!file_exists(test_temporary("attributions.h5.tmp")));
}

int main(void) {
    char path[512];
    snprintf(path, sizeof path, "%s", test_temporary("run.h5"));
    test_run(path);
    test_loo();
    test_evaluate(path);
    test_arrays();
    return test_end();
}
