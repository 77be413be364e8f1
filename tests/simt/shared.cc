/*
 * shared.cc - shared memory of the running block, and cp.async.
 *
 * One arena holds all of it: static variables in the order in which they are met, then dynamic memory, each between
 * redzones. At the start of a block its bytes are 0xff (NaN in every floating type), so that a value that nobody wrote
 * shows.
 */
#include "block.h"

#include <stdlib.h>
#include <string.h>
#include <vector>

#include "arena.h"
#include "sanitizers.h"
#include "shadow.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static const size_t GRANULE = 8; /* bytes before a variable are told apart only from whole granules */
#else
static const size_t GRANULE = 1;
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace simt {

alignas(256) unsigned char arena[ARENA_SIZE];

namespace {

const unsigned char REDZONE_BYTE = 0xa5, POISON_BYTE = 0xff;
const size_t STATIC_MAX = 48 << 10;   /* what nvcc accepts */
const size_t LIMIT_MAX = 227 << 10;   /* of the largest devices */
const size_t DYNAMIC_ALIGNMENT = 128; /* gpu.h's GPU_DYNAMIC_SHARED */

struct variable {
    size_t offset, size;
    const char *name;
};

std::vector<variable> variables;
size_t used;        /* bytes of the arena in use, the last redzone included */
size_t static_size; /* sum of static variables as hardware would place them */
size_t dynamic_offset, dynamic_size;
size_t limit;

/* Places a variable behind a redzone, aligned to `alignment` and to no more: hardware promises no more either. */
size_t place(size_t size, size_t alignment, const char *name) {
    if (alignment < GRANULE) alignment = GRANULE;
    size_t offset = (used + 2 * alignment - 1) / (2 * alignment) * (2 * alignment) + alignment;
    size_t end = offset + size + REDZONE;
    ASAN_UNPOISON_MEMORY_REGION(arena + used, end - used);
    memset(arena + used, REDZONE_BYTE, end - used);
    memset(arena + offset, POISON_BYTE, size);
    ASAN_POISON_MEMORY_REGION(arena + used, end - used);
    ASAN_UNPOISON_MEMORY_REGION(arena + offset, size);
    used = end;
    variables.push_back({offset, size, name});
    shadow_add_variable(arena + offset, size);
    return offset;
}

} // namespace

void shared_begin_launch(size_t dynamic) {
    variables.clear();
    shadow_forget_variables();
    static_size = 0;
    dynamic_size = dynamic;
    ASAN_UNPOISON_MEMORY_REGION(arena, sizeof arena);
    memset(arena, REDZONE_BYTE, REDZONE);
    ASAN_POISON_MEMORY_REGION(arena, sizeof arena);
    used = REDZONE;
    dynamic_offset = 0; /* a kernel that asks for none gets a redzone */
    if (dynamic) dynamic_offset = place(dynamic, DYNAMIC_ALIGNMENT, "dynamic shared memory");
}

void shared_begin_block() {
    if (!block.number) return; /* place() has just done it */
    for (const variable &v : variables) memset(arena + v.offset, POISON_BYTE, v.size);
}

/* What wrote into a redzone is known no better than by its neighbour. The checker and the address sanitizer see the
 * access. */
bool shared_end_block() {
#ifndef __SANITIZE_ADDRESS__
    size_t from = 0;
    for (size_t i = 0; i <= variables.size(); i++) {
        size_t to = i < variables.size() ? variables[i].offset : used;
        for (size_t at = from; at < to; at++)
            if (arena[at] != REDZONE_BYTE) {
                bool behind = i && (at - from < REDZONE || i == variables.size());
                report_block(SIMT_BOUNDS, "shared memory was written %s %s", behind ? "behind" : "in front of",
                             variables[behind ? i - 1 : i].name);
                return false;
            }
        if (i < variables.size()) from = variables[i].offset + variables[i].size;
    }
#endif
    return true;
}

void *shared_static(shared_slot *slot, size_t size, size_t alignment, const char *name) {
    if (slot->launch != block.launch) {
        static_size = (static_size + alignment - 1) / alignment * alignment + size;
        if (static_size > STATIC_MAX)
            report(current, SIMT_SHARED_SIZE, SIMT_CALLER,
                   "static shared memory is %zu bytes with %s, of which %zu are allowed", static_size, name,
                   STATIC_MAX);
        if (static_size + dynamic_size > simt_shared_limit())
            report(current, SIMT_SHARED_SIZE, SIMT_CALLER,
                   "%zu bytes of static and %zu of dynamic shared memory; a block may have %zu", static_size,
                   dynamic_size, simt_shared_limit());
        slot->offset = place(size, alignment, name);
        slot->launch = block.launch;
    }
    return arena + slot->offset;
}

void *shared_dynamic() {
    return arena + dynamic_offset;
}

/* ---- cp.async */

void async_copy(void *shared, const void *global, int bytes, int present) {
    const void *pc = SIMT_CALLER;
    if (present < 0 || present > bytes)
        report(current, SIMT_ARGUMENT, pc, "cp.async of %d bytes, %d of them from memory", bytes, present);
    if ((uintptr_t)shared % (size_t)bytes || (uintptr_t)global % (size_t)bytes)
        report(current, SIMT_ALIGNMENT, pc, "cp.async of %d bytes from %p to %p", bytes, global, shared);
    if (!in_arena(shared)) report(current, SIMT_BOUNDS, pc, "cp.async to %p, which is not shared memory", shared);
    shadow_check_shared(current, shared, (size_t)bytes, pc);
    shadow_copy_issued(shared, (size_t)bytes, pc);
    memset(shared, POISON_BYTE, (size_t)bytes);
    current->copies.push_back({shared, global, bytes, present, current->groups, pc});
}

void async_commit() {
    current->groups++;
}

void async_wait(int groups) {
    thread *self = current;
    size_t done = 0, count = self->copies.size();
    for (; done < count && self->copies[done].group + (uint64_t)groups < self->groups; done++) {
        const async_request *c = &self->copies[done];
        shadow_copy_arrived(c->shared, (size_t)c->bytes, c->pc);
        if (c->present) {
            shadow_read(self, c->global, (size_t)c->present, c->pc);
            memcpy(c->shared, c->global, (size_t)c->present);
        }
        memset((char *)c->shared + c->present, 0, (size_t)(c->bytes - c->present));
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)done);
}

void async_end_thread(thread *t) {
    if (t->copies.empty()) return;
    const async_request *c = &t->copies[0];
    report(current, SIMT_PENDING_COPY, c->pc, "it ends with %zu copies under way, the first of which was %s",
           t->copies.size(), c->group < t->groups ? "committed but not waited for" : "never committed");
}

} // namespace simt

using namespace simt;

void simt_set_shared_limit(size_t bytes) {
    limit = bytes < LIMIT_MAX ? bytes : LIMIT_MAX;
}

size_t simt_shared_limit(void) {
    return limit ? limit : 99 << 10;
}
