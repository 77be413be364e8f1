/* settings.c - see settings.h. */
#include "model/settings.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/number.h"

static const char *const known_keys[] = {"heads",
                                         "ln_eps",
                                         "bn_eps",
                                         "activation",
                                         "pool",
                                         "mean",
                                         "std",
                                         "logit_scale",
                                         "image",
                                         "scale_attn_weights",
                                         "scale_attn_by_inverse_layer_idx"};

/* Where Hugging Face's and timm's config.json, and open_clip_config.json, keep the same things; `parent` is an object or
 * NULL. */
static const struct alias {
    const char *parent, *name, *key;
} config_aliases[] = {
    {NULL, "num_attention_heads", "heads"},
    {NULL, "layer_norm_eps", "ln_eps"},
    {NULL, "hidden_act", "activation"},
    {NULL, "global_pool", "pool"},
    {"pretrained_cfg", "mean", "mean"},
    {"pretrained_cfg", "std", "std"},
    {"vision_config", "num_attention_heads", "heads"},
    {"vision_config", "layer_norm_eps", "ln_eps"},
    {"vision_config", "hidden_act", "activation"},
    {"preprocess_cfg", "mean", "mean"},
    {"preprocess_cfg", "std", "std"},
    {NULL, "n_head", "heads"},
    {NULL, "layer_norm_epsilon", "ln_eps"},
    {NULL, "activation_function", "activation"},
};

static const struct activation_word {
    const char *word;
    activation value;
} activation_words[] = {
    {"relu", ACT_RELU},
    {"gelu", ACT_GELU_ERF},
    {"gelu_erf", ACT_GELU_ERF},
    {"gelu_tanh", ACT_GELU_TANH},
    {"gelu_new", ACT_GELU_TANH}, /* Hugging Face's names for the tanh form */
    {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"quickgelu", ACT_QUICKGELU},
    {"quick_gelu", ACT_QUICKGELU},
};

void settings_close(model_settings *s) {
    for (size_t i = 0; i < s->count; i++) {
        free(s->items[i].key);
        free(s->items[i].value);
    }
    free(s->items);
    free(s->name);
    free(s->path);
    memset(s, 0, sizeof *s);
}

const model_setting *settings_find(const model_settings *s, const char *key) {
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->items[i].key, key) == 0) return &s->items[i];
    return NULL;
}

static coar_status out_of_memory(void) {
    return status_set(COAR_ERROR_MEMORY, "not enough memory for model settings");
}

static coar_status push(model_settings *s, setting_origin origin, const char *key, size_t length, const char *value) {
    TRY(memory_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items, "model settings"));
    model_setting item = {origin, strndup(key, length), strdup(value)};
    if (!item.key || !item.value) {
        free(item.key);
        free(item.value);
        return out_of_memory();
    }
    s->items[s->count++] = item;
    return COAR_OK;
}

/* "key=value", or one more element of the list before it. */
static coar_status push_arch_item(model_settings *s, const char *item) {
    const char *equals = strchr(item, '=');
    if (!equals) {
        if (!s->count)
            return status_set(COAR_ERROR_USAGE, "--arch: '%s' is not key=value: write NAME,key=value,...", item);
        model_setting *last = &s->items[s->count - 1];
        char *longer = string_format("%s,%s", last->value, item);
        if (!longer) return out_of_memory();
        free(last->value);
        last->value = longer;
        return COAR_OK;
    }
    TRY(push(s, SETTING_ARCH, item, (size_t)(equals - item), equals + 1));
    const model_setting *added = &s->items[s->count - 1];
    if (settings_find(s, added->key) != added)
        return status_set(COAR_ERROR_USAGE, "--arch: '%s' is given twice", added->key);
    return COAR_OK;
}

