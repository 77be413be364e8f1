/* sampler.c - the samplers against masks that numpy made (docs/masks.md; tests/python/masks_twin.py --write). */
#include "test.h"

#include "core/npy.h"
#include "core/philox.h"
#include "core/sampler.h"

/* The same settings stand in tests/python/masks_twin.py. */
static const uint32_t group_first[] = {0, 10, 40, 101};
static const uint64_t numbers[] = {0, 1, 2, 3, 1000, 0xffffffff, 0x100000000, 0x10000000005};
enum { COMPONENTS = 101, MASKS = sizeof numbers / sizeof *numbers };

static void compare(sampler_kind kind) {
    const sampler s = {.kind = kind,
                       .seed = 0x123456789abcdef0,
                       .stream = PHILOX_STREAM_EVALUATION,
                       .alpha = 0.137,
                       .n = COMPONENTS,
                       .group_first = group_first,
                       .groups = 3};
    test_begin("sampler: %s makes numpy's masks", sampler_name(kind));
    char name[64];
    snprintf(name, sizeof name, "golden/masks/%s.npy", sampler_name(kind));
    npy_array golden = {0};
    CHECK_OK(npy_open(test_path(name), &golden));
    CHECK_INT(golden.count, MASKS * COMPONENTS);
    if (golden.count != MASKS * COMPONENTS) return;
    uint64_t scratch[COMPONENTS];
    CHECK(sampler_scratch(&s) <= sizeof scratch);
    for (size_t i = 0; i < MASKS; i++) {
        uint8_t bits[(COMPONENTS + 7) / 8];
        sampler_mask(&s, numbers[i], bits, scratch);
        for (size_t j = 0; j < COMPONENTS; j++)
            if ((bits[j / 8] >> (j % 8) & 1) != npy_get_int(&golden, i * COMPONENTS + j))
                test_fail(__FILE__, __LINE__, "mask %zu, component %zu differs", i, j);
    }
    npy_close(&golden);
}

int main(void) {
    compare(SAMPLER_BERNOULLI);
    compare(SAMPLER_FIXED);
    compare(SAMPLER_STRATIFIED);
    return test_end();
}
