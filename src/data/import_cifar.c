/*
 * import_cifar.c - CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and 32 x 32 pixels, one plane
 * per colour. PATH is one .bin file, or the folder of all: training batches first, then the test batch.
 * Must not know: the other formats.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/files.h"
#include "core/memory.h"
#include "data/importer.h"
#include "data/names.h"

enum { SIDE = 32, PLANE = SIDE * SIDE, FILES_MAX = 6 };

typedef struct layout {
    size_t label_bytes; /* the last is the label: CIFAR-100 has coarse, fine */
    int32_t classes;
    const char *files[FILES_MAX];
    const char *class_names; /* text file, one name a line, beside the .bin files */
} layout;

static const layout cifar10 = {1,
                               10,
                               {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                                "data_batch_5.bin", "test_batch.bin"},
                               "batches.meta.txt"};
static const layout cifar100 = {2, 100, {"train.bin", "test.bin"}, "fine_label_names.txt"};

typedef struct batches {
    importer base;
    const layout *layout;
    size_t record; /* bytes */
    int files;
    file_map maps[FILES_MAX];
    uint64_t ends[FILES_MAX]; /* records up to and including each file */
} batches;

static coar_status load(const importer *self, uint64_t i, image *out) {
    const batches *b = (const batches *)self;
    int file = 0;
    while (i >= b->ends[file]) file++;
    const uint64_t first = file ? b->ends[file - 1] : 0;
    const uint8_t *planes = b->maps[file].data + (size_t)(i - first) * b->record + b->layout->label_bytes;
    TRY(image_reshape(out, SIDE, SIDE, 3, self->path));
    for (int p = 0; p < PLANE; p++)
        for (int c = 0; c < 3; c++) out->pixels[3 * p + c] = planes[c * PLANE + p];
    return COAR_OK;
}

static void destroy(importer *self) {
    batches *b = (batches *)self;
    for (int i = 0; i < b->files; i++) file_map_close(&b->maps[i]);
    free(b);
}

static coar_status add_file(batches *b, const char *path) {
    file_map *map = &b->maps[b->files];
    TRY(file_map_open(path, map));
    b->files++;
    if (map->size == 0 || map->size % b->record)
        return status_set(COAR_ERROR_INPUT,
                          "%s: %zu bytes are no whole number of records of %zu bytes; is it truncated?", path,
                          map->size, b->record);
    const uint64_t first = b->base.count, count = map->size / b->record;
    b->base.count += count;
    b->ends[b->files - 1] = b->base.count;
    size_t capacity = (size_t)first;
    TRY(memory_grow(&b->base.labels, &capacity, (size_t)b->base.count, sizeof *b->base.labels, path));
    for (uint64_t i = 0; i < count; i++) {
        int32_t label = map->data[(size_t)i * b->record + b->layout->label_bytes - 1];
        if (label >= b->layout->classes)
            return status_set(COAR_ERROR_INPUT, "%s: record %llu: label %d is not in 0..%d", path,
                              (unsigned long long)i, label, b->layout->classes - 1);
        b->base.labels[first + i] = label;
    }
    return COAR_OK;
}

/* The lines of the names file in `folder`; without one the classes stay unnamed. */
static coar_status read_class_names(batches *b, const char *folder) {
    coar_status status = COAR_OK;
    file_map map = {0};
    char *path = string_format("%s/%s", folder, b->layout->class_names), *text = NULL, *rest;
    if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", folder);
    if (!file_exists(path)) goto done;
    TRY_GOTO(file_map_open(path, &map));
    TRY_GOTO(memory_new(map.size + 1, 1, path, &text));
    if (map.size) memcpy(text, map.data, map.size);
    TRY_GOTO(memory_new((size_t)b->layout->classes, sizeof *b->base.class_names, path, &b->base.class_names));
    b->base.classes = (size_t)b->layout->classes;
    rest = text;
    int32_t count = 0;
    for (char *line; (line = strsep(&rest, "\r\n"));) {
        if (!*line) continue;
        if (count < b->layout->classes) TRY_GOTO(names_copy(line, &b->base.class_names[count]));
        count++;
    }
    if (count != b->layout->classes)
        status = status_set(COAR_ERROR_INPUT, "%s: %d class names, expected %d", path, count, b->layout->classes);
done:
    file_map_close(&map);
    free(text);
    free(path);
    return status;
}

static coar_status add_folder(batches *b, const char *folder) {
    for (int i = 0; i < FILES_MAX && b->layout->files[i]; i++) {
        char *path = string_format("%s/%s", folder, b->layout->files[i]);
        if (!path) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", folder);
        coar_status status = file_exists(path) ? add_file(b, path) : COAR_OK;
        free(path);
        TRY(status);
    }
    if (b->files == 0)
        return status_set(COAR_ERROR_INPUT,
                          "%s: holds none of %s ... %s; give the folder of the binary version or one file", folder,
                          b->layout->files[0], b->layout->files[b->layout == &cifar10 ? FILES_MAX - 1 : 1]);
    return read_class_names(b, folder);
}

static coar_status add_single(batches *b, const char *path) {
    TRY(add_file(b, path));
    char *folder = path_folder(path);
    if (!folder) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    coar_status status = read_class_names(b, folder);
    free(folder);
    return status;
}

static coar_status open_layout(const layout *layout, const char *path, importer **out) {
    struct stat information;
    batches *b;
    TRY(memory_new(1, sizeof *b, path, &b));
    b->base.load = load;
    b->base.destroy = destroy;
    b->layout = layout;
    b->record = layout->label_bytes + 3 * PLANE;
    const int is_folder = !stat(path, &information) && S_ISDIR(information.st_mode);
    coar_status status = is_folder ? add_folder(b, path) : add_single(b, path);
    if (status == COAR_OK)
        *out = &b->base;
    else
        importer_destroy(&b->base);
    return status;
}

coar_status import_cifar10_open(const char *path, const char *labels, importer **out) {
    (void)labels;
    return open_layout(&cifar10, path, out);
}

coar_status import_cifar100_open(const char *path, const char *labels, importer **out) {
    (void)labels;
    return open_layout(&cifar100, path, out);
}
