/*
 * bands.c - see bands.h. V: leading right singular vectors of the sample's weight vectors, each divided by its length;
 * bands 1 .. 8, 9 .. 32 and the rest (fewer with fewer than 96 examples: never more than a third of them). With
 * P_b(z) = Xc (part of w(z) in band b), outputs y(z) centred, both over the deviation of y(z), the factors f minimise
 *
 *   sum_z |y(z) - sum_b f_b P_b(z)|^2 + KEEP sum_b (f_b - 1)^2.
 *
 * KEEP holds factors at 1 where masks are few: it stands for an error of WIDTH against as many examples as the outputs
 * of one mask are worth.
 *
 * Errors. A factor f <= 1 that is right has removed (1 - f) of noise of variance s^2, and with it (1 - f) of the signal:
 * what is left is off by f s^2 in the mean square, as a posterior of prior variance s^2 f/(1 - f) is. So factors count by
 * their roots (those above 1 enlarge noise as they are): variance = diag(A S A), A = V diag(root f) V' + root f_rest
 * (1 - V V'), S the squared errors.
 */
#include "fit/bands.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/algebra.h"

/* Ends of the first bands. */
static const size_t ends[BANDS - 1] = {8, BAND_VECTORS};

/* Factors are expected within about this of 1. */
#define WIDTH 0.5

/* Outputs of all examples under one mask have much in common: they count as no more than this many. */
#define INDEPENDENT 10.0

double gradient_bands_memory(const fit_problem *problem) {
    const double n = problem->n, count = problem->N < SAMPLE_MAX ? (double)problem->N : SAMPLE_MAX;
    return n * (4 * count + 8 * (BAND_VECTORS + (BANDS + 1) * SAMPLE_CHUNK)) + 8 * 3 * count * count +
           8 * (BANDS + 2) * DENSE_ROWS * (double)SAMPLE_CHUNK;
}

double gradient_bands_scratch(const fit_problem *problem) {
    return gradient_bands_memory(problem) - 8. * problem->n * BAND_VECTORS;
}

void gradient_bands_free(gradient_bands *bands) {
    free(bands->vectors);
    free(bands->coordinates);
    *bands = (gradient_bands){.n = 0};
}

/* ------------------------------------------------------------------------------------------- directions */

/* units[n][count]: the sample's weight vectors over their lengths; a vector of zeros stays one. */
static coar_status unit_vectors(gradient_average *g, const fit_sample *sample, double *weight, float *units) {
    for (size_t c = 0; c < sample->chunks; c++) {
        solver_block block;
        fit_sample_chunk(sample, c, &block);
        const size_t E = block.count;
        TRY(gradient_weights(g, block.index, E, weight));
        for (size_t z = 0; z < E; z++) {
            const double length = cblas_dnrm2((int)g->n, weight + z, (int)E);
            for (size_t j = 0; j < g->n; j++)
                units[j * sample->count + c * SAMPLE_CHUNK + z] = length > 0 ? (float)(weight[j * E + z] / length) : 0;
        }
    }
    return COAR_OK;
}

static void widen(const float *from, size_t count, double *to) {
    for (size_t x = 0; x < count; x++) to[x] = from[x];
}

/* gram[count][count] = units' units; strip: scratch [DENSE_ROWS][count]. */
static void gram_of(const float *units, size_t n, size_t count, double *strip, double *gram) {
    for (size_t j = 0; j < n; j += DENSE_ROWS) {
        const size_t rows = n - j < DENSE_ROWS ? n - j : DENSE_ROWS;
        widen(units + j * count, rows * count, strip);
        cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)count, (int)rows, 1, strip, (int)count, 1, gram,
                    (int)count);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++) gram[i * count + k] = gram[k * count + i];
}

