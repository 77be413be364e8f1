/* facts.c - title and provenance of a report, from the run's settings. See gather.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"
#include "report/gather.h"

#define HASH_SHOWN 12 /* hex digits: enough to tell files apart by eye; the tooltip has all */

void report_cut(char out[REPORT_TEXT + 4], const char *text) {
    size_t used = 0;
    while (text && text[used] && used < REPORT_TEXT) {
        size_t length = utf8_length(text + used, SIZE_MAX);
        if (length == 0) length = 1; /* not UTF-8: html_print replaces it */
        if (used + length > REPORT_TEXT) break;
        used += length;
    }
    if (used) memcpy(out, text, used);
    out[used] = '\0';
    if (text && text[used]) strcpy(out + used, "\xe2\x80\xa6");
}

/* `full` NULL: the value says it all. An empty value is left out. */
static coar_status add(report_data *data, const char *label, const char *value, const char *full) {
    if (!value || !value[0] || data->fact_count == REPORT_FACTS) return COAR_OK;
    report_fact *fact = &data->facts[data->fact_count];
    char cut[REPORT_TEXT * 8]; /* a command can be of any length, and the page must not */
    snprintf(cut, sizeof cut, "%s", full ? full : value);
    fact->full = strdup(cut);
    if (!fact->full) return status_set(COAR_ERROR_MEMORY, "report: not enough memory");
    fact->label = label;
    report_cut(fact->value, value);
    data->fact_count++;
    return COAR_OK;
}

static coar_status add_path(report_data *data, const char *label, const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return add(data, label, slash && slash[1] ? slash + 1 : path, path);
}

static coar_status add_hash(report_data *data, const char *label, const char *hash) {
    char shown[HASH_SHOWN + 1];
    snprintf(shown, sizeof shown, "%.*s", HASH_SHOWN, hash ? hash : "");
    return add(data, label, shown, hash);
}

static coar_status add_fit(const report_source *source, report_data *data) {
    const fit_info *fit = &source->fit;
    char text[256];
    snprintf(text, sizeof text, "%s (%s, %s)", fit->name, fit->estimator, fit->output);
    TRY(add(data, "Fit", text, NULL));
    if (!data->examples_left_out) return COAR_OK;
    return add(data, "Examples left out", COUNT(data->examples_left_out), "because of non-finite outputs");
}

/* Gradients of the fit's output, where the run has them. */
static coar_status add_passes(const report_source *source, report_data *data) {
    gradients_info info;
    bool present;
    TRY(store_gradients_info(source->store, source->fit.output, &info, &present));
    return present ? add(data, "Reverse passes, k", COUNT(info.passes), NULL) : COAR_OK;
}

static const char *setting_of(const report_source *source, const char *key) {
    return store_setting(source->store, key);
}

static coar_status add_facts(const report_source *source, report_data *data) {
    const run_tables *tables = &source->tables;
    char text[256];
    const char *set = setting_of(source, "components"), *label = setting_of(source, "label");
    TRY(add_path(data, "Run", store_path(source->store)));
    TRY(add_path(data, "Weights", setting_of(source, "model_path")));
    TRY(add_hash(data, "Weights SHA-256", setting_of(source, "model_sha256")));
    TRY(add(data, "Architecture", setting_of(source, "arch"), NULL));
    TRY(add_path(data, "Data", source->data->path));
    TRY(add_hash(data, "Data SHA-256", source->data->sha256));
    snprintf(text, sizeof text, "%s (%s)", COUNT(tables->components), set ? set : data->kind);
    TRY(add(data, "Components, n", text, NULL));
    TRY(add(data, "Examples, N", COUNT(tables->examples), setting_of(source, "examples_spec")));
    TRY(add(data, "Masks, m", COUNT(data->masks), NULL));
    TRY(add_passes(source, data));
    TRY(add(data, "Fraction ablated, \xce\xb1", isfinite(source->alpha) ? NUMBER(source->alpha) : "", NULL));
    TRY(add(data, "Sampler", setting_of(source, "sampler"), NULL));
    TRY(add(data, "Ablation", setting_of(source, "ablation"), NULL));
    TRY(add(data, "Outputs", setting_of(source, "outputs"), NULL));
    TRY(add(data, "Labels", label, NULL));
    TRY(add(data, "Seed", setting_of(source, "seed"), NULL));
    TRY(add(data, "Precision", setting_of(source, "precision"), NULL));
    TRY(add(data, "Device class", setting_of(source, "device_class"), NULL));
    TRY(add_hash(data, "Numerics plan", setting_of(source, "plan_hash")));
    TRY(add_fit(source, data));
    TRY(add(data, "Version", setting_of(source, "coar_version"), NULL));
    TRY(add(data, "Created", setting_of(source, "created"), NULL));
    return add(data, "Command", setting_of(source, "command"), NULL);
}

/* "filter" where all groups are of one kind. */
static void set_kind(const run_tables *tables, report_data *data) {
    const char *kind = tables->group_count ? tables->groups[0].kind : "";
    for (size_t i = 1; i < tables->group_count; i++)
        if (strcmp(tables->groups[i].kind, kind) != 0) kind = "";
    snprintf(data->kind, sizeof data->kind, "%s", kind[0] ? kind : "component");
}

const float *report_baseline(const run_tables *tables, const char *output) {
    for (size_t i = 0; i < tables->output_count; i++)
        if (!strcmp(tables->output_names[i], output)) return tables->baseline + i * tables->examples;
    return NULL;
}

/* A margin above 0 is a right answer, where the labels are the data's and not the model's own. */
static double accuracy(const report_source *source) {
    const run_tables *tables = &source->tables;
    const float *margin = report_baseline(tables, "margin");
    const char *label = store_setting(source->store, "label");
    if (!margin || tables->examples == 0 || source->data->tokens || (label && !strcmp(label, "predicted"))) return NAN;
    uint64_t right = 0;
    for (uint64_t i = 0; i < tables->examples; i++) right += margin[i] > 0;
    return (double)right / (double)tables->examples;
}

coar_status report_facts(const report_source *source, report_data *data) {
    const char *arch = setting_of(source, "arch"), *model = setting_of(source, "model_path");
    report_cut(data->title, arch && arch[0] ? arch : model ? model : "model");
    data->examples = source->tables.examples;
    data->components = source->tables.components;
    data->masks = source->fit.masks;
    data->alpha = source->alpha;
    memcpy(data->output, source->fit.output, sizeof data->output - 1);
    memcpy(data->fit, source->fit.name, sizeof data->fit - 1);
    memcpy(data->estimator, source->fit.estimator, sizeof data->estimator - 1);
    set_kind(&source->tables, data);
    data->accuracy = accuracy(source);
    return add_facts(source, data);
}
