/* npy.c - see npy.h. Format: numpy.lib.format, NEP 1. */
#include "core/npy.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/half.h"
#include "core/memory.h"

static const struct {
    const char *code; /* descr without the byte order */
    size_t size;
} types[] = {
    [NPY_BOOL] = {"b1", 1}, [NPY_U8] = {"u1", 1},  [NPY_I8] = {"i1", 1},  [NPY_I16] = {"i2", 2},
    [NPY_U16] = {"u2", 2},  [NPY_I32] = {"i4", 4}, [NPY_U32] = {"u4", 4}, [NPY_I64] = {"i8", 8},
    [NPY_U64] = {"u8", 8},  [NPY_F16] = {"f2", 2}, [NPY_F32] = {"f4", 4}, [NPY_F64] = {"f8", 8},
};
enum { TYPE_COUNT = sizeof types / sizeof *types };

size_t npy_type_size(npy_type type) {
    return types[type].size;
}

static const char *const bad_header = "%s: header: not a .npy file that numpy.save writes (%s)";

/* The text after `key` and its colon in the header's Python dictionary, or NULL. */
static const char *field(const char *header, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *p = strstr(header, quoted);
    if (!p) return NULL;
    p += strlen(quoted);
    while (*p == ' ') p++;
    if (*p++ != ':') return NULL;
    while (*p == ' ') p++;
    return p;
}

static coar_status parse_descr(const char *path, const char *text, npy_type *type) {
    const char *end = text && *text == '\'' ? strchr(text + 1, '\'') : NULL;
    if (!end || end - text != 4) return status_set(COAR_ERROR_INPUT, bad_header, path, "descr");
    if (text[1] == '>' && text[3] != '1')
        return status_set(COAR_ERROR_INPUT, "%s: descr: big-endian data; save it as little endian", path);
    for (int i = 0; i < TYPE_COUNT; i++)
        if (!strncmp(text + 2, types[i].code, 2)) {
            *type = (npy_type)i;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_INPUT, "%s: descr: type '%.3s' is not supported", path, text + 1);
}

static coar_status parse_shape(const char *path, const char *text, npy_array *out) {
    if (!text || *text++ != '(') return status_set(COAR_ERROR_INPUT, bad_header, path, "shape");
    out->rank = 0;
    out->count = 1;
    for (;;) {
        while (*text == ' ' || *text == ',') text++;
        if (*text == ')') return COAR_OK;
        if (*text < '0' || *text > '9') return status_set(COAR_ERROR_INPUT, bad_header, path, "shape");
        if (out->rank == NPY_MAX_DIMENSIONS)
            return status_set(COAR_ERROR_INPUT, "%s: shape: more than %d dimensions", path, NPY_MAX_DIMENSIONS);
        char *end;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        if (errno || !size_mul(out->count, (size_t)value, &out->count))
            return status_set(COAR_ERROR_INPUT, "%s: shape: too large", path);
        out->shape[out->rank++] = (size_t)value;
        text = end;
    }
}

static coar_status parse_header(const char *path, char *header, npy_array *out) {
    TRY(parse_descr(path, field(header, "descr"), &out->type));
    const char *order = field(header, "fortran_order");
    if (!order || (strncmp(order, "False", 5) && strncmp(order, "True", 4)))
        return status_set(COAR_ERROR_INPUT, bad_header, path, "fortran_order");
    TRY(parse_shape(path, field(header, "shape"), out));
    if (order[0] == 'T' && out->rank > 1)
        return status_set(COAR_ERROR_INPUT, "%s: fortran_order: save it in C order (numpy.ascontiguousarray)", path);
    return COAR_OK;
}

coar_status npy_open(const char *path, npy_array *out) {
    npy_array array = {0};
    char *header = NULL;
    coar_status status;
    TRY(file_map_open(path, &array.map));
    const uint8_t *bytes = array.map.data;
    size_t size = array.map.size, start, length;
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6)) {
        status = status_set(COAR_ERROR_INPUT, bad_header, path, "magic");
        goto done;
    }
    if (bytes[6] == 1) {
        start = 10;
        length = bytes[8] | (size_t)bytes[9] << 8;
    } else if (bytes[6] == 2 || bytes[6] == 3) {
        start = 12;
        length = bytes[8] | (size_t)bytes[9] << 8 | (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    } else {
        status = status_set(COAR_ERROR_INPUT, "%s: header: .npy version %d is not supported", path, bytes[6]);
        goto done;
    }
    if (length > size - start) {
        status = status_set(COAR_ERROR_INPUT, "%s: header: longer than the file; is it truncated?", path);
        goto done;
    }
    TRY_GOTO(memory_new(length + 1, 1, "npy header", &header));
    memcpy(header, bytes + start, length);
    TRY_GOTO(parse_header(path, header, &array));
    size_t data_bytes;
    if (!size_mul(array.count, npy_type_size(array.type), &data_bytes) || data_bytes > size - start - length) {
        status = status_set(COAR_ERROR_INPUT, "%s: data: shorter than its shape says; is it truncated?", path);
        goto done;
    }
    array.data = bytes + start + length;
    *out = array;
done:
    free(header);
    if (status != COAR_OK) file_map_close(&array.map);
    return status;
}

