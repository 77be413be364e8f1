/*
 * cudart_queue.c - streams and events of the stand-in's devices: operations wait in their streams until something waits
 * for them, and are then executed in an order that keeps to streams and events and is otherwise chosen
 * (COAR_STANDIN_ORDER).
 *
 * While an operation that reads or writes host memory is pending, that memory has a check sum: a program that writes to
 * it too early is stopped when the operation runs. What a download will overwrite is filled with 0xff meanwhile.
 *
 * Must not know: what operations do; graphs, but that a captured stream hands its operations to them.
 */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct CUstream_st *all_streams; /* destroyed ones too, so that a handle is known to be dead */
static struct CUevent_st *all_events;

/* -------------------------------------------------------------------------------------------------- handles */

static struct CUstream_st *create_stream(int device, bool blocking) {
    struct CUstream_st *s = calloc(1, sizeof *s);
    if (!s) misuse("cudaStreamCreate", "out of host memory");
    s->device = device;
    s->alive = true;
    s->blocking = blocking;
    s->tail = &s->head;
    s->next = all_streams;
    return all_streams = s;
}

static struct CUstream_st *null_stream(int device) {
    struct CUstream_st **s = &the_machine.device[device].null_stream;
    if (!*s) *s = create_stream(device, false);
    return *s;
}

static bool is_null_stream(const struct CUstream_st *s) {
    return the_machine.device[s->device].null_stream == s;
}

struct CUstream_st *stream_find(const char *call, cudaStream_t stream) {
    if (!stream || stream == cudaStreamLegacy) return null_stream(current_device);
    for (struct CUstream_st *s = all_streams; s; s = s->next) {
        if (s != stream) continue;
        if (!s->alive) misuse(call, "the stream was destroyed");
        return s;
    }
    misuse(call, "%p is no stream", (void *)stream);
}

struct CUevent_st *event_find(const char *call, cudaEvent_t event) {
    for (struct CUevent_st *e = all_events; e; e = e->next) {
        if (e != event) continue;
        if (!e->alive) misuse(call, "the event was destroyed");
        return e;
    }
    misuse(call, "%p is no event", (void *)event);
}

/* ---------------------------------------------------------------------------------------------- operations */

operation *operation_create(const char *name, operation_run *run, const void *arguments, size_t size, size_t more) {
    operation *o = calloc(1, sizeof *o + size + more);
    if (!o) misuse(name, "out of host memory");
    snprintf(o->name, sizeof o->name, "%s", name);
    o->run = run;
    o->size = size + more;
    if (size) memcpy(o->arguments, arguments, size);
    return o;
}

operation *operation_clone(const operation *o) {
    operation *copy = operation_create(o->name, o->run, o->arguments, o->size, 0);
    copy->host = o->host;
    copy->launch = o->launch;
    copy->due = o->due;
    return copy;
}

void operation_destroy(operation *o) {
    free(o->after);
    free(o);
}

bool position_done(position p) {
    return !p.stream || p.stream->executed >= p.number;
}

void operation_depend(operation *o, position after) {
    if (position_done(after)) return;
    o->after = realloc(o->after, (o->afters + 1) * sizeof *o->after);
    if (!o->after) misuse(o->name, "out of host memory");
    o->after[o->afters++] = after;
}

position stream_end(struct CUstream_st *stream) {
    return (position){stream, stream->enqueued};
}

/* -------------------------------------------------------------------------------------- host memory in flight */

static uint64_t sum_of(const host_range *h) {
    uint64_t sum = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < h->size; i++) sum = (sum ^ h->start[i]) * 0x100000001b3u;
    return sum;
}

static bool overlap(const host_range *h, const unsigned char *start, size_t size) {
    return h->start && h->start < start + size && start < h->start + h->size;
}

/* A pending operation that this one must not be confused with: both use the same host memory and one writes it. */
static bool is_shared(const host_range *h) {
    for (const struct CUstream_st *s = all_streams; s; s = s->next)
        for (const operation *o = s->head; o; o = o->next)
            if (overlap(&o->host, h->start, h->size) && (o->host.written || h->written)) return true;
    return false;
}

