/*
 * handout.h - work units of one stage for all ranks: rank 0 has the queue, the others ask it for units.
 *
 * Guided self-scheduling: a rank is given as many units as keep it busy for a moment at its own speed, but never more
 * than its share of half of what is left; towards the end, and where units take long, that is one for each device that
 * waits. So a slow node has no more than the units that it computes when the others are done. While much is left, ranks
 * ask before they have run out.
 *
 * A thread of its own speaks for the rank, so that devices are served while the calling thread writes. What a rank was
 * given and has not begun when everybody stops is simply not computed: journals alone say what is done.
 * Must not know: devices, what a unit is, MPI.
 */
#ifndef COAR_ABLATE_HANDOUT_H
#define COAR_ABLATE_HANDOUT_H

#include <pthread.h>

#include "ablate/unit_queue.h"
#include "comm/comm.h"

enum { HANDOUT_MOST = 512 }; /* units given at once */

typedef struct handout_peer { /* as rank 0 sees it */
    uint64_t images;
    bool finished;
} handout_peer;

/* Under the mutex of its owner (workers.c) but for what says otherwise. */
typedef struct handout {
    const comm *comm;
    size_t devices;
    const bool *closed; /* the owner's: it takes no more units */
    pthread_mutex_t *mutex;
    pthread_cond_t *changed; /* told of everything */
    unit_queue queue;        /* of rank 0: all units; of others: none */
    /* of the others */
    uint64_t blocks;
    uint64_t stock[2 * HANDOUT_MOST]; /* given, not yet taken, or taken and returned; the first is next */
    size_t stocked, taken;
    bool asked;     /* for units, without an answer so far */
    bool refused;   /* the last answer had none: ask again only for a device that waits */
    bool exhausted; /* rank 0 has no more */
    /* of rank 0 */
    handout_peer *peers; /* [size] */
    int at_work;         /* peers that have not finished */
    bool told_stop;
    /* of all */
    size_t hungry;   /* devices that wait for a unit */
    uint64_t block;  /* that one of them has bound */
    uint64_t images; /* that this rank has computed; what the owner tells */
    uint64_t told;   /* of these, those that rank 0 knows of */
    double start, told_at, tick_at;
    bool tick;          /* a second has passed: the owner may want to ask its callbacks */
    bool stopped;       /* another rank stops, or is lost: take no more units */
    bool leaving, left; /* the owner has finished; and all that is to be said was said */
    coar_status status; /* of the talking itself */
    char message[512];
    pthread_t thread;
    bool talking, begun;
} handout;

/* The queue of rank 0; others ask. stage: borrowed. */
coar_status handout_create(const store_stage *stage, uint64_t units, uint64_t blocks, uint32_t shard, uint32_t shards,
                           size_t devices, handout *out);
void handout_free(handout *h);

/* Makes ready to talk. Alone: nothing. */
coar_status handout_prepare(handout *h, pthread_mutex_t *mutex, pthread_cond_t *changed, const bool *closed);

/* Then begins, on every rank; or, where another one is not ready, ends without a word. */
void handout_begin(handout *h);
void handout_cancel(handout *h);

/* The next unit for a device that has examples of `block` bound. False: none now; `handout_expects` says whether to
 * wait. */
bool handout_take(handout *h, uint64_t block, uint64_t *unit);
bool handout_expects(const handout *h);

/* A unit that was taken here and not computed. */
void handout_return(handout *h, uint64_t unit);

/* Rank 0: images of the other ranks, and whether one of them still computes. */
uint64_t handout_images(const handout *h);
bool handout_at_work(const handout *h);

/* Once nothing is computed or written here any more; without the mutex. status: what came of it here. Ends the thread;
 * returns what became of the talking. */
coar_status handout_finish(handout *h, coar_status status);

#endif
