/*
 * gradient_ablations.c - `coar gradients` under every kind of ablation against differences of masked outputs: a
 * stored derivative is the slope of the output in the component's mask value, from ablated (0) to whole (1).
 */
#include "digits.h"
#include "runs.h"
#include "test.h"

#include "core/h5.h"
#include "core/levels.h"

enum { EXAMPLES = 3, STRIDE = 23 }; /* every so many components */

static const double half_step = 0.01;

static coar_gradients_options options_for(const char *path, const char *ablation) {
    coar_gradients_options o = COAR_GRADIENTS_INIT;
    o.passes = 1;
    o.ablate.model = digits_model("vit");
    o.ablate.data = digits_data();
    o.ablate.output = path;
    o.ablate.examples = "0:3";
    o.ablate.ablation = ablation;
    o.ablate.alpha = 0.3;
    o.ablate.seed = 5;
    o.ablate.backend = "cpu";
    o.ablate.precision = "fp32";
    o.ablate.threads = 2;
    return o;
}

/* Sums of a run of one pass: the derivatives themselves. [LEVELS][EXAMPLES][n], to be freed. */
static double *stored_derivatives(const char *name, const char *ablation) {
    char path[512];
    const coar_gradients_options o = options_for(run_path(path, name), ablation);
    run_store *store = NULL;
    gradients_info info = {.components = 0};
    bool present = false;
    CHECK_OK(coar_gradients(&o, NULL));
    CHECK_OK(store_open(path, &store));
    CHECK_OK(store_gradients_info(store, "margin", &info, &present));
    double *sums = malloc(LEVELS * EXAMPLES * (size_t)info.components * sizeof *sums);
    CHECK_OK(store_read_gradients(store, "margin", 0, EXAMPLES, sums));
    store_close(store);
    return sums;
}

/* The reference on the run's examples, bound. */
static backend *open_reference(const char *ablation, job **out) {
    const job_options options = {.model = digits_model("vit"),
                                 .data = digits_data(),
                                 .examples = "0:3",
                                 .ablation = ablation,
                                 .backend = "reference",
                                 .threads = 2};
    const job_pass pass = {.examples = EXAMPLES, .masks = 2};
    backend *b = NULL;
    job *j = digits_job(&options);
    CHECK_OK(job_baseline(j)); /* the means of `mean` */
    uint8_t *images = malloc(EXAMPLES * dataset_example_bytes(j->data));
    CHECK_OK(job_prepare(j, &pass, 0, j->pool, &b));
    CHECK_OK(job_read(j, 0, EXAMPLES, images));
    CHECK_OK(job_bind(j, b, 0, EXAMPLES, images));
    free(images);
    *out = j;
    return b;
}

/* `whole`, `ablated`: what a component is multiplied by at mask values 1 and 0. */
static void compare(const char *name, const char *ablation, double whole, double ablated) {
    static const double values[LEVELS] = {1, 0.788675134594813, 0.211324865405187};
    test_begin("%s: stored derivatives are slopes in the mask value", ablation);
    job *j = NULL;
    backend *b = open_reference(ablation, &j);
    double *stored = stored_derivatives(name, ablation), largest = 0;
    const uint32_t n = j->model->graph->components;
    const level_masks masks = {.seed = 5, .alpha = 0.3, .n = n};
    uint8_t *level = malloc(n);
    float *keeps = malloc(2 * n * sizeof *keeps), outputs[2 * EXAMPLES];
    level_mask(&masks, 0, 0, 1, level);
    for (uint32_t c = 0; c < 2 * n; c++) keeps[c] = (float)(ablated + (whole - ablated) * values[level[c % n]]);
    for (uint32_t c = 0; c < n; c += STRIDE) {
        const float keep = keeps[c], step = (float)((whole - ablated) * half_step);
        keeps[c] = keep - step;
        keeps[n + c] = keep + step;
        CHECK_OK(b->interface->run(b, &(mask_range){.count = 2, .n = n, .keeps = keeps}, outputs));
        keeps[c] = keeps[n + c] = keep;
        for (size_t e = 0; e < EXAMPLES; e++) {
            const double slope = (outputs[EXAMPLES + e] - outputs[e]) / (2 * half_step);
            const double derivative = stored[(level[c] * EXAMPLES + e) * n + c];
            CHECK_NEAR(derivative, slope, 1e-3 + 0.01 * fabs(slope));
            largest = fmax(largest, fabs(slope));
        }
    }
    CHECK(largest > 0.05); /* else nothing was compared */
    free(keeps);
    free(level);
    free(stored);
    b->interface->destroy(b);
    job_close(j);
}

/* mean.h5 as it is there. */
static void test_means(void) {
    test_begin("means of a run that are not one for each of the model's rows are refused");
    static const float few[3] = {1, 2, 3};
    char path[512];
    coar_gradients_options o = options_for(run_path(path, "mean.h5"), "mean");
    o.passes = 2;
    CHECK_OK(coar_gradients(&o, NULL)); /* goes on with the stored ones */
    for (int present = 1; present >= 0; present--) {
        hid_t file = H5Fopen(run_file(path, "tables.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
        CHECK(H5Ldelete(file, "/fill", H5P_DEFAULT) >= 0);
        hid_t space = H5Screate_simple(1, &(hsize_t){3}, NULL), fill = H5I_INVALID_HID;
        if (present) fill = H5Dcreate2(file, "/fill", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        if (present) CHECK(H5Dwrite(fill, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, few) >= 0);
        h5_close(&fill);
        h5_close(&space);
        h5_close(&file);
        o.passes++;
        CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_INPUT,
                    present ? "fill: holds 3 means" : "fill: holds 0 means");
        status_clear();
    }
}

int main(void) {
    compare("zero.h5", "zero", 1, 0);
    compare("scale.h5", "scale:0.6", 1, 0.6);
    compare("mean.h5", "mean", 1, 0);
    test_means();
    return test_end();
}
