/*
 * packet.h - values one after the other as bytes, for the other ranks of a job: they run the same program on the same
 * kind of machine (comm_begin has compared versions), so structs travel as they are in memory.
 * Must not know: what the values mean.
 */
#ifndef COAR_COMM_PACKET_H
#define COAR_COMM_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Failures stick: whoever puts looks at packet_check once at the end, as does whoever gets. */
typedef struct packet {
    uint8_t *data; /* owned */
    size_t size, capacity;
    size_t at; /* of the next get */
    bool full; /* memory ran out */
    bool over; /* more was asked for than was put */
} packet;

void packet_free(packet *p);

void packet_put(packet *p, const void *value, size_t bytes);
void packet_put_text(packet *p, const char *text); /* NULL stays NULL */
void packet_put_array(packet *p, const void *values, size_t count, size_t size);

#define PACKET_PUT(p, value) packet_put(p, &(value), sizeof(value))
#define PACKET_GET(p, value) packet_get(p, &(value), sizeof(value))

/* After a failure values are zero, texts and arrays NULL. */
void packet_get(packet *p, void *value, size_t bytes);
const char *packet_get_text(packet *p);                        /* borrowed from the packet */
void *packet_get_array(packet *p, size_t size, size_t *count); /* malloc'ed; NULL of none */

/* COAR_ERROR_MEMORY of a packet that could not be filled, COAR_ERROR_INTERNAL of one that was read beyond its end. */
coar_status packet_check(const packet *p);

#endif
