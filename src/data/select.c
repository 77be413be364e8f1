/*
 * select.c - SPEC: which examples of a data set a user means (docs/design.md, section 5).
 *
 *   SPEC = [ "!" ] TERM { "&" [ "!" ] TERM }                     the examples that satisfy every term (!: do not satisfy it)
 *   TERM = "all" | A ":" B (half open) | A { "," A } | "class:" C | "group:" G | "wrong" | "correct" | "rest"
 *        | "@" FILE.npy
 *
 * C and G are names or numbers; a name goes before an equal number. Spaces around terms are ignored.
 * Must not know: models, what the selection is for.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/npy.h"
#include "data/dataset.h"
#include "data/names.h"

typedef struct selection {
    const dataset *data;
    const uint8_t *correct, *taken; /* [N] or NULL */
    uint8_t *selected;              /* [N] 1 = satisfies every term so far */
    uint8_t *member;                /* [N] 1 = satisfies the present term */
    uint64_t *order;                /* rows in the order of the first list, or NULL */
    size_t order_count;
} selection;

static coar_status bad_term(const selection *s, const char *term, const char *problem) {
    return status_set(COAR_ERROR_USAGE, "%s: examples '%s': %s", s->data->path, term, problem);
}

/* Decimal digits from text up to end; false when it is anything else or beyond 64 bits. */
static int parse_number(const char *text, const char *end, uint64_t *out) {
    uint64_t value = 0;
    if (text == end) return 0;
    for (; text < end; text++)
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return 0;
    *out = value;
    return 1;
}

/* ------------------------------------------------------------------------------------------ ranges and lists */

static coar_status select_range(selection *s, const char *term, const char *colon) {
    uint64_t first, last;
    if (!parse_number(term, colon, &first) || !parse_number(colon + 1, term + strlen(term), &last))
        return bad_term(s, term, "a range is FIRST:END, as in 0:200 (END is not part of it)");
    if (first >= last) return bad_term(s, term, "the range is empty");
    if (last > s->data->count)
        return status_set(COAR_ERROR_USAGE, "%s: examples '%s': the file has only %" PRIu64 " examples", s->data->path,
                          term, s->data->count);
    memset(s->member + first, 1, (size_t)(last - first));
    return COAR_OK;
}

static coar_status add_row(selection *s, const char *term, uint64_t row, uint64_t *rows, size_t *count) {
    if (row >= s->data->count)
        return status_set(COAR_ERROR_USAGE, "%s: examples '%s': row %" PRIu64 " is not in 0..%" PRIu64, s->data->path,
                          term, row, s->data->count - 1);
    if (s->member[row])
        return status_set(COAR_ERROR_USAGE, "%s: examples '%s': row %" PRIu64 " is listed twice", s->data->path, term,
                          row);
    s->member[row] = 1;
    rows[(*count)++] = row;
    return COAR_OK;
}

/* The first list of a SPEC fixes the order of the result. Takes over `rows`. */
static void keep_order(selection *s, uint64_t *rows, size_t count) {
    if (s->order) {
        free(rows);
        return;
    }
    s->order = rows;
    s->order_count = count;
}

static coar_status select_list(selection *s, const char *term) {
    coar_status status = COAR_OK;
    uint64_t *rows = NULL, row;
    size_t count = 0;
    TRY_GOTO(memory_new(strlen(term) / 2 + 1, sizeof *rows, "rows of a list", &rows));
    for (const char *item = term;;) {
        size_t length = strcspn(item, ",");
        if (!parse_number(item, item + length, &row)) {
            status = bad_term(s, term, "give 0:200, 3,17,40, class:C, group:G, wrong, correct, rest or @rows.npy");
            goto done;
        }
        TRY_GOTO(add_row(s, term, row, rows, &count));
        if (!item[length]) break;
        item += length + 1;
    }
    keep_order(s, rows, count);
    rows = NULL;
done:
    free(rows);
    return status;
}

static coar_status select_file(selection *s, const char *term) {
    coar_status status = COAR_OK;
    npy_array array = {0};
    uint64_t *rows = NULL;
    size_t count = 0;
    TRY(npy_open(term + 1, &array));
    if (array.rank != 1 || array.type == NPY_BOOL || array.type >= NPY_F16) {
        status = status_set(COAR_ERROR_INPUT, "%s: expected row numbers, integers of shape [count]", term + 1);
        goto done;
    }
    if (array.count > s->data->count) { /* so some row is out of range or twice; and a bound for the allocation */
        status = status_set(COAR_ERROR_INPUT, "%s: %zu rows, but %s has only %" PRIu64 " examples", term + 1,
                            array.count, s->data->path, s->data->count);
        goto done;
    }
    TRY_GOTO(memory_new(array.count, sizeof *rows, "rows of a file", &rows));
    for (size_t i = 0; i < array.count; i++) { /* negative rows become huge ones, out of range */
        TRY_GOTO(add_row(s, term, (uint64_t)npy_get_int(&array, i), rows, &count));
    }
    keep_order(s, rows, count);
    rows = NULL;
done:
    free(rows);
    npy_close(&array);
    return status;
}

/* ----------------------------------------------------------------------------------------------- predicates */

