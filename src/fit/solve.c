/*
 * solve.c - one fit from beginning to end: what is left out, which solver, then block after block of examples through
 * solver, diagnosis and sink.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/diagnose.h"
#include "fit/plan.h"
#include "fit/prior.h"

/* ----------------------------------------------------------------------------------------------- blocks */

/* Buffers of one block of at most `block` examples. */
typedef struct buffers {
    uint64_t *index;                          /* [E] */
    float *y;                                 /* [m][E] as read, then [masks used][E] */
    double *mean, *squares;                   /* [E] */
    double *weight;                           /* [n][E] */
    double *penalty, *freedom;                /* [E] */
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
    free(b->freedom);
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
    TRY(memory_new(E, sizeof(double), what, &b->freedom));
    TRY(memory_new(E, sizeof(uint32_t), what, &b->choice));
    TRY(memory_new(n, E * sizeof(float), what, &b->weight_out));
    TRY(memory_new(E, sizeof(float), what, &b->bias_out));
    if (errors) TRY(memory_new(n, E * sizeof(float), what, &b->error_out));
    return fit_diagnosis_create(E, &b->diagnosis);
}

/* From [n][E] doubles to [E][n] floats. */
static void hand_over(size_t n, size_t E, buffers *b) {
    for (size_t z = 0; z < E; z++) {
        for (size_t j = 0; j < n; j++) b->weight_out[z * n + j] = (float)b->weight[j * E + z];
        b->bias_out[z] = (float)b->diagnosis.bias[z];
    }
}

/* Examples left out get NaN for everything. */
static void blank(const fit_scan *scan, uint64_t first, size_t n, size_t E, buffers *b) {
    for (size_t z = 0; z < E; z++) {
        if (!scan->example_out[first + z]) continue;
        for (size_t j = 0; j < n; j++) b->weight_out[z * n + j] = NAN;
        for (size_t j = 0; j < n && b->error_out; j++) b->error_out[z * n + j] = NAN;
        b->bias_out[z] = NAN;
        b->penalty[z] = b->diagnosis.r2[z] = b->diagnosis.heldout[z] = NAN;
    }
}

/* Baseline minus output: with mask n keeping everything and mask j all but component j, these weights meet every output
 * exactly, as least squares would. Nothing is left over to be held out or to estimate the noise from. */
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
        b->bias_out[z] = (float)(baseline[z] - sum);
        b->penalty[z] = 0;
        b->diagnosis.r2[z] = b->squares[z] > 0 ? 1 : NAN;
        b->diagnosis.heldout[z] = NAN;
    }
}

/* -------------------------------------------------------------------------------------------------- fit */

typedef struct fit_run {
    const fit_problem *problem;
    const fit_settings *settings;
    size_t block;
    fit_scan scan;
    fit_system system;
    fit_solver *solver; /* NULL: closed form, or all examples left out */
    bool closed_form;   /* leave_one_out */
    buffers buffers;
    fit_summary summary;
    uint64_t r2_count;
    fit_outlook outlook;
} fit_run;

static void report_left_out(const fit_run *run) {
    if (run->scan.examples_left_out)
        log_warning(run->settings->callbacks,
                    "fit: %llu of %llu examples are left out: more than 1 %% of their outputs are not finite",
                    (unsigned long long)run->scan.examples_left_out, (unsigned long long)run->problem->N);
    if (run->scan.masks_left_out)
        log_warning(run->settings->callbacks,
                    "fit: %llu of %llu masks are left out: some of their outputs are not finite",
                    (unsigned long long)run->scan.masks_left_out, (unsigned long long)run->problem->m);
}

/* The packed masks without those left out: the problem's own when there are none, else *copy. */
static coar_status masks_used(const fit_run *run, uint8_t **copy, const uint8_t **masks) {
    const fit_problem *problem = run->problem;
    *masks = problem->masks;
    if (!run->scan.masks_left_out) return COAR_OK;
    size_t row = mask_bytes(problem->n), used = 0;
    TRY(memory_new(problem->m - run->scan.masks_left_out, row, "the fit's masks", copy));
    for (uint64_t i = 0; i < problem->m; i++)
        if (!run->scan.mask_out[i]) memcpy(*copy + row * used++, problem->masks + i * row, row);
    *masks = *copy;
    return COAR_OK;
}

/* The prior is learnt from a sample of the examples, on the system of all masks. */
static coar_status make_bayes(fit_run *run) {
    fit_sample sample = {.count = 0};
    double *prior = NULL;
    coar_status status;
    TRY_GOTO(memory_new(run->problem->n, sizeof *prior, "prior variances", &prior));
    TRY_GOTO(fit_sample_create(run->problem, &run->scan, run->block, run->buffers.y, &sample));
    TRY_GOTO(prior_learn(&run->system, &sample, prior));
    fit_sample_free(&sample);
    TRY_GOTO(shrink_create(&run->system, SHRINK_BAYES, prior, &run->solver));
done:
    fit_sample_free(&sample);
    free(prior);
    return status;
}

