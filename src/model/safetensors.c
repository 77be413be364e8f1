/* safetensors.c - see safetensors.h. The checks follow the format's own rules: the header is an object of
 * {"dtype", "shape", "data_offsets"} entries whose ranges cover the bytes after it exactly, once, without gaps. */
#include "model/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/memory.h"
#include "core/text.h"

enum { HEADER_MAX = 16 << 20 }; /* bytes; 200,000 tensors. Bounds what a lying header makes the parser allocate */

static const struct dtype {
    const char *name;
    tensor_type type;
    size_t size; /* bytes of an element */
} dtypes[] = {
    {"F32", TENSOR_F32, 4},   {"F16", TENSOR_F16, 2},       {"BF16", TENSOR_BF16, 2},     {"F64", TENSOR_F64, 8},
    {"I64", TENSOR_I64, 8},   {"BOOL", TENSOR_OTHER, 1},    {"U8", TENSOR_OTHER, 1},      {"I8", TENSOR_OTHER, 1},
    {"U16", TENSOR_OTHER, 2}, {"I16", TENSOR_OTHER, 2},     {"U32", TENSOR_OTHER, 4},     {"I32", TENSOR_OTHER, 4},
    {"U64", TENSOR_OTHER, 8}, {"F8_E4M3", TENSOR_OTHER, 1}, {"F8_E5M2", TENSOR_OTHER, 1},
};

/* A non-negative integer that a double holds exactly. */
static bool json_size(const cJSON *item, size_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= 9007199254740992.0) return false;
    size_t value = (size_t)item->valuedouble;
    if ((double)value != item->valuedouble) return false;
    *out = value;
    return true;
}

static coar_status bad(const char *path, const char *name, const char *problem) {
    return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': %s", path, name, problem);
}

static coar_status parse_shape(const char *path, const char *name, const cJSON *shape, tensor *t) {
    if (!cJSON_IsArray(shape)) return bad(path, name, "shape is missing or not an array");
    t->count = 1;
    const cJSON *size;
    cJSON_ArrayForEach(size, shape) {
        if (t->rank == TENSOR_MAX_RANK) return bad(path, name, "shape has more than 8 dimensions");
        if (!json_size(size, &t->shape[t->rank])) return bad(path, name, "shape holds something that is not a size");
        if (!size_mul(t->count, t->shape[t->rank], &t->count)) return bad(path, name, "shape's product overflows");
        t->rank++;
    }
    return COAR_OK;
}

/* `data`: the bytes after the header, `size` of them. */
static coar_status parse_tensor(const char *path, const cJSON *entry, const uint8_t *data, size_t size, tensor *t) {
    const char *name = entry->string;
    if (!cJSON_IsObject(entry)) return bad(path, name, "its entry in the header is not an object");
    if (name[0] == '\0') return bad(path, name, "its name is empty");
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    if (!cJSON_IsString(dtype)) return bad(path, name, "dtype is missing or not a string");
    TRY(parse_shape(path, name, shape, t));
    if (!cJSON_IsArray(offsets)) return bad(path, name, "data_offsets is missing or not an array");
    if (cJSON_GetArraySize(entry) != 3)
        return bad(path, name, "has fields other than one dtype, shape and data_offsets");

    size_t element = 0, begin, end, bytes;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, dtype->valuestring) == 0) {
            t->type = dtypes[i].type;
            element = dtypes[i].size;
        }
    if (!element)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': unknown dtype '%s'", path, name, dtype->valuestring);
    if (cJSON_GetArraySize(offsets) != 2 || !json_size(offsets->child, &begin) ||
        !json_size(offsets->child->next, &end) || begin > end)
        return bad(path, name, "data_offsets must be [begin, end] with begin <= end");
    if (end > size)
        return status_set(COAR_ERROR_INPUT,
                          "%s: tensor '%s': data_offsets end at %zu, but only %zu bytes follow the header (truncated?)",
                          path, name, end, size);
    if (!size_mul(t->count, element, &bytes) || bytes != end - begin)
        return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': %zu elements of %s do not fill data_offsets' %zu bytes",
                          path, name, t->count, dtype->valuestring, end - begin);
    t->bytes = bytes;
    t->data = data + begin;
    return COAR_OK;
}

