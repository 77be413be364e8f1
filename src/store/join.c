/*
 * join.c - one run from several of one job that were computed in separate folders (`coar merge A.h5 B.h5 ...`).
 *
 * Settings must be equal, finished masks and passes are taken from the run that has most, and the journals of all runs
 * together are read as those of the new one (run_store.sources), so that shards of any counts combine: stage.c drops
 * what is damaged and compares what two of them hold. What is finished in one run is compared with the rows and units
 * of all others. The runs themselves are only read.
 * Must not know: what a unit computes.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/half.h"
#include "core/memory.h"
#include "store/join.h"

/* ------------------------------------------------------------------------------------------------- sources */

static coar_status open_source(joining *g, const char *path) {
    run_store *run;
    TRY(run_look(path, &run));
    for (size_t i = 0; i < g->count; i++)
        if (file_same(g->runs[i]->folder, run->folder)) {
            store_close(run);
            return status_set(COAR_ERROR_USAGE, "%s: is named twice", path);
        }
    g->runs[g->count++] = run;
    coar_status status = liveness_check(run, NULL, 0, 1);
    if (status != COAR_ERROR_BUSY) return status;
    status_clear();
    return status_set(COAR_ERROR_BUSY,
                      "%s: a process is at work on it (`coar status` tells which): merge it afterwards", path);
}

static coar_status open_sources(joining *g) {
    const join_options *o = g->options;
    TRY(memory_new(o->count, sizeof *g->runs, "runs", &g->runs));
    for (size_t i = 0; i < o->count; i++) TRY(open_source(g, o->runs[i]));
    const setting_list *first = &g->runs[0]->manifest.settings;
    for (size_t i = 1; i < g->count; i++) {
        const setting_list *other = &g->runs[i]->manifest.settings;
        setting_difference d;
        if (settings_differ(first, other->items, other->count, &d)) return join_differ(g, i, &d);
    }
    return COAR_OK;
}

coar_status join_differ(const joining *g, size_t run, const setting_difference *d) {
    return status_set(COAR_ERROR_MISMATCH, "%s: %s (%s) is %s, %s has %s: only runs of one job can be merged",
                      g->runs[run]->path, d->flag, d->key, d->given ? d->given : "not there", g->runs[0]->path,
                      d->stored);
}

/* ------------------------------------------------------------------------------------------------ documents */

/* A file that is never written again: another name for it, or a copy. */
static coar_status take_file(const char *from, const char *to) {
    file_map map;
    if (link(from, to) == 0) return COAR_OK;
    TRY(file_map_open(from, &map));
    const coar_status status = file_write(to, map.data, map.size);
    file_map_close(&map);
    return status;
}

static coar_status take_named(const joining *g, size_t run, const char *name) {
    char *from = folder_path(g->runs[run], name), *to = folder_path(g->into, name);
    const coar_status status = from && to ? take_file(from, to) : COAR_ERROR_MEMORY;
    free(to);
    free(from);
    return status;
}

/* The stage began with other settings, or another plan, in two runs. */
static coar_status stages_differ(const joining *g, size_t run, const char *have, const char *other) {
    coar_status status = COAR_OK;
    document a = {.plan = NULL}, b = {.plan = NULL};
    setting_difference d;
    TRY_GOTO(document_read(have, STAGE_FORMAT, &a));
    TRY_GOTO(document_read(other, STAGE_FORMAT, &b));
    if (settings_differ(&a.settings, b.settings.items, b.settings.count, &d))
        status = join_differ(g, run, &d);
    else
        status = status_set(COAR_ERROR_MISMATCH,
                            "%s: its numerics plan is another than that of %s: only runs of one plan can be merged "
                            "(--plan takes one over)",
                            other, g->runs[0]->path);
done:
    document_free(&b);
    document_free(&a);
    return status;
}

/* STAGE.json of one run: taken if it is the first, else compared. Journals are tied to its very bytes. */
static coar_status take_stage(const joining *g, size_t run, const char *stage) {
    coar_status status = COAR_OK;
    file_map a = {0}, b = {0};
    char *name = string_format("%s.json", stage);
    char *have = name ? folder_path(g->into, name) : NULL, *other = name ? folder_path(g->runs[run], name) : NULL;
    if (!have || !other) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", g->into->path));
    if (!file_exists(have)) {
        status = take_file(other, have);
        goto done;
    }
    TRY_GOTO(file_map_open(have, &a));
    TRY_GOTO(file_map_open(other, &b));
    if (a.size != b.size || memcmp(a.data, b.data, a.size)) status = stages_differ(g, run, have, other);
done:
    file_map_close(&b);
    file_map_close(&a);
    free(other);
    free(have);
    free(name);
    return status;
}

static coar_status take_stages(const joining *g, size_t run) {
    name_list names;
    coar_status status = COAR_OK;
    TRY(stage_names(g->runs[run], &names));
    for (size_t i = 0; i < names.count && status == COAR_OK; i++)
        if (join_is(names.names[i], ABLATE_STAGE) || join_is(names.names[i], GRADIENTS_STAGE))
            status = take_stage(g, run, names.names[i]);
    name_list_free(&names);
    return status;
}

