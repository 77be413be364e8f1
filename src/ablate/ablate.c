/* ablate.c - coar_ablate: from options to a finished run file; coar_masks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ablate/job.h"
#include "core/npy.h"
#include "core/number.h"
#include "core/options.h"

static const char *or_default(const char *text, const char *fallback) {
    return text ? text : fallback;
}

/* ------------------------------------------------------------------------------------------ settings as text */

/* A list of settings whose values it owns. */
typedef struct setting_list {
    setting items[40];
    size_t count;
    bool failed;
} setting_list;

static void add(setting_list *list, const char *key, const char *flag, setting_type type, bool compared, char *value) {
    if (!value || list->count == sizeof list->items / sizeof *list->items) {
        free(value);
        list->failed = true;
        return;
    }
    list->items[list->count++] = (setting){key, flag, value, type, compared};
}

static void add_text(setting_list *list, const char *key, const char *flag, bool compared, const char *value) {
    add(list, key, flag, SETTING_TEXT, compared, strdup(value));
}

static void settings_free(setting_list *list) {
    for (size_t i = 0; i < list->count; i++) free((char *)list->items[i].value);
    list->count = 0;
}

static char *time_now(void) {
    char text[32];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
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

/* What all stages of a run share: the manifest, and the attributes of run.h5. */
static coar_status describe_run(setting_list *list, const job *j, const coar_ablate_options *o, double alpha,
                                const char *sampler, const char *masks_hash) {
    char alpha_text[NUMBER_SIZE];
    number_format(alpha, alpha_text);
    *list = (setting_list){0};
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
    add_text(list, "ablation", "--ablation", true, or_default(o->ablation, "zero"));
    add_text(list, "calibration", "--calibration", true, or_default(o->calibration, ""));
    add_text(list, "label", "--label", true, or_default(o->label, ""));
    add_text(list, "examples_spec", "--examples", false, or_default(o->examples, "all"));
    add(list, "examples_sha256", "--examples", SETTING_TEXT, true, examples_hash(j));
    add(list, "seed", "--seed", SETTING_INTEGER, true, string_format("%llu", (unsigned long long)o->seed));
    add(list, "alpha", "--alpha", SETTING_REAL, true, strdup(alpha_text));
    add_text(list, "sampler", "--sampler", true, sampler);
    add_text(list, "sampler_masks_sha256", "--sampler", true, masks_hash);
    add_text(list, "mask_generator", "", true, "philox4x32-10/1");
    add(list, "outputs", "--output", SETTING_TEXT, true, output_names(j));
    add_text(list, "backend", "--backend", true, j->interface->name);
    add_text(list, "precision", "--precision", true, j->plan.precision);
    add_text(list, "device_class", "COAR_ISA", true, j->plan.device_class);
    add_text(list, "plan_hash", "--plan", true, j->plan.hash);
    add(list, "unit_masks", "", SETTING_INTEGER, true, string_format("%u", j->unit_masks));
    add(list, "unit_examples", "", SETTING_INTEGER, true, string_format("%u", j->unit_examples));
    return list->failed ? status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its settings", o->output) : COAR_OK;
}

/* --------------------------------------------------------------------------------------------- mask generator */

typedef struct mask_source {
    sampler sampler;
    uint32_t *group_first; /* owned */
    uint8_t *given;        /* owned: packed masks of file: */
    uint64_t count;        /* m that the source itself implies (loo, file:), else 0 */
    char hash[65];         /* of the given masks, "" otherwise */
} mask_source;

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
        status = status_set(COAR_ERROR_INPUT,
                            "%s: shape, dtype: want bool [m, %u] or packed u8 [m, %zu] for this model's components",
                            path, n, bytes);
        goto done;
    }
    if (array.shape[0] == 0) {
        status = status_set(COAR_ERROR_INPUT, "%s: shape: holds no masks", path);
        goto done;
    }
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

coar_status group_starts(const store_group *groups, size_t count, uint32_t components, uint32_t **out) {
    uint32_t *first;
    TRY(memory_new(count + 1, sizeof *first, "groups", &first));
    for (size_t g = 0; g < count; g++) first[g] = groups[g].first;
    first[count] = components;
    *out = first;
    return COAR_OK;
}

static coar_status open_masks(const coar_ablate_options *o, const job *j, const run_tables *tables, double alpha,
                              mask_source *out) {
    const char *path;
    const uint32_t n = j->model->graph->components;
    *out = (mask_source){.sampler = {.seed = o->seed, .alpha = alpha, .n = n, .stream = 0}};
    sampler *s = &out->sampler;
    TRY(sampler_parse(o->sampler, &s->kind, &path));
    TRY(group_starts(tables->groups, tables->group_count, n, &out->group_first));
    s->group_first = out->group_first;
    s->groups = (uint32_t)tables->group_count;
    if (s->kind == SAMPLER_LOO) out->count = (uint64_t)n + 1;
    if (s->kind == SAMPLER_FILE) {
        TRY(read_masks(path, n, &out->given, &out->count));
        s->rows = out->given;
        s->rows_count = out->count;
        sha256_hex(out->given, (size_t)out->count * mask_bytes(n), out->hash);
    }
    return COAR_OK;
}

