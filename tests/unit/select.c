/* select.c - SPEC: which examples of a data set a user means. */
#include "core/npy.h"
#include "data/dataset.h"
#include "pictures.h"
#include "test.h"

#define FRESH(expression) (status_clear(), (expression))

enum { COUNT = 12 };
static int32_t labels[COUNT] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0};
static int32_t groups[COUNT] = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
static char *class_names[] = {"truck", "ship", "0"}, *group_names[] = {"north", "south"};
static const uint8_t correct[COUNT] = {1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1}; /* wrong: 2, 4, 10 */
static const uint8_t taken[COUNT] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0};

static void check_selected(const dataset *data, const char *spec, int count, const int *expected) {
    uint64_t *rows = NULL;
    size_t found = 0;
    test_begin("SPEC %s", spec ? spec : "(none)");
    CHECK_OK(FRESH(dataset_select(data, spec, correct, taken, &rows, &found)));
    CHECK_INT(found, count);
    for (int i = 0; rows && i < count && (size_t)i < found; i++) CHECK_INT(rows[i], expected[i]);
    free(rows);
}

static void test_selected(const dataset *data, const char *file) {
    char at_file[600], at_file_and[700];
    snprintf(at_file, sizeof at_file, "@%s", file);
    snprintf(at_file_and, sizeof at_file_and, "wrong & @%s", file);
    CHECK_OK(npy_write(file, NPY_I16, 1, (size_t[]){4}, (int16_t[]){10, 2, 7, 0}));
    const struct {
        const char *spec;
        int count, rows[COUNT];
    } cases[] = {
        {NULL, 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
        {"all", 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
        {"0:3", 3, {0, 1, 2}},
        {"11:12", 1, {11}},
        {"7", 1, {7}},
        {"7,3,11", 3, {7, 3, 11}},
        {"class:truck", 5, {0, 3, 6, 9, 11}},
        {"class:1", 4, {1, 4, 7, 10}},
        {"class:0", 3, {2, 5, 8}}, /* the class that is called "0" goes before class number 0 */
        {"group:south", 6, {6, 7, 8, 9, 10, 11}},
        {"group:0", 6, {0, 1, 2, 3, 4, 5}},
        {"wrong", 3, {2, 4, 10}},
        {"correct", 9, {0, 1, 3, 5, 6, 7, 8, 9, 11}},
        {"rest", 2, {10, 11}},
        {"class:truck&group:1", 3, {6, 9, 11}},
        {"class:truck & 0:10 & correct & group:north", 2, {0, 3}},
        {"9,3,10,4&wrong", 2, {10, 4}},
        {"wrong&9,3,10,4", 2, {10, 4}},
        {"9,3,4&4,3,9,1", 3, {9, 3, 4}}, /* in the order of the first list */
        {"!class:truck", 7, {1, 2, 4, 5, 7, 8, 10}},
        {"!9,3,10,4&3,1,11,9", 2, {1, 11}}, /* a list that is left out orders nothing */
        {"!wrong & !0:9", 2, {9, 11}},
        {at_file, 4, {10, 2, 7, 0}},
        {at_file_and, 2, {10, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_selected(data, cases[i].spec, cases[i].count, cases[i].rows);
}

static void test_unselected(const dataset *data, const char *file) {
    static const struct {
        const char *spec, *text;
    } cases[] = {
        {"", "a term is empty"},
        {"0:3&", "a term is empty"},
        {"&0:3", "a term is empty"},
        {"3:3", "the range is empty"},
        {"5:2", "the range is empty"},
        {"0:13", "only 12 examples"},
        {"0:99999999999999999999", "a range is FIRST:END"},
        {":3", "a range is FIRST:END"},
        {"3:", "a range is FIRST:END"},
        {"-1:3", "a range is FIRST:END"},
        {"0:3:2", "a range is FIRST:END"},
        {"12", "row 12 is not in 0..11"},
        {"18446744073709551615", "row 18446744073709551615 is not in"},
        {"18446744073709551616", "give 0:200"},
        {"3,3", "row 3 is listed twice"},
        {"3,,4", "give 0:200"},
        {"3,", "give 0:200"},
        {"3 4", "give 0:200"},
        {"+3", "give 0:200"},
        {"Wrong", "give 0:200"},
        {"class:", "no such name"},
        {"class:car", "no such name"},
        {"class:5", "no example has it"},
        {"group:east", "no such name"},
        {"0:3&6:9", "selects no example"},
        {"class:ship&0", "selects no example"},
        {"@absent.npy", "absent.npy"},
        {"@", "cannot open"},
    };
    uint64_t *rows = NULL;
    size_t count = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("SPEC refused: '%s'", cases[i].spec);
        coar_status expected = cases[i].spec[0] == '@' ? COAR_ERROR_IO : COAR_ERROR_USAGE;
        CHECK_ERROR(FRESH(dataset_select(data, cases[i].spec, correct, taken, &rows, &count)), expected, cases[i].text);
        if (expected == COAR_ERROR_USAGE) CHECK(strstr(coar_last_error(), data->path) != NULL);
        CHECK(rows == NULL && count == 0);
    }
    static const char *const needing[] = {"wrong", "correct", "rest"};
    for (int i = 0; i < 3; i++) {
        test_begin("SPEC refused: %s where there is nothing to compare with", needing[i]);
        CHECK_ERROR(FRESH(dataset_select(data, needing[i], NULL, NULL, &rows, &count)), COAR_ERROR_USAGE, data->path);
    }

    test_begin("SPEC refused: files of rows that are out of range, twice, too many, real, two-dimensional, not npy");
    char spec[600];
    snprintf(spec, sizeof spec, "@%s", file);
    static const struct {
        npy_type type;
        int rank;
        size_t shape[2];
        double values[2];
        const char *text;
    } files[] = {{NPY_I64, 1, {2}, {0}, "listed twice"},
                 {NPY_I16, 1, {2}, {0}, "is not in 0..11"},
                 {NPY_U8, 1, {13}, {0}, "13 rows"},
                 {NPY_F32, 1, {2}, {0}, "integers of shape"},
                 {NPY_BOOL, 1, {12}, {0}, "integers of shape"},
                 {NPY_I64, 2, {1, 2}, {0}, "integers of shape"},
                 {NPY_I64, 1, {0}, {0}, "selects no example"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        uint8_t bytes[16] = {0};
        if (files[i].type == NPY_I16) memset(bytes, 0xff, sizeof bytes); /* -1 */
        CHECK_OK(npy_write(file, files[i].type, files[i].rank, files[i].shape, bytes));
        coar_status status = FRESH(dataset_select(data, spec, correct, taken, &rows, &count));
        CHECK(status == COAR_ERROR_INPUT || status == COAR_ERROR_USAGE);
        CHECK_ERROR(status, status, files[i].text);
        CHECK(strstr(coar_last_error(), file) != NULL);
    }
    picture_write(file, "no npy", 6);
    CHECK_ERROR(FRESH(dataset_select(data, spec, correct, taken, &rows, &count)), COAR_ERROR_INPUT, file);
}

static void test_terms(void) {
    test_begin("SPEC: which words it has, and whether it numbers rows");
    CHECK(spec_has("wrong", "wrong") && spec_has("class:1 & !wrong", "wrong") && spec_has("!wrong &0:5", "wrong"));
    CHECK(!spec_has("@wrong.npy", "wrong") && !spec_has("class:wrong", "wrong") && !spec_has("wrong2", "wrong"));
    CHECK(!spec_has(NULL, "wrong") && !spec_has("", "wrong"));
    CHECK(spec_numbers_rows("class:1& 0:5") && spec_numbers_rows("!@a.npy") && !spec_numbers_rows("class:5 & !rest"));
}

int main(void) {
    char file[512];
    dataset named = {.path = "folder/data.h5",
                     .count = COUNT,
                     .labels = labels,
                     .groups = groups,
                     .class_names = class_names,
                     .classes = 3,
                     .group_names = group_names,
                     .group_names_count = 2};
    dataset bare = {.path = "folder/bare.h5", .count = COUNT, .labels = labels, .classes = 3};
    uint64_t *rows = NULL;
    size_t count = 0;
    snprintf(file, sizeof file, "%s", test_temporary("rows.npy"));
    test_begin("SPEC: a file with names");
    test_selected(&named, file);
    test_unselected(&named, file);

    test_terms();
    test_begin("SPEC: a file without names or groups");
    CHECK_ERROR(FRESH(dataset_select(&bare, "group:0", NULL, NULL, &rows, &count)), COAR_ERROR_USAGE, "no groups");
    CHECK_ERROR(FRESH(dataset_select(&bare, "class:truck", NULL, NULL, &rows, &count)), COAR_ERROR_USAGE, "no names");
    check_selected(&bare, "class:0", 5, (const int[]){0, 3, 6, 9, 11});
    return test_end();
}
