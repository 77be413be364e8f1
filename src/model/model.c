/* model.c - opening a weight file: which family it is, what --arch says about it, and what must be left over. */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/builder.h"

static const model_family *const families[] = {&family_resnet,   &family_mini_resnet, &family_vit,
                                               &family_clip_vit, &family_clip_resnet, &family_gpt2};
enum { FAMILIES = sizeof families / sizeof *families };

void model_destroy(model *m) {
    if (!m) return;
    graph_destroy(m->graph);
    free(m->groups);
    free(m->slices);
    free(m->path);
    free(m);
}

/* The family that recognises the file; a family named by --arch gets to say what it misses. */
static coar_status find_family(const tensor_table *table, const char *name, const model_family **out) {
    for (size_t i = 0; i < FAMILIES; i++)
        if (families[i]->recognise(table)) {
            *out = families[i];
            return COAR_OK;
        }
    for (size_t i = 0; name && i < FAMILIES; i++)
        if (strcmp(name, families[i]->name) == 0) {
            *out = families[i];
            return COAR_OK;
        }
    return status_set(COAR_ERROR_INPUT,
                      "%s: its tensors ('%s', ...) are of no known architecture (ResNet, MiniResNet, ViT, CLIP, GPT-2)",
                      table->path, table->items[0].name);
}

static bool name_known(const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < FAMILIES; i++)
        if (strcmp(name, families[i]->name) == 0) return true;
    for (const char *p = model_random_names(); (p = strstr(p, name)); p += length)
        if ((p == model_random_names() || p[-1] == ' ') && (p[length] == ',' || p[length] == '\0')) return length > 0;
    return false;
}

/* NAME of --arch against what the file turned out to be. */
static coar_status check_name(const tensor_table *table, const model_family *family, const char *arch,
                              const char *name) {
    if (!name || strcmp(name, arch) == 0 || strcmp(name, family->name) == 0) return COAR_OK;
    if (!name_known(name) && strncmp(name, "mini_resnet_", 12) != 0)
        return status_set(COAR_ERROR_USAGE, "--arch: '%s' is no known architecture: resnet, mini_resnet, vit, clip, %s",
                          name, model_random_names());
    return status_set(COAR_ERROR_INPUT, "%s: is a %s, not the %s that --arch names", table->path, arch, name);
}

static coar_status check_unknown(const tensor_table *table, const char *arch) {
    static const char counter[] = "num_batches_tracked"; /* training's; the forward pass has no use for it */
    for (size_t i = 0; i < table->count; i++) {
        const char *name = table->items[i].name;
        size_t length = strlen(name);
        bool ignored = length >= sizeof counter - 1 && strcmp(name + length - (sizeof counter - 1), counter) == 0;
        if (!table->items[i].used && !ignored)
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s' has no place in a %s", table->path, name, arch);
    }
    return COAR_OK;
}

coar_status model_build(tensor_table *table, const model_options *options, model **out) {
    coar_status status;
    model_settings settings = {0};
    const model_family *family = NULL;
    *out = NULL;
    model *m = calloc(1, sizeof *m);
    model_builder b = {.table = table, .settings = &settings, .options = options, .model = m};
    if (!m || !(m->path = strdup(table->path)))
        TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", table->path));
    TRY_GOTO(settings_open(options->arch, table, &settings));
    TRY_GOTO(find_family(table, settings.name, &family));
    TRY_GOTO(settings_check(&settings, family->keys));
    if (options->classes && !family->zero_shot)
        TRY_GOTO(status_set(COAR_ERROR_USAGE, "--classes: %s is a %s, which takes none: leave it out", table->path,
                            family->name));
    m->set = options->set == SET_DEFAULT ? family->first_set : options->set;
    TRY_GOTO(family->build(&b));
    TRY_GOTO(check_name(table, family, m->arch, settings.name));
    TRY_GOTO(check_unknown(table, m->arch));
    *out = m;
    m = NULL;
done:
    settings_close(&settings);
    model_destroy(m);
    return status;
}

coar_status model_open(const char *path, const model_options *options, model **out) {
    tensor_table table;
    *out = NULL;
    TRY(safetensors_open(path, &table));
    coar_status status = model_build(&table, options, out);
    if (status == COAR_OK) status = file_map_sha256(&table.map, (*out)->sha256);
    tensor_table_close(&table);
    if (status != COAR_OK) {
        model_destroy(*out);
        *out = NULL;
    }
    return status;
}

coar_status model_random(const char *arch, const model_options *options, model **out) {
    tensor_table table;
    char name[64];
    size_t length = strcspn(arch, ",");
    model_options chosen = *options;
    *out = NULL;
    if (!chosen.arch) chosen.arch = arch;
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1), arch);
    TRY(model_random_tensors(name, &table));
    coar_status status = model_build(&table, &chosen, out);
    tensor_table_close(&table);
    return status;
}
