/*
 * threads.h - a pool of pthreads that runs numbered tasks. No barriers inside a job: tasks are handed out through
 * one atomic counter, so their order is free and results must not depend on it.
 * Must not know: what the tasks do.
 */
#ifndef COAR_CORE_THREADS_H
#define COAR_CORE_THREADS_H

#include <stddef.h>

#include "core/status.h"

typedef struct thread_pool thread_pool;

/* `task` in 0..count-1, `worker` in 0..threads-1 (for per-thread workspaces). A failure stops the handing out of
 * further tasks; the first failing worker's status and message reach the caller of thread_pool_run. */
typedef coar_status (*thread_task)(void *context, size_t task, int worker);

/* threads <= 0: one per core this process may run on. With one thread everything runs on the caller. */
coar_status thread_pool_create(int threads, thread_pool **out);
void thread_pool_destroy(thread_pool *pool);
int thread_pool_size(const thread_pool *pool);

/* Runs all tasks and returns when the last is done. Not reentrant. */
coar_status thread_pool_run(thread_pool *pool, size_t count, thread_task task, void *context);

/* Cores this process may run on. */
int thread_cores(void);

/* Keeps this thread, and those that it starts from now on, to the part-th of `parts` equal parts of these cores; where there
 * are more parts than cores, to one of them. */
void thread_keep_to_part(int part, int parts);

#endif
