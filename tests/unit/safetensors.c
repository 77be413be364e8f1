/* The safetensors reader: hostile headers, each with its one-line error; types; writing and reading back. */
#include <stdint.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/status.h"
#include "model/safetensors.h"
#include "test.h"

/* Writes length, header and `bytes` zero bytes; length < 0 means the header's own. */
static const char *file_of(long long length, const char *header, size_t header_size, size_t bytes) {
    const char *path = test_temporary("w.safetensors");
    uint8_t *data = calloc(1, 8 + header_size + bytes);
    uint64_t stated = length < 0 ? header_size : (uint64_t)length;
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)(stated >> 8 * i);
    memcpy(data + 8, header, header_size);
    CHECK_OK(file_write(path, data, 8 + header_size + bytes));
    free(data);
    return path;
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct hostile {
    const char *what, *header;
    size_t bytes;      /* after the header */
    long long length;  /* stated; -1 = the truth */
    const char *error; /* a part of the message */
} cases[] = {
    {"a length beyond the file", "{}", 0, 100, "header length 100 is larger than the file"},
    {"a length near 2^63", "{}", 0, INT64_MAX, "is larger than the file"},
    {"a length near 2^64", "{}", 0, -2, "is larger than the file"},
    {"an empty header", "", 8, 0, "the header is not JSON"},
    {"a header that is not JSON", "{\"a\":", 0, -1, "the header is not JSON"},
    {"text after the object", "{" A "} x", 8, -1, "the header is not JSON"},
    {"an array", "[1,2]", 0, -1, "not a JSON object"},
    {"a header that is not UTF-8", "{\"\xff\xfe\":1}", 0, -1, "not UTF-8"},
    {"an overlong UTF-8 form", "{\"\xc0\xaf\":1}", 0, -1, "not UTF-8"},
    {"a surrogate in UTF-8", "{\"\xed\xa0\x80\":1}", 0, -1, "not UTF-8"},
    {"no tensor", "{}", 0, -1, "holds no tensor"},
    {"only metadata", "{\"__metadata__\":{\"a\":\"b\"}}", 0, -1, "holds no tensor"},
    {"an entry that is no object", "{\"a\":3}", 0, -1, "tensor 'a': its entry in the header is not an object"},
    {"an empty name", "{" T("", "\"F32\"", "[2]", "[0,8]") "}", 8, -1, "its name is empty"},
    {"no dtype", "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "tensor 'a': dtype is missing"},
    {"a dtype that is a number", "{" T("a", "32", "[2]", "[0,8]") "}", 8, -1, "tensor 'a': dtype is missing or not"},
    {"an unknown dtype", "{" T("a", "\"F31\"", "[2]", "[0,8]") "}", 8, -1, "tensor 'a': unknown dtype 'F31'"},
    {"no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, -1, "tensor 'a': shape is missing"},
    {"a shape that is text", "{" T("a", "\"F32\"", "\"2\"", "[0,8]") "}", 8, -1, "tensor 'a': shape is missing or not"},
    {"a negative size", "{" T("a", "\"F32\"", "[-2]", "[0,8]") "}", 8, -1, "tensor 'a': shape holds something"},
    {"a fractional size", "{" T("a", "\"F32\"", "[1.5]", "[0,8]") "}", 8, -1, "tensor 'a': shape holds something"},
    {"a size of 2^53", "{" T("a", "\"F32\"", "[9007199254740992]", "[0,8]") "}", 8, -1, "shape holds something"},
    {"a size beyond any number", "{" T("a", "\"F32\"", "[1e999]", "[0,8]") "}", 8, -1, "shape holds something"},
    {"an overflowing shape", "{" T("a", "\"F32\"", "[4294967296,4294967296,1]", "[0,8]") "}", 8, -1,
     "product overflows"},
    {"bytes that overflow", "{" T("a", "\"F64\"", "[4503599627370496,1024]", "[0,0]") "}", 0, -1, "do not fill"},
    {"nine dimensions", "{" T("a", "\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, -1, "more than 8 dimensions"},
    {"a nested shape", "{" T("a", "\"F32\"", "[[2]]", "[0,8]") "}", 8, -1, "tensor 'a': shape holds something"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, -1, "tensor 'a': data_offsets is missing"},
    {"one offset", "{" T("a", "\"F32\"", "[2]", "[0]") "}", 8, -1, "tensor 'a': data_offsets must be [begin, end]"},
    {"three offsets", "{" T("a", "\"F32\"", "[2]", "[0,8,8]") "}", 8, -1,
     "tensor 'a': data_offsets must be [begin, end]"},
    {"offsets backwards", "{" T("a", "\"F32\"", "[2]", "[8,0]") "}", 8, -1, "tensor 'a': data_offsets must be [begin"},
    {"a negative offset", "{" T("a", "\"F32\"", "[2]", "[-8,0]") "}", 8, -1, "tensor 'a': data_offsets must be [begin"},
    {"data outside the file", "{" T("a", "\"F32\"", "[2]", "[0,8]") "}", 7, -1,
     "data_offsets end at 8, but only 7 bytes"},
    {"data far outside", "{" T("a", "\"F32\"", "[2]", "[1099511627776,1099511627784]") "}", 8, -1, "but only 8 bytes"},
    {"a shape too large for its bytes", "{" T("a", "\"F32\"", "[3]", "[0,8]") "}", 8, -1,
     "do not fill data_offsets' 8"},
    {"a shape too small for its bytes", "{" T("a", "\"F16\"", "[3]", "[0,8]") "}", 8, -1,
     "do not fill data_offsets' 8"},
    {"overlapping tensors", "{" A "," T("b", "\"F32\"", "[2]", "[4,12]") "}", 12, -1,
     "tensor 'b': data_offsets overlap"},
    {"the same bytes twice", "{" A "," T("b", "\"F32\"", "[2]", "[0,8]") "}", 8, -1, "overlap"},
    {"a gap", "{" A "," T("b", "\"F32\"", "[2]", "[12,20]") "}", 20, -1, "tensor 'b': data_offsets leave a gap of 4"},
    {"a gap before the first", "{" T("b", "\"F32\"", "[2]", "[4,12]") "}", 12, -1,
     "tensor 'b': data_offsets leave a gap"},
    {"bytes behind the last", "{" A "}", 9, -1, "1 bytes after the last tensor"},
    {"a name twice", "{" A "," T("a", "\"F32\"", "[2]", "[8,16]") "}", 16, -1, "two tensors are called 'a'"},
    {"a field twice", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1,
     "has fields other than one"},
    {"an unknown field", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, -1,
     "has fields other than one"},
    {"metadata that is text", "{\"__metadata__\":\"x\"," A "}", 8, -1, "__metadata__ is not an object"},
    {"metadata that is a number", "{\"__metadata__\":{\"heads\":4}," A "}", 8, -1,
     "__metadata__: 'heads' is not a string"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}," A "}", 8, -1, "__metadata__ is there twice"},
    {"a metadata key twice", "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," A "}", 8, -1, "'a' is there twice"},
    {"an escape at the very end", "{\"a\\", 0, -1, "the header is not JSON"},
};

static void check_refused(const char *path, const char *error) {
    tensor_table table = {0};
    status_clear();
    CHECK_ERROR(safetensors_open(path, &table), COAR_ERROR_INPUT, error);
    CHECK(strstr(coar_last_error(), "w.safetensors") != NULL);
    CHECK(strchr(coar_last_error(), '\n') == NULL);
    CHECK(table.items == NULL && table.count == 0);
    status_clear();
}

static void test_hostile(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct hostile *c = &cases[i];
        test_begin("refused: %s", c->what);
        long long length = c->length == -2 ? (long long)0x7ffffffffffffff0 : c->length;
        check_refused(file_of(length, c->header, strlen(c->header), c->bytes), c->error);
    }
}

static void test_more_hostile(void) {
    test_begin("refused: a thousand nested arrays");
    char *deep = malloc(200000);
    memset(deep, '[', 200000);
    check_refused(file_of(-1, deep, 200000, 0), "the header is not JSON");
    free(deep);
    test_begin("refused: a NUL in the header");
    check_refused(file_of(-1, "{}\0{}", 5, 0), "not UTF-8");
    test_begin("refused: seven bytes");
    const char *path = test_temporary("w.safetensors");
    CHECK_OK(file_write(path, "1234567", 7));
    check_refused(path, "shorter than 8 bytes");
    test_begin("refused: an empty file");
    CHECK_OK(file_write(path, "", 0));
    check_refused(path, "shorter than 8 bytes");
    test_begin("refused: no file");
    tensor_table table;
    CHECK_ERROR(safetensors_open(test_temporary("absent.safetensors"), &table), COAR_ERROR_IO, "absent.safetensors");
    status_clear();
    test_begin("refused: a header of more than 16 MiB");
    size_t size = ((size_t)16 << 20) + 1;
    char *spaces = malloc(size);
    memset(spaces, ' ', size);
    check_refused(file_of(-1, spaces, size, 0), "is above");
    free(spaces);
}

/* One tensor of `type` with the given bytes, read as fp32. */
static coar_status read_as_f32(const char *type, size_t count, const void *bytes, size_t size, float *out) {
    char header[128];
    uint8_t file[512] = {0};
    tensor_table table;
    float *values;
    int length = snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}",
                          type, count, size);
    file[0] = (uint8_t)length;
    memcpy(file + 8, header, (size_t)length);
    memcpy(file + 8 + length, bytes, size); /* at an odd address for most lengths */
    TRY(safetensors_parse("memory", file, 8 + (size_t)length + size, &table));
    coar_status status = tensor_to_f32(&table, &table.items[0], &values);
    CHECK_INT(table.items[0].used, status == COAR_OK);
    if (status == COAR_OK) {
        memcpy(out, values, count * sizeof *out);
        free(values);
    }
    tensor_table_close(&table);
    return status;
}

