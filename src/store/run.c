/*
 * run.c - opening, creating and removing a run: run.h5 beside run.h5.parts/ with its manifest.
 * Must not know: what the parts hold.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "store/internal.h"

#define MANIFEST_FORMAT "coar.manifest"

static bool is_folder(const char *path) {
    struct stat information;
    return stat(path, &information) == 0 && S_ISDIR(information.st_mode);
}

static coar_status new_handle(const char *path, run_store **out) {
    run_store *store;
    TRY(memory_new(1, sizeof *store, "run", &store));
    store->lock = -1;
    store->path = strdup(path);
    store->folder = string_format("%s.parts", path);
    if (!store->path || !store->folder) {
        store_close(store);
        return status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path);
    }
    const char *slash = strrchr(store->folder, '/');
    store->folder_name = slash ? slash + 1 : store->folder;
    *out = store;
    return COAR_OK;
}

void store_close(run_store *store) {
    if (!store) return;
    if (store->lock >= 0) close(store->lock);
    document_free(&store->manifest);
    document_free(&store->ablate);
    free(store->folder);
    free(store->path);
    free(store);
}

const char *store_path(const run_store *store) {
    return store->path;
}

const char *store_setting(const run_store *store, const char *key) {
    const char *value = settings_value(&store->manifest.settings, key);
    return value ? value : settings_value(&store->ablate.settings, key);
}

coar_status store_setting_real(const run_store *store, const char *key, double *out) {
    const char *text = store_setting(store, key);
    char *end;
    if (!text) return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is missing", store_path(store), key);
    *out = number_parse(text, &end);
    if (*end || end == text)
        return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is no number", store_path(store), key);
    return COAR_OK;
}

coar_status store_setting_integer(const run_store *store, const char *key, uint64_t *out) {
    const char *text = store_setting(store, key);
    char *end;
    if (!text) return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is missing", store_path(store), key);
    *out = strtoull(text, &end, 10);
    if (*end || end == text)
        return status_set(COAR_ERROR_INPUT, "%s: manifest: '%s' is no number", store_path(store), key);
    return COAR_OK;
}

/* ----------------------------------------------------------------------------------------- starting over */

/* Names that this library gives files of the folder, and their temporary files. */
static bool is_own_name(const char *name) {
    static const char *const whole[] = {RUN_MANIFEST, "lock", TABLES_FILE, GRADIENTS_FILE, STORE_STEPS};
    static const char *const begins[] = {ABLATE_STAGE, GRADIENTS_STAGE, "baseline-",  "passes-", "truth-",
                                         "outputs-",   "fit-",          "predicted-", EDIT_PART};
    static const char *const ends[] = {".h5", ".json", ".journal", ".alive"};
    const char *temporary = strstr(name, ".tmp.");
    const size_t length = temporary ? (size_t)(temporary - name) : strlen(name);
    bool begin = false, end = false;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strlen(whole[i]) == length && !strncmp(name, whole[i], length)) return true;
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) begin |= !strncmp(name, begins[i], strlen(begins[i]));
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t tail = strlen(ends[i]);
        end |= length > tail && !strncmp(name + length - tail, ends[i], tail);
    }
    return begin && end;
}

