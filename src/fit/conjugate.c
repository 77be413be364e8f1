/*
 * conjugate.c - see conjugate.h. With r a descent's residual and P its preconditioner, |x_j|^2 + p / D_j, r' P^-1 r is
 * about what the penalised squares are above their minimum; it is compared with the squares of y. Components that the
 * prior thinks nothing of have p / D_j alone: eigenvalues lie around 1 and a dozen steps will do.
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
    return 8. * problem->n + descent_memory(problem, false, workers);
}

void conjugate_free(conjugate *c) {
    descent_free(&c->descent);
    free(c->information);
    free(c->unsolved);
    *c = (conjugate){.information = NULL};
}

coar_status conjugate_create(const fit_system *system, conjugate *out) {
    const size_t n = system->by_component.count;
    conjugate c = {.information = NULL};
    coar_status status;
    TRY_GOTO(descent_create(system, false, &c.descent));
    TRY_GOTO(memory_new(n, sizeof *c.information, "conjugate gradients", &c.information));
    TRY_GOTO(memory_new((size_t)c.descent.workers, sizeof *c.unsolved, "conjugate gradients", &c.unsolved));
    *out = c;
    return COAR_OK;
done:
    conjugate_free(&c);
    return status;
}

void conjugate_believe(conjugate *c, const double *prior) {
    const fit_system *system = c->descent.system;
    const size_t n = system->by_component.count;
    c->descent.prior = prior;
    for (size_t j = 0; j < n; j++) c->information[j] = prior[j] * descent_mask_squares(system, j);
    resolvent_create(c->information, n, system->by_mask.count, &c->resolvent);
}

/* A lane that is not taken stays as it is. */
static void descend(const conjugate *c, descent_lanes *l, const bool taken[L], double tolerance) {
    for (size_t z = 0; z < L; z++) l->goal[z] = taken[z] ? tolerance * tolerance * l->squares[z] : INFINITY;
    descent_begin(&c->descent, l);
    for (size_t s = 0; s < CONJUGATE_STEPS_MAX && descent_any_open(l); s++) descent_step(&c->descent, l);
}

/* ------------------------------------------------------------------------------------ penalties of the lanes */

static void set_penalties(const conjugate *c, const uint32_t choice[L], descent_lanes *l) {
    for (size_t z = 0; z < L; z++) l->penalty[z] = c->resolvent.grid.penalty[choice[z]];
}

static void measure(const conjugate *c, const descent_lanes *l, const uint32_t choice[L], solved_squares solved[L]) {
    const fit_system *system = c->descent.system;
    const size_t m = system->by_mask.count, n = system->by_component.count;
    double residual[L] = {0}, prior[L] = {0};
    for (size_t i = 0; i < m; i++)
        for (size_t z = 0; z < L; z++) {
            const double e = l->y[i * L + z] - l->fitted[i * L + z];
            residual[z] += e * e;
        }
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < L; z++) prior[z] += l->weight[j * L + z] * l->weight[j * L + z] / c->descent.prior[j];
    for (size_t z = 0; z < L; z++)
        solved[z] = (solved_squares){choice[z], l->squares[z], residual[z], residual[z] + l->penalty[z] * prior[z]};
}

/* Each example goes to the penalty that the evidence prefers, until that is next to where it was; then its penalty
 * stays, whatever the other lanes do. */
