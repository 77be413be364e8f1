/* core.c - generator vectors, samplers, pool, files, npy, sizes. */
#include "test.h"

#include <locale.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backend/backend.h"
#include "core/files.h"
#include "core/memory.h"
#include "core/npy.h"
#include "core/number.h"
#include "core/options.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "core/threads.h"

static void philox_vectors(void) {
    test_begin("philox: published vectors");
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        philox4x32(cases[i].counter, cases[i].key, out);
        for (int k = 0; k < 4; k++) CHECK_INT(out[k], cases[i].expected[k]);
    }
}

static size_t ablated(const uint8_t *bits, uint32_t n) {
    size_t kept = 0;
    for (size_t b = 0; b < mask_bytes(n); b++) kept += (size_t)__builtin_popcount(bits[b]);
    return n - kept;
}

static void samplers(void) {
    enum { N = 1003, MASKS = 400 };
    static uint8_t bits[(N + 7) / 8 + 1], wider[(N + 7) / 8];
    static uint64_t scratch[N];
    const uint32_t first[] = {0, 10, 500, N};
    sampler s = {.alpha = 0.1, .n = N, .seed = 0x123456789abcdefull, .group_first = first, .groups = 3};
    test_begin("sampler: bernoulli has the right rate, nests between alphas, leaves padding bits 0");
    size_t total = 0;
    for (uint64_t i = 0; i < MASKS; i++) {
        bits[mask_bytes(N)] = 0xa5;
        sampler_mask(&s, i, bits, NULL);
        CHECK_INT(bits[mask_bytes(N)], 0xa5);
        CHECK_INT(bits[N / 8] >> (N % 8), 0);
        total += ablated(bits, N);
        sampler more = s;
        more.alpha = 0.25;
        sampler_mask(&more, i, wider, NULL);
        for (size_t b = 0; b < mask_bytes(N); b++) CHECK_INT(wider[b] & ~bits[b], 0);
    }
    CHECK_NEAR((double)total / (MASKS * (double)N), 0.1, 0.003); /* five standard errors are .0024 */

    test_begin("sampler: fixed ablates round(alpha n), stratified its share of each group");
    s.kind = SAMPLER_FIXED;
    for (uint64_t i = 0; i < 20; i++) {
        sampler_mask(&s, i, bits, scratch);
        CHECK_INT(ablated(bits, N), 100);
    }
    s.kind = SAMPLER_STRATIFIED;
    size_t group_total = 0;
    for (uint64_t i = 0; i < MASKS; i++) {
        sampler_mask(&s, i, bits, scratch);
        size_t small = 10 - ((size_t)__builtin_popcount(bits[0]) + (size_t)__builtin_popcount(bits[1] & 3));
        CHECK_INT(small, 1);
        CHECK(ablated(bits, N) == 100 || ablated(bits, N) == 101); /* 1 + 49 + 50.3 */
        group_total += ablated(bits, N);
    }
    CHECK_NEAR((double)group_total / MASKS, 100.3, 0.12);

    test_begin("sampler: loo ablates one, then none; file copies rows");
    s.kind = SAMPLER_LOO;
    sampler_mask(&s, 77, bits, NULL);
    CHECK_INT(ablated(bits, N), 1);
    CHECK_INT(bits[77 / 8] >> (77 % 8) & 1, 0);
    sampler_mask(&s, N, bits, NULL);
    CHECK_INT(ablated(bits, N), 0);
    const uint8_t rows[] = {0x05, 0x02};
    sampler f = {.kind = SAMPLER_FILE, .n = 3, .rows = rows, .rows_count = 2};
    sampler_mask(&f, 1, bits, NULL);
    CHECK_INT(bits[0], 2);

    test_begin("sampler: names");
    sampler_kind kind;
    const char *path;
    CHECK_OK(sampler_parse("file:a.npy", &kind, &path));
    CHECK_TEXT(path, "a.npy");
    status_clear();
    CHECK_ERROR(sampler_parse("file:", &kind, &path), COAR_ERROR_USAGE, "--sampler");
    status_clear();
}

typedef struct counters {
    atomic_int hits[500];
} counters;

static coar_status count_task(void *context, size_t task, int worker) {
    (void)worker;
    atomic_fetch_add(&((counters *)context)->hits[task], 1);
    return task == 400 ? status_set(COAR_ERROR_INPUT, "task 400") : COAR_OK;
}

