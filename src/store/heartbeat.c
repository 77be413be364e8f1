/*
 * heartbeat.c - the sign of life that a process keeps beside its journal, STAGE.HOST-PID-N.alive: who it is, which part
 * of the stage is its, and how much it has done. A small JSON document (docs/runfile.md).
 *
 * It is written anew under a temporary name and renamed at every beat: its time is that of the beat by the file system's
 * clock, and a reader meets the old one or the new one, never half of one. What is read is another process's, so nothing
 * in it is trusted.
 * Must not know: who counts as alive (liveness.c), what a unit is.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/files.h"
#include "core/memory.h"
#include "store/internal.h"

#define BEAT_SECONDS 15 /* a few beats may be lost before 60 s of silence count (liveness.c) */

enum { TEXT_MAX = 2048 };

/* -------------------------------------------------------------------------------------------- processes */

unsigned long long process_start(long pid) {
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

void process_this(process_sign *out) {
    *out = (process_sign){.pid = (long)getpid(), .shards = 1};
    if (gethostname(out->host, sizeof out->host - 1)) snprintf(out->host, sizeof out->host, "unknown");
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file) {
        if (fscanf(file, "%39s", out->boot) != 1) out->boot[0] = '\0';
        fclose(file);
    }
    out->start = process_start(out->pid);
}

void process_name(char out[96]) {
    process_sign me;
    process_this(&me);
    for (char *c = me.host; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-') *c = '_'; /* '.' separates the parts of a file name */
    snprintf(out, 96, "%s-%ld", me.host, me.pid);
}

/* The scheduler's name for the job: "991", of a task of an array "990_3". */
static void job_name(char out[65]) {
    const char *job = getenv("SLURM_JOB_ID"), *array = getenv("SLURM_ARRAY_JOB_ID");
    const char *task = getenv("SLURM_ARRAY_TASK_ID");
    if (array && task)
        snprintf(out, 65, "%.40s_%.20s", array, task);
    else
        snprintf(out, 65, "%.64s", job ? job : "");
}

/* --------------------------------------------------------------------------------------------- as a file */

static bool sign_text(const process_sign *s, char text[TEXT_MAX]) {
    char start[32];
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "host", s->host);
    cJSON_AddStringToObject(root, "boot", s->boot);
    cJSON_AddNumberToObject(root, "pid", (double)s->pid);
    snprintf(start, sizeof start, "%llu", s->start);
    cJSON_AddStringToObject(root, "start", start);
    cJSON_AddNumberToObject(root, "shard", s->shard);
    cJSON_AddNumberToObject(root, "shards", s->shards);
    if (s->ranks) cJSON_AddNumberToObject(root, "rank", s->rank);
    if (s->ranks) cJSON_AddNumberToObject(root, "ranks", s->ranks);
    if (*s->job) cJSON_AddStringToObject(root, "job", s->job);
    cJSON_AddNumberToObject(root, "units", (double)s->units);
    cJSON_AddNumberToObject(root, "images", (double)s->images);
    cJSON_AddNumberToObject(root, "seconds", s->seconds);
    cJSON_AddBoolToObject(root, "ended", s->ended);
    /* cJSON may need a few bytes more than it uses */
    const bool fits = root && cJSON_PrintPreallocated(root, text, TEXT_MAX - 8, false);
    cJSON_Delete(root);
    return fits;
}

/* Not synced: a sign of life need not outlive a power cut. False with errno where it cannot be written. */
static bool write_sign(const char *path, const process_sign *sign) {
    char text[TEXT_MAX], *temporary = file_temporary(path);
    errno = temporary ? ENAMETOOLONG : ENOMEM;
    const bool fits = temporary && sign_text(sign, text);
    const size_t length = fits ? strlen(text) : 0;
    const int file = fits ? open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    bool written = false;
    if (file >= 0) {
        errno = ENOSPC; /* what a short write means */
        written = write(file, text, length) == (ssize_t)length;
        written = close(file) == 0 && written && rename(temporary, path) == 0;
        const int error = errno;
        if (!written) unlink(temporary);
        errno = error;
    }
    free(temporary);
    return written;
}

/* A whole number from `least` to `most`; one that is absent is 0. */
static bool take_number(const cJSON *root, const char *key, double least, double most, double *out) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    *out = item ? item->valuedouble : 0;
    return (!item || cJSON_IsNumber(item)) && *out >= least && *out <= most;
}

/* Names of hosts and jobs are plain ASCII; what is not is shown as ?. */
static void take_text(const cJSON *root, const char *key, char *out, size_t size) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, key));
    snprintf(out, size, "%s", text ? text : "");
    for (; *out; out++)
        if (*out < ' ' || *out > '~') *out = '?';
}

