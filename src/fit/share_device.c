/* share_device.c - see share_device.h. */
#include "fit/share_device.h"

#include <stdlib.h>
#include <string.h>

#include "backend/device_team.h"
#include "comm/comm.h"
#include "comm/order.h"
#include "core/log.h"
#include "core/memory.h"

/* --------------------------------------------------------------------------------------------------- rank 0 */

static coar_status give_order(const char *backend, uint64_t memory) {
    packet p = {0};
    packet_put_text(&p, backend);
    PACKET_PUT(&p, memory);
    const coar_status status = order_give(ORDER_DEVICE, &p);
    packet_free(&p);
    return status;
}

coar_status shared_device_open(const backend_interface *backend, int number, fit_device *device, uint64_t memory,
                               const coar_callbacks *callbacks, shared_device *s) {
    char why[1024];
    *s = (shared_device){.device = device};
    if (comm_world()->size == 1 || !device) return COAR_OK;
    TRY(give_order(backend->name, memory));
    if (comm_agree(COAR_OK) == COAR_OK) {
        s->together = true;
        return device_team_join(backend, number, callbacks, &s->link);
    }
    status_copy(why, sizeof why);
    status_clear();
    log_info(callbacks, "fit: on the device of rank 0 alone: %s", why);
    return comm_agree(COAR_OK); /* fails where ranks are lost */
}

/* The link's end is collective: both sides come to it after the order. */
coar_status shared_device_close(shared_device *s) {
    if (!s->together) return COAR_OK;
    const coar_status status = give_order(NULL, 0);
    if (s->link) s->link->interface->destroy(s->link, status == COAR_OK);
    *s = (shared_device){.device = NULL};
    return status;
}

/* --------------------------------------------------------------------------------------------------- others */

void shared_device_free(shared_device *s, bool together) {
    if (s->link) s->link->interface->destroy(s->link, together);
    if (s->device) s->device->interface->destroy(s->device);
    *s = (shared_device){.device = NULL};
}

static coar_status open_own(const char *name, const char *devices, size_t memory, const backend_interface **backend,
                            int *number, fit_device **out) {
    TRY(backend_find(name, NULL, backend));
    TRY(device_team_choose(*backend, devices, number));
    return (*backend)->fit_device(*number, memory, out);
}

coar_status shared_device_follow(packet *p, const char *devices, shared_device *s) {
    const backend_interface *backend;
    uint64_t memory;
    int number;
    shared_device_free(s, true);
    const char *name = packet_get_text(p);
    PACKET_GET(p, memory);
    coar_status status = packet_check(p);
    if (status == COAR_OK && !name) return COAR_OK;
    if (status == COAR_OK) status = open_own(name, devices, (size_t)memory, &backend, &number, &s->device);
    if (comm_agree(status) == COAR_OK) return device_team_join(backend, number, NULL, &s->link);
    shared_device_free(s, false);
    status_clear();
    return comm_agree(COAR_OK);
}

/* ----------------------------------------------------------------------------------------------------- both */

coar_status shared_device_together(const shared_device *s) {
    const comm *c = comm_world();
    coar_status status = COAR_OK;
    uint64_t room, *all = NULL;
    if (!s->link) return COAR_OK;
    room = s->device->interface->room(s->device);
    if (c->rank == 0) status = memory_new((size_t)c->size, sizeof *all, "ranks", &all);
    TRY_GOTO(comm_agree(status));
    TRY_GOTO(comm_gather(&room, all, sizeof room));
    for (int r = 1; all && r < c->size; r++) room = all[r] < room ? all[r] : room;
    TRY_GOTO(comm_broadcast(&room, sizeof room));
    s->device->interface->join(s->device, s->link, (size_t)room);
done:
    free(all);
    return status;
}

void shared_device_alone(const shared_device *s) {
    if (s->link) s->device->interface->join(s->device, NULL, 0);
}
