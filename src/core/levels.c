/* levels.c - see levels.h. Definitions: docs/design.md, section 2, "Masks". */
#include "core/levels.h"

#include <string.h>

#include "core/philox.h"
#include "core/sampler.h"

enum {
    PHILOX_WORDS = 4,   /* of one call: a component each */
    PART_BITS = 32 - 4, /* of a variate, below those that say in which part of a cycle it lies */
};
_Static_assert(LEVELS_CYCLE == 1ull << (32 - PART_BITS), "a part of the cycle for each pass");

/* The lower two are the nodes of Gauss's quadrature of two points on [0, 1]: (1 +- 1/sqrt 3) / 2. */
const float level_keep[LEVELS] = {1, 0.78867513f, 0.21132487f};

float level_keep_with(size_t level, float gain) {
    return gain + (1 - gain) * level_keep[level];
}

/* The lower two are 1/2 in the mean, so that the mean keep is 1 - alpha, as in the masks that attributions are for. */
void level_probabilities(double alpha, double probability[LEVELS]) {
    probability[0] = 1 - 2 * alpha;
    probability[1] = probability[2] = alpha;
}

/* A Latin hypercube: in the passes of a cycle the variate of a component falls once into each of LEVELS_CYCLE equal
 * parts of [0, 2^32). Which part is the rank of the pass's word among the cycle's (of equal ones the earlier pass's
 * first), where in it the word's low bits. */
static void cycle_variates(const level_masks *masks, uint64_t block, uint32_t cycle, uint32_t group,
                           uint32_t variate[LEVELS_CYCLE][PHILOX_WORDS]) {
    uint32_t words[LEVELS_CYCLE][PHILOX_WORDS];
    const uint64_t first = (block << 32) + (uint64_t)cycle * LEVELS_CYCLE;
    for (uint32_t p = 0; p < LEVELS_CYCLE; p++)
        philox_words(masks->seed, PHILOX_STREAM_GRADIENTS, first + p, group, words[p]);
    for (uint32_t p = 0; p < LEVELS_CYCLE; p++) {
        uint32_t rank[PHILOX_WORDS] = {0};
        for (uint32_t q = 0; q < LEVELS_CYCLE; q++)
            for (uint32_t k = 0; k < PHILOX_WORDS; k++)
                rank[k] += words[q][k] < words[p][k] || (words[q][k] == words[p][k] && q < p);
        for (uint32_t k = 0; k < PHILOX_WORDS; k++)
            variate[p][k] = rank[k] << PART_BITS | (words[p][k] & 0xffff) << (PART_BITS - 16);
    }
}

/* Passes of one cycle. */
static void level_part(const level_masks *masks, uint64_t block, uint32_t first, uint32_t count, uint8_t *level) {
    double probability[LEVELS];
    level_probabilities(masks->alpha, probability);
    const uint64_t lowest = sampler_threshold(probability[2]);
    const uint64_t lower = sampler_threshold(probability[2] + probability[1]);
    for (uint32_t j = 0; j < masks->n; j += PHILOX_WORDS) {
        uint32_t variate[LEVELS_CYCLE][PHILOX_WORDS];
        cycle_variates(masks, block, first / LEVELS_CYCLE, j / PHILOX_WORDS, variate);
        for (uint32_t p = 0; p < count; p++)
            for (uint32_t k = 0; k < PHILOX_WORDS && j + k < masks->n; k++) {
                const uint32_t u = variate[first % LEVELS_CYCLE + p][k];
                level[(size_t)p * masks->n + j + k] = (uint8_t)((u < lowest) + (u < lower));
            }
    }
}

void level_mask(const level_masks *masks, uint64_t block, uint32_t first, uint32_t count, uint8_t *level) {
    for (uint32_t done = 0, part; done < count; done += part) {
        const uint32_t left = LEVELS_CYCLE - (first + done) % LEVELS_CYCLE;
        part = count - done < left ? count - done : left;
        level_part(masks, block, first + done, part, level + (size_t)done * masks->n);
    }
}

void level_counts(const level_masks *masks, uint64_t block, uint32_t passes, uint32_t *counts, uint8_t *level) {
    const size_t n = masks->n;
    memset(counts, 0, LEVELS * n * sizeof *counts);
    for (uint32_t first = 0, part; first < passes; first += part) {
        part = passes - first < LEVELS_CYCLE ? passes - first : LEVELS_CYCLE;
        level_part(masks, block, first, part, level);
        for (size_t p = 0; p < part; p++)
            for (size_t j = 0; j < n; j++) counts[level[p * n + j] * n + j]++;
    }
}
