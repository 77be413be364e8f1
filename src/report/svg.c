/* svg.c - see svg.h. */
#include "report/svg.h"

#include <math.h>

/* The drawing's own units. Any size does, since it is stretched; this one gives coordinates with one decimal 1e-4 of
 * the width. */
#define SIDE 1000.0

static void svg_open(html *h, const char *class, const char *title) {
    html_print(
        h, "<svg class=\"%s\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\"><title>%s</title>",
        class, title);
}

static void svg_close(html *h) {
    html_print(h, "</svg>");
}

static double place(svg_range range, double value) {
    double at = SIDE * (value - range.low) / (range.high - range.low);
    return fmin(fmax(at, -SIDE), 2 * SIDE); /* far outside is outside: keep the text short */
}

double svg_step(svg_range range, int count) {
    double rough = (range.high - range.low) / count;
    double power = pow(10, floor(log10(rough)));
    double steps[] = {1, 2, 5, 10};
    for (int i = 0; i < 3; i++)
        if (steps[i] * power >= rough * (1 - 1e-9)) return steps[i] * power;
    return 10 * power;
}

/* First tick of the range; ticks are multiples of the step. */
static double first_tick(svg_range range, double step) {
    return ceil(range.low / step - 1e-9) * step;
}

static int tick_count(svg_range range, double step) {
    return (int)floor((range.high - first_tick(range, step)) / step + 1e-9) + 1;
}

void svg_ticks(html *h, const char *class, svg_range range, int count) {
    double step = svg_step(range, count), first = first_tick(range, step);
    html_print(h, "<div class=\"%s\" aria-hidden=\"true\">", class);
    for (int i = 0; i < tick_count(range, step); i++) {
        double value = first + i * step;
        if (fabs(value) < step / 2) value = 0;
        html_print(h, "<span style=\"left:%.2f%%\">%s</span>", place(range, value) / SIDE * 100, NUMBER(value));
    }
    html_print(h, "</div>");
}

static void ticks_beside(html *h, svg_range range, int count) {
    double step = svg_step(range, count), first = first_tick(range, step);
    html_print(h, "<div class=\"y\" aria-hidden=\"true\">");
    for (int i = 0; i < tick_count(range, step); i++) {
        double value = first + i * step;
        if (fabs(value) < step / 2) value = 0;
        html_print(h, "<span style=\"bottom:%.2f%%\">%s</span>", place(range, value) / SIDE * 100, NUMBER(value));
    }
    html_print(h, "</div>");
}

/* Lines at the ticks: across (heights) or upright. */
static void grid(html *h, svg_range range, int count, int across) {
    double step = svg_step(range, count), first = first_tick(range, step);
    html_print(h, "<path class=\"grid\" d=\"");
    for (int i = 0; i < tick_count(range, step); i++) {
        double at = place(range, first + i * step);
        if (across)
            html_print(h, "M0 %.1fH1000", SIDE - at);
        else
            html_print(h, "M%.1f 0V1000", at);
    }
    html_print(h, "\"/>");
}

static uint32_t largest(const uint32_t *bins, size_t count) {
    uint32_t top = 0;
    for (size_t i = 0; i < count; i++)
        if (bins[i] > top) top = bins[i];
    return top;
}

void svg_histogram(html *h, const char *title, const uint32_t *bins, size_t count, svg_range range, double mean) {
    svg_range heights = {0, fmax(largest(bins, count), 1) * 1.05};
    int ticks = heights.high < 5 ? (int)heights.high : 5; /* counts: no ticks between whole numbers */
    html_print(h, "<div class=\"plot\">");
    ticks_beside(h, heights, ticks);
    svg_open(h, "area", title);
    grid(h, heights, ticks, 1);
    for (size_t i = 0; i < count; i++) {
        if (bins[i] == 0) continue;
        double low = range.low + (range.high - range.low) * (double)i / (double)count;
        double high = range.low + (range.high - range.low) * (double)(i + 1) / (double)count;
        double tall = place(heights, bins[i]);
        html_print(h,
                   "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%s to %s: "
                   "%s</title></rect>",
                   SIDE * (double)i / (double)count + 1, SIDE - tall, SIDE / (double)count - 2, tall, FIXED(low),
                   FIXED(high), COUNT(bins[i]));
    }
    if (isfinite(mean))
        html_print(h, "<path class=\"mark\" d=\"M%.1f 0V1000\"><title>mean %s</title></path>", place(range, mean),
                   FIXED(mean));
    svg_close(h);
    svg_ticks(h, "x", range, 6);
    html_print(h, "</div>");
}

