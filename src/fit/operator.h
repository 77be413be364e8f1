/*
 * operator.h - products of the centred masks Xc and of their transpose with OPERATOR_LANES vectors at once, without a
 * matrix: what an iterative solver needs where no n x n or m x m system fits. Vectors are double [length][lanes]; sums
 * are added in an order that depends on nothing but m and n.
 * Must not know: estimators, outputs.
 */
#ifndef COAR_FIT_OPERATOR_H
#define COAR_FIT_OPERATOR_H

#include "fit/gram.h"

enum { OPERATOR_LANES = 16 }; /* a row of single precision fills a cache line */

typedef struct operator_scratch operator_scratch; /* of one thread */
coar_status operator_scratch_create(operator_scratch **out);
double operator_scratch_memory(void);

/* out[rows->count][lanes] = (rows - shift) * right[rows->length][lanes]; shift[rows->length] is what each column of the
 * bits loses, NULL = 0. With system->by_mask and the components' means this is Xc * right. With system->by_component
 * and no shift it is Xc' * right where each of the vectors sums to 0. Sums are single precision: what the steps of a
 * solver are made of. */
void operator_product(const bit_columns *rows, const double *shift, const double *right, operator_scratch *scratch,
                      double *out);

/* The same with sums in double precision, at about twice the time: what a solution is judged by. */
void operator_product_double(const bit_columns *rows, const double *shift, const double *right,
                             operator_scratch *scratch, double *out);

#endif
