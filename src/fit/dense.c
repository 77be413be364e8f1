/* dense.c - see dense.h. */
#include "fit/dense.h"

#include <cblas.h>

void bits_expand(const bit_columns *bits, size_t first, size_t count, double *rows) {
    for (size_t i = 0; i < count; i++) {
        const uint64_t *words = bits->words + (first + i) * bits->stride;
        double *row = rows + i * bits->length;
        for (size_t j = 0; j < bits->length; j++) row[j] = (double)(words[j / 64] >> (j % 64) & 1);
    }
}

void bits_product(const bit_columns *bits, size_t first, size_t count, const double *right, size_t E, double *rows,
                  double *product) {
    bits_expand(bits, first, count, rows);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)E, (int)bits->length, 1, rows,
                (int)bits->length, right, (int)E, 0, product, (int)E);
}

int dense_threads(int threads) {
    int before = openblas_get_num_threads();
    openblas_set_num_threads(threads);
    return before;
}
