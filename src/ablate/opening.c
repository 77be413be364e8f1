/* opening.c - see opening.h. */
#include "ablate/opening.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/job_share.h"
#include "core/number.h"

/* ------------------------------------------------------------------------------------------ settings as text */

/* Settings of which it owns the values alone: keys and flags are literals. */
typedef struct setting_texts {
    setting items[40];
    size_t count;
    bool failed;
} setting_texts;

static const char *or_default(const char *text, const char *fallback) {
    return text ? text : fallback;
}

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
    char text[OUTPUT_NAMES_SIZE];
    output_names_join(j->outputs, j->output_count, text);
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

/* What all stages of a run share: the manifest, and attributes of run.h5. */
static coar_status describe_run(const run_opening *r, setting_texts *list) {
    const coar_ablate_options *o = r->o;
    const job *j = r->job;
    char alpha[NUMBER_SIZE], calibration[65] = "";
    if (j->calibration_rows)
        sha256_hex(j->calibration_rows, j->calibration_count * sizeof *j->calibration_rows, calibration);
    number_format(r->alpha, alpha);
    add(list, "created", "", SETTING_TEXT, false, time_now());
    add_text(list, "command", "", false, or_default(o->command, ""));
    add_text(list, "coar_version", "", false, coar_version());
    add(list, "model_path", "--model", SETTING_TEXT, false, path_relative(o->model, o->output));
    add(list, "data_path", "--data", SETTING_TEXT, false, path_relative(o->data, o->output));
    add_text(list, "model_sha256", "--model", true, j->model->sha256);
    add_text(list, "data_sha256", "--data", true, j->data->sha256);
    add_text(list, "arch", "--arch", true, j->model->arch);
    add_text(list, "arch_options", "--arch", true, or_default(o->arch, ""));
    if (*j->model->classes_sha256) {
        add(list, "classes_path", "--classes", SETTING_TEXT, false, path_relative(o->classes, o->output));
        add_text(list, "classes_sha256", "--classes", true, j->model->classes_sha256);
    }
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
    add_text(list, "mask_generator", "", true, "philox4x32-10/1");
    add(list, "outputs", "--output", SETTING_TEXT, true, output_names(j));
    add_text(list, "backend", "--backend", true, j->interface->name);
    add_text(list, "precision", "--precision", true, j->plan.precision);
    add_text(list, "device_class", j->interface->devices ? "the device" : "COAR_ISA", true, j->plan.device_class);
    add_text(list, "plan_hash", "--plan", true, j->plan.hash);
    add(list, "unit_masks", "", SETTING_INTEGER, true, string_format("%u", j->unit_masks));
    add(list, "unit_examples", "", SETTING_INTEGER, true, string_format("%u", j->unit_examples));
    return list->failed ? status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its settings", o->output) : COAR_OK;
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

/* Writes a run's tables with what the run is to lend them. */
static coar_status write_tables(run_opening *r, run_tables *t, uint8_t *given, uint64_t given_count) {
    t->given_masks = given;
    t->given_count = given ? given_count : 0;
    const coar_status status = store_write_tables(r->store, t);
    t->given_masks = NULL;
    return status;
}

static coar_status write_fresh_tables(run_opening *r, uint8_t *given, uint64_t given_count) {
    job *j = r->job;
    run_tables *t = &r->tables;
    if (!j->baseline) TRY(job_baseline(j)); /* a run that was interrupted before it had tables */
    t->baseline = j->baseline;
    t->fill = j->fill;
    t->fill_count = j->fill ? j->model->graph->rows : 0;
    const coar_status status = write_tables(r, t, given, given_count);
    t->baseline = t->fill = NULL; /* lent for the call above */
    return status;
}

coar_status opening_tables(run_opening *r, uint8_t *given, uint64_t given_count) {
    run_tables stored = {0};
    bool present;
    TRY(store_read_tables(r->store, &stored, &present));
    if (!present) return write_fresh_tables(r, given, given_count);
    coar_status status = COAR_OK;
    if (given) { /* gradients have begun the run without them, or they are compared */
        free(stored.given_masks);
        status = write_tables(r, &stored, given, given_count);
    }
    if (status == COAR_OK) status = job_take_means(r->job, &stored.fill, stored.fill_count, r->o->output);
    run_tables_free(&stored);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ options */

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

coar_status opening_check(run_opening *r, const coar_ablate_options *o, const char *masks) {
    r->o = o;
    if (!o->output) return status_set(COAR_ERROR_USAGE, "-o: name the run file to write (run.h5)");
    /* With --force what stands at the output is removed: none of the files that the run is to be made from. */
    const char *const inputs[] = {o->model, o->data, o->classes, o->plan, masks};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) TRY(file_check_distinct(o->output, inputs[i]));
    r->alpha = o->alpha == 0 ? DEFAULT_ALPHA : o->alpha;
    if (!(r->alpha > 0 && r->alpha < 1))
        return status_set(COAR_ERROR_USAGE, "--alpha %g: give the fraction to ablate, above 0 and below 1", r->alpha);
    if (o->time_limit < 0 || !isfinite(o->time_limit))
        return status_set(COAR_ERROR_USAGE, "--time-limit: give a time above 0");
    r->fresh = !file_exists(o->output) || o->force;
    return parse_shard(o->shard, &r->shard, &r->shards);
}

/* ---------------------------------------------------------------------------------------------- job and store */

/* The plan to execute: --plan's, else the one an existing run was begun with (unless it is to be started over). */
static coar_status find_plan(const coar_ablate_options *o, char **json) {
    if (o->plan) return store_plan_file(o->plan, json);
    if (o->force || getenv("COAR_ISA")) return COAR_OK;
    return store_existing_plan(o->output, json);
}

coar_status opening_job(run_opening *r, double alpha) {
    const coar_ablate_options *o = r->o;
    char *plan_json = NULL;
    TRY(find_plan(o, &plan_json));
    const job_options options = {.model = o->model,
                                 .data = o->data,
                                 .arch = o->arch,
                                 .classes = o->classes,
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
                                 .alpha = alpha,
                                 .seed = o->seed,
                                 .exact = o->exact,
                                 .threads = o->threads,
                                 .memory = o->memory,
                                 .callbacks = o->callbacks};
    const coar_status status = job_open(&options, &r->job);
    free(plan_json);
    return status == COAR_OK ? make_tables(r->job, &r->tables) : status;
}

coar_status opening_store(run_opening *r) {
    setting_texts settings = {.count = 0};
    bool created;
    TRY(job_share(r->job)); /* ranks with other files are found out before anything is written */
    if (r->fresh) TRY(job_baseline(r->job));
    coar_status status = describe_run(r, &settings);
    if (status == COAR_OK)
        status = store_create(r->o->output, settings.items, settings.count, r->o->force, &created, &r->store);
    setting_texts_free(&settings);
    return status;
}

coar_status opening_stage(run_opening *r, stage_run *run, store_stage **stage) {
    run->force_resume = r->o->force_resume;
    run->work.shard = r->shard;
    run->work.shards = r->shards;
    run->work.time_limit = r->o->time_limit;
    return run_stage(r->job, r->store, run, stage);
}

void opening_tell_owed(const run_opening *r, const store_stage *stage, const stage_run *run) {
    log_info(r->o->callbacks, "shard %s: done; %llu of %llu units of the run are there", r->o->shard,
             (unsigned long long)stage_done_count(stage), (unsigned long long)run->work.units);
}

void opening_close(run_opening *r) {
    store_close(r->store);
    run_tables_free(&r->tables);
    job_close(r->job);
}
