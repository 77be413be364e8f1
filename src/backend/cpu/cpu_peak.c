/*
 * cpu_peak.c - the most flops per second this machine can do: the best of several bursts of register-only
 * multiply-adds on all threads at once.
 */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/log.h"

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
    enum { BURSTS = 15, TASKS_PER_THREAD = 8 }; /* some 30 ms each: long enough for the clock to settle */
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
