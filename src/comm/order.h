/*
 * order.h - what rank 0 tells the others to do, one thing after the other.
 *
 * An order is a kind and a packet. Rank 0 gives it to all; what both sides do then (agree, hand out, sum) is fixed by
 * its kind, so that no rank waits for one that is somewhere else.
 * Must not know: what is in the packets.
 */
#ifndef COAR_COMM_ORDER_H
#define COAR_COMM_ORDER_H

#include "comm/packet.h"

typedef enum order_kind {
    ORDER_END,     /* rank 0's exit code: nothing follows */
    ORDER_JOB,     /* open these weights and data (ablate/job_share.h) */
    ORDER_STAGE,   /* compute units of this stage (ablate/run_share.h) */
    ORDER_DEVICE,  /* open a device for fits, or give it back (fit/share_device.h) */
    ORDER_GRAM,    /* count your masks (fit/share.h) */
    ORDER_CROSS,   /* add up your masks' outputs (fit/share.h) */
    ORDER_SELFTEST /* say and hear what rank 0 does (selftest/comm.h) */
} order_kind;

/* Rank 0. Does nothing where it is alone. */
coar_status order_give(order_kind kind, const packet *contents);

/* The others: waits for the next one. *contents is filled anew and freed by the caller. */
coar_status order_take(order_kind *kind, packet *contents);

#endif
