/*
 * fiber.h - stacks that take turns on one host thread.
 *
 * x86-64 switches by a dozen instructions; other machines by ucontext, correct but slower. The address sanitizer is
 * told of every switch. The thread sanitizer need not be: kernels are compiled without its call-stack records.
 * Must not know: CUDA.
 */
#ifndef COAR_TESTS_SIMT_FIBER_H
#define COAR_TESTS_SIMT_FIBER_H

#include <stddef.h>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#define SIMT_FIBER_UCONTEXT 1
#include <ucontext.h>
#endif

namespace simt {

struct fiber {
    void *stack_pointer; /* while it does not run */
    const void *stack;   /* lowest byte; of a host thread's own stack, known once it was left under the sanitizer */
    size_t size;
    void *fake_stack; /* the address sanitizer's */
#ifdef SIMT_FIBER_UCONTEXT
    ucontext_t context;
#endif
};

/* Gives a fiber a stack of its own, for good. */
void fiber_create(fiber *f);

/* Lets the next switch to f begin `entry` on an empty stack. entry never returns. */
void fiber_begin(fiber *f, void (*entry)());

/* Goes on where `to` was left; returns when somebody switches back to `from`. `last`: nobody will. */
void fiber_switch(fiber *from, fiber *to, bool last);

/* For a fiber that is given up in the middle: forgets what the sanitizer knows of its frames. */
void fiber_abandon(fiber *f);

} // namespace simt

#endif
