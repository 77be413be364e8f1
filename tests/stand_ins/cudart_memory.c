/*
 * cudart_memory.c - the memory of the stand-in's devices, and pinned host memory.
 *
 * Every allocation has pages of its own between two that nobody may touch, and no address is ever used twice. It begins
 * aligned to 256 bytes as near to the page behind it as that allows; what is left over holds a pattern that is
 * checked, and is poisoned for AddressSanitizer. It is filled with 0xff (NaN in every floating-point type). Device
 * memory is inaccessible but while work of its device runs: host code that dereferences a device pointer, a kernel
 * that touches another device's memory, and both that touch freed memory stop with a segmentation fault, which a line
 * explains.
 *
 * Must not know: streams, but for the question what is running.
 */
#include "device.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#endif

enum { ALIGNMENT = 256, FRESH = 0xff, SLACK = 0xb5 };
static const size_t arena_size = (size_t)1 << 36; /* addresses, not memory, for each device */

static struct arena {
    unsigned char *start;
    size_t used;
} arenas[MAX_DEVICES + 1];

static block *blocks;
static size_t block_count, block_capacity;
static unsigned serials;
static volatile int open_device = -1;
static const char *volatile running;
static struct sigaction former_action;

/* ----------------------------------------------------------------------------------------------- page faults */

static const block *find_pages(const unsigned char *p) {
    for (size_t i = 0; i < block_count; i++)
        if (p >= blocks[i].pages && p < blocks[i].pages + blocks[i].pages_size) return &blocks[i];
    return NULL;
}

/* Says what was touched, then lets the fault happen again under the former handler. Only write(2) is safe here, and
 * snprintf of plain numbers and strings, which allocates nothing. */
static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    const unsigned char *p = info->si_addr;
    char line[256];
    const char *who = open_device < 0 ? "the program itself" : running;
    for (int d = 0; d <= HOST; d++) {
        if (!arenas[d].start || p < arenas[d].start || p >= arenas[d].start + arena_size) continue;
        const block *b = find_pages(p);
        const char *what = !b ? "outside of any allocation" : b->freed ? "that was freed" : "that it may not touch";
        int length = snprintf(line, sizeof line, "stand-in: %s: access to memory of device %d %s (allocation %u)\n",
                              who, d, what, b ? b->serial : 0);
        if (write(STDERR_FILENO, line, (size_t)length) < 0) _exit(1);
    }
    sigaction(signal, &former_action, NULL);
}

static void reserve(int device) {
    struct arena *a = &arenas[device];
    if (a->start) return;
    if (!former_action.sa_sigaction) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
        sigaction(SIGSEGV, &action, &former_action);
    }
    void *p = mmap(NULL, arena_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) misuse("cudaMalloc", "the stand-in cannot reserve addresses");
    a->start = p;
}

/* ---------------------------------------------------------------------------------------------------- blocks */

static void protect(const block *b, int protection) {
    if (mprotect(b->pages, b->pages_size, protection)) misuse("mprotect", "failed");
}

static size_t round_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* A new block of `size` bytes, or NULL when the arena's addresses are used up. */
static block *create(int device, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages_size = round_up(size, page);
    reserve(device);
    struct arena *a = &arenas[device];
    if (pages_size > arena_size - a->used - 2 * page) return NULL;
    if (block_count == block_capacity) {
        block_capacity = block_capacity ? 2 * block_capacity : 64;
        blocks = realloc(blocks, block_capacity * sizeof *blocks);
        if (!blocks) misuse("cudaMalloc", "out of host memory");
    }
    block *b = &blocks[block_count++];
    *b = (block){.pages = a->start + a->used + page,
                 .pages_size = pages_size,
                 .size = size,
                 .device = device,
                 .serial = ++serials};
    a->used += page + pages_size;
    b->start = b->pages + (pages_size - size) / ALIGNMENT * ALIGNMENT;
    protect(b, PROT_READ | PROT_WRITE);
    memset(b->pages, SLACK, pages_size);
    memset(b->start, FRESH, size);
    ASAN_POISON_MEMORY_REGION(b->pages, (size_t)(b->start - b->pages));
    ASAN_POISON_MEMORY_REGION(b->start + size, (size_t)(b->pages + pages_size - b->start) - size);
    if (device != HOST) protect(b, PROT_NONE);
    return b;
}

static bool holds(const unsigned char *p, const unsigned char *end) {
    while (p < end && *p == SLACK) p++;
    return p == end;
}

/* Stops the program when something wrote in front of or behind a block. It must be accessible. */
static void check_slack(const char *call, const block *b) {
    const unsigned char *end = b->start + b->size, *pages_end = b->pages + b->pages_size;
    ASAN_UNPOISON_MEMORY_REGION(b->pages, b->pages_size);
    if (!holds(b->pages, b->start)) misuse(call, "something wrote in front of allocation %u", b->serial);
    if (!holds(end, pages_end)) misuse(call, "something wrote behind allocation %u (%zu bytes)", b->serial, b->size);
    ASAN_POISON_MEMORY_REGION(b->pages, (size_t)(b->start - b->pages));
    ASAN_POISON_MEMORY_REGION(end, (size_t)(pages_end - end));
}

