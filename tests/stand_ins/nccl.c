/*
 * nccl.c - a stand-in for the calls of NCCL in use. Ranks are threads of one process or processes of one machine: what they
 * give each other goes through a file that all of them map, whose name is the unique id.
 *
 * A communicator must be non-blocking, and is as slow as the real one may be: no call is through before it has been asked
 * about twice, and only then is its work in the stream. A collective is two operations there: `give` copies what
 * this rank brings into the file once all ranks have taken the one before, `take` makes the result of it once all have given.
 * Ranks whose calls differ are stopped.
 *
 * Must not know: what is sent.
 */
#include "device.h"
#include "stand_ins.h"

#if __has_include(<nccl.h>)

#include <nccl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIND "ncclComm_t"

enum { RANKS_MOST = 8, DATA_MOST = 32 << 20 };

typedef struct seat {
    _Atomic int device; /* + 1; 0 = not there yet */
    _Atomic int ended, aborted;
    _Atomic uint64_t given, taken; /* collectives */
    char call[96];                 /* the one that was given last */
} seat;

typedef struct world {
    _Atomic int arrived; /* ranks that have begun to start, however that ends */
    seat seats[RANKS_MOST];
    unsigned char data[RANKS_MOST][DATA_MOST];
} world;

typedef struct collective {
    ncclComm_t comm;
    uint64_t number; /* from 0 */
    char call[96];
    const void *send;
    void *receive;
    size_t count, size; /* bytes of an element */
    int root;
    bool sums;
    struct CUstream_st *stream;
} collective;

struct ncclComm {
    object object;
    int rank, size, device;
    world *world;
    bool started, ending, aborted;
    uint64_t calls;
    collective waiting; /* for its first question; comm NULL = none */
};

/* ------------------------------------------------------------------------------------------------- failures */

/* COAR_STANDIN_NCCL (stand_ins.h): whether `what` happens to this rank at its call `number`; -1 = the start. */
static bool happens(const ncclComm_t c, const char *what, int64_t number, int *code) {
    const char *text = getenv("COAR_STANDIN_NCCL");
    char kind[16];
    int rank, error = 0;
    long long call;
    if (!text || !*text) return false;
    if (sscanf(text, "%15[^:]:%d:%lld:%d", kind, &rank, &call, &error) < 3)
        misuse("COAR_STANDIN_NCCL", "\"%s\" is not hang:RANK:CALL or error:RANK:CALL:CODE", text);
    *code = error;
    return !strcmp(kind, what) && rank == c->rank && number >= call;
}

/* -------------------------------------------------------------------------------------------------- operations */

static bool all_have(const ncclComm_t c, bool taken, uint64_t number) {
    for (int r = 0; r < c->size; r++) {
        seat *s = &c->world->seats[r];
        if (atomic_load(taken ? &s->taken : &s->given) < number) return false;
    }
    return true;
}

static bool give_due(const void *arguments) {
    const collective *o = arguments;
    int unused;
    return o->comm->aborted ||
           (all_have(o->comm, true, o->number) && !happens(o->comm, "hang", (int64_t)o->number, &unused));
}

static cudaError_t give(const void *arguments) {
    const collective *o = arguments;
    const ncclComm_t c = o->comm;
    if (c->aborted) return cudaSuccess;
    seat *own = &c->world->seats[c->rank];
    if (o->sums || c->rank == o->root) {
        memory_check(o->call, "the send buffer", o->send, o->count * o->size, c->device);
        memcpy(c->world->data[c->rank], o->send, o->count * o->size);
    }
    snprintf(own->call, sizeof own->call, "%s", o->call);
    atomic_store(&own->given, o->number + 1);
    return cudaSuccess;
}

static bool take_due(const void *arguments) {
    const collective *o = arguments;
    return o->comm->aborted || all_have(o->comm, false, o->number + 1);
}

static void add_up(const collective *o) {
    const unsigned char(*data)[DATA_MOST] = (const void *)o->comm->world->data;
    for (size_t i = 0; i < o->count; i++) {
        int64_t sum = 0;
        for (int r = 0; r < o->comm->size; r++)
            sum += o->size == 4 ? ((const int32_t *)data[r])[i] : ((const int64_t *)data[r])[i];
        if (o->size == 4 && sum != (int32_t)sum) misuse(o->call, "element %zu: the sum does not fit", i);
        if (o->size == 4)
            ((int32_t *)o->receive)[i] = (int32_t)sum;
        else
            ((int64_t *)o->receive)[i] = sum;
    }
}

