/*
 * liveness.c - who else works on this run: heartbeat files STAGE.HOST-PID-N.alive beside the journals of the same name.
 *
 * A process lives if it holds the flock of its journal; or, on this host (name and boot id are equal), if its pid
 * exists with the same start time; or, elsewhere, if its heartbeat was touched less than 60 s ago. Ages are
 * differences between times that the file system gave, so clocks of hosts need not agree.
 * Must not know: what the work is.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/memory.h"
#include "store/internal.h"

#define ALIVE ".alive"
#define JOURNAL ".journal"
#define SILENCE_SECONDS 60 /* docs/design.md, section 4 */
#define TOUCH_SECONDS 15   /* a few beats may be lost before the silence counts */

typedef struct identity {
    char host[65], boot[40];
    long pid;
    unsigned long long start; /* clock ticks after boot */
    uint32_t shard, shards;
} identity;

/* ------------------------------------------------------------------------------------- this process, others */

/* Start time of a process of this host; 0 when it is gone. A zombie is gone: it works no more. */
static unsigned long long start_time(long pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    /* "pid (name) state ppid ...": the name may hold anything, so fields count from the last ')'; start is the 22nd. */
    const char *field = strrchr(text, ')');
    if (!field || field[1] != ' ' || field[2] == 'Z' || field[2] == 'X') return 0;
    for (int i = 2; i < 22 && field; i++) field = strchr(field + 1, ' ');
    return field ? strtoull(field + 1, NULL, 10) : 0;
}

static void this_process(identity *id) {
    *id = (identity){.pid = (long)getpid()};
    if (gethostname(id->host, sizeof id->host - 1)) snprintf(id->host, sizeof id->host, "unknown");
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file) {
        if (fscanf(file, "%39s", id->boot) != 1) id->boot[0] = '\0';
        fclose(file);
    }
    id->start = start_time(id->pid);
}

void process_name(char out[96]) {
    identity me;
    this_process(&me);
    for (char *c = me.host; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-') *c = '_'; /* '.' separates the parts of a file name */
    snprintf(out, 96, "%s-%ld", me.host, me.pid);
}

/* ---------------------------------------------------------------------------------------------- our own */

struct heartbeat {
    char *path;
    int file;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop; /* under mutex */
};

/* A thread of its own: one work unit of a large network may take longer than the silence that counts as death. */
static void *beat(void *argument) {
    heartbeat *h = argument;
    pthread_mutex_lock(&h->mutex);
    while (!h->stop) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += TOUCH_SECONDS;
        if (pthread_cond_timedwait(&h->wake, &h->mutex, &until) == ETIMEDOUT) futimens(h->file, NULL);
    }
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

static coar_status start_beating(char *path, int file, heartbeat **out) {
    heartbeat *h;
    TRY(memory_new(1, sizeof *h, "heartbeat", &h));
    h->path = path;
    h->file = file;
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->wake, NULL);
    int error = pthread_create(&h->thread, NULL, beat, h);
    if (error) {
        free(h);
        return status_set_errno(COAR_ERROR_MEMORY, error, "%s: cannot start its thread", path);
    }
    *out = h;
    return COAR_OK;
}

coar_status heartbeat_create(const char *path, uint32_t shard, uint32_t shards, heartbeat **out) {
    identity me;
    char text[512];
    this_process(&me);
    const char *job = getenv("SLURM_JOB_ID");
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "host", me.host);
    cJSON_AddStringToObject(root, "boot", me.boot);
    cJSON_AddNumberToObject(root, "pid", (double)me.pid);
    snprintf(text, sizeof text, "%llu", me.start);
    cJSON_AddStringToObject(root, "start", text);
    cJSON_AddNumberToObject(root, "shard", shard);
    cJSON_AddNumberToObject(root, "shards", shards);
    if (job) cJSON_AddStringToObject(root, "job", job);
    bool fits =
        cJSON_PrintPreallocated(root, text, sizeof text - 8, false); /* it may need a few bytes more than it uses */
    cJSON_Delete(root);
    if (!fits) return status_set(COAR_ERROR_INTERNAL, "%s: host name or job id too long", path);

    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return status_set_errno(COAR_ERROR_IO, errno, "%s: cannot create", path);
    size_t length = strlen(text);
    errno = ENOSPC; /* what a short write means */
    char *name = write(file, text, length) == (ssize_t)length ? strdup(path) : NULL;
    coar_status status =
        name ? start_beating(name, file, out) : status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path);
    if (status != COAR_OK) {
        free(name);
        close(file);
        unlink(path);
    }
    return status;
}

void heartbeat_remove(heartbeat *h) {
    if (!h) return;
    pthread_mutex_lock(&h->mutex);
    h->stop = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->mutex);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->mutex);
    close(h->file);
    unlink(h->path);
    free(h->path);
    free(h);
}

/* ----------------------------------------------------------------------------------------------- others */

