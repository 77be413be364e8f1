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

int names_compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}
