/*
 * next.c - kernels/cuda/next.cu and the outputs of language models in head.cu.
 *
 * Logits are given, so that what is expected follows from definitions alone, in double; outputs are compared with
 * output_value and output_gradient.
 */
#include <math.h>

#include "graph/graph.h"
#include "kernel_test.h"

enum { EXAMPLES = 2 };

/* Some positions of a batch. */
typedef struct problem {
    uint32_t pairs, tokens, vocabulary, first, rows;
    int32_t *token;    /* [EXAMPLES][tokens] */
    uint32_t *example; /* [pairs] */
    double *logits;    /* [rows][vocabulary] */
    gpu_next n;
} problem;

static uint32_t next_of(const problem *p, uint32_t position) {
    const uint32_t t = position % p->tokens;
    return t + 1 < p->tokens ? (uint32_t)p->token[p->example[position / p->tokens] * p->tokens + t + 1] : 0;
}

static problem problem_of(gpu_type type, uint32_t pairs, uint32_t tokens, uint32_t vocabulary) {
    problem p = {.pairs = pairs, .tokens = tokens, .vocabulary = vocabulary, .rows = pairs * tokens};
    p.token = kernel_buffer(EXAMPLES * tokens * sizeof *p.token);
    p.example = kernel_buffer(pairs * sizeof *p.example);
    for (uint32_t i = 0; i < EXAMPLES * tokens; i++) p.token[i] = (int32_t)kernel_random(vocabulary, i, vocabulary);
    for (uint32_t i = 0; i < pairs; i++) p.example[i] = (i + 1) % EXAMPLES;
    p.logits = kernel_values((size_t)p.rows * vocabulary, pairs, KERNEL_FLOAT);
    for (size_t i = 0; i < (size_t)p.rows * vocabulary; i++) p.logits[i] *= 20;
    p.n = (gpu_next){.type = type, .tokens = tokens, .vocabulary = vocabulary, .token = p.token, .example = p.example};
    p.n.y = kernel_buffer(p.rows * GPU_NEXT_CHANNELS * sizeof *p.n.y);
    return p;
}

/* Positions first .. first + rows - 1, by the logits of the problem. */
static gpu_next block(const problem *p, uint32_t first, uint32_t rows) {
    gpu_next n = p->n;
    n.first = first;
    n.rows = rows;
    n.logits = kernel_upload(GPU_F32, p->logits + (size_t)first * p->vocabulary, rows, p->vocabulary);
    return n;
}

/* ------------------------------------------------------------------------------------------------- forward */

static bool close_to(double actual, double expected) {
    if (isnan(expected) || isinf(expected)) return isnan(expected) ? isnan(actual) : actual == expected;
    return fabs(actual - expected) <= 4e-6 * fmax(1, fabs(expected));
}

/* Of logits without NaN. */
static void expect_numbers(const double *logits, uint32_t vocabulary, uint32_t next, double numbers[NEXT_CHANNELS]) {
    double largest = -INFINITY, sum = 0;
    uint32_t other = next == 0;
    for (uint32_t v = 0; v < vocabulary; v++) largest = fmax(largest, logits[v]);
    for (uint32_t v = 0; v < vocabulary; v++) sum += exp(logits[v] - largest);
    for (uint32_t v = 0; v < vocabulary; v++)
        if (v != next && logits[v] > logits[other]) other = v;
    numbers[NEXT_LOGIT] = logits[next];
    numbers[NEXT_LARGEST] = logits[other];
    numbers[NEXT_LOGSUM] = largest + log(sum);
    numbers[NEXT_OTHER] = other;
}

static void check_numbers(const problem *p, const double *logits, const float *y, uint32_t position) {
    double expected[NEXT_CHANNELS];
    expect_numbers(logits, p->vocabulary, next_of(p, position), expected);
    for (int c = 0; c < NEXT_CHANNELS; c++)
        if (!close_to(y[c], expected[c]))
            test_fail(__FILE__, __LINE__, "%u words, position %u, channel %d: %.9g, expected %.9g", p->vocabulary,
                      position, c, y[c], expected[c]);
}

