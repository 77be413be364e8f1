/*
 * nccl.c - links between devices by NCCL, over its stand-in: threads are the ranks, each with a device of its own. Broadcasts
 * and sums are what they must be to the bit, a fit's counts and sums those of one CPU; and whatever fails or hangs on
 * one rank, all of them come back, with nothing left behind.
 */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "backend/cuda/cuda_fit.h"
#include "backend/cuda/cuda_nccl.h"
#include "core/memory.h"
#include "core/philox.h"
#include "fit/gram.h"
#include "stand_ins/stand_ins.h"

enum { RANKS_MOST = 4 };

static void *fresh(size_t count, size_t size) {
    void *block = NULL;
    CHECK_OK(memory_new(count, size, "test", &block));
    return block;
}

static int64_t number(uint64_t seed, size_t i) {
    uint32_t words[4];
    philox_words(seed, 7, i, 0, words);
    return (int64_t)((uint64_t)words[0] << 32 | words[1]) >> 8;
}

/* ---------------------------------------------------------------------------------------------------- ranks */

typedef coar_status part(int rank, device_link *link, void *context);

/* Of all threads. */
static struct {
    int size;
    bool same_device;
    double silence;
    link_ticket ticket;
    part *part;
    void *context;
    pthread_barrier_t barrier;
    atomic_int votes[RANKS_MOST];
} job;

static struct end {
    coar_status status;
    char message[1024];
} ends[RANKS_MOST];

static _Thread_local int own_rank;

/* What comm_agree is to processes; a failure of another rank has no message here. */
static coar_status agree(coar_status mine) {
    coar_status chosen = COAR_OK;
    atomic_store(&job.votes[own_rank], (int)mine);
    pthread_barrier_wait(&job.barrier);
    for (int r = job.size - 1; r >= 0; r--)
        if (atomic_load(&job.votes[r])) chosen = (coar_status)atomic_load(&job.votes[r]);
    pthread_barrier_wait(&job.barrier);
    return chosen == COAR_OK ? COAR_OK : status_set(chosen, "another rank");
}

static void *rank_main(void *rank) {
    own_rank = *(const int *)rank;
    const link_seat seat = {.device = job.same_device ? 0 : own_rank,
                            .rank = own_rank,
                            .size = job.size,
                            .ticket = job.ticket,
                            .silence = job.silence,
                            .agree = agree};
    device_link *link = NULL;
    status_clear();
    coar_status status = cuda_links.join(&seat, &link);
    if (status == COAR_OK) status = job.part(own_rank, link, job.context);
    ends[own_rank].status = status;
    status_copy(ends[own_rank].message, sizeof ends[own_rank].message);
    if (link) link->interface->destroy(link, status == COAR_OK);
    return NULL;
}

/* part(rank, link, context) on so many ranks; what came of it is in `ends`. */
static void run_ranks(int size, part *part, void *context) {
    pthread_t threads[RANKS_MOST];
    int ranks[RANKS_MOST];
    job.size = size;
    job.part = part;
    job.context = context;
    pthread_barrier_init(&job.barrier, NULL, (unsigned)size);
    CHECK_OK(cuda_links.ticket(&job.ticket));
    for (int r = 0; r < size; r++) {
        ranks[r] = r;
        pthread_create(&threads[r], NULL, rank_main, &ranks[r]);
    }
    for (int r = 0; r < size; r++) pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&job.barrier);
}

static void check_ends(void) {
    for (int r = 0; r < job.size; r++)
        if (ends[r].status != COAR_OK) test_fail(__FILE__, __LINE__, "rank %d: %s", r, ends[r].message);
}

static void check_released(void) {
    CHECK_INT(stand_in_leaks(), 0);
    CHECK_INT(stand_in_refusals(), 0);
}

/* `failure`: COAR_STANDIN_NCCL, NULL = none. */
static void set_up(const char *order, const char *failure) {
    setenv("COAR_STANDIN_DEVICES", "4", 1);
    setenv("COAR_STANDIN_ORDER", order, 1);
    if (failure)
        setenv("COAR_STANDIN_NCCL", failure, 1);
    else
        unsetenv("COAR_STANDIN_NCCL");
    stand_in_reset();
    job.silence = 60;
    job.same_device = false;
}

/* --------------------------------------------------------------------------------------- host memory to host memory */

typedef struct transfer {
    size_t count;
    int64_t *values[RANKS_MOST];
} transfer;

static coar_status broadcast_part(int rank, device_link *link, void *context) {
    const transfer *t = context;
    double seconds = -1;
    TRY(link->interface->broadcast(link, t->values[rank], t->count * sizeof(int64_t), &seconds));
    return seconds >= 0 ? COAR_OK : status_set(COAR_ERROR_INTERNAL, "no time");
}

static coar_status sum_part(int rank, device_link *link, void *context) {
    const transfer *t = context;
    double seconds;
    return link->interface->sum(link, t->values[rank], t->count, &seconds);
}

