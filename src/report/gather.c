/* gather.c - see gather.h. */
#include "report/gather.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/memory.h"
#include "core/number.h"
#include "evaluate/correlation.h"

/* --------------------------------------------------------------------------------------------------- opening */

static coar_status open_data(const char *run, const char *path, report_source *source) {
    const char *stored = store_setting(source->store, "data_path"), *hash = store_setting(source->store, "data_sha256");
    if (!path && !stored)
        return status_set(COAR_ERROR_INPUT, "%s: data_path: missing; name the data file with --data", run);
    char *resolved = path ? strdup(path) : path_resolve(stored, run);
    if (!resolved) return status_set(COAR_ERROR_MEMORY, "report: not enough memory");
    coar_status status;
    if (!path && !file_exists(resolved)) {
        status = status_set(COAR_ERROR_IO, "%s: the run's data file is not there; name it with --data", resolved);
        goto done;
    }
    TRY_GOTO(dataset_open(resolved, &source->data));
    TRY_GOTO(dataset_hash(source->data));
    if (hash && strcmp(hash, source->data->sha256) != 0)
        status = status_set(COAR_ERROR_MISMATCH,
                            "%s: SHA-256 %.12s is not that of the run's data, %.12s; name the right file with --data",
                            resolved, source->data->sha256, hash);
done:
    free(resolved);
    return status;
}

/* The one asked for, else the first that is no baseline. */
static coar_status pick_fit(const char *run, const char *name, report_source *source) {
    fit_info *fits = NULL;
    size_t count = 0, at = 0;
    TRY(store_list_fits(source->store, &fits, &count));
    while (name && at < count && strcmp(fits[at].name, name) != 0) at++;
    while (!name && at + 1 < count && store_fit_is_baseline(&fits[at])) at++;
    coar_status status = COAR_OK;
    if (count == 0)
        status = status_set(COAR_ERROR_INPUT, "%s: attributions: none yet; run `coar fit %s` first", run, run);
    else if (at == count)
        status = status_set(COAR_ERROR_USAGE, "%s: --fit %s: no such fit; there is %s", run, name, fits[0].name);
    else
        source->fit = fits[at];
    free(fits);
    return status;
}

/* The evaluation that the figures show. One that the table has no room for changes places with its last. */
static void pick_evaluation(report_source *source) {
    source->featured = -1;
    double nearest = INFINITY;
    for (size_t i = 0; i < source->evaluation_count; i++) {
        const evaluation_info *e = &source->evaluations[i];
        if (strcmp(e->fit, source->fit.name) != 0 || strcmp(e->output, source->fit.output) != 0) continue;
        double distance = isfinite(source->alpha) ? fabs(e->alpha - source->alpha) : 0;
        if (distance < nearest) {
            nearest = distance;
            source->featured = (int)i;
        }
    }
    if (source->featured < REPORT_EVALUATIONS) return;
    evaluation_info last = source->evaluations[REPORT_EVALUATIONS - 1];
    source->evaluations[REPORT_EVALUATIONS - 1] = source->evaluations[source->featured];
    source->evaluations[source->featured] = last;
    source->featured = REPORT_EVALUATIONS - 1;
}

coar_status report_source_open(const char *run, const char *data_path, const char *fit, report_source *source) {
    *source = (report_source){.featured = -1};
    TRY(store_open(run, &source->store));
    TRY(store_read_tables(source->store, &source->tables, NULL));
    TRY(pick_fit(run, fit, source));
    TRY(open_data(run, data_path, source));
    const char *alpha = store_setting(source->store, "alpha");
    source->alpha = alpha ? number_parse(alpha, NULL) : NAN;
    TRY(store_list_evaluations(source->store, &source->evaluations, &source->evaluation_count));
    pick_evaluation(source);
    return COAR_OK;
}

void report_source_close(report_source *source) {
    free(source->evaluations);
    run_tables_free(&source->tables);
    dataset_close(source->data);
    store_close(source->store);
    *source = (report_source){0};
}

/* ----------------------------------------------------------------------------------------------- evaluations */

/* The arrays of one evaluation; one after the other uses them. */
typedef struct evaluation_arrays {
    float *truth, *predicted;   /* [k][N] */
    double *pearson, *spearman; /* [N] */
} evaluation_arrays;

static void arrays_free(evaluation_arrays *a) {
    free(a->truth);
    free(a->predicted);
    free(a->pearson);
    free(a->spearman);
    *a = (evaluation_arrays){0};
}

