/* sets.c - see sets.h. */
#include "edit/sets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/reopen.h"
#include "core/files.h"
#include "core/memory.h"
#include "core/philox.h"
#include "edit/method.h"

/* Examples of the default --validation: a sweep runs them 100 times, and accuracies are then known to a point or so. */
#define VALIDATION_MOST 2000

const char *const edit_set_names[EDIT_SETS] = {"target", "reference", "validation", "test", "target-test"};

/* --------------------------------------------------------------------------------------------------------- runs */

/* For what is reopened in a run: model, data (of the edit's own run alone), backend, memory ... */
static coar_evaluate_options reopen_options(const coar_edit_options *o, bool own) {
    return (coar_evaluate_options){.size = sizeof(coar_evaluate_options),
                                   .run = o->run,
                                   .model = o->model,
                                   .classes = o->classes,
                                   .data = own ? o->data : NULL,
                                   .backend = o->backend,
                                   .devices = o->devices,
                                   .threads = o->threads,
                                   .memory = o->memory,
                                   .force_resume = o->force_resume,
                                   .command = o->command,
                                   .callbacks = o->callbacks};
}

/* A second run has to be of the network and the components that the first is of. */
static coar_status check_same_network(const edit_side *a, const edit_side *b) {
    static const char *const keys[] = {"model_sha256", "arch_options", "classes_sha256", "components",
                                       "only",         "except",       "ablation"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *x = store_setting(a->store, keys[i]), *y = store_setting(b->store, keys[i]);
        if (strcmp(x ? x : "", y ? y : ""))
            return status_set(
                COAR_ERROR_MISMATCH,
                "%s: %s is '%.24s', but '%.24s' in %s: an edit takes runs of one model and its components", b->path,
                keys[i], y ? y : "", x ? x : "", a->path);
    }
    if (a->job->ablation.kind == ABLATION_MEAN)
        return status_set(COAR_ERROR_UNSUPPORTED,
                          "%s: each run of mean ablation has means of its own: take all examples from one run",
                          b->path);
    return COAR_OK;
}

static coar_status find_places(edit_side *side, const uint64_t *rows, size_t count) {
    const uint64_t N = side->job->data->count;
    TRY(memory_new((size_t)N, sizeof *side->place, "rows", &side->place));
    for (uint64_t row = 0; row < N; row++) side->place[row] = NO_PLACE;
    for (size_t i = 0; i < count; i++) {
        if (rows[i] >= N)
            return status_set(COAR_ERROR_INPUT, "--rows: row %llu is not in %s (%llu examples)",
                              (unsigned long long)rows[i], side->job->data->path, (unsigned long long)N);
        if (side->place[rows[i]] != NO_PLACE)
            return status_set(COAR_ERROR_INPUT, "--rows: row %llu is there twice", (unsigned long long)rows[i]);
        side->place[rows[i]] = i;
    }
    return COAR_OK;
}

static coar_status open_side(const coar_edit_options *o, const char *path, edit_sets *s) {
    coar_status status;
    edit_side *side = &s->sides[s->side_count++];
    char *plan = NULL;
    const coar_evaluate_options options = reopen_options(o, side == s->sides);
    side->path = strdup(path);
    if (!side->path) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    TRY_GOTO(store_open(path, &side->store));
    TRY_GOTO(reopen_check(side->store, &options));
    TRY_GOTO(store_read_tables(side->store, &side->tables, NULL));
    TRY_GOTO(store_existing_plan(path, &plan));
    TRY_GOTO(reopen_job(side->store, &options, plan, &side->tables, &side->job));
    if (side->tables.components != side->job->model->graph->components)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: components: are %u, but the model has %u", path,
                            side->tables.components, side->job->model->graph->components));
    const char *label = store_setting(side->store, "label");
    side->predicted = label && !strcmp(label, "predicted");
    if (side != s->sides) TRY_GOTO(check_same_network(s->sides, side));
done:
    free(plan);
    return status;
}

/* SPEC of RUN.h5:SPEC. */
static const char *plain_spec(const char *text) {
    const char *colon = strstr(text, ".h5:");
    return colon ? colon + strlen(".h5:") : text;
}

