/*
 * iterative.c - ols and ridge where no dense system is to be had: weights by conjugate gradients (descent.h), taken up
 * again from a residual in double precision until |Xc' (y - Xc w) - p w| is at most TOLERANCE |Xc' y|; ridge's penalty by
 * generalised cross-validation as in penalty.c, with the outputs' squares along Ritz values (ritz.h) in place of
 * eigenvalues; degrees of freedom, slack and standard errors from the limit for independent masks (resolvent.h):
 *
 *   ridge                 slack_i = 1/(1 + sum_j x_ij^2 C_j) - 1/m,   C_j = 1/(p + |x_j|^2 kappa)
 *   ols, n < m - 1        the same at p = 0
 *   ols that meets all    slack_i / p = (1 - 1/m)^2 / sum_j x_ij^2 / (1 + |x_j|^2 kappa/p), and c of w = Xc' c is what
 *   outputs               the residuals divided by p come to (shrink.c); x_i is about the mean of all masks, and what it
 *                         adds to the others about theirs
 *
 * ols has no preconditioner: where masks do not tell all components apart, descent from 0 leads to the solution that is
 * least in its norm, which is to be |w|. That is not rare (samplers `fixed` and `stratified` keep sums of components
 * constant), and the diagonal of random masks is too even for anything to be gained.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/iterative.h"
#include "fit/leverage.h"
#include "fit/resolvent.h"
#include "fit/ritz.h"

enum { L = OPERATOR_LANES, CYCLES = 12, STEPS_MAX = 2000, SETTLE = 4 };

/* Of |Xc' y|. A cycle aims at a little less, so that rounding does not make another one necessary. */
#define TOLERANCE (.95 * ITERATIVE_RESIDUAL)
#define AIM (.85 * ITERATIVE_RESIDUAL)

/* Of the residual that a cycle begins with: single precision cannot tell much more. */
#define CYCLE 1e-4

/* Ritz values: as far as steps in single precision go, and where a penalty's solution is near enough for its criterion,
 * which is as good as the square. */
#define TRACE_GOAL 1e-6
#define NEAR 1e-2

typedef struct iterative {
    fit_solver head;
    bool ridge;
    size_t workers;
    descent descent;
    descent_trace *traces;       /* ridge: [workers] */
    ritz *ritz;                  /* and so here */
    double *information;         /* [n] |x_j|^2 */
    resolvent resolvent;         /* ridge */
    resolvent_end end;           /* ols */
    double *slack, *error_scale; /* the head's tables */
    double *dual;                /* [m][E], of outputs that are met */
    double *residual;            /* [E] */
    uint32_t *steps;             /* [E] */
} iterative;

double iterative_memory(const fit_problem *problem, bool ridge, bool errors, int workers) {
    const double m = (double)problem->m, n = problem->n, columns = ridge ? PENALTIES : 1;
    const bool meets = !ridge && m <= n + 1;
    return descent_memory(problem, meets, workers) + (ridge ? workers * (ritz_memory() + sizeof(descent_trace)) : 0) +
           8 * columns * (m + (errors ? n : 0)) + 8 * n;
}

double iterative_memory_per_example(const fit_problem *problem, bool ridge) {
    return 12 + (!ridge && problem->m <= (uint64_t)problem->n + 1 ? 8 * (double)problem->m : 0);
}

