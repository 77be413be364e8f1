/*
 * gram.c - the Gram matrix of bit columns by popcount.
 *
 * gram[j][k] = popcount(column j & column k), for the tiles on and above the diagonal; each tile also writes its mirror
 * image. A tile is TILE x TILE columns, walked CHUNK words at a time so that both sides stay in the first-level cache:
 * 2 * 32 columns * 64 words * 8 bytes = 32 KiB. Work: n^2/2 * m/64 popcounts.
 */
#include <string.h>

#include "fit/gram.h"

#define TILE 32
#define CHUNK 64

typedef struct gram_job {
    const bit_columns *columns;
    size_t tiles;  /* per side */
    size_t first;  /* row of the matrix that `gram` begins with */
    size_t last;   /* one past its last row */
    int64_t *gram; /* [last - first][count] */
    bool mirror;   /* all rows are there: what is below the diagonal, too */
    void (*count)(const uint64_t *a, const uint64_t *b, size_t stride, size_t rows, size_t columns, size_t words,
                  int64_t *sums);
} gram_job;

/* sums[r][c] += popcount of the first `words` words of (column r of a) & (column c of b). */
static inline __attribute__((always_inline)) void count_chunk(const uint64_t *a, const uint64_t *b, size_t stride,
                                                              size_t rows, size_t columns, size_t words,
                                                              int64_t *sums) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < columns; c++) {
            const uint64_t *x = a + r * stride, *y = b + c * stride;
            int64_t sum = 0;
            for (size_t w = 0; w < words; w++) sum += __builtin_popcountll(x[w] & y[w]);
            sums[r * TILE + c] += sum;
        }
    }
}

static void count_chunk_portable(const uint64_t *a, const uint64_t *b, size_t stride, size_t rows, size_t columns,
                                 size_t words, int64_t *sums) {
    count_chunk(a, b, stride, rows, columns, words, sums);
}

#if defined(__x86_64__)
/* The same with the popcnt instruction, which baseline x86-64 lacks. */
__attribute__((target("popcnt"))) static void count_chunk_popcnt(const uint64_t *a, const uint64_t *b, size_t stride,
                                                                 size_t rows, size_t columns, size_t words,
                                                                 int64_t *sums) {
    count_chunk(a, b, stride, rows, columns, words, sums);
}
#endif

/* Task t = tile row * tiles + tile column, rows from `first` on; those below the diagonal have nothing to do. */
static coar_status gram_tile(void *context, size_t task, int worker) {
    (void)worker;
    const gram_job *job = context;
    const bit_columns *columns = job->columns;
    size_t j0 = job->first + task / job->tiles * TILE, k0 = task % job->tiles * TILE, n = columns->count;
    if (k0 < j0) return COAR_OK;
    size_t rows = job->last - j0 < TILE ? job->last - j0 : TILE, width = n - k0 < TILE ? n - k0 : TILE;
    int64_t sums[TILE * TILE] = {0};
    for (size_t w = 0; w < columns->stride; w += CHUNK) {
        size_t words = columns->stride - w < CHUNK ? columns->stride - w : CHUNK;
        job->count(columns->words + j0 * columns->stride + w, columns->words + k0 * columns->stride + w,
                   columns->stride, rows, width, words, sums);
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < width; c++) {
            job->gram[(j0 - job->first + r) * n + k0 + c] = sums[r * TILE + c];
            if (job->mirror) job->gram[(k0 + c) * n + j0 + r] = sums[r * TILE + c];
        }
    }
    return COAR_OK;
}

static coar_status count_rows(const bit_columns *columns, size_t first, size_t rows, bool mirror, thread_pool *pool,
                              int64_t *gram) {
    gram_job job = {
        .columns = columns,
        .tiles = (columns->count + TILE - 1) / TILE,
        .first = first,
        .last = first + rows,
        .gram = gram,
        .mirror = mirror,
        .count = count_chunk_portable,
    };
#if defined(__x86_64__)
    if (__builtin_cpu_supports("popcnt")) job.count = count_chunk_popcnt;
#endif
    return thread_pool_run(pool, (rows + TILE - 1) / TILE * job.tiles, gram_tile, &job);
}

coar_status gram_count(const bit_columns *columns, thread_pool *pool, int64_t *gram) {
    return count_rows(columns, 0, columns->count, true, pool, gram);
}

coar_status gram_band(const bit_columns *columns, size_t first, size_t rows, thread_pool *pool, int64_t *band) {
    memset(band, 0, rows * columns->count * sizeof *band);
    return count_rows(columns, first, rows, false, pool, band);
}
