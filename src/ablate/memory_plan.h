/*
 * memory_plan.h - what a job will have in memory at most, told before it is taken.
 *
 * --memory bounds what the job takes of the host: the weights as read, its buffers and the backend. The process has more: its
 * program and libraries, some 20 MiB, and what it did before. That is measured and told beside it, so that the sum is what
 * the process will show. A device's memory is the backend's business: it alone knows what is free there.
 * Must not know: jobs, units.
 */
#ifndef COAR_ABLATE_MEMORY_PLAN_H
#define COAR_ABLATE_MEMORY_PLAN_H

#include "backend/backend.h"
#include "core/log.h"

/* In bytes. On a device its memory, and `process` is 0. */
typedef struct memory_plan {
    size_t process; /* what it has without the job */
    size_t job;     /* what it will take */
    size_t least;   /* what it could do with */
    size_t allowed;
} memory_plan;

/* What the process has now without a graph's weights, which are the job's. */
size_t memory_plan_process(const graph *g);

/* Plans for settings->memory bytes, which hold settings->graph's weights and `own` bytes of the caller's buffers too, and makes
 * settings->memory the backend's share. COAR_ERROR_MEMORY with both figures where the least is more. */
coar_status memory_plan_make(const backend_interface *interface, size_t process, size_t own, backend_settings *settings,
                             memory_plan *out);

/* One line for the user; `devices`: how many take that much each, 0 = the host does. */
void memory_plan_tell(const memory_plan *plan, const backend_settings *settings, size_t devices,
                      const coar_callbacks *callbacks);

#endif
