/* fiber.cc - see fiber.h. */
#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "sanitizers.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

namespace {

const size_t PAGE = 4096;
#ifdef __SANITIZE_ADDRESS__
const size_t STACK = 256 << 10; /* redzones around every local array */
#else
const size_t STACK = 64 << 10;
#endif

[[maybe_unused]] fiber *left; /* the fiber of the last switch */
void (*entry_of_next)();

/* Called first thing on the stack that a switch went to. */
void arrived(fiber *f) {
#ifdef __SANITIZE_ADDRESS__
    const void *stack;
    size_t size;
    __sanitizer_finish_switch_fiber(f ? f->fake_stack : nullptr, &stack, &size);
    if (!left->size) { /* a host thread's */
        left->stack = stack;
        left->size = size;
    }
#else
    (void)f;
#endif
}

} // namespace

extern "C" {
void simt_fiber_swap(void **save, void *load);

/* The bottom frame of every fiber: it has nothing to return to. */
__attribute__((noreturn, used, visibility("hidden"))) void simt_fiber_start() {
    arrived(nullptr);
    entry_of_next();
    abort();
}
}

/* Stacks are asked for in chunks, each stack behind a page that may not be touched, and kept. */
static char *new_chunk(unsigned stacks) {
    void *chunk = mmap(nullptr, stacks * (STACK + PAGE), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) {
        perror("simt: stacks of CUDA threads");
        abort();
    }
    for (unsigned i = 0; i < stacks; i++) mprotect((char *)chunk + i * (STACK + PAGE), PAGE, PROT_NONE);
    return (char *)chunk;
}

void fiber_create(fiber *f) {
    const unsigned CHUNK = 32;
    static char *chunk;
    static unsigned used = CHUNK;
    if (used == CHUNK) {
        chunk = new_chunk(CHUNK);
        used = 0;
    }
    f->stack = chunk + used++ * (STACK + PAGE) + PAGE;
    f->size = STACK;
    f->fake_stack = nullptr;
}

void fiber_abandon(fiber *f) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(f->stack, f->size);
#endif
    f->fake_stack = nullptr;
}

#ifndef SIMT_FIBER_UCONTEXT

/* Saves what the calling convention wants kept on the old stack, and takes it from the new one. */
asm(".text\n"
    ".globl simt_fiber_swap\n"
    ".hidden simt_fiber_swap\n"
    ".type simt_fiber_swap, @function\n"
    "simt_fiber_swap:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size simt_fiber_swap, . - simt_fiber_swap\n");

void fiber_begin(fiber *f, void (*entry)()) {
    /* Stacks are a power of two and a page apart: without a shift of its own each fiber's busy top would fall into the
     * same few sets of the cache. 17 is odd, so that 64 neighbours use 64 different lines of a page. */
    size_t shift = ((uintptr_t)f->stack / (STACK + PAGE)) * 17 % 64 * 64;
    void **top = (void **)((char *)f->stack + f->size - shift);
    *--top = nullptr; /* a return address, for whoever walks the stack; a function begins 8 below a multiple of 16 */
    *--top = (void *)simt_fiber_start;
    for (int i = 0; i < 6; i++) *--top = nullptr; /* the registers that the first swap takes */
    f->stack_pointer = top;
    entry_of_next = entry;
}

void fiber_switch(fiber *from, fiber *to, bool last) {
#ifdef __SANITIZE_ADDRESS__
    left = from;
    __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack, to->stack, to->size);
    simt_fiber_swap(&from->stack_pointer, to->stack_pointer);
    arrived(from);
#else
    (void)last;
    simt_fiber_swap(&from->stack_pointer, to->stack_pointer);
#endif
}

#else

void fiber_begin(fiber *f, void (*entry)()) {
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = (void *)f->stack;
    f->context.uc_stack.ss_size = f->size;
    f->context.uc_link = nullptr;
    makecontext(&f->context, simt_fiber_start, 0);
    entry_of_next = entry;
}

void fiber_switch(fiber *from, fiber *to, bool last) {
    left = from;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack, to->stack, to->size);
#else
    (void)last;
#endif
    swapcontext(&from->context, &to->context);
    arrived(from);
}

#endif

} // namespace simt
