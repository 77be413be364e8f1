/* ablate.c - coar_ablate: from options to a finished run file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/run.h"
#include "ablate/run_masks.h"
#include "core/npy.h"
#include "core/number.h"
#include "core/options.h"
#include "core/philox.h"

/* Settings of which it owns the values alone: keys and flags are literals. */
typedef struct setting_texts {
    setting items[40];
    size_t count;
    bool failed;
} setting_texts;

typedef struct mask_source {
    sampler sampler;
    uint32_t *group_first; /* owned */
    uint8_t *given;        /* owned: packed masks of file: */
    uint64_t count;        /* m that the source itself implies (loo, file:), else 0 */
    char hash[65];         /* of the given masks, "" otherwise */
} mask_source;

/* One call of coar_ablate, filled from top to bottom. */
typedef struct ablate_run {
    const coar_ablate_options *o;
    double alpha;
    uint32_t shard, shards; /* K, S */
    job *job;
    run_tables tables; /* as a new run gets them */
    mask_source masks;
    uint64_t m;
    setting_texts settings;
    run_store *store;
    uint64_t finished; /* masks that are in parts already */
    coar_ablate_result result;
} ablate_run;

static const char *or_default(const char *text, const char *fallback) {
    return text ? text : fallback;
}

/* ------------------------------------------------------------------------------------------ settings as text */

static void add(setting_texts *list, const char *key, const char *flag, setting_type type, bool compared, char *value) {
    if (!value || list->count == sizeof list->items / sizeof *list->items) {
        free(value);
        list->failed = true;
        return;
    }
    list->items[list->count++] = (setting){key, flag, value, type, compared};
}

static void add_text(setting_texts *list, const char *key, const char *flag, bool compared, const char *value) {
    add(list, key, flag, SETTING_TEXT, compared, strdup(value));
}

static void setting_texts_free(setting_texts *list) {
    for (size_t i = 0; i < list->count; i++) free((char *)list->items[i].value);
    list->count = 0;
}

static char *time_now(void) {
    char text[UTC_SIZE];
    clock_utc(text);
    return strdup(text);
}

static char *output_names(const job *j) {
    char text[OUTPUTS_MAX * 41] = "";
    for (size_t o = 0; o < j->output_count; o++) {
        if (o) strcat(text, ",");
        strcat(text, j->outputs[o].name);
    }
    return strdup(text);
}

static char *examples_hash(const job *j) {
    char hex[65];
    sha256_hex(j->rows, j->count * sizeof *j->rows, hex);
    return strdup(hex);
}

/* One text for one ablation: "scale:.5" and "scale:0.50" are the same. */
static char *ablation_text(const job *j, const char *typed) {
    char gain[NUMBER_SIZE];
    if (j->ablation.kind != ABLATION_SCALE) return strdup(or_default(typed, "zero"));
    number_format(number_parse(typed + strlen("scale:"), NULL), gain); /* as it was typed, not as the nearest float */
    return string_format("scale:%s", gain);
}

