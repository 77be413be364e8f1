/*
 * solve.c - one fit from beginning to end: what is left out, which solver, then block after block of examples through
 * solver, diagnosis and sink.
 */
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/iterative.h"
#include "fit/make.h"
#include "fit/plan.h"

/* Buffers of one block of at most `block` examples. */
typedef struct buffers {
    uint64_t *index;                          /* [E] */
    float *y;                                 /* [m][E] as read, then [masks used][E] */
    double *mean, *squares;                   /* [E] */
    double *weight;                           /* [n][E] */
    double *penalty, *left;                   /* [E] */
    uint32_t *choice;                         /* [E] */
    float *weight_out, *bias_out, *error_out; /* [E][n], [E], [E][n] or NULL */
    fit_diagnosis diagnosis;
} buffers;

static void buffers_free(buffers *b) {
    free(b->index);
    free(b->y);
    free(b->mean);
    free(b->squares);
    free(b->weight);
    free(b->penalty);
    free(b->left);
    free(b->choice);
    free(b->weight_out);
    free(b->bias_out);
    free(b->error_out);
    fit_diagnosis_free(&b->diagnosis);
}

static coar_status buffers_create(const fit_problem *problem, bool errors, size_t E, buffers *b) {
    static const char what[] = "a block of examples";
    size_t n = problem->n;
    TRY(memory_new(E, sizeof *b->index, what, &b->index));
    TRY(memory_new(problem->m, E * sizeof(float), what, &b->y));
    TRY(memory_new(E, sizeof(double), what, &b->mean));
    TRY(memory_new(E, sizeof(double), what, &b->squares));
    TRY(memory_new(n, E * sizeof(double), what, &b->weight));
    TRY(memory_new(E, sizeof(double), what, &b->penalty));
    TRY(memory_new(E, sizeof(double), what, &b->left));
    TRY(memory_new(E, sizeof(uint32_t), what, &b->choice));
    TRY(memory_new(n, E * sizeof(float), what, &b->weight_out));
    TRY(memory_new(E, sizeof(float), what, &b->bias_out));
    if (errors) TRY(memory_new(n, E * sizeof(float), what, &b->error_out));
    return fit_diagnosis_create(E, &b->diagnosis);
}

/* How weights come about. */
typedef enum fit_way {
    WAY_NONE,          /* all examples are left out */
    WAY_SOLVER,        /* from a system of masks */
    WAY_LEAVE_ONE_OUT, /* baseline minus output */
    WAY_GRADIENTS      /* gradients without masks to calibrate them on */
} fit_way;

typedef struct fit_run {
    fit_problem problem; /* component groups filled in */
    const fit_settings *settings;
    size_t block;
    fit_scan scan;
    fit_way way;
    fit_made made;
    buffers buffers;
    fit_summary summary;
    uint64_t r2_count;
    fit_outlook outlook;
    double *residual; /* [N] of the examples solved so far, where the solver has them */
    uint64_t residuals;
} fit_run;

static size_t masks_used(const fit_run *run) {
    return (size_t)(run->problem.m - run->scan.masks_left_out);
}

/* ------------------------------------------------------------------------------------------ closed forms */

/* Nothing is left over to be held out or to estimate noise from. */
static void undiagnosed(buffers *b, size_t z, double weights, float at_all, double r2) {
    b->bias_out[z] = (float)(at_all - weights);
    b->penalty[z] = 0;
    b->diagnosis.r2[z] = r2;
    b->diagnosis.heldout[z] = NAN;
}

/* Baseline minus output: with mask n keeping everything and mask j all but component j, these weights meet every output
 * exactly, as least squares would. */
static void leave_one_out(size_t n, size_t E, buffers *b) {
    const float *baseline = b->y + n * E;
    for (size_t z = 0; z < E; z++) {
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            double weight = (double)baseline[z] - b->y[j * E + z];
            sum += weight;
            b->weight_out[z * n + j] = (float)weight;
            if (b->error_out) b->error_out[z * n + j] = NAN;
        }
        undiagnosed(b, z, sum, baseline[z], b->squares[z] > 0 ? 1 : NAN);
    }
}