static coar_status parse_metadata(const char *path, const cJSON *metadata, tensor_table *table) {
    if (!cJSON_IsObject(metadata)) return status_set(COAR_ERROR_INPUT, "%s: __metadata__ is not an object", path);
    const cJSON *item;
    cJSON_ArrayForEach(item, metadata) {
        if (!cJSON_IsString(item))
            return status_set(COAR_ERROR_INPUT, "%s: __metadata__: '%s' is not a string", path, item->string);
        if (tensor_metadata(table, item->string))
            return status_set(COAR_ERROR_INPUT, "%s: __metadata__: '%s' is there twice", path, item->string);
        TRY(tensor_table_add_metadata(table, item->string, item->valuestring));
    }
    return COAR_OK;
}

static int compare_data(const void *a, const void *b) {
    const tensor *s = a, *t = b;
    if (s->data != t->data) return (const char *)s->data < (const char *)t->data ? -1 : 1;
    return s->bytes < t->bytes ? -1 : s->bytes > t->bytes; /* empty tensors before the one that starts there */
}

/* The tensors, sorted by place, must cover the data exactly. */
static coar_status check_cover(const tensor_table *table, const uint8_t *data, size_t size) {
    const uint8_t *end = data;
    for (size_t i = 0; i < table->count; i++) {
        const tensor *t = &table->items[i];
        if ((const uint8_t *)t->data < end)
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': data_offsets overlap those of '%s'", table->path,
                              t->name, table->items[i - 1].name);
        if ((const uint8_t *)t->data > end)
            return status_set(COAR_ERROR_INPUT, "%s: tensor '%s': data_offsets leave a gap of %zu bytes before it",
                              table->path, t->name, (size_t)((const uint8_t *)t->data - end));
        end = (const uint8_t *)t->data + t->bytes;
    }
    if (end != data + size)
        return status_set(COAR_ERROR_INPUT, "%s: %zu bytes after the last tensor belong to none", table->path,
                          (size_t)(data + size - end));
    return COAR_OK;
}

/* Parses the header's text. The copy with zeros behind it is for cJSON, whose escapes may look one byte too far. */
static coar_status parse_header(const char *path, const uint8_t *text, size_t length, cJSON **out) {
    enum { PADDING = 16 };
    char *copy;
    if (!utf8_valid((const char *)text, length))
        return status_set(COAR_ERROR_INPUT, "%s: the header is not UTF-8", path);
    TRY(memory_new(length + PADDING, 1, "safetensors header", &copy));
    memcpy(copy, text, length);
    const char *end = copy;
    coar_status status = COAR_OK;
    cJSON *root = cJSON_ParseWithLengthOpts(copy, length + 1, &end, 1);
    if (!root)
        status =
            status_set(COAR_ERROR_INPUT, "%s: the header is not JSON (near its byte %zu)", path, (size_t)(end - copy));
    else if (!cJSON_IsObject(root))
        status = status_set(COAR_ERROR_INPUT, "%s: the header is not a JSON object", path);
    free(copy);
    if (status == COAR_OK)
        *out = root;
    else
        cJSON_Delete(root);
    return status;
}

