/*
 * share.c - see share.h.
 *
 * Bit columns are cut across: rank r gets words r w .. (r + 1) w - 1 of every column, zeros where there are no more.
 * Whether rows of the system are masks or components makes no difference.
 */
#include "fit/share.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/order.h"
#include "core/memory.h"

enum {
    WORDS_LEAST = 16, /* of a column, for each rank: below that adding up costs more than counting */
    BAND = 256        /* rows of the Gram matrix that are added up at once */
};

/* What the ranks count with. */
typedef enum counted_by {
    BY_CPUS,
    BY_DEVICES, /* whose sums go over MPI */
    BY_LINKED   /* devices */
} counted_by;

/* What is told before the slices. */
typedef struct cut {
    uint64_t by;              /* counted_by */
    uint64_t columns, words;  /* of each column, for each rank */
    uint64_t masks, examples; /* cross products: m, E */
} cut;

/* Links add up counts of 31 bits. */
static cut cut_for_ranks(const bit_columns *columns, const shared_device *s) {
    const size_t size = (size_t)comm_world()->size;
    cut c = {.columns = columns->count, .words = (columns->stride + size - 1) / size, .masks = columns->length};
    if (s->together) c.by = s->link && c.words <= INT32_MAX / 64 / size ? BY_LINKED : BY_DEVICES;
    return c;
}

static bool worth_it(const bit_columns *columns, const shared_device *s) {
    return comm_world()->size > 1 && columns->stride >= WORDS_LEAST * (size_t)comm_world()->size &&
           (s->together || !s->device);
}

/* Another rank: whether it has what rank 0 counts on. */
static coar_status check_device(const cut *c, const shared_device *s) {
    const bool has = c->by == BY_LINKED ? s->link != NULL : c->by == BY_DEVICES ? s->device != NULL : true;
    return has ? COAR_OK : status_set(COAR_ERROR_INTERNAL, "an order of rank 0 for a device that is not open");
}

/* --------------------------------------------------------------------------------------------------- slices */

/* This rank's, of c->columns columns. */
static coar_status slice_new(const cut *c, bit_columns *out) {
    size_t words;
    if (!size_mul((size_t)c->columns, (size_t)c->words, &words))
        return status_set(COAR_ERROR_INTERNAL, "masks of rank 0 that cannot be");
    TRY(memory_new(words, sizeof *out->words, "a part of the fit's masks", &out->words));
    out->count = (size_t)c->columns;
    out->stride = (size_t)c->words;
    out->length = out->stride * 64;
    return COAR_OK;
}

/* all[size][columns][words] */
static void cut_columns(const bit_columns *columns, const cut *c, uint64_t *all) {
    for (size_t at = 0; at < columns->stride; at += c->words) {
        const size_t words = columns->stride - at < c->words ? columns->stride - at : (size_t)c->words;
        for (size_t j = 0; j < columns->count; j++, all += c->words)
            memcpy(all, columns->words + j * columns->stride + at, words * sizeof *all);
    }
}

/* Rank 0: gives the order, agrees, and hands out the slices, of which its own stays. */
static coar_status hand_out(order_kind kind, const bit_columns *columns, const cut *c, bit_columns *own) {
    const size_t size = (size_t)comm_world()->size, bytes = (size_t)(c->columns * c->words) * sizeof(uint64_t);
    packet p = {0};
    uint64_t *all = NULL;
    coar_status status;
    TRY_GOTO(slice_new(c, own));
    TRY_GOTO(memory_new(size, bytes, "parts of the fit's masks", &all));
    cut_columns(columns, c, all);
    PACKET_PUT(&p, *c);
    TRY_GOTO(order_give(kind, &p));
    TRY_GOTO(comm_agree(COAR_OK));
    memcpy(own->words, all, bytes);
    TRY_GOTO(comm_scatter(all, size * bytes, NULL, bytes));
done:
    free(all);
    packet_free(&p);
    return status;
}

