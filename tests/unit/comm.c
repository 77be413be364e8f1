/* comm.c - what ranks are made of and needs no second one: what launchers say, packets, a process alone, and integer sums of a fit
 * that are cut as ranks cut them. Several ranks: tests/mpi. */
#include <stdlib.h>

#include "comm/internal.h"
#include "comm/order.h"
#include "comm/packet.h"
#include "core/threads.h"
#include "fit/gram.h"
#include "test.h"

static void forget_launchers(void) {
    static const char *const names[] = {
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "COAR_MPI"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void launchers(void) {
    test_begin("launchers are known by their variables");
    static const struct {
        const char *rank_name, *rank, *size_name, *size;
        bool several;
        int expected;
    } cases[] = {{"OMPI_COMM_WORLD_RANK", "3", "OMPI_COMM_WORLD_SIZE", "4", true, 3},
                 {"OMPI_COMM_WORLD_RANK", "0", "OMPI_COMM_WORLD_SIZE", "1", false, 0},
                 {"PMI_RANK", "1", "PMI_SIZE", "2", true, 1},
                 {"PMIX_RANK", "5", "SLURM_NTASKS", "6", true, 5}, /* PMIx does not tell how many there are */
                 {"SLURM_PROCID", "5", "SLURM_NTASKS", "6", false, 0},
                 {"PMI_RANK", "-1", "PMI_SIZE", "2", false, 0},
                 {"PMI_RANK", "1x", "PMI_SIZE", "2", false, 0},
                 {"PMI_RANK", "", "PMI_SIZE", "2", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        forget_launchers();
        setenv(cases[i].rank_name, cases[i].rank, 1);
        setenv(cases[i].size_name, cases[i].size, 1);
        const launch found = launch_read();
        CHECK_INT(found.several, cases[i].several);
        CHECK_INT(found.rank, cases[i].expected);
        setenv("COAR_MPI", "0", 1);
        CHECK(!launch_read().several);
    }
    forget_launchers();
}

static void packets(void) {
    test_begin("packets give back what was put, and no more");
    packet p = {0};
    const double number = 1.5;
    const uint32_t values[] = {7, 8, 9};
    PACKET_PUT(&p, number);
    packet_put_text(&p, "text");
    packet_put_text(&p, NULL);
    packet_put_text(&p, "");
    packet_put_array(&p, values, 3, sizeof *values);
    packet_put_array(&p, NULL, 0, sizeof *values);
    CHECK_OK(packet_check(&p));
    double back;
    size_t count;
    PACKET_GET(&p, back);
    CHECK_NEAR(back, 1.5, 0);
    CHECK_TEXT(packet_get_text(&p), "text");
    CHECK(!packet_get_text(&p));
    CHECK_TEXT(packet_get_text(&p), "");
    uint32_t *array = packet_get_array(&p, sizeof *array, &count);
    CHECK_INT(count, 3);
    CHECK(array && !memcmp(array, values, sizeof values));
    free(array);
    CHECK(!packet_get_array(&p, sizeof *array, &count));
    CHECK_INT(count, 0);
    CHECK_OK(packet_check(&p));
    PACKET_GET(&p, back);
    CHECK_NEAR(back, 0, 0);
    CHECK_ERROR(packet_check(&p), COAR_ERROR_INTERNAL, "not what was expected");
    packet_free(&p);

    const size_t absurd = SIZE_MAX / 2; /* an array of so many that are not there */
    PACKET_PUT(&p, absurd);
    CHECK(!packet_get_array(&p, 16, &count));
    CHECK_INT(count, 0);
    CHECK(p.over);
    packet_free(&p);
}

static void alone(void) {
    test_begin("a process alone is rank 0 of 1, and agrees with itself");
    const comm *c = comm_world();
    packet p = {0};
    int64_t values[] = {1, 2};
    bool found = true;
    comm_message *m = malloc(sizeof *m);
    CHECK_INT(c->rank, 0);
    CHECK_INT(c->size, 1);
    CHECK_INT(comm_agree(COAR_OK), COAR_OK);
    CHECK_INT(comm_agree(COAR_STOPPED), COAR_STOPPED);
    CHECK_OK(comm_sum(values, 2));
    CHECK_INT(values[1], 2);
    CHECK_OK(order_give(ORDER_END, &p));
    CHECK_OK(comm_poll(m, &found));
    CHECK(!found);
    CHECK_INT(coar_ranks_end(3), 3);
    free(m);
}

/* 1,000 masks of 70 components and 9 examples. */
enum { MASKS = 1000, COMPONENTS = 70, EXAMPLES = 9, BYTES = (COMPONENTS + 7) / 8 };
static uint8_t masks[MASKS][BYTES];
static float outputs[MASKS][EXAMPLES];

static void fill(void) {
    srand(5);
    for (size_t i = 0; i < MASKS; i++) {
        for (size_t j = 0; j < COMPONENTS; j++) masks[i][j / 8] |= (uint8_t)((rand() % 5 > 0) << (j % 8));
        for (size_t z = 0; z < EXAMPLES; z++) outputs[i][z] = (float)rand() / (float)RAND_MAX - .4f;
    }
}

static void integer_sums(void) {
    test_begin("a Gram matrix in bands, and cross products in parts, are the whole ones");
    static int64_t whole[COMPONENTS][COMPONENTS], band[32][COMPONENTS];
    static int64_t cross[COMPONENTS][EXAMPLES], sum[COMPONENTS][EXAMPLES], part[COMPONENTS][EXAMPLES];
    int64_t total[EXAMPLES], part_total[EXAMPLES], sum_total[EXAMPLES] = {0};
    int shift[EXAMPLES], again[EXAMPLES];
    bit_columns columns, some;
    thread_pool *pool;
    fill();
    CHECK_OK(thread_pool_create(2, &pool));
    CHECK_OK(bit_columns_transpose(masks[0], MASKS, COMPONENTS, pool, &columns));
    CHECK_OK(gram_count(&columns, pool, whole[0]));
    for (size_t first = 0; first < COMPONENTS; first += 32) {
        const size_t rows = COMPONENTS - first < 32 ? COMPONENTS - first : 32;
        memset(band, 0x55, sizeof band);
        CHECK_OK(gram_band(&columns, first, rows, pool, band[0]));
        for (size_t r = 0; r < rows; r++)
            for (size_t k = 0; k < COMPONENTS; k++) CHECK_INT(band[r][k], k < first ? 0 : whole[first + r][k]);
    }
    CHECK_OK(cross_products(&columns, outputs[0], EXAMPLES, pool, NULL, cross[0], total, shift));
    CHECK_OK(cross_shifts(outputs[0], MASKS, EXAMPLES, pool, again));
    for (size_t z = 0; z < EXAMPLES; z++) CHECK_INT(again[z], shift[z]);
    for (size_t first = 0; first < MASKS; first += 320) {
        const size_t count = MASKS - first < 320 ? MASKS - first : 320;
        CHECK_OK(bit_columns_transpose(masks[first], count, COMPONENTS, pool, &some));
        CHECK_OK(cross_sums(&some, outputs[first], EXAMPLES, pool, part[0], part_total, shift));
        for (size_t j = 0; j < COMPONENTS; j++)
            for (size_t z = 0; z < EXAMPLES; z++) sum[j][z] += part[j][z];
        for (size_t z = 0; z < EXAMPLES; z++) sum_total[z] += part_total[z];
        bit_columns_free(&some);
    }
    CHECK(!memcmp(sum, cross, sizeof sum));
    CHECK(!memcmp(sum_total, total, sizeof total));
    bit_columns_free(&columns);
    thread_pool_destroy(pool);
}

int main(void) {
    forget_launchers();
    launchers();
    packets();
    alone();
    integer_sums();
    return test_end();
}