coar_status safetensors_parse(const char *path, const uint8_t *bytes, size_t size, tensor_table *out) {
    uint64_t length = 0;
    if (size < 8) return status_set(COAR_ERROR_INPUT, "%s: is no safetensors file: shorter than 8 bytes", path);
    for (int i = 7; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > size - 8)
        return status_set(COAR_ERROR_INPUT,
                          "%s: header length %llu is larger than the file (truncated, or no safetensors)", path,
                          (unsigned long long)length);
    if (length > HEADER_MAX)
        return status_set(COAR_ERROR_INPUT, "%s: header length %llu is above %d bytes", path,
                          (unsigned long long)length, HEADER_MAX);
    const uint8_t *data = bytes + 8 + length;
    size_t data_size = size - 8 - (size_t)length;

    coar_status status;
    tensor_table table = {0};
    cJSON *root = NULL;
    const cJSON *entry;
    int metadata_seen = 0;
    TRY_GOTO(parse_header(path, bytes + 8, (size_t)length, &root));
    table.path = strdup(path);
    if (!table.path) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    cJSON_ArrayForEach(entry, root) {
        if (strcmp(entry->string, "__metadata__") == 0) {
            if (metadata_seen++) TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: __metadata__ is there twice", path));
            TRY_GOTO(parse_metadata(path, entry, &table));
            continue;
        }
        tensor t = {0};
        TRY_GOTO(parse_tensor(path, entry, data, data_size, &t));
        TRY_GOTO(tensor_table_push(&table, &t, entry->string));
    }
    if (table.count == 0) TRY_GOTO(status_set(COAR_ERROR_INPUT, "%s: holds no tensor", path));
    qsort(table.items, table.count, sizeof *table.items, compare_data);
    TRY_GOTO(tensor_table_index(&table)); /* before the cover: a duplicate name is the better message */
    TRY_GOTO(check_cover(&table, data, data_size));
    *out = table;
    memset(&table, 0, sizeof table);
done:
    cJSON_Delete(root);
    tensor_table_close(&table);
    return status;
}

coar_status safetensors_open(const char *path, tensor_table *out) {
    file_map map = {0};
    TRY(file_map_open(path, &map));
    coar_status status = safetensors_parse(path, map.data, map.size, out);
    if (status == COAR_OK)
        out->map = map;
    else
        file_map_close(&map);
    return status;
}

/* The header for fp32 tensors one after another; NULL when out of memory. */
static char *header_text(const tensor_table *table) {
    cJSON *root = cJSON_CreateObject();
    if (table->meta_count) {
        cJSON *metadata = cJSON_AddObjectToObject(root, "__metadata__");
        for (size_t i = 0; i < table->meta_count; i++)
            cJSON_AddStringToObject(metadata, table->meta_keys[i], table->meta_values[i]);
    }
    size_t offset = 0;
    for (size_t i = 0; i < table->count; i++) {
        const tensor *t = &table->items[i];
        cJSON *entry = cJSON_CreateObject(), *shape, *offsets;
        cJSON_AddStringToObject(entry, "dtype", "F32");
        shape = cJSON_AddArrayToObject(entry, "shape");
        for (int d = 0; d < t->rank; d++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[d]));
        offsets = cJSON_AddArrayToObject(entry, "data_offsets");
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)offset));
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)(offset + t->bytes)));
        cJSON_AddItemToObject(root, t->name, entry);
        offset += t->bytes;
    }
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return text;
}

coar_status safetensors_write(const char *path, const tensor_table *table) {
    coar_status status = COAR_OK;
    FILE *f = NULL;
    char *temporary = file_temporary(path), *header = header_text(table);
    if (!temporary || !header) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory for its header", path));
    f = fopen(temporary, "wb");
    if (!f) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot be created", temporary));

    size_t length = strlen(header), padded = (length + 7) & ~(size_t)7; /* the format: tensors start 8-byte aligned */
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    fwrite(prefix, 1, 8, f);
    fprintf(f, "%-*s", (int)padded, header);
    for (size_t i = 0; i < table->count; i++) {
        const tensor *t = &table->items[i];
        if (t->type != TENSOR_F32 || !t->data)
            TRY_GOTO(status_set(COAR_ERROR_INTERNAL, "%s: tensor '%s' is not fp32 or was taken", path, t->name));
        fwrite(t->data, 1, t->bytes, f);
    }
    if (fflush(f) || ferror(f)) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot be written", path));
    fclose(f);
    f = NULL;
    status = file_commit(temporary, path);
done:
    if (f) {
        fclose(f);
        unlink(temporary);
    }
    free(header);
    free(temporary);
    return status;
}
