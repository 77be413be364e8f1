/* ranks.c - a command that several processes do together (coar.h, coar_ranks_begin): rank 0 is the one that is seen. */
#include <stdio.h>

#include "cli/cli.h"

static coar_ranks ranks = {.count = 1};

bool cli_ranks_begin(void) {
    if (coar_ranks_begin(&ranks) == COAR_OK) return true;
    if (ranks.rank == 0) fprintf(stderr, "coar: %s\n", coar_last_error());
    coar_ranks_end(1); /* those that wait for this one */
    return false;
}

int cli_ranks_end(int code) {
    return coar_ranks_end(code);
}

bool cli_follows(void) {
    return ranks.rank > 0;
}

/* Signals, and warnings of what is wrong with this rank alone. */
static void on_log(void *user, coar_log_level level, const char *line) {
    (void)user;
    if (level == COAR_LOG_WARNING) fprintf(stderr, "coar: warning: rank %d: %s\n", ranks.rank, line);
}

int cli_follow(coar_follow_options options) {
    const coar_callbacks callbacks = {.progress = cli_silent_callbacks()->progress, .log = on_log};
    options.callbacks = &callbacks;
    if (coar_ranks_follow(&options) == COAR_OK) return 0;
    fprintf(stderr, "coar: rank %d: %s\n", ranks.rank, coar_last_error());
    return 1;
}