static void release(const char *call, void *p, bool host) {
    block *b = NULL;
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].start == p) b = &blocks[i];
    if (!b) misuse(call, "%p is not what an allocation returned", p);
    if (b->freed) misuse(call, "allocation %u was freed before", b->serial);
    if ((b->device == HOST) != host)
        misuse(call, "allocation %u is %s memory", b->serial, host ? "device" : "pinned host");
    if (!host && b->device != current_device)
        misuse(call, "allocation %u is on device %d, the current device is %d", b->serial, b->device, current_device);
    protect(b, PROT_READ | PROT_WRITE);
    check_slack(call, b);
    ASAN_UNPOISON_MEMORY_REGION(b->pages, b->pages_size);
    if (b->device != HOST) the_machine.device[b->device].allocated -= b->size;
    b->freed = true;
    if (mmap(b->pages, b->pages_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        misuse(call, "the stand-in cannot give memory back");
}

const block *memory_find(const void *p) {
    const unsigned char *c = p;
    for (size_t i = 0; i < block_count; i++)
        if (c >= blocks[i].start && c < blocks[i].start + blocks[i].size) return &blocks[i];
    return NULL;
}

void memory_check(const char *call, const char *what, const void *p, size_t size, int device) {
    const block *b = memory_find(p);
    if (!b || b->device == HOST) misuse(call, "%s = %p is not device memory", what, p);
    if (b->freed) misuse(call, "%s lies in allocation %u, which was freed", what, b->serial);
    if (b->device != device) misuse(call, "%s is memory of device %d, not of %d", what, b->device, device);
    size_t offset = (size_t)((const unsigned char *)p - b->start);
    if (size > b->size - offset)
        misuse(call, "%s: %zu bytes at offset %zu of allocation %u, which has %zu", what, size, offset, b->serial,
               b->size);
}

void memory_open(int device, const char *work) {
    running = work;
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].device == device && !blocks[i].freed) protect(&blocks[i], PROT_READ | PROT_WRITE);
    open_device = device;
}

void memory_close(int device) {
    open_device = -1;
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].device == device && !blocks[i].freed) protect(&blocks[i], PROT_NONE);
}

size_t memory_leaks(void) {
    size_t count = 0;
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i].freed) continue;
        if (blocks[i].device == HOST)
            fprintf(stderr, "stand-in: allocation %u, %zu bytes of pinned memory, was not freed\n", blocks[i].serial,
                    blocks[i].size);
        else
            fprintf(stderr, "stand-in: allocation %u, %zu bytes of device %d, was not freed\n", blocks[i].serial,
                    blocks[i].size, blocks[i].device);
        count++;
    }
    return count;
}

void memory_reset(void) {
    free(blocks);
    blocks = NULL;
    block_count = block_capacity = 0;
    serials = 0;
}

/* --------------------------------------------------------------------------------------------- the runtime */

static cudaError_t allocate(const char *call, void **p, size_t size, int device) {
    if (!p || !size) {
        refuse(call, "no pointer, or no bytes asked for");
        return cudaErrorInvalidValue;
    }
    *p = NULL;
    if (device != HOST && size > the_machine.memory - the_machine.device[device].allocated)
        return cudaErrorMemoryAllocation;
    const block *b = create(device, size);
    if (!b) return cudaErrorMemoryAllocation;
    if (device != HOST) the_machine.device[device].allocated += size;
    *p = b->start;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t size) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    if (error == cudaSuccess) error = allocate(__func__, p, size, current_device);
    return leave(error);
}

/* A device that failed gives its memory back too, and says once more that it failed. */
cudaError_t cudaFree(void *p) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    bool failed = the_machine.device[current_device].error != cudaSuccess;
    if ((error == cudaSuccess || failed) && p) release(__func__, p, false);
    return leave(error);
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    if (error == cudaSuccess &&
        flags & ~(unsigned)(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined)) {
        refuse(__func__, "unknown flags %#x", flags);
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) error = allocate(__func__, p, size, HOST);
    return leave(error);
}

cudaError_t cudaMallocHost(void **p, size_t size) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    if (error == cudaSuccess) error = allocate(__func__, p, size, HOST);
    return leave(error);
}

cudaError_t cudaFreeHost(void *p) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) error = capture_forbids(__func__);
    bool failed = the_machine.device[current_device].error != cudaSuccess;
    if ((error == cudaSuccess || failed) && p) {
        queue_forbids_release(__func__, memory_find(p));
        release(__func__, p, true);
    }
    return leave(error);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    cudaError_t error = enter(__func__);
    if (error == cudaSuccess) {
        *total = the_machine.memory;
        *available = the_machine.memory - the_machine.device[current_device].allocated;
    }
    return leave(error);
}
