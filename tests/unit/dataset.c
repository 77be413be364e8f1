/* dataset.c - hostile and foreign data set files. */
#include <hdf5.h>
#include <stdbool.h>
#include <unistd.h>

#include "core/files.h"
#include "data/dataset.h"
#include "pictures.h"
#include "test.h"

#define FRESH(expression) (status_clear(), (expression))

enum { COUNT = 12, SIDE = 40, IMAGE = SIDE * SIDE };

static char path[512]; /* of the data set under test */

static uint8_t pixels[COUNT * IMAGE];
static const int32_t labels[COUNT] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0};
static const int32_t groups[COUNT] = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
static char *class_names[] = {"truck", "ship", "0"}, *group_names[] = {"north", "south"};

/* A good file: what every case below begins with. */
static void write_good(bool with_names) {
    dataset_description d = {.count = COUNT,
                             .height = SIDE,
                             .width = SIDE,
                             .channels = 1,
                             .labels = labels,
                             .groups = groups,
                             .source = "test",
                             .has_normalisation = 1,
                             .mean = {.5f},
                             .std = {.25f}};
    dataset_writer *writer = NULL;
    if (with_names) {
        d.class_names = class_names, d.classes = 3;
        d.group_names = group_names, d.group_names_count = 2;
    }
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i % 251);
    CHECK_OK(FRESH(dataset_writer_create(path, &d, &writer)));
    CHECK_OK(dataset_writer_append(writer, pixels, COUNT));
    CHECK_OK(dataset_writer_finish(writer));
    dataset_writer_destroy(writer);
}

/* ------------------------------------------------------------------------------------------- hostile files */

