/*
 * combine.c - see combine.h. Of group g, with U-statistics that need no model of the noise (a derivative is never
 * multiplied by itself):
 *   C_g[l][m] = sum S_l S_m / sum c_l c_m,   C_g[l][l] = sum (S_l^2 - Q_l) / sum c_l (c_l - 1),
 *   r_g[l] = sum Q_l / sum c_l,   s_g = C_g[0][0], the best measured.
 * Half of each comes from all groups: C = C_g/2 + s_g/2 mean_g(C_g/s_g), the same for r, the mean weighted by the
 * sizes of the groups whose s_g is clear of its own error: one of nothing but noise, s_g just above 0, would drown the
 * others. Noise v[l] = r[l] - C[l][l].
 * The weight of a component is the best linear prediction of q' (level means), q the weights of the quadrature:
 *   a = (C + diag(v[l]/c[l]))^-1 C q over its seen levels,   weight = sum_l a[l] S_l/c_l;
 * unseen levels are filled in by C. It is not scaled back to sum 1: what is noisy is drawn to 0.
 */
#include "fit/combine.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

/* Gauss's quadrature of two points on [0, 1], the lower levels; level 1 serves through C alone. */
static const double quadrature[LEVELS] = {0, .5, .5};

/* Where too few derivatives are seen at the lower levels to measure anything, or a group has none. */
static const double fixed_shares[LEVELS] = {.5, .25, .25};
#define EXPECTED_MIN 1.5

/* Half a group's own moments, half those of all. */
#define OWN 0.5

/* How many of its standard errors s_g has to be for the group to have a say in the moments of all. */
#define CLEAR 3.0

/* Smallest eigenvalue of C over its largest, and smallest noise over the mean square. */
#define EIGENVALUE_MIN 1e-4
#define NOISE_MIN 0.05

static double ratio(double sum, double count) {
    return count > 0 ? sum / count : 0;
}

static void own_moments(const level_moments *m, level_model *out) {
    for (size_t l = 0; l < LEVELS; l++) {
        for (size_t k = 0; k < LEVELS; k++)
            out->covariance[l][k] = ratio(m->products[l][k] - (l == k ? m->squares[l] : 0), m->pairs[l][k]);
        out->noise[l] = ratio(m->squares[l], m->count[l]);
    }
    out->measured = out->covariance[0][0] > 0 && isfinite(out->covariance[0][0]);
    for (size_t l = 0; l < LEVELS; l++) out->measured &= isfinite(out->noise[l]);
}

/* The error of a mean of products of two derivatives that are nothing but noise, where the examples of a block, which
 * have the same masks, say no more than one. */
static bool is_clear(const level_moments *m, const level_model *own) {
    const double error = own->noise[0] * sqrt(2 * LEVELS_BLOCK / m->pairs[0][0]);
    return own->measured && own->covariance[0][0] > CLEAR * error;
}

/* The mean over groups of their moments, each over its own scale; not `measured` where no group is clear. */
static level_model shared_moments(const level_moments *moments, const level_model *own, size_t groups) {
    level_model shared = {.measured = false};
    double components = 0;
    for (size_t g = 0; g < groups; g++) components += is_clear(&moments[g], &own[g]) ? moments[g].components : 0;
    for (size_t g = 0; g < groups; g++) {
        if (!is_clear(&moments[g], &own[g])) continue;
        shared.measured = true;
        const double share = moments[g].components / components / own[g].covariance[0][0];
        for (size_t l = 0; l < LEVELS; l++) {
            for (size_t k = 0; k < LEVELS; k++) shared.covariance[l][k] += share * own[g].covariance[l][k];
            shared.noise[l] += share * own[g].noise[l];
        }
    }
    return shared;
}

/* C with its eigenvalues floored: it has to be a covariance. */
static coar_status floor_eigenvalues(double C[LEVELS][LEVELS]) {
    double vectors[LEVELS][LEVELS], value[LEVELS];
    for (size_t l = 0; l < LEVELS; l++)
        for (size_t k = 0; k < LEVELS; k++) vectors[l][k] = C[l][k];
    if (LAPACKE_dsyev(LAPACK_ROW_MAJOR, 'V', 'L', LEVELS, vectors[0], LEVELS, value))
        return status_set(COAR_ERROR_INTERNAL, "the fit: the moments of gradients have no eigenvalues");
    for (size_t e = 0; e < LEVELS; e++) value[e] = fmax(value[e], EIGENVALUE_MIN * value[LEVELS - 1]);
    for (size_t l = 0; l < LEVELS; l++)
        for (size_t k = 0; k < LEVELS; k++) {
            C[l][k] = 0;
            for (size_t e = 0; e < LEVELS; e++) C[l][k] += vectors[l][e] * value[e] * vectors[k][e];
        }
    return COAR_OK;
}

