/*
 * layers.c - the section that shows where in the network the effect sits: a skyline and a table by component group.
 * Must not know: where the data come from.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "report/page.h"
#include "report/svg.h"

/* Length of a group's stage: its name up to the first dot, or up to the second where all names begin alike ("blocks.3"). */
static size_t stage_length(const char *name, int dots) {
    const char *end = strchr(name, '.');
    if (end && dots > 1) end = strchr(end + 1, '.');
    return end ? (size_t)(end - name) : strlen(name);
}

static int same_stage(const char *a, const char *b, int dots) {
    size_t length = stage_length(a, dots);
    return length == stage_length(b, dots) && !memcmp(a, b, length);
}

static int stage_dots(const page_bar *bars, size_t count) {
    for (size_t i = 1; i < count; i++)
        if (!same_stage(bars[0].name, bars[i].name, 1)) return 1;
    return 2;
}

/* Names under the skyline, each as wide as its stage. */
static void stage_labels(html *h, const page_bar *bars, size_t count, int dots) {
    double wide = 0;
    for (size_t i = 0; i < count; i++) wide += bars[i].width;
    html_print(h, "<div class=\"stages\" aria-hidden=\"true\">");
    for (size_t i = 0, stage = 0; i < count; stage++) {
        char name[96];
        const char *full = bars[i].name;
        snprintf(name, sizeof name, "%.*s", (int)stage_length(full, dots), full);
        double part = 0;
        for (; i < count && same_stage(full, bars[i].name, dots); i++) part += bars[i].width;
        double percent = 100 * part / wide;
        html_print(h, "<span class=\"%s\" style=\"width:%.3f%%\" title=\"%s\">%s</span>", stage & 1 ? "odd" : "even",
                   percent, name, percent < 3.5 ? "" : name);
    }
    html_print(h, "</div>");
}

void page_skyline(html *h, const char *title, const page_bar *bars, size_t count) {
    svg_bar *shaded;
    coar_status status = memory_new(count, sizeof *shaded, "report", &shaded);
    if (status != COAR_OK) {
        if (h->status == COAR_OK) h->status = status;
        return;
    }
    int dots = stage_dots(bars, count), shade = 0;
    for (size_t i = 0; i < count; i++) {
        if (i && !same_stage(bars[i - 1].name, bars[i].name, dots)) shade = !shade;
        shaded[i] = (svg_bar){bars[i].width, bars[i].height, shade, bars[i].title};
    }
    svg_skyline(h, title, shaded, count);
    stage_labels(h, bars, count, dots);
    free(shaded);
}

static coar_status skyline(html *h, const report_data *data) {
    coar_status status;
    page_bar *bars = NULL;
    char(*titles)[240] = NULL;
    TRY_GOTO(memory_new(data->group_count, sizeof *bars, "report", &bars));
    TRY_GOTO(memory_new(data->group_count, sizeof *titles, "report", &titles));
    for (size_t i = 0; i < data->group_count; i++) {
        const report_group *g = &data->groups[i];
        snprintf(titles[i], sizeof titles[i], "%s: %s components, mean |w| %s, %s of the effect", g->name,
                 COUNT(g->count), NUMBER(g->strength), PERCENT(g->share));
        bars[i] = (page_bar){.name = g->name, .width = g->count, .height = g->strength, .title = titles[i]};
    }
    html_print(h, "<figure class=\"panel\"><p class=\"label\">Mean |<i>w</i>| of a component</p>");
    page_skyline(h, "Mean absolute attribution by component group, in model order", bars, data->group_count);
    html_print(h,
               "<figcaption>The network from input (left) to output (right). Each bar is a component group, as wide as "
               "it has components and as "
               "tall as their mean strength, so that its area is the group&#39;s share of the whole effect. Units: %s "
               "per component.",
               data->output);
    if (data->groups_hidden) html_print(h, " The weakest %s groups are left out.", COUNT(data->groups_hidden));
    html_print(h, "</figcaption></figure>");
done:
    free(bars);
    free(titles);
    return status;
}

