/* head.c - kernels/cuda/head.cu against output_value, and sums in the order that is promised. */
#include "graph/graph.h"
#include "kernel_test.h"

typedef struct kind_pair {
    gpu_output_kind gpu;
    output_kind cpu;
} kind_pair;

static const kind_pair kinds[] = {{GPU_OUTPUT_MARGIN, OUTPUT_MARGIN},
                                  {GPU_OUTPUT_LOGIT, OUTPUT_LOGIT},
                                  {GPU_OUTPUT_CLASS, OUTPUT_LOGIT_CLASS},
                                  {GPU_OUTPUT_DIFFERENCE, OUTPUT_LOGIT_DIFFERENCE},
                                  {GPU_OUTPUT_LOSS, OUTPUT_LOSS}};

/* Equal, or both NaN; a loss may differ in its last place (two exponential functions of double). */
static bool equal(float actual, float expected, bool loss) {
    if (isnan(expected) || isnan(actual)) return isnan(expected) && isnan(actual);
    return actual == expected || (loss && fabsf(actual - expected) <= 1.2e-7f * fabsf(expected));
}

/* All outputs of `pairs` pairs of logits[pairs][gpu_stride(classes)] with labels of three examples. */
static void check_logits(uint32_t pairs, uint32_t classes, const float *logits) {
    const size_t stride = gpu_stride(classes);
    int32_t *label = kernel_buffer(3 * sizeof *label);
    uint32_t *example = kernel_buffer(pairs * sizeof *example);
    const uint32_t a = classes - 1, b = classes / 2 == a ? 0 : classes / 2;
    for (uint32_t e = 0; e < 3; e++) label[e] = (int32_t)kernel_random(21, e, classes);
    for (uint32_t p = 0; p < pairs; p++) example[p] = (p + 1) % 3;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const output_spec spec = {.kind = kinds[k].cpu, .a = a, .b = b};
        float *out = kernel_buffer(pairs * sizeof *out);
        KERNEL_RUN(gpu_output_launch(kinds[k].gpu, a, b, pairs, classes, logits, label, example, out, 0));
        for (uint32_t p = 0; p < pairs; p++) {
            float expected = output_value(
                &spec, &(logits_view){logits + p * stride, 1, classes, .label = (uint32_t)label[example[p]]});
            if (!equal(out[p], expected, spec.kind == OUTPUT_LOSS))
                test_fail(__FILE__, __LINE__, "kind %zu, %u classes, pair %u: %.9g, expected %.9g", k, classes, p,
                          out[p], expected);
        }
    }
}

static void check_outputs(void) {
    const uint32_t cases[][2] = {{5, 10}, {1, 2}, {9, 3}, {4, 33}, {3, 1000}, {2, 64}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t pairs = cases[k][0], classes = cases[k][1];
        double *values = kernel_values((size_t)pairs * classes, k, KERNEL_FLOAT);
        for (size_t i = 0; i < (size_t)pairs * classes; i++) values[i] *= 64; /* losses from 0 to 128 */
        check_logits(pairs, classes, kernel_upload(GPU_F32, values, pairs, classes));
    }
    CHECK(gpu_output_launch(GPU_OUTPUT_CLASS, 10, 0, 1, 10, NULL, NULL, NULL, NULL, 0) == cudaErrorInvalidValue);
    CHECK(gpu_output_launch(GPU_OUTPUT_DIFFERENCE, 0, 10, 1, 10, NULL, NULL, NULL, NULL, 0) == cudaErrorInvalidValue);
}

/* One special value in each pair's logits, at every class in turn. */
static void check_special(void) {
    const float special[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, -0.0f};
    enum { CLASSES = 35, STRIDE = 40 };
    for (size_t k = 0; k < sizeof special / sizeof *special; k++) {
        float *logits = kernel_upload(GPU_F32, kernel_values(CLASSES * CLASSES, 22, KERNEL_FLOAT), CLASSES, CLASSES);
        for (uint32_t p = 0; p < CLASSES; p++) logits[p * STRIDE + p] = special[k];
        check_logits(CLASSES, CLASSES, logits);
    }
    float *all = kernel_buffer(STRIDE * sizeof *all);
    for (uint32_t c = 0; c < STRIDE; c++) all[c] = c < CLASSES ? -INFINITY : 0;
    check_logits(1, CLASSES, all);
}

/* --------------------------------------------------------------------------------------------- gradients */

/* The gradients of all outputs, times 4, against output_gradient; the loss's to the last place of what is stored. */
static void check_gradients(gpu_type type, uint32_t pairs, uint32_t classes, const float *logits) {
    const size_t stride = gpu_stride(classes);
    int32_t *label = kernel_buffer(3 * sizeof *label);
    uint32_t *example = kernel_buffer(pairs * sizeof *example);
    const uint32_t a = classes - 1, b = classes / 2 == a ? 0 : classes / 2;
    for (uint32_t e = 0; e < 3; e++) label[e] = (int32_t)kernel_random(31, e, classes);
    for (uint32_t p = 0; p < pairs; p++) example[p] = (p + 1) % 3;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const output_spec spec = {.kind = kinds[k].cpu, .a = a, .b = b};
        const double tolerance = spec.kind == OUTPUT_LOSS ? kernel_epsilon(type) + 2.4e-7 : 0;
        double *expected = kernel_zeros(pairs * classes);
        float *one = (float *)kernel_zeros(classes);
        for (uint32_t p = 0; p < pairs; p++) {
            output_gradient(&spec,
                            &(logits_view){logits + p * stride, 1, classes, .label = (uint32_t)label[example[p]]}, one);
            for (uint32_t c = 0; c < classes; c++) expected[p * classes + c] = 4 * one[c];
        }
        void *gradient = kernel_output(type, pairs, classes);
        KERNEL_RUN(gpu_output_gradient_launch(kinds[k].gpu, a, b, type, pairs, classes, logits, label, example, 4,
                                              gradient, 0));
        kernel_compare(spec.kind == OUTPUT_LOSS ? "gradient of a loss" : "gradient",
                       kernel_download(type, gradient, pairs, classes), expected, pairs * classes, tolerance,
                       tolerance);
    }
}

