/*
 * devices.h - made-up devices for tests of what several of them do together: cpu backends behind interfaces that
 * count and fail on demand; and a caller who listens to what they report.
 */
#ifndef COAR_TEST_DEVICES_H
#define COAR_TEST_DEVICES_H

#include <pthread.h>
#include <semaphore.h>

#include "ablate/job.h"

enum { DEVICES_MAX = 3 };

extern backend_interface
    devices[DEVICES_MAX];             /* backend_cpu's functions; the test replaces those that device_call counts */
extern int device_calls[DEVICES_MAX]; /* of device_call; a device is one thread's at a time */
extern int device_fails_after[DEVICES_MAX]; /* so many calls; -1 = never; -2 = at prepare */

/* So many devices, nothing counted. */
void devices_plan(int count, int after0, int after1, int after2);

/* The job computes on the devices planned. */
void devices_take(job *j);

/* Counts a call; the planted failure leaves rubbish in `result`. */
coar_status device_call(const backend *b, void *result);

/* What a caller of a public function hears. */
typedef struct told {
    pthread_t caller;
    int warnings, elsewhere;              /* elsewhere: callbacks from another thread than the caller's */
    uint64_t calls, last, total, stop_at; /* of progress, in images; stop_at 0 = never */
    bool fell;                            /* progress did */
    char warning[256];                    /* the last one */
    sem_t *reports;                       /* posted for each report, or NULL */
} told;

/* Forgets everything but stop_at and reports. The callbacks that tell it. */
coar_callbacks told_begin(told *t);

#endif
