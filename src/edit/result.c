/* result.c - coar_edit_result, carved out of one block of memory: measured first, then placed. See edit.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "edit/edit.h"

/* A copy of a text in the arena; NULL while measuring. */
static const char *place_text(arena *a, const char *text) {
    const size_t size = strlen(text) + 1;
    char *copy = arena_take(a, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

static coar_edit_score score_of(const double columns[EDIT_COLUMNS]) {
    return (coar_edit_score){columns[EDIT_OUTPUT], columns[EDIT_ACCURACY], columns[EDIT_WORST], columns[EDIT_AVERAGE]};
}

static coar_edit_interval interval_of(const double values[3]) {
    return (coar_edit_interval){values[0], values[1], values[2]};
}

static void place_order(const edit_run *e, arena *a, coar_edit_result *out) {
    const model *m = e->sets.sides[0].job->model;
    const edit_record *r = &e->record;
    coar_edit_component *list;
    arena_place(a, r->order_count, sizeof *list, &list);
    for (size_t i = 0; i < r->order_count; i++) {
        const uint32_t c = r->order[i];
        size_t g = 0;
        while (g + 1 < m->group_count && c >= m->groups[g + 1].first) g++;
        const char *group = place_text(a, m->groups[g].name);
        if (list) list[i] = (coar_edit_component){c, group, c - m->groups[g].first, r->scores[c]};
    }
    out->order = list;
    out->order_count = r->order_count;
}

static const char *name_of(char *const *names, size_t count, int32_t number) {
    return names && number >= 0 && (size_t)number < count ? names[number] : "";
}

static void place_pairs(const edit_run *e, arena *a, coar_edit_result *out) {
    const edit_record *r = &e->record;
    const dataset *data = e->sets.set[COAR_EDIT_VALIDATION].side->job->data;
    coar_edit_pair *list;
    arena_place(a, r->pairs, sizeof *list, &list);
    for (size_t p = 0; p < r->pairs; p++) {
        const char *label = place_text(a, name_of(data->class_names, data->classes, r->pair_label[p]));
        const char *group = place_text(a, name_of(data->group_names, data->group_names_count, r->pair_group[p]));
        if (!list) continue;
        list[p] = (coar_edit_pair){.label = r->pair_label[p],
                                   .group = r->pair_group[p],
                                   .label_name = label,
                                   .group_name = group,
                                   .examples = {r->pair_count[p], r->pair_count[r->pairs + p]},
                                   .before = {r->pair_sweep[p], r->pair_test[p]},
                                   .after = {r->pair_sweep[e->chosen * r->pairs + p], r->pair_test[r->pairs + p]}};
    }
    out->pairs = list;
    out->pair_count = r->pairs;
}

static void place_comparisons(const edit_run *e, arena *a, coar_edit_result *out) {
    const edit_record *r = &e->record;
    coar_edit_comparison *list;
    arena_place(a, r->comparison_count, sizeof *list, &list);
    for (size_t i = 0; i < r->comparison_count; i++) {
        const edit_comparison *c = &r->comparisons[i];
        const char *method = place_text(a, c->method);
        if (list)
            list[i] = (coar_edit_comparison){method, interval_of(c->values), interval_of(c->values + 3),
                                             interval_of(c->values + 6), interval_of(c->values + 9)};
    }
    out->comparisons = list;
    out->comparison_count = r->comparison_count;
}

static coar_edit_result *place_all(const edit_run *e, arena *a) {
    const edit_record *r = &e->record;
    coar_edit_result *block, out = {.components = r->components,
                                    .max_k = r->max_k,
                                    .k = r->k,
                                    .select = r->select,
                                    .stopped = r->stopped,
                                    .has_classes = r->has_classes,
                                    .point_count = r->points,
                                    .seconds = clock_seconds() - e->start};
    coar_edit_point *points;
    arena_place(a, 1, sizeof *block, &block);
    out.name = place_text(a, r->name);
    out.method = place_text(a, r->method);
    out.fit = place_text(a, r->fit);
    out.output = place_text(a, r->output);
    out.direction = place_text(a, r->direction);
    for (size_t k = 0; k < EDIT_SETS; k++) {
        out.examples[k] = r->sets[k].count;
        out.before[k] = out.after[k] = (coar_edit_score){NAN, NAN, NAN, NAN};
        if (!r->sets[k].count) continue;
        out.before[k] = score_of(r->sets[k].scores);
        out.after[k] = score_of(r->sets[k].scores + EDIT_COLUMNS);
    }
    arena_place(a, r->points, sizeof *points, &points);
    if (points) memcpy(points, e->points, r->points * sizeof *points);
    out.points = points;
    place_order(e, a, &out);
    place_pairs(e, a, &out);
    place_comparisons(e, a, &out);
    if (block) *block = out;
    return block;
}

coar_status edit_result_make(const edit_run *e, coar_edit_result **out) {
    arena a = {.base = NULL};
    place_all(e, &a);
    if (a.used == SIZE_MAX) return status_set(COAR_ERROR_MEMORY, "not enough memory for an edit's result");
    a.size = a.used;
    a.used = 0;
    TRY(memory_new(a.size, 1, "an edit's result", &a.base));
    *out = place_all(e, &a);
    return COAR_OK;
}
