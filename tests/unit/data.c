/* data.c - data set files (written, read, hostile), coar_pack and its importers other than image folders. */
#include <dirent.h>
#include <hdf5.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "core/npy.h"
#include "data/dataset.h"
#include "pictures.h"
#include "test.h"

#define FRESH(expression) (status_clear(), (expression))

/* A path below the temporary folder that stays valid, unlike test_temporary's few buffers. */
static const char *scratch(const char *name) {
    static char slots[32][512];
    static int next;
    char *slot = slots[next++ & 31];
    snprintf(slot, 512, "%s", test_temporary(name));
    return slot;
}

/* Fails unless the call gives `code`, a message with `text`, and the message names `path`. */
#define CHECK_REFUSED(expression, code, path, text)                                                                    \
    do {                                                                                                               \
        CHECK_ERROR(expression, code, text);                                                                           \
        CHECK_ERROR(code, code, path);                                                                                 \
    } while (0)

/* ---------------------------------------------------------------------------------------- sources to pack */

enum { COUNT = 7, HEIGHT = 5, WIDTH = 3, CHANNELS = 2, IMAGE = HEIGHT * WIDTH * CHANNELS };
static const int32_t labels[COUNT] = {2, 0, 1, 1, 0, 2, 1};

static uint8_t pixel(size_t example, size_t k) {
    return (uint8_t)(example * 37 + k * 11 + 5);
}

static void write_npy(const char *path, npy_type type, int rank, const size_t *shape, const void *data) {
    CHECK_OK(npy_write(path, type, rank, shape, data));
}

/* images.npy and labels.npy; options that pack them. */
static coar_pack_options npy_options(const char *output) {
    static bool written;
    const char *images = scratch("images.npy"), *label_file = scratch("labels.npy");
    if (!written) {
        uint8_t pixels[COUNT * IMAGE];
        for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = pixel(i / IMAGE, i % IMAGE);
        write_npy(images, NPY_U8, 4, (size_t[]){COUNT, HEIGHT, WIDTH, CHANNELS}, pixels);
        write_npy(label_file, NPY_I32, 1, (size_t[]){COUNT}, labels);
        written = true;
    }
    coar_pack_options options = COAR_PACK_INIT;
    options.from = "npy";
    options.path = images;
    options.labels = label_file;
    options.output = output;
    options.force = 1;
    options.threads = 2;
    return options;
}

static coar_status pack_text(const char *from, const char *path, const char *label_file, const char *output) {
    coar_pack_options options = COAR_PACK_INIT;
    options.from = from;
    options.path = path;
    options.labels = label_file;
    options.output = output;
    options.force = 1;
    return coar_pack(&options, NULL);
}

/* Files of the temporary folder whose name contains `part`. */
static int count_files(const char *part) {
    int found = 0;
    DIR *folder = opendir(test_temporary("."));
    for (struct dirent *entry; folder && (entry = readdir(folder));) found += strstr(entry->d_name, part) != NULL;
    if (folder) closedir(folder);
    return found;
}

/* --------------------------------------------------------------------------------------------- round trips */