void svg_sparkline(html *h, const char *title, const uint32_t *bins, size_t count) {
    double top = fmax(largest(bins, count), 1);
    svg_open(h, "strip", title);
    html_print(h, "<path class=\"axis\" d=\"M0 1000H1000\"/><path class=\"bar\" d=\"");
    for (size_t i = 0; i < count; i++) {
        if (bins[i] == 0) continue;
        double wide = SIDE / (double)count, tall = SIDE * bins[i] / top;
        html_print(h, "M%.1f 1000v%.1fh%.1fv%.1fz", wide * (double)i, -tall, wide, tall);
    }
    html_print(h, "\"/>");
    svg_close(h);
}

/* A range widened by a margin, also where it is a single value; {0, 1} where it is empty. */
static svg_range with_room(svg_range range) {
    if (range.low > range.high) return (svg_range){0, 1};
    double room = fmax(.06 * (range.high - range.low), 1e-6 * fmax(fabs(range.high), 1));
    return (svg_range){range.low - room, range.high + room};
}

static void widen(svg_range *range, double value) {
    range->low = fmin(range->low, value);
    range->high = fmax(range->high, value);
}

/* One line: a new stroke behind every gap, begun by a dot so that a value between two gaps is seen. */
static void curve(html *h, const svg_curve *c, const double *x, size_t count, svg_range across, svg_range heights,
                  double unit) {
    html_print(h, "<path class=\"curve %s\" d=\"", c->class);
    for (size_t i = 0, drawing = 0; i < count; i++) {
        if (isfinite(c->y[i]))
            html_print(h, drawing ? "L%.1f %.1f" : "M%.1f %.1fh0", place(across, x[i]),
                       SIDE - place(heights, unit * c->y[i]));
        drawing = isfinite(c->y[i]);
    }
    html_print(h, "\"/>");
}

void svg_curves(html *h, const char *title, const double *x, size_t count, const svg_curve *curves, size_t curve_count,
                double unit, double mark) {
    svg_range heights = {INFINITY, -INFINITY}, across = {0, 1};
    for (size_t i = 0; i < curve_count; i++)
        for (size_t k = 0; k < count; k++)
            if (isfinite(curves[i].y[k])) widen(&heights, unit * curves[i].y[k]);
    heights = with_room(heights);
    if (count && x[count - 1] > x[0]) across = (svg_range){x[0], x[count - 1]};
    const double steps = across.high - across.low; /* no ticks between whole numbers */
    html_print(h, "<div class=\"plot\">");
    ticks_beside(h, heights, 6);
    svg_open(h, "area", title);
    grid(h, heights, 6, 1);
    for (size_t i = 0; i < curve_count; i++) curve(h, &curves[i], x, count, across, heights, unit);
    if (isfinite(mark)) html_print(h, "<path class=\"mark\" d=\"M%.1f 0V1000\"/>", place(across, mark));
    svg_close(h);
    svg_ticks(h, "x", across, steps < 6 ? (int)fmax(steps, 1) : 6);
    html_print(h, "</div>");
}

/* The range of both arrays' finite pairs with a margin. */
static svg_range common_range(const float *x, const float *y, size_t count) {
    svg_range range = {INFINITY, -INFINITY};
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) continue;
        widen(&range, x[i]);
        widen(&range, y[i]);
    }
    return with_room(range);
}

