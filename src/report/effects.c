/* effects.c - one pass over the attributions: how strong each component group is. See gather.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/statistics.h"
#include "report/gather.h"

/* Attributions in memory at one time. Large enough that a block of a 50,000 x 22,720 fit holds hundreds of rows. */
#define BLOCK_BYTES ((size_t)32 << 20)

/* Per component, over the examples that the fit has. */
typedef struct component_sums {
    double *strength; /* [n] sum of |w| */
    double *mean;     /* [n] sum of w */
    uint64_t examples;
} component_sums;

static void add_row(component_sums *sums, const float *weight, uint32_t n) {
    for (uint32_t j = 0; j < n; j++)
        if (!isfinite(weight[j])) return; /* left out of the fit as a whole */
    for (uint32_t j = 0; j < n; j++) {
        sums->strength[j] += fabs(weight[j]);
        sums->mean[j] += weight[j];
    }
    sums->examples++;
}

void report_mean_median(double *values, size_t count, double *mean, double *median) {
    qsort(values, count, sizeof *values, double_ascending);
    while (count > 0 && isnan(values[count - 1])) count--;
    *mean = *median = NAN;
    if (count == 0) return;
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += values[i];
    *mean = sum / (double)count;
    *median = sorted_quantile(values, count, .5);
}

/* Sorts the group's part of sums->strength. Shares are sums here; the caller divides. */
static void summarise(component_sums *sums, report_group *g) {
    g->low = g->lower = g->median = g->upper = g->high = g->strength = g->mean = NAN;
    g->share = 0;
    if (g->count == 0 || sums->examples == 0) return;
    double *strength = sums->strength + g->first, mean = 0;
    for (uint32_t j = 0; j < g->count; j++) {
        strength[j] /= (double)sums->examples;
        g->share += strength[j];
        mean += sums->mean[g->first + j];
    }
    g->strength = g->share / g->count;
    g->mean = mean / (double)sums->examples / g->count;
    qsort(strength, g->count, sizeof *strength, double_ascending);
    g->low = sorted_quantile(strength, g->count, .05);
    g->lower = sorted_quantile(strength, g->count, .25);
    g->median = sorted_quantile(strength, g->count, .5);
    g->upper = sorted_quantile(strength, g->count, .75);
    g->high = sorted_quantile(strength, g->count, .95);
}

/* Leaves the REPORT_GROUPS strongest groups, in their order. */
static coar_status keep_strongest(report_data *data) {
    if (data->group_count <= REPORT_GROUPS) return COAR_OK;
    double *shares;
    TRY(memory_new(data->group_count, sizeof *shares, "report", &shares));
    for (size_t i = 0; i < data->group_count; i++) shares[i] = data->groups[i].share;
    qsort(shares, data->group_count, sizeof *shares, double_ascending);
    double threshold = shares[data->group_count - REPORT_GROUPS];
    free(shares);
    size_t above = 0, kept = 0;
    for (size_t i = 0; i < data->group_count; i++) above += data->groups[i].share > threshold;
    size_t equal = REPORT_GROUPS - above; /* of those at the threshold, the first ones */
    for (size_t i = 0; i < data->group_count; i++) {
        double share = data->groups[i].share;
        if (share < threshold || (share == threshold && equal == 0)) continue;
        if (share == threshold) equal--;
        data->groups[kept++] = data->groups[i];
    }
    data->groups_hidden = data->group_count - kept;
    data->group_count = kept;
    return COAR_OK;
}

static coar_status make_groups(const report_source *source, component_sums *sums, report_data *data) {
    const run_tables *tables = &source->tables;
    TRY(memory_new(tables->group_count, sizeof *data->groups, "report groups", &data->groups));
    data->group_count = tables->group_count;
    double total = 0;
    for (size_t i = 0; i < tables->group_count; i++) {
        const store_group *from = &tables->groups[i];
        report_group *g = &data->groups[i];
        if (from->first > tables->components || from->count > tables->components - from->first)
            return status_set(COAR_ERROR_INPUT, "%s: components: group %zu lies outside the run's %u components",
                              store_path(source->store), i, tables->components);
        memcpy(g->name, from->name, sizeof g->name - 1);
        memcpy(g->kind, from->kind, sizeof g->kind - 1);
        g->first = from->first;
        g->count = from->count;
        summarise(sums, g);
        total += g->share;
    }
    for (size_t i = 0; i < data->group_count; i++)
        data->groups[i].share = total > 0 ? data->groups[i].share / total : NAN;
    return keep_strongest(data);
}

/* Sums over all examples, block by block; heldout and r2 [N]. */
static coar_status read_fit(const report_source *source, const coar_callbacks *callbacks, component_sums *sums,
                            double *heldout, double *r2) {
    coar_status status = COAR_OK;
    const uint64_t examples = source->tables.examples;
    const uint32_t n = source->tables.components;
    uint64_t rows = BLOCK_BYTES / sizeof(float) / (n ? n : 1);
    rows = rows < 1 ? 1 : rows > examples ? examples : rows;
    size_t row_bytes;
    float *weight = NULL;
    progress follow;
    progress_begin(&follow, callbacks, "report", "examples", 0, examples);
    if (!size_mul(n, sizeof *weight, &row_bytes)) row_bytes = SIZE_MAX;
    TRY_GOTO(memory_new(rows, row_bytes, "attributions", &weight));
    for (uint64_t first = 0; first < examples; first += rows) {
        uint64_t count = examples - first < rows ? examples - first : rows;
        TRY_GOTO(store_read_fit(source->store, source->fit.name, first, count, weight, NULL, NULL, r2 + first,
                                heldout + first));
        for (uint64_t i = 0; i < count; i++) add_row(sums, weight + i * n, n);
        if (progress_update(&follow, first + count)) {
            status = status_set(COAR_STOPPED, "report: stopped; nothing was written");
            goto done;
        }
    }
done:
    free(weight);
    return status;
}

coar_status report_effects(const report_source *source, const coar_callbacks *callbacks, report_data *data,
                           double *heldout, double *r2) {
    coar_status status;
    const run_tables *tables = &source->tables;
    component_sums sums = {0};
    double *sorted = NULL, unused;
    TRY_GOTO(memory_new(tables->components, sizeof *sums.strength, "report", &sums.strength));
    TRY_GOTO(memory_new(tables->components, sizeof *sums.mean, "report", &sums.mean));
    TRY_GOTO(memory_new(tables->examples, sizeof *sorted, "report", &sorted));
    TRY_GOTO(read_fit(source, callbacks, &sums, heldout, r2));
    data->examples_left_out = tables->examples - sums.examples;
    TRY_GOTO(make_groups(source, &sums, data));

    memcpy(sorted, r2, tables->examples * sizeof *sorted);
    report_mean_median(sorted, tables->examples, &data->r2_mean, &unused);
    memcpy(sorted, heldout, tables->examples * sizeof *sorted);
    report_mean_median(sorted, tables->examples, &data->heldout.mean, &data->heldout.median);
    for (uint64_t i = 0; i < tables->examples; i++) report_histogram_add(&data->heldout, heldout[i]);
done:
    free(sums.strength);
    free(sums.mean);
    free(sorted);
    return status;
}