static void test_round_trip(void) {
    test_begin("npy to data set and back: pixels, labels, groups, normalisation, hash");
    const char *output = scratch("trip.h5"), *groups = scratch("trip.csv");
    const char *csv =
        "\xef\xbb\xbf"
        "index,group\r\n6,south\r\n0,\"north, far\"\r\n1,south\r\n2,south\r\n3,east\r\n4,south\r\n5,east\r\n";
    picture_write(groups, csv, strlen(csv));
    coar_pack_options options = npy_options(output);
    coar_pack_result result;
    dataset *data = NULL;
    options.groups = groups;
    options.mean = "0.25,.5";
    options.std = "1e-1,2";
    options.command = "coar pack ...";
    CHECK_OK(coar_pack(&options, &result));
    CHECK(result.examples == COUNT && result.classes == 3 && result.groups == 3 && result.seconds >= 0);
    CHECK(result.height == HEIGHT && result.width == WIDTH && result.channels == CHANNELS);
    CHECK_OK(FRESH(dataset_open(output, &data)));
    if (!data) return;
    CHECK(data->count == COUNT && data->classes == 3 && !data->class_names && data->group_names_count == 3);
    CHECK(data->height == HEIGHT && data->width == WIDTH && data->channels == CHANNELS);
    CHECK(data->has_normalisation && data->mean[0] == .25f && data->mean[1] == .5f && data->std[0] == .1f &&
          data->std[1] == 2);
    static const int32_t expected_groups[COUNT] = {1, 2, 2, 0, 2, 0, 2}; /* east, north, south */
    CHECK_TEXT(data->group_names[1], "north, far");
    for (int i = 0; i < COUNT; i++) CHECK(data->labels[i] == labels[i] && data->groups[i] == expected_groups[i]);
    char hex[65];
    CHECK_OK(dataset_hash(data));
    CHECK_OK(file_sha256(output, hex));
    CHECK_TEXT(data->sha256, hex);

    static const uint64_t rows[] = {6, 2, 3, 4, 4, 0}; /* a run in the middle, one row twice */
    uint8_t pixels[6 * IMAGE + 1];
    size_t wrong = 0;
    pixels[6 * IMAGE] = 0xa5;
    CHECK_OK(dataset_read(data, rows, 6, pixels));
    for (size_t i = 0; i < 6 * IMAGE; i++) wrong += pixels[i] != pixel(rows[i / IMAGE], i % IMAGE);
    CHECK_INT(wrong, 0);
    CHECK_INT(pixels[6 * IMAGE], 0xa5);
    CHECK_REFUSED(FRESH(dataset_read(data, (uint64_t[]){0, COUNT}, 2, pixels)), COAR_ERROR_USAGE, output, "row 7");
    dataset_close(data);

    test_begin("provenance is there");
    hid_t file = H5Fopen(output, H5F_ACC_RDONLY, H5P_DEFAULT);
    static const char *const attributes[] = {"format",  "version_major", "version_minor", "coar_version",
                                             "created", "source",        "command"};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) CHECK(H5Aexists(file, attributes[i]) > 0);
    H5Fclose(file);
}

static void test_many_names(void) {
    test_begin("20,000 class names, more than fits an attribute of old HDF5 files");
    enum { CLASSES = 20000 };
    const char *output = scratch("names.h5");
    char **names = calloc(CLASSES, sizeof *names);
    for (int i = 0; i < CLASSES; i++) {
        names[i] = malloc(24);
        snprintf(names[i], 24, "class %d \xc3\xa9", i);
    }
    dataset_description d = {.count = 1,
                             .height = 1,
                             .width = 2,
                             .channels = 1,
                             .class_names = names,
                             .classes = CLASSES,
                             .labels = (int32_t[]){CLASSES - 1},
                             .source = "test"};
    dataset_writer *writer = NULL;
    dataset *data = NULL;
    CHECK_OK(dataset_writer_create(output, &d, &writer));
    CHECK_ERROR(FRESH(dataset_writer_finish(writer)), COAR_ERROR_INTERNAL, "fewer");
    CHECK_OK(FRESH(dataset_writer_append(writer, (const uint8_t *)"ab", 1)));
    CHECK_ERROR(FRESH(dataset_writer_append(writer, (const uint8_t *)"ab", 1)), COAR_ERROR_INTERNAL, "more");
    CHECK_OK(FRESH(dataset_writer_finish(writer)));
    dataset_writer_destroy(writer);
    CHECK_OK(dataset_open(output, &data));
    size_t wrong = !data || data->classes != CLASSES;
    for (int i = 0; data && i < CLASSES; i++) wrong += strcmp(data->class_names[i], names[i]) != 0;
    CHECK_INT(wrong, 0);
    dataset_close(data);
    for (int i = 0; i < CLASSES; i++) free(names[i]);
    free(names);
}

static void test_large(void) {
    test_begin("many chunks and batches: the same images for 1 and 4 threads, read in any order");
    enum { N = 3001, BYTES = 80 * 80 };
    const char *images = scratch("large.npy"), *label_file = scratch("large-labels.npy");
    uint8_t *pixels = malloc((size_t)N * BYTES), *got = malloc(BYTES);
    int64_t *numbers = calloc(N, sizeof *numbers);
    for (size_t i = 0; i < (size_t)N * BYTES; i++) pixels[i] = pixel(i / BYTES, i % BYTES * 7);
    write_npy(images, NPY_U8, 3, (size_t[]){N, 80, 80}, pixels);
    write_npy(label_file, NPY_I64, 1, (size_t[]){N}, numbers);
    for (int threads = 1; threads <= 4; threads += 3) {
        const char *output = scratch(threads == 1 ? "large1.h5" : "large4.h5");
        coar_pack_options options = npy_options(output);
        dataset *data = NULL;
        options.path = images;
        options.labels = label_file;
        options.threads = threads;
        CHECK_OK(coar_pack(&options, NULL));
        CHECK_OK(dataset_open(output, &data));
        for (uint64_t row = N - 1; data && row < N; row -= 250) {
            CHECK_OK(dataset_read(data, &row, 1, got));
            CHECK(!memcmp(got, pixels + row * BYTES, BYTES));
        }
        dataset_close(data);
    }
    free(numbers);
    free(got);
    free(pixels);
}

