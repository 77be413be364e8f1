/*
 * scan.h - which examples and masks a fit leaves out because of non-finite values, and reading without them.
 * Must not know: estimators.
 */
#ifndef COAR_FIT_SCAN_H
#define COAR_FIT_SCAN_H

#include "fit/fit.h"

typedef struct fit_scan {
    uint8_t *example_out; /* [N] 1 = left out */
    uint8_t *mask_out;    /* [m] 1 = left out */
    uint64_t examples_left_out, masks_left_out;
} fit_scan;

/* Reads all outputs once, `block` examples at a time: y is scratch of [m][block]. broken[N] (NULL = none): 1 = the
 * example is left out whatever its outputs are. */
coar_status fit_scan_outputs(const fit_problem *problem, const uint8_t *broken, size_t block, float *y, fit_scan *out);
void fit_scan_free(fit_scan *scan);

/* y[masks used][E] of examples first .. first + E - 1; an example left out becomes zeros. y holds [m][E]. */
coar_status fit_scan_read(const fit_problem *problem, const fit_scan *scan, uint64_t first, size_t E, float *y);

#endif
