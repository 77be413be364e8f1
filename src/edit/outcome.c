/* outcome.c - the edit that was taken: all four sets before and after, and beside other choices. See edit.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/passes.h"
#include "core/memory.h"
#include "core/philox.h"
#include "core/statistics.h"
#include "edit/edit.h"

enum { DRAWS = 1000 };    /* of the bootstrap, as for correlations */
enum { SHOWN_MOST = 12 }; /* examples of a set whose predictions are looked up: a row of images in the report */

/* Masks of the outcome: nothing ablated, the edit, then what it is compared with. */
enum { BEFORE, AFTER, OTHERS };

/* --------------------------------------------------------------------------------------------------- comparisons */

/* The first k components of every method to compare with that has what it needs; the edit's own first. */
static coar_status choose_others(edit_run *e) {
    coar_status status = COAR_OK;
    edit_record *r = &e->record;
    double *scores = NULL;
    TRY(memory_new(1 + edit_method_count, sizeof *r->comparisons, "comparisons", &r->comparisons));
    TRY(memory_new(e->n, sizeof *scores, "comparisons", &scores));
    for (size_t i = 0; i <= edit_method_count; i++) {
        const edit_method *method = i ? &edit_methods[i - 1] : e->method;
        edit_comparison *c = &r->comparisons[r->comparison_count];
        uint32_t count = r->k;
        bool there = true;
        if (i && method == e->method) continue;
        r->comparison_count++;
        TRY_GOTO(memory_new(r->k, sizeof *c->order, "comparisons", &c->order));
        if (i)
            TRY_GOTO(edit_choose(e, method, scores, c->order, &count, &there));
        else
            memcpy(c->order, r->order, r->k * sizeof *c->order);
        if (!there) {
            free(c->order);
            *c = (edit_comparison){.order = NULL};
            r->comparison_count--;
            continue;
        }
        snprintf(c->method, sizeof c->method, "%s", method->name);
        TRY_GOTO(memory_new(4, 3 * sizeof *c->values, "comparisons", &c->values));
    }
done:
    free(scores);
    return status;
}

/* Means of `columns` figures over examples, d[count][columns], with bootstrap intervals: one draw of examples serves all of
 * them. out[columns][3]: mean, low, high. */
static coar_status bootstrap(const double *d, size_t count, size_t columns, uint64_t seed, double *out) {
    coar_status status;
    double *means = NULL, *sums = NULL;
    TRY_GOTO(memory_new(columns, DRAWS * sizeof *means, "the bootstrap", &means));
    TRY_GOTO(memory_new(columns, sizeof *sums, "the bootstrap", &sums));
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < columns; c++) sums[c] += d[i * columns + c];
    for (size_t c = 0; c < columns; c++) out[c * 3] = sums[c] / (double)count;
    for (size_t draw = 0; draw < DRAWS; draw++) {
        uint32_t words[4];
        memset(sums, 0, columns * sizeof *sums);
        for (size_t i = 0; i < count; i++) {
            if (i % 4 == 0) philox_words(seed, PHILOX_STREAM_BOOTSTRAP, draw, (uint32_t)(i / 4), words);
            const double *row = d + (size_t)((uint64_t)words[i % 4] * count >> 32) * columns;
            for (size_t c = 0; c < columns; c++) sums[c] += row[c];
        }
        for (size_t c = 0; c < columns; c++) means[c * DRAWS + draw] = sums[c] / (double)count;
    }
    for (size_t c = 0; c < columns; c++) {
        double *sorted = means + c * DRAWS;
        const bool defined = !isnan(out[c * 3]);
        qsort(sorted, DRAWS, sizeof *sorted, double_ascending);
        out[c * 3 + 1] = defined ? sorted_quantile(sorted, DRAWS, 0.025) : NAN;
        out[c * 3 + 2] = defined ? sorted_quantile(sorted, DRAWS, 0.975) : NAN;
    }
done:
    free(sums);
    free(means);
    return status;
}

/* What each comparison costs or gains example i of a set: the target's output in the direction asked for; elsewhere being
 * right, or the output of a language model. */
static double difference(const edit_run *e, size_t k, const edit_outputs *o, size_t mask, size_t i) {
    const size_t count = e->sets.set[k].count;
    const float *output = o->output[k], *margin = o->margin[k];
    const bool fresh = k == COAR_EDIT_TARGET_TEST;
    const double sign = fresh ? -e->rules.direction * e->rules.output_direction : 1;
    if (k == COAR_EDIT_TARGET) return e->rules.direction * ((double)output[mask * count + i] - output[i]);
    if (margin) return sign * ((double)(margin[i] > 0) - (double)(margin[mask * count + i] > 0));
    if (fresh) return e->rules.direction * ((double)output[mask * count + i] - output[i]);
    return e->rules.output_direction * ((double)output[i] - output[mask * count + i]);
}

