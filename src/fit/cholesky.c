/*
 * cholesky.c - least squares by the Cholesky factor of the centred Gram matrix: Xc' Xc = L L'.
 *
 * LAPACK is column-major: the upper factor it leaves is, read row-major, L in the lower triangle. So nothing is
 * transposed: LAPACK is told 'U', the row-major products below are told Lower.
 */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/solver.h"

typedef struct cholesky {
    fit_solver head;
    fit_system *system;
    size_t n;
    double *factor; /* [n][n], L in the lower triangle */
} cholesky;

static void cholesky_destroy(fit_solver *solver) {
    cholesky *c = (cholesky *)solver;
    if (!c) return;
    free(c->head.penalty);
    free(c->head.freedom);
    free(c->head.slack);
    free(c->head.error_scale);
    free(c->factor);
    free(c);
}

/* weight = L'^-1 L^-1 Xc' y. */
static coar_status cholesky_solve(fit_solver *solver, solver_block *block) {
    cholesky *c = (cholesky *)solver;
    int n = (int)c->n, E = (int)block->count;
    TRY(fit_system_cross(c->system, block, block->weight));
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, n, E, 1, c->factor, n, block->weight,
                E);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, n, E, 1, c->factor, n, block->weight,
                E);
    for (size_t z = 0; z < block->count; z++) block->choice[z] = 0;
    return COAR_OK;
}

/* squares[i] = |L^-1 row_i|^2 = row_i' (Xc' Xc)^-1 row_i. Overwrites the rows. */
static void inverse_norms(const cholesky *c, double *rows, size_t count, double *squares) {
    int n = (int)c->n;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)count, n, 1, c->factor, n, rows,
                n);
    for (size_t i = 0; i < count; i++) squares[i] = cblas_ddot(n, rows + i * c->n, 1, rows + i * c->n, 1);
}

/* slack = 1 - (1/m + leverage about the mean). */
static void tabulate_slack(cholesky *c) {
    const fit_system *system = c->system;
    size_t m = system->by_mask.count;
    for (size_t i = 0; i < m; i += DENSE_ROWS) {
        size_t count = m - i < DENSE_ROWS ? m - i : DENSE_ROWS;
        bits_expand(&system->by_mask, i, count, system->rows);
        for (size_t r = 0; r < count; r++) cblas_daxpy((int)c->n, -1, system->mean, 1, system->rows + r * c->n, 1);
        inverse_norms(c, system->rows, count, c->head.slack + i);
        for (size_t r = 0; r < count; r++) c->head.slack[i + r] = 1 - 1 / (double)m - c->head.slack[i + r];
    }
}

/* error_scale[j] = root of ((Xc' Xc)^-1)[j][j]. */
static void tabulate_errors(cholesky *c) {
    size_t n = c->n;
    double *rows = c->system->rows;
    for (size_t j = 0; j < n; j += DENSE_ROWS) {
        size_t count = n - j < DENSE_ROWS ? n - j : DENSE_ROWS;
        for (size_t r = 0; r < count * n; r++) rows[r] = 0;
        for (size_t r = 0; r < count; r++) rows[r * n + j + r] = 1;
        inverse_norms(c, rows, count, c->head.error_scale + j);
        for (size_t r = 0; r < count; r++) c->head.error_scale[j + r] = sqrt(c->head.error_scale[j + r]);
    }
}

/* False when the matrix is singular to RANK_TOLERANCE. */
static bool factorise(double *matrix, size_t n) {
    int side = (int)n;
    double norm = LAPACKE_dlansy(LAPACK_COL_MAJOR, '1', 'U', side, matrix, side), reciprocal = 0;
    if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', side, matrix, side) != 0) return false;
    if (LAPACKE_dpocon(LAPACK_COL_MAJOR, 'U', side, matrix, side, norm, &reciprocal) != 0) return false;
    return reciprocal > RANK_TOLERANCE;
}

coar_status cholesky_create(fit_system *system, fit_solver **out) {
    size_t n = system->by_component.count, m = system->by_mask.count;
    cholesky *c = NULL;
    fit_solver *made = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *c, "least squares", &c));
    c->head = (fit_solver){
        .solve = cholesky_solve,
        .destroy = cholesky_destroy,
        .penalties = 1,
        .slack_min = SLACK_MIN,
    };
    c->system = system;
    c->n = n;
    TRY_GOTO(fit_system_gram(system, false, &c->factor));
    if (!factorise(c->factor, n)) goto done;
    TRY_GOTO(memory_new(1, sizeof(double), "least squares", &c->head.penalty));
    TRY_GOTO(memory_new(1, sizeof(double), "least squares", &c->head.freedom));
    TRY_GOTO(memory_new(m, sizeof(double), "leverages", &c->head.slack));
    if (system->standard_errors) TRY_GOTO(memory_new(n, sizeof(double), "standard errors", &c->head.error_scale));
    c->head.freedom[0] = (double)n;
    tabulate_slack(c);
    if (system->standard_errors) tabulate_errors(c);
    made = &c->head;
    c = NULL;
done:
    if (c) cholesky_destroy(&c->head);
    if (status == COAR_OK) *out = made;
    return status;
}
