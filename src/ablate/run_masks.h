/*
 * run_masks.h - the masks of a run: the samplers that its settings and tables stand for, and their packed rows.
 * Used by ablate, fit and evaluate. Must not know: models, devices, outputs.
 */
#ifndef COAR_ABLATE_RUN_MASKS_H
#define COAR_ABLATE_RUN_MASKS_H

#include "core/sampler.h"
#include "core/threads.h"
#include "store/store.h"

/* Starts of the component groups for the stratified sampler: malloc'ed [group_count + 1]. */
coar_status run_masks_groups(const run_tables *tables, uint32_t **out);

/* The sampler that a run's training masks came from. *group_first is the caller's to free once the sampler is done
 * with; masks of file: are borrowed from `tables`. */
coar_status run_masks_training(run_store *store, const run_tables *tables, uint32_t **group_first, sampler *out);

/* The sampler of fresh masks (stream 1: no training mask is ever evaluated on): the run's own where it can draw more;
 * loo and file: cannot, bernoulli takes their place. *group_first as above. */
coar_status run_masks_fresh(run_store *store, const run_tables *tables, double alpha, uint64_t seed,
                            uint32_t **group_first, sampler *out);

/* Masks first .. first + count - 1 as packed rows [count][mask_bytes(n)]; malloc'ed. `what` names them when there is
 * not enough memory. */
coar_status run_masks_pack(const sampler *s, uint64_t first, uint64_t count, thread_pool *pool, const char *what,
                           uint8_t **out);

#endif
