/* ablate.c - coar_ablate: from options to a finished run file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/mask_units.h"
#include "ablate/opening.h"
#include "ablate/run_masks.h"
#include "core/npy.h"
#include "core/options.h"
#include "core/philox.h"

typedef struct mask_source {
    sampler sampler;
    uint32_t *group_first; /* owned */
    uint8_t *given;        /* owned: packed masks of file: */
    uint64_t count;        /* m that the source itself implies (loo, file:), else 0 */
    char hash[65];         /* of the given masks, "" otherwise */
} mask_source;

/* One call of coar_ablate, filled from top to bottom. */
typedef struct ablate_run {
    run_opening opening;
    mask_source masks;
    uint64_t m;
    uint64_t finished; /* masks that are in parts already */
    coar_ablate_result result;
} ablate_run;

/* --------------------------------------------------------------------------------------------- mask generator */

static void mask_source_free(mask_source *source) {
    free(source->group_first);
    free(source->given);
}

/* file:PATH - bool (or 0/1) [m, n], or packed bits u8 [m, ceil(n/8)], True = kept. */
static coar_status read_masks(const char *path, uint32_t n, uint8_t **out, uint64_t *count) {
    coar_status status = COAR_OK;
    npy_array array = {0};
    uint8_t *packed = NULL;
    const size_t bytes = mask_bytes(n);
    TRY(npy_open(path, &array));
    const bool is_packed = array.type == NPY_U8 && array.rank == 2 && array.shape[1] == bytes && bytes != n;
    if (array.rank != 2 || (!is_packed && array.shape[1] != n) || (array.type != NPY_BOOL && array.type != NPY_U8)) {
        TRY_GOTO(status_set(COAR_ERROR_INPUT,
                            "%s: shape, dtype: want bool [m, %u] or packed u8 [m, %zu] for this model's components",
                            path, n, bytes));
    }
    if (array.shape[0] == 0) TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: shape: holds no masks", path));
    TRY_GOTO(memory_new(array.shape[0], bytes, "masks", &packed));
    const uint8_t *source = array.data;
    for (size_t i = 0; i < array.shape[0]; i++) {
        uint8_t *row = packed + i * bytes;
        if (is_packed) {
            memcpy(row, source + i * bytes, bytes);
            if (n & 7) row[bytes - 1] &= (uint8_t)((1u << (n & 7)) - 1);
        } else {
            for (uint32_t k = 0; k < n; k++) row[k >> 3] |= (uint8_t)((source[i * n + k] != 0) << (k & 7));
        }
    }
    *out = packed;
    *count = array.shape[0];
    packed = NULL;
done:
    free(packed);
    npy_close(&array);
    return status;
}

static coar_status open_masks(ablate_run *run) {
    const coar_ablate_options *o = run->opening.o;
    mask_source *source = &run->masks;
    sampler *s = &source->sampler;
    const char *path;
    *s = (sampler){.seed = o->seed,
                   .alpha = run->opening.alpha,
                   .n = run->opening.tables.components,
                   .stream = PHILOX_STREAM_TRAINING,
                   .groups = (uint32_t)run->opening.tables.group_count};
    TRY(sampler_parse(o->sampler, &s->kind, &path));
    TRY(run_masks_groups(&run->opening.tables, &source->group_first));
    s->group_first = source->group_first;
    if (s->kind == SAMPLER_LOO) source->count = (uint64_t)s->n + 1;
    if (s->kind == SAMPLER_FILE) {
        TRY(read_masks(path, s->n, &source->given, &source->count));
        s->rows = source->given;
        s->rows_count = source->count;
        sha256_hex(source->given, (size_t)source->count * mask_bytes(s->n), source->hash);
    }
    return COAR_OK;
}