static void guard(host_range *h) {
    if (!h->start || h->sparse || is_shared(h)) return;
    if (h->written) memset(h->start, 0xff, h->size);
    h->sum = sum_of(h);
    h->guarded = true;
}

static void check_guard(const operation *o) {
    if (!o->host.guarded || sum_of(&o->host) == o->host.sum) return;
    if (o->host.written) misuse(o->name, "the program wrote to host memory that the pending copy was going to fill");
    misuse(o->name, "the program changed host memory between the call and the pending copy of it");
}

void queue_forbids_release(const char *call, const block *b) {
    if (!b) return;
    for (const struct CUstream_st *s = all_streams; s; s = s->next) {
        if (the_machine.device[s->device].error != cudaSuccess) continue; /* its work will never run */
        for (const operation *o = s->head; o; o = o->next)
            if (overlap(&o->host, b->start, b->size)) misuse(call, "a copy of allocation %u is pending", b->serial);
    }
}

/* ------------------------------------------------------------------------------------------------ execution */

static bool is_due(const operation *o) {
    return !o->due || o->due(o->arguments);
}

static bool ready(const operation *o) {
    if (!is_due(o)) return false;
    for (size_t i = 0; i < o->afters; i++)
        if (!position_done(o->after[i])) return false;
    return true;
}

/* The device fails for good when its time has come (COAR_STANDIN_KILL). */
static cudaError_t count_launch(int device) {
    the_machine.device[device].launches++;
    bool dies = device == the_machine.kill_device && the_machine.device[device].launches > the_machine.kill_launches;
    return dies ? the_machine.kill_error : cudaSuccess;
}

/* Executes the next operation of a stream, which must be ready. On a device that failed nothing is
 * executed any more. */
static void execute(struct CUstream_st *s) {
    operation *o = s->head;
    cudaError_t *error = &the_machine.device[s->device].error;
    s->head = o->next;
    if (!s->head) s->tail = &s->head;
    if (o->launch && *error == cudaSuccess) *error = count_launch(s->device);
    if (o->run && *error == cudaSuccess) {
        check_guard(o);
        count_call("run ", o->name);
        memory_open(s->device, o->name);
        *error = o->run(o->arguments);
        memory_close(s->device);
    }
    s->executed = o->number;
    operation_destroy(o);
}

static void run_needed(position p) {
    while (!position_done(p)) {
        const operation *o = p.stream->head;
        for (size_t i = 0; i < o->afters; i++) run_needed(o->after[i]);
        if (is_due(o))
            execute(p.stream);
        else
            let_others();
    }
}

/* A stream of the device whose next operation may be executed; `last` only if there is no other. NULL = none. */
static struct CUstream_st *choose(int device, struct CUstream_st *last) {
    struct CUstream_st *chosen = NULL;
    unsigned found = 0;
    for (struct CUstream_st *s = all_streams; s; s = s->next) {
        if (s->device != device || !s->head || !ready(s->head)) continue;
        if (the_machine.order == ORDER_RANDOM ? random_below(++found) == 0 : !chosen || chosen == last) chosen = s;
    }
    return chosen;
}

cudaError_t run_until(position p) {
    if (!p.stream) return cudaSuccess;
    int device = p.stream->device;
    while (!position_done(p)) {
        bool free_choice = the_machine.order == ORDER_OTHERS || the_machine.order == ORDER_RANDOM;
        struct CUstream_st *s = free_choice ? choose(device, p.stream) : NULL;
        if (s)
            execute(s);
        else
            run_needed(p); /* what is next waits for another device, or only what is needed is wanted */
    }
    return the_machine.device[device].error;
}

cudaError_t run_device(int device) {
    for (struct CUstream_st *s = all_streams; s; s = s->next)
        if (s->device == device) run_until(stream_end(s));
    return the_machine.device[device].error;
}

