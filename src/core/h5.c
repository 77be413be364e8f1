/* h5.c - see h5.h. */
#include "core/h5.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void h5_enter(void) {
    pthread_mutex_lock(&lock);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* kept per thread by thread-safe builds, so it is said at each entry */
}

void h5_leave(void) {
    pthread_mutex_unlock(&lock);
}

static herr_t copy_description(unsigned depth, const H5E_error2_t *error, void *user) {
    if (depth == 0 && error->desc) snprintf(user, 512, "%s", error->desc);
    return 0;
}

/* HDF5's I/O errors carry addresses and times; the system's own words inside them are what a user can act on. */
static void keep_system_message(char *text) {
    static const char mark[] = "error message = '";
    char *start = strstr(text, mark);
    if (!start) return;
    start += sizeof mark - 1;
    size_t length = strcspn(start, "'");
    memmove(text, start, length);
    text[length] = '\0';
}

coar_status h5_failed(coar_status code, const char *file, const char *object) {
    char description[512] = "HDF5 gives no reason";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, copy_description, description); /* depth 0 = where it arose */
    H5Eclear2(H5E_DEFAULT);
    keep_system_message(description);
    return status_set(code, "%s: %s: %s", file, object, description);
}

static hid_t access_settings(void) {
    hid_t settings = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(settings, H5F_CLOSE_STRONG);
    H5Pset_file_locking(settings, 0, 1);
    /* 1.8's format has room for attributes beyond 64 KiB: the names of thousands of classes */
    H5Pset_libver_bounds(settings, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    return settings;
}

coar_status h5_open(const char *path, hid_t *file) {
    if (access(path, R_OK)) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot open", path);
    hid_t settings = access_settings();
    *file = H5Fopen(path, H5F_ACC_RDONLY, settings);
    H5Pclose(settings);
    return *file < 0 ? h5_failed(COAR_ERROR_INPUT, path, "cannot open as HDF5") : COAR_OK;
}

coar_status h5_create(const char *path, const char *final, hid_t *file) {
    hid_t settings = access_settings();
    *file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, settings);
    H5Pclose(settings);
    return *file < 0 ? h5_failed(COAR_ERROR_IO, final, "cannot create") : COAR_OK;
}
