/*
 * join_units.c - join.c's work in progress: the stages that the runs have not finished, made of all their journals.
 * Must not know: what a unit computes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/half.h"
#include "core/memory.h"
#include "store/join.h"

/* Calls visit for every journal of stages whose names begin so. */
static coar_status each_journal(joining *g, const char *kind,
                                coar_status (*visit)(joining *g, size_t run, const char *path, int file,
                                                     const journal_header *header)) {
    coar_status status = COAR_OK;
    for (size_t run = 0; run < g->count && status == COAR_OK; run++) {
        name_list list;
        TRY(folder_list(g->runs[run], kind, ".journal", &list));
        for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
            journal_header header;
            bool valid = false;
            char *path = folder_path(g->runs[run], list.names[i]);
            const int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
            if (path && file < 0) status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", path);
            if (file >= 0) status = journal_read_header(file, path, NULL, &header, &valid);
            if (valid) status = visit(g, run, path, file, &header);
            if (file >= 0) close(file);
            free(path);
        }
        name_list_free(&list);
    }
    return status;
}

/* ------------------------------------------------------------------------------ units of masks finished elsewhere */

typedef struct comparison {
    joining *g;
    const char *path; /* of the journal */
    int file;
    unit_grid grid;
    bool half;       /* finished masks are stored as f16 */
    uint64_t beyond; /* units of masks that nobody has finished: of a grid that the new run does not have */
} comparison;

/* What a value is once it is stored as f16. */
static float rounded(float value) {
    uint16_t half;
    return half_from_float(value, &half) ? half_to_float(half) : value;
}

static coar_status compare_unit(const comparison *c, const journal_record *r, float *unit, float *rows) {
    uint64_t mask, example;
    uint32_t masks, examples;
    unit_grid_unit(&c->grid, r->unit, &mask, &masks, &example, &examples);
    TRY(journal_payload(c->file, c->path, r, unit));
    for (size_t o = 0; o < c->grid.outputs; o++) {
        const char *name = c->g->tables.output_names[o];
        TRY(store_read_outputs(c->g->into, name, mask, masks, example, examples, rows));
        for (size_t i = 0; i < (size_t)masks * examples; i++) {
            float value = unit[o * masks * examples + i];
            if (c->half) value = rounded(value);
            if (memcmp(&value, &rows[i], sizeof value) && !(isnan(value) && isnan(rows[i])))
                return join_disagree(c->g, c->path, name, mask + i / examples, example + i % examples, value, rows[i]);
        }
    }
    return COAR_OK;
}

static coar_status compare_record(void *context, const journal_record *r) {
    comparison *c = context;
    coar_status status = COAR_OK;
    float *unit = NULL, *rows = NULL;
    uint64_t mask, example;
    uint32_t masks, examples;
    if (r->unit >= unit_grid_units(&c->grid) || r->length != unit_grid_payload(&c->grid, r->unit)) return COAR_OK;
    unit_grid_unit(&c->grid, r->unit, &mask, &masks, &example, &examples);
    if (mask + masks > c->g->finished) {
        c->beyond++;
        return COAR_OK;
    }
    TRY_GOTO(memory_new((size_t)r->length, 1, "work unit", &unit));
    TRY_GOTO(memory_new((size_t)masks * examples, sizeof *rows, "work unit", &rows));
    status = compare_unit(c, r, unit, rows);
done:
    free(rows);
    free(unit);
    return status;
}

