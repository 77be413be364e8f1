/*
 * arena.h - where shared memory lies, for shared.cc, which places variables, and check.cc, which shadows them.
 */
#ifndef COAR_TESTS_SIMT_ARENA_H
#define COAR_TESTS_SIMT_ARENA_H

#include <stddef.h>
#include <stdint.h>

namespace simt {

const size_t REDZONE = 128;
/* 227 KiB is the most that any device gives a block; the rest is for redzones. */
const size_t ARENA_SIZE = 512 << 10;

extern unsigned char arena[ARENA_SIZE];

inline bool in_arena(const void *address) {
    return (uintptr_t)address - (uintptr_t)arena < ARENA_SIZE;
}

} // namespace simt

#endif
