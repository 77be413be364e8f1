/*
 * gather.h - from a run and its data file to what a report page shows.
 * Must not know: HTML.
 */
#ifndef COAR_REPORT_GATHER_H
#define COAR_REPORT_GATHER_H

#include "data/dataset.h"
#include "report/report_data.h"
#include "store/store.h"

/* What a report is made from, opened and checked together. */
typedef struct report_source {
    run_store *store;
    dataset *data;
    run_tables tables;
    fit_info fit;                 /* the one shown */
    evaluation_info *evaluations; /* every one of the run; those beyond REPORT_EVALUATIONS are not shown */
    size_t evaluation_count;
    int featured; /* of the fit's own evaluations the one nearest to the training alpha; -1: none */
    double alpha; /* of training; NaN: not stored */
} report_source;

/* Opens the run, its data file (data_path, or NULL for the path the run knows; hashes are compared) and picks the fit (NULL: the
 * first). A run without a fit is COAR_ERROR_INPUT that says how to make one. Close it after failure too. */
coar_status report_source_open(const char *run, const char *data_path, const char *fit, report_source *source);
void report_source_close(report_source *source);

/* Reads what the page needs, in blocks of examples: the attributions are never in memory as a whole. */
coar_status report_gather(const report_source *source, const coar_callbacks *callbacks, report_data *data);

/* ------------------------------------------------------------------------- steps of report_gather, by file */

/* facts.c: title and provenance. */
coar_status report_facts(const report_source *source, report_data *data);

/* effects.c: one pass over the attributions; groups, r2_mean, examples_left_out, and heldout [N] and r2 [N]. */
coar_status report_effects(const report_source *source, const coar_callbacks *callbacks, report_data *data,
                           double *heldout, double *r2);

/* examples.c: picks the shown examples by score [N] (higher is better), best first, and names the ranks. */
coar_status report_pick(const double *score, uint64_t examples, report_data *data, uint64_t picked[REPORT_EXAMPLES]);
/* Fills data->shown[0 .. shown_count - 1] for the examples picked. */
coar_status report_examples(const report_source *source, const uint64_t *picked, const double *r2, report_data *data);

/* edits.c: data->edits. Examples whose data file is gone have no picture: a warning. */
coar_status report_edits(const report_source *source, const coar_callbacks *callbacks, report_data *data);

/* Picture of a row: gray and RGB as they are; of two channels the first, of four the first three; reduced to at most
 * `most` pixels a side. Of texts there is none. */
coar_status report_read_picture(const dataset *data, uint64_t row, uint32_t most, report_picture *out);

/* names[number], or "WHAT number" where there is no such name (names may be NULL). */
void report_name(char out[REPORT_TEXT + 4], char *const *names, size_t count, const char *what, int32_t number);

/* [N] of the unablated model's outputs by that name; NULL when the run has none. */
const float *report_baseline(const run_tables *tables, const char *output);

/* Copies at most REPORT_TEXT bytes of `text`, whole characters, with an ellipsis where something is left out. */
void report_cut(char out[REPORT_TEXT + 4], const char *text);

/* Mean and median of the values that are not NaN; NaN for none. `values` is sorted, NaN last. */
void report_mean_median(double *values, size_t count, double *mean, double *median);

#endif
