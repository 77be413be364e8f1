/*
 * check.cc - the memory checker of CONFIG=check: sees every load and store of kernel code.
 *
 * Kernels are compiled with -fsanitize=thread, which puts a call in front of each access to memory that others could
 * see. No sanitizer is linked; the calls end here. For each byte there is a cell that remembers who wrote it last and
 * who has read it since, and when. Two accesses to a byte, one of them a write, are a race unless the first happened
 * before the second, that is when
 * - one thread made both, or a __syncthreads lies between (their epochs differ), or
 * - both are of one warp and __syncwarp lies between, directly or through other lanes (vector clocks, warp::clock).
 *   Shuffles and votes order nothing, as CUDA's programming guide says of them;
 * - in global memory also: both are atomic, or both blocks have used atomics before, as where the last block to finish
 *   adds up what the others left (which atomic is not looked at, so that some races of such kernels are missed).
 * A race is found whether or not this run's thread order made it do harm. Of several lanes' unordered reads only the
 * earliest time is kept: where __syncwarp is used on part of a warp a race can be missed, none is made up.
 */
#ifdef SIMT_CHECK

#include "shadow.h"

#include <algorithm>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unordered_map>
#include <vector>

#include "arena.h"

namespace simt {

namespace {

enum access_kind { READ, WRITE, ATOMIC };
const char *const VERBS[] = {"reads", "writes", "updates"};

/* What happened to one byte. Epochs grow for ever (one more for each barrier and each block), so that nothing has to be
 * reset between blocks; 0 = never. */
struct cell {
    uint32_t write_epoch, write_clock;
    uint32_t read_epoch, read_clock; /* clock: the smallest of the lanes' */
    uint32_t read_lanes;             /* of read_warp, in read_epoch */
    uint32_t other_read_epoch;       /* the last read by another block than read_epoch's */
    int32_t write_pc, read_pc;       /* relative to this file's code */
    uint16_t writer : 15;            /* thread number in its block */
    uint16_t guarded : 1;            /* nobody may touch it (simt_guard) */
    uint16_t read_warp : 15;
    uint16_t atomic : 1; /* the last write was */
};

const uint16_t MANY_WARPS = 0x7fff;

uint32_t epoch, first_of_block, first_of_launch;

enum { PART_OF_VARIABLE = 1, UNDER_WAY = 2 };
unsigned char state[ARENA_SIZE];
cell shared_cells[ARENA_SIZE];

/* Cells of global memory, by page. What earlier launches left means nothing and goes when it has become too much. */
const size_t PAGE = 4096, PAGES_MAX = 2048;
std::unordered_map<uintptr_t, cell *> pages;
std::map<uintptr_t, size_t> guards;
uintptr_t last_page;
cell *last_cells;

/* Blocks of this launch that have used atomics on global memory, and the epoch each block began in. */
std::vector<uint32_t> block_starts;
std::vector<bool> block_atomic;

cell *global_cell(uintptr_t address) {
    uintptr_t page = address / PAGE;
    if (page != last_page || !last_cells) {
        cell *&cells = pages[page];
        if (!cells) cells = (cell *)calloc(PAGE, sizeof *cells);
        if (!cells) abort();
        last_page = page;
        last_cells = cells;
    }
    return last_cells + address % PAGE;
}

int32_t short_pc(const void *pc) {
    return (int32_t)((intptr_t)pc - (intptr_t)&global_cell);
}
const void *long_pc(int32_t pc) {
    return (const void *)((intptr_t)pc + (intptr_t)&global_cell);
}

/* Whether what another block did in that epoch of this launch happened before now. */
bool ordered_by_atomics(uint32_t then) {
    size_t i = (size_t)(std::upper_bound(block_starts.begin(), block_starts.end(), then) - block_starts.begin());
    return i && block_atomic[i - 1] && block_atomic.back();
}

struct access {
    thread *t;
    access_kind kind;
    uintptr_t address; /* of the whole access */
    size_t size;
    const void *pc;
    bool shared;
};

/* Whether it was in this launch, but not in this block. Blocks have no shared memory in common. */
bool of_other_block(const access &a, uint32_t then) {
    return !a.shared && then >= first_of_launch && then < first_of_block;
}

bool is_unordered(const access &a, uint32_t then) {
    return of_other_block(a, then) && !ordered_by_atomics(then);
}

bool write_is_before(const cell *c, const access &a) {
    const thread *t = a.t;
    if (c->write_epoch != epoch) return !is_unordered(a, c->write_epoch);
    if (c->writer == t->number) return true;
    if (c->writer / LANES != t->number / LANES) return false;
    return t->warp->clock[t->lane][c->writer % LANES] >= c->write_clock;
}

bool reads_are_before(const cell *c, const access &a) {
    const thread *t = a.t;
    if (is_unordered(a, c->other_read_epoch)) return false;
    if (c->read_epoch != epoch) return !is_unordered(a, c->read_epoch);
    if (c->read_warp != t->number / LANES) return false;
    for (unsigned left = c->read_lanes & ~(1u << t->lane); left; left &= left - 1)
        if (t->warp->clock[t->lane][__builtin_ctz(left)] < c->read_clock) return false;
    return true;
}

[[noreturn]] void report_race(const access &a, const cell *c, bool with_write) {
    char line[300];
    uint32_t then = with_write                             ? c->write_epoch
                    : is_unordered(a, c->other_read_epoch) ? c->other_read_epoch
                                                           : c->read_epoch;
    char who[60] = "another thread";
    if (of_other_block(a, then))
        snprintf(who, sizeof who, "another block");
    else if (with_write)
        snprintf(who, sizeof who, "thread %u", c->writer);
    else if (c->read_warp != MANY_WARPS && !(c->read_lanes & (c->read_lanes - 1)))
        snprintf(who, sizeof who, "thread %u", c->read_warp * LANES + (unsigned)__builtin_ctz(c->read_lanes));
    report(a.t, a.shared ? SIMT_SHARED_RACE : SIMT_GLOBAL_RACE, a.pc, "it %s %zu bytes that %s %s in %s, unordered",
           VERBS[a.kind], a.size, who, with_write ? "writes" : "reads",
           source_line(long_pc(with_write ? c->write_pc : c->read_pc), line, sizeof line));
}

void note_write(cell *c, const access &a) {
    c->write_epoch = epoch;
    c->write_clock = a.t->warp->clock[a.t->lane][a.t->lane];
    c->write_pc = short_pc(a.pc);
    c->writer = a.t->number & 0x7fff;
    c->atomic = a.kind == ATOMIC;
}

void note_read(cell *c, const access &a) {
    const thread *t = a.t;
    uint32_t now = t->warp->clock[t->lane][t->lane];
    c->read_pc = short_pc(a.pc);
    if (c->read_epoch != epoch) {
        if (c->read_epoch < first_of_block) c->other_read_epoch = c->read_epoch;
        c->read_epoch = epoch;
        c->read_warp = (t->number / LANES) & MANY_WARPS;
        c->read_lanes = 1u << t->lane;
        c->read_clock = now;
    } else if (c->read_warp != t->number / LANES) {
        c->read_warp = MANY_WARPS;
    } else if (reads_are_before(c, a)) { /* whoever is ordered behind this read is behind the others too */
        c->read_lanes = 1u << t->lane;
        c->read_clock = now;
    } else {
        c->read_lanes |= 1u << t->lane;
        c->read_clock = now < c->read_clock ? now : c->read_clock;
    }
}

void touch(cell *c, const access &a) {
    if (!(a.kind == ATOMIC && c->atomic) && !write_is_before(c, a)) report_race(a, c, true);
    if (a.kind == READ) {
        note_read(c, a);
        return;
    }
    if (!reads_are_before(c, a)) report_race(a, c, false);
    note_write(c, a);
}

void touch_shared(const access &a) {
    size_t offset = a.address - (uintptr_t)arena;
    for (size_t i = offset; i < offset + a.size; i++) {
        if (i >= ARENA_SIZE || !(state[i] & PART_OF_VARIABLE))
            report(a.t, SIMT_BOUNDS, a.pc,
                   "it %s %zu bytes of shared memory, the byte at %zu of which is in no variable", VERBS[a.kind],
                   a.size, i - offset);
        if (state[i] & UNDER_WAY) report(a.t, SIMT_MISSING_WAIT, a.pc, "it %s %zu bytes", VERBS[a.kind], a.size);
        if (a.kind != WRITE && shared_cells[i].write_epoch < first_of_block)
            report(a.t, SIMT_UNINITIALISED, a.pc, "it %s %zu bytes", VERBS[a.kind], a.size);
        touch(&shared_cells[i], a);
    }
}

void touch_global(const access &a) {
    if (a.kind == ATOMIC) block_atomic.back() = true;
    for (size_t i = 0; i < a.size; i++) {
        cell *c = global_cell(a.address + i);
        if (c->guarded)
            report(a.t, SIMT_BOUNDS, a.pc,
                   "it %s %zu bytes of global memory, the byte at %zu of which is outside a buffer", VERBS[a.kind],
                   a.size, i);
        touch(c, a);
    }
}

void touch_any(const access &a) {
    if (a.shared)
        touch_shared(a);
    else if (a.address - (uintptr_t)a.t->stack.stack >= a.t->stack.size) /* a thread's own variables are its own */
        touch_global(a);
}

void set_guard(uintptr_t address, size_t size, bool guarded) {
    for (size_t i = 0; i < size; i++) global_cell(address + i)->guarded = guarded;
}

/* Frees the cells of global memory, when nothing runs. */
void forget_pages() {
    for (auto &page : pages) free(page.second);
    pages.clear();
    last_cells = nullptr;
    for (auto &guard : guards) set_guard(guard.first, guard.second, true);
}

void reset_clocks() {
    for (unsigned w = 0; w * LANES < block.threads; w++) {
        memset(warps[w].clock, 0, sizeof warps[w].clock);
        for (unsigned lane = 0; lane < LANES; lane++) warps[w].clock[lane][lane] = 1;
    }
}

} // namespace

void shadow_begin_launch() {
    first_of_launch = epoch + 1;
    block_starts.clear();
    block_atomic.clear();
    if (pages.size() > PAGES_MAX) forget_pages();
}

void shadow_begin_block() {
    first_of_block = ++epoch;
    block_starts.push_back(epoch);
    block_atomic.push_back(false);
    reset_clocks();
}

void shadow_barrier() {
    epoch++;
    reset_clocks();
}

void shadow_sync_warp(warp *w, unsigned mask) {
    unsigned seen[LANES] = {0};
    for (unsigned left = mask; left; left &= left - 1)
        for (unsigned other = 0; other < LANES; other++)
            seen[other] = std::max(seen[other], w->clock[__builtin_ctz(left)][other]);
    for (unsigned left = mask; left; left &= left - 1) {
        unsigned lane = (unsigned)__builtin_ctz(left);
        memcpy(w->clock[lane], seen, sizeof seen);
        w->clock[lane][lane]++;
    }
}

void shadow_read(thread *t, const void *address, size_t size, const void *pc) {
    touch_any({t, READ, (uintptr_t)address, size, pc, in_arena(address)});
}

void shadow_check_shared(const thread *t, const void *address, size_t size, const void *pc) {
    size_t offset = (uintptr_t)address - (uintptr_t)arena;
    for (size_t i = offset; i < offset + size; i++)
        if (i >= ARENA_SIZE || !(state[i] & PART_OF_VARIABLE))
            report(t, SIMT_BOUNDS, pc, "%zu bytes of shared memory, the byte at %zu of which is in no variable", size,
                   i - offset);
}

void shadow_copy_issued(const void *shared, size_t size, const void *pc) {
    touch_shared({current, WRITE, (uintptr_t)shared, size, pc, true});
    memset(state + ((uintptr_t)shared - (uintptr_t)arena), PART_OF_VARIABLE | UNDER_WAY, size);
}

void shadow_copy_arrived(const void *shared, size_t size, const void *pc) {
    access a = {current, WRITE, (uintptr_t)shared, size, pc, true};
    size_t offset = a.address - (uintptr_t)arena;
    memset(state + offset, PART_OF_VARIABLE, size);
    for (size_t i = offset; i < offset + size; i++) note_write(&shared_cells[i], a);
}

void shadow_forget_variables() {
    memset(state, 0, sizeof state);
}

void shadow_add_variable(const void *address, size_t size) {
    memset(state + ((uintptr_t)address - (uintptr_t)arena), PART_OF_VARIABLE, size);
}

namespace {

/* From the compiler's call. Code of a .cu file that runs on the host is none of our business. */
void compiled_access(access_kind kind, const void *address, size_t size, const void *pc) {
    if (!executes || !current) return;
    touch_any({current, kind, (uintptr_t)address, size, pc, in_arena(address)});
}

} // namespace

} // namespace simt

