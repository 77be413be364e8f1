/*
 * device_link.h - devices of several processes ("ranks") that talk to each other without the hosts in between: the
 * operations that a fit and its self-test need, and how a link comes into being.
 *
 * Every rank makes the same calls in the same order. A call fails, and the link is of no more use, when the library behind it
 * reports an error or nothing comes through for as long as the seat says; other ranks find that out by the same means,
 * so that after a failure anywhere each of them comes back from its call.
 * Must not know: how ranks find each other (device_team.h), what is summed.
 */
#ifndef COAR_BACKEND_DEVICE_LINK_H
#define COAR_BACKEND_DEVICE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Made by one rank, copied to all. */
typedef struct link_ticket {
    uint8_t bytes[128];
} link_ticket;

/* The same number for the same piece of hardware in all processes of a machine. */
typedef struct device_identity {
    uint8_t bytes[16];
} device_identity;

typedef struct link_seat {
    int device, rank, size;
    link_ticket ticket;
    double silence;                         /* seconds */
    coar_status (*agree)(coar_status mine); /* one status for all ranks, by another way than the link */
} link_seat;

typedef struct device_link device_link;

typedef struct device_link_interface {
    /* Between host memory, by way of the devices' own. *seconds: what the operation itself took, without the copies
     * between host and device. */
    coar_status (*broadcast)(device_link *l, void *data, size_t bytes, double *seconds); /* from rank 0 */
    coar_status (*sum)(device_link *l, int64_t *values, size_t count, double *seconds);  /* to rank 0 */

    /* together: all ranks do the same, and wait for each other; else this one goes at once, which ends the others' calls. */
    void (*destroy)(device_link *l, bool together);
} device_link_interface;

/* First member of every link's own struct. */
struct device_link {
    const device_link_interface *interface;
    int rank;
    coar_status (*agree)(coar_status mine); /* the seat's */
};

/* What a backend has for that. */
typedef struct device_links {
    const char *name; /* "NCCL" */
    /* COAR_ERROR_UNSUPPORTED where the library is missing. */
    coar_status (*identify)(int device, device_identity *out);
    coar_status (*ticket)(link_ticket *out);
    coar_status (*join)(const link_seat *seat, device_link **out);
} device_links;

#endif
