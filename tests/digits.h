/*
 * digits.h - the small real data set and networks of data/, for tests of whole jobs.
 */
#ifndef COAR_TEST_DIGITS_H
#define COAR_TEST_DIGITS_H

#include "ablate/job.h"

/* The data set, packed into this program's folder. */
const char *digits_data(void);

/* data/digits-NET.safetensors: resnet, vit. Static buffers, two deep. */
const char *digits_model(const char *net);

/* Opens a job; a failure ends the program. */
job *digits_job(const job_options *options);

#endif
