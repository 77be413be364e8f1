/*
 * terminal.c - numbers, progress, log lines, signals and exit codes.
 * On a terminal one line is redrawn a few times a second; elsewhere one line a minute is printed.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

static volatile sig_atomic_t stop_asked;
static bool line_open; /* a progress line without its newline is on the terminal */
static double last_print = -1e9;
static char last_stage[32];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void on_signal(int signal_number) {
    (void)signal_number;
    stop_asked = 1;
}

void cli_catch_signals(void) {
    /* The second signal of a kind ends the program at once: journals survive that too. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL); /* which mpirun passes on, while of others it kills after a second */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a write that fails, as on a full disk */
}

const char *cli_mean(char text[CLI_MEAN_SIZE], double value) {
    if (isfinite(value))
        snprintf(text, CLI_MEAN_SIZE, "%.3f", value);
    else
        strcpy(text, "-");
    return text;
}

static void format_time(double seconds, char *text, size_t size) {
    long s = (long)(seconds + .5);
    if (seconds < 0)
        snprintf(text, size, "--:--");
    else if (s < 3600)
        snprintf(text, size, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(text, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void close_line(void) {
    if (line_open) fputc('\n', stderr);
    line_open = false;
}

static int on_progress(void *user, const coar_progress *p) {
    (void)user;
    const bool terminal = isatty(STDERR_FILENO);
    const bool done = p->total && p->done >= p->total;
    const double time = now();
    if (strcmp(last_stage, p->stage)) {
        close_line();
        snprintf(last_stage, sizeof last_stage, "%s", p->stage);
        last_print = terminal ? -1e9 : time; /* short stages print nothing into a log */
    }
    if (time - last_print >= (terminal ? .2 : 60) || (done && terminal)) {
        char left[32];
        format_time(p->seconds_left, left, sizeof left);
        fprintf(stderr, "%s%s: %llu of %llu %s (%.0f %%), %.0f %s/s, %s left%s", terminal ? "\r" : "", p->stage,
                (unsigned long long)p->done, (unsigned long long)p->total, p->unit,
                p->total ? 100. * (double)p->done / (double)p->total : 0., p->rate, p->unit, left,
                terminal ? "\x1b[K" : "\n");
        fflush(stderr);
        line_open = terminal;
        last_print = time;
    }
    if (done) close_line();
    return stop_asked;
}

static void on_log(void *user, coar_log_level level, const char *line) {
    (void)user;
    close_line();
    fprintf(stderr, "coar: %s%s\n", level == COAR_LOG_WARNING ? "warning: " : "", line);
}

static int on_silent_progress(void *user, const coar_progress *p) {
    (void)user, (void)p;
    return stop_asked;
}

const coar_callbacks *cli_silent_callbacks(void) {
    static const coar_callbacks callbacks = {.progress = on_silent_progress, .log = on_log};
    return &callbacks;
}

const coar_callbacks *cli_callbacks(void) {
    static const coar_callbacks callbacks = {.progress = on_progress, .log = on_log};
    return &callbacks;
}

int cli_finish(coar_status status) {
    close_line();
    /* Results that did not reach stdout (a full disk, a closed pipe) are a failure too. */
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "coar: cannot write to standard output\n");
        return 1;
    }
    if (status == COAR_OK) return 0;
    if (!cli_follows())
        fprintf(stderr, "coar: %s\n", *coar_last_error() ? coar_last_error() : coar_status_text(status));
    return status == COAR_STOPPED ? 3 : status == COAR_ERROR_USAGE ? 2 : 1;
}

const char *cli_command_line(void) {
    static char line[2048];
    if (line[0]) return line;
    FILE *file = fopen("/proc/self/cmdline", "rb");
    size_t used = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file) fclose(file);
    while (used && !line[used - 1]) used--;
    for (size_t i = 0; i < used; i++)
        if (!line[i]) line[i] = ' ';
    line[used] = '\0';
    return line;
}
