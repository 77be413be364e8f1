/* status.c - the thread-local first message, and the texts of coar.h's status codes. */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];

const char *coar_version(void) {
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
    return TEXT(COAR_VERSION_MAJOR) "." TEXT(COAR_VERSION_MINOR) "." TEXT(COAR_VERSION_PATCH);
}

const char *coar_status_text(coar_status status) {
    switch (status) {
#define X(name, value, text)                                                                                           \
    case COAR_##name:                                                                                                  \
        return text;
        COAR_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *coar_last_error(void) {
    return message;
}

void status_clear(void) {
    message[0] = '\0';
}

void status_copy(char *buffer, size_t size) {
    snprintf(buffer, size, "%s", message);
}

static void one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < ' ') *text = ' '; /* names from files may hold anything; an error stays one line */
}

coar_status status_set(coar_status code, const char *format, ...) {
    if (message[0]) return code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    one_line(message);
    return code;
}

coar_status status_set_errno(coar_status code, int error, const char *format, ...) {
    if (message[0]) return code;
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof message)
        snprintf(message + used, sizeof message - (size_t)used, ": %s", strerror(error));
    one_line(message);
    return code;
}
