/*
 * philox.h - Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the
 * counter-based generator behind every mask and every bootstrap draw.
 */
#ifndef COAR_CORE_PHILOX_H
#define COAR_CORE_PHILOX_H

#include <stdint.h>

/* Streams of docs/design.md, section 2 ("Masks"). */
enum {
    PHILOX_STREAM_TRAINING = 0,
    PHILOX_STREAM_EVALUATION = 1,
    PHILOX_STREAM_HELDOUT = 2,
    PHILOX_STREAM_GRADIENTS = 3,
    PHILOX_STREAM_BOOTSTRAP = 4,
    PHILOX_STREAM_CALIBRATION = 5,
    PHILOX_STREAM_WEIGHTS = 6, /* random weights (src/model/random.c) */
    PHILOX_STREAM_PROBES = 7,  /* random signs (src/fit/conjugate.c) */
    PHILOX_STREAM_EDIT = 8,    /* choices of an edit (src/edit/method.h) */
};

/* out[4] = ten rounds over counter[4] with key[2]. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The four words 4*block .. 4*block+3 of row i: counter = (block, i low, i high, stream), key = seed. */
void philox_words(uint64_t seed, uint32_t stream, uint64_t i, uint32_t block, uint32_t out[4]);

#endif
