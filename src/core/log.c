/* log.c - see log.h. */
#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static void log_line(const coar_callbacks *callbacks, coar_log_level level, const char *format, va_list arguments) {
    if (!callbacks || !callbacks->log) return;
    char line[1024];
    vsnprintf(line, sizeof line, format, arguments);
    callbacks->log(callbacks->user, level, line);
}

void log_info(const coar_callbacks *callbacks, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(callbacks, COAR_LOG_INFO, format, arguments);
    va_end(arguments);
}

void log_warning(const coar_callbacks *callbacks, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(callbacks, COAR_LOG_WARNING, format, arguments);
    va_end(arguments);
}

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double clock_left(double limit, double start) {
    if (limit <= 0) return 0;
    const double left = limit - (clock_seconds() - start);
    return left > 1e-3 ? left : 1e-3;
}

void clock_utc(char text[UTC_SIZE]) {
    time_t now = time(NULL);
    struct tm utc;
    strftime(text, UTC_SIZE, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

void progress_begin(progress *progress, const coar_callbacks *callbacks, const char *stage, const char *unit,
                    uint64_t before, uint64_t total) {
    progress->callbacks = callbacks;
    progress->stage = stage;
    progress->unit = unit;
    progress->done = progress->before = before;
    progress->total = total;
    progress->start = clock_seconds();
}

bool progress_update(progress *progress, uint64_t done) {
    progress->done = done;
    if (!progress->callbacks || !progress->callbacks->progress) return false;
    double seconds = clock_seconds() - progress->start;
    uint64_t here = done - progress->before;
    double rate = seconds > 0 ? (double)here / seconds : 0;
    coar_progress report = {
        .stage = progress->stage,
        .done = done,
        .total = progress->total,
        .seconds = seconds,
        .rate = rate,
        .unit = progress->unit,
        .seconds_left = rate > 0 && progress->total >= done ? (double)(progress->total - done) / rate : -1,
    };
    return progress->callbacks->progress(progress->callbacks->user, &report) != 0;
}
