/*
 * memory.h - allocation with overflow checks, and an arena with a measuring mode.
 *
 * Every size that comes from a file goes through size_mul / memory_new before anything is allocated.
 * Must not know: what is stored.
 */
#ifndef COAR_CORE_MEMORY_H
#define COAR_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"

/* *out = a * b, or false on overflow (then *out is untouched). */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* count * size zeroed bytes, 64-byte aligned, freed with free(). `what` names the thing in the message.
 * count * size == 0 gives a valid pointer. */
coar_status memory_new(size_t count, size_t size, const char *what, void *out_pointer);

/* Grows an array to hold at least `need` elements (doubling); *capacity is in elements. */
coar_status memory_grow(void *array_pointer, size_t *capacity, size_t need, size_t size, const char *what);

/* malloc'ed printf; NULL only when out of memory. */
char *string_format(const char *format, ...) COAR_PRINTF(1, 2);

/* Physical memory this process may use, in bytes: the smaller of RAM and the cgroup's limit. */
size_t memory_available(void);

/* What a job takes when it is not told: half of that. Room is left for the page cache and the neighbours. */
size_t memory_default(void);

/* What this process has in physical memory now, in bytes, shared pages of libraries included; 0 = not known. */
size_t memory_resident(void);

/* A block carved into 256-byte aligned pieces. With base == NULL it only measures: arena_take returns NULL and
 * `used` says how much the same calls will need. */
typedef struct arena {
    char *base;
    size_t size, used;
} arena;

/* Next `bytes` of the arena, 256-byte aligned; NULL in measuring mode. Overflow makes `used` SIZE_MAX (sticky), and
 * a placing arena that is too small returns NULL: measure first. */
void *arena_take(arena *arena, size_t bytes);

/* The next count * size bytes as the pointer at `out_pointer`; an overflow as in arena_take. */
void arena_place(arena *arena, size_t count, size_t size, void *out_pointer);

#endif
