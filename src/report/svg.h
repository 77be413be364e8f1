/*
 * svg.h - the plots of a report as inline SVG.
 *
 * Every SVG stretches to the box that holds it and holds no text: tick labels and numbers are HTML beside it, so they
 * keep their size on a telephone and on paper. Strokes do not scale; a dot is a stroke of no length with round ends.
 * Colours come from the page's style sheet by class. Tooltips are <title> elements.
 * Must not know: runs, the page.
 */
#ifndef COAR_REPORT_SVG_H
#define COAR_REPORT_SVG_H

#include "report/html.h"

typedef struct svg_range {
    double low, high; /* finite, low < high */
} svg_range;

/* A step of 1, 2 or 5 times a power of ten that puts at most `count` ticks, and at least half as many, into the range. */
double svg_step(svg_range range, int count);

/* Tick labels below (or, in a table, above) something that spans `range`. */
void svg_ticks(html *h, const char *class, svg_range range, int count);

/* Bars over `range` with counts as heights, with axes, and a mark at `mean` (unless NaN). */
void svg_histogram(html *h, const char *title, const uint32_t *bins, size_t count, svg_range range, double mean);

/* The same without axes, for a table's cell. */
void svg_sparkline(html *h, const char *title, const uint32_t *bins, size_t count);

typedef struct svg_curve {
    const char *class; /* of the style sheet */
    const double *y;
} svg_curve;

/* Lines of unit * curves[].y [count] over x [count] (finite whole numbers, ascending), with axes; gaps where y is not finite;
 * a mark at x = mark (unless NaN). */
void svg_curves(html *h, const char *title, const double *x, size_t count, const svg_curve *curves, size_t curve_count,
                double unit, double mark);

/* predicted (up) against truth (right), with the diagonal; pairs with a non-finite side are left out. */
void svg_scatter(html *h, const char *title, const float *truth, const float *predicted, size_t count);

/* Box of the quantiles q = {5, 25, 50, 75, 95 %} and a dot at `mean`, on 0..limit. NaN anywhere: an empty strip. */
void svg_box(html *h, const char *title, const double q[5], double mean, double limit);

/* A dot at value and a line from low to high on a range that holds 0, which is marked. */
void svg_interval(html *h, const char *title, double value, double low, double high, svg_range range);

/* Bar from the middle to value, on -limit..limit. */
void svg_signed_bar(html *h, const char *title, double value, double limit);

typedef struct svg_bar {
    double width, height; /* so its area is their product */
    int shade;            /* 0 or 1 */
    const char *title;
} svg_bar;

/* Adjoining bars on a common floor, with an axis of heights. */
void svg_skyline(html *h, const char *title, const svg_bar *bars, size_t count);

#endif
