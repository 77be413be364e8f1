/*
 * diagnose.c - see diagnose.h.
 *
 * Leave-one-out (exact for linear smoothers, and for ridge with an unpenalised bias): the residual of mask i in the
 * fit without mask i is e_i / (1 - h_i), so its prediction is y_i - e_i / slack_i. No refit is needed. What is
 * correlated with y_i is that prediction minus the mean of y without mask i, which is (mean - y_i/m) m/(m-1): this
 * mean alone would correlate with y at -1, and fresh masks have nothing like it. A solver without slack gives weights
 * from the first masks alone, and the others are predicted.
 * Noise: sigma^2 = sum e^2 / degrees of freedom left over.
 */
#include "fit/diagnose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/algebra.h"

/* Rows of moments: a = y - mean, b = what predicts it from other masks. */
enum { RESIDUAL, COUNT, A, AA, B, BB, AB };

_Static_assert(AB + 1 == FIT_MOMENTS, "one row of moments each");

#define SPAN 64 /* examples of one task: the moments of a part stay in the second-level cache */

coar_status fit_diagnosis_create(size_t block, fit_diagnosis *out) {
    static const char what[] = "a block of examples";
    fit_diagnosis d = {.bias = NULL};
    coar_status status;
    TRY_GOTO(memory_new(block, sizeof(double), what, &d.bias));
    TRY_GOTO(memory_new(block, sizeof(double), what, &d.r2));
    TRY_GOTO(memory_new(block, sizeof(double), what, &d.heldout));
    TRY_GOTO(memory_new(block, sizeof(double), what, &d.sigma));
    TRY_GOTO(memory_new(block, FIT_PARTS * sizeof(double), what, &d.without));
    TRY_GOTO(memory_new(block, DENSE_ROWS * sizeof(double), what, &d.predicted));
    TRY_GOTO(memory_new(block, FIT_PARTS * FIT_MOMENTS * sizeof(double), what, &d.moments));
    *out = d;
    return COAR_OK;
done:
    fit_diagnosis_free(&d);
    return status;
}

void fit_diagnosis_free(fit_diagnosis *d) {
    free(d->bias);
    free(d->r2);
    free(d->heldout);
    free(d->sigma);
    free(d->without);
    free(d->predicted);
    free(d->moments);
    *d = (fit_diagnosis){.bias = NULL};
}

/* --------------------------------------------------------------------------------------------- moments */

typedef struct accumulation {
    const fit_solver *solver;
    const solver_block *block;
    const double *predicted; /* [count][E] X w, without bias */
    const double *offset;    /* [E] mean' w */
    double *moments;         /* [FIT_PARTS][FIT_MOMENTS][E] */
    size_t masks;            /* m */
    size_t first, count;     /* masks of this expansion */
} accumulation;

static void add_pair(double *moments, size_t E, double a, double b) {
    moments[COUNT * E] += 1;
    moments[A * E] += a;
    moments[AA * E] += a * a;
    moments[B * E] += b;
    moments[BB * E] += b * b;
    moments[AB * E] += a * b;
}

/* Adds the masks of one expansion to the moments of SPAN examples, in mask order. */
static coar_status add_fitted(void *context, size_t task, int worker) {
    (void)worker;
    const accumulation *a = context;
    const fit_solver *solver = a->solver;
    const size_t E = a->block->count, G = solver->columns, end = (task + 1) * SPAN < E ? (task + 1) * SPAN : E;
    const double m = (double)a->masks;
    for (size_t i = 0; i < a->count; i++) {
        const size_t mask = a->first + i;
        const double *slack = solver->slack ? solver->slack + mask * G : NULL;
        double *moments = a->moments + mask * FIT_PARTS / a->masks * FIT_MOMENTS * E;
        for (size_t z = task * SPAN; z < end; z++) {
            const double y = a->block->y[mask * E + z] - a->block->mean[z];
            const double residual = y - (a->predicted[i * E + z] - a->offset[z]);
            moments[RESIDUAL * E + z] += residual * residual;
            const double s = slack ? slack[a->block->choice[z]] : 0;
            if (!slack || !(s > solver->slack_min)) continue;
            const double left = solver->dual ? solver->dual[mask * E + z] : residual;
            add_pair(moments + z, E, y, y - left / s + y / (m - 1));
        }
    }
    return COAR_OK;
}

/* The same for predictions of a refit; its mean output is one constant, which correlations do not see. The parts are
 * those of the masks that are predicted. */
static coar_status add_refitted(void *context, size_t task, int worker) {
    (void)worker;
    const accumulation *a = context;
    const size_t E = a->block->count, end = (task + 1) * SPAN < E ? (task + 1) * SPAN : E;
    const size_t refit = a->solver->refit_masks;
    for (size_t i = 0; i < a->count; i++) {
        const size_t mask = a->first + i;
        double *moments = a->moments + (mask - refit) * FIT_PARTS / (a->masks - refit) * FIT_MOMENTS * E;
        for (size_t z = task * SPAN; z < end; z++)
            add_pair(moments + z, E, a->block->y[mask * E + z] - a->block->mean[z],
                     a->predicted[i * E + z] - a->offset[z]);
    }
    return COAR_OK;
}

