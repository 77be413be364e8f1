/*
 * conjugate.c - see conjugate.h. The equations of an example, in the components,
 *
 *   (Xc' Xc + p D^-1) w = Xc' y,    preconditioned by their diagonal |x_j|^2 + p / D_j
 *
 * (Hestenes and Stiefel 1952; Jacobi). Columns of independent masks are nearly orthogonal, and components that the
 * prior thinks nothing of have p / D_j alone: eigenvalues lie around 1 and a dozen steps will do. With r the residual
 * and P the preconditioner, r' P^-1 r is about what the penalised squares are above their minimum; it is compared with
 * the squares of y. Products of masks are single precision, everything else is double.
 */
#include "fit/conjugate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/philox.h"

enum { L = OPERATOR_LANES, TRIES = 8 };

/* While the penalty is looked for: its criterion needs the squares to a few digits. */
#define COARSE 2e-2

double conjugate_memory(const fit_problem *problem, int workers) {
    const double m = (double)problem->m, n = problem->n;
    return 8 * n + workers * (8 * L * (3 * m + 4 * n) + sizeof(conjugate_lanes) + operator_scratch_memory());
}

void conjugate_free(conjugate *c) {
    for (int k = 0; k < c->workers && c->lanes; k++) {
        conjugate_lanes *l = &c->lanes[k];
        double *all[] = {l->y, l->fitted, l->image, l->weight, l->residual, l->direction, l->product};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
        free(l->scratch);
    }
    free(c->lanes);
    free(c->information);
    *c = (conjugate){.system = NULL};
}

static coar_status lanes_create(size_t m, size_t n, conjugate_lanes *l) {
    double **masks[] = {&l->y, &l->fitted, &l->image};
    double **components[] = {&l->weight, &l->residual, &l->direction, &l->product};
    for (size_t i = 0; i < 3; i++) TRY(memory_new(m, L * sizeof(double), "conjugate gradients", masks[i]));
    for (size_t i = 0; i < 4; i++) TRY(memory_new(n, L * sizeof(double), "conjugate gradients", components[i]));
    return operator_scratch_create(&l->scratch);
}

coar_status conjugate_create(const fit_system *system, conjugate *out) {
    const size_t m = system->by_mask.count, n = system->by_component.count;
    conjugate c = {.system = system, .workers = thread_pool_size(system->pool)};
    coar_status status;
    TRY_GOTO(memory_new(n, sizeof *c.information, "conjugate gradients", &c.information));
    TRY_GOTO(memory_new((size_t)c.workers, sizeof *c.lanes, "conjugate gradients", &c.lanes));
    for (int k = 0; k < c.workers; k++) TRY_GOTO(lanes_create(m, n, &c.lanes[k]));
    *out = c;
    return COAR_OK;
done:
    conjugate_free(&c);
    return status;
}

/* |x_j|^2 of the centred column. */
static double mask_squares(const fit_system *system, size_t j) {
    return (double)system->by_mask.count * system->mean[j] * (1 - system->mean[j]);
}

void conjugate_believe(conjugate *c, const double *prior) {
    const size_t n = c->system->by_component.count;
    c->prior = prior;
    for (size_t j = 0; j < n; j++) c->information[j] = prior[j] * mask_squares(c->system, j);
    resolvent_create(c->information, n, c->system->by_mask.count, &c->resolvent);
}

/* --------------------------------------------------------------------------------------------- one descent */

static bool is_open(const conjugate_lanes *l, size_t z, double tolerance) {
    return l->gap[z] > tolerance * tolerance * l->squares[z];
}

static bool any_open(const conjugate_lanes *l, const bool taken[L], double tolerance) {
    bool any = false;
    for (size_t z = 0; z < L; z++) any |= taken[z] && is_open(l, z, tolerance);
    return any;
}

/* Rounding leaves sums that are not quite 0; Xc' would see them (operator.h). */
static void centre(double *values, size_t m) {
    double sum[L] = {0};
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) sum[z] += values[i * L + z];
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) values[i * L + z] -= sum[z] / (double)m;
}

/* gap = r' P^-1 r, and direction = P^-1 r + keep * direction. */
static void precondition(const conjugate *c, conjugate_lanes *l, const double before[L]) {
    const size_t n = c->system->by_component.count;
    double keep[L];
    memset(l->gap, 0, sizeof l->gap);
    for (size_t j = 0; j < n; j++) {
        const double own = mask_squares(c->system, j), prior = c->prior[j];
        for (size_t z = 0; z < L; z++) {
            const double r = l->residual[j * L + z], better = r / (own + l->penalty[z] / prior);
            l->product[j * L + z] = better;
            l->gap[z] += r * better;
        }
    }
    for (size_t z = 0; z < L; z++) keep[z] = before && before[z] > 0 ? l->gap[z] / before[z] : 0;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++)
            l->direction[j * L + z] = l->product[j * L + z] + keep[z] * l->direction[j * L + z];
}