using namespace simt;

bool simt_checks_memory(void) {
    return true;
}

void simt_guard(const void *address, size_t size, bool guarded) {
    uintptr_t begin = (uintptr_t)address;
    set_guard(begin, size, guarded);
    if (guarded)
        guards[begin] = size;
    else
        guards.erase(begin);
}

/* --------------------------------------------------------------- what the compiler calls: the sanitizer's interface */

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}

#define SIMT_ACCESS(size)                                                                                              \
    void __tsan_read##size(void *p) {                                                                                  \
        compiled_access(READ, p, size, SIMT_CALLER);                                                                   \
    }                                                                                                                  \
    void __tsan_write##size(void *p) {                                                                                 \
        compiled_access(WRITE, p, size, SIMT_CALLER);                                                                  \
    }                                                                                                                  \
    void __tsan_volatile_read##size(void *p) {                                                                         \
        compiled_access(READ, p, size, SIMT_CALLER);                                                                   \
    }                                                                                                                  \
    void __tsan_volatile_write##size(void *p) {                                                                        \
        compiled_access(WRITE, p, size, SIMT_CALLER);                                                                  \
    }                                                                                                                  \
    void __tsan_unaligned_read##size(void *p) {                                                                        \
        compiled_access(READ, p, size, SIMT_CALLER);                                                                   \
    }                                                                                                                  \
    void __tsan_unaligned_write##size(void *p) {                                                                       \
        compiled_access(WRITE, p, size, SIMT_CALLER);                                                                  \
    }                                                                                                                  \
    void __tsan_read_write##size(void *p) {                                                                            \
        compiled_access(WRITE, p, size, SIMT_CALLER);                                                                  \
    }                                                                                                                  \
    void __tsan_unaligned_read_write##size(void *p) {                                                                  \
        compiled_access(WRITE, p, size, SIMT_CALLER);                                                                  \
    }
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
#undef SIMT_ACCESS

