/* measure.c - see measure.h. */
#include "edit/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/passes.h"
#include "core/memory.h"

/* --------------------------------------------------------------------------------------------------------- pairs */

typedef struct pair {
    int32_t label, group;
} pair;

static pair pair_of(const edit_set *set, size_t i) {
    return (pair){set->labels[i], set->groups ? set->groups[i] : -1};
}

static int by_pair(const void *a, const void *b) {
    const pair *x = a, *y = b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return (x->group > y->group) - (x->group < y->group);
}

static coar_status collect_pairs(const edit_sets *s, pair **out, size_t *out_count) {
    pair *all;
    size_t total = 0, distinct = 0;
    for (size_t k = COAR_EDIT_VALIDATION; k <= COAR_EDIT_TEST; k++) total += s->set[k].count;
    TRY(memory_new(total, sizeof *all, "groups", &all));
    total = 0;
    for (size_t k = COAR_EDIT_VALIDATION; k <= COAR_EDIT_TEST; k++)
        for (size_t i = 0; i < s->set[k].count; i++) all[total++] = pair_of(&s->set[k], i);
    qsort(all, total, sizeof *all, by_pair);
    for (size_t i = 0; i < total; i++)
        if (!distinct || by_pair(&all[distinct - 1], &all[i])) all[distinct++] = all[i];
    *out = all;
    *out_count = distinct;
    return COAR_OK;
}

static coar_status place_examples(const edit_set *set, const pair *all, size_t count, uint64_t *examples,
                                  uint32_t **of) {
    TRY(memory_new(set->count, sizeof **of, "groups", of));
    for (size_t i = 0; i < set->count; i++) {
        const pair key = pair_of(set, i);
        const pair *found = bsearch(&key, all, count, sizeof *all, by_pair);
        (*of)[i] = (uint32_t)(found - all);
        examples[found - all]++;
    }
    return COAR_OK;
}

coar_status edit_pairs_make(const edit_sets *s, edit_pairs *out) {
    coar_status status;
    pair *all = NULL;
    size_t count;
    TRY_GOTO(collect_pairs(s, &all, &count));
    TRY_GOTO(memory_new(count, sizeof *out->label, "groups", &out->label));
    TRY_GOTO(memory_new(count, sizeof *out->group, "groups", &out->group));
    TRY_GOTO(memory_new(count, 2 * sizeof *out->examples, "groups", &out->examples));
    out->count = count;
    for (size_t i = 0; i < count; i++) {
        out->label[i] = all[i].label;
        out->group[i] = all[i].group;
    }
    for (size_t k = COAR_EDIT_VALIDATION; k <= COAR_EDIT_TEST; k++)
        TRY_GOTO(
            place_examples(&s->set[k], all, count, out->examples + (k - COAR_EDIT_VALIDATION) * count, &out->of[k]));
done:
    free(all);
    return status;
}

void edit_pairs_free(edit_pairs *p) {
    free(p->label);
    free(p->group);
    free(p->examples);
    for (size_t k = 0; k < EDIT_SETS; k++) free(p->of[k]);
}

/* --------------------------------------------------------------------------------------------------------- masks */

