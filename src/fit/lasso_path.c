/*
 * lasso_path.c - the lasso of one example by cyclic coordinate descent on the Gram matrix (Friedman, Hastie, Tibshirani
 * 2010, "covariance updates"): with q = Xc' (y - Xc w), coordinate j's best value is S(q_j + G_jj w_j, penalty) / G_jj,
 * S(a, p) = sign(a) max(|a| - p, 0), and a change of it changes q by a column of G.
 *
 * Which penalty: generalised cross-validation as for ridge, with the number of weights that are not 0 for the degrees
 * of freedom, whose unbiased estimate it is (Zou, Hastie, Tibshirani 2007). It uses all masks, where a held-out tenth
 * would choose by a tenth of them.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "fit/lasso.h"

/* The path: 16 penalties a decade over three decades below the largest. */
enum { PER_DECADE = 16, STEPS = 3 * PER_DECADE + 1 };

/* The criterion has passed its minimum when it rises for this many steps. */
#define PATIENCE 8

/* Sweeps over the weights that are not 0, at most: far more than masks drawn at random need. */
#define SWEEPS 1000

/* Coordinate j's best value; how much that changes the fit, in squares. */
static double update(const lasso_problem *p, size_t j, double penalty, double *weight, double *residual) {
    const double own = p->gram[j * p->n + j];
    if (!(own > 0)) return 0; /* never or always ablated */
    const double a = residual[j] + own * weight[j];
    const double next = a > penalty ? (a - penalty) / own : a < -penalty ? (a + penalty) / own : 0;
    const double change = next - weight[j];
    if (change == 0) return 0;
    cblas_daxpy((int)p->n, -change, p->gram + j * p->n, 1, residual, 1);
    weight[j] = next;
    return change * change * own;
}

/* Primal minus dual value, the dual point being the residual y - Xc w scaled into the feasible set. */
static double duality_gap(const lasso_problem *p, double penalty, const double *weight, const double *residual,
                          double *rss) {
    double absolute = 0, cross = 0, left = 0, largest = 0;
    for (size_t j = 0; j < p->n; j++) {
        absolute += fabs(weight[j]);
        cross += weight[j] * p->cross[j];
        left += weight[j] * residual[j];
        largest = fmax(largest, fabs(residual[j]));
    }
    *rss = fmax(p->squares - cross - left, 0);
    const double scale = largest > penalty ? penalty / largest : 1;
    return *rss / 2 + penalty * absolute - scale * (p->squares - cross) + scale * scale * *rss / 2;
}

bool lasso_descend(const lasso_problem *p, double penalty, double *weight, lasso_workspace *w, double *rss,
                   size_t *active) {
    const double enough = LASSO_GAP * p->squares;
    bool found = false;
    for (int round = 0; round < SWEEPS && !found; round++) {
        size_t count = 0;
        for (size_t j = 0; j < p->n; j++) {
            update(p, j, penalty, weight, w->residual);
            if (weight[j] != 0) w->active[count++] = (uint32_t)j;
        }
        for (int sweep = 0; sweep < SWEEPS; sweep++) {
            double change = 0;
            for (size_t k = 0; k < count; k++) change += update(p, w->active[k], penalty, weight, w->residual);
            if (change <= enough) break;
        }
        found = duality_gap(p, penalty, weight, w->residual, rss) <= enough;
    }
    *active = 0;
    for (size_t j = 0; j < p->n; j++) *active += weight[j] != 0;
    return found;
}

bool lasso_choose(const lasso_problem *p, double *weight, lasso_workspace *w, double *penalty, size_t *active) {
    double largest = 0, least = INFINITY;
    int risen = 0;
    bool found = true;
    memset(weight, 0, p->n * sizeof *weight);
    memset(w->best, 0, p->n * sizeof *weight);
    memcpy(w->residual, p->cross, p->n * sizeof *weight);
    for (size_t j = 0; j < p->n; j++) largest = fmax(largest, fabs(p->cross[j]));
    *penalty = largest;
    *active = 0;
    for (int step = 0; step < STEPS && largest > 0 && risen < PATIENCE; step++) {
        const double next = largest * pow(10, -step / (double)PER_DECADE);
        double rss;
        size_t count;
        found = lasso_descend(p, next, weight, w, &rss, &count);
        if (!found) break;
        const double left = (double)p->m - 1 - (double)count;
        if (!(left > 0)) break;
        const double criterion = rss / (left * left);
        risen = criterion < least ? 0 : risen + 1;
        if (risen) continue;
        least = criterion;
        *penalty = next;
        *active = count;
        memcpy(w->best, weight, p->n * sizeof *weight);
    }
    memcpy(weight, w->best, p->n * sizeof *weight);
    return found;
}
