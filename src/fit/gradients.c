/*
 * gradients.c - see gradients.h.
 *
 * Noise: the squares q about the averages. Only their sums over examples (per component) and over components (per
 * example) are stored, so the variance of one derivative is taken to be a product, v_l[j] u_l[z]:
 *   v_l[j] = (q_l[j] - sum_z S^2/c) / sum_z (c - 1),   u_l[z] = (q_l[z] - sum_j S^2/c) / the same of v,
 * sums over what was seen at least once. Squares per component are those of intact blocks, without broken examples: so
 * are all sums beside them, and the moments of combine.c. The mean square error of a weight is sum_l a_l^2 v_l u_l / c_l + bias u_1.
 */
#include "fit/gradients.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

double gradient_memory(const fit_problem *problem) {
    const double n = problem->n, N = (double)problem->N;
    return n * (LEVELS * (8 * (LEVELS_BLOCK + 4) + 4) + LEVELS_CYCLE + 12) + N * (16 * LEVELS + 1) +
           problem->groups * (double)(sizeof(level_model) + sizeof(level_moments));
}

void gradient_average_free(gradient_average *g) {
    free(g->broken);
    free(g->noise);
    free(g->loudness);
    free(g->model);
    free(g->group);
    free(g->sums);
    free(g->counts);
    free(g->coefficient);
    free(g->bias);
    free(g->level);
    *g = (gradient_average){.source = NULL};
}

/* Sums, counts and coefficients of the block that holds example z. */
static coar_status hold(gradient_average *g, uint64_t z) {
    const uint64_t block = z / LEVELS_BLOCK, first = block * LEVELS_BLOCK, left = g->N - first;
    if (block == g->block) return COAR_OK;
    g->block = UINT64_MAX;
    TRY(g->source->read(g->source->context, first, left < LEVELS_BLOCK ? left : LEVELS_BLOCK, g->sums));
    level_counts(&g->source->masks, block, g->source->passes, g->counts, g->level);
    for (size_t j = 0; j < g->n; j++) {
        uint32_t count[LEVELS];
        double coefficient[LEVELS];
        for (size_t l = 0; l < LEVELS; l++) count[l] = g->counts[l * g->n + j];
        combine_coefficients(&g->model[g->group[j]], count, coefficient);
        for (size_t l = 0; l < LEVELS; l++) g->coefficient[l * g->n + j] = coefficient[l];
        g->bias[j] = combine_bias(&g->model[g->group[j]], count, coefficient);
    }
    g->block = block;
    return COAR_OK;
}

/* [n] of example z, of the block held. */
static const double *sums_of(const gradient_average *g, size_t level, uint64_t z) {
    const uint64_t first = g->block * LEVELS_BLOCK, left = g->N - first;
    const size_t count = left < LEVELS_BLOCK ? (size_t)left : LEVELS_BLOCK;
    return g->sums + (level * count + (z - first)) * g->n;
}

/* ----------------------------------------------------------------------------------------------- sweep */

/* What the sweep over all examples adds up: squares of averages, and degrees of freedom about them. */
typedef struct sweep {
    double *component, *freedom; /* [LEVELS][n] sum_z S^2/c, sum_z (c - 1) */
    double *example;             /* [LEVELS][N] sum_j S^2/c */
    level_moments *moments;      /* [groups] */
    double examples;             /* of intact blocks, which component, freedom and moments are over */
} sweep;

static void add_moments(const gradient_average *g, uint64_t z, level_moments *moments) {
    const double *sums[LEVELS];
    for (size_t l = 0; l < LEVELS; l++) sums[l] = sums_of(g, l, z);
    for (size_t j = 0; j < g->n; j++) {
        level_moments *of = &moments[g->group[j]];
        for (size_t l = 0; l < LEVELS; l++) {
            const double count = g->counts[l * g->n + j];
            of->count[l] += count;
            for (size_t k = 0; k < LEVELS; k++) {
                of->products[l][k] += sums[l][j] * sums[k][j];
                of->pairs[l][k] += count * (l == k ? count - 1 : g->counts[k * g->n + j]);
            }
        }
    }
}

