/*
 * cpu_regions.h - stretches of memory with lifetimes, laid out so that those in use at once do not overlap.
 * Must not know: what is in them.
 */
#ifndef COAR_BACKEND_CPU_CPU_REGIONS_H
#define COAR_BACKEND_CPU_CPU_REGIONS_H

#include "core/memory.h"

typedef struct region {
    size_t size;        /* floats, a multiple of 64 */
    size_t first, last; /* moments between which it is in use, both included */
    size_t start;       /* in floats, from the beginning of the memory they share */
} region;

/* Assigns every `start`; *floats = the end of the one that ends last. */
coar_status regions_place(region *regions, size_t count, size_t *floats);

#endif
