/*
 * shrink.c - estimators that shrink along the singular vectors of the masks (spectrum.h), each penalty p a column of
 * the tables:
 *
 *   ridge               p by generalised cross-validation
 *   empirical Bayes     w_j ~ N(0, s^2 D_j), D = the prior given; p = sigma^2 / s^2 by the evidence
 *   minimum-norm least squares    p = 0
 *
 *   weight   = root V alpha sqrt(d) / (d + p), root = sqrt(D), 1 without a prior
 *   leverage = 1/m + sum_k u_ik^2 d_k / (d_k + p)
 *   slack    = 1 - leverage = outside_i + sum_k u_ik^2 p / (d_k + p), outside_i = 1 - 1/m - sum_k u_ik^2
 *   error    / sigma, squared: for ridge the variance of the estimate about its own mean, sum_k v_jk^2 d_k/(d_k + p)^2;
 *              for Bayes the posterior variance of the weight, D_j/p (1 - sum_k v_jk^2 d_k / (d_k + p)).
 * Least squares of rank r = m - 1 leaves no residual and no slack, but both divided by p have limits as p -> 0:
 * c = U alpha / d and sum_k u_ik^2 / d_k. Their ratio is the exact leave-one-out residual of the minimum-norm solution.
 */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/penalty.h"
#include "fit/spectrum.h"

typedef struct shrink {
    fit_solver head;
    spectrum spectrum;
    shrink_rule rule;
    bool interpolating;
    penalty_grid grid;           /* of ridge and Bayes */
    double *slack, *error_scale; /* the head's tables */
    double *right;               /* [p][E] */
    double *alpha;               /* [r][E] */
    double *alpha_squares;       /* [r][E], with penalties */
    double *sums;                /* [G][E], with penalties */
} shrink;

static void shrink_destroy(fit_solver *solver) {
    shrink *s = (shrink *)solver;
    if (!s) return;
    spectrum_free(&s->spectrum);
    penalty_free(&s->grid);
    free(s->slack);
    free(s->error_scale);
    free(s->right);
    free(s->alpha);
    free(s->alpha_squares);
    free(s->sums);
    free(s);
}

static coar_status shrink_solve(fit_solver *solver, solver_block *block) {
    shrink *s = (shrink *)solver;
    const size_t E = block->count, r = s->spectrum.r, m = s->spectrum.system->by_mask.count;
    TRY(spectrum_right(&s->spectrum, block, s->right));
    TRY(spectrum_project(&s->spectrum, s->right, E, s->alpha));
    for (size_t z = 0; z < E; z++) block->choice[z] = 0;
    if (s->rule != SHRINK_NOT) {
        for (size_t x = 0; x < r * E; x++) s->alpha_squares[x] = s->alpha[x] * s->alpha[x];
        penalty_choose(&s->grid, s->alpha_squares, block->squares, E, s->sums, block->choice);
    }
    for (size_t z = 0; z < E; z++) {
        block->penalty[z] = s->rule == SHRINK_NOT ? 0 : s->grid.penalty[block->choice[z]];
        block->left[z] = s->rule == SHRINK_NOT ? (double)(m - 1 - r) : s->grid.left[block->choice[z]];
    }
    for (size_t k = 0; k < r; k++)
        for (size_t z = 0; z < E; z++) s->alpha[k * E + z] /= s->spectrum.value[k] + block->penalty[z];
    return spectrum_expand(&s->spectrum, s->alpha, E, s->right, block->weight);
}

/* -------------------------------------------------------------------------------------------- tabulation */

/* table[total][G] = (squared entries of U or V) * factor[r][G], `scratch` [DENSE_ROWS][r]. `whole` > 0: what a row's
 * squares would sum to in a full basis; its part outside the r eigenvectors is added. */
static coar_status tabulate(const shrink *s, bool of_masks, const double *factor, double whole, double *scratch,
                            double *table) {
    const fit_system *system = s->spectrum.system;
    const size_t G = s->head.columns, r = s->spectrum.r;
    const size_t total = of_masks ? system->by_mask.count : system->by_component.count;
    for (size_t first = 0; first < total && r; first += DENSE_ROWS) {
        const size_t count = total - first < DENSE_ROWS ? total - first : DENSE_ROWS;
        TRY(spectrum_squares(&s->spectrum, of_masks, first, count, scratch));
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)G, (int)r, 1, scratch, (int)r, factor,
                    (int)G, 0, table + first * G, (int)G);
        for (size_t i = 0; i < count && whole > 0; i++) {
            double rest = whole;
            for (size_t k = 0; k < r; k++) rest -= scratch[i * r + k];
            for (size_t g = 0; g < G; g++) table[(first + i) * G + g] += fmax(rest, 0);
        }
    }
    for (size_t x = 0; x < total * G && !r; x++) table[x] = whole;
    return COAR_OK;
}

