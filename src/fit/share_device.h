/*
 * share_device.h - a device of every rank for the sums of one fit (share.h), and the link between them.
 * Must not know: what is summed.
 */
#ifndef COAR_FIT_SHARE_DEVICE_H
#define COAR_FIT_SHARE_DEVICE_H

#include "backend/backend.h"
#include "comm/packet.h"

/* Of one rank. */
typedef struct shared_device {
    fit_device *device; /* rank 0's is borrowed; NULL = the CPU */
    bool together;      /* all ranks have one */
    device_link *link;  /* between them; NULL: their sums go over MPI */
} shared_device;

/* Rank 0: with its own device `number`, open already, has the others open theirs, within `memory` bytes each (0 = what is free).
 * Where they cannot, they stay out with a line in the log. */
coar_status shared_device_open(const backend_interface *backend, int number, fit_device *device, uint64_t memory,
                               const coar_callbacks *callbacks, shared_device *s);

/* Rank 0, also after a failure: the others give theirs back. */
coar_status shared_device_close(shared_device *s);

/* The others, on ORDER_DEVICE. devices: their own choice ("0,2"), NULL = by their number on the machine. */
coar_status shared_device_follow(packet *p, const char *devices, shared_device *s);

/* The others, at the end. Not together: rank 0 is lost. */
void shared_device_free(shared_device *s, bool together);

/* All ranks: from here on sums of the device are those of all, within what every one of them has room for; until
 * shared_device_alone. Nothing without a link. */
coar_status shared_device_together(const shared_device *s);
void shared_device_alone(const shared_device *s);

#endif
