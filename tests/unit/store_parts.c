/*
 * store_parts.c - parts, index, extension, merge, fits and evaluations, and what damage to them is called.
 */
#include "runs.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/files.h"
#include "core/h5.h"

static void flip(const char *path, off_t place) {
    int file = open(path, O_RDWR);
    uint8_t byte = 0;
    CHECK(file >= 0 && pread(file, &byte, 1, place) == 1);
    byte ^= 0x10;
    CHECK(pwrite(file, &byte, 1, place) == 1);
    close(file);
}

/* A whole data set through HDF5 itself (links, virtual sources and all), as memory_type; malloc'ed. */
static void *read_object(const char *path, const char *name, hid_t memory_type, hsize_t dims[2]) {
    hid_t file = H5I_INVALID_HID, id = H5I_INVALID_HID, space = H5I_INVALID_HID;
    void *data = NULL;
    h5_lock();
    CHECK_OK(h5_open(path, &file));
    id = H5Dopen2(file, name, H5P_DEFAULT);
    space = H5Dget_space(id);
    dims[1] = 1;
    CHECK(id >= 0 && H5Sget_simple_extent_dims(space, dims, NULL) > 0);
    data = calloc(dims[0] * dims[1] + 1, H5Tget_size(memory_type));
    CHECK(id >= 0 && H5Dread(id, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    h5_close(&space);
    h5_close(&id);
    h5_close(&file);
    h5_unlock();
    return data;
}

/* Objects that two files hold with the same bytes. */
static void check_same_object(const char *a, const char *b, const char *name, hid_t type) {
    hsize_t x[2] = {0}, y[2] = {0};
    void *first = read_object(a, name, type, x), *second = read_object(b, name, type, y);
    if (x[0] != y[0] || x[1] != y[1] || memcmp(first, second, x[0] * x[1] * H5Tget_size(type)))
        test_fail(__FILE__, __LINE__, "%s of %s and %s differ", name, a, b);
    free(first);
    free(second);
}

/* --------------------------------------------------------------------------------------- outputs and index */

static void test_extension(void) {
    test_begin("a run that is extended reads, and merges, as one made in one go");
    char whole_buffer[512], steps_buffer[512], merged_buffer[512], other_buffer[512];
    const char *whole = run_path(whole_buffer, "whole.h5"), *steps = run_path(steps_buffer, "st%ps.h5");
    const char *merged = run_path(merged_buffer, "merged.h5"), *other = run_path(other_buffer, "other.h5");
    static const char *const objects[] = {"/ablations/margin", "/ablations/loss", "/ablations/outputs",
                                          "/baseline/loss"};
    run_store *store = run_new(whole);
    uint64_t finished, masks, examples;
    CHECK_ERROR(store_output_shape(store, &masks, &examples), COAR_ERROR_INPUT, "not finished");
    status_clear();
    CHECK_OK(run_ablate(store, 0, 330, 1));
    store_close(store);
    store = run_new(steps);
    CHECK_OK(run_ablate(store, 0, 7, 2));
    CHECK_OK(run_ablate(store, 7, 71, 3)); /* its chunks lie across those of the whole */
    CHECK_OK(run_ablate(store, 71, 128, 4));
    CHECK_OK(run_ablate(store, 128, 330, 5)); /* these chunks are copied raw */
    CHECK_OK(store_masks_finished(store, &finished));
    CHECK_INT(finished, 330);
    CHECK_OK(store_output_shape(store, &masks, &examples));
    CHECK(masks == 330 && examples == RUN_EXAMPLES);
    CHECK_INT(run_wrong_outputs(store, 330), 0);
    float block[5 * 3];
    CHECK_OK(store_read_outputs(store, "loss", 69, 5, 30, 3, block)); /* across two parts */
    for (int i = 0; i < 15; i++) CHECK_NEAR(block[i], run_value(1, 69 + (uint64_t)i / 3, 30 + (uint64_t)i % 3), 0);
    CHECK_ERROR(store_read_outputs(store, "loss", 328, 5, 0, 3, block), COAR_ERROR_INPUT, "330 masks are finished");
    status_clear();
    CHECK_ERROR(store_read_outputs(store, "logit", 0, 5, 0, 3, block), COAR_ERROR_INPUT, "logit");
    status_clear();
    CHECK_ERROR(run_ablate(store, 40, 400, 0), COAR_ERROR_BUSY, "up to 330"); /* a grid that is out of date */
    status_clear();
    store_close(store);
    CHECK_OK(run_merge(whole, merged, 0, NULL));
    CHECK_OK(run_merge(steps, other, 0, NULL));
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
        check_same_object(whole, steps, objects[i], H5T_NATIVE_FLOAT);
        check_same_object(whole, merged, objects[i], H5T_NATIVE_FLOAT);
        check_same_object(whole, other, objects[i], H5T_NATIVE_FLOAT);
    }
    check_same_object(whole, steps, "/ablations/done", H5T_NATIVE_UINT8);
    check_same_object(whole, merged, "/ablations/done", H5T_NATIVE_UINT8);
    check_same_object(whole, other, "/examples/index", H5T_NATIVE_UINT64);
    hsize_t dims[2];
    uint8_t *done = read_object(whole, "/ablations/done", H5T_NATIVE_UINT8, dims);
    CHECK_INT(dims[0], 21 * 3); /* 16 masks x 16 examples a unit */
    for (hsize_t i = 0; i < dims[0]; i++) CHECK_INT(done[i], 1);
    free(done);
    /* a merged file is read, not worked on */
    CHECK_ERROR(store_open(merged, &store), COAR_ERROR_INPUT, "merged");
    status_clear();
    CHECK_ERROR(run_merge(whole, merged, 0, NULL), COAR_ERROR_EXISTS, "--force");
    CHECK_ERROR(run_merge(whole, whole, 1, NULL), COAR_ERROR_EXISTS, "give another -o");
    CHECK_ERROR(run_merge(merged, other, 1, NULL), COAR_ERROR_INPUT, "merged");
    CHECK_OK(run_merge(steps, merged, 1, NULL));
    check_same_object(whole, merged, "/ablations/loss", H5T_NATIVE_FLOAT);
}

static int stop_at_once(void *user, const coar_progress *p) {
    (void)user;
    return p->done > 0;
}

static void test_merge_refuses(void) {
    test_begin("merge: complete or not at all");
    char run_buffer[512], out_buffer[512], part[700];
    const char *path = run_path(run_buffer, "source.h5"), *out = run_path(out_buffer, "out.h5");
    run_store *store = run_new(path);
    CHECK_ERROR(run_merge(path, out, 0, NULL), COAR_ERROR_INPUT, "not finished");
    CHECK_OK(run_ablate(store, 0, 40, 1));
    store_close(store);
    const coar_callbacks callbacks = {.progress = stop_at_once};
    CHECK_ERROR(run_merge(path, out, 0, &callbacks), COAR_STOPPED, "nothing was written");
    CHECK(!file_exists(out));
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 9000;
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK_ERROR(run_merge(path, out, 0, NULL), COAR_ERROR_IO, "File too large");
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(!file_exists(out));
    snprintf(part, sizeof part, "%s.tmp.%ld", out, (long)getpid());
    CHECK(!file_exists(part));
}

static void test_missing_part(void) {
    test_begin("a missing part is named, wherever it was");
    char buffer[512], moved[512];
    const char *path = run_path(buffer, "missing.h5");
    run_store *store = run_new(path);
    uint64_t masks;
    float value;
    CHECK_OK(run_ablate(store, 0, 40, 1));
    CHECK_OK(run_ablate(store, 40, 60, 1));
    static const char *const names[] = {"outputs-0-39.h5", "outputs-40-59.h5"};
    for (int i = 0; i < 2; i++) {
        snprintf(moved, sizeof moved, "%s", test_temporary("moved"));
        CHECK(rename(run_file(path, names[i]), moved) == 0);
        status_clear();
        CHECK_ERROR(store_read_outputs(store, "margin", 0, 1, 0, 1, &value), COAR_ERROR_INPUT,
                    i ? names[i] : "outputs-40-59.h5");
        CHECK(strstr(coar_last_error(), "put it back"));
        status_clear();
        CHECK_ERROR(store_masks_finished(store, &masks), COAR_ERROR_INPUT, "missing");
        status_clear();
        CHECK_ERROR(run_merge(path, test_temporary("never.h5"), 0, NULL), COAR_ERROR_INPUT, "missing");
        status_clear();
        CHECK(rename(moved, run_file(path, names[i])) == 0);
    }
    CHECK_INT(run_wrong_outputs(store, 60), 0);
    store_close(store);
}

static void test_damaged_chunk(void) {
    test_begin("a damaged chunk is named with its file and object, also when merge would copy it raw");
    char buffer[512], out[512], part[700];
    const char *path = run_path(buffer, "chunk.h5");
    run_store *store = run_new(path);
    CHECK_OK(run_ablate(store, 0, 128, 1));
    snprintf(part, sizeof part, "%s", run_file(path, "outputs-0-127.h5"));
    run_path(out, "chunk-merged.h5");
    /* somewhere inside the second chunk of loss */
    hid_t file, id;
    hsize_t offset[2], size;
    haddr_t place;
    unsigned mask;
    CHECK_OK(h5_open(part, &file));
    id = H5Dopen2(file, "/ablations/loss", H5P_DEFAULT);
    hid_t space = H5Dget_space(id);
    CHECK(H5Dget_chunk_info(id, space, 1, offset, &mask, &place, &size) >= 0);
    h5_close(&space);
    h5_close(&id);
    h5_close(&file);
    float value;
    for (off_t at = (off_t)place; at < (off_t)(place + size); at += (off_t)size / 9) {
        flip(part, at);
        status_clear();
        CHECK_ERROR(store_read_outputs(store, "loss", 127, 1, 0, 1, &value), COAR_ERROR_INPUT,
                    "outputs-0-127.h5: /ablations/loss");
        status_clear();
        CHECK_ERROR(run_merge(path, out, 0, NULL), COAR_ERROR_INPUT, "outputs-0-127.h5");
        CHECK(strstr(coar_last_error(), "/ablations/loss") && !file_exists(out));
        flip(part, at);
    }
    CHECK_INT(run_wrong_outputs(store, 128), 0);
    CHECK(truncate(part, 3000) == 0);
    status_clear();
    CHECK_ERROR(store_read_outputs(store, "loss", 127, 1, 0, 1, &value), COAR_ERROR_INPUT, "outputs-0-127.h5");
    status_clear();
    store_close(store);
}

/* One unit of an N x 1 grid with the values given. */
static coar_status half_run(const char *path, const float *values, const char **stored) {
    static char part[700];
    run_store *store = run_new(path);
    const unit_grid grid = {0, 1, RUN_EXAMPLES, 64, RUN_EXAMPLES, RUN_OUTPUTS};
    float payload[RUN_OUTPUTS * RUN_EXAMPLES];
    store_stage *stage = NULL;
    for (int i = 0; i < RUN_OUTPUTS * RUN_EXAMPLES; i++) payload[i] = values[i % RUN_EXAMPLES];
    CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
    CHECK_OK(stage_append(stage, 0, (unit_mark){.flag = UNIT_DONE}, payload, sizeof payload));
    coar_status status = store_finish_outputs(store, stage, &grid, true, NULL);
    stage_close(stage);
    snprintf(part, sizeof part, "%s", run_file(path, "outputs-0-0.h5"));
    *stored = part;
    store_close(store);
    return status;
}

static void test_half(void) {
    test_begin("--store f16: rounded to nearest even, overflow is an error, the type cannot change");
    static const struct {
        float value;
        uint16_t bits;
    } cases[] = {{0, 0},
                 {-0.0f, 0x8000},
                 {1, 0x3C00},
                 {-2, 0xC000},
                 {65504, 0x7BFF},
                 {-65519.99f, 0xFBFF},
                 {1.0f / 3, 0x3555},
                 {1 + 0x1p-11f, 0x3C00},            /* a tie: to even, down */
                 {1 + 3 * 0x1p-11f, 0x3C02},        /* a tie: to even, up */
                 {1 + 0x1p-11f + 0x1p-20f, 0x3C01}, /* above the tie */
                 {2 - 0x1p-12f, 0x4000},            /* carries into the exponent */
                 {0x1p-14f, 0x0400},                /* smallest normal number */
                 {0x1p-14f - 0x1p-26f, 0x0400},     /* rounds up to it */
                 {0x1p-24f, 0x0001},                /* smallest number */
                 {0x1p-25f, 0x0000},                /* a tie with 0 */
                 {3 * 0x1p-25f, 0x0002},
                 {0x1p-26f, 0x0000},
                 {INFINITY, 0x7C00},
                 {NAN, 0x7E00}};
    enum { CASES = sizeof cases / sizeof *cases };
    char buffer[512];
    const char *path = run_path(buffer, "f16.h5"), *part;
    float values[RUN_EXAMPLES];
    hsize_t dims[2];
    for (int i = 0; i < RUN_EXAMPLES; i++) values[i] = cases[i % CASES].value;
    CHECK_OK(half_run(path, values, &part));
    hid_t half = H5Tcopy(H5T_NATIVE_UINT16);
    hid_t file, id;
    CHECK_OK(h5_open(part, &file));
    id = H5Dopen2(file, "/ablations/loss", H5P_DEFAULT);
    hid_t type = H5Dget_type(id);
    CHECK_INT(H5Tget_size(type), 2);
    uint16_t bits[RUN_EXAMPLES] = {0};
    CHECK(H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bits) >= 0);
    for (int i = 0; i < RUN_EXAMPLES; i++)
        if (bits[i] != cases[i % CASES].bits)
            test_fail(__FILE__, __LINE__, "f16 of %.9g: got %04x, expected %04x", (double)values[i], bits[i],
                      cases[i % CASES].bits);
    h5_close(&type);
    h5_close(&id);
    h5_close(&file);
    h5_close(&half);
    float *virtual = read_object(path, "/ablations/margin", H5T_NATIVE_FLOAT, dims);
    CHECK_INT(dims[0] * dims[1], RUN_EXAMPLES);
    CHECK_NEAR(virtual[6], 0x1.554p-2, 0);
    free(virtual);
    uint8_t *done = read_object(path, "/ablations/done", H5T_NATIVE_UINT8, dims);
    CHECK_INT(done[0], 2); /* not finite */
    free(done);
    run_store *store = NULL;
    CHECK_OK(store_open(path, &store));
    CHECK_ERROR(run_ablate(store, 1, 20, 1), COAR_ERROR_MISMATCH, "--store is f32");
    status_clear();
    store_close(store);

    values[20] = 65520;
    CHECK_ERROR(half_run(run_path(buffer, "f16-2.h5"), values, &part), COAR_ERROR_INPUT, "example 20 is 65520");
    CHECK(!file_exists(part));
    status_clear();
}

