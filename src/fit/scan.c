/* scan.c - see scan.h. The order matters: a broken example must not cost every mask it touches. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "fit/scan.h"

/* An example with more than this fraction of non-finite outputs is left out. */
#define BROKEN_FRACTION 0.01

void fit_scan_free(fit_scan *scan) {
    free(scan->example_out);
    free(scan->mask_out);
}

/* A block holds its examples over all masks, so they can be judged before they mark masks. */
static void scan_block(fit_scan *scan, const float *y, uint64_t m, uint64_t first, uint64_t count, uint64_t *missing) {
    for (uint64_t z = 0; z < count; z++) missing[z] = 0;
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t z = 0; z < count; z++) missing[z] += !isfinite(y[i * count + z]);
    for (uint64_t z = 0; z < count; z++)
        if ((double)missing[z] > BROKEN_FRACTION * (double)m) scan->example_out[first + z] = 1;
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t z = 0; z < count; z++)
            if (!isfinite(y[i * count + z]) && !scan->example_out[first + z]) scan->mask_out[i] = 1;
}

coar_status fit_scan_outputs(const fit_problem *problem, const uint8_t *broken, size_t block, float *y, fit_scan *out) {
    fit_scan scan = {0};
    uint64_t *missing = NULL;
    coar_status status;
    TRY_GOTO(memory_new(problem->N, 1, "left-out examples", &scan.example_out));
    TRY_GOTO(memory_new(problem->m, 1, "left-out masks", &scan.mask_out));
    TRY_GOTO(memory_new(block, sizeof *missing, "left-out examples", &missing));
    if (broken) memcpy(scan.example_out, broken, problem->N);
    for (uint64_t first = 0; problem->m && first < problem->N; first += block) {
        uint64_t count = problem->N - first < block ? problem->N - first : block;
        TRY_GOTO(problem->read(problem->context, first, count, y));
        scan_block(&scan, y, problem->m, first, count, missing);
    }
    for (uint64_t z = 0; z < problem->N; z++) scan.examples_left_out += scan.example_out[z];
    for (uint64_t i = 0; i < problem->m; i++) scan.masks_left_out += scan.mask_out[i];
    *out = scan;
    scan = (fit_scan){0};
done:
    free(missing);
    fit_scan_free(&scan);
    return status;
}

coar_status fit_scan_read(const fit_problem *problem, const fit_scan *scan, uint64_t first, size_t E, float *y) {
    TRY(problem->read(problem->context, first, E, y));
    size_t used = 0;
    for (uint64_t i = 0; i < problem->m; i++) {
        if (scan->mask_out[i]) continue;
        for (size_t z = 0; z < E; z++) y[used * E + z] = scan->example_out[first + z] ? 0 : y[i * E + z];
        used++;
    }
    return COAR_OK;
}