/* Ends of the two scales of the table. */
static void table_limits(const report_data *data, double *strength, double *mean) {
    *strength = *mean = 0;
    for (size_t i = 0; i < data->group_count; i++) {
        const report_group *g = &data->groups[i];
        if (isfinite(g->high)) *strength = fmax(*strength, fmax(g->high, g->strength));
        if (isfinite(g->mean)) *mean = fmax(*mean, fabs(g->mean));
    }
    if (*strength == 0) *strength = 1;
    if (*mean == 0) *mean = 1;
}

static void layer_row(html *h, const report_group *g, double strength_limit, double mean_limit) {
    char title[320];
    html_print(h, "<tr><td class=\"name\" title=\"%s\">%s</td><td class=\"n\">%s</td><td>", g->name, g->name,
               COUNT(g->count));
    snprintf(title, sizeof title, "%s: |w| of its components: 5 %% %s, quartiles %s, %s, %s, 95 %% %s, mean %s",
             g->name, NUMBER(g->low), NUMBER(g->lower), NUMBER(g->median), NUMBER(g->upper), NUMBER(g->high),
             NUMBER(g->strength));
    const double q[5] = {g->low, g->lower, g->median, g->upper, g->high};
    svg_box(h, title, q, g->strength, strength_limit);
    html_print(h, "</td><td class=\"value\">%s</td><td>", SCALED(g->strength, strength_limit));
    snprintf(title, sizeof title, "%s: mean w %s", g->name, SIGNED(g->mean));
    svg_signed_bar(h, title, g->mean, mean_limit);
    html_print(h, "</td><td class=\"value\">%s</td><td class=\"share\">%s</td></tr>",
               SIGNED_SCALED(g->mean, mean_limit), PERCENT(g->share));
}

static void layer_table(html *h, const report_data *data) {
    double strength_limit, mean_limit;
    table_limits(data, &strength_limit, &mean_limit);
    html_print(
        h, "<figure class=\"panel long\"><table class=\"layers\"><thead><tr><th class=\"name\" scope=\"col\">Group</th>"
           "<th class=\"n\" scope=\"col\">Size</th><th class=\"left\" scope=\"col\">Strength |<i>w</i>|<span "
           "class=\"roomy\"> per component</span>");
    svg_ticks(h, "top", (svg_range){0, strength_limit}, 4);
    html_print(h, "</th><th class=\"value\" scope=\"col\">mean</th><th class=\"left\" scope=\"col\">Mean <i>w</i>");
    svg_ticks(h, "top signed", (svg_range){-mean_limit, mean_limit}, 5);
    html_print(h, "</th><th class=\"value\" scope=\"col\">mean</th><th class=\"share\" "
                  "scope=\"col\">Share</th></tr></thead><tbody>");
    for (size_t i = 0; i < data->group_count; i++) layer_row(h, &data->groups[i], strength_limit, mean_limit);
    html_print(h,
               "</tbody></table><figcaption>Groups in the model&#39;s order. Strength: a component&#39;s |<i>w</i>| "
               "averaged over examples; box: "
               "the middle half of the group&#39;s components, line: median, whiskers: 5 to 95 %%, dot: mean. Mean "
               "<i>w</i>: average with "
               "sign; <span class=\"legend blue\"></span>blue: the components hold the %s up, <span class=\"legend "
               "orange\"></span>orange: "
               "they push it down. Share: of the sum of strengths over the network. Units: %s per "
               "component.</figcaption></figure>",
               data->output, data->output);
}

void page_layers(html *h, const report_data *data) {
    char kind[32];
    html_print(h,
               "<section><h2>Where the effect sits</h2><p class=\"intro\">Mean attribution of the %s by layer, over %s "
               "examples",
               page_components(data, kind), COUNT(data->examples - data->examples_left_out));
    if (data->examples_left_out)
        html_print(h, " (%s more were left out of the fit because of non-finite outputs)",
                   COUNT(data->examples_left_out));
    html_print(h, ".</p>");
    coar_status status = skyline(h, data);
    if (status != COAR_OK && h->status == COAR_OK) h->status = status;
    layer_table(h, data);
    html_print(h, "</section>");
}
