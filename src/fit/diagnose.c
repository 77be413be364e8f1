/*
 * diagnose.c - what follows from solved weights: bias, R^2, leave-one-out correlation, noise.
 *
 * Leave-one-out (exact for linear smoothers, and for ridge with an unpenalised bias): the residual of mask i in the
 * fit without mask i is e_i / (1 - h_i), so its prediction is y_i - e_i / slack_i. No refit is needed. What is
 * correlated with y_i is that prediction minus the mean of y without mask i, which is (mean - y_i/m) m/(m-1): this
 * mean alone would correlate with y at -1, and fresh masks have nothing like it.
 * Noise: sigma^2 = sum e^2 / (m - 1 - freedom). Standard errors are those of the estimate about its own mean: for ridge
 * with effective degrees of freedom, covariance sigma^2 V D / (D + penalty)^2 V'; the shrinkage's bias is not in them.
 */
#include <math.h>
#include <string.h>

#include "fit/algebra.h"

enum { RESIDUAL, COUNT, A, AA, B, BB, AB }; /* rows of moments: a = y - mean, b = what predicts it from the others */
_Static_assert(AB + 1 == FIT_MOMENTS, "one row of moments each");

#define SPAN 64 /* examples of one task: their moments stay in the first-level cache */

typedef struct accumulation {
    const fit_solver *solver;
    const solver_block *block;
    const double *predicted; /* [count][E] X w, without bias */
    const double *offset;    /* [E] mean' w */
    double *moments;         /* [FIT_MOMENTS][E] */
    size_t masks;            /* m */
    size_t first, count;     /* masks of this expansion */
} accumulation;

/* Adds the masks of one expansion to the moments of SPAN examples, in mask order. */
static coar_status accumulate(void *context, size_t task, int worker) {
    (void)worker;
    const accumulation *a = context;
    size_t E = a->block->count, G = a->solver->penalties, end = (task + 1) * SPAN < E ? (task + 1) * SPAN : E;
    double m = (double)a->masks;
    for (size_t i = 0; i < a->count; i++) {
        size_t mask = a->first + i;
        const double *slack = a->solver->slack + mask * G;
        for (size_t z = task * SPAN; z < end; z++) {
            double y = a->block->y[mask * E + z] - a->block->mean[z];
            double residual = y - (a->predicted[i * E + z] - a->offset[z]);
            a->moments[RESIDUAL * E + z] += residual * residual;
            double s = slack[a->block->choice[z]];
            if (!(s > a->solver->slack_min)) continue;
            double held = y - (a->solver->dual ? a->solver->dual[mask * E + z] : residual) / s + y / (m - 1);
            a->moments[COUNT * E + z] += 1;
            a->moments[A * E + z] += y;
            a->moments[AA * E + z] += y * y;
            a->moments[B * E + z] += held;
            a->moments[BB * E + z] += held * held;
            a->moments[AB * E + z] += y * held;
        }
    }
    return COAR_OK;
}

/* Pearson's r from the moments of example z. Values are centred already, so one pass loses no digits that matter;
 * predictions that only rounding keeps from being constant have no correlation. */
static double held_correlation(const double *moments, size_t E, size_t z) {
    double count = moments[COUNT * E + z], a = moments[A * E + z], b = moments[B * E + z];
    double aa = moments[AA * E + z] - a * a / count, bb = moments[BB * E + z] - b * b / count;
    double ab = moments[AB * E + z] - a * b / count;
    if (!(count >= 2 && aa > 0 && bb > 1e-20 * moments[AA * E + z])) return NAN;
    return fmin(fmax(ab / sqrt(aa * bb), -1), 1);
}

/* offset[z] = mean' w: the prediction at the mean mask. */
static void mean_predictions(const fit_system *system, const solver_block *block, double *offset) {
    size_t E = block->count;
    memset(offset, 0, E * sizeof *offset);
    for (size_t j = 0; j < system->by_component.count; j++)
        for (size_t z = 0; z < E; z++) offset[z] += system->mean[j] * block->weight[j * E + z];
}

coar_status fit_diagnose(const fit_system *system, const fit_solver *solver, const solver_block *block,
                         fit_diagnosis *diagnosis) {
    size_t E = block->count, m = system->by_mask.count;
    double *moments = diagnosis->moments, *offset = diagnosis->bias;
    memset(moments, 0, FIT_MOMENTS * E * sizeof *moments);
    mean_predictions(system, block, offset);
    accumulation a = {solver, block, diagnosis->predicted, offset, moments, m, 0, 0};
    TRY(algebra_hold(system->device, block->weight, system->by_component.count, E));
    for (a.first = 0; a.first < m; a.first += DENSE_ROWS) {
        a.count = m - a.first < DENSE_ROWS ? m - a.first : DENSE_ROWS;
        TRY(algebra_bits_product(system->device, &system->by_mask, a.first, a.count, block->weight, E, system->rows,
                                 diagnosis->predicted));
        TRY(thread_pool_run(system->pool, (E + SPAN - 1) / SPAN, accumulate, &a));
    }
    for (size_t z = 0; z < E; z++) {
        double rss = moments[RESIDUAL * E + z], left = (double)(m - 1) - solver->freedom[block->choice[z]];
        diagnosis->bias[z] = block->mean[z] - offset[z];
        diagnosis->r2[z] = block->squares[z] > 0 ? 1 - rss / block->squares[z] : NAN;
        diagnosis->heldout[z] = held_correlation(moments, E, z);
        diagnosis->sigma[z] = left > 1e-9 * (double)m ? sqrt(rss / left) : NAN;
    }
    return COAR_OK;
}
