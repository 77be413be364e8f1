/*
 * spectrum.c - ridge and minimum-norm least squares by the singular value decomposition Xc = U sqrt(D) V', found as the
 * eigenvectors of the smaller side: V of Xc' Xc (primal, n < m) or U of Xc Xc' (dual).
 *
 * With alpha = U' y (primal: D^-1/2 V' Xc' y) and a penalty p:
 *   weight   = V alpha sqrt(D) / (D + p)          (dual: Xc' c with c = U alpha / (D + p))
 *   leverage = 1/m + sum_k u_ik^2 d_k / (d_k + p)
 *   slack    = 1 - leverage = outside_i + sum_k u_ik^2 p / (d_k + p), outside_i = 1 - 1/m - sum_k u_ik^2.
 * Least squares of rank r = m - 1 leaves no residual and no slack, but both divided by p have limits as p -> 0:
 * c_i and sum_k u_ik^2 / d_k. Their ratio is the exact leave-one-out residual of the minimum-norm solution.
 */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/algebra.h"

typedef struct spectrum {
    fit_solver head;
    fit_system *system;
    bool dual, penalised, interpolating;
    size_t p, r;            /* side of the matrix, rank */
    double *vectors;        /* [p][p]: row k = eigenvector k, eigenvalues ascending */
    const double *basis;    /* [r][p]: the last r rows */
    double *value;          /* [r] eigenvalues d_k, ascending */
    double *coordinates;    /* [p][E] */
    double *alpha;          /* [r][E] */
    double *alpha_squares;  /* [r][E], with penalties */
    double *shrink_squares; /* [r][G], with penalties */
    double *rss;            /* [G][E], with penalties */
} spectrum;

static void spectrum_destroy(fit_solver *solver) {
    spectrum *s = (spectrum *)solver;
    if (!s) return;
    free(s->head.penalty);
    free(s->head.freedom);
    free(s->head.slack);
    free(s->head.error_scale);
    free(s->vectors);
    free(s->value);
    free(s->coordinates);
    free(s->alpha);
    free(s->alpha_squares);
    free(s->shrink_squares);
    free(s->rss);
    free(s);
}

/* ------------------------------------------------------------------------------------------------- solve */

/* alpha[r][E] = coordinates of the centred outputs along the columns of U. */
static coar_status project(spectrum *s, const solver_block *block) {
    size_t E = block->count;
    if (s->dual) {
        for (size_t i = 0; i < s->p; i++)
            for (size_t z = 0; z < E; z++) s->coordinates[i * E + z] = block->y[i * E + z] - block->mean[z];
    } else {
        TRY(fit_system_cross(s->system, block, s->coordinates));
    }
    TRY(algebra_rotate(s->system->device, s->basis, s->r, s->p, false, s->coordinates, E, s->alpha));
    for (size_t k = 0; k < s->r && !s->dual; k++) cblas_dscal((int)E, 1 / sqrt(s->value[k]), s->alpha + k * E, 1);
    return COAR_OK;
}

