/*
 * digits.h - the small real data set and networks of data/, for tests of whole jobs and of goldens.
 */
#ifndef COAR_TEST_DIGITS_H
#define COAR_TEST_DIGITS_H

#include "ablate/job.h"

/* The held-out digits that the goldens are about (tools/golden_digits.py). */
enum { DIGITS_EXAMPLES = 40, DIGITS_SIDE = 8 };
typedef struct digits_examples {
    uint8_t images[DIGITS_EXAMPLES][DIGITS_SIDE * DIGITS_SIDE];
    int32_t labels[DIGITS_EXAMPLES];
} digits_examples;

/* A file that is missing is a failed check. */
void digits_read(digits_examples *out);

/* The data set, packed into this program's folder. */
const char *digits_data(void);

/* data/digits-NET.safetensors: resnet, vit. Static buffers, two deep. */
const char *digits_model(const char *net);

/* Opens a job; a failure ends the program. */
job *digits_job(const job_options *options);

#endif
