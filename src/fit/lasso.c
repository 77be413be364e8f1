/* lasso.c - the lasso as a solver of blocks: Gram matrices of all masks and of the first nine tenths, and an example
 * after the other through lasso_path.c, one a task. */
#include "fit/lasso.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

/* Held-out predictions are of the last of this many parts of the masks. */
#define HELD_PARTS 10

double lasso_memory(const fit_problem *problem, int workers) {
    const double n = problem->n, m = (double)problem->m;
    return 8 * (2 * n * n + n + DENSE_ROWS * (m > n ? m : n)) + 3 * m * n / 8 + 36 * n * workers;
}

double lasso_memory_per_example(const fit_problem *problem) {
    return 8 * (3. * problem->n + 2);
}

typedef struct lasso {
    fit_solver head;
    fit_system *system;
    fit_system first;            /* of the first masks alone */
    double *gram, *gram_first;   /* [n][n] */
    double *cross, *cross_first; /* [n][E] */
    double *refit;               /* [n][E] */
    double *mean, *squares;      /* [E] of the first masks' outputs */
    lasso_workspace *workspaces; /* [workers] */
    int workers;
    bool warned;
} lasso;

static void lasso_destroy(fit_solver *solver) {
    lasso *l = (lasso *)solver;
    if (!l) return;
    for (int k = 0; k < l->workers && l->workspaces; k++) {
        free(l->workspaces[k].cross);
        free(l->workspaces[k].residual);
        free(l->workspaces[k].best);
        free(l->workspaces[k].weight);
        free(l->workspaces[k].active);
    }
    free(l->workspaces);
    fit_system_free(&l->first);
    free(l->gram);
    free(l->gram_first);
    free(l->cross);
    free(l->cross_first);
    free(l->refit);
    free(l->mean);
    free(l->squares);
    free(l);
}

typedef struct lasso_job {
    lasso *lasso;
    solver_block *block;
} lasso_job;

static void scatter(const double *weight, size_t n, size_t E, double *column) {
    for (size_t j = 0; j < n; j++) column[j * E] = weight[j];
}

/* Example `task`: its penalty and weights from all masks, then the first masks' weights, from 0 on: the others must not say anything. */
static coar_status solve_example(void *context, size_t task, int worker) {
    const lasso_job *job = context;
    lasso *l = job->lasso;
    lasso_workspace *w = &l->workspaces[worker];
    const size_t n = l->system->by_component.count, m = l->system->by_mask.count, E = job->block->count;
    const size_t m_first = l->first.by_mask.count;
    lasso_problem p = {l->gram, w->cross, job->block->squares[task], n, m};
    double penalty, rss;
    size_t active;
    for (size_t j = 0; j < n; j++) w->cross[j] = l->cross[j * E + task];
    w->unsolved += !lasso_choose(&p, w->weight, w, &penalty, &active);
    scatter(w->weight, n, E, job->block->weight + task);
    job->block->penalty[task] = penalty;
    job->block->left[task] = (double)m - 1 - (double)active;
    job->block->choice[task] = 0;
    p = (lasso_problem){l->gram_first, w->cross, l->squares[task], n, m_first};
    for (size_t j = 0; j < n; j++) w->cross[j] = l->cross_first[j * E + task];
    memset(w->weight, 0, n * sizeof *w->weight);
    memcpy(w->residual, w->cross, n * sizeof *w->residual);
    w->unsolved += !lasso_descend(&p, penalty * (double)m_first / (double)m, w->weight, w, &rss, &active);
    scatter(w->weight, n, E, l->refit + task);
    return COAR_OK;
}

/* Once a fit, at the first block with any. */
static void warn_unsolved(lasso *l) {
    size_t unsolved = 0;
    for (int k = 0; k < l->workers; k++) unsolved += l->workspaces[k].unsolved;
    if (unsolved && !l->warned)
        log_warning(l->system->callbacks,
                    "fit: lasso: examples whose weights are not found to a duality gap of %g of the squares within the "
                    "sweeps there are: their penalties are larger than chosen, or held-out correlations are of "
                    "weights on the way",
                    LASSO_GAP);
    l->warned |= unsolved > 0;
}

static coar_status lasso_solve(fit_solver *solver, solver_block *block) {
    lasso *l = (lasso *)solver;
    solver_block first = *block;
    lasso_job job = {l, block};
    fit_centre(block->y, l->first.by_mask.count, block->count, l->mean, l->squares);
    TRY(fit_system_cross(l->system, block, l->cross));
    TRY(fit_system_cross(&l->first, &first, l->cross_first));
    TRY(thread_pool_run(l->system->pool, block->count, solve_example, &job));
    warn_unsolved(l);
    return COAR_OK;
}

static coar_status allocate(lasso *l) {
    static const char what[] = "the lasso";
    const size_t n = l->system->by_component.count, row = l->system->block * sizeof(double);
    TRY(memory_new(n, row, what, &l->cross));
    TRY(memory_new(n, row, what, &l->cross_first));
    TRY(memory_new(n, row, what, &l->refit));
    TRY(memory_new(1, row, what, &l->mean));
    TRY(memory_new(1, row, what, &l->squares));
    TRY(memory_new((size_t)l->workers, sizeof *l->workspaces, what, &l->workspaces));
    for (int k = 0; k < l->workers; k++) {
        lasso_workspace *w = &l->workspaces[k];
        TRY(memory_new(n, sizeof(double), what, &w->cross));
        TRY(memory_new(n, sizeof(double), what, &w->residual));
        TRY(memory_new(n, sizeof(double), what, &w->best));
        TRY(memory_new(n, sizeof(double), what, &w->weight));
        TRY(memory_new(n, sizeof(uint32_t), what, &w->active));
    }
    return COAR_OK;
}

coar_status lasso_create(const fit_problem *problem, const fit_settings *settings, const uint8_t *masks,
                         fit_system *system, fit_solver **out) {
    const size_t m = system->by_mask.count, m_first = m - (m + HELD_PARTS - 1) / HELD_PARTS;
    lasso *l = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *l, "the lasso", &l));
    l->system = system;
    l->workers = thread_pool_size(system->pool);
    l->head = (fit_solver){.solve = lasso_solve, .destroy = lasso_destroy, .refit_masks = m_first};
    TRY_GOTO(fit_system_gram(system, false, &l->gram));
    TRY_GOTO(fit_system_create(problem, masks, m_first, settings, 0, &l->first));
    TRY_GOTO(fit_system_gram(&l->first, false, &l->gram_first));
    TRY_GOTO(allocate(l));
    l->head.refit = l->refit;
    *out = &l->head;
    l = NULL;
done:
    if (l) lasso_destroy(&l->head);
    return status;
}
