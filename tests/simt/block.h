/*
 * block.h - the state of the block that executes, shared by the shim's own files.
 */
#ifndef COAR_TESTS_SIMT_BLOCK_H
#define COAR_TESTS_SIMT_BLOCK_H

#include <vector>

#include "fiber.h"
#include "machine.h"
#include "report.h"

namespace simt {

const unsigned LANES = 32;
const unsigned THREADS_MAX = 1024;
const unsigned WARPS_MAX = THREADS_MAX / LANES;

/* A cp.async that has been issued and not delivered. */
struct async_request {
    void *shared;
    const void *global;
    int bytes, present;
    uint64_t group;
    const void *pc;
};

/* What a thread waits at, or did last, for reports. A barrier's mask is 0. */
struct whereabouts {
    const char *name;
    unsigned mask;
    int line;
    const void *pc; /* of the call, to be found in the program's line table */
};

struct warp;

struct thread {
    fiber stack;
    uint3 index;
    unsigned number, lane;
    simt::warp *warp;
    void *operand; /* of the warp operation it takes part in */
    whereabouts at;
    std::vector<async_request> copies; /* oldest first */
    uint64_t groups;                   /* committed so far */
};

/* A warp operation that some lanes have reached and others have not. */
struct meeting {
    unsigned mask, arrived;
    int kind, line;
    const void *pc; /* where the first of them is */
};

struct warp {
    unsigned present, exited, ready; /* lanes */
    unsigned meeting_count;
    unsigned last_lane; /* that ran */
    meeting meetings[LANES];
    unsigned clock[LANES][LANES]; /* check.cc: [lane][other] = what lane has seen of other through __syncwarp */
};

struct block_state {
    const char *kernel;
    dim3 grid, shape;
    uint3 index;
    uint64_t number;
    unsigned threads, alive, exited;
    unsigned arrived; /* at the barrier */
    int barrier_line;
    const void *barrier_pc;
    unsigned barrier_count, barrier_result;
    unsigned ready_warps;
    uint64_t launch; /* number of the launch, from 1 */
};

extern block_state block;
extern thread threads[THREADS_MAX];
extern warp warps[WARPS_MAX];
extern thread *current;            /* NULL outside kernels */
extern thread_local bool executes; /* whether this host thread is the one that runs a launch */

/* ---- simt.cc */

/* The current thread cannot go on: runs others until somebody has made it ready and its turn has come. */
void wait_for_others();
void make_ready(warp *w, unsigned lanes);
/* Gives the launch up, from within a fiber. */
[[noreturn]] void abandon_launch();

/* ---- report.cc */

/* Says what is wrong in thread t, at pc (the return address of the shim's caller). Called on any fiber; does not
 * return: the process ends, or the launch is given up. */
[[noreturn]] void report(const thread *t, simt_bug bug, const void *pc, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same without a thread, at the end of a block. */
void report_block(simt_bug bug, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "file:line" of pc into text; returns text. */
const char *source_line(const void *pc, char *text, size_t size);

/* ---- shared.cc */
void shared_begin_launch(size_t dynamic);
void shared_begin_block();
bool shared_end_block(); /* false: a redzone was written to, and reported */
/* Copies that the thread which ends has not waited for. */
void async_end_thread(thread *t);

} // namespace simt

#define SIMT_CALLER __builtin_return_address(0)

#endif
