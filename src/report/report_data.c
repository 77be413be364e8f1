/* report_data.c - see report_data.h. */
#include "report/report_data.h"

#include <math.h>
#include <stdlib.h>

void report_data_free(report_data *data) {
    for (size_t i = 0; i < data->fact_count; i++) free(data->facts[i].full);
    for (size_t i = 0; i < data->shown_count; i++) {
        free(data->shown[i].pixels);
        free(data->shown[i].truth);
        free(data->shown[i].predicted);
    }
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
