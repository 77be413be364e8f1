/* info.c - coar_info tells weights, data and runs apart by their content and describes them as text and JSON. */
#include "test.h"

#include <cjson/cJSON.h>

#include "data/dataset.h"
#include "model/model.h"
#include "store/store.h"

static void make_weights(const char *path) {
    tensor_table table = {0};
    CHECK_OK(model_random_tensors("resnet20", &table));
    CHECK_OK(safetensors_write(path, &table));
    tensor_table_close(&table);
}

static void make_data(const char *path) {
    char *names[3] = {"cat", "dog\033[31m\xff", "empty class"};
    const int32_t labels[5] = {0, 1, 1, 0, 1}, groups[5] = {4, 0, 0, 0, 0};
    const uint8_t images[5 * 2 * 3] = {0};
    dataset_description d = {.count = 5,
                             .height = 2,
                             .width = 3,
                             .channels = 1,
                             .class_names = names,
                             .classes = 3,
                             .labels = labels,
                             .groups = groups,
                             .source = "test",
                             .command = "test",
                             .has_normalisation = 1,
                             .mean = {.5f},
                             .std = {.25f}};
    dataset_writer *writer = NULL;
    CHECK_OK(dataset_writer_create(path, &d, &writer));
    CHECK_OK(dataset_writer_append(writer, images, 5));
    CHECK_OK(dataset_writer_finish(writer));
    dataset_writer_destroy(writer);
}

static cJSON *describe_json(const char *path) {
    char *text = NULL;
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 1, &text));
    CHECK(text && strchr(text, '\n') == text + strlen(text) - 1); /* one line, whatever the kind of file */
    cJSON *json = cJSON_Parse(text ? text : "");
    if (!json) test_fail(__FILE__, __LINE__, "not JSON: %s", text ? text : "(null)");
    coar_free(text);
    return json;
}

static double number(const cJSON *json, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(json, key);
    return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

static const char *string(const cJSON *json, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItem(json, key));
}

static void check_contains(const char *text, const char *part) {
    if (!text || !strstr(text, part))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in:\n%s", part, text ? text : "(null)");
}

static void test_weights(void) {
    test_begin("weights, whatever the file is called");
    const char *path = test_temporary("weights.h5");
    make_weights(path);
    char *text = NULL;
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 0, &text));
    check_contains(text, "resnet20");
    check_contains(text, "688 filters in 19 groups");
    check_contains(text, "layer3.2.conv2");
    coar_free(text);
    text = NULL;
    CHECK_OK(coar_info(path, NULL, "blocks", NULL, 0, &text));
    check_contains(text, "9 blocks in 9 groups");
    coar_free(text);

    cJSON *json = describe_json(path);
    CHECK_TEXT(string(json, "kind"), "weights");
    CHECK_INT(strlen(string(json, "sha256")), 64);
    CHECK_INT(number(json, "components"), 688);
    CHECK_INT(number(json, "height"), 32);
    const cJSON *groups = cJSON_GetObjectItem(json, "groups"), *group;
    CHECK_INT(cJSON_GetArraySize(groups), 19);
    double next = 0;
    cJSON_ArrayForEach(group, groups) {
        CHECK_INT(number(group, "first"), next);
        next += number(group, "count");
    }
    CHECK_INT(next, 688);
    cJSON_Delete(json);

    CHECK_ERROR(coar_info(path, NULL, "petals", NULL, 0, &text), COAR_ERROR_USAGE, "petals");
}

