/* threads.c - see threads.h. */
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/memory.h"

#define THREADS_MAX 1024

struct thread_pool {
    int threads;        /* including the caller of thread_pool_run */
    pthread_t *handles; /* threads - 1 */
    pthread_mutex_t mutex;
    pthread_cond_t wake, idle;
    uint64_t generation; /* of jobs; workers wait for a new one */
    int running;         /* workers still in the current job */
    bool quit;
    /* the current job */
    thread_task task;
    void *context;
    size_t count;
    atomic_size_t next;
    atomic_bool failed;
    coar_status status; /* of the first failure, under mutex */
    char message[1024];
};

typedef struct worker_start {
    thread_pool *pool;
    int worker;
} worker_start;

static void run_tasks(thread_pool *pool, int worker) {
    while (!atomic_load(&pool->failed)) {
        size_t task = atomic_fetch_add(&pool->next, 1);
        if (task >= pool->count) return;
        coar_status status = pool->task(pool->context, task, worker);
        if (status == COAR_OK) continue;
        pthread_mutex_lock(&pool->mutex);
        if (pool->status == COAR_OK) {
            pool->status = status;
            status_copy(pool->message, sizeof pool->message);
        }
        pthread_mutex_unlock(&pool->mutex);
        status_clear();
        atomic_store(&pool->failed, true);
    }
}

static void *worker_main(void *argument) {
    worker_start start = *(worker_start *)argument;
    free(argument);
    thread_pool *pool = start.pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (pool->generation == seen && !pool->quit) pthread_cond_wait(&pool->wake, &pool->mutex);
        if (pool->quit) break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->mutex);
        run_tasks(pool, start.worker);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->running == 0) pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

int thread_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    int cores = CPU_COUNT(&set);
    return cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : cores;
}

/* Cores first .. last - 1 of those it may run on, counted among these. */
void thread_keep_to_part(int part, int parts) {
    cpu_set_t all, mine;
    if (sched_getaffinity(0, sizeof all, &all)) return;
    const long cores = CPU_COUNT(&all);
    const long first = cores < parts ? part % cores : part * cores / parts;
    const long last = cores < parts ? first + 1 : (part + 1L) * cores / parts;
    CPU_ZERO(&mine);
    for (long core = 0, seen = 0; core < CPU_SETSIZE && seen < last; core++)
        if (CPU_ISSET(core, &all) && seen++ >= first) CPU_SET(core, &mine);
    sched_setaffinity(0, sizeof mine, &mine); /* refused: all of them, as before */
}

static coar_status start_workers(thread_pool *pool, int threads) {
    while (pool->threads < threads) {
        worker_start *start;
        TRY(memory_new(1, sizeof *start, "thread pool", &start));
        *start = (worker_start){pool, pool->threads};
        int error = pthread_create(&pool->handles[pool->threads - 1], NULL, worker_main, start);
        if (error) {
            free(start);
            return status_set_errno(COAR_ERROR_MEMORY, error, "cannot start thread %d of %d; try --threads 1",
                                    pool->threads + 1, threads);
        }
        pool->threads++;
    }
    return COAR_OK;
}

coar_status thread_pool_create(int threads, thread_pool **out) {
    if (threads <= 0) threads = thread_cores();
    if (threads > THREADS_MAX)
        return status_set(COAR_ERROR_USAGE, "--threads %d: at most %d threads are supported", threads, THREADS_MAX);
    thread_pool *pool;
    TRY(memory_new(1, sizeof *pool, "thread pool", &pool));
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->threads = 1;
    coar_status status = memory_new((size_t)threads, sizeof *pool->handles, "thread pool", &pool->handles);
    if (status == COAR_OK) status = start_workers(pool, threads);
    if (status != COAR_OK) {
        thread_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return COAR_OK;
}

void thread_pool_destroy(thread_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->mutex);
    pool->quit = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i + 1 < pool->threads; i++) pthread_join(pool->handles[i], NULL);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->handles);
    free(pool);
}

int thread_pool_size(const thread_pool *pool) {
    return pool->threads;
}

coar_status thread_pool_run(thread_pool *pool, size_t count, thread_task task, void *context) {
    pthread_mutex_lock(&pool->mutex);
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->failed, false);
    pool->status = COAR_OK;
    pool->running = pool->threads - 1;
    pool->generation++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);

    run_tasks(pool, 0);

    pthread_mutex_lock(&pool->mutex);
    while (pool->running) pthread_cond_wait(&pool->idle, &pool->mutex);
    coar_status status = pool->status;
    pthread_mutex_unlock(&pool->mutex);
    return status == COAR_OK ? COAR_OK : status_set(status, "%s", pool->message);
}
