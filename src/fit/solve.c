/*
 * solve.c - one fit from beginning to end: what is left out, how much memory, which solver, then block after block of
 * examples through solver, diagnosis and sink.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/scan.h"
#include "fit/solver.h"

/* More examples at once make no product faster, and progress coarser. */
#define BLOCK_MAX 1024

coar_status fit_estimator_parse(const char *text, fit_estimator *out) {
    if (!text || !strcmp(text, "ridge"))
        *out = FIT_RIDGE;
    else if (!strcmp(text, "ols"))
        *out = FIT_OLS;
    else
        return status_set(COAR_ERROR_USAGE, "--estimator '%s' is not known: ols or ridge", text);
    return COAR_OK;
}

const char *fit_estimator_name(fit_estimator e) {
    return e == FIT_OLS ? "ols" : "ridge";
}

/* ----------------------------------------------------------------------------------------------- memory */

/* Bytes of the system and its solver, and of each example of a block. Doubles: the sizes may be anything. */
static void memory_needs(const fit_problem *problem, const fit_settings *settings, double *fixed, double *per_example) {
    double m = (double)problem->m, n = problem->n, p = m < n ? m : n, longer = m < n ? n : m;
    double tables = settings->estimator == FIT_RIDGE ? RIDGE_PENALTIES : 1;
    double errors = settings->standard_errors ? 1 : 0;
    double matrices = settings->estimator == FIT_OLS && m > n + 1 ? 1 : 3; /* eigenvectors: two more as workspace */
    *fixed =
        3 * m * n / 8 + 8 * (matrices * p * p + tables * (m + errors * n) + DENSE_ROWS * (longer + p) + tables * p);
    double fixed_point = settings->device ? 8 * m : 0;
    *per_example =
        fixed_point + 4 * m + 8 * (2 * n + 3 * p + tables + DENSE_ROWS + FIT_MOMENTS) + 4 * n * (1 + errors) + 64;
}

