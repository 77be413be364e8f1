/*
 * cross.c - cross products of masks and outputs in int64 fixed point.
 *
 * For each 8 masks and LANES examples a table holds the 256 sums that any subset of the 8 masks can have; a component
 * then adds one table entry per 8 masks, found by 8 bits of its column, instead of up to 8 outputs. Integers, so this
 * regrouping changes nothing. Work: (n + 256)/8 additions per (mask, example) instead of n.
 *
 * A device gets the fixed-point outputs themselves and does the same in its own way (kernels/cuda/gram.cu).
 *
 * Task = COMPONENTS components x LANES examples: accumulators 64 KiB and four tables 64 KiB per worker.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/gram.h"

enum {
    LANES = 8,         /* examples side by side: int64 x 8 = one cache line */
    COMPONENTS = 1024, /* table building costs 256/1024 of the adding at this size */
    TABLES = 4,        /* 32 masks a round */
    ROUND = 8 * TABLES
};

/* One number per example; compilers turn its additions into whatever vector width the target has. */
typedef int64_t lane_sums __attribute__((vector_size(LANES * sizeof(int64_t))));

typedef struct workspace {
    lane_sums sums[COMPONENTS];
    lane_sums table[TABLES][256];
} workspace;

typedef struct cross_job {
    const bit_columns *columns;
    const float *y; /* [m][N] */
    size_t N, groups;
    int64_t *cross, *total;
    const int *shift;
    workspace *workspaces; /* [workers]; of sums on the CPU */
    int64_t *fixed;        /* [m][N] q; of sums on a device */
} cross_job;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Largest shift that keeps m values within 2^62 in sum: |y| < 2^e and m <= 2^b give |q| <= 2^(62-b). */
static int fixed_point_shift(double largest, size_t m) {
    int exponent = 0, bits = 0;
    if (largest == 0) return 0;
    frexp(largest, &exponent);
    while (bits < 62 && ((size_t)1 << bits) < m) bits++;
    return 62 - bits - exponent;
}

typedef struct shift_job {
    const float *y; /* [m][N] */
    size_t m, N;
    int *shift;
} shift_job;

/* Shifts of one group of examples. */
static coar_status choose_shifts(void *context, size_t task, int worker) {
    (void)worker;
    const shift_job *job = context;
    size_t z0 = task * LANES, lanes = smaller(LANES, job->N - z0);
    float largest[LANES] = {0};
    for (size_t i = 0; i < job->m; i++)
        for (size_t z = 0; z < lanes; z++) largest[z] = fmaxf(largest[z], fabsf(job->y[i * job->N + z0 + z]));
    for (size_t z = 0; z < lanes; z++) job->shift[z0 + z] = fixed_point_shift(largest[z], job->m);
    return COAR_OK;
}

coar_status cross_shifts(const float *y, size_t m, size_t N, thread_pool *pool, int *shift) {
    shift_job job = {.y = y, .m = m, .N = N, .shift = shift};
    return thread_pool_run(pool, (N + LANES - 1) / LANES, choose_shifts, &job);
}

/* table[s] = sum of the outputs of the masks in subset s, of the 8 masks from i0; adds their sum to total. */
static void build_table(const cross_job *job, size_t i0, size_t z0, size_t lanes, const double *scale, lane_sums *table,
                        lane_sums *total) {
    table[0] = (lane_sums){0};
    for (size_t b = 0; b < 8; b++) {
        lane_sums value = {0};
        if (i0 + b < job->columns->length) {
            const float *y = job->y + (i0 + b) * job->N + z0;
            for (size_t z = 0; z < lanes; z++) value[z] = llrint(y[z] * scale[z]);
        }
        size_t half = (size_t)1 << b;
        for (size_t s = 0; s < half; s++) table[half + s] = table[s] + value;
        *total += value;
    }
}

static void add_entries(workspace *w, const uint64_t *column, size_t stride, size_t components, unsigned bit) {
    for (size_t j = 0; j < components; j++, column += stride) {
        uint32_t bits = (uint32_t)(*column >> bit);
        w->sums[j] += w->table[0][bits & 255] + w->table[1][bits >> 8 & 255] + w->table[2][bits >> 16 & 255] +
                      w->table[3][bits >> 24];
    }
}

