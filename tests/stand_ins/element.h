/*
 * element.h - numbers as the libraries store them, and the sums of products that all of them compute.
 *
 * Must not know: devices, streams, any library's descriptors.
 */
#ifndef COAR_TESTS_STAND_INS_ELEMENT_H
#define COAR_TESTS_STAND_INS_ELEMENT_H

#include <library_types.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of CUDA_R_64F, 32F, 16F, 16BF, 32I, 8I; 0 for any other type. */
size_t element_size(cudaDataType type);
double element_load(const void *p, cudaDataType type, size_t i);
/* Rounds to nearest even; fp16 overflows to infinity. */
void element_store(void *p, cudaDataType type, size_t i, double value);
/* To 10 bits of mantissa, to nearest, ties away from zero. */
float round_to_tf32(float f);

/* A matrix somewhere in memory: element (i, j) is number i * row + j * column. */
typedef struct matrix {
    const void *p;
    cudaDataType type;
    size_t row, column;
} matrix;

typedef enum sums { SUMS_F32, SUMS_TF32, SUMS_F64 } sums;

/* out[i * n + j] = sum over l of a(i, l) b(l, j), in `kind`; the l are cut into `parts` ranges whose sums are added in
 * order, as different kernels do it. */
void matrix_product(double *out, size_t m, size_t n, size_t k, matrix a, matrix b, sums kind, size_t parts);

#endif
