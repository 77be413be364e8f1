/*
 * settings.c - settings as JSON, their comparison, and documents (manifest.json, STAGE.json) that are written once.
 * Must not know: what the settings mean.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/internal.h"

/* A manifest is a few kilobytes; a numerics plan some more. Larger is not ours, and is not read into memory. */
#define DOCUMENT_MAX (16u << 20)

static const char *const type_names[] = {
    [SETTING_TEXT] = "text", [SETTING_INTEGER] = "integer", [SETTING_REAL] = "real"};

void settings_free(setting_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        free((char *)list->items[i].key);
        free((char *)list->items[i].flag);
        free((char *)list->items[i].value);
    }
    free(list->items);
    *list = (setting_list){NULL, 0};
}

static const setting *find(const setting *items, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (!strcmp(items[i].key, key)) return &items[i];
    return NULL;
}

const char *settings_value(const setting_list *list, const char *key) {
    const setting *s = find(list->items, list->count, key);
    return s ? s->value : NULL;
}

/* Numbers are equal as numbers: ".1" and "0.10" are the same alpha. */
static bool same_value(const setting *a, const setting *b) {
    if (!strcmp(a->value, b->value)) return true;
    if (a->type != SETTING_REAL || b->type != SETTING_REAL) return false;
    char *end_a, *end_b;
    double x = number_parse(a->value, &end_a), y = number_parse(b->value, &end_b);
    return end_a != a->value && end_b != b->value && !*end_a && !*end_b && x == y;
}

/* An option that was not given is stored as "". */
static const char *shown(const char *value) {
    return value && *value ? value : "none";
}

bool settings_differ(const setting_list *stored, const setting *given, size_t count, setting_difference *out) {
    for (size_t i = 0; i < count; i++) {
        if (!given[i].compared) continue;
        const setting *old = find(stored->items, stored->count, given[i].key);
        if (old && same_value(old, &given[i])) continue;
        *out = (setting_difference){given[i].key, given[i].flag, shown(old ? old->value : NULL), shown(given[i].value)};
        return true;
    }
    for (size_t i = 0; i < stored->count; i++) {
        const setting *old = &stored->items[i];
        if (!old->compared || find(given, count, old->key)) continue;
        *out = (setting_difference){old->key, old->flag, shown(old->value), NULL};
        return true;
    }
    return false;
}

coar_status settings_compare(const char *what, const setting_list *stored, const setting *given, size_t count) {
    setting_difference d;
    if (!settings_differ(stored, given, count, &d)) return COAR_OK;
    return status_set(COAR_ERROR_MISMATCH,
                      "%s: %s (%s) is %s, the run began with %s: give the same, another -o, or --force to start over",
                      what, d.flag, d.key, d.given ? d.given : "not given", d.stored);
}

/* --------------------------------------------------------------------------------------------- writing */

static cJSON *settings_json(const setting *settings, size_t count) {
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < count; i++) {
        cJSON *item = cJSON_CreateObject();
        if (!cJSON_AddItemToArray(array, item)) cJSON_Delete(item);
        cJSON_AddStringToObject(item, "key", settings[i].key);
        cJSON_AddStringToObject(item, "flag", settings[i].flag ? settings[i].flag : "");
        cJSON_AddStringToObject(item, "value", settings[i].value ? settings[i].value : "");
        cJSON_AddStringToObject(item, "type", type_names[settings[i].type]);
        cJSON_AddBoolToObject(item, "compared", settings[i].compared);
    }
    return array;
}

static char *document_text(const char *format, const setting *settings, size_t count, const char *plan) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", format);
    cJSON_AddNumberToObject(root, "version_major", RUN_VERSION_MAJOR);
    cJSON_AddNumberToObject(root, "version_minor", RUN_VERSION_MINOR);
    cJSON_AddItemToObject(root, "settings", settings_json(settings, count));
    if (plan) cJSON_AddStringToObject(root, "plan", plan);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}

