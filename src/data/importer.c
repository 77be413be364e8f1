/* importer.c - see importer.h. */
#include "data/importer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/dataset.h"
#include "data/names.h"

static const struct {
    const char *name;
    int wants_labels;
    coar_status (*open)(const char *path, const char *labels, importer **out);
} formats[] = {
    {"imagefolder", 0, import_folder_open},
    {"cifar10", 0, import_cifar10_open},
    {"cifar100", 0, import_cifar100_open},
    {"idx", 1, import_idx_open},
    {"npy", 1, import_npy_open},
};

coar_status importer_unlabelled(uint64_t count, int32_t **labels) {
    TRY(memory_new((size_t)count, sizeof **labels, "labels", labels));
    for (uint64_t i = 0; i < count; i++) (*labels)[i] = DATASET_UNLABELLED;
    return COAR_OK;
}

coar_status importer_open(const char *from, const char *path, const char *labels, importer **out) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(formats[i].name, from)) continue;
        if (labels && !formats[i].wants_labels)
            return status_set(COAR_ERROR_USAGE, "--labels %s: %s has labels of its own", labels, from);
        TRY(formats[i].open(path, labels, out));
        (*out)->path = path;
        return COAR_OK;
    }
    return status_set(COAR_ERROR_USAGE, "--from %s: choose imagefolder, cifar10, cifar100, idx, npy or tokens", from);
}

void importer_destroy(importer *self) {
    if (!self) return;
    names_free(self->names, (size_t)self->count);
    names_free(self->class_names, self->classes);
    free(self->labels);
    self->destroy(self);
}

coar_status importer_check_label(const char *file, uint64_t i, int64_t label) {
    if (label >= 0 && label < (int64_t)DATASET_MAX_CLASSES) return COAR_OK;
    return status_set(COAR_ERROR_INPUT, "%s: entry %" PRIu64 ": label %" PRId64 " is not in 0..%u", file, i, label,
                      DATASET_MAX_CLASSES - 1);
}