static coar_status push_arch(model_settings *s, const char *arch) {
    coar_status status = COAR_OK;
    char *copy = strdup(arch), *rest = NULL;
    if (!copy) return out_of_memory();
    char *item = strtok_r(copy, ",", &rest);
    if (!item || strchr(item, '='))
        TRY_GOTO(status_set(COAR_ERROR_USAGE, "--arch: '%s' must begin with an architecture's name", arch));
    s->name = strdup(item);
    if (!s->name) TRY_GOTO(out_of_memory());
    while ((item = strtok_r(NULL, ",", &rest))) TRY_GOTO(push_arch_item(s, item));
done:
    free(copy);
    return status;
}

static coar_status push_json(model_settings *s, const char *key, const cJSON *value) {
    if (cJSON_IsString(value)) return push(s, SETTING_CONFIG, key, strlen(key), value->valuestring);
    if (cJSON_IsBool(value)) return push(s, SETTING_CONFIG, key, strlen(key), cJSON_IsTrue(value) ? "true" : "false");
    if (!cJSON_IsNumber(value) && !cJSON_IsArray(value)) return COAR_OK; /* null: not set */
    char *text = cJSON_PrintUnformatted(value);
    if (!text) return out_of_memory();
    coar_status status = push(s, SETTING_CONFIG, key, strlen(key), text);
    free(text);
    return status;
}

/* OpenCLIP says only that a network has the activation of OpenAI's. */
static coar_status push_open_clip(model_settings *s, const cJSON *model) {
    static const char key[] = "activation";
    if (!cJSON_IsObject(model)) return COAR_OK;
    const bool quick = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(model, "quick_gelu"));
    return push(s, SETTING_CONFIG, key, strlen(key), quick ? "quickgelu" : "gelu");
}

static coar_status push_config(model_settings *s, const char *path, const file_map *file) {
    enum { CONFIG_MAX = 1 << 20 }; /* bytes; real ones have a few thousand (class names) */
    if (file->size > CONFIG_MAX) return status_set(COAR_ERROR_INPUT, "%s: is larger than 1 MiB", path);
    char *text;
    TRY(memory_new(file->size + 16, 1, path, &text)); /* zeros behind it: cJSON's escapes may look too far */
    if (file->size) memcpy(text, file->data, file->size);
    cJSON *root = cJSON_Parse(text);
    free(text);
    coar_status status = COAR_OK;
    if (!cJSON_IsObject(root)) TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: is not a JSON object", path));
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
        TRY_GOTO(push_json(s, known_keys[i], cJSON_GetObjectItemCaseSensitive(root, known_keys[i])));
    for (size_t i = 0; i < sizeof config_aliases / sizeof *config_aliases; i++) {
        const struct alias *a = &config_aliases[i];
        const cJSON *parent = a->parent ? cJSON_GetObjectItemCaseSensitive(root, a->parent) : root;
        TRY_GOTO(push_json(s, a->key, cJSON_GetObjectItemCaseSensitive(parent, a->name)));
    }
    TRY_GOTO(push_open_clip(s, cJSON_GetObjectItemCaseSensitive(root, "model_cfg")));
done:
    cJSON_Delete(root);
    return status;
}

/* A file in the weight file's folder; its absence is normal. */
static coar_status push_config_file(model_settings *s, const char *weights, const char *name) {
    coar_status status = COAR_OK;
    file_map file = {0};
    char *folder = path_folder(weights), *path = folder ? string_format("%s/%s", folder, name) : NULL;
    if (!path) TRY_GOTO(out_of_memory());
    if (file_exists(path)) {
        TRY_GOTO(file_map_open(path, &file));
        TRY_GOTO(push_config(s, path, &file));
    }
done:
    file_map_close(&file);
    free(path);
    free(folder);
    return status;
}

coar_status settings_open(const char *arch, const tensor_table *table, model_settings *out) {
    coar_status status = COAR_OK;
    model_settings s = {.path = strdup(table->path)};
    if (!s.path) TRY_GOTO(out_of_memory());
    if (arch) TRY_GOTO(push_arch(&s, arch));
    for (size_t i = 0; i < table->meta_count; i++)
        TRY_GOTO(push(&s, SETTING_METADATA, table->meta_keys[i], strlen(table->meta_keys[i]), table->meta_values[i]));
    if (table->map.data) { /* generated weights have no folder */
        TRY_GOTO(push_config_file(&s, table->path, "config.json"));
        TRY_GOTO(push_config_file(&s, table->path, "open_clip_config.json"));
    }
    *out = s;
    memset(&s, 0, sizeof s);
done:
    settings_close(&s);
    return status;
}