static coar_status plan_block(const fit_problem *problem, const fit_settings *settings, size_t *block) {
    uint64_t side = problem->m < problem->n ? problem->m : problem->n;
    if (side > SIDE_MAX)
        return status_set(
            COAR_ERROR_UNSUPPORTED,
            "the fit: %llu masks and %u components make a %llu x %llu system, and at most %d are possible: "
            "fit fewer masks, or fewer components (ablate --only)",
            (unsigned long long)problem->m, problem->n, (unsigned long long)side, (unsigned long long)side, SIDE_MAX);
    double fixed, per_example;
    memory_needs(problem, settings, &fixed, &per_example);
    double budget = settings->memory ? (double)settings->memory : (double)memory_default();
    double fit = floor((budget - fixed) / per_example);
    if (fit < 1)
        return status_set(
            COAR_ERROR_MEMORY,
            "--memory: the fit of %llu masks and %u components needs at least %.0f MiB, and may take %.0f MiB",
            (unsigned long long)problem->m, problem->n, ceil((fixed + per_example) / 1048576), floor(budget / 1048576));
    *block = fit < BLOCK_MAX ? (size_t)fit : BLOCK_MAX;
    if (*block > problem->N) *block = problem->N ? (size_t)problem->N : 1;
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------- blocks */

/* Buffers of one block of at most `block` examples. */
typedef struct buffers {
    float *y;               /* [m][E] as read, then [masks used][E] */
    double *mean, *squares; /* [E] */
    double *weight;         /* [n][E] */
    uint32_t *choice;       /* [E] */
    fit_diagnosis diagnosis;
    float *weight_out, *bias_out, *error_out; /* [E][n], [E], [E][n] or NULL */
    double *penalty;                          /* [E] */
} buffers;

static void buffers_free(buffers *b) {
    void *all[] = {b->y,
                   b->mean,
                   b->squares,
                   b->weight,
                   b->choice,
                   b->diagnosis.bias,
                   b->diagnosis.r2,
                   b->diagnosis.heldout,
                   b->diagnosis.sigma,
                   b->diagnosis.predicted,
                   b->diagnosis.moments,
                   b->weight_out,
                   b->bias_out,
                   b->error_out,
                   b->penalty};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static coar_status buffers_new(const fit_problem *problem, bool errors, size_t E, buffers *b) {
    static const char what[] = "a block of examples";
    size_t n = problem->n;
    TRY(memory_new(problem->m, E * sizeof(float), what, &b->y));
    TRY(memory_new(E, sizeof(double), what, &b->mean));
    TRY(memory_new(E, sizeof(double), what, &b->squares));
    TRY(memory_new(n, E * sizeof(double), what, &b->weight));
    TRY(memory_new(E, sizeof(uint32_t), what, &b->choice));
    TRY(memory_new(E, sizeof(double), what, &b->diagnosis.bias));
    TRY(memory_new(E, sizeof(double), what, &b->diagnosis.r2));
    TRY(memory_new(E, sizeof(double), what, &b->diagnosis.heldout));
    TRY(memory_new(E, sizeof(double), what, &b->diagnosis.sigma));
    TRY(memory_new(E, DENSE_ROWS * sizeof(double), what, &b->diagnosis.predicted));
    TRY(memory_new(E, FIT_MOMENTS * sizeof(double), what, &b->diagnosis.moments));
    TRY(memory_new(n, E * sizeof(float), what, &b->weight_out));
    TRY(memory_new(E, sizeof(float), what, &b->bias_out));
    if (errors) TRY(memory_new(n, E * sizeof(float), what, &b->error_out));
    return memory_new(E, sizeof(double), what, &b->penalty);
}

/* Reads examples first .. first + E - 1 without the masks left out; an example left out becomes zeros. */
static coar_status read_block(const fit_problem *problem, const fit_scan *scan, uint64_t first, size_t E, float *y) {
    TRY(problem->read(problem->context, first, E, y));
    size_t used = 0;
    for (uint64_t i = 0; i < problem->m; i++) {
        if (scan->mask_out[i]) continue;
        for (size_t z = 0; z < E; z++) y[used * E + z] = scan->example_out[first + z] ? 0 : y[i * E + z];
        used++;
    }
    return COAR_OK;
}

/* Mean and sum of squares about it. Sums of equal floats are exact, so constant outputs have exactly 0. */
static void centre(const float *y, size_t m, size_t E, double *mean, double *squares) {
    memset(mean, 0, E * sizeof *mean);
    memset(squares, 0, E * sizeof *squares);
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < E; z++) mean[z] += y[i * E + z];
    for (size_t z = 0; z < E; z++) mean[z] /= (double)m;
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < E; z++) {
            double d = y[i * E + z] - mean[z];
            squares[z] += d * d;
        }
}

/* From [n][E] doubles to [E][n] floats; examples left out get NaN. */
static void hand_over(const fit_scan *scan, const fit_solver *solver, uint64_t first, size_t n, size_t E, buffers *b) {
    for (size_t z = 0; z < E; z++) {
        bool out = scan->example_out[first + z];
        uint32_t g = b->choice[z];
        for (size_t j = 0; j < n; j++) b->weight_out[z * n + j] = out ? NAN : (float)b->weight[j * E + z];
        for (size_t j = 0; j < n && b->error_out; j++)
            b->error_out[z * n + j] =
                out ? NAN : (float)(b->diagnosis.sigma[z] * solver->error_scale[j * solver->penalties + g]);
        b->bias_out[z] = out ? NAN : (float)b->diagnosis.bias[z];
        b->penalty[z] = out ? NAN : solver->penalty[g];
        if (out) b->diagnosis.r2[z] = b->diagnosis.heldout[z] = NAN;
    }
}

/* Baseline minus output: with mask n keeping everything and mask j all but component j, these weights meet every output
 * exactly, as least squares would. Nothing is left over to be held out or to estimate the noise from. */
