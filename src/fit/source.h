/*
 * source.h - where a fit's masks, outputs and gradients come from: a run, or two .npy files.
 * Must not know: estimators, how a fit is solved.
 */
#ifndef COAR_FIT_SOURCE_H
#define COAR_FIT_SOURCE_H

#include "core/npy.h"
#include "fit/fit.h"
#include "store/store.h"

typedef struct fit_source {
    const char *output;  /* recorded as the fit's output */
    uint8_t *masks;      /* [m][ceil(n/8)] packed */
    fit_problem problem; /* gradients: those of the output, when the run has them */
    run_store *store;    /* of a run; else NULL */
    run_tables tables;
    uint32_t *group_first; /* [groups + 1] */
    fit_gradients gradients;
    double *squares;     /* of_component[LEVELS][n], of_example[LEVELS][N] */
    npy_array masks_npy; /* of two arrays */
    npy_array outputs_npy;
} fit_source;

/* The problem borrows `source`, which must not move. A run without finished masks has m = 0 when it has gradients;
 * without either it is COAR_ERROR_INPUT. */
coar_status fit_source_open_run(fit_source *source, const char *run, const char *output, thread_pool *pool);
coar_status fit_source_open_arrays(fit_source *source, const char *masks, const char *outputs);
void fit_source_close(fit_source *source);

#endif
