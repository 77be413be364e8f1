/*
 * comm.c - coar_selftest_comm: broadcasts and sums of sizes from 8 bytes on, over MPI and over the link between the ranks' devices
 * where there is one. Every rank knows what all the others bring, so that it checks what arrives by itself.
 */
#include "selftest/comm.h"

#include <stdlib.h>
#include <string.h>

#include "backend/device_team.h"
#include "comm/comm.h"
#include "comm/order.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/options.h"

enum {
    REPEATS = 3,
    GROWTH = 32,             /* from one size to the next */
    MOST_DEFAULT = 64 << 20, /* bytes */
    VALUE_BITS = 48          /* with its sign; sums over 2^15 ranks fit */
};

typedef struct comm_test {
    const coar_comm_options *o; /* rank 0's; else NULL */
    device_link *link;          /* NULL = none */
    size_t most;                /* bytes */
    int64_t *values;            /* [most / 8] */
    coar_comm_result result;
} comm_test;

/* Of one operation on one rank. */
typedef struct outcome {
    uint64_t wrong;
    double seconds;
} outcome;

/* What rank r brings. */
static int64_t value(int r, size_t i) {
    const uint64_t mixed = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u ^ ((uint64_t)r + 1) * 0xc2b2ae3d27d4eb4fu;
    return (int64_t)(mixed * 0x165667b19e3779f9u) >> (64 - VALUE_BITS);
}

/* ---------------------------------------------------------------------------------------------- operations */

typedef coar_status operation(comm_test *t, size_t count, double *seconds);

static coar_status broadcast_by_comm(comm_test *t, size_t count, double *seconds) {
    const double start = clock_seconds();
    TRY(comm_broadcast(t->values, count * sizeof *t->values));
    *seconds = clock_seconds() - start;
    return COAR_OK;
}

static coar_status sum_by_comm(comm_test *t, size_t count, double *seconds) {
    const double start = clock_seconds();
    TRY(comm_sum(t->values, count));
    *seconds = clock_seconds() - start;
    return COAR_OK;
}

static coar_status broadcast_by_link(comm_test *t, size_t count, double *seconds) {
    return t->link->interface->broadcast(t->link, t->values, count * sizeof *t->values, seconds);
}

static coar_status sum_by_link(comm_test *t, size_t count, double *seconds) {
    return t->link->interface->sum(t->link, t->values, count, seconds);
}

/* Numbers that are not what they must be: after a broadcast on every rank rank 0's, after a sum on rank 0 those of all. */
static uint64_t count_wrong(const comm_test *t, bool sums, size_t count) {
    const comm *c = comm_world();
    uint64_t wrong = 0;
    if (sums && c->rank) return 0;
    for (size_t i = 0; i < count; i++) {
        int64_t expected = 0;
        for (int r = 0; r < (sums ? c->size : 1); r++) expected += value(r, i);
        wrong += t->values[i] != expected;
    }
    return wrong;
}

/* Once: the slowest rank's time, all ranks' errors. `all`: [ranks] of rank 0, else NULL. */
static coar_status run_once(comm_test *t, operation *run, bool sums, size_t count, outcome *all, outcome *o) {
    const comm *c = comm_world();
    for (size_t i = 0; i < count; i++) t->values[i] = value(c->rank, i);
    TRY(comm_agree(COAR_OK)); /* nobody begins before all can */
    TRY(comm_agree(run(t, count, &o->seconds)));
    o->wrong = count_wrong(t, sums, count);
    TRY(comm_gather(o, all, sizeof *o));
    for (int r = 1; all && r < c->size; r++) {
        o->wrong += all[r].wrong;
        if (all[r].seconds > o->seconds) o->seconds = all[r].seconds;
    }
    return COAR_OK;
}

/* Rank 0. */
static void report(comm_test *t, const char *name, const char *way, size_t bytes, const outcome *best) {
    const coar_comm_case c = {.operation = name,
                              .way = way,
                              .bytes = bytes,
                              .wrong = best->wrong,
                              .seconds = best->seconds,
                              .passed = !best->wrong};
    t->result.cases++;
    t->result.failed += best->wrong > 0;
    if (t->o->report) t->o->report(t->o->user, &c);
}