static coar_status arrays_read(const report_source *source, const evaluation_info *info, evaluation_arrays *a) {
    const uint64_t examples = source->tables.examples;
    size_t row;
    if (!size_mul(examples, sizeof(float), &row)) row = SIZE_MAX;
    TRY(memory_new(info->masks, row, "evaluation", &a->truth));
    TRY(memory_new(info->masks, row, "evaluation", &a->predicted));
    TRY(memory_new(examples, sizeof(double), "evaluation", &a->pearson));
    TRY(memory_new(examples, sizeof(double), "evaluation", &a->spearman));
    return store_read_evaluation(source->store, info, a->truth, a->predicted, a->pearson, a->spearman);
}

/* One row of the table. Spearman's array is sorted by this. */
static coar_status summarise(const report_source *source, const evaluation_info *info, evaluation_arrays *a,
                             report_evaluation *e) {
    const uint64_t examples = source->tables.examples;
    double unused, *sorted;
    *e = (report_evaluation){.alpha = info->alpha, .seed = info->seed, .masks = info->masks};
    memcpy(e->fit, info->fit, sizeof e->fit - 1);
    memcpy(e->output, info->output, sizeof e->output - 1);
    TRY(correlation_bootstrap(a->predicted, a->truth, info->masks, examples, CORRELATION_DRAWS, info->seed,
                              &e->pearson_low, &e->pearson_high));
    for (uint64_t i = 0; i < examples; i++) report_histogram_add(&e->pearson, a->pearson[i]);
    report_mean_median(a->spearman, examples, &e->spearman_mean, &unused);
    TRY(memory_new(examples, sizeof *sorted, "evaluation", &sorted));
    memcpy(sorted, a->pearson, examples * sizeof *sorted);
    report_mean_median(sorted, examples, &e->pearson.mean, &e->pearson.median);
    free(sorted);
    return COAR_OK;
}

/* At most REPORT_POINTS masks of one example, evenly spread. */
static coar_status take_points(const evaluation_arrays *a, uint64_t masks, uint64_t examples, uint64_t index,
                               report_example *e) {
    uint64_t step = (masks + REPORT_POINTS - 1) / REPORT_POINTS;
    TRY(memory_new(REPORT_POINTS, sizeof *e->truth, "report", &e->truth));
    TRY(memory_new(REPORT_POINTS, sizeof *e->predicted, "report", &e->predicted));
    for (uint64_t i = 0; i < masks; i += step, e->points++) {
        e->truth[e->points] = a->truth[i * examples + index];
        e->predicted[e->points] = a->predicted[i * examples + index];
    }
    return COAR_OK;
}

static coar_status pick_from(const report_source *source, const evaluation_info *info, const evaluation_arrays *a,
                             report_data *data, uint64_t picked[REPORT_EXAMPLES]) {
    TRY(report_pick(a->pearson, source->tables.examples, data, picked));
    for (size_t i = 0; i < data->shown_count; i++)
        if (data->shown[i].rank) TRY(take_points(a, info->masks, source->tables.examples, picked[i], &data->shown[i]));
    return COAR_OK;
}

static coar_status read_evaluations(const report_source *source, report_data *data, uint64_t picked[REPORT_EXAMPLES]) {
    coar_status status = COAR_OK;
    evaluation_arrays arrays = {0};
    size_t shown = source->evaluation_count < REPORT_EVALUATIONS ? source->evaluation_count : REPORT_EVALUATIONS;
    for (size_t i = 0; i < shown; i++) {
        const evaluation_info *info = &source->evaluations[i];
        TRY_GOTO(arrays_read(source, info, &arrays));
        TRY_GOTO(summarise(source, info, &arrays, &data->evaluations[i]));
        data->evaluation_count++;
        if ((int)i == source->featured) TRY_GOTO(pick_from(source, info, &arrays, data, picked));
        arrays_free(&arrays);
    }
    data->evaluations_hidden = source->evaluation_count - shown;
    data->featured = source->featured;
done:
    arrays_free(&arrays);
    return status;
}

coar_status report_gather(const report_source *source, const coar_callbacks *callbacks, report_data *data) {
    coar_status status;
    const uint64_t examples = source->tables.examples;
    uint64_t picked[REPORT_EXAMPLES];
    double *heldout = NULL, *r2 = NULL;
    TRY_GOTO(memory_new(examples, sizeof *heldout, "report", &heldout));
    TRY_GOTO(memory_new(examples, sizeof *r2, "report", &r2));
    TRY_GOTO(report_effects(source, callbacks, data, heldout, r2));
    TRY_GOTO(report_facts(source, data));
    TRY_GOTO(read_evaluations(source, data, picked));
    if (data->featured < 0) TRY_GOTO(report_pick(heldout, examples, data, picked));
    TRY_GOTO(report_examples(source, picked, r2, data));
    TRY_GOTO(report_edits(source, callbacks, data));
done:
    free(heldout);
    free(r2);
    return status;
}
