/*
 * names.h - lists of malloc'ed strings: class names, group names, file names.
 * Must not know: what they name.
 */
#ifndef COAR_DATA_NAMES_H
#define COAR_DATA_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* strdup with a coar_status. */
coar_status names_copy(const char *text, char **out);

/* Frees the strings and the list; accepts NULL. */
void names_free(char **names, size_t count);

/* Different values of a column [count], for a summary: as many as there are names, without any the largest + 1. A column that
 * is NULL has none. */
uint64_t names_count_values(const int32_t *column, uint64_t count, size_t names);

/* Order of the C locale, for qsort and bsearch over char *. */
int names_compare(const void *a, const void *b);

#endif