/* -fsanitize=alignment: a pointer is used that is not aligned as its type says. The compiler may split the access
 * later. */
struct simt_type_mismatch {
    const char *file;
    unsigned line, column;
    const void *type;
    unsigned char log_alignment;
};
void __ubsan_handle_type_mismatch_v1(simt_type_mismatch *what, uintptr_t address) {
    if (!current) abort();
    report(current, SIMT_ALIGNMENT, SIMT_CALLER, "%#lx is not a multiple of %u", (unsigned long)address,
           1u << what->log_alignment);
}

void __tsan_read_range(void *p, size_t size) {
    compiled_access(READ, p, size, SIMT_CALLER);
}
void __tsan_write_range(void *p, size_t size) {
    compiled_access(WRITE, p, size, SIMT_CALLER);
}

void *__tsan_memcpy(void *to, const void *from, size_t size) {
    compiled_access(READ, from, size, SIMT_CALLER);
    compiled_access(WRITE, to, size, SIMT_CALLER);
    return memcpy(to, from, size);
}
void *__tsan_memmove(void *to, const void *from, size_t size) {
    compiled_access(READ, from, size, SIMT_CALLER);
    compiled_access(WRITE, to, size, SIMT_CALLER);
    return memmove(to, from, size);
}
void *__tsan_memset(void *to, int value, size_t size) {
    compiled_access(WRITE, to, size, SIMT_CALLER);
    return memset(to, value, size);
}

/* Those that simt.h's atomics use. One thread runs at a time, so that plain code is atomic. */
#define SIMT_ATOMIC(bits, type)                                                                                        \
    type __tsan_atomic##bits##_load(const volatile type *p, int) {                                                     \
        compiled_access(ATOMIC, (const void *)p, sizeof *p, SIMT_CALLER);                                              \
        return *p;                                                                                                     \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *expected, type value, int, int) {        \
        compiled_access(ATOMIC, (const void *)p, sizeof *p, SIMT_CALLER);                                              \
        bool same = *p == *expected;                                                                                   \
        *(same ? p : expected) = same ? value : *p;                                                                    \
        return same;                                                                                                   \
    }                                                                                                                  \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *p, type expected, type value, int, int) {           \
        compiled_access(ATOMIC, (const void *)p, sizeof *p, SIMT_CALLER);                                              \
        type old = *p;                                                                                                 \
        if (old == expected) *p = value;                                                                               \
        return old;                                                                                                    \
    }
SIMT_ATOMIC(32, uint32_t)
SIMT_ATOMIC(64, uint64_t)
#undef SIMT_ATOMIC
}

#endif