/* Uncalibrated, and a bias that meets the unablated output. */
static coar_status gradients_alone(fit_run *run, uint64_t first, size_t E) {
    buffers *b = &run->buffers;
    const size_t n = run->problem.n;
    TRY(gradient_weights(&run->made.average, b->index, E, b->weight));
    for (size_t z = 0; z < E; z++) {
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            sum += b->weight[j * E + z];
            b->weight_out[z * n + j] = (float)b->weight[j * E + z];
        }
        undiagnosed(b, z, sum, run->problem.gradients->baseline[first + z], NAN);
    }
    return b->error_out ? gradient_errors(&run->made.average, b->index, E, b->error_out) : COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- blocks */

static coar_status solve_masks(fit_run *run, size_t E) {
    buffers *b = &run->buffers;
    const size_t n = run->problem.n;
    fit_made *made = &run->made;
    solver_block block = {.count = E,
                          .index = b->index,
                          .y = b->y,
                          .mean = b->mean,
                          .squares = b->squares,
                          .weight = b->weight,
                          .penalty = b->penalty,
                          .left = b->left,
                          .choice = b->choice};
    TRY(made->solver->solve(made->solver, &block));
    TRY(fit_diagnose(&made->system, made->solver, &block, &b->diagnosis));
    for (size_t z = 0; z < E; z++) {
        for (size_t j = 0; j < n; j++) b->weight_out[z * n + j] = (float)b->weight[j * E + z];
        b->bias_out[z] = (float)b->diagnosis.bias[z];
        if (made->corrected) b->diagnosis.heldout[z] *= made->correction;
    }
    return b->error_out ? fit_standard_errors(made->solver, &block, n, b->diagnosis.sigma, b->error_out) : COAR_OK;
}

/* Residuals and steps of the block's examples that are not left out. */
static coar_status keep_residuals(fit_run *run, uint64_t first, size_t E) {
    const fit_solver *solver = run->made.solver;
    fit_summary *summary = &run->summary;
    if (!solver->residual) return COAR_OK;
    if (!run->residual) TRY(memory_new(run->problem.N, sizeof *run->residual, "residuals", &run->residual));
    for (size_t z = 0; z < E; z++) {
        if (run->scan.example_out[first + z]) continue;
        run->residual[run->residuals++] = solver->residual[z];
        summary->unsolved += !(solver->residual[z] <= ITERATIVE_RESIDUAL);
        if (solver->steps[z] > summary->steps_most) summary->steps_most = solver->steps[z];
    }
    return COAR_OK;
}

/* Examples left out get NaN for everything. */
static void blank(const fit_run *run, uint64_t first, size_t E) {
    const buffers *b = &run->buffers;
    const size_t n = run->problem.n;
    for (size_t z = 0; z < E; z++) {
        if (!run->scan.example_out[first + z]) continue;
        for (size_t j = 0; j < n; j++) b->weight_out[z * n + j] = NAN;
        for (size_t j = 0; j < n && b->error_out; j++) b->error_out[z * n + j] = NAN;
        b->bias_out[z] = NAN;
        b->penalty[z] = b->diagnosis.r2[z] = b->diagnosis.heldout[z] = NAN;
    }
}

static coar_status solve_block(fit_run *run, uint64_t first, size_t E) {
    buffers *b = &run->buffers;
    for (size_t z = 0; z < E; z++) b->index[z] = first + z;
    if (run->way == WAY_SOLVER || run->way == WAY_LEAVE_ONE_OUT) {
        TRY(fit_scan_read(&run->problem, &run->scan, first, E, b->y));
        fit_centre(b->y, masks_used(run), E, b->mean, b->squares);
    }
    if (run->way == WAY_SOLVER) {
        TRY(solve_masks(run, E));
        TRY(keep_residuals(run, first, E));
    }
    if (run->way == WAY_LEAVE_ONE_OUT) leave_one_out(run->problem.n, E, b);
    if (run->way == WAY_GRADIENTS) TRY(gradients_alone(run, first, E));
    blank(run, first, E);
    for (size_t z = 0; z < E; z++)
        if (!isnan(b->diagnosis.r2[z])) run->summary.r2_mean += b->diagnosis.r2[z], run->r2_count++;
    fit_outlook_add(&run->outlook, &b->diagnosis, E);
    return COAR_OK;
}