/* A journal of masks that began before others were finished: compared with these; it can give no others. */
static coar_status compare_journal(joining *g, size_t run, const char *path, int file, const journal_header *header) {
    const char *store = store_setting(g->into, "store");
    uint64_t position = 0;
    comparison c = {.g = g,
                    .path = path,
                    .file = file,
                    .half = store && !strcmp(store, "f16"),
                    .grid = {.first_mask = header->first_mask,
                             .masks = header->masks,
                             .examples = g->N,
                             .unit_masks = (uint32_t)g->unit_masks,
                             .unit_examples = (uint32_t)g->unit_examples,
                             .outputs = (uint32_t)g->tables.output_count}};
    (void)run;
    if (header->first_mask >= g->finished) return COAR_OK;
    TRY(journal_scan(file, path, g->options->callbacks, &position, compare_record, &c));
    if (c.beyond)
        log_warning(g->options->callbacks,
                    "%s: %" PRIu64 " of its units cannot be used: %s has finished masks up to %" PRIu64
                    " and its units begin there",
                    path, c.beyond, g->runs[g->most_masks]->path, g->finished);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ missing units */

/* "3/5" where all missing units are of few shards, as the runs' processes were divided; "" where that is not known. */
static coar_status missing_shards(const joining *g, const store_stage *stage, char text[128]) {
    name_list list;
    char prefix[NAME_SIZE + 1];
    *text = '\0';
    snprintf(prefix, sizeof prefix, "%s.", stage->name);
    for (size_t run = 0; run < g->count && !*text; run++) {
        TRY(folder_list(g->runs[run], prefix, ".alive", &list));
        for (size_t i = 0; i < list.count && !*text; i++) {
            process_sign sign;
            double when;
            char *path = folder_path(g->runs[run], list.names[i]);
            uint64_t left = 0, last = 0;
            if (path && heartbeat_read(path, &sign, &when) && sign.shards > 1) {
                for (uint64_t u = 0; u < stage->options.units; u++) {
                    if (stage_has(stage, u)) continue;
                    left += !left || u % sign.shards != last;
                    last = u % sign.shards;
                }
                if (left == 1) snprintf(text, 128, ", all of shard %" PRIu64 "/%u", last, sign.shards);
            }
            free(path);
        }
        name_list_free(&list);
    }
    return COAR_OK;
}

static coar_status tell_missing(const joining *g, const store_stage *stage) {
    enum { SHOWN = 6 };
    char numbers[SHOWN * 24] = "", shards[128];
    uint64_t missing = 0;
    size_t used = 0;
    for (uint64_t u = 0; u < stage->options.units; u++) {
        if (stage_has(stage, u)) continue;
        if (missing++ < SHOWN)
            used += (size_t)snprintf(numbers + used, sizeof numbers - used, "%s%" PRIu64, used ? ", " : "", u);
    }
    TRY(missing_shards(g, stage, shards));
    return status_set(COAR_ERROR_INPUT,
                      "%s: %" PRIu64 " of %" PRIu64
                      " units are in none of the runs (%s%s%s): give the command of their run again, it "
                      "computes them alone; or merge with --run and go on there",
                      stage->name, missing, stage->options.units, numbers, missing > SHOWN ? ", ..." : "", shards);
}

/* Every unit that any run has, into the new run's own journal. */
static coar_status take_over(store_stage *stage) {
    coar_status status = COAR_OK;
    size_t most = 0;
    void *payload = NULL;
    for (uint64_t u = 0; u < stage->options.units; u++) {
        const size_t bytes = stage->options.payload_bytes(stage->options.context, u);
        if (bytes > most) most = bytes;
    }
    TRY_GOTO(memory_new(most, 1, "work unit", &payload));
    for (uint64_t u = 0; u < stage->options.units; u++) {
        const size_t bytes = stage->options.payload_bytes(stage->options.context, u);
        unit_mark mark;
        if (!stage_steps(stage, u)) continue;
        TRY_GOTO(stage_read(stage, u, &mark, payload, bytes));
        TRY_GOTO(stage_append(stage, u, mark, payload, bytes));
    }
done:
    free(payload);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ stages */

/* One stage of the new run, over the journals of all. finish: makes its part, once all units are there. */
static coar_status join_stage(joining *g, stage_options *o, coar_status (*finish)(joining *g, store_stage *stage)) {
    coar_status status = COAR_OK;
    document d = {.plan = NULL};
    store_stage *stage = NULL;
    char *path = string_format("%s/%s.json", g->into->folder, o->name);
    if (!path) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", g->into->path));
    TRY_GOTO(document_read(path, STAGE_FORMAT, &d));
    o->settings = d.settings.items;
    o->setting_count = d.settings.count;
    o->plan_json = d.plan;
    o->shards = 1;
    o->callbacks = g->options->callbacks;
    TRY_GOTO(stage_open(g->into, o, &stage));
    const uint64_t missing = o->units - stage_done_count(stage);
    g->result.units += o->units;
    g->result.missing += missing;
    if (!missing)
        status = finish(g, stage);
    else
        status = g->options->partial ? take_over(stage) : tell_missing(g, stage);
done:
    stage_close(stage);
    document_free(&d);
    free(path);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- masks */

static unit_grid mask_grid(const joining *g, uint64_t masks) {
    return (unit_grid){.first_mask = g->finished,
                       .masks = masks,
                       .examples = g->N,
                       .unit_masks = (uint32_t)g->unit_masks,
                       .unit_examples = (uint32_t)g->unit_examples,
                       .outputs = (uint32_t)g->tables.output_count};
}

static coar_status finish_masks(joining *g, store_stage *stage) {
    const unit_grid *grid = stage->options.context;
    const char *store = store_setting(g->into, "store"), *sampler = store_setting(g->into, "sampler");
    const char *stored = store_setting(g->into, "store_masks");
    uint8_t *rows = NULL;
    if ((stored && !strcmp(stored, "1")) || (sampler && !strcmp(sampler, "file")))
        TRY(g->options->pack_masks(g->into, g->finished, grid->masks - g->finished, &rows));
    const coar_status status = store_finish_outputs(g->into, stage, grid, store && !strcmp(store, "f16"), rows);
    free(rows);
    return status;
}

/* The largest number of masks that a journal of the stage under way knows of. */
static coar_status count_masks(joining *g, size_t run, const char *path, int file, const journal_header *header) {
    (void)run, (void)file;
    if (header->first_mask != g->finished) return COAR_OK;
    if (!header->masks || header->masks > (uint64_t)1 << 40)
        return status_set(COAR_ERROR_INPUT,
                          "%s: of a version of coar that did not note how many masks there are: resume the run with "
                          "this one first",
                          path);
    if (header->masks > g->masks) g->masks = header->masks;
    return COAR_OK;
}

static coar_status join_masks(joining *g) {
    char name[NAME_SIZE];
    TRY(each_journal(g, ABLATE_STAGE, count_masks));
    TRY(each_journal(g, ABLATE_STAGE, compare_journal));
    if (g->masks <= g->finished) return COAR_OK;
    const unit_grid grid = mask_grid(g, g->masks);
    snprintf(name, sizeof name, ABLATE_STAGE "%" PRIu64, g->finished);
    stage_options o = {.name = name,
                       .units = unit_grid_units(&grid),
                       .payload_bytes = unit_grid_payload,
                       .context = &grid,
                       .masks = g->masks};
    return join_stage(g, &o, finish_masks);
}

/* --------------------------------------------------------------------------------------------------- gradients */

static coar_status finish_passes(joining *g, store_stage *stage) {
    return store_finish_gradients(g->into, stage, stage->options.context);
}

static coar_status count_passes(joining *g, size_t run, const char *path, int file, const journal_header *header) {
    (void)run, (void)path, (void)file;
    if (header->first_mask == g->passes && header->steps <= LEVELS_PASSES_MOST && header->steps > g->steps)
        g->steps = header->steps;
    return COAR_OK;
}

static coar_status join_passes(joining *g) {
    char name[NAME_SIZE];
    TRY(each_journal(g, GRADIENTS_STAGE, count_passes));
    if (g->steps <= g->passes) return COAR_OK;
    const gradient_grid grid = {.examples = g->N,
                                .components = g->tables.components,
                                .outputs = (uint32_t)g->tables.output_count,
                                .first_pass = g->passes,
                                .passes = g->steps};
    snprintf(name, sizeof name, GRADIENTS_STAGE "%u", g->passes);
    stage_options o = {.name = name,
                       .units = gradient_grid_units(&grid),
                       .steps = g->steps,
                       .payload_bytes = gradient_grid_payload,
                       .context = &grid};
    return join_stage(g, &o, finish_passes);
}

coar_status join_units(joining *g) {
    TRY(join_masks(g));
    return join_passes(g);
}
