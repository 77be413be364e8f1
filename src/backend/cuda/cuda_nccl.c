/*
 * cuda_nccl.c - see cuda_nccl.h.
 *
 * The communicator is made not to block: every call returns at once, and is then looked after between short sleeps, as is the
 * stream with the work, so that an error that NCCL reports, or a rank that hangs, ends the waiting. What is then left of
 * the communicator is aborted, which takes its kernels off the device (NCCL user guide, "Fault Tolerance").
 */
#include "backend/cuda/cuda_nccl.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/cuda_libraries.h"
#include "backend/cuda/error.h"
#include "core/log.h"
#include "core/memory.h"

static coar_status identify(int device, device_identity *out) {
    const nccl_functions *unused;
    struct cudaDeviceProp properties;
    TRY(cuda_library_nccl(&unused));
    TRY_CUDA(cudaGetDeviceProperties(&properties, device), "CUDA device %d: properties", device);
    _Static_assert(sizeof properties.uuid == sizeof *out, "a UUID");
    memcpy(out, &properties.uuid, sizeof *out);
    return COAR_OK;
}

#if !COAR_HAVE_NCCL

static coar_status no_ticket(link_ticket *out) {
    const nccl_functions *unused;
    (void)out;
    return cuda_library_nccl(&unused);
}

static coar_status no_join(const link_seat *seat, device_link **out) {
    const nccl_functions *unused;
    (void)seat;
    *out = NULL;
    return cuda_library_nccl(&unused);
}

coar_status cuda_link_sum(device_link *l, void *values, size_t count, link_number type, cudaStream_t stream) {
    const nccl_functions *unused;
    (void)l, (void)values, (void)count, (void)type, (void)stream;
    return cuda_library_nccl(&unused);
}

const device_links cuda_links = {.name = "NCCL", .identify = identify, .ticket = no_ticket, .join = no_join};

#else

enum {
    PAUSE_LEAST = 20000,  /* nanoseconds between looks: at first, */
    PAUSE_MOST = 1000000, /* and at most */
    BUFFER = 32 << 20     /* bytes of device memory through which host memory goes */
};

typedef struct nccl_link {
    device_link base;
    int device;
    double silence; /* seconds */
    const nccl_functions *nccl;
    ncclComm_t communicator; /* NULL: aborted */
    cudaStream_t stream;     /* of what begins in host memory */
    void *buffer;            /* [BUFFER] on the device; NULL until it is used */
} nccl_link;

static nccl_link *self(device_link *l) {
    return (nccl_link *)l;
}

/* ------------------------------------------------------------------------------------------------- waiting */

static void drop(nccl_link *l) {
    if (l->communicator) (void)l->nccl->ncclCommAbort(l->communicator);
    l->communicator = NULL;
}

/* The message first: NCCL keeps its own only as long as the communicator. */
static coar_status fail(nccl_link *l, ncclResult_t result, const char *what) {
    const char *more = l->communicator ? l->nccl->ncclGetLastError(l->communicator) : NULL;
    const coar_status status =
        status_set(COAR_ERROR_IO, "NCCL: %s: %s%s%.200s", what, l->nccl->ncclGetErrorString(result),
                   more && *more ? ": " : "", more && *more ? more : "");
    drop(l);
    return status;
}

static coar_status fail_silent(nccl_link *l, const char *what) {
    const coar_status status =
        status_set(COAR_ERROR_IO, "NCCL: %s: nothing has come from another rank's device for %.0f s", what, l->silence);
    drop(l);
    return status;
}

static coar_status fail_cuda(nccl_link *l, cudaError_t error, const char *what) {
    const coar_status status = cuda_error(error, "NCCL: %s", what);
    drop(l);
    return status;
}

/* Until the call that gave `result` is through, and then, with a stream, its work. Only after the call is it known to be in
 * the stream. */
static coar_status await(nccl_link *l, ncclResult_t result, const cudaStream_t *stream, const char *what) {
    const double start = clock_seconds();
    if (result != ncclSuccess && result != ncclInProgress) return fail(l, result, what);
    for (long pause = PAUSE_LEAST;; pause = 2 * pause < PAUSE_MOST ? 2 * pause : PAUSE_MOST) {
        ncclResult_t state = ncclSuccess;
        result = l->nccl->ncclCommGetAsyncError(l->communicator, &state);
        if (result == ncclSuccess) result = state;
        if (result != ncclSuccess && result != ncclInProgress) return fail(l, result, what);
        if (result == ncclSuccess) {
            const cudaError_t error = stream ? cudaStreamQuery(*stream) : cudaSuccess;
            if (error == cudaSuccess) return COAR_OK;
            if (error != cudaErrorNotReady) return fail_cuda(l, error, what);
        }
        if (clock_seconds() - start > l->silence) return fail_silent(l, what);
        nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
    }
}

static coar_status check_alive(const nccl_link *l) {
    if (l->communicator) return COAR_OK;
    return status_set(COAR_ERROR_INTERNAL, "NCCL: the link has failed before");
}

/* ---------------------------------------------------------------------------------------------- operations */

/* What is in the stream before counts as this rank's own time and not as silence of the others. */
coar_status cuda_link_sum(device_link *link, void *values, size_t count, link_number type, cudaStream_t stream) {
    nccl_link *l = self(link);
    TRY(check_alive(l));
    TRY_CUDA(cudaStreamSynchronize(stream), "NCCL: work before a sum of %zu numbers", count);
    const ncclResult_t result = l->nccl->ncclReduce(values, values, count, type == LINK_INT32 ? ncclInt32 : ncclInt64,
                                                    ncclSum, 0, l->communicator, stream);
    return await(l, result, &stream, "sum");
}

