/* test.c - see test.h. */
#include "test.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

int test_count, test_failures;

static char current[256];
static int current_failures, current_skipped, current_open;
static char temporary[256];

static void close_current(void) {
    if (!current_open) return;
    test_count++;
    if (current_skipped) {
        printf("ok %d - %s\n", test_count, current);
    } else {
        if (current_failures) test_failures++;
        printf("%s %d - %s\n", current_failures ? "not ok" : "ok", test_count, current);
    }
    fflush(stdout);
    current_open = 0;
}

void test_begin(const char *format, ...) {
    close_current();
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(current, sizeof current, format, arguments);
    va_end(arguments);
    current_open = 1;
    current_failures = current_skipped = 0;
}

void test_skip(const char *reason, ...) {
    size_t used = strlen(current);
    va_list arguments;
    va_start(arguments, reason);
    used += (size_t)snprintf(current + used, sizeof current - used, " # SKIP ");
    if (used < sizeof current) vsnprintf(current + used, sizeof current - used, reason, arguments);
    va_end(arguments);
    current_skipped = 1;
}

void test_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("# %s:%d: ", file, line);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    current_failures++;
}

int test_end(void) {
    close_current();
    printf("1..%d\n", test_count);
    if (temporary[0]) {
        char command[300];
        snprintf(command, sizeof command, "rm -rf '%s'", temporary);
        if (system(command)) printf("# could not remove %s\n", temporary);
    }
    return test_failures ? 1 : 0;
}

static char *slot(void) {
    static char slots[4][512];
    static int next;
    return slots[next++ & 3];
}

static const char *below(const char *folder, const char *name) {
    char *path = slot();
    snprintf(path, 512, "%s/%s", folder, name);
    return path;
}

const char *test_shared(const char *name) {
    const char *folder = getenv("COAR_SHARED");
    const char *path = below(folder ? folder : "../shared", name);
    struct stat s;
    return stat(path, &s) ? NULL : path;
}

const char *test_path(const char *name) {
    const char *folder = getenv("TEST_DIR");
    return below(folder ? folder : "tests", name);
}

const char *test_temporary(const char *name) {
    if (!temporary[0]) {
        const char *folder = getenv("TMPDIR");
        snprintf(temporary, sizeof temporary, "%s/coar-test-XXXXXX", folder ? folder : "/tmp");
        if (!mkdtemp(temporary)) {
            perror(temporary);
            exit(2);
        }
    }
    return below(temporary, name);
}