static void test_data(void) {
    test_begin("data: counts by class and group, names without control characters");
    const char *path = test_temporary("data.safetensors");
    make_data(path);
    char *text = NULL;
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 0, &text));
    check_contains(text, "2 x 3, 1 channel\n");
    check_contains(text, "dog?[31m?");
    CHECK(!strchr(text, '\033'));
    coar_free(text);

    cJSON *json = describe_json(path);
    CHECK_TEXT(string(json, "kind"), "data");
    CHECK_INT(number(json, "examples"), 5);
    CHECK_INT(number(json, "width"), 3);
    const cJSON *classes = cJSON_GetObjectItem(json, "classes"), *groups = cJSON_GetObjectItem(json, "groups");
    CHECK_INT(cJSON_GetArraySize(classes), 3);
    const int counts[3] = {2, 3, 0};
    for (int i = 0; i < 3; i++) CHECK_INT(number(cJSON_GetArrayItem(classes, i), "examples"), counts[i]);
    CHECK_TEXT(string(cJSON_GetArrayItem(classes, 0), "name"), "cat");
    CHECK_INT(cJSON_GetArraySize(groups), 5); /* unnamed groups 0 to 4 */
    CHECK_INT(number(cJSON_GetArrayItem(groups, 0), "examples"), 4);
    CHECK_INT(number(cJSON_GetArrayItem(groups, 4), "examples"), 1);
    CHECK_NEAR(cJSON_GetArrayItem(cJSON_GetObjectItem(json, "mean"), 0)->valuedouble, .5, 0);
    cJSON_Delete(json);
}

static void test_run(void) {
    test_begin("a run");
    const char *path = test_temporary("run.bin");
    const setting settings[] = {{"alpha", "--alpha", "0.125", SETTING_REAL, true},
                                {"command", "", "coar\033[2J ablate", SETTING_TEXT, false}};
    const store_group group = {"conv1", "filter", "conv1", 0, 7};
    uint64_t row = 3;
    int32_t label = 0;
    float baseline = 1;
    char names[1][40] = {"margin"};
    run_tables tables = {.groups = (store_group *)&group,
                         .group_count = 1,
                         .components = 7,
                         .examples = 1,
                         .example_rows = &row,
                         .labels = &label,
                         .output_count = 1,
                         .output_names = names,
                         .baseline = &baseline};
    run_store *store = NULL;
    bool created;
    CHECK_OK(store_create(path, settings, 2, false, &created, &store));
    CHECK_OK(store_write_tables(store, &tables));
    CHECK_OK(store_rebuild_index(store));
    store_close(store);
    char *text = NULL;
    CHECK_OK(coar_info(path, NULL, NULL, NULL, 0, &text));
    check_contains(text, "0.125");
    check_contains(text, "coar?[2J ablate");
    check_contains(text, "       0        7  filter   conv1\n");
    coar_free(text);

    cJSON *json = describe_json(path);
    CHECK_TEXT(string(json, "kind"), "run");
    CHECK_TEXT(string(cJSON_GetObjectItem(json, "settings"), "command"), "coar?[2J ablate");
    CHECK_INT(number(json, "examples"), 1);
    cJSON_Delete(json);
}

static void write_bytes(const char *path, const char *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size);
    if (f) fclose(f);
}

static void test_others(void) {
    test_begin("other files are refused in one line");
    char *text = NULL;
    const char *path = test_temporary("other");
    CHECK_ERROR(coar_info(NULL, NULL, NULL, NULL, 0, &text), COAR_ERROR_USAGE, "name a");
    CHECK_ERROR(coar_info(path, NULL, NULL, NULL, 0, &text), COAR_ERROR_IO, path);
    write_bytes(path, "", 0);
    CHECK_ERROR(coar_info(path, NULL, NULL, NULL, 0, &text), COAR_ERROR_INPUT, "neither");
    write_bytes(path, "GIF89a, not this one", 20);
    CHECK_ERROR(coar_info(path, NULL, NULL, NULL, 0, &text), COAR_ERROR_INPUT, "neither");
    write_bytes(path, "\x89HDF\r\n\x1a\n and no more", 20);
    CHECK_ERROR(coar_info(path, NULL, NULL, NULL, 0, &text), COAR_ERROR_INPUT, path);
    write_bytes(path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    CHECK_ERROR(coar_info(path, NULL, NULL, NULL, 0, &text), COAR_ERROR_INPUT, path);
    CHECK(text == NULL);
    CHECK_ERROR(coar_info("/", NULL, NULL, NULL, 0, &text), COAR_ERROR_IO, "/");
}

int main(void) {
    test_weights();
    test_data();
    test_run();
    test_others();
    return test_end();
}