static void test_stored_masks(void) {
    test_begin("stored masks and flags of units that were not finite");
    char buffer[512];
    const char *path = run_path(buffer, "masks.h5");
    run_store *store = run_new(path);
    uint8_t packed[90 * 2];
    for (size_t i = 0; i < sizeof packed; i++) packed[i] = (uint8_t)(i * 37);
    for (int step = 0; step < 2; step++) {
        const unit_grid grid = run_grid(step ? 50 : 0, step ? 90 : 50);
        store_stage *stage = NULL;
        float payload[RUN_OUTPUTS * RUN_UNIT_MASKS * RUN_UNIT_EXAMPLES] = {0};
        CHECK_OK(run_open_stage(store, &grid, 0, 1, false, &stage));
        if (step) { /* masks 66 .. 81, examples 16 .. 31: mask 80 is in block 5 of the whole, 66 .. 79 in block 4 */
            payload[14 * 16 + 3] = NAN;
            CHECK_OK(stage_append(stage, 4, (unit_mark){.flag = UNIT_NON_FINITE}, payload, sizeof payload));
        }
        CHECK_OK(run_units(stage, &grid, 3));
        CHECK_OK(store_finish_outputs(store, stage, &grid, false, packed + (step ? 100 : 0)));
        stage_close(stage);
    }
    hsize_t dims[2];
    uint8_t *masks = read_object(path, "/ablations/masks", H5T_NATIVE_UINT8, dims);
    CHECK(dims[0] == 90 && dims[1] == 2 && !memcmp(masks, packed, sizeof packed));
    free(masks);
    uint8_t *done = read_object(path, "/ablations/done", H5T_NATIVE_UINT8, dims);
    CHECK_INT(dims[0], 18);
    for (hsize_t i = 0; i < dims[0]; i++) CHECK_INT(done[i], i == 5 * 3 + 1 ? 2 : 1);
    free(done);
    store_close(store);
}