static coar_status choose_mask_count(const coar_ablate_options *o, const mask_source *source, uint64_t *m) {
    *m = o->masks ? o->masks : source->count ? source->count : 2 * (uint64_t)source->sampler.n;
    if (source->count && *m != source->count)
        return status_set(COAR_ERROR_USAGE, "--masks %llu: the sampler gives exactly %llu masks; leave --masks out",
                          (unsigned long long)*m, (unsigned long long)source->count);
    if (*m > (uint64_t)1 << 40) return status_set(COAR_ERROR_USAGE, "--masks %llu: too many", (unsigned long long)*m);
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
static coar_status settle_tables(job *j, const coar_ablate_options *o, run_store *store, run_tables *fresh,
                                 mask_source *masks) {
    bool present;
    run_tables stored = {0};
    TRY(store_read_tables(store, &stored, &present));
    if (present) {
        free(j->fill);
        j->fill = stored.fill; /* the job owns it from here */
        j->ablation.fill = stored.fill;
        stored.fill = NULL;
        run_tables_free(&stored);
        return COAR_OK;
    }
    if (!j->baseline) TRY(job_baseline(j, o->calibration));
    fresh->baseline = j->baseline;
    fresh->fill = j->fill;
    fresh->fill_count = j->fill ? j->model->graph->rows : 0;
    fresh->given_masks = masks->given;
    fresh->given_count = masks->given ? masks->count : 0;
    coar_status status = store_write_tables(store, fresh);
    fresh->baseline = fresh->fill = NULL; /* lent for the call above */
    fresh->given_masks = NULL;
    return status;
}

/* ---------------------------------------------------------------------------------------------------- the stage */

/* Packed masks first .. m - 1, for --store-masks. */
static coar_status pack_masks(const sampler *s, uint64_t first, uint64_t m, uint8_t **out) {
    coar_status status = COAR_OK;
    uint8_t *bits = NULL, *scratch = NULL;
    const size_t bytes = mask_bytes(s->n);
    TRY_GOTO(memory_new((size_t)(m - first), bytes, "masks", &bits));
    TRY_GOTO(memory_new(sampler_scratch(s) + 1, 1, "masks", &scratch));
    for (uint64_t i = first; i < m; i++) sampler_mask(s, i, bits + (i - first) * bytes, scratch);
    *out = bits;
    bits = NULL;
done:
    free(scratch);
    free(bits);
    return status;
}

static coar_status run_stage(job *j, const coar_ablate_options *o, run_store *store, const mask_source *masks,
                             uint64_t m, uint64_t finished, const uint32_t shard[2], coar_ablate_result *result) {
    coar_status status = COAR_OK;
    store_stage *stage = NULL;
    char *plan_json = plan_to_json(&j->plan);
    uint8_t *stored_masks = NULL;
    const unit_grid grid = {.first_mask = finished,
                            .masks = m,
                            .examples = j->count,
                            .unit_masks = j->unit_masks,
                            .unit_examples = j->unit_examples,
                            .outputs = (uint32_t)j->output_count};
    char name[64];
    snprintf(name, sizeof name, "ablate-%llu", (unsigned long long)finished);
    const setting settings[] = {
        {"plan_hash", "--plan", j->plan.hash, SETTING_TEXT, true},
        {"store", "--store", o->store_f16 ? "f16" : "f32", SETTING_TEXT, true},
        {"store_masks", "--store-masks", o->store_masks ? "1" : "0", SETTING_TEXT, true},
    };
    stage_options options = {.name = name,
                             .settings = settings,
                             .setting_count = sizeof settings / sizeof *settings,
                             .plan_json = plan_json,
                             .units = unit_grid_units(&grid),
                             .payload_bytes = unit_grid_payload,
                             .context = &grid,
                             .shard = shard[0],
                             .shards = shard[1],
                             .force_resume = o->force_resume,
                             .callbacks = o->callbacks};
    TRY_GOTO(stage_open(store, &options, &stage));
    result->units_total = options.units;
    result->units_before = stage_done_count(stage);

    unit_run run = {.stage = stage,
                    .grid = &grid,
                    .sampler = &masks->sampler,
                    .shard = shard[0],
                    .shards = shard[1],
                    .time_limit = o->time_limit};
    status = job_run_units(j, &run);
    result->images = run.images;
    result->seconds = run.seconds;
    if (status != COAR_OK) goto done;
    if (o->store_masks || masks->sampler.kind == SAMPLER_FILE)
        TRY_GOTO(pack_masks(&masks->sampler, finished, m, &stored_masks));
    /* Does nothing while other shards owe units; only it sees those that ran beside this one. */
    TRY_GOTO(store_finish_outputs(store, stage, &grid, o->store_f16, stored_masks));
    TRY_GOTO(store_masks_finished(store, &finished));
    if (finished < m)
        log_info(o->callbacks, "shard %s: done; %llu of %llu units of the run are there", o->shard,
                 (unsigned long long)stage_done_count(stage), (unsigned long long)options.units);
done:
    stage_close(stage);
    free(stored_masks);
    free(plan_json);
    return status;
}

/* ------------------------------------------------------------------------------------------------- entry points */

static coar_status parse_shard(const char *text, uint32_t *shard, uint32_t *shards) {
    *shard = 0;
    *shards = 1;
    if (!text) return COAR_OK;
    char end;
    if (sscanf(text, "%u/%u%c", shard, shards, &end) != 2 || *shards == 0 || *shard >= *shards)
        return status_set(COAR_ERROR_USAGE, "--shard '%s': give K/S with K from 0 to S - 1", text);
    return COAR_OK;
}

static coar_status check_options(const coar_ablate_options *o, double *alpha, uint32_t shard[2]) {
    if (!o->output) return status_set(COAR_ERROR_USAGE, "-o: name the run file to write (run.h5)");
    *alpha = o->alpha == 0 ? DEFAULT_ALPHA : o->alpha;
    if (!(*alpha > 0 && *alpha < 1))
        return status_set(COAR_ERROR_USAGE, "--alpha %g: give the fraction to ablate, above 0 and below 1", *alpha);
    if (o->time_limit < 0 || !isfinite(o->time_limit))
        return status_set(COAR_ERROR_USAGE, "--time-limit: give a time above 0");
    return parse_shard(o->shard, &shard[0], &shard[1]);
}

/* The plan to execute: --plan's, else the one an existing run was begun with (unless it is to be started over). */
static coar_status find_plan(const coar_ablate_options *o, char **json, const char **origin) {
    *json = NULL;
    *origin = o->plan ? o->plan : o->output;
    if (o->plan) return store_plan_file(o->plan, json);
    if (o->force || getenv("COAR_ISA")) return COAR_OK;
    return store_existing_plan(o->output, json);
}

coar_status coar_ablate(const coar_ablate_options *given, coar_ablate_result *result) {
    status_clear();
    coar_ablate_options taken;
    TRY(options_take(&taken, sizeof taken, given, "COAR_ABLATE_INIT"));
    const coar_ablate_options *o = &taken;
    coar_status status;
    double alpha = DEFAULT_ALPHA;
    job *j = NULL;
    run_store *store = NULL;
    run_tables tables = {0};
    mask_source masks = {0};
    setting_list settings = {0};
    char *plan_json = NULL;
    const char *plan_origin;
    coar_ablate_result r = {0};
    bool created;
    uint64_t m, finished;
    uint32_t shard[2]; /* K, S */

    TRY_GOTO(check_options(o, &alpha, shard));
    TRY_GOTO(find_plan(o, &plan_json, &plan_origin));
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
                                 .precision = o->precision,
                                 .plan_json = plan_json,
                                 .plan_origin = plan_origin,
                                 .exact = o->exact,
                                 .threads = o->threads,
                                 .memory = o->memory,
                                 .callbacks = o->callbacks};
    TRY_GOTO(job_open(&options, &j));
    TRY_GOTO(make_tables(j, &tables));
    TRY_GOTO(open_masks(o, j, &tables, alpha, &masks));
    TRY_GOTO(choose_mask_count(o, &masks, &m));
    TRY_GOTO(describe_run(&settings, j, o, alpha, sampler_name(masks.sampler.kind), masks.hash));
    /* A new run computes its baseline first: a job that cannot run leaves nothing behind. */
    if (!file_exists(o->output) || o->force) TRY_GOTO(job_baseline(j, o->calibration));
    TRY_GOTO(store_create(o->output, settings.items, settings.count, o->force, &created, &store));
    TRY_GOTO(settle_tables(j, o, store, &tables, &masks));

    r.examples = j->count;
    r.components = tables.components;
    r.masks = m;
    TRY_GOTO(store_masks_finished(store, &finished));
    if (finished > m) {
        status = status_set(
            COAR_ERROR_MISMATCH,
            "%s: --masks: holds %llu masks already, more than the %llu asked for; give --force to start over",
            o->output, (unsigned long long)finished, (unsigned long long)m);
        goto done;
    }
    r.already_complete = finished == m;
    if (!r.already_complete) status = run_stage(j, o, store, &masks, m, finished, shard, &r);
done:
    if (result && (status == COAR_OK || status == COAR_STOPPED)) *result = r;
    store_close(store);
    settings_free(&settings);
    run_tables_free(&tables);
    mask_source_free(&masks);
    job_close(j);
    free(plan_json);
    return status;
}