coar_status document_create(const char *path, const char *format, const setting *settings, size_t count,
                            const char *plan, bool *written) {
    coar_status status = COAR_OK;
    char host[96], *temporary = NULL, *text = document_text(format, settings, count, plan);
    process_name(host);
    temporary = string_format("%s.tmp.%s", path, host);
    if (!text || !temporary) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
        goto done;
    }
    TRY_GOTO(file_write(temporary, text, strlen(text)));
    /* link() never replaces: of several processes that create the run at once, one wins and the others compare. */
    *written = link(temporary, path) == 0;
    if (!*written && errno != EEXIST) status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
    unlink(temporary);
done:
    free(temporary);
    free(text);
    return status;
}

/* --------------------------------------------------------------------------------------------- reading */

static const char *text_of(const cJSON *object, const char *name) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}

static coar_status parse_setting(const char *path, const cJSON *item, setting *out) {
    const char *key = text_of(item, "key"), *flag = text_of(item, "flag"), *value = text_of(item, "value");
    const char *type = text_of(item, "type");
    const cJSON *compared = cJSON_GetObjectItemCaseSensitive(item, "compared");
    int kind = -1;
    for (int i = 0; type && i < (int)(sizeof type_names / sizeof *type_names); i++)
        if (!strcmp(type, type_names[i])) kind = i;
    if (!key || !key[0] || !flag || !value || kind < 0 || !cJSON_IsBool(compared))
        return status_set(COAR_ERROR_INPUT,
                          "%s: field 'settings' is damaged: put a copy back, or --force to start over", path);
    *out = (setting){strdup(key), strdup(flag), strdup(value), (setting_type)kind, cJSON_IsTrue(compared)};
    return out->key && out->flag && out->value ? COAR_OK : status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
}

coar_status document_parse(const char *path, const char *format, const char *text, size_t size, document *out) {
    coar_status status = COAR_OK;
    document d = {.plan = NULL};
    cJSON *root = cJSON_ParseWithLength(text, size);
    if (!cJSON_IsObject(root)) {
        status = status_set(COAR_ERROR_INPUT, "%s: not valid JSON: put a copy back, or --force to start over", path);
        goto done;
    }
    const char *found = text_of(root, "format");
    if (!found || strcmp(found, format)) {
        status = status_set(COAR_ERROR_INPUT, "%s: field 'format' is not \"%s\"", path, format);
        goto done;
    }
    const cJSON *major = cJSON_GetObjectItemCaseSensitive(root, "version_major");
    if (!cJSON_IsNumber(major) || major->valuedouble != RUN_VERSION_MAJOR) {
        status = status_set(COAR_ERROR_INPUT, "%s: field 'version_major' is not %d: made by another version of coar",
                            path, RUN_VERSION_MAJOR);
        goto done;
    }
    const cJSON *settings = cJSON_GetObjectItemCaseSensitive(root, "settings"), *item;
    if (!cJSON_IsArray(settings)) {
        status = status_set(COAR_ERROR_INPUT, "%s: field 'settings' is missing", path);
        goto done;
    }
    TRY_GOTO(memory_new((size_t)cJSON_GetArraySize(settings), sizeof *d.settings.items, path, &d.settings.items));
    cJSON_ArrayForEach(item, settings) TRY_GOTO(parse_setting(path, item, &d.settings.items[d.settings.count++]));
    const char *plan = text_of(root, "plan");
    if (plan && !(d.plan = strdup(plan))) {
        status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
        goto done;
    }
    sha256_hex(text, size, d.identity);
    *out = d;
    d = (document){.plan = NULL};
done:
    document_free(&d);
    cJSON_Delete(root);
    return status;
}

coar_status document_read(const char *path, const char *format, document *out) {
    file_map map;
    TRY(file_map_open(path, &map));
    coar_status status = map.size > DOCUMENT_MAX
                             ? status_set(COAR_ERROR_INPUT, "%s: too large to be a %s file", path, format)
                             : document_parse(path, format, map.data ? (const char *)map.data : "", map.size, out);
    file_map_close(&map);
    return status;
}

void document_free(document *d) {
    settings_free(&d->settings);
    free(d->plan);
    *d = (document){.plan = NULL};
}