static cudaError_t take(const void *arguments) {
    const collective *o = arguments;
    const ncclComm_t c = o->comm;
    if (c->aborted) return cudaSuccess;
    for (int r = 0; r < c->size; r++)
        if (strcmp(c->world->seats[r].call, o->call))
            misuse(o->call, "rank %d made another call: %s", r, c->world->seats[r].call);
    if (!o->sums || c->rank == o->root)
        memory_check(o->call, "the receive buffer", o->receive, o->count * o->size, c->device);
    if (o->sums && c->rank == o->root) add_up(o);
    if (!o->sums && c->rank != o->root) memcpy(o->receive, c->world->data[o->root], o->count * o->size);
    atomic_store(&c->world->seats[c->rank].taken, o->number + 1);
    return cudaSuccess;
}

static void put_in_stream(const collective *c) {
    operation *first = operation_create("ncclGive", give, c, sizeof *c, 0);
    operation *then = operation_create(c->sums ? "ncclReduce" : "ncclBroadcast", take, c, sizeof *c, 0);
    first->due = give_due;
    then->due = take_due;
    enqueue_operation(c->stream, first);
    enqueue_operation(c->stream, then);
}

/* ------------------------------------------------------------------------------------------ state of a call */

static ncclComm_t find(const char *call, ncclComm_t c) {
    object_check(call, c, KIND);
    return c;
}

static bool all_are(const ncclComm_t c, bool ended) {
    for (int r = 0; r < c->size; r++)
        if (!atomic_load(ended ? &c->world->seats[r].ended : &c->world->seats[r].device)) return false;
    return true;
}

/* As NCCL does not have it: two ranks on one device. */
static bool is_doubled(const ncclComm_t c) {
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && atomic_load(&c->world->seats[r].device) == c->device + 1) return true;
    return false;
}

static ncclResult_t state_of(ncclComm_t c) {
    int code;
    if (happens(c, "error", (int64_t)c->calls - 1, &code)) return (ncclResult_t)code;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && atomic_load(&c->world->seats[r].aborted)) return ncclRemoteError;
    if (c->ending) return all_are(c, true) ? ncclSuccess : ncclInProgress;
    if (!c->started) {
        if (is_doubled(c)) return ncclInvalidUsage;
        c->started = all_are(c, false);
        return c->started ? ncclSuccess : ncclInProgress;
    }
    if (!c->waiting.comm) return ncclSuccess;
    put_in_stream(&c->waiting);
    c->waiting.comm = NULL;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    const ncclResult_t result = (ncclResult_t)enter_library(__func__);
    *state = state_of(find(__func__, comm));
    return (ncclResult_t)leave_library((int)result);
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[ncclNumResults] = {
        "no error",         "unhandled cuda error", "unhandled system error", "internal error",
        "invalid argument", "invalid usage",        "remote process exited",  "NCCL operation in progress"};
    return (int)result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) {
    enter_library(__func__);
    if (comm) find(__func__, comm);
    leave_library(0);
    return "the stand-in's last words";
}

/* ------------------------------------------------------------------------------------------- begin and end */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    ncclResult_t result = (ncclResult_t)enter_library(__func__);
    memset(id, 0, sizeof *id);
    if (result == ncclSuccess) {
        const char *folder = getenv("TMPDIR");
        snprintf(id->internal, sizeof id->internal, "%s/coar-nccl-XXXXXX", folder ? folder : "/tmp");
        const int file = mkstemp(id->internal);
        if (file < 0 || ftruncate(file, sizeof(world))) misuse(__func__, "cannot make %s", id->internal);
        close(file);
    }
    return (ncclResult_t)leave_library((int)result);
}

/* The last rank to arrive takes the name away. */
static world *map(const char *call, const char *path, int size) {
    FILE *file = fopen(path, "r+");
    if (!file) misuse(call, "the id is of no other rank's making, or was used before");
    world *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    if (w == MAP_FAILED) misuse(call, "cannot map %s", path);
    fclose(file);
    if (atomic_fetch_add(&w->arrived, 1) + 1 == size) unlink(path);
    return w;
}