static transfer transfer_new(size_t count) {
    transfer t = {.count = count};
    for (int r = 0; r < RANKS_MOST; r++) {
        t.values[r] = fresh(count + 1, sizeof(int64_t));
        for (size_t i = 0; i <= count; i++) t.values[r][i] = number((uint64_t)r, i);
    }
    return t;
}

/* Of rank `rank`; each element from those of the ranks first .. last. What lies behind them, and what ranks bring to a sum, stay. */
static void check_values(const transfer *t, int rank, int first, int last) {
    for (size_t i = 0; i <= t->count; i++) {
        int64_t expected = 0;
        for (int r = first; r <= last; r++) expected += number((uint64_t)r, i);
        if (i == t->count) expected = number((uint64_t)rank, i);
        if (t->values[rank][i] == expected) continue;
        test_fail(__FILE__, __LINE__, "%zu numbers, rank %d: [%zu] is %lld, expected %lld", t->count, rank, i,
                  (long long)t->values[rank][i], (long long)expected);
        return;
    }
}

static void transfer_free(transfer *t) {
    for (int r = 0; r < RANKS_MOST; r++) free(t->values[r]);
}

static void check_transfers(int size, size_t count) {
    transfer t = transfer_new(count), u = transfer_new(count);
    run_ranks(size, broadcast_part, &t);
    check_ends();
    for (int r = 0; r < size; r++) check_values(&t, r, 0, 0);
    run_ranks(size, sum_part, &u);
    check_ends();
    check_values(&u, 0, 0, size - 1);
    for (int r = 1; r < size; r++) check_values(&u, r, r, r);
    transfer_free(&t), transfer_free(&u);
    check_released();
}

static void test_transfers(void) {
    static const char *const orders[] = {"lazy", "others", "eager", "random:3"};
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++) {
        test_begin("broadcasts and sums between devices, %s", orders[o]);
        set_up(orders[o], NULL);
        for (int size = 1; size <= RANKS_MOST; size++) check_transfers(size, (size_t)(size * size * 577));
        check_transfers(2, 1);
    }
    test_begin("broadcasts and sums of more than is moved at once");
    set_up("lazy", NULL);
    check_transfers(2, (4 << 20) + 3);
}

/* ----------------------------------------------------------------------------------------------------- fits */

typedef struct counting {
    size_t words, count, E; /* words: of a column, for each rank */
    uint64_t *columns[RANKS_MOST];
    int64_t *fixed[RANKS_MOST]; /* [words * 64][E] */
    size_t room;
    int64_t *gram, *cross; /* of rank 0 */
} counting;

static coar_status count_part(int rank, device_link *link, void *context) {
    const counting *c = context;
    fit_device *device = NULL;
    coar_status status;
    TRY_GOTO(agree(cuda_fit_create(rank, 0, &device)));
    device->interface->join(device, link, c->room ? c->room : device->interface->room(device));
    TRY_GOTO(device->interface->gram(device, c->columns[rank], c->count, c->words, rank ? NULL : c->gram));
    TRY_GOTO(device->interface->cross(device, c->columns[rank], c->count, c->words, c->fixed[rank], c->words * 64, c->E,
                                      rank ? NULL : c->cross));
done:
    if (device) device->interface->destroy(device);
    return status;
}

static counting counting_new(size_t words, size_t count, size_t E) {
    counting c = {.words = words, .count = count, .E = E};
    for (int r = 0; r < RANKS_MOST; r++) {
        c.columns[r] = fresh(count * words, sizeof(uint64_t));
        c.fixed[r] = fresh(words * 64 * E, sizeof(int64_t));
        for (size_t i = 0; i < count * words; i++) c.columns[r][i] = (uint64_t)number(10 + (uint64_t)r, i);
        for (size_t i = 0; i < words * 64 * E; i++) c.fixed[r][i] = number(20 + (uint64_t)r, i) >> 12; /* sums fit */
    }
    c.gram = fresh(count * count, sizeof(int64_t));
    c.cross = fresh(count * E, sizeof(int64_t));
    return c;
}

static void counting_free(counting *c) {
    for (int r = 0; r < RANKS_MOST; r++) free(c->columns[r]), free(c->fixed[r]);
    free(c->gram), free(c->cross);
}

static int64_t bit_of(const counting *c, int r, size_t j, size_t i) {
    return (int64_t)(c->columns[r][j * c->words + i / 64] >> i % 64 & 1);
}

static void check_counts(const counting *c, int size) {
    for (size_t j = 0; j < c->count; j++)
        for (size_t k = 0; k < c->count; k++) {
            int64_t expected = 0;
            for (int r = 0; r < size; r++)
                for (size_t w = 0; w < c->words; w++)
                    expected += __builtin_popcountll(c->columns[r][j * c->words + w] & c->columns[r][k * c->words + w]);
            CHECK_INT(c->gram[j * c->count + k], expected);
        }
    for (size_t j = 0; j < c->count; j++)
        for (size_t z = 0; z < c->E; z++) {
            int64_t expected = 0;
            for (int r = 0; r < size; r++)
                for (size_t i = 0; i < c->words * 64; i++)
                    if (bit_of(c, r, j, i)) expected += c->fixed[r][i * c->E + z];
            CHECK_INT(c->cross[j * c->E + z], expected);
        }
}

