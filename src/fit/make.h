/*
 * make.h - from an estimator's name to a solver ready for blocks of examples, with all that it borrows.
 * Must not know: blocks, results.
 */
#ifndef COAR_FIT_MAKE_H
#define COAR_FIT_MAKE_H

#include "fit/bands.h"
#include "fit/diagnose.h"
#include "fit/scan.h"

typedef struct fit_made {
    fit_system system;
    gradient_average average; /* of grad and grad+eb; made by whoever scans */
    gradient_bands bands;     /* its calibration */
    fit_solver *solver;
    /* Leave-one-out correlations of single examples are too good where a prior was learnt from the same masks: they are
     * to be multiplied by `correction` (0 where honest predictions are worth nothing, NaN where there are none), and `outlook` is their mean without that flaw (crossfit.h). */
    bool corrected;
    double correction;
    fit_outlook outlook;
} fit_made;

/* y: scratch [problem->m][block]. problem->group_first is not NULL. */
coar_status fit_make(const fit_problem *problem, const fit_settings *settings, const fit_scan *scan, size_t block,
                     float *y, fit_made *made);
void fit_made_free(fit_made *made);

#endif