static void gradients(gpu_type type) {
    const uint32_t cases[][2] = {{5, 10}, {9, 3}, {4, 33}, {2, 300}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint32_t pairs = cases[k][0], classes = cases[k][1];
        double *values = kernel_values((size_t)pairs * classes, k, KERNEL_FLOAT);
        for (size_t i = 0; i < (size_t)pairs * classes; i++) values[i] *= 8;
        check_gradients(type, pairs, classes, kernel_upload(GPU_F32, values, pairs, classes));
        for (size_t i = 0; i < (size_t)pairs * classes; i++) values[i] = rint(values[i] / 4); /* many equal ones */
        check_gradients(type, pairs, classes, kernel_upload(GPU_F32, values, pairs, classes));
    }
    CHECK(gpu_output_gradient_launch(GPU_OUTPUT_CLASS, 3, 0, type, 1, 3, NULL, NULL, NULL, 1, NULL, 0) ==
          cudaErrorInvalidValue);
}

/* A margin's other class, where logits are NaN or infinite: the first of the largest, NaN above all. */
static void special_gradients(void) {
    const float special[] = {NAN, INFINITY, -INFINITY, -0.0f};
    enum { CLASSES = 35, STRIDE = 40, LABEL = 20 };
    for (size_t k = 0; k < sizeof special / sizeof *special; k++) {
        float *logits = kernel_upload(GPU_F32, kernel_zeros(CLASSES * CLASSES), CLASSES, CLASSES);
        int32_t *label = kernel_buffer(sizeof *label);
        uint32_t *example = kernel_buffer(CLASSES * sizeof *example);
        *label = LABEL;
        memset(example, 0, CLASSES * sizeof *example);
        for (uint32_t p = 0; p < CLASSES; p++)
            for (uint32_t c = p; c < CLASSES; c += 7) logits[p * STRIDE + c] = special[k];
        float *gradient = kernel_output(GPU_F32, CLASSES, CLASSES), expected[CLASSES];
        KERNEL_RUN(gpu_output_gradient_launch(GPU_OUTPUT_MARGIN, 0, 0, GPU_F32, CLASSES, CLASSES, logits, label,
                                              example, 1, gradient, 0));
        const output_spec spec = {.kind = OUTPUT_MARGIN};
        for (uint32_t p = 0; p < CLASSES; p++) {
            output_gradient(&spec, &(logits_view){logits + p * STRIDE, 1, CLASSES, .label = LABEL}, expected);
            kernel_same_bytes("gradient of a margin", gradient + p * STRIDE, expected, sizeof expected);
        }
    }
}

/* ------------------------------------------------------------------------------------------- channel sums */

/* Sums in the order of pairs and positions, from where `sums` stood; also when the pairs come in two calls. */
static void check_sums(gpu_type type) {
    const uint32_t cases[][3] = {{3, 49, 24}, {2, 1, 3}, {5, 130, 8}, {2, 64, 70}, {1, 193, 33}, {4, 16, 4}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int wide = 0; wide < 2; wide++) {
            const uint32_t pairs = cases[k][0], positions = cases[k][1], channels = cases[k][2];
            const gpu_type stored = wide ? GPU_F32 : type;
            const size_t rows = (size_t)pairs * positions, bytes = channels * sizeof(double);
            double *x = kernel_values(rows * channels, 23, kernel_stored(stored));
            double *start = kernel_values(channels, 24, KERNEL_DOUBLE), *expected = kernel_copy(start, bytes);
            for (size_t i = 0; i < rows * channels; i++) expected[i % channels] += x[i];
            const void *in = kernel_upload(stored, x, rows, channels);
            double *once = kernel_copy(start, bytes), *twice = kernel_copy(start, bytes);
            KERNEL_RUN(gpu_channel_sums_launch(type, wide, pairs, positions, channels, in, once, 0));
            kernel_same_bytes("sums", once, expected, bytes);
            if (pairs == 1) continue;
            const size_t pair = positions * gpu_stride(channels) * gpu_type_size(stored);
            const void *rest = kernel_copy((const char *)in + pair, (pairs - 1) * pair);
            KERNEL_RUN(gpu_channel_sums_launch(type, wide, 1, positions, channels, in, twice, 0));
            KERNEL_RUN(gpu_channel_sums_launch(type, wide, pairs - 1, positions, channels, rest, twice, 0));
            kernel_same_bytes("sums in two calls", twice, expected, bytes);
        }
}

static void tests(void) {
    kernel_check("outputs", check_outputs);
    kernel_check("outputs of logits that are special", check_special);
    kernel_each("gradients of outputs", KERNEL_ALL, gradients);
    kernel_check("gradients of margins of logits that are special", special_gradients);
    kernel_each("channel sums", KERNEL_ALL, check_sums);
}

int main(void) {
    return kernel_main(tests);
}