static coar_status run_blocks(fit_run *run, coar_status (*sink)(void *context, const fit_result_block *block),
                              void *context) {
    uint64_t N = run->problem.N;
    const buffers *b = &run->buffers;
    progress progress;
    progress_begin(&progress, run->settings->callbacks, "fit", "examples", 0, N);
    for (uint64_t first = 0; first < N; first += run->block) {
        size_t E = N - first < run->block ? (size_t)(N - first) : run->block;
        TRY(solve_block(run, first, E));
        fit_result_block result = {
            .first = first,
            .count = E,
            .weight = b->weight_out,
            .bias = b->bias_out,
            .penalty = b->penalty,
            .r2 = b->diagnosis.r2,
            .heldout = b->diagnosis.heldout,
            .standard_error = b->error_out,
        };
        TRY(sink(context, &result));
        if (progress_update(&progress, first + E) && first + E < N)
            return status_set(COAR_STOPPED, "the fit was stopped; nothing of it is kept");
    }
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------------- fit */

/* Fits that take less are not worth a line. */
#define WORTH_TELLING (64 << 20)

/* Buffers of OpenBLAS and HDF5, which come with their first use, and pages of files that are being read. */
#define LIBRARIES (8 << 20)

/* What is resident by now is the process's own, but for the problem's masks, which the plan counts. */
static void tell_plan(const fit_run *run) {
    const double mebibyte = 1 << 20, masks = (double)run->problem.m * (double)mask_bytes(run->problem.n);
    const double own = fmax((double)memory_resident() - masks, 0) + LIBRARIES;
    const double planned = fit_plan_bytes(&run->problem, run->settings, run->block);
    if (planned < WORTH_TELLING) return;
    log_info(run->settings->callbacks,
             "memory: %.0f MiB planned, %.0f of them the process's own and %.0f this fit's, in blocks of %zu examples",
             (own + planned) / mebibyte, own / mebibyte, planned / mebibyte, run->block);
}

static void report_left_out(const fit_run *run) {
    if (run->scan.examples_left_out)
        log_warning(run->settings->callbacks,
                    "fit: %llu of %llu examples are left out: more than 1 %% of their outputs, or any of their "
                    "gradients, are not finite",
                    (unsigned long long)run->scan.examples_left_out, (unsigned long long)run->problem.N);
    if (run->scan.masks_left_out)
        log_warning(run->settings->callbacks,
                    "fit: %llu of %llu masks are left out: some of their outputs are not finite",
                    (unsigned long long)run->scan.masks_left_out, (unsigned long long)run->problem.m);
}

static void report_gradients(const fit_run *run) {
    if (run->made.average.groups_unmeasured)
        log_info(run->settings->callbacks,
                 "fit: derivatives of %u of %u component groups are too few or too noisy to tell their levels apart: "
                 "these get fixed shares",
                 run->made.average.groups_unmeasured, run->problem.groups);
}

static void report_unsolved(const fit_run *run) {
    if (run->summary.unsolved)
        log_warning(
            run->settings->callbacks,
            "fit: %llu examples are not solved to a residual of %g after up to %llu steps of conjugate gradients: "
            "the largest is %.2g",
            (unsigned long long)run->summary.unsolved, ITERATIVE_RESIDUAL, (unsigned long long)run->summary.steps_most,
            run->summary.residual_largest);
}

static coar_status check(const fit_problem *problem, const fit_settings *settings) {
    if (problem->n == 0 || problem->N == 0)
        return status_set(COAR_ERROR_INPUT, "the fit: there are no %s", problem->n ? "examples" : "components");
    if (fit_estimator_takes_gradients(settings->estimator) && !problem->gradients)
        return status_set(COAR_ERROR_INPUT, "--estimator %s: there are no gradients",
                          fit_estimator_name(settings->estimator));
    if (settings->estimator == FIT_LASSO && settings->standard_errors)
        return status_set(COAR_ERROR_USAGE, "--standard-errors: the lasso has none; eb and ridge have");
    if (settings->estimator == FIT_LASSO && settings->form == FIT_ITERATIVE)
        return status_set(COAR_ERROR_USAGE,
                          "--solver iterative: the lasso has one way of its own; ols and ridge have both");
    return COAR_OK;
}

static coar_status choose_way(fit_run *run) {
    const fit_estimator estimator = run->settings->estimator;
    const size_t m = masks_used(run);
    if (run->scan.examples_left_out == run->problem.N) return COAR_OK;
    run->way = WAY_GRADIENTS;
    if (estimator == FIT_GRAD && m < 2) return COAR_OK;
    if (m < 2)
        return status_set(COAR_ERROR_INPUT, "the fit: %zu of %llu masks can be used, and at least 2 are needed", m,
                          (unsigned long long)run->problem.m);
    run->way = WAY_LEAVE_ONE_OUT;
    if (estimator == FIT_OLS && run->problem.leave_one_out && m == (size_t)run->problem.n + 1) return COAR_OK;
    run->way = WAY_SOLVER;
    return fit_make(&run->problem, run->settings, &run->scan, run->block, run->buffers.y, &run->made);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sum_up_residuals(fit_run *run) {
    const uint64_t count = run->residuals;
    run->summary.residual_largest = run->summary.residual_median = NAN;
    if (!count) return;
    qsort(run->residual, count, sizeof *run->residual, ascending);
    run->summary.residual_largest = run->residual[count - 1];
    run->summary.residual_median = (run->residual[count / 2] + run->residual[(count - 1) / 2]) / 2;
}

static void sum_up(fit_run *run, fit_summary *summary) {
    const fit_outlook *outlook = run->made.corrected ? &run->made.outlook : &run->outlook;
    sum_up_residuals(run);
    report_unsolved(run);
    *summary = run->summary;
    summary->iterative = run->way == WAY_SOLVER && run->made.system.iterative;
    summary->examples_left_out = run->scan.examples_left_out;
    summary->masks_left_out = run->scan.masks_left_out;
    summary->r2_mean = run->r2_count ? summary->r2_mean / (double)run->r2_count : NAN;
    summary->heldout_mean = run->outlook.count ? run->outlook.sum / (double)run->outlook.count : NAN;
    fit_outlook_interval(outlook, &summary->predicted, &summary->predicted_low, &summary->predicted_high);
}

coar_status fit_solve(const fit_problem *problem, const fit_settings *settings,
                      coar_status (*sink)(void *context, const fit_result_block *block), void *context,
                      fit_summary *summary) {
    const uint32_t one_group[2] = {0, problem->n};
    fit_run run = {.problem = *problem, .settings = settings};
    coar_status status;
    int threads_before = dense_threads(thread_pool_size(settings->pool));
    if (!problem->group_first) run.problem.group_first = one_group, run.problem.groups = 1;
    TRY_GOTO(check(problem, settings));
    TRY_GOTO(fit_plan_block(&run.problem, settings, &run.block));
    tell_plan(&run);
    TRY_GOTO(buffers_create(problem, settings->standard_errors, run.block, &run.buffers));
    if (fit_estimator_takes_gradients(settings->estimator))
        TRY_GOTO(gradient_average_create(&run.problem, &run.made.average));
    TRY_GOTO(fit_scan_outputs(problem, run.made.average.broken, run.block, run.buffers.y, &run.scan));
    report_left_out(&run);
    report_gradients(&run);
    TRY_GOTO(choose_way(&run));
    TRY_GOTO(run_blocks(&run, sink, context));
    sum_up(&run, summary);
done:
    free(run.residual);
    fit_made_free(&run.made);
    fit_scan_free(&run.scan);
    buffers_free(&run.buffers);
    dense_threads(threads_before);
    return status;
}
