/* sampler.c - the samplers against masks that numpy made (docs/masks.md; tests/python/masks_twin.py --write). */
#include "test.h"

#include "core/levels.h"
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

/* Passes in pieces of `piece` against numpy's levels[2][37][COMPONENTS] of blocks 0 and 70,000. */
static void compare_levels(const npy_array *golden, uint32_t piece) {
    enum { PASSES = 37 };
    static uint8_t level[PASSES * COMPONENTS];
    uint32_t counts[LEVELS * COMPONENTS], expected[LEVELS * COMPONENTS] = {0};
    uint8_t scratch[LEVELS_CYCLE * COMPONENTS];
    const level_masks masks = {.seed = 0x123456789abcdef0, .alpha = 0.137, .n = COMPONENTS};
    for (int b = 0; b < 2; b++) {
        for (uint32_t first = 0; first < PASSES; first += piece) {
            const uint32_t count = PASSES - first < piece ? PASSES - first : piece;
            level_mask(&masks, b ? 70000 : 0, first, count, level + (size_t)first * COMPONENTS);
        }
        for (size_t i = 0; i < PASSES * COMPONENTS; i++)
            if (level[i] != npy_get_int(golden, (size_t)b * PASSES * COMPONENTS + i))
                test_fail(__FILE__, __LINE__, "block %d, pass %zu, component %zu: got level %d", b, i / COMPONENTS,
                          i % COMPONENTS, level[i]);
    }
    for (size_t i = 0; i < PASSES * COMPONENTS; i++) expected[level[i] * COMPONENTS + i % COMPONENTS]++;
    level_counts(&masks, 70000, PASSES, counts, scratch);
    CHECK(!memcmp(counts, expected, sizeof counts));
}

static void test_levels(void) {
    npy_array golden = {0};
    test_begin("levels: numpy's masks of gradients, in pieces of any size; their counts and probabilities");
    CHECK_OK(npy_open(test_path("golden/masks/levels.npy"), &golden));
    CHECK_INT(golden.count, 2 * 37 * COMPONENTS);
    if (golden.count != 2 * 37 * COMPONENTS) return;
    static const uint32_t pieces[] = {1, 5, 16, 37};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) compare_levels(&golden, pieces[i]);
    npy_close(&golden);
    double probability[LEVELS], sum = 0, mean = 0;
    level_probabilities(0.137, probability);
    for (int l = 0; l < LEVELS; l++) {
        sum += probability[l];
        mean += probability[l] * level_keep[l];
    }
    CHECK_NEAR(sum, 1, 1e-12);
    CHECK_NEAR(mean, 1 - 0.137, 1e-7);
}

int main(void) {
    compare(SAMPLER_BERNOULLI);
    compare(SAMPLER_FIXED);
    compare(SAMPLER_STRATIFIED);
    test_levels();
    return test_end();
}