/* r = Xc' (y - Xc w) - p D^-1 w, and the first direction. */
static void start(const conjugate *c, conjugate_lanes *l) {
    const size_t m = c->system->by_mask.count, n = c->system->by_component.count;
    for (size_t x = 0; x < m * L; x++) l->image[x] = l->y[x] - l->fitted[x];
    centre(l->image, m);
    operator_product(&c->system->by_component, NULL, l->image, l->scratch, l->residual);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) l->residual[j * L + z] -= l->penalty[z] / c->prior[j] * l->weight[j * L + z];
    precondition(c, l, NULL);
}

/* One step of the lanes that are taken and not there yet; the others stay as they are. */
static void step(const conjugate *c, conjugate_lanes *l, const bool taken[L], double tolerance) {
    const fit_system *system = c->system;
    const size_t m = system->by_mask.count, n = system->by_component.count;
    double curvature[L] = {0}, length[L] = {0}, before[L];
    operator_product(&system->by_mask, system->mean, l->direction, l->scratch, l->image);
    centre(l->image, m);
    operator_product(&system->by_component, NULL, l->image, l->scratch, l->product);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->product[j * L + z] += l->penalty[z] / c->prior[j] * l->direction[j * L + z];
            curvature[z] += l->direction[j * L + z] * l->product[j * L + z];
        }
    for (size_t z = 0; z < L; z++)
        if (taken[z] && is_open(l, z, tolerance) && curvature[z] > 0) length[z] = l->gap[z] / curvature[z];
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->weight[j * L + z] += length[z] * l->direction[j * L + z];
            l->residual[j * L + z] -= length[z] * l->product[j * L + z];
        }
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) l->fitted[i * L + z] += length[z] * l->image[i * L + z];
    memcpy(before, l->gap, sizeof before);
    precondition(c, l, before);
}

static void descend(const conjugate *c, conjugate_lanes *l, const bool taken[L], double tolerance) {
    start(c, l);
    for (size_t s = 0; s < CONJUGATE_STEPS_MAX && any_open(l, taken, tolerance); s++) step(c, l, taken, tolerance);
}

/* ------------------------------------------------------------------------------------ penalties of the lanes */

static void set_penalties(const conjugate *c, conjugate_lanes *l) {
    for (size_t z = 0; z < L; z++) l->penalty[z] = c->resolvent.grid.penalty[l->choice[z]];
}

static void measure(const conjugate *c, const conjugate_lanes *l, solved_squares solved[L]) {
    const size_t m = c->system->by_mask.count, n = c->system->by_component.count;
    double residual[L] = {0}, prior[L] = {0};
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) {
            const double e = l->y[i * L + z] - l->fitted[i * L + z];
            residual[z] += e * e;
        }
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) prior[z] += l->weight[j * L + z] * l->weight[j * L + z] / c->prior[j];
    for (size_t z = 0; z < L; z++)
        solved[z] = (solved_squares){l->choice[z], l->squares[z], residual[z], residual[z] + l->penalty[z] * prior[z]};
}

/* Each example goes to the penalty that the evidence prefers, until that is next to where it was; then its penalty
 * stays, whatever the other lanes do. */
static void find_penalties(const conjugate *c, conjugate_lanes *l) {
    bool looking[L];
    solved_squares solved[L];
    for (size_t z = 0; z < L; z++) looking[z] = true;
    for (int attempt = 0; attempt < TRIES; attempt++) {
        bool any = false;
        descend(c, l, looking, COARSE);
        measure(c, l, solved);
        for (size_t z = 0; z < L; z++) {
            if (!looking[z]) continue;
            const uint32_t better = resolvent_choose(&c->resolvent, &solved[z]);
            looking[z] = (better > l->choice[z] ? better - l->choice[z] : l->choice[z] - better) > 1;
            l->choice[z] = better;
            any |= looking[z];
        }
        set_penalties(c, l);
        if (!any) return;
    }
}

/* ------------------------------------------------------------------------------------------------- tasks */

typedef struct lanes_job {
    conjugate *conjugate;
    const conjugate_job *job;
    size_t first; /* task of the slice's task 0 */
} lanes_job;

static size_t lanes_of(const solver_block *block) {
    return (block->count + L - 1) / L;
}

