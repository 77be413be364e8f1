/*
 * workers.c - see workers.h.
 *
 * A worker fills one of its two buffers of outputs while the other waits for the journal, so that a device does not
 * stand still while a record is synced. One mutex guards everything that threads share (crew), one condition tells of
 * every change: events are as rare as work units.
 */
#include "ablate/workers.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "ablate/unit_queue.h"
#include "core/half.h"

enum { BUFFERS = 2 };

/* Outputs of one unit: free -> computed by the worker -> saved by the calling thread -> free. */
typedef struct unit_buffer {
    float *outputs; /* [outputs][unit_masks][unit_examples] */
    uint64_t unit;
    uint8_t flag;
    bool computed; /* waits for the journal */
} unit_buffer;

typedef struct worker {
    struct crew *crew;
    int device;
    pthread_t thread;
    bool started;
    thread_pool *pool, *own_pool; /* own_pool: NULL where it is the job's */
    backend *backend;
    uint8_t *images; /* of one block of examples */
    uint64_t bound;  /* which block that is; NO_BLOCK = none */
    unit_buffer buffers[BUFFERS];
    coar_status failure; /* under the crew's mutex, as `told` and the buffers' state */
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
    unit_queue queue;
    size_t alive;   /* workers whose device works and that have not ended */
    size_t in_hand; /* units being computed: they may come back */
    bool closed;    /* no further units are taken */
    /* the calling thread's */
    progress progress;
    uint64_t done; /* masked images in the journal */
    double start;
    bool stopped;
    coar_status status; /* of the run, device failures apart */
} crew;

/* ------------------------------------------------------------------------------------------------ one unit */

/* Non-finite outputs stay as NaN; true when there was one. The backend has computed them once more in fp32, direct
 * form, where that was not their form already. */
static bool mark_non_finite(float *values, size_t count) {
    bool found = false;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) {
            values[i] = NAN;
            found = true;
        }
    return found;
}

/* Before the unit is saved: what a part cannot hold would be found only once everything has been computed. */
static coar_status check_half(const float *values, size_t count) {
    uint16_t half;
    for (size_t i = 0; i < count; i++)
        if (!half_from_float(values[i], &half))
            return status_set(COAR_ERROR_INPUT,
                              "--store f16: an output is %g, above f16's range: start over with --store f32 --force",
                              (double)values[i]);
    return COAR_OK;
}

/* Reads the unit's examples where they are not bound already. *device_failed tells a failure of the device from one
 * that every device would meet. */
static coar_status bind_block(worker *w, const unit_place *p, bool *device_failed) {
    if (w->bound == p->block) return COAR_OK;
    w->bound = NO_BLOCK;
    TRY(job_read(w->crew->job, p->example_first, p->example_count, w->images));
    *device_failed = true;
    TRY(job_bind(w->crew->job, w->backend, p->example_first, p->example_count, w->images));
    *device_failed = false;
    w->bound = p->block;
    return COAR_OK;
}

static coar_status compute(worker *w, unit_buffer *buffer, bool *device_failed) {
    const unit_work *work = w->crew->work;
    const unit_place p = unit_queue_place(&w->crew->queue, buffer->unit);
    const size_t values = (size_t)work->grid.outputs * p.mask_count * p.example_count;
    const mask_range masks = {
        .count = p.mask_count, .n = work->sampler->n, .sampler = work->sampler, .first = p.mask_first};
    TRY(bind_block(w, &p, device_failed));
    *device_failed = true;
    TRY(w->backend->interface->run(w->backend, &masks, buffer->outputs));
    *device_failed = false;
    buffer->flag = mark_non_finite(buffer->outputs, values) ? UNIT_NON_FINITE : UNIT_DONE;
    return work->half ? check_half(buffer->outputs, values) : COAR_OK;
}

/* --------------------------------------------------------------------------------------------- worker thread */

static unit_buffer *free_buffer(worker *w) {
    for (size_t b = 0; b < BUFFERS; b++)
        if (!w->buffers[b].computed) return &w->buffers[b];
    return NULL;
}

/* A free buffer with the next unit in it; NULL when there is none for this worker any more. Units in the hands of
 * others are waited for: they come back when their device fails. */