void svg_scatter(html *h, const char *title, const float *truth, const float *predicted, size_t count) {
    svg_range range = common_range(truth, predicted, count);
    html_print(h, "<div class=\"plot square\">");
    ticks_beside(h, range, 4);
    svg_open(h, "area", title);
    grid(h, range, 4, 1);
    grid(h, range, 4, 0);
    html_print(h, "<path class=\"diagonal\" d=\"M0 1000L1000 0\"/><path class=\"dots\" d=\"");
    for (size_t i = 0; i < count; i++)
        if (isfinite(truth[i]) && isfinite(predicted[i]))
            html_print(h, "M%.1f %.1fh0", place(range, truth[i]), SIDE - place(range, predicted[i]));
    html_print(h, "\"/>");
    svg_close(h);
    svg_ticks(h, "x", range, 4);
    html_print(h, "</div>");
}

void svg_box(html *h, const char *title, const double q[5], double mean, double limit) {
    svg_range range = {0, limit > 0 ? limit : 1};
    svg_open(h, "strip", title);
    if (isfinite(q[0]) && isfinite(q[1]) && isfinite(q[2]) && isfinite(q[3]) && isfinite(q[4])) {
        html_print(h, "<path class=\"whisker\" d=\"M%.1f 500H%.1f\"/>", place(range, q[0]), place(range, q[4]));
        html_print(h, "<rect class=\"box\" x=\"%.1f\" y=\"180\" width=\"%.1f\" height=\"640\"/>", place(range, q[1]),
                   fmax(place(range, q[3]) - place(range, q[1]), 2));
        html_print(h, "<path class=\"median\" d=\"M%.1f 180V820\"/>", place(range, q[2]));
    }
    if (isfinite(mean)) html_print(h, "<path class=\"dot\" d=\"M%.1f 500h0\"/>", place(range, mean));
    svg_close(h);
}

void svg_interval(html *h, const char *title, double value, double low, double high, svg_range range) {
    svg_open(h, "strip", title);
    html_print(h, "<path class=\"axis\" d=\"M%.1f 0V1000\"/>", place(range, 0));
    if (isfinite(low) && isfinite(high))
        html_print(h, "<path class=\"whisker\" d=\"M%.1f 500H%.1f\"/>", place(range, low), place(range, high));
    if (isfinite(value)) html_print(h, "<path class=\"dot\" d=\"M%.1f 500h0\"/>", place(range, value));
    svg_close(h);
}

void svg_signed_bar(html *h, const char *title, double value, double limit) {
    svg_range range = limit > 0 ? (svg_range){-limit, limit} : (svg_range){-1, 1};
    svg_open(h, "strip", title);
    if (isfinite(value) && value != 0) {
        double at = place(range, value);
        html_print(h, "<rect class=\"%s\" x=\"%.1f\" y=\"200\" width=\"%.1f\" height=\"600\"/>",
                   value > 0 ? "positive" : "negative", fmin(at, SIDE / 2), fmax(fabs(at - SIDE / 2), 2));
    }
    html_print(h, "<path class=\"axis\" d=\"M500 0V1000\"/>");
    svg_close(h);
}

void svg_skyline(html *h, const char *title, const svg_bar *bars, size_t count) {
    double wide = 0, top = 0;
    for (size_t i = 0; i < count; i++) {
        wide += bars[i].width;
        if (isfinite(bars[i].height)) top = fmax(top, bars[i].height);
    }
    svg_range across = {0, wide > 0 ? wide : 1}, heights = {0, top > 0 ? 1.05 * top : 1};
    html_print(h, "<div class=\"plot wide\">");
    ticks_beside(h, heights, 4);
    svg_open(h, "area", title);
    grid(h, heights, 4, 1);
    double x = 0;
    for (size_t i = 0; i < count; i++) {
        double tall = isfinite(bars[i].height) ? place(heights, bars[i].height) : 0;
        html_print(
            h, "<rect class=\"shade%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%s</title></rect>",
            bars[i].shade ? 1 : 0, place(across, x), SIDE - tall, place(across, bars[i].width), tall, bars[i].title);
        x += bars[i].width;
    }
    svg_close(h);
    html_print(h, "</div>");
}