/* ---------------------------------------------------------------------------------------- packing refused */

static int stop_at_once(void *user, const coar_progress *progress) {
    (void)user;
    return progress->done < progress->total;
}

/* A full disk, as a file size limit; in a child, because the limit cannot be lifted again. */
static void pack_on_full_disk(void) {
    coar_pack_options options = npy_options(scratch("full.h5"));
    options.path = scratch("large.npy");
    options.labels = scratch("large-labels.npy");
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {1 << 20, 1 << 20};
        setrlimit(RLIMIT_FSIZE, &limit);
        signal(SIGXFSZ, SIG_IGN);
        coar_status status = coar_pack(&options, NULL);
        int named = strstr(coar_last_error(), "full.h5") && strstr(coar_last_error(), "File too large");
        _exit(status == COAR_ERROR_IO && named ? 0 : 1);
    }
    int code = -1;
    waitpid(child, &code, 0);
    CHECK(WIFEXITED(code) && WEXITSTATUS(code) == 0);
}

static void test_pack_refused(void) {
    static const struct {
        const char *name, *from, *crop_resize, *mean, *std, *text;
        uint32_t size;
        double crop;
    } cases[] = {
        {"format", "words", NULL, NULL, NULL, "--from words: choose", 0, 0},
        {"filter", "npy", "lanczos", NULL, NULL, "--resize lanczos: choose", 4, 0},
        {"crop above 1", "npy", NULL, NULL, NULL, "--crop 1.5", 4, 1.5},
        {"crop below 0", "npy", NULL, NULL, NULL, "--crop -0.5", 4, -.5},
        {"crop not a number", "npy", NULL, NULL, NULL, "--crop nan", 4, NAN},
        {"crop without size", "npy", NULL, NULL, NULL, "need --size", 0, .5},
        {"size", "npy", NULL, NULL, NULL, "--size 70000", 70000, 0},
        {"size after crop", "npy", NULL, NULL, NULL, "shorter side would exceed", 60000, .5},
        {"mean alone", "npy", NULL, "1,1", NULL, "give both", 0, 0},
        {"mean of three for two channels", "npy", NULL, "1,1,1", "1,1", "2 channels", 0, 0},
        {"mean not a number", "npy", NULL, "1,x", "1,1", "--mean 1,x", 0, 0},
        {"mean infinite", "npy", NULL, "inf,1", "1,1", "--mean inf,1", 0, 0},
        {"mean ends in a comma", "npy", NULL, "1,1,", "1,1", "--mean 1,1,", 0, 0},
        {"mean of five", "npy", NULL, "1,1,1,1,1", "1,1", "--mean 1,1,1,1,1", 0, 0},
        {"std zero", "npy", NULL, "0,0", "1,0", "--std 1,0: must be above 0", 0, 0},
        {"std negative", "npy", NULL, "0,0", "1,-1", "--std 1,-1: must be above 0", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("pack refuses: %s", cases[i].name);
        coar_pack_options options = npy_options(scratch("refused.h5"));
        options.from = cases[i].from;
        options.resize = cases[i].crop_resize;
        options.mean = cases[i].mean;
        options.std = cases[i].std;
        options.image_size = cases[i].size;
        options.crop = cases[i].crop;
        CHECK_ERROR(coar_pack(&options, NULL), COAR_ERROR_USAGE, cases[i].text);
        CHECK_INT(count_files("refused"), 0);
    }

    test_begin("pack refuses: no options, labels where there are some, an old file, no folder");
    coar_pack_options options = {0};
    CHECK_ERROR(coar_pack(&options, NULL), COAR_ERROR_USAGE, "COAR_PACK_INIT");
    options.size = sizeof options;
    CHECK_ERROR(coar_pack(&options, NULL), COAR_ERROR_USAGE, "PATH");
    const char *output = scratch("refused.h5"), *images = scratch("images.npy");
    CHECK_REFUSED(pack_text("cifar10", images, "l.npy", output), COAR_ERROR_USAGE, "l.npy", "labels of its own");
    picture_write(output, "old", 3);
    options = npy_options(output);
    options.force = 0;
    CHECK_REFUSED(coar_pack(&options, NULL), COAR_ERROR_EXISTS, output, "--force");
    options.output = scratch("nowhere/refused.h5");
    CHECK_REFUSED(coar_pack(&options, NULL), COAR_ERROR_IO, options.output, "cannot write");

    test_begin("stopped by the caller, or by a full disk: nothing new remains, the old file stays");
    coar_callbacks callbacks = {.progress = stop_at_once};
    options = npy_options(output);
    options.callbacks = &callbacks;
    options.path = scratch("large.npy");
    options.labels = scratch("large-labels.npy");
    CHECK_REFUSED(coar_pack(&options, NULL), COAR_STOPPED, output, "nothing was written");
    file_map map = {0};
    CHECK_OK(file_map_open(output, &map));
    CHECK_INT(map.size, 3);
    file_map_close(&map);
    pack_on_full_disk();
    CHECK_INT(count_files("full"), 0);
    CHECK_INT(count_files(".tmp."), 0);
}

/* ----------------------------------------------------------------------------------------------- importers */

static void test_npy_refused(void) {
    const char *output = scratch("npy.h5"), *images = scratch("x.npy"), *label_file = scratch("y.npy");
    static const uint8_t zeros[64];
    static const struct {
        const char *name;
        npy_type type;
        int rank;
        size_t shape[5];
        const char *text;
    } cases[] = {{"f32 images", NPY_F32, 3, {2, 2, 2}, "uint8 of shape"},
                 {"rank 2", NPY_U8, 2, {2, 2}, "uint8 of shape"},
                 {"5 channels", NPY_U8, 4, {2, 1, 1, 5}, "more than 4 channels"},
                 {"no images", NPY_U8, 3, {0, 2, 2}, "no images"},
                 {"no pixels", NPY_U8, 3, {2, 0, 2}, "no images"}};
    write_npy(label_file, NPY_U8, 1, (size_t[]){2}, zeros);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("npy refused: %s", cases[i].name);
        write_npy(images, cases[i].type, cases[i].rank, cases[i].shape, zeros);
        CHECK_REFUSED(pack_text("npy", images, label_file, output), COAR_ERROR_INPUT, images, cases[i].text);
    }
    test_begin("npy refused: labels that are negative, too large, real, too few; a missing file");
    write_npy(images, NPY_U8, 3, (size_t[]){2, 2, 2}, zeros);
    write_npy(label_file, NPY_I64, 1, (size_t[]){2}, (int64_t[]){0, -1});
    CHECK_REFUSED(pack_text("npy", images, label_file, output), COAR_ERROR_INPUT, label_file, "entry 1: label -1");
    write_npy(label_file, NPY_U64, 1, (size_t[]){2}, (uint64_t[]){(uint64_t)1 << 40, 0});
    CHECK_REFUSED(pack_text("npy", images, label_file, output), COAR_ERROR_INPUT, label_file, "entry 0: label");
    write_npy(label_file, NPY_F32, 1, (size_t[]){2}, zeros);
    CHECK_REFUSED(pack_text("npy", images, label_file, output), COAR_ERROR_INPUT, label_file, "integers");
    write_npy(label_file, NPY_U8, 1, (size_t[]){3}, zeros);
    CHECK_REFUSED(pack_text("npy", images, label_file, output), COAR_ERROR_INPUT, label_file, "3 labels for 2");
    CHECK_REFUSED(pack_text("npy", scratch("absent.npy"), label_file, output), COAR_ERROR_IO, "absent.npy",
                  "cannot open");
}

