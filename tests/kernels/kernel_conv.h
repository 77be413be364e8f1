/*
 * kernel_conv.h - a convolution under test, forward or transposed, in all its forms.
 */
#ifndef COAR_TESTS_KERNEL_CONV_H
#define COAR_TESTS_KERNEL_CONV_H

#include "kernel_test.h"

/* A convolution, or its transpose, with its buffers, and what must come out. */
typedef struct kernel_conv {
    gpu_conv c;
    gpu_type stored;  /* of y */
    size_t rows;      /* of y */
    double *residual; /* [rows][out_channels]; NULL = none */
    bool in_place;    /* the residual is what y holds before */
    double *expected; /* [rows][out_channels] */
} kernel_conv;

/* A new y, which holds what stands there before a launch: nothing in particular, or the residual. */
void kernel_conv_reset(kernel_conv *n);
size_t kernel_conv_bytes(const kernel_conv *n); /* of y */
/* y against what is expected: fp32 sums over at most a few hundred terms, then one rounding to what is stored. */
void kernel_conv_compare(const kernel_conv *n, const char *what);
/* Runs the forms below `most` that can, at least `least`; all must give the same bytes, the first is compared. */
enum { KERNEL_EVERY_FORM = 100 };
void kernel_conv_forms(const char *name, kernel_conv *n, int most, int least);

#endif
