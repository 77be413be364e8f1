/* auto_precision.c - the bound that decides `--precision auto`, on planted outputs. */
#include "ablate/auto_precision.h"

#include "nets.h"
#include "test.h"

enum { EXAMPLES = 3 };

static float fp32[AUTO_MASKS][EXAMPLES], lower[AUTO_MASKS][EXAMPLES];

/* Outputs of standard deviation `spread` (uniform), and the same with noise of `noise`. */
static void plant(size_t example, float spread, float noise) {
    uint64_t state = 7 + example;
    for (size_t m = 0; m < AUTO_MASKS; m++) {
        fp32[m][example] = 5 + spread * sqrtf(3) * net_uniform(&state);
        lower[m][example] = fp32[m][example] + noise * sqrtf(3) * net_uniform(&state);
    }
}

static bool agrees(void) {
    return auto_precision_agrees(&fp32[0][0], &lower[0][0], EXAMPLES);
}

int main(void) {
    test_begin("equal outputs agree; without an example that masks change nothing is shown");
    for (size_t e = 0; e < EXAMPLES; e++) plant(e, 1, 0);
    CHECK(agrees());
    for (size_t e = 0; e < EXAMPLES; e++) plant(e, 0.05f, 0);
    CHECK(!agrees());

    test_begin("r of .99 in one example is allowed, of less it is not; the mean must be .999");
    for (size_t e = 0; e < EXAMPLES; e++) plant(e, 1, 0.02f); /* r = 1 / sqrt(1 + noise^2) = .9998 */
    CHECK(agrees());
    plant(1, 1, 0.1f); /* .995: the mean is .998 */
    CHECK(!agrees());
    plant(1, 1, 0.06f); /* .998: the mean is .9993 */
    CHECK(agrees());
    plant(1, 1, 0.3f); /* .958 */
    CHECK(!agrees());

    test_begin("examples that masks hardly change do not count, nor do outputs that are not finite");
    plant(1, 0.05f, 0.05f);
    CHECK(agrees());
    fp32[3][0] = lower[3][0] = NAN;
    lower[9][2] = INFINITY;
    CHECK(agrees());
    return test_end();
}
