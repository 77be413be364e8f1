/*
 * made_report.h - made-up data for report pages, and what has to hold for every page.
 */
#ifndef COAR_TEST_MADE_REPORT_H
#define COAR_TEST_MADE_REPORT_H

#include "report/report_data.h"

double made_uniform(void); /* 0 .. 1; the same row of numbers in every program that begins with made_run */
double made_normal(void);

/* A run of 688 filters and 200 examples, with everything that a page shows but edits. */
void made_run(report_data *data);

/* Parts of one. Groups have as many components as the data count from then on. */
void made_histogram(report_histogram *histogram, double mean, uint64_t count);
void made_group(report_data *data, const char *name, uint32_t count, double strength);
void made_picture(report_picture *p, uint32_t side, uint32_t channels, double hue);
void made_evaluation(report_data *data, const char *fit, double alpha, double mean);

/* An edit of 8 filters more, with so many (label, group) pairs. */
void made_edit(report_data *data, const char *name, size_t pairs);

/* NULL, or where the page stops being well-formed: every tag closed in order, every & an entity, quotes balanced. */
const char *page_malformed(const char *page);

/* Renders, checks what holds for every page, frees the data. The page (without pictures) is the caller's to free. */
char *page_checked(report_data *data, size_t *bytes);

#endif