static coar_status spectrum_solve(fit_solver *solver, solver_block *block) {
    spectrum *s = (spectrum *)solver;
    const bit_columns *components = &s->system->by_component;
    size_t E = block->count;
    TRY(project(s, block));
    for (size_t z = 0; z < E; z++) block->choice[z] = 0;
    if (s->penalised) {
        for (size_t x = 0; x < s->r * E; x++) s->alpha_squares[x] = s->alpha[x] * s->alpha[x];
        ridge_choose(solver, s->shrink_squares, s->r, s->system->by_mask.count, s->alpha_squares, block->squares, E,
                     s->rss, block->choice);
    }
    for (size_t k = 0; k < s->r; k++) {
        double scale = s->dual ? 1 : sqrt(s->value[k]);
        for (size_t z = 0; z < E; z++) s->alpha[k * E + z] *= scale / (s->value[k] + solver->penalty[block->choice[z]]);
    }
    double *product = s->dual ? s->coordinates : block->weight;
    TRY(algebra_rotate(s->system->device, s->basis, s->r, s->p, true, s->alpha, E, product));
    if (!s->dual) return COAR_OK;
    TRY(algebra_hold(s->system->device, product, s->p, E));
    for (size_t j = 0; j < components->count; j += DENSE_ROWS) {
        size_t count = components->count - j < DENSE_ROWS ? components->count - j : DENSE_ROWS;
        TRY(algebra_bits_product(s->system->device, components, j, count, product, E, s->system->rows,
                                 block->weight + j * E));
    }
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------- tabulation */

/* squares[count][r]: squared entries first .. first + count - 1 of the columns of U (of_masks) or V. One side's are
 * the eigenvectors themselves; the other's follow from them: U = Xc V D^-1/2, V = Xc' U D^-1/2. */
static coar_status singular_squares(const spectrum *s, bool of_masks, size_t first, size_t count, double *squares) {
    const fit_system *system = s->system;
    size_t r = s->r;
    if (of_masks == s->dual) {
        for (size_t i = 0; i < count; i++)
            for (size_t k = 0; k < r; k++) {
                double entry = s->basis[k * s->p + first + i];
                squares[i * r + k] = entry * entry;
            }
        return COAR_OK;
    }
    bits_expand(of_masks ? &system->by_mask : &system->by_component, first, count, system->rows);
    /* Xc' U needs no centring: the columns of U sum to 0 */
    for (size_t i = 0; i < count && of_masks; i++)
        cblas_daxpy((int)s->p, -1, system->mean, 1, system->rows + i * s->p, 1);
    TRY(algebra_coordinates(system->device, s->basis, r, s->p, system->rows, count, squares));
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < r; k++) squares[i * r + k] *= squares[i * r + k] / s->value[k];
    return COAR_OK;
}

/* table[total][G] = (squared entries of U or V) * factor[r][G], `scratch` [DENSE_ROWS][r]. With `outside`, the row's
 * part outside all eigenvectors is added too. */
static coar_status tabulate(const spectrum *s, bool of_masks, const double *factor, bool outside, double *scratch,
                            double *table) {
    size_t G = s->head.penalties, r = s->r, m = s->system->by_mask.count;
    size_t total = of_masks ? m : s->system->by_component.count;
    for (size_t first = 0; first < total && r; first += DENSE_ROWS) {
        size_t count = total - first < DENSE_ROWS ? total - first : DENSE_ROWS;
        TRY(singular_squares(s, of_masks, first, count, scratch));
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)G, (int)r, 1, scratch, (int)r, factor,
                    (int)G, 0, table + first * G, (int)G);
        for (size_t i = 0; i < count && outside; i++) {
            double rest = 1 - 1 / (double)m;
            for (size_t k = 0; k < r; k++) rest -= scratch[i * r + k];
            for (size_t g = 0; g < G; g++) table[(first + i) * G + g] += fmax(rest, 0);
        }
    }
    for (size_t x = 0; x < total * G && !r; x++) table[x] = outside ? 1 - 1 / (double)m : 0;
    return COAR_OK;
}

static coar_status tabulate_all(spectrum *s) {
    size_t G = s->head.penalties, r = s->r;
    const double *penalty = s->head.penalty;
    double *factor = NULL, *scratch = NULL;
    coar_status status;
    TRY_GOTO(memory_new(r, G * sizeof(double), "leverages", &factor));
    TRY_GOTO(memory_new(r, DENSE_ROWS * sizeof(double), "leverages", &scratch));
    for (size_t k = 0; k < r; k++)
        for (size_t g = 0; g < G; g++) {
            double d = s->value[k];
            s->head.freedom[g] += d / (d + penalty[g]);
            factor[k * G + g] = s->interpolating ? 1 / d : penalty[g] / (d + penalty[g]);
        }
    TRY_GOTO(tabulate(s, true, factor, r + 1 != s->system->by_mask.count, scratch, s->head.slack));
    if (s->head.error_scale) {
        for (size_t k = 0; k < r; k++)
            for (size_t g = 0; g < G; g++) {
                double d = s->value[k], shrunk = d + penalty[g];
                factor[k * G + g] = d / (shrunk * shrunk);
            }
        TRY_GOTO(tabulate(s, false, factor, false, scratch, s->head.error_scale));
        for (size_t x = 0; x < s->system->by_component.count * G; x++)
            s->head.error_scale[x] = sqrt(s->head.error_scale[x]);
    }
done:
    free(scratch);
    free(factor);
    return status;
}

