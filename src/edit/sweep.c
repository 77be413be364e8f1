/* sweep.c - see sweep.h. */
#include "edit/sweep.h"

#include <math.h>

#define ROUNDING 1e-9 /* accuracies are fractions of counts: 2 points are 2 points */

uint32_t sweep_step(uint32_t K) {
    return K / SWEEP_POINTS + (K % SWEEP_POINTS != 0);
}

double sweep_cost(const sweep_rules *r, const coar_edit_point *first, const coar_edit_point *p) {
    const coar_edit_score *before = &first->set[COAR_EDIT_VALIDATION], *after = &p->set[COAR_EDIT_VALIDATION];
    if (r->has_classes) return 100 * (before->accuracy - after->accuracy);
    return r->output_direction * (before->output - after->output);
}

/* NaN, of an output that is not finite, is within nothing. */
static bool within(const sweep_rules *r, const coar_edit_point *points, const coar_edit_point *p) {
    return sweep_cost(r, points, p) <= r->select + ROUNDING;
}

static bool reaches(const sweep_rules *r, const coar_edit_point *p) {
    const double percent = 100 * p->set[COAR_EDIT_TARGET].accuracy;
    return r->has_until &&
           (r->direction * r->output_direction > 0 ? percent >= r->until - ROUNDING : percent <= r->until + ROUNDING);
}

bool sweep_ends(const sweep_rules *r, const coar_edit_point *points, size_t count) {
    const double most = r->has_classes ? fmax(10, 3 * r->select) : 3 * r->select;
    const coar_edit_point *last = &points[count - 1];
    if (reaches(r, last) && within(r, points, last)) return true;
    if (count <= SWEEP_PATIENCE) return false;
    for (size_t i = count - SWEEP_PATIENCE; i < count; i++)
        if (sweep_cost(r, points, &points[i]) <= most + ROUNDING) return false;
    return true;
}

size_t sweep_choose(const sweep_rules *r, const coar_edit_point *points, size_t count) {
    size_t best = 0;
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        if (!within(r, points, &points[i])) continue;
        if (reaches(r, &points[i])) return i;
        const double gain =
            r->direction * (points[i].set[COAR_EDIT_TARGET].output - points[0].set[COAR_EDIT_TARGET].output);
        if (gain > most) {
            most = gain;
            best = i;
        }
    }
    return best;
}
