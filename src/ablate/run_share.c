/* run_share.c - see run_share.h. */
#include "ablate/run_share.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ablate/units_share.h"
#include "comm/comm.h"
#include "comm/order.h"
#include "core/memory.h"

/* Network file systems may show new files of other machines late: by a minute where folders are cached that long. */
#define VISIBLE_SECONDS 90

/* --------------------------------------------------------------------------------------------------- rank 0 */

static void put_setting(packet *p, const setting *s) {
    packet_put_text(p, s->key);
    packet_put_text(p, s->flag);
    packet_put_text(p, s->value);
    PACKET_PUT(p, s->type);
    PACKET_PUT(p, s->compared);
}

coar_status run_share(const job *j, const run_store *store, const stage_run *run, const char *plan_json) {
    packet p = {0};
    coar_status status = COAR_OK;
    const size_t rows = j->fill ? j->model->graph->rows : 0;
    if (comm_world()->size == 1) return COAR_OK;
    packet_put_text(&p, store_path(store));
    packet_put_text(&p, run->name);
    packet_put_text(&p, plan_json);
    PACKET_PUT(&p, run->first);
    packet_put_array(&p, j->fill, rows, sizeof *j->fill);
    PACKET_PUT(&p, run->setting_count);
    for (size_t i = 0; i < run->setting_count; i++) put_setting(&p, &run->settings[i]);
    units_describe(&run->work, &p);
    TRY_GOTO(order_give(ORDER_STAGE, &p));
    TRY_GOTO(comm_agree(COAR_OK));
done:
    packet_free(&p);
    return status;
}

static bool all_there(const store_stage *stage, const unit_work *work) {
    for (uint64_t unit = work->shard; unit < work->units; unit += work->shards)
        if (!stage_has(stage, unit)) return false;
    return true;
}

static coar_status await_units(const run_store *store, const stage_run *run, store_stage *stage) {
    for (int waited = 0;; waited++) {
        TRY(stage_take_in(stage));
        if (all_there(stage, &run->work)) return COAR_OK;
        if (waited == VISIBLE_SECONDS)
            return status_set(COAR_ERROR_IO,
                              "%s: work units that other ranks have saved do not appear in it: is it on a file system "
                              "that all machines share?",
                              store_path(store));
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
}

coar_status run_gather(const run_store *store, const stage_run *run, store_stage *stage, coar_status status) {
    if (comm_world()->size == 1) return status;
    TRY(comm_agree(status));
    return await_units(store, run, stage);
}

/* --------------------------------------------------------------------------------------------------- others */

/* The stage as it is told. */
typedef struct followed {
    const char *path, *name, *plan;
    uint64_t first;
    setting *settings;
    size_t setting_count;
    run_store *store;
    shared_units units;
    store_stage *stage;
} followed;

static void followed_free(followed *f) {
    stage_close(f->stage);
    shared_units_free(&f->units);
    store_close(f->store);
    free(f->settings);
}

static coar_status get_settings(packet *p, followed *f) {
    PACKET_GET(p, f->setting_count);
    TRY(packet_check(p));
    TRY(memory_new(f->setting_count, sizeof *f->settings, "settings", &f->settings));
    for (size_t i = 0; i < f->setting_count; i++) {
        setting *s = &f->settings[i];
        s->key = packet_get_text(p);
        s->flag = packet_get_text(p);
        s->value = packet_get_text(p);
        PACKET_GET(p, s->type);
        PACKET_GET(p, s->compared);
    }
    return packet_check(p);
}

static coar_status get_fill(packet *p, job *j) {
    size_t count;
    float *fill = packet_get_array(p, sizeof *fill, &count);
    coar_status status = packet_check(p);
    if (status == COAR_OK && fill) status = job_take_means(j, &fill, count, "rank 0");
    free(fill);
    return status;
}

/* Ranks of one job work on one shard: several are several jobs. */
static coar_status check_shard(const unit_work *work, const char *shard) {
    char there[32] = "";
    if (work->shards > 1) snprintf(there, sizeof there, "%u/%u", work->shard, work->shards);
    if (!strcmp(shard ? shard : "", there) || (work->shards == 1 && shard && !strcmp(shard, "0/1"))) return COAR_OK;
    return status_set(
        COAR_ERROR_USAGE,
        "--shard is %s here and %s on rank 0: the processes of an MPI job work on one shard; several shards "
        "are started with COAR_MPI=0 in the environment",
        shard ? shard : "not given", *there ? there : "not given");
}

/* Rank 0 has looked who else works there; the ranks of one job overlap in their units, and never compute one twice. */
static coar_status open_stage(packet *p, job *j, const char *shard, followed *f) {
    f->path = packet_get_text(p);
    f->name = packet_get_text(p);
    f->plan = packet_get_text(p);
    PACKET_GET(p, f->first);
    TRY(get_fill(p, j));
    TRY(get_settings(p, f));
    if (!f->path || !f->name) return status_set(COAR_ERROR_INTERNAL, "the stage of rank 0 has no name");
    TRY(store_open(f->path, &f->store));
    TRY(units_understand(p, j, f->store, &f->units));
    const unit_work *work = &f->units.work;
    TRY(check_shard(work, shard));
    const stage_options options = {.name = f->name,
                                   .settings = f->settings,
                                   .setting_count = f->setting_count,
                                   .plan_json = f->plan,
                                   .units = work->units,
                                   .steps = work->steps,
                                   .payload_bytes = work->payload_bytes,
                                   .context = work->grid,
                                   .shard = work->shard,
                                   .shards = work->shards,
                                   .rank = (uint32_t)comm_world()->rank,
                                   .ranks = (uint32_t)comm_world()->size,
                                   .masks = work->masks,
                                   .force_resume = true};
    return stage_open(f->store, &options, &f->stage);
}

coar_status run_follow(packet *p, job *j, const char *shard) {
    followed f = {.path = NULL};
    coar_status status = j ? open_stage(p, j, shard, &f)
                           : status_set(COAR_ERROR_INTERNAL, "there is a stage to compute, but no job is open");
    status = comm_agree(status);
    if (status != COAR_OK) goto done;
    status = workers_run(j, &f.units.work, f.stage);
    followed_free(&f); /* nobody but rank 0 counts as at work when it goes on */
    f = (followed){.path = NULL};
    status = comm_agree(status);
done:
    followed_free(&f);
    return status;
}