static void iterative_destroy(fit_solver *solver) {
    iterative *s = (iterative *)solver;
    if (!s) return;
    for (size_t k = 0; k < s->workers && s->ritz; k++) ritz_free(&s->ritz[k]);
    descent_free(&s->descent);
    void *all[] = {s->traces, s->ritz, s->information, s->slack, s->error_scale, s->dual, s->residual, s->steps, s};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* ------------------------------------------------------------------------------------ penalties of the lanes */

/* The penalty that generalised cross-validation prefers (the larger when tied), and whether it is `near`: so far down
 * that smaller ones that might be better yet are, too. */
static uint32_t choose(const iterative *s, const ritz *r, bool *near) {
    const penalty_grid *grid = &s->resolvent.grid;
    double least = INFINITY;
    uint32_t best = PENALTIES - 1;
    for (uint32_t g = PENALTIES; g-- > 0;) {
        const double criterion = log(ritz_residual(r, grid->penalty[g])) - 2 * log(grid->left[g]);
        if (criterion < least) {
            least = criterion;
            best = g;
        }
    }
    *near = ritz_distance(r, grid->penalty[best > SETTLE ? best - SETTLE : 0]) < NEAR;
    return best;
}

/* The lanes' penalties by a descent without one, which begins with residual = Xc' y of squares `start` and ends once all
 * are chosen. */
static coar_status find_penalties(const iterative *s, int worker, const double start[L], uint32_t choice[L]) {
    descent_lanes *l = &s->descent.lanes[worker];
    descent plain = s->descent;
    plain.plain = true;
    l->trace = &s->traces[worker];
    descent_begin_at(&plain, l);
    for (size_t z = 0; z < L; z++) {
        l->goal[z] = TRACE_GOAL * TRACE_GOAL * l->gap[z];
        choice[z] = PENALTIES - 1;
    }
    for (size_t step = 1; descent_any_open(l) && step <= TRACE_STEPS_MAX; step++) {
        descent_step(&plain, l);
        if (step % SETTLE && descent_any_open(l) && step < TRACE_STEPS_MAX) continue;
        for (size_t z = 0; z < L; z++) {
            bool near;
            if (l->goal[z] == INFINITY || !(start[z] > 0)) continue;
            TRY(ritz_find(l->trace, z, l->squares[z], start[z], &s->ritz[worker]));
            choice[z] = choose(s, &s->ritz[worker], &near);
            if (near) l->goal[z] = INFINITY;
        }
    }
    l->trace = NULL;
    for (size_t z = 0; z < L; z++) l->penalty[z] = s->resolvent.grid.penalty[choice[z]];
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------- descents */

/* Weights as they will be stored: what is said of them is said of these. */
static void round_weights(const iterative *s, descent_lanes *l) {
    for (size_t j = 0; j < s->descent.system->by_component.count; j++)
        for (size_t z = 0; z < L; z++)
            l->weight[j * L + z] = (double)(float)(l->weight[j * L + z] * l->scale[z]) / l->scale[z];
}

/* distance[z] = |Xc' (y - Xc w) - p w| / |Xc' y| of the lanes' weights, made small. start: squares of the latter. */
static void refine(const iterative *s, descent_lanes *l, const double start[L], double distance[L]) {
    double squares[L];
    size_t steps = 0;
    for (int cycle = 0;; cycle++) {
        bool any = false;
        round_weights(s, l);
        descent_residual(&s->descent, l, squares);
        for (size_t z = 0; z < L; z++) {
            distance[z] = start[z] > 0 ? sqrt(squares[z] / start[z]) : 0;
            any |= distance[z] > TOLERANCE;
        }
        if (!any || cycle == CYCLES || steps == STEPS_MAX) return;
        descent_begin_at(&s->descent, l);
        for (size_t z = 0; z < L; z++) {
            const double to = fmax(AIM / distance[z], CYCLE);
            l->goal[z] = distance[z] > TOLERANCE ? to * to * l->gap[z] : INFINITY;
        }
        for (; steps < STEPS_MAX && descent_any_open(l); steps++) descent_step(&s->descent, l);
    }
}

typedef struct iterative_job {
    iterative *solver;
    solver_block *block;
    size_t first; /* task of the slice's task 0 */
} iterative_job;

static void store(const iterative *s, solver_block *block, size_t z0, size_t count, const descent_lanes *l,
                  const uint32_t choice[L], const double distance[L]) {
    const fit_system *system = s->descent.system;
    const size_t m = system->by_mask.count, n = system->by_component.count, E = block->count;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < count; z++) block->weight[j * E + z0 + z] = l->weight[j * L + z] * l->scale[z];
    for (size_t i = 0; i < m && s->dual; i++)
        for (size_t z = 0; z < count; z++) s->dual[i * E + z0 + z] = l->dual[i * L + z] * l->scale[z];
    for (size_t z = 0; z < count; z++) {
        block->choice[z0 + z] = choice[z];
        block->penalty[z0 + z] = l->penalty[z];
        block->left[z0 + z] = s->ridge ? s->resolvent.grid.left[choice[z]] : (double)(m - 1 - s->end.rank);
        s->residual[z0 + z] = distance[z];
        s->steps[z0 + z] = l->steps[z];
    }
}

static coar_status solve_lanes(void *context, size_t task, int worker) {
    const iterative_job *job = context;
    const iterative *s = job->solver;
    descent_lanes *l = &s->descent.lanes[worker];
    const size_t z0 = (job->first + task) * L;
    const size_t count = job->block->count - z0 < L ? job->block->count - z0 : L;
    uint32_t choice[L] = {0};
    double start[L], distance[L];
    descent_load(&s->descent, job->block, z0, count, false, l);
    memset(l->penalty, 0, sizeof l->penalty);
    descent_residual(&s->descent, l, start);
    if (s->ridge) TRY(find_penalties(s, worker, start, choice));
    memset(l->weight, 0, s->descent.system->by_component.count * L * sizeof *l->weight);
    refine(s, l, start, distance);
    store(s, job->block, z0, count, l, choice, distance);
    return COAR_OK;
}

static coar_status iterative_solve(fit_solver *solver, solver_block *block) {
    iterative *s = (iterative *)solver;
    const fit_system *system = s->descent.system;
    iterative_job job = {.solver = s, .block = block};
    const size_t tasks = (block->count + L - 1) / L, slice = 2 * (size_t)s->descent.workers;
    progress progress;
    progress_begin(&progress, system->callbacks, "solve", "examples", 0, block->count);
    for (; job.first < tasks; job.first += slice) { /* small ones: a stop comes soon */
        const size_t count = tasks - job.first < slice ? tasks - job.first : slice;
        TRY(thread_pool_run(system->pool, count, solve_lanes, &job));
        const size_t solved = (job.first + count) * L;
        if (progress_update(&progress, solved < block->count ? solved : block->count))
            return status_set(COAR_STOPPED, "the fit was stopped; nothing of it is kept");
    }
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------------- tables */

/* C_j at penalty g; of ols the one there is. */
static double variance_of(const void *context, size_t j, size_t g) {
    const iterative *s = context;
    if (s->ridge) return resolvent_variance(&s->resolvent, g, 1, s->information[j]) / s->resolvent.grid.penalty[g];
    if (s->end.meets) return 1 / (1 + s->information[j] * s->end.slack);
    return s->information[j] > 0 ? 1 / (s->information[j] * s->end.slack) : 0;
}

static coar_status tabulate_slack(iterative *s) {
    const size_t m = s->descent.system->by_mask.count, columns = s->head.columns;
    const double rest = (1 - 1 / (double)m) * (1 - 1 / (double)m);
    TRY(leverage_sums(&s->descent, columns, variance_of, s, s->slack));
    for (size_t x = 0; x < m * columns; x++) {
        const double met = s->slack[x] > 0 ? rest / s->slack[x] : 0; /* a mask equal to their mean is not predicted */
        s->slack[x] = s->end.meets ? met : 1 / (1 + s->slack[x]) - 1 / (double)m;
    }
    return COAR_OK;
}

static void tabulate_errors(iterative *s) {
    const size_t n = s->descent.system->by_component.count, columns = s->head.columns;
    for (size_t g = 0; g < columns; g++) {
        const double slope = s->ridge ? resolvent_slope(&s->resolvent, g, s->information, n) : 0;
        for (size_t j = 0; j < n; j++)
            s->error_scale[j * columns + g] =
                sqrt(s->ridge ? resolvent_spread(&s->resolvent, g, slope, s->information[j]) : variance_of(s, j, g));
    }
}

static coar_status allocate(const fit_system *system, iterative *s) {
    static const char what[] = "the fit";
    const size_t m = system->by_mask.count, n = system->by_component.count, columns = s->ridge ? PENALTIES : 1;
    s->workers = (size_t)thread_pool_size(system->pool);
    TRY(memory_new(n, sizeof(double), what, &s->information));
    TRY(memory_new(m, columns * sizeof(double), "leverages", &s->slack));
    if (system->standard_errors) TRY(memory_new(n, columns * sizeof(double), "standard errors", &s->error_scale));
    TRY(memory_new(system->block, sizeof(double), what, &s->residual));
    TRY(memory_new(system->block, sizeof(uint32_t), what, &s->steps));
    if (!s->ridge) return COAR_OK;
    TRY(memory_new(s->workers, sizeof *s->traces, "penalties", &s->traces));
    TRY(memory_new(s->workers, sizeof *s->ritz, "penalties", &s->ritz));
    for (size_t k = 0; k < s->workers; k++) TRY(ritz_create(&s->ritz[k]));
    return COAR_OK;
}

coar_status iterative_create(fit_system *system, bool ridge, fit_solver **out) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    iterative *s = NULL;
    coar_status status;
    TRY(leverage_check(system, ridge ? "ridge" : "ols"));
    TRY_GOTO(memory_new(1, sizeof *s, "the fit", &s));
    s->ridge = ridge;
    TRY_GOTO(allocate(system, s));
    for (size_t j = 0; j < n; j++) s->information[j] = descent_mask_squares(system, j);
    if (ridge)
        resolvent_create(s->information, n, m, &s->resolvent);
    else
        s->end = resolvent_vanish(s->information, n, m);
    TRY_GOTO(descent_create(system, s->end.meets, &s->descent));
    s->descent.plain = !ridge;
    if (s->end.meets) TRY_GOTO(memory_new(m, system->block * sizeof(double), "a block of examples", &s->dual));
    s->head = (fit_solver){
        .solve = iterative_solve,
        .destroy = iterative_destroy,
        .columns = ridge ? PENALTIES : 1,
        .slack = s->slack,
        .slack_min = s->end.meets ? 0 : SLACK_MIN,
        .error_scale = s->error_scale,
        .dual = s->dual,
        .residual = s->residual,
        .steps = s->steps,
    };
    TRY_GOTO(tabulate_slack(s));
    if (system->standard_errors) tabulate_errors(s);
    *out = &s->head;
    s = NULL;
done:
    if (s) iterative_destroy(&s->head);
    return status;
}