/* Task = component tile * groups + group of examples. */
static coar_status cross_tile(void *context, size_t task, int worker) {
    const cross_job *job = context;
    const bit_columns *columns = job->columns;
    workspace *w = &job->workspaces[worker];
    size_t j0 = task / job->groups * COMPONENTS, z0 = task % job->groups * LANES;
    size_t components = smaller(COMPONENTS, columns->count - j0), lanes = smaller(LANES, job->N - z0);
    double scale[LANES] = {0};
    lane_sums total = {0};
    for (size_t z = 0; z < lanes; z++) scale[z] = ldexp(1, job->shift[z0 + z]);
    memset(w->sums, 0, sizeof w->sums);
    for (size_t i = 0; i < columns->length; i += ROUND) {
        for (size_t t = 0; t < TABLES; t++) build_table(job, i + 8 * t, z0, lanes, scale, w->table[t], &total);
        add_entries(w, columns->words + j0 * columns->stride + i / 64, columns->stride, components, i % 64);
    }
    for (size_t j = 0; j < components; j++)
        memcpy(job->cross + (j0 + j) * job->N + z0, &w->sums[j], lanes * sizeof(int64_t));
    if (j0 == 0) memcpy(job->total + z0, &total, lanes * sizeof(int64_t));
    return COAR_OK;
}

/* q and its sum over all masks, for one group of examples. */
static coar_status make_fixed(void *context, size_t task, int worker) {
    (void)worker;
    const cross_job *job = context;
    size_t z0 = task * LANES, lanes = smaller(LANES, job->N - z0);
    double scale[LANES] = {0};
    int64_t total[LANES] = {0};
    for (size_t z = 0; z < lanes; z++) scale[z] = ldexp(1, job->shift[z0 + z]);
    for (size_t i = 0; i < job->columns->length; i++) {
        const float *y = job->y + i * job->N + z0;
        int64_t *fixed = job->fixed + i * job->N + z0;
        for (size_t z = 0; z < lanes; z++) {
            fixed[z] = llrint(y[z] * scale[z]);
            total[z] += fixed[z];
        }
    }
    memcpy(job->total + z0, total, lanes * sizeof *total);
    return COAR_OK;
}

static coar_status sums_on_cpu(cross_job *job, thread_pool *pool) {
    size_t tiles = (job->columns->count + COMPONENTS - 1) / COMPONENTS;
    TRY(memory_new((size_t)thread_pool_size(pool), sizeof *job->workspaces, "cross products", &job->workspaces));
    return thread_pool_run(pool, tiles * job->groups, cross_tile, job);
}

coar_status cross_fixed(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, const int *shift,
                        int64_t **fixed, int64_t *total) {
    cross_job job = {
        .columns = columns, .y = y, .N = N, .groups = (N + LANES - 1) / LANES, .total = total, .shift = shift};
    TRY(memory_new(columns->length, N * sizeof *job.fixed, "fixed-point outputs", &job.fixed));
    *fixed = job.fixed;
    return thread_pool_run(pool, job.groups, make_fixed, &job);
}

static coar_status sums_on_device(const bit_columns *columns, const float *y, size_t N, thread_pool *pool,
                                  fit_device *device, int64_t *cross, int64_t *total, const int *shift) {
    int64_t *fixed = NULL;
    coar_status status = cross_fixed(columns, y, N, pool, shift, &fixed, total);
    if (status == COAR_OK)
        status = device->interface->cross(device, columns->words, columns->count, columns->stride, fixed,
                                          columns->length, N, cross);
    free(fixed);
    return status;
}

coar_status cross_sums(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, int64_t *cross,
                       int64_t *total, const int *shift) {
    cross_job job = {
        .columns = columns,
        .y = y,
        .N = N,
        .groups = (N + LANES - 1) / LANES,
        .cross = cross,
        .total = total,
        .shift = shift,
    };
    const coar_status status = sums_on_cpu(&job, pool);
    free(job.workspaces);
    return status;
}

coar_status cross_products(const bit_columns *columns, const float *y, size_t N, thread_pool *pool, fit_device *device,
                           int64_t *cross, int64_t *total, int *shift) {
    TRY(cross_shifts(y, columns->length, N, pool, shift));
    if (device) return sums_on_device(columns, y, N, pool, device, cross, total, shift);
    return cross_sums(columns, y, N, pool, cross, total, shift);
}