/* Values of all comparisons on one set, into place `at` of theirs. */
static coar_status compare_on(edit_run *e, size_t k, const edit_outputs *o, size_t at) {
    coar_status status;
    edit_record *r = &e->record;
    const size_t count = e->sets.set[k].count, columns = r->comparison_count;
    double *d = NULL, *values = NULL;
    TRY_GOTO(memory_new(count, columns * sizeof *d, "comparisons", &d));
    TRY_GOTO(memory_new(columns, 3 * sizeof *values, "comparisons", &values));
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < columns; c++) d[i * columns + c] = difference(e, k, o, c ? OTHERS + c - 1 : AFTER, i);
    TRY_GOTO(bootstrap(d, count, columns, e->seed, values));
    for (size_t c = 0; c < columns; c++) memcpy(r->comparisons[c].values + at * 3, values + c * 3, 3 * sizeof *values);
done:
    free(values);
    free(d);
    return status;
}

/* --------------------------------------------------------------------------------------------------- predictions */

/* The examples of a set that a reader wants to see: the first ones, of test the first that the edit made right or wrong. */
static coar_status choose_shown(const edit_run *e, size_t k, edit_examples *x) {
    if (k == COAR_EDIT_VALIDATION || !e->has_classes) return COAR_OK;
    TRY(memory_new(SHOWN_MOST, sizeof *x->shown_at, "examples", &x->shown_at));
    TRY(memory_new(SHOWN_MOST, sizeof *x->predicted_before, "examples", &x->predicted_before));
    TRY(memory_new(SHOWN_MOST, sizeof *x->predicted_after, "examples", &x->predicted_after));
    for (size_t i = 0; i < x->count && x->shown < SHOWN_MOST; i++)
        if (k != COAR_EDIT_TEST || (x->margin_before[i] > 0) != (x->margin_after[i] > 0)) x->shown_at[x->shown++] = i;
    return COAR_OK;
}

/* at[i]: the class with the largest logit so far, best[i] that logit; values[classes][cells] are of classes from `first`
 * on. */
static void keep_largest(const float *values, size_t first, size_t classes, size_t cells, float *best, int32_t *at) {
    for (size_t c = 0; c < classes; c++)
        for (size_t i = 0; i < cells; i++)
            if (first + c == 0 || values[c * cells + i] > best[i]) {
                best[i] = values[c * cells + i];
                at[i] = (int32_t)(first + c);
            }
}

/* Examples whose predictions take passes: they were, or became, wrong. */
typedef struct lookup {
    size_t count;
    uint64_t rows[EDIT_SETS * SHOWN_MOST];
    int32_t labels[EDIT_SETS * SHOWN_MOST];
    int32_t *before[EDIT_SETS * SHOWN_MOST], *after[EDIT_SETS * SHOWN_MOST]; /* where the predictions go */
} lookup;

/* Who is right is predicted to be what it is; the others of this side are looked up. */
static void add_shown(edit_run *e, size_t k, lookup *l) {
    const edit_set *set = &e->sets.set[k];
    edit_examples *x = &e->record.sets[k];
    for (size_t i = 0; i < x->shown; i++) {
        const uint64_t at = x->shown_at[i];
        x->predicted_before[i] = x->predicted_after[i] = set->labels[at];
        if (x->margin_before[at] > 0 && x->margin_after[at] > 0) continue;
        l->rows[l->count] = set->rows[at];
        l->labels[l->count] = set->labels[at];
        l->before[l->count] = &x->predicted_before[i];
        l->after[l->count++] = &x->predicted_after[i];
    }
}