/* All positions at once; and the same bits in two blocks. */
static void forward(void) {
    const uint32_t cases[][3] = {{2, 5, 67}, {1, 2, 2}, {3, 3, 130}, {1, 4, 3}, {1, 3, 2051}, {2, 2, 512}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        problem p = problem_of(GPU_F32, cases[k][0], cases[k][1], cases[k][2]);
        const gpu_next all = block(&p, 0, p.rows);
        KERNEL_RUN(gpu_next_launch(&all, 0));
        for (uint32_t q = 0; q < p.rows; q++)
            check_numbers(&p, p.logits + (size_t)q * p.vocabulary, all.y + q * NEXT_CHANNELS, q);
        p.n.y = kernel_buffer(p.rows * NEXT_CHANNELS * sizeof(float));
        const gpu_next front = block(&p, 0, p.rows / 2), back = block(&p, p.rows / 2, p.rows - p.rows / 2);
        KERNEL_RUN(gpu_next_launch(&back, 0));
        KERNEL_RUN(gpu_next_launch(&front, 0));
        kernel_same_bytes("in two blocks", p.n.y, all.y, p.rows * NEXT_CHANNELS * sizeof(float));
    }
}

/* Equal logits: the first counts, but not the next token itself. Some of -inf weigh nothing. Huge ones do not overflow. */
static void special(void) {
    enum { WORDS = 300, ROWS = 6 };
    problem p = problem_of(GPU_F32, 1, ROWS, WORDS);
    for (size_t i = 0; i < ROWS * WORDS; i++) p.logits[i] = i / WORDS == 2 ? 3e38 : 1;
    for (size_t v = 0; v < WORDS; v++) p.logits[WORDS + v] = v % 7 == 3 ? 2 : -INFINITY;
    for (size_t v = 0; v < WORDS; v++) p.logits[3 * WORDS + v] = v < 290 ? -INFINITY : -3.0;
    for (size_t v = 0; v < WORDS; v++) p.logits[4 * WORDS + v] = -1e30;
    const gpu_next all = block(&p, 0, ROWS);
    KERNEL_RUN(gpu_next_launch(&all, 0));
    for (uint32_t q = 0; q < ROWS; q++) check_numbers(&p, p.logits + (size_t)q * WORDS, all.y + q * NEXT_CHANNELS, q);

    /* a NaN, or infinity, is the largest other, the first of several, and spoils the sum; at the next token, its logit */
    for (int k = 0; k < 2; k++) {
        const uint32_t at = 77, again = 200, next = next_of(&p, 0);
        const float value = k ? INFINITY : NAN;
        problem broken = problem_of(GPU_F32, 1, ROWS, WORDS);
        broken.logits[at] = broken.logits[again] = broken.logits[WORDS + next_of(&p, 1)] = value;
        CHECK(next != at && next != again);
        const gpu_next n = block(&broken, 0, ROWS);
        KERNEL_RUN(gpu_next_launch(&n, 0));
        CHECK_INT(n.y[NEXT_OTHER], at);
        CHECK(isnan(n.y[NEXT_LOGSUM]) && isfinite(n.y[NEXT_LOGIT]));
        CHECK(k ? n.y[NEXT_LARGEST] == value : isnan(n.y[NEXT_LARGEST]));
        CHECK(isnan(n.y[NEXT_CHANNELS + NEXT_LOGSUM]) && isfinite(n.y[NEXT_CHANNELS + NEXT_LARGEST]));
        CHECK(k ? n.y[NEXT_CHANNELS + NEXT_LOGIT] == value : isnan(n.y[NEXT_CHANNELS + NEXT_LOGIT]));
        for (uint32_t i = 2 * NEXT_CHANNELS; i < ROWS * NEXT_CHANNELS; i++) CHECK(isfinite(n.y[i]));
    }
}

/* ----------------------------------------------------------------------------------------------- gradients */

/* dy [pairs * tokens][NEXT_CHANNELS]: some positions have none. */
static double *random_seed(const problem *p, bool sums) {
    double *dy = kernel_values((size_t)p->pairs * p->tokens * NEXT_CHANNELS, 12, KERNEL_BF16);
    for (uint32_t q = 0; q < p->pairs * p->tokens; q++) {
        dy[q * NEXT_CHANNELS + NEXT_OTHER] = 0;
        if (!sums) dy[q * NEXT_CHANNELS + NEXT_LOGSUM] = 0;
        for (int c = 0; q % 3 == 2 && c < NEXT_CHANNELS; c++) dy[q * NEXT_CHANNELS + c] = 0;
    }
    return dy;
}

