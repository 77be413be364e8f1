/*
 * importer.h - where the images of a new data set come from: one struct for every source, and one opener per format.
 *
 * An importer lists its examples at once (labels, names) and loads single images on demand, from any thread.
 * Must not know: HDF5, resizing.
 */
#ifndef COAR_DATA_IMPORTER_H
#define COAR_DATA_IMPORTER_H

#include "data/image.h"

typedef struct importer importer;

struct importer {
    uint64_t count;     /* N >= 1 */
    int32_t *labels;    /* [count], 0..DATASET_MAX_CLASSES-1, or DATASET_UNLABELLED */
    char **class_names; /* [classes] or NULL */
    size_t classes;
    char **names;     /* [count] "CLASS/FILE", which a groups file may use; NULL where examples are only numbered */
    const char *path; /* what is read, for messages; borrowed from the caller of importer_open */
    /* Example i in 0..count-1 as an image of its own size. Thread-safe on one importer. */
    coar_status (*load)(const importer *self, uint64_t i, image *out);
    void (*destroy)(importer *self); /* frees what only the format knows of, and self */
};

/* from: imagefolder, cifar10, cifar100, idx, npy. `path` must outlive the importer. labels: a file, or NULL; a format that has
 * labels of its own refuses one; without one the others are unlabelled. */
coar_status importer_open(const char *from, const char *path, const char *labels, importer **out);
void importer_destroy(importer *self); /* accepts NULL */

/* The formats; `labels` is NULL where the format has its own, or there are none. */
coar_status import_folder_open(const char *path, const char *labels, importer **out);
coar_status import_cifar10_open(const char *path, const char *labels, importer **out);
coar_status import_cifar100_open(const char *path, const char *labels, importer **out);
coar_status import_idx_open(const char *path, const char *labels, importer **out);
coar_status import_npy_open(const char *path, const char *labels, importer **out);

/* `count` times DATASET_UNLABELLED; malloc'ed. */
coar_status importer_unlabelled(uint64_t count, int32_t **labels);

/* An error unless 0 <= label < DATASET_MAX_CLASSES. `i`: the entry of `file` it came from. */
coar_status importer_check_label(const char *file, uint64_t i, int64_t label);

#endif
