/*
 * planted.c - times a fit that is like the job's: the same estimator on masks of its sampler, outputs of a few planted
 * components and noise, and gradients about them. It has the job's own sizes where these take seconds; else examples first and
 * then masks and components are fewer, in proportion, and operations (fit/work.h) say what the rest would take.
 * Must not know: runs, what the job's outputs are.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate/run_masks.h"
#include "core/memory.h"
#include "fit/solver.h"
#include "fit/work.h"
#include "forecast/forecast.h"
#include "store/store.h"

enum {
    PLANTED = 16,         /* components that matter to an example */
    EXAMPLES_LEAST = 128, /* a whole chunk of a sample */
    COMPONENTS_LEAST = 64,
    VALUES_MOST = 1 << 24, /* outputs held, 64 MiB; also of gradients' sums */
    SHARED_MOST = 1 << 20, /* weights whose compression is looked at */
};

/* Operations a second of one core that the size is chosen by, before any is measured: small fits make 2e9 to 7e9. */
#define SLOW_CORE 4e9

typedef struct planted {
    fit_problem problem;
    fit_gradients gradients;
    uint8_t *masks;
    float *y; /* [m][N] */
    float *baseline;
    double *squares_of_component, *squares_of_example;
    double probability[LEVELS];
    const char *beside; /* NULL: weights are not stored */
    double share;
} planted;

static void planted_free(planted *p) {
    free(p->masks);
    free(p->y);
    free(p->baseline);
    free(p->squares_of_component);
    free(p->squares_of_example);
}

/* ------------------------------------------------------------------------------------------------- values */

/* Uniform in [-1, 1), a function of x alone (the mixing steps of splitmix64). */
static double noise(uint64_t x) {
    x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)(int64_t)(x ^ x >> 31) * 0x1p-63;
}

static uint32_t planted_component(const planted *p, uint64_t z, uint64_t c) {
    return (uint32_t)((z * 7919 + (c + 1) * 104729) % p->problem.n);
}

static double planted_weight(uint64_t z, uint64_t c) {
    return noise(z << 8 | c);
}

static void plant(planted *p) {
    const fit_problem *of = &p->problem;
    const size_t row = mask_bytes(of->n);
    for (uint64_t i = 0; i < of->m; i++)
        for (uint64_t z = 0; z < of->N; z++) {
            double y = noise(i << 32 | z);
            for (uint64_t c = 0; c < PLANTED; c++) {
                const uint32_t j = planted_component(p, z, c);
                if (p->masks[i * row + j / 8] >> (j & 7) & 1) y += 4 * planted_weight(z, c);
            }
            p->y[i * of->N + z] = (float)y;
        }
}

static coar_status read_outputs(void *context, uint64_t first, uint64_t count, float *y) {
    const planted *p = context;
    const uint64_t N = p->problem.N;
    for (uint64_t i = 0; i < p->problem.m; i++) memcpy(y + i * count, p->y + i * N + first, count * sizeof *y);
    return COAR_OK;
}

static coar_status read_sums(void *context, uint64_t first, uint64_t count, double *sums) {
    const planted *p = context;
    const size_t n = p->problem.n;
    for (size_t l = 0; l < LEVELS; l++)
        for (uint64_t e = 0; e < count; e++) {
            double *of = sums + (l * count + e) * n;
            const double passes = p->gradients.passes * p->probability[l], z = (double)(first + e);
            for (size_t j = 0; j < n; j++) of[j] = .2 * sqrt(passes) * noise((uint64_t)z << 32 | j << 2 | l);
            for (uint64_t c = 0; c < PLANTED; c++)
                of[planted_component(p, first + e, c)] += 4 * passes * planted_weight(first + e, c);
        }
    return COAR_OK;
}