/* False for anything but a whole heartbeat: a process killed while it wrote one does not live. */
static bool read_heartbeat(const char *path, identity *out) {
    char text[1024];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t length = read(file, text, sizeof text);
    close(file);
    cJSON *root = length > 0 ? cJSON_ParseWithLength(text, (size_t)length) : NULL;
    const char *host = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "host"));
    const char *boot = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "boot"));
    const char *start = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "start"));
    const cJSON *pid = cJSON_GetObjectItemCaseSensitive(root, "pid");
    const cJSON *shard = cJSON_GetObjectItemCaseSensitive(root, "shard");
    const cJSON *shards = cJSON_GetObjectItemCaseSensitive(root, "shards");
    bool good = host && boot && start && cJSON_IsNumber(pid) && cJSON_IsNumber(shard) && cJSON_IsNumber(shards) &&
                pid->valuedouble >= 1 && pid->valuedouble < 1e9 && shard->valuedouble >= 0 &&
                shards->valuedouble > shard->valuedouble && shards->valuedouble < 4e9;
    if (good) {
        *out = (identity){.pid = (long)pid->valuedouble,
                          .start = strtoull(start, NULL, 10),
                          .shard = (uint32_t)shard->valuedouble,
                          .shards = (uint32_t)shards->valuedouble};
        snprintf(out->host, sizeof out->host, "%s", host);
        snprintf(out->boot, sizeof out->boot, "%s", boot);
    }
    cJSON_Delete(root);
    return good;
}

/* Whether somebody holds the lock of a journal. */
static bool journal_locked(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    bool locked = flock(file, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    close(file);
    return locked;
}

/* "Now" as the file system of the run sees it: hosts that share a folder need not agree on the time. */
static double folder_now(const run_store *store) {
    struct stat information;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (store->lock >= 0 && futimens(store->lock, NULL) == 0 && fstat(store->lock, &information) == 0)
        now = information.st_mtim;
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef enum life { DEAD, DEAD_HERE, ALIVE_HERE, ALIVE_ELSEWHERE } life;

/* base: path without its ending. */
static life look_at(const run_store *store, const char *base, identity *id) {
    char *alive = string_format("%s" ALIVE, base), *journal = string_format("%s" JOURNAL, base);
    identity me;
    struct stat information;
    life result = DEAD;
    this_process(&me);
    bool known = alive && read_heartbeat(alive, id);
    bool here = known && !strcmp(id->host, me.host) && !strcmp(id->boot, me.boot);
    if (known && journal && journal_locked(journal))
        result = here ? ALIVE_HERE : ALIVE_ELSEWHERE;
    else if (here)
        result = id->start && start_time(id->pid) == id->start ? ALIVE_HERE : DEAD_HERE;
    else if (known && !stat(alive, &information) &&
             folder_now(store) - ((double)information.st_mtim.tv_sec + 1e-9 * (double)information.st_mtim.tv_nsec) <
                 SILENCE_SECONDS)
        result = ALIVE_ELSEWHERE;
    free(journal);
    free(alive);
    return result;
}

/* Path without an ending of `length` bytes; malloc'ed. */
static char *base_of(const run_store *store, const char *name, size_t length) {
    return string_format("%s/%.*s", store->folder, (int)(strlen(name) - length), name);
}

bool liveness_journal(const run_store *store, const char *journal_name) {
    identity id;
    char *base = base_of(store, journal_name, strlen(JOURNAL));
    bool lives = base && look_at(store, base, &id) >= ALIVE_HERE;
    free(base);
    return lives;
}

static coar_status busy(const run_store *store, const char *name, life where, const identity *id) {
    return status_set(
        COAR_ERROR_BUSY,
        "%s: process %ld on %s is working on it (%s/%s): wait for it, or end it%s, or give --force-resume", store->path,
        id->pid, id->host, store->folder, name, where == ALIVE_ELSEWHERE ? " (it counts as dead 60 s later)" : "");
}

coar_status liveness_check(const run_store *store, const char *stage, uint32_t shard, uint32_t shards) {
    coar_status status = COAR_OK;
    name_list list;
    char prefix[NAME_SIZE + 1] = "";
    if (stage) snprintf(prefix, sizeof prefix, "%s.", stage);
    TRY(folder_list(store, prefix, ALIVE, &list));
    for (size_t i = 0; i < list.count && status == COAR_OK; i++) {
        identity id;
        char *base = base_of(store, list.names[i], strlen(ALIVE));
        life where = base ? look_at(store, base, &id) : DEAD;
        /* shards of one partition are disjoint; anything else overlaps */
        bool disjoint = stage && shards > 1 && id.shards == shards && id.shard != shard;
        if (where >= ALIVE_HERE && !disjoint) status = busy(store, list.names[i], where, &id);
        if (where == DEAD_HERE) {
            char *path = folder_path(store, list.names[i]);
            if (path) unlink(path);
            free(path);
        }
        free(base);
    }
    name_list_free(&list);
    return status;
}
