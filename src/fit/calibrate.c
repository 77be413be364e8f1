/*
 * calibrate.c - one factor per component group for averaged gradients. With P_g(z) = Xc_g w_g(z) what group g's gradients
 * predict for the masks, outputs y(z) centred and all divided by the deviation of y(z): factors f minimise
 *
 *   sum_z |y(z) - sum_g f_g P_g(z)|^2 + (1/WIDTH^2) sum_g (f_g - 1)^2
 *
 * The last term keeps the factor of a group at 1 where masks say nothing about it (its outputs' noise is at most their
 * deviation, 1).
 */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/grad.h"

/* Factors are expected within about this of 1. */
#define WIDTH 0.5

typedef struct calibration {
    const fit_system *system;
    double *weight;    /* [n][E] of a chunk */
    double *predicted; /* [groups + 1][DENSE_ROWS][E]: P_g of a strip of masks, then y; all over y's deviation */
    double *products;  /* [groups + 1][groups + 1] of them, summed over masks and examples */
} calibration;

double gradient_calibrate_memory(const fit_problem *problem) {
    const double groups = problem->groups + 1.;
    return 8 * (SAMPLE_CHUNK * ((double)problem->n + groups * DENSE_ROWS) + groups * groups);
}

/* The strip of masks from `first` on: predictions of every group, then the outputs. */
static void predict_strip(const calibration *c, const solver_block *block, size_t first, size_t count) {
    const fit_system *system = c->system;
    const size_t n = system->by_component.count, E = block->count;
    bits_expand(&system->by_mask, first, count, system->rows);
    for (size_t i = 0; i < count; i++) cblas_daxpy((int)n, -1, system->mean, 1, system->rows + i * n, 1);
    for (uint32_t g = 0; g < system->groups; g++) {
        const uint32_t j = system->group_first[g], width = system->group_first[g + 1] - j;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)E, (int)width, 1, system->rows + j,
                    (int)n, c->weight + j * E, (int)E, 0, c->predicted + g * count * E, (int)E);
    }
    double *y = c->predicted + system->groups * count * E;
    for (size_t i = 0; i < count; i++)
        for (size_t z = 0; z < E; z++) y[i * E + z] = block->y[(first + i) * E + z] - block->mean[z];
    for (size_t z = 0; z < E; z++) { /* constant outputs count for nothing */
        const double scale = block->squares[z] > 0 ? sqrt((double)system->by_mask.count / block->squares[z]) : 0;
        cblas_dscal((int)((system->groups + 1) * count), scale, c->predicted + z, (int)E);
    }
}

static void add_chunk(const calibration *c, const solver_block *block) {
    const size_t m = c->system->by_mask.count, E = block->count;
    const int side = (int)c->system->groups + 1;
    for (size_t first = 0; first < m; first += DENSE_ROWS) {
        const size_t count = m - first < DENSE_ROWS ? m - first : DENSE_ROWS;
        predict_strip(c, block, first, count);
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, side, (int)(count * E), 1, c->predicted, (int)(count * E),
                    1, c->products, side);
    }
}

/* (A + p I) (f - 1) = b - A 1, A the products of predictions and b those with y, in the last row. group[groups]. */
static coar_status solve_factors(const calibration *c, double *group) {
    const size_t groups = c->system->groups, side = groups + 1;
    double *A = c->products;
    for (size_t g = 0; g < groups; g++) {
        group[g] = A[groups * side + g];
        for (size_t h = 0; h < groups; h++) group[g] -= g < h ? A[h * side + g] : A[g * side + h];
    }
    for (size_t g = 0; g < groups; g++) A[g * side + g] += 1 / (WIDTH * WIDTH);
    /* row-major lower is column-major upper */
    const int info = LAPACKE_dposv(LAPACK_COL_MAJOR, 'U', (int)groups, 1, A, (int)side, group, (int)groups);
    if (info)
        return status_set(COAR_ERROR_INTERNAL, "the fit: the calibration of gradients cannot be solved (%d)", info);
    for (size_t g = 0; g < groups; g++) group[g] += 1;
    return COAR_OK;
}

coar_status gradient_calibrate(const fit_system *system, gradient_average *g, const fit_sample *sample,
                               double *factor) {
    static const char what[] = "the calibration of gradients";
    const size_t n = system->by_component.count, side = system->groups + 1;
    calibration c = {.system = system};
    double *group = NULL;
    coar_status status;
    TRY_GOTO(memory_new(n, SAMPLE_CHUNK * sizeof(double), what, &c.weight));
    TRY_GOTO(memory_new(side, DENSE_ROWS * SAMPLE_CHUNK * sizeof(double), what, &c.predicted));
    TRY_GOTO(memory_new(side, side * sizeof(double), what, &c.products));
    TRY_GOTO(memory_new(side, sizeof(double), what, &group));
    for (size_t k = 0; k < sample->chunks; k++) {
        solver_block block;
        fit_sample_chunk(sample, k, &block);
        TRY_GOTO(gradient_weights(g, block.index, block.count, c.weight));
        add_chunk(&c, &block);
    }
    TRY_GOTO(solve_factors(&c, group));
    for (uint32_t h = 0; h < system->groups; h++)
        for (uint32_t j = system->group_first[h]; j < system->group_first[h + 1]; j++) factor[j] = group[h];
done:
    free(c.weight);
    free(c.predicted);
    free(c.products);
    free(group);
    return status;
}
