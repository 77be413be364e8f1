/*
 * folder.c - the parts folder: names in it, its lock file, files that killed processes left behind.
 * Must not know: what the files hold.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define TEMPORARY ".tmp."
/* A writer on another host touches its temporary file far more often than this. */
#define SWEEP_SECONDS 3600

/* ------------------------------------------------------------------------------------------------ names */

coar_status name_check(const char *what, const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-:";
    size_t length = strlen(name);
    bool good = length > 0 && length < NAME_SIZE && name[0] != '.' && strspn(name, allowed) == length;
    /* TEMPORARY in a name would make its files look like left-overs */
    if (good && !strstr(name, TEMPORARY)) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "%s '%s': use up to %d letters, digits and . _ + - : (not . first)", what, name,
                      NAME_SIZE - 1);
}

char *folder_path(const run_store *store, const char *name) {
    char *path = string_format("%s/%s", store->folder, name);
    if (!path) status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->folder);
    return path;
}

coar_status folder_remove(const run_store *store, const char *name) {
    coar_status status = COAR_OK;
    char *path = folder_path(store, name);
    if (!path) return COAR_ERROR_MEMORY;
    if (unlink(path) && errno != ENOENT) status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot remove", path);
    free(path);
    return status;
}

coar_status folder_put(run_store *store, const char *name, coar_status (*write)(const char *path, const void *context),
                       const void *context) {
    coar_status status = COAR_OK;
    char *path = folder_path(store, name), *temporary = path ? file_temporary(path) : NULL;
    if (!temporary) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->path));
    h5_lock();
    status = write(temporary, context);
    h5_unlock();
    if (status != COAR_OK) unlink(temporary);
    TRY_GOTO(status);
    TRY_GOTO(file_commit(temporary, path));
    TRY_GOTO(index_refresh(store));
done:
    free(temporary);
    free(path);
    return status;
}

