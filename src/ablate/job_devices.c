/* job_devices.c - which of its backend's devices a job uses. See job.h. */
#include <stdlib.h>
#include <string.h>

#include "ablate/job.h"
#include "comm/comm.h"

/* "0,2": ascending numbers below `count`, which are few. */
static coar_status parse_devices(const char *text, int count, job *j) {
    for (const char *at = text;; at++) {
        char *end;
        const long device = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : -1;
        if (device < 0 || (*end && *end != ','))
            return status_set(COAR_ERROR_USAGE, "--devices '%s': give numbers, as in 0,1, or all", text);
        if (device >= count)
            return status_set(COAR_ERROR_USAGE, "--devices '%s': %s has devices 0 to %d here", text, j->interface->name,
                              count - 1);
        if (j->device_count && device <= j->devices[j->device_count - 1])
            return status_set(COAR_ERROR_USAGE, "--devices '%s': give each device once, in ascending order", text);
        j->devices[j->device_count++] = (int)device;
        at = end;
        if (!*at) return COAR_OK;
    }
}

/* Of the devices of a machine with several ranks each takes every so-manyth. One device alone may be all that the launcher
 * shows this rank, which has then chosen, or be meant for all. */
static coar_status share_devices(job *j, int count) {
    const comm *c = comm_world();
    const int step = j->interface->devices && count > 1 ? c->local_size : 1;
    if (count < step)
        return status_set(COAR_ERROR_USAGE,
                          "%s has %d devices here for %d processes: start at most one process for each device, or give "
                          "each its --devices",
                          j->interface->name, count, step);
    for (int d = step > 1 ? c->local_rank : 0; d < count; d += step) j->devices[j->device_count++] = d;
    return COAR_OK;
}

coar_status job_choose_devices(job *j, const char *text) {
    int count = 1;
    const bool all = !text || !strcmp(text, "all");
    if (j->interface->devices)
        TRY(j->interface->devices(&count));
    else if (!all)
        return status_set(COAR_ERROR_USAGE, "--devices: backend %s runs on the machine itself: leave --devices out",
                          j->interface->name);
    TRY(memory_new((size_t)count, sizeof *j->devices, "devices", &j->devices));
    return all ? share_devices(j, count) : parse_devices(text, count, j);
}

void job_drop_device(job *j) {
    char message[1024];
    status_copy(message, sizeof message);
    status_clear();
    log_warning(j->callbacks, "device %d is left out from here on: %s", j->devices[0], message);
    j->device_count--;
    memmove(j->devices, j->devices + 1, j->device_count * sizeof *j->devices);
}
