/* sampler.c - see sampler.h. Definitions: docs/design.md, section 2, "Masks". */
#include "core/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"

static const char *const names[] = {"bernoulli", "fixed", "stratified", "loo", "file"};

const char *sampler_name(sampler_kind kind) {
    return names[kind];
}

coar_status sampler_parse(const char *text, sampler_kind *kind, const char **path) {
    *path = NULL;
    if (!text) {
        *kind = SAMPLER_BERNOULLI;
        return COAR_OK;
    }
    for (int k = 0; k < SAMPLER_FILE; k++)
        if (!strcmp(text, names[k])) return sampler_from_name(text, kind);
    if (!strncmp(text, "file:", 5) && text[5]) {
        *kind = SAMPLER_FILE;
        *path = text + 5;
        return COAR_OK;
    }
    return status_set(COAR_ERROR_USAGE, "--sampler '%s': give bernoulli, fixed, stratified, loo or file:PATH", text);
}

coar_status sampler_from_name(const char *name, sampler_kind *kind) {
    for (int k = 0; k <= SAMPLER_FILE; k++)
        if (!strcmp(name, names[k])) {
            *kind = (sampler_kind)k;
            return COAR_OK;
        }
    return status_set(COAR_ERROR_INPUT, "sampler '%s' is unknown to this version", name);
}

static void clear_bit(uint8_t *bits, uint32_t j) {
    bits[j >> 3] &= (uint8_t) ~(1u << (j & 7));
}

static void set_all(uint8_t *bits, uint32_t n) {
    memset(bits, 0xff, mask_bytes(n));
    if (n & 7) bits[n >> 3] = (uint8_t)((1u << (n & 7)) - 1);
}

uint64_t sampler_threshold(double alpha) {
    return (uint64_t)ceil(alpha * 4294967296.0);
}

static void bernoulli_mask(const sampler *s, uint64_t i, uint8_t *bits) {
    const uint64_t threshold = sampler_threshold(s->alpha);
    set_all(bits, s->n);
    for (uint32_t j = 0; j < s->n; j += 4) {
        uint32_t words[4];
        philox_words(s->seed, s->stream, i, j / 4, words);
        for (uint32_t k = 0; k < 4 && j + k < s->n; k++)
            if (words[k] < threshold) clear_bit(bits, j + k);
    }
}

/* One sortable key per component: word in the high half, index in the low half (ties by index). */
static void make_keys(const sampler *s, uint64_t i, uint64_t *keys) {
    for (uint32_t j = 0; j < s->n; j += 4) {
        uint32_t words[4];
        philox_words(s->seed, s->stream, i, j / 4, words);
        for (uint32_t k = 0; k < 4 && j + k < s->n; k++) keys[j + k] = (uint64_t)words[k] << 32 | (j + k);
    }
}

static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Ablates the `count` smallest of keys[0..size-1] (reordered). */
static void ablate_smallest(uint64_t *keys, uint32_t size, uint32_t count, uint8_t *bits) {
    qsort(keys, size, sizeof *keys, compare_keys);
    for (uint32_t k = 0; k < count && k < size; k++) clear_bit(bits, (uint32_t)keys[k]);
}

static void stratified_mask(const sampler *s, uint64_t i, uint8_t *bits, uint64_t *keys) {
    make_keys(s, i, keys);
    set_all(bits, s->n);
    for (uint32_t g = 0; g < s->groups; g++) {
        uint32_t first = s->group_first[g], size = s->group_first[g + 1] - first;
        double expected = s->alpha * size, whole = floor(expected);
        /* The fraction left over is settled by one more word, the one component n + g would have. */
        uint32_t words[4], position = s->n + g;
        philox_words(s->seed, s->stream, i, position / 4, words);
        bool more = words[position % 4] < (expected - whole) * 4294967296.0;
        ablate_smallest(keys + first, size, (uint32_t)whole + more, bits);
    }
}

size_t sampler_scratch(const sampler *s) {
    return s->kind == SAMPLER_FIXED || s->kind == SAMPLER_STRATIFIED ? (size_t)s->n * sizeof(uint64_t) : 0;
}

void sampler_mask(const sampler *s, uint64_t i, uint8_t *bits, void *scratch) {
    switch (s->kind) {
    case SAMPLER_BERNOULLI:
        bernoulli_mask(s, i, bits);
        break;
    case SAMPLER_FIXED:
        make_keys(s, i, scratch);
        set_all(bits, s->n);
        ablate_smallest(scratch, s->n, (uint32_t)llround(s->alpha * s->n), bits);
        break;
    case SAMPLER_STRATIFIED:
        stratified_mask(s, i, bits, scratch);
        break;
    case SAMPLER_LOO:
        set_all(bits, s->n);
        if (i < s->n) clear_bit(bits, (uint32_t)i);
        break;
    case SAMPLER_FILE:
        memcpy(bits, s->rows + i * mask_bytes(s->n), mask_bytes(s->n));
        break;
    }
}
