/*
 * device.h - the simulated devices, as the stand-ins see them: one lock around everything, memory that knows its device
 * and its end, streams of deferred operations. cudart_*.c implement it; the libraries' stand-ins enqueue their work
 * through it.
 *
 * Every call of an API begins with enter and ends with leave, which hold the lock in between.
 */
#ifndef COAR_TESTS_STAND_INS_DEVICE_H
#define COAR_TESTS_STAND_INS_DEVICE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_DEVICES = 8, HOST = MAX_DEVICES }; /* HOST: the "device" of pinned memory */

/* ------------------------------------------------------------------------------------ calls (machine.c) */

/* Takes the lock, counts the call and gives the error that it has to return before it does anything: no driver, no
 * device, a failed device, an injected failure. Pass __func__. */
cudaError_t enter(const char *call);
/* Makes `error` this thread's last error and releases the lock. Returns it. */
cudaError_t leave(cudaError_t error);

/* Whether there is a driver that is new enough, and a device. */
cudaError_t usable(void);
/* This thread's last error, or the sticky one of its device. */
cudaError_t take_last_error(bool clear);

/* The same for libraries, whose errors are numbers of their own: enter_library gives an injected failure or 0. */
int enter_library(const char *call);
int leave_library(int status);
/* Lets other threads and processes have a moment, without the lock. */
void let_others(void);

