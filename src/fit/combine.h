/*
 * combine.h - how averages of derivatives at the levels of level_keep become one weight, the integral over (0, 1): best
 * linear prediction from moments that a component group's examples share.
 * Must not know: where sums come from, outputs.
 */
#ifndef COAR_FIT_COMBINE_H
#define COAR_FIT_COMBINE_H

#include <stdbool.h>

#include "core/levels.h"
#include "core/status.h"

/* Of one component group, over its components and all examples. S, c: sum and number of derivatives at a level. */
typedef struct level_moments {
    double products[LEVELS][LEVELS]; /* sums of S_l S_m */
    double pairs[LEVELS][LEVELS];    /* of c_l c_m; of c_l (c_l - 1) on the diagonal */
    double squares[LEVELS];          /* of the squares of single derivatives */
    double count[LEVELS];            /* of c_l */
    double components;               /* in the group */
} level_moments;

/* What follows: covariance of the level means, variance of one derivative about its mean. */
typedef struct level_model {
    bool measured; /* false: the fixed shares are taken */
    double covariance[LEVELS][LEVELS], noise[LEVELS];
} level_model;

/* model[groups]; formulas in combine.c. `expected`: how many passes a component has at its rarest level. */
coar_status combine_models(const level_moments *moments, size_t groups, double expected, level_model *model);

/* coefficient[l]: what a sum at level l counts in the weight of a component with these counts; 0 at unseen levels. */
void combine_coefficients(const level_model *model, const uint32_t count[LEVELS], double coefficient[LEVELS]);

/* The mean square, over a group's components and examples, of what a weight by these coefficients misses of the integral
 * though no average had any noise; 0 where nothing is measured. */
double combine_bias(const level_model *model, const uint32_t count[LEVELS], const double coefficient[LEVELS]);

#endif
