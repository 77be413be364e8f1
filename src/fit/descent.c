/*
 * descent.c - see descent.h (Hestenes and Stiefel 1952; Jacobi). Columns of independent masks are nearly orthogonal, so
 * that with m far from n eigenvalues lie around the diagonal and a dozen steps will do; with q the smaller of m/n and n/m
 * the eigenvalues of Xc' Xc end at (1 +- sqrt q)^2 (Marchenko and Pastur 1967), and without a penalty a step leaves
 * sqrt q of the residual. Products of masks are single precision but for descent_residual, everything else is double.
 */
#include "fit/descent.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

enum { L = OPERATOR_LANES };

double descent_memory(const fit_problem *problem, bool dual, int workers) {
    const double m = (double)problem->m, n = problem->n;
    return workers * (8 * L * ((dual ? 5 : 3) * m + 4 * n) + sizeof(descent_lanes) + operator_scratch_memory());
}

void descent_free(descent *d) {
    for (int k = 0; k < d->workers && d->lanes; k++) {
        descent_lanes *l = &d->lanes[k];
        double *all[] = {l->y,         l->fitted,  l->image, l->weight,        l->residual,
                         l->direction, l->product, l->dual,  l->dual_direction};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
        free(l->scratch);
    }
    free(d->lanes);
    *d = (descent){.system = NULL};
}

static coar_status lanes_create(size_t m, size_t n, bool dual, descent_lanes *l) {
    double **masks[] = {&l->y, &l->fitted, &l->image, &l->dual, &l->dual_direction};
    double **components[] = {&l->weight, &l->residual, &l->direction, &l->product};
    for (size_t i = 0; i < (dual ? 5 : 3); i++) TRY(memory_new(m, L * sizeof(double), "conjugate gradients", masks[i]));
    for (size_t i = 0; i < 4; i++) TRY(memory_new(n, L * sizeof(double), "conjugate gradients", components[i]));
    return operator_scratch_create(&l->scratch);
}

coar_status descent_create(const fit_system *system, bool dual, descent *out) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    descent d = {.system = system, .workers = thread_pool_size(system->pool)};
    coar_status status;
    TRY_GOTO(memory_new((size_t)d.workers, sizeof *d.lanes, "conjugate gradients", &d.lanes));
    for (int k = 0; k < d.workers; k++) TRY_GOTO(lanes_create(m, n, dual, &d.lanes[k]));
    *out = d;
    return COAR_OK;
done:
    descent_free(&d);
    return status;
}

double descent_mask_squares(const fit_system *system, size_t j) {
    return (double)system->by_mask.count * system->mean[j] * (1 - system->mean[j]);
}

void descent_centre(double *values, size_t length) {
    double sum[L] = {0};
    for (size_t i = 0; i < length; i++)
        for (size_t z = 0; z < L; z++) sum[z] += values[i * L + z];
    for (size_t i = 0; i < length; i++)
        for (size_t z = 0; z < L; z++) values[i * L + z] -= sum[z] / (double)length;
}

bool descent_is_open(const descent_lanes *l, size_t z) {
    return l->gap[z] > l->goal[z];
}

bool descent_any_open(const descent_lanes *l) {
    bool any = false;
    for (size_t z = 0; z < L; z++) any |= descent_is_open(l, z);
    return any;
}

void descent_load(const descent *d, const solver_block *block, size_t z0, size_t count, bool warm, descent_lanes *l) {
    const size_t m = d->system->by_mask.count, n = d->system->by_component.count, E = block->count;
    for (size_t z = 0; z < L; z++) {
        const double squares = z < count ? block->squares[z0 + z] : 0;
        l->scale[z] = squares > 0 ? sqrt(squares / (double)m) : 1;
        l->squares[z] = squares / (l->scale[z] * l->scale[z]);
        l->steps[z] = 0;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++)
            l->y[i * L + z] = z < count ? (block->y[i * E + z0 + z] - block->mean[z0 + z]) / l->scale[z] : 0;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++)
            l->weight[j * L + z] = warm && z < count ? block->weight[j * E + z0 + z] / l->scale[z] : 0;
    memset(l->fitted, 0, m * L * sizeof *l->fitted);
    if (l->dual) memset(l->dual, 0, m * L * sizeof *l->dual);
    if (!warm) return;
    operator_product(&d->system->by_mask, d->system->mean, l->weight, l->scratch, l->fitted);
    descent_centre(l->fitted, m);
}

/* p / D_j of a lane. */
static double own_penalty(const descent *d, const descent_lanes *l, size_t j, size_t z) {
    return d->prior ? l->penalty[z] / d->prior[j] : l->penalty[z];
}

