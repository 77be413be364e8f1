/* tensors.c - see tensors.h. */
#include "model/tensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/memory.h"

void tensor_table_close(tensor_table *table) {
    for (size_t i = 0; i < table->count; i++) {
        free(table->items[i].name);
        free(table->items[i].owned);
    }
    for (size_t i = 0; i < table->meta_count; i++) {
        free(table->meta_keys[i]);
        free(table->meta_values[i]);
    }
    free(table->items);
    free(table->by_name);
    free(table->meta_keys);
    free(table->meta_values);
    free(table->path);
    file_map_close(&table->map);
    memset(table, 0, sizeof *table);
}

static coar_status copy_text(const char *text, char **out) {
    *out = strdup(text);
    return *out ? COAR_OK : status_set(COAR_ERROR_MEMORY, "not enough memory for the names of tensors");
}

coar_status tensor_table_push(tensor_table *table, const tensor *t, const char *name) {
    TRY(memory_grow(&table->items, &table->capacity, table->count + 1, sizeof *table->items, "tensor table"));
    char *copy;
    TRY(copy_text(name, &copy));
    table->items[table->count] = *t;
    table->items[table->count++].name = copy;
    return COAR_OK;
}

coar_status tensor_table_add(tensor_table *table, const char *name, int rank, const size_t *shape, float *data) {
    tensor t = {.type = TENSOR_F32, .rank = rank, .count = 1, .data = data, .owned = data};
    for (int d = 0; d < rank; d++) {
        t.shape[d] = shape[d];
        t.count *= shape[d];
    }
    t.bytes = t.count * sizeof(float);
    coar_status status = tensor_table_push(table, &t, name);
    if (status != COAR_OK) free(data);
    return status;
}

coar_status tensor_table_add_metadata(tensor_table *table, const char *key, const char *value) {
    size_t capacity = table->meta_capacity; /* both arrays grow alike */
    TRY(memory_grow(&table->meta_keys, &capacity, table->meta_count + 1, sizeof(char *), "metadata"));
    TRY(memory_grow(&table->meta_values, &table->meta_capacity, table->meta_count + 1, sizeof(char *), "metadata"));
    char *key_copy, *value_copy;
    TRY(copy_text(key, &key_copy));
    if (copy_text(value, &value_copy) != COAR_OK) {
        free(key_copy);
        return COAR_ERROR_MEMORY;
    }
    table->meta_keys[table->meta_count] = key_copy;
    table->meta_values[table->meta_count++] = value_copy;
    return COAR_OK;
}

static int compare_names(const void *a, const void *b, void *items) {
    const tensor *t = items;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

coar_status tensor_table_index(tensor_table *table) {
    free(table->by_name);
    table->by_name = NULL;
    TRY(memory_new(table->count, sizeof *table->by_name, "index of tensor names", &table->by_name));
    for (size_t i = 0; i < table->count; i++) table->by_name[i] = i;
    if (table->count) qsort_r(table->by_name, table->count, sizeof *table->by_name, compare_names, table->items);
    for (size_t i = 1; i < table->count; i++)
        if (compare_names(&table->by_name[i - 1], &table->by_name[i], table->items) == 0)
            return status_set(COAR_ERROR_INPUT, "%s: two tensors are called '%s'", table->path,
                              table->items[table->by_name[i]].name);
    return COAR_OK;
}

tensor *tensor_find(const tensor_table *table, const char *name) {
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        tensor *t = &table->items[table->by_name[middle]];
        int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *tensor_metadata(const tensor_table *table, const char *key) {
    for (size_t i = 0; i < table->meta_count; i++)
        if (strcmp(table->meta_keys[i], key) == 0) return table->meta_values[i];
    return NULL;
}

static void convert(const tensor *t, float *out) {
    const char *data = t->data;
    uint16_t half;
    double wide;
    switch (t->type) {
    case TENSOR_F32:
        memcpy(out, data, t->bytes);
        break;
    case TENSOR_F16:
        for (size_t i = 0; i < t->count; i++) {
            memcpy(&half, data + 2 * i, 2);
            out[i] = half_to_float(half);
        }
        break;
    case TENSOR_BF16:
        for (size_t i = 0; i < t->count; i++) {
            memcpy(&half, data + 2 * i, 2);
            out[i] = bfloat_to_float(half);
        }
        break;
    case TENSOR_F64:
        for (size_t i = 0; i < t->count; i++) {
            memcpy(&wide, data + 8 * i, 8);
            out[i] = fabs(wide) > 3.4028234663852886e38 ? INFINITY : (float)wide; /* FLT_MAX; NaN stays NaN */
        }
        break;
    case TENSOR_I64:
    case TENSOR_OTHER:
        break; /* refused by the caller */
    }
}

coar_status tensor_to_f32(const tensor_table *table, tensor *t, float **out) {
    if (t->type == TENSOR_I64 || t->type == TENSOR_OTHER)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': dtype must be F32, F16, BF16 or F64", table->path,
                          t->name);
    if (!t->data) return status_set(COAR_ERROR_INTERNAL, "%s: tensor '%s' was taken before", table->path, t->name);
    float *values = t->owned;
    if (!values) {
        TRY(memory_new(t->count, sizeof *values, t->name, &values));
        convert(t, values);
        file_map_release(&table->map, t->data, t->bytes);
    }
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(values[i])) {
            const char *what = isnan(values[i]) ? "NaN" : "infinite (or too large for fp32)";
            if (!t->owned) free(values);
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': element %zu is %s", table->path, t->name, i, what);
        }
    if (t->owned) t->data = t->owned = NULL;
    t->used = 1;
    *out = values;
    return COAR_OK;
}

bool tensor_equal(const tensor *a, const tensor *b) {
    return a->type == b->type && a->rank == b->rank && a->bytes == b->bytes &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0 &&
           (a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
}

const char *tensor_shape_text(int rank, const size_t *shape, char *buffer, size_t size) {
    size_t used = (size_t)snprintf(buffer, size, "[");
    for (int d = 0; d < rank && used < size; d++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%zu", d ? ", " : "", shape[d]);
    if (used < size) snprintf(buffer + used, size - used, "]");
    return buffer;
}
