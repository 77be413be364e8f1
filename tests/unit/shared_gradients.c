/*
 * shared_gradients.c - d margin / d mask of published networks on CIFAR-10 against PyTorch's (COAR_SHARED): ResNet-20
 * under masks of ones and zeros, and of ones, halves and zeros, and a vision transformer. The cpu backend on all of
 * them, the reference, which is for reading, on a corner.
 */
#include "core/npy.h"
#include "data/importer.h"
#include "engines.h"
#include "model/model.h"
#include "nets.h"
#include "test.h"

static const double LIMIT = 1e-3; /* of each example's largest derivative */

enum { SIDE = 32, CHANNELS = 3, IMAGE = SIDE * SIDE * CHANNELS };
static const float mean[CHANNELS] = {0.485f, 0.456f, 0.406f}, deviation[CHANNELS] = {0.229f, 0.224f, 0.225f};

static const struct golden {
    const char *name, *weights, *examples, *masks, *gradients;
    size_t corner_masks, corner_examples; /* of the reference */
} goldens[] = {
    {"ResNet-20", "resnet20-cifar10", "r20_examples", "r20_gradmasks", "r20_maskgrads", 2, 3},
    {"ResNet-20 with halves", "resnet20-cifar10", "r20_examples", "r20_halfmasks", "r20_halfgrads", 2, 3},
    {"ViT with halves", "vit-cifar10", "vit_examples", "vit_gradmasks", "vit_maskgrads", 2, 3},
};

static coar_status open_golden(const char *name, npy_array *out) {
    char relative[64];
    snprintf(relative, sizeof relative, "golden/%s.npy", name);
    const char *path = test_shared(relative);
    if (!path) return status_set(COAR_ERROR_IO, "no %s", relative);
    return npy_open(path, out);
}

/* The first `count` examples of the golden: images[count][IMAGE], labels[count]. */
static coar_status load_examples(const importer *from, const npy_array *rows, size_t count, uint8_t *images,
                                 int32_t *labels) {
    for (size_t e = 0; e < count; e++) {
        const uint64_t row = (uint64_t)npy_get_int(rows, e);
        image picture = {0};
        TRY(from->load(from, row, &picture));
        CHECK_INT(picture.height * picture.width * picture.channels, IMAGE);
        memcpy(images + e * IMAGE, picture.pixels, IMAGE);
        labels[e] = from->labels[row];
        image_free(&picture);
    }
    return COAR_OK;
}

/* A ReLU whose argument is zero but for rounding is open in one computation and closed in the next, and the derivatives
 * differ; those of the goldens (fp32) and of the reference (double) do for one pair in a hundred. Then the derivatives
 * also jump when every keep moves by some millionths: low[n] to high[n] is what the reference finds there. */
static void range_at_kink(const model *m, const example_batch *batch, size_t example, const float *keeps, float *low,
                          float *high) {
    enum { MOVES = 16 };
    const uint32_t n = m->graph->components;
    float *moved = calloc((size_t)MOVES * n, sizeof *moved);
    example_batch single = *batch;
    uint64_t state = 1;
    engine e;
    for (size_t i = 0; i < (size_t)MOVES * n; i++) moved[i] = keeps[i % n] * (1 + 0x1p-18f * net_uniform(&state));
    single.inputs = (const uint8_t *)batch->inputs + example * IMAGE;
    single.labels += example;
    single.count = 1;
    engine_open(
        &e, m->graph,
        (engine_options){
            .backend = "reference", .outputs = "margin", .examples = 1, .masks = MOVES, .threads = 2, .reverse = true});
    const mask_range range = {.count = MOVES, .n = n, .keeps = moved};
    float *gradients = engine_reverse(&e, &single, REVERSE_MASK, 0, &range, NULL);
    for (uint32_t j = 0; j < n; j++) {
        low[j] = high[j] = gradients[j];
        for (size_t i = 1; i < MOVES; i++) {
            low[j] = fminf(low[j], gradients[i * n + j]);
            high[j] = fmaxf(high[j], gradients[i * n + j]);
        }
    }
    free(gradients);
    free(moved);
    engine_close(&e);
}

/* Of a pair: largest difference as a fraction of the largest derivative; beyond LIMIT, less what a kink explains. */
static double pair_difference(const model *m, const example_batch *batch, size_t example, const float *keeps,
                              const float *actual, const float *expected, int *kinks) {
    const uint32_t n = m->graph->components;
    double difference = largest_difference(actual, expected, n), largest = 0, unexplained = 0;
    if (difference <= LIMIT) return difference;
    float *low = calloc(n, sizeof *low), *high = calloc(n, sizeof *high);
    ++*kinks;
    range_at_kink(m, batch, example, keeps, low, high);
    for (uint32_t j = 0; j < n; j++) {
        const double left = fabs((double)actual[j] - expected[j]) - (high[j] - low[j]);
        largest = fmax(largest, fabs(expected[j]));
        if (!(left <= unexplained) && !isnan(unexplained)) unexplained = left; /* a NaN stays */
    }
    free(low);
    free(high);
    return unexplained / largest;
}