static void test_counts(void) {
    test_begin("the Gram matrix and cross products of all ranks' masks, in one piece and in many");
    const struct {
        size_t words, count, E, room;
    } cases[] = {{1, 1, 1, 0}, {3, 37, 5, 0}, {2, 40, 3, 4096}, {2, 50, 40, 20000}, {5, 33, 9, 40000}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int size = 1; size <= 3; size++) {
            set_up(size == 2 ? "others" : "lazy", NULL);
            counting c = counting_new(cases[k].words, cases[k].count, cases[k].E);
            c.room = cases[k].room;
            run_ranks(size, count_part, &c);
            check_ends();
            check_counts(&c, size);
            CHECK(stand_in_count("run ncclReduce") >= (size_t)(2 * size));
            counting_free(&c);
            check_released();
        }
}

/* A rank whose device has no memory for its part: nobody is left waiting. */
static void test_memory(void) {
    test_begin("a rank without memory ends all of them");
    set_up("lazy", NULL);
    job.silence = 1000;
    counting c = counting_new(3, 37, 5);
    stand_in_fail("cudaMalloc", 1, 2);
    run_ranks(3, count_part, &c);
    for (int r = 0; r < 3; r++) CHECK_INT(ends[r].status, COAR_ERROR_MEMORY);
    counting_free(&c);
    check_released();
}

/* ------------------------------------------------------------------------------------------------- failures */

/* All ranks fail, and the message of one of them says what is wrong. */
static void check_failed(const char *what, const char *text) {
    bool told = false;
    for (int r = 0; r < job.size; r++) {
        if (ends[r].status == COAR_OK) test_fail(__FILE__, __LINE__, "%s: rank %d did not fail", what, r);
        told |= strstr(ends[r].message, text) != NULL;
    }
    if (!told)
        test_fail(__FILE__, __LINE__, "%s: no message has '%s': '%s', '%s', '%s'", what, text, ends[0].message,
                  ends[1].message, ends[2].message);
}

static void test_later_failures(void) {
    const struct {
        const char *failure, *text;
    } cases[] = {
        {"hang:1:-1", "NCCL: start: nothing has come from another rank's device for 0 s"},
        {"hang:0:0", "NCCL: sum: nothing has come"},
        {"hang:2:1", "NCCL: sum: nothing has come"},
        {"error:1:-1:2", "NCCL: start: unhandled system error: the stand-in's last words"},
        {"error:0:0:6", "NCCL: sum: remote process exited"},
        {"error:2:1:1", "NCCL: sum: unhandled cuda error"},
    };
    test_begin("an error that NCCL reports later, and a rank that hangs, end all ranks");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        set_up("lazy", cases[k].failure);
        job.silence = 0.3;
        counting c = counting_new(3, 37, 5);
        run_ranks(3, count_part, &c);
        check_failed(cases[k].failure, cases[k].text);
        counting_free(&c);
        check_released();
    }
}

static void test_failing_calls(void) {
    const struct {
        const char *call;
        unsigned after;
        int error;
    } cases[] = {
        {"ncclCommInitRankConfig", 1, 2}, {"ncclCommGetAsyncError", 1, 3}, {"ncclReduce", 0, 3}, {"ncclReduce", 4, 2}};
    test_begin("every call of NCCL that fails on one rank ends all of them");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        set_up("lazy", NULL);
        job.silence = 0.5;
        stand_in_fail(cases[k].call, cases[k].after, cases[k].error);
        counting c = counting_new(3, 37, 5);
        run_ranks(3, count_part, &c);
        check_failed(cases[k].call, cases[k].error == 2 ? "unhandled system error" : "internal error");
        counting_free(&c);
        check_released();
    }
}

static void test_one_device(void) {
    test_begin("NCCL does not have two ranks on one device; devices can be told apart");
    device_identity a, b, c;
    set_up("lazy", NULL);
    CHECK_OK(cuda_links.identify(0, &a));
    CHECK_OK(cuda_links.identify(0, &b));
    CHECK_OK(cuda_links.identify(1, &c));
    CHECK(!memcmp(&a, &b, sizeof a));
    CHECK(memcmp(&a, &c, sizeof a));
    job.same_device = true;
    job.silence = 0.5;
    transfer t = transfer_new(10);
    run_ranks(2, sum_part, &t);
    check_failed("one device", "invalid usage");
    transfer_free(&t);
    check_released();
}

int main(void) {
    if (!COAR_HAVE_NCCL) {
        test_begin("links by NCCL");
        test_skip("no header of NCCL 2.14 or later");
        return test_end();
    }
    test_transfers();
    test_counts();
    test_memory();
    test_later_failures();
    test_failing_calls();
    test_one_device();
    unsetenv("COAR_STANDIN_NCCL");
    return test_end();
}