static coar_status make_least_squares(fit_run *run, uint64_t m) {
    if (m > (uint64_t)run->problem->n + 1) TRY(cholesky_create(&run->system, &run->solver));
    return run->solver ? COAR_OK : shrink_create(&run->system, SHRINK_NOT, NULL, &run->solver);
}

static coar_status make_solver(fit_run *run) {
    const fit_problem *problem = run->problem;
    const fit_estimator estimator = run->settings->estimator;
    uint64_t m = problem->m - run->scan.masks_left_out;
    if (run->scan.examples_left_out == problem->N) return COAR_OK;
    if (m < 2)
        return status_set(COAR_ERROR_INPUT, "the fit: %llu of %llu masks can be used, and at least 2 are needed",
                          (unsigned long long)m, (unsigned long long)problem->m);
    run->closed_form = estimator == FIT_OLS && problem->leave_one_out && m == (uint64_t)problem->n + 1;
    if (run->closed_form) return COAR_OK;
    uint8_t *copy = NULL;
    const uint8_t *masks;
    coar_status status;
    TRY_GOTO(masks_used(run, &copy, &masks));
    TRY_GOTO(fit_system_create(masks, m, problem->n, run->settings, run->block, &run->system));
    switch (estimator) {
    case FIT_OLS:
        TRY_GOTO(make_least_squares(run, m));
        break;
    case FIT_EB:
        TRY_GOTO(make_bayes(run));
        break;
    default:
        TRY_GOTO(shrink_create(&run->system, SHRINK_RIDGE, NULL, &run->solver));
        break;
    }
done:
    free(copy);
    return status;
}

static coar_status solve_block(fit_run *run, uint64_t first, size_t E) {
    const fit_problem *problem = run->problem;
    buffers *b = &run->buffers;
    size_t m = problem->m - run->scan.masks_left_out;
    for (size_t z = 0; z < E; z++) b->index[z] = first + z;
    TRY(fit_scan_read(problem, &run->scan, first, E, b->y));
    fit_centre(b->y, m, E, b->mean, b->squares);
    if (run->solver) {
        solver_block block = {E, b->index, b->y, b->mean, b->squares, b->weight, b->penalty, b->freedom, b->choice};
        TRY(run->solver->solve(run->solver, &block));
        TRY(fit_diagnose(&run->system, run->solver, &block, &b->diagnosis));
        hand_over(problem->n, E, b);
        if (b->error_out) TRY(fit_standard_errors(run->solver, &block, problem->n, b->diagnosis.sigma, b->error_out));
    }
    if (run->closed_form) leave_one_out(problem->n, E, b);
    blank(&run->scan, first, problem->n, E, b);
    for (size_t z = 0; z < E; z++)
        if (!isnan(b->diagnosis.r2[z])) run->summary.r2_mean += b->diagnosis.r2[z], run->r2_count++;
    fit_outlook_add(&run->outlook, &b->diagnosis, E);
    return COAR_OK;
}

static coar_status run_blocks(fit_run *run, coar_status (*sink)(void *context, const fit_result_block *block),
                              void *context) {
    uint64_t N = run->problem->N;
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

coar_status fit_solve(const fit_problem *problem, const fit_settings *settings,
                      coar_status (*sink)(void *context, const fit_result_block *block), void *context,
                      fit_summary *summary) {
    fit_run run = {.problem = problem, .settings = settings};
    coar_status status;
    int threads_before = dense_threads(thread_pool_size(settings->pool));
    if (problem->n == 0 || problem->N == 0)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "the fit: there are no %s", problem->n ? "examples" : "components"));
    TRY_GOTO(fit_plan_block(problem, settings, &run.block));
    TRY_GOTO(buffers_create(problem, settings->standard_errors, run.block, &run.buffers));
    TRY_GOTO(fit_scan_outputs(problem, NULL, run.block, run.buffers.y, &run.scan));
    report_left_out(&run);
    TRY_GOTO(make_solver(&run));
    TRY_GOTO(run_blocks(&run, sink, context));
    run.summary.examples_left_out = run.scan.examples_left_out;
    run.summary.masks_left_out = run.scan.masks_left_out;
    run.summary.r2_mean = run.r2_count ? run.summary.r2_mean / (double)run.r2_count : NAN;
    fit_outlook_interval(&run.outlook, &run.summary.heldout_mean, &run.summary.heldout_low, &run.summary.heldout_high);
    *summary = run.summary;
done:
    if (run.solver) run.solver->destroy(run.solver);
    fit_system_free(&run.system);
    fit_scan_free(&run.scan);
    buffers_free(&run.buffers);
    dense_threads(threads_before);
    return status;
}
