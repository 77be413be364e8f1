/* ridge.c - which penalty: the grid, and generalised cross-validation over it for many examples at once. */
#include <cblas.h>
#include <math.h>

#include "fit/solver.h"

/* Eight penalties a decade are closer than the criterion's own uncertainty; six decades each way reach from least
 * squares to "no component matters". */
#define PER_DECADE 8

void ridge_grid(const double *value, size_t r, double *penalty, double *shrink_squares) {
    double sum = 0;
    for (size_t k = 0; k < r; k++) sum += value[k];
    double mean = r ? sum / (double)r : 1;
    for (int g = 0; g < RIDGE_PENALTIES; g++)
        penalty[g] = mean * pow(10, (g - (RIDGE_PENALTIES - 1) / 2) / (double)PER_DECADE);
    for (size_t k = 0; k < r; k++)
        for (size_t g = 0; g < RIDGE_PENALTIES; g++) {
            double shrink = penalty[g] / (value[k] + penalty[g]);
            shrink_squares[k * RIDGE_PENALTIES + g] = shrink * shrink;
        }
}

/* rss(g) = |part of y outside all eigenvectors|^2 + sum_k (penalty_g / (d_k + penalty_g))^2 alpha_k^2. The part
 * outside is exactly 0 when r = m - 1; its rounding error would rule the criterion at small penalties. */
static void residual_squares(const double *shrink_squares, size_t r, size_t m, const double *alpha_squares,
                             const double *squares, size_t E, double *rss) {
    for (size_t z = 0; z < E; z++) rss[z] = r + 1 == m ? 0 : squares[z];
    if (r + 1 != m) {
        for (size_t k = 0; k < r; k++)
            for (size_t z = 0; z < E; z++) rss[z] -= alpha_squares[k * E + z];
        for (size_t z = 0; z < E; z++) rss[z] = fmax(rss[z], 0);
    }
    for (size_t g = 1; g < RIDGE_PENALTIES; g++) cblas_dcopy((int)E, rss, 1, rss + g * E, 1);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, RIDGE_PENALTIES, (int)E, (int)r, 1, shrink_squares,
                RIDGE_PENALTIES, alpha_squares, (int)E, 1, rss, (int)E);
}

void ridge_choose(const fit_solver *solver, const double *shrink_squares, size_t r, size_t m,
                  const double *alpha_squares, const double *squares, size_t E, double *rss, uint32_t *choice) {
    residual_squares(shrink_squares, r, m, alpha_squares, squares, E, rss);
    for (size_t z = 0; z < E; z++) {
        double least = INFINITY;
        for (uint32_t g = RIDGE_PENALTIES; g-- > 0;) { /* downwards: the larger penalty wins a tie */
            double left = (double)(m - 1) - solver->freedom[g];
            double criterion = rss[g * E + z] / (left * left);
            if (criterion < least) {
                least = criterion;
                choice[z] = g;
            }
        }
    }
}