/* Replaces a data set (or adds it) by one of this shape and type, with nothing written but what `values` gives. */
static void put(hid_t file, const char *name, int rank, const hsize_t *shape, hid_t type, const void *values) {
    hid_t space = H5Screate_simple(rank, shape, NULL);
    if (H5Lexists(file, name, H5P_DEFAULT) > 0) H5Ldelete(file, name, H5P_DEFAULT);
    hid_t object = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (values) H5Dwrite(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(object);
    H5Sclose(space);
}

/* Replaces an attribute; count 0: a scalar. */
static void put_attribute(hid_t file, const char *name, hsize_t count, hid_t type, const void *values) {
    hid_t space = count ? H5Screate_simple(1, &count, NULL) : H5Screate(H5S_SCALAR);
    if (H5Aexists(file, name) > 0) H5Adelete(file, name);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, values);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_label(hid_t file, int i, int32_t value) {
    int32_t changed[COUNT];
    memcpy(changed, labels, sizeof labels);
    changed[i] = value;
    put(file, "labels", 1, (const hsize_t[]){COUNT}, H5T_NATIVE_INT32, changed);
}

static void no_images(hid_t f) {
    H5Ldelete(f, "images", H5P_DEFAULT);
}
static void no_labels(hid_t f) {
    H5Ldelete(f, "labels", H5P_DEFAULT);
}
static void images_rank(hid_t f) {
    put(f, "images", 3, (hsize_t[]){COUNT, 2, 2}, H5T_NATIVE_UINT8, NULL);
}
static void images_signed(hid_t f) {
    put(f, "images", 4, (hsize_t[]){COUNT, 2, 2, 1}, H5T_NATIVE_INT8, NULL);
}
static void images_wide(hid_t f) {
    put(f, "images", 4, (hsize_t[]){COUNT, 2, 2, 1}, H5T_NATIVE_UINT16, NULL);
}
static void images_real(hid_t f) {
    put(f, "images", 4, (hsize_t[]){COUNT, 2, 2, 1}, H5T_NATIVE_FLOAT, NULL);
}
static void images_none(hid_t f) {
    put(f, "images", 4, (hsize_t[]){0, 2, 2, 1}, H5T_NATIVE_UINT8, NULL);
}
static void images_flat(hid_t f) {
    put(f, "images", 4, (hsize_t[]){COUNT, 0, 2, 1}, H5T_NATIVE_UINT8, NULL);
}
static void images_channels(hid_t f) {
    put(f, "images", 4, (hsize_t[]){COUNT, 2, 2, 5}, H5T_NATIVE_UINT8, NULL);
}
static void images_vast(hid_t f) {
    put(f, "images", 4, (hsize_t[]){(hsize_t)1 << 59, 2, 2, 1}, H5T_NATIVE_UINT8, NULL);
    put(f, "labels", 1, (hsize_t[]){(hsize_t)1 << 59}, H5T_NATIVE_INT32, NULL);
}
static void images_group(hid_t f) {
    no_images(f);
    H5Gclose(H5Gcreate2(f, "images", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}
static void labels_wide(hid_t f) {
    put(f, "labels", 1, (hsize_t[]){COUNT}, H5T_NATIVE_INT64, NULL);
}
static void labels_unsigned(hid_t f) {
    put(f, "labels", 1, (hsize_t[]){COUNT}, H5T_NATIVE_UINT32, NULL);
}
static void labels_real(hid_t f) {
    put(f, "labels", 1, (hsize_t[]){COUNT}, H5T_NATIVE_FLOAT, NULL);
}
static void labels_few(hid_t f) {
    put(f, "labels", 1, (hsize_t[]){COUNT - 1}, H5T_NATIVE_INT32, labels);
}
static void labels_rank(hid_t f) {
    put(f, "labels", 2, (hsize_t[]){COUNT, 1}, H5T_NATIVE_INT32, labels);
}
static void label_negative(hid_t f) {
    put_label(f, 3, -2);
}
static void label_unnamed(hid_t f) {
    put_label(f, 5, 3);
}
static void label_vast(hid_t f) {
    H5Adelete(f, "class_names");
    put_label(f, 0, 1 << 30);
}
static void groups_few(hid_t f) {
    put(f, "groups", 1, (hsize_t[]){1}, H5T_NATIVE_INT32, groups);
}
static void group_unnamed(hid_t f) {
    int32_t changed[COUNT] = {2};
    put(f, "groups", 1, (hsize_t[]){COUNT}, H5T_NATIVE_INT32, changed);
}
static void format_none(hid_t f) {
    H5Adelete(f, "format");
}
static void format_other(hid_t f) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 8);
    put_attribute(f, "format", 0, type, "coar.run");
    H5Tclose(type);
}
static void format_number(hid_t f) {
    put_attribute(f, "format", 0, H5T_NATIVE_INT, &(int){1});
}
static void version_none(hid_t f) {
    H5Adelete(f, "version_major");
}
static void version_new(hid_t f) {
    put_attribute(f, "version_major", 0, H5T_NATIVE_INT, &(int){2});
}
static void mean_alone(hid_t f) {
    H5Adelete(f, "std");
}
static void std_alone(hid_t f) {
    H5Adelete(f, "mean");
}
static void std_zero(hid_t f) {
    put_attribute(f, "std", 1, H5T_NATIVE_FLOAT, &(float){0});
}
static void mean_nan(hid_t f) {
    put_attribute(f, "mean", 1, H5T_NATIVE_FLOAT, &(float){NAN});
}
static void mean_two(hid_t f) {
    put_attribute(f, "mean", 2, H5T_NATIVE_FLOAT, (float[]){0, 0});
}
static void mean_integer(hid_t f) {
    put_attribute(f, "mean", 1, H5T_NATIVE_INT, &(int){0});
}
static void names_numbers(hid_t f) {
    put_attribute(f, "class_names", 3, H5T_NATIVE_INT, (int[]){0, 1, 2});
}
static void names_none(hid_t f) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_NULL);
    H5Adelete(f, "class_names");
    H5Aclose(H5Acreate2(f, "class_names", type, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Tclose(type);
}
static void names_long(hid_t f) {
    hid_t type = H5Tcopy(H5T_C_S1);
    char *text = calloc(3, 8000);
    H5Tset_size(type, 8000);
    put_attribute(f, "class_names", 3, type, text);
    H5Tclose(type);
    free(text);
}
static void images_soft(hid_t f) {
    H5Lmove(f, "images", f, "elsewhere", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/elsewhere", f, "images", H5P_DEFAULT, H5P_DEFAULT);
}
static void images_dangling(hid_t f) {
    no_images(f);
    H5Lcreate_external("absent.h5", "/images", f, "images", H5P_DEFAULT, H5P_DEFAULT);
}
static void images_virtual(hid_t f) {
    const hsize_t shape[4] = {COUNT, 2, 2, 1};
    hid_t settings = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(4, shape, NULL);
    H5Pset_virtual(settings, space, "absent.h5", "/images", space);
    no_images(f);
    H5Dclose(H5Dcreate2(f, "images", H5T_NATIVE_UINT8, space, H5P_DEFAULT, settings, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(settings);
}
static void images_external(hid_t f) {
    const hsize_t shape[4] = {COUNT, 2, 2, 1};
    hid_t settings = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(4, shape, NULL);
    H5Pset_external(settings, "/etc/hostname", 0, H5F_UNLIMITED);
    no_images(f);
    H5Dclose(H5Dcreate2(f, "images", H5T_NATIVE_UINT8, space, H5P_DEFAULT, settings, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(settings);
}

static void test_hostile_objects(void) {
    static const struct {
        const char *name;
        void (*spoil)(hid_t file);
        const char *text;
    } cases[] = {
        {"images missing", no_images, "'images' is missing"},
        {"labels missing", no_labels, "'labels' is missing"},
        {"images of rank 3", images_rank, "'images' has the wrong type"},
        {"images i8", images_signed, "'images' has the wrong type; expected unsigned bytes"},
        {"images u16", images_wide, "'images' has the wrong type; expected unsigned bytes"},
        {"images f32", images_real, "'images' has the wrong type"},
        {"no examples", images_none, "'images' holds no examples"},
        {"images of height 0", images_flat, "0 x 2 x 1 is no image size"},
        {"five channels", images_channels, "2 x 2 x 5 is no image size"},
        {"2^59 examples", images_vast, "do not fit this machine's memory"},
        {"images are a group", images_group, "images"},
        {"labels i64", labels_wide, "'labels' has the wrong type; expected signed 32-bit"},
        {"labels u32", labels_unsigned, "'labels' has the wrong type; expected signed 32-bit"},
        {"labels f32", labels_real, "'labels' has the wrong type"},
        {"too few labels", labels_few, "'labels' has 11 entries for 12 images"},
        {"labels of rank 2", labels_rank, "'labels' has the wrong type or number of dimensions"},
        {"a negative label", label_negative, "labels[3]: -2 is not in 0..2"},
        {"a label without a name", label_unnamed, "labels[5]: 3 is not in 0..2"},
        {"a label of 2^30", label_vast, "labels[0]: 1073741824 is not in"},
        {"too few groups", groups_few, "'groups' has 1 entries for 12 images"},
        {"a group without a name", group_unnamed, "groups[0]: 2 is not in 0..1"},
        {"format missing", format_none, "'format' is missing"},
        {"format of a run", format_other, "not a coar.data file"},
        {"format a number", format_number, "'format'"},
        {"version missing", version_none, "'version_major'"},
        {"version 2", version_new, "'version_major' is 2"},
        {"mean without std", mean_alone, "'std' is missing"},
        {"std without mean", std_alone, "'mean' is missing"},
        {"std of 0", std_zero, "channel 0: 0.5, 0 are no normalisation"},
        {"mean not a number", mean_nan, "are no normalisation"},
        {"mean of two for one channel", mean_two, "'mean': expected 1 real"},
        {"mean an integer", mean_integer, "'mean': expected 1 real"},
        {"class names are numbers", names_numbers, "'class_names': expected a list"},
        {"class names empty", names_none, "'class_names': expected a list"},
        {"class names of 8,000 bytes", names_long, "'class_names': strings of 8000 bytes"},
        {"images behind a soft link", images_soft, "'images' is a link"},
        {"images behind a dangling external link", images_dangling, "'images'"},
        {"images virtual", images_virtual, "'images' is a link or lies in another file"},
        {"images in an external file", images_external, "'images' is a link or lies in another file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("data file refused: %s", cases[i].name);
        write_good(true);
        hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        cases[i].spoil(file);
        H5Fclose(file);
        dataset *data = NULL;
        coar_status expected = strstr(cases[i].name, "2^59") ? COAR_ERROR_MEMORY : COAR_ERROR_INPUT;
        CHECK_ERROR(FRESH(dataset_open(path, &data)), expected, cases[i].text);
        CHECK(strstr(coar_last_error(), path) && !strchr(coar_last_error(), '\n'));
        CHECK(data == NULL);
    }
}

/* The file's bytes with `change` applied at `offset`, cut to `size`. */
static void rewrite(const uint8_t *bytes, size_t size, size_t offset, uint8_t change) {
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, bytes, size);
    if (change) copy[offset] ^= change;
    picture_write(path, copy, size);
    free(copy);
}

static void test_hostile_bytes(void) {
    dataset *data = NULL;
    uint8_t got[IMAGE];
    write_good(true);
    file_map map = {0};
    CHECK_OK(file_map_open(path, &map));
    uint8_t *bytes = malloc(map.size);
    const size_t size = map.size;
    memcpy(bytes, map.data, size);
    file_map_close(&map);

    test_begin("data file refused: absent, empty, not HDF5");
    unlink(path);
    CHECK_ERROR(FRESH(dataset_open(path, &data)), COAR_ERROR_IO, path);
    rewrite(bytes, 0, 0, 0);
    CHECK_ERROR(FRESH(dataset_open(path, &data)), COAR_ERROR_INPUT, path);
    rewrite((const uint8_t *)"not an HDF5 file, whatever its name says", 40, 0, 0);
    CHECK_ERROR(FRESH(dataset_open(path, &data)), COAR_ERROR_INPUT, path);

    test_begin("data file refused: cut off at 60 places");
    for (size_t i = 0; i < 60; i++) {
        rewrite(bytes, size * i / 60, 0, 0);
        CHECK_ERROR(FRESH(dataset_open(path, &data)), COAR_ERROR_INPUT, path);
        CHECK(data == NULL);
    }

    test_begin("a chunk with one bit changed is found when it is read");
    hid_t file, object, space;
    haddr_t address = 0;
    hsize_t stored, offset[4];
    unsigned mask;
    rewrite(bytes, size, 0, 0);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    object = H5Dopen2(file, "images", H5P_DEFAULT);
    space = H5Dget_space(object);
    CHECK(H5Dget_chunk_info(object, space, 0, offset, &mask, &address, &stored) >= 0);
    H5Sclose(space);
    H5Dclose(object);
    H5Fclose(file);
    rewrite(bytes, size, (size_t)address + 100, 0x10);
    CHECK_OK(FRESH(dataset_open(path, &data)));
    if (data) CHECK_ERROR(FRESH(dataset_read(data, &(uint64_t){0}, 1, got)), COAR_ERROR_INPUT, path);
    CHECK(strstr(coar_last_error(), "images") != NULL);
    dataset_close(data);
    free(bytes);
}

/* What h5py users write: fixed-length names, other filters and layouts, no names at all. */
static void test_foreign(void) {
    test_begin("files by other writers: fixed-length names, contiguous and big-endian data");
    write_good(true);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 4);
    put_attribute(file, "class_names", 3, type, "abcdefghij\0");
    put_attribute(file, "mean", 1, H5T_IEEE_F64BE, &(uint64_t){0x3fUL | 0xe0UL << 8}); /* 0.5 */
    H5Tclose(type);
    put(file, "images", 4, (hsize_t[]){COUNT, SIDE, SIDE, 1}, H5T_STD_U8LE, pixels);
    int32_t swapped[COUNT];
    for (int i = 0; i < COUNT; i++) swapped[i] = labels[i] << 24;
    put(file, "labels", 1, (hsize_t[]){COUNT}, H5T_STD_I32BE, swapped);
    H5Fclose(file);
    dataset *data = NULL;
    uint8_t got[IMAGE];
    CHECK_OK(FRESH(dataset_open(path, &data)));
    if (!data) return;
    CHECK_TEXT(data->class_names[0], "abcd");
    CHECK_TEXT(data->class_names[2], "ij");
    CHECK(data->mean[0] == .5f && !memcmp(data->labels, labels, sizeof labels));
    CHECK_OK(dataset_read(data, &(uint64_t){11}, 1, got));
    CHECK(!memcmp(got, pixels + 11 * IMAGE, IMAGE));
    dataset_close(data);
}

int main(void) {
    snprintf(path, sizeof path, "%s", test_temporary("data.h5"));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    test_hostile_objects();
    test_hostile_bytes();
    test_foreign();
    return test_end();
}