static coar_status choose_mask_count(ablate_run *run) {
    const mask_source *source = &run->masks;
    const uint64_t asked = run->opening.o->masks, m = asked           ? asked
                                                      : source->count ? source->count
                                                                      : 2 * (uint64_t)source->sampler.n;
    if (source->count && m != source->count)
        return status_set(COAR_ERROR_USAGE, "--masks %llu: the sampler gives exactly %llu masks; leave --masks out",
                          (unsigned long long)m, (unsigned long long)source->count);
    if (m > (uint64_t)1 << 40) return status_set(COAR_ERROR_USAGE, "--masks %llu: too many", (unsigned long long)m);
    run->m = m;
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------------------- the run */

/* What grows with the number of masks, before anything of an older run is removed or anything is computed. The table of
 * units comes out of the memory that the backend may plan with. */
static coar_status reserve_masks(const ablate_run *run) {
    const coar_ablate_options *o = run->opening.o;
    job *j = run->opening.job;
    const unit_grid grid = mask_units_grid(j, run->finished, run->m);
    const double masks = (double)(run->m - run->finished);
    const double rows =
        o->store_masks || run->masks.given ? masks * (double)mask_bytes(run->opening.tables.components) : 0;
    const double table = stage_memory(unit_grid_units(&grid)) + rows;
    const double bytes = masks * (double)j->count * (double)j->output_count * sizeof(float);
    const double space = store_space(o->output);
    /* --memory is the device's where the backend has one: the host's own share is the usual one then */
    const size_t host = j->interface->devices ? memory_default() : j->memory;
    if (table >= (double)host)
        return status_set(COAR_ERROR_MEMORY,
                          "--masks %llu: the table of %llu work units%s takes %.0f MiB but --memory allows %.0f MiB: "
                          "give fewer masks or more memory",
                          (unsigned long long)run->m, (unsigned long long)unit_grid_units(&grid),
                          rows > 0 ? " and the stored masks" : "", table / 1048576, (double)host / 1048576);
    if (bytes > 100 * space)
        return status_set(COAR_ERROR_IO,
                          "%s: --masks %llu: the outputs take %.0f MiB but only %.0f MiB are free: give fewer masks or "
                          "another -o",
                          o->output, (unsigned long long)run->m, bytes / 1048576, space / 1048576);
    if (bytes > space)
        log_warning(o->callbacks, "%s: the outputs take %.0f MiB before compression but only %.0f MiB are free",
                    o->output, bytes / 1048576, space / 1048576);
    if (!j->interface->devices) j->memory -= (size_t)table;
    return COAR_OK;
}

enum { STAGE_SETTINGS = 5 };

/* What is the ablations' alone: gradients of the same run know nothing of it. */
static void describe_stage(const ablate_run *run, setting out[STAGE_SETTINGS]) {
    const coar_ablate_options *o = run->opening.o;
    const setting settings[STAGE_SETTINGS] = {
        {"plan_hash", "--plan", run->opening.job->plan.hash, SETTING_TEXT, true},
        {"sampler", "--sampler", sampler_name(run->masks.sampler.kind), SETTING_TEXT, true},
        {"sampler_masks_sha256", "--sampler", run->masks.hash, SETTING_TEXT, true},
        {"store", "--store", o->store_f16 ? "f16" : "f32", SETTING_TEXT, true},
        {"store_masks", "--store-masks", o->store_masks ? "1" : "0", SETTING_TEXT, true},
    };
    memcpy(out, settings, sizeof settings);
}

static coar_status settle_store(ablate_run *run) {
    run_opening *opening = &run->opening;
    const coar_ablate_options *o = opening->o;
    setting settings[STAGE_SETTINGS];
    if (opening->fresh) TRY(reserve_masks(run));
    TRY(opening_store(opening));
    /* of all ablations of the run: an extension that stores otherwise must fail before it computes anything */
    describe_stage(run, settings);
    TRY(store_stage_compare(opening->store, "ablate-0", settings, STAGE_SETTINGS));
    TRY(opening_tables(opening, run->masks.given, run->masks.count));
    TRY(store_masks_finished(opening->store, &run->finished));
    if (run->finished > run->m)
        return status_set(
            COAR_ERROR_MISMATCH,
            "%s: --masks: holds %llu masks already, more than the %llu asked for; give --force to start over",
            o->output, (unsigned long long)run->finished, (unsigned long long)run->m);
    return opening->fresh ? COAR_OK : reserve_masks(run);
}

/* The masks not yet in parts, as stage "ablate-FIRST", and their part once all shards' units are there. */
static coar_status run_remaining(ablate_run *run) {
    run_opening *opening = &run->opening;
    const coar_ablate_options *o = opening->o;
    const sampler *s = &run->masks.sampler;
    const uint64_t first = run->finished;
    const mask_units units = {
        .progress = "ablate", .grid = mask_units_grid(opening->job, first, run->m), .sampler = s, .half = o->store_f16};
    coar_status status;
    store_stage *stage = NULL;
    uint8_t *rows = NULL; /* of masks, for --store-masks */
    setting settings[STAGE_SETTINGS];
    char name[64];
    snprintf(name, sizeof name, "ablate-%llu", (unsigned long long)first);
    describe_stage(run, settings);
    stage_run stage_work = {.name = name,
                            .settings = settings,
                            .setting_count = STAGE_SETTINGS,
                            .first = first,
                            .work = mask_units_work(opening->job, &units)};
    TRY_GOTO(opening_stage(opening, &stage_work, &stage));
    if (o->store_masks || s->kind == SAMPLER_FILE)
        TRY_GOTO(run_masks_pack(s, first, run->m - first, opening->job->pool, "masks", &rows));
    /* Does nothing while other shards owe units; only it sees those that ran beside this one. */
    TRY_GOTO(store_finish_outputs(opening->store, stage, &units.grid, o->store_f16, rows));
    TRY_GOTO(store_masks_finished(opening->store, &run->finished));
    if (run->finished < run->m) opening_tell_owed(opening, stage, &stage_work);
done:
    run->result.units_total = stage_work.work.units;
    run->result.units_before = stage_work.units_before;
    run->result.images = stage_work.work.images;
    run->result.seconds = stage_work.work.seconds;
    stage_close(stage);
    free(rows);
    return status;
}

static coar_status ablate(ablate_run *run, const coar_ablate_options *o) {
    sampler_kind kind;
    const char *file = NULL;
    TRY(sampler_parse(o->sampler, &kind, &file));
    TRY(opening_check(&run->opening, o, file));
    /* loo differences are too small for less than fp32 */
    TRY(opening_job(&run->opening, kind == SAMPLER_LOO ? 0 : run->opening.alpha));
    TRY(open_masks(run));
    TRY(choose_mask_count(run));
    TRY(settle_store(run));
    run->result.examples = run->opening.job->count;
    run->result.components = run->opening.tables.components;
    run->result.masks = run->m;
    run->result.already_complete = run->finished == run->m;
    return run->result.already_complete ? COAR_OK : run_remaining(run);
}

coar_status coar_ablate(const coar_ablate_options *given, coar_ablate_result *result) {
    status_clear();
    coar_ablate_options o;
    ablate_run run = {.m = 0};
    TRY(options_take(&o, sizeof o, given, "COAR_ABLATE_INIT"));
    const coar_status status = ablate(&run, &o);
    if (result && (status == COAR_OK || status == COAR_STOPPED)) *result = run.result;
    opening_close(&run.opening);
    mask_source_free(&run.masks);
    return status;
}
