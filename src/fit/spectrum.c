/*
 * spectrum.c - see spectrum.h. One side's singular vectors are eigenvectors; the other's follow from them:
 * U = Xw V D^-1/2, V = Xw' U D^-1/2.
 */
#include "fit/spectrum.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/algebra.h"

void spectrum_free(spectrum *s) {
    free(s->root);
    free(s->vectors);
    free(s->value);
    *s = (spectrum){.system = NULL};
}

/* ------------------------------------------------------------------------------------------------- create */

/* Components first .. first + count - 1 of Xw, one a row: rows[count][m]. */
static void weighted_columns(const spectrum *s, size_t first, size_t count, double *rows) {
    const size_t m = s->system->by_mask.count;
    bits_expand(&s->system->by_component, first, count, rows);
    for (size_t j = 0; j < count; j++) {
        const double mean = s->system->mean[first + j], root = s->root[first + j];
        for (size_t i = 0; i < m; i++) rows[j * m + i] = (rows[j * m + i] - mean) * root;
    }
}

/* Xw Xw' [m][m], a strip of components after the other: always the same order. */
static coar_status weighted_kernel(const spectrum *s, double **out) {
    const size_t m = s->p, n = s->system->by_component.count;
    double *kernel;
    TRY(memory_new(m, m * sizeof *kernel, "the kernel of the masks", &kernel));
    for (size_t j = 0; j < n; j += DENSE_ROWS) {
        const size_t count = n - j < DENSE_ROWS ? n - j : DENSE_ROWS;
        weighted_columns(s, j, count, s->system->rows);
        cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)m, (int)count, 1, s->system->rows, (int)m, 1, kernel,
                    (int)m);
    }
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < i; k++) kernel[i * m + k] = kernel[k * m + i];
    *out = kernel;
    return COAR_OK;
}

static coar_status make_matrix(spectrum *s) {
    if (s->root && s->dual) return weighted_kernel(s, &s->vectors);
    TRY(fit_system_gram(s->system, s->dual, &s->vectors));
    for (size_t j = 0; s->root && j < s->p; j++)
        for (size_t k = 0; k < s->p; k++) s->vectors[j * s->p + k] *= s->root[j] * s->root[k];
    return COAR_OK;
}

coar_status spectrum_create(const fit_system *system, const double *prior, spectrum *out) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    /* dual at m = n + 1 too: an interpolating fit needs U */
    spectrum s = {.system = system, .dual = m <= n + 1};
    double *all = NULL;
    coar_status status;
    s.p = s.dual ? m : n;
    if (prior) TRY_GOTO(memory_new(n, sizeof *s.root, "prior variances", &s.root));
    for (size_t j = 0; prior && j < n; j++) s.root[j] = sqrt(prior[j]);
    TRY_GOTO(make_matrix(&s));
    TRY_GOTO(memory_new(s.p, sizeof *all, "eigenvalues", &all));
    TRY_GOTO(algebra_eigenvectors(system->device, s.vectors, s.p, all));
    const double largest = all[s.p - 1];
    while (s.r < s.p && largest > 0 && all[s.p - 1 - s.r] > RANK_TOLERANCE * largest) s.r++;
    s.basis = s.vectors + (s.p - s.r) * s.p;
    TRY_GOTO(memory_new(s.r, sizeof *s.value, "eigenvalues", &s.value));
    for (size_t k = 0; k < s.r; k++) s.value[k] = all[s.p - s.r + k];
    *out = s;
    s = (spectrum){.system = NULL};
done:
    free(all);
    spectrum_free(&s);
    return status;
}

/* ------------------------------------------------------------------------------------------------- products */

static void scale_rows(const double *scale, size_t rows, size_t E, double *matrix) {
    for (size_t j = 0; scale && j < rows; j++) cblas_dscal((int)E, scale[j], matrix + j * E, 1);
}

coar_status spectrum_right(const spectrum *s, const solver_block *block, double *right) {
    const size_t E = block->count;
    if (!s->dual) return fit_system_cross(s->system, block, right);
    for (size_t i = 0; i < s->p; i++)
        for (size_t z = 0; z < E; z++) right[i * E + z] = block->y[i * E + z] - block->mean[z];
    return COAR_OK;
}

coar_status spectrum_project(const spectrum *s, double *right, size_t E, double *alpha) {
    if (!s->dual) scale_rows(s->root, s->p, E, right);
    TRY(algebra_rotate(s->system->device, s->basis, s->r, s->p, false, right, E, alpha));
    for (size_t k = 0; k < s->r && !s->dual; k++) cblas_dscal((int)E, 1 / sqrt(s->value[k]), alpha + k * E, 1);
    return COAR_OK;
}

coar_status spectrum_expand(const spectrum *s, double *alpha, size_t E, double *right, double *weight) {
    const bit_columns *components = &s->system->by_component;
    fit_device *device = s->system->device;
    const size_t n = components->count;
    if (!s->dual) {
        for (size_t k = 0; k < s->r; k++) cblas_dscal((int)E, sqrt(s->value[k]), alpha + k * E, 1);
        TRY(algebra_rotate(device, s->basis, s->r, s->p, true, alpha, E, weight));
        scale_rows(s->root, n, E, weight);
        return COAR_OK;
    }
    /* V sqrt(D) = Xw' U; the columns of U sum to 0, so that X serves as well as Xc */
    TRY(algebra_rotate(device, s->basis, s->r, s->p, true, alpha, E, right));
    TRY(algebra_hold(device, right, s->p, E));
    for (size_t j = 0; j < n; j += DENSE_ROWS) {
        const size_t count = n - j < DENSE_ROWS ? n - j : DENSE_ROWS;
        TRY(algebra_bits_product(device, components, j, count, right, E, s->system->rows, weight + j * E));
    }
    for (size_t j = 0; s->root && j < n; j++) cblas_dscal((int)E, s->root[j] * s->root[j], weight + j * E, 1);
    return COAR_OK;
}

coar_status spectrum_squares(const spectrum *s, bool of_masks, size_t first, size_t count, double *squares) {
    const fit_system *system = s->system;
    const size_t r = s->r, p = s->p;
    if (of_masks == s->dual) {
        for (size_t i = 0; i < count; i++)
            for (size_t k = 0; k < r; k++) {
                const double entry = s->basis[k * p + first + i];
                squares[i * r + k] = entry * entry;
            }
        return COAR_OK;
    }
    bits_expand(of_masks ? &system->by_mask : &system->by_component, first, count, system->rows);
    for (size_t i = 0; i < count; i++) {
        double *row = system->rows + i * p;
        if (of_masks) cblas_daxpy((int)p, -1, system->mean, 1, row, 1);
        for (size_t j = 0; of_masks && s->root && j < p; j++) row[j] *= s->root[j];
        if (!of_masks && s->root) cblas_dscal((int)p, s->root[first + i], row, 1);
    }
    TRY(algebra_coordinates(system->device, s->basis, r, p, system->rows, count, squares));
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < r; k++) squares[i * r + k] *= squares[i * r + k] / s->value[k];
    return COAR_OK;
}
