/*
 * regions.c - the largest first, each as low as those already placed allow.
 *
 * What is kept for a reverse pass is nested in time, and small things live shortest; large ones first leaves little
 * unused between them (greedy by size, as in Pisarchyk and Lee, "Efficient memory management for deep neural net
 * inference", 2020, arXiv 2001.03288). Quadratic in the number of regions.
 */
#include "graph/regions.h"

#include <stdlib.h>
#include <string.h>

/* Larger first; equal ones in the order of their use. */
static int compare_sizes(const void *a, const void *b) {
    const region *x = *(region *const *)a, *y = *(region *const *)b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->first != y->first ? (x->first > y->first ? 1 : -1) : (x > y) - (x < y);
}

/* The lowest start at which r meets none of `placed`, which are sorted by start. */
static size_t lowest_start(const region *r, region *const *placed, size_t count) {
    size_t start = 0;
    for (size_t i = 0; i < count && placed[i]->start < start + r->size; i++) {
        const region *other = placed[i];
        const bool at_once = other->first <= r->last && r->first <= other->last;
        if (at_once && other->start + other->size > start) start = other->start + other->size;
    }
    return start;
}

static void insert(region *r, region **placed, size_t count) {
    size_t at = count;
    while (at > 0 && placed[at - 1]->start > r->start) at--;
    memmove(placed + at + 1, placed + at, (count - at) * sizeof *placed);
    placed[at] = r;
}

coar_status regions_place(region *regions, size_t count, size_t *total) {
    region **order, **placed = NULL;
    coar_status status = COAR_OK;
    *total = 0;
    TRY(memory_new(count, sizeof *order, "reverse pass", &order));
    TRY_GOTO(memory_new(count, sizeof *placed, "reverse pass", &placed));
    for (size_t i = 0; i < count; i++) order[i] = &regions[i];
    qsort(order, count, sizeof *order, compare_sizes);
    for (size_t i = 0; i < count; i++) {
        region *r = order[i];
        r->start = lowest_start(r, placed, i);
        insert(r, placed, i);
        if (r->start + r->size > *total) *total = r->start + r->size;
    }
done:
    free(placed);
    free(order);
    return status;
}
