/*
 * columns.c - packed masks to bit columns. A mask's bits lie beside each other in memory; a Gram entry and a cross
 * product need the bits of one component over all masks, so the bit matrix is turned once.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/sampler.h"
#include "fit/gram.h"

/* Transposes the 8 x 8 bits of x: bit 8 r + c moves to 8 c + r, by swapping off-diagonal 1x1, 2x2 and 4x4 blocks. */
static uint64_t transpose_8x8(uint64_t x) {
    uint64_t t;
    t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAu;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCu;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0u;
    return x ^ t ^ (t << 28);
}

static coar_status columns_new(size_t count, size_t length, bit_columns *out) {
    bit_columns columns = {.count = count, .length = length, .stride = length / 64 + (length % 64 != 0)};
    size_t words;
    if (!size_mul(count, columns.stride, &words))
        return status_set(COAR_ERROR_MEMORY, "the fit's masks: %zu x %zu bits are too many", count, length);
    TRY(memory_new(words, sizeof *columns.words, "the fit's masks", &columns.words));
    *out = columns;
    return COAR_OK;
}

void bit_columns_free(bit_columns *columns) {
    free(columns->words);
    columns->words = NULL;
}

typedef struct turn {
    const uint8_t *masks;
    size_t m, row; /* bytes of a mask */
    bit_columns *out;
} turn;

/* The 8 columns of byte `task` of every mask, 64 masks (one word of each column) at a time. */
static coar_status turn_byte(void *context, size_t task, int worker) {
    (void)worker;
    const turn *t = context;
    size_t left = t->out->count - 8 * task, columns = left < 8 ? left : 8;
    uint64_t *first = t->out->words + 8 * task * t->out->stride;
    for (size_t w = 0; w < t->out->stride; w++) {
        uint64_t word[8] = {0};
        for (size_t i = 64 * w; i < t->m && i < 64 * (w + 1); i += 8) {
            uint64_t block = 0;
            for (size_t r = 0; r < 8 && i + r < t->m; r++)
                block |= (uint64_t)t->masks[(i + r) * t->row + task] << (8 * r);
            block = transpose_8x8(block);
            for (size_t c = 0; c < 8; c++) word[c] |= (block >> (8 * c) & 255) << (i % 64);
        }
        for (size_t c = 0; c < columns; c++) first[c * t->out->stride + w] = word[c];
    }
    return COAR_OK;
}

coar_status bit_columns_transpose(const uint8_t *masks, size_t m, uint32_t n, thread_pool *pool, bit_columns *out) {
    bit_columns columns;
    TRY(columns_new(n, m, &columns));
    turn t = {.masks = masks, .m = m, .row = mask_bytes(n), .out = &columns};
    coar_status status = thread_pool_run(pool, t.row, turn_byte, &t);
    if (status != COAR_OK)
        bit_columns_free(&columns);
    else
        *out = columns;
    return status;
}

coar_status bit_columns_copy(const uint8_t *masks, size_t m, uint32_t n, bit_columns *out) {
    bit_columns columns;
    TRY(columns_new(m, n, &columns));
    size_t row = mask_bytes(n);
    for (size_t i = 0; i < m; i++)
        for (size_t b = 0; b < row; b++) /* byte by byte: words are little-endian bits on any machine */
            columns.words[i * columns.stride + b / 8] |= (uint64_t)masks[i * row + b] << (8 * (b % 8));
    *out = columns;
    return COAR_OK;
}
