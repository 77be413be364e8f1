/*
 * status.h - how failures travel inside the library.
 *
 * A function that finds a failure calls status_set once, with a message that names the file, the field and
 * what to do; every caller passes the code on with TRY or TRY_GOTO. The first message wins: later ones on the
 * same thread are dropped until status_clear (called by each public function).
 * Must not know: any other module.
 */
#ifndef COAR_CORE_STATUS_H
#define COAR_CORE_STATUS_H

#include "coar.h"

#define COAR_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* Records the message (unless one is recorded already) and returns `code`. Thread-local. */
coar_status status_set(coar_status code, const char *format, ...) COAR_PRINTF(2, 3);

/* The same with ": strerror(error)" appended. */
coar_status status_set_errno(coar_status code, int error, const char *format, ...) COAR_PRINTF(3, 4);

/* Forgets the message. */
void status_clear(void);

/* Carries a message from a worker thread to the caller's: copies the current one into `buffer`. */
void status_copy(char *buffer, size_t size);

#define TRY(expression)                                    \
    do {                                                   \
        coar_status try_status = (expression);             \
        if (try_status != COAR_OK) return try_status;      \
    } while (0)

/* Needs `coar_status status` and a label `done` in scope. */
#define TRY_GOTO(expression)                               \
    do {                                                   \
        status = (expression);                             \
        if (status != COAR_OK) goto done;                  \
    } while (0)

#endif
