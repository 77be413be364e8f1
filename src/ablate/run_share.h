/*
 * run_share.h - one stage on all ranks. Rank 0 opens it and hands out its units (workers.h); each of the others opens
 * the same stage with a journal of its own, as any process that joins a run does.
 * Must not know: how units are handed out.
 */
#ifndef COAR_ABLATE_RUN_SHARE_H
#define COAR_ABLATE_RUN_SHARE_H

#include "ablate/run.h"
#include "comm/packet.h"

/* Rank 0, which has opened the stage: lets the others open it. All are then about to call workers_run. A failure of any
 * rank is this call's. Nothing where rank 0 is alone. */
coar_status run_share(const job *j, const run_store *store, const stage_run *run, const char *plan_json);

/* Rank 0, after workers_run, with its status: the status of all, once the others have closed their journals and every
 * unit is seen in the folder. */
coar_status run_gather(const run_store *store, const stage_run *run, store_stage *stage, coar_status status);

/* The others: takes part in what rank 0 has shared, from run_share to run_gather. j: as job_follow has opened it. shard: the one
 * that this rank was given, which must be rank 0's; NULL = none. */
coar_status run_follow(packet *p, job *j, const char *shard);

#endif
