/* outlook.c - the interval of the mean held-out correlation; formulas in diagnose.h. */
#include <math.h>

#include "fit/diagnose.h"

/* Student's t, 97.5 %, 19 degrees of freedom. */
#define QUANTILE 2.093
_Static_assert(FIT_PARTS == 20, "QUANTILE is for 19 degrees of freedom");

/* Delete-one-part jackknife of P replicates, `stride` apart. A part without masks leaves a replicate as it was. */
static double jackknife(const double *replicate, size_t stride) {
    double mean = 0, squares = 0;
    for (size_t p = 0; p < FIT_PARTS; p++) mean += replicate[p * stride] / FIT_PARTS;
    for (size_t p = 0; p < FIT_PARTS; p++) squares += (replicate[p * stride] - mean) * (replicate[p * stride] - mean);
    return squares * (FIT_PARTS - 1) / FIT_PARTS;
}

void fit_outlook_add(fit_outlook *outlook, const fit_diagnosis *diagnosis, size_t E) {
    for (size_t z = 0; z < E; z++) {
        const double r = diagnosis->heldout[z];
        if (isnan(r)) continue;
        outlook->count++;
        outlook->sum += r;
        outlook->squares += r * r;
        outlook->own += jackknife(diagnosis->without + z, E);
        for (size_t p = 0; p < FIT_PARTS; p++) outlook->without[p] += diagnosis->without[p * E + z];
    }
}

void fit_outlook_interval(const fit_outlook *outlook, double *mean, double *low, double *high) {
    *mean = *low = *high = NAN;
    if (!outlook->count) return;
    const double N = (double)outlook->count;
    double without[FIT_PARTS], examples = 0;
    *mean = outlook->sum / N;
    for (size_t p = 0; p < FIT_PARTS; p++) without[p] = outlook->without[p] / N;
    const double masks = jackknife(without, 1), both = outlook->own / (N * N);
    if (N > 1) examples = fmax(outlook->squares - N * *mean * *mean, 0) / (N * (N - 1));
    const double half = QUANTILE * sqrt(fmax(masks + examples - both, fmax(masks, examples)));
    *low = fmax(*mean - half, -1);
    *high = fmin(*mean + half, 1);
}

void fit_outlook_difference(const fit_outlook *a, const fit_outlook *b, double *difference, double *error) {
    double without[FIT_PARTS];
    for (size_t p = 0; p < FIT_PARTS; p++)
        without[p] = a->without[p] / (double)a->count - b->without[p] / (double)b->count;
    *difference = a->sum / (double)a->count - b->sum / (double)b->count;
    *error = sqrt(jackknife(without, 1));
}
