/*
 * gradients.c - see gradients.h.
 *
 * With S_l the sum of example z's derivatives at level l, c_l their number and g_l = S_l / c_l: weight = sum_l a_l g_l, a
 * the shares .5, .25, .25 of the levels 1, 1/2, 0 that the component was seen at, renormalised.
 *
 * Noise: the squares q about the averages. Only their sums over examples (per component) and over components (per
 * example) are stored, so the variance of one derivative is taken to be a product, v_l[j] u_l[z]:
 *   v_l[j] = (q_l[j] - sum_z S^2/c) / sum_z (c - 1),   u_l[z] = (q_l[z] - sum_j S^2/c) / the same of v,
 * sums over what was seen at least once. The variance of a weight is sum_l a_l^2 v_l u_l / c_l.
 */
#include "fit/gradients.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

/* Between the quadrature that the integral wants (the ends count as much as the middle) and the noise (most passes keep
 * a component whole); found by trial on ResNet-20, ResNet-56 and a ViT. */
static const double shares[LEVELS] = {.5, .25, .25};

double gradient_memory(uint64_t N, uint32_t n) {
    return (double)n * (LEVELS * (8 * (LEVELS_BLOCK + 2) + 4) + 1) + (double)N * (16 * LEVELS + 1);
}

void gradient_average_free(gradient_average *g) {
    free(g->broken);
    free(g->noise);
    free(g->loudness);
    free(g->sums);
    free(g->counts);
    free(g->level);
    *g = (gradient_average){.source = NULL};
}

/* Sums and counts of the block that holds example z. */
static coar_status hold(gradient_average *g, uint64_t z) {
    const uint64_t block = z / LEVELS_BLOCK, first = block * LEVELS_BLOCK, left = g->N - first;
    if (block == g->block) return COAR_OK;
    g->block = UINT64_MAX;
    TRY(g->source->read(g->source->context, first, left < LEVELS_BLOCK ? left : LEVELS_BLOCK, g->sums));
    level_counts(&g->source->masks, block, g->source->passes, g->counts, g->level);
    g->block = block;
    return COAR_OK;
}

/* [n] of example z, of the block held. */
static const double *sums_of(const gradient_average *g, size_t level, uint64_t z) {
    const uint64_t first = g->block * LEVELS_BLOCK, left = g->N - first;
    const size_t count = left < LEVELS_BLOCK ? (size_t)left : LEVELS_BLOCK;
    return g->sums + (level * count + (z - first)) * g->n;
}

/* a_l / c_l: what a sum at each level counts in component j's weight. */
static void coefficients(const gradient_average *g, size_t j, double coefficient[LEVELS]) {
    double seen = 0;
    for (size_t l = 0; l < LEVELS; l++) seen += g->counts[l * g->n + j] ? shares[l] : 0;
    for (size_t l = 0; l < LEVELS; l++) {
        const uint32_t count = g->counts[l * g->n + j];
        coefficient[l] = count ? shares[l] / seen / count : 0;
    }
}

/* ----------------------------------------------------------------------------------------------- noise */

/* What the sweep over all examples adds up: squares of averages, and degrees of freedom about them. */
typedef struct sweep {
    double *component, *freedom; /* [LEVELS][n] sum_z S^2/c, sum_z (c - 1) */
    double *example;             /* [LEVELS][N] sum_j S^2/c */
} sweep;

static void add_example(gradient_average *g, uint64_t z, sweep *s) {
    for (size_t l = 0; l < LEVELS; l++) {
        const double *sums = sums_of(g, l, z);
        for (size_t j = 0; j < g->n; j++) g->broken[z] |= !isfinite(sums[j]);
    }
    for (size_t l = 0; l < LEVELS && !g->broken[z]; l++) {
        const double *sums = sums_of(g, l, z);
        for (size_t j = 0; j < g->n; j++) {
            const uint32_t count = g->counts[l * g->n + j];
            if (!count) continue;
            const double square = sums[j] * sums[j] / count;
            s->component[l * g->n + j] += square;
            s->freedom[l * g->n + j] += count - 1;
            s->example[l * g->N + z] += square;
        }
    }
}

/* A component never seen twice at a level has all its squares for noise, which is too much rather than too little. */
static void component_noise(gradient_average *g, const sweep *s) {
    for (size_t x = 0; x < LEVELS * (size_t)g->n; x++) {
        const double squares = g->source->squares_of_component[x];
        g->noise[x] = s->freedom[x] > 0 ? fmax(squares - s->component[x], 0) / s->freedom[x] : squares / (double)g->N;
        if (isnan(squares)) g->noise[x] = NAN;
    }
}

