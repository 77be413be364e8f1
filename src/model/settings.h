/*
 * settings.h - what names and shapes of a weight file do not tell: heads, epsilons, activation, pixels.
 *
 * Each key is looked up in this order: --arch NAME,key=value > the file's __metadata__ > a config.json beside the file >
 * an open_clip_config.json there; the family's default is the caller's `fallback`. Keys: heads, ln_eps, bn_eps,
 * activation, pool, mean, std, logit_scale, image; and of a config.json alone, since they make another model:
 * scale_attn_weights, scale_attn_by_inverse_layer_idx.
 * Must not know: what an architecture does with them.
 */
#ifndef COAR_MODEL_SETTINGS_H
#define COAR_MODEL_SETTINGS_H

#include "graph/graph.h"
#include "model/tensors.h"

typedef enum setting_origin { SETTING_ARCH, SETTING_METADATA, SETTING_CONFIG } setting_origin;

typedef struct model_setting {
    setting_origin origin;
    char *key, *value;
} model_setting;

typedef struct model_settings {
    char *path;           /* of the weight file, for messages */
    char *name;           /* NAME of --arch, NULL = none given */
    model_setting *items; /* in order of precedence: the first with a key decides */
    size_t count, capacity;
} model_settings;

/* `arch`: NAME[,key=value...] or NULL; a list's further elements follow as they are ("mean=.5,.4,.3").
 * COAR_ERROR_USAGE for --arch, COAR_ERROR_INPUT for a config.json that cannot be read. */
coar_status settings_open(const char *arch, const tensor_table *table, model_settings *out);
void settings_close(model_settings *s);

/* COAR_ERROR_USAGE when --arch gives a key that is not in the NULL-terminated list. */
coar_status settings_check(const model_settings *s, const char *const *keys);

/* NULL when no source has the key. */
const model_setting *settings_find(const model_settings *s, const char *key);

/* The value, or `fallback` when no source has the key; an error naming source and key when it is not in low..high. */
coar_status settings_real(const model_settings *s, const char *key, double fallback, double low, double high,
                          double *out);
coar_status settings_integer(const model_settings *s, const char *key, uint32_t fallback, uint32_t low, uint32_t high,
                             uint32_t *out);
coar_status settings_activation(const model_settings *s, activation fallback, activation *out);

/* `count` finite numbers; *given = 0 when no source has the key (then *out is untouched). */
coar_status settings_list(const model_settings *s, const char *key, uint32_t count, float *out, int *given);

/* An error about one setting, naming where it came from. */
coar_status settings_bad(const model_settings *s, const model_setting *item, const char *problem);

#endif
