/* comm.c - see comm.h: who this process is, and what does not depend on how ranks talk. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/internal.h"
#include "core/memory.h"

#define ALONE                                                                                                          \
    { .size = 1, .local_size = 1, .silence = COMM_SILENCE, .interface = &comm_self }
static comm world = ALONE;

const comm *comm_world(void) {
    return &world;
}

void host_name(char out[HOST_SIZE]) {
    if (gethostname(out, HOST_SIZE)) strcpy(out, "unknown");
    out[HOST_SIZE - 1] = '\0';
}

coar_status comm_begin(void) {
    if (!launch_read().several) return COAR_OK;
#if defined(COAR_MPI)
    return mpi_begin(&world);
#else
    return status_set(COAR_ERROR_UNSUPPORTED,
                      "started as one of several processes, but this build has no MPI: build with MPI=1, or start "
                      "shards without it (--shard K/S, with COAR_MPI=0 in the environment)");
#endif
}

int comm_launched_rank(void) {
    return world.size > 1 ? world.rank : launch_read().rank;
}

void comm_end(bool together) {
    world.interface->end(together);
    world = (comm)ALONE;
}

coar_status comm_broadcast(void *data, size_t bytes) {
    return world.interface->broadcast(data, bytes);
}

coar_status comm_scatter(const void *all, size_t size, void *mine, size_t bytes) {
    TRY(world.interface->broadcast(&size, sizeof size));
    return world.interface->scatter(all, size, mine, bytes);
}

coar_status comm_gather(const void *mine, void *all, size_t bytes) {
    return world.interface->gather(mine, all, bytes);
}

coar_status comm_sum(int64_t *values, size_t count) {
    return world.interface->sum(values, count);
}

coar_status comm_post(int to, const void *data, size_t bytes) {
    if (bytes > COMM_MESSAGE_MOST) return status_set(COAR_ERROR_INTERNAL, "a message of %zu bytes is too long", bytes);
    return world.interface->post(to, data, bytes);
}

coar_status comm_poll(comm_message *message, bool *found) {
    return world.interface->poll(message, found);
}

/* What a rank brings to an agreement. */
typedef struct vote {
    int32_t status, rank;
    char host[HOST_SIZE];
    char message[1024];
} vote;

/* A failure counts for more than a stop, which it often brings about; then the lowest rank. */
static const vote *choose(const vote *votes, int count) {
    const vote *chosen = &votes[0];
    for (int r = 1; r < count; r++) {
        const bool nothing = chosen->status == COAR_OK && votes[r].status != COAR_OK;
        const bool worse =
            chosen->status == COAR_STOPPED && votes[r].status != COAR_OK && votes[r].status != COAR_STOPPED;
        if (nothing || worse) chosen = &votes[r];
    }
    return chosen;
}

coar_status comm_agree(coar_status mine) {
    coar_status status = COAR_OK;
    vote *votes = NULL, own = {.status = (int32_t)mine, .rank = world.rank};
    if (world.size == 1) return mine;
    host_name(own.host);
    status_copy(own.message, sizeof own.message);
    status_clear();
    if (world.rank == 0) TRY_GOTO(memory_new((size_t)world.size, sizeof *votes, "ranks", &votes));
    TRY_GOTO(world.interface->gather(&own, votes, sizeof own));
    if (votes) own = *choose(votes, world.size);
    TRY_GOTO(comm_broadcast(&own, sizeof own));
    status = (coar_status)own.status;
    if (status != COAR_OK && own.rank == 0) status_set(status, "%s", own.message);
    if (status != COAR_OK && own.rank > 0) status_set(status, "rank %d (%s): %s", own.rank, own.host, own.message);
done:
    free(votes);
    return status;
}
