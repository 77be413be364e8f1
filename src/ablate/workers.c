/*
 * workers.c - see workers.h.
 *
 * A worker fills one of its two records while the other waits for the journal, so that a device does not stand still
 * while a record is synced. One mutex guards everything that threads share (crew), one condition tells of every change:
 * events are as rare as work units. Which units are this process's is the hand-out's business (handout.h).
 */
#include "ablate/workers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/handout.h"

enum { RECORDS = 2 };

/* Of one unit: free -> computed by the worker -> saved by the calling thread -> free. */
typedef struct record_slot {
    unit_record record;
    bool computed; /* waits for the journal */
} record_slot;

typedef struct worker {
    unit_device device; /* first: unit_tell finds the worker by it */
    struct crew *crew;
    int number; /* of the device */
    pthread_t thread;
    bool started;
    thread_pool *own_pool; /* NULL where it is the job's */
    record_slot slots[RECORDS];
    bool holds;               /* a unit is in hand: */
    uint64_t unit;            /* its index */
    const record_slot *state; /* the record that it goes on from; NULL: it begins */
    /* under the crew's mutex, as the slots' `computed` */
    uint64_t images; /* of the unit in hand, computed since `state` */
    coar_status failure;
    bool device_failed; /* the failure is the device's: others may make it good */
    char message[1024];
    bool told;
} worker;

typedef struct crew {
    job *job;
    unit_work *work;
    store_stage *stage;
    worker *workers; /* [count] one per device */
    size_t count;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* under the mutex */
    handout handout;
    size_t alive;   /* workers whose device works and that have not ended */
    size_t in_hand; /* units being computed: they may come back */
    bool closed;    /* no further units are taken */
    /* the calling thread's */
    progress progress;
    uint64_t done, done_before; /* masked images in journals; those that were there when the run began */
    uint64_t reported;          /* masked images, those of units in hand and of other ranks included */
    double start;
    bool stopped;
    coar_status status; /* of the run, device failures apart */
} crew;

/* No further units are taken, here or anywhere. Under the mutex. */
static bool is_closed(const crew *c) {
    return c->closed || c->handout.stopped;
}

/* ------------------------------------------------------------------------------------------- for kinds of units */

coar_status unit_bind(unit_device *d, uint64_t block, uint64_t first, uint32_t count, bool *device_failed) {
    if (d->bound == block) return COAR_OK;
    d->bound = NO_BLOCK;
    TRY(job_read(d->job, first, count, d->images));
    *device_failed = true;
    TRY(job_bind(d->job, d->backend, first, count, d->images));
    *device_failed = false;
    d->bound = block;
    return COAR_OK;
}

bool unit_tell(unit_device *d, uint64_t images) {
    worker *w = (worker *)d;
    crew *c = w->crew;
    pthread_mutex_lock(&c->mutex);
    w->images = images;
    const bool stop = is_closed(c);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
    return stop;
}

/* --------------------------------------------------------------------------------------------- worker thread */

static record_slot *free_slot(worker *w) {
    for (size_t i = 0; i < RECORDS; i++)
        if (!w->slots[i].computed) return &w->slots[i];
    return NULL;
}

/* A free slot for the unit in hand, or for the next one; NULL when there is none for this worker any more. Units in the
 * hands of others are waited for: they come back when their device fails; and those that rank 0 may have. */
static record_slot *take(worker *w) {
    crew *c = w->crew;
    record_slot *slot = NULL;
    pthread_mutex_lock(&c->mutex);
    while (!is_closed(c)) {
        slot = free_slot(w);
        if (slot && w->holds) break;
        if (slot && handout_take(&c->handout, w->device.bound, &w->unit)) {
            w->holds = true;
            c->in_hand++;
            break;
        }
        const bool hungry = slot != NULL, wait = !slot || c->in_hand || handout_expects(&c->handout);
        slot = NULL;
        if (!wait) break;
        c->handout.hungry += hungry;
        pthread_cond_wait(&c->changed, &c->mutex);
        c->handout.hungry -= hungry;
    }
    pthread_mutex_unlock(&c->mutex);
    return slot;
}