void name_list_free(name_list *list) {
    for (size_t i = 0; i < list->count; i++) free(list->names[i]);
    free(list->names);
    *list = (name_list){NULL, 0, 0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void name_list_sort(name_list *list) {
    if (list->count) qsort(list->names, list->count, sizeof *list->names, by_name);
}

static bool has_end(const char *name, const char *prefix, const char *suffix) {
    size_t length = strlen(name), before = strlen(prefix), after = strlen(suffix);
    return length >= before + after && !strncmp(name, prefix, before) && !strcmp(name + length - after, suffix);
}

coar_status folder_list(const run_store *store, const char *prefix, const char *suffix, name_list *out) {
    coar_status status = COAR_OK;
    name_list list = {NULL, 0, 0};
    DIR *folder = opendir(store->folder);
    if (!folder) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read the folder", store->folder);
    errno = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (!has_end(entry->d_name, prefix, suffix)) continue;
        TRY_GOTO(memory_grow(&list.names, &list.capacity, list.count + 1, sizeof *list.names, store->folder));
        char *name = strdup(entry->d_name);
        if (!name) {
            status = status_set(COAR_ERROR_MEMORY, "%s: not enough memory", store->folder);
            goto done;
        }
        list.names[list.count++] = name;
    }
    if (errno) {
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot read the folder", store->folder);
        goto done;
    }
    name_list_sort(&list);
    *out = list;
    list = (name_list){NULL, 0, 0};
done:
    closedir(folder);
    name_list_free(&list);
    return status;
}

coar_status part_names(const run_store *store, const char *prefix, name_list *out) {
    name_list list;
    TRY(folder_list(store, prefix, ".h5", &list));
    size_t kept = 0;
    for (size_t i = 0; i < list.count; i++) {
        char *name = list.names[i];
        const size_t length = strlen(name) - strlen(prefix) - strlen(".h5");
        memmove(name, name + strlen(prefix), length);
        name[length] = '\0';
        if (name_check(prefix, name) == COAR_OK) {
            list.names[kept++] = name;
        } else {
            status_clear();
            free(name);
        }
    }
    list.count = kept;
    name_list_sort(&list); /* "a" before "a-b": file names have them the other way round */
    *out = list;
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- lock */

coar_status folder_lock(run_store *store) {
    if (store->lock_depth++) return COAR_OK;
    char *path = folder_path(store, "lock");
    if (!path) {
        store->lock_depth--;
        return COAR_ERROR_MEMORY;
    }
    store->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    free(path);
    /* Nothing can be written into a folder that refuses the lock file: whoever tries gets the reason then. */
    while (store->lock >= 0 && flock(store->lock, LOCK_EX) && errno == EINTR) continue;
    return COAR_OK;
}

void folder_unlock(run_store *store) {
    if (--store->lock_depth || store->lock < 0) return;
    close(store->lock);
    store->lock = -1;
}

coar_status folder_sync(const run_store *store) {
    int file = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", store->folder);
    bool failed = fsync(file) && errno != EINVAL;
    int error = errno;
    close(file);
    return failed ? status_set_errno(COAR_ERROR_IO, error, "%s: cannot sync to disk", store->folder) : COAR_OK;
}

/* The process id behind the last TEMPORARY of a name ("NAME.tmp.PID", "NAME.tmp.HOST-PID"); 0 when there is none. */
static long temporary_owner(const char *name) {
    const char *digits = name + strlen(name);
    while (digits > name && isdigit((unsigned char)digits[-1])) digits--;
    return strstr(name, TEMPORARY) ? strtol(digits, NULL, 10) : 0;
}

void folder_sweep(const run_store *store) {
    name_list list;
    if (folder_list(store, "", "", &list) != COAR_OK) {
        status_clear(); /* sweeping is a courtesy */
        return;
    }
    for (size_t i = 0; i < list.count; i++) {
        long pid = temporary_owner(list.names[i]);
        char *path = pid > 0 ? folder_path(store, list.names[i]) : NULL;
        struct stat information;
        bool gone = path && kill((pid_t)pid, 0) && errno == ESRCH;
        if (gone && !lstat(path, &information) && time(NULL) - information.st_mtime > SWEEP_SECONDS) unlink(path);
        free(path);
    }
    name_list_free(&list);
}

/* ---------------------------------------------------------------------------------------- outputs parts */

/* "outputs-FIRST-LAST.h5", no sign, no leading zero: one name per range. */
static bool parse_mask_part(const char *name, mask_part *part) {
    uint64_t first, last;
    char again[64];
    if (strlen(name) >= sizeof part->name || sscanf(name, "outputs-%" SCNu64 "-%" SCNu64, &first, &last) != 2)
        return false;
    snprintf(again, sizeof again, "outputs-%" PRIu64 "-%" PRIu64 ".h5", first, last);
    if (strcmp(again, name) || last < first || last > (uint64_t)1 << 62) return false;
    snprintf(part->name, sizeof part->name, "%s", name);
    part->first = first;
    part->count = last - first + 1;
    return true;
}

static int by_first(const void *a, const void *b) {
    const mask_part *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Names that run.h5 refers to must be there: HDF5 would read a missing source as fill values without a word. */
static coar_status check_referred(const run_store *store, const mask_part *parts, size_t count) {
    char *contents = NULL, *rest;
    coar_status status = COAR_OK;
    if (!file_exists(store->path)) return COAR_OK;
    TRY(index_inspect(store->path, &contents));
    for (char *name = contents ? strtok_r(contents, " ", &rest) : NULL; name; name = strtok_r(NULL, " ", &rest)) {
        mask_part part;
        bool found = !parse_mask_part(name, &part);
        for (size_t i = 0; i < count; i++) found |= !strcmp(parts[i].name, name);
        if (found) continue;
        status = status_set(COAR_ERROR_INPUT,
                            "%s/%s: missing, and %s refers to it: put it back, or remove %s to compute its masks again",
                            store->folder, name, store->path, store->path);
        break;
    }
    free(contents);
    return status;
}

coar_status folder_mask_parts(const run_store *store, mask_part **out, size_t *out_count) {
    coar_status status = COAR_OK;
    name_list list = {NULL, 0, 0};
    mask_part *parts = NULL;
    size_t count = 0;
    uint64_t next = 0;
    TRY_GOTO(folder_list(store, "outputs-", ".h5", &list));
    TRY_GOTO(memory_new(list.count, sizeof *parts, "list of parts", &parts));
    for (size_t i = 0; i < list.count; i++) count += parse_mask_part(list.names[i], &parts[count]);
    if (count) qsort(parts, count, sizeof *parts, by_first);
    for (size_t i = 0; i < count; next = parts[i].first + parts[i].count, i++) {
        if (parts[i].first == next) continue;
        const char *what =
            parts[i].first > next ? "a part is missing before it: put it back" : "overlaps the part before it";
        status = status_set(COAR_ERROR_INPUT, "%s/%s: %s (masks up to %" PRIu64 " are there), or --force to start over",
                            store->folder, parts[i].name, what, next);
        goto done;
    }
    TRY_GOTO(check_referred(store, parts, count));
    *out = parts;
    *out_count = count;
    parts = NULL;
done:
    free(parts);
    name_list_free(&list);
    return status;
}

double store_space(const char *path) {
    struct statvfs fs;
    char *folder = path_folder(path);
    bool known = folder && !statvfs(folder, &fs);
    free(folder);
    return known ? (double)fs.f_bavail * (double)fs.f_frsize : INFINITY;
}

/* --------------------------------------------------------------------------------------------- small texts */

coar_status store_write_text(run_store *store, const char *name, const char *text) {
    char *path = folder_path(store, name);
    if (!path) return COAR_ERROR_MEMORY;
    coar_status status = file_write(path, text, strlen(text));
    free(path);
    return status;
}

coar_status store_read_text(run_store *store, const char *name, char **text) {
    coar_status status = COAR_OK;
    file_map map = {0};
    char *path = folder_path(store, name);
    *text = NULL;
    if (!path) return COAR_ERROR_MEMORY;
    if (!file_exists(path)) goto done;
    TRY_GOTO(file_map_open(path, &map));
    TRY_GOTO(memory_new(map.size + 1, 1, name, text));
    if (map.size) memcpy(*text, map.data, map.size);
done:
    file_map_close(&map);
    free(path);
    return status;
}