/* The others, after slice_new. */
static coar_status receive(bit_columns *own) {
    return comm_scatter(NULL, 0, own->words, own->count * own->stride * sizeof *own->words);
}

/* --------------------------------------------------------------------------------------------------- Gram */

/* Band after band on every rank; sums: [BAND][columns] of the others, the whole matrix of rank 0. */
static coar_status sum_bands(const bit_columns *own, thread_pool *pool, int64_t *sums) {
    const bool leads = comm_world()->rank == 0;
    const size_t n = own->count;
    for (size_t first = 0; first < n; first += BAND) {
        const size_t rows = n - first < BAND ? n - first : BAND;
        int64_t *band = leads ? sums + first * n : sums;
        TRY(gram_band(own, first, rows, pool, band));
        TRY(comm_sum(band, rows * n));
    }
    return COAR_OK;
}

/* Each device in one call; sums: [columns][columns], of ranks that are linked to rank 0 NULL. */
static coar_status sum_devices(const bit_columns *own, counted_by by, const shared_device *s, int64_t *sums) {
    const size_t n = own->count;
    if (by == BY_LINKED) TRY(shared_device_together(s));
    const coar_status status = s->device->interface->gram(s->device, own->words, n, own->stride, sums);
    shared_device_alone(s);
    TRY(comm_agree(status));
    return by == BY_LINKED ? COAR_OK : comm_sum(sums, n * n);
}

coar_status gram_share(const bit_columns *columns, thread_pool *pool, const shared_device *s, int64_t *gram) {
    const cut c = cut_for_ranks(columns, s);
    const size_t n = columns->count;
    bit_columns own = {0};
    coar_status status;
    if (!worth_it(columns, s))
        return s->device ? s->device->interface->gram(s->device, columns->words, n, columns->stride, gram)
                         : gram_count(columns, pool, gram);
    TRY_GOTO(hand_out(ORDER_GRAM, columns, &c, &own));
    if (c.by != BY_CPUS) {
        TRY_GOTO(sum_devices(&own, (counted_by)c.by, s, gram));
        goto done;
    }
    TRY_GOTO(sum_bands(&own, pool, gram));
    for (size_t j = 1; j < n; j++)
        for (size_t k = 0; k < j; k++) gram[j * n + k] = gram[k * n + j];
done:
    bit_columns_free(&own);
    return status;
}

/* Rows of the sums that another rank holds. */
static size_t rows_held(const cut *c) {
    return c->by == BY_LINKED ? 0 : c->by == BY_DEVICES ? (size_t)c->columns : BAND;
}

coar_status gram_follow(packet *p, int threads, const shared_device *s) {
    cut c;
    bit_columns own = {0};
    thread_pool *pool = NULL;
    int64_t *band = NULL;
    PACKET_GET(p, c);
    coar_status status = packet_check(p);
    if (status == COAR_OK) status = check_device(&c, s);
    if (status == COAR_OK) status = slice_new(&c, &own);
    if (status == COAR_OK) status = memory_new(rows_held(&c), own.count * sizeof *band, "the Gram matrix", &band);
    if (status == COAR_OK) status = thread_pool_create(threads, &pool);
    TRY_GOTO(comm_agree(status));
    TRY_GOTO(receive(&own));
    if (c.by == BY_CPUS)
        TRY_GOTO(sum_bands(&own, pool, band));
    else
        TRY_GOTO(sum_devices(&own, (counted_by)c.by, s, c.by == BY_LINKED ? NULL : band));
done:
    thread_pool_destroy(pool);
    free(band);
    bit_columns_free(&own);
    return status;
}

/* ------------------------------------------------------------------------------------------ cross products */

