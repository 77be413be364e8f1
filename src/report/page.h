/*
 * page.h - the sections of a report page, in the order in which they stand there. Called by report_render (page.c).
 * Must not know: where the data come from.
 */
#ifndef COAR_REPORT_PAGE_H
#define COAR_REPORT_PAGE_H

#include "report/report_data.h"

/* Begins every page, and tells it from other files. */
#define PAGE_GENERATOR "<meta name=\"generator\" content=\"coar\">"

/* The style sheet: no address in it, no script. */
extern const char page_style[];

/* Title, the question answered in one sentence, key figures, provenance. */
void page_header(html *h, const report_data *data);
/* Counterfactual correlation of every evaluation, and its distribution over examples. */
void page_quality(html *h, const report_data *data);
/* Where in the network the effect sits. */
void page_layers(html *h, const report_data *data);
/* Predicted against true outputs. */
void page_scatter(html *h, const report_data *data);
/* Examples with their strongest components. */
void page_gallery(html *h, const report_data *data);

/* "the filters" and the like: the plural of data->kind. */
const char *page_components(const report_data *data, char buffer[32]);

#endif