static bool parse_sign(const cJSON *root, process_sign *out) {
    const double count_max = 1LL << 53; /* what a JSON number holds exactly */
    double pid, shard, shards, rank, ranks, units, images, seconds;
    char start[32];
    if (!cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "host")) ||
        !take_number(root, "pid", 1, 1e9, &pid) || !take_number(root, "shards", 1, UINT32_MAX, &shards) ||
        !take_number(root, "shard", 0, shards - 1, &shard) || !take_number(root, "ranks", 0, UINT32_MAX, &ranks) ||
        !take_number(root, "rank", 0, ranks ? ranks - 1 : 0, &rank) ||
        !take_number(root, "units", 0, count_max, &units) || !take_number(root, "images", 0, count_max, &images) ||
        !take_number(root, "seconds", 0, 1e12, &seconds))
        return false;
    *out = (process_sign){.pid = (long)pid,
                          .shard = (uint32_t)shard,
                          .shards = (uint32_t)shards,
                          .rank = (uint32_t)rank,
                          .ranks = (uint32_t)ranks,
                          .units = (uint64_t)units,
                          .images = (uint64_t)images,
                          .seconds = seconds,
                          .ended = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "ended"))};
    take_text(root, "host", out->host, sizeof out->host);
    take_text(root, "boot", out->boot, sizeof out->boot);
    take_text(root, "job", out->job, sizeof out->job);
    take_text(root, "start", start, sizeof start);
    out->start = strtoull(start, NULL, 10);
    return true;
}

bool heartbeat_read(const char *path, process_sign *out, double *when) {
    char text[TEXT_MAX];
    struct stat information;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe of that name must not hold us up */
    if (file < 0) return false;
    const ssize_t length = read(file, text, sizeof text);
    const bool known = fstat(file, &information) == 0;
    close(file);
    cJSON *root = length > 0 && known ? cJSON_ParseWithLength(text, (size_t)length) : NULL;
    const bool good = root && parse_sign(root, out);
    cJSON_Delete(root);
    if (good) *when = (double)information.st_mtim.tv_sec + 1e-9 * (double)information.st_mtim.tv_nsec;
    return good;
}

/* ---------------------------------------------------------------------------------------------- our own */

struct heartbeat {
    char *path;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    /* under the mutex */
    process_sign sign;
    bool told;      /* of the first unit's images */
    bool stop, due; /* due: a beat before its time */
};

/* Writes what the process has done by now; the mutex is held but while the file system is waited for. Where nothing can
 * be written (a full disk), the old sign gets a new time at least. */
static void beat(heartbeat *h) {
    const process_sign now = h->sign;
    pthread_mutex_unlock(&h->mutex);
    if (!write_sign(h->path, &now)) utimensat(AT_FDCWD, h->path, NULL, 0);
    pthread_mutex_lock(&h->mutex);
}

/* A thread of its own: one work unit of a large network may take longer than the silence that counts as death. */
static void *beats(void *argument) {
    heartbeat *h = argument;
    pthread_mutex_lock(&h->mutex);
    while (!h->stop) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += BEAT_SECONDS;
        int error = 0;
        while (!h->stop && !h->due && error != ETIMEDOUT) error = pthread_cond_timedwait(&h->wake, &h->mutex, &until);
        h->due = false;
        if (!h->stop) beat(h);
    }
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

static void heartbeat_free(heartbeat *h) {
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->mutex);
    free(h->path);
    free(h);
}

coar_status heartbeat_create(const char *path, const stage_options *stage, heartbeat **out) {
    coar_status status = COAR_OK;
    heartbeat *h;
    TRY(memory_new(1, sizeof *h, "heartbeat", &h));
    process_this(&h->sign);
    job_name(h->sign.job);
    h->sign.shard = stage->shard;
    h->sign.shards = stage->shards;
    h->sign.rank = stage->rank;
    h->sign.ranks = stage->ranks;
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->wake, NULL);
    if (!(h->path = strdup(path))) TRY_GOTO(status_set(COAR_ERROR_MEMORY, "%s: not enough memory", path));
    if (!write_sign(path, &h->sign)) TRY_GOTO(status_set_errno(COAR_ERROR_IO, errno, "%s: cannot write", path));
    const int error = pthread_create(&h->thread, NULL, beats, h);
    if (error) {
        unlink(path);
        TRY_GOTO(status_set_errno(COAR_ERROR_MEMORY, error, "%s: cannot start its thread", path));
    }
    *out = h;
    h = NULL;
done:
    if (h) heartbeat_free(h);
    return status;
}

void heartbeat_unit(heartbeat *h) {
    pthread_mutex_lock(&h->mutex);
    h->sign.units++;
    pthread_mutex_unlock(&h->mutex);
}

void heartbeat_tell(heartbeat *h, uint64_t images, double seconds) {
    pthread_mutex_lock(&h->mutex);
    if (h->sign.units && !h->told) { /* a rate to show as soon as there is one */
        h->told = h->due = true;
        pthread_cond_signal(&h->wake);
    }
    h->sign.images = images;
    h->sign.seconds = seconds;
    pthread_mutex_unlock(&h->mutex);
}

void heartbeat_end(heartbeat *h, bool keep) {
    if (!h) return;
    pthread_mutex_lock(&h->mutex);
    h->stop = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->mutex);
    pthread_join(h->thread, NULL);
    h->sign.ended = true;
    /* One that does not say that it has ended would count as alive for a while. */
    if (!keep || !write_sign(h->path, &h->sign)) unlink(h->path);
    heartbeat_free(h);
}