/* This rank's sums by its device; of all ranks by rank 0's, where they are linked. */
static coar_status add_devices(const bit_columns *own, const float *y, size_t E, thread_pool *pool, counted_by by,
                               const shared_device *s, int64_t *cross, int64_t *total, const int *shift) {
    int64_t *fixed = NULL, *out = by == BY_LINKED && comm_world()->rank ? NULL : cross;
    coar_status status;
    TRY_GOTO(comm_agree(cross_fixed(own, y, E, pool, shift, &fixed, total)));
    if (by == BY_LINKED) TRY_GOTO(shared_device_together(s));
    status = s->device->interface->cross(s->device, own->words, own->count, own->stride, fixed, own->length, E, out);
    shared_device_alone(s);
    TRY_GOTO(comm_agree(status));
done:
    free(fixed);
    return status;
}

/* Sums of one rank's masks into rank 0's. y: those of its masks that there are. */
static coar_status sum_cross(const bit_columns *own, const float *y, size_t E, thread_pool *pool, counted_by by,
                             const shared_device *s, int64_t *cross, int64_t *total, const int *shift) {
    if (by == BY_CPUS)
        TRY(comm_agree(cross_sums(own, y, E, pool, cross, total, shift)));
    else
        TRY(add_devices(own, y, E, pool, by, s, cross, total, shift));
    if (by != BY_LINKED) TRY(comm_sum(cross, own->count * E));
    return comm_sum(total, E);
}

coar_status cross_share(const bit_columns *columns, const float *y, size_t E, thread_pool *pool, const shared_device *s,
                        int64_t *cross, int64_t *total, int *shift) {
    cut c = cut_for_ranks(columns, s);
    const size_t row = E * sizeof *y;
    bit_columns own = {0};
    coar_status status;
    if (!worth_it(columns, s)) return cross_products(columns, y, E, pool, s->device, cross, total, shift);
    c.examples = E;
    TRY_GOTO(cross_shifts(y, columns->length, E, pool, shift));
    TRY_GOTO(hand_out(ORDER_CROSS, columns, &c, &own));
    TRY_GOTO(comm_broadcast(shift, E * sizeof *shift));
    TRY_GOTO(comm_scatter(y, columns->length * row, NULL, own.length * row));
    TRY_GOTO(sum_cross(&own, y, E, pool, (counted_by)c.by, s, cross, total, shift));
done:
    bit_columns_free(&own);
    return status;
}

/* What a rank needs for its part of the cross products. */
typedef struct cross_part {
    bit_columns own;
    counted_by by;
    thread_pool *pool;
    float *y;               /* [own.length][E] */
    int64_t *cross, *total; /* [columns][E], [E] */
    int *shift;             /* [E] */
} cross_part;

static coar_status cross_part_new(packet *p, int threads, const shared_device *s, size_t *E, cross_part *part) {
    static const char what[] = "cross products";
    cut c;
    PACKET_GET(p, c);
    TRY(packet_check(p));
    TRY(check_device(&c, s));
    part->by = (counted_by)c.by;
    *E = (size_t)c.examples;
    TRY(slice_new(&c, &part->own));
    TRY(memory_new(part->own.length, *E * sizeof *part->y, what, &part->y));
    TRY(memory_new(part->own.count, *E * sizeof *part->cross, what, &part->cross));
    TRY(memory_new(*E, sizeof *part->total, what, &part->total));
    TRY(memory_new(*E, sizeof *part->shift, what, &part->shift));
    return thread_pool_create(threads, &part->pool);
}

coar_status cross_follow(packet *p, int threads, const shared_device *s) {
    cross_part part = {.y = NULL};
    size_t E = 0;
    coar_status status;
    TRY_GOTO(comm_agree(cross_part_new(p, threads, s, &E, &part)));
    TRY_GOTO(receive(&part.own));
    TRY_GOTO(comm_broadcast(part.shift, E * sizeof *part.shift));
    TRY_GOTO(comm_scatter(NULL, 0, part.y, part.own.length * E * sizeof *part.y));
    TRY_GOTO(sum_cross(&part.own, part.y, E, part.pool, part.by, s, part.cross, part.total, part.shift));
done:
    thread_pool_destroy(part.pool);
    free(part.y);
    free(part.cross);
    free(part.total);
    free(part.shift);
    bit_columns_free(&part.own);
    return status;
}