/* ------------------------------------------------------------------------------------------------ create */

static coar_status decompose(spectrum *s) {
    double *all = NULL;
    coar_status status;
    TRY_GOTO(fit_system_gram(s->system, s->dual, &s->vectors));
    TRY_GOTO(memory_new(s->p, sizeof *all, "eigenvalues", &all));
    TRY_GOTO(algebra_eigenvectors(s->system->device, s->vectors, s->p, all));
    double largest = all[s->p - 1];
    while (s->r < s->p && largest > 0 && all[s->p - 1 - s->r] > RANK_TOLERANCE * largest) s->r++;
    s->basis = s->vectors + (s->p - s->r) * s->p;
    TRY_GOTO(memory_new(s->r, sizeof *s->value, "eigenvalues", &s->value));
    for (size_t k = 0; k < s->r; k++) s->value[k] = all[s->p - s->r + k];
done:
    free(all);
    return status;
}

static coar_status allocate(spectrum *s) {
    size_t m = s->system->by_mask.count, n = s->system->by_component.count, G = s->head.penalties;
    size_t row = s->system->block * sizeof(double);
    TRY(memory_new(G, sizeof(double), "penalties", &s->head.penalty));
    TRY(memory_new(G, sizeof(double), "penalties", &s->head.freedom));
    TRY(memory_new(m, G * sizeof(double), "leverages", &s->head.slack));
    if (s->system->standard_errors) TRY(memory_new(n, G * sizeof(double), "standard errors", &s->head.error_scale));
    TRY(memory_new(s->p, row, "a block of examples", &s->coordinates));
    TRY(memory_new(s->r, row, "a block of examples", &s->alpha));
    if (!s->penalised) return COAR_OK;
    TRY(memory_new(s->r, row, "a block of examples", &s->alpha_squares));
    TRY(memory_new(s->r, G * sizeof(double), "penalties", &s->shrink_squares));
    return memory_new(G, row, "a block of examples", &s->rss);
}

coar_status spectrum_create(fit_system *system, bool penalised, fit_solver **out) {
    size_t m = system->by_mask.count, n = system->by_component.count;
    spectrum *s = NULL;
    coar_status status;
    TRY_GOTO(memory_new(1, sizeof *s, "the fit", &s));
    s->system = system;
    s->penalised = penalised;
    s->dual = m <= n + 1; /* at m = n + 1 too: interpolation needs U */
    s->p = s->dual ? m : n;
    TRY_GOTO(decompose(s));
    s->interpolating = !penalised && s->r + 1 == m;
    s->head = (fit_solver){
        .solve = spectrum_solve,
        .destroy = spectrum_destroy,
        .penalties = penalised ? RIDGE_PENALTIES : 1,
        .slack_min = s->interpolating ? 0 : SLACK_MIN,
    };
    TRY_GOTO(allocate(s));
    if (penalised) ridge_grid(s->value, s->r, s->head.penalty, s->shrink_squares);
    TRY_GOTO(tabulate_all(s));
    s->head.dual = s->interpolating ? s->coordinates : NULL;
    if (!penalised && s->r < n)
        log_warning(system->callbacks,
                    "fit: %zu masks tell only %zu of %zu directions apart; the minimum-norm solution is taken", m, s->r,
                    n);
    *out = &s->head;
    s = NULL;
done:
    if (s) spectrum_destroy(&s->head);
    return status;
}