/* vectors = units u / sqrt(value) of the largest eigenvalues; their number is cut to those above RANK_TOLERANCE. */
static coar_status find_vectors(const float *units, size_t count, double *strip, double *gram, double *value,
                                gradient_bands *bands) {
    gram_of(units, bands->n, count, strip, gram);
    TRY(algebra_eigenvectors(NULL, gram, count, value));
    size_t rank = 0;
    while (rank < bands->end[1] && value[count - 1 - rank] > RANK_TOLERANCE * value[count - 1]) rank++;
    for (size_t b = 0; b < BANDS - 1; b++) bands->end[b] = bands->end[b] < rank ? bands->end[b] : rank;
    for (size_t k = 0; k < rank; k++) /* row count - 1 - k: ascending order */
        cblas_dscal((int)count, 1 / sqrt(value[count - 1 - k]), gram + (count - 1 - k) * count, 1);
    for (size_t j = 0; j < bands->n && rank; j += DENSE_ROWS) {
        const size_t rows = bands->n - j < DENSE_ROWS ? bands->n - j : DENSE_ROWS;
        widen(units + j * count, rows * count, strip);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)rank, (int)count, 1, strip, (int)count,
                    gram + (count - rank) * count, (int)count, 0, bands->vectors + j * BAND_VECTORS, BAND_VECTORS);
    }
    /* eigenvectors came ascending: turned, so that the first column is the leading direction */
    for (size_t j = 0; j < bands->n; j++)
        for (size_t k = 0; k < rank / 2; k++) {
            double *row = bands->vectors + j * BAND_VECTORS, kept = row[k];
            row[k] = row[rank - 1 - k];
            row[rank - 1 - k] = kept;
        }
    return COAR_OK;
}

static coar_status learn_directions(gradient_average *g, const fit_sample *sample, double *weight,
                                    gradient_bands *bands) {
    static const char what[] = "common directions of gradients";
    const size_t count = sample->count;
    float *units = NULL;
    double *strip = NULL, *gram = NULL, *value = NULL;
    coar_status status;
    TRY_GOTO(memory_new(g->n, count * sizeof *units, what, &units));
    TRY_GOTO(memory_new(count, DENSE_ROWS * sizeof *strip, what, &strip));
    TRY_GOTO(memory_new(count, count * sizeof *gram, what, &gram));
    TRY_GOTO(memory_new(count, sizeof *value, what, &value));
    TRY_GOTO(unit_vectors(g, sample, weight, units));
    TRY_GOTO(find_vectors(units, count, strip, gram, value, bands));
done:
    free(units);
    free(strip);
    free(gram);
    free(value);
    return status;
}

/* --------------------------------------------------------------------------------------------- products */

static size_t band_of(const gradient_bands *bands, size_t k) {
    return k < bands->end[0] ? 0 : 1;
}

void gradient_bands_apply(const gradient_bands *bands, size_t E, double *weight) {
    const size_t n = bands->n, rank = bands->end[1];
    const double rest = bands->factor[BANDS - 1];
    double *coordinates = bands->coordinates;
    if (rank)
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rank, (int)E, (int)n, 1, bands->vectors, BAND_VECTORS,
                    weight, (int)E, 0, coordinates, (int)E);
    for (size_t k = 0; k < rank; k++)
        cblas_dscal((int)E, bands->factor[band_of(bands, k)] - rest, coordinates + k * E, 1);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)E, (int)rank, 1, bands->vectors, BAND_VECTORS,
                coordinates, (int)E, rest, weight, (int)E);
}

/* ---------------------------------------------------------------------------------------------- errors */

static double error_factor(double factor) {
    return factor > 0 && factor < 1 ? sqrt(factor) : fabs(factor);
}

/* One example's: with D = root f_k - r, r = root f_rest, and M = D V' S V D,
 * variance_j = r^2 s_j + 2 r s_j sum_k D_k v_jk^2 + v_j' M v_j. */