static void test_idx(void) {
    test_begin("IDX: images, labels, and what is refused");
    const char *output = scratch("idx.h5"), *images = scratch("x.idx"), *label_file = scratch("y.idx");
    uint8_t x[16 + 2 * 6] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2}, y[8 + 2] = {0, 0, 8, 1, 0, 0, 0, 2, 9, 4};
    for (uint8_t i = 0; i < 12; i++) x[16 + i] = (uint8_t)(i * 20);
    picture_write(images, x, sizeof x);
    picture_write(label_file, y, sizeof y);
    dataset *data = NULL;
    uint8_t pixels[6];
    CHECK_OK(pack_text("idx", images, label_file, output));
    CHECK_OK(dataset_open(output, &data));
    if (!data) return;
    CHECK(data->count == 2 && data->height == 3 && data->width == 2 && data->channels == 1 && data->classes == 10);
    CHECK(data->labels[0] == 9 && data->labels[1] == 4);
    CHECK_OK(dataset_read(data, &(uint64_t){1}, 1, pixels));
    CHECK(!memcmp(pixels, x + 22, 6));
    dataset_close(data);

    CHECK_REFUSED(pack_text("idx", label_file, images, output), COAR_ERROR_INPUT, label_file, "3 dimensions");
    picture_write(images, x, sizeof x - 1);
    CHECK_REFUSED(pack_text("idx", images, label_file, output), COAR_ERROR_INPUT, images, "truncated");
    memset(x + 4, 0xff, 12);
    picture_write(images, x, sizeof x);
    CHECK_REFUSED(pack_text("idx", images, label_file, output), COAR_ERROR_INPUT, images, "truncated");
    picture_write(images, "\x1f\x8b\x08\0________________", 20);
    CHECK_REFUSED(pack_text("idx", images, label_file, output), COAR_ERROR_INPUT, images, "gunzip");
    picture_write(images, "", 0);
    CHECK_REFUSED(pack_text("idx", images, label_file, output), COAR_ERROR_INPUT, images, "not an IDX file");
    memcpy(x, (uint8_t[]){0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 2}, 16);
    picture_write(images, x, sizeof x);
    CHECK_REFUSED(pack_text("idx", images, label_file, output), COAR_ERROR_INPUT, label_file, "2 labels for 1");
}

