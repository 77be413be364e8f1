/*
 * liveness.c - who else works on this run, by the heartbeats beside its journals (heartbeat.c).
 *
 * A process that did not say that it has ended lives if it holds the flock of its journal; or, on this host (name and
 * boot id are equal), if its pid exists with the same start time; or, elsewhere, if its last beat is less than 60 s
 * ago. Ages are differences between times that the file system gave, so clocks of hosts need not agree.
 * Must not know: what the work is.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/files.h"

#include "core/memory.h"
#include "store/internal.h"

#define ALIVE ".alive"
#define JOURNAL ".journal"
#define SILENCE_SECONDS 60 /* docs/design.md, section 4 */

/* Whether somebody holds the lock of a journal. */
static bool journal_locked(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    bool locked = flock(file, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    close(file);
    return locked;
}

bool folder_clock(const run_store *store, double *now) {
    struct stat information;
    struct timespec time;
    char *path = folder_path(store, "lock");
    const int file = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    const bool known = file >= 0 && futimens(file, NULL) == 0 && fstat(file, &information) == 0;
    if (file >= 0) close(file);
    free(path);
    clock_gettime(CLOCK_REALTIME, &time);
    if (known) time = information.st_mtim;
    *now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    return known;
}

process_life liveness_look(const run_store *store, const char *alive, double now, process_sign *sign, double *when) {
    char *path = folder_path(store, alive);
    char *journal = string_format("%s/%.*s" JOURNAL, store->folder, (int)(strlen(alive) - strlen(ALIVE)), alive);
    process_sign me;
    process_life result = DEAD;
    process_this(&me);
    const bool known = path && journal && heartbeat_read(path, sign, when);
    const bool here = known && !strcmp(sign->host, me.host) && !strcmp(sign->boot, me.boot);
    if (!known)
        result = UNKNOWN;
    else if (sign->ended)
        result = here ? DEAD_HERE : DEAD;
    else if (journal_locked(journal))
        result = here ? ALIVE_HERE : ALIVE_ELSEWHERE;
    else if (here)
        result = sign->start && process_start(sign->pid) == sign->start ? ALIVE_HERE : DEAD_HERE;
    else if (now - *when < SILENCE_SECONDS)
        result = ALIVE_ELSEWHERE;
    free(journal);
    free(path);
    return result;
}

bool liveness_journal(const run_store *store, const char *journal_name) {
    process_sign sign;
    double now, when;
    char *alive = string_format("%.*s" ALIVE, (int)(strlen(journal_name) - strlen(JOURNAL)), journal_name);
    folder_clock(store, &now);
    const bool lives = alive && liveness_look(store, alive, now, &sign, &when) >= ALIVE_HERE;
    free(alive);
    return lives;
}

static coar_status busy(const run_store *store, const char *name, process_life where, const process_sign *sign) {
    return status_set(
        COAR_ERROR_BUSY,
        "%s: process %ld on %s is working on it (%s/%s): wait for it, or end it%s, or give --force-resume", store->path,
        sign->pid, sign->host, store->folder, name, where == ALIVE_ELSEWHERE ? " (it counts as dead 60 s later)" : "");
}

/* A heartbeat of this host whose journal is gone: killed before it had one, or after its stage was finished. */
static void remove_orphan(const run_store *store, const char *alive) {
    char *path = folder_path(store, alive);
    char *journal = string_format("%s/%.*s" JOURNAL, store->folder, (int)(strlen(alive) - strlen(ALIVE)), alive);
    if (path && journal && !file_exists(journal)) unlink(path);
    free(journal);
    free(path);
}

coar_status liveness_check(const run_store *store, const char *stage, uint32_t shard, uint32_t shards) {
    coar_status status = COAR_OK;
    name_list list;
    char prefix[NAME_SIZE + 1] = "";
    double now, when;
    if (stage) snprintf(prefix, sizeof prefix, "%s.", stage);
    folder_clock(store, &now);
    TRY(folder_list(store, prefix, ALIVE, &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        process_sign sign;
        const process_life where = liveness_look(store, list.names[i], now, &sign, &when);
        /* shards of one partition are disjoint; anything else overlaps */
        bool disjoint = stage && shards > 1 && sign.shards == shards && sign.shard != shard;
        if (where >= ALIVE_HERE && !disjoint) status = busy(store, list.names[i], where, &sign);
        if (where == DEAD_HERE) remove_orphan(store, list.names[i]);
    }
    name_list_free(&list);
    return status;
}
