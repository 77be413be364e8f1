/* levels.c - see levels.h. Definitions: docs/design.md, section 2, "Masks". */
#include "core/levels.h"

#include <string.h>

#include "core/philox.h"
#include "core/sampler.h"

const float level_keep[LEVELS] = {1, 0.5f, 0};

void level_mask(const level_masks *masks, uint64_t block, uint32_t pass, uint8_t *level) {
    const uint64_t ablated = sampler_threshold(masks->alpha), halved = sampler_threshold(2 * masks->alpha);
    const uint64_t i = (block << 32) + pass;
    for (uint32_t j = 0; j < masks->n; j += 4) {
        uint32_t words[4];
        philox_words(masks->seed, PHILOX_STREAM_GRADIENTS, i, j / 4, words);
        for (uint32_t k = 0; k < 4 && j + k < masks->n; k++)
            level[j + k] = words[k] < ablated ? 2 : words[k] < halved ? 1 : 0;
    }
}

void level_counts(const level_masks *masks, uint64_t block, uint32_t passes, uint32_t *counts, uint8_t *level) {
    const size_t n = masks->n;
    memset(counts, 0, LEVELS * n * sizeof *counts);
    for (uint32_t pass = 0; pass < passes; pass++) {
        level_mask(masks, block, pass, level);
        for (size_t j = 0; j < n; j++) counts[level[j] * n + j]++;
    }
}