static void test_types(void) {
    float got[8];
    test_begin("fp16: normal, subnormal, largest, negative zero");
    uint16_t half[] = {0x3c00, 0xc000, 0x3555, 0x0001, 0x83ff, 0x7bff, 0x8000, 0x0400};
    float half_values[] = {1, -2, 0.333251953125f, 0x1p-24f, -0x1.ff8p-15f, 65504, -0.0f, 0x1p-14f};
    CHECK_OK(read_as_f32("F16", 8, half, sizeof half, got));
    CHECK(memcmp(got, half_values, sizeof got) == 0);
    test_begin("bf16");
    uint16_t brain[] = {0x3f80, 0xc040, 0x0001, 0x7f7f};
    float brain_values[] = {1, -3, 0x1p-133f, 0x1.fep127f};
    CHECK_OK(read_as_f32("BF16", 4, brain, sizeof brain, got));
    CHECK(memcmp(got, brain_values, sizeof brain_values) == 0);
    test_begin("fp64 and fp32");
    double wide[] = {0.1, -1e-300, 3.4028234663852886e38};
    CHECK_OK(read_as_f32("F64", 3, wide, sizeof wide, got));
    CHECK(got[0] == 0.1f && got[1] == 0 && got[2] == 3.40282347e38f);
    float narrow[] = {0.25f, -7};
    CHECK_OK(read_as_f32("F32", 2, narrow, sizeof narrow, got));
    CHECK(got[0] == 0.25f && got[1] == -7);

    test_begin("NaN, infinity, overflow and integers are refused");
    float bad[] = {1, 2, NAN};
    CHECK_ERROR(read_as_f32("F32", 3, bad, sizeof bad, got), COAR_ERROR_INPUT, "tensor 't': element 2 is NaN");
    status_clear();
    half[5] = 0x7c00;
    CHECK_ERROR(read_as_f32("F16", 8, half, sizeof half, got), COAR_ERROR_INPUT, "tensor 't': element 5 is infinite");
    status_clear();
    half[5] = 0xfe01;
    CHECK_ERROR(read_as_f32("F16", 8, half, sizeof half, got), COAR_ERROR_INPUT, "element 5 is NaN");
    status_clear();
    brain[3] = 0xff80;
    CHECK_ERROR(read_as_f32("BF16", 4, brain, sizeof brain, got), COAR_ERROR_INPUT, "element 3 is infinite");
    status_clear();
    wide[1] = 1e39;
    CHECK_ERROR(read_as_f32("F64", 3, wide, sizeof wide, got), COAR_ERROR_INPUT, "element 1 is infinite (or too large");
    status_clear();
    CHECK_ERROR(read_as_f32("I64", 1, wide, 8, got), COAR_ERROR_INPUT, "tensor 't': dtype must be");
    status_clear();
}