/* What the device does by itself, while the program goes on. */
static void run_in_background(struct CUstream_st *s) {
    while (the_machine.order == ORDER_EAGER && s->head && ready(s->head)) execute(s);
    if (the_machine.order != ORDER_RANDOM) return;
    while (random_below(4) == 0) {
        struct CUstream_st *chosen = choose(s->device, NULL);
        if (!chosen) return;
        execute(chosen);
    }
}

/* --------------------------------------------------------------------------------------------------- enqueue */

/* The legacy default stream and the blocking streams of a device wait for each other. */
static void order_with_null_stream(struct CUstream_st *s, operation *o) {
    struct CUstream_st *null = the_machine.device[s->device].null_stream;
    if (!null) return;
    if (s->blocking) operation_depend(o, stream_end(null));
    if (s != null) return;
    for (struct CUstream_st *other = all_streams; other; other = other->next)
        if (other->device == s->device && other->blocking) operation_depend(o, stream_end(other));
}

cudaError_t enqueue_operation(struct CUstream_st *s, operation *o) {
    if (s->capture) return capture_append(s, o);
    if (is_null_stream(s))
        for (const struct CUstream_st *other = all_streams; other; other = other->next)
            if (other->device == s->device && other->blocking && other->capture) {
                operation_destroy(o);
                return cudaErrorStreamCaptureImplicit;
            }
    order_with_null_stream(s, o);
    guard(&o->host);
    o->number = ++s->enqueued;
    *s->tail = o;
    s->tail = &o->next;
    run_in_background(s);
    return the_machine.device[s->device].error;
}

cudaError_t enqueue(const char *name, struct CUstream_st *s, operation_run *run, const void *arguments, size_t size) {
    return enqueue_operation(s, operation_create(name, run, arguments, size, 0));
}

/* ------------------------------------------------------------------------------------- the runtime: streams */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess && flags > cudaStreamNonBlocking) {
        refuse(__func__, "unknown flags %#x", flags);
        error = cudaErrorInvalidValue;
    }
    *stream = NULL;
    if (error == cudaSuccess) *stream = create_stream(current_device, flags == cudaStreamDefault);
    return leave(error);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    (void)priority; /* a hint */
    return cudaStreamCreateWithFlags(stream, flags);
}

/* What is still in the stream is executed, with the device's other work, when something waits for that. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream ? stream_find(__func__, stream) : NULL;
    if (!s || is_null_stream(s)) misuse(__func__, "the default stream cannot be destroyed");
    if (s->capture) misuse(__func__, "the stream is being captured");
    s->alive = false;
    return leave(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    if (error == cudaSuccess) error = capture_forbids_stream(__func__, s);
    if (error == cudaSuccess) error = run_until(stream_end(s));
    return leave(error);
}

/* A program that asks again and again gets there: each question lets the device do one step. */
static cudaError_t query(position p) {
    if (position_done(p)) return cudaSuccess;
    position next = {p.stream, p.stream->executed + 1};
    if (!is_due(p.stream->head)) return cudaErrorNotReady;
    cudaError_t error = run_until(next);
    return error != cudaSuccess || position_done(p) ? error : cudaErrorNotReady;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    if (error == cudaSuccess) error = capture_forbids_stream(__func__, s);
    if (error == cudaSuccess) error = query(stream_end(s));
    return leave(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    struct CUevent_st *e = event_find(__func__, event);
    if (error == cudaSuccess && flags) {
        refuse(__func__, "unknown flags %#x", flags);
        error = cudaErrorInvalidValue;
    }
    if (error != cudaSuccess) return leave(error);
    if (s->capture || e->capture) return leave(capture_wait(s, e));
    operation *o = operation_create(__func__, NULL, NULL, 0, 0);
    operation_depend(o, e->recorded);
    return leave(enqueue_operation(s, o));
}

cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    if (error == cudaSuccess) error = run_device(current_device);
    return leave(error);
}