/* Squares of one derivative beyond those of the averages, so that there is noise to be told. */
static coar_status plant_gradients(planted *p, const forecast_job *f) {
    fit_problem *of = &p->problem;
    TRY(memory_new(of->n, LEVELS * sizeof(double), "gradients", &p->squares_of_component));
    TRY(memory_new(of->N, LEVELS * sizeof(double), "gradients", &p->squares_of_example));
    TRY(memory_new(of->N, sizeof(float), "gradients", &p->baseline));
    level_probabilities(f->alpha, p->probability);
    for (size_t l = 0; l < LEVELS; l++) {
        const double passes = p->gradients.passes * p->probability[l];
        for (size_t j = 0; j < of->n; j++) p->squares_of_component[l * of->n + j] = passes * (double)of->N;
        for (size_t z = 0; z < of->N; z++) p->squares_of_example[l * of->N + z] = passes * of->n;
    }
    p->gradients.masks.n = of->n;
    p->gradients.read = read_sums;
    p->gradients.context = p;
    p->gradients.squares_of_component = p->squares_of_component;
    p->gradients.squares_of_example = p->squares_of_example;
    p->gradients.baseline = p->baseline;
    of->gradients = &p->gradients;
    return COAR_OK;
}

/* -------------------------------------------------------------------------------------------------- sizes */

static bool small_enough(const fit_problem *problem, const fit_settings *settings, double operations) {
    const double N = (double)problem->N;
    const double sums = problem->gradients ? LEVELS * (double)problem->n * N : 0;
    return fit_work(problem, settings) <= operations && (double)problem->m * N <= VALUES_MOST && sums <= VALUES_MOST;
}

/* Masks and components stay in proportion: which of them is the smaller side decides what is computed. */
static void choose_size(fit_problem *problem, const fit_settings *settings, double operations) {
    const double m = (double)problem->m, n = problem->n;
    double scale = 1;
    while (!small_enough(problem, settings, operations)) {
        if (problem->N > EXAMPLES_LEAST) {
            problem->N = problem->N / 2 > EXAMPLES_LEAST ? problem->N / 2 : EXAMPLES_LEAST;
            continue;
        }
        scale *= .8;
        if (n * scale < COMPONENTS_LEAST || m * scale < COMPONENTS_LEAST) return;
        problem->n = (uint32_t)(n * scale);
        problem->m = problem->leave_one_out ? (uint64_t)problem->n + 1 : (uint64_t)(m * scale);
    }
}

/* ----------------------------------------------------------------------------------------------------- fit */

static coar_status take_block(void *context, const fit_result_block *block) {
    planted *p = context;
    const uint64_t fitting = SHARED_MOST / p->problem.n, rows = block->count < fitting ? block->count : fitting;
    store_probe probe;
    if (!p->beside || block->first || !rows) return COAR_OK;
    TRY(store_probe_array(p->beside, false, rows, p->problem.n, block->weight, &probe));
    p->share = probe.stored / ((double)rows * p->problem.n * sizeof(float));
    return COAR_OK;
}

coar_status forecast_time_fit(const forecast_job *f, const forecast_fit *fit, thread_pool *pool, double seconds,
                              const char *beside, double *operation, double *share) {
    planted p = {.beside = share ? beside : NULL, .share = 1};
    coar_status status;
    fit_summary summary;
    p.problem = forecast_problem(f, fit, &p.gradients);
    fit_settings settings = {.estimator = fit->estimator,
                             .standard_errors = f->o->standard_errors,
                             .pool = pool,
                             .memory = f->o->ablate.memory};
    settings.form = fit_is_iterative(&p.problem, &settings) ? FIT_ITERATIVE : FIT_DIRECT; /* whatever its size is */
    choose_size(&p.problem, &settings, seconds * SLOW_CORE * thread_pool_size(pool));
    sampler masks = forecast_sampler(f);
    masks.n = p.problem.n;
    p.problem.groups = 0;
    p.problem.read = read_outputs;
    p.problem.context = &p;
    TRY_GOTO(run_masks_pack(&masks, 0, p.problem.m, pool, "planted masks", &p.masks));
    TRY_GOTO(memory_new((size_t)p.problem.m, p.problem.N * sizeof(float), "planted outputs", &p.y));
    p.problem.masks = p.masks;
    plant(&p);
    if (p.problem.gradients) TRY_GOTO(plant_gradients(&p, f));
    const double start = clock_seconds();
    TRY_GOTO(fit_solve(&p.problem, &settings, take_block, &p, &summary));
    *operation = (clock_seconds() - start) / fit_work(&p.problem, &settings);
    if (share) *share = p.share;
done:
    planted_free(&p);
    return status;
}
