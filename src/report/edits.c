/* edits.c - the edits of a run, from the run file and the data files of their examples. See gather.h. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/log.h"
#include "core/memory.h"
#include "report/gather.h"
#include "store/edits.h"

static_assert((int)REPORT_EDIT_SETS == (int)EDIT_SETS && (int)REPORT_EDIT_SWEPT == (int)EDIT_SWEPT, "the sets");
static_assert((int)REPORT_OUTPUT == (int)EDIT_OUTPUT && (int)REPORT_ACCURACY == (int)EDIT_ACCURACY &&
                  (int)REPORT_WORST == (int)EDIT_WORST && (int)REPORT_AVERAGE == (int)EDIT_AVERAGE &&
                  (int)REPORT_SCORES == (int)EDIT_COLUMNS,
              "the columns");

/* ------------------------------------------------------------------------------------------ figures and curves */

static void take_identity(const edit_record *r, report_edit *e) {
    memcpy(e->name, r->name, sizeof e->name - 1);
    memcpy(e->method, r->method, sizeof e->method - 1);
    memcpy(e->fit, r->fit, sizeof e->fit - 1);
    memcpy(e->output, r->output, sizeof e->output - 1);
    e->raise = strcmp(r->direction, "raise") == 0;
    e->has_classes = r->has_classes;
    e->components = r->components;
    e->k = r->k;
    e->max_k = r->max_k;
    e->stopped = r->stopped;
    e->select = r->select;
    e->until = r->until;
    e->harm_weight = r->harm_weight;
    e->given = strcmp(r->fit, EDIT_FIT_GIVEN) == 0;
    for (size_t i = 0; i < EDIT_SETS; i++) {
        const edit_examples *from = &r->sets[i];
        report_edit_set *to = &e->sets[i];
        report_cut(to->spec, from->spec);
        to->examples = from->count;
        if (!from->count) continue; /* then nothing is known of the set */
        memcpy(to->before, from->scores, sizeof to->before);
        memcpy(to->after, from->scores + EDIT_COLUMNS, sizeof to->after);
    }
}

/* At most REPORT_EDIT_POINTS points, evenly spread. */
static coar_status take_sweep(const edit_record *r, report_edit *e) {
    e->points = r->points < REPORT_EDIT_POINTS ? r->points : REPORT_EDIT_POINTS;
    TRY(memory_new(e->points, sizeof *e->ablated, "report", &e->ablated));
    for (size_t i = 0; i < EDIT_SWEPT; i++)
        for (size_t s = 0; s < EDIT_COLUMNS; s++) TRY(memory_new(e->points, sizeof(double), "report", &e->sweep[i][s]));
    for (size_t p = 0; p < e->points; p++) {
        const size_t from = e->points > 1 ? p * (r->points - 1) / (e->points - 1) : 0;
        e->ablated[p] = r->sweep_k[from];
        for (size_t i = 0; i < EDIT_SWEPT; i++)
            for (size_t s = 0; s < EDIT_COLUMNS; s++) e->sweep[i][s][p] = r->sweep[i][from * EDIT_COLUMNS + s];
    }
    return COAR_OK;
}

static void take_choices(const edit_record *r, report_edit *e) {
    for (size_t i = 0; i < r->comparison_count && i < REPORT_EDIT_CHOICES; i++) {
        report_edit_choice *c = &e->choices[e->choice_count++];
        memcpy(c->method, r->comparisons[i].method, sizeof c->method - 1);
        memcpy(c->figure, r->comparisons[i].values, sizeof c->figure);
    }
}

/* ------------------------------------------------------------------------------------------------------- pairs */

typedef struct ranked_pair {
    double accuracy; /* after the edit */
    size_t index;
} ranked_pair;