static void calibrate_errors(const gradient_bands *bands, const double *extra, double rest, float *error) {
    const size_t rank = bands->end[1];
    double inner[BAND_VECTORS][BAND_VECTORS] = {{0}}, strip[DENSE_ROWS][BAND_VECTORS], scaled[BAND_VECTORS];
    for (size_t first = 0; first < bands->n; first += DENSE_ROWS) {
        const size_t rows = bands->n - first < DENSE_ROWS ? bands->n - first : DENSE_ROWS;
        const double *vectors = bands->vectors + first * BAND_VECTORS;
        for (size_t j = 0; j < rows; j++)
            for (size_t k = 0; k < rank; k++)
                strip[j][k] = vectors[j * BAND_VECTORS + k] * error[first + j] * error[first + j];
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rank, (int)rank, (int)rows, 1, vectors, BAND_VECTORS,
                    strip[0], BAND_VECTORS, 1, inner[0], BAND_VECTORS);
    }
    for (size_t j = 0; j < bands->n; j++) {
        const double *vector = bands->vectors + j * BAND_VECTORS, square = (double)error[j] * error[j];
        double along = 0;
        for (size_t k = 0; k < rank; k++) {
            scaled[k] = extra[k] * vector[k];
            along += scaled[k] * vector[k];
        }
        double variance = rest * rest * square + 2 * rest * along * square;
        for (size_t k = 0; k < rank; k++) variance += scaled[k] * cblas_ddot((int)rank, inner[k], 1, scaled, 1);
        error[j] = (float)sqrt(fmax(variance, 0));
    }
}

void gradient_bands_errors(const gradient_bands *bands, size_t E, float *error) {
    const double rest = error_factor(bands->factor[BANDS - 1]);
    double extra[BAND_VECTORS];
    for (size_t k = 0; k < bands->end[1]; k++) extra[k] = error_factor(bands->factor[band_of(bands, k)]) - rest;
    for (size_t z = 0; z < E; z++) {
        float *of = error + z * bands->n;
        if (bands->n && !isnan(of[0])) calibrate_errors(bands, extra, rest, of);
    }
}

/* --------------------------------------------------------------------------------------------- factors */

typedef struct calibration {
    const fit_system *system;
    gradient_bands *bands;
    double *parts;     /* [BANDS][n][E] of a chunk */
    double *predicted; /* [BANDS + 1][masks of a strip][E]: P_b, then y */
    double products[BANDS + 1][BANDS + 1];
} calibration;

/* parts from weight[n][E]: each band's by the factors that leave it alone. */
static void split(const calibration *c, const double *weight, size_t E) {
    gradient_bands *bands = c->bands;
    for (size_t b = 0; b < BANDS; b++) {
        double *part = c->parts + b * bands->n * E;
        for (size_t a = 0; a < BANDS; a++) bands->factor[a] = a == b;
        memcpy(part, weight, bands->n * E * sizeof *part);
        gradient_bands_apply(bands, E, part);
    }
}

/* The strip of masks from `first` on, all over the deviation of the outputs; constant outputs count for nothing. */
static void predict_strip(const calibration *c, const solver_block *block, size_t first, size_t count) {
    const fit_system *system = c->system;
    const size_t n = system->by_component.count, E = block->count;
    bits_expand(&system->by_mask, first, count, system->rows);
    for (size_t i = 0; i < count; i++) cblas_daxpy((int)n, -1, system->mean, 1, system->rows + i * n, 1);
    for (size_t b = 0; b < BANDS; b++)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)E, (int)n, 1, system->rows, (int)n,
                    c->parts + b * n * E, (int)E, 0, c->predicted + b * count * E, (int)E);
    double *y = c->predicted + BANDS * count * E;
    for (size_t i = 0; i < count; i++)
        for (size_t z = 0; z < E; z++) y[i * E + z] = block->y[(first + i) * E + z] - block->mean[z];
    for (size_t z = 0; z < E; z++) {
        const double scale = block->squares[z] > 0 ? sqrt((double)system->by_mask.count / block->squares[z]) : 0;
        cblas_dscal((int)((BANDS + 1) * count), scale, c->predicted + z, (int)E);
    }
}

