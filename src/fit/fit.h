/*
 * fit.h - linear models of outputs on masks: y(z) ~ b(z) + sum_j w_j(z) mask_j, all examples over one Gram matrix.
 * Must not know: files, runs, models.
 */
#ifndef COAR_FIT_FIT_H
#define COAR_FIT_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/fit_device.h"
#include "core/levels.h"
#include "core/log.h"
#include "core/threads.h"
#include "fit/share_device.h"

/* Averaged mask gradients of the same examples (core/levels.h says which masks; design in docs/estimators.md). */
typedef struct fit_gradients {
    level_masks masks;
    uint32_t passes;
    /* sums[LEVELS][count][n] of examples first .. first + count - 1 (first a multiple of LEVELS_BLOCK). */
    coar_status (*read)(void *context, uint64_t first, uint64_t count, double *sums);
    void *context;
    /* [LEVELS][n] over passes and examples of the blocks of LEVELS_BLOCK without any that are broken: squares of one
     * before the pass that broke it would count where its sums do not. */
    const double *squares_of_component;
    const double *squares_of_example; /* [LEVELS][N] over components and passes; NaN of a broken example */
    const float *baseline;            /* [N] outputs of the unablated model */
} fit_gradients;

/* Masks and outputs of one fit. Masks are packed bits, as in sampler.h. */
typedef struct fit_problem {
    const uint8_t *masks; /* [m][ceil(n/8)] */
    uint64_t m, N;
    uint32_t n;
    /* y[m][count] of examples first .. first + count - 1, f32; NaN = missing. */
    coar_status (*read)(void *context, uint64_t first, uint64_t count, float *y);
    void *context;
    bool leave_one_out;             /* m = n + 1: mask j < n ablates component j alone, mask n nothing */
    const fit_gradients *gradients; /* grad, grad+eb; else NULL. `grad` alone needs no masks: m may be 0 then */
    const uint32_t *group_first;    /* [groups + 1] component groups, the last entry n; NULL = one group */
    uint32_t groups;
} fit_problem;

typedef enum fit_estimator { FIT_OLS, FIT_RIDGE, FIT_EB, FIT_LASSO, FIT_GRAD, FIT_GRAD_EB } fit_estimator;

/* How a system is solved: by a dense matrix of side min(m, n), or by conjugate gradients on the packed masks. */
typedef enum fit_form { FIT_BY_SIZE, FIT_DIRECT, FIT_ITERATIVE } fit_form;

typedef struct fit_settings {
    fit_estimator estimator;
    fit_form form;
    bool standard_errors;
    thread_pool *pool; /* fit_plan_block also does without one */
    size_t memory;     /* of the host; 0 = what it has */
    const coar_callbacks *callbacks;
    fit_device *device;          /* counts, adds and factors in the CPU's place; NULL = the CPU does. Borrowed */
    const shared_device *shared; /* that device and those of the other ranks, for sums; NULL = it alone. Borrowed */
} fit_settings;

/* One block of solved examples; arrays live until the sink returns. */
typedef struct fit_result_block {
    uint64_t first, count;
    const float *weight, *bias;           /* [count][n], [count] */
    const double *penalty, *r2, *heldout; /* [count] */
    const float *standard_error;          /* [count][n] or NULL */
} fit_result_block;

typedef struct fit_summary {
    uint64_t examples_left_out, masks_left_out;
    double r2_mean, heldout_mean;
    double predicted, predicted_low, predicted_high; /* correlation on fresh masks, 95 % (diagnose.h) */
    bool iterative;
    /* Of ols and ridge that are iterative: |Xc' (y - Xc w) - penalty w| / |Xc' y| of the weights as they are handed
     * over, the most steps of conjugate gradients, and examples whose residual is above 1e-6. Else NaN and 0. */
    double residual_largest, residual_median;
    uint64_t steps_most, unsolved;
} fit_summary;

/* NULL: by size. */
coar_status fit_form_parse(const char *text, fit_form *out);
const char *fit_form_name(bool iterative);