/* -------------------------------------------------------------------------------------- the runtime: events */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess && flags & ~(unsigned)(cudaEventBlockingSync | cudaEventDisableTiming)) {
        refuse(__func__, "unknown flags %#x", flags);
        error = cudaErrorInvalidValue;
    }
    *event = NULL;
    if (error != cudaSuccess) return leave(error);
    struct CUevent_st *e = calloc(1, sizeof *e);
    if (!e) misuse(__func__, "out of host memory");
    *e = (struct CUevent_st){.next = all_events, .device = current_device, .flags = flags, .alive = true};
    *event = all_events = e;
    return leave(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    cudaError_t error = enter(__func__);
    event_find(__func__, event)->alive = false;
    return leave(error);
}

typedef struct record {
    struct CUevent_st *event;
    position position;
} record;

static cudaError_t run_record(const void *arguments) {
    const record *r = arguments;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    /* Recorded again meanwhile: that record's time counts. */
    if (r->event->recorded.stream == r->position.stream && r->event->recorded.number == r->position.number)
        r->event->time = 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    cudaError_t error = enter(__func__);
    struct CUstream_st *s = stream_find(__func__, stream);
    struct CUevent_st *e = event_find(__func__, event);
    if (error == cudaSuccess && e->device != s->device) {
        refuse(__func__, "the event belongs to device %d, the stream to device %d", e->device, s->device);
        error = cudaErrorInvalidResourceHandle;
    }
    if (error != cudaSuccess) return leave(error);
    if (s->capture) return leave(capture_record(s, e));
    record r = {e, {s, s->enqueued + 1}};
    e->capture = NULL;
    e->recorded = r.position;
    return leave(enqueue(__func__, s, run_record, &r, sizeof r));
}

static cudaError_t capture_forbids_event(const char *call, const struct CUevent_st *e) {
    return e->capture ? cudaErrorCapturedEvent : capture_forbids(call);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t error = enter(__func__);
    struct CUevent_st *e = event_find(__func__, event);
    if (error == cudaSuccess) error = capture_forbids_event(__func__, e);
    if (error == cudaSuccess) error = run_until(e->recorded);
    return leave(error);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    cudaError_t error = enter(__func__);
    struct CUevent_st *e = event_find(__func__, event);
    if (error == cudaSuccess) error = capture_forbids_event(__func__, e);
    if (error == cudaSuccess) error = query(e->recorded);
    return leave(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    cudaError_t error = enter(__func__);
    struct CUevent_st *a = event_find(__func__, start), *b = event_find(__func__, end);
    *ms = 0;
    if (error == cudaSuccess && (!a->recorded.stream || !b->recorded.stream ||
                                 (a->flags | b->flags) & cudaEventDisableTiming || a->device != b->device)) {
        refuse(__func__, "both events have to be recorded on one device, and be created with timing");
        error = cudaErrorInvalidResourceHandle;
    }
    if (error == cudaSuccess && (!position_done(a->recorded) || !position_done(b->recorded))) error = cudaErrorNotReady;
    if (error == cudaSuccess) *ms = (float)(b->time - a->time);
    return leave(error);
}

/* ---------------------------------------------------------------------------------------------------- leaks */

size_t queue_leaks(void) {
    size_t count = 0;
    for (const struct CUstream_st *s = all_streams; s; s = s->next) {
        if (s->head && the_machine.device[s->device].error == cudaSuccess) {
            fprintf(stderr, "stand-in: nothing waited for %s in a stream of device %d\n", s->head->name, s->device);
            count++;
        }
        if (s->alive && !is_null_stream(s)) {
            fprintf(stderr, "stand-in: a stream of device %d was not destroyed\n", s->device);
            count++;
        }
    }
    for (const struct CUevent_st *e = all_events; e; e = e->next) {
        if (!e->alive) continue;
        fprintf(stderr, "stand-in: an event of device %d was not destroyed\n", e->device);
        count++;
    }
    return count;
}

void queue_reset(void) {
    while (all_streams) {
        struct CUstream_st *s = all_streams;
        all_streams = s->next;
        while (s->head) {
            operation *o = s->head;
            s->head = o->next;
            operation_destroy(o);
        }
        free(s);
    }
    while (all_events) {
        struct CUevent_st *e = all_events;
        all_events = e->next;
        free(e);
    }
}
