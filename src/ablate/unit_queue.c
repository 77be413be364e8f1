/* unit_queue.c - see unit_queue.h. */
#include "ablate/unit_queue.h"

#include <stdlib.h>

#include "core/memory.h"

static bool to_do(const unit_queue *q, uint64_t unit) {
    return unit % q->shards == q->shard && !stage_has(q->stage, unit);
}

coar_status unit_queue_create(uint64_t units, uint64_t blocks, const store_stage *stage, uint32_t shard,
                              uint32_t shards, size_t devices, unit_queue *out) {
    coar_status status;
    unit_queue q = {.stage = stage, .shard = shard, .shards = shards, .units = units, .blocks = blocks};
    TRY_GOTO(memory_new(q.blocks, sizeof *q.next, "work units", &q.next));
    TRY_GOTO(memory_new(q.blocks, sizeof *q.left, "work units", &q.left));
    TRY_GOTO(memory_new(devices, sizeof *q.returned, "work units", &q.returned));
    for (uint64_t block = 0; block < q.blocks; block++) q.next[block] = block;
    for (uint64_t unit = 0; unit < units; unit++) q.left[unit % blocks] += to_do(&q, unit);
    for (uint64_t block = 0; block < q.blocks; block++) q.remaining += q.left[block];
    *out = q;
    q = (unit_queue){0};
done:
    unit_queue_free(&q);
    return status;
}

void unit_queue_free(unit_queue *q) {
    free(q->next);
    free(q->left);
    free(q->returned);
    *q = (unit_queue){0};
}

/* The block with most units left: devices spread over blocks, and one device alone goes through them in order. */
static uint64_t fullest_block(const unit_queue *q) {
    uint64_t best = 0;
    for (uint64_t block = 1; block < q->blocks; block++)
        if (q->left[block] > q->left[best]) best = block;
    return best;
}

bool unit_queue_take(unit_queue *q, uint64_t block, uint64_t *unit) {
    if (q->returned_count) {
        *unit = q->returned[--q->returned_count];
        return true;
    }
    if (block >= q->blocks || !q->left[block]) block = fullest_block(q);
    if (!q->blocks || !q->left[block]) return false;
    uint64_t *next =
        &q->next[block]; /* what the stage gains meanwhile are units taken here: `left` still counts the rest */
    while (!to_do(q, *next)) *next += q->blocks;
    *unit = *next;
    *next += q->blocks;
    q->left[block]--;
    q->remaining--;
    return true;
}

uint64_t unit_queue_left(const unit_queue *q) {
    return q->remaining + q->returned_count;
}

void unit_queue_return(unit_queue *q, uint64_t unit) {
    q->returned[q->returned_count++] = unit;
}