static void leave_one_out(const fit_scan *scan, const fit_problem *problem, uint64_t first, size_t E, buffers *b) {
    size_t n = problem->n;
    const float *baseline = b->y + n * E;
    for (size_t z = 0; z < E; z++) {
        bool out = scan->example_out[first + z];
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            double weight = (double)baseline[z] - b->y[j * E + z];
            sum += weight;
            b->weight_out[z * n + j] = out ? NAN : (float)weight;
            if (b->error_out) b->error_out[z * n + j] = NAN;
        }
        b->bias_out[z] = out ? NAN : (float)(baseline[z] - sum);
        b->penalty[z] = out ? NAN : 0;
        b->diagnosis.r2[z] = !out && b->squares[z] > 0 ? 1 : NAN;
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
    uint64_t r2_count, heldout_count;
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

static coar_status make_solver(fit_run *run) {
    const fit_problem *problem = run->problem;
    uint64_t m = problem->m - run->scan.masks_left_out;
    if (run->scan.examples_left_out == problem->N) return COAR_OK;
    if (m < 2)
        return status_set(COAR_ERROR_INPUT, "the fit: %llu of %llu masks can be used, and at least 2 are needed",
                          (unsigned long long)m, (unsigned long long)problem->m);
    bool ridge = run->settings->estimator == FIT_RIDGE;
    run->closed_form = !ridge && problem->leave_one_out && m == (uint64_t)problem->n + 1;
    if (run->closed_form) return COAR_OK;
    uint8_t *copy = NULL;
    const uint8_t *masks;
    coar_status status;
    TRY_GOTO(masks_used(run, &copy, &masks));
    TRY_GOTO(fit_system_create(masks, m, problem->n, run->settings, run->block, &run->system));
    if (!ridge && m > (uint64_t)problem->n + 1) TRY_GOTO(cholesky_create(&run->system, &run->solver));
    if (!run->solver) TRY_GOTO(spectrum_create(&run->system, ridge, &run->solver));
done:
    free(copy);
    return status;
}

static coar_status solve_block(fit_run *run, uint64_t first, size_t E) {
    const fit_problem *problem = run->problem;
    buffers *b = &run->buffers;
    size_t m = problem->m - run->scan.masks_left_out;
    TRY(read_block(problem, &run->scan, first, E, b->y));
    centre(b->y, m, E, b->mean, b->squares);
    if (run->solver) {
        solver_block block = {E, b->y, b->mean, b->squares, b->weight, b->choice};
        TRY(run->solver->solve(run->solver, &block));
        TRY(fit_diagnose(&run->system, run->solver, &block, &b->diagnosis));
    }
    if (run->closed_form)
        leave_one_out(&run->scan, problem, first, E, b);
    else
        hand_over(&run->scan, run->solver, first, problem->n, E, b);
    for (size_t z = 0; z < E; z++) {
        double r2 = b->diagnosis.r2[z], heldout = b->diagnosis.heldout[z];
        if (!isnan(r2)) run->summary.r2_mean += r2, run->r2_count++;
        if (!isnan(heldout)) run->summary.heldout_mean += heldout, run->heldout_count++;
    }
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
    TRY_GOTO(plan_block(problem, settings, &run.block));
    TRY_GOTO(buffers_new(problem, settings->standard_errors, run.block, &run.buffers));
    TRY_GOTO(fit_scan_outputs(problem, run.block, run.buffers.y, &run.scan));
    report_left_out(&run);
    TRY_GOTO(make_solver(&run));
    TRY_GOTO(run_blocks(&run, sink, context));
    run.summary.examples_left_out = run.scan.examples_left_out;
    run.summary.masks_left_out = run.scan.masks_left_out;
    run.summary.r2_mean = run.r2_count ? run.summary.r2_mean / (double)run.r2_count : NAN;
    run.summary.heldout_mean = run.heldout_count ? run.summary.heldout_mean / (double)run.heldout_count : NAN;
    *summary = run.summary;
done:
    if (run.solver) run.solver->destroy(run.solver);
    fit_system_free(&run.system);
    fit_scan_free(&run.scan);
    buffers_free(&run.buffers);
    dense_threads(threads_before);
    return status;
}
