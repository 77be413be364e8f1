/*
 * broken.c - every planted bug is caught: as the right class, in the line that is marked, in all thread orders.
 *
 * Some need CONFIG=check, which sees accesses to memory; some the address sanitizer, which ends the process (a child
 * here).
 */
#include "report.h"
#include "sanitizers.h"
#include "tests/kernels/kernel_test.h"

enum { SAMPLE = 256 }; /* floats that every kernel gets */

/* name, file, class in an ordinary build, class in a checked build, whether the sanitizers end the process */
#define PLANTED(X)                                                                                                     \
    X(missing_barrier, "barriers", NONE, SHARED_RACE, false)                                                           \
    X(missing_second_barrier, "barriers", NONE, SHARED_RACE, false)                                                    \
    X(divergent_barrier, "barriers", DIVERGENT_BARRIER, DIVERGENT_BARRIER, false)                                      \
    X(barrier_of_some, "barriers", EXIT_BEFORE_BARRIER, EXIT_BEFORE_BARRIER, false)                                    \
    X(early_exit, "barriers", EXIT_BEFORE_BARRIER, EXIT_BEFORE_BARRIER, false)                                         \
    X(barrier_against_shuffle, "barriers", DIVERGENT_BARRIER, DIVERGENT_BARRIER, false)                                \
    X(mask_without_caller, "warps", WARP_MASK, WARP_MASK, false)                                                       \
    X(shuffle_from_outside, "warps", WARP_MASK, WARP_MASK, false)                                                      \
    X(mask_of_ended_lanes, "warps", WARP_MASK, WARP_MASK, false)                                                       \
    X(mask_of_absent_lanes, "warps", WARP_MASK, WARP_MASK, false)                                                      \
    X(different_operations, "warps", WARP_DIVERGENCE, WARP_DIVERGENCE, false)                                          \
    X(different_places, "warps", WARP_DIVERGENCE, WARP_DIVERGENCE, false)                                              \
    X(bad_width, "warps", ARGUMENT, ARGUMENT, false)                                                                   \
    X(missing_syncwarp, "warps", NONE, SHARED_RACE, false)                                                             \
    X(shuffle_is_no_barrier, "warps", NONE, SHARED_RACE, false)                                                        \
    X(syncwarp_of_halves, "warps", NONE, SHARED_RACE, false)                                                           \
    X(ldmatrix_without_syncwarp, "warps", NONE, SHARED_RACE, false)                                                    \
    X(missing_wait, "copies", PENDING_COPY, MISSING_WAIT, false)                                                       \
    X(missing_commit, "copies", PENDING_COPY, MISSING_WAIT, false)                                                     \
    X(wait_for_too_few, "copies", PENDING_COPY, MISSING_WAIT, false)                                                   \
    X(wait_without_barrier, "copies", NONE, SHARED_RACE, false)                                                        \
    X(copy_over_readers, "copies", NONE, SHARED_RACE, false)                                                           \
    X(copy_to_global, "copies", BOUNDS, BOUNDS, false)                                                                 \
    X(misaligned_copy, "copies", ALIGNMENT, ALIGNMENT, false)                                                          \
    X(too_much_present, "copies", ARGUMENT, ARGUMENT, false)                                                           \
    X(static_overrun, "memory", BOUNDS, BOUNDS, true)                                                                  \
    X(static_underrun, "memory", BOUNDS, BOUNDS, true)                                                                 \
    X(static_overread, "memory", NONE, BOUNDS, true)                                                                   \
    X(dynamic_overrun, "memory", BOUNDS, BOUNDS, true)                                                                 \
    X(uninitialised, "memory", NONE, UNINITIALISED, false)                                                             \
    X(uninitialised_in_second_block, "memory", NONE, UNINITIALISED, false)                                             \
    X(too_much_static, "memory", SHARED_SIZE, SHARED_SIZE, false)                                                      \
    X(misaligned_ldmatrix, "memory", ALIGNMENT, ALIGNMENT, false)                                                      \
    X(ldmatrix_of_global, "memory", BOUNDS, BOUNDS, false)                                                             \
    X(misaligned_vector, "memory", NONE, ALIGNMENT, true)                                                              \
    X(global_overread, "memory", NONE, BOUNDS, true)                                                                   \
    X(race_of_threads, "memory", NONE, GLOBAL_RACE, false)                                                             \
    X(race_of_blocks, "memory", NONE, GLOBAL_RACE, false)