coar_status edit_masks(uint32_t n, const uint32_t *order, const uint32_t *ks, size_t count, uint8_t **out) {
    const size_t bytes = mask_bytes(n);
    uint8_t *masks;
    TRY(memory_new(count, bytes, "masks", &masks));
    for (size_t i = 0; i < count; i++) {
        uint8_t *mask = masks + i * bytes;
        memset(mask, 0xff, bytes);
        if (n & 7) mask[bytes - 1] = (uint8_t)((1u << (n & 7)) - 1);
        for (uint32_t k = 0; k < ks[i]; k++) mask[order[k] >> 3] &= (uint8_t) ~(1u << (order[k] & 7));
    }
    *out = masks;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------- passes */

static bool wanted(const edit_request *r, size_t k, const edit_side *side) {
    return r->wanted >> k & 1 && r->sets->set[k].side == side;
}

/* Rows and labels of all wanted sets of a side, one behind the other. */
static coar_status gather(const edit_request *r, const edit_side *side, passes *p) {
    for (size_t k = 0; k < EDIT_SETS; k++)
        if (wanted(r, k, side)) p->count += r->sets->set[k].count;
    TRY(memory_new(p->count, sizeof *p->rows, "rows", &p->rows));
    TRY(memory_new(p->count, sizeof *p->labels, "labels", &p->labels));
    size_t at = 0;
    for (size_t k = 0; k < EDIT_SETS; k++) {
        const edit_set *set = &r->sets->set[k];
        if (!wanted(r, k, side)) continue;
        memcpy(p->rows + at, set->rows, set->count * sizeof *set->rows);
        memcpy(p->labels + at, set->labels, set->count * sizeof *set->labels);
        at += set->count;
    }
    return COAR_OK;
}

/* Output o of a set that begins at example `at`, from values[outputs][masks][count of the passes]. */
static coar_status scatter(const passes *p, const float *values, size_t o, size_t at, size_t count, float **out) {
    TRY(memory_new(p->mask_count, count * sizeof **out, "outputs", out));
    for (size_t i = 0; i < p->mask_count; i++)
        memcpy(*out + i * count, values + (o * p->mask_count + i) * p->count + at, count * sizeof **out);
    return COAR_OK;
}

/* A stage does one unit at least and may be all of what a short limit allows: whoever goes on gets further each time. */
static coar_status check_time(const edit_request *r, const passes *p) {
    if (!(r->o->time_limit > 0) || !p->images || clock_seconds() - r->start < r->o->time_limit) return COAR_OK;
    return status_set(COAR_STOPPED, "stopped; everything is saved, the same command goes on");
}

static coar_status measure_side(const edit_request *r, const edit_side *side, edit_outputs *out) {
    coar_status status;
    const bool is_margin = !strcmp(r->output, "margin"), two = r->has_classes && !is_margin;
    char *outputs = string_format("%s%s", r->output, two ? ",margin" : "");
    float *values = NULL;
    size_t cells, at = 0;
    passes p = {.store = r->sets->sides[0].store,
                .job = side->job,
                .masks = r->masks,
                .mask_count = r->mask_count,
                .outputs = outputs,
                .force_resume = r->o->force_resume,
                .time_limit = clock_left(r->o->time_limit, r->start)};
    if (!outputs) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", side->path));
    TRY_GOTO(gather(r, side, &p));
    if (!p.count) goto done;
    if (!size_mul(p.count, p.mask_count, &cells)) cells = SIZE_MAX; /* memory_new says so */
    TRY_GOTO(memory_new(cells, (two ? 2 : 1) * sizeof *values, "outputs", &values));
    TRY_GOTO(passes_run(&p, values));
    TRY_GOTO(check_time(r, &p));
    for (size_t k = 0; k < EDIT_SETS; k++) {
        const size_t count = r->sets->set[k].count;
        if (!wanted(r, k, side)) continue;
        TRY_GOTO(scatter(&p, values, 0, at, count, &out->output[k]));
        if (two)
            TRY_GOTO(scatter(&p, values, 1, at, count, &out->margin[k]));
        else if (r->has_classes)
            out->margin[k] = out->output[k];
        at += count;
    }
done:
    free(values);
    free(p.rows);
    free(p.labels);
    free(outputs);
    return status;
}

coar_status edit_measure(const edit_request *r, edit_outputs *out) {
    for (size_t i = 0; i < r->sets->side_count; i++) TRY(measure_side(r, &r->sets->sides[i], out));
    return COAR_OK;
}

void edit_outputs_free(edit_outputs *o) {
    for (size_t k = 0; k < EDIT_SETS; k++) {
        if (o->margin[k] != o->output[k]) free(o->margin[k]);
        free(o->output[k]);
        o->output[k] = o->margin[k] = NULL;
    }
}

/* ------------------------------------------------------------------------------------------------------- figures */

/* Worst and mean accuracy over the pairs that the set has examples of. */
static void score_pairs(const edit_set *set, size_t k, const edit_pairs *pairs, const float *margin, double *of_pair,
                        coar_edit_score *score) {
    const uint64_t *examples = pairs->examples + (k - COAR_EDIT_VALIDATION) * pairs->count;
    double worst = INFINITY, sum = 0;
    size_t there = 0;
    memset(of_pair, 0, pairs->count * sizeof *of_pair);
    for (size_t i = 0; i < set->count; i++) of_pair[pairs->of[k][i]] += margin[i] > 0;
    for (size_t p = 0; p < pairs->count; p++) {
        of_pair[p] = examples[p] ? of_pair[p] / (double)examples[p] : NAN;
        if (!examples[p]) continue;
        worst = fmin(worst, of_pair[p]);
        sum += of_pair[p];
        there++;
    }
    score->worst = worst;
    score->average = sum / (double)there;
}

coar_edit_score edit_score(const edit_sets *s, size_t k, const edit_pairs *pairs, const float *output,
                           const float *margin, double *of_pair) {
    const edit_set *set = &s->set[k];
    coar_edit_score score = {.accuracy = NAN, .worst = NAN, .average = NAN};
    double sum = 0;
    size_t right = 0;
    for (size_t i = 0; i < set->count; i++) sum += output[i];
    score.output = sum / (double)set->count;
    if (!margin) return score;
    for (size_t i = 0; i < set->count; i++) right += margin[i] > 0;
    score.accuracy = (double)right / (double)set->count;
    if (pairs->of[k]) score_pairs(set, k, pairs, margin, of_pair, &score);
    return score;
}
