/* leverage.c - see leverage.h. */
#include "fit/leverage.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "fit/conjugate.h"

enum { L = OPERATOR_LANES };

/* Degrees of freedom that differ by more than this from those of independent masks; random vectors measure them to a
 * few in a thousand. */
#define FOREIGN .05

typedef struct sums_job {
    const descent *descent;
    size_t columns;
    leverage_variance variance;
    const void *context;
    double *sums;
} sums_job;

/* L columns, from task * L on. (x_ij)^2 = x_ij (1 - 2 mean_j) + mean_j (1 - mean_j), so that it is one product with the
 * masks. */
static coar_status add_columns(void *context, size_t task, int worker) {
    const sums_job *job = context;
    const fit_system *system = job->descent->system;
    descent_lanes *l = &job->descent->lanes[worker];
    const size_t m = system->by_mask.count, n = system->by_component.count, first = task * L;
    const size_t count = job->columns - first < L ? job->columns - first : L;
    double mean_square[L] = {0};
    for (size_t j = 0; j < n; j++)
        for (size_t k = 0; k < L; k++) {
            const double mean = system->mean[j], c = job->variance(job->context, j, k < count ? first + k : first);
            l->weight[j * L + k] = (1 - 2 * mean) * c;
            mean_square[k] += mean * (1 - mean) * c;
        }
    operator_product(&system->by_mask, system->mean, l->weight, l->scratch, l->image);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < count; k++)
            job->sums[i * job->columns + first + k] = fmax(l->image[i * L + k] + mean_square[k], 0);
    return COAR_OK;
}

coar_status leverage_sums(const descent *d, size_t columns, leverage_variance variance, const void *context,
                          double *sums) {
    sums_job job = {d, columns, variance, context, sums};
    return thread_pool_run(d->system->pool, (columns + L - 1) / L, add_columns, &job);
}

coar_status leverage_check(const fit_system *system, const char *what) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    conjugate c = {.information = NULL};
    double *equal = NULL;
    coar_status status;
    TRY_GOTO(memory_new(n, sizeof *equal, "prior variances", &equal));
    TRY_GOTO(conjugate_create(system, &c));
    for (size_t j = 0; j < n; j++) equal[j] = 1;
    conjugate_believe(&c, equal);
    const double expected = (double)m - 1 - c.resolvent.grid.left[PENALTY_MIDDLE];
    const double measured = conjugate_freedom(&c, PENALTY_MIDDLE);
    log_info(system->callbacks,
             "fit: %s of %zu masks and %zu components by conjugate gradients; %.1f degrees of freedom at the mean "
             "eigenvalue, %.1f for independent masks",
             what, m, n, measured, expected);
    if (fabs(measured - expected) > FOREIGN * expected)
        log_warning(
            system->callbacks,
            "fit: these masks were not drawn independently of each other and component by component: penalties, "
            "held-out correlations and standard errors are guesses for them (%.1f degrees of freedom, not %.1f); "
            "--solver direct makes no such assumption",
            measured, expected);
done:
    conjugate_free(&c);
    free(equal);
    return status;
}
