/*
 * regions.h - stretches of memory with lifetimes, laid out so that those in use at once do not overlap.
 * Must not know: what is in them, units.
 */
#ifndef COAR_GRAPH_REGIONS_H
#define COAR_GRAPH_REGIONS_H

#include "core/memory.h"

typedef struct region {
    size_t size;        /* in the caller's units, and rounded up to the caller's alignment */
    size_t first, last; /* moments between which it is in use, both included */
    size_t start;       /* from the beginning of the memory they share */
} region;

/* Assigns every `start`; *total = the end of the one that ends last. Of equal regions those that are used first, then
 * those that stand first, are placed first. The sum of all sizes must fit a size_t: sizes of values do, of which a
 * graph has thousands of less than 2^31 elements. */
coar_status regions_place(region *regions, size_t count, size_t *total);

#endif