static void compare(const struct golden *golden, const char *backend, const importer *from) {
    const bool all = strcmp(backend, "reference") != 0;
    npy_array rows = {0}, masks = {0}, expected = {0};
    model *m = NULL;
    char weights[64];
    snprintf(weights, sizeof weights, "models/%s.safetensors", golden->weights);
    CHECK_OK(open_golden(golden->examples, &rows));
    CHECK_OK(open_golden(golden->masks, &masks));
    CHECK_OK(open_golden(golden->gradients, &expected));
    CHECK_OK(model_open(test_shared(weights), &(model_options){.image_height = SIDE, .image_width = SIDE}, &m));
    if (!m || masks.type != NPY_F32 || masks.rank != 2 || masks.shape[1] != m->graph->components ||
        expected.type != NPY_F32 || expected.rank != 3 || expected.shape[2] != m->graph->components) {
        test_fail(__FILE__, __LINE__, "%s: not what the goldens were", golden->gradients);
        goto done;
    }
    const size_t mask_count = all ? masks.shape[0] : golden->corner_masks;
    const size_t examples = all ? expected.shape[1] : golden->corner_examples;
    uint8_t *images = calloc(examples, IMAGE);
    int32_t *labels = calloc(examples, sizeof *labels);
    CHECK_OK(load_examples(from, &rows, examples, images, labels));
    const example_batch batch = {
        .inputs = images, .labels = labels, .count = (uint32_t)examples, .mean = mean, .std = deviation};
    const mask_range range = {.count = mask_count, .n = m->graph->components, .keeps = masks.data};
    engine e;
    engine_open(&e, m->graph,
                (engine_options){.backend = backend,
                                 .outputs = "margin",
                                 .examples = (uint32_t)examples,
                                 .masks = mask_count,
                                 .threads = 2,
                                 .reverse = true});
    float *gradients = engine_reverse(&e, &batch, REVERSE_MASK, 0, &range, NULL);
    const uint32_t n = m->graph->components;
    int kinks = 0;
    double worst = 0;
    for (size_t i = 0; i < mask_count * examples; i++) {
        const size_t s = i / examples, example = i % examples;
        const float *pytorch = (const float *)expected.data + (s * expected.shape[1] + example) * n;
        const double difference =
            pair_difference(m, &batch, example, range.keeps + s * n, gradients + i * n, pytorch, &kinks);
        if (!(difference <= worst) && !isnan(worst)) worst = difference;
    }
    CHECK_NEAR(worst, 0, LIMIT);
    CHECK(kinks <= (int)(mask_count * examples / 50));
    printf("# %s, %s: %zu masks, %zu examples, largest difference %.1e of an example's largest, but for %d at kinks\n",
           backend, golden->name, mask_count, examples, worst, kinks);
    engine_close(&e);
    free(gradients);
    free(images);
    free(labels);
done:
    model_destroy(m);
    npy_close(&rows);
    npy_close(&masks);
    npy_close(&expected);
}

int main(void) {
    static const char *const backends[] = {"reference", "cpu"};
    const char *archive = test_shared("cifar10/test-jpeg.tar.gz");
    importer *from = NULL;
    char command[1200], folder[512]; /* which the importer borrows */
    if (!archive || !test_shared("golden/vit_maskgrads.npy")) {
        test_begin("derivatives of published networks are PyTorch's");
        test_skip("shared/cifar10 and shared/golden are absent");
        return test_end();
    }
    if (REDUCED) { /* minutes; golden_gradients has every family in small */
        test_begin("derivatives of published networks are PyTorch's");
        test_skip("not under sanitizers: golden_gradients covers the code");
        return test_end();
    }
    snprintf(command, sizeof command, "tar -xzf '%s' -C '%s'", archive, test_temporary("."));
    CHECK_INT(system(command), 0);
    snprintf(folder, sizeof folder, "%s", test_temporary("test"));
    CHECK_OK(importer_open("imagefolder", folder, NULL, &from));
    for (size_t k = 0; from && k < sizeof backends / sizeof *backends; k++) {
        const backend_interface *interface;
        CHECK_OK(backend_find(backends[k], NULL, &interface));
        for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
            test_begin("%s: derivatives of %s are PyTorch's", backends[k], goldens[i].name);
            if (interface->run_reverse)
                compare(&goldens[i], backends[k], from);
            else
                test_skip("backend %s has no reverse pass", backends[k]);
        }
    }
    importer_destroy(from);
    return test_end();
}