/* Lowest first, NaN last. */
static int by_accuracy(const void *a, const void *b) {
    const ranked_pair *x = a, *y = b;
    if (isnan(x->accuracy) != isnan(y->accuracy)) return isnan(x->accuracy) - isnan(y->accuracy);
    if (x->accuracy != y->accuracy && !isnan(x->accuracy)) return x->accuracy < y->accuracy ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static int by_index(const void *a, const void *b) {
    const ranked_pair *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

/* The point of the sweep that was taken; 0 where it is not among them. */
static size_t taken_point(const edit_record *r) {
    for (size_t i = 0; i < r->points; i++)
        if (r->sweep_k[i] == r->k) return i;
    return 0;
}

static void take_pair(const edit_record *r, const dataset *data, size_t at, report_edit_pair *out) {
    const size_t after = taken_point(r) * r->pairs + at;
    report_name(out->label, data->class_names, data->classes, "class", r->pair_label[at]);
    if (r->pair_group[at] >= 0)
        report_name(out->group, data->group_names, data->group_names_count, "group", r->pair_group[at]);
    for (size_t i = 0; i < 2; i++) out->examples[i] = r->pair_count[i * r->pairs + at];
    out->before[0] = r->pair_sweep[at];
    out->after[0] = r->pair_sweep[after];
    out->before[1] = r->pair_test[at];
    out->after[1] = r->pair_test[r->pairs + at];
}

/* The pairs with the lowest accuracy on test after the edit, in their order. */
static coar_status take_pairs(const edit_record *r, const dataset *data, report_edit *e) {
    ranked_pair *order;
    if (!r->pairs || !r->points) return COAR_OK;
    TRY(memory_new(r->pairs, sizeof *order, "report", &order));
    for (size_t i = 0; i < r->pairs; i++) {
        order[i] = (ranked_pair){r->pair_test[r->pairs + i], i};
        e->has_groups = e->has_groups || r->pair_group[i] >= 0;
    }
    e->pair_count = r->pairs < REPORT_EDIT_PAIRS ? r->pairs : REPORT_EDIT_PAIRS;
    e->pairs_hidden = r->pairs - e->pair_count;
    qsort(order, r->pairs, sizeof *order, by_accuracy);
    qsort(order, e->pair_count, sizeof *order, by_index);
    for (size_t i = 0; i < e->pair_count; i++) take_pair(r, data, order[i].index, &e->pairs[i]);
    free(order);
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------------- components */

static size_t group_of(const run_tables *tables, uint32_t component) {
    size_t at = 0;
    while (at < tables->group_count &&
           (component < tables->groups[at].first || component - tables->groups[at].first >= tables->groups[at].count))
        at++;
    return at;
}

/* Leaves groups without edited components out where there are more than the page has room for. */
static void keep_groups(report_edit *e) {
    if (e->group_count <= REPORT_GROUPS) return;
    size_t kept = 0;
    for (size_t i = 0; i < e->group_count && kept < REPORT_GROUPS; i++)
        if (e->groups[i].edited) e->groups[kept++] = e->groups[i];
    e->groups_hidden = e->group_count - kept;
    e->group_count = kept;
}

static coar_status take_components(const report_source *source, const edit_record *r, report_edit *e) {
    const run_tables *tables = &source->tables;
    if (r->components != tables->components)
        return status_set(COAR_ERROR_INPUT, "%s: edit '%s' is of %u components, the run has %u",
                          store_path(source->store), r->name, r->components, tables->components);
    TRY(memory_new(tables->group_count, sizeof *e->groups, "report", &e->groups));
    for (e->group_count = 0; e->group_count < tables->group_count; e->group_count++) {
        report_edit_group *g = &e->groups[e->group_count];
        memcpy(g->name, tables->groups[e->group_count].name, sizeof g->name - 1);
        g->count = tables->groups[e->group_count].count;
    }
    for (uint32_t i = 0; i < r->k; i++) {
        const size_t at = group_of(tables, r->order[i]);
        if (at == tables->group_count)
            return status_set(COAR_ERROR_INPUT, "%s: edit '%s': order[%u] is %u, in no component group",
                              store_path(source->store), r->name, i, r->order[i]);
        e->groups[at].edited++;
        if (i >= REPORT_EDIT_LISTED) continue;
        report_edit_component *c = &e->listed[e->listed_count++];
        memcpy(c->group, e->groups[at].name, sizeof c->group);
        c->index = r->order[i] - tables->groups[at].first;
        c->score = r->scores[r->order[i]];
    }
    keep_groups(e);
    return COAR_OK;
}

/* ---------------------------------------------------------------------------------------------------- examples */

/* The data file of a set: the run's, or another one, which *opened then holds. NULL, with a warning, where it is not there
 * or not what it was: the page then has no pictures of the set. */
static coar_status find_data(const report_source *source, const coar_callbacks *callbacks, const edit_examples *set,
                             dataset **opened, const dataset **out) {
    coar_status status = COAR_OK;
    *out = NULL;
    if (strcmp(set->data_sha256, source->data->sha256) == 0) {
        *out = source->data;
        return COAR_OK;
    }
    char *path = path_resolve(set->data_path, store_path(source->store));
    if (!path) return status_set(COAR_ERROR_MEMORY, "report: not enough memory");
    if (!file_exists(path)) {
        log_warning(callbacks, "%s: data of an edit's examples are not there: no pictures of them", path);
        goto done;
    }
    TRY_GOTO(dataset_open(path, opened));
    TRY_GOTO(dataset_hash(*opened));
    if (strcmp(set->data_sha256, (*opened)->sha256) == 0)
        *out = *opened;
    else
        log_warning(callbacks, "%s: is not the data of an edit's examples any more: no pictures of them", path);
done:
    free(path);
    return status;
}

/* `data`: NULL for an example without a picture, whose classes go by the run's names. */
static coar_status take_example(const report_source *source, const dataset *data, const edit_examples *set,
                                size_t shown, report_edit_example *out) {
    const size_t at = (size_t)set->shown_at[shown];
    const dataset *names = data ? data : source->data;
    out->row = set->rows[at];
    out->margin_before = set->margin_before[at];
    out->margin_after = set->margin_after[at];
    report_name(out->label, names->class_names, names->classes, "class", set->labels[at]);
    report_name(out->before, names->class_names, names->classes, "class", set->predicted_before[shown]);
    report_name(out->after, names->class_names, names->classes, "class", set->predicted_after[shown]);
    if (!data || data->tokens || out->row >= data->count) return COAR_OK;
    return report_read_picture(data, out->row, REPORT_EDIT_SIDE, &out->picture);
}

static coar_status take_examples(const report_source *source, const coar_callbacks *callbacks, const edit_record *r,
                                 report_edit *e) {
    coar_status status = COAR_OK;
    dataset *opened = NULL;
    for (size_t i = 0; i < EDIT_SETS; i++) {
        const edit_examples *set = &r->sets[i];
        const size_t count = set->shown < REPORT_EDIT_EXAMPLES ? set->shown : REPORT_EDIT_EXAMPLES;
        const dataset *data;
        if (!count || !set->margin_before || !set->margin_after) continue;
        TRY_GOTO(find_data(source, callbacks, set, &opened, &data));
        for (; e->example_count[i] < count; e->example_count[i]++)
            TRY_GOTO(take_example(source, data, set, e->example_count[i], &e->examples[i][e->example_count[i]]));
        dataset_close(opened);
        opened = NULL;
    }
done:
    dataset_close(opened);
    return status;
}

/* -------------------------------------------------------------------------------------------------------- edits */

static coar_status take_edit(const report_source *source, const coar_callbacks *callbacks, const char *name,
                             report_edit *e) {
    coar_status status;
    edit_record record = {.k = 0};
    TRY_GOTO(store_read_edit(source->store, name, &record));
    take_identity(&record, e);
    take_choices(&record, e);
    TRY_GOTO(take_sweep(&record, e));
    TRY_GOTO(take_pairs(&record, source->data, e));
    TRY_GOTO(take_components(source, &record, e));
    TRY_GOTO(take_examples(source, callbacks, &record, e));
done:
    edit_record_free(&record);
    return status;
}

coar_status report_edits(const report_source *source, const coar_callbacks *callbacks, report_data *data) {
    coar_status status;
    edit_info *edits = NULL;
    size_t count = 0;
    TRY_GOTO(store_list_edits(source->store, &edits, &count));
    const size_t shown = count < REPORT_EDITS ? count : REPORT_EDITS;
    TRY_GOTO(memory_new(shown, sizeof *data->edits, "report", &data->edits));
    data->edits_hidden = count - shown;
    while (data->edit_count < shown) {
        report_edit *e = &data->edits[data->edit_count++]; /* counted first: what a failure leaves is freed */
        TRY_GOTO(take_edit(source, callbacks, edits[data->edit_count - 1].name, e));
    }
done:
    free(edits);
    return status;
}