/* The state that the unit in hand goes on from. */
static void begin_record(const worker *w, unit_record *record) {
    const unit_work *work = w->crew->work;
    record->unit = w->unit;
    record->mark = w->state ? w->state->record.mark : (unit_mark){0};
    if (w->state && &w->state->record != record)
        memcpy(record->payload, w->state->record.payload, work->payload_bytes(work->grid, w->unit));
}

/* Ends the unit in hand. Under the mutex. */
static void let_go(worker *w) {
    w->holds = false;
    w->state = NULL;
    w->crew->in_hand--;
}

static void hand_over(worker *w, record_slot *slot) {
    crew *c = w->crew;
    pthread_mutex_lock(&c->mutex);
    slot->computed = true;
    w->images = 0;
    w->state = slot;
    if (slot->record.mark.steps >= c->work->steps) let_go(w);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* The worker's last act. */
static void leave(worker *w, coar_status status, bool device_failed) {
    crew *c = w->crew;
    pthread_mutex_lock(&c->mutex);
    w->failure = status;
    w->device_failed = device_failed;
    w->images = 0;
    if (status != COAR_OK) status_copy(w->message, sizeof w->message);
    if (w->holds) {
        handout_return(&c->handout, w->unit);
        let_go(w);
    }
    if (status != COAR_OK && !device_failed) c->closed = true;
    c->alive--;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* What a device needs before its first unit; released by workers_free. */
static coar_status open_device(worker *w) {
    unit_device *d = &w->device;
    const job *j = d->job;
    const unit_work *work = d->work;
    for (size_t i = 0; i < RECORDS; i++) /* no unit's record is larger than the first's */
        TRY(memory_new(work->payload_bytes(work->grid, 0), 1, "work unit", &w->slots[i].record.payload));
    TRY(memory_new(work->pass.examples, dataset_example_bytes(j->data), "images", &d->images));
    if (w->crew->count > 1) { /* a pool runs one job at a time */
        const int threads = thread_pool_size(j->pool) / (int)w->crew->count;
        TRY(thread_pool_create(threads > 1 ? threads : 1, &w->own_pool));
    }
    d->pool = w->own_pool ? w->own_pool : j->pool;
    if (work->kind->open) TRY(work->kind->open(d));
    return job_prepare(j, &work->pass, w->number, d->pool, &d->backend);
}

static void *worker_main(void *argument) {
    worker *w = argument;
    record_slot *slot;
    bool device_failed = true;
    coar_status status = open_device(w);
    while (status == COAR_OK && (slot = take(w)) != NULL) {
        device_failed = false;
        begin_record(w, &slot->record);
        status = w->crew->work->kind->compute(&w->device, &slot->record, &device_failed);
        if (status == COAR_OK) hand_over(w, slot);
    }
    leave(w, status, device_failed);
    return NULL;
}

/* -------------------------------------------------------------------------------------------- calling thread */

/* Reports so many masked images; true when units in hand are to be the last ones. */
static bool report(crew *c, uint64_t images) {
    c->reported = images;
    c->work->seconds = clock_seconds() - c->start;
    c->stopped |= progress_update(&c->progress, images);
    c->stopped |= c->work->time_limit > 0 && c->work->seconds >= c->work->time_limit;
    return c->stopped;
}

/* After a failed append nothing more is written. True when no more units are to be taken. */
static bool save(crew *c, const unit_record *r) {
    const unit_work *work = c->work;
    if (c->status != COAR_OK) return true;
    const uint64_t before = work->kind->images(work, r->unit, stage_steps(c->stage, r->unit));
    c->status = stage_append(c->stage, r->unit, r->mark, r->payload, work->payload_bytes(work->grid, r->unit));
    if (c->status != COAR_OK) return true;
    c->done += work->kind->images(work, r->unit, stage_steps(c->stage, r->unit)) - before;
    c->work->images = c->done - c->done_before;
    return false;
}

static record_slot *computed_slot(crew *c) {
    for (size_t i = 0; i < c->count; i++)
        for (size_t k = 0; k < RECORDS; k++)
            if (c->workers[i].slots[k].computed) return &c->workers[i].slots[k];
    return NULL;
}

/* By all ranks, as far as this one knows; `handout` is told of its own. */
static uint64_t images_computed(crew *c) {
    uint64_t images = c->done;
    for (size_t i = 0; i < c->count; i++) images += c->workers[i].images;
    c->handout.images = images - c->done_before;
    return images + handout_images(&c->handout);
}

static worker *untold_failure(crew *c) {
    for (size_t i = 0; i < c->count; i++)
        if (c->workers[i].failure != COAR_OK && !c->workers[i].told) return &c->workers[i];
    return NULL;
}

/* A failure that others make good is a warning, once. */
static void tell_failure(const crew *c, worker *w) {
    w->told = true;
    log_warning(c->job->callbacks, "device %d is left out from here on: %s", w->number, w->message);
}

/* Until every worker has left and everything that they computed is saved. Callbacks are called without the mutex. */
static void serve(crew *c) {
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        record_slot *slot = computed_slot(c);
        worker *failed = c->alive && !c->closed ? untold_failure(c) : NULL;
        const uint64_t images = images_computed(c);
        if (failed) {
            pthread_mutex_unlock(&c->mutex);
            tell_failure(c, failed);
            pthread_mutex_lock(&c->mutex);
        } else if (images > c->reported || c->handout.tick) {
            c->handout.tick = false;
            pthread_mutex_unlock(&c->mutex);
            const bool close = report(c, images);
            pthread_mutex_lock(&c->mutex);
            c->closed |= close;
        } else if (slot) {
            pthread_mutex_unlock(&c->mutex);
            const bool close = save(c, &slot->record);
            pthread_mutex_lock(&c->mutex);
            c->closed |= close;
            slot->computed = false;
            pthread_cond_broadcast(&c->changed);
        } else if (c->alive || handout_at_work(&c->handout)) {
            pthread_cond_wait(&c->changed, &c->mutex);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&c->mutex);
}

/* Units are left that nobody could compute. The reason is the failure that no device is to blame for, else that of the last
 * device; where several failed before the caller came to hear of it, the others are told now. */
static coar_status give_up(const crew *c) {
    worker *reason = NULL;
    for (size_t i = 0; i < c->count; i++) {
        worker *w = &c->workers[i];
        if (w->failure == COAR_OK || w->told) continue;
        if (reason && !reason->device_failed) {
            if (w->device_failed) tell_failure(c, w);
            continue;
        }
        if (reason) tell_failure(c, reason);
        reason = w;
    }
    if (!reason) return status_set(COAR_ERROR_INTERNAL, "the devices left work units undone");
    if (c->count == 1 || !reason->device_failed) return status_set(reason->failure, "%s", reason->message);
    return status_set(reason->failure, "device %d: %s", reason->number, reason->message);
}

/* Whether units are undone that were this rank's to compute: of rank 0 all that nobody has. */
static bool is_undone(const crew *c, uint64_t done) {
    return comm_world()->rank ? c->handout.stocked > 0 || !c->handout.exhausted : done < c->progress.total;
}

/* Other devices cannot make it good. */
static bool has_failed(const crew *c) {
    bool all = true;
    for (size_t i = 0; i < c->count; i++) {
        if (c->workers[i].failure != COAR_OK && !c->workers[i].device_failed) return true;
        all &= c->workers[i].failure != COAR_OK;
    }
    return all;
}

/* How the run ended. A failure here stops the other ranks, which comes back as their stop. */
static coar_status conclude(crew *c) {
    const uint64_t done = c->done + handout_images(&c->handout);
    if (c->status != COAR_OK) return c->status;
    if (is_undone(c, done) && !c->stopped && (!c->handout.stopped || has_failed(c))) return give_up(c);
    for (worker *failed; (failed = untold_failure(c)) != NULL;) tell_failure(c, failed);
    if (!is_undone(c, done)) return COAR_OK;
    return status_set(COAR_STOPPED, "stopped after %llu of %llu images; everything is saved, the same command goes on",
                      (unsigned long long)done, (unsigned long long)c->progress.total);
}

static coar_status start_workers(crew *c) {
    for (size_t i = 0; i < c->count; i++) {
        worker *w = &c->workers[i];
        *w = (worker){.device = {.work = c->work, .job = c->job, .stage = c->stage, .bound = NO_BLOCK},
                      .crew = c,
                      .number = c->job->devices[i]};
    }
    c->alive = c->count;
    for (size_t i = 0; i < c->count; i++) {
        const int error = pthread_create(&c->workers[i].thread, NULL, worker_main, &c->workers[i]);
        if (error) return status_set_errno(COAR_ERROR_MEMORY, error, "cannot start a thread for each device");
        c->workers[i].started = true;
    }
    return COAR_OK;
}

static void workers_free(crew *c) {
    for (size_t i = 0; c->workers && i < c->count; i++) {
        worker *w = &c->workers[i];
        if (w->device.backend) w->device.backend->interface->destroy(w->device.backend);
        if (c->work->kind->close) c->work->kind->close(&w->device);
        thread_pool_destroy(w->own_pool);
        free(w->device.images);
        for (size_t k = 0; k < RECORDS; k++) free(w->slots[k].record.payload);
    }
    free(c->workers);
    handout_free(&c->handout);
}

/* Workers that were not started count as gone, so that the others end before their memory goes. */
static coar_status run_crew(crew *c) {
    handout_begin(&c->handout);
    coar_status status = start_workers(c);
    pthread_mutex_lock(&c->mutex);
    for (size_t i = 0; i < c->count; i++) c->alive -= !c->workers[i].started;
    c->closed = status != COAR_OK;
    pthread_mutex_unlock(&c->mutex);
    serve(c);
    for (size_t i = 0; i < c->count; i++)
        if (c->workers[i].started) pthread_join(c->workers[i].thread, NULL);
    if (status == COAR_OK) status = conclude(c);
    const coar_status talk = handout_finish(&c->handout, status);
    c->work->images += handout_images(&c->handout);
    return talk == COAR_OK ? status : talk;
}

/* Masked images of the shard's units, and those that are in the journal. */
static uint64_t count_images(crew *c) {
    const unit_work *work = c->work;
    uint64_t total = 0;
    for (uint64_t unit = work->shard; unit < work->units; unit += work->shards) {
        total += work->kind->images(work, unit, work->steps ? work->steps : 1);
        c->done += work->kind->images(work, unit, stage_steps(c->stage, unit));
    }
    c->done_before = c->reported = c->done;
    return total;
}

/* Everything that can fail before units are handed out. Of several ranks all are ready, or none begins. */
static coar_status prepare(crew *c) {
    const unit_work *work = c->work;
    TRY(handout_create(c->stage, work->units, work->blocks, work->shard, work->shards, c->count, &c->handout));
    const uint64_t images = count_images(c);
    progress_begin(&c->progress, c->job->callbacks, work->progress, "images", c->done, images);
    TRY(memory_new(c->count, sizeof *c->workers, "devices", &c->workers));
    if (comm_world()->size == 1 && c->done == images) return COAR_OK;
    TRY(job_tell_memory(c->job, &work->pass));
    return handout_prepare(&c->handout, &c->mutex, &c->changed, &c->closed);
}

/* Ranks that are more than there are units wait in vain. */
static void tell_idle(const crew *c) {
    const int size = comm_world()->size;
    const uint64_t left = unit_queue_left(&c->handout.queue);
    if (size > 1 && comm_world()->rank == 0 && left < (uint64_t)size)
        log_info(c->job->callbacks, "%s: %llu work units are left for %d processes: %llu of these have nothing to do",
                 c->work->progress, (unsigned long long)left, size, (unsigned long long)size - left);
}

coar_status workers_run(job *j, unit_work *work, store_stage *stage) {
    crew c = {.job = j, .work = work, .stage = stage, .count = j->device_count, .start = clock_seconds()};
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.changed, NULL);
    coar_status status = comm_agree(prepare(&c));
    if (status == COAR_OK) tell_idle(&c);
    if (status == COAR_OK && (comm_world()->size > 1 || c.done < c.progress.total))
        status = run_crew(&c);
    else
        handout_cancel(&c.handout);
    workers_free(&c);
    pthread_cond_destroy(&c.changed);
    pthread_mutex_destroy(&c.mutex);
    return status;
}
