/*
 * device_team.h - brings the ranks' devices together: who has which, and a link between them where there can be one.
 * Must not know: libraries, what devices do.
 */
#ifndef COAR_BACKEND_DEVICE_TEAM_H
#define COAR_BACKEND_DEVICE_TEAM_H

#include "backend/backend.h"

/* Collective: every rank with its own device. *out is NULL on all ranks, and rank 0 logs a line that says why, where devices
 * cannot be linked: two ranks share one, or the library is missing or refuses. Fails when ranks are lost. */
coar_status device_team_join(const backend_interface *backend, int device, const coar_callbacks *callbacks,
                             device_link **out);

/* The device that this rank takes: the first of "0,2"; of NULL and "all" a machine's ranks take theirs in turn. */
coar_status device_team_choose(const backend_interface *backend, const char *devices, int *device);

#endif