static bool is_intact(const gradient_average *g, uint64_t block) {
    for (uint64_t z = block * LEVELS_BLOCK; z < g->N && z < (block + 1) * LEVELS_BLOCK; z++)
        if (g->broken[z]) return false;
    return true;
}

static void find_broken(gradient_average *g, uint64_t z) {
    for (size_t l = 0; l < LEVELS; l++) {
        const double *sums = sums_of(g, l, z);
        for (size_t j = 0; j < g->n; j++) g->broken[z] |= !isfinite(sums[j]);
    }
}

/* `intact`: its block is. */
static void add_example(const gradient_average *g, uint64_t z, bool intact, sweep *s) {
    if (intact) add_moments(g, z, s->moments);
    s->examples += intact;
    for (size_t l = 0; l < LEVELS; l++) {
        const double *sums = sums_of(g, l, z);
        for (size_t j = 0; j < g->n; j++) {
            const uint32_t count = g->counts[l * g->n + j];
            if (!count) continue;
            const double square = sums[j] * sums[j] / count;
            s->example[l * g->N + z] += square;
            s->component[l * g->n + j] += intact ? square : 0;
            s->freedom[l * g->n + j] += intact ? count - 1 : 0;
        }
    }
}

static coar_status add_block(gradient_average *g, uint64_t block, sweep *s) {
    const uint64_t first = block * LEVELS_BLOCK, end = g->N - first < LEVELS_BLOCK ? g->N : first + LEVELS_BLOCK;
    TRY(hold(g, first));
    for (uint64_t z = first; z < end; z++) find_broken(g, z);
    const bool intact = is_intact(g, block);
    for (uint64_t z = first; z < end; z++)
        if (!g->broken[z]) add_example(g, z, intact, s);
    return COAR_OK;
}

/* A component never seen twice at a level has all its squares for noise, which is too much rather than too little. NaN
 * where no block is intact. */
static void component_noise(gradient_average *g, const sweep *s) {
    for (size_t x = 0; x < LEVELS * (size_t)g->n; x++) {
        const double squares = g->source->squares_of_component[x];
        g->noise[x] = s->freedom[x] > 0 ? fmax(squares - s->component[x], 0) / s->freedom[x] : squares / s->examples;
        if (isnan(squares)) g->noise[x] = NAN;
    }
}

/* Over the mean of the examples that component_noise is the mean of. */
static void example_loudness(gradient_average *g, const sweep *s) {
    for (size_t l = 0; l < LEVELS; l++) {
        const double *squares = g->source->squares_of_example + l * g->N, *about = s->example + l * g->N;
        double mean = 0, count = 0, *loudness = g->loudness + l * g->N;
        for (uint64_t z = 0; z < g->N; z++) {
            loudness[z] = g->broken[z] || isnan(squares[z]) ? NAN : fmax(squares[z] - about[z], 0);
            if (!isnan(loudness[z]) && is_intact(g, z / LEVELS_BLOCK)) mean += loudness[z], count++;
        }
        for (uint64_t z = 0; z < g->N; z++) loudness[z] = mean > 0 ? loudness[z] / (mean / count) : loudness[z] * 0 + 1;
    }
}

static coar_status make_models(gradient_average *g, const fit_problem *problem, level_moments *moments) {
    double probability[LEVELS];
    for (size_t j = 0; j < g->n; j++) {
        moments[g->group[j]].components += 1;
        for (size_t l = 0; l < LEVELS; l++)
            moments[g->group[j]].squares[l] += g->source->squares_of_component[l * g->n + j];
    }
    level_probabilities(g->source->masks.alpha, probability);
    TRY(combine_models(moments, problem->groups, g->source->passes * probability[LEVELS - 1], g->model));
    for (uint32_t k = 0; k < problem->groups; k++) g->groups_unmeasured += !g->model[k].measured;
    return COAR_OK;
}

