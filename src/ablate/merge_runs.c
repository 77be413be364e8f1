/*
 * merge_runs.c - coar_merge: one plain file from a run; or one from several runs, which become one run first.
 * Must not know: how runs are stored (src/store). Here because runs that store their masks need the sampler that made
 * them (run_masks.h).
 */
#include <stdlib.h>
#include <string.h>

#include "ablate/run_masks.h"
#include "core/files.h"
#include "core/memory.h"
#include "core/options.h"

static coar_status pack_masks(run_store *store, uint64_t first, uint64_t count, uint8_t **rows) {
    coar_status status = COAR_OK;
    run_tables tables = {0};
    uint32_t *groups = NULL;
    thread_pool *pool = NULL;
    sampler s;
    TRY_GOTO(store_read_tables(store, &tables, NULL));
    TRY_GOTO(run_masks_training(store, &tables, &groups, &s));
    TRY_GOTO(thread_pool_create(1, &pool));
    TRY_GOTO(run_masks_pack(&s, first, count, pool, "masks", rows));
done:
    thread_pool_destroy(pool);
    free(groups);
    run_tables_free(&tables);
    return status;
}

static coar_status merge_one(const coar_merge_options *o) {
    run_store *store = NULL;
    TRY(store_open(o->runs[0], &store));
    const coar_status status = store_merge(store, o->output, o->callbacks);
    store_close(store);
    return status;
}

static coar_status merge_several(const coar_merge_options *o, coar_merge_result *result) {
    coar_status status = COAR_OK;
    run_store *store = NULL;
    join_result joined;
    char *beside = string_format("%s.joined", o->output), *path = beside ? file_temporary(beside) : NULL;
    const join_options options = {.runs = o->runs,
                                  .count = o->run_count,
                                  .path = path,
                                  .partial = o->as_run,
                                  .pack_masks = pack_masks,
                                  .callbacks = o->callbacks};
    if (!path) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", o->output));
    TRY_GOTO(store_join(&options, &joined, &store));
    TRY_GOTO(o->as_run ? store_rename(store, o->output) : store_merge(store, o->output, o->callbacks));
    *result = (coar_merge_result){joined.units, joined.missing};
    if (!o->as_run) goto done;
    store_close(store);
    store = NULL;
done:
    store_discard(store);
    free(path);
    free(beside);
    return status;
}

coar_status coar_merge(const coar_merge_options *given, coar_merge_result *result) {
    coar_merge_options o;
    coar_merge_result made = {0};
    status_clear();
    TRY(options_take(&o, sizeof o, given, "COAR_MERGE_INIT"));
    if (!o.runs || !o.run_count || !o.output) return status_set(COAR_ERROR_USAGE, "merge: give a run file and -o");
    for (size_t i = 0; i < o.run_count; i++)
        if (!o.runs[i]) return status_set(COAR_ERROR_USAGE, "merge: run %zu has no name", i + 1);
    if (o.as_run && o.run_count == 1) return status_set(COAR_ERROR_USAGE, "--run: name several runs");
    TRY(file_check_output(o.output, o.force));
    TRY(o.run_count == 1 ? merge_one(&o) : merge_several(&o, &made));
    if (result) *result = made;
    return COAR_OK;
}