coar_status settings_check(const model_settings *s, const char *const *keys) {
    for (size_t i = 0; i < s->count && s->items[i].origin == SETTING_ARCH; i++) {
        char known[128] = "";
        size_t k = 0, used = 0;
        for (; keys[k] && strcmp(keys[k], s->items[i].key) != 0; k++)
            if (used < sizeof known) used += (size_t)snprintf(known + used, sizeof known - used, " %s", keys[k]);
        if (!keys[k])
            return status_set(COAR_ERROR_USAGE, "--arch: %s has no key '%s'; its keys:%s", s->name, s->items[i].key,
                              known);
    }
    return COAR_OK;
}

coar_status settings_bad(const model_settings *s, const model_setting *item, const char *problem) {
    switch (item->origin) {
    case SETTING_ARCH:
        return status_set(COAR_ERROR_USAGE, "--arch: %s=%s: %s", item->key, item->value, problem);
    case SETTING_METADATA:
        return status_set(COAR_ERROR_INPUT, "%s: __metadata__ %s '%s': %s", s->path, item->key, item->value, problem);
    case SETTING_CONFIG:
        break;
    }
    return status_set(COAR_ERROR_INPUT, "config.json beside %s: %s '%s': %s", s->path, item->key, item->value, problem);
}

coar_status settings_real(const model_settings *s, const char *key, double fallback, double low, double high,
                          double *out) {
    const model_setting *item = settings_find(s, key);
    char *end = NULL, problem[80];
    *out = fallback;
    if (!item) return COAR_OK;
    double value = number_parse(item->value, &end);
    if (end == item->value || *end || !(value >= low && value <= high)) {
        snprintf(problem, sizeof problem, "must be a number from %g to %g", low, high);
        return settings_bad(s, item, problem);
    }
    *out = value;
    return COAR_OK;
}

coar_status settings_integer(const model_settings *s, const char *key, uint32_t fallback, uint32_t low, uint32_t high,
                             uint32_t *out) {
    double value;
    TRY(settings_real(s, key, fallback, low, high, &value));
    if (value != floor(value)) return settings_bad(s, settings_find(s, key), "must be a whole number");
    *out = (uint32_t)value;
    return COAR_OK;
}

coar_status settings_activation(const model_settings *s, activation fallback, activation *out) {
    const model_setting *item = settings_find(s, "activation");
    *out = fallback;
    if (!item) return COAR_OK;
    for (size_t i = 0; i < sizeof activation_words / sizeof *activation_words; i++)
        if (strcmp(item->value, activation_words[i].word) == 0) {
            *out = activation_words[i].value;
            return COAR_OK;
        }
    return settings_bad(s, item, "must be gelu, gelu_tanh, quickgelu or relu");
}

coar_status settings_list(const model_settings *s, const char *key, uint32_t count, float *out, int *given) {
    const model_setting *item = settings_find(s, key);
    char problem[80];
    *given = 0;
    if (!item) return COAR_OK;
    const char *p = item->value;
    uint32_t found = 0;
    int brackets = *p == '[' || *p == '(';
    p += brackets;
    for (;;) {
        char *end;
        double value = number_parse(p, &end);
        if (end == p || !isfinite((float)value) || found == count) break;
        out[found++] = (float)value;
        p = end + strspn(end, " ");
        if (*p != ',') break;
        p++;
    }
    p += brackets && (*p == ']' || *p == ')');
    if (*p || found != count) {
        snprintf(problem, sizeof problem,
                 count == 1 ? "must be %u finite number: there is one input channel"
                            : "must be %u finite numbers, one per input channel",
                 count);
        return settings_bad(s, item, problem);
    }
    *given = 1;
    return COAR_OK;
}