/* class:C and group:G. `column` [N]; `names` [count] or NULL. */
static coar_status select_value(selection *s, const char *term, const int32_t *column, char **names, size_t count) {
    const char *value = strchr(term, ':') + 1;
    uint64_t wanted = UINT64_MAX, found = 0;
    for (size_t i = 0; names && i < count && wanted == UINT64_MAX; i++)
        if (!strcmp(names[i], value)) wanted = i;
    if (wanted == UINT64_MAX && !parse_number(value, value + strlen(value), &wanted))
        return bad_term(s, term, names ? "the file has no such name" : "the file has no names; give a number");
    for (uint64_t row = 0; row < s->data->count; row++) found += s->member[row] = (uint64_t)column[row] == wanted;
    return found ? COAR_OK : bad_term(s, term, "no example has it");
}

static coar_status select_flags(selection *s, const char *term, const uint8_t *flags, uint8_t wanted,
                                const char *missing) {
    if (!flags) return bad_term(s, term, missing);
    for (uint64_t row = 0; row < s->data->count; row++) s->member[row] = !flags[row] == !wanted;
    return COAR_OK;
}

static coar_status select_term(selection *s, const char *term) {
    const dataset *data = s->data;
    static const char no_predictions[] = "is not possible here: there are no predictions to compare with";
    memset(s->member, 0, (size_t)data->count);
    if (!*term) return bad_term(s, term, "a term is empty");
    if (*term == '@') return select_file(s, term);
    if (!strncmp(term, "class:", 6)) {
        if (data->tokens) return bad_term(s, term, "texts have no classes");
        return select_value(s, term, data->labels, data->class_names, data->classes);
    }
    if (!strncmp(term, "group:", 6)) {
        if (!data->groups) return bad_term(s, term, "the file has no groups; give `coar pack` --groups");
        return select_value(s, term, data->groups, data->group_names, data->group_names_count);
    }
    if (!strcmp(term, "correct")) return select_flags(s, term, s->correct, 1, no_predictions);
    if (!strcmp(term, "wrong")) return select_flags(s, term, s->correct, 0, no_predictions);
    if (!strcmp(term, "rest")) return select_flags(s, term, s->taken, 0, "is not possible here: the rest of what?");
    if (!strcmp(term, "all")) {
        memset(s->member, 1, (size_t)data->count);
        return COAR_OK;
    }
    const char *colon = strchr(term, ':');
    return colon ? select_range(s, term, colon) : select_list(s, term);
}

/* !TERM: the others. A list that is left out orders nothing. */
static coar_status select_others(selection *s, const char *term) {
    const bool ordered = s->order != NULL;
    TRY(select_term(s, term));
    for (uint64_t row = 0; row < s->data->count; row++) s->member[row] = !s->member[row];
    if (ordered) return COAR_OK;
    free(s->order);
    s->order = NULL;
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------------------- a SPEC */

/* The next term of a text that stays as it is, without its '!' and the spaces around; *text moves on. False after the last. */
static bool walk_terms(const char **text, const char **term, size_t *length) {
    if (!*text) return false;
    const char *end = strchrnul(*text, '&');
    *term = *text + strspn(*text, " ");
    if (**term == '!') ++*term;
    for (*length = (size_t)(end > *term ? end - *term : 0); *length && (*term)[*length - 1] == ' ';) --*length;
    *text = *end ? end + 1 : NULL;
    return true;
}

bool spec_has(const char *text, const char *word) {
    const char *term;
    for (size_t length; walk_terms(&text, &term, &length);)
        if (length == strlen(word) && !memcmp(term, word, length)) return true;
    return false;
}

bool spec_numbers_rows(const char *text) {
    const char *term;
    for (size_t length; walk_terms(&text, &term, &length);)
        if (*term == '@' || (*term >= '0' && *term <= '9')) return true;
    return false;
}

/* Cuts the term that starts at *text off at its '&' and trims it; *text moves on, to NULL after the last. */
static char *next_term(char **text) {
    char *term = strsep(text, "&");
    while (*term == ' ') term++;
    for (size_t length = strlen(term); length && term[length - 1] == ' ';) term[--length] = '\0';
    return term;
}

static coar_status select_all_terms(selection *s, const char *text) {
    coar_status status = COAR_OK;
    char *copy = NULL;
    memset(s->selected, 1, (size_t)s->data->count);
    TRY_GOTO(names_copy(text, &copy));
    for (char *rest = copy; rest;) {
        const char *term = next_term(&rest);
        TRY_GOTO(*term == '!' ? select_others(s, term + 1) : select_term(s, term));
        for (uint64_t row = 0; row < s->data->count; row++) s->selected[row] &= s->member[row];
    }
done:
    free(copy);
    return status;
}

coar_status dataset_select(const dataset *data, const char *text, const uint8_t *correct, const uint8_t *taken,
                           uint64_t **rows, size_t *count) {
    coar_status status = COAR_OK;
    selection s = {.data = data, .correct = correct, .taken = taken};
    uint64_t *found = NULL;
    size_t n = 0;
    if (!text) text = "all";
    TRY_GOTO(memory_new((size_t)data->count, 1, "selected examples", &s.selected));
    TRY_GOTO(memory_new((size_t)data->count, 1, "selected examples", &s.member));
    TRY_GOTO(select_all_terms(&s, text));
    for (uint64_t row = 0; row < data->count; row++) n += s.selected[row];
    if (n == 0) {
        status = bad_term(&s, text, "selects no example");
        goto done;
    }
    TRY_GOTO(memory_new(n, sizeof *found, "selected examples", &found));
    n = 0;
    for (uint64_t i = 0; i < (s.order ? s.order_count : data->count); i++) {
        uint64_t row = s.order ? s.order[i] : i;
        if (s.selected[row]) found[n++] = row;
    }
    *rows = found;
    *count = n;
done:
    free(s.order);
    free(s.member);
    free(s.selected);
    return status;
}
