/* sample.c - see sample.h. */
#include "fit/sample.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

void fit_sample_free(fit_sample *sample) {
    free(sample->index);
    free(sample->y);
    free(sample->mean);
    free(sample->squares);
    *sample = (fit_sample){.count = 0};
}

double fit_sample_memory(const fit_problem *problem, size_t most) {
    const double count = (double)(problem->N < most ? problem->N : most);
    return count * (4 * (double)problem->m + 24);
}

/* Whether the example's block is one of SAMPLE_MAX/LEVELS_BLOCK evenly spaced ones; with fewer blocks all are. */
static bool is_in_block(const fit_problem *problem, uint64_t z) {
    const uint64_t blocks = problem->N / LEVELS_BLOCK + (problem->N % LEVELS_BLOCK != 0), block = z / LEVELS_BLOCK;
    const uint64_t wanted = SAMPLE_MAX / LEVELS_BLOCK;
    return blocks <= wanted || block == 0 || block * wanted / blocks != (block - 1) * wanted / blocks;
}

static bool is_candidate(const fit_problem *problem, const fit_scan *scan, bool blocks, uint64_t z) {
    return !scan->example_out[z] && (!blocks || is_in_block(problem, z));
}

static uint64_t count_candidates(const fit_problem *problem, const fit_scan *scan, bool blocks) {
    uint64_t count = 0;
    for (uint64_t z = 0; z < problem->N; z++) count += is_candidate(problem, scan, blocks, z);
    return count;
}

/* Every (left / count)-th of the `left` candidates. */
static void choose(const fit_problem *problem, const fit_scan *scan, bool blocks, uint64_t left, fit_sample *sample) {
    uint64_t seen = 0;
    size_t taken = 0;
    for (uint64_t z = 0; z < problem->N && taken < sample->count; z++) {
        if (!is_candidate(problem, scan, blocks, z)) continue;
        if (seen++ == taken * left / sample->count) sample->index[taken++] = z;
    }
}

static size_t chunk_count(const fit_sample *sample, size_t c) {
    const size_t left = sample->count - c * SAMPLE_CHUNK;
    return left < SAMPLE_CHUNK ? left : SAMPLE_CHUNK;
}

float *fit_sample_outputs(const fit_sample *sample, size_t c) {
    return sample->y + c * SAMPLE_CHUNK * sample->m;
}

void fit_sample_chunk(const fit_sample *sample, size_t c, solver_block *block) {
    block->count = chunk_count(sample, c);
    block->index = sample->index + c * SAMPLE_CHUNK;
    block->y = fit_sample_outputs(sample, c);
    block->mean = sample->mean + c * SAMPLE_CHUNK;
    block->squares = sample->squares + c * SAMPLE_CHUNK;
}

void fit_sample_recentre(fit_sample *sample) {
    for (size_t c = 0; c < sample->chunks; c++)
        fit_centre(fit_sample_outputs(sample, c), sample->m, chunk_count(sample, c), sample->mean + c * SAMPLE_CHUNK,
                   sample->squares + c * SAMPLE_CHUNK);
}

/* One sweep over the blocks that hold any of the examples. */
static coar_status take(const fit_problem *problem, const fit_scan *scan, size_t block, float *y, fit_sample *sample) {
    size_t taken = 0;
    for (uint64_t first = 0; taken < sample->count; first += block) {
        const size_t E = problem->N - first < block ? (size_t)(problem->N - first) : block;
        if (sample->index[taken] >= first + E) continue;
        TRY(fit_scan_read(problem, scan, first, E, y));
        for (; taken < sample->count && sample->index[taken] < first + E; taken++) {
            const size_t c = taken / SAMPLE_CHUNK, width = chunk_count(sample, c);
            float *to = fit_sample_outputs(sample, c) + taken % SAMPLE_CHUNK;
            const float *from = y + (sample->index[taken] - first);
            for (size_t i = 0; i < sample->m; i++) to[i * width] = from[i * E];
        }
    }
    return COAR_OK;
}

/* Of `count` examples and m masks, with nothing in it. */
static coar_status allocate(size_t count, size_t m, fit_sample *s) {
    static const char what[] = "the sample of examples";
    *s = (fit_sample){.count = count, .chunks = (count + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK, .m = m};
    TRY(memory_new(count, sizeof *s->index, what, &s->index));
    TRY(memory_new(m, count * sizeof *s->y, what, &s->y));
    TRY(memory_new(count, sizeof *s->mean, what, &s->mean));
    return memory_new(count, sizeof *s->squares, what, &s->squares);
}

coar_status fit_sample_create(const fit_problem *problem, const fit_scan *scan, bool blocks, size_t block, float *y,
                              fit_sample *out) {
    if (blocks && !count_candidates(problem, scan, true)) blocks = false; /* all of those blocks are broken */
    const uint64_t left = count_candidates(problem, scan, blocks);
    fit_sample sample;
    coar_status status;
    TRY_GOTO(
        allocate(left < SAMPLE_MAX ? (size_t)left : SAMPLE_MAX, (size_t)(problem->m - scan->masks_left_out), &sample));
    choose(problem, scan, blocks, left, &sample);
    TRY_GOTO(take(problem, scan, block, y, &sample));
    fit_sample_recentre(&sample);
    *out = sample;
    return COAR_OK;
done:
    fit_sample_free(&sample);
    return status;
}

coar_status fit_sample_thin(const fit_sample *from, size_t most, fit_sample *out) {
    const size_t count = from->count < most ? from->count : most;
    fit_sample sample;
    coar_status status;
    TRY_GOTO(allocate(count, from->m, &sample));
    for (size_t z = 0; z < count; z++) {
        const size_t k = z * from->count / count, c = k / SAMPLE_CHUNK, to = z / SAMPLE_CHUNK;
        const size_t E = chunk_count(from, c), width = chunk_count(&sample, to);
        const float *y = fit_sample_outputs(from, c) + k % SAMPLE_CHUNK;
        float *own = fit_sample_outputs(&sample, to) + z % SAMPLE_CHUNK;
        sample.index[z] = from->index[k];
        for (size_t i = 0; i < from->m; i++) own[i * width] = y[i * E];
    }
    fit_sample_recentre(&sample);
    *out = sample;
    return COAR_OK;
done:
    fit_sample_free(&sample);
    return status;
}

coar_status fit_sample_without(const fit_sample *from, size_t first, size_t end, fit_sample *out) {
    fit_sample sample;
    coar_status status;
    TRY_GOTO(allocate(from->count, from->m - (end - first), &sample));
    memcpy(sample.index, from->index, from->count * sizeof *sample.index);
    for (size_t c = 0; c < sample.chunks; c++) {
        const size_t E = chunk_count(&sample, c);
        const float *y = fit_sample_outputs(from, c);
        float *to = fit_sample_outputs(&sample, c);
        memcpy(to, y, first * E * sizeof *to);
        memcpy(to + first * E, y + end * E, (from->m - end) * E * sizeof *to);
    }
    fit_sample_recentre(&sample);
    *out = sample;
    return COAR_OK;
done:
    fit_sample_free(&sample);
    return status;
}
