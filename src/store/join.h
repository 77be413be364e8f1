/*
 * join.h - what join.c (settings and finished parts) and join_units.c (work in progress) share.
 */
#ifndef COAR_STORE_JOIN_H
#define COAR_STORE_JOIN_H

#include <string.h>

#include "core/levels.h"
#include "store/internal.h"

typedef struct joining {
    const join_options *options;
    run_store **runs; /* [count] the sources, each of which is only read */
    size_t count;
    run_store *into;
    run_tables tables;
    uint64_t N, unit_masks, unit_examples; /* the two 32 bits */
    uint64_t finished;                     /* masks in parts; those of run `most_masks` */
    size_t most_masks;
    uint64_t masks;  /* that there will be, by the journals */
    uint32_t passes; /* in gradients.h5; that of run `most_passes` */
    size_t most_passes;
    uint32_t steps; /* passes that there will be, by the journals */
    join_result result;
} joining;

/* Whether a stage's name begins so. */
static inline bool join_is(const char *stage, const char *kind) {
    return !strncmp(stage, kind, strlen(kind));
}

/* COAR_ERROR_MISMATCH: a setting of that run is not the first one's. */
coar_status join_differ(const joining *g, size_t run, const setting_difference *d);
/* COAR_ERROR_INPUT: a value in the file `path` is not that of the finished masks. */
coar_status join_disagree(const joining *g, const char *path, const char *output, uint64_t mask, uint64_t example,
                          float value, float other);

/* The stages under way, of all journals together: finished, or left for later (options->partial), or an error that
 * names what is missing. (join_units.c) */
coar_status join_units(joining *g);

#endif