static void example_loudness(gradient_average *g, const sweep *s) {
    for (uint64_t z = 0; z < g->N; z++)
        for (size_t l = 0; l < LEVELS; l++) {
            const double squares = g->source->squares_of_example[l * g->N + z];
            g->loudness[l * g->N + z] = fmax(squares - s->example[l * g->N + z], 0);
            if (isnan(squares) || g->broken[z]) g->loudness[l * g->N + z] = NAN;
        }
    for (size_t l = 0; l < LEVELS; l++) {
        double mean = 0, count = 0;
        double *loudness = g->loudness + l * g->N;
        for (uint64_t z = 0; z < g->N; z++)
            if (!isnan(loudness[z])) mean += loudness[z], count++;
        for (uint64_t z = 0; z < g->N; z++) loudness[z] = mean > 0 ? loudness[z] / (mean / count) : loudness[z] * 0 + 1;
    }
}

static coar_status measure_noise(gradient_average *g) {
    sweep s = {.component = NULL};
    coar_status status;
    TRY_GOTO(memory_new(g->n, LEVELS * sizeof(double), "gradients", &s.component));
    TRY_GOTO(memory_new(g->n, LEVELS * sizeof(double), "gradients", &s.freedom));
    TRY_GOTO(memory_new(g->N, LEVELS * sizeof(double), "gradients", &s.example));
    for (uint64_t z = 0; z < g->N; z++) {
        TRY_GOTO(hold(g, z));
        add_example(g, z, &s);
    }
    component_noise(g, &s);
    example_loudness(g, &s);
done:
    free(s.component);
    free(s.freedom);
    free(s.example);
    return status;
}

coar_status gradient_average_create(const fit_gradients *source, uint64_t N, uint32_t n, gradient_average *out) {
    gradient_average g = {.source = source, .N = N, .n = n, .block = UINT64_MAX};
    coar_status status;
    TRY_GOTO(memory_new(N, 1, "gradients", &g.broken));
    TRY_GOTO(memory_new(n, LEVELS * sizeof *g.noise, "gradients", &g.noise));
    TRY_GOTO(memory_new(N, LEVELS * sizeof *g.loudness, "gradients", &g.loudness));
    TRY_GOTO(memory_new(n, LEVELS * LEVELS_BLOCK * sizeof *g.sums, "gradients", &g.sums));
    TRY_GOTO(memory_new(n, LEVELS * sizeof *g.counts, "gradients", &g.counts));
    TRY_GOTO(memory_new(n, 1, "gradients", &g.level));
    TRY_GOTO(measure_noise(&g));
    *out = g;
    return COAR_OK;
done:
    gradient_average_free(&g);
    return status;
}

/* --------------------------------------------------------------------------------------------- weights */

coar_status gradient_weights(gradient_average *g, const uint64_t *index, size_t E, double *weight) {
    double coefficient[LEVELS];
    for (size_t z = 0; z < E; z++) {
        TRY(hold(g, index[z]));
        const bool broken = g->broken[index[z]];
        const double *sums[LEVELS];
        for (size_t l = 0; l < LEVELS; l++) sums[l] = sums_of(g, l, index[z]);
        for (size_t j = 0; j < g->n; j++) {
            coefficients(g, j, coefficient);
            double sum = 0;
            for (size_t l = 0; l < LEVELS && !broken; l++) sum += coefficient[l] * sums[l][j];
            weight[j * E + z] = sum;
        }
    }
    return COAR_OK;
}

coar_status gradient_errors(gradient_average *g, const uint64_t *index, size_t E, const double *factor, float *error) {
    double coefficient[LEVELS];
    for (size_t z = 0; z < E; z++) {
        TRY(hold(g, index[z]));
        for (size_t j = 0; j < g->n; j++) {
            coefficients(g, j, coefficient);
            double variance = 0;
            for (size_t l = 0; l < LEVELS; l++)
                if (coefficient[l] > 0)
                    variance += coefficient[l] * coefficient[l] * g->counts[l * g->n + j] * g->noise[l * g->n + j] *
                                g->loudness[l * g->N + index[z]];
            error[z * g->n + j] = (float)((factor ? fabs(factor[j]) : 1) * sqrt(variance));
        }
    }
    return COAR_OK;
}