#define DECLARE(name, file, ordinary, checked, sanitized) cudaError_t name(float *x);
PLANTED(DECLARE)
#undef DECLARE

cudaError_t wrong_fragment(float *x);
cudaError_t too_much_dynamic(float *x);
cudaError_t block_too_large(float *x);
cudaError_t empty_grid(float *x);

typedef struct planted {
    const char *name;
    cudaError_t (*launch)(float *x);
    const char *file;
    simt_bug ordinary, checked;
    bool sanitized;
} planted;

static const planted table[] = {
#define ROW(name, file, ordinary, checked, sanitized) {#name, name, file, SIMT_##ordinary, SIMT_##checked, sanitized},
    PLANTED(ROW)
#undef ROW
};

static const planted *current;

static float *sample(void) {
    double *values = kernel_values(SAMPLE, 3, KERNEL_BF16);
    return kernel_floats(values, SAMPLE);
}

/* Whether the report's line of tests/simt/broken/FILE.cu ends in a mark. */
static bool names_marked_line(const char *text, const char *file, const char *mark) {
    char name[100], line[400];
    snprintf(name, sizeof name, "simt/broken/%s.cu", file);
    const char *place = text; /* the last mention: a race names the other side first */
    for (const char *next = text; (next = strstr(next, name)); next++) place = next;
    long wanted = place == text ? 0 : strtol(place + strlen(name) + 1, NULL, 10);
    FILE *source = fopen(test_path(name), "r");
    bool marked = false;
    for (long number = 1; source && fgets(line, sizeof line, source); number++)
        if (number == wanted && strstr(line, mark)) marked = true;
    if (source) fclose(source);
    return marked;
}

static void check_report(void) {
    const char *text;
    simt_bug expected = simt_checks_memory() ? current->checked : current->ordinary;
    cudaError_t error = current->launch(sample());
    simt_bug bug = simt_take_report(&text);
    CHECK_TEXT(simt_bug_text(bug), simt_bug_text(expected));
    CHECK_INT(error, expected == SIMT_BOUNDS && bug == expected ? error : cudaErrorLaunchFailure);
    if (bug != expected) return;
    CHECK(strstr(text, current->name) != NULL);
    bool late = !simt_checks_memory() && current->sanitized; /* a redzone, looked at when the block has ended */
    if (!late && !names_marked_line(text, current->file, "/* bug */") &&
        !(bug == SIMT_PENDING_COPY && names_marked_line(text, current->file, "/* pending */")))
        test_fail(__FILE__, __LINE__, "no marked line is named: %s", text);
}

#ifdef __SANITIZE_ADDRESS__
static void launch_current(void) {
    current->launch(sample());
}

/* The sanitizer ends the child, having said so. */
static void check_death(void) {
    char said[20000];
    CHECK(kernel_child(launch_current, 2, said, sizeof said) != 0);
    if (!strstr(said, "AddressSanitizer") && !strstr(said, "runtime error: "))
        test_fail(__FILE__, __LINE__, "no sanitizer spoke: %.300s", said);
}
static const bool sanitizers = true;
#else
static void check_death(void) {}
static const bool sanitizers = false;
#endif

static void all_planted(void) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        current = &table[i];
        if (sanitizers && current->sanitized) {
            kernel_check(current->name, check_death);
        } else if (simt_checks_memory() || current->ordinary != SIMT_NONE) { /* CONFIG=check sees all of them */
            kernel_check(current->name, check_report);
        }
    }
}

static void check_values(void) {
    float *x = sample();
    KERNEL_RUN(wrong_fragment(x));
    size_t wrong = 0;
    for (int i = 0; i < 32; i++) wrong += x[i] != 4 * 120;
    CHECK(wrong > 0);
}

static void check_geometry(void) {
    float *x = sample();
    CHECK_INT(too_much_dynamic(x), cudaErrorInvalidValue);
    CHECK_INT(block_too_large(x), cudaErrorInvalidConfiguration);
    CHECK_INT(empty_grid(x), cudaErrorInvalidConfiguration);
    CHECK_INT(simt_take_report(NULL), SIMT_NONE);
}

static void tests(void) {
    kernel_orders(KERNEL_ALL_ORDERS);
    simt_collect_reports(true);
    all_planted();
    kernel_check("wrong fragments give wrong values", check_values);
    kernel_check("geometry that no device takes", check_geometry);
}

int main(void) {
    return kernel_main(tests);
}
