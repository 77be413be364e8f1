/*
 * import_folder.c - PATH/CLASS/FILE: a folder of images per class. Classes and files are sorted by name in the C locale and
 * numbered from 0, as torchvision's ImageFolder does.
 *
 * Left out: hidden files, what file managers leave behind (Thumbs.db, desktop.ini), and files directly in PATH that are no
 * images (a README, a groups file). Anything else that is not JPEG or PNG is an error: a data set that silently lacks
 * examples is worse than none.
 * Must not know: how images are decoded.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "core/files.h"
#include "core/memory.h"
#include "data/dataset.h"
#include "data/importer.h"
#include "data/names.h"

typedef struct folder {
    importer base;
    size_t names_capacity, labels_capacity, classes_capacity;
} folder;

/* ------------------------------------------------------------------------------------------------- listing */

typedef struct listing {
    char **names; /* sorted */
    size_t count, capacity;
} listing;

static int is_ignored(const char *name) {
    return name[0] == '.' || !strcasecmp(name, "Thumbs.db") || !strcasecmp(name, "desktop.ini");
}

static int is_image_name(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") || !strcasecmp(dot, ".png"));
}

static coar_status list_folder(const char *path, listing *out) {
    coar_status status = COAR_OK;
    DIR *directory = opendir(path);
    if (!directory) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot list", path);
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry && errno) status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot list", path);
        if (!entry) break;
        if (is_ignored(entry->d_name)) continue;
        TRY_GOTO(memory_grow(&out->names, &out->capacity, out->count + 1, sizeof *out->names, path));
        TRY_GOTO(names_copy(entry->d_name, &out->names[out->count]));
        out->count++;
    }
    if (out->count) qsort(out->names, out->count, sizeof *out->names, names_compare);
done:
    closedir(directory);
    return status;
}

/* S_IFDIR, S_IFREG, ...; links are followed. */
static coar_status file_kind(const char *path, mode_t *kind) {
    struct stat information;
    if (stat(path, &information)) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read", path);
    *kind = information.st_mode & S_IFMT;
    return COAR_OK;
}

static coar_status join(const char *folder, const char *name, char **out) {
    *out = string_format("%s/%s", folder, name);
    return *out ? COAR_OK : status_set(COAR_ERROR_MEMORY, "%s: not enough memory", folder);
}

/* ------------------------------------------------------------------------------------------------- classes */

static coar_status add_example(folder *f, const char *class_path, const char *class_name, const char *file) {
    coar_status status = COAR_OK;
    importer *base = &f->base;
    char *path = NULL;
    mode_t kind = 0;
    TRY_GOTO(join(class_path, file, &path));
    TRY_GOTO(file_kind(path, &kind));
    if (kind != S_IFREG) {
        status = status_set(COAR_ERROR_INPUT, "%s: not a file; images are expected as PATH/CLASS/FILE", path);
        goto done;
    }
    if (!is_image_name(file)) {
        status = status_set(COAR_ERROR_INPUT, "%s: neither .jpg, .jpeg nor .png; remove it", path);
        goto done;
    }
    size_t need = (size_t)base->count + 1;
    TRY_GOTO(memory_grow(&base->labels, &f->labels_capacity, need, sizeof *base->labels, path));
    TRY_GOTO(memory_grow(&base->names, &f->names_capacity, need, sizeof *base->names, path));
    TRY_GOTO(join(class_name, file, &base->names[base->count]));
    base->labels[base->count++] = (int32_t)(base->classes - 1);
done:
    free(path);
    return status;
}

static coar_status add_class(folder *f, const char *path, const char *name) {
    coar_status status = COAR_OK;
    importer *base = &f->base;
    listing files = {0};
    if (base->classes == DATASET_MAX_CLASSES)
        return status_set(COAR_ERROR_INPUT, "%s: more than %u classes", path, DATASET_MAX_CLASSES);
    TRY_GOTO(memory_grow(&base->class_names, &f->classes_capacity, base->classes + 1, sizeof *base->class_names, path));
    TRY_GOTO(names_copy(name, &base->class_names[base->classes]));
    base->classes++;
    TRY_GOTO(list_folder(path, &files));
    if (files.count == 0) {
        status = status_set(COAR_ERROR_INPUT, "%s: the class has no images; remove the folder or fill it", path);
        goto done;
    }
    for (size_t i = 0; i < files.count; i++) TRY_GOTO(add_example(f, path, name, files.names[i]));
done:
    names_free(files.names, files.count);
    return status;
}

static coar_status add_classes(folder *f, const char *root) {
    coar_status status = COAR_OK;
    listing entries = {0};
    char *path = NULL;
    mode_t kind = 0;
    TRY_GOTO(list_folder(root, &entries));
    for (size_t i = 0; i < entries.count; i++) {
        TRY_GOTO(join(root, entries.names[i], &path));
        TRY_GOTO(file_kind(path, &kind));
        if (kind == S_IFDIR) {
            TRY_GOTO(add_class(f, path, entries.names[i]));
        } else if (is_image_name(entries.names[i])) {
            status =
                status_set(COAR_ERROR_INPUT, "%s: an image outside a class folder; expected PATH/CLASS/FILE", path);
            goto done;
        }
        free(path);
        path = NULL;
    }
    if (f->base.count == 0)
        status = status_set(COAR_ERROR_INPUT, "%s: holds no class folders; expected PATH/CLASS/FILE", root);
done:
    free(path);
    names_free(entries.names, entries.count);
    return status;
}

/* ----------------------------------------------------------------------------------------------- importing */

static coar_status load(const importer *self, uint64_t i, image *out) {
    coar_status status = COAR_OK;
    file_map map = {0};
    char *path = NULL;
    TRY_GOTO(join(self->path, self->names[i], &path));
    TRY_GOTO(file_map_open(path, &map));
    TRY_GOTO(image_decode(map.data, map.size, path, out));
done:
    file_map_close(&map);
    free(path);
    return status;
}

static void destroy(importer *self) {
    free(self);
}

coar_status import_folder_open(const char *path, const char *labels, importer **out) {
    (void)labels;
    folder *f;
    TRY(memory_new(1, sizeof *f, path, &f));
    f->base.load = load;
    f->base.destroy = destroy;
    coar_status status = add_classes(f, path);
    if (status == COAR_OK)
        *out = &f->base;
    else
        importer_destroy(&f->base);
    return status;
}
