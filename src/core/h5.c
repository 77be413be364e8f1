/* h5.c - see h5.h. */
#include "core/h5.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

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
