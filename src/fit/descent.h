/*
 * descent.h - preconditioned conjugate gradients on the packed masks, OPERATOR_LANES examples at a time and each with a
 * penalty of its own:
 *
 *   (Xc' Xc + p D^-1) w = Xc' y.
 *
 * A thread works on its examples from beginning to end, so that results depend on nothing but the example, the masks,
 * the penalty, the prior, where it starts and its goal. Letters as in solver.h.
 * Must not know: estimators, how penalties are chosen, held-out predictions, files.
 */
#ifndef COAR_FIT_DESCENT_H
#define COAR_FIT_DESCENT_H

#include "fit/operator.h"
#include "fit/solver.h"

/* What a descent does to itself, step by step, for whoever wants to know its spectrum (ritz.h): the length of each step
 * along its direction, and how much of that direction the next one keeps. */
enum { TRACE_STEPS_MAX = 192 };
typedef struct descent_trace {
    double length[TRACE_STEPS_MAX][OPERATOR_LANES];
    double keep[TRACE_STEPS_MAX][OPERATOR_LANES];
    size_t steps[OPERATOR_LANES]; /* of the lane, which may be there before others are */
} descent_trace;

/* Workspace of one thread: [length][lanes] throughout. */
typedef struct descent_lanes {
    double *y, *fitted, *image;                      /* [m] outputs, Xc w, Xc direction */
    double *weight, *residual, *direction, *product; /* [n] */
    /* [m] c with w = Xc' c, and its direction: kept where y - Xc w vanishes with the penalty, and c is what it vanishes
     * like; else NULL. */
    double *dual, *dual_direction;
    double scale[OPERATOR_LANES]; /* y is (outputs - mean) / scale, which single precision can hold, and its weights */
    double squares[OPERATOR_LANES]; /* of y */
    double penalty[OPERATOR_LANES];
    double gap[OPERATOR_LANES];     /* r' P^-1 r, r the residual and P the preconditioner */
    double goal[OPERATOR_LANES];    /* a lane stays as it is once its gap is not above this */
    uint32_t steps[OPERATOR_LANES]; /* since descent_load */
    descent_trace *trace;           /* NULL = of no interest */
    operator_scratch *scratch;
} descent_lanes;

typedef struct descent {
    const fit_system *system;
    const double *prior; /* [n] D, borrowed; NULL = all 1 */
    /* Whether P is 1 and not the diagonal of the equations. Where the equations have many solutions, descent from 0
     * leads to the one that is least in the norm of P; and the trace is then that of Xc' Xc + p itself. */
    bool plain;
    descent_lanes *lanes; /* of each worker */
    int workers;
} descent;

/* dual: with lanes->dual. */
coar_status descent_create(const fit_system *system, bool dual, descent *out);
void descent_free(descent *d);
double descent_memory(const fit_problem *problem, bool dual, int workers);

/* The block's examples z0 .. z0 + count - 1 into the lanes, with their weights where `warm`; the lanes that are left
 * over have outputs 0. */
void descent_load(const descent *d, const solver_block *block, size_t z0, size_t count, bool warm, descent_lanes *l);

/* Sets gap and the first direction, of the residual as `fitted` gives it or as it stands. */
void descent_begin(const descent *d, descent_lanes *l);
void descent_begin_at(const descent *d, descent_lanes *l);

/* One step of the lanes that are not there yet. */
void descent_step(const descent *d, descent_lanes *l);
bool descent_is_open(const descent_lanes *l, size_t z);
bool descent_any_open(const descent_lanes *l);

/* residual = Xc' (y - Xc w) - p D^-1 w with fitted = Xc w anew, all in double precision, and its squares[lanes]. */
void descent_residual(const descent *d, descent_lanes *l, double squares[OPERATOR_LANES]);

/* Takes a mean from each lane's values[length][lanes]: rounding leaves sums that are not quite 0, which Xc' would see
 * (operator.h). */
void descent_centre(double *values, size_t length);

/* |x_j|^2 of the centred column. */
double descent_mask_squares(const fit_system *system, size_t j);

#endif
