/*
 * info.c - coar_info: what is in a weight, data or run file, as text or JSON.
 * Must not know: how runs are stored (src/store says what is in one).
 */
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/format.h"
#include "core/memory.h"
#include "core/number.h"
#include "core/text.h"
#include "data/dataset.h"
#include "model/model.h"
#include "report/html.h"
#include "store/store.h"

/* --------------------------------------------------------------------------------------------- small writers */

/* Bytes at `name` that may be shown as they are: one character, or 0 for a control character or a byte that is not UTF-8.
 * Names come from files; a terminal obeys control characters, and JSON must be UTF-8. */
static size_t shown(const char *name) {
    size_t length = utf8_length(name, SIZE_MAX);
    return length && !utf8_control(name) ? length : 0;
}

static void print_name(FILE *f, const char *name) {
    while (*name) {
        size_t length = shown(name);
        if (length)
            fwrite(name, 1, length, f);
        else
            fputc('?', f);
        name += length ? length : 1;
    }
}

static void print_row(FILE *f, const char *label, const char *value) {
    fprintf(f, "  %-12s", label);
    print_name(f, value);
    fputc('\n', f);
}

static void print_channels(FILE *f, const char *label, const float *values, uint32_t channels) {
    fprintf(f, "  %-12s", label);
    for (uint32_t c = 0; c < channels; c++) fprintf(f, "%s%g", c ? ", " : "", (double)values[c]);
    fputc('\n', f);
}

/* Text collected in memory: writes with `print` (context, file). */
static coar_status collect(const char *path, void (*print)(FILE *f, const void *context), const void *context,
                           char **text) {
    char *collected = NULL;
    size_t size;
    FILE *f = open_memstream(&collected, &size);
    bool failed = !f;
    if (f) {
        print(f, context);
        failed = ferror(f) != 0;
        failed = fclose(f) != 0 || failed;
    }
    if (failed) {
        free(collected);
        return status_set(COAR_ERROR_MEMORY, "%s: not enough memory to describe it", path);
    }
    *text = collected;
    return COAR_OK;
}

/* JSON being built; one failed allocation marks all of it. */
typedef struct json_writer {
    cJSON *root;
    bool failed;
} json_writer;

/* Puts ? in place of what may not be shown; text NULL: nothing. */
static void clean_text(char *text) {
    for (char *at = text; at && *at;) {
        size_t length = shown(at);
        if (!length) *at = '?';
        at += length ? length : 1;
    }
}

static void add_text(json_writer *w, cJSON *object, const char *key, const char *value) {
    char *clean = strdup(value);
    clean_text(clean);
    w->failed |= !clean || !cJSON_AddStringToObject(object, key, clean);
    free(clean);
}

static void add_number(json_writer *w, cJSON *object, const char *key, double value) {
    w->failed |= !cJSON_AddNumberToObject(object, key, value);
}

static cJSON *add_array(json_writer *w, cJSON *object, const char *key) {
    cJSON *array = cJSON_AddArrayToObject(object, key);
    w->failed |= !array;
    return array;
}

static cJSON *add_item(json_writer *w, cJSON *array) {
    cJSON *item = cJSON_CreateObject();
    if (!item || !cJSON_AddItemToArray(array, item)) {
        cJSON_Delete(item);
        w->failed = true;
        return NULL;
    }
    return item;
}

static void add_channels(json_writer *w, const char *key, const float *values, uint32_t channels) {
    cJSON *array = add_array(w, w->root, key);
    for (uint32_t c = 0; c < channels; c++) {
        cJSON *number = cJSON_CreateNumber((double)values[c]);
        w->failed |= !cJSON_AddItemToArray(array, number);
    }
}

