/* order.c - see order.h. */
#include "comm/order.h"

#include <stdlib.h>

#include "comm/comm.h"
#include "core/memory.h"

typedef struct order_header {
    uint64_t kind, bytes;
} order_header;

coar_status order_give(order_kind kind, const packet *contents) {
    order_header header = {.kind = kind, .bytes = contents->size};
    if (comm_world()->size == 1) return COAR_OK;
    TRY(packet_check(contents));
    TRY(comm_broadcast(&header, sizeof header));
    return comm_broadcast(contents->data, contents->size);
}

/* The first memory that fails here leaves the others in a broadcast: then there is nothing but to end the job. */
coar_status order_take(order_kind *kind, packet *contents) {
    order_header header;
    packet_free(contents);
    TRY(comm_broadcast(&header, sizeof header));
    TRY(memory_new((size_t)header.bytes, 1, "an order of rank 0", &contents->data));
    contents->size = contents->capacity = (size_t)header.bytes;
    *kind = (order_kind)header.kind;
    return comm_broadcast(contents->data, contents->size);
}
