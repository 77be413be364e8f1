/*
 * log.h - progress and log lines through the caller's callbacks.
 * Must not know: terminals, files.
 */
#ifndef COAR_CORE_LOG_H
#define COAR_CORE_LOG_H

#include <stdbool.h>

#include "core/status.h"

void log_info(const coar_callbacks *callbacks, const char *format, ...) COAR_PRINTF(2, 3);
void log_warning(const coar_callbacks *callbacks, const char *format, ...) COAR_PRINTF(2, 3);

/* Follows one stage. */
typedef struct progress {
    const coar_callbacks *callbacks;
    const char *stage, *unit;
    uint64_t done, total;   /* in `unit`s */
    uint64_t before;        /* done before this call: left out of the rate */
    double start;           /* clock_seconds() at the beginning */
} progress;

void progress_begin(progress *progress, const coar_callbacks *callbacks, const char *stage, const char *unit,
                    uint64_t before, uint64_t total);

/* Reports; true when the caller asks for a stop. */
bool progress_update(progress *progress, uint64_t done);

/* Monotonic seconds. */
double clock_seconds(void);

/* What is left of a limit in seconds that began at `start`; never 0, which would mean none: whoever goes on then still does
 * one piece of work. 0 for a limit of 0. */
double clock_left(double limit, double start);

/* The time now as files tell it: "2024-11-22T10:00:00Z". */
enum { UTC_SIZE = 32 };
void clock_utc(char text[UTC_SIZE]);

#endif