/* Prints and frees the document. */
static coar_status finish_json(const char *path, json_writer *w, char **text) {
    char *compact = w->failed ? NULL : cJSON_PrintUnformatted(w->root);
    cJSON_Delete(w->root);
    char *line = compact ? string_format("%s\n", compact) : NULL;
    cJSON_free(compact);
    if (!line) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory to describe it", path);
    *text = line;
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------------------- weights */

static void print_images(FILE *f, const model *m) {
    const shape input = m->graph->values[0];
    fprintf(f, "  %-12s%u x %u, %u channel%s\n", "input", input.h, input.w, input.c, input.c == 1 ? "" : "s");
    fprintf(f, "  %-12s%u\n", "classes", m->classes);
    if (m->has_normalisation) {
        print_channels(f, "mean", m->mean, input.c);
        print_channels(f, "std", m->std, input.c);
    } else {
        print_row(f, "mean, std", "not in the weight file: taken from the data file");
    }
}

static void print_model(FILE *f, const void *context) {
    const model *m = context;
    const shape input = m->graph->values[0];
    print_row(f, "weights", m->path);
    print_row(f, "sha256", m->sha256);
    print_row(f, "arch", m->arch);
    if (m->assumed) print_row(f, "assumed", m->assumed);
    if (m->graph->vocabulary) {
        fprintf(f, "  %-12stexts of up to %u tokens\n", "input", input.w);
        fprintf(f, "  %-12s%u tokens\n", "vocabulary", m->classes);
    } else {
        print_images(f, m);
    }
    fprintf(f, "  %-12s%.4g GFLOP %s\n", "work", graph_flops(m->graph) * 1e-9,
            m->graph->vocabulary ? "a text of that length" : "an image");
    fprintf(f, "  %-12s%u %s in %zu groups\n\n", "components", m->graph->components, component_set_name(m->set),
            m->group_count);
    fprintf(f, "  %8s %8s  %-8s %s\n", "first", "count", "kind", "group");
    for (size_t i = 0; i < m->group_count; i++) {
        const component_group *g = &m->groups[i];
        fprintf(f, "  %8u %8u  %-8s ", g->first, g->count, g->kind);
        print_name(f, g->name);
        fputc('\n', f);
    }
}

static coar_status model_json(const model *m, char **text) {
    const shape input = m->graph->values[0];
    json_writer w = {.root = cJSON_CreateObject()};
    add_text(&w, w.root, "kind", "weights");
    add_text(&w, w.root, "path", m->path);
    add_text(&w, w.root, "sha256", m->sha256);
    add_text(&w, w.root, "arch", m->arch);
    if (m->graph->vocabulary) {
        add_number(&w, w.root, "tokens", input.w);
        add_number(&w, w.root, "vocabulary", m->classes);
    } else {
        add_number(&w, w.root, "height", input.h);
        add_number(&w, w.root, "width", input.w);
        add_number(&w, w.root, "channels", input.c);
        add_number(&w, w.root, "classes", m->classes);
    }
    if (m->has_normalisation) {
        add_channels(&w, "mean", m->mean, input.c);
        add_channels(&w, "std", m->std, input.c);
    }
    add_number(&w, w.root, "flops", graph_flops(m->graph));
    add_text(&w, w.root, "component_set", component_set_name(m->set));
    add_number(&w, w.root, "components", m->graph->components);
    cJSON *groups = add_array(&w, w.root, "groups");
    for (size_t i = 0; i < m->group_count; i++) {
        const component_group *g = &m->groups[i];
        cJSON *item = add_item(&w, groups);
        add_text(&w, item, "name", g->name);
        add_text(&w, item, "kind", g->kind);
        add_text(&w, item, "layer", g->layer);
        add_number(&w, item, "first", g->first);
        add_number(&w, item, "count", g->count);
    }
    return finish_json(m->path, &w, text);
}

static coar_status describe_model(const char *path, const char *arch, const char *components, const char *classes,
                                  int json, char **text) {
    model *m;
    model_options options = {.arch = arch, .classes = classes};
    TRY(component_set_parse(components, &options.set));
    TRY(model_open(path, &options, &m));
    coar_status status = json ? model_json(m, text) : collect(path, print_model, m, text);
    model_destroy(m);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ data */

/* Examples by class or by group. `count` receives how many there are to count: names may be fewer than numbers. */
typedef struct tally {
    uint64_t *examples; /* [count] */
    size_t count;
    char *const *names; /* [names_count] or NULL */
    size_t names_count;
} tally;

/* A hostile label of 2^31 must not become an allocation: numbers from here on are counted together. */
#define TALLY_MAX 100000

static coar_status tally_of(const int32_t *numbers, uint64_t examples, char *const *names, size_t names_count,
                            tally *out) {
    size_t count = names_count;
    for (uint64_t i = 0; i < examples; i++)
        if (numbers[i] >= 0 && (size_t)numbers[i] >= count) count = (size_t)numbers[i] + 1;
    if (count > TALLY_MAX) count = TALLY_MAX;
    *out = (tally){.count = count, .names = names, .names_count = names ? names_count : 0};
    TRY(memory_new(count, sizeof *out->examples, "classes", &out->examples));
    for (uint64_t i = 0; i < examples; i++)
        if (numbers[i] >= 0 && (size_t)numbers[i] < count) out->examples[numbers[i]]++;
    return COAR_OK;
}

typedef struct data_summary {
    const dataset *data;
    tally classes, groups; /* count 0: none */
} data_summary;

static const char *tally_name(const tally *t, size_t i, char buffer[24]) {
    if (i < t->names_count) return t->names[i];
    snprintf(buffer, 24, "%zu", i);
    return buffer;
}

static void print_tally(FILE *f, const tally *t, const char *what) {
    if (t->count == 0) return;
    fprintf(f, "\n  %8s %8s  %s\n", what, "examples", "name");
    for (size_t i = 0; i < t->count; i++) {
        char buffer[24];
        fprintf(f, "  %8zu %8llu  ", i, (unsigned long long)t->examples[i]);
        print_name(f, i < t->names_count ? tally_name(t, i, buffer) : "");
        fputc('\n', f);
    }
}

static void print_texts(FILE *f, const dataset *d) {
    int32_t least = d->labels[0], most = least;
    double sum = 0;
    for (uint64_t i = 0; i < d->count; i++) {
        if (d->labels[i] < least) least = d->labels[i];
        if (d->labels[i] > most) most = d->labels[i];
        sum += d->labels[i];
    }
    fprintf(f, "  %-12s%d to %d tokens (%.1f in the mean), room for %u\n", "texts", least, most, sum / (double)d->count,
            d->tokens);
    if (d->vocabulary)
        fprintf(f, "  %-12s%u tokens\n", "vocabulary", d->vocabulary);
    else
        print_row(f, "vocabulary", "not known");
}

static void print_data(FILE *f, const void *context) {
    const data_summary *s = context;
    const dataset *d = s->data;
    print_row(f, "data", d->path);
    print_row(f, "sha256", d->sha256);
    fprintf(f, "  %-12s%llu\n", "examples", (unsigned long long)d->count);
    if (d->tokens)
        print_texts(f, d);
    else
        fprintf(f, "  %-12s%u x %u, %u channel%s\n", "images", d->height, d->width, d->channels,
                d->channels == 1 ? "" : "s");
    if (d->has_normalisation) {
        print_channels(f, "mean", d->mean, d->channels);
        print_channels(f, "std", d->std, d->channels);
    }
    if (!d->tokens) fprintf(f, "  %-12s%zu\n", "classes", s->classes.count);
    print_tally(f, &s->classes, "class");
    print_tally(f, &s->groups, "group");
}

static void add_tally(json_writer *w, const char *key, const tally *t) {
    cJSON *array = add_array(w, w->root, key);
    for (size_t i = 0; i < t->count; i++) {
        char buffer[24];
        cJSON *item = add_item(w, array);
        add_text(w, item, "name", tally_name(t, i, buffer));
        add_number(w, item, "examples", (double)t->examples[i]);
    }
}

static coar_status data_json(const data_summary *s, char **text) {
    const dataset *d = s->data;
    json_writer w = {.root = cJSON_CreateObject()};
    add_text(&w, w.root, "kind", "data");
    add_text(&w, w.root, "path", d->path);
    add_text(&w, w.root, "sha256", d->sha256);
    add_number(&w, w.root, "examples", (double)d->count);
    if (d->tokens) {
        add_number(&w, w.root, "tokens", d->tokens);
        if (d->vocabulary) add_number(&w, w.root, "vocabulary", d->vocabulary);
    } else {
        add_number(&w, w.root, "height", d->height);
        add_number(&w, w.root, "width", d->width);
        add_number(&w, w.root, "channels", d->channels);
    }
    if (d->has_normalisation) {
        add_channels(&w, "mean", d->mean, d->channels);
        add_channels(&w, "std", d->std, d->channels);
    }
    if (!d->tokens) add_tally(&w, "classes", &s->classes);
    if (d->groups) add_tally(&w, "groups", &s->groups);
    return finish_json(d->path, &w, text);
}

static coar_status describe_data(const char *path, int json, char **text) {
    coar_status status;
    dataset *d = NULL;
    data_summary s = {0};
    TRY_GOTO(dataset_open(path, &d));
    TRY_GOTO(dataset_hash(d));
    s.data = d;
    if (!d->tokens) TRY_GOTO(tally_of(d->labels, d->count, d->class_names, d->classes, &s.classes));
    if (d->groups) TRY_GOTO(tally_of(d->groups, d->count, d->group_names, d->group_names_count, &s.groups));
    status = json ? data_json(&s, text) : collect(path, print_data, &s, text);
done:
    free(s.classes.examples);
    free(s.groups.examples);
    dataset_close(d);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ runs */

static double number(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *string(const cJSON *object, const char *key) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(object, key));
    return text ? text : "?";
}

static void print_tables(FILE *f, const cJSON *root) {
    const cJSON *item, *components = cJSON_GetObjectItem(root, "components");
    if (!components) return; /* interrupted before they were written */
    fprintf(f, "\n  %-18s %.0f\n", "components", number(components, "count"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(components, "groups"))
        fprintf(f, "  %8.0f %8.0f  %-8s %s\n", number(item, "first"), number(item, "count"), string(item, "kind"),
                string(item, "name"));
    fprintf(f, "\n  %-18s %.0f\n  %-18s", "examples", number(root, "examples"), "outputs");
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "outputs")) fprintf(f, " %s", cJSON_GetStringValue(item));
    fputc('\n', f);
}

static void print_run(FILE *f, const void *context) {
    const cJSON *root = context, *item;
    fprintf(f, "  %-18s %s%s\n", "run", string(root, "path"),
            cJSON_IsTrue(cJSON_GetObjectItem(root, "merged")) ? " (merged)" : "");
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "settings"))
        fprintf(f, "  %-18s %s\n", item->string, cJSON_GetStringValue(item));
    print_tables(f, root);
    fprintf(f, "  %-18s %.0f\n", "masks finished", number(root, "masks"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "stages")) {
        const char *what = cJSON_GetObjectItem(item, "passes_finished") ? "passes" : "masks";
        fprintf(f, "stage %s: %.0f %s finished", string(item, "name"),
                number(item, *what == 'p' ? "passes_finished" : "masks_finished"), what);
        if (number(item, "units") > 0)
            fprintf(f, ", %.0f of %.0f work units in journals, %.0f live processes", number(item, "units_in_journals"),
                    number(item, "units"), number(item, "processes"));
        fputc('\n', f);
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "gradients"))
        fprintf(f, "gradients of %s: %s passes%s\n", string(item, "output"), string(item, "passes"),
                cJSON_GetObjectItem(item, "missing") ? " (gradients.h5 is missing)" : "");
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "fits"))
        fprintf(f, "fit %s: %s of %s over %s masks%s\n", string(item, "name"), string(item, "estimator"),
                string(item, "output"), string(item, "masks"),
                cJSON_GetObjectItem(item, "missing") ? " (its part is missing)" : "");
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "evaluations"))
        fprintf(f, "evaluation %s: %.0f masks\n", string(item, "name"), number(item, "masks"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "edits"))
        fprintf(f, "edit %s: %s, %s %s by %s components%s\n", string(item, "name"), string(item, "method"),
                string(item, "direction"), string(item, "output"), string(item, "k"),
                cJSON_GetObjectItem(item, "missing") ? " (its part is missing)" : "");
}