/* NULL: ridge; what to take of a run with gradients is its caller's to choose. */
coar_status fit_estimator_parse(const char *text, fit_estimator *out);
const char *fit_estimator_name(fit_estimator e);
bool fit_estimator_takes_gradients(fit_estimator e);

/* Solves all examples, block by block in order, calling `sink` once per block; a failure of the sink ends the fit.
 *
 * Non-finite outputs: examples with more than 1 % of them, or with any non-finite gradient, are left out (all their
 * results NaN), then the masks with any in the examples that remain. The bias is not penalised.
 *   ols    m > n + 1: Cholesky of the centred Gram matrix. m <= n + 1, or masks that do not tell all components
 *          apart: the minimum-norm solution by eigenvectors (with a warning unless it is the only one).
 *          leave_one_out: weight = baseline minus output.
 *   ridge  minimises |y - b - X w|^2 + penalty |w|^2, the penalty chosen for each example by generalised
 *          cross-validation (Golub, Heath, Wahba 1979) among 97 values around the mean eigenvalue.
 *   eb     empirical Bayes: w_j ~ N(0, s^2 D_j), D learnt from up to 1,024 examples at once (prior.c). Minimises
 *          |y - b - X w|^2 + penalty sum_j w_j^2 / D_j, penalty = sigma^2 / s^2 by the evidence, among as many values.
 *   lasso  minimises |y - b - X w|^2 / 2 + penalty |w|_1; the penalty by generalised cross-validation (lasso_path.c).
 *   grad   averaged mask gradients (combine.c), calibrated on the masks (bands.c). Without masks (m < 2 used) they are
 *          not, and the bias is such that the mask that keeps everything gives the baseline.
 *   grad+eb  grad, and eb on what it leaves over; grad alone unless that predicts held-out masks better by more than a
 *          standard error.
 * penalty: 0 for ols and grad, and for grad+eb that is grad alone. r2: in sample. heldout: Pearson's r of y with exact
 * leave-one-out predictions at the chosen penalty, each less the mean it was fitted about; masks without which a weight
 * is undetermined are not predicted. Of eb and grad+eb these flatter, since the prior saw the mask: times one factor
 * that makes their mean what it is when it did not (crossfit.h), 0 where that is below 0, NaN where it is not defined. A
 * single example's is then neither leave-one-out nor cross-fitted: only the mean is what it says. Of lasso: predictions of the last tenth of the masks
 * from the others. standard_error: of ols and ridge the estimate about its own mean (shrink.c); of eb and grad+eb the
 * posterior's; of grad the noise of the averages and what combining and calibrating them draws to 0. lasso has none.
 * predicted: mean correlation to expect on fresh masks like these, with a 95 % interval (diagnose.h).
 * NaN where undefined: r2 and heldout of constant outputs; heldout of leave_one_out and of grad without masks; errors
 * without degrees of freedom.
 *
 * Iterative, by size where min(m, n) is above 30,000 (ols with m > n + 1), 12,288 (other ols, ridge) or 4,096 (eb, grad+eb:
 * the prior then from up to 256 examples): conjugate gradients (descent.h); heldout, errors and the penalties' degrees of
 * freedom are then those of masks drawn component by component (resolvent.h). Examples of ols and ridge whose residual is
 * above 1e-6 are warned of.
 *
 * Errors: COAR_ERROR_MEMORY with the figures when the system does not fit `memory` (0 = half of what this process may
 * use); COAR_ERROR_UNSUPPORTED when min(m, n) of FIT_DIRECT or n of the lasso is beyond a dense solver; COAR_STOPPED when
 * the callbacks ask for it. With a device, its Gram matrix and cross products are the CPU's to the bit, weights agree to
 * 1e-6 of the largest; its errors end the fit.
 * OpenBLAS works with as many threads as the pool for the duration of the call (a setting of the whole process). */
coar_status fit_solve(const fit_problem *problem, const fit_settings *settings,
                      coar_status (*sink)(void *context, const fit_result_block *block), void *context,
                      fit_summary *summary);

#endif
