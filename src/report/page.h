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

/* Edits: what was ablated for good, and what it did. Nothing where there is none. */
void page_edits(html *h, const report_data *data);

/* A picture as an image element; nothing without pixels. */
void page_picture(html *h, const report_picture *p, const char *label);

/* A strip of the network, groups from input to output, with a bar each (layers.c). */
typedef struct page_bar {
    const char *name; /* of the group: tells its stage */
    double width, height;
    const char *title;
} page_bar;
void page_skyline(html *h, const char *title, const page_bar *bars, size_t count);

/* "the filters" and the like: the plural of data->kind. */
const char *page_components(const report_data *data, char buffer[32]);

#endif
