/*
 * sample.h - the examples that what all examples share (prior variances, calibration) is learnt from, held in memory.
 * At most SAMPLE_MAX, evenly spaced (or in evenly spaced blocks): 1,024 examples give a variance that all share to 4 %. Which they are, and the
 * chunks they are worked on in, depends on nothing but the problem.
 * Must not know: estimators.
 */
#ifndef COAR_FIT_SAMPLE_H
#define COAR_FIT_SAMPLE_H

#include "fit/scan.h"
#include "fit/solver.h"

/* SAMPLE_ITERATIVE: of an iterative system, where every example costs as much as the last. What fewer examples lose
 * falls with their number: 50 of ResNet-20's 200 lose .007 of the correlation at 344 masks, .001 at 3,000. */
enum { SAMPLE_MAX = 1024, SAMPLE_ITERATIVE = 256, SAMPLE_CHUNK = 128 };

typedef struct fit_sample {
    size_t count, chunks;
    uint64_t *index;        /* [count] ascending; none of them is left out */
    float *y;               /* chunk after chunk [m][E], m the masks used */
    double *mean, *squares; /* [count], as fit_centre has them */
    size_t m;
} fit_sample;

/* blocks: of whole blocks of LEVELS_BLOCK examples, for which gradients are read at the price of one. y: scratch of
 * [problem->m][block]. */
coar_status fit_sample_create(const fit_problem *problem, const fit_scan *scan, bool blocks, size_t block, float *y,
                              fit_sample *out);
void fit_sample_free(fit_sample *sample);

/* The same without the masks first .. end - 1. */
coar_status fit_sample_without(const fit_sample *sample, size_t first, size_t end, fit_sample *out);

/* `most` examples of them, evenly spaced; or all. */
coar_status fit_sample_thin(const fit_sample *sample, size_t most, fit_sample *out);

/* Chunk c < chunks: count, index, y, mean and squares of *block; the rest of it is left alone. */
void fit_sample_chunk(const fit_sample *sample, size_t c, solver_block *block);

/* The outputs of a chunk, to be replaced by others; then fit_sample_recentre. */
float *fit_sample_outputs(const fit_sample *sample, size_t c);
void fit_sample_recentre(fit_sample *sample);

/* Bytes of a sample of at most `most` examples of a problem like this. */
double fit_sample_memory(const fit_problem *problem, size_t most);

#endif
