/* system.c - the system of masks that all examples share: bit matrices, means, centred Gram matrix, cross products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/share.h"
#include "fit/solver.h"

bool fit_is_iterative(const fit_problem *problem, const fit_settings *settings) {
    const uint64_t side = problem->m < problem->n ? problem->m : problem->n;
    const fit_estimator e = settings->estimator;
    if (settings->form != FIT_BY_SIZE) return settings->form == FIT_ITERATIVE;
    if (e == FIT_OLS && problem->m > (uint64_t)problem->n + 1) return side > SIDE_MAX;
    if (e == FIT_OLS || e == FIT_RIDGE) return side > EIGEN_DENSE_MAX;
    return (e == FIT_EB || e == FIT_GRAD_EB) && side > BAYES_DENSE_MAX;
}

coar_status fit_system_create(const fit_problem *problem, const uint8_t *masks, size_t m, const fit_settings *settings,
                              size_t block, fit_system *out) {
    const uint32_t n = problem->n;
    fit_system system = {
        .group_first = problem->group_first,
        .groups = problem->groups,
        .block = block,
        .standard_errors = settings->standard_errors,
        .iterative = fit_is_iterative(problem, settings),
        .pool = settings->pool,
        .device = settings->device,
        .shared = settings->shared ? *settings->shared : (shared_device){.device = settings->device},
        .callbacks = settings->callbacks,
    };
    coar_status status;
    TRY_GOTO(bit_columns_copy(masks, m, n, &system.by_mask));
    TRY_GOTO(bit_columns_transpose(masks, m, n, settings->pool, &system.by_component));
    TRY_GOTO(memory_new(n, sizeof(double), "the fit's means", &system.mean));
    TRY_GOTO(memory_new(m > n ? m : n, DENSE_ROWS * sizeof(double), "the fit's expanded masks", &system.rows));
    for (size_t j = 0; j < n; j++) {
        const uint64_t *column = system.by_component.words + j * system.by_component.stride;
        uint64_t kept = 0;
        for (size_t w = 0; w < system.by_component.stride; w++) kept += (uint64_t)__builtin_popcountll(column[w]);
        system.mean[j] = (double)kept / (double)m;
    }
    *out = system;
    return COAR_OK;
done:
    fit_system_free(&system);
    return status;
}

void fit_system_free(fit_system *system) {
    bit_columns_free(&system->by_mask);
    bit_columns_free(&system->by_component);
    free(system->mean);
    free(system->rows);
    memset(system, 0, sizeof *system);
}

/* Counts are replaced by doubles in place: at 22,720 components a second matrix would be 4 GiB. Writing through
 * memcpy gives the allocated bytes their new type. */
static void replace(int64_t *slot, double value) {
    memcpy(slot, &value, sizeof value);
}

/* (Xc' Xc)[j][k] = (m G[j][k] - c_j c_k) / m, c = diagonal of G. */
static void centre_gram(int64_t *gram, size_t n, size_t m, int64_t *count) {
    for (size_t j = 0; j < n; j++) count[j] = gram[j * n + j];
    for (size_t j = 0; j < n; j++)
        for (size_t k = 0; k < n; k++) {
            __int128 exact = (__int128)m * gram[j * n + k] - (__int128)count[j] * count[k];
            replace(&gram[j * n + k], (double)exact / (double)m);
        }
}

/* (Xc Xc')[i][k] = (m^2 K[i][k] - m (R_i + R_k) + T) / m^2, R = row sums of K, T = their sum: both sides of K lose
 * their mean. */
static void centre_kernel(int64_t *kernel, size_t m, int64_t *row) {
    __int128 total = 0;
    for (size_t i = 0; i < m; i++) {
        row[i] = 0;
        for (size_t k = 0; k < m; k++) row[i] += kernel[i * m + k];
        total += row[i];
    }
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < m; k++) {
            __int128 exact = (__int128)m * m * kernel[i * m + k] - (__int128)m * (row[i] + row[k]) + total;
            replace(&kernel[i * m + k], (double)exact / ((double)m * (double)m));
        }
}

coar_status fit_system_gram(const fit_system *system, bool dual, double **gram) {
    const bit_columns *side = dual ? &system->by_mask : &system->by_component;
    size_t p = side->count;
    int64_t *counts = NULL, *sums = NULL;
    coar_status status;
    TRY_GOTO(memory_new(p, p * sizeof *counts, "the Gram matrix", &counts));
    TRY_GOTO(memory_new(p, sizeof *sums, "the Gram matrix", &sums));
    TRY_GOTO(gram_share(side, system->pool, &system->shared, counts));
    if (dual)
        centre_kernel(counts, p, sums);
    else
        centre_gram(counts, p, system->by_mask.count, sums);
    *gram = (double *)counts;
    counts = NULL;
done:
    free(sums);
    free(counts);
    return status;
}

/* (Xc' y)[j] = (m C[j] - c_j S) / (m 2^shift), C the fixed-point cross product, S the sum of all outputs. */
coar_status fit_system_cross(const fit_system *system, const solver_block *block, double *cross) {
    size_t n = system->by_component.count, m = system->by_mask.count, E = block->count;
    int64_t *sums = NULL, *total = NULL;
    int *shift = NULL;
    coar_status status;
    TRY_GOTO(memory_new(n, E * sizeof *sums, "cross products", &sums));
    TRY_GOTO(memory_new(E, sizeof *total, "cross products", &total));
    TRY_GOTO(memory_new(E, sizeof *shift, "cross products", &shift));
    TRY_GOTO(cross_share(&system->by_component, block->y, E, system->pool, &system->shared, sums, total, shift));
    for (size_t j = 0; j < n; j++) {
        int64_t kept = llrint(system->mean[j] * (double)m);
        for (size_t z = 0; z < E; z++) {
            __int128 exact = (__int128)m * sums[j * E + z] - (__int128)kept * total[z];
            cross[j * E + z] = ldexp((double)exact / (double)m, -shift[z]);
        }
    }
done:
    free(shift);
    free(total);
    free(sums);
    return status;
}

void fit_centre(const float *y, size_t m, size_t E, double *mean, double *squares) {
    memset(mean, 0, E * sizeof *mean);
    memset(squares, 0, E * sizeof *squares);
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < E; z++) mean[z] += y[i * E + z];
    for (size_t z = 0; z < E; z++) mean[z] /= (double)m;
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < E; z++) {
            double d = y[i * E + z] - mean[z];
            squares[z] += d * d;
        }
}