/* The side of RUN.h5:SPEC, opened where it is new; *spec moves behind the colon. A plain SPEC is of the edit's own run. */
static coar_status side_of(const coar_edit_options *o, edit_sets *s, const char **spec, edit_side **out) {
    const char *plain = plain_spec(*spec);
    *out = s->sides;
    if (plain == *spec) return COAR_OK;
    char *path = strndup(*spec, (size_t)(plain - *spec) - 1);
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", *spec);
    coar_status status = COAR_OK;
    size_t i = 0;
    while (i < s->side_count && !file_same(path, s->sides[i].path)) i++;
    if (i == s->side_count) {
        status = open_side(o, path, s);
        if (status == COAR_OK)
            status = find_places(&s->sides[i], s->sides[i].tables.example_rows, (size_t)s->sides[i].tables.examples);
    }
    free(path);
    *out = &s->sides[i];
    *spec = plain;
    return status;
}

/* --------------------------------------------------------------------------------------------------------- SPECs */

static bool same_data(const edit_side *a, const edit_side *b) {
    return !strcmp(a->job->data->sha256, b->job->data->sha256);
}

/* taken[rows of the side's data file]: 1 = in one of the sets so far. */
static coar_status find_taken(const edit_sets *s, const edit_side *side, uint8_t **out) {
    uint8_t *taken;
    TRY(memory_new((size_t)side->job->data->count, 1, "rows", &taken));
    for (size_t k = 0; k < EDIT_SETS; k++)
        for (size_t i = 0; s->set[k].side && same_data(s->set[k].side, side) && i < s->set[k].count; i++)
            taken[s->set[k].rows[i]] = 1;
    *out = taken;
    return COAR_OK;
}

/* For `wrong` and `correct`, as `coar ablate --examples` takes them. */
static coar_status find_correct(edit_side *side, const char *spec) {
    coar_status status;
    job *j = side->job;
    const size_t N = (size_t)j->data->count;
    uint64_t *rows = NULL;
    int32_t *predicted = NULL;
    uint8_t *correct = NULL;
    if (side->correct || (!spec_has(spec, "wrong") && !spec_has(spec, "correct"))) return COAR_OK;
    if (j->model->graph->vocabulary)
        return status_set(COAR_ERROR_USAGE, "examples '%s': a language model has no classes to be wrong about", spec);
    TRY_GOTO(memory_new(N, sizeof *rows, "rows", &rows));
    TRY_GOTO(memory_new(N, sizeof *predicted, "predictions", &predicted));
    TRY_GOTO(memory_new(N, 1, "predictions", &correct));
    for (size_t i = 0; i < N; i++) rows[i] = i;
    TRY_GOTO(job_predict(j, rows, N, predicted));
    for (size_t i = 0; i < N; i++) correct[i] = predicted[i] == j->data->labels[i];
    side->correct = correct;
    correct = NULL;
done:
    free(correct);
    free(predicted);
    free(rows);
    return status;
}

/* Target and reference: of a SPEC of properties the examples that have attributions; rows that are numbered must. */
static coar_status keep_attributed(edit_set *set, const char *name, const char *spec, bool given) {
    const edit_side *side = set->side;
    const bool numbered = spec_numbers_rows(spec);
    size_t kept = 0;
    for (size_t i = 0; i < set->count; i++) {
        if (side->place[set->rows[i]] != NO_PLACE)
            set->rows[kept++] = set->rows[i];
        else if (numbered)
            return status_set(COAR_ERROR_INPUT, "--%s %s: row %llu has no attributions: it is not %s %s", name, spec,
                              (unsigned long long)set->rows[i], given ? "in --rows of" : "an example of", side->path);
    }
    set->count = kept;
    if (kept) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "--%s %s: no example of %s is meant", name, spec, side->path);
}

/* Labels and groups of a set whose rows are known. */
static coar_status complete(edit_set *set) {
    const edit_side *side = set->side;
    const dataset *data = side->job->data;
    TRY(job_labels(side->job, side->predicted, set->rows, set->count, &set->labels));
    if (!data->groups) return COAR_OK;
    TRY(memory_new(set->count, sizeof *set->groups, "groups", &set->groups));
    for (size_t i = 0; i < set->count; i++) set->groups[i] = data->groups[set->rows[i]];
    return COAR_OK;
}

