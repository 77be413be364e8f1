/* groups.c - see groups.h. */
#include "data/groups.h"

#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/names.h"

typedef struct table {
    const char *path;
    uint64_t count;
    char *const *names;   /* [count] of the examples, or NULL */
    char *const **sorted; /* [count] pointers into names, in the order of the names; or NULL */
    char **values;        /* [count] group of each example, as written, inside text; NULL = not given yet */
    char *text;           /* the file, cut into fields */
} table;

static int compare_pointers(const void *a, const void *b) {
    return strcmp(**(char *const *const *)a, **(char *const *const *)b);
}

/* ------------------------------------------------------------------------------------------------- parsing */

/* The next field of a line (RFC 4180: optional quotes, doubled inside), unquoted in place; *line moves behind its comma, to
 * NULL after the last field. NULL when quotes do not close. */
static char *next_field(char **line) {
    char *field = *line, *in = field, *out = field;
    if (*in != '"') return strsep(line, ",");
    for (in++; *in; in++) {
        if (*in == '"' && in[1] != '"') break;
        if (*in == '"') in++;
        *out++ = *in;
    }
    if (*in != '"' || (in[1] && in[1] != ',')) return NULL;
    *line = in[1] ? in + 2 : NULL;
    *out = '\0';
    return field;
}

/* Decimal digits below `limit`, or -1. */
static int64_t parse_index(const char *text, uint64_t limit) {
    uint64_t value = 0;
    if (!*text) return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return -1;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value >= limit) return -1;
    }
    return (int64_t)value;
}

/* Row of the example that a field names, or -1. */
static int64_t find_example(const table *t, const char *field) {
    char *key = (char *)field, *const *pointer = &key;
    if (t->sorted) {
        char *const **found = bsearch(&pointer, t->sorted, (size_t)t->count, sizeof *t->sorted, compare_pointers);
        if (found) return *found - t->names;
    }
    return parse_index(field, t->count);
}

static coar_status read_line(table *t, size_t number, char *line) {
    char *example = next_field(&line), *group = line ? next_field(&line) : NULL;
    if (!example || !group || line || !*group)
        return status_set(COAR_ERROR_INPUT, "%s: line %zu: expected EXAMPLE,GROUP", t->path, number);
    if (number == 1 && (!strcmp(example, "file") || !strcmp(example, "index"))) return COAR_OK; /* a header */
    int64_t row = find_example(t, example);
    if (row < 0)
        return status_set(COAR_ERROR_INPUT, "%s: line %zu: no example '%s'; give %srow numbers from 0 to %llu", t->path,
                          number, example, t->names ? "CLASS/FILE or " : "", (unsigned long long)(t->count - 1));
    if (t->values[row])
        return status_set(COAR_ERROR_INPUT, "%s: line %zu: example '%s' has a group already", t->path, number, example);
    t->values[row] = group;
    return COAR_OK;
}

static coar_status read_lines(table *t) {
    coar_status status = COAR_OK;
    file_map map = {0};
    TRY(file_map_open(t->path, &map));
    TRY_GOTO(memory_new(map.size + 1, 1, t->path, &t->text));
    if (map.size) memcpy(t->text, map.data, map.size);
    char *rest = t->text;
    if (!strncmp(rest, "\xef\xbb\xbf", 3)) rest += 3; /* the byte order mark that spreadsheets write */
    size_t number = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        number++;
        size_t length = strlen(line);
        if (length && line[length - 1] == '\r') line[--length] = '\0';
        if (length) TRY_GOTO(read_line(t, number, line));
    }
    for (uint64_t i = 0; i < t->count; i++)
        if (!t->values[i]) {
            status = status_set(COAR_ERROR_INPUT, "%s: example %llu%s%s has no group", t->path, (unsigned long long)i,
                                t->names ? ", " : "", t->names ? t->names[i] : "");
            goto done;
        }
done:
    file_map_close(&map);
    return status;
}

/* ------------------------------------------------------------------------------------------------ numbering */

/* Numbers stay what they are; as soon as one group is no number, all are names, numbered in their sorted order. */
static coar_status number_groups(const table *t, group_list *out) {
    coar_status status = COAR_OK;
    char **unique = NULL;
    int numeric = 1;
    for (uint64_t i = 0; i < t->count; i++) {
        int64_t value = parse_index(t->values[i], DATASET_MAX_CLASSES);
        numeric &= value >= 0;
        out->groups[i] = (int32_t)value;
    }
    if (numeric) goto done;
    TRY_GOTO(memory_new((size_t)t->count, sizeof *unique, t->path, &unique));
    memcpy(unique, t->values, (size_t)t->count * sizeof *unique);
    qsort(unique, (size_t)t->count, sizeof *unique, names_compare);
    size_t distinct = 1;
    for (uint64_t i = 1; i < t->count; i++)
        if (strcmp(unique[i], unique[distinct - 1])) unique[distinct++] = unique[i];
    if (distinct > DATASET_MAX_CLASSES) {
        status = status_set(COAR_ERROR_INPUT, "%s: %zu different groups; at most %u", t->path, distinct,
                            DATASET_MAX_CLASSES);
        goto done;
    }
    TRY_GOTO(memory_new(distinct, sizeof *out->names, t->path, &out->names));
    out->names_count = distinct;
    for (size_t g = 0; g < distinct; g++) TRY_GOTO(names_copy(unique[g], &out->names[g]));
    for (uint64_t i = 0; i < t->count; i++) {
        char **found = bsearch(&t->values[i], out->names, distinct, sizeof *out->names, names_compare);
        out->groups[i] = (int32_t)(found - out->names);
    }
done:
    free(unique);
    return status;
}

/* ------------------------------------------------------------------------------------------------ interface */

static coar_status sort_names(table *t) {
    TRY(memory_new((size_t)t->count, sizeof *t->sorted, t->path, &t->sorted));
    for (uint64_t i = 0; i < t->count; i++) t->sorted[i] = &t->names[i];
    qsort(t->sorted, (size_t)t->count, sizeof *t->sorted, compare_pointers);
    return COAR_OK;
}

coar_status groups_read(const char *path, char *const *names, uint64_t count, group_list *out) {
    coar_status status = COAR_OK;
    table t = {.path = path, .count = count, .names = names};
    if (names) TRY_GOTO(sort_names(&t));
    TRY_GOTO(memory_new((size_t)count, sizeof *t.values, path, &t.values));
    TRY_GOTO(read_lines(&t));
    TRY_GOTO(memory_new((size_t)count, sizeof *out->groups, path, &out->groups));
    TRY_GOTO(number_groups(&t, out));
done:
    free(t.text);
    free(t.values);
    free(t.sorted);
    return status;
}

void group_list_free(group_list *list) {
    names_free(list->names, list->names_count);
    free(list->groups);
    *list = (group_list){0};
}
