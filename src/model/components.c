/* components.c - component sets: their names, which groups a run wants, how components are numbered, and what each takes
 * from the weight file. */
#include <fnmatch.h>
#include <stdarg.h>
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

/* The group that a site with components was given: components_offer has handed out each first number once. */
static uint32_t group_of(const model *m, const mask_site *site) {
    size_t at = m->group_count - 1;
    while (m->groups[at].first != site->first) at--;
    return (uint32_t)at;
}

coar_status components_weights(model_builder *b, const mask_site *site, uint32_t axis, uint32_t first,
                               const char *format, ...) {
    model *m = b->model;
    if (site->place == PLACE_NONE) return COAR_OK;
    TRY(memory_grow(&m->slices, &b->slice_capacity, m->slice_count + 1, sizeof *m->slices, "weights of components"));
    weight_slice *slice = &m->slices[m->slice_count];
    *slice = (weight_slice){.group = group_of(m, site), .axis = axis, .first = first, .width = site->width};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(slice->tensor, sizeof slice->tensor, format, arguments);
    va_end(arguments);

    const tensor *t = tensor_find(b->table, slice->tensor);
    const uint64_t end = first + (uint64_t)site->count * site->width;
    if (!t || axis >= (uint32_t)t->rank || end > t->shape[axis])
        return status_set(COAR_ERROR_INTERNAL, "%s: tensor '%s' has no %llu places for the components of '%s'",
                          b->table->path, slice->tensor, (unsigned long long)end, m->groups[slice->group].name);
    m->slice_count++;
    return COAR_OK;
}
