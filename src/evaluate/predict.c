/* predict.c - see evaluate.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/run_masks.h"
#include "core/memory.h"
#include "core/statistics.h"
#include "evaluate/correlation.h"
#include "evaluate/evaluate.h"
#include "fit/dense.h"

/* More examples at once make no product faster. */
#define BLOCK_MAX 1024

static coar_status fresh_columns(const evaluate_truth *t, bit_columns *out) {
    uint8_t *masks;
    TRY(run_masks_pack(t->sampler, 0, t->masks, t->pool, "fresh masks", &masks));
    coar_status status = bit_columns_copy(masks, t->masks, t->sampler->n, out);
    free(masks);
    return status;
}

/* ------------------------------------------------------------------------------------------ predictions */

typedef struct prediction {
    bit_columns masks;
    size_t block;   /* most examples at once */
    float *weight;  /* [E][n] as stored */
    float *bias;    /* [E] */
    double *turned; /* [n][E] */
    double *rows;   /* [DENSE_ROWS][n] */
    double *sums;   /* [DENSE_ROWS][E] */
} prediction;

static void prediction_free(prediction *p) {
    bit_columns_free(&p->masks);
    free(p->weight);
    free(p->bias);
    free(p->turned);
    free(p->rows);
    free(p->sums);
}

static coar_status prediction_new(const evaluate_truth *t, prediction *p) {
    static const char what[] = "predictions";
    size_t n = t->sampler->n;
    double budget = t->memory ? (double)t->memory : (double)memory_default();
    double fixed = 2.0 * (double)t->masks * ((double)n / 8 + 4 * (double)t->examples) + 8.0 * DENSE_ROWS * (double)n;
    double each = 12.0 * (double)n + 8.0 * DENSE_ROWS + 4, fit = floor((budget - fixed) / each);
    if (fit < 1)
        return status_set(
            COAR_ERROR_MEMORY,
            "--memory: predicting %llu masks and %llu examples needs at least %.0f MiB, and may take %.0f MiB",
            (unsigned long long)t->masks, (unsigned long long)t->examples, ceil((fixed + each) / 1048576),
            floor(budget / 1048576));
    p->block = fit < BLOCK_MAX ? (size_t)fit : BLOCK_MAX;
    if (p->block > t->examples) p->block = (size_t)t->examples;
    TRY(fresh_columns(t, &p->masks));
    TRY(memory_new(n, p->block * sizeof(float), what, &p->weight));
    TRY(memory_new(p->block, sizeof(float), what, &p->bias));
    TRY(memory_new(n, p->block * sizeof(double), what, &p->turned));
    TRY(memory_new(n, DENSE_ROWS * sizeof(double), what, &p->rows));
    return memory_new(p->block, DENSE_ROWS * sizeof(double), what, &p->sums);
}

/* predicted[masks][N], columns first .. first + E - 1: bias + sum_j weight_j mask_j in double. */
static void predict_block(prediction *p, uint64_t first, size_t E, size_t N, float *predicted) {
    size_t n = p->masks.length, masks = p->masks.count;
    for (size_t z = 0; z < E; z++)
        for (size_t j = 0; j < n; j++) p->turned[j * E + z] = p->weight[z * n + j];
    for (size_t i = 0; i < masks; i += DENSE_ROWS) {
        size_t count = masks - i < DENSE_ROWS ? masks - i : DENSE_ROWS;
        bits_product(&p->masks, i, count, p->turned, E, p->rows, p->sums);
        for (size_t r = 0; r < count; r++)
            for (size_t z = 0; z < E; z++)
                predicted[(i + r) * N + first + z] = (float)(p->bias[z] + p->sums[r * E + z]);
    }
}

static coar_status predict(const evaluate_truth *t, const char *fit, float *predicted) {
    prediction p = {0};
    coar_status status;
    TRY_GOTO(prediction_new(t, &p));
    for (uint64_t first = 0; first < t->examples; first += p.block) {
        size_t E = t->examples - first < p.block ? (size_t)(t->examples - first) : p.block;
        TRY_GOTO(store_read_fit(t->store, fit, first, E, p.weight, p.bias, NULL, NULL, NULL));
        predict_block(&p, first, E, (size_t)t->examples, predicted);
    }
done:
    prediction_free(&p);
    return status;
}

/* ----------------------------------------------------------------------------------------- correlations */

typedef struct correlating {
    const float *predicted, *truth; /* [masks][examples] */
    size_t masks, examples;
    double *pearson, *spearman; /* [examples] */
} correlating;

static coar_status correlate(void *context, size_t z, int worker) {
    (void)worker;
    const correlating *c = context;
    c->pearson[z] = correlation_pearson(c->predicted + z, c->truth + z, c->masks, c->examples);
    return correlation_spearman(c->predicted + z, c->truth + z, c->masks, c->examples, &c->spearman[z]);
}

static coar_status summarise(const evaluate_truth *t, const fit_info *fit, const correlating *c, coar_evaluation *out) {
    uint64_t defined, ranked;
    coar_evaluation e = {.alpha = t->alpha, .masks = t->masks, .seed = t->seed, .examples = t->examples};
    memcpy(e.fit, fit->name, sizeof e.fit);
    snprintf(e.output, sizeof e.output, "%s", fit->output);
    e.pearson_mean = mean_of_defined(c->pearson, c->examples, &defined);
    e.spearman_mean = mean_of_defined(c->spearman, c->examples, &ranked);
    e.examples_undefined = t->examples - defined;
    TRY(correlation_bootstrap(c->predicted, c->truth, c->masks, c->examples, CORRELATION_DRAWS, t->seed, &e.pearson_low,
                              &e.pearson_high));
    *out = e;
    return COAR_OK;
}

coar_status evaluate_fit(const evaluate_truth *t, const fit_info *fit, coar_evaluation *out) {
    size_t cells;
    float *predicted = NULL, *truth = NULL;
    correlating c = {.masks = (size_t)t->masks, .examples = (size_t)t->examples};
    int threads_before = dense_threads(thread_pool_size(t->pool));
    coar_status status = COAR_OK;
    if (!size_mul((size_t)t->masks, (size_t)t->examples, &cells))
        TRY_GOTO(status_set(COAR_ERROR_MEMORY, "--masks: too many predictions"));
    TRY_GOTO(memory_new(cells, sizeof *predicted, "predictions", &predicted));
    TRY_GOTO(memory_new(cells, sizeof *truth, "fresh outputs", &truth));
    TRY_GOTO(memory_new(c.examples, sizeof *c.pearson, "correlations", &c.pearson));
    TRY_GOTO(memory_new(c.examples, sizeof *c.spearman, "correlations", &c.spearman));
    TRY_GOTO(predict(t, fit->name, predicted));
    TRY_GOTO(store_read_truth(t->store, t->stage, fit->output, t->masks, truth));
    c.predicted = predicted;
    c.truth = truth;
    TRY_GOTO(thread_pool_run(t->pool, c.examples, correlate, &c));
    TRY_GOTO(summarise(t, fit, &c, out));
    TRY_GOTO(store_write_predicted(t->store, t->stage, fit->name, fit->output, t->masks, t->examples, predicted,
                                   c.pearson, c.spearman));
done:
    dense_threads(threads_before);
    free(c.spearman);
    free(c.pearson);
    free(truth);
    free(predicted);
    return status;
}