void npy_close(npy_array *array) {
    file_map_close(&array->map);
    *array = (npy_array){0};
}

#define LOAD(type_name, value)                                                                                         \
    type_name value;                                                                                                   \
    memcpy(&value, (const char *)array->data + i * sizeof value, sizeof value)

int64_t npy_get_int(const npy_array *array, size_t i) {
    switch (array->type) {
    case NPY_BOOL:
    case NPY_U8: {
        LOAD(uint8_t, v);
        return v;
    }
    case NPY_I8: {
        LOAD(int8_t, v);
        return v;
    }
    case NPY_I16: {
        LOAD(int16_t, v);
        return v;
    }
    case NPY_U16: {
        LOAD(uint16_t, v);
        return v;
    }
    case NPY_I32: {
        LOAD(int32_t, v);
        return v;
    }
    case NPY_U32: {
        LOAD(uint32_t, v);
        return v;
    }
    case NPY_I64: {
        LOAD(int64_t, v);
        return v;
    }
    case NPY_U64: {
        LOAD(uint64_t, v);
        return v > INT64_MAX ? INT64_MAX : (int64_t)v;
    }
    default:
        return (int64_t)npy_get_double(array, i);
    }
}

double npy_get_double(const npy_array *array, size_t i) {
    switch (array->type) {
    case NPY_F16: {
        LOAD(uint16_t, v);
        return half_to_float(v);
    }
    case NPY_F32: {
        LOAD(float, v);
        return v;
    }
    case NPY_F64: {
        LOAD(double, v);
        return v;
    }
    case NPY_U64: {
        LOAD(uint64_t, v);
        return (double)v;
    }
    default:
        return (double)npy_get_int(array, i);
    }
}

coar_status npy_header(npy_type type, int rank, const size_t *shape, uint8_t **header, size_t *size) {
    char text[320];
    int used = snprintf(text, sizeof text, "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
                        npy_type_size(type) == 1 ? "|" : "<", types[type].code);
    for (int i = 0; i < rank; i++)
        used +=
            snprintf(text + used, sizeof text - (size_t)used, "%zu%s", shape[i], rank == 1 || i + 1 < rank ? ", " : "");
    used += snprintf(text + used, sizeof text - (size_t)used, "), }");
    size_t total = (10 + (size_t)used + 1 + 63) / 64 * 64, length = total - 10;
    uint8_t *bytes;
    TRY(memory_new(total, 1, "npy header", &bytes));
    memset(bytes, ' ', total);
    memcpy(bytes, "\x93NUMPY\x01\x00", 8);
    bytes[8] = (uint8_t)length;
    bytes[9] = (uint8_t)(length >> 8);
    memcpy(bytes + 10, text, (size_t)used);
    bytes[total - 1] = '\n';
    *header = bytes;
    *size = total;
    return COAR_OK;
}

/* Header and data, to a file of its own. */
static coar_status write_parts(const char *path, const void *header, size_t header_size, const void *data,
                               size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
    errno = 0;
    bool failed = fwrite(header, 1, header_size, file) != header_size || (size && fwrite(data, 1, size, file) != size);
    failed |= fclose(file) != 0; /* both are tried: the file is closed whatever came before */
    return failed ? status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path) : COAR_OK;
}

coar_status npy_write(const char *path, npy_type type, int rank, const size_t *shape, const void *data) {
    coar_status status;
    uint8_t *header = NULL;
    size_t header_size, bytes = npy_type_size(type);
    char *temporary = file_temporary(path);
    if (!temporary) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    for (int i = 0; i < rank; i++)
        if (!size_mul(bytes, shape[i], &bytes)) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: shape: too large", path));
    TRY_GOTO(npy_header(type, rank, shape, &header, &header_size));
    status = write_parts(temporary, header, header_size, data, bytes);
    if (status == COAR_OK)
        status = file_commit(temporary, path);
    else
        unlink(temporary);
done:
    free(temporary);
    free(header);
    return status;
}