static coar_status tabulate_slack(shrink *s, double *factor, double *scratch) {
    const size_t G = s->head.columns, r = s->spectrum.r, m = s->spectrum.system->by_mask.count;
    for (size_t k = 0; k < r; k++)
        for (size_t g = 0; g < G; g++) {
            const double d = s->spectrum.value[k], p = s->rule == SHRINK_NOT ? 0 : s->grid.penalty[g];
            factor[k * G + g] = s->interpolating ? 1 / d : p / (d + p);
        }
    return tabulate(s, true, factor, r + 1 == m ? 0 : 1 - 1 / (double)m, scratch, s->slack);
}

static coar_status tabulate_errors(shrink *s, const double *prior, double *factor, double *scratch) {
    const size_t G = s->head.columns, r = s->spectrum.r, n = s->spectrum.system->by_component.count;
    const bool bayes = s->rule == SHRINK_BAYES;
    for (size_t k = 0; k < r; k++)
        for (size_t g = 0; g < G; g++) {
            const double d = s->spectrum.value[k], p = s->rule == SHRINK_NOT ? 0 : s->grid.penalty[g];
            factor[k * G + g] = bayes ? p / (d + p) : d / ((d + p) * (d + p));
        }
    TRY(tabulate(s, false, factor, bayes && r < n ? 1 : 0, scratch, s->error_scale));
    for (size_t j = 0; j < n; j++)
        for (size_t g = 0; g < G; g++) {
            const double scale = bayes ? (prior ? prior[j] : 1) / s->grid.penalty[g] : 1;
            s->error_scale[j * G + g] = sqrt(scale * s->error_scale[j * G + g]);
        }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ create */

static coar_status allocate(shrink *s) {
    const fit_system *system = s->spectrum.system;
    const size_t m = system->by_mask.count, n = system->by_component.count, G = s->head.columns;
    const size_t row = system->block * sizeof(double), r = s->spectrum.r;
    TRY(memory_new(m, G * sizeof(double), "leverages", &s->slack));
    if (system->standard_errors) TRY(memory_new(n, G * sizeof(double), "standard errors", &s->error_scale));
    TRY(memory_new(s->spectrum.p, row, "a block of examples", &s->right));
    TRY(memory_new(r, row, "a block of examples", &s->alpha));
    if (s->rule == SHRINK_NOT) return COAR_OK;
    TRY(memory_new(r, row, "a block of examples", &s->alpha_squares));
    return memory_new(G, row, "a block of examples", &s->sums);
}

static coar_status tabulate_all(shrink *s, const double *prior) {
    const size_t r = s->spectrum.r;
    double *factor = NULL, *scratch = NULL;
    coar_status status;
    TRY_GOTO(memory_new(r, s->head.columns * sizeof(double), "leverages", &factor));
    TRY_GOTO(memory_new(r, DENSE_ROWS * sizeof(double), "leverages", &scratch));
    TRY_GOTO(tabulate_slack(s, factor, scratch));
    if (s->error_scale) TRY_GOTO(tabulate_errors(s, prior, factor, scratch));
done:
    free(scratch);
    free(factor);
    return status;
}

coar_status shrink_create(fit_system *system, shrink_rule rule, const double *prior, fit_solver **out) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    shrink *s = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *s, "the fit", &s));
    s->rule = rule;
    TRY_GOTO(spectrum_create(system, prior, &s->spectrum));
    s->interpolating = rule == SHRINK_NOT && s->spectrum.r + 1 == m;
    s->head = (fit_solver){
        .solve = shrink_solve,
        .destroy = shrink_destroy,
        .columns = rule == SHRINK_NOT ? 1 : PENALTIES,
        .slack_min = s->interpolating ? 0 : SLACK_MIN,
    };
    if (rule != SHRINK_NOT)
        TRY_GOTO(penalty_create(rule == SHRINK_RIDGE ? PENALTY_GCV : PENALTY_EVIDENCE, s->spectrum.value, s->spectrum.r,
                                m, &s->grid));
    TRY_GOTO(allocate(s));
    TRY_GOTO(tabulate_all(s, prior));
    s->head.slack = s->slack;
    s->head.error_scale = s->error_scale;
    s->head.dual = s->interpolating ? s->right : NULL;
    if (rule == SHRINK_NOT && s->spectrum.r < n)
        log_warning(system->callbacks,
                    "fit: %zu masks tell only %zu of %zu directions apart; the minimum-norm solution is taken", m,
                    s->spectrum.r, n);
    *out = &s->head;
    s = NULL;
done:
    if (s) shrink_destroy(&s->head);
    return status;
}
