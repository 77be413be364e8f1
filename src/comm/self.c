/* self.c - a process alone: what it says to all others is said to nobody. */
#include <string.h>

#include "comm/internal.h"

static coar_status broadcast(void *data, size_t bytes) {
    (void)data, (void)bytes;
    return COAR_OK;
}

static coar_status scatter(const void *all, size_t size, void *mine, size_t bytes) {
    (void)all, (void)size, (void)mine, (void)bytes;
    return COAR_OK;
}

static coar_status gather(const void *mine, void *all, size_t bytes) {
    memcpy(all, mine, bytes);
    return COAR_OK;
}

static coar_status sum(int64_t *values, size_t count) {
    (void)values, (void)count;
    return COAR_OK;
}

static coar_status post(int to, const void *data, size_t bytes) {
    (void)to, (void)data, (void)bytes;
    return status_set(COAR_ERROR_INTERNAL, "a message to rank %d of a process that is alone", to);
}

static coar_status poll_none(comm_message *message, bool *found) {
    (void)message;
    *found = false;
    return COAR_OK;
}

static void end(bool together) {
    (void)together;
}

const comm_interface comm_self = {.broadcast = broadcast,
                                  .scatter = scatter,
                                  .gather = gather,
                                  .sum = sum,
                                  .post = post,
                                  .poll = poll_none,
                                  .end = end};
