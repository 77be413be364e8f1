/*
 * report.h - what the shim says about a kernel with a bug, and the settings tests change. Plain C.
 *
 * A report is one line on stderr that names the class of the bug, the kernel, the block, the thread and the source
 * line; the process then aborts. A test that plants bugs collects reports instead: the launch is given up, its other
 * threads with it, and returns cudaErrorLaunchFailure.
 */
#ifndef COAR_TESTS_SIMT_REPORT_H
#define COAR_TESTS_SIMT_REPORT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Classes of bugs: name, what is said. The last four need CONFIG=check. With it bounds and alignment are seen of
 * every access; without, of what the shim itself copies, and bounds where a redzone was written to. */
#define SIMT_BUGS(X)                                                                                                   \
    X(NONE, "none")                                                                                                    \
    X(DIVERGENT_BARRIER, "divergent barrier")                                                                          \
    X(EXIT_BEFORE_BARRIER, "exit before a barrier")                                                                    \
    X(WARP_MASK, "wrong warp mask")                                                                                    \
    X(WARP_DIVERGENCE, "divergent warp operation")                                                                     \
    X(PENDING_COPY, "asynchronous copy never waited for")                                                              \
    X(ALIGNMENT, "misaligned access")                                                                                  \
    X(ARGUMENT, "argument outside the instruction's range")                                                            \
    X(SHARED_SIZE, "too much static shared memory")                                                                    \
    X(BOUNDS, "access out of bounds")                                                                                  \
    X(MISSING_WAIT, "access to an asynchronous copy under way")                                                        \
    X(UNINITIALISED, "read of uninitialised shared memory")                                                            \
    X(SHARED_RACE, "race in shared memory")                                                                            \
    X(GLOBAL_RACE, "race in global memory")

typedef enum simt_bug {
#define SIMT_BUG_ENUM(name, text) SIMT_##name,
    SIMT_BUGS(SIMT_BUG_ENUM)
#undef SIMT_BUG_ENUM
        SIMT_BUG_COUNT
} simt_bug;

const char *simt_bug_text(simt_bug bug);

/* From now on reports are collected (true), or end the process (false, the beginning). */
void simt_collect_reports(bool collect);
/* The first bug since the last call, and its line of text (valid until the next call); without one SIMT_NONE and "". */
simt_bug simt_take_report(const char **text);

/* Thread order: "forward" (the default), "reverse", "interleaved" (warps take turns) or "random:SEED"; NULL = the
 * environment's SIMT_ORDER, or forward. False for anything else. */
bool simt_set_order(const char *order);

/* Bytes of shared memory, static and dynamic, that a block may have: 99 KiB, what the smallest device of the sm_80
 * family gives, until set (up to 227 KiB). 0 = that. */
void simt_set_shared_limit(size_t bytes);
size_t simt_shared_limit(void);

/* Puts these bytes of global memory out of bounds for kernels, or (guarded false) back in. Without effect where
 * simt_checks_memory is false. */
void simt_guard(const void *address, size_t size, bool guarded);

/* Whether this build sees every access of kernels (CONFIG=check). */
bool simt_checks_memory(void);

#ifdef __cplusplus
}
#endif

#endif
