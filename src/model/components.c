/* components.c - component sets: their names, which groups a run wants, and how components are numbered. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "model/builder.h"

static const struct set_words {
    const char *name, *kind; /* of the set, of one member */
} sets[] = {
    [SET_DEFAULT] = {"default", ""}, [SET_FILTERS] = {"filters", "filter"}, [SET_NEURONS] = {"neurons", "neuron"},
    [SET_HEADS] = {"heads", "head"}, [SET_BLOCKS] = {"blocks", "block"},
};

const char *component_set_name(component_set set) {
    return sets[set].name;
}

coar_status component_set_parse(const char *text, component_set *out) {
    if (!text) {
        *out = SET_DEFAULT;
        return COAR_OK;
    }
    for (component_set set = SET_FILTERS; set <= SET_BLOCKS; set++)
        if (strcmp(text, sets[set].name) == 0) {
            *out = set;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_USAGE, "--components: '%s' is none of filters, neurons, heads, blocks", text);
}

coar_status components_offer(model_builder *b, component_set set, const char *name, const char *layer, mask_place place,
                             uint32_t count, uint32_t width, mask_site *site) {
    model *m = b->model;
    *site = (mask_site){.place = PLACE_NONE};
    if (set != m->set) return COAR_OK;
    if (!b->offered[0]) snprintf(b->offered, sizeof b->offered, "%s", name);
    if (b->options->only && fnmatch(b->options->only, name, 0) != 0) return COAR_OK;
    if (b->options->except && fnmatch(b->options->except, name, 0) == 0) return COAR_OK;

    const component_group *last = m->group_count ? &m->groups[m->group_count - 1] : NULL;
    uint32_t first = last ? last->first + last->count : 0;
    if (count > UINT32_MAX - first)
        return status_set(COAR_ERROR_INPUT, "%s: more than 2^32 components", b->table->path);
    TRY(memory_grow(&m->groups, &b->group_capacity, m->group_count + 1, sizeof *m->groups, "component groups"));
    component_group *group = &m->groups[m->group_count++];
    *group = (component_group){.first = first, .count = count};
    snprintf(group->name, sizeof group->name, "%s", name);
    snprintf(group->layer, sizeof group->layer, "%s", layer);
    snprintf(group->kind, sizeof group->kind, "%s", sets[set].kind);
    *site = (mask_site){.place = place, .first = first, .count = count, .width = width};
    return COAR_OK;
}