/* offset[z] = mean' w: the prediction at the mean mask. */
static void mean_predictions(const fit_system *system, const double *weight, size_t E, double *offset) {
    memset(offset, 0, E * sizeof *offset);
    for (size_t j = 0; j < system->by_component.count; j++)
        for (size_t z = 0; z < E; z++) offset[z] += system->mean[j] * weight[j * E + z];
}

/* Runs `add` over the masks first .. end - 1, with predictions by weight[n][E]. */
static coar_status add_masks(const fit_system *system, const double *weight, size_t first, size_t end, thread_task add,
                             fit_diagnosis *d, accumulation *a) {
    const size_t E = a->block->count;
    a->predicted = d->predicted;
    a->offset = d->bias;
    mean_predictions(system, weight, E, d->bias);
    TRY(algebra_hold(system->device, weight, system->by_component.count, E));
    for (a->first = first; a->first < end; a->first += DENSE_ROWS) {
        a->count = end - a->first < DENSE_ROWS ? end - a->first : DENSE_ROWS;
        TRY(algebra_bits_product(system->device, &system->by_mask, a->first, a->count, weight, E, system->rows,
                                 d->predicted));
        TRY(thread_pool_run(system->pool, (E + SPAN - 1) / SPAN, add, a));
    }
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------- conclusions */

/* Pearson's r of example z over all parts but `without` (FIT_PARTS: over all). Values are centred already, so one pass
 * loses no digits that matter; predictions that only rounding keeps from being constant have no correlation. */
static double held_correlation(const double *moments, size_t E, size_t z, size_t without) {
    double sum[FIT_MOMENTS] = {0};
    for (size_t p = 0; p < FIT_PARTS; p++)
        for (size_t x = 0; x < FIT_MOMENTS && p != without; x++) sum[x] += moments[(p * FIT_MOMENTS + x) * E + z];
    const double count = sum[COUNT], aa = sum[AA] - sum[A] * sum[A] / count, bb = sum[BB] - sum[B] * sum[B] / count;
    const double ab = sum[AB] - sum[A] * sum[B] / count;
    if (!(count >= 2 && aa > 0 && bb > 1e-20 * sum[AA])) return NAN;
    return fmin(fmax(ab / sqrt(aa * bb), -1), 1);
}

void fit_held_correlations(const double *moments, size_t E, double *heldout, double *without) {
    for (size_t z = 0; z < E; z++) {
        heldout[z] = held_correlation(moments, E, z, FIT_PARTS);
        for (size_t p = 0; p < FIT_PARTS; p++) {
            const double r = held_correlation(moments, E, z, p);
            without[p * E + z] = isnan(r) ? heldout[z] : r;
        }
    }
}

static void conclude(const solver_block *block, size_t m, size_t z, fit_diagnosis *d) {
    const size_t E = block->count;
    double rss = 0;
    for (size_t p = 0; p < FIT_PARTS; p++) rss += d->moments[(p * FIT_MOMENTS + RESIDUAL) * E + z];
    d->bias[z] = block->mean[z] - d->bias[z];
    d->r2[z] = block->squares[z] > 0 ? 1 - rss / block->squares[z] : NAN;
    d->sigma[z] = block->left[z] > 1e-9 * (double)m ? sqrt(rss / block->left[z]) : NAN;
}

coar_status fit_diagnose(const fit_system *system, const fit_solver *solver, const solver_block *block,
                         fit_diagnosis *diagnosis) {
    const size_t E = block->count, m = system->by_mask.count;
    accumulation a = {.solver = solver, .block = block, .moments = diagnosis->moments, .masks = m};
    memset(diagnosis->moments, 0, FIT_PARTS * FIT_MOMENTS * E * sizeof *diagnosis->moments);
    if (solver->refit) TRY(add_masks(system, solver->refit, solver->refit_masks, m, add_refitted, diagnosis, &a));
    TRY(add_masks(system, block->weight, 0, m, add_fitted, diagnosis, &a));
    for (size_t z = 0; z < E; z++) conclude(block, m, z, diagnosis);
    fit_held_correlations(diagnosis->moments, E, diagnosis->heldout, diagnosis->without);
    return COAR_OK;
}

coar_status fit_diagnose_held(const fit_system *system, const fit_solver *solver, const solver_block *block,
                              size_t first, size_t end, fit_diagnosis *diagnosis, double *moments) {
    accumulation a = {.solver = solver, .block = block, .moments = moments, .masks = system->by_mask.count};
    return add_masks(system, block->weight, first, end, add_fitted, diagnosis, &a);
}

coar_status fit_standard_errors(fit_solver *solver, const solver_block *block, size_t n, const double *sigma,
                                float *error) {
    if (solver->errors) return solver->errors(solver, block, sigma, error);
    for (size_t z = 0; z < block->count; z++)
        for (size_t j = 0; j < n; j++)
            error[z * n + j] = (float)(sigma[z] * solver->error_scale[j * solver->columns + block->choice[z]]);
    return COAR_OK;
}
