/*
 * unit_queue.h - which work unit a device takes next.
 *
 * Hands out the units of this process that are not done. A device stays with a block of examples while that has units
 * left, so that a block is read and bound once. Not thread-safe: its user locks.
 * Must not know: devices, threads, what a unit is, other processes. (Ranks of one job are handed units of rank 0's queue,
 * handout.h; processes that do not talk to each other divide units by shards.)
 */
#ifndef COAR_ABLATE_UNIT_QUEUE_H
#define COAR_ABLATE_UNIT_QUEUE_H

#include "store/store.h"

#define NO_BLOCK UINT64_MAX

typedef struct unit_queue {
    const store_stage *stage; /* borrowed */
    uint32_t shard, shards;
    uint64_t units;
    uint64_t blocks;    /* of examples: unit u is of block u mod blocks */
    uint64_t *next;     /* [blocks] the first unit of the block that was not looked at yet */
    uint64_t *left;     /* [blocks] units to hand out */
    uint64_t remaining; /* the sum of `left` */
    uint64_t *returned; /* [devices] given back by devices that failed, or were stopped */
    size_t returned_count;
} unit_queue;

/* Of `units` units those with t mod shards == shard that the stage does not have. At most `devices` units can be given
 * back. */
coar_status unit_queue_create(uint64_t units, uint64_t blocks, const store_stage *stage, uint32_t shard,
                              uint32_t shards, size_t devices, unit_queue *out);
void unit_queue_free(unit_queue *q);

/* The next unit for a device that has examples of `block` bound (NO_BLOCK: none yet); false when none is left. */
bool unit_queue_take(unit_queue *q, uint64_t block, uint64_t *unit);

/* Units that can be taken. */
uint64_t unit_queue_left(const unit_queue *q);

/* A unit that was taken and not computed. */
void unit_queue_return(unit_queue *q, uint64_t unit);

#endif
