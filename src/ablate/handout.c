/* handout.c - see handout.h. */
#include "ablate/handout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/log.h"
#include "core/memory.h"

/* A rank's stock lasts so long: many times what asking takes, and less than anybody would wait for at the end. */
#define STOCK_SECONDS 0.25
#define TELL_SECONDS 0.5 /* between figures for progress lines */
#define TICK_SECONDS 1.0

enum { PAUSE_LEAST = 100000, PAUSE_MOST = 2000000 }; /* nanoseconds between looks at what has arrived */

typedef enum word {
    WORD_REPORT, /* to rank 0: figures; with `room` a request, which is answered; with `closed` a stop for everybody */
    WORD_LAST,   /* to rank 0: the same, and nothing follows; answered by WORD_BYE */
    WORD_UNITS,  /* from rank 0 */
    WORD_STOP,
    WORD_BYE
} word;

typedef struct note {
    uint32_t word;
    uint32_t hungry, room; /* WORD_REPORT: devices that wait; units that would be taken */
    uint32_t closed;
    uint32_t count, exhausted; /* WORD_UNITS */
    uint64_t images, block;
    uint64_t units[HANDOUT_MOST]; /* [count] are sent */
} note;
_Static_assert(sizeof(note) <= COMM_MESSAGE_MOST, "a note is one message");

static size_t note_bytes(const note *n) {
    return offsetof(note, units) + n->count * sizeof *n->units;
}

static coar_status send_note(int to, const note *n) {
    return comm_post(to, n, note_bytes(n));
}

/* ----------------------------------------------------------------------------------------------- other ranks */

/* Units that keep this rank busy for STOCK_SECONDS, one for each device at least. */
static size_t wanted_stock(const handout *h) {
    const double seconds = clock_seconds() - h->start;
    const double wanted = seconds > 0 ? (double)h->taken / seconds * STOCK_SECONDS : 0;
    if (wanted < (double)h->devices) return h->devices;
    return wanted < HANDOUT_MOST ? (size_t)wanted : HANDOUT_MOST;
}

/* What is to be said now; word WORD_BYE: nothing. */
static note next_note(handout *h) {
    const double now = clock_seconds();
    const size_t wanted = wanted_stock(h);
    const bool closed = *h->closed && !h->told_stop;
    const bool ask = !h->asked && !h->exhausted && !h->stopped && !*h->closed && h->stocked < (wanted + 1) / 2 &&
                     (h->hungry || !h->refused);
    const bool tell = h->images != h->told && now - h->told_at >= TELL_SECONDS;
    if (!ask && !tell && !closed) return (note){.word = WORD_BYE};
    h->asked |= ask;
    h->told_stop |= closed;
    h->told = h->images;
    h->told_at = now;
    return (note){.word = WORD_REPORT,
                  .hungry = (uint32_t)h->hungry,
                  .room = ask ? (uint32_t)(wanted - h->stocked) : 0,
                  .closed = closed,
                  .images = h->images,
                  .block = h->block};
}

static void hear_rank_0(handout *h, const note *n) {
    switch ((word)n->word) {
    case WORD_UNITS:
        memcpy(h->stock + h->stocked, n->units, n->count * sizeof *n->units);
        h->stocked += n->count;
        h->asked = false;
        h->refused = n->count == 0;
        h->exhausted = n->exhausted;
        break;
    case WORD_STOP:
        h->stopped = h->told_stop = true;
        break;
    default:
        h->left = true;
        break;
    }
}

/* After WORD_LAST nothing more. */
static coar_status speak(handout *h) {
    if (h->leaving) return COAR_OK;
    const note n = next_note(h);
    return n.word == WORD_BYE ? COAR_OK : send_note(0, &n);
}

/* ---------------------------------------------------------------------------------------------------- rank 0 */

/* To all that are still at work, once. */
static coar_status stop_peers(handout *h) {
    const note n = {.word = WORD_STOP};
    if (h->told_stop) return COAR_OK;
    h->told_stop = h->stopped = true;
    for (int r = 1; r < h->comm->size; r++)
        if (!h->peers[r].finished) TRY(send_note(r, &n));
    return COAR_OK;
}

