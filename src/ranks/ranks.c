/*
 * ranks.c - coar_ranks_...: begin, the loop of orders that every rank but 0 is in, end.
 * Must not know: what is in an order, MPI.
 */
#include "ablate/job_share.h"
#include "ablate/run_share.h"
#include "comm/comm.h"
#include "comm/order.h"
#include "core/options.h"
#include "core/threads.h"
#include "fit/share.h"
#include "selftest/comm.h"

/* Of this process: whether it has met the others, can no longer talk to them, and whether rank 0 has ended, with which code. */
static bool begun, cut_off, ended;
static int32_t end_code;

coar_status coar_ranks_begin(coar_ranks *ranks) {
    status_clear();
    const coar_status status = comm_begin();
    const comm *c = comm_world();
    *ranks = (coar_ranks){.rank = comm_launched_rank(), .count = c->size};
    begun = status == COAR_OK;
    TRY(status);
    if (c->local_size > 1 && c->cores_shared) thread_keep_to_part(c->local_rank, c->local_size);
    return COAR_OK;
}

/* --------------------------------------------------------------------------------------------------- orders */

typedef struct follower {
    const coar_follow_options *options; /* NULL: it cannot do anything */
    job *job;
    shared_device device; /* for fits */
} follower;

static job_own own_options(const coar_follow_options *o) {
    return (job_own){.model = o->model,
                     .data = o->data,
                     .classes = o->classes,
                     .devices = o->devices,
                     .shard = o->shard,
                     .threads = o->threads,
                     .memory = o->memory,
                     .callbacks = o->callbacks};
}

static coar_status open_job(follower *f, packet *p) {
    const job_own own = own_options(f->options);
    job_close(f->job);
    f->job = NULL;
    return comm_agree(job_follow(p, &own, &f->job));
}

/* Why it did not follow was told where it arose: that it ends the job is told by rank 0. Devices are agreed on twice, so that
 * rank 0 may go on without them; that they are given back is agreed on by nobody. */
static coar_status refuse(order_kind kind, packet *p) {
    if (kind == ORDER_DEVICE && !packet_get_text(p)) return COAR_OK;
    const coar_status status = comm_agree(status_set(COAR_ERROR_USAGE, "its options are wrong"));
    if (kind != ORDER_DEVICE) return status;
    status_clear();
    return comm_agree(COAR_OK);
}

static coar_status carry_out(follower *f, order_kind kind, packet *p) {
    if (!f->options) return refuse(kind, p);
    switch (kind) {
    case ORDER_JOB:
        return open_job(f, p);
    case ORDER_STAGE:
        return run_follow(p, f->job, f->options->shard);
    case ORDER_DEVICE:
        return shared_device_follow(p, f->options->devices, &f->device);
    case ORDER_GRAM:
        return gram_follow(p, f->options->threads, &f->device);
    case ORDER_CROSS:
        return cross_follow(p, f->options->threads, &f->device);
    case ORDER_SELFTEST:
        return selftest_comm_follow(p, f->options->devices);
    default:
        return COAR_OK;
    }
}

/* A failure that was agreed on is rank 0's to tell, which ends the job; one of the talking ends it here. */
static coar_status follow(const coar_follow_options *options) {
    follower f = {.options = options};
    packet p = {0};
    order_kind kind;
    coar_status status;
    for (;;) {
        status_clear();
        status = order_take(&kind, &p);
        if (status != COAR_OK) break;
        if (kind == ORDER_END) {
            PACKET_GET(&p, end_code);
            ended = true;
            break;
        }
        carry_out(&f, kind, &p);
    }
    job_close(f.job);
    shared_device_free(&f.device, status == COAR_OK);
    packet_free(&p);
    return status;
}

coar_status coar_ranks_follow(const coar_follow_options *options) {
    coar_follow_options o;
    status_clear();
    TRY(options_take(&o, sizeof o, options, "COAR_FOLLOW_INIT"));
    if (comm_world()->rank == 0) return status_set(COAR_ERROR_USAGE, "rank 0 leads: the others follow it");
    const coar_status status = follow(&o);
    cut_off = status != COAR_OK;
    return status;
}

int coar_ranks_end(int code) {
    const comm *c = comm_world();
    packet p = {0};
    bool together = true;
    if (!begun) {
        if (c->size > 1) comm_end(false);
        return code;
    }
    if (c->rank == 0) {
        end_code = code;
        PACKET_PUT(&p, end_code);
        together = order_give(ORDER_END, &p) == COAR_OK;
        packet_free(&p);
    } else if (!ended) {
        together = !cut_off && follow(NULL) == COAR_OK;
    }
    comm_end(together);
    return end_code;
}