/* Predictions of the examples shown that are of one run, under the masks of before and after: OUTPUTS_MAX logits a pass. */
static coar_status predict_side(edit_run *e, const edit_side *side, const uint8_t *masks) {
    const uint32_t classes = side->job->model->classes;
    lookup l = {.count = 0};
    int32_t at[2 * EDIT_SETS * SHOWN_MOST];
    float best[2 * EDIT_SETS * SHOWN_MOST], values[OUTPUTS_MAX * 2 * EDIT_SETS * SHOWN_MOST];
    char outputs[OUTPUTS_MAX * 24];
    for (size_t k = 0; k < EDIT_SETS; k++)
        if (e->sets.set[k].side == side) add_shown(e, k, &l);
    passes p = {.store = e->sets.sides[0].store,
                .job = side->job,
                .rows = l.rows,
                .labels = l.labels,
                .count = l.count,
                .masks = masks,
                .mask_count = 2,
                .outputs = outputs,
                .force_resume = e->o->force_resume};
    for (uint32_t first = 0; l.count && first < classes; first += OUTPUTS_MAX) {
        const uint32_t count = classes - first < OUTPUTS_MAX ? classes - first : OUTPUTS_MAX;
        char *end = outputs;
        for (uint32_t c = 0; c < count; c++) end += sprintf(end, "%slogit:%u", c ? "," : "", first + c);
        p.time_limit = clock_left(e->o->time_limit, e->start);
        TRY(passes_run(&p, values));
        keep_largest(values, first, count, 2 * l.count, best, at);
    }
    for (size_t i = 0; i < l.count; i++) {
        *l.before[i] = at[i];
        *l.after[i] = at[l.count + i];
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------- the sets */

static coar_status copy_row(const float *row, size_t count, float **out) {
    TRY(memory_new(count, sizeof **out, "examples", out));
    memcpy(*out, row, count * sizeof **out);
    return COAR_OK;
}

/* Outputs and figures of set k before and after. */
static coar_status take_set(edit_run *e, size_t k, const edit_outputs *o) {
    coar_status status = COAR_OK;
    edit_examples *x = &e->record.sets[k];
    const float *const output = o->output[k], *const margin = o->margin[k];
    const size_t count = e->sets.set[k].count;
    double *of_pair = NULL;
    x->count = count;
    TRY_GOTO(copy_row(output + BEFORE * count, count, &x->before));
    TRY_GOTO(copy_row(output + AFTER * count, count, &x->after));
    if (margin) {
        TRY_GOTO(copy_row(margin + BEFORE * count, count, &x->margin_before));
        TRY_GOTO(copy_row(margin + AFTER * count, count, &x->margin_after));
    }
    TRY_GOTO(memory_new(2, EDIT_COLUMNS * sizeof(double), "examples", &x->scores));
    TRY_GOTO(memory_new(e->pairs.count, 2 * sizeof *of_pair, "examples", &of_pair));
    for (size_t i = 0; i < 2; i++) {
        const coar_edit_score s = edit_score(&e->sets, k, &e->pairs, output + i * count,
                                             margin ? margin + i * count : NULL, of_pair + i * e->pairs.count);
        const double columns[EDIT_COLUMNS] = {s.output, s.accuracy, s.worst, s.average};
        memcpy(x->scores + i * EDIT_COLUMNS, columns, sizeof columns);
    }
    TRY_GOTO(choose_shown(e, k, x));
    if (k == COAR_EDIT_TEST) {
        e->record.pair_test = of_pair;
        of_pair = NULL;
    }
done:
    free(of_pair);
    return status;
}

coar_status edit_outcome(edit_run *e) {
    coar_status status = COAR_OK;
    edit_record *r = &e->record;
    uint8_t *masks = NULL, *one = NULL;
    edit_outputs outputs = {{NULL}, {NULL}};
    const size_t bytes = mask_bytes(e->n);
    if (e->o->compare && r->k) TRY(choose_others(e));
    const size_t others = r->comparison_count ? r->comparison_count - 1 : 0;
    TRY_GOTO(memory_new(OTHERS + others, bytes, "masks", &masks));
    for (size_t i = 0; i < OTHERS + others; i++) {
        const uint32_t k = i == BEFORE ? 0 : r->k;
        TRY_GOTO(edit_masks(e->n, i < OTHERS ? r->order : r->comparisons[i - OTHERS + 1].order, &k, 1, &one));
        memcpy(masks + i * bytes, one, bytes);
        free(one);
        one = NULL;
    }
    const edit_request request = {.o = e->o,
                                  .sets = &e->sets,
                                  .output = e->fit.output,
                                  .has_classes = e->has_classes,
                                  .start = e->start,
                                  .masks = masks,
                                  .mask_count = OTHERS + others,
                                  .wanted = (1u << EDIT_SETS) - 1};
    TRY_GOTO(edit_measure(&request, &outputs));
    for (size_t k = 0; k < EDIT_SETS; k++)
        if (e->sets.set[k].side) TRY_GOTO(take_set(e, k, &outputs));
    for (size_t i = 0; i < e->sets.side_count; i++) TRY_GOTO(predict_side(e, &e->sets.sides[i], masks));
    if (r->comparison_count) {
        TRY_GOTO(compare_on(e, COAR_EDIT_TARGET, &outputs, 0));
        TRY_GOTO(compare_on(e, COAR_EDIT_VALIDATION, &outputs, 1));
        TRY_GOTO(compare_on(e, COAR_EDIT_TEST, &outputs, 2));
        TRY_GOTO(compare_on(e, COAR_EDIT_TARGET_TEST, &outputs, 3));
    }
done:
    free(one);
    edit_outputs_free(&outputs);
    free(masks);
    return status;
}
