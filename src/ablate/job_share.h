/*
 * job_share.h - the same job on every rank: what rank 0 has opened, the others open, from files whose hashes are
 * compared. Numerics plan, examples and labels are rank 0's, so that nothing is chosen twice.
 * Must not know: runs, stages.
 */
#ifndef COAR_ABLATE_JOB_SHARE_H
#define COAR_ABLATE_JOB_SHARE_H

#include "ablate/job.h"
#include "comm/packet.h"

/* Rank 0: lets the others open the job, unless they have this very one open, and waits until they have. What goes wrong
 * on any rank is this call's failure. Nothing where rank 0 is alone. */
coar_status job_share(const job *j);

/* What is each rank's own. Files: NULL = where rank 0 has them. */
typedef struct job_own {
    const char *model, *data, *classes, *devices;
    const char *shard; /* run_share.h */
    int threads;
    uint64_t memory;
    const coar_callbacks *callbacks;
} job_own;

/* The others: opens what rank 0 has shared. The agreement is the caller's. */
coar_status job_follow(packet *p, const job_own *own, job **out);

#endif
