/* weight_edit.c - see weight_edit.h. */
#include "model/weight_edit.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/half.h"
#include "core/memory.h"

/* What is to be done to a file. */
typedef struct edit {
    const model *m;
    const tensor_table *table; /* of the weight file */
    bool *edited;              /* [n] */
    double gain;
} edit;

/* ------------------------------------------------------------------------------------------- numbers */

static bool to_float(double value, float *out) {
    if (!(fabs(value) <= FLT_MAX)) return false; /* the rounding of a larger one would be undefined */
    *out = (float)value;
    return true;
}

/* One element in place, rounded to nearest even; false when it leaves the type's range. */
static bool scale_element(tensor_type type, uint8_t *at, double gain) {
    float single;
    double wide;
    uint16_t half;
    bool fits = false;
    switch (type) {
    case TENSOR_F32:
        memcpy(&single, at, sizeof single);
        fits = to_float(single * gain, &single);
        memcpy(at, &single, sizeof single);
        break;
    case TENSOR_F64:
        memcpy(&wide, at, sizeof wide);
        wide *= gain;
        fits = fabs(wide) <= FLT_MAX; /* what the reader takes */
        memcpy(at, &wide, sizeof wide);
        break;
    case TENSOR_F16:
        memcpy(&half, at, sizeof half);
        fits = to_float(half_to_float(half) * gain, &single) && half_from_float(single, &half);
        memcpy(at, &half, sizeof half);
        break;
    case TENSOR_BF16:
        memcpy(&half, at, sizeof half);
        fits = to_float(bfloat_to_float(half) * gain, &single) && bfloat_from_float(single, &half);
        memcpy(at, &half, sizeof half);
        break;
    case TENSOR_I64:
    case TENSOR_OTHER:
        break; /* weights are of none of these: tensor_to_f32 refuses them */
    }
    return fits;
}

/* `count` elements from element `first` of a tensor whose bytes are at `data`. */
static coar_status scale_run(const edit *e, const tensor *t, uint8_t *data, size_t first, size_t count) {
    const size_t size = t->bytes / t->count;
    if (e->gain == 0) {
        memset(data + first * size, 0, count * size); /* +0 in every type; a product might be -0 */
        return COAR_OK;
    }
    for (size_t i = first; i < first + count; i++)
        if (!scale_element(t->type, data + i * size, e->gain))
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': element %zu times %g is too large for its dtype",
                              e->table->path, t->name, i, e->gain);
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------- slices */

static bool group_edited(const edit *e, const component_group *group) {
    for (uint32_t i = 0; i < group->count; i++)
        if (e->edited[group->first + i]) return true;
    return false;
}

static coar_status edit_slice(const edit *e, const weight_slice *slice, const tensor *t, uint8_t *data) {
    const component_group *group = &e->m->groups[slice->group];
    const size_t length = t->shape[slice->axis];
    size_t outer = 1, inner = 1; /* dimensions before and behind the axis */
    for (uint32_t d = 0; d < slice->axis; d++) outer *= t->shape[d];
    for (uint32_t d = slice->axis + 1; d < (uint32_t)t->rank; d++) inner *= t->shape[d];
    for (uint32_t i = 0; i < group->count; i++) {
        if (!e->edited[group->first + i]) continue;
        const size_t first = slice->first + (size_t)i * slice->width;
        for (size_t o = 0; o < outer; o++)
            TRY(scale_run(e, t, data, (o * length + first) * inner, slice->width * inner));
    }
    return COAR_OK;
}

/* *out: the tensor's new bytes, malloc'ed; NULL where nothing in it changes. */
static coar_status edit_tensor(const edit *e, const tensor *t, uint8_t **out) {
    coar_status status = COAR_OK;
    uint8_t *data = NULL;
    *out = NULL;
    for (size_t i = 0; i < e->m->slice_count; i++) {
        const weight_slice *slice = &e->m->slices[i];
        if (strcmp(slice->tensor, t->name) != 0 || !group_edited(e, &e->m->groups[slice->group])) continue;
        if (!data) {
            TRY_GOTO(memory_new(t->bytes, 1, t->name, &data));
            memcpy(data, t->data, t->bytes);
        }
        TRY_GOTO(edit_slice(e, slice, t, data));
    }
    *out = data;
    data = NULL;
done:
    free(data);
    return status;
}

/* ---------------------------------------------------------------------------------------------- files */

/* The header as it is, then every tensor: they cover the rest of the file in this order (safetensors_open). */
static coar_status write_file(const edit *e, FILE *f) {
    const tensor_table *table = e->table;
    fwrite(table->map.data, 1, (size_t)((const uint8_t *)table->items[0].data - table->map.data), f);
    for (size_t i = 0; i < table->count; i++) {
        const tensor *t = &table->items[i];
        uint8_t *edited;
        TRY(edit_tensor(e, t, &edited));
        fwrite(edited ? edited : t->data, 1, t->bytes, f);
        free(edited);
        file_map_release(&table->map, t->data, t->bytes);
    }
    return COAR_OK;
}

static coar_status write_whole(const edit *e, const char *output) {
    coar_status status;
    FILE *f = NULL;
    char *temporary = file_temporary(output);
    if (!temporary) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", output);
    f = fopen(temporary, "wb");
    if (!f) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot be created", temporary));
    TRY_GOTO(write_file(e, f));
    if (fflush(f) || ferror(f)) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot be written", output));
    fclose(f);
    f = NULL;
    status = file_commit(temporary, output);
done:
    if (f) {
        fclose(f);
        unlink(temporary);
    }
    free(temporary);
    return status;
}

/* Every edited component must have weights: a family that forgot components_weights would write a copy that says nothing. */
static coar_status check_slices(const edit *e) {
    for (size_t g = 0; g < e->m->group_count; g++) {
        bool known = false;
        for (size_t i = 0; i < e->m->slice_count && !known; i++) known = e->m->slices[i].group == g;
        if (!known && group_edited(e, &e->m->groups[g]))
            return status_set(COAR_ERROR_INTERNAL, "%s: no weights are known for the components of '%s'", e->m->path,
                              e->m->groups[g].name);
    }
    return COAR_OK;
}

static coar_status choose(edit *e, const uint32_t *components, size_t count) {
    const uint32_t n = e->m->graph->components;
    TRY(memory_new(n, sizeof *e->edited, "edited components", &e->edited));
    for (size_t i = 0; i < count; i++) {
        if (components[i] >= n)
            return status_set(COAR_ERROR_USAGE, "component %u: %s has %u components", components[i], e->m->path, n);
        e->edited[components[i]] = true;
    }
    return check_slices(e);
}

coar_status weight_edit_write(const model *m, const uint32_t *components, size_t count, double gain, const char *output,
                              int force) {
    coar_status status;
    tensor_table table = {0};
    edit e = {.m = m, .table = &table, .gain = gain};
    char sha256[65];
    if (!m->sha256[0])
        return status_set(COAR_ERROR_USAGE, "-o %s: %s has random weights, no weight file to edit", output, m->path);
    TRY(file_check_distinct(output, m->path));
    TRY(file_check_output(output, force));
    TRY_GOTO(choose(&e, components, count));
    TRY_GOTO(safetensors_open(m->path, &table));
    TRY_GOTO(file_map_sha256(&table.map, sha256));
    if (strcmp(sha256, m->sha256) != 0)
        TRY_GOTO(status_set(COAR_ERROR_MISMATCH, "%s: has changed since it was opened: nothing was written", m->path));
    status = write_whole(&e, output);
done:
    free(e.edited);
    tensor_table_close(&table);
    return status;
}