/* --force starts a run over; it does not clear somebody's folder that happens to have the name. */
static coar_status check_own_files(const run_store *store) {
    coar_status status = COAR_OK;
    name_list list;
    TRY(folder_list(store, "", "", &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++)
        if (!is_own_name(list.names[i]))
            status = status_set(COAR_ERROR_EXISTS,
                                "%s: holds %s, which is no file of a run: move it away, or give another -o",
                                store->folder, list.names[i]);
    name_list_free(&list);
    return status;
}

/* Removes the folder's files, the manifest last: interrupted, what remains is still a run that resumes or is forced
 * again. */
static coar_status remove_folder(run_store *store) {
    coar_status status = COAR_OK;
    name_list list = {NULL, 0, 0};
    char *path = NULL;
    TRY_GOTO(folder_list(store, "", "", &list));
    for (int manifest = 0; manifest < 2; manifest++)
        for (size_t i = 0; i < list.count; i++) {
            const char *name = list.names[i];
            if ((strcmp(name, RUN_MANIFEST) == 0) != (manifest == 1)) continue;
            free(path);
            if (!(path = folder_path(store, name))) {
                status = COAR_ERROR_MEMORY;
                goto done;
            }
            if (unlink(path) && errno != ENOENT) {
                status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot remove (--force)", path);
                goto done;
            }
        }
    if (rmdir(store->folder))
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot remove (--force)", store->folder);
done:
    free(path);
    name_list_free(&list);
    return status;
}

coar_status run_remove(run_store *store) {
    coar_status status = COAR_OK;
    if (is_folder(store->path)) return status_set(COAR_ERROR_USAGE, "%s: is a folder; name a file", store->path);
    if (is_folder(store->folder)) {
        TRY(check_own_files(store));
        TRY(folder_lock(store)); /* a finishing process is waited for; a working one is refused below */
        status = liveness_check(store, NULL, 0, 1);
        if (status == COAR_OK && unlink(store->path) && errno != ENOENT)
            status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot remove (--force)", store->path);
        if (status == COAR_OK) status = remove_folder(store);
        folder_unlock(store);
    } else if (unlink(store->path) && errno != ENOENT) {
        status = status_set_errno(COAR_ERROR_IO, errno, "%s: cannot remove (--force)", store->path);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ settings */

/* The manifest, and the settings of the first ablate stage where it has begun. */
static coar_status read_settings(run_store *store, const char *manifest) {
    TRY(document_read(manifest, MANIFEST_FORMAT, &store->manifest));
    char *path = folder_path(store, ABLATE_STAGE "0.json");
    if (!path) return COAR_ERROR_MEMORY;
    coar_status status = file_exists(path) ? document_read(path, STAGE_FORMAT, &store->ablate) : COAR_OK;
    free(path);
    return status;
}

/* --------------------------------------------------------------------------------------------- creation */

/* A folder without a manifest: what a kill between mkdir and link leaves is empty but for temporary files and the
 * lock. */
static coar_status check_unmanifested(const run_store *store) {
    coar_status status = COAR_OK;
    name_list list;
    TRY(folder_list(store, "", "", &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        const char *name = list.names[i];
        if (name[0] != '.' && strcmp(name, "lock") && !strstr(name, ".tmp."))
            status = status_set(COAR_ERROR_EXISTS,
                                "%s: holds %s but no " RUN_MANIFEST ": put the manifest back, or --force to start over",
                                store->folder, name);
    }
    name_list_free(&list);
    return status;
}

/* What stands at run.h5 itself, before anything is written. */
static coar_status check_path(const run_store *store, bool have_run) {
    char *contents = NULL;
    if (!file_exists(store->path)) return COAR_OK;
    TRY(index_inspect(store->path, &contents));
    free(contents);
    if (have_run) return COAR_OK;
    return status_set(
        COAR_ERROR_EXISTS,
        "%s: is a run file without its folder %s (merged, or moved alone): give another -o, put the folder "
        "back, or --force to replace it",
        store->path, store->folder);
}

/* Makes the folder and its manifest where there are none. Undone on failure as far as this call made them. */
static coar_status create_manifest(run_store *store, const char *manifest, const setting *settings, size_t count,
                                   bool *created) {
    bool made = mkdir(store->folder, 0777) == 0;
    if (!made && errno != EEXIST)
        return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create the folder", store->folder);
    coar_status status = COAR_OK;
    bool written = false;
    if (!made && !file_exists(manifest)) status = check_unmanifested(store);
    if (status == COAR_OK && !file_exists(manifest))
        status = document_create(manifest, MANIFEST_FORMAT, settings, count, NULL, &written);
    if (status == COAR_OK && written) status = folder_sync(store);
    if (status != COAR_OK && made) rmdir(store->folder);
    *created = written;
    return status;
}

coar_status store_create(const char *path, const setting *settings, size_t count, bool force, bool *created,
                         run_store **out) {
    coar_status status = COAR_OK;
    run_store *store = NULL;
    char *manifest = NULL;
    bool written = false;
    TRY_GOTO(new_handle(path, &store));
    if (!(manifest = folder_path(store, RUN_MANIFEST))) {
        status = COAR_ERROR_MEMORY;
        goto done;
    }
    TRY_GOTO(file_check_place(path));
    if (force) TRY_GOTO(run_remove(store));
    TRY_GOTO(check_path(store, file_exists(manifest)));
    TRY_GOTO(create_manifest(store, manifest, settings, count, &written));
    TRY_GOTO(read_settings(store, manifest));
    TRY_GOTO(settings_compare(path, &store->manifest.settings, settings, count));
    folder_sweep(store);
    TRY_GOTO(index_refresh(store));
    *created = written;
    *out = store;
    store = NULL;
done:
    if (written && status != COAR_OK && store) remove_folder(store);
    free(manifest);
    store_close(store);
    return status;
}

coar_status run_look(const char *path, run_store **out) {
    coar_status status = COAR_OK;
    run_store *store = NULL;
    char *manifest = NULL;
    TRY_GOTO(new_handle(path, &store));
    if (!(manifest = folder_path(store, RUN_MANIFEST))) TRY_GOTO(COAR_ERROR_MEMORY);
    if (!file_exists(manifest)) {
        if (!file_exists(path)) TRY_GOTO(status_set(COAR_ERROR_IO, "%s: no such file", path));
        TRY_GOTO(check_path(store, true));
        TRY_GOTO(
            status_set(COAR_ERROR_INPUT,
                       "%s: %s/manifest.json is missing: work on the run it came from (a merged file can only be read)",
                       path, store->folder));
    }
    TRY_GOTO(read_settings(store, manifest));
    *out = store;
    store = NULL;
done:
    free(manifest);
    store_close(store);
    return status;
}

coar_status store_open(const char *path, run_store **out) {
    coar_status status = COAR_OK;
    run_store *store = NULL;
    TRY_GOTO(run_look(path, &store));
    TRY_GOTO(check_path(store, true));
    if (access(store->folder, W_OK) == 0) TRY_GOTO(index_refresh(store)); /* a read-only run can still be read */
    *out = store;
    store = NULL;
done:
    store_close(store);
    return status;
}