/* The examples z0 .. z0 + count - 1 of the block into the lanes; the lanes that are left over have outputs 0. */
static void load(const conjugate *c, const solver_block *block, size_t z0, size_t count, conjugate_lanes *l) {
    const size_t m = c->system->by_mask.count, n = c->system->by_component.count, E = block->count;
    bool warm = false;
    for (size_t z = 0; z < L; z++) {
        const double squares = z < count ? block->squares[z0 + z] : 0;
        l->scale[z] = squares > 0 ? sqrt(squares / (double)m) : 1;
        l->squares[z] = squares / (l->scale[z] * l->scale[z]);
        l->choice[z] = z < count ? block->choice[z0 + z] : PENALTIES - 1;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++)
            l->y[i * L + z] = z < count ? (block->y[i * E + z0 + z] - block->mean[z0 + z]) / l->scale[z] : 0;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) {
            l->weight[j * L + z] = z < count ? block->weight[j * E + z0 + z] / l->scale[z] : 0;
            warm |= l->weight[j * L + z] != 0;
        }
    memset(l->fitted, 0, m * L * sizeof *l->fitted);
    if (warm) operator_product(&c->system->by_mask, c->system->mean, l->weight, l->scratch, l->fitted);
    if (warm) centre(l->fitted, m);
}

static void store(const conjugate *c, solver_block *block, size_t z0, size_t count, const conjugate_lanes *l,
                  double *penalised) {
    const size_t n = c->system->by_component.count, E = block->count;
    solved_squares solved[L];
    measure(c, l, solved);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < count; z++) block->weight[j * E + z0 + z] = l->weight[j * L + z] * l->scale[z];
    for (size_t z = 0; z < count; z++) {
        block->choice[z0 + z] = l->choice[z];
        block->penalty[z0 + z] = l->penalty[z];
        block->left[z0 + z] = c->resolvent.grid.left[l->choice[z]];
        penalised[z0 + z] = solved[z].penalised * l->scale[z] * l->scale[z];
    }
}

static coar_status solve_lanes(void *context, size_t task, int worker) {
    const lanes_job *job = context;
    conjugate *c = job->conjugate;
    conjugate_lanes *l = &c->lanes[worker];
    solver_block *block = job->job->blocks;
    double *penalised = job->job->penalised;
    bool all[L];
    task += job->first;
    for (; task >= lanes_of(block); block++) {
        task -= lanes_of(block);
        penalised += block->count;
    }
    const size_t z0 = task * L, count = block->count - z0 < L ? block->count - z0 : L;
    for (size_t z = 0; z < L; z++) all[z] = true;
    load(c, block, z0, count, l);
    set_penalties(c, l);
    find_penalties(c, l);
    descend(c, l, all, job->job->tolerance);
    store(c, block, z0, count, l, penalised);
    for (size_t z = 0; z < count; z++) l->unsolved += is_open(l, z, job->job->tolerance);
    return COAR_OK;
}

size_t conjugate_unsolved(const conjugate *c) {
    size_t unsolved = 0;
    for (int k = 0; k < c->workers; k++) unsolved += c->lanes[k].unsolved;
    return unsolved;
}

coar_status conjugate_solve(conjugate *c, const conjugate_job *job) {
    lanes_job lanes = {.conjugate = c, .job = job};
    size_t tasks = 0, examples = 0;
    for (size_t b = 0; b < job->count; b++) tasks += lanes_of(&job->blocks[b]), examples += job->blocks[b].count;
    const size_t slice = 2 * (size_t)c->workers; /* enough that nobody waits long, and a stop comes soon */
    for (; lanes.first < tasks; lanes.first += slice) {
        const size_t count = tasks - lanes.first < slice ? tasks - lanes.first : slice;
        TRY(thread_pool_run(c->system->pool, count, solve_lanes, &lanes));
        const size_t solved = (lanes.first + count) * L;
        if (job->progress && progress_update(job->progress, job->done + (solved < examples ? solved : examples)))
            return status_set(COAR_STOPPED, "the fit was stopped; nothing of it is kept");
    }
    return COAR_OK;
}

double conjugate_freedom(conjugate *c, uint32_t choice) {
    const size_t m = c->system->by_mask.count, n = c->system->by_component.count;
    conjugate_lanes *l = &c->lanes[0];
    solved_squares solved[L];
    bool all[L];
    double sum = 0;
    _Static_assert(L <= 4 * 32, "a bit of one block of words for each lane");
    for (size_t i = 0; i < m; i++) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_PROBES, i, 0, words);
        for (size_t z = 0; z < L; z++) l->y[i * L + z] = words[z / 32] >> (z % 32) & 1 ? 1 : -1;
    }
    centre(l->y, m);
    memset(l->fitted, 0, m * L * sizeof *l->fitted);
    memset(l->weight, 0, n * L * sizeof *l->weight);
    for (size_t z = 0; z < L; z++) {
        l->choice[z] = choice;
        l->squares[z] = 0;
        for (size_t i = 0; i < m; i++) l->squares[z] += l->y[i * L + z] * l->y[i * L + z];
        all[z] = true;
    }
    set_penalties(c, l);
    descend(c, l, all, COARSE);
    measure(c, l, solved);
    for (size_t z = 0; z < L; z++) sum += solved[z].squares - solved[z].penalised;
    return sum / L;
}