/* `count` CIFAR records whose label is (first + i) % classes. */
static void write_cifar(const char *path, int count, int label_bytes, int first, int classes, long cut) {
    size_t record = (size_t)label_bytes + 3072;
    uint8_t *bytes = calloc((size_t)count, record);
    for (int i = 0; i < count; i++) {
        uint8_t *r = bytes + (size_t)i * record;
        r[label_bytes - 1] = (uint8_t)((first + i) % classes);
        for (int k = 0; k < 3072; k++) r[label_bytes + k] = (uint8_t)(first + i + k / 1024 * 50 + k % 32);
    }
    picture_write(path, bytes, (size_t)((long)((size_t)count * record) - cut));
    free(bytes);
}

static void test_cifar(void) {
    test_begin("CIFAR-10: a folder, training batches before the test batch, class names");
    const char *output = scratch("cifar.h5"), *root = scratch("cifar");
    char path[600], names[] = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n";
    dataset *data = NULL;
    mkdir(root, 0777);
    CHECK_REFUSED(pack_text("cifar10", root, NULL, output), COAR_ERROR_INPUT, root, "holds none of");
    snprintf(path, sizeof path, "%s/test_batch.bin", root);
    write_cifar(path, 2, 1, 7, 10, 0);
    snprintf(path, sizeof path, "%s/data_batch_2.bin", root);
    write_cifar(path, 3, 1, 3, 10, 0);
    snprintf(path, sizeof path, "%s/batches.meta.txt", root);
    picture_write(path, names, strlen(names));
    CHECK_OK(pack_text("cifar10", root, NULL, output));
    CHECK_OK(dataset_open(output, &data));
    if (!data) return;
    static const int32_t expected[] = {3, 4, 5, 7, 8};
    uint8_t pixels[3072];
    CHECK(data->count == 5 && data->classes == 10);
    CHECK_TEXT(data->class_names[9], "j");
    for (int i = 0; i < 5; i++) CHECK_INT(data->labels[i], expected[i]);
    CHECK_OK(dataset_read(data, &(uint64_t){3}, 1, pixels));
    for (int c = 0; c < 3; c++) CHECK_INT(pixels[(2 * 32 + 5) * 3 + c], 7 + 50 * c + 5); /* planes became RGB */
    dataset_close(data);

    test_begin("CIFAR: refused: label out of range, truncated, empty, wrong number of names");
    picture_write(path, names, 4);
    CHECK_REFUSED(pack_text("cifar10", root, NULL, output), COAR_ERROR_INPUT, path, "2 class names, expected 10");
    const char *file = scratch("one.bin");
    write_cifar(file, 3, 1, 9, 11, 0);
    CHECK_REFUSED(pack_text("cifar10", file, NULL, output), COAR_ERROR_INPUT, file, "record 1: label 10");
    write_cifar(file, 3, 1, 0, 10, 1);
    CHECK_REFUSED(pack_text("cifar10", file, NULL, output), COAR_ERROR_INPUT, file, "truncated");
    write_cifar(file, 0, 1, 0, 10, 0);
    CHECK_REFUSED(pack_text("cifar10", file, NULL, output), COAR_ERROR_INPUT, file, "truncated");

    test_begin("CIFAR-100: one file, the fine label");
    write_cifar(file, 4, 2, 97, 100, 0);
    CHECK_OK(pack_text("cifar100", file, NULL, output));
    CHECK_OK(dataset_open(output, &data));
    CHECK(data && data->count == 4 && data->labels[0] == 97 && data->labels[3] == 0);
    dataset_close(data);
    write_cifar(file, 4, 2, 98, 101, 0);
    CHECK_REFUSED(pack_text("cifar100", file, NULL, output), COAR_ERROR_INPUT, file, "record 2: label 100");
}

