/*
 * levels.h - masks of averaged mask gradients: every component is kept whole, kept by half, or ablated.
 *
 * Like sampler.h a pure function of (seed, alpha, block, pass): a block is 32 examples that share their masks, so that
 * different examples average over different masks. docs/estimators.md says why these levels and this design.
 * Must not know: models, runs, who differentiates what.
 */
#ifndef COAR_CORE_LEVELS_H
#define COAR_CORE_LEVELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    LEVELS = 3,        /* keep 1, 1/2, 0: in this order wherever an array has a dimension [LEVELS] */
    LEVELS_BLOCK = 32, /* examples that share masks: 32 b .. 32 b + 31 of the run's examples are block b */
};

/* What is stored beside gradients: masks of another design are refused. */
#define LEVELS_DESIGN "levels/1"

typedef struct level_masks {
    uint64_t seed;
    double alpha; /* probability of 0, and of 1/2; below 1/2 */
    uint32_t n;   /* components */
} level_masks;

/* level[n]: the level of every component in pass `pass` of block `block`: 0, 1 or 2, an index into `level_keep`. */
void level_mask(const level_masks *masks, uint64_t block, uint32_t pass, uint8_t *level);

extern const float level_keep[LEVELS];

/* How many of the passes 0 .. passes - 1 of a block had component j at each level: counts[LEVELS][n]. `level` is scratch
 * of n bytes. */
void level_counts(const level_masks *masks, uint64_t block, uint32_t passes, uint32_t *counts, uint8_t *level);

#endif