/* gap = r' P^-1 r, and direction = P^-1 r + keep * direction. */
static void precondition(const descent *d, descent_lanes *l, double keep[L], const double before[L]) {
    const size_t n = d->system->by_component.count;
    memset(l->gap, 0, sizeof l->gap);
    for (size_t j = 0; j < n; j++) {
        const double own = descent_mask_squares(d->system, j);
        for (size_t z = 0; z < L; z++) {
            const double r = l->residual[j * L + z], better = d->plain ? r : r / (own + own_penalty(d, l, j, z));
            l->product[j * L + z] = better;
            l->gap[z] += r * better;
        }
    }
    for (size_t z = 0; z < L; z++) keep[z] = before && before[z] > 0 ? l->gap[z] / before[z] : 0;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++)
            l->direction[j * L + z] = l->product[j * L + z] + keep[z] * l->direction[j * L + z];
}

/* The plain direction is Xc' of this one. */
static void direct_dual(const descent *d, descent_lanes *l, const double keep[L]) {
    for (size_t i = 0; i < d->system->by_mask.count && l->dual; i++)
        for (size_t z = 0; z < L; z++)
            l->dual_direction[i * L + z] =
                l->y[i * L + z] - l->fitted[i * L + z] + keep[z] * l->dual_direction[i * L + z];
}

void descent_begin_at(const descent *d, descent_lanes *l) {
    double keep[L];
    precondition(d, l, keep, NULL);
    direct_dual(d, l, keep);
    if (l->trace) memset(l->trace->steps, 0, sizeof l->trace->steps);
}

void descent_begin(const descent *d, descent_lanes *l) {
    const size_t m = d->system->by_mask.count, n = d->system->by_component.count;
    for (size_t x = 0; x < m * L; x++) l->image[x] = l->y[x] - l->fitted[x];
    descent_centre(l->image, m);
    operator_product(&d->system->by_component, NULL, l->image, l->scratch, l->residual);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) l->residual[j * L + z] -= own_penalty(d, l, j, z) * l->weight[j * L + z];
    descent_begin_at(d, l);
}

/* The lengths of this step, and the share of each direction that the next one kept, into the trace. */
static void record(descent_lanes *l, const double length[L], const double keep[L]) {
    descent_trace *t = l->trace;
    for (size_t z = 0; z < L && t; z++) {
        if (!(length[z] > 0) || t->steps[z] == TRACE_STEPS_MAX) continue;
        t->length[t->steps[z]][z] = length[z];
        t->keep[t->steps[z]][z] = keep[z];
        t->steps[z]++;
    }
}

void descent_step(const descent *d, descent_lanes *l) {
    const fit_system *system = d->system;
    const size_t m = system->by_mask.count, n = system->by_component.count;
    double curvature[L] = {0}, length[L] = {0}, before[L], keep[L];
    operator_product(&system->by_mask, system->mean, l->direction, l->scratch, l->image);
    descent_centre(l->image, m);
    operator_product(&system->by_component, NULL, l->image, l->scratch, l->product);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->product[j * L + z] += own_penalty(d, l, j, z) * l->direction[j * L + z];
            curvature[z] += l->direction[j * L + z] * l->product[j * L + z];
        }
    for (size_t z = 0; z < L; z++)
        if (descent_is_open(l, z) && curvature[z] > 0) length[z] = l->gap[z] / curvature[z];
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->weight[j * L + z] += length[z] * l->direction[j * L + z];
            l->residual[j * L + z] -= length[z] * l->product[j * L + z];
        }
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) {
            l->fitted[i * L + z] += length[z] * l->image[i * L + z];
            if (l->dual) l->dual[i * L + z] += length[z] * l->dual_direction[i * L + z];
        }
    for (size_t z = 0; z < L; z++) l->steps[z] += length[z] > 0;
    memcpy(before, l->gap, sizeof before);
    precondition(d, l, keep, before);
    direct_dual(d, l, keep);
    record(l, length, keep);
}

void descent_residual(const descent *d, descent_lanes *l, double squares[L]) {
    const fit_system *system = d->system;
    const size_t m = system->by_mask.count, n = system->by_component.count;
    operator_product_double(&system->by_mask, system->mean, l->weight, l->scratch, l->fitted);
    descent_centre(l->fitted, m);
    for (size_t x = 0; x < m * L; x++) l->image[x] = l->y[x] - l->fitted[x];
    operator_product_double(&system->by_component, NULL, l->image, l->scratch, l->residual);
    memset(squares, 0, L * sizeof *squares);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->residual[j * L + z] -= own_penalty(d, l, j, z) * l->weight[j * L + z];
            squares[z] += l->residual[j * L + z] * l->residual[j * L + z];
        }
}
