/*
 * resolvent.h - traces, determinants and diagonals of the inverse (Xw Xw' + penalty)^-1 of masks that were drawn
 * independently of each other, component by component: what they come to in the limit of large m and n, from the masks'
 * own variances alone. Letters as in solver.h; formulas in resolvent.c.
 * Must not know: where masks and outputs come from, how a system is solved.
 */
#ifndef COAR_FIT_RESOLVENT_H
#define COAR_FIT_RESOLVENT_H

#include "fit/penalty.h"

typedef struct resolvent {
    penalty_grid grid;       /* penalties, left and offset of the evidence; no table of eigenvalues */
    double slack[PENALTIES]; /* kappa: the mean of 1 - leverage, less the bias's part */
} resolvent;

/* information[n] = D_j |x_j|^2: what the masks say of a component, in the unit of the penalty. */
void resolvent_create(const double *information, size_t n, size_t m, resolvent *out);

/* Posterior variance of a component / s^2 at penalty g, prior variance D and information D |x_j|^2. */
double resolvent_variance(const resolvent *r, size_t g, double prior, double information);

/* Ridge: variance of an estimate about its own mean / sigma^2 at penalty g, of a component with this information |x_j|^2
 * (D = 1). slope: of kappa with the penalty, resolvent_slope. */
double resolvent_spread(const resolvent *r, size_t g, double slope, double information);
double resolvent_slope(const resolvent *r, size_t g, const double *information, size_t n);

/* What is left of the limit where the penalty vanishes. */
typedef struct resolvent_end {
    size_t rank;  /* m - 1, or as many as there are components with information, if fewer */
    bool meets;   /* rank is m - 1: all outputs are met */
    double slack; /* kappa; where outputs are met, its limit divided by the penalty, without one of the masks */
} resolvent_end;
resolvent_end resolvent_vanish(const double *information, size_t n, size_t m);

/* The penalty of the grid nearest to this one. */
uint32_t resolvent_nearest(const resolvent *r, double penalty);

/* A solution at penalty `now`: what is left of the outputs' squares, |y - Xc w|^2, and with the penalty's part,
 * |y - Xc w|^2 + p sum_j w_j^2 / D_j. */
typedef struct solved_squares {
    uint32_t now;
    double squares, residual, penalised;
} solved_squares;

/* The penalty that the evidence prefers within a decade of the solution's. */
uint32_t resolvent_choose(const resolvent *r, const solved_squares *solved);

#endif
