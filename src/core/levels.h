/*
 * levels.h - masks of averaged mask gradients: every component is kept whole or has one of two lower mask values.
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
    LEVELS = 3,        /* in the order of level_keep wherever an array has a dimension [LEVELS] */
    LEVELS_BLOCK = 32, /* examples that share masks: 32 b .. 32 b + 31 of the run's examples are block b */
    LEVELS_CYCLE = 16, /* passes over which each component's levels are balanced */
    /* Most passes: noise is far below what masks of least squares leave by then, and counting their levels, which every
     * reader of gradients does, is still a matter of seconds a block. */
    LEVELS_PASSES_MOST = 1 << 16,
};

/* What is stored beside gradients: masks of another design are refused. */
#define LEVELS_DESIGN "levels/2"

typedef struct level_masks {
    uint64_t seed;
    double alpha; /* 1 - the mean keep; below 1/2 */
    uint32_t n;   /* components */
} level_masks;

/* The levels as mask values: 1 whole, 0 ablated. */
extern const float level_keep[LEVELS];

/* What a component at a level is multiplied by where ablation leaves `gain` of it (scale:G; 0 for the other kinds):
 * mask value t is keep gain + (1 - gain) t. A derivative with respect to t is (1 - gain) times that with respect to
 * the keep. */
float level_keep_with(size_t level, float gain);

/* How often each level comes. */
void level_probabilities(double alpha, double probability[LEVELS]);

/* level[count][n]: the level of every component in passes first .. first + count - 1 of a block: an index into
 * level_keep. Cheapest for whole cycles: any part of a cycle takes what all of it does. */
void level_mask(const level_masks *masks, uint64_t block, uint32_t first, uint32_t count, uint8_t *level);

/* How many of the passes 0 .. passes - 1 of a block had component j at each level: counts[LEVELS][n]. `level` is
 * scratch of LEVELS_CYCLE n bytes. */
void level_counts(const level_masks *masks, uint64_t block, uint32_t passes, uint32_t *counts, uint8_t *level);

#endif