static void pool(void) {
    test_begin("threads: every task once, the first error reaches the caller, the pool goes on");
    for (int threads = 1; threads <= 4; threads += 3) {
        thread_pool *p = NULL;
        static counters c;
        memset(&c, 0, sizeof c);
        CHECK_OK(thread_pool_create(threads, &p));
        CHECK_INT(thread_pool_size(p), threads);
        CHECK_OK(thread_pool_run(p, 400, count_task, &c));
        for (int i = 0; i < 400; i++) CHECK_INT(c.hits[i], 1);
        CHECK_ERROR(thread_pool_run(p, 500, count_task, &c), COAR_ERROR_INPUT, "task 400");
        status_clear();
        CHECK_OK(thread_pool_run(p, 0, count_task, &c));
        thread_pool_destroy(p);
    }
}

static void hashes_and_paths(void) {
    test_begin("files: hashes, paths, atomic writes");
    char hex[65];
    sha256_hex("abc", 3, hex); /* FIPS 180-2, appendix B.1 */
    CHECK_TEXT(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_INT(crc32c(0, "123456789", 9), 0xe3069283u); /* RFC 3720, appendix B.4's polynomial; the usual check value */
    CHECK_INT(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
    char path[512], other[512];
    snprintf(path, sizeof path, "%s", test_temporary("a.bin"));
    snprintf(other, sizeof other, "%s", test_temporary("b.h5"));
    CHECK_OK(file_write(path, "abc", 3));
    CHECK_OK(file_sha256(path, hex));
    CHECK_TEXT(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char *relative = path_relative(path, other), *back = path_resolve(relative, other);
    CHECK_TEXT(relative, "a.bin");
    CHECK_TEXT(back, path);
    free(relative);
    free(back);
    CHECK_ERROR(file_check_output(path, 0), COAR_ERROR_EXISTS, "--force");
    status_clear();
    CHECK_OK(file_check_output(path, 1));
    CHECK_ERROR(file_check_output("/no/such/folder/x", 0), COAR_ERROR_IO, "/no/such/folder");
    status_clear();
    CHECK_ERROR(file_write("/no/such/folder/x", "", 0), COAR_ERROR_IO, "/no/such/folder/x");
    status_clear();
}

static void npy_files(void) {
    test_begin("npy: round trip and hostile headers");
    char path[512];
    snprintf(path, sizeof path, "%s", test_temporary("x.npy"));
    const size_t shape[] = {2, 3};
    const float data[] = {1, 2, 3, 4, 5, -6.5f};
    CHECK_OK(npy_write(path, NPY_F32, 2, shape, data));
    npy_array a = {0};
    CHECK_OK(npy_open(path, &a));
    CHECK_INT(a.rank, 2);
    CHECK_INT(a.shape[1], 3);
    CHECK_NEAR(npy_get_double(&a, 5), -6.5, 0);
    CHECK_INT((uintptr_t)a.data % 64, 0);
    npy_close(&a);
    static const struct {
        const char *header, *message;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }", "truncated"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }", "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905,), }", "truncated"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "big-endian"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,1), }", "fortran_order"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "descr"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "descr"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", "dimensions"},
        {"{}", "descr"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[256] = "\x93NUMPY\x01";
        size_t length = strlen(cases[i].header);
        bytes[8] = (uint8_t)length;
        memcpy(bytes + 10, cases[i].header, length);
        CHECK_OK(file_write(path, bytes, 10 + length + 4));
        CHECK_ERROR(npy_open(path, &a), COAR_ERROR_INPUT, cases[i].message);
        CHECK(strstr(coar_last_error(), path) != NULL);
        status_clear();
    }
}

