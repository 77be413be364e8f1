/* trial.c - the sweep over k, measured block by block. See edit.h. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "edit/edit.h"

/* Points that are measured together: fewer make backends that pack weights do so more often, more compute what an early end
 * has no use for. The table never shows more than the rule asks for. */
enum { BLOCK = 16 };

static coar_status make_points(edit_run *e, uint32_t **ks) {
    edit_record *r = &e->record;
    const uint32_t step = sweep_step(r->max_k);
    const size_t most = r->max_k / step + 2;
    uint32_t *all;
    size_t count = 0;
    TRY(memory_new(most, sizeof *all, "the sweep", &all));
    for (uint32_t k = 0; k < r->max_k; k += step) all[count++] = k;
    all[count++] = r->max_k;
    *ks = r->sweep_k = all;
    r->points = count;
    TRY(memory_new(count, sizeof *e->points, "the sweep", &e->points));
    for (size_t k = 0; k < EDIT_SWEPT; k++)
        TRY(memory_new(count, EDIT_COLUMNS * sizeof(double), "the sweep", &r->sweep[k]));
    return memory_new(count, e->pairs.count * sizeof(double), "the sweep", &r->pair_sweep);
}

/* Figures of point `at`, mask i of the outputs. */
static void take_point(edit_run *e, const edit_outputs *outputs, size_t i, size_t at) {
    edit_record *r = &e->record;
    e->points[at].k = r->sweep_k[at];
    for (size_t k = 0; k < EDIT_SWEPT; k++) {
        const size_t count = e->sets.set[k].count;
        const float *margin = outputs->margin[k] ? outputs->margin[k] + i * count : NULL;
        const coar_edit_score s = edit_score(&e->sets, k, &e->pairs, outputs->output[k] + i * count, margin,
                                             r->pair_sweep + at * e->pairs.count);
        const double columns[EDIT_COLUMNS] = {s.output, s.accuracy, s.worst, s.average};
        e->points[at].set[k] = s;
        memcpy(r->sweep[k] + at * EDIT_COLUMNS, columns, sizeof columns);
    }
}

/* Points first .. first + count - 1; *points: how many of the sweep there are, and *ends: that they are all. */
static coar_status run_block(edit_run *e, size_t first, size_t count, size_t *points, bool *ends) {
    coar_status status;
    uint8_t *masks = NULL;
    edit_outputs outputs = {{NULL}, {NULL}};
    TRY_GOTO(edit_masks(e->n, e->record.order, e->record.sweep_k + first, count, &masks));
    const edit_request request = {.o = e->o,
                                  .sets = &e->sets,
                                  .output = e->fit.output,
                                  .has_classes = e->has_classes,
                                  .start = e->start,
                                  .masks = masks,
                                  .mask_count = count,
                                  .wanted =
                                      1u << COAR_EDIT_TARGET | 1u << COAR_EDIT_REFERENCE | 1u << COAR_EDIT_VALIDATION};
    TRY_GOTO(edit_measure(&request, &outputs));
    for (size_t i = 0; i < count && !*ends; i++) {
        take_point(e, &outputs, i, first + i);
        *points = first + i + 1;
        *ends = sweep_ends(&e->rules, e->points, *points);
    }
done:
    edit_outputs_free(&outputs);
    free(masks);
    return status;
}

coar_status edit_sweep(edit_run *e) {
    edit_record *r = &e->record;
    uint32_t *ks;
    size_t points = 0;
    bool ends = false;
    TRY(make_points(e, &ks));
    for (size_t first = 0; first < r->points && !ends; first += BLOCK) {
        const size_t left = r->points - first;
        TRY(run_block(e, first, left < BLOCK ? left : BLOCK, &points, &ends));
    }
    if (points < r->points) r->stopped = ks[points - 1];
    r->points = points;
    e->chosen = sweep_choose(&e->rules, e->points, points);
    r->k = ks[e->chosen];
    return COAR_OK;
}