static coar_status run_size(comm_test *t, const char *name, const char *way, operation *run, bool sums, size_t count) {
    coar_status status = COAR_OK;
    outcome best = {0}, *all = NULL;
    const bool leads = comm_world()->rank == 0;
    if (leads) status = memory_new((size_t)comm_world()->size, sizeof *all, "ranks", &all);
    TRY_GOTO(comm_agree(status));
    for (int k = 0; k < REPEATS; k++) {
        outcome o = {0};
        TRY_GOTO(run_once(t, run, sums, count, all, &o));
        if (!k || o.seconds < best.seconds) best.seconds = o.seconds;
        best.wrong += o.wrong;
    }
    if (leads) report(t, name, way, count * sizeof *t->values, &best);
done:
    free(all);
    return status;
}

static coar_status run_sizes(comm_test *t, const char *name, const char *way, operation *run, bool sums) {
    const size_t most = t->most / sizeof *t->values;
    for (size_t count = 1; count < most; count *= GROWTH) TRY(run_size(t, name, way, run, sums, count));
    return run_size(t, name, way, run, sums, most);
}

static coar_status run_all(comm_test *t, const char *link_name) {
    const char *way = comm_world()->size > 1 ? "MPI" : "alone";
    TRY(run_sizes(t, "broadcast", way, broadcast_by_comm, false));
    TRY(run_sizes(t, "sum", way, sum_by_comm, true));
    if (!t->link) return COAR_OK;
    TRY(run_sizes(t, "broadcast", link_name, broadcast_by_link, false));
    return run_sizes(t, "sum", link_name, sum_by_link, true);
}

/* --------------------------------------------------------------------------------------------------- ranks */

static coar_status prepare(comm_test *t, const char *name, const char *devices, const backend_interface **backend,
                           int *device) {
    TRY(backend_find(name, NULL, backend));
    TRY(device_team_choose(*backend, devices, device));
    return memory_new(t->most, 1, "the self-test", &t->values);
}

/* All ranks. */
static coar_status test_ranks(comm_test *t, const char *name, const char *devices) {
    const backend_interface *backend;
    int device;
    coar_status status;
    TRY_GOTO(comm_agree(prepare(t, name, devices, &backend, &device)));
    TRY_GOTO(device_team_join(backend, device, t->o ? t->o->callbacks : NULL, &t->link));
    t->result.linked = t->link != NULL;
    TRY_GOTO(run_all(t, backend->links ? backend->links->name : NULL));
done:
    if (t->link) t->link->interface->destroy(t->link, status == COAR_OK);
    free(t->values);
    return status;
}

coar_status selftest_comm_follow(packet *p, const char *devices) {
    comm_test t = {.o = NULL};
    uint64_t most;
    const char *name = packet_get_text(p);
    PACKET_GET(p, most);
    const coar_status status = packet_check(p);
    if (status != COAR_OK) return comm_agree(status);
    t.most = (size_t)most;
    return test_ranks(&t, name, devices);
}

/* In numbers, so that each is whole. */
static coar_status check_most(uint64_t bytes, uint64_t *most) {
    *most = (bytes ? bytes : MOST_DEFAULT) / sizeof(int64_t) * sizeof(int64_t);
    if (*most && *most <= memory_available()) return COAR_OK;
    return status_set(COAR_ERROR_USAGE, "--bytes %llu: give 8 or more, and less than there is memory",
                      (unsigned long long)bytes);
}

coar_status coar_selftest_comm(const coar_comm_options *options, coar_comm_result *result) {
    status_clear();
    const backend_interface *backend;
    const double start = clock_seconds();
    coar_comm_options o;
    packet p = {0};
    uint64_t most;
    TRY(options_take(&o, sizeof o, options, "COAR_COMM_INIT"));
    TRY(check_most(o.bytes, &most));
    TRY(backend_find(o.backend, o.callbacks, &backend));
    comm_test t = {.o = &o, .most = (size_t)most, .result = {.ranks = comm_world()->size}};
    packet_put_text(&p, backend->name);
    PACKET_PUT(&p, most);
    coar_status status = order_give(ORDER_SELFTEST, &p);
    if (status == COAR_OK) status = test_ranks(&t, backend->name, o.devices);
    t.result.seconds = clock_seconds() - start;
    if (result && status == COAR_OK) *result = t.result;
    packet_free(&p);
    return status;
}
