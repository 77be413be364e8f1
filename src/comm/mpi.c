/*
 * mpi.c - ranks that MPI connects.
 *
 * Everything is started without waiting and then looked after between sleeps: MPI's own waiting spins, and ranks may
 * share cores with each other and with threads that compute. All calls are under one mutex (MPI_THREAD_SERIALIZED).
 *
 * A process that ends badly is the launcher's to notice, which ends the others. One that hangs (a machine without power
 * behind a network that does not say so, a process that was suspended) is noticed here: rank 0 and each other rank send
 * each other a sign of life every second from a thread of their own, and a silence of COAR_RANK_SILENCE seconds fails
 * whatever the others wait for.
 */
#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/internal.h"
#include "core/log.h"
#include "core/memory.h"

enum {
    CHUNK = 1 << 30,      /* bytes of one collective: MPI counts in int */
    BULK = 1 << 16,       /* from here on transfers have many steps, each of which waits for somebody to look */
    PAUSE_LEAST = 20000,  /* nanoseconds between looks: at first, */
    PAUSE_BULK = 100000,  /* at most while data flow, */
    PAUSE_MOST = 5000000, /* and while nothing happens */
    PULSE_TAG = 1
};

/* A message on its way. */
typedef struct posted {
    struct posted *next;
    MPI_Request request;
    uint8_t data[];
} posted;

static struct {
    int rank, size;
    MPI_Comm collective, messages, pulses;
    pthread_mutex_t mutex; /* of all MPI calls and of `posts` */
    posted *posts;
    char (*hosts)[HOST_SIZE]; /* [size] */
    pthread_t pulse;
    pthread_mutex_t pulse_mutex;
    pthread_cond_t pulse_wake;
    bool quit;          /* under pulse_mutex */
    double silence;     /* seconds */
    MPI_Request *beats; /* [size] the pulse that is on its way to each */
    double *heard;      /* [size] when each was heard from last */
    atomic_int lost;    /* a rank that is silent, -1 = none */
} mpi = {.mutex = PTHREAD_MUTEX_INITIALIZER, .pulse_mutex = PTHREAD_MUTEX_INITIALIZER, .lost = -1};

static coar_status check(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING];
    int length;
    if (code == MPI_SUCCESS) return COAR_OK;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) snprintf(text, sizeof text, "error %d", code);
    return status_set(COAR_ERROR_IO, "MPI: %s: %s", what, text);
}

static coar_status check_lost(void) {
    const int lost = atomic_load(&mpi.lost);
    if (lost < 0) return COAR_OK;
    return status_set(COAR_ERROR_IO,
                      "rank %d (%s) has not been heard from for %.0f s: all processes end; what was saved stays, the "
                      "same command goes on",
                      lost, mpi.hosts[lost], mpi.silence);
}

static void rest(long nanoseconds) {
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

/* Until the request is complete. A short one may be at once, whoever is lost. */
static coar_status await(MPI_Request *request, size_t bytes, const char *what) {
    const long most = bytes >= BULK ? PAUSE_BULK : PAUSE_MOST;
    for (long pause = PAUSE_LEAST;; pause = 2 * pause < most ? 2 * pause : most) {
        int done = 0;
        TRY(check_lost());
        pthread_mutex_lock(&mpi.mutex);
        const int code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        pthread_mutex_unlock(&mpi.mutex);
        TRY(check(code, what));
        if (done) return COAR_OK;
        rest(pause);
    }
}

/* Starts one step of a collective and awaits it. */
#define COLLECTIVE(call, bytes, what)                                                                                  \
    do {                                                                                                               \
        MPI_Request request = MPI_REQUEST_NULL;                                                                        \
        pthread_mutex_lock(&mpi.mutex);                                                                                \
        const int code = (call);                                                                                       \
        pthread_mutex_unlock(&mpi.mutex);                                                                              \
        TRY(check(code, what));                                                                                        \
        TRY(await(&request, bytes, what));                                                                             \
    } while (0)

/* ----------------------------------------------------------------------------------------- collective calls */

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static coar_status broadcast(void *data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += CHUNK) {
        const size_t count = smaller(CHUNK, bytes - at);
        COLLECTIVE(MPI_Ibcast((char *)data + at, (int)count, MPI_BYTE, 0, mpi.collective, &request), count,
                   "broadcast");
    }
    return COAR_OK;
}