static void test_groups(void) {
    static const struct {
        const char *name, *text, *message;
    } cases[] = {
        {"an unknown example", "0,a\n7,a\n", "line 2: no example '7'"},
        {"an example twice", "0,a\n0,a\n", "line 2: example '0' has a group already"},
        {"an example left out", "file,group\n0,a\n1,a\n2,a\n3,a\n4,a\n5,a\n", "example 6 has no group"},
        {"one field", "0\n", "line 1: expected EXAMPLE,GROUP"},
        {"three fields", "0,a,b\n", "line 1: expected EXAMPLE,GROUP"},
        {"an empty group", "0,\n", "line 1: expected EXAMPLE,GROUP"},
        {"quotes left open", "0,\"a\n", "line 1: expected EXAMPLE,GROUP"},
        {"a header that is none", "row,group\n0,a\n", "line 1: no example 'row'"},
        {"an empty file", "", "example 0 has no group"},
    };
    const char *path = scratch("groups.csv"), *output = scratch("groups.h5");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_begin("groups file refused: %s", cases[i].name);
        coar_pack_options options = npy_options(output);
        options.groups = path;
        picture_write(path, cases[i].text, strlen(cases[i].text));
        CHECK_REFUSED(coar_pack(&options, NULL), COAR_ERROR_INPUT, path, cases[i].message);
    }
    test_begin("groups file: numbers stay numbers; examples by CLASS/FILE");
    coar_pack_options options = npy_options(output);
    const char *text = "0,4\n1,0\n2,4\n3,0\n4,1\n5,0\n6,0", *root = scratch("grouped");
    dataset *data = NULL;
    options.groups = path;
    picture_write(path, text, strlen(text));
    CHECK_OK(coar_pack(&options, NULL));
    CHECK_OK(dataset_open(output, &data));
    CHECK(data && !data->group_names && data->groups[0] == 4 && data->groups[4] == 1 && data->groups[6] == 0);
    dataset_close(data);
    picture p = picture_png(4, 4, 2, 8, 0);
    static const char *const files[] = {"", "/a", "/a b", "/a/1.png", "/a/2.png", "/a b/1.png"};
    for (int i = 0; i < 6; i++) {
        char name[600];
        snprintf(name, sizeof name, "%s%s", root, files[i]);
        if (i < 3)
            mkdir(name, 0777);
        else
            picture_write(name, p.data, p.size);
    }
    free(p.data);
    options.from = "imagefolder";
    options.path = root;
    options.labels = NULL;
    picture_write(path, "file,group\na/2.png,x\n2,y\na/1.png,z\n", 36);
    CHECK_OK(coar_pack(&options, NULL));
    CHECK_OK(dataset_open(output, &data));
    static const int32_t expected[] = {2, 0, 1}; /* a/1.png, a/2.png, a b/1.png: class "a" comes before "a b" */
    for (int i = 0; data && i < 3; i++) CHECK_INT(data->groups[i], expected[i]);
    dataset_close(data);
}

int main(void) {
    test_round_trip();
    test_many_names();
    test_large();
    test_pack_refused();
    test_npy_refused();
    test_idx();
    test_cifar();
    test_groups();
    return test_end();
}