static coar_status take_tables(const joining *g, size_t run) {
    run_tables tables = {.groups = NULL};
    bool present;
    TRY(store_read_tables(g->runs[run], &tables, &present));
    coar_status status = present ? store_write_tables(g->into, &tables) : COAR_OK;
    run_tables_free(&tables);
    if (status != COAR_ERROR_MISMATCH) return status;
    status_clear();
    return status_set(COAR_ERROR_MISMATCH,
                      "%s: examples, labels or outputs of the unablated model are not those of %s: leave out the run "
                      "that you do not trust",
                      g->runs[run]->path, g->runs[0]->path);
}

/* ------------------------------------------------------------------------------------------- finished masks */

/* Two values of one place; of those that are not finite all NaN are alike. */
static bool same_float(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

coar_status join_disagree(const joining *g, const char *path, const char *output, uint64_t mask, uint64_t example,
                          float value, float other) {
    const uint64_t columns = (g->N + g->unit_examples - 1) / g->unit_examples;
    return status_set(COAR_ERROR_INPUT,
                      "%s: unit %" PRIu64 " is not what %s holds for it (%s of mask %" PRIu64 ", example %" PRIu64
                      " is %.9g there, %.9g here): two machines disagree; leave out the run that you do not trust",
                      path, mask / g->unit_masks * columns + example / g->unit_examples, g->runs[g->most_masks]->path,
                      output, mask, example, (double)other, (double)value);
}

enum { BAND = 64 /* masks */ };

/* Masks that a run has finished and that the new one has: read, with their checksums, and compared. `like` NULL: only
 * read, so that damage is found under the name that the run's owner knows. */
static coar_status compare_masks(const joining *g, run_store *run, run_store *like, uint64_t finished) {
    coar_status status = COAR_OK;
    float *a = NULL, *b = NULL;
    size_t band;
    if (!size_mul(BAND, g->N, &band)) band = SIZE_MAX; /* memory_new says so */
    TRY_GOTO(memory_new(band, sizeof *a, "outputs", &a));
    TRY_GOTO(memory_new(band, sizeof *b, "outputs", &b));
    for (uint64_t first = 0; first < finished; first += BAND)
        for (size_t o = 0; o < g->tables.output_count; o++) {
            const uint64_t count = finished - first < BAND ? finished - first : BAND;
            const char *name = g->tables.output_names[o];
            TRY_GOTO(store_read_outputs(run, name, first, count, 0, g->N, b));
            if (like) TRY_GOTO(store_read_outputs(like, name, first, count, 0, g->N, a));
            for (size_t i = 0; like && i < count * g->N; i++)
                if (!same_float(a[i], b[i]))
                    TRY_GOTO(join_disagree(g, run->path, name, first + i / g->N, i % g->N, b[i], a[i]));
        }
done:
    free(b);
    free(a);
    return status;
}

/* The parts of the run that has finished most masks; what others have finished is compared with them. */
static coar_status take_masks(joining *g) {
    coar_status status = COAR_OK;
    mask_part *parts = NULL;
    size_t count = 0;
    uint64_t finished;
    for (size_t i = 0; i < g->count; i++) {
        TRY(store_masks_finished(g->runs[i], &finished));
        if (finished <= g->finished) continue;
        g->finished = finished;
        g->most_masks = i;
    }
    run_store *most = g->runs[g->most_masks];
    TRY_GOTO(compare_masks(g, most, NULL, g->finished));
    TRY_GOTO(folder_mask_parts(most, &parts, &count));
    for (size_t i = 0; i < count; i++) TRY_GOTO(take_named(g, g->most_masks, parts[i].name));
    for (size_t i = 0; i < g->count; i++) {
        TRY_GOTO(store_masks_finished(g->runs[i], &finished));
        if (i != g->most_masks) TRY_GOTO(compare_masks(g, g->runs[i], most, finished));
    }
done:
    free(parts);
    return status;
}

/* ------------------------------------------------------------------------------------------ finished passes */

/* Sums of gradients after equally many passes, as compare_masks. */
static coar_status compare_passes(const joining *g, run_store *run, run_store *like, double *a, double *b) {
    const uint64_t n = g->tables.components;
    for (size_t o = 0; o < g->tables.output_count; o++)
        for (uint64_t first = 0; first < g->N; first += LEVELS_BLOCK) {
            const uint64_t count = g->N - first < LEVELS_BLOCK ? g->N - first : LEVELS_BLOCK;
            const char *name = g->tables.output_names[o];
            TRY(store_read_gradients(run, name, first, count, a));
            if (like) TRY(store_read_gradients(like, name, first, count, b));
            if (like && memcmp(a, b, LEVELS * count * n * sizeof *a))
                return status_set(COAR_ERROR_INPUT,
                                  "%s/" GRADIENTS_FILE ": gradients of %s, examples %" PRIu64 " to %" PRIu64
                                  ", are not those of %s: two machines disagree; leave out the run that you do not "
                                  "trust",
                                  run->folder, name, first, first + count - 1, like->path);
        }
    return COAR_OK;
}

static coar_status take_passes(joining *g) {
    coar_status status = COAR_OK;
    double *sums = NULL;
    size_t size;
    uint32_t passes;
    for (size_t i = 0; i < g->count; i++) {
        TRY(store_passes_finished(g->runs[i], &passes));
        if (passes <= g->passes) continue;
        g->passes = passes;
        g->most_passes = i;
    }
    if (!g->passes) return COAR_OK;
    if (!size_mul((size_t)2 * LEVELS * LEVELS_BLOCK, g->tables.components, &size)) size = SIZE_MAX;
    TRY_GOTO(memory_new(size, sizeof *sums, "sums of gradients", &sums));
    TRY_GOTO(compare_passes(g, g->runs[g->most_passes], NULL, sums, NULL));
    TRY_GOTO(take_named(g, g->most_passes, GRADIENTS_FILE));
    for (size_t i = 0; i < g->count; i++) {
        TRY_GOTO(store_passes_finished(g->runs[i], &passes));
        if (i != g->most_passes && passes == g->passes)
            TRY_GOTO(compare_passes(g, g->runs[i], g->runs[g->most_passes], sums, sums + size / 2));
        if (passes && passes < g->passes)
            log_info(g->options->callbacks, "%s: its gradients of %u passes are left out: %s has %u", g->runs[i]->path,
                     passes, g->runs[g->most_passes]->path, g->passes);
    }
done:
    free(sums);
    return status;
}

/* --------------------------------------------------------------------------------------------------- whole */

/* The new run with what is finished; then open with the settings of its first stage. */
static coar_status begin(joining *g) {
    const setting_list *settings = &g->runs[0]->manifest.settings;
    bool created, present;
    TRY(store_create(g->options->path, settings->items, settings->count, true, &created, &g->into));
    for (size_t i = 0; i < g->count; i++) TRY(take_stages(g, i));
    for (size_t i = 0; i < g->count; i++) TRY(take_tables(g, i));
    TRY(store_read_tables(g->into, &g->tables, &present));
    g->N = g->tables.examples;
    TRY(store_setting_integer(g->into, "unit_masks", &g->unit_masks));
    TRY(store_setting_integer(g->into, "unit_examples", &g->unit_examples));
    if (!present || !g->unit_masks || g->unit_masks > UINT32_MAX || !g->unit_examples || g->unit_examples > UINT32_MAX)
        return status_set(COAR_ERROR_INPUT, "%s: has nothing to merge: its first command was stopped at once",
                          g->runs[0]->path);
    TRY(take_masks(g));
    TRY(take_passes(g));
    run_store *whole;
    TRY(store_open(g->options->path, &whole));
    store_close(g->into);
    g->into = whole;
    g->into->sources = g->runs;
    g->into->source_count = g->count;
    return COAR_OK;
}

/* Fits and the like of several runs are of different outputs, or made twice: none of them is taken. */
static coar_status tell_left_out(const joining *g) {
    static const char *const kinds[] = {"fit-", "truth-", EDIT_PART};
    for (size_t i = 0; i < g->count; i++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            name_list names;
            TRY(part_names(g->runs[i], kinds[k], &names));
            const bool any = names.count > 0;
            name_list_free(&names);
            if (!any) continue;
            log_info(g->options->callbacks, "%s: fits, evaluations and edits are left out", g->runs[i]->path);
            break;
        }
    return COAR_OK;
}

coar_status store_join(const join_options *options, join_result *result, run_store **out) {
    coar_status status;
    joining g = {.options = options};
    TRY_GOTO(open_sources(&g));
    TRY_GOTO(begin(&g));
    TRY_GOTO(join_units(&g));
    if (!g.finished && !g.passes && !g.result.units)
        TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: has nothing to merge, nor have the other runs", g.runs[0]->path));
    TRY_GOTO(tell_left_out(&g));
    g.into->sources = NULL;
    g.into->source_count = 0;
    *result = g.result;
    *out = g.into;
    g.into = NULL;
done:
    store_discard(g.into);
    for (size_t i = 0; i < g.count; i++) store_close(g.runs[i]);
    free(g.runs);
    run_tables_free(&g.tables);
    return status;
}

void store_discard(run_store *store) {
    if (!store) return;
    /* What cannot be removed is left under its temporary name; the first error is the one to tell. */
    (void)run_remove(store);
    store_close(store);
}

coar_status store_rename(run_store *store, const char *path) {
    run_store *renamed;
    char *folder = string_format("%s.parts", path);
    coar_status status = COAR_OK;
    if (!folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    if (rename(store->folder, folder))
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot rename to %s", store->folder, folder);
    free(folder);
    TRY(status);
    /* An index of the old name, which takes the place of a file that --force replaces and is made anew when it is opened. */
    if (rename(store->path, path))
        return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot rename to %s", store->path, path);
    TRY(store_open(path, &renamed));
    store_close(renamed);
    return COAR_OK;
}
