/*
 * names.h - lists of malloc'ed strings: class names, group names, file names.
 * Must not know: what they name.
 */
#ifndef COAR_DATA_NAMES_H
#define COAR_DATA_NAMES_H

#include <stddef.h>

#include "core/status.h"

/* strdup with a coar_status. */
coar_status names_copy(const char *text, char **out);

/* Frees the strings and the list; accepts NULL. */
void names_free(char **names, size_t count);

/* Order of the C locale, for qsort and bsearch over char *. */
int names_compare(const void *a, const void *b);

#endif