/* A broken rule: one line, then abort(). */
_Noreturn void misuse(const char *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Arguments that the real library refuses: one line, counted. The caller returns the real library's error. */
void refuse(const char *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
void count_call(const char *prefix, const char *name);

typedef enum order { ORDER_LAZY, ORDER_OTHERS, ORDER_EAGER, ORDER_RANDOM } order;

typedef struct device {
    struct CUstream_st *null_stream; /* the legacy default stream; NULL until it is used */
    size_t allocated;                /* bytes */
    unsigned long launches;
    cudaError_t error; /* sticky */
} device;

typedef struct machine {
    int devices, major, minor, driver;
    size_t memory; /* bytes of each device */
    order order;
    uint64_t random; /* state of the generator of ORDER_RANDOM */
    bool check_leaks;
    int kill_device; /* fails with kill_error after kill_launches kernels; -1 = none */
    unsigned long kill_launches;
    cudaError_t kill_error;
    char wrong[64];
    bool drops_nan; /* cuDNN's ReLU */
    device device[MAX_DEVICES];
} machine;

extern machine the_machine;
extern _Thread_local int current_device;

/* What the results of a library's algorithm are multiplied by: 1, or 1.01 when it is the wrong one
 * (COAR_STANDIN_WRONG). */
double error_factor(const char *library, int algorithm);

/* The most shared memory that a block may have. */
int shared_limit(void);

/* A number below `limit`, from the seed of ORDER_RANDOM. */
unsigned random_below(unsigned limit);

/* Objects of the libraries (handles, descriptors, plans): kept for ever, so that a pointer is known to be dead. */
typedef struct object {
    struct object *next;
    const char *kind; /* "cublasHandle_t" */
    bool alive;
} object;

/* size bytes, zero, beginning with an object. */
void *object_create(const char *kind, size_t size);
/* Stops the program unless p is alive and of this kind. */
void object_check(const char *call, const void *p, const char *kind);
bool object_is(const void *p, const char *kind);
void object_destroy(const char *call, void *p, const char *kind);

/* ----------------------------------------------------------------------------------- memory (cudart_memory.c) */

typedef struct block {
    unsigned char *start, *pages; /* pages: what is protected, of pages_size bytes */
    size_t size, pages_size;
    unsigned serial; /* which allocation of the program */
    int device;      /* HOST = pinned */
    bool freed;
} block;

/* The block that p lies in (freed ones too), or NULL. */
const block *memory_find(const void *p);
/* Stops the program unless [p, p + size) is device memory of `device` and alive. `what` names the argument. */
void memory_check(const char *call, const char *what, const void *p, size_t size, int device);
/* Makes a device's memory accessible while work of it runs; work names it for messages. Calls do not nest. */
void memory_open(int device, const char *work);
void memory_close(int device);
size_t memory_leaks(void);
void memory_reset(void);

/* ------------------------------------------------------------------------------------ streams (cudart_queue.c) */

/* Work in order: done when `stream` has executed its operation `number`. */
typedef struct position {
    struct CUstream_st *stream; /* NULL = nothing to wait for */
    uint64_t number;
} position;

/* Host memory that an operation reads or writes: the program must leave it alone until the operation has run. */
typedef struct host_range {
    unsigned char *start; /* NULL = none */
    size_t size;
    bool written; /* by the operation */
    bool sparse;  /* there are bytes in between that do not belong to it: never guarded */
    bool guarded; /* sum is of the bytes at the time of the call */
    uint64_t sum;
} host_range;

typedef cudaError_t operation_run(const void *arguments);

typedef struct operation {
    struct operation *next;
    char name[96];
    uint64_t number; /* in its stream */
    position *after; /* what must be done first, besides what is before it in the stream */
    size_t afters;
    host_range host;
    bool launch;                        /* a kernel: counts towards the failure of a device */
    operation_run *run;                 /* NULL: nothing but the order */
    bool (*due)(const void *arguments); /* whether other ranks have done what it waits for; NULL: it waits for none */
    size_t size;                        /* of arguments */
    _Alignas(max_align_t) unsigned char arguments[];
} operation;

/* What has to come before the next node of a capture: its newest nodes, one for each stream that was joined. */
typedef struct frontier {
    size_t count;
    size_t node[16];
} frontier;

typedef struct capture capture;

struct CUstream_st {
    struct CUstream_st *next;
    int device;
    bool alive, blocking; /* blocking: ordered with the legacy default stream */
    uint64_t enqueued, executed;
    operation *head, **tail;
    capture *capture; /* NULL unless it is being captured */
    frontier newest;
};

struct CUevent_st {
    struct CUevent_st *next;
    int device;
    unsigned flags;
    bool alive;
    position recorded; /* of the newest cudaEventRecord */
    double time;       /* when that was executed, in ms */
    capture *capture;  /* recorded in this capture */
    frontier newest;
};

/* NULL stands for the legacy default stream. Stops the program when the stream is not alive. */
struct CUstream_st *stream_find(const char *call, cudaStream_t stream);
struct CUevent_st *event_find(const char *call, cudaEvent_t event);

/* Puts work into a stream, or into the graph that is being captured from it. arguments (size bytes) are copied; run
 * gets the copy. Library calls: `run` may read and write what memory_check would accept. */
cudaError_t enqueue(const char *name, struct CUstream_st *stream, operation_run *run, const void *arguments,
                    size_t size);
cudaError_t enqueue_operation(struct CUstream_st *stream, operation *o); /* takes o over */
/* The arguments, and room for `more` bytes behind them. */
operation *operation_create(const char *name, operation_run *run, const void *arguments, size_t size, size_t more);
operation *operation_clone(const operation *o);
void operation_destroy(operation *o);
void operation_depend(operation *o, position after);
position stream_end(struct CUstream_st *stream);
bool position_done(position p);
/* Runs what has to be run, in the chosen order, until p is done. Returns the device's sticky error. */
cudaError_t run_until(position p);
cudaError_t run_device(int device);
extern struct CUstream_st *all_streams;
/* Stops the program when a copy from or to this pinned memory is pending. */
void queue_forbids_release(const char *call, const block *b);
size_t queue_leaks(void);
void queue_reset(void);

/* ------------------------------------------------------------------------------------ capture (cudart_graph.c) */

/* What a call that is unsafe while this thread, or another one globally, captures has to return; the capture is then
 * invalid. */
cudaError_t capture_forbids(const char *call);
/* The same for a call that would wait for `stream`. */
cudaError_t capture_forbids_stream(const char *call, struct CUstream_st *stream);
cudaError_t capture_append(struct CUstream_st *stream, operation *o); /* takes o over */
cudaError_t capture_record(struct CUstream_st *stream, struct CUevent_st *event);
cudaError_t capture_wait(struct CUstream_st *stream, struct CUevent_st *event);
size_t graph_leaks(void);
void graph_reset(void);

#endif