static coar_status open_buffer(nccl_link *l) {
    TRY(check_alive(l));
    TRY_CUDA(cudaSetDevice(l->device), "NCCL: CUDA device %d", l->device);
    if (l->buffer) return COAR_OK;
    TRY_CUDA(cudaMalloc(&l->buffer, BUFFER), "NCCL: %d MiB", BUFFER >> 20);
    return COAR_OK;
}

static coar_status copy(nccl_link *l, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    TRY_CUDA(cudaMemcpyAsync(to, from, bytes, kind, l->stream), "NCCL: copy of %zu bytes", bytes);
    TRY_CUDA(cudaStreamSynchronize(l->stream), "NCCL: copy of %zu bytes", bytes);
    return COAR_OK;
}

static coar_status broadcast_buffer(nccl_link *l, size_t bytes) {
    return await(l, l->nccl->ncclBroadcast(l->buffer, l->buffer, bytes, ncclUint8, 0, l->communicator, l->stream),
                 &l->stream, "broadcast");
}

static coar_status broadcast(device_link *link, void *data, size_t bytes, double *seconds) {
    nccl_link *l = self(link);
    *seconds = 0;
    TRY(link->agree(open_buffer(l)));
    for (size_t at = 0; at < bytes; at += BUFFER) {
        const size_t part = bytes - at < BUFFER ? bytes - at : BUFFER;
        if (!link->rank) TRY(copy(l, l->buffer, (char *)data + at, part, cudaMemcpyHostToDevice));
        const double start = clock_seconds();
        TRY(broadcast_buffer(l, part));
        *seconds += clock_seconds() - start;
        if (link->rank) TRY(copy(l, (char *)data + at, l->buffer, part, cudaMemcpyDeviceToHost));
    }
    return COAR_OK;
}

static coar_status sum(device_link *link, int64_t *values, size_t count, double *seconds) {
    const size_t most = BUFFER / sizeof *values;
    nccl_link *l = self(link);
    *seconds = 0;
    TRY(link->agree(open_buffer(l)));
    for (size_t at = 0; at < count; at += most) {
        const size_t part = count - at < most ? count - at : most;
        TRY(copy(l, l->buffer, values + at, part * sizeof *values, cudaMemcpyHostToDevice));
        const double start = clock_seconds();
        TRY(cuda_link_sum(link, l->buffer, part, LINK_INT64, l->stream));
        *seconds += clock_seconds() - start;
        if (!link->rank) TRY(copy(l, values + at, l->buffer, part * sizeof *values, cudaMemcpyDeviceToHost));
    }
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------ begin and end */

/* Collective as well: a rank that is not there any more has it end as all other calls do. There is nobody to report that to,
 * and what has been reported stays. */
static void close_communicator(nccl_link *l) {
    char before[1024];
    status_copy(before, sizeof before);
    if (await(l, l->nccl->ncclCommFinalize(l->communicator), NULL, "end") == COAR_OK)
        (void)l->nccl->ncclCommDestroy(l->communicator);
    l->communicator = NULL; /* destroyed, or aborted */
    status_clear();
    if (*before) status_set(COAR_ERROR_IO, "%s", before);
}

static void destroy(device_link *link, bool together) {
    nccl_link *l = self(link);
    (void)cudaSetDevice(l->device);
    if (l->communicator && together) close_communicator(l);
    drop(l);
    if (l->stream) (void)cudaStreamSynchronize(l->stream);
    if (l->buffer) (void)cudaFree(l->buffer);
    if (l->stream) (void)cudaStreamDestroy(l->stream);
    free(l);
}

static const device_link_interface interface = {.broadcast = broadcast, .sum = sum, .destroy = destroy};

static coar_status ticket(link_ticket *out) {
    const nccl_functions *nccl;
    ncclUniqueId id;
    TRY(cuda_library_nccl(&nccl));
    const ncclResult_t result = nccl->ncclGetUniqueId(&id);
    if (result != ncclSuccess)
        return status_set(COAR_ERROR_UNSUPPORTED, "NCCL: an id: %s", nccl->ncclGetErrorString(result));
    _Static_assert(sizeof id == sizeof out->bytes, "an id of NCCL");
    memcpy(out->bytes, &id, sizeof id);
    return COAR_OK;
}

static coar_status connect_all(nccl_link *l, const link_seat *seat) {
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    memcpy(&id, seat->ticket.bytes, sizeof id);
    return await(l, l->nccl->ncclCommInitRankConfig(&l->communicator, seat->size, id, seat->rank, &config), NULL,
                 "start");
}

static coar_status open_link(const link_seat *seat, nccl_link **out) {
    nccl_link *l;
    TRY(memory_new(1, sizeof *l, "NCCL", &l));
    *l = (nccl_link){.base = {&interface, seat->rank, seat->agree}, .device = seat->device, .silence = seat->silence};
    *out = l;
    TRY(cuda_library_nccl(&l->nccl));
    TRY_CUDA(cudaSetDevice(l->device), "NCCL: CUDA device %d", l->device);
    TRY_CUDA(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "NCCL: a stream");
    return COAR_OK;
}

static coar_status join(const link_seat *seat, device_link **out) {
    nccl_link *l = NULL;
    coar_status status;
    *out = NULL;
    TRY_GOTO(seat->agree(open_link(seat, &l)));
    TRY_GOTO(connect_all(l, seat));
    *out = &l->base;
    l = NULL;
done:
    if (l) destroy(&l->base, false);
    return status;
}

const device_links cuda_links = {.name = "NCCL", .identify = identify, .ticket = ticket, .join = join};

#endif
