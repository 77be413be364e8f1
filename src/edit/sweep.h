/*
 * sweep.h - an edit of 0, 1, ... K components measured, and which k is taken.
 * Must not know: models, files, how the order of components was chosen.
 */
#ifndef COAR_EDIT_SWEEP_H
#define COAR_EDIT_SWEEP_H

#include <stdbool.h>

#include "core/status.h"

typedef struct sweep_rules {
    double direction;        /* 1 raise, -1 lower */
    double output_direction; /* 1: larger outputs are better (a loss: -1) */
    double select;           /* X: points of validation accuracy; without classes mean output */
    bool has_classes;
    bool has_until;
    double until; /* percent of the target's examples */
} sweep_rules;

/* The most points of a sweep but for the last: K components are stepped through by ceil(K / SWEEP_POINTS). */
enum { SWEEP_POINTS = 100 };
uint32_t sweep_step(uint32_t K);

/* What an edit costs on validation: points of accuracy, without classes mean output. */
double sweep_cost(const sweep_rules *r, const coar_edit_point *first, const coar_edit_point *p);

/* Whether the sweep ends with its last point: with `until`, where that one reaches it within X; else after SWEEP_PATIENCE
 * points in a row that cost more than max(10, 3 X) points (without classes 3 X). */
enum { SWEEP_PATIENCE = 5 };
bool sweep_ends(const sweep_rules *r, const coar_edit_point *points, size_t count);

/* The index of the point to take: the largest gain of the target's mean output in the direction asked for among those that
 * cost at most X, the smaller k of equal ones; with `until` the first within X that reaches it, where one does. 0 (k = 0)
 * where nothing helps. */
size_t sweep_choose(const sweep_rules *r, const coar_edit_point *points, size_t count);

#endif
