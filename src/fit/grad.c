/* grad.c - see grad.h. The gradients' part does not depend on the masks but for the calibration's few factors, so a
 * mask held out changes the inner solver's weights alone: its slack serves both. */
#include "fit/grad.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/algebra.h"
#include "fit/diagnose.h"

typedef struct grad {
    fit_solver head;
    fit_system *system;
    gradient_average *average;
    const gradient_bands *bands;
    fit_solver *inner;      /* NULL: gradients alone */
    double *slack;          /* [m], of gradients alone */
    double *own;            /* [n][E] the gradients' part of the weights */
    float *y;               /* [m][E] residuals */
    double *mean, *squares; /* [E] of them */
    double *predicted;      /* scratch [DENSE_ROWS][E] */
} grad;

static void grad_destroy(fit_solver *solver) {
    grad *s = (grad *)solver;
    if (!s) return;
    if (s->inner) s->inner->destroy(s->inner);
    free(s->slack);
    free(s->own);
    free(s->y);
    free(s->mean);
    free(s->squares);
    free(s->predicted);
    free(s);
}

static coar_status calibrated(gradient_average *g, const gradient_bands *bands, const solver_block *block,
                              double *weight) {
    TRY(gradient_weights(g, block->index, block->count, weight));
    gradient_bands_apply(bands, block->count, weight);
    return COAR_OK;
}

/* residual[m][E] = y - X weight: its constant is the bias's. predicted: scratch [DENSE_ROWS][E]. */
static coar_status subtract(const fit_system *system, const double *weight, const float *y, size_t E, double *predicted,
                            float *residual) {
    const size_t m = system->by_mask.count;
    TRY(algebra_hold(system->device, weight, system->by_component.count, E));
    for (size_t i = 0; i < m; i += DENSE_ROWS) {
        const size_t count = m - i < DENSE_ROWS ? m - i : DENSE_ROWS;
        TRY(algebra_bits_product(system->device, &system->by_mask, i, count, weight, E, system->rows, predicted));
        for (size_t x = 0; x < count * E; x++) residual[i * E + x] = (float)(y[i * E + x] - predicted[x]);
    }
    return COAR_OK;
}

coar_status gradient_residuals(const fit_system *system, gradient_average *g, const gradient_bands *bands,
                               const fit_sample *sample, fit_sample *residuals) {
    double *weight = NULL, *predicted = NULL;
    fit_sample made = {.count = 0};
    coar_status status;
    TRY_GOTO(memory_new(g->n, SAMPLE_CHUNK * sizeof *weight, "residuals", &weight));
    TRY_GOTO(memory_new(DENSE_ROWS, SAMPLE_CHUNK * sizeof *predicted, "residuals", &predicted));
    TRY_GOTO(fit_sample_without(sample, 0, 0, &made));
    for (size_t c = 0; c < sample->chunks; c++) {
        solver_block block;
        fit_sample_chunk(sample, c, &block);
        TRY_GOTO(calibrated(g, bands, &block, weight));
        TRY_GOTO(subtract(system, weight, block.y, block.count, predicted, fit_sample_outputs(&made, c)));
    }
    fit_sample_recentre(&made);
    *residuals = made;
    made = (fit_sample){.count = 0};
done:
    fit_sample_free(&made);
    free(predicted);
    free(weight);
    return status;
}

static coar_status grad_solve(fit_solver *solver, solver_block *block) {
    grad *s = (grad *)solver;
    const size_t E = block->count, n = s->average->n;
    TRY(calibrated(s->average, s->bands, block, s->own));
    if (!s->inner) {
        memcpy(block->weight, s->own, n * E * sizeof(double));
        memset(block->choice, 0, E * sizeof *block->choice);
        for (size_t z = 0; z < E; z++) block->penalty[z] = 0, block->left[z] = (double)(s->system->by_mask.count - 1);
        return COAR_OK;
    }
    TRY(subtract(s->system, s->own, block->y, E, s->predicted, s->y));
    fit_centre(s->y, s->system->by_mask.count, E, s->mean, s->squares);
    solver_block rest = *block; /* the same places for results */
    rest.y = s->y;
    rest.mean = s->mean;
    rest.squares = s->squares;
    TRY(s->inner->solve(s->inner, &rest));
    for (size_t x = 0; x < n * E; x++) block->weight[x] += s->own[x];
    return COAR_OK;
}

/* With an inner solver its posterior: what the gradients are wrong by is what its prior is the prior of. */
static coar_status grad_errors(fit_solver *solver, const solver_block *block, const double *sigma, float *error) {
    grad *s = (grad *)solver;
    if (s->inner) return fit_standard_errors(s->inner, block, s->average->n, sigma, error);
    TRY(gradient_errors(s->average, block->index, block->count, error));
    gradient_bands_errors(s->bands, block->count, error);
    return COAR_OK;
}

static coar_status allocate(grad *s) {
    static const char what[] = "a block of examples";
    const size_t E = s->system->block, m = s->system->by_mask.count;
    TRY(memory_new(s->average->n, E * sizeof(double), what, &s->own));
    if (!s->inner) return memory_new(m, sizeof(double), "leverages", &s->slack);
    TRY(memory_new(m, E * sizeof(float), what, &s->y));
    TRY(memory_new(E, sizeof(double), what, &s->mean));
    TRY(memory_new(E, sizeof(double), what, &s->squares));
    return memory_new(DENSE_ROWS, E * sizeof(double), what, &s->predicted);
}

coar_status grad_create(fit_system *system, gradient_average *g, const gradient_bands *bands, fit_solver *inner,
                        fit_solver **out) {
    const size_t m = system->by_mask.count;
    grad *s = NULL;
    coar_status status = memory_new(1, sizeof *s, "the fit", &s);
    if (status != COAR_OK) {
        if (inner) inner->destroy(inner);
        return status;
    }
    s->system = system;
    s->average = g;
    s->bands = bands;
    s->inner = inner;
    TRY_GOTO(allocate(s));
    for (size_t i = 0; i < m && !inner; i++) s->slack[i] = 1 - 1 / (double)m; /* the bias's leverage alone */
    s->head = (fit_solver){
        .solve = grad_solve,
        .errors = grad_errors,
        .destroy = grad_destroy,
        .columns = inner ? inner->columns : 1,
        .slack = inner ? inner->slack : s->slack,
        .slack_min = inner ? inner->slack_min : SLACK_MIN,
        .error_scale = inner ? inner->error_scale : NULL,
    };
    *out = &s->head;
    s = NULL;
done:
    if (s) grad_destroy(&s->head);
    return status;
}
