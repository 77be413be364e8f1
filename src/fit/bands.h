/*
 * bands.h - calibration of averaged gradients on masked passes. Attributions of different examples have directions in
 * common, and noise has not: the part of a weight vector along the leading common directions is kept, the rest is drawn
 * to 0, by one factor for each band of directions, shared by all examples and fitted to the outputs of plain masks.
 * Must not know: how gradients are averaged, estimators.
 */
#ifndef COAR_FIT_BANDS_H
#define COAR_FIT_BANDS_H

#include "fit/gradients.h"
#include "fit/sample.h"

enum { BANDS = 3, BAND_VECTORS = 32 };

typedef struct gradient_bands {
    size_t n, end[BANDS - 1]; /* directions 0 .. end[0] - 1 are the first band's; what is behind end[1] is the last's */
    double factor[BANDS];
    double *vectors;     /* [n][BAND_VECTORS] orthonormal columns, end[1] of them */
    double *coordinates; /* scratch [BAND_VECTORS][block] */
} gradient_bands;

/* Learns directions and factors from the sample; formulas in bands.c. */
coar_status gradient_bands_create(const fit_system *system, gradient_average *g, const fit_sample *sample,
                                  gradient_bands *out);
void gradient_bands_free(gradient_bands *bands);

/* weight[n][E] becomes sum_b factor_b (its part in band b). */
void gradient_bands_apply(const gradient_bands *bands, size_t E, double *weight);

/* The same for errors[E][n] of those weights, independent ones; formulas in bands.c. */
void gradient_bands_errors(const gradient_bands *bands, size_t E, float *error);

/* Bytes of all this, and of it what is free again once there are bands. */
double gradient_bands_memory(const fit_problem *problem);
double gradient_bands_scratch(const fit_problem *problem);

#endif
