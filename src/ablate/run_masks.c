/* run_masks.c - see run_masks.h. */
#include "ablate/run_masks.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"

coar_status run_masks_groups(const run_tables *tables, uint32_t **out) {
    const size_t count = tables->group_count;
    uint32_t *first;
    TRY(memory_new(count + 1, sizeof *first, "groups", &first));
    for (size_t g = 0; g < count; g++) first[g] = tables->groups[g].first;
    first[count] = tables->components;
    *out = first;
    return COAR_OK;
}

static coar_status take_groups(const run_tables *tables, uint32_t **group_first, sampler *s) {
    TRY(run_masks_groups(tables, group_first));
    s->group_first = *group_first;
    s->groups = (uint32_t)tables->group_count;
    return COAR_OK;
}

coar_status run_masks_training(run_store *store, const run_tables *tables, uint32_t **group_first, sampler *out) {
    const char *name = store_setting(store, "sampler");
    *out = (sampler){.stream = PHILOX_STREAM_TRAINING,
                     .n = tables->components,
                     .rows = tables->given_masks,
                     .rows_count = tables->given_count};
    TRY(store_setting_integer(store, "seed", &out->seed));
    TRY(store_setting_real(store, "alpha", &out->alpha));
    TRY(sampler_from_name(name ? name : "", &out->kind));
    return take_groups(tables, group_first, out);
}

coar_status run_masks_fresh(run_store *store, const run_tables *tables, double alpha, uint64_t seed,
                            uint32_t **group_first, sampler *out) {
    const char *path;
    *out = (sampler){.seed = seed, .stream = PHILOX_STREAM_EVALUATION, .alpha = alpha, .n = tables->components};
    const char *name = store_setting(store, "sampler");
    if (!name || !strcmp(name, "file") || !strcmp(name, "loo")) name = "bernoulli";
    TRY(sampler_parse(name, &out->kind, &path));
    return take_groups(tables, group_first, out);
}

/* ------------------------------------------------------------------------------------------------- packed rows */

enum { MASKS_PER_TASK = 64 };

typedef struct packing {
    const sampler *sampler;
    uint64_t first, count;
    uint8_t *rows, *scratch; /* scratch: sampler_scratch bytes a worker */
} packing;

static coar_status pack_some(void *context, size_t task, int worker) {
    const packing *p = context;
    const size_t row = mask_bytes(p->sampler->n);
    uint8_t *scratch = p->scratch + (size_t)worker * sampler_scratch(p->sampler);
    const uint64_t from = (uint64_t)task * MASKS_PER_TASK, end = from + MASKS_PER_TASK;
    for (uint64_t i = from; i < end && i < p->count; i++)
        sampler_mask(p->sampler, p->first + i, p->rows + i * row, scratch);
    return COAR_OK;
}

coar_status run_masks_pack(const sampler *s, uint64_t first, uint64_t count, thread_pool *pool, const char *what,
                           uint8_t **out) {
    coar_status status;
    packing p = {.sampler = s, .first = first, .count = count};
    TRY_GOTO(memory_new((size_t)count, mask_bytes(s->n), what, &p.rows));
    TRY_GOTO(memory_new((size_t)thread_pool_size(pool), sampler_scratch(s), what, &p.scratch));
    TRY_GOTO(thread_pool_run(pool, (size_t)((count + MASKS_PER_TASK - 1) / MASKS_PER_TASK), pack_some, &p));
    *out = p.rows;
    p.rows = NULL;
done:
    free(p.scratch);
    free(p.rows);
    return status;
}
