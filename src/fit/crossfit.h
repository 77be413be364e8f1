/*
 * crossfit.h - how well an estimator whose prior was learnt from the masks predicts other masks. Exact leave-one-out
 * predictions hold the weights' mask out but not the prior's, and all examples' priors saw it: with 250 masks of
 * ResNet-20 they correlate at .51, and with fresh masks at .37. So the prior is learnt again without each fifth of the
 * masks, and that fifth is predicted one by one from all other masks under it (the fifths: .34; from 500 masks on
 * within .02 of fresh masks, where leave-one-out is still .08 too high).
 * Must not know: what the examples' predictions are made of.
 */
#ifndef COAR_FIT_CROSSFIT_H
#define COAR_FIT_CROSSFIT_H

#include "fit/diagnose.h"
#include "fit/sample.h"

/* Makes the solver of all masks under that prior. */
typedef coar_status (*crossfit_solver)(void *context, fit_system *system, const double *prior, fit_solver **out);

typedef struct crossfit {
    const fit_problem *problem;
    const fit_settings *settings;
    const uint8_t *masks;     /* those used, packed [m][ceil(n/8)] */
    fit_system *system;       /* of them */
    const fit_sample *learnt; /* what priors are learnt from */
    const fit_sample *sample; /* the outputs to be predicted; the same examples */
    crossfit_solver make;
    void *context;
} crossfit;

coar_status crossfit_outlook(const crossfit *c, fit_outlook *outlook);

/* The same by plain leave-one-out predictions of one solver of the system. */
coar_status crossfit_plain(const crossfit *c, fit_solver *solver, fit_outlook *outlook);

/* Bytes beside a system, a sample of at most `most`, its prior's learning and a solver. */
double crossfit_memory(const fit_problem *problem, size_t most);

#endif