static void logit_gradients(gpu_type type) {
    const uint32_t cases[][3] = {{2, 5, 67}, {1, 2, 2}, {3, 3, 132}, {1, 3, 520}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        problem p = problem_of(type, cases[k][0], cases[k][1], cases[k][2]);
        const uint32_t first = p.rows / 3, rows = p.rows - first, vocabulary = p.vocabulary;
        const double *dy = random_seed(&p, true);
        double *expected = kernel_zeros((size_t)rows * vocabulary);
        const gpu_next all = block(&p, 0, p.rows), n = block(&p, first, rows);
        KERNEL_RUN(gpu_next_launch(&all, 0));
        for (uint32_t r = 0; r < rows; r++) {
            const double *logits = p.logits + (size_t)(first + r) * vocabulary,
                         *given = dy + (first + r) * NEXT_CHANNELS;
            double numbers[NEXT_CHANNELS], *out = expected + (size_t)r * vocabulary;
            expect_numbers(logits, vocabulary, next_of(&p, first + r), numbers);
            for (uint32_t v = 0; v < vocabulary; v++)
                out[v] = exp(logits[v] - numbers[NEXT_LOGSUM]) * given[NEXT_LOGSUM];
            out[next_of(&p, first + r)] += given[NEXT_LOGIT];
            out[(size_t)numbers[NEXT_OTHER]] += given[NEXT_LARGEST];
        }
        const float *seed = kernel_floats(dy, p.rows * NEXT_CHANNELS);
        void *gradients = gpu_type_size(type) == 4 ? (void *)n.logits : kernel_output(type, rows, vocabulary);
        KERNEL_RUN(gpu_next_reverse_launch(&n, seed, gradients, 0));
        const double tolerance = kernel_epsilon(type) + 4e-6;
        kernel_compare("gradients of logits", kernel_download(type, gradients, rows, vocabulary), expected,
                       (size_t)rows * vocabulary, tolerance, tolerance);
    }
}

static void picked(gpu_type type) {
    const uint32_t cases[][4] = {{2, 5, 67, 20}, {1, 2, 2, 3}, {3, 7, 30, 64}};
    for (size_t k = 0; k < 2 * sizeof cases / sizeof *cases; k++) {
        const bool add = k % 2;
        const uint32_t *c = cases[k / 2], width = c[3];
        problem p = problem_of(type, c[0], c[1], c[2]);
        const double *weight = kernel_values((size_t)p.vocabulary * width, 14, KERNEL_FLOAT);
        const double *dy = random_seed(&p, false), *there = kernel_values(p.rows * width, 15, kernel_stored(type));
        double *expected = kernel_zeros(p.rows * width);
        const gpu_next all = block(&p, 0, p.rows);
        KERNEL_RUN(gpu_next_launch(&all, 0));
        for (uint32_t i = 0; i < p.rows * width; i++) {
            const uint32_t q = i / width, next = next_of(&p, q),
                           other = (uint32_t)all.y[q * NEXT_CHANNELS + NEXT_OTHER];
            const double mine = kernel_round(kernel_exact(type), weight[next * width + i % width]);
            const double theirs = kernel_round(kernel_exact(type), weight[other * width + i % width]);
            expected[i] = dy[q * NEXT_CHANNELS + NEXT_LOGIT] * mine + dy[q * NEXT_CHANNELS + NEXT_LARGEST] * theirs +
                          (add ? there[i] : 0);
        }
        const float *seed = kernel_floats(dy, p.rows * NEXT_CHANNELS);
        const void *packed = kernel_upload(type, weight, p.vocabulary, width);
        void *dx = add ? kernel_upload(type, there, p.rows, width) : kernel_output(type, p.rows, width);
        KERNEL_RUN(gpu_next_picked_launch(&all, seed, width, packed, dx, add, 0));
        const double tolerance = kernel_epsilon(type) + 1e-6;
        kernel_compare("picked", kernel_download(type, dx, p.rows, width), expected, p.rows * width, tolerance,
                       tolerance);
    }
}

/* ------------------------------------------------------------------------------------------------- outputs */

