/* report_data.c - see report_data.h. */
#include "report/report_data.h"

#include <math.h>
#include <stdlib.h>

static void edit_free(report_edit *e) {
    for (size_t i = 0; i < REPORT_EDIT_SWEPT; i++)
        for (size_t k = 0; k < REPORT_SCORES; k++) free(e->sweep[i][k]);
    for (size_t i = 0; i < REPORT_EDIT_SETS; i++)
        for (size_t k = 0; k < e->example_count[i]; k++) free(e->examples[i][k].picture.pixels);
    free(e->ablated);
    free(e->groups);
}

void report_data_free(report_data *data) {
    for (size_t i = 0; i < data->fact_count; i++) free(data->facts[i].full);
    for (size_t i = 0; i < data->shown_count; i++) {
        free(data->shown[i].picture.pixels);
        free(data->shown[i].truth);
        free(data->shown[i].predicted);
    }
    for (size_t i = 0; i < data->edit_count; i++) edit_free(&data->edits[i]);
    free(data->edits);
    free(data->groups);
    *data = (report_data){0};
}

void report_histogram_add(report_histogram *histogram, double value) {
    if (isnan(value)) {
        histogram->undefined++;
        return;
    }
    double at = floor((fmin(fmax(value, -1), 1) + 1) / 2 * REPORT_BINS);
    histogram->bins[at < REPORT_BINS ? (size_t)at : REPORT_BINS - 1]++; /* 1 belongs to the last bin */
    histogram->count++;
}