/* The same for all: initialised or refused, and never NULL's address read. */
static void public_options(void) {
    test_begin("options: NULL and a size of 0 are refused, a shorter struct gets defaults");
    coar_ablate_options ablate = {0};
    coar_bench_options bench = {0};
    coar_evaluate_options evaluate = {0};
    coar_fit_options fit = {0};
    coar_pack_options pack = {0};
    coar_report_options report = {0};
    for (int given = 0; given < 2; given++) {
        CHECK_ERROR(coar_ablate(given ? &ablate : NULL, NULL), COAR_ERROR_USAGE, "COAR_ABLATE_INIT");
        CHECK_ERROR(coar_bench(given ? &bench : NULL, NULL), COAR_ERROR_USAGE, "COAR_BENCH_INIT");
        CHECK_ERROR(coar_evaluate(given ? &evaluate : NULL, NULL, NULL), COAR_ERROR_USAGE, "COAR_EVALUATE_INIT");
        CHECK_ERROR(coar_fit(given ? &fit : NULL, NULL), COAR_ERROR_USAGE, "COAR_FIT_INIT");
        CHECK_ERROR(coar_pack(given ? &pack : NULL, NULL), COAR_ERROR_USAGE, "COAR_PACK_INIT");
        CHECK_ERROR(coar_report(given ? &report : NULL), COAR_ERROR_USAGE, "COAR_REPORT_INIT");
    }
    struct {
        coar_bench_options options;
        char behind[16];
    } wide, taken;
    memset(&wide, 0xAA, sizeof wide); /* what lies beyond the caller's size is not read */
    wide.options.size = offsetof(coar_bench_options, arch);
    memset(&taken, 0x55, sizeof taken);
    CHECK_OK(options_take(&taken.options, sizeof taken.options, &wide, "COAR_BENCH_INIT"));
    CHECK(taken.options.model == wide.options.model);
    CHECK(!taken.options.arch && !taken.options.callbacks && taken.options.seconds == 0);
    wide.options.size = sizeof wide; /* a newer header's: what this build does not know is left out */
    CHECK_OK(options_take(&taken.options, sizeof taken.options, &wide, "COAR_BENCH_INIT"));
    for (size_t i = 0; i < sizeof taken.behind; i++) CHECK_INT(taken.behind[i], 0x55);
}

static void sizes(void) {
    test_begin("sizes: products, --memory texts, arena");
    size_t out = 0;
    CHECK(!size_mul((size_t)1 << 40, (size_t)1 << 40, &out));
    CHECK(size_mul(6, 7, &out) && out == 42);
    uint64_t bytes = 0;
    CHECK_OK(coar_parse_size("8G", &bytes));
    CHECK_INT(bytes, 8ull << 30);
    CHECK_ERROR(coar_parse_size("8X", &bytes), COAR_ERROR_USAGE, "8X");
    CHECK_ERROR(coar_parse_size("-1", &bytes), COAR_ERROR_USAGE, "-1");
    CHECK_ERROR(coar_parse_size("99999999999999999999", &bytes), COAR_ERROR_USAGE, "size"); /* beyond 64 bits */
    CHECK_ERROR(coar_parse_size("99999999999G", &bytes), COAR_ERROR_USAGE, "size");
    status_clear();
    void *p;
    CHECK_ERROR(memory_new(SIZE_MAX / 2, 4, "thing", &p), COAR_ERROR_MEMORY, "thing");
    status_clear();
    arena measure = {0};
    arena_take(&measure, 1);
    arena_take(&measure, 300);
    CHECK_INT(measure.used, 256 + 512);
    arena_take(&measure, SIZE_MAX - 8);
    CHECK(measure.used == SIZE_MAX);
}

/* Every value by its text and back; 0.1f as a double needs all digits. */
static void check_numbers(void) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{.05, "0.05"},
                 {.5, "0.5"},
                 {1e-5, "1e-05"},
                 {.1234567, "0.1234567"},
                 {-2.5, "-2.5"},
                 {3, "3"},
                 {0.1f, "0.10000000149011612"},
                 {1.0 / 3, "0.3333333333333333"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[NUMBER_SIZE], *end;
        number_format(cases[i].value, text);
        CHECK_TEXT(text, cases[i].text);
        CHECK(number_parse(text, &end) == cases[i].value && !*end);
    }
    char *end;
    CHECK(number_parse("0,5", &end) == 0);
    CHECK_TEXT(end, ",5");
}

static void numbers(void) {
    test_begin("numbers: the shortest text that reads back");
    check_numbers();
    test_begin("numbers: the same under a locale with decimal commas");
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8")) {
        test_skip("neither de_DE.UTF-8 nor fr_FR.UTF-8 is installed");
        return;
    }
    check_numbers();
    ablation parsed;
    CHECK_OK(ablation_parse("scale:0.5", &parsed));
    CHECK_NEAR(parsed.gain, .5, 0);
    setlocale(LC_ALL, "C");
}

int main(void) {
    philox_vectors();
    samplers();
    pool();
    hashes_and_paths();
    npy_files();
    sizes();
    public_options();
    numbers();
    return test_end();
}