/* What all stages of a run share: the manifest, and the attributes of run.h5. */
static coar_status describe_run(ablate_run *run) {
    const coar_ablate_options *o = run->o;
    const job *j = run->job;
    setting_texts *list = &run->settings;
    char alpha[NUMBER_SIZE], calibration[65] = "";
    if (j->calibration_rows)
        sha256_hex(j->calibration_rows, j->calibration_count * sizeof *j->calibration_rows, calibration);
    number_format(run->alpha, alpha);
    add(list, "created", "", SETTING_TEXT, false, time_now());
    add_text(list, "command", "", false, or_default(o->command, ""));
    add_text(list, "coar_version", "", false, coar_version());
    add(list, "model_path", "--model", SETTING_TEXT, false, path_relative(o->model, o->output));
    add(list, "data_path", "--data", SETTING_TEXT, false, path_relative(o->data, o->output));
    add_text(list, "model_sha256", "--model", true, j->model->sha256);
    add_text(list, "data_sha256", "--data", true, j->data->sha256);
    add_text(list, "arch", "--arch", true, j->model->arch);
    add_text(list, "arch_options", "--arch", true, or_default(o->arch, ""));
    add_text(list, "components", "--components", true, component_set_name(j->model->set));
    add_text(list, "only", "--only", true, or_default(o->only, ""));
    add_text(list, "except", "--except", true, or_default(o->except, ""));
    add(list, "ablation", "--ablation", SETTING_TEXT, true, ablation_text(j, o->ablation));
    add_text(list, "calibration", "--calibration", false, or_default(o->calibration, ""));
    add_text(list, "calibration_sha256", "--calibration", true, calibration);
    add_text(list, "label", "--label", true, or_default(o->label, ""));
    add_text(list, "examples_spec", "--examples", false, or_default(o->examples, "all"));
    add(list, "examples_sha256", "--examples", SETTING_TEXT, true, examples_hash(j));
    add(list, "seed", "--seed", SETTING_INTEGER, true, string_format("%llu", (unsigned long long)o->seed));
    add(list, "alpha", "--alpha", SETTING_REAL, true, strdup(alpha));
    add_text(list, "sampler", "--sampler", true, sampler_name(run->masks.sampler.kind));
    add_text(list, "sampler_masks_sha256", "--sampler", true, run->masks.hash);
    add_text(list, "mask_generator", "", true, "philox4x32-10/1");
    add(list, "outputs", "--output", SETTING_TEXT, true, output_names(j));
    /* of the whole run, not of a stage: an extension that stores otherwise must fail before it computes anything */
    add_text(list, "store", "--store", true, o->store_f16 ? "f16" : "f32");
    add_text(list, "store_masks", "--store-masks", true, o->store_masks ? "1" : "0");
    add_text(list, "backend", "--backend", true, j->interface->name);
    add_text(list, "precision", "--precision", true, j->plan.precision);
    add_text(list, "device_class", j->interface->devices ? "the device" : "COAR_ISA", true, j->plan.device_class);
    add_text(list, "plan_hash", "--plan", true, j->plan.hash);
    add(list, "unit_masks", "", SETTING_INTEGER, true, string_format("%u", j->unit_masks));
    add(list, "unit_examples", "", SETTING_INTEGER, true, string_format("%u", j->unit_examples));
    return list->failed ? status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its settings", o->output) : COAR_OK;
}

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
    const coar_ablate_options *o = run->o;
    mask_source *source = &run->masks;
    sampler *s = &source->sampler;
    const char *path;
    *s = (sampler){.seed = o->seed,
                   .alpha = run->alpha,
                   .n = run->tables.components,
                   .stream = PHILOX_STREAM_TRAINING,
                   .groups = (uint32_t)run->tables.group_count};
    TRY(sampler_parse(o->sampler, &s->kind, &path));
    TRY(run_masks_groups(&run->tables, &source->group_first));
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
    const uint64_t asked = run->o->masks, m = asked           ? asked
                                              : source->count ? source->count
                                                              : 2 * (uint64_t)source->sampler.n;
    if (source->count && m != source->count)
        return status_set(COAR_ERROR_USAGE, "--masks %llu: the sampler gives exactly %llu masks; leave --masks out",
                          (unsigned long long)m, (unsigned long long)source->count);
    if (m > (uint64_t)1 << 40) return status_set(COAR_ERROR_USAGE, "--masks %llu: too many", (unsigned long long)m);
    run->m = m;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------ tables */

/* Everything but baseline and fill; arrays are copies. */
static coar_status make_tables(const job *j, run_tables *t) {
    const model *m = j->model;
    *t = (run_tables){.group_count = m->group_count, .components = m->graph->components, .examples = j->count};
    TRY(memory_new(m->group_count, sizeof *t->groups, "groups", &t->groups));
    for (size_t g = 0; g < m->group_count; g++) {
        memcpy(t->groups[g].name, m->groups[g].name, sizeof t->groups[g].name);
        memcpy(t->groups[g].kind, m->groups[g].kind, sizeof t->groups[g].kind);
        memcpy(t->groups[g].layer, m->groups[g].layer, sizeof t->groups[g].layer);
        t->groups[g].first = m->groups[g].first;
        t->groups[g].count = m->groups[g].count;
    }
    TRY(memory_new(j->count, sizeof *t->example_rows, "examples", &t->example_rows));
    TRY(memory_new(j->count, sizeof *t->labels, "labels", &t->labels));
    memcpy(t->example_rows, j->rows, j->count * sizeof *j->rows);
    memcpy(t->labels, j->labels, j->count * sizeof *j->labels);
    if (j->data->groups) {
        TRY(memory_new(j->count, sizeof *t->subgroups, "groups", &t->subgroups));
        for (size_t i = 0; i < j->count; i++) t->subgroups[i] = j->data->groups[j->rows[i]];
    }
    t->output_count = j->output_count;
    TRY(memory_new(j->output_count, sizeof *t->output_names, "outputs", &t->output_names));
    for (size_t o = 0; o < j->output_count; o++)
        snprintf(t->output_names[o], sizeof t->output_names[o], "%s", j->outputs[o].name);
    return COAR_OK;
}