/* One rank after the other: rank 0's network is the bound, and no count is larger than an int. */
static coar_status scatter(const void *all, size_t size, void *mine, size_t bytes) {
    for (int r = 1; r < mpi.size; r++) {
        const size_t first = smaller(size, (size_t)r * bytes), part = smaller(bytes, size - first);
        for (size_t at = 0; at < part && (mpi.rank == 0 || mpi.rank == r); at += CHUNK) {
            const size_t count = smaller(CHUNK, part - at);
            if (mpi.rank == 0)
                COLLECTIVE(
                    MPI_Isend((const char *)all + first + at, (int)count, MPI_BYTE, r, 0, mpi.collective, &request),
                    count, "scatter");
            else
                COLLECTIVE(MPI_Irecv((char *)mine + at, (int)count, MPI_BYTE, 0, 0, mpi.collective, &request), count,
                           "scatter");
        }
    }
    return COAR_OK;
}

static coar_status gather(const void *mine, void *all, size_t bytes) {
    if (bytes > CHUNK) return status_set(COAR_ERROR_INTERNAL, "a gather of %zu bytes of each rank", bytes);
    COLLECTIVE(MPI_Igather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, mpi.collective, &request), bytes,
               "gather");
    return COAR_OK;
}

static coar_status sum(int64_t *values, size_t count) {
    const size_t most = CHUNK / sizeof *values;
    for (size_t at = 0; at < count; at += most) {
        const size_t part = smaller(most, count - at);
        const void *mine = mpi.rank ? values + at : MPI_IN_PLACE;
        COLLECTIVE(MPI_Ireduce(mine, values + at, (int)part, MPI_INT64_T, MPI_SUM, 0, mpi.collective, &request),
                   part * sizeof *values, "sum");
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------- messages */

/* Frees those that have gone. Under the mutex. */
static int clear_posts(void) {
    for (posted **at = &mpi.posts; *at;) {
        posted *p = *at;
        int done = 0;
        const int code = MPI_Test(&p->request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) return code;
        if (done) {
            *at = p->next;
            free(p);
        } else {
            at = &p->next;
        }
    }
    return MPI_SUCCESS;
}

static coar_status post(int to, const void *data, size_t bytes) {
    posted *p;
    TRY(check_lost());
    TRY(memory_new(sizeof *p + bytes, 1, "a message", &p));
    memcpy(p->data, data, bytes);
    pthread_mutex_lock(&mpi.mutex);
    const int code = MPI_Isend(p->data, (int)bytes, MPI_BYTE, to, 0, mpi.messages, &p->request);
    if (code == MPI_SUCCESS) {
        p->next = mpi.posts;
        mpi.posts = p;
    }
    pthread_mutex_unlock(&mpi.mutex);
    if (code != MPI_SUCCESS) free(p);
    return check(code, "message");
}

/* What has arrived. Under the mutex. */
static int receive(comm_message *message, bool *found) {
    MPI_Status from;
    int there = 0, bytes = 0, code = clear_posts();
    if (code == MPI_SUCCESS) code = MPI_Iprobe(MPI_ANY_SOURCE, 0, mpi.messages, &there, &from);
    *found = there;
    if (code != MPI_SUCCESS || !there) return code;
    code = MPI_Recv(message->data, COMM_MESSAGE_MOST, MPI_BYTE, from.MPI_SOURCE, 0, mpi.messages, &from);
    if (code == MPI_SUCCESS) code = MPI_Get_count(&from, MPI_BYTE, &bytes);
    message->from = from.MPI_SOURCE;
    message->bytes = (size_t)bytes;
    return code;
}

static coar_status poll_messages(comm_message *message, bool *found) {
    TRY(check_lost());
    pthread_mutex_lock(&mpi.mutex);
    const int code = receive(message, found);
    pthread_mutex_unlock(&mpi.mutex);
    return check(code, "message");
}

/* ------------------------------------------------------------------------------------------- signs of life */

/* Rank 0 and each of the others hear each other. Errors show where something is waited for. Under the mutex. */
static void exchange_pulses(double now) {
    static const char beat = 1;
    const int first = mpi.rank == 0 ? 1 : 0, last = mpi.rank == 0 ? mpi.size - 1 : 0;
    for (int there = 1; there;) {
        MPI_Status from;
        char heard;
        if (MPI_Iprobe(MPI_ANY_SOURCE, PULSE_TAG, mpi.pulses, &there, &from) != MPI_SUCCESS || !there) break;
        MPI_Recv(&heard, 1, MPI_BYTE, from.MPI_SOURCE, PULSE_TAG, mpi.pulses, MPI_STATUS_IGNORE);
        mpi.heard[from.MPI_SOURCE] = now;
    }
    for (int r = first; r <= last; r++) {
        int gone = 1; /* at most one is on its way: nothing piles up in front of a process that hangs */
        if (mpi.beats[r] != MPI_REQUEST_NULL) MPI_Test(&mpi.beats[r], &gone, MPI_STATUS_IGNORE);
        if (gone) MPI_Isend(&beat, 1, MPI_BYTE, r, PULSE_TAG, mpi.pulses, &mpi.beats[r]);
        /* one after the other the ranks would find that rank 0 is lost: the first ends the others, and tells */
        if (now - mpi.heard[r] > mpi.silence + 2 * mpi.rank) atomic_store(&mpi.lost, r);
    }
}

static void *pulse_main(void *unused) {
    double before = clock_seconds();
    (void)unused;
    pthread_mutex_lock(&mpi.pulse_mutex);
    while (!mpi.quit) {
        struct timespec until;
        const double now = clock_seconds();
        pthread_mutex_lock(&mpi.mutex);
        /* this process itself was suspended, or its machine: no fault of the others */
        for (int r = 0; now - before > mpi.silence && r < mpi.size; r++) mpi.heard[r] = now;
        exchange_pulses(now);
        pthread_mutex_unlock(&mpi.mutex);
        before = now;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&mpi.pulse_wake, &mpi.pulse_mutex, &until);
    }
    pthread_mutex_unlock(&mpi.pulse_mutex);
    return NULL;
}

static coar_status start_pulse(void) {
    const char *text = getenv("COAR_RANK_SILENCE");
    char *end;
    mpi.silence = text ? strtod(text, &end) : COMM_SILENCE;
    if (text && (end == text || *end || !(mpi.silence >= 2 && mpi.silence <= 1e6)))
        return status_set(COAR_ERROR_USAGE, "COAR_RANK_SILENCE '%s': give seconds, from 2 on", text);
    TRY(memory_new((size_t)mpi.size, sizeof *mpi.beats, "ranks", &mpi.beats));
    TRY(memory_new((size_t)mpi.size, sizeof *mpi.heard, "ranks", &mpi.heard));
    for (int r = 0; r < mpi.size; r++) mpi.beats[r] = MPI_REQUEST_NULL, mpi.heard[r] = clock_seconds();
    atomic_store(&mpi.lost, -1);
    pthread_cond_init(&mpi.pulse_wake, NULL);
    const int error = pthread_create(&mpi.pulse, NULL, pulse_main, NULL);
    return error ? status_set_errno(COAR_ERROR_MEMORY, error, "cannot start the thread of signs of life") : COAR_OK;
}

static void stop_pulse(void) {
    pthread_mutex_lock(&mpi.pulse_mutex);
    mpi.quit = true;
    pthread_cond_signal(&mpi.pulse_wake);
    pthread_mutex_unlock(&mpi.pulse_mutex);
    pthread_join(mpi.pulse, NULL);
}

/* ------------------------------------------------------------------------------------------- begin and end */

/* Pulses that were sent and not received. */
static void drain_pulses(void) {
    const int peers = mpi.rank == 0 ? mpi.size : 1;
    for (int r = 0; r < peers; r++)
        for (int gone = mpi.beats[r] == MPI_REQUEST_NULL, there; !gone; rest(PAUSE_BULK)) {
            char heard;
            MPI_Status from;
            MPI_Test(&mpi.beats[r], &gone, MPI_STATUS_IGNORE);
            MPI_Iprobe(MPI_ANY_SOURCE, PULSE_TAG, mpi.pulses, &there, &from);
            if (there) MPI_Recv(&heard, 1, MPI_BYTE, from.MPI_SOURCE, PULSE_TAG, mpi.pulses, MPI_STATUS_IGNORE);
        }
}

/* As long as there is a rank 0 it has the word: others that end the job leave it the time to tell why. */
static void end_all(void) {
    if (mpi.rank > 0 && atomic_load(&mpi.lost) < 0) sleep(1);
    pthread_mutex_lock(&mpi.mutex);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1); /* where that comes back */
}

