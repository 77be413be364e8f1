/*
 * groups.h - the groups file of `coar pack`: which subpopulation each example belongs to (docs/formats.md).
 * Must not know: HDF5, images.
 */
#ifndef COAR_DATA_GROUPS_H
#define COAR_DATA_GROUPS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct group_list {
    int32_t *groups; /* [count of examples] */
    char **names;    /* [names_count] sorted; NULL when all groups are given as numbers */
    size_t names_count;
} group_list;

/* Reads "EXAMPLE,GROUP" lines, one for every example. EXAMPLE is the row number or, where `names` [count] is not NULL, the
 * example's name. Zero-initialise *out; group_list_free in any case. */
coar_status groups_read(const char *path, char *const *names, uint64_t count, group_list *out);
void group_list_free(group_list *list);

#endif
