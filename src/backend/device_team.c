/* device_team.c - see device_team.h. */
#include "backend/device_team.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "core/log.h"
#include "core/memory.h"

static coar_status take_turn(const backend_interface *backend, int *device) {
    int count = 1;
    if (backend->devices) TRY(backend->devices(&count));
    *device = count > 1 ? comm_world()->local_rank % count : 0;
    return COAR_OK;
}

coar_status device_team_choose(const backend_interface *backend, const char *devices, int *device) {
    char *end;
    if (!devices || !strcmp(devices, "all")) return take_turn(backend, device);
    const long number = *devices >= '0' && *devices <= '9' ? strtol(devices, &end, 10) : -1;
    if (number < 0 || number > INT32_MAX || (*end && *end != ','))
        return status_set(COAR_ERROR_USAGE, "--devices '%s': give numbers, as in 0,1, or all", devices);
    *device = (int)number;
    return COAR_OK;
}

/* Devices are told apart by themselves, whatever their machines are called. */
static coar_status check_distinct(const device_identity *all) {
    const int size = comm_world()->size;
    for (int a = 0; a < size; a++)
        for (int b = a + 1; b < size; b++)
            if (!memcmp(&all[a], &all[b], sizeof *all))
                return status_set(COAR_ERROR_UNSUPPORTED, "ranks %d and %d have the same device", a, b);
    return COAR_OK;
}

/* All ranks; COAR_ERROR_UNSUPPORTED: no link is possible, and why. */
static coar_status decide(const device_links *links, int device, link_ticket *ticket) {
    device_identity own = {{0}}, *all = NULL;
    coar_status status = links->identify(device, &own);
    if (status == COAR_OK && comm_world()->rank == 0)
        status = memory_new((size_t)comm_world()->size, sizeof *all, "ranks", &all);
    TRY_GOTO(comm_agree(status));
    TRY_GOTO(comm_gather(&own, all, sizeof own));
    if (all) status = check_distinct(all);
    if (all && status == COAR_OK) status = links->ticket(ticket);
    TRY_GOTO(comm_agree(status));
    TRY_GOTO(comm_broadcast(ticket, sizeof *ticket));
done:
    free(all);
    return status;
}

static coar_status join(const device_links *links, int device, device_link **out) {
    const comm *c = comm_world();
    link_seat seat = {.device = device, .rank = c->rank, .size = c->size, .silence = c->silence, .agree = comm_agree};
    TRY(decide(links, device, &seat.ticket));
    return comm_agree(links->join(&seat, out));
}

/* A failure that all have agreed on is the same on all; one of the agreeing itself fails whatever comes next. */
coar_status device_team_join(const backend_interface *backend, int device, const coar_callbacks *callbacks,
                             device_link **out) {
    char why[1024];
    *out = NULL;
    if (!backend->links) return COAR_OK;
    const coar_status status = join(backend->links, device, out);
    if (status == COAR_OK) return COAR_OK;
    if (*out) (*out)->interface->destroy(*out, false);
    *out = NULL;
    status_copy(why, sizeof why);
    status_clear();
    if (comm_world()->rank == 0)
        log_info(callbacks, "sums of devices go over MPI and not %s: %s", backend->links->name, why);
    return comm_agree(COAR_OK);
}