/* Keys too: names of attributes are the file's own. */
static void clean_all(cJSON *item) {
    for (; item; item = item->next) {
        clean_text(item->string);
        clean_text(item->valuestring);
        clean_all(item->child);
    }
}

static coar_status describe_run(const char *path, int json, char **text) {
    json_writer w = {0};
    TRY(store_describe(path, &w.root));
    clean_all(w.root);
    if (json) return finish_json(path, &w, text);
    coar_status status = collect(path, print_run, w.root, text);
    cJSON_Delete(w.root);
    return status;
}

/* ----------------------------------------------------------------------------------------------- entry point */

static coar_status describe(const char *path, const char *arch, const char *components, const char *classes, int json,
                            char **text) {
    char format[FORMAT_SIZE];
    TRY(format_of_file(path, format));
    if (!strcmp(format, FORMAT_SAFETENSORS)) return describe_model(path, arch, components, classes, json, text);
    if (!strcmp(format, "coar.data")) return describe_data(path, json, text);
    return describe_run(path, json, text);
}

coar_status coar_info(const char *path, const char *arch, const char *components, const char *classes, int json,
                      char **text) {
    status_clear();
    if (!path || !text) return status_set(COAR_ERROR_USAGE, "info: name a weight, data or run file");
    locale_t callers = uselocale(number_locale()); /* decimal points are points, whatever the calling program has set */
    coar_status status = describe(path, arch, components, classes, json, text);
    uselocale(callers);
    return status;
}
