/* names.c - see names.h. */
#include "data/names.h"

#include <stdlib.h>
#include <string.h>

coar_status names_copy(const char *text, char **out) {
    char *copy = strdup(text);
    if (!copy) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory for a name", text);
    *out = copy;
    return COAR_OK;
}

void names_free(char **names, size_t count) {
    for (size_t i = 0; names && i < count; i++) free(names[i]);
    free(names);
}

uint64_t names_count_values(const int32_t *column, uint64_t count, size_t names) {
    uint64_t values = names;
    for (uint64_t i = 0; column && !names && i < count; i++)
        if (column[i] >= 0 && (uint64_t)column[i] >= values) values = (uint64_t)column[i] + 1;
    return values;
}

int names_compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}