/* An old run brings its tables; a new one gets them, with the baseline and, for `mean`, the means. */
static coar_status settle_tables(ablate_run *run) {
    job *j = run->job;
    run_tables *fresh = &run->tables, stored = {0};
    bool present;
    TRY(store_read_tables(run->store, &stored, &present));
    if (present) {
        free(j->fill);
        j->fill = stored.fill; /* the job owns it from here */
        j->ablation.fill = stored.fill;
        stored.fill = NULL;
        run_tables_free(&stored);
        return COAR_OK;
    }
    if (!j->baseline) TRY(job_baseline(j));
    fresh->baseline = j->baseline;
    fresh->fill = j->fill;
    fresh->fill_count = j->fill ? j->model->graph->rows : 0;
    fresh->given_masks = run->masks.given;
    fresh->given_count = run->masks.given ? run->masks.count : 0;
    coar_status status = store_write_tables(run->store, fresh);
    fresh->baseline = fresh->fill = NULL; /* lent for the call above */
    fresh->given_masks = NULL;
    return status;
}

/* What grows with the number of masks, before anything of an older run is removed or anything is computed. The table of
 * units comes out of the memory that the backend may plan with. */
static coar_status reserve_masks(const ablate_run *run) {
    const coar_ablate_options *o = run->o;
    job *j = run->job;
    const unit_grid grid = run_grid(j, run->finished, run->m);
    const double masks = (double)(run->m - run->finished);
    const double rows = o->store_masks || run->masks.given ? masks * (double)mask_bytes(run->tables.components) : 0;
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

/* Opens or creates the run. A new one computes its baseline first: a job that cannot run leaves nothing behind. */
static coar_status settle_store(ablate_run *run) {
    const coar_ablate_options *o = run->o;
    const bool fresh = !file_exists(o->output) || o->force;
    bool created;
    if (fresh) {
        TRY(reserve_masks(run));
        TRY(job_baseline(run->job));
    }
    TRY(store_create(o->output, run->settings.items, run->settings.count, o->force, &created, &run->store));
    TRY(settle_tables(run));
    TRY(store_masks_finished(run->store, &run->finished));
    if (run->finished > run->m)
        return status_set(
            COAR_ERROR_MISMATCH,
            "%s: --masks: holds %llu masks already, more than the %llu asked for; give --force to start over",
            o->output, (unsigned long long)run->finished, (unsigned long long)run->m);
    return fresh ? COAR_OK : reserve_masks(run);
}

/* ---------------------------------------------------------------------------------------------------- the stage */

/* The masks not yet in parts, as stage "ablate-FIRST", and their part once all shards' units are there. */
static coar_status run_remaining(ablate_run *run) {
    const coar_ablate_options *o = run->o;
    const sampler *s = &run->masks.sampler;
    const uint64_t first = run->finished;
    coar_status status;
    store_stage *stage = NULL;
    uint8_t *rows = NULL; /* of masks, for --store-masks */
    char name[64];
    snprintf(name, sizeof name, "ablate-%llu", (unsigned long long)first);
    const setting settings[] = {
        {"plan_hash", "--plan", run->job->plan.hash, SETTING_TEXT, true},
    };
    stage_run stage_work = {.name = name,
                            .settings = settings,
                            .setting_count = sizeof settings / sizeof *settings,
                            .work = {.grid = run_grid(run->job, first, run->m),
                                     .sampler = s,
                                     .shard = run->shard,
                                     .shards = run->shards,
                                     .half = o->store_f16,
                                     .time_limit = o->time_limit},
                            .force_resume = o->force_resume};
    TRY_GOTO(run_stage(run->job, run->store, &stage_work, &stage));
    if (o->store_masks || s->kind == SAMPLER_FILE)
        TRY_GOTO(run_masks_pack(s, first, run->m - first, run->job->pool, "masks", &rows));
    /* Does nothing while other shards owe units; only it sees those that ran beside this one. */
    TRY_GOTO(store_finish_outputs(run->store, stage, &stage_work.work.grid, o->store_f16, rows));
    TRY_GOTO(store_masks_finished(run->store, &run->finished));
    if (run->finished < run->m)
        log_info(o->callbacks, "shard %s: done; %llu of %llu units of the run are there", o->shard,
                 (unsigned long long)stage_done_count(stage), (unsigned long long)stage_work.units);
done:
    run->result.units_total = stage_work.units;
    run->result.units_before = stage_work.units_before;
    run->result.images = stage_work.work.images;
    run->result.seconds = stage_work.work.seconds;
    stage_close(stage);
    free(rows);
    return status;
}

/* ------------------------------------------------------------------------------------------------- entry points */

/* Digits alone: what strtoul and sscanf take besides, signs and blanks, is no shard. */
static bool parse_count(const char **text, uint32_t *out) {
    const char *at = *text;
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9' && value <= UINT32_MAX) value = value * 10 + (uint64_t)(*at++ - '0');
    const bool valid = at != *text && value <= UINT32_MAX;
    *text = at;
    *out = (uint32_t)value;
    return valid;
}

static coar_status parse_shard(const char *text, uint32_t *shard, uint32_t *shards) {
    *shard = 0;
    *shards = 1;
    if (!text) return COAR_OK;
    const char *at = text;
    if (parse_count(&at, shard) && *at++ == '/' && parse_count(&at, shards) && !*at && *shard < *shards) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--shard '%s': give K/S with K from 0 to S - 1", text);
}

/* With --force what stands at the output is removed: none of the files that the run is to be made from. */
static coar_status check_inputs(const coar_ablate_options *o) {
    sampler_kind kind;
    const char *masks = NULL;
    TRY(sampler_parse(o->sampler, &kind, &masks));
    const char *inputs[] = {o->model, o->data, o->plan, masks};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) TRY(file_check_distinct(o->output, inputs[i]));
    return COAR_OK;
}