static ncclComm_t create(const char *call, world *w, int rank, int size) {
    ncclComm_t c = object_create(KIND, sizeof *c);
    int unused;
    c->rank = rank;
    c->size = size;
    c->device = current_device;
    c->world = w;
    if (atomic_load(&w->seats[rank].device)) misuse(call, "there is a rank %d already", rank);
    if (!happens(c, "hang", -1, &unused)) atomic_store(&w->seats[rank].device, c->device + 1);
    return c;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
    ncclResult_t result = (ncclResult_t)enter_library(__func__);
    *comm = NULL;
    if (config->blocking != 0) misuse(__func__, "the communicator would block");
    if (size < 1 || size > RANKS_MOST || rank < 0 || rank >= size) misuse(__func__, "rank %d of %d", rank, size);
    world *w = map(__func__, id.internal, size);
    if (result == ncclSuccess) {
        *comm = create(__func__, w, rank, size);
        result = ncclInProgress;
    } else {
        munmap(w, sizeof *w);
    }
    return (ncclResult_t)leave_library((int)result);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    ncclResult_t result = (ncclResult_t)enter_library(__func__);
    ncclComm_t c = find(__func__, comm);
    if (!c->started || c->waiting.comm) misuse(__func__, "a call is in progress");
    if (result == ncclSuccess) {
        c->ending = true;
        atomic_store(&c->world->seats[c->rank].ended, 1);
        result = ncclInProgress;
    }
    return (ncclResult_t)leave_library((int)result);
}

static void give_up(const char *call, ncclComm_t c) {
    munmap(c->world, sizeof *c->world);
    object_destroy(call, c, KIND);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    const ncclResult_t result = (ncclResult_t)enter_library(__func__);
    ncclComm_t c = find(__func__, comm);
    if (!c->ending || !all_are(c, true)) misuse(__func__, "the communicator was not finalized");
    give_up(__func__, c);
    return (ncclResult_t)leave_library((int)result);
}

/* Its work in streams ends without having done anything. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    const ncclResult_t result = (ncclResult_t)enter_library(__func__);
    ncclComm_t c = find(__func__, comm);
    atomic_store(&c->world->seats[c->rank].aborted, 1);
    c->aborted = true;
    give_up(__func__, c);
    return (ncclResult_t)leave_library((int)result);
}

/* ---------------------------------------------------------------------------------------------- collectives */

static ncclResult_t begin(const char *call, ncclComm_t c, collective o, ncclDataType_t type, cudaStream_t stream) {
    find(call, c);
    if (!c->started || c->ending || c->waiting.comm) misuse(call, "a call is in progress, or the last one was made");
    o.stream = stream_find(call, stream);
    o.size = type == ncclUint8 ? 1 : type == ncclInt32 ? 4 : type == ncclInt64 ? 8 : 0;
    if (!o.size) misuse(call, "the stand-in does not know type %d", (int)type);
    if (o.root < 0 || o.root >= c->size || o.stream->device != c->device) {
        refuse(call, "root %d of %d ranks, stream of device %d, communicator of device %d", o.root, c->size,
               o.stream->device, c->device);
        return ncclInvalidArgument;
    }
    if (o.count * o.size > DATA_MOST) misuse(call, "%zu bytes are more than the stand-in takes", o.count * o.size);
    if (o.sums || c->rank == o.root) memory_check(call, "the send buffer", o.send, o.count * o.size, c->device);
    if (!o.sums || c->rank == o.root) memory_check(call, "the receive buffer", o.receive, o.count * o.size, c->device);
    snprintf(o.call, sizeof o.call, "%s of %zu elements of type %d from or to rank %d", call, o.count, (int)type,
             o.root);
    o.comm = c;
    o.number = c->calls++;
    c->waiting = o;
    return ncclInProgress;
}

ncclResult_t ncclReduce(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = (ncclResult_t)enter_library(__func__);
    const collective o = {.send = send, .receive = receive, .count = count, .root = root, .sums = true};
    if (op != ncclSum || type == ncclUint8) misuse(__func__, "the stand-in adds up integers alone");
    if (result == ncclSuccess) result = begin(__func__, comm, o, type, stream);
    return (ncclResult_t)leave_library((int)result);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = (ncclResult_t)enter_library(__func__);
    const collective o = {.send = send, .receive = receive, .count = count, .root = root};
    if (result == ncclSuccess) result = begin(__func__, comm, o, type, stream);
    return (ncclResult_t)leave_library((int)result);
}

#endif
