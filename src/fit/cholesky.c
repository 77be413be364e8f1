/*
 * cholesky.c - least squares by the Cholesky factor of the centred Gram matrix: Xc' Xc = L L'.
 */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/algebra.h"

typedef struct cholesky {
    fit_solver head;
    fit_system *system;
    size_t n;
    double *factor;              /* [n][n], L in the lower triangle */
    double *slack, *error_scale; /* the head's tables: [m], [n] */
} cholesky;

static void cholesky_destroy(fit_solver *solver) {
    cholesky *c = (cholesky *)solver;
    if (!c) return;
    free(c->slack);
    free(c->error_scale);
    free(c->factor);
    free(c);
}

/* weight = L'^-1 L^-1 Xc' y. */
static coar_status cholesky_solve(fit_solver *solver, solver_block *block) {
    cholesky *c = (cholesky *)solver;
    TRY(fit_system_cross(c->system, block, block->weight));
    TRY(algebra_solve(c->system->device, c->factor, c->n, block->weight, block->count));
    for (size_t z = 0; z < block->count; z++) {
        block->penalty[z] = 0;
        block->left[z] = (double)(c->system->by_mask.count - 1 - c->n);
        block->choice[z] = 0;
    }
    return COAR_OK;
}

/* slack = 1 - (1/m + leverage about the mean), leverage of mask i = row_i' (Xc' Xc)^-1 row_i. */
static coar_status tabulate_slack(cholesky *c) {
    const fit_system *system = c->system;
    size_t m = system->by_mask.count;
    for (size_t i = 0; i < m; i += DENSE_ROWS) {
        size_t count = m - i < DENSE_ROWS ? m - i : DENSE_ROWS;
        bits_expand(&system->by_mask, i, count, system->rows);
        for (size_t r = 0; r < count; r++) cblas_daxpy((int)c->n, -1, system->mean, 1, system->rows + r * c->n, 1);
        TRY(algebra_norms(system->device, c->factor, c->n, system->rows, count, c->slack + i));
        for (size_t r = 0; r < count; r++) c->slack[i + r] = 1 - 1 / (double)m - c->slack[i + r];
    }
    return COAR_OK;
}

/* error_scale[j] = root of ((Xc' Xc)^-1)[j][j]. */
static coar_status tabulate_errors(cholesky *c) {
    size_t n = c->n;
    double *rows = c->system->rows;
    for (size_t j = 0; j < n; j += DENSE_ROWS) {
        size_t count = n - j < DENSE_ROWS ? n - j : DENSE_ROWS;
        for (size_t r = 0; r < count * n; r++) rows[r] = 0;
        for (size_t r = 0; r < count; r++) rows[r * n + j + r] = 1;
        TRY(algebra_norms(c->system->device, c->factor, n, rows, count, c->error_scale + j));
        for (size_t r = 0; r < count; r++) c->error_scale[j + r] = sqrt(c->error_scale[j + r]);
    }
    return COAR_OK;
}

coar_status cholesky_create(fit_system *system, fit_solver **out) {
    size_t n = system->by_component.count, m = system->by_mask.count;
    cholesky *c = NULL;
    fit_solver *made = NULL;
    double reciprocal;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *c, "least squares", &c));
    c->head = (fit_solver){
        .solve = cholesky_solve,
        .destroy = cholesky_destroy,
        .columns = 1,
        .slack_min = SLACK_MIN,
    };
    c->system = system;
    c->n = n;
    TRY_GOTO(fit_system_gram(system, false, &c->factor));
    TRY_GOTO(algebra_factor(system->device, c->factor, n, &reciprocal));
    if (!(reciprocal > RANK_TOLERANCE)) goto done;
    TRY_GOTO(memory_new(m, sizeof(double), "leverages", &c->slack));
    if (system->standard_errors) TRY_GOTO(memory_new(n, sizeof(double), "standard errors", &c->error_scale));
    TRY_GOTO(tabulate_slack(c));
    if (system->standard_errors) TRY_GOTO(tabulate_errors(c));
    c->head.slack = c->slack;
    c->head.error_scale = c->error_scale;
    made = &c->head;
    c = NULL;
done:
    if (c) cholesky_destroy(&c->head);
    if (status == COAR_OK) *out = made;
    return status;
}