static unit_buffer *take(worker *w) {
    crew *c = w->crew;
    unit_buffer *buffer = NULL;
    pthread_mutex_lock(&c->mutex);
    while (!c->closed) {
        buffer = free_buffer(w);
        if (buffer && unit_queue_take(&c->queue, w->bound, &buffer->unit)) break;
        const bool wait = !buffer || c->in_hand;
        buffer = NULL;
        if (!wait) break;
        pthread_cond_wait(&c->changed, &c->mutex);
    }
    if (buffer) c->in_hand++;
    pthread_mutex_unlock(&c->mutex);
    return buffer;
}

static void hand_over(worker *w, unit_buffer *buffer) {
    crew *c = w->crew;
    pthread_mutex_lock(&c->mutex);
    buffer->computed = true;
    c->in_hand--;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* The worker's last act. `buffer`: the unit that it did not finish, or NULL. */
static void leave(worker *w, coar_status status, const unit_buffer *buffer, bool device_failed) {
    crew *c = w->crew;
    pthread_mutex_lock(&c->mutex);
    w->failure = status;
    if (status != COAR_OK) status_copy(w->message, sizeof w->message);
    if (buffer) {
        unit_queue_return(&c->queue, buffer->unit);
        c->in_hand--;
    }
    if (status != COAR_OK && !device_failed) c->closed = true;
    c->alive--;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* What a device needs before its first unit; released by workers_free. */
static coar_status open_device(worker *w) {
    const job *j = w->crew->job;
    const unit_grid *g = &w->crew->work->grid;
    for (size_t b = 0; b < BUFFERS; b++)
        TRY(memory_new((size_t)g->outputs * g->unit_masks * g->unit_examples, sizeof *w->buffers[b].outputs, "outputs",
                       &w->buffers[b].outputs));
    TRY(memory_new(g->unit_examples, job_image_bytes(j), "images", &w->images));
    if (w->crew->count > 1) { /* a pool runs one job at a time */
        const int threads = thread_pool_size(j->pool) / (int)w->crew->count;
        TRY(thread_pool_create(threads > 1 ? threads : 1, &w->own_pool));
    }
    w->pool = w->own_pool ? w->own_pool : j->pool;
    return job_prepare(j, w->device, w->pool, &w->backend);
}

static void *worker_main(void *argument) {
    worker *w = argument;
    unit_buffer *buffer = NULL;
    bool device_failed = true;
    coar_status status = open_device(w);
    while (status == COAR_OK && (buffer = take(w)) != NULL) {
        device_failed = false;
        status = compute(w, buffer, &device_failed);
        if (status == COAR_OK) hand_over(w, buffer);
    }
    leave(w, status, buffer, device_failed);
    return NULL;
}

/* -------------------------------------------------------------------------------------------- calling thread */

/* Counts a saved unit; true when it is to be the last one now. */
static bool count_unit(crew *c, uint64_t unit) {
    const unit_place p = unit_queue_place(&c->queue, unit);
    c->done += (uint64_t)p.mask_count * p.example_count;
    c->work->images = c->done - c->queue.images_done;
    c->work->seconds = clock_seconds() - c->start;
    const bool stop = progress_update(&c->progress, c->done);
    return stop || (c->work->time_limit > 0 && c->work->seconds >= c->work->time_limit);
}

/* After a failed append nothing more is written. True when no more units are to be taken. */
static bool save(crew *c, const unit_buffer *buffer) {
    if (c->status != COAR_OK) return true;
    c->status = stage_append(c->stage, buffer->unit, buffer->flag, buffer->outputs,
                             unit_grid_payload(&c->work->grid, buffer->unit));
    if (c->status == COAR_OK) c->stopped |= count_unit(c, buffer->unit);
    return c->status != COAR_OK || c->stopped;
}

static unit_buffer *computed_buffer(crew *c) {
    for (size_t i = 0; i < c->count; i++)
        for (size_t b = 0; b < BUFFERS; b++)
            if (c->workers[i].buffers[b].computed) return &c->workers[i].buffers[b];
    return NULL;
}

static worker *untold_failure(crew *c) {
    for (size_t i = 0; i < c->count; i++)
        if (c->workers[i].failure != COAR_OK && !c->workers[i].told) return &c->workers[i];
    return NULL;
}

/* A failure that others make good is a warning, once. */
static void tell_failure(const crew *c, worker *w) {
    w->told = true;
    log_warning(c->job->callbacks, "device %d is left out from here on: %s", w->device, w->message);
}

/* Until every worker has left and everything that they computed is saved. Callbacks are called without the mutex. */
static void serve(crew *c) {
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        unit_buffer *buffer = computed_buffer(c);
        worker *failed = c->alive && !c->closed ? untold_failure(c) : NULL;
        if (failed) {
            pthread_mutex_unlock(&c->mutex);
            tell_failure(c, failed);
            pthread_mutex_lock(&c->mutex);
        } else if (buffer) {
            pthread_mutex_unlock(&c->mutex);
            const bool close = save(c, buffer);
            pthread_mutex_lock(&c->mutex);
            c->closed |= close;
            buffer->computed = false;
            pthread_cond_broadcast(&c->changed);
        } else if (c->alive) {
            pthread_cond_wait(&c->changed, &c->mutex);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&c->mutex);
}

/* How the run ended. With units left over, the failure that nobody could make good is the reason. */
static coar_status conclude(crew *c) {
    if (c->status != COAR_OK) return c->status;
    worker *failed = untold_failure(c);
    if (c->done < c->progress.total && !c->stopped) {
        if (!failed) return status_set(COAR_ERROR_INTERNAL, "the devices left work units undone");
        if (c->count == 1) return status_set(failed->failure, "%s", failed->message);
        return status_set(failed->failure, "device %d: %s", failed->device, failed->message);
    }
    for (; failed; failed = untold_failure(c)) tell_failure(c, failed);
    if (c->done == c->progress.total) return COAR_OK;
    return status_set(COAR_STOPPED, "stopped after %llu of %llu images; everything is saved, the same command goes on",
                      (unsigned long long)c->done, (unsigned long long)c->progress.total);
}

static coar_status start_workers(crew *c) {
    for (size_t i = 0; i < c->count; i++) {
        worker *w = &c->workers[i];
        *w = (worker){.crew = c, .device = c->job->devices[i], .bound = NO_BLOCK};
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
        if (w->backend) w->backend->interface->destroy(w->backend);
        thread_pool_destroy(w->own_pool);
        free(w->images);
        for (size_t b = 0; b < BUFFERS; b++) free(w->buffers[b].outputs);
    }
    free(c->workers);
    unit_queue_free(&c->queue);
}

/* Workers that were not started count as gone, so that the others end before their memory goes. */
static coar_status run_crew(crew *c) {
    coar_status status = start_workers(c);
    pthread_mutex_lock(&c->mutex);
    for (size_t i = 0; i < c->count; i++) c->alive -= !c->workers[i].started;
    c->closed = status != COAR_OK;
    pthread_mutex_unlock(&c->mutex);
    serve(c);
    for (size_t i = 0; i < c->count; i++)
        if (c->workers[i].started) pthread_join(c->workers[i].thread, NULL);
    return status == COAR_OK ? conclude(c) : status;
}

coar_status workers_run(job *j, unit_work *work, store_stage *stage) {
    coar_status status;
    crew c = {.job = j, .work = work, .stage = stage, .count = j->device_count, .start = clock_seconds()};
    TRY_GOTO(unit_queue_create(&work->grid, stage, work->shard, work->shards, c.count, &c.queue));
    c.done = c.queue.images_done;
    progress_begin(&c.progress, j->callbacks, "ablate", "images", c.done, c.queue.images);
    if (c.done == c.queue.images) goto done;
    TRY_GOTO(job_tell_memory(j));
    TRY_GOTO(memory_new(c.count, sizeof *c.workers, "devices", &c.workers));
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.changed, NULL);
    status = run_crew(&c);
    pthread_cond_destroy(&c.changed);
    pthread_mutex_destroy(&c.mutex);
done:
    workers_free(&c);
    return status;
}