/* At most half of what is left is given away, so that what remains evens out how fast ranks are. */
static coar_status give_units(handout *h, int to, const note *request) {
    note n = {.word = WORD_UNITS, .block = request->block};
    const uint64_t share = h->queue.remaining / (2 * (uint64_t)h->comm->size);
    uint64_t count = share > request->hungry ? share : request->hungry;
    if (count > request->room) count = request->room;
    while (n.count < count && n.count < HANDOUT_MOST && !h->stopped &&
           unit_queue_take(&h->queue, n.block, &n.units[n.count]))
        n.block = n.units[n.count++] % h->blocks;
    n.exhausted = h->stopped || !unit_queue_left(&h->queue);
    return send_note(to, &n);
}

static coar_status hear_peer(handout *h, int from, const note *n) {
    handout_peer *peer = &h->peers[from];
    const note bye = {.word = WORD_BYE};
    peer->images = n->images;
    if (n->closed) TRY(stop_peers(h));
    if (n->word == WORD_REPORT) return n->room ? give_units(h, from, n) : COAR_OK;
    peer->finished = true;
    h->at_work--;
    return send_note(from, &bye);
}

/* ------------------------------------------------------------------------------------------------ the thread */

/* One message that has arrived. Without the mutex while it is looked for. */
static coar_status hear(handout *h, bool *heard) {
    comm_message m;
    note n;
    pthread_mutex_unlock(h->mutex);
    const coar_status status = comm_poll(&m, heard);
    pthread_mutex_lock(h->mutex);
    TRY(status);
    if (!*heard) return COAR_OK;
    memset(&n, 0, offsetof(note, units));
    memcpy(&n, m.data, m.bytes < sizeof n ? m.bytes : sizeof n);
    const size_t room = h->comm->rank ? HANDOUT_MOST : 0; /* wanted_stock asks for no more */
    if (m.bytes < offsetof(note, units) || m.bytes != note_bytes(&n) || n.count > room)
        return status_set(COAR_ERROR_INTERNAL, "rank %d says what is not understood", m.from);
    pthread_cond_broadcast(h->changed);
    if (h->comm->rank) hear_rank_0(h, &n);
    return h->comm->rank ? COAR_OK : hear_peer(h, m.from, &n);
}

/* What this rank has to say of its own accord. Under the mutex. */
static coar_status say(handout *h) {
    if (h->comm->rank) return speak(h);
    if (*h->closed) TRY(stop_peers(h));
    if (h->leaving && !h->at_work) h->left = true;
    return COAR_OK;
}

static void keep_time(handout *h) {
    const double now = clock_seconds();
    if (now - h->tick_at < TICK_SECONDS) return;
    h->tick_at = now;
    h->tick = true;
    pthread_cond_broadcast(h->changed);
}

/* Nobody is heard any more: what is computed here ends. */
static void give_up(handout *h, coar_status status) {
    h->status = status;
    status_copy(h->message, sizeof h->message);
    h->stopped = h->exhausted = h->left = true;
    h->at_work = 0;
    pthread_cond_broadcast(h->changed);
}

