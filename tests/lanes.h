/*
 * lanes.h - for tests of the CPU kernels: guarded arrays of 32 lanes, seeded values, comparison with sums in double.
 *
 * Arrays live until lanes_release, which checks that nothing was written beside them.
 */
#ifndef COAR_TESTS_LANES_H
#define COAR_TESTS_LANES_H

#include "kernels/cpu/kernels.h"
#include "test.h"

/* Calls check for the kernels of every instruction set of this machine, as a group of checks "NAME (ISA)". */
void lanes_each(const char *name, void (*check)(const cpu_kernels *k));

/* Frees all arrays; also done at the end of every group. */
void lanes_release(void);

/* A number in [0, n) and a value in [-1, 1), each a function of what the group has drawn before. */
uint32_t lanes_random(uint32_t n);
float lanes_value(void);

/* [count][LANES] floats, 64-byte aligned: seeded values; or NaN, to be written. */
float *lanes_values(size_t count);
float *lanes_output(size_t count);
/* A copy: what a kernel adds to, before it does. */
float *lanes_copy(const float *values, size_t count);
/* `count` seeded values that are the same in all lanes (weights); bytes; doubles, all zero. */
float *lanes_weights(size_t count);
uint8_t *lanes_bytes(size_t count);
double *lanes_doubles(size_t count);

/* Fails unless |actual - expected| <= tolerance * the largest |expected| in all of [count][LANES]; prints the worst. */
#define lanes_compare(what, actual, expected, count, tolerance)                                                        \
    lanes_compare_at(__FILE__, __LINE__, what, actual, expected, count, tolerance)
void lanes_compare_at(const char *file, int line, const char *what, const float *actual, const double *expected,
                      size_t count, double tolerance);

/* Fails unless both hold the same bytes; prints the first difference. */
#define lanes_same(what, actual, expected, count) lanes_same_at(__FILE__, __LINE__, what, actual, expected, count)
void lanes_same_at(const char *file, int line, const char *what, const float *actual, const float *expected,
                   size_t count);

#endif
