/* Fuzzes the safetensors reader: headers that lie about anything. Tensors that are accepted are read to the end. */
#include "fuzz.h"

#include "core/memory.h"
#include "model/safetensors.h"

static void parse(const uint8_t *data, size_t size) {
    tensor_table table;
    status_clear();
    if (safetensors_parse("fuzz.safetensors", data, size, &table) != COAR_OK) return;
    for (size_t i = 0; i < table.count; i++) {
        float *values;
        if (tensor_to_f32(&table, &table.items[i], &values) == COAR_OK) free(values);
    }
    tensor_table_close(&table);
}

/* Most mutations make the header's length wrong, which hides what else they do: parse also with it put right. */
static void parse_twice(const uint8_t *data, size_t size) {
    parse(data, size);
    size_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy || end <= 8) {
        free(copy);
        return;
    }
    memcpy(copy, data, size);
    for (int i = 0; i < 8; i++) copy[i] = (uint8_t)((uint64_t)(end - 8) >> 8 * i);
    parse(copy, size);
    free(copy);
}

/* Header length, header, data of `bytes` counting bytes. */
static fuzz_seed file_of(const char *header, size_t bytes) {
    size_t length = strlen(header);
    uint8_t *data = calloc(1, 8 + length + bytes);
    if (!data) exit(2);
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(data + 8, header, length);
    for (size_t i = 0; i < bytes; i++) data[8 + length + i] = (uint8_t)(i & 63);
    return (fuzz_seed){data, 8 + length + bytes};
}

int main(void) {
    fuzz_seed seeds[] = {
        file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                "\"b.weight\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]}}",
                32),
        file_of("{\"__metadata__\":{\"heads\":\"4\",\"ln_eps\":\"1e-6\"},"
                "\"x\":{\"dtype\":\"BF16\",\"shape\":[1,1,8],\"data_offsets\":[0,16]},"
                "\"n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[16,24]},"
                "\"d\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[24,40]}}   ",
                40),
        file_of("{\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]},"
                "\"u\\u00e9\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}",
                5),
    };
    size_t count = sizeof seeds / sizeof *seeds;
    int code = fuzz_run("safetensors", seeds, count, 100000, parse_twice);
    for (size_t i = 0; i < count; i++) free((void *)(uintptr_t)seeds[i].data);
    return code;
}