static void test_write(void) {
    test_begin("what is written reads back: names, shapes, metadata, bits");
    const char *path = test_temporary("written.safetensors");
    tensor_table table = {.path = strdup("generated")}, read;
    float *first = malloc(6 * sizeof *first), *second = malloc(sizeof *second), *values;
    for (int i = 0; i < 6; i++) first[i] = (float)i / 3;
    *second = -0.0f;
    CHECK_OK(tensor_table_add(&table, "layer \"x\".weight", 2, (size_t[]){2, 3}, first));
    CHECK_OK(tensor_table_add(&table, "scalar", 0, NULL, second));
    CHECK_OK(tensor_table_add_metadata(&table, "mean", ".5,.5"));
    CHECK_OK(tensor_table_index(&table));
    CHECK_OK(safetensors_write(path, &table));
    CHECK_OK(safetensors_open(path, &read));
    CHECK_INT(read.count, 2);
    CHECK_TEXT(tensor_metadata(&read, "mean"), ".5,.5");
    CHECK(tensor_metadata(&read, "std") == NULL);
    CHECK(tensor_find(&read, "absent") == NULL);
    tensor *t = tensor_find(&read, "layer \"x\".weight");
    CHECK(t && t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    CHECK(t && tensor_equal(t, tensor_find(&table, "layer \"x\".weight")));
    CHECK(t && !tensor_equal(t, tensor_find(&table, "scalar")));
    CHECK(tensor_find(&read, "scalar") && tensor_find(&read, "scalar")->rank == 0);

    test_begin("an array that the table owns is handed over once");
    CHECK_OK(tensor_to_f32(&table, tensor_find(&table, "scalar"), &values));
    CHECK(values == second);
    free(values);
    CHECK_ERROR(tensor_to_f32(&table, tensor_find(&table, "scalar"), &values), COAR_ERROR_INTERNAL, "taken before");
    status_clear();
    tensor_table_close(&table);
    tensor_table_close(&read);
}

/* Weights of a run are in memory once: while they are read and hashed the file's pages are given back. They are read again
 * here for comparison. */
static void test_memory(void) {
    enum { COUNT = 4 << 20 };
    const double size = COUNT * sizeof(float);
    const char *path = test_temporary("large.safetensors");
    const size_t shape = COUNT;
    tensor_table table = {0};
    float *values = NULL;
    char hex[65], whole[65];
    uint32_t crc = 0;
    test_begin("pages of the file do not stay in memory beside the array");
    if (memory_resident() == 0) {
        test_skip("there is no /proc");
        return;
    }
    CHECK_OK(memory_new(COUNT, sizeof *values, "a tensor", &values));
    for (size_t i = 0; i < COUNT; i++) values[i] = (float)i;
    CHECK_OK(tensor_table_add(&table, "a", 1, &shape, values));
    CHECK_OK(safetensors_write(path, &table));
    tensor_table_close(&table);
    CHECK_OK(safetensors_open(path, &table));
    CHECK_OK(tensor_to_f32(&table, tensor_find(&table, "a"), &values));
    CHECK(values[1] == 1 && values[COUNT - 1] == COUNT - 1);
    const double read = (double)memory_resident();
    for (size_t i = 0; i < table.map.size; i += 512) crc = crc32c(crc, table.map.data + i, 1);
    CHECK_NEAR(((double)memory_resident() - read) / size, 1, 0.1);
    CHECK_OK(file_map_sha256(&table.map, hex));
    CHECK_NEAR(((double)memory_resident() - read) / size, 0, 0.25); /* pages around the last one may come along */
    CHECK_OK(file_sha256(path, whole));
    CHECK_TEXT(hex, whole);
    free(values);
    tensor_table_close(&table);
}

int main(void) {
    test_hostile();
    test_more_hostile();
    test_types();
    test_write();
    test_memory();
    return test_end();
}