static void *talk(void *argument) {
    handout *h = argument;
    long pause = PAUSE_LEAST;
    pthread_mutex_lock(h->mutex);
    while (!h->begun) pthread_cond_wait(h->changed, h->mutex);
    while (!h->left) {
        bool heard = false;
        coar_status status = say(h);
        if (status == COAR_OK) status = hear(h, &heard);
        if (status != COAR_OK) give_up(h, status);
        keep_time(h);
        if (heard) {
            pause = PAUSE_LEAST;
            continue;
        }
        pthread_mutex_unlock(h->mutex);
        nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
        pause = 2 * pause < PAUSE_MOST ? 2 * pause : PAUSE_MOST;
        pthread_mutex_lock(h->mutex);
    }
    pthread_mutex_unlock(h->mutex);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------- the owner */

coar_status handout_create(const store_stage *stage, uint64_t units, uint64_t blocks, uint32_t shard, uint32_t shards,
                           size_t devices, handout *out) {
    const comm *c = comm_world();
    *out = (handout){.comm = c, .devices = devices, .blocks = blocks, .block = NO_BLOCK};
    out->at_work = c->rank ? 0 : c->size - 1;
    if (devices > HANDOUT_MOST) return status_set(COAR_ERROR_USAGE, "%zu devices are too many", devices);
    TRY(unit_queue_create(c->rank ? 0 : units, c->rank ? 1 : blocks, stage, shard, shards, devices, &out->queue));
    return memory_new((size_t)c->size, sizeof *out->peers, "ranks", &out->peers);
}

void handout_free(handout *h) {
    free(h->peers);
    unit_queue_free(&h->queue);
}

coar_status handout_prepare(handout *h, pthread_mutex_t *mutex, pthread_cond_t *changed, const bool *closed) {
    h->mutex = mutex;
    h->changed = changed;
    h->closed = closed;
    if (h->comm->size == 1) return COAR_OK;
    const int error = pthread_create(&h->thread, NULL, talk, h);
    if (error) return status_set_errno(COAR_ERROR_MEMORY, error, "cannot start the thread that talks to other ranks");
    h->talking = true;
    return COAR_OK;
}

void handout_begin(handout *h) {
    h->start = h->told_at = h->tick_at = clock_seconds();
    if (!h->talking) return;
    pthread_mutex_lock(h->mutex);
    h->begun = true;
    pthread_cond_broadcast(h->changed);
    pthread_mutex_unlock(h->mutex);
}

void handout_cancel(handout *h) {
    if (!h->talking) return;
    pthread_mutex_lock(h->mutex);
    h->begun = h->left = true;
    pthread_cond_broadcast(h->changed);
    pthread_mutex_unlock(h->mutex);
    pthread_join(h->thread, NULL);
    h->talking = false;
}

/* Of units in stock one of the bound block, else the first. */
static bool take_stock(handout *h, uint64_t block, uint64_t *unit) {
    size_t at = 0;
    if (!h->stocked) return false;
    while (at < h->stocked && h->stock[at] % h->blocks != block) at++;
    if (at == h->stocked) at = 0;
    *unit = h->stock[at];
    h->stocked--;
    memmove(h->stock + at, h->stock + at + 1, (h->stocked - at) * sizeof *h->stock);
    h->taken++;
    return true;
}

bool handout_take(handout *h, uint64_t block, uint64_t *unit) {
    if (h->comm->rank == 0) return unit_queue_take(&h->queue, block, unit);
    h->block = block;
    return take_stock(h, block, unit);
}

bool handout_expects(const handout *h) {
    return h->comm->rank && !h->exhausted && !h->stopped;
}

void handout_return(handout *h, uint64_t unit) {
    if (h->comm->rank == 0)
        unit_queue_return(&h->queue, unit);
    else
        h->stock[h->stocked++] = unit;
}

uint64_t handout_images(const handout *h) {
    uint64_t images = 0;
    for (int r = 1; h->comm->rank == 0 && r < h->comm->size; r++) images += h->peers[r].images;
    return images;
}

bool handout_at_work(const handout *h) {
    return h->at_work > 0;
}

coar_status handout_finish(handout *h, coar_status status) {
    if (!h->talking) return COAR_OK;
    pthread_mutex_lock(h->mutex);
    h->leaving = true;
    const note last = {.word = WORD_LAST, .closed = status != COAR_OK, .images = h->images};
    coar_status said = h->comm->rank && !h->left ? send_note(0, &last) : COAR_OK;
    if (said != COAR_OK) give_up(h, said);
    pthread_mutex_unlock(h->mutex);
    pthread_join(h->thread, NULL);
    h->talking = false;
    return h->status == COAR_OK ? COAR_OK : status_set(h->status, "%s", h->message);
}
