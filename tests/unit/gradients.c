/*
 * gradients.c - `coar gradients` as a command: in several goes and with little memory, refused options, ablations
 * before and after.
 */
#include "gradient_runs.h"
#include "runs.h"
#include "test.h"

#include "core/files.h"

enum { EXAMPLES = GRADIENT_EXAMPLES, PASSES = GRADIENT_PASSES };

static void test_same_bytes(void) {
    test_begin("the same bytes for one thread and little memory, and in three goes");
    char path[512];
    coar_gradients_options o = gradient_options(run_path(path, "small.h5"));
    coar_gradients_result r;
    o.ablate.threads = 1;
    o.ablate.memory = 6 << 20;
    CHECK_OK(coar_gradients(&o, &r));
    CHECK_INT(r.images, 2 * PASSES * EXAMPLES);
    CHECK_INT(r.units_total, 4);
    gradient_check_same(path, gradient_run());

    o = gradient_options(run_path(path, "goes.h5"));
    for (uint32_t passes = 3; passes <= PASSES; passes += 4) { /* 3, 7, 11 */
        o.passes = passes;
        CHECK_OK(coar_gradients(&o, &r));
        CHECK_INT(r.passes, passes);
    }
    CHECK_INT(r.images, 2 * 4 * EXAMPLES);
    gradient_check_same(path, gradient_run());
    for (int i = 0; i < 2; i++) { /* as many, and fewer */
        CHECK_OK(coar_gradients(&o, &r));
        CHECK(r.already_complete && r.passes == PASSES && r.images == 0);
        o.passes = 5;
    }
}

static void test_usage(void) {
    test_begin("an alpha of a half and more, and what is none of gradients' business");
    char path[512];
    coar_gradients_options o = gradient_options(run_path(path, "usage.h5"));
    o.ablate.alpha = 0.5;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "--alpha 0.5: gradients need one below 0.5");
    CHECK(!file_exists(path));
    o.ablate.alpha = 0.2;
    o.ablate.sampler = "no such sampler";
    o.ablate.masks = 1;
    o.passes = 2;
    CHECK_OK(coar_gradients(&o, NULL));
    o.ablate.seed++;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_MISMATCH, "--seed");
    o.size = 0;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "COAR_GRADIENTS_INIT");
    o = (coar_gradients_options)COAR_GRADIENTS_INIT;
    o.ablate.size = 0;
    CHECK_ERROR(coar_gradients(&o, NULL), COAR_ERROR_USAGE, "COAR_GRADIENTS_INIT");
}

/* Ablations of the run in `path` with these options; 9 masks. */
static coar_status ablate(const char *path, const char *sampler, int store_masks, uint64_t masks) {
    coar_ablate_options o = gradient_options(path).ablate;
    o.sampler = sampler;
    o.masks = masks;
    o.store_masks = store_masks;
    return coar_ablate(&o, NULL);
}

static void test_both(void) {
    test_begin("ablations and gradients in either order; what is one's alone does not bind the other");
    char path[512], other[512], masks[512], sampler[600];
    run_path(path, "both.h5");
    CHECK_OK(ablate(path, "fixed", 1, 5));
    coar_gradients_options o = gradient_options(path);
    CHECK_OK(coar_gradients(&o, NULL));
    gradient_check_same(path, gradient_run());
    CHECK_ERROR(ablate(path, "bernoulli", 1, 5), COAR_ERROR_MISMATCH, "--sampler (sampler) is bernoulli");
    CHECK_ERROR(ablate(path, "fixed", 0, 9), COAR_ERROR_MISMATCH, "--store-masks");
    CHECK_OK(ablate(path, "fixed", 1, 9));

    run_path(other, "gradients-first.h5");
    o = gradient_options(other);
    CHECK_OK(coar_gradients(&o, NULL));
    run_store *store = NULL;
    run_tables tables = {.groups = NULL};
    CHECK_OK(store_open(other, &store));
    CHECK_OK(store_read_tables(store, &tables, NULL));
    const uint32_t n = tables.components;
    CHECK(!tables.given_masks && !store_setting(store, "sampler"));
    run_tables_free(&tables);
    store_close(store);
    snprintf(masks, sizeof masks, "%s", test_temporary("given.npy"));
    char text[128] = "\x93NUMPY\x01\x00\x76";
    const int used = 10 + snprintf(text + 10, 118, "{'descr': '|b1', 'fortran_order': False, 'shape': (4, %u), }", n);
    memset(text + used, ' ', 127 - (size_t)used);
    text[127] = '\n';
    FILE *f = fopen(masks, "w");
    CHECK(f && fwrite(text, 1, 128, f) == 128);
    for (uint32_t i = 0; i < 4 * n; i++) fputc(i % 5 != 0, f);
    fclose(f);
    snprintf(sampler, sizeof sampler, "file:%s", masks);
    CHECK_OK(ablate(other, sampler, 0, 0));
    CHECK_OK(store_open(other, &store));
    CHECK_OK(store_read_tables(store, &tables, NULL));
    CHECK_INT(tables.given_count, 4);
    CHECK_TEXT(store_setting(store, "sampler"), "file");
    run_tables_free(&tables);
    store_close(store);
    f = fopen(masks, "r+");
    fseek(f, 200, SEEK_SET);
    fputc(0, f);
    fputc(0, f);
    fclose(f);
    CHECK_ERROR(ablate(other, sampler, 0, 0), COAR_ERROR_MISMATCH, "--sampler (sampler_masks_sha256)");
    gradient_check_same(other, gradient_run());
    o.passes = PASSES + 1;
    CHECK_OK(coar_gradients(&o, NULL));
}

int main(void) {
    test_same_bytes();
    test_usage();
    test_both();
    return test_end();
}