static void add_chunk(calibration *c, const solver_block *block) {
    const size_t m = c->system->by_mask.count, E = block->count;
    for (size_t first = 0; first < m; first += DENSE_ROWS) {
        const size_t count = m - first < DENSE_ROWS ? m - first : DENSE_ROWS;
        predict_strip(c, block, first, count);
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, BANDS + 1, (int)(count * E), 1, c->predicted,
                    (int)(count * E), 1, c->products[0], BANDS + 1);
    }
}

/* (A + KEEP I) (f - 1) = b - A 1, A the products of predictions and b those with y, in the last row. */
static coar_status solve_factors(calibration *c, size_t examples) {
    const double keep = fmax((double)examples / INDEPENDENT, 1) / (WIDTH * WIDTH);
    double *factor = c->bands->factor;
    for (size_t b = 0; b < BANDS; b++) {
        factor[b] = c->products[BANDS][b];
        for (size_t a = 0; a < BANDS; a++) factor[b] -= a < b ? c->products[b][a] : c->products[a][b];
    }
    for (size_t b = 0; b < BANDS; b++) c->products[b][b] += keep;
    /* row-major lower is column-major upper */
    const int info = LAPACKE_dposv(LAPACK_COL_MAJOR, 'U', BANDS, 1, c->products[0], BANDS + 1, factor, BANDS);
    if (info)
        return status_set(COAR_ERROR_INTERNAL, "the fit: the calibration of gradients has no solution (%d)", info);
    for (size_t b = 0; b < BANDS; b++) factor[b] += 1;
    return COAR_OK;
}

static coar_status learn_factors(const fit_system *system, gradient_average *g, const fit_sample *sample,
                                 double *weight, gradient_bands *bands) {
    static const char what[] = "the calibration of gradients";
    calibration c = {.system = system, .bands = bands};
    coar_status status;
    TRY_GOTO(memory_new(g->n, BANDS * SAMPLE_CHUNK * sizeof(double), what, &c.parts));
    TRY_GOTO(memory_new((BANDS + 1) * DENSE_ROWS, SAMPLE_CHUNK * sizeof(double), what, &c.predicted));
    for (size_t k = 0; k < sample->chunks; k++) {
        solver_block block;
        fit_sample_chunk(sample, k, &block);
        TRY_GOTO(gradient_weights(g, block.index, block.count, weight));
        split(&c, weight, block.count);
        add_chunk(&c, &block);
    }
    TRY_GOTO(solve_factors(&c, sample->count));
done:
    free(c.parts);
    free(c.predicted);
    return status;
}

coar_status gradient_bands_create(const fit_system *system, gradient_average *g, const fit_sample *sample,
                                  gradient_bands *out) {
    static const char what[] = "common directions of gradients";
    gradient_bands bands = {.n = g->n};
    const size_t widest = system->block > SAMPLE_CHUNK ? system->block : SAMPLE_CHUNK;
    double *weight = NULL;
    coar_status status;
    for (size_t b = 0; b < BANDS - 1; b++) bands.end[b] = ends[b] < sample->count / 3 ? ends[b] : sample->count / 3;
    TRY_GOTO(memory_new(g->n, BAND_VECTORS * sizeof(double), what, &bands.vectors));
    TRY_GOTO(memory_new(BAND_VECTORS, widest * sizeof(double), what, &bands.coordinates));
    TRY_GOTO(memory_new(g->n, SAMPLE_CHUNK * sizeof *weight, what, &weight));
    TRY_GOTO(learn_directions(g, sample, weight, &bands));
    TRY_GOTO(learn_factors(system, g, sample, weight, &bands));
    *out = bands;
    bands = (gradient_bands){.n = 0};
done:
    free(weight);
    gradient_bands_free(&bands);
    return status;
}
