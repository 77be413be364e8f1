/* devices.c - see devices.h. */
#include "devices.h"

#include "core/memory.h"
#include "test.h"

backend_interface devices[DEVICES_MAX];
int device_calls[DEVICES_MAX], device_fails_after[DEVICES_MAX];
static int planned;

static coar_status count_devices(int *count) {
    *count = planned;
    return COAR_OK;
}

static coar_status device_prepare(const backend_settings *s, backend **out) {
    backend_settings on_host = *s;
    on_host.memory = 64 << 20; /* 0 = what a device has free */
    if (device_fails_after[s->device] == -2) return status_set(COAR_ERROR_UNSUPPORTED, "planted: no kernel image");
    TRY(backend_cpu.prepare(&on_host, out));
    (*out)->interface = &devices[s->device];
    return COAR_OK;
}

coar_status device_call(const backend *b, void *result) {
    const ptrdiff_t device = b->interface - devices;
    if (device_calls[device]++ != device_fails_after[device]) return COAR_OK;
    memset(result, 0x7f, sizeof(float)); /* a failure may leave anything behind */
    return status_set(COAR_ERROR_IO, "planted: an illegal address was met");
}

void devices_plan(int count, int after0, int after1, int after2) {
    const int after[DEVICES_MAX] = {after0, after1, after2};
    planned = count;
    for (int d = 0; d < DEVICES_MAX; d++) {
        device_fails_after[d] = after[d];
        device_calls[d] = 0;
        devices[d] = backend_cpu;
        devices[d].devices = count_devices;
        devices[d].prepare = device_prepare;
    }
}

void devices_take(job *j) {
    j->interface = &devices[0];
    free(j->devices);
    j->devices = NULL;
    CHECK_OK(memory_new((size_t)planned, sizeof *j->devices, "devices", &j->devices));
    for (int d = 0; d < planned; d++) j->devices[d] = d;
    j->device_count = (size_t)planned;
}

static int on_progress(void *user, const coar_progress *p) {
    told *t = user;
    t->calls++;
    t->fell |= p->done <= t->last;
    t->last = p->done;
    t->total = p->total;
    t->elsewhere += !pthread_equal(pthread_self(), t->caller);
    if (t->reports) sem_post(t->reports);
    return t->stop_at && p->done >= t->stop_at;
}

static void on_log(void *user, coar_log_level level, const char *line) {
    told *t = user;
    t->elsewhere += !pthread_equal(pthread_self(), t->caller);
    if (level != COAR_LOG_WARNING) return;
    t->warnings++;
    snprintf(t->warning, sizeof t->warning, "%s", line);
}

coar_callbacks told_begin(told *t) {
    *t = (told){.caller = pthread_self(), .stop_at = t->stop_at, .reports = t->reports};
    return (coar_callbacks){.progress = on_progress, .log = on_log, .user = t};
}