static coar_status resolve(const coar_edit_options *o, edit_sets *s, size_t k, const char *text, bool given) {
    coar_status status;
    edit_set *set = &s->set[k];
    edit_side *side;
    uint8_t *taken = NULL;
    uint64_t *rows = NULL;
    size_t count = 0;
    const char *spec = text;
    TRY_GOTO(side_of(o, s, &spec, &side));
    TRY_GOTO(find_correct(side, spec));
    if (k != COAR_EDIT_TARGET) TRY_GOTO(find_taken(s, side, &taken)); /* else: the rest of what? */
    TRY_GOTO(dataset_select(side->job->data, spec, side->correct, taken, &rows, &count));
    set->spec = strdup(text);
    if (!set->spec) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "--%s: not enough memory", edit_set_names[k]));
    set->side = side;
    set->rows = rows;
    set->count = count;
    rows = NULL;
    if (k <= COAR_EDIT_REFERENCE && given && side != s->sides)
        TRY_GOTO(status_set(COAR_ERROR_USAGE, "--%s %s: --attributions are of %s alone", edit_set_names[k], text,
                            s->sides->path));
    if (k <= COAR_EDIT_REFERENCE) TRY_GOTO(keep_attributed(set, edit_set_names[k], spec, given));
    TRY_GOTO(complete(set));
done:
    free(rows);
    free(taken);
    return status;
}

/* ------------------------------------------------------------------------------------- defaults of --validation, --test */

typedef struct drawn {
    uint32_t word;
    uint64_t row;
} drawn;

static int by_word(const void *a, const void *b) {
    const drawn *x = a, *y = b;
    if (x->word != y->word) return x->word < y->word ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static int by_row(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What defaults are drawn from. */
typedef struct pool {
    drawn *items; /* [count] in the order of their Philox words */
    size_t count;
    drawn *forgotten; /* [forgotten_count] of the label that is to be forgotten */
    size_t forgotten_count;
    const char *what; /* where they are from */
} pool;

/* Whether a label is to be forgotten: the outputs of targets that all have it are to get worse. */
static bool forgets(const edit_sets *s, bool worsen, int32_t *label) {
    const edit_set *target = &s->set[COAR_EDIT_TARGET];
    *label = target->labels[0];
    for (size_t i = 0; i < target->count; i++)
        if (target->labels[i] != *label) return false;
    /* labels that a model predicts are not known of the examples to draw from */
    return worsen && !s->sides[0].predicted && !s->sides[0].job->model->graph->vocabulary;
}

/* The run's examples that no set has; where those are fewer than two, the data file's. */
static coar_status draw_rest(const edit_sets *s, bool worsen, pool *out) {
    coar_status status;
    const edit_side *side = s->sides;
    const dataset *data = side->job->data;
    uint64_t seed;
    int32_t label;
    uint8_t *taken = NULL;
    const bool apart = forgets(s, worsen, &label);
    TRY_GOTO(store_setting_integer(side->store, "seed", &seed));
    TRY_GOTO(find_taken(s, side, &taken));
    TRY_GOTO(memory_new((size_t)data->count, sizeof *out->items, "rows", &out->items));
    TRY_GOTO(memory_new((size_t)data->count, sizeof *out->forgotten, "rows", &out->forgotten));
    for (int of_file = 0; of_file < 2 && out->count < 2; of_file++) {
        out->what = of_file ? "the data file's other examples" : "the run's other examples";
        out->count = out->forgotten_count = 0;
        for (uint64_t i = 0; i < (of_file ? data->count : side->tables.examples); i++) {
            const uint64_t row = of_file ? i : side->tables.example_rows[i];
            uint32_t words[4];
            if (taken[row]) continue;
            philox_words(seed, PHILOX_STREAM_EDIT, EDIT_ROW_SPLIT, (uint32_t)(row / 4), words);
            const drawn item = {words[row % 4], row};
            if (apart && data->labels[row] == label)
                out->forgotten[out->forgotten_count++] = item;
            else
                out->items[out->count++] = item;
        }
    }
    qsort(out->items, out->count, sizeof *out->items, by_word);
done:
    free(taken);
    return status;
}

static coar_status take_drawn(edit_sets *s, size_t k, const char *which, const char *what, const drawn *items,
                              size_t count) {
    edit_set *set = &s->set[k];
    set->side = s->sides;
    set->spec = string_format("%s%s", which, what);
    if (!set->spec) return status_set(COAR_ERROR_MEMORY, "--%s: not enough memory", edit_set_names[k]);
    TRY(memory_new(count, sizeof *set->rows, "rows", &set->rows));
    for (size_t i = 0; i < count; i++) set->rows[i] = items[i].row;
    qsort(set->rows, count, sizeof *set->rows, by_row);
    set->count = count;
    return complete(set);
}

static coar_status resolve_defaults(edit_sets *s, bool worsen) {
    coar_status status;
    pool rest = {.count = 0};
    const bool validation = !s->set[COAR_EDIT_VALIDATION].side, test = !s->set[COAR_EDIT_TEST].side;
    const bool target_test = !s->set[COAR_EDIT_TARGET_TEST].side;
    if (!validation && !test) return COAR_OK;
    TRY_GOTO(draw_rest(s, worsen, &rest));
    if (rest.count < (size_t)validation + test)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: no examples are left for --validation and --test: name some",
                            s->sides->path));
    const size_t half = test ? (rest.count + 1) / 2 : rest.count;
    const size_t first = !validation ? 0 : half < VALIDATION_MOST ? half : VALIDATION_MOST;
    if (validation) TRY_GOTO(take_drawn(s, COAR_EDIT_VALIDATION, test ? "half of " : "", rest.what, rest.items, first));
    if (test)
        TRY_GOTO(take_drawn(s, COAR_EDIT_TEST, validation ? "the rest of " : "", rest.what, rest.items + first,
                            rest.count - first));
    if (target_test && rest.forgotten_count)
        TRY_GOTO(take_drawn(s, COAR_EDIT_TARGET_TEST, "of the target's label among ", rest.what, rest.forgotten,
                            rest.forgotten_count));
done:
    free(rest.items);
    free(rest.forgotten);
    return status;
}

