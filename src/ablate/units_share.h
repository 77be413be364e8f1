/*
 * units_share.h - what the work units of a stage are, for the other ranks: each kind's own description, written by rank
 * 0 and read by the others into the same unit_work.
 * Must not know: who computes which units, how ranks talk.
 */
#ifndef COAR_ABLATE_UNITS_SHARE_H
#define COAR_ABLATE_UNITS_SHARE_H

#include "ablate/workers.h"
#include "comm/packet.h"

void units_describe(const unit_work *work, packet *p);

/* A stage's work as it was described; `context` holds what it points to. */
typedef struct shared_units {
    unit_work work;
    void *context;
    void (*release)(void *context);
} shared_units;

/* The job and the store are borrowed. */
coar_status units_understand(packet *p, const job *j, run_store *store, shared_units *out);
void shared_units_free(shared_units *units);

#endif
