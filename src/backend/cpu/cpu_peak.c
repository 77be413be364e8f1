/*
 * cpu_peak.c - the most that this machine can do on the threads of a pool: flops per second by bursts of multiply-adds
 * in registers, bytes per second by passes over arrays that no cache holds. The best of several is taken, since
 * whatever else runs can only take away.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu.h"
#include "core/log.h"

/* ------------------------------------------------------------------------------------------- multiply-adds */

enum { BURST_ITERATIONS = 1000000 }; /* of one task: some 4 ms */

typedef double (*peak_kernel)(size_t iterations);

static coar_status burst(void *context, size_t task, int worker) {
    const peak_kernel *peak = context;
    (void)task;
    (void)worker;
    (*peak)(BURST_ITERATIONS);
    return COAR_OK;
}

coar_status cpu_peak(const numerics_plan *plan, thread_pool *pool, double *flops) {
    enum { BURSTS = 8, TASKS_PER_THREAD = 8 }; /* some 30 ms each: long enough for the clock to settle */
    const size_t tasks = (size_t)thread_pool_size(pool) * TASKS_PER_THREAD;
    const cpu_kernels *kernels;
    TRY(cpu_find_kernels(plan, &kernels));
    peak_kernel peak = strcmp(plan->precision, "bf16") ? kernels->peak : kernels->peak_bf16;
    const double task_flops = peak(BURST_ITERATIONS);
    double best = 0;
    for (int i = 0; i < BURSTS; i++) {
        const double start = clock_seconds();
        TRY(thread_pool_run(pool, tasks, burst, &peak));
        const double rate = task_flops * (double)tasks / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    *flops = best;
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------------- memory */

enum {
    STREAMS = 3,
    SLICE = 1 << 16,     /* floats that a task takes of each array: 256 KiB, some 30 us */
    HUGE_PAGE = 2 << 20, /* bytes. With small ones the first touch of so much memory takes longer than all the rest */
};

typedef struct triad_job {
    const cpu_kernels *kernels;
    float *array; /* [STREAMS][floats] */
    size_t floats;
} triad_job;

/* First touch, which places a page, by whoever comes to it. */
static coar_status clear(void *context, size_t task, int worker) {
    const triad_job *job = context;
    (void)worker;
    for (size_t s = 0; s < STREAMS; s++) memset(job->array + s * job->floats + task * SLICE, 0, SLICE * sizeof(float));
    return COAR_OK;
}

static coar_status triad(void *context, size_t task, int worker) {
    const triad_job *job = context;
    float *a = job->array + task * SLICE;
    (void)worker;
    job->kernels->triad(a + job->floats, a + 2 * job->floats, a, SLICE);
    return COAR_OK;
}

/* CPUs that a list names, as in "0-7,64-71". */
static size_t count_cpus(const char *list) {
    size_t count = 0;
    for (char *end; *list >= '0' && *list <= '9'; list = end + (*end == ',')) {
        const unsigned long first = strtoul(list, &end, 10), last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        count += last >= first && last - first < 1 << 16 ? last - first + 1 : 1;
    }
    return count;
}

/* Bytes of the last caches that so many threads have, one to a core. The C library's figure is the processor's: of all
 * its cores, and so on a small part of a large one many times what there is. */
static size_t last_caches(size_t threads) {
    char list[256] = "";
    size_t kibibytes = 0, sharers;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (file && fscanf(file, "%zuK", &kibibytes) != 1) kibibytes = 0;
    if (file) fclose(file);
    file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list", "r");
    if (file && !fgets(list, sizeof list, file)) list[0] = 0;
    if (file) fclose(file);
    if (!kibibytes || kibibytes >= 1 << 20) kibibytes = 32 << 10; /* not every system tells */
    sharers = count_cpus(list);
    return (kibibytes << 10) * (sharers && threads > sharers ? (threads + sharers - 1) / sharers : 1);
}

/* Slices of each array: all three are six times the last caches, if a quarter of the memory allows it. */
static size_t triad_slices(const thread_pool *pool) {
    const size_t wanted = 6 * last_caches((size_t)thread_pool_size(pool)), allowed = memory_available() / 4,
                 bytes = wanted < allowed ? wanted : allowed;
    return bytes / (STREAMS * SLICE * sizeof(float)) + 1;
}

static size_t triad_bytes(size_t floats) {
    return (STREAMS * floats * sizeof(float) + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
}

size_t cpu_bandwidth_memory(const thread_pool *pool) {
    return triad_bytes(triad_slices(pool) * SLICE);
}

/* Bytes per second: the best of several passes, by the pool or (NULL) by the calling thread alone. */
static coar_status triad_rate(triad_job *job, thread_pool *pool, double *best) {
    enum { TIMES = 10 };
    const size_t slices = job->floats / SLICE;
    *best = 0;
    for (int i = 0; i < TIMES; i++) {
        const double start = clock_seconds();
        if (pool)
            TRY(thread_pool_run(pool, slices, triad, job));
        else
            for (size_t s = 0; s < slices; s++) triad(job, s, 0);
        const double rate = (double)(STREAMS * job->floats * sizeof(float)) / (clock_seconds() - start);
        if (rate > *best) *best = rate;
    }
    return COAR_OK;
}

coar_status cpu_bandwidth(const numerics_plan *plan, thread_pool *pool, double *bytes, double *bytes_one) {
    coar_status status = COAR_OK;
    const size_t slices = triad_slices(pool);
    triad_job job = {.floats = slices * SLICE};
    TRY(cpu_find_kernels(plan, &job.kernels));
    const size_t size = triad_bytes(job.floats);
    job.array = aligned_alloc(HUGE_PAGE, size);
    if (!job.array) return status_set(COAR_ERROR_MEMORY, "memory bandwidth: not enough memory for %zu MiB", size >> 20);
    madvise(job.array, size, MADV_HUGEPAGE); /* refused: small pages */
    TRY_GOTO(thread_pool_run(pool, slices, clear, &job));
    TRY_GOTO(triad_rate(&job, pool, bytes));
    TRY_GOTO(triad_rate(&job, NULL, bytes_one));
done:
    free(job.array);
    return status;
}
