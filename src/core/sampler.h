/*
 * sampler.h - which components mask i keeps: a pure function of (seed, stream, i), so any process can make any mask.
 *
 * Lives in core because backends expand generator ranges themselves (a GPU runs Philox on the device).
 * Must not know: models, runs. Masks are packed bits, little bit order, 1 = kept, padding bits 0.
 */
#ifndef COAR_CORE_SAMPLER_H
#define COAR_CORE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#define DEFAULT_ALPHA 0.05 /* coar.h: of runs and benchmarks that are given 0 */

typedef enum sampler_kind {
    SAMPLER_BERNOULLI,
    SAMPLER_FIXED,
    SAMPLER_STRATIFIED,
    SAMPLER_LOO,
    SAMPLER_FILE
} sampler_kind;

typedef struct sampler {
    sampler_kind kind;
    uint64_t seed;
    uint32_t stream;
    double alpha;                /* expected fraction ablated, in (0,1) */
    uint32_t n;                  /* components */
    const uint32_t *group_first; /* stratified: [groups + 1], borrowed; the last entry is n */
    uint32_t groups;
    const uint8_t *rows;         /* file: packed bits [rows_count][mask_bytes(n)], borrowed */
    uint64_t rows_count;
} sampler;

/* Bytes of one packed mask. */
static inline size_t mask_bytes(uint32_t n) { return ((size_t)n + 7) / 8; }

/* Parses "bernoulli", "fixed", "stratified", "loo" or "file:PATH" into *kind and, for file, *path (points into
 * text). */
coar_status sampler_parse(const char *text, sampler_kind *kind, const char **path);
const char *sampler_name(sampler_kind kind);
/* The inverse of sampler_name (a stored setting; "file" without a path). */
coar_status sampler_from_name(const char *name, sampler_kind *kind);

/* Mask i into bits[mask_bytes(n)]. `words` is scratch of sampler_scratch(s) bytes (may be NULL when that is 0). For
 * loo and file, i must be below n + 1 or rows_count. Thread-safe on a const sampler. */
void sampler_mask(const sampler *s, uint64_t i, uint8_t *bits, void *scratch);
size_t sampler_scratch(const sampler *s);

/* Bernoulli: a component is ablated when its word is below this, ceil(alpha 2^32); 64 bits, because alpha near 1 gives 2^32. */
uint64_t sampler_threshold(double alpha);

/* A run of masks, in any of the three forms a backend must take. */
typedef struct mask_range {
    size_t count;           /* S */
    uint32_t n;
    const sampler *sampler; /* generator range: masks first .. first + count - 1; or NULL */
    uint64_t first;
    const uint8_t *bits;    /* packed bits [S][mask_bytes(n)]; or NULL */
    const float *keeps;     /* real-valued keeps [S][n]; or NULL */
} mask_range;

#endif
