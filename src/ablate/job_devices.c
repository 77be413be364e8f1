/* job_devices.c - which of its backend's devices a job uses. See job.h. */
#include <stdlib.h>
#include <string.h>

#include "ablate/job.h"

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

coar_status job_choose_devices(job *j, const char *text) {
    int count = 1;
    const bool all = !text || !strcmp(text, "all");
    if (j->interface->devices)
        TRY(j->interface->devices(&count));
    else if (!all)
        return status_set(COAR_ERROR_USAGE, "--devices: backend %s runs on the machine itself: leave --devices out",
                          j->interface->name);
    TRY(memory_new((size_t)count, sizeof *j->devices, "devices", &j->devices));
    if (!all) return parse_devices(text, count, j);
    j->device_count = (size_t)count;
    for (int d = 0; d < count; d++) j->devices[d] = d;
    return COAR_OK;
}

void job_drop_device(job *j) {
    char message[1024];
    status_copy(message, sizeof message);
    status_clear();
    log_warning(j->callbacks, "device %d is left out from here on: %s", j->devices[0], message);
    j->device_count--;
    memmove(j->devices, j->devices + 1, j->device_count * sizeof *j->devices);
}
