/* memory_plan.c - see memory_plan.h. */
#include "ablate/memory_plan.h"

size_t memory_plan_process(const graph *g) {
    const size_t resident = memory_resident(), weights = graph_weight_bytes(g);
    return resident > weights ? resident - weights : 0;
}

coar_status memory_plan_make(const backend_interface *interface, size_t process, size_t own, backend_settings *settings,
                             memory_plan *out) {
    size_t least, best;
    TRY(interface->memory(settings, &least, &best));
    const size_t allowed = settings->memory;
    if (interface->devices) {
        *out = (memory_plan){.job = allowed && allowed < best ? allowed : best, .least = least, .allowed = allowed};
        return COAR_OK;
    }
    const size_t taken = own + graph_weight_bytes(settings->graph);
    if (taken >= allowed || least > allowed - taken)
        return status_set(COAR_ERROR_MEMORY,
                          "--memory: this job needs at least %.0f MiB but may take %.0f MiB: raise --memory",
                          (double)(least + taken) / 1048576, (double)allowed / 1048576);
    settings->memory = allowed - taken;
    TRY(interface->memory(settings, &least, &best));
    *out = (memory_plan){.process = process,
                         .job = taken + (best < settings->memory ? best : settings->memory),
                         .least = taken + least,
                         .allowed = allowed};
    return COAR_OK;
}

void memory_plan_tell(const memory_plan *plan, const backend_settings *settings, size_t devices,
                      const coar_callbacks *callbacks) {
    const double mebibyte = 1 << 20;
    if (devices)
        log_info(callbacks, "memory: %.0f MiB planned on each of %zu devices (%.0f MiB at least), %s",
                 (double)plan->job / mebibyte, devices, (double)plan->least / mebibyte, settings->plan->device_class);
    else
        log_info(callbacks,
                 "memory: %.0f MiB planned, %.0f of them the process's own and %.0f this job's (%.0f at least, %.0f "
                 "allowed), %s on %d threads",
                 (double)(plan->process + plan->job) / mebibyte, (double)plan->process / mebibyte,
                 (double)plan->job / mebibyte, (double)plan->least / mebibyte, (double)plan->allowed / mebibyte,
                 settings->plan->device_class, thread_pool_size(settings->pool));
}
