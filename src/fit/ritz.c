/*
 * ritz.c - see ritz.h. With a_k the lengths of the steps and b_k the share of the direction before that step k keeps,
 * the residuals, made orthonormal, bring Xc' Xc to the tridiagonal matrix T of
 *
 *   T_kk = 1/a_k + b_k/a_(k-1),   T_k,k+1 = sqrt(b_(k+1))/a_k       (Lanczos; Golub and Van Loan, chapter 11)
 *
 * whose eigenvalues theta and first components s of its eigenvectors are a Gauss rule: (Xc'y)' f(Xc'Xc) (Xc'y) is
 * |Xc'y|^2 sum s^2 f(theta), exact for polynomials up to twice the steps, and for functions like 1/(d + p) as good as the
 * square of what the descent at that penalty would leave (Golub and Meurant 1994; Golub and von Matt 1997 use it for
 * generalised cross-validation). The outputs' squares along theta are |Xc'y|^2 s^2 / theta; a penalty leaves
 * (p/(theta + p))^2 of them.
 */
#include "fit/ritz.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

/* Values below this part of the largest are what single precision makes of 0. */
#define VALUE_MIN 1e-7

coar_status ritz_create(ritz *out) {
    *out = (ritz){.count = 0};
    return memory_new(TRACE_STEPS_MAX, TRACE_STEPS_MAX * sizeof(double), "penalties", &out->scratch);
}

void ritz_free(ritz *r) {
    free(r->scratch);
    r->scratch = NULL;
}

double ritz_memory(void) {
    return sizeof(ritz) + 8. * TRACE_STEPS_MAX * TRACE_STEPS_MAX;
}

coar_status ritz_find(const descent_trace *trace, size_t z, double squares, double start, ritz *r) {
    const size_t count = trace->steps[z];
    double beside[TRACE_STEPS_MAX];
    r->count = count;
    r->outside = squares;
    if (!count) return COAR_OK;
    for (size_t k = 0; k < count; k++) {
        const double length = trace->length[k][z];
        r->value[k] = 1 / length + (k ? trace->keep[k - 1][z] / trace->length[k - 1][z] : 0);
        beside[k] = sqrt(trace->keep[k][z]) / length;
    }
    const double next = beside[count - 1];
    const int info = LAPACKE_dstev(LAPACK_COL_MAJOR, 'V', (int)count, r->value, beside, r->scratch, TRACE_STEPS_MAX);
    if (info) return status_set(COAR_ERROR_INTERNAL, "the fit: eigenvalues of %zu steps did not converge", count);
    for (size_t k = 0; k < count; k++) {
        const double *vector = r->scratch + k * TRACE_STEPS_MAX;
        r->first[k] = vector[0];
        r->last[k] = vector[count - 1] * next;
        r->along[k] = r->value[k] > VALUE_MIN * r->value[count - 1] ? start * vector[0] * vector[0] / r->value[k] : 0;
        r->outside -= r->along[k];
    }
    r->outside = fmax(r->outside, 0);
    return COAR_OK;
}

double ritz_residual(const ritz *r, double penalty) {
    double sum = r->outside;
    for (size_t k = 0; k < r->count; k++) {
        const double left = penalty / (r->value[k] + penalty);
        sum += left * left * r->along[k];
    }
    return sum;
}

double ritz_distance(const ritz *r, double penalty) {
    double sum = 0;
    for (size_t k = 0; k < r->count; k++) sum += r->first[k] * r->last[k] / (r->value[k] + penalty);
    return fabs(sum);
}
