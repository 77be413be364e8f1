/* units_share.c - see units_share.h. */
#include "ablate/units_share.h"

#include <stdlib.h>
#include <string.h>

#include "ablate/baseline_units.h"
#include "ablate/gradient_units.h"
#include "ablate/mask_units.h"
#include "core/memory.h"

/* ------------------------------------------------------------------------------------------- forward passes */

typedef struct shared_masks {
    mask_units units;
    sampler sampler;
    uint32_t *group_first;
    uint8_t *rows;
} shared_masks;

static void describe_masks(const unit_work *work, packet *p) {
    const mask_units *units = work->context;
    const sampler *s = units->sampler;
    PACKET_PUT(p, units->grid);
    PACKET_PUT(p, units->half);
    PACKET_PUT(p, *s); /* its pointers are replaced there */
    packet_put_array(p, s->group_first, s->group_first ? s->groups + 1 : 0, sizeof *s->group_first);
    packet_put_array(p, s->rows, s->rows ? (size_t)s->rows_count : 0, mask_bytes(s->n));
}

static void release_masks(void *context) {
    shared_masks *m = context;
    free(m->group_first);
    free(m->rows);
    free(m);
}

static coar_status understand_masks(packet *p, const job *j, run_store *store, shared_units *out) {
    shared_masks *m;
    size_t groups, rows;
    (void)store;
    TRY(memory_new(1, sizeof *m, "work units", &m));
    out->context = m;
    out->release = release_masks;
    PACKET_GET(p, m->units.grid);
    PACKET_GET(p, m->units.half);
    PACKET_GET(p, m->sampler);
    m->group_first = packet_get_array(p, sizeof *m->group_first, &groups);
    m->rows = packet_get_array(p, mask_bytes(m->sampler.n), &rows);
    TRY(packet_check(p));
    m->sampler.group_first = m->group_first;
    m->sampler.rows = m->rows;
    m->units.sampler = &m->sampler;
    out->work = mask_units_work(j, &m->units);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ gradients */

static void describe_gradients(const unit_work *work, packet *p) {
    const gradient_units *units = work->context;
    PACKET_PUT(p, units->grid);
    PACKET_PUT(p, units->masks);
}

static coar_status understand_gradients(packet *p, const job *j, run_store *store, shared_units *out) {
    gradient_units *units;
    TRY(memory_new(1, sizeof *units, "work units", &units));
    out->context = units;
    PACKET_GET(p, units->grid);
    PACKET_GET(p, units->masks);
    units->store = store;
    TRY(packet_check(p));
    out->work = gradient_units_work(j, units);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------ baselines */

static void describe_baselines(const unit_work *work, packet *p) {
    PACKET_PUT(p, *(const baseline_grid *)work->context);
}

static coar_status understand_baselines(packet *p, const job *j, run_store *store, shared_units *out) {
    baseline_grid *grid;
    (void)store;
    TRY(memory_new(1, sizeof *grid, "work units", &grid));
    out->context = grid;
    PACKET_GET(p, *grid);
    TRY(packet_check(p));
    out->work = baseline_units_work(j, grid);
    return COAR_OK;
}

/* ------------------------------------------------------------------------------------------------------ all */

/* By unit_kind.name. */
static const struct {
    const char *name;
    void (*describe)(const unit_work *work, packet *p);
    coar_status (*understand)(packet *p, const job *j, run_store *store, shared_units *out);
} kinds[] = {{"masks", describe_masks, understand_masks},
             {"gradients", describe_gradients, understand_gradients},
             {"baselines", describe_baselines, understand_baselines}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static size_t find_kind(const char *name) {
    size_t k = 0;
    while (k < KINDS && (!name || strcmp(kinds[k].name, name))) k++;
    return k;
}

void units_describe(const unit_work *work, packet *p) {
    const size_t k = find_kind(work->kind->name);
    packet_put_text(p, k < KINDS ? work->kind->name : NULL);
    PACKET_PUT(p, work->shard);
    PACKET_PUT(p, work->shards);
    PACKET_PUT(p, work->time_limit);
    if (k < KINDS) kinds[k].describe(work, p);
}

coar_status units_understand(packet *p, const job *j, run_store *store, shared_units *out) {
    shared_units units = {.release = free};
    uint32_t shard, shards;
    double time_limit;
    const size_t k = find_kind(packet_get_text(p));
    PACKET_GET(p, shard);
    PACKET_GET(p, shards);
    PACKET_GET(p, time_limit);
    if (k == KINDS) return status_set(COAR_ERROR_INTERNAL, "rank 0 has work units of a kind that is not known here");
    const coar_status status = kinds[k].understand(p, j, store, &units);
    units.work.progress = kinds[k].name; /* nobody sees it here */
    units.work.shard = shard;
    units.work.shards = shards;
    units.work.time_limit = time_limit;
    if (status == COAR_OK)
        *out = units;
    else
        shared_units_free(&units);
    return status;
}

void shared_units_free(shared_units *units) {
    if (units->context) units->release(units->context);
    *units = (shared_units){0};
}