/* MPI's own end waits for all without looking after them, so they meet before. */
static coar_status meet_last(void) {
    COLLECTIVE(MPI_Ibarrier(mpi.collective, &request), 0, "end");
    return COAR_OK;
}

static void end(bool together) {
    if (!together || meet_last() != COAR_OK) end_all();
    stop_pulse();
    drain_pulses();
    MPI_Finalize();
    free(mpi.hosts);
    free(mpi.beats);
    free(mpi.heard);
}

static const comm_interface interface = {.broadcast = broadcast,
                                         .scatter = scatter,
                                         .gather = gather,
                                         .sum = sum,
                                         .post = post,
                                         .poll = poll_messages,
                                         .end = end};

/* Versions, hosts, and which cores the ranks of a machine may run on. */
typedef struct introduction {
    char version[16], host[HOST_SIZE];
    cpu_set_t cores;
} introduction;

static coar_status meet(comm *c) {
    coar_status status;
    introduction own = {.version = ""}, *all = NULL;
    MPI_Comm local;
    snprintf(own.version, sizeof own.version, "%s", coar_version());
    host_name(own.host);
    sched_getaffinity(0, sizeof own.cores, &own.cores);
    TRY_GOTO(memory_new((size_t)mpi.size, sizeof *all, "ranks", &all));
    TRY_GOTO(memory_new((size_t)mpi.size, sizeof *mpi.hosts, "ranks", &mpi.hosts));
    TRY_GOTO(check(MPI_Allgather(&own, sizeof own, MPI_BYTE, all, sizeof own, MPI_BYTE, mpi.collective), "greeting"));
    TRY_GOTO(check(MPI_Comm_split_type(mpi.collective, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local), "machines"));
    MPI_Comm_rank(local, &c->local_rank);
    MPI_Comm_size(local, &c->local_size);
    MPI_Comm_free(&local);
    c->cores_shared = true;
    for (int r = 0; r < mpi.size; r++) {
        memcpy(mpi.hosts[r], all[r].host, HOST_SIZE);
        if (strcmp(all[r].version, own.version))
            TRY_GOTO(status_set(COAR_ERROR_MISMATCH, "rank %d (%s) is coar %s, rank 0 (%s) is coar %s", r, all[r].host,
                                all[r].version, all[0].host, all[0].version));
        if (!strcmp(all[r].host, own.host)) c->cores_shared &= CPU_EQUAL(&all[r].cores, &own.cores) != 0;
    }
done:
    free(all);
    return status;
}

coar_status mpi_begin(comm *out) {
    int provided;
    comm c = {.interface = &interface};
    TRY(check(MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided), "start"));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* of the communicators made from it, too */
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi.size);
    c.rank = mpi.rank;
    c.size = mpi.size;
    coar_status status = provided >= MPI_THREAD_SERIALIZED
                             ? COAR_OK
                             : status_set(COAR_ERROR_UNSUPPORTED, "this MPI cannot be used by a program with threads");
    if (status == COAR_OK) status = check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi.collective), "start");
    if (status == COAR_OK) status = check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi.messages), "start");
    if (status == COAR_OK) status = check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi.pulses), "start");
    if (status == COAR_OK) status = meet(&c);
    if (status == COAR_OK) status = start_pulse();
    c.silence = mpi.silence;
    *out = c; /* also after a failure: comm_end ends what has begun */
    return status;
}