/* -------------------------------------------------------------------------------------------------------- checks */

/* Examples of different data files are different ones. */
static coar_status check_apart(const edit_sets *s, size_t a, size_t b) {
    const edit_set *x = &s->set[a], *y = &s->set[b];
    uint8_t *in_x;
    if (!x->side || !y->side || !same_data(x->side, y->side)) return COAR_OK;
    TRY(memory_new((size_t)x->side->job->data->count, 1, "rows", &in_x));
    for (size_t i = 0; i < x->count; i++) in_x[x->rows[i]] = 1;
    uint64_t common = NO_PLACE;
    for (size_t i = 0; i < y->count && common == NO_PLACE; i++)
        if (in_x[y->rows[i]]) common = y->rows[i];
    free(in_x);
    if (common == NO_PLACE) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--%s %s and --%s %s overlap: row %llu is in both", edit_set_names[a], x->spec,
                      edit_set_names[b], y->spec, (unsigned long long)common);
}

static coar_status check_sets(const edit_sets *s) {
    TRY(check_apart(s, COAR_EDIT_TARGET, COAR_EDIT_REFERENCE));
    TRY(check_apart(s, COAR_EDIT_TEST, COAR_EDIT_TARGET_TEST));
    for (size_t k = 0; k < COAR_EDIT_TEST; k++) {
        TRY(check_apart(s, k, COAR_EDIT_TEST));
        TRY(check_apart(s, k, COAR_EDIT_TARGET_TEST));
    }
    if (s->set[COAR_EDIT_REFERENCE].count >= 2) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--reference %s: one example has no variance: give two or more",
                      s->set[COAR_EDIT_REFERENCE].spec);
}

coar_status edit_sets_open(const coar_edit_options *o, const uint64_t *rows, size_t row_count, edit_sets *out) {
    const char *const specs[EDIT_SETS] = {o->target, o->reference, o->validation, o->test, o->target_test};
    edit_side *own = out->sides;
    TRY(open_side(o, o->run, out));
    TRY(find_places(own, rows ? rows : own->tables.example_rows, rows ? row_count : (size_t)own->tables.examples));
    for (int rest = 0; rest < 2; rest++) /* what is named goes before what is the rest of it */
        for (size_t k = 0; k < EDIT_SETS; k++)
            if (specs[k] && spec_has(plain_spec(specs[k]), "rest") == rest)
                TRY(resolve(o, out, k, specs[k], rows != NULL));
    return COAR_OK;
}

coar_status edit_sets_complete(edit_sets *s, bool worsen) {
    TRY(resolve_defaults(s, worsen));
    return check_sets(s);
}

void edit_sets_close(edit_sets *s) {
    for (size_t k = 0; k < EDIT_SETS; k++) {
        free(s->set[k].spec);
        free(s->set[k].rows);
        free(s->set[k].labels);
        free(s->set[k].groups);
    }
    for (size_t i = 0; i < s->side_count; i++) {
        job_close(s->sides[i].job);
        run_tables_free(&s->sides[i].tables);
        store_close(s->sides[i].store);
        free(s->sides[i].place);
        free(s->sides[i].correct);
        free(s->sides[i].path);
    }
}
