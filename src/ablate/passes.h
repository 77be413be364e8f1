/*
 * passes.h - outputs of chosen examples under given masks: what is measured with a run's network beside its own masks.
 *
 * Each call is a stage of the run file while it lasts, named by what it computes ("passes-HASH"), so that one that was
 * stopped goes on when the same is asked for again. The caller removes the stages once it has stored what it made of them
 * (PASSES_STAGE, store_discard_stages).
 * Must not know: what the outputs are for.
 */
#ifndef COAR_ABLATE_PASSES_H
#define COAR_ABLATE_PASSES_H

#include "ablate/job.h"
#include "store/store.h"

#define PASSES_STAGE "passes-"

typedef struct passes {
    run_store *store; /* in whose folder the stage is */
    job *job;         /* its examples, outputs and units are others meanwhile */
    uint64_t *rows;   /* [count] of the job's data file */
    int32_t *labels;  /* [count] */
    size_t count;
    const uint8_t *masks; /* packed [mask_count][mask_bytes(n)] */
    size_t mask_count;
    const char *outputs; /* "margin,loss": at most OUTPUTS_MAX */
    bool force_resume;
    double time_limit; /* seconds, 0 = none */
    uint64_t images;   /* out: masked images computed by this call */
} passes;

/* out[outputs][mask_count][count]. Values that are not finite are NaN. COAR_STOPPED with everything saved. */
coar_status passes_run(passes *p, float *out);

#endif