static coar_status check_options(ablate_run *run) {
    const coar_ablate_options *o = run->o;
    if (!o->output) return status_set(COAR_ERROR_USAGE, "-o: name the run file to write (run.h5)");
    TRY(check_inputs(o));
    run->alpha = o->alpha == 0 ? DEFAULT_ALPHA : o->alpha;
    if (!(run->alpha > 0 && run->alpha < 1))
        return status_set(COAR_ERROR_USAGE, "--alpha %g: give the fraction to ablate, above 0 and below 1", run->alpha);
    if (o->time_limit < 0 || !isfinite(o->time_limit))
        return status_set(COAR_ERROR_USAGE, "--time-limit: give a time above 0");
    return parse_shard(o->shard, &run->shard, &run->shards);
}

/* The plan to execute: --plan's, else the one an existing run was begun with (unless it is to be started over). */
static coar_status find_plan(const coar_ablate_options *o, char **json) {
    if (o->plan) return store_plan_file(o->plan, json);
    if (o->force || getenv("COAR_ISA")) return COAR_OK;
    return store_existing_plan(o->output, json);
}

static coar_status open_job(ablate_run *run) {
    const coar_ablate_options *o = run->o;
    char *plan_json = NULL;
    const char *path;
    sampler_kind kind;
    TRY(sampler_parse(o->sampler, &kind, &path));
    TRY(find_plan(o, &plan_json));
    const job_options options = {.model = o->model,
                                 .data = o->data,
                                 .arch = o->arch,
                                 .examples = o->examples,
                                 .outputs = o->outputs,
                                 .label = o->label,
                                 .ablation = o->ablation,
                                 .calibration = o->calibration,
                                 .components = o->components,
                                 .only = o->only,
                                 .except = o->except,
                                 .backend = o->backend,
                                 .devices = o->devices,
                                 .precision = o->precision,
                                 .plan_given = o->plan != NULL,
                                 .plan_json = plan_json,
                                 .plan_origin = o->plan ? o->plan : o->output,
                                 /* loo differences are too small for less than fp32 */
                                 .alpha = kind == SAMPLER_LOO ? 0 : run->alpha,
                                 .seed = o->seed,
                                 .exact = o->exact,
                                 .threads = o->threads,
                                 .memory = o->memory,
                                 .callbacks = o->callbacks};
    coar_status status = job_open(&options, &run->job);
    free(plan_json);
    return status;
}

static void close_run(ablate_run *run) {
    store_close(run->store);
    setting_texts_free(&run->settings);
    run_tables_free(&run->tables);
    mask_source_free(&run->masks);
    job_close(run->job);
}

coar_status coar_ablate(const coar_ablate_options *given, coar_ablate_result *result) {
    status_clear();
    coar_ablate_options o;
    TRY(options_take(&o, sizeof o, given, "COAR_ABLATE_INIT"));
    coar_status status;
    ablate_run run = {.o = &o};
    TRY_GOTO(check_options(&run));
    TRY_GOTO(open_job(&run));
    TRY_GOTO(make_tables(run.job, &run.tables));
    TRY_GOTO(open_masks(&run));
    TRY_GOTO(choose_mask_count(&run));
    TRY_GOTO(describe_run(&run));
    TRY_GOTO(settle_store(&run));
    run.result.examples = run.job->count;
    run.result.components = run.tables.components;
    run.result.masks = run.m;
    run.result.already_complete = run.finished == run.m;
    if (!run.result.already_complete) TRY_GOTO(run_remaining(&run));
done:
    if (result && (status == COAR_OK || status == COAR_STOPPED)) *result = run.result;
    close_run(&run);
    return status;
}