static coar_status blend(const level_model *shared, level_model *model) {
    const double scale = model->covariance[0][0], own = shared->measured ? OWN : 1;
    for (size_t l = 0; l < LEVELS; l++) {
        for (size_t k = 0; k < LEVELS; k++)
            model->covariance[l][k] = own * model->covariance[l][k] + (1 - own) * scale * shared->covariance[l][k];
        model->noise[l] = own * model->noise[l] + (1 - own) * scale * shared->noise[l];
    }
    TRY(floor_eigenvalues(model->covariance));
    for (size_t l = 0; l < LEVELS; l++)
        model->noise[l] = fmax(model->noise[l] - model->covariance[l][l], NOISE_MIN * model->noise[l]);
    return COAR_OK;
}

coar_status combine_models(const level_moments *moments, size_t groups, double expected, level_model *model) {
    for (size_t g = 0; g < groups; g++) {
        own_moments(&moments[g], &model[g]);
        model[g].measured &= expected >= EXPECTED_MIN;
    }
    const level_model shared = shared_moments(moments, model, groups);
    for (size_t g = 0; g < groups; g++)
        if (model[g].measured) TRY(blend(&shared, &model[g]));
    return COAR_OK;
}

static void fixed_coefficients(const uint32_t count[LEVELS], double coefficient[LEVELS]) {
    double seen = 0;
    for (size_t l = 0; l < LEVELS; l++) seen += count[l] ? fixed_shares[l] : 0;
    for (size_t l = 0; l < LEVELS; l++) coefficient[l] = count[l] ? fixed_shares[l] / seen / count[l] : 0;
}

/* Gaussian elimination in place: A [LEVELS][LEVELS] is positive definite, so no pivots are chosen. */
static void solve_definite(double A[LEVELS][LEVELS], size_t side, double *x) {
    for (size_t l = 0; l < side; l++)
        for (size_t k = l + 1; k < side; k++) {
            const double factor = A[k][l] / A[l][l];
            for (size_t e = l; e < side; e++) A[k][e] -= factor * A[l][e];
            x[k] -= factor * x[l];
        }
    for (size_t l = side; l-- > 0;) {
        for (size_t k = l + 1; k < side; k++) x[l] -= A[l][k] * x[k];
        x[l] /= A[l][l];
    }
}

void combine_coefficients(const level_model *model, const uint32_t count[LEVELS], double coefficient[LEVELS]) {
    double A[LEVELS][LEVELS], x[LEVELS];
    size_t seen[LEVELS], side = 0;
    if (!model->measured) {
        fixed_coefficients(count, coefficient);
        return;
    }
    for (size_t l = 0; l < LEVELS; l++) {
        coefficient[l] = 0;
        if (count[l]) seen[side++] = l;
    }
    for (size_t a = 0; a < side; a++) {
        const size_t l = seen[a];
        x[a] = 0;
        for (size_t k = 0; k < LEVELS; k++) x[a] += model->covariance[l][k] * quadrature[k];
        for (size_t b = 0; b < side; b++) A[a][b] = model->covariance[l][seen[b]];
        A[a][a] += model->noise[l] / count[l];
    }
    solve_definite(A, side, x);
    for (size_t a = 0; a < side; a++) coefficient[seen[a]] = x[a] / count[seen[a]];
}

/* (a - q)' C (a - q). */
double combine_bias(const level_model *model, const uint32_t count[LEVELS], const double coefficient[LEVELS]) {
    double missed[LEVELS], sum = 0;
    for (size_t l = 0; l < LEVELS; l++) missed[l] = coefficient[l] * count[l] - quadrature[l];
    for (size_t l = 0; l < LEVELS && model->measured; l++)
        for (size_t k = 0; k < LEVELS; k++) sum += missed[l] * model->covariance[l][k] * missed[k];
    return sum;
}
