/* memory.c - see memory.h. */
#include "core/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool size_mul(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

bool size_add(size_t a, size_t b, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

/* Activations of a tile lie megabytes apart in a few streams, far more pages than the first-level TLB holds: large blocks
 * ask for huge pages where the system leaves that to programs. A refusal changes nothing. */
static void *allocate(size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    if (bytes < 2 * HUGE_PAGE) return aligned_alloc(64, bytes);
    const size_t whole = (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1); /* as aligned_alloc wants it */
    void *block = aligned_alloc(HUGE_PAGE, whole);
#ifdef MADV_HUGEPAGE
    if (block) madvise(block, whole, MADV_HUGEPAGE);
#endif
    return block;
}

coar_status memory_new(size_t count, size_t size, const char *what, void *out_pointer) {
    size_t bytes, rounded;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, 64, &rounded) || rounded > (size_t)PTRDIFF_MAX / 2)
        return status_set(COAR_ERROR_MEMORY, "%s: %zu x %zu bytes are more than this machine can address", what, count,
                          size);
    rounded &= ~(size_t)63; /* never 0 */
    void *block = allocate(rounded);
    if (!block) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory for %zu bytes", what, bytes);
    memset(block, 0, rounded);
    memcpy(out_pointer, &block, sizeof block);
    return COAR_OK;
}

coar_status memory_grow(void *array_pointer, size_t *capacity, size_t need, size_t size, const char *what) {
    if (need <= *capacity) return COAR_OK;
    size_t grown = *capacity ? *capacity : 16, bytes;
    while (grown < need)
        if (!size_mul(grown, 2, &grown)) return status_set(COAR_ERROR_MEMORY, "%s: too many entries", what);
    if (!size_mul(grown, size, &bytes)) return status_set(COAR_ERROR_MEMORY, "%s: too many entries", what);
    void *old, *block;
    memcpy(&old, array_pointer, sizeof old);
    block = realloc(old, bytes);
    if (!block) return status_set(COAR_ERROR_MEMORY, "%s: not enough memory for %zu bytes", what, bytes);
    memcpy(array_pointer, &block, sizeof block);
    *capacity = grown;
    return COAR_OK;
}

char *string_format(const char *format, ...) {
    va_list arguments;
    char *text = NULL;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}

void coar_free(void *memory) {
    free(memory);
}

/* The cgroup's limit in bytes, SIZE_MAX when there is none (version 2, then version 1). */
static size_t cgroup_limit(void) {
    static const char *const paths[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        FILE *f = fopen(paths[i], "r");
        if (!f) continue;
        unsigned long long limit;
        int fields = fscanf(f, "%llu", &limit);
        fclose(f);
        if (fields == 1) return (size_t)limit;
    }
    return SIZE_MAX;
}

size_t memory_available(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t physical = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)1 << 30;
    size_t limit = cgroup_limit();
    return physical < limit ? physical : limit;
}

size_t memory_default(void) {
    return memory_available() / 2;
}

size_t memory_resident(void) {
    unsigned long long all, resident = 0;
    const long page = sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "r"); /* in pages */
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &all, &resident) != 2 || page <= 0) resident = 0;
    fclose(f);
    return (size_t)resident * (size_t)page;
}

void *arena_take(arena *arena, size_t bytes) {
    size_t rounded, end;
    if (!size_add(bytes, 255, &rounded) || !size_add(arena->used, rounded & ~(size_t)255, &end)) {
        arena->used = SIZE_MAX;
        return NULL;
    }
    size_t start = arena->used;
    arena->used = end;
    if (!arena->base || end > arena->size) return NULL;
    return arena->base + start;
}

void arena_place(arena *arena, size_t count, size_t size, void *out_pointer) {
    size_t bytes;
    void *block = arena_take(arena, size_mul(count, size, &bytes) ? bytes : SIZE_MAX);
    memcpy(out_pointer, &block, sizeof block);
}

coar_status coar_parse_size(const char *text, uint64_t *bytes) {
    status_clear();
    char *end = NULL;
    if (!text || text[0] < '0' || text[0] > '9') goto bad;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    int shift = 0;
    switch (*end) {
    case 'K':
    case 'k':
        shift = 10;
        end++;
        break;
    case 'M':
    case 'm':
        shift = 20;
        end++;
        break;
    case 'G':
    case 'g':
        shift = 30;
        end++;
        break;
    case 'T':
    case 't':
        shift = 40;
        end++;
        break;
    }
    if (errno || *end || value == 0 || value > (UINT64_MAX >> shift)) goto bad;
    if (bytes) *bytes = (uint64_t)value << shift;
    return COAR_OK;
bad:
    return status_set(COAR_ERROR_USAGE, "'%s' is not a size: give bytes, or a number with K, M, G or T",
                      text ? text : "");
}
