/*
 * simt.cc - launches, blocks, the order of threads, and barriers.
 *
 * The threads that can run are bits: `ready` of each warp, `ready_warps` of the block. A thread runs until it waits or
 * ends, then the next is picked from these bits and switched to directly; there is no scheduler to come back to.
 */
#include "block.h"

#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>

#include "shadow.h"

namespace simt {

block_state block;
thread threads[THREADS_MAX];
warp warps[WARPS_MAX];
thread *current;
thread_local bool executes;

namespace {

enum order_kind { FORWARD, REVERSE, INTERLEAVED, RANDOM };

order_kind order;
bool order_chosen;
uint64_t random_state;

std::mutex one_launch;
fiber host; /* who called simt_execute */
bool abandoned;
void (*run_kernel)(void *);
void *kernel_arguments;

unsigned random_below(unsigned n) { /* xorshift64*, good enough to shuffle with */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 0x2545f4914f6cdd1dull >> 32) * n >> 32);
}

/* The first set bit of `bits` (not 0) at or after `from`, cyclically. */
unsigned next_bit(unsigned bits, unsigned from) {
    unsigned after = bits & ~0u << from;
    return (unsigned)__builtin_ctz(after ? after : bits);
}

unsigned pick_warp() {
    unsigned now = (unsigned)(current ? current->warp - warps : 0);
    switch (order) {
    case INTERLEAVED:
        return next_bit(block.ready_warps, (now + 1) % WARPS_MAX);
    case RANDOM:
        return next_bit(block.ready_warps, random_below(WARPS_MAX));
    case REVERSE:
        if (current && block.ready_warps >> now & 1) return now;
        return 31 - (unsigned)__builtin_clz(block.ready_warps);
    default:
        /* Staying in a warp while it can go on keeps its stacks in the cache. */
        if (current && block.ready_warps >> now & 1) return now;
        return (unsigned)__builtin_ctz(block.ready_warps);
    }
}

unsigned pick_lane(const warp *w) {
    switch (order) {
    case INTERLEAVED:
        return next_bit(w->ready, (w->last_lane + 1) % LANES);
    case RANDOM:
        return next_bit(w->ready, random_below(LANES));
    case REVERSE:
        return 31 - (unsigned)__builtin_clz(w->ready);
    default:
        return (unsigned)__builtin_ctz(w->ready);
    }
}

/* The next thread to run, no longer ready; there is one. */
thread *pick_thread() {
    unsigned w = pick_warp(), lane = pick_lane(&warps[w]);
    warps[w].last_lane = lane;
    warps[w].ready &= ~(1u << lane);
    if (!warps[w].ready) block.ready_warps &= ~(1u << w);
    return &threads[w * LANES + lane];
}

/* Everybody waits, somebody of them at a warp operation: a barrier that all wait at is passed. Who waits for whom
 * decides what the bug is called. */
[[noreturn]] void report_stuck() {
    thread *at_barrier = nullptr, *at_warp = nullptr;
    for (unsigned i = 0; i < block.threads; i++) {
        thread *t = &threads[i];
        if (warps[i / LANES].exited >> i % LANES & 1) continue;
        if (t->at.mask)
            at_warp = at_warp ? at_warp : t;
        else
            at_barrier = at_barrier ? at_barrier : t;
    }
    char other[300];
    if (at_barrier)
        report(at_warp, SIMT_DIVERGENT_BARRIER, at_warp->at.pc,
               "%s waits for lanes %08x while thread %u waits at a barrier (%s)", at_warp->at.name, at_warp->at.mask,
               at_barrier->number, source_line(at_barrier->at.pc, other, sizeof other));
    report(at_warp, SIMT_WARP_DIVERGENCE, at_warp->at.pc, "%s waits for lanes %08x, some of which wait elsewhere",
           at_warp->at.name, at_warp->at.mask);
}

