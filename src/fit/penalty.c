/*
 * penalty.c - which penalty: the grid, and two criteria over it for many examples at once. With alpha_k the coordinates
 * of the centred outputs along the eigenvectors, s_k = penalty / (d_k + penalty), `outside` the squares of the outputs
 * outside all eigenvectors, and f = sum_k (1 - s_k), the effective degrees of freedom:
 *
 *   GCV       (outside + sum_k s_k^2 alpha_k^2) / (m - 1 - f)^2           (Golub, Heath, Wahba 1979)
 *   evidence  the likelihood of r = s^2 / sigma^2 = 1 / penalty under w ~ N(0, s^2 D), noise ~ N(0, sigma^2), the bias
 *             flat and sigma^2 at its best, S / (m - 1) with S = outside + sum_k s_k alpha_k^2: -2 log of it is, but
 *             for a constant, (m - 1) log S + sum_k log(1 + r d_k)        (MacKay 1992; the restricted likelihood)
 *
 * Both are log(outside + sum_k t_k alpha_k^2) plus a number of the penalty alone, once GCV is logged and the evidence
 * divided by m - 1.
 */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/penalty.h"

/* Eight penalties a decade are closer than either criterion's own uncertainty; six decades each way reach from least
 * squares to "no component matters". */
#define PER_DECADE 8

void penalty_spread(double mean, double penalty[PENALTIES]) {
    for (int g = 0; g < PENALTIES; g++) penalty[g] = mean * pow(10, (g - PENALTY_MIDDLE) / (double)PER_DECADE);
}

coar_status penalty_create(penalty_rule rule, const double *value, size_t r, size_t m, penalty_grid *out) {
    penalty_grid grid = {.r = r, .m = m};
    TRY(memory_new(r, PENALTIES * sizeof(double), "penalties", &grid.shrink));
    double sum = 0;
    for (size_t k = 0; k < r; k++) sum += value[k];
    penalty_spread(r ? sum / (double)r : 1, grid.penalty);
    for (size_t g = 0; g < PENALTIES; g++) {
        double left = (double)(m - 1 - r), logs = 0;
        for (size_t k = 0; k < r; k++) {
            const double s = grid.penalty[g] / (value[k] + grid.penalty[g]);
            left += s;
            logs -= log(s);
            grid.shrink[k * PENALTIES + g] = rule == PENALTY_GCV ? s * s : s;
        }
        grid.left[g] = left;
        grid.offset[g] = rule == PENALTY_GCV ? -2 * log(left) : logs / (double)(m - 1);
    }
    *out = grid;
    return COAR_OK;
}

void penalty_free(penalty_grid *grid) {
    free(grid->shrink);
    grid->shrink = NULL;
}

/* The squares outside are exactly 0 when r = m - 1; their rounding error would rule criteria at small penalties. */
static void shrunk_squares(const penalty_grid *grid, const double *alpha_squares, const double *squares, size_t E,
                           double *sums) {
    const size_t r = grid->r;
    const bool full = r + 1 == grid->m;
    for (size_t z = 0; z < E; z++) sums[z] = full ? 0 : squares[z];
    if (!full) {
        for (size_t k = 0; k < r; k++)
            for (size_t z = 0; z < E; z++) sums[z] -= alpha_squares[k * E + z];
        for (size_t z = 0; z < E; z++) sums[z] = fmax(sums[z], 0);
    }
    for (size_t g = 1; g < PENALTIES; g++) cblas_dcopy((int)E, sums, 1, sums + g * E, 1);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, PENALTIES, (int)E, (int)r, 1, grid->shrink, PENALTIES,
                alpha_squares, (int)E, 1, sums, (int)E);
}

void penalty_choose(const penalty_grid *grid, const double *alpha_squares, const double *squares, size_t E,
                    double *sums, uint32_t *choice) {
    shrunk_squares(grid, alpha_squares, squares, E, sums);
    for (size_t z = 0; z < E; z++) {
        double least = INFINITY;
        choice[z] = PENALTIES - 1;
        for (uint32_t g = PENALTIES; g-- > 0;) { /* downwards: the larger penalty wins a tie */
            const double criterion = log(sums[g * E + z]) + grid->offset[g];
            if (criterion < least) {
                least = criterion;
                choice[z] = g;
            }
        }
    }
}