static void outputs(void) {
    static const struct {
        gpu_output_kind gpu;
        output_kind cpu;
    } kinds[] = {{GPU_OUTPUT_MARGIN, OUTPUT_MARGIN}, {GPU_OUTPUT_LOGIT, OUTPUT_LOGIT}, {GPU_OUTPUT_LOSS, OUTPUT_LOSS}};
    const uint32_t cases[][2] = {{5, 2}, {3, 70}, {9, 33}, {1, 300}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases * 3; i++) {
        const uint32_t pairs = cases[i / 3][0], tokens = cases[i / 3][1], count = tokens * NEXT_CHANNELS;
        const output_spec spec = {.kind = kinds[i % 3].cpu};
        int32_t *length = kernel_buffer(3 * sizeof *length);
        uint32_t *example = kernel_buffer(pairs * sizeof *example);
        for (uint32_t e = 0; e < 3; e++) length[e] = (int32_t)(2 + kernel_random(i, e, tokens - 1));
        for (uint32_t p = 0; p < pairs; p++) example[p] = (p + 1) % 3;
        float *values = kernel_floats(kernel_values((size_t)pairs * count, i, KERNEL_FLOAT), (size_t)pairs * count);
        float *out = kernel_buffer(pairs * sizeof *out), *gradient = kernel_buffer((size_t)pairs * count * sizeof *out);
        float *one = (float *)kernel_zeros(count);
        for (uint32_t p = 0; p < pairs; p++) /* numbers that no output may read */
            values[(size_t)p * count + (size_t)(length[example[p]] - 1) * NEXT_CHANNELS] = NAN;
        KERNEL_RUN(gpu_next_output_launch(kinds[i % 3].gpu, pairs, tokens, values, length, example, out, 0));
        KERNEL_RUN(gpu_next_gradient_launch(kinds[i % 3].gpu, pairs, tokens, length, example, 256, gradient, 0));
        for (uint32_t p = 0; p < pairs; p++) {
            const logits_view view = {.values = values + (size_t)p * count,
                                      .stride = 1,
                                      .count = count,
                                      .next = true,
                                      .label = (uint32_t)length[example[p]]};
            const float expected = output_value(&spec, &view);
            if (!(fabsf(out[p] - expected) <= 1.2e-7f * fabsf(expected) + 1e-12f))
                test_fail(__FILE__, __LINE__, "kind %zu, pair %u: %.9g, expected %.9g", i % 3, p, out[p], expected);
            output_gradient(&spec, &view, one);
            for (uint32_t c = 0; c < count; c++)
                if (gradient[(size_t)p * count + c] != 256 * one[c])
                    test_fail(__FILE__, __LINE__, "kind %zu, pair %u, number %u: %.9g, expected %.9g", i % 3, p, c,
                              gradient[(size_t)p * count + c], 256 * one[c]);
        }
    }
}

static void refusals(void) {
    problem p = problem_of(GPU_F32, 1, 2, 4);
    gpu_next bad[6];
    for (size_t i = 0; i < 6; i++) bad[i] = block(&p, 0, 2);
    bad[0].rows = 0;
    bad[1].vocabulary = 1;
    bad[2].vocabulary = (1u << 24) + 1;
    bad[3].first = UINT32_MAX;
    bad[4].logits = NULL;
    bad[5].y = NULL;
    for (size_t i = 0; i < 6; i++) {
        CHECK_INT(gpu_next_launch(&bad[i], 0), cudaErrorInvalidValue);
        CHECK_INT(gpu_next_reverse_launch(&bad[i], p.n.y, p.n.y, 0), cudaErrorInvalidValue);
    }
    CHECK_INT(gpu_next_picked_launch(&bad[4], p.n.y, 0, p.n.y, p.n.y, false, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_next_output_launch(GPU_OUTPUT_CLASS, 1, 2, NULL, NULL, NULL, NULL, 0), cudaErrorInvalidValue);
    CHECK_INT(gpu_next_gradient_launch(GPU_OUTPUT_LOSS, 1, 1, NULL, NULL, 1, NULL, 0), cudaErrorInvalidValue);
}

static void tests(void) {
    kernel_check("next tokens", forward);
    kernel_check("next tokens: special logits", special);
    kernel_each("next tokens: gradients of logits", KERNEL_ALL, logit_gradients);
    kernel_each("next tokens: gradients of single logits", KERNEL_ALL, picked);
    kernel_check("outputs of language models", outputs);
    kernel_check("next tokens: refusals", refusals);
}

int main(void) {
    return kernel_main(tests);
}