static void find_penalties(const conjugate *c, descent_lanes *l, uint32_t choice[L]) {
    bool looking[L];
    solved_squares solved[L];
    for (size_t z = 0; z < L; z++) looking[z] = true;
    for (int attempt = 0; attempt < TRIES; attempt++) {
        bool any = false;
        descend(c, l, looking, COARSE);
        measure(c, l, choice, solved);
        for (size_t z = 0; z < L; z++) {
            if (!looking[z]) continue;
            const uint32_t better = resolvent_choose(&c->resolvent, &solved[z]);
            looking[z] = (better > choice[z] ? better - choice[z] : choice[z] - better) > 1;
            choice[z] = better;
            any |= looking[z];
        }
        set_penalties(c, choice, l);
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

/* Whether any of the examples starts from weights. */
static bool is_warm(const solver_block *block, size_t n, size_t z0, size_t count) {
    bool warm = false;
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < count; z++) warm |= block->weight[j * block->count + z0 + z] != 0;
    return warm;
}

static void store(const conjugate *c, solver_block *block, size_t z0, size_t count, const descent_lanes *l,
                  const uint32_t choice[L], double *penalised) {
    const size_t n = c->descent.system->by_component.count, E = block->count;
    solved_squares solved[L];
    measure(c, l, choice, solved);
    for (size_t j = 0; j < n; j++)
        for (size_t z = 0; z < count; z++) block->weight[j * E + z0 + z] = l->weight[j * L + z] * l->scale[z];
    for (size_t z = 0; z < count; z++) {
        block->choice[z0 + z] = choice[z];
        block->penalty[z0 + z] = l->penalty[z];
        block->left[z0 + z] = c->resolvent.grid.left[choice[z]];
        penalised[z0 + z] = solved[z].penalised * l->scale[z] * l->scale[z];
    }
}

static coar_status solve_lanes(void *context, size_t task, int worker) {
    const lanes_job *job = context;
    conjugate *c = job->conjugate;
    descent_lanes *l = &c->descent.lanes[worker];
    solver_block *block = job->job->blocks;
    double *penalised = job->job->penalised;
    uint32_t choice[L];
    bool all[L];
    task += job->first;
    for (; task >= lanes_of(block); block++) {
        task -= lanes_of(block);
        penalised += block->count;
    }
    const size_t z0 = task * L, count = block->count - z0 < L ? block->count - z0 : L;
    for (size_t z = 0; z < L; z++) {
        all[z] = true;
        choice[z] = z < count ? block->choice[z0 + z] : PENALTIES - 1;
    }
    descent_load(&c->descent, block, z0, count, is_warm(block, c->descent.system->by_component.count, z0, count), l);
    set_penalties(c, choice, l);
    find_penalties(c, l, choice);
    descend(c, l, all, job->job->tolerance);
    store(c, block, z0, count, l, choice, penalised);
    for (size_t z = 0; z < count; z++) c->unsolved[worker] += descent_is_open(l, z);
    return COAR_OK;
}

size_t conjugate_unsolved(const conjugate *c) {
    size_t unsolved = 0;
    for (int k = 0; k < c->descent.workers; k++) unsolved += c->unsolved[k];
    return unsolved;
}

coar_status conjugate_solve(conjugate *c, const conjugate_job *job) {
    lanes_job lanes = {.conjugate = c, .job = job};
    size_t tasks = 0, examples = 0;
    for (size_t b = 0; b < job->count; b++) tasks += lanes_of(&job->blocks[b]), examples += job->blocks[b].count;
    const size_t slice = 2 * (size_t)c->descent.workers; /* enough that nobody waits long, and a stop comes soon */
    for (; lanes.first < tasks; lanes.first += slice) {
        const size_t count = tasks - lanes.first < slice ? tasks - lanes.first : slice;
        TRY(thread_pool_run(c->descent.system->pool, count, solve_lanes, &lanes));
        const size_t solved = (lanes.first + count) * L;
        if (job->progress && progress_update(job->progress, job->done + (solved < examples ? solved : examples)))
            return status_set(COAR_STOPPED, "the fit was stopped; nothing of it is kept");
    }
    return COAR_OK;
}

double conjugate_freedom(conjugate *c, uint32_t choice) {
    const fit_system *system = c->descent.system;
    const size_t m = system->by_mask.count, n = system->by_component.count;
    descent_lanes *l = &c->descent.lanes[0];
    uint32_t choices[L];
    solved_squares solved[L];
    bool all[L];
    double sum = 0;
    _Static_assert(L <= 4 * 32, "a bit of one block of words for each lane");
    for (size_t i = 0; i < m; i++) {
        uint32_t words[4];
        philox_words(0, PHILOX_STREAM_PROBES, i, 0, words);
        for (size_t z = 0; z < L; z++) l->y[i * L + z] = words[z / 32] >> (z % 32) & 1 ? 1 : -1;
    }
    descent_centre(l->y, m);
    memset(l->fitted, 0, m * L * sizeof *l->fitted);
    memset(l->weight, 0, n * L * sizeof *l->weight);
    for (size_t z = 0; z < L; z++) {
        choices[z] = choice;
        l->squares[z] = 0;
        for (size_t i = 0; i < m; i++) l->squares[z] += l->y[i * L + z] * l->y[i * L + z];
        all[z] = true;
    }
    set_penalties(c, choices, l);
    descend(c, l, all, COARSE);
    measure(c, l, choices, solved);
    for (size_t z = 0; z < L; z++) sum += solved[z].squares - solved[z].penalised;
    return sum / L;
}