/* ------------------------------------------------------------------------------------- fits and evaluations */

static void write_truth(run_store *store, uint64_t masks, bool from_start) {
    uint64_t finished = 0;
    if (!from_start) CHECK_OK(store_truth_finished(store, "truth-a0.1-s7", &finished));
    const unit_grid grid = run_grid(finished, masks);
    store_stage *stage = NULL;
    CHECK_OK(run_named_stage(store, "truth-a0.1-s7", &grid, 0, 1, false, &stage));
    CHECK_OK(run_units(stage, &grid, masks));
    CHECK_OK(store_finish_truth(store, stage, &grid));
    stage_close(stage);
}

static uint64_t wrong_truth(run_store *store, uint64_t masks) {
    static float truth[120 * RUN_EXAMPLES];
    uint64_t wrong = 0;
    for (size_t o = 0; o < RUN_OUTPUTS; o++) {
        CHECK_OK(store_read_truth(store, "truth-a0.1-s7", run_outputs[o], masks, truth));
        for (uint64_t i = 0; i < masks * RUN_EXAMPLES; i++)
            wrong += truth[i] != run_value(o, i / RUN_EXAMPLES, i % RUN_EXAMPLES);
    }
    return wrong;
}

static void test_fits(void) {
    test_begin("fits, truth and predictions: written, listed, read, replaced");
    char buffer[512], merged[512];
    const char *path = run_path(buffer, "fits.h5");
    run_store *store = run_new(path);
    fit_info *fits = NULL;
    evaluation_info *evaluations = NULL;
    size_t count = 0;
    float weight[2 * RUN_COMPONENTS], bias[2];
    double heldout[2];
    CHECK_OK(run_ablate(store, 0, 40, 1));
    CHECK_ERROR(store_read_fit(store, "ridge", 0, 1, weight, NULL, NULL, NULL, NULL), COAR_ERROR_INPUT, "coar fit");
    status_clear();
    run_fit(store, "ridge-b", 3, false);
    run_fit(store, "ridge", 1, false);
    CHECK_OK(store_list_fits(store, &fits, &count));
    CHECK_INT(count, 2);
    CHECK_TEXT(fits[0].name, "ridge");
    CHECK_TEXT(fits[1].estimator, "ridge");
    CHECK_INT(fits[1].masks, 40);
    free(fits);
    CHECK_OK(store_read_fit(store, "ridge", 9, 2, weight, bias, NULL, NULL, heldout));
    CHECK_NEAR(weight[0], 9 * RUN_COMPONENTS, 0);
    CHECK_NEAR(weight[2 * RUN_COMPONENTS - 1], 11 * RUN_COMPONENTS - 1, 0);
    CHECK_NEAR(heldout[1], 11, 0);
    CHECK_ERROR(store_read_fit(store, "ridge", 36, 2, weight, NULL, NULL, NULL, NULL), COAR_ERROR_INPUT,
                "fit-ridge.h5");
    status_clear();
    fit_writer *writer = NULL;
    const fit_header again = {.name = "ridge", .estimator = "ols", .output = "loss", .examples = 3, .components = 2};
    CHECK_ERROR(fit_writer_create(store, NULL, &again, false, &writer), COAR_ERROR_EXISTS, "--force");
    status_clear();
    const fit_header bad = {.name = "a/b", .estimator = "ols", .output = "loss", .examples = 3, .components = 2};
    CHECK_ERROR(fit_writer_create(store, NULL, &bad, false, &writer), COAR_ERROR_USAGE, "a/b");
    status_clear();

    CHECK(!store_has_truth(store, "truth-a0.1-s7", 1));
    write_truth(store, 30, false);
    CHECK(store_has_truth(store, "truth-a0.1-s7", 30) && !store_has_truth(store, "truth-a0.1-s7", 31));
    write_truth(store, 77, false); /* extended from mask 30 on */
    CHECK_INT(wrong_truth(store, 77), 0);
    write_truth(store, 120, true); /* computed anew from mask 0 on */
    CHECK_INT(wrong_truth(store, 120), 0);
    hsize_t dims[2];
    uint8_t *done = read_object(path, "/evaluation/a0.1_s7/loss/done", H5T_NATIVE_UINT8, dims);
    CHECK_INT(dims[0], 8 * 3);
    for (hsize_t i = 0; i < dims[0]; i++) CHECK_INT(done[i], 1);
    free(done);

    static float predicted[100 * RUN_EXAMPLES], truth[100 * RUN_EXAMPLES], back[100 * RUN_EXAMPLES];
    double numbers[RUN_EXAMPLES], pearson[RUN_EXAMPLES];
    for (int i = 0; i < 100 * RUN_EXAMPLES; i++) predicted[i] = (float)i;
    for (int i = 0; i < RUN_EXAMPLES; i++) numbers[i] = i / 64.0;
    CHECK_OK(store_write_predicted(store, "truth-a0.1-s7", "ridge", "margin", 100, RUN_EXAMPLES, predicted, numbers,
                                   numbers));
    CHECK_OK(store_write_predicted(store, "truth-a0.1-s7", "ridge-b", "margin", 100, RUN_EXAMPLES, predicted, numbers,
                                   numbers));
    CHECK_OK(store_list_evaluations(store, &evaluations, &count));
    CHECK_INT(count, 2);
    for (size_t i = 0; i < count; i++) {
        CHECK_TEXT(evaluations[i].truth_stage, "truth-a0.1-s7");
        CHECK_NEAR(evaluations[i].alpha, .1, 0);
        CHECK_INT(evaluations[i].seed, 7);
        CHECK_INT(evaluations[i].masks, 100);
        CHECK_OK(store_read_evaluation(store, &evaluations[i], truth, back, pearson, NULL));
        CHECK(!memcmp(back, predicted, sizeof predicted) && !memcmp(pearson, numbers, sizeof numbers));
        CHECK_NEAR(truth[99 * RUN_EXAMPLES + 4], run_value(0, 99, 4), 0);
    }
    free(evaluations);
    CHECK_OK(run_merge(path, run_path(merged, "fits-merged.h5"), 0, NULL));
    static const char *const objects[] = {"/attributions/ridge/weight",
                                          "/attributions/ridge/stderr",
                                          "/attributions/ridge-b/bias",
                                          "/evaluation/a0.1_s7/loss/truth",
                                          "/evaluation/a0.1_s7/margin/truth",
                                          "/evaluation/a0.1_s7/margin/ridge/predicted",
                                          "/evaluation/a0.1_s7/margin/ridge-b/spearman"};
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++)
        check_same_object(path, merged, objects[i], H5T_NATIVE_DOUBLE);
    flip(run_file(path, "fit-ridge.h5"), 0); /* no HDF5 file any more */
    CHECK_ERROR(store_list_fits(store, &fits, &count), COAR_ERROR_INPUT, "fit-ridge.h5");
    status_clear();
    flip(run_file(path, "fit-ridge.h5"), 0);
    run_fit(store, "ridge", 2, true); /* replaces it, and its predictions go */
    CHECK_OK(store_list_evaluations(store, &evaluations, &count));
    CHECK_INT(count, 1);
    CHECK_TEXT(evaluations[0].fit, "ridge-b");
    free(evaluations);
    CHECK_OK(store_read_fit(store, "ridge", 1, 1, weight, NULL, NULL, NULL, NULL));
    CHECK_NEAR(weight[1], 2 * (RUN_COMPONENTS + 1), 0);
    h5_lock();
    hid_t file;
    CHECK_OK(h5_open(path, &file));
    CHECK(h5_has(file, "/attributions/ridge/weight") && !h5_has(file, "/evaluation/a0.1_s7/margin/ridge"));
    h5_close(&file);
    h5_unlock();
    store_close(store);
}

int main(void) {
    test_extension();
    test_merge_refuses();
    test_missing_part();
    test_damaged_chunk();
    test_half();
    test_stored_masks();
    test_fits();
    return test_end();
}
