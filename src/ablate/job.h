/*
 * job.h - what every masked forward pass needs, opened and checked together: model, data, examples, outputs, backend.
 * Used by ablate, evaluate and bench. Must not know: how results are stored.
 */
#ifndef COAR_ABLATE_JOB_H
#define COAR_ABLATE_JOB_H

#include "backend/backend.h"
#include "core/log.h"
#include "data/dataset.h"
#include "model/model.h"
#include "store/store.h"

typedef struct job {
    model *model;
    dataset *data;
    uint64_t *rows;         /* [N] rows of the data file */
    size_t count;           /* N */
    int32_t *labels;        /* [N] the labels that outputs use */
    float mean[4], std[4];
    output_spec outputs[OUTPUTS_MAX];
    size_t output_count;
    ablation ablation;
    float *fill;            /* [rows of the graph] for `mean`, else NULL */
    numerics_plan plan;
    thread_pool *pool;
    const backend_interface *interface;
    uint32_t unit_masks, unit_examples; /* B, E */
    const coar_callbacks *callbacks;
} job;

/* B and E of DESIGN section 3: E = min(N, 1,024), B = 64; halve B, then E (not below 32) until B E flops <= 1e13. */
void unit_size(double flops, uint64_t examples, uint32_t *unit_masks, uint32_t *unit_examples);

/* Runs all units of one stage that are not done (of this shard): masks from `s`, outputs into the stage's journal.
 * COAR_STOPPED when the callbacks or the time limit ask for it, with the unit in hand saved. */
coar_status job_run_units(job *j, backend *b, store_stage *stage, const unit_grid *grid, const sampler *s,
                          uint64_t first_mask, uint32_t shard, uint32_t shards, double time_limit, uint64_t *images,
                          double *seconds);

/* Makes sure that truth-aALPHA-sSEED (k fresh masks of stream 1) of an open run is complete; runs what is missing. For
 * coar_evaluate. `name` receives the stage's name. */
coar_status job_truth(run_store *store, const coar_evaluate_options *options, double alpha, uint64_t seed,
                      uint64_t masks, char name[64]);

#endif