/* What every fiber runs. */
void run_thread() {
    run_kernel(kernel_arguments);
    thread *self = current;
    async_end_thread(self);
    warp *w = self->warp;
    w->exited |= 1u << self->lane;
    block.exited++;
    if (block.arrived)
        report(current, SIMT_EXIT_BEFORE_BARRIER, block.barrier_pc, "it ends while %u threads wait at a barrier",
               block.arrived);
    for (unsigned i = 0; i < w->meeting_count; i++)
        if (w->meetings[i].mask >> self->lane & 1)
            report(current, SIMT_WARP_MASK, w->meetings[i].pc, "it ends while lanes %08x wait for it",
                   w->meetings[i].arrived);
    if (--block.alive && !block.ready_warps) report_stuck();
    current = block.alive ? pick_thread() : nullptr;
    fiber_switch(&self->stack, current ? &current->stack : &host, true);
    abort(); /* nobody switches back */
}

void create_threads(unsigned count) {
    static unsigned created;
    for (; created < count; created++) {
        thread *t = &threads[created];
        fiber_create(&t->stack);
        t->number = created;
        t->lane = created % LANES;
        t->warp = &warps[created / LANES];
    }
}

void begin_block() {
    unsigned count = block.threads, warp_count = (count + LANES - 1) / LANES;
    block.alive = count;
    block.exited = block.arrived = block.barrier_count = 0;
    block.ready_warps = warp_count == WARPS_MAX ? ~0u : (1u << warp_count) - 1;
    for (unsigned w = 0; w < warp_count; w++) {
        unsigned lanes = count - w * LANES < LANES ? count - w * LANES : LANES;
        warps[w].present = warps[w].ready = lanes == LANES ? ~0u : (1u << lanes) - 1;
        warps[w].exited = warps[w].meeting_count = 0;
        warps[w].last_lane = LANES - 1;
    }
    for (unsigned i = 0; i < count; i++) {
        thread *t = &threads[i];
        t->index.x = i % block.shape.x;
        t->index.y = i / block.shape.x % block.shape.y;
        t->index.z = i / (block.shape.x * block.shape.y);
        t->at.name = nullptr;
        t->groups = 0;
        fiber_begin(&t->stack, run_thread);
    }
    shared_begin_block();
    shadow_begin_block();
}

/* Runs the block at block.index. False when the launch was given up. */
bool run_block() {
    begin_block();
    current = nullptr;
    thread *first = pick_thread();
    current = first;
    fiber_switch(&host, &first->stack, false);
    current = nullptr;
    return !abandoned && shared_end_block();
}

bool run_grid() {
    for (block.index.z = 0; block.index.z < block.grid.z; block.index.z++)
        for (block.index.y = 0; block.index.y < block.grid.y; block.index.y++)
            for (block.index.x = 0; block.index.x < block.grid.x; block.index.x++, block.number++)
                if (!run_block()) return false;
    return true;
}

/* The limits of every architecture since sm_50. */
bool geometry_fits(dim3 grid, dim3 shape) {
    uint64_t count = (uint64_t)shape.x * shape.y * shape.z;
    return shape.x <= 1024 && shape.y <= 1024 && shape.z <= 64 && count >= 1 && count <= THREADS_MAX && grid.x >= 1 &&
           grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
}

} // namespace

uint3 thread_index() {
    return current->index;
}
uint3 block_index() {
    return block.index;
}
dim3 block_shape() {
    return block.shape;
}
dim3 grid_shape() {
    return block.grid;
}

const char *kernel_name(const char *text) {
    static std::mutex lock;
    static std::set<std::string> names;
    const char *end = text;
    for (int depth = 0; *end && (depth || *end != ','); end++)
        depth += strchr("<(", *end) ? 1 : strchr(">)", *end) ? -1 : 0;
    std::lock_guard<std::mutex> hold(lock);
    return names.insert(std::string(text, end)).first->c_str();
}

void make_ready(warp *w, unsigned lanes) {
    if (!lanes) return;
    w->ready |= lanes;
    block.ready_warps |= 1u << (w - warps);
}