/* One sweep over all examples: what of them is broken, noise, models. */
static coar_status measure(gradient_average *g, const fit_problem *problem) {
    static const char what[] = "gradients";
    sweep s = {.component = NULL};
    coar_status status;
    TRY_GOTO(memory_new(g->n, LEVELS * sizeof(double), what, &s.component));
    TRY_GOTO(memory_new(g->n, LEVELS * sizeof(double), what, &s.freedom));
    TRY_GOTO(memory_new(g->N, LEVELS * sizeof(double), what, &s.example));
    TRY_GOTO(memory_new(problem->groups, sizeof *s.moments, what, &s.moments));
    for (uint64_t block = 0; block * LEVELS_BLOCK < g->N; block++) TRY_GOTO(add_block(g, block, &s));
    component_noise(g, &s);
    example_loudness(g, &s);
    TRY_GOTO(make_models(g, problem, s.moments));
    g->block = UINT64_MAX; /* its coefficients were made without the models */
done:
    free(s.component);
    free(s.freedom);
    free(s.example);
    free(s.moments);
    return status;
}

coar_status gradient_average_create(const fit_problem *problem, gradient_average *out) {
    static const char what[] = "gradients";
    const uint64_t N = problem->N;
    const uint32_t n = problem->n;
    gradient_average g = {.source = problem->gradients, .N = N, .n = n, .block = UINT64_MAX};
    coar_status status;
    TRY_GOTO(memory_new(N, 1, what, &g.broken));
    TRY_GOTO(memory_new(n, LEVELS * sizeof *g.noise, what, &g.noise));
    TRY_GOTO(memory_new(N, LEVELS * sizeof *g.loudness, what, &g.loudness));
    TRY_GOTO(memory_new(problem->groups, sizeof *g.model, what, &g.model));
    TRY_GOTO(memory_new(n, sizeof *g.group, what, &g.group));
    TRY_GOTO(memory_new(n, LEVELS * LEVELS_BLOCK * sizeof *g.sums, what, &g.sums));
    TRY_GOTO(memory_new(n, LEVELS * sizeof *g.counts, what, &g.counts));
    TRY_GOTO(memory_new(n, LEVELS * sizeof *g.coefficient, what, &g.coefficient));
    TRY_GOTO(memory_new(n, sizeof *g.bias, what, &g.bias));
    TRY_GOTO(memory_new(n, LEVELS_CYCLE, what, &g.level));
    for (uint32_t k = 0; k < problem->groups; k++)
        for (uint32_t j = problem->group_first[k]; j < problem->group_first[k + 1]; j++) g.group[j] = k;
    TRY_GOTO(measure(&g, problem));
    *out = g;
    return COAR_OK;
done:
    gradient_average_free(&g);
    return status;
}

/* --------------------------------------------------------------------------------------------- weights */

coar_status gradient_weights(gradient_average *g, const uint64_t *index, size_t E, double *weight) {
    for (size_t z = 0; z < E; z++) {
        TRY(hold(g, index[z]));
        const bool broken = g->broken[index[z]];
        const double *sums[LEVELS];
        for (size_t l = 0; l < LEVELS; l++) sums[l] = sums_of(g, l, index[z]);
        for (size_t j = 0; j < g->n; j++) {
            double sum = 0;
            for (size_t l = 0; l < LEVELS && !broken; l++) sum += g->coefficient[l * g->n + j] * sums[l][j];
            weight[j * E + z] = sum;
        }
    }
    return COAR_OK;
}

coar_status gradient_errors(gradient_average *g, const uint64_t *index, size_t E, float *error) {
    for (size_t z = 0; z < E; z++) {
        TRY(hold(g, index[z]));
        for (size_t j = 0; j < g->n; j++) {
            double variance = g->bias[j] * g->loudness[index[z]];
            for (size_t l = 0; l < LEVELS; l++) {
                const double coefficient = g->coefficient[l * g->n + j], count = g->counts[l * g->n + j];
                if (coefficient != 0)
                    variance +=
                        coefficient * coefficient * count * g->noise[l * g->n + j] * g->loudness[l * g->N + index[z]];
            }
            error[z * g->n + j] = (float)sqrt(variance);
        }
    }
    return COAR_OK;
}