void wait_for_others() {
    thread *self = current;
    if (!block.ready_warps) report_stuck();
    current = pick_thread();
    fiber_switch(&self->stack, &current->stack, false);
}

void abandon_launch() {
    thread *self = current;
    abandoned = true;
    current = nullptr;
    fiber_switch(&self->stack, &host, false);
    abort();
}

static void arrive_at_barrier(int line, const void *pc) {
    thread *self = current;
    if (block.exited)
        report(current, SIMT_EXIT_BEFORE_BARRIER, pc, "it is at a barrier; %u threads of its block have ended",
               block.exited);
    if (block.arrived && block.barrier_line != line)
        report(current, SIMT_DIVERGENT_BARRIER, pc, "%u threads wait at another barrier, in line %d", block.arrived,
               block.barrier_line);
    block.barrier_line = line;
    block.barrier_pc = pc;
    if (++block.arrived < block.threads) {
        self->at = {"__syncthreads", 0, line, pc};
        wait_for_others();
        return;
    }
    block.arrived = 0;
    block.barrier_result = block.barrier_count;
    block.barrier_count = 0;
    for (unsigned w = 0; w * LANES < block.threads; w++)
        make_ready(&warps[w], warps[w].present & ~(self->warp == &warps[w] ? 1u << self->lane : 0));
    shadow_barrier();
}

void barrier(int line) {
    arrive_at_barrier(line, SIMT_CALLER);
}

int barrier_count(int predicate, int line) {
    block.barrier_count += predicate != 0;
    arrive_at_barrier(line, SIMT_CALLER);
    return (int)block.barrier_result;
}

} // namespace simt

using namespace simt;

__attribute__((weak)) cudaError_t simt_launch(const char *name, void (*run)(void *), const void *arguments, size_t,
                                              dim3 grid, dim3 shape, size_t shared, cudaStream_t) {
    return simt_execute(name, run, arguments, grid, shape, shared);
}

bool simt_set_order(const char *text) {
    if (!text) text = getenv("SIMT_ORDER");
    if (!text || !strcmp(text, "forward"))
        order = FORWARD;
    else if (!strcmp(text, "reverse"))
        order = REVERSE;
    else if (!strcmp(text, "interleaved"))
        order = INTERLEAVED;
    else if (!strncmp(text, "random:", 7)) {
        order = RANDOM;
        random_state = strtoull(text + 7, nullptr, 0) * 0x9e3779b97f4a7c15ull + 1;
    } else {
        return false;
    }
    order_chosen = true;
    return true;
}

cudaError_t simt_execute(const char *name, void (*run)(void *), const void *arguments, dim3 grid, dim3 shape,
                         size_t shared) {
    if (!geometry_fits(grid, shape)) return cudaErrorInvalidConfiguration;
    if (shared > simt_shared_limit()) return cudaErrorInvalidValue;
    std::lock_guard<std::mutex> hold(one_launch);
    if (!order_chosen && !simt_set_order(nullptr)) {
        fprintf(stderr, "simt: SIMT_ORDER=%s: must be forward, reverse, interleaved or random:SEED\n",
                getenv("SIMT_ORDER"));
        abort();
    }
    block.kernel = name;
    block.grid = grid;
    block.shape = shape;
    block.threads = shape.x * shape.y * shape.z;
    block.number = 0;
    block.launch++;
    run_kernel = run;
    kernel_arguments = const_cast<void *>(arguments);
    abandoned = false;
    host.size = 0;
    create_threads(block.threads);
    shared_begin_launch(shared);
    shadow_begin_launch();
    executes = true;
    bool whole = run_grid();
    executes = false;
    if (whole) return cudaSuccess;
    for (unsigned i = 0; i < block.threads; i++) {
        fiber_abandon(&threads[i].stack);
        threads[i].copies.clear();
    }
    return cudaErrorLaunchFailure;
}
